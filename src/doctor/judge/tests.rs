//! Each row from literal facts: a healthy backend, and one change.

use std::net::IpAddr;

mod advice;
mod director;
mod faults;
mod healthy;
mod hostile;
mod shown;

use super::*;
use crate::doctor::facts::{
    Address, BackendOnDirector, Decapsulator, DeviceLayer, DirectorFacts, Encap, Link, ModuleState,
    Neighbour, Observed, PolicyRule, Route, RouteAnswer, Sees, Socket, SysctlSetting, TunnelFacts,
    VipOnDirector, VipOnLink,
};
use crate::doctor::finding::StageState;
use crate::doctor::lines::FixLine;
use crate::doctor::report::json::Document;
use crate::doctor::report::text::{Detail, Style, report};

const VIP: &str = "203.0.113.10";
const CLIENT: &str = "192.0.2.7";
const DIRECTOR: &str = "10.0.1.2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index,
        name: name.into(),
        mtu: 1500,
        up: true,
        arp: name.starts_with("eth"),
        kind: kind.map(Into::into),
        ..Link::default()
    }
}

fn route(kind: &str, device: &str, gateway: Option<&str>) -> RouteAnswer {
    RouteAnswer::Route(Route {
        kind: kind.into(),
        device: Some(device.into()),
        gateway: gateway.map(ip),
        // What fits each tunnel: GUE over IPv6 has the longest header, inside an IPv6 VIP's packet.
        advmss: Some(1392),
        ..Route::default()
    })
}

fn by_router() -> RouteAnswer {
    route("unicast", "eth0", Some("10.0.1.1"))
}

/// The neighbour on eth0 answers.
fn neighbour(facts: &mut Facts, text: &str) {
    let Observed::Seen(neighbours) = &mut facts.neighbours else {
        panic!("neighbours are seen");
    };
    neighbours.push(Neighbour {
        link: 2,
        address: ip(text),
        state: "REACHABLE".into(),
        lladdr: None,
    });
}

fn socket(protocol: &str, address: &str, port: u16) -> Socket {
    Socket {
        protocol: protocol.into(),
        address: ip(address),
        port,
        v6_only: false,
        device: None,
        queued: 0,
        queue_limit: 128,
        program: Some("httpd".into()),
        user: Some(0),
        group: Some(0),
        mark: 0,
        memory: None,
        transparent: None,
        signed_peers: Vec::new(),
        stopped: false,
    }
}

/// A backend of a stock kernel in which everything is right: the VIP on lo, tunl0 without an address,
/// rp_filter off.
fn healthy() -> Facts {
    let mut facts = Facts {
        schema: 1,
        links: Observed::Seen(vec![
            link(1, "lo", None),
            link(2, "eth0", None),
            Link {
                tunnel: Some(TunnelFacts::default()),
                ..link(3, "tunl0", Some("ipip"))
            },
        ]),
        neighbours: Observed::Seen(vec![Neighbour {
            link: 2,
            address: ip("10.0.1.1"),
            state: "REACHABLE".into(),
            lladdr: None,
        }]),
        rules: Observed::Seen(vec![PolicyRule {
            table: Some(254),
            text: "from all lookup main".into(),
            ..PolicyRule::default()
        }]),
        sysctl_files: Observed::Seen(Vec::new()),
        sockets: Observed::Seen(vec![socket("tcp", "0.0.0.0", 80)]),
        decapsulators: Observed::Seen(Vec::new()),
        ..Facts::default()
    };
    facts.addresses = Observed::Seen(Vec::new());
    for (link, net) in [
        (1, "127.0.0.1/8"),
        (1, "203.0.113.10/32"),
        (2, "10.0.1.11/24"),
    ] {
        address(&mut facts, link, net);
    }
    for (name, value) in [
        ("net.ipv4.conf.all.rp_filter", 0),
        ("net.ipv4.conf.tunl0.rp_filter", 0),
        ("net.ipv4.conf.all.arp_ignore", 1),
        ("net.ipv4.conf.eth0.arp_ignore", 0),
        ("net.ipv4.conf.all.arp_announce", 2),
        ("net.ipv4.conf.eth0.arp_announce", 0),
        ("net.ipv4.ip_forward", 0),
    ] {
        facts.sysctls.insert(name.into(), value);
    }
    for (name, value) in [
        ("TcpInCsumErrors", 0),
        ("TcpInSegs", 500),
        ("UdpInCsumErrors", 0),
        ("UdpInDatagrams", 9),
    ] {
        facts.counters.insert(name.into(), value);
    }
    facts.modules.insert("ipip".into(), ModuleState::Loaded);
    facts.firewall.nft = Observed::Seen(String::new());
    facts.targets = vec![Target {
        vip: ip(VIP),
        port: Some(80),
        protocol: "tcp".into(),
        client: ip(CLIENT),
        client_is_assumed: false,
        director: Some(ip(DIRECTOR)),
        encap: Encap::Ipip,
        physical: Some("eth0".into()),
        tunnel: Some("tunl0".into()),
        vip_route: route("local", "lo", None),
        input: route("local", "lo", None),
        way_back: by_router(),
        way_back_of_any: by_router(),
        input_by_mark: std::collections::BTreeMap::new(),
        way_back_by_mark: std::collections::BTreeMap::new(),
        outer_inputs: std::collections::BTreeMap::new(),
        onward: None,
        hop_claims: Vec::new(),
        listeners_elsewhere: Observed::Seen(Vec::new()),
    }];
    facts
}

