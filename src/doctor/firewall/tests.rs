//! Packets against rulesets as the real tools print them: `fixtures/make.sh` wrote what is read here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::FilterPath::{FromThisHost, Through, ToThisHost};
use super::*;

/// A fixture's text.
macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("fixtures/", $name))
    };
}

fn nft(text: &str) -> Firewall {
    firewall(text, &[])
}

fn legacy(text: &str) -> Firewall {
    firewall("", &[("iptables-legacy-save", text)])
}

fn firewall(nft: &str, iptables: &[(&str, &str)]) -> Firewall {
    let seen = |text: &str| Observed::Seen(text.to_owned());
    let texts = iptables
        .iter()
        .map(|(program, text)| ((*program).to_owned(), seen(text)));
    Firewall::parse(&FirewallFacts {
        nft: seen(nft),
        iptables: texts.collect(),
        conntrack: Observed::Seen(None),
        ..FirewallFacts::default()
    })
    .unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const DIRECTOR: &str = "10.0.0.1";
const BACKEND: &str = "10.0.0.2";
const CLIENT: &str = "192.0.2.77";
const VIP: &str = "203.0.113.10";

/// The outer packet, from the director to the backend.
fn outer() -> FilteredPacket {
    FilteredPacket {
        iif: Some("eth0".to_owned()),
        destination_is_local: Some(true),
        ..FilteredPacket::new(ToThisHost, ip(DIRECTOR), ip(BACKEND), 4)
    }
}

/// The inner packet, a SYN out of the tunnel.
fn inner() -> FilteredPacket {
    FilteredPacket {
        iif: Some("tunl0".to_owned()),
        ports: Some((40_000, 80)),
        tcp_flags: Some(2),
        destination_is_local: Some(true),
        ..FilteredPacket::new(ToThisHost, ip(CLIENT), ip(VIP), 6)
    }
}

/// The answer to it.
fn reply() -> FilteredPacket {
    FilteredPacket {
        oif: Some("eth0".to_owned()),
        ports: Some((80, 40_000)),
        state: ConntrackState::Established,
        tcp_flags: Some(18),
        ..FilteredPacket::new(FromThisHost, ip(VIP), ip(CLIENT), 6)
    }
}

fn udp(source: &str, port: u16) -> FilteredPacket {
    FilteredPacket {
        iif: Some("eth0".to_owned()),
        ports: Some((40_000, port)),
        destination_is_local: Some(true),
        ..FilteredPacket::new(ToThisHost, ip(source), ip(BACKEND), 17)
    }
}

/// A verdict in short: `accept`, `drop RULE`, ….
fn short(verdict: FilterVerdict) -> String {
    match verdict {
        FilterVerdict::Accept => "accept".to_owned(),
        FilterVerdict::Drop(rule) => format!("drop: {}", rule.rule),
        FilterVerdict::Rewritten(rule) => format!("rewritten: {}", rule.rule),
        FilterVerdict::Diverted(rule, _) => format!("diverted: {}", rule.rule),
        FilterVerdict::Chance(rule, chance) => format!("{chance:?}: {}", rule.rule),
        FilterVerdict::Unknown(rule) => format!("unknown: {}", rule.rule),
        FilterVerdict::NotSeen(why) => format!("not seen: {why}"),
    }
}

#[track_caller]
fn expect(firewall: &Firewall, packet: &FilteredPacket, expected: &str) {
    assert_eq!(short(firewall.judge(packet)), expected, "{packet:?}");
}

#[test]
fn no_rules_let_everything_pass() {
    for empty in [
        "",
        "\n",
        r#"{"nftables": [{"metainfo": {"json_schema_version": 1}}]}"#,
    ] {
        expect(&nft(empty), &outer(), "accept");
    }
    expect(&Firewall::default(), &reply(), "accept");
}

#[test]
fn a_policy_drops_protocol_4_until_a_rule_takes_it() {
    let packets = [
        (fixture!("ssh-only.json"), "drop: policy drop"),
        (fixture!("protocol-ipip.json"), "drop: policy drop"),
        (fixture!("protocol-4.json"), "accept"),
        (fixture!("l4proto-4.json"), "accept"),
    ];
    for (text, expected) in packets {
        expect(&nft(text), &outer(), expected);
        expect(&nft(text), &inner(), "drop: policy drop");
        expect(&nft(text), &reply(), "accept");
    }
    let known = FilteredPacket {
        state: ConntrackState::Established,
        ..outer()
    };
    expect(&nft(fixture!("ssh-only.json")), &known, "accept");
    let stranger = FilteredPacket {
        source: ip("10.0.1.1"),
        ..outer()
    };
    expect(
        &nft(fixture!("l4proto-4.json")),
        &stranger,
        "drop: policy drop",
    );
}

#[test]
fn iptables_is_judged_like_nft() {
    let texts = [
        (fixture!("ssh-only.legacy"), "drop: policy DROP"),
        (fixture!("ssh-only.nft-save"), "drop: policy DROP"),
        (fixture!("protocol-ipip.legacy"), "drop: policy DROP"),
        (fixture!("protocol-ipip.nft-save"), "drop: policy DROP"),
        (fixture!("protocol-4.legacy"), "accept"),
        (fixture!("protocol-4.nft-save"), "accept"),
    ];
    for (text, expected) in texts {
        expect(&legacy(text), &outer(), expected);
        expect(&legacy(text), &reply(), "accept");
    }
}

#[test]
fn the_name_trap_is_found() {
    let rules = nft(fixture!("protocol-ipip.json")).rules_naming_protocol(94);
    assert_eq!(
        rules,
        [RuleText {
            program: "nft".to_owned(),
            family: "inet",
            table: "filter".to_owned(),
            chain: "input".to_owned(),
            entered: "input".to_owned(),
            rule: "ip protocol ipip accept".to_owned(),
            handle: rules[0].handle,
            packets: None,
        }]
    );
    assert!(rules[0].handle.is_some());
    let rules = legacy(fixture!("protocol-ipip.legacy")).rules_naming_protocol(94);
    assert_eq!(rules[0].rule, "-A INPUT -p ipip -j ACCEPT");
    assert_eq!(rules[0].place(), "ip filter INPUT");
    assert_eq!(rules[0].program, "iptables-legacy");
    assert_eq!((rules[0].handle, rules[0].packets), (Some(3), Some(0)));
    assert_eq!(
        nft(fixture!("protocol-4.json")).rules_naming_protocol(94),
        []
    );
    let maps = nft(fixture!("verdict-maps.json")).rules_naming_protocol(94);
    assert_eq!(
        maps[0].rule,
        "meta l4proto vmap { icmp : continue, ipencap : accept, ipip : drop }"
    );
}

#[test]
fn a_rule_for_the_vip_drops_the_answer() {
    let firewall = nft(fixture!("vip-output.json"));
    let rule = "drop: oifname \"eth*\" ip saddr @vips tcp sport { 80, 443, 8000-8080 } \
                counter packets 0 bytes 0 reject";
    expect(&firewall, &reply(), rule);
    for (source, port, expected) in [
        ("198.51.100.7", 8001, rule),
        ("192.0.2.9", 443, rule),
        ("192.0.2.10", 443, "accept"),
        ("203.0.113.10", 8081, "accept"),
    ] {
        let answer = FilteredPacket {
            source: ip(source),
            ports: Some((port, 40_000)),
            ..reply()
        };
        expect(&firewall, &answer, expected);
    }
    let without_port = FilteredPacket {
        ports: None,
        ..reply()
    };
    expect(&firewall, &without_port, &rule.replace("drop:", "unknown:"));
    let elsewhere = FilteredPacket {
        oif: Some("bond0".to_owned()),
        ..reply()
    };
    expect(&firewall, &elsewhere, "accept");
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let firewall = nft(fixture!("jumps.json"));
    for (source, port, expected) in [
        ("10.0.0.1", 1, "accept"),
        ("10.0.0.99", 1, "drop: policy drop"),
        ("10.0.0.1", 2, "accept"),
        ("10.0.0.98", 3, "accept"),
        ("10.0.0.1", 4, "drop: udp dport 4 drop"),
        ("10.0.0.98", 5, "drop: policy drop"),
        ("10.0.0.98", 6, "drop: policy drop"),
        ("10.0.0.1", 7, "accept"),
        ("10.0.0.1", 8, "drop: policy drop"),
    ] {
        expect(&firewall, &udp(source, port), expected);
    }
}

#[test]
fn verdict_maps_decide_by_key() {
    let firewall = nft(fixture!("verdict-maps.json"));
    let services = "meta l4proto . th dport vmap @services";
    let rest = "drop: ip saddr vmap { 192.0.2.0/24 : accept, * : drop }";
    expect(&firewall, &outer(), "accept");
    expect(&firewall, &inner(), "accept");
    expect(
        &firewall,
        &udp("10.0.0.1", 53),
        &format!("drop: {services}"),
    );
    // One flow stays within the limit; what is beyond it, the last map drops.
    expect(&firewall, &udp("10.0.0.1", 4500), "accept");
    expect(&firewall, &udp("192.0.2.1", 4500), "accept");
    expect(&firewall, &udp("10.0.0.1", 5353), rest);
    let invalid = FilteredPacket {
        state: ConntrackState::Invalid,
        ..outer()
    };
    let states = "ct state vmap { invalid : drop, established : accept, related : accept }";
    expect(&firewall, &invalid, &format!("drop: {states}"));
    let seven = |device: Option<&str>| FilteredPacket {
        iif: device.map(str::to_owned),
        ..udp("10.0.0.7", 9)
    };
    let by_device =
        "iifname . ip saddr vmap { \"eth0\" . 10.0.0.7 : drop, \"eth1\" . 10.0.0.7 : accept }"
            .replace('"', "");
    expect(
        &firewall,
        &seven(Some("eth0")),
        &format!("drop: {by_device}"),
    );
    expect(&firewall, &seven(Some("eth1")), "accept");
    expect(&firewall, &seven(Some("eth2")), rest);
    expect(&firewall, &seven(None), &format!("unknown: {by_device}"));
}

#[test]
fn reverse_path_rules_need_facts() {
    let firewall = nft(fixture!("reverse-path.json"));
    let strict = "fib saddr . iif oif missing counter packets 0 bytes 0 drop";
    let facts = |found, routable, local| FilteredPacket {
        reverse_path_found: found,
        source_is_routable: routable,
        destination_is_local: local,
        ..outer()
    };
    let yes = Some(true);
    expect(&firewall, &facts(yes, yes, yes), "accept");
    expect(
        &firewall,
        &facts(Some(false), yes, yes),
        &format!("drop: {strict}"),
    );
    expect(
        &firewall,
        &facts(None, yes, yes),
        &format!("unknown: {strict}"),
    );
    expect(
        &firewall,
        &facts(yes, Some(false), yes),
        "drop: fib saddr oif missing drop",
    );
    // Both rules may drop: which of them is quoted does not matter, that none is certain does.
    expect(
        &firewall,
        &facts(None, None, yes),
        &format!("unknown: {strict}"),
    );
    expect(
        &firewall,
        &facts(None, Some(false), yes),
        "drop: fib saddr oif missing drop",
    );
    let types = "fib daddr type != { local, broadcast, multicast } drop";
    expect(
        &firewall,
        &facts(yes, yes, None),
        &format!("unknown: {types}"),
    );
    // The exempted tunnel.
    let exempt = FilteredPacket {
        source_is_routable: yes,
        ..inner()
    };
    expect(&firewall, &exempt, "accept");
    let loopback = FilteredPacket {
        iif: Some("lo".to_owned()),
        ..facts(None, None, yes)
    };
    expect(&firewall, &loopback, "accept");
}

#[test]
fn rpfilter_of_iptables_too() {
    let firewall = legacy(fixture!("rpfilter.legacy"));
    let strict = "-A PREROUTING -m rpfilter --validmark --invert -j DROP";
    expect(&firewall, &outer(), &format!("unknown: {strict}"));
    let facts = |found, device: &str| FilteredPacket {
        iif: Some(device.to_owned()),
        reverse_path_found: Some(found),
        source_is_routable: Some(true),
        ..outer()
    };
    expect(&firewall, &facts(true, "eth0"), "accept");
    expect(&firewall, &facts(false, "eth0"), &format!("drop: {strict}"));
    expect(&firewall, &facts(false, "tunl1"), "accept");
    let syn = FilteredPacket {
        reverse_path_found: Some(true),
        ..inner()
    };
    expect(&firewall, &syn, "drop: -A INPUT -m mark --mark 0x1 -j DROP");
    let ack = FilteredPacket {
        tcp_flags: Some(16),
        ..syn
    };
    expect(&firewall, &ack, "accept");
    let datagram = |port| FilteredPacket {
        reverse_path_found: Some(true),
        ..udp(DIRECTOR, port)
    };
    expect(&firewall, &datagram(61), "accept");
    expect(
        &firewall,
        &datagram(71),
        "drop: -A INPUT -p udp -m multiport ! --ports 53,60:70 -j DROP",
    );
}

#[test]
fn invalid_is_dropped_and_found() {
    let firewall = nft(fixture!("invalid.json"));
    let invalid = FilteredPacket {
        state: ConntrackState::Invalid,
        ..inner()
    };
    let rule = "ct state invalid counter packets 12 bytes 720 drop";
    expect(&firewall, &invalid, &format!("drop: {rule}"));
    expect(&firewall, &inner(), "accept");
    // What raw takes away from conntrack is untracked, not invalid.
    let outer_invalid = FilteredPacket {
        state: ConntrackState::Invalid,
        ..outer()
    };
    expect(&firewall, &outer_invalid, "accept");
    let midway = FilteredPacket {
        tcp_flags: Some(16),
        ..inner()
    };
    let no_syn = "tcp flags & (fin | syn | rst | ack) != syn ct state new drop";
    expect(&firewall, &midway, &format!("drop: {no_syn}"));
    let unknown = FilteredPacket {
        tcp_flags: None,
        ..inner()
    };
    expect(&firewall, &unknown, &format!("unknown: {no_syn}"));
    assert!(firewall.uses_conntrack());
}

#[test]
fn masquerade_rewrites_first_packets_only() {
    let fresh = FilteredPacket {
        state: ConntrackState::New,
        ..reply()
    };
    let plain = nft(fixture!("masquerade.json"));
    expect(&plain, &fresh, "rewritten: oifname \"eth0\" masquerade");
    expect(&plain, &reply(), "accept");
    let untracked = FilteredPacket {
        state: ConntrackState::Untracked,
        ..reply()
    };
    expect(&plain, &untracked, "accept");
    let exempt = nft(fixture!("masquerade-exempt.json"));
    expect(&exempt, &fresh, "accept");
    let from = |source| FilteredPacket {
        source: ip(source),
        ..fresh.clone()
    };
    expect(&exempt, &from("203.0.113.11"), "accept");
    expect(
        &exempt,
        &from("203.0.113.12"),
        "rewritten: oifname \"eth0\" snat to 10.0.0.2",
    );
    let published = FilteredPacket {
        ports: Some((40_000, 8080)),
        ..inner()
    };
    expect(
        &exempt,
        &published,
        "diverted: tcp dport 8080 dnat to 10.0.0.5:80",
    );
    assert!(exempt.uses_conntrack());
    assert!(!nft(fixture!("jumps.json")).uses_conntrack());
}

#[test]
fn accept_ends_its_own_chain_only() {
    let firewall = nft(fixture!("two-tables.json"));
    expect(
        &firewall,
        &outer(),
        "drop: meta l4proto ipencap meta mark != 7 drop",
    );
    let marked = FilteredPacket {
        source: ip("10.0.0.7"),
        ..outer()
    };
    expect(&firewall, &marked, "accept");
    let mark_unknown = FilteredPacket {
        mark: None,
        ..outer()
    };
    expect(
        &firewall,
        &mark_unknown,
        "unknown: meta l4proto ipencap meta mark != 7 drop",
    );
}

/// The kernel puts a new chain before those of the same priority.
#[test]
fn of_equal_chains_the_last_one_goes_first() {
    let chain = |name| {
        format!(
            r#"{{"chain": {{"family": "ip", "table": "t", "name": "{name}", "type": "filter",
                "hook": "prerouting", "prio": -300, "policy": "accept"}}}}"#
        )
    };
    let rule = |chain, statements| {
        format!(
            r#"{{"rule": {{"family": "ip", "table": "t", "chain": "{chain}", "expr": [{statements}]}}}}"#
        )
    };
    let marks = r#"{"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}"#;
    let looks =
        r#"{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 1}}, {"drop": null}"#;
    for (first, second, expected) in [
        (marks, looks, "accept"),
        (looks, marks, "drop: meta mark 1 drop"),
    ] {
        let objects = [chain("b"), chain("a"), rule("b", first), rule("a", second)].join(", ");
        let text = format!(r#"{{"nftables": [{objects}]}}"#);
        expect(&nft(&text), &outer(), expected);
    }
}

