use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::doctor::facts::{Route, RouteAnswer, Target};
use crate::io::testing::in_namespace;

const SITE: &str = r#"
[director]
tun = "tunlb0"

[[vip]]
name = "web"
address = "10.0.0.100"
port = 80
protocol = "tcp"

[[vip.backend]]
address = "10.0.1.11"

[[vip.backend]]
address = "10.0.1.12"

[[vip.backend]]
address = "10.0.9.9"
"#;

fn site() -> Config {
    Config::parse("site.toml", SITE).unwrap()
}

/// Runs programs, one per line.
fn run(lines: &str) {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let status = command.args(words).status().unwrap();
        assert!(status.success(), "{line}");
    }
}

/// A shell that `/proc` shows as `tunlb decap`; ends with its standard input.
fn decapsulator(folder: &Path) -> Child {
    fs::copy("/bin/sh", folder.join("tunlb")).unwrap();
    fs::write(folder.join("decap"), "read line").unwrap();
    let mut command = Command::new(folder.join("tunlb"));
    command.args(["decap", "--vip", "10.0.0.100", "--director=10.0.1.1"]);
    let child = command.current_dir(folder).stdin(Stdio::piped()).spawn();
    let child = child.unwrap();
    // A child is there before its arguments are.
    let shown = |arguments: Vec<u8>| !arguments.is_empty();
    while !fs::read(format!("/proc/{}/cmdline", child.id())).is_ok_and(shown) {
        thread::yield_now();
    }
    child
}

fn route(answer: &RouteAnswer) -> &Route {
    let RouteAnswer::Route(route) = answer else {
        panic!("{answer:?}");
    };
    route
}

#[test]
fn facts_of_this_machine_come_back_equal() {
    let facts = backend(&BackendOptions::default());
    come_back_equal(&facts);
    assert!(facts.links.seen().is_some_and(|links| !links.is_empty()));
    assert!(facts.sysctls.contains_key("net.ipv4.conf.all.rp_filter"));
    assert!(facts.sysctls.contains_key("net.ipv6.conf.all.forwarding"));
    assert!(!facts.kernel.is_empty());
}

fn come_back_equal(facts: &Facts) {
    let text = serde_json::to_string(facts).unwrap();
    let back: Facts = serde_json::from_str(&text).unwrap();
    assert_eq!(back, *facts);
}

#[test]
fn a_backend_is_seen() {
    in_namespace("doctor::gather::tests::a_backend_is_seen_inside");
}

/// director 10.0.1.1 ── veth ── this machine: eth0 10.0.1.11/24, VIP on lo, a TUN as its tunnel.
const BACKEND: &str = "
    ip link set lo up
    ip link add eth0 type veth peer name far
    ip addr add 10.0.1.11/24 dev eth0
    ip link set eth0 up
    ip link set far up
    ip neigh add 10.0.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
    ip route add default via 10.0.1.254 dev eth0
    ip addr add 10.0.0.100/32 dev lo
    ip tuntap add decap0 mode tun
    ip addr add 127.0.0.42/32 dev decap0
    ip link set decap0 up
    sysctl -qw net.ipv4.conf.all.rp_filter=0
    sysctl -qw net.ipv4.conf.decap0.rp_filter=2
    ip rule add from 10.0.0.100 ipproto tcp sport 80 lookup 100
    ip route add default via 10.0.1.253 dev eth0 table 100 mtu 1400 advmss 1360
    nft add table inet filter
    iptables-nft -A INPUT -p 94 -j DROP
    iptables-legacy -A INPUT -p 4 -j DROP
";

#[test]
#[ignore = "run by a_backend_is_seen in a namespace of its own"]
fn a_backend_is_seen_inside() {
    run(BACKEND);
    let _listener = TcpListener::bind("10.0.0.100:80").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut decapsulator = decapsulator(folder.path());
    let options = BackendOptions {
        director: Some([10, 0, 1, 1].into()),
        ..BackendOptions::default()
    };
    let facts = backend(&options);
    come_back_equal(&facts);
    common_facts_are_seen(&facts);
    the_target_is_seen(&facts);
    the_oracle_shows_rp_filter(&options);
    the_way_back_is_that_of_the_service(&options);
    ipv6_is_asked_as_well();
    drop(decapsulator.stdin.take());
    decapsulator.wait().unwrap();
}

