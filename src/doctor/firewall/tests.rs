//! Packets against rulesets as the real tools print them: `fixtures/make.sh` wrote what is read here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::FilterPath::{FromThisHost, Through, ToThisHost};
use super::*;

/// A fixture's text.
macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/doctor/firewall/fixtures/",
            $name
        ))
    };
}

mod hostile;
mod state;
mod tools;

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
