//! Each row from literal facts: a healthy backend, and one change.

use std::net::IpAddr;

mod hostile;

use super::*;
use crate::doctor::facts::{
    Address, BackendOnDirector, Decapsulator, DirectorFacts, Encap, Link, ModuleState, Neighbour,
    Observed, PolicyRule, Route, RouteAnswer, Socket, SysctlSetting, TunnelFacts, VipOnDirector,
    VipOnLink,
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

/// Each row that facts alone can show, alone.
const FAULTS: &[(&str, Status, Change)] = &[
    ("B1", Status::Fail, no_module),
    ("B1", Status::Fail, |facts| {
        no_module(facts);
        facts.modules.insert("ipip".into(), ModuleState::Absent);
    }),
    ("B2", Status::Fail, |facts| links(facts)[2].up = false),
    ("B2", Status::Fail, |facts| {
        by_decap(facts);
        links(facts)[2].up = false;
    }),
    ("B2", Status::Fail, |facts| {
        links(facts)[2].tunnel = Some(TunnelFacts {
            remote: Some(ip("10.0.9.9")),
            ..TunnelFacts::default()
        });
    }),
    ("B2", Status::Fail, |facts| {
        by_decap(facts);
        let other = Decapsulator {
            vips: vec![ip("203.0.113.99")],
            ..decap()
        };
        facts.decapsulators = Observed::Seen(vec![other]);
    }),
    ("B2", Status::Fail, |facts| {
        by_decap(facts);
        target(facts).director = Some(ip("10.0.1.3"));
    }),
    ("B2", Status::Fail, |facts| {
        by_decap(facts);
        links(facts)[2].up = false;
    }),
    ("B2", Status::Fail, |facts| {
        target(facts).vip = ip("2001:db8::10");
        links(facts)[2].kind = Some("sit".into());
        set(facts, "net.ipv6.conf.tunl0.disable_ipv6", 1);
    }),
    ("B3", Status::Fail, |facts| {
        links(facts).truncate(2);
        set(facts, "net.core.fb_tunnels_only_for_init_net", 1);
        target(facts).tunnel = None;
    }),
    ("B4", Status::Fail, |facts| {
        target(facts).encap = Encap::Gue(6080)
    }),
    ("B5", Status::Fail, no_vip),
    ("B5", Status::Fail, |facts| {
        if let RouteAnswer::Route(route) = &mut target(facts).vip_route {
            route.table = Some(100); // where no source is looked for
        }
    }),
    ("B5", Status::Warn, |facts| {
        remove_address(facts, "203.0.113.10/32");
        address(facts, 3, "203.0.113.10/32");
    }),
    ("B6", Status::Fail, |facts| {
        no_vip(facts);
        set(facts, "net.ipv4.ip_forward", 1);
        target(facts).input = route("unicast", "eth0", Some("10.0.1.1"));
    }),
    ("B5", Status::Fail, |facts| {
        target(facts).vip = ip("2001:db8::10");
        links(facts)[2].kind = Some("sit".into());
        set(facts, "net.ipv6.conf.all.forwarding", 0);
        target(facts).vip_route = by_router();
        target(facts).input = by_router();
    }),
    ("B7", Status::Warn, |facts| {
        remove_address(facts, "203.0.113.10/32");
        address(facts, 1, "203.0.113.10/24");
    }),
    ("B7", Status::Fail, |facts| {
        remove_address(facts, "203.0.113.10/32");
        address(facts, 1, "203.0.113.10/24");
        target(facts).client = ip("203.0.113.55");
        target(facts).way_back = route("local", "lo", None);
        refuse_input(facts);
    }),
    ("B8", Status::Warn, |facts| {
        set(facts, "net.ipv4.conf.all.arp_ignore", 0)
    }),
    ("B8", Status::Fail, |facts| {
        set(facts, "net.ipv4.conf.all.arp_ignore", 0);
        address(facts, 2, "203.0.113.1/24");
    }),
    ("B8", Status::Warn, |facts| {
        remove_address(facts, "203.0.113.10/32");
        address(facts, 2, "203.0.113.10/32");
    }),
    ("B8", Status::Fail, |facts| {
        remove_address(facts, "203.0.113.10/32");
        address(facts, 2, "203.0.113.10/32");
        address(facts, 2, "203.0.113.1/24");
    }),
    ("B8", Status::Fail, |facts| {
        set(facts, "net.ipv4.conf.eth0.arp_ignore", 8)
    }),
    ("B9", Status::Warn, |facts| {
        set(facts, "net.ipv4.conf.all.arp_announce", 1)
    }),
    ("B9", Status::Fail, |facts| {
        set(facts, "net.ipv4.conf.all.arp_announce", 0);
        address(facts, 2, "203.0.113.1/24");
    }),
    ("B10", Status::Fail, strict),
    ("B10", Status::Fail, |facts| {
        set(facts, "net.ipv4.conf.tunl0.rp_filter", 1);
        target(facts).input = RouteAnswer::Refused(libc::EXDEV);
    }),
    ("B10", Status::Fail, |facts| {
        set(facts, "net.ipv4.conf.tunl0.rp_filter", 1);
        target(facts).input = RouteAnswer::Unseen("not permitted".into());
    }),
    ("B11", Status::Fail, loose),
    ("B11", Status::Fail, |facts| {
        set(facts, "net.ipv4.conf.all.rp_filter", 2);
        set(facts, "net.ipv4.conf.tunl0.rp_filter", 1);
        refuse_input(facts);
    }),
    ("B2", Status::Fail, |facts| {
        target(facts).vip = ip("2001:db8::10");
        target(facts).tunnel = Some("tunl0".into());
        links(facts)[2].mtu = 1279;
    }),
    ("B12", Status::Warn, |facts| {
        by_decap(facts);
        facts.decapsulators = Observed::Seen(vec![Decapsulator {
            setup: false,
            ..decap()
        }]);
        next_boot(facts, "net.ipv4.conf.all.rp_filter", "1");
    }),
    ("B12", Status::Warn, |facts| {
        // The next start makes the device anew.
        by_decap(facts);
        remove_address(facts, "127.0.0.42/32");
        set(facts, "net.ipv4.conf.decap0.rp_filter", 0);
        set(facts, "net.ipv4.conf.default.rp_filter", 2);
        facts.decapsulators = Observed::Seen(vec![Decapsulator {
            setup: false,
            ..decap()
        }]);
    }),
    ("B12", Status::Warn, |facts| {
        facts.sysctl_files = Observed::Seen(vec![SysctlSetting {
            file: "/usr/lib/sysctl.d/50-default.conf".into(),
            line: 26,
            name: "net.ipv4.conf.*.rp_filter".into(),
            value: "2".into(),
        }]);
    }),
    ("B13", Status::Fail, |facts| {
        legacy(facts, "-A INPUT -j ACCEPT\n");
        let text = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i tunl0 -m rpfilter --invert -j DROP\nCOMMIT\n";
        let programs = &mut facts.firewall.iptables;
        programs.insert("iptables-legacy-save".into(), Observed::Seen(text.into()));
    }),
    ("B14", Status::Fail, |facts| {
        target(facts).client = ip("10.0.1.11");
        target(facts).way_back = route("local", "lo", None);
        refuse_input(facts);
    }),
    ("B15", Status::Fail, no_route_back),
    ("B15", Status::Fail, |facts| {
        target(facts).way_back = route("blackhole", "lo", None);
        target(facts).way_back_of_any = route("blackhole", "lo", None);
    }),
    ("B16", Status::Fail, |facts| {
        target(facts).way_back = route("unicast", "tunl0", None)
    }),
    ("B16", Status::Warn, |facts| {
        target(facts).way_back = route("unicast", "eth0", Some(DIRECTOR));
        neighbour(facts, DIRECTOR);
    }),
    ("B16", Status::Fail, |facts| {
        target(facts).way_back = route("local", "lo", None)
    }),
    ("B17", Status::Fail, |facts| {
        target(facts).way_back = RouteAnswer::Refused(libc::ENETUNREACH);
    }),
    ("B17", Status::Fail, |facts| {
        no_route_back(facts);
        facts.rules = Observed::Seen(vec![PolicyRule {
            from: Some("10.0.1.11/32".parse().unwrap()),
            table: Some(100),
            text: "from 10.0.1.11 lookup 100".into(),
            ..PolicyRule::default()
        }]);
    }),
    ("B18", Status::Fail, |facts| {
        facts.neighbours = Observed::Seen(vec![Neighbour {
            link: 2,
            address: ip("10.0.1.1"),
            state: "FAILED".into(),
            lladdr: None,
        }]);
    }),
    ("B19", Status::Fail, drop_outer),
    ("B19", Status::Fail, |facts| {
        legacy(facts, "-A INPUT -i tunl0 -j DROP\n")
    }),
    ("B19", Status::Fail, drop_answers),
    ("B20", Status::Fail, |facts| {
        legacy(
            facts,
            "-A INPUT -p ipip -j ACCEPT\n-A INPUT -i eth0 -j DROP\n",
        )
    }),
    ("B21", Status::Warn, |facts| {
        set(facts, "net.netfilter.nf_conntrack_tcp_loose", 0);
        legacy(facts, "-A INPUT -m conntrack --ctstate INVALID -j DROP\n");
    }),
    ("B22", Status::Warn, |facts| {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                    :POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n";
        let programs = &mut facts.firewall.iptables;
        programs.insert("iptables-legacy-save".into(), Observed::Seen(text.into()));
    }),
    ("B26", Status::Warn, |facts| {
        facts.counters.insert("TcpInCsumErrors".into(), 40);
    }),
    ("B30", Status::Fail, no_listener),
    ("B30", Status::Fail, |facts| {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT\n";
        let programs = &mut facts.firewall.iptables;
        programs.insert("iptables-nft-save".into(), Observed::Seen(text.into()));
    }),
    ("B30", Status::Fail, |facts| {
        let bound = Socket {
            device: Some("eth0".into()),
            ..socket("tcp", "0.0.0.0", 80)
        };
        facts.sockets = Observed::Seen(vec![bound]);
    }),
    ("B31", Status::Warn, |facts| {
        udp(facts);
        facts.sockets = Observed::Seen(vec![socket("udp", "0.0.0.0", 80)]);
    }),
    ("B32", Status::Fail, |facts| {
        let full = Socket {
            queued: 129,
            ..socket("tcp", VIP, 80)
        };
        facts.sockets = Observed::Seen(vec![full]);
    }),
];

#[test]
fn each_fault_alone() {
    for (index, (code, status, fault)) in FAULTS.iter().enumerate() {
        let mut facts = healthy();
        fault(&mut facts);
        assert_eq!(
            verdict_of(&facts),
            (*status, Some((*code).to_owned())),
            "fault {index}: {code}"
        );
    }
}

#[test]
fn of_two_faults_the_earlier_one() {
    let pairs: &[(&str, Change, Change)] = &[
        ("B1", no_module, no_listener),
        ("B15", no_route_back, loose),
        ("B15", no_route_back, strict),
        ("B5", no_vip, no_listener),
        ("B10", strict, no_listener),
        ("B10", strict, drop_answers),
        ("B19", drop_outer, strict),
        ("B19", drop_outer, no_listener),
        ("B19", drop_answers, no_listener),
        ("B11", loose, no_listener),
    ];
    for (code, one, other) in pairs {
        for (first, second) in [(one, other), (other, one)] {
            let mut facts = healthy();
            first(&mut facts);
            second(&mut facts);
            assert_eq!(verdict_of(&facts).1.as_deref(), Some(*code));
        }
    }
}

/// Machines that serve their clients.
const HEALTHY: &[(&str, Change)] = &[
    ("rp_filter off", |_| ()),
    ("loose rp_filter, an address on the tunnel", |facts| {
        set(facts, "net.ipv4.conf.all.rp_filter", 2);
        address(facts, 3, "127.0.0.42/32");
    }),
    ("AnyIP instead of an address", |facts| {
        remove_address(facts, "203.0.113.10/32")
    }),
    ("tunlb decap", by_decap),
    ("tunlb decap that takes from all directors", |facts| {
        by_decap(facts);
        let open = Decapsulator {
            directors: Vec::new(),
            ..decap()
        };
        facts.decapsulators = Observed::Seen(vec![open]);
    }),
    ("an external device beside a tunl0 that is down", |facts| {
        links(facts)[2].up = false;
        let external = TunnelFacts {
            external: true,
            ..TunnelFacts::default()
        };
        links(facts).push(Link {
            tunnel: Some(external),
            ..link(4, "ipip0", Some("ipip"))
        });
        set(facts, "net.ipv4.conf.ipip0.rp_filter", 0);
        target(facts).tunnel = Some("ipip0".into());
    }),
    ("policy routing that is right", |facts| {
        facts.rules = Observed::Seen(vec![PolicyRule {
            from: Some("203.0.113.10/32".parse().unwrap()),
            table: Some(100),
            text: "from 203.0.113.10 lookup 100".into(),
            ..PolicyRule::default()
        }]);
        target(facts).way_back = route("unicast", "eth0", Some("10.0.1.254"));
        neighbour(facts, "10.0.1.254");
        target(facts).way_back_of_any = RouteAnswer::Refused(libc::ENETUNREACH);
    }),
    ("a restrictive firewall", |facts| {
        legacy(
            facts,
            "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n\
             -A INPUT -s 10.0.1.2/32 -p ipencap -j ACCEPT\n\
             -A INPUT -m conntrack --ctstate INVALID -j DROP\n\
             -A INPUT -d 203.0.113.10/32 -i tunl0 -p tcp -m tcp --dport 80 -j ACCEPT\n\
             -A INPUT -j REJECT --reject-with icmp-port-unreachable\n"
                .trim_start_matches("-P INPUT DROP\n"),
        );
    }),
    ("a service that binds the VIP", |facts| {
        facts.sockets = Observed::Seen(vec![socket("tcp", VIP, 80)]);
    }),
    ("a service on the IPv6 wildcard address", |facts| {
        facts.sockets = Observed::Seen(vec![socket("tcp", "::", 80)]);
    }),
    ("a UDP service that binds the VIP", udp),
    ("a client beside the backend", |facts| {
        target(facts).client = ip("10.0.1.99");
        target(facts).way_back = route("unicast", "eth0", None);
        target(facts).way_back_of_any = route("unicast", "eth0", None);
        neighbour(facts, "10.0.1.99");
    }),
    ("the director as the client", |facts| {
        target(facts).client = ip(DIRECTOR);
        target(facts).client_is_assumed = true;
        target(facts).way_back = route("unicast", "eth0", None);
        target(facts).way_back_of_any = route("unicast", "eth0", None);
    }),
    ("a tunnel to this machine from this director", |facts| {
        links(facts)[2].tunnel = Some(TunnelFacts {
            local: Some(ip("10.0.1.11")),
            remote: Some(ip(DIRECTOR)),
            ..TunnelFacts::default()
        });
    }),
    ("the ARP settings of the device", |facts| {
        set(facts, "net.ipv4.conf.all.arp_ignore", 0);
        set(facts, "net.ipv4.conf.eth0.arp_ignore", 2);
    }),
    ("files that say what runs", |facts| {
        let setting = |line, name: &str, value: &str| SysctlSetting {
            file: "/etc/sysctl.d/99-tunlb.conf".into(),
            line,
            name: name.into(),
            value: value.into(),
        };
        facts.sysctl_files = Observed::Seen(vec![
            setting(1, "net.ipv4.conf.*.rp_filter", "2"),
            setting(2, "-net.ipv4.conf.all.rp_filter", ""),
            setting(3, "net.ipv4.conf.tunl0.rp_filter", "0"),
        ]);
    }),
    ("old counters", |facts| {
        for name in [
            "IpInAddrErrors",
            "TcpExtIPReversePathFilter",
            "TcpExtListenOverflows",
            "IpOutNoRoutes",
        ] {
            facts.counters.insert(name.into(), 4711);
        }
    }),
    (
        "strict rp_filter and a way back by the tunnel device's oracle",
        |facts| {
            set(facts, "net.ipv4.conf.eth0.rp_filter", 1);
        },
    ),
    ("an IPv6 VIP", |facts| {
        let vip = "2001:db8::10";
        address(facts, 1, "2001:db8::10/128");
        links(facts)[2] = Link {
            tunnel: Some(TunnelFacts::default()),
            ..link(3, "sit0", Some("sit"))
        };
        set(facts, "net.ipv4.conf.all.rp_filter", 1);
        facts.sockets = Observed::Seen(vec![socket("tcp", "::", 80)]);
        neighbour(facts, "fe80::1");
        let target = target(facts);
        target.vip = ip(vip);
        target.client = ip("2001:db8:9::7");
        target.tunnel = Some("sit0".into());
        target.way_back = route("unicast", "eth0", Some("fe80::1"));
        target.way_back_of_any = route("unicast", "eth0", Some("fe80::1"));
    }),
    (
        "the next boot is strict, and tunlb decap --setup makes up for it",
        |facts| {
            by_decap(facts);
            next_boot(facts, "net.ipv4.conf.all.rp_filter", "1");
        },
    ),
    (
        "tunlb decap --setup, and udev sets rp_filter of new devices",
        |facts| {
            by_decap(facts);
            set(facts, "net.ipv4.conf.default.rp_filter", 2);
            next_boot(facts, "net.ipv4.conf.*.rp_filter", "2");
        },
    ),
    (
        "tunlb decap with an address, and loose rp_filter for new devices",
        |facts| {
            by_decap(facts);
            facts.decapsulators = Observed::Seen(vec![Decapsulator {
                setup: false,
                ..decap()
            }]);
            set(facts, "net.ipv4.conf.default.rp_filter", 2);
        },
    ),
    ("GUE by tunlb decap", |facts| {
        by_decap(facts);
        target(facts).encap = Encap::Gue(6080);
        facts.decapsulators = Observed::Seen(vec![Decapsulator {
            encap: Encap::Gue(6080),
            ..decap()
        }]);
    }),
];

#[test]
fn healthy_machines_raise_no_alarm() {
    for (description, change) in HEALTHY {
        let mut facts = healthy();
        change(&mut facts);
        let diagnoses = judge(&facts, &Selection::default(), Lang::En);
        let alarms: Vec<_> = diagnoses[0]
            .checks
            .iter()
            .filter(|check| !matches!(check.status, Status::Pass | Status::Skip))
            .map(|check| (check.code.to_string(), &check.summary, &check.evidence))
            .collect();
        assert!(alarms.is_empty(), "{description}: {alarms:?}");
        assert_eq!(diagnoses[0].verdict.status, Status::Pass, "{description}");
    }
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
    ];
    for (code, change) in cases {
        let mut facts = healthy();
        change(&mut facts);
        assert_eq!(status_of(&facts, code), Status::Unknown, "{code}");
        assert_eq!(verdict_of(&facts).0, Status::Unknown, "{code}");
    }
}