#[test]
fn ip6tables_see_ipv6() {
    let text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -s 2001:db8:1::/64 -p 41 -j ACCEPT\nCOMMIT\n";
    let firewall = firewall("", &[("ip6tables-legacy-save", text)]);
    expect(&firewall, &outer(), "accept");
    for (source, expected) in [
        ("2001:db8:1::5", "accept"),
        ("2001:db8:2::5", "drop: policy DROP"),
    ] {
        let packet = FilteredPacket::new(ToThisHost, ip(source), ip("2001:db8::2"), 41);
        expect(&firewall, &packet, expected);
    }
}

#[test]
fn chains_that_are_perhaps_not_for_the_packet() {
    // nft 1.0.6 tells neither the device of an ingress chain nor that a table is dormant.
    let text = fixture!("netdev.json");
    expect(&nft(text), &outer(), "unknown: ip protocol ipencap drop");
    let told = text.replace(r#""prio": -500"#, r#""prio": -500, "dev": "lo""#);
    expect(&nft(&told), &outer(), "unknown: policy drop");
    let told = told.replace(r#""flags": "asleep""#, r#""flags": ["dormant"]"#);
    expect(&nft(&told), &outer(), "accept");
    let bound = told.replace(r#""dev": "lo""#, r#""dev": ["eth1", "eth0"]"#);
    expect(&nft(&bound), &outer(), "drop: ip protocol ipencap drop");
}

#[test]
fn firewalld() {
    let firewall = nft(fixture!("firewalld.json"));
    expect(&firewall, &outer(), "accept");
    expect(&firewall, &inner(), "accept");
    expect(&firewall, &reply(), "accept");
    expect(
        &firewall,
        &udp(CLIENT, 53),
        "drop: reject with icmpx admin-prohibited",
    );
    let six = FilteredPacket {
        source: ip("2001:db8::1"),
        destination: ip("2001:db8::2"),
        protocol: 4,
        ..outer()
    };
    let reverse = "meta nfproto ipv6 fib saddr . mark . iif oif missing drop";
    let last = "drop: reject with icmpx admin-prohibited";
    expect(&firewall, &six, last);
    let from_tunnel = FilteredPacket {
        iif: Some("tunl0".to_owned()),
        ..six
    };
    expect(&firewall, &from_tunnel, &format!("unknown: {reverse}"));
}

#[test]
fn ufw() {
    for text in [fixture!("ufw.legacy"), fixture!("ufw.nft-save")] {
        let firewall = legacy(text);
        expect(&firewall, &outer(), "accept");
        expect(&firewall, &inner(), "accept");
        expect(&firewall, &reply(), "accept");
        let closed = udp(CLIENT, 53);
        expect(&firewall, &closed, "drop: policy DROP");
        let invalid = FilteredPacket {
            state: ConntrackState::Invalid,
            ..inner()
        };
        expect(
            &firewall,
            &invalid,
            "drop: -A ufw-before-input -m conntrack --ctstate INVALID -j DROP",
        );
        let perhaps_local = FilteredPacket {
            destination_is_local: None,
            ..outer()
        };
        expect(
            &firewall,
            &perhaps_local,
            "unknown: -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN",
        );
    }
}

#[test]
fn docker_and_kubernetes() {
    let docker = legacy(fixture!("docker.legacy"));
    expect(&docker, &outer(), "accept");
    expect(&docker, &inner(), "accept");
    let fresh = FilteredPacket {
        state: ConntrackState::New,
        ..reply()
    };
    expect(&docker, &fresh, "accept");
    let published = FilteredPacket {
        ports: Some((40_000, 8080)),
        ..inner()
    };
    expect(
        &docker,
        &published,
        "diverted: -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
    );
    let through = FilteredPacket {
        path: Through,
        oif: Some("eth1".to_owned()),
        destination_is_local: Some(false),
        ..inner()
    };
    expect(&docker, &through, "drop: policy DROP");
    let kubernetes = legacy(fixture!("kubernetes.legacy"));
    for packet in [outer(), inner(), reply(), fresh] {
        expect(&kubernetes, &packet, "accept");
    }
    let service = FilteredPacket {
        destination: ip("10.96.0.1"),
        ports: Some((40_000, 443)),
        ..reply()
    };
    let service = FilteredPacket {
        state: ConntrackState::New,
        ..service
    };
    assert!(matches!(
        kubernetes.judge(&service),
        FilterVerdict::Rewritten(_)
    ));
}

#[test]
fn tables_of_iptables_nft_are_judged_once() {
    let tables = fixture!("rpfilter.nft.json");
    let text = fixture!("rpfilter.nft-save");
    let packet = FilteredPacket {
        reverse_path_found: Some(true),
        ..outer()
    };
    let both = firewall(tables, &[("iptables-nft-save", text)]);
    expect(&both, &packet, "accept");
    assert!(
        both.tables
            .iter()
            .all(|table| table.program == "iptables-nft")
    );
    // Without the text, nft shows only that there is something.
    expect(
        &nft(tables),
        &packet,
        "unknown: xt match rpfilter counter packets 0 bytes 0 drop",
    );
    // A plain iptables-save prints the same once more.
    let thrice = firewall(
        tables,
        &[("iptables-nft-save", text), ("iptables-save", text)],
    );
    assert_eq!(both, thrice);
    // What it cannot print, nft does.
    let unprintable = format!("# Table `raw' is incompatible, use 'nft' tool.\n{text}");
    let split = firewall(tables, &[("iptables-nft-save", &unprintable)]);
    let programs: Vec<_> = split
        .tables
        .iter()
        .map(|table| (&*table.program, &*table.name))
        .collect();
    assert_eq!(programs, [("nft", "raw"), ("iptables-nft", "mangle")]);
}

#[test]
fn what_was_not_seen_is_said() {
    let unseen = |why: &str| Observed::Unseen(why.to_owned());
    let iptables = |text: &str| Observed::Seen(text.to_owned());
    let parse = |nft, programs: &[(&str, Observed<String>)]| {
        let programs = programs.iter().cloned();
        Firewall::parse(&FirewallFacts {
            nft,
            iptables: programs
                .map(|(program, text)| (program.to_owned(), text))
                .collect::<BTreeMap<_, _>>(),
            conntrack: Observed::Seen(None),
            ..FirewallFacts::default()
        })
        .unwrap()
    };
    let nothing = parse(unseen("no such program"), &[]);
    expect(&nothing, &outer(), "not seen: nft: no such program");
    let closed = [(
        "iptables-legacy-save",
        iptables(fixture!("ssh-only.legacy")),
    )];
    let half = parse(unseen("no such program"), &closed);
    expect(&half, &outer(), "drop: policy DROP");
    expect(&half, &reply(), "not seen: nft: no such program");
    let six = [("ip6tables-legacy-save", unseen("not permitted"))];
    let half = parse(Observed::Seen(String::new()), &six);
    expect(&half, &outer(), "accept");
    let in_six = FilteredPacket::new(ToThisHost, ip("::1"), ip("::1"), 41);
    expect(
        &half,
        &in_six,
        "not seen: ip6tables-legacy-save: not permitted",
    );
    // nft lists the tables of iptables-nft.
    let nft_variant = [("iptables-nft-save", unseen("no such program"))];
    let whole = parse(Observed::Seen(String::new()), &nft_variant);
    expect(&whole, &outer(), "accept");
}

#[test]
fn texts_of_other_programs_are_refused() {
    for text in ["[]", "{", "hello", r#"{"nftables": {}}"#] {
        assert!(nft::read(text, &Room::new()).is_err(), "{text}");
    }
    for text in ["hello", "-A INPUT -j DROP", "*filter\nhello", "*filter\n-A"] {
        let error = iptables::read("iptables-save", text, &Room::new()).unwrap_err();
        assert_eq!(error.program, "iptables", "{text}");
    }
}

#[test]
fn doubt_that_decides_nothing_is_none() {
    let rules = |rules: &str| legacy(&format!("*filter\n:INPUT DROP [0:0]\n{rules}\nCOMMIT\n"));
    for (text, expected) in [
        ("-A INPUT -m u32 --u32 x -j DROP", "drop: policy DROP"),
        (
            "-A INPUT -m u32 --u32 x -j ACCEPT\n-A INPUT -j ACCEPT",
            "accept",
        ),
        (
            "-A INPUT -p tcp -m u32 --u32 x -j ACCEPT",
            "drop: policy DROP",
        ),
        (
            "-A INPUT -m u32 --u32 x -j LOG\n-A INPUT -p 4 -j ACCEPT",
            "accept",
        ),
        (
            "-A INPUT -m u32 --u32 x -j RETURN\n-A INPUT -p 4 -j ACCEPT",
            "unknown: -A INPUT -m u32 --u32 x -j RETURN",
        ),
        (
            "-A X -j ACCEPT\n-A INPUT -m u32 --u32 x -j X",
            "unknown: -A INPUT -m u32 --u32 x -j X",
        ),
        (
            "-A X -m u32 --u32 y\n-A INPUT -m u32 --u32 x -j X\n-A INPUT -j ACCEPT",
            "accept",
        ),
        ("-A INPUT -j NFQUEUE", "unknown: -A INPUT -j NFQUEUE"),
        ("-A INPUT -p 4 -j FOO", "unknown: -A INPUT -p 4 -j FOO"),
        ("-A INPUT -p tcp -j FOO", "drop: policy DROP"),
        ("-A INPUT -j INPUT", "unknown: -A INPUT -j INPUT"),
    ] {
        expect(&rules(text), &outer(), expected);
    }
}

fn ruleset(objects: &str) -> String {
    format!(
        "{{\"nftables\":[{{\"chain\":{{\"family\":\"inet\",\"table\":\"f\",\"name\":\"in\",\
         \"type\":\"filter\",\"hook\":\"input\",\"prio\":0,\"policy\":\"accept\"}}}},{objects}]}}"
    )
}

fn in_chain(statements: &str) -> String {
    format!(
        "{{\"rule\":{{\"family\":\"inet\",\"table\":\"f\",\"chain\":\"in\",\"expr\":[{statements}]}}}}"
    )
}

/// Rules share the elements of a named set; elsewhere there is a bound.
#[test]
fn rulesets_have_bounds() {
    let elements = vec!["\"192.0.2.1\""; 100_000].join(",");
    let set = format!(
        "{{\"set\":{{\"family\":\"inet\",\"table\":\"f\",\"name\":\"s\",\"elem\":[{elements}]}}}}"
    );
    let one = in_chain(
        "{\"match\":{\"op\":\"==\",\"left\":{\"payload\":{\"protocol\":\"ip\",\"field\":\"saddr\"}},\
         \"right\":\"@s\"}},{\"drop\":null}",
    );
    let shared = ruleset(&format!("{set},{}", vec![one.as_str(); 300].join(",")));
    let tables = nft::read(&shared, &Room::new()).unwrap();
    let walk::Walked { verdict, work, .. } = walk::walk(&tables, &inner(), Machine::default());
    assert!(work <= 8_200_000, "{work}");
    assert!(
        matches!(verdict, FilterVerdict::Unknown(_)),
        "300 rules of 100,000 elements"
    );
    let few = Room::new();
    assert!(few.take(Room::MOST_PARTS - 1000));
    for (what, read) in [
        ("a set", nft::read(&shared, &few).is_err()),
        (
            "rules",
            nft::read(&ruleset(&vec![in_chain(""); 500].join(",")), &few).is_err(),
        ),
        (
            "lines",
            iptables::read(
                "iptables-save",
                &format!("*f\n{}", "-A I -j X\n".repeat(500)),
                &few,
            )
            .is_err(),
        ),
    ] {
        assert!(read, "{what}");
    }
    let long = in_chain(&format!("{{\"comment\":\"{}\"}}", "x".repeat(2 << 20)));
    let error = nft::read(&ruleset(&long), &Room::new()).unwrap_err();
    assert!(error.what.contains("1048576 are read"), "{error}");
    let line = format!("*f\n-A I -m comment --comment {}\n", "x".repeat(70_000));
    let error = iptables::read("iptables-save", &line, &Room::new()).unwrap_err();
    assert_eq!(error.what, "line 2 has more than 65536 bytes");
}

/// Many VIPs and many rules are given up in the end.
#[test]
fn work_has_an_end() {
    let rules = "-A INPUT -s 192.0.2.1 -j DROP\n".repeat(50_000);
    let firewall = legacy(&format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}"));
    expect(&firewall, &inner(), "accept");
    firewall.work.add(100_000_000);
    let FilterVerdict::NotSeen(why) = firewall.judge(&inner()) else {
        panic!("judged");
    };
    assert!(why.contains("too many rules"), "{why}");
    assert!(firewall.rules_naming_protocol(4).is_empty());
}

#[test]
fn long_rules_are_cut_where_they_are_quoted() {
    let rule = format!("-A INPUT -m u32 --u32 {} -j DROP", "é".repeat(5000));
    let FilterVerdict::Unknown(quoted) =
        legacy(&format!("*filter\n:INPUT ACCEPT [0:0]\n{rule}\n")).judge(&inner())
    else {
        panic!("judged");
    };
    assert!(quoted.rule.len() < 4200 && quoted.rule.ends_with("é …"));
}

/// Cascades of jumps are cut off, not walked for hours.
#[test]
fn cascades_end() {
    let mut text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -j c0\n".to_owned();
    for chain in 0..30 {
        for _ in 0..8 {
            text += &format!("-A c{chain} -j c{}\n", chain + 1);
        }
    }
    text += "-A c30 -s 1.2.3.4 -j ACCEPT\n";
    assert!(matches!(
        legacy(&text).judge(&outer()),
        FilterVerdict::Unknown(_)
    ));
}

proptest::proptest! {
    /// Rules cut anywhere and put together anew neither stop the readers nor the walk.
    #[test]
    fn nothing_panics(parts in proptest::collection::vec((0..10_000_usize, 0..200_usize), 1..20)) {
        for whole in [fixture!("firewalld.json"), fixture!("rpfilter.legacy"), fixture!("ufw.legacy")] {
            let piece = |(from, length): &(usize, usize)| {
                whole.get(from % whole.len()..(from % whole.len() + length).min(whole.len()))
            };
            let cut: String = parts.iter().filter_map(piece).collect();
            drop(nft::read(&cut, &Room::new()));
            drop(iptables::read("iptables-save", &cut, &Room::new()));
            let rules = cut.lines().map(|line| format!("-A INPUT {line}\n"));
            let rules = format!("*filter\n:INPUT DROP [0:0]\n{}", rules.collect::<String>());
            drop(legacy(&rules).judge(&inner()));
        }
    }

    /// The same for JSON that is well-formed, but whose values are another's.
    #[test]
    fn no_json_panics(from in 0..1_000_usize, to in 0..1_000_usize) {
        for text in [fixture!("verdict-maps.json"), fixture!("firewalld.json"), fixture!("reverse-path.json")] {
            let mut json = serde_json::from_str(text).unwrap();
            let mut values = Vec::new();
            values_of(&json, &mut values);
            let value = values[from % values.len()].clone();
            let mut left = to % values.len();
            replace(&mut json, &mut left, &value);
            if let Ok(tables) = nft::read(&json.to_string(), &Room::new()) {
                drop(walk::walk(&tables, &inner(), Machine::default()));
            }
        }
    }
}

fn values_of(json: &serde_json::Value, all: &mut Vec<serde_json::Value>) {
    all.push(json.clone());
    for inner in json.as_array().into_iter().flatten() {
        values_of(inner, all);
    }
    for inner in json.as_object().into_iter().flat_map(|map| map.values()) {
        values_of(inner, all);
    }
}

/// Replaces the value that `values_of` finds after so many others.
fn replace(json: &mut serde_json::Value, left: &mut usize, with: &serde_json::Value) {
    if *left == 0 {
        *json = with.clone();
        *left = usize::MAX;
        return;
    }
    *left -= 1;
    for inner in json.as_array_mut().into_iter().flatten() {
        replace(inner, left, with);
    }
    for inner in json
        .as_object_mut()
        .into_iter()
        .flat_map(|map| map.values_mut())
    {
        replace(inner, left, with);
    }
}