fn address(facts: &mut Facts, link: u32, net: &str) {
    let Observed::Seen(addresses) = &mut facts.addresses else {
        return;
    };
    addresses.push(Address {
        link,
        net: net.parse().unwrap(),
    });
}

fn remove_address(facts: &mut Facts, net: &str) {
    let Observed::Seen(addresses) = &mut facts.addresses else {
        return;
    };
    addresses.retain(|address| address.net != net.parse().unwrap());
}

fn set(facts: &mut Facts, name: &str, value: i64) {
    facts.sysctls.insert(name.into(), value);
}

fn links(facts: &mut Facts) -> &mut Vec<Link> {
    let Observed::Seen(links) = &mut facts.links else {
        panic!("healthy facts have links");
    };
    links
}

fn xdp_program(facts: &mut Facts, own: bool) {
    facts.layers.on_devices.push(DeviceLayer {
        device: "eth0".into(),
        sees: Sees::Arrivals,
        text: "XDP program 17 on eth0".into(),
        own,
        queue: None,
    });
}

fn target(facts: &mut Facts) -> &mut Target {
    &mut facts.targets[0]
}

fn refuse_input(facts: &mut Facts) {
    target(facts).input = RouteAnswer::Refused(libc::EINVAL);
}

fn no_vip(facts: &mut Facts) {
    remove_address(facts, "203.0.113.10/32");
    target(facts).vip_route = by_router();
    target(facts).input = RouteAnswer::Refused(libc::EHOSTUNREACH);
    target(facts).way_back = RouteAnswer::Refused(libc::EINVAL);
}

fn legacy(facts: &mut Facts, rules: &str) {
    let text = format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n"
    );
    let programs = &mut facts.firewall.iptables;
    programs.insert("iptables-legacy-save".into(), Observed::Seen(text));
}

fn decap() -> Decapsulator {
    Decapsulator {
        pid: 77,
        device: "decap0".into(),
        vips: vec![ip(VIP)],
        directors: vec!["10.0.1.2/32".parse().unwrap()],
        encap: Encap::Ipip,
        setup: true,
        stopped: false,
        device_gone: false,
    }
}

/// A kernel without ipip, and `tunlb decap --setup`.
fn by_decap(facts: &mut Facts) {
    links(facts)[2] = link(3, "decap0", Some("tun"));
    facts.modules.insert("ipip".into(), ModuleState::Absent);
    facts.decapsulators = Observed::Seen(vec![decap()]);
    set(facts, "net.ipv4.conf.decap0.rp_filter", 2);
    address(facts, 3, "127.0.0.42/32");
    target(facts).tunnel = Some("decap0".into());
}

fn verdict_of(facts: &Facts) -> (Status, Option<String>) {
    let verdict = &judge(facts, &Selection::default(), Lang::En)[0].verdict;
    (verdict.status, verdict.code.map(|code| code.to_string()))
}

fn status_of(facts: &Facts, code: &str) -> Status {
    let diagnoses = judge(facts, &Selection::default(), Lang::En);
    let check = diagnoses[0]
        .checks
        .iter()
        .find(|check| check.code.to_string() == code);
    check.unwrap().status
}

type Change = fn(&mut Facts);

fn no_module(facts: &mut Facts) {
    links(facts).truncate(2);
    facts.modules.insert("ipip".into(), ModuleState::Available);
    target(facts).tunnel = None;
    target(facts).input = RouteAnswer::Unseen("no tunnel device".into());
}

fn strict(facts: &mut Facts) {
    set(facts, "net.ipv4.conf.all.rp_filter", 1);
    refuse_input(facts);
}

fn loose(facts: &mut Facts) {
    set(facts, "net.ipv4.conf.tunl0.rp_filter", 2);
    refuse_input(facts);
}

fn no_route_back(facts: &mut Facts) {
    target(facts).way_back = RouteAnswer::Refused(libc::ENETUNREACH);
    target(facts).way_back_of_any = RouteAnswer::Refused(libc::ENETUNREACH);
}

fn drop_outer(facts: &mut Facts) {
    legacy(facts, "-A INPUT -p ipencap -j DROP\n");
}

fn no_nft(facts: &mut Facts) {
    facts.firewall.nft = Observed::Unseen("no nft".into());
}

fn drop_answers(facts: &mut Facts) {
    legacy(facts, "-A OUTPUT -s 203.0.113.10/32 -j DROP\n");
}

fn next_boot(facts: &mut Facts, name: &str, value: &str) {
    facts.sysctl_files = Observed::Seen(vec![SysctlSetting {
        file: "/etc/sysctl.d/50-site.conf".into(),
        line: 1,
        name: name.into(),
        value: value.into(),
    }]);
}