/// The finding that decides.
fn decisive(change: Change) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let diagnosis = judge(&facts, &Selection::default(), Lang::En).remove(0);
    let code = diagnosis.verdict.code.unwrap();
    let mut checks = diagnosis.checks.into_iter();
    checks.find(|check| check.code == code).unwrap()
}

#[test]
fn commands_fit_what_is_there() {
    let on_both = decisive(|facts| address(facts, 2, "203.0.113.10/32"));
    assert_eq!(on_both.fix, ["ip addr del 203.0.113.10/32 dev eth0"]);
    let beside = decisive(|facts| address(facts, 1, "203.0.113.10/24"));
    assert_eq!(beside.fix, ["ip addr del 203.0.113.10/24 dev lo"]);
    let unreachable = decisive(|facts| {
        target(facts).way_back = RouteAnswer::Refused(libc::EHOSTUNREACH);
        target(facts).way_back_of_any = RouteAnswer::Refused(libc::EHOSTUNREACH);
    });
    let expected = "ip route replace 192.0.2.7 via GATEWAY dev eth0";
    assert_eq!(unreachable.fix.last().unwrap(), expected);
    let strict_later = decisive(|facts| {
        remove_address(facts, "127.0.0.42/32");
        next_boot(facts, "net.ipv4.conf.all.rp_filter", "1");
    });
    let file = "# /etc/sysctl.d/99-tunlb.conf\nnet.ipv4.conf.all.rp_filter = 0\nnet.ipv4.conf.tunl0.rp_filter = 0";
    assert_eq!(strict_later.persist, [file]);
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

fn picture(facts: &Facts) -> Vec<(String, StageState)> {
    let path = judge(facts, &Selection::default(), Lang::En)[0]
        .path
        .clone();
    path.into_iter()
        .map(|stage| (stage.stage, stage.state))
        .collect()
}

#[test]
fn pictures() {
    use StageState::{Fail, Ok, Skipped};
    let named = |stages: &[(&str, StageState)]| -> Vec<_> {
        stages
            .iter()
            .map(|(name, state)| ((*name).to_owned(), *state))
            .collect()
    };
    let all = [
        ("eth0", Ok),
        ("tunl0", Ok),
        ("rp_filter", Ok),
        ("socket", Ok),
        ("route", Ok),
        ("eth0", Ok),
    ];
    assert_eq!(picture(&healthy()), named(&all));
    let mut facts = healthy();
    drop_answers(&mut facts);
    let mut dropped = all.to_vec();
    dropped.insert(5, ("firewall", Fail));
    dropped[6].1 = Skipped;
    assert_eq!(picture(&facts), named(&dropped));
    let mut facts = healthy();
    no_vip(&mut facts);
    let missing = [
        ("eth0", Ok),
        ("tunl0", Ok),
        ("vip", Fail),
        ("rp_filter", Skipped),
        ("socket", Skipped),
        ("route", Skipped),
        ("E", Skipped),
    ];
    assert_eq!(picture(&facts)[..6], named(&missing)[..6]);
}

fn plain(facts: &Facts, lang: Lang) -> String {
    let style = Style {
        width: 90,
        detail: Detail::Notable,
        lang,
    };
    let text = report(&judge(facts, &Selection::default(), lang), style);
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn text_of_a_loose_filter() {
    let mut facts = healthy();
    loose(&mut facts);
    facts
        .counters
        .insert("TcpExtIPReversePathFilter".into(), 12);
    let expected = "\
203.0.113.10:80/tcp: SYN decapsulated on tunl0, then dropped: rp_filter is loose (2) and
tunl0 has no address [B11]
  eth0 ✓ → tunl0 ✓ → rp_filter ✗ → socket – → route – → eth0

FAIL    B11  rp_filter is loose and the tunnel device has no address
        SYN decapsulated on tunl0, then dropped: rp_filter is loose (2) and tunl0 has no
        address
        (inferred from configuration, not proven by a packet)
        evidence:
          TcpExtIPReversePathFilter = 12
          ip -4 addr show tunl0 = none
          ip route get 203.0.113.10 from 192.0.2.7 iif tunl0 = EINVAL
          net.ipv4.conf.all.rp_filter = 0
          net.ipv4.conf.tunl0.rp_filter = 2
        fix:
          ip addr add 127.0.0.42/32 dev tunl0
        to make it permanent:
          # /etc/systemd/network/tunl0.network
          [Match]
          Name=tunl0
          [Network]
          Address=127.0.0.42/32
          # /etc/network/interfaces.d/tunl0
          allow-hotplug tunl0
          iface tunl0 inet static
              address 127.0.0.42/32
        verify:
          ip route get 203.0.113.10 from 192.0.2.7 iif tunl0
";
    let text = plain(&facts, Lang::En);
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn text_in_chinese() {
    let mut facts = healthy();
    no_listener(&mut facts);
    let expected = "\
203.0.113.10:80/tcp: 本网络命名空间里没有程序监听 203.0.113.10:80/tcp：客户端会被拒绝
[B30]
  eth0 ✓ → tunl0 ✓ → rp_filter ✓ → socket ✗ → route – → eth0

FAIL    B30  VIP 的端口没有监听
        本网络命名空间里没有程序监听 203.0.113.10:80/tcp：客户端会被拒绝
        （依据配置判断，尚未由包证实）
        证据：
          10.0.1.11:80 = httpd
        修复：
          # 让服务绑定 203.0.113.10 或通配地址，端口 80
        验证：
          ss -tlnp sport = :80
";
    let text = plain(&facts, Lang::Zh);
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn json_document() {
    let mut facts = healthy();
    no_listener(&mut facts);
    let selection = Selection {
        only: vec![Code::backend(30), Code::backend(32)],
        skip: Vec::new(),
    };
    let document = Document::new(&judge(&facts, &selection, Lang::En)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&document.text().unwrap()).unwrap();
    let summary =
        "nothing listens on 203.0.113.10:80/tcp in this network namespace: clients are refused";
    assert_eq!(
        value,
        serde_json::json!({
            "schema": 1,
            "role": "backend",
            "vip": "203.0.113.10:80/tcp",
            "client": "192.0.2.7",
            "verdict": {"status": "fail", "code": "B30", "summary": summary},
            "path": [
                {"stage": "eth0", "state": "ok"},
                {"stage": "tunl0", "state": "unknown"},
                {"stage": "rp_filter", "state": "unknown"},
                {"stage": "socket", "state": "fail"},
                {"stage": "route", "state": "skipped"},
                {"stage": "eth0", "state": "skipped"},
            ],
            "checks": [
                {
                    "code": "B30",
                    "title": "nothing listens on the VIP's port",
                    "status": "fail",
                    "proven": false,
                    "summary": summary,
                    "evidence": {"10.0.1.11:80": "httpd"},
                    "fix": ["# let the service bind 203.0.113.10 or the wildcard address, port 80"],
                    "persist": [],
                    "verify": "ss -tlnp sport = :80",
                    "blocked_by": null,
                },
                {
                    "code": "B32",
                    "title": "the accept queue is full",
                    "status": "skip",
                    "proven": false,
                    "summary": "blocked by B30",
                    "evidence": {},
                    "fix": [],
                    "persist": [],
                    "verify": null,
                    "blocked_by": "B30",
                },
            ],
        })
    );
    let text = document.text().unwrap();
    assert_eq!(Document::parse(&text).unwrap(), document);
    let other = text.replace("\"schema\":1", "\"schema\":9");
    assert!(
        Document::parse(&other)
            .unwrap_err()
            .to_string()
            .contains("schema is 9")
    );
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

/// A director in which everything is right.
fn director() -> Facts {
    let mut facts = Facts {
        role: Role::Director,
        links: Observed::Seen(vec![
            link(1, "lo", None),
            link(2, "eth0", None),
            Link {
                mtu: 1500,
                ..link(3, "tunlb0", Some("tun"))
            },
        ]),
        addresses: Observed::Seen(Vec::new()),
        neighbours: Observed::Seen(Vec::new()),
        ..Facts::default()
    };
    facts.firewall.nft = Observed::Seen(String::new());
    set(&mut facts, "net.ipv4.ip_forward", 1);
    address(&mut facts, 2, "10.0.1.2/24");
    let mut director = DirectorFacts {
        tun: "tunlb0".into(),
        tun_in_use: Observed::Seen(true),
        ..DirectorFacts::default()
    };
    director.vips.insert(
        ip(VIP),
        VipOnDirector {
            services: vec![(6, Some(80))],
            clients_by: Some("eth0".into()),
            route: route("unicast", "tunlb0", None),
            own_answers: route("local", "lo", None),
            on_link: None,
        },
    );
    director.backends.insert(
        ip("10.0.1.11"),
        BackendOnDirector {
            route: route("unicast", "eth0", None),
            mtu: Some(1500),
            send: Observed::Seen(None),
            encap: Encap::Ipip,
            past_filters: false,
        },
    );
    facts.director = Some(director);
    facts
}

fn own(facts: &mut Facts) -> &mut DirectorFacts {
    facts.director.as_mut().unwrap()
}

fn vip_of(facts: &mut Facts) -> &mut VipOnDirector {
    own(facts).vips.get_mut(&ip(VIP)).unwrap()
}

fn backend_of(facts: &mut Facts) -> &mut BackendOnDirector {
    own(facts).backends.get_mut(&ip("10.0.1.11")).unwrap()
}

/// The VIP is in the subnet of eth0, which forwards; the kernel has no entry for it.
fn on_link(facts: &mut Facts) -> &mut VipOnLink {
    set(facts, "net.ipv4.conf.eth0.forwarding", 1);
    let on_link = VipOnLink {
        subnet: "203.0.113.0/24".parse().unwrap(),
        device: "eth0".into(),
        entry: Observed::Seen(false),
        others: Observed::Seen(Vec::new()),
    };
    vip_of(facts).on_link.insert(on_link)
}

#[test]
fn a_vip_in_a_subnet_of_the_director() {
    let cases: &[(&str, Status, Option<&str>, Change)] = &[
        ("an entry", Status::Pass, None, |facts| {
            on_link(facts).entry = Observed::Seen(true);
        }),
        ("proxy_arp", Status::Pass, None, |facts| {
            on_link(facts);
            set(facts, "net.ipv4.conf.eth0.proxy_arp", 1);
        }),
        ("nothing", Status::Fail, Some("D41"), |facts| {
            on_link(facts);
        }),
        ("no forwarding", Status::Fail, Some("D41"), |facts| {
            on_link(facts).entry = Observed::Seen(true);
            set(facts, "net.ipv4.conf.eth0.forwarding", 0);
        }),
        ("a client there", Status::Fail, Some("D41"), |facts| {
            on_link(facts);
            own(facts).client = Some(ip("203.0.113.7"));
        }),
        ("a client elsewhere", Status::Warn, Some("D41"), |facts| {
            on_link(facts);
            own(facts).client = Some(ip(CLIENT));
        }),
        ("a client of IPv6", Status::Pass, None, |facts| {
            on_link(facts);
            own(facts).client = Some(ip("2001:db8::7"));
        }),
        ("off", Status::Warn, Some("D41"), |facts| {
            on_link(facts);
            own(facts).neighbour_off = true;
        }),
        (
            "no list of entries",
            Status::Unknown,
            Some("D41"),
            |facts| {
                on_link(facts).entry = Observed::Unseen("netlink".into());
            },
        ),
        ("another machine", Status::Fail, Some("D42"), |facts| {
            on_link(facts).others = Observed::Seen(vec!["02:00:00:00:00:09".into()]);
        }),
        (
            "nothing could be asked",
            Status::Unknown,
            Some("D42"),
            |facts| {
                let on_link = on_link(facts);
                on_link.entry = Observed::Seen(true);
                on_link.others = Observed::Unseen("CAP_NET_RAW".into());
            },
        ),
        ("no route either", Status::Fail, Some("D35"), |facts| {
            on_link(facts);
            vip_of(facts).route = by_router();
        }),
    ];
    for (what, status, code, change) in cases {
        let mut facts = director();
        change(&mut facts);
        let expected = (*status, code.map(str::to_owned));
        assert_eq!(verdict_of(&facts), expected, "{what}");
    }
}

#[test]
fn how_a_vip_in_a_subnet_gets_an_answer() {
    let find = |facts: &Facts, row| {
        let diagnosis = judge(facts, &Selection::default(), Lang::En).remove(0);
        let mut checks = diagnosis.checks.into_iter();
        checks
            .find(|check| check.code == Code::director(row))
            .unwrap()
    };
    let mut facts = director();
    on_link(&mut facts);
    set(&mut facts, "net.ipv4.conf.eth0.forwarding", 0);
    let finding = find(&facts, 41);
    assert_eq!(
        finding.fix,
        [
            "sysctl -w net.ipv4.conf.eth0.forwarding=1",
            "ip neigh add proxy 203.0.113.10 dev eth0"
        ]
    );
    assert_eq!(
        finding.persist,
        ["# tunlb.toml\n[director]\nneighbour = \"eth0\""]
    );
    assert_eq!(finding.evidence["subnet of eth0"], "203.0.113.0/24");
    assert_eq!(
        finding.evidence["ip neigh show proxy 203.0.113.10 dev eth0"],
        "none"
    );
    assert_eq!(finding.evidence["net.ipv4.conf.eth0.proxy_arp"], "0");

    let vip6 = VipOnDirector {
        services: vec![(6, Some(80))],
        clients_by: Some("eth0".into()),
        on_link: Some(VipOnLink {
            subnet: "2001:db8::/64".parse().unwrap(),
            device: "eth0.7".into(),
            entry: Observed::Seen(false),
            others: Observed::Seen(Vec::new()),
        }),
        ..vip_of(&mut facts).clone()
    };
    let mut facts = director();
    own(&mut facts).vips.insert(ip("2001:db8::100"), vip6);
    set(&mut facts, "net.ipv6.conf.eth0/7.forwarding", 1);
    assert_eq!(
        find(&facts, 41).fix,
        [
            "sysctl -w net.ipv6.conf.eth0/7.proxy_ndp=1",
            "ip neigh add proxy 2001:db8::100 dev eth0.7"
        ]
    );

    let mut both = facts.clone();
    set(&mut facts, "net.ipv6.conf.eth0/7.forwarding", 0);
    set(&mut facts, "net.ipv6.conf.eth0/7.accept_ra", 1);
    let fix = find(&facts, 41).fix;
    assert_eq!(
        fix[0], "sysctl -w net.ipv6.conf.eth0/7.accept_ra=2",
        "{fix:?}"
    );
    on_link(&mut both);
    let finding = find(&both, 41);
    assert!(
        finding.summary.starts_with("203.0.113.10 is in"),
        "{}",
        finding.summary
    );
    assert_eq!(finding.fix.len(), 3, "of each VIP: {:?}", finding.fix);
    assert_eq!(finding.evidence["subnet of eth0.7"], "2001:db8::/64");

    // The neighbour table tells which backend it is.
    let mut facts = director();
    on_link(&mut facts).others = Observed::Seen(vec!["02:00:00:00:00:09".into()]);
    facts.neighbours = Observed::Seen(vec![Neighbour {
        link: 2,
        address: ip("10.0.1.11"),
        state: "REACHABLE".into(),
        lladdr: Some("02:00:00:00:00:09".into()),
    }]);
    let finding = find(&facts, 42);
    let whose = "another machine (02:00:00:00:00:09, the backend 10.0.1.11) answers ARP";
    assert!(finding.summary.starts_with(whose), "{}", finding.summary);
    assert!(
        finding.fix[0].to_string().contains("(B8)"),
        "{:?}",
        finding.fix
    );
    assert_eq!(find(&facts, 41).blocked_by, Some(Code::director(42)));
    let skipped = find(&director(), 41);
    assert_eq!(skipped.status, Status::Skip, "{skipped:?}");
}

/// A bundle of a program that did not know of it yet.
#[test]
fn facts_without_subnets_are_read() {
    let mut value = serde_json::to_value(director()).unwrap();
    let own = value["director"].as_object_mut().unwrap();
    own.remove("client");
    own.remove("neighbour_off");
    own["vips"][VIP].as_object_mut().unwrap().remove("on_link");
    let facts: Facts = serde_json::from_value(value).unwrap();
    assert_eq!(facts, director());
}

/// `all` stays strict for the devices that no backend answers by.
#[test]
fn answers_to_the_director_are_let_in_where_they_come_in() {
    let mut facts = director();
    vip_of(&mut facts).own_answers = RouteAnswer::Refused(libc::EINVAL);
    set(&mut facts, "net.ipv4.conf.all.rp_filter", 1);
    set(&mut facts, "net.ipv4.conf.eth0.rp_filter", 0);
    set(&mut facts, "net.ipv4.conf.eth9.rp_filter", 1);
    let diagnosis = judge(&facts, &Selection::default(), Lang::En).remove(0);
    let finding = diagnosis
        .checks
        .iter()
        .find(|check| check.code == Code::director(36));
    assert_eq!(
        finding.unwrap().fix,
        ["sysctl -w net.ipv4.conf.eth0.rp_filter=2"]
    );
}

fn finding_of(facts: &Facts, number: u8) -> Finding {
    let diagnosis = judge(facts, &Selection::default(), Lang::En).remove(0);
    let mut checks = diagnosis.checks.into_iter();
    checks
        .find(|check| check.code == Code::director(number))
        .unwrap()
}

/// The host keeps what it has by router advertisement.
#[test]
fn accept_ra_comes_before_ipv6_forwarding() {
    let mut facts = director();
    let seen = own(&mut facts).vips.remove(&ip(VIP)).unwrap();
    own(&mut facts).vips.insert(ip("2001:db8::100"), seen);
    set(&mut facts, "net.ipv6.conf.all.forwarding", 0);
    for device in ["eth0", "lo", "tunlb0"] {
        set(&mut facts, &format!("net.ipv6.conf.{device}.accept_ra"), 1);
        set(&mut facts, &format!("net.ipv6.conf.{device}.forwarding"), 0);
    }
    let finding = finding_of(&facts, 35);
    assert_eq!(
        finding.fix,
        [
            "sysctl -w net.ipv6.conf.eth0.accept_ra=2",
            "sysctl -w net.ipv6.conf.all.forwarding=1"
        ]
    );
    assert!(
        finding.persist[0]
            .to_string()
            .contains("eth0.accept_ra = 2\nnet.ipv6.conf.all"),
        "{finding:?}"
    );
    set(&mut facts, "net.ipv6.conf.eth0.accept_ra", 2);
    assert_eq!(finding_of(&facts, 35).fix.len(), 1);
    set(&mut facts, "net.ipv6.conf.eth0.force_forwarding", 1);
    assert_eq!(verdict_of(&facts), (Status::Pass, None));
}

#[test]
fn a_device_that_forwards_is_enough() {
    let mut facts = director();
    set(&mut facts, "net.ipv4.ip_forward", 0);
    set(&mut facts, "net.ipv4.conf.tunlb0.forwarding", 1);
    assert_eq!(verdict_of(&facts).0, Status::Fail);
    set(&mut facts, "net.ipv4.conf.eth0.forwarding", 1);
    assert_eq!(verdict_of(&facts), (Status::Pass, None));
}

#[test]
fn what_a_killed_director_left_is_known() {
    let mut facts = director();
    links(&mut facts).truncate(2);
    vip_of(&mut facts).route = RouteAnswer::Refused(libc::EHOSTUNREACH);
    let finding = finding_of(&facts, 35);
    assert!(
        finding.summary.contains("as a killed director leaves it"),
        "{finding:?}"
    );
    assert_eq!(finding.fix[0], "tunlb run -c FILE");
    assert!(
        finding.fix[1].to_string().ends_with("tunlb undo"),
        "{finding:?}"
    );
}

#[test]
fn faults_of_a_director() {
    assert_eq!(verdict_of(&director()), (Status::Pass, None));
    assert!(
        picture(&director())
            .iter()
            .all(|(_, state)| *state == StageState::Ok)
    );
    for (index, (code, status, fault)) in FAULTS_OF_A_DIRECTOR.iter().enumerate() {
        let mut facts = director();
        fault(&mut facts);
        assert_eq!(
            verdict_of(&facts),
            (*status, Some((*code).to_owned())),
            "fault {index}"
        );
    }
}

/// Sockets that the firewall does not see.
#[test]
fn a_firewall_that_is_passed_by_is_no_fault() {
    let mut facts = director();
    legacy(&mut facts, "-A OUTPUT -p ipencap -j DROP\n");
    backend_of(&mut facts).past_filters = true;
    assert_eq!(verdict_of(&facts), (Status::Pass, None));
}

const FAULTS_OF_A_DIRECTOR: &[(&str, Status, Change)] = &[
    ("D35", Status::Fail, |facts| {
        vip_of(facts).route = route("local", "lo", None)
    }),
    ("D35", Status::Fail, |facts| {
        vip_of(facts).route = by_router()
    }),
    ("D35", Status::Fail, |facts| {
        set(facts, "net.ipv4.ip_forward", 0)
    }),
    ("D35", Status::Fail, |facts| {
        own(facts).tun_in_use = Observed::Seen(false)
    }),
    ("D35", Status::Fail, |facts| links(facts).truncate(2)),
    ("D35", Status::Fail, |facts| links(facts)[2].up = false),
    ("D36", Status::Fail, |facts| {
        vip_of(facts).own_answers = RouteAnswer::Refused(libc::EINVAL)
    }),
    ("D38", Status::Fail, |facts| {
        backend_of(facts).send = Observed::Seen(Some(libc::EPERM))
    }),
    ("D38", Status::Fail, |facts| {
        backend_of(facts).route = RouteAnswer::Refused(libc::ENETUNREACH)
    }),
    ("D38", Status::Fail, |facts| {
        legacy(facts, "-A OUTPUT -p ipencap -j DROP\n")
    }),
    ("D38", Status::Warn, |facts| links(facts)[2].mtu = 1480),
    ("D38", Status::Unknown, |facts| {
        backend_of(facts).send = Observed::Unseen("CAP_NET_RAW".into())
    }),
    ("D38", Status::Fail, |facts| {
        facts.neighbours = Observed::Seen(vec![Neighbour {
            link: 2,
            address: ip("10.0.1.11"),
            state: "FAILED".into(),
            lladdr: None,
        }]);
    }),
];

/// The fix and the lines that make it permanent, of one check.
fn advice(code: &str, change: Change) -> (Vec<FixLine>, Vec<String>) {
    let mut facts = healthy();
    change(&mut facts);
    let diagnosis = judge(&facts, &Selection::default(), Lang::En).remove(0);
    let mut checks = diagnosis.checks.into_iter();
    let check = checks.find(|check| check.code.to_string() == code).unwrap();
    let persist = check.persist.iter().map(ToString::to_string);
    (check.fix, persist.collect())
}

fn without_driver(facts: &mut Facts) {
    no_module(facts);
    facts.modules.insert("ipip".into(), ModuleState::Absent);
    facts.program = Some("/opt/my tools/tunlb".into());
}

#[test]
fn a_proposed_decapsulator_takes_packets_from_the_director_only() {
    let (fix, persist) = advice("B1", without_driver);
    assert_eq!(
        fix,
        ["tunlb decap --vip 203.0.113.10 --director 10.0.1.2 --setup"]
    );
    let lines: Vec<_> = persist[0].lines().collect();
    for line in [
        "# /etc/systemd/system/tunlb-decap.service",
        "Wants=network-online.target",
        "After=network-online.target",
        "Restart=always",
        "ExecStart=\"/opt/my tools/tunlb\" decap --vip 203.0.113.10 --director 10.0.1.2 --setup",
    ] {
        assert!(lines.contains(&line), "no {line} in {lines:#?}");
    }
    let (fix, _) = advice("B1", |facts| {
        without_driver(facts);
        target(facts).director = None;
    });
    assert_eq!(fix, ["tunlb decap --vip 203.0.113.10 --setup"]);
    let (fix, persist) = advice("B4", |facts| {
        without_driver(facts);
        facts.modules.insert("fou".into(), ModuleState::Absent);
        target(facts).encap = Encap::Gue(6080);
    });
    assert_eq!(
        fix,
        ["tunlb decap --vip 203.0.113.10 --director 10.0.1.2 --gue 6080 --setup"]
    );
    assert!(persist[0].contains("--gue 6080 --setup"), "{persist:?}");
}

#[test]
fn a_decapsulator_that_takes_other_packets_is_started_anew() {
    let (fix, _) = advice("B2", |facts| {
        by_decap(facts);
        facts.decapsulators = Observed::Seen(vec![Decapsulator {
            vips: vec![ip("203.0.113.11")],
            ..decap()
        }]);
    });
    assert_eq!(
        fix,
        [
            "kill 77",
            "tunlb decap --vip 203.0.113.10 --vip 203.0.113.11 --director 10.0.1.2 --setup"
        ]
    );
    let (fix, _) = advice("B2", |facts| {
        by_decap(facts);
        facts.decapsulators = Observed::Seen(vec![Decapsulator {
            encap: Encap::Gue(6080),
            ..decap()
        }]);
    });
    assert_eq!(
        fix,
        ["tunlb decap --vip 203.0.113.10 --director 10.0.1.2 --tun decap1 --setup"]
    );
}