fn the_target_is_seen(facts: &Facts) {
    let [target] = facts.targets.as_slice() else {
        panic!("{:?}", facts.targets);
    };
    assert_eq!(
        (target.vip, target.port),
        ([10, 0, 0, 100].into(), Some(80))
    );
    assert_eq!(target.physical.as_deref(), Some("eth0"));
    assert_eq!(target.client, IpAddr::from([10, 0, 1, 1]));
    assert!(target.client_is_assumed);
    assert_eq!(target.tunnel.as_deref(), Some("decap0"));
    assert_eq!(route(&target.vip_route).kind, "local");
    assert_eq!(route(&target.input).kind, "local");
}

fn common_facts_are_seen(facts: &Facts) {
    let neighbours = facts.neighbours.seen().unwrap();
    let director = neighbours.iter().find(|n| n.state == "PERMANENT").unwrap();
    assert_eq!(director.lladdr.as_deref(), Some("02:00:00:00:00:01"));
    let socket = &facts.sockets.seen().unwrap()[0];
    assert_eq!((socket.protocol.as_str(), socket.port), ("tcp", 80));
    assert!(socket.queue_limit > 0 && socket.program.is_some());
    let rules = facts.rules.seen().unwrap();
    let text = "from 10.0.0.100 ipproto tcp sport 80 lookup 100";
    assert!(rules.iter().any(|rule| rule.text == text), "{rules:?}");
    assert!(facts.firewall.nft.seen().unwrap().contains("\"filter\""));
    for (program, rule) in [
        ("iptables-nft-save", "-A INPUT -p ipip -j DROP"),
        ("iptables-legacy-save", "-A INPUT -p ipencap -j DROP"),
    ] {
        let rules = facts.firewall.iptables[program].seen().unwrap();
        assert!(rules.contains(rule), "{program}: {rules}");
    }
    let own = &facts.sysctls["net.ipv4.conf.decap0.rp_filter"];
    assert_eq!(*own, 2);
}

/// Loose, and no address on the tunnel: the same as strict.
fn the_oracle_shows_rp_filter(options: &BackendOptions) {
    run("ip addr del 127.0.0.42/32 dev decap0");
    let facts = backend(options);
    let refused = [libc::EINVAL, libc::EXDEV].map(RouteAnswer::Refused);
    assert!(
        refused.contains(&facts.targets[0].input),
        "{:?}",
        facts.targets
    );
}

fn the_way_back_is_that_of_the_service(options: &BackendOptions) {
    let of_client = |options: &BackendOptions| -> Target {
        let client = Some([192, 0, 2, 9].into());
        let facts = backend(&BackendOptions { client, ..*options });
        facts.targets[0].clone()
    };
    let target = of_client(options);
    let back = route(&target.way_back);
    assert_eq!(back.gateway, Some([10, 0, 1, 253].into()));
    assert_eq!((back.table, back.mtu), (Some(100), Some(1400)));
    assert_eq!(back.advmss, Some(1360));
    let any = route(&target.way_back_of_any);
    assert_eq!(
        (any.gateway, any.table),
        (Some([10, 0, 1, 254].into()), Some(254))
    );

    let other = Service {
        address: [10, 0, 7, 7].into(),
        port: Some(80),
        protocol: Protocol::Tcp,
    };
    let unknown = of_client(&BackendOptions {
        service: Some(other),
        ..*options
    });
    assert_eq!(unknown.way_back, RouteAnswer::Refused(libc::ENETUNREACH));
}