fn no_listener(facts: &mut Facts) {
    facts.sockets = Observed::Seen(vec![socket("tcp", "10.0.1.11", 80)]);
}

fn udp(facts: &mut Facts) {
    target(facts).protocol = "udp".into();
    facts.sockets = Observed::Seen(vec![socket("udp", VIP, 80)]);
}

#[test]
fn what_was_not_seen_is_unknown() {
    let cases: &[(&str, Change)] = &[
        ("B30", |facts| {
            facts.sockets = Observed::Unseen("not permitted".into())
        }),
        ("B30", |facts| {
            let text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.9.9:8080\nCOMMIT\n";
            let programs = &mut facts.firewall.iptables;
            programs.insert("iptables-nft-save".into(), Observed::Seen(text.into()));
        }),
        ("B18", |facts| {
            facts.neighbours = Observed::Unseen("not permitted".into())
        }),
        ("B15", |facts| {
            target(facts).way_back = RouteAnswer::Unseen("not permitted".into())
        }),
        ("B12", |facts| {
            facts.sysctl_files = Observed::Unseen("not readable".into())
        }),
        ("B8", |facts| {
            facts.sysctls.remove("net.ipv4.conf.all.arp_ignore");
        }),
        ("B13", no_nft),
        ("B19", no_nft),
        ("B20", no_nft),
        ("B22", no_nft),
        ("B16", |facts| {
            target(facts).way_back = route("unicast", "eth0", Some(DIRECTOR));
            legacy(
                facts,
                "-A OUTPUT -s 203.0.113.10/32 -j MARK --set-xmark 0x1/0xffffffff\n",
            );
            facts.rules = Observed::Seen(vec![PolicyRule {
                mark: Some((1, u32::MAX)),
                table: Some(100),
                ..PolicyRule::default()
            }]);
        }),
        ("B19", |facts| {
            legacy(facts, "-A INPUT -m ipvs --ipvs -j DROP\n")
        }),
        ("B1", |facts| {
            no_module(facts);
            facts.modules.clear();
        }),
        ("B19", |facts| xdp_program(facts, false)),
    ];
    for (code, change) in cases {
        let mut facts = healthy();
        change(&mut facts);
        assert_eq!(status_of(&facts, code), Status::Unknown, "{code}");
        assert_eq!(verdict_of(&facts).0, Status::Unknown, "{code}");
    }
}

#[test]
fn nothing_seen_at_all_passes_nothing() {
    let mut facts = healthy();
    let nothing = Facts {
        targets: std::mem::take(&mut facts.targets),
        ..Facts::default()
    };
    assert_eq!(verdict_of(&nothing).0, Status::Unknown);
}

#[test]
fn what_depends_on_a_fault_is_blocked_by_it() {
    let mut facts = healthy();
    no_route_back(&mut facts);
    strict(&mut facts);
    let diagnosis = &judge(&facts, &Selection::default(), Lang::En)[0];
    for code in [10, 11, 14, 16, 18] {
        let code = Code::backend(code);
        let check = diagnosis
            .checks
            .iter()
            .find(|check| check.code == code)
            .unwrap();
        assert_eq!(
            (check.status, check.blocked_by),
            (Status::Skip, Some(Code::backend(15))),
            "{code}"
        );
    }
}

#[test]
fn every_row_once_and_in_both_languages() {
    for lang in [Lang::En, Lang::Zh] {
        let diagnosis = &judge(&healthy(), &Selection::default(), lang)[0];
        let mut rows: Vec<_> = diagnosis
            .checks
            .iter()
            .map(|check| check.code.row)
            .collect();
        rows.sort_unstable();
        assert_eq!(rows, (1..=32).collect::<Vec<_>>());
        assert!(diagnosis.checks.iter().all(|check| !check.title.is_empty()));
    }
}

#[test]
fn selected_checks() {
    let mut facts = healthy();
    strict(&mut facts);
    no_listener(&mut facts);
    let only = |codes: &[u8]| codes.iter().copied().map(Code::backend).collect();
    let with = |selection| judge(&facts, &selection, Lang::En)[0].clone();
    let listener = with(Selection {
        only: only(&[30]),
        skip: Vec::new(),
    });
    assert_eq!(listener.checks.len(), 1);
    assert_eq!(listener.verdict.code, Some(Code::backend(30)));
    let rest = with(Selection {
        only: Vec::new(),
        skip: only(&[10]),
    });
    assert_eq!(rest.verdict.code, Some(Code::backend(30)));
}

#[test]
fn several_vips_the_worst_first() {
    let mut facts = healthy();
    facts.targets.push(Target {
        port: Some(81),
        ..facts.targets[0].clone()
    });
    let document = Document::new(&judge(&facts, &Selection::default(), Lang::En)).unwrap();
    assert_eq!(document.worst.vip.as_deref(), Some("203.0.113.10:81/tcp"));
    assert_eq!(document.others[0].verdict.status, Status::Pass);
}