fn ipv6_is_asked_as_well() {
    run("ip addr add 2001:db8::100/128 dev lo
         ip addr add 2001:db8:1::11/64 dev eth0 nodad
         ip -6 rule add from 2001:db8::100 ipproto udp lookup 100
         ip -6 route add default via 2001:db8:1::fe dev eth0 table 100");
    let options = BackendOptions {
        service: Some(Service {
            address: "2001:db8::100".parse().unwrap(),
            port: Some(53),
            protocol: Protocol::Udp,
        }),
        client: "2001:db8:9::1".parse().ok(),
        director: "2001:db8:1::1".parse().ok(),
        encap: None,
    };
    let target = &backend(&options).targets[0];
    assert_eq!(target.physical.as_deref(), Some("eth0"));
    assert_eq!(route(&target.vip_route).kind, "local");
    let back = route(&target.way_back);
    assert_eq!(
        (back.gateway, back.table),
        ("2001:db8:1::fe".parse().ok(), Some(100))
    );
    assert_eq!(
        target.way_back_of_any,
        RouteAnswer::Refused(libc::ENETUNREACH)
    );
}

#[test]
fn a_director_is_seen() {
    in_namespace("doctor::gather::tests::a_director_is_seen_inside");
}

/// this machine: eth0 10.0.1.1/24 ── veth ── backends; a TUN that nobody holds open.
const DIRECTOR: &str = "
    ip link set lo up
    ip link add eth0 type veth peer name far
    ip addr add 10.0.1.1/24 dev eth0
    ip link set eth0 up
    ip link set far up
    ip neigh add 10.0.1.11 lladdr 02:00:00:00:00:11 dev eth0 nud permanent
    ip neigh add 10.0.1.12 lladdr 02:00:00:00:00:12 dev eth0 nud permanent
    ip tuntap add tunlb0 mode tun
    ip link set tunlb0 up
    ip route add 10.0.0.100 dev tunlb0
    ip route add 10.0.1.12 dev eth0 mtu 1400
    sysctl -qw net.ipv4.conf.all.rp_filter=0
    sysctl -qw net.ipv4.conf.eth0.rp_filter=1
    nft add table inet filter
    nft add chain inet filter output { type filter hook output priority 0 ; }
    nft add rule inet filter output ip daddr 10.0.1.12 ip protocol 4 drop
";

#[test]
#[ignore = "run by a_director_is_seen in a namespace of its own"]
fn a_director_is_seen_inside() {
    run(DIRECTOR);
    assert_eq!(find_role(), FoundRole::Director);
    let own_answers = || {
        let seen = director(&site(), None).director.unwrap();
        seen.vips[&IpAddr::from([10, 0, 0, 100])]
            .own_answers
            .clone()
    };
    let facts = director(&site(), None);
    come_back_equal(&facts);
    let seen = facts.director.unwrap();
    assert_eq!(seen.tun_in_use, Observed::Seen(false));
    let vip = &seen.vips[&IpAddr::from([10, 0, 0, 100])];
    assert_eq!(route(&vip.route).device.as_deref(), Some("tunlb0"));
    let sent: Vec<_> = seen
        .backends
        .values()
        .map(|backend| &backend.send)
        .collect();
    let [fine, dropped, nowhere] = sent.as_slice() else {
        panic!("{sent:?}");
    };
    assert_eq!(**fine, Observed::Seen(None));
    assert_eq!(**dropped, Observed::Seen(Some(libc::EPERM)));
    assert_eq!(**nowhere, Observed::Seen(Some(libc::ENETUNREACH)));
    let mtus: Vec<_> = seen.backends.values().map(|backend| backend.mtu).collect();
    assert_eq!(mtus, [Some(1500), Some(1400), None]);

    // A strict filter refuses what the TUN's route does not lead to; a loose one does not.
    assert!(
        matches!(own_answers(), RouteAnswer::Refused(_)),
        "{:?}",
        own_answers()
    );
    run("sysctl -qw net.ipv4.conf.eth0.rp_filter=2");
    assert_eq!(route(&own_answers()).kind, "local");
}
