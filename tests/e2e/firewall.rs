//! The doctor's reading of packet filters against the kernel's own: rulesets put together at random are
//! loaded for real, packets are sent through them, and what arrives must be what `judge` said.
//!
//! ```text
//! peer 10.0.0.1 ── host 10.0.0.2, whose filter it is
//! ```

use std::fmt::Write as _;
use std::net::IpAddr;

use tunlb::doctor::Observed;
use tunlb::doctor::facts::FirewallFacts;
use tunlb::doctor::firewall::{Chance, Clock, FilterPath, FilterVerdict, FilteredPacket, Firewall};

use crate::enter::in_lab;

const PROGRAM: &str = include_str!("tools/filtered.py");

/// Rulesets; every third is one of legacy iptables, the others are nft's.
const RULESETS: usize = 48;

/// A generator of numbers: the same ones in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }
}

const NFT_MATCHES: &[&str] = &[
    "",
    "ip protocol 4",
    "meta l4proto { 4, 17 }",
    "meta l4proto != tcp",
    "ip protocol ipip",
    "ip saddr 10.0.0.0/30",
    "ip saddr != 10.0.0.0/30",
    "ip saddr { 10.0.0.1-10.0.0.2, 203.0.113.0/24 }",
    "ip saddr @known",
    "ip saddr . meta l4proto { 10.0.0.1 . 17, 192.0.2.7 . 6 }",
    "ip daddr & 0.0.0.3 == 0.0.0.2",
    "udp dport 53",
    "udp dport != 53",
    "udp dport 4000-5000",
    "tcp dport { 22, 80 }",
    "tcp flags syn",
    "tcp flags & (syn | ack) == syn",
    "tcp flags != ack",
    "iifname \"eth*\"",
    "iifname != \"eth0\"",
    "oifname \"eth0\"",
    "iif lo",
    "ct state new",
    "ct state established,related",
    "ct state != new",
    "ct state invalid",
    "ct state { new, untracked }",
    "ct direction original",
    "ct status dnat",
    "meta mark 5",
    "meta mark & 0x4 == 0x4",
    "meta mark != 5",
    "ip length < 32",
    "meta length 20-40",
    "ip frag-off & 0x1fff != 0",
    "meta nfproto ipv4",
    "meta nfproto ipv6",
    "ip6 nexthdr 4",
    "meta protocol ip",
    "meta pkttype host",
    "@nh,72,8 4",
    "@nh,96,32 0x0a000001",
    "@th,16,16 53",
    "jhash ip saddr mod 1 == 0",
    "meta time < \"2020-01-01 00:00:00\"",
    "meta hour \"00:00\"-\"23:59:59\" meta time > \"2020-01-01 00:00:00\"",
    "meta mark set ip protocol map { 4 : 5, 17 : 6 }",
];

const NFT_ENDS: &[&str] = &[
    "accept",
    "accept",
    "drop",
    "drop",
    "reject",
    "return",
    "counter",
    "continue",
    "meta mark set 5",
    "meta mark set meta mark | 0x4",
    "ct mark set 7",
    "jump a",
    "jump b",
    "goto a",
    "goto b",
    "meta l4proto vmap { 4 : accept, tcp : jump b, udp : drop }",
    "ip saddr vmap { 10.0.0.0/30 : goto b, 203.0.113.10 : accept }",
    "ct state vmap { new : accept, invalid : drop }",
    "ct mark 7 drop",
];

/// Hook, priorities.
const NFT_HOOKS: &[(&str, &[&str])] = &[
    ("prerouting", &["raw", "mangle", "filter"]),
    ("input", &["mangle", "filter", "10"]),
    ("output", &["raw", "filter"]),
    ("postrouting", &["mangle", "filter"]),
];

fn nft_ruleset(dice: &mut Dice) -> String {
    let mut text = String::from(
        "table inet t {\nset known { type ipv4_addr; flags interval; elements = { 10.0.0.0/31, 203.0.113.8-203.0.113.10 }; }\n",
    );
    for (chain, ends) in [("a", 11), ("b", 9)] {
        writeln!(text, "chain {chain} {{").expect("text");
        nft_rules(&mut text, dice, &NFT_ENDS[..ends]);
        text += "}\n";
    }
    for number in 0..3 {
        let (hook, priorities) = NFT_HOOKS[dice.below(NFT_HOOKS.len())];
        let priority = dice.pick(priorities);
        let policy = dice.pick(&["accept", "accept", "drop"]);
        writeln!(
            text,
            "chain base{number} {{\ntype filter hook {hook} priority {priority}; policy {policy};"
        )
        .expect("text");
        if hook == "prerouting" && dice.below(2) == 0 {
            text += "fib saddr . iif oif missing drop\n";
        }
        if priority == "raw" && dice.below(2) == 0 {
            text += "meta l4proto { 4, 17 } notrack\n";
        }
        nft_rules(&mut text, dice, NFT_ENDS);
        text += "}\n";
    }
    text += "}\n";
    if dice.below(2) == 0 {
        let rule = dice.pick(&[
            "masquerade",
            "ip saddr 203.0.113.10 accept\nmasquerade",
            "ip saddr 203.0.113.10 snat to 10.0.0.2",
            "udp dport 9 snat to 203.0.113.10",
        ]);
        writeln!(
            text,
            "table ip n {{\nchain post {{\ntype nat hook postrouting priority srcnat; policy accept;\n{rule}\n}}\n}}"
        )
        .expect("text");
    }
    text
}

/// A `reject` is allowed at some hooks only; there and elsewhere, it is a drop.
fn nft_rules(text: &mut String, dice: &mut Dice, ends: &[&'static str]) {
    for _ in 0..=dice.below(4) {
        let (first, second) = (dice.pick(NFT_MATCHES), dice.pick(NFT_MATCHES));
        let second = if dice.below(3) == 0 { second } else { "" };
        let end = dice.pick(ends).replace("reject", "drop");
        writeln!(text, "{first} {second} {end}").expect("text");
    }
}

const IPTABLES_MATCHES: &[&str] = &[
    "",
    "-p 4",
    "! -p 4",
    "-p ipip",
    "-p udp -m udp --dport 53",
    "-p udp -m udp ! --dport 53",
    "-p udp -m multiport --ports 53,4000:5000",
    "-p tcp -m multiport ! --dports 22,80",
    "-p tcp -m tcp --syn",
    "-p tcp -m tcp --tcp-flags ALL ACK",
    "-s 10.0.0.0/30",
    "! -s 10.0.0.0/30",
    "-m iprange --src-range 10.0.0.1-10.0.0.2",
    "-m conntrack --ctstate NEW",
    "-m conntrack ! --ctstate NEW,ESTABLISHED",
    "-m state --state INVALID",
    "-m conntrack --ctdir ORIGINAL",
    "-m mark --mark 5",
    "-m mark ! --mark 0x4/0x4",
    "-m length --length 0:31",
    "-m comment --comment \"-j ACCEPT, it says\"",
    "-m pkttype --pkt-type unicast",
    "-m addrtype --src-type LOCAL",
    "-m addrtype ! --dst-type LOCAL",
    "! -f",
    "-m u32 --u32 6&0xFF=17",
    "-m u32 --u32 12=0x0a000001",
    "-m bpf --bytecode \"4,48 0 0 9,21 0 1 4,6 0 0 65535,6 0 0 0\"",
    "-m time --datestop 2020-01-01T00:00:00",
    "-m statistic --mode nth --every 1 --packet 0",
    "-m physdev ! --physdev-in p1",
];

const IPTABLES_ENDS: &[&str] = &[
    "-j ACCEPT",
    "-j ACCEPT",
    "-j DROP",
    "-j DROP",
    "-j RETURN",
    "",
    "-j B",
    "-g B",
    "-j A",
    "-g A",
];

const IPTABLES_MARKS: &[&str] = &[
    "-j MARK --set-mark 5",
    "-j MARK --or-mark 4",
    "-j ACCEPT",
    "",
];

fn iptables_ruleset(dice: &mut Dice) -> String {
    let mut text = String::from("*mangle\n");
    for chain in ["PREROUTING", "INPUT", "OUTPUT"] {
        rules(&mut text, dice, chain, IPTABLES_MARKS);
    }
    text += "COMMIT\n*raw\n";
    if dice.below(2) == 0 {
        text += "-A PREROUTING -p udp -j CT --notrack\n";
    }
    if dice.below(2) == 0 {
        text += "-A PREROUTING -m rpfilter --invert -j DROP\n";
    }
    text += "COMMIT\n*nat\n";
    if dice.below(2) == 0 {
        text += "-A POSTROUTING -p udp -s 203.0.113.10 -j MASQUERADE\n";
    }
    let policy = dice.pick(&["ACCEPT", "DROP"]);
    writeln!(text, "COMMIT\n*filter\n:INPUT {policy}\n:A -\n:B -").expect("text");
    for chain in ["INPUT", "INPUT", "OUTPUT"] {
        rules(&mut text, dice, chain, IPTABLES_ENDS);
    }
    rules(&mut text, dice, "A", &IPTABLES_ENDS[..8]);
    rules(&mut text, dice, "B", &IPTABLES_ENDS[..6]);
    text += "COMMIT\n";
    text
}

fn rules(text: &mut String, dice: &mut Dice, chain: &str, ends: &[&'static str]) {
    for _ in 0..=dice.below(3) {
        let (matches, end) = (dice.pick(IPTABLES_MATCHES), dice.pick(ends));
        writeln!(text, "-A {chain} {matches} {end}").expect("text");
    }
}

/// The packets of the program, in its order.
fn packets() -> Vec<FilteredPacket> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let length = |protocol| if protocol == 17 { 28 } else { 40 };
    let to = |protocol, source, port| FilteredPacket {
        iif: Some("eth0".to_owned()),
        length: length(protocol),
        ports: (protocol != 4).then_some((0, port)),
        tcp_flags: (protocol == 6).then_some(2),
        reverse_path_found: Some(source == "10.0.0.1"),
        source_is_routable: Some(source == "10.0.0.1"),
        source_is_local: Some(false),
        destination_is_local: Some(true),
        ..FilteredPacket::new(FilterPath::ToThisHost, ip(source), ip("10.0.0.2"), protocol)
    };
    let from = |protocol, source| FilteredPacket {
        oif: Some("eth0".to_owned()),
        length: length(protocol),
        ports: Some((0, 9)),
        tcp_flags: (protocol == 6).then_some(2),
        source_is_local: Some(source == "10.0.0.2"),
        destination_is_local: Some(false),
        ..FilteredPacket::new(
            FilterPath::FromThisHost,
            ip(source),
            ip("10.0.0.1"),
            protocol,
        )
    };
    vec![
        to(4, "10.0.0.1", 0),
        to(17, "10.0.0.1", 53),
        to(17, "10.0.0.1", 4500),
        to(6, "10.0.0.1", 80),
        to(6, "192.0.2.7", 22),
        from(17, "10.0.0.2"),
        from(17, "203.0.113.10"),
        from(6, "203.0.113.10"),
    ]
}

#[test]
fn what_the_doctor_says_of_a_packet_the_kernel_does() {
    in_lab(|lab| {
        let [peer, host] = ["peer", "host"].map(|name| lab.node(name));
        lab.cable((&peer, "eth0"), (&host, "eth0"));
        peer.run("ip addr add 10.0.0.1/24 dev eth0");
        host.run("ip addr add 10.0.0.2/24 dev eth0");
        // Tunnelled packets have no ports that could differ from case to case.
        host.set_sysctl("netfilter/nf_conntrack_generic_timeout", 0);
        let cases = cases();
        let file = lab.file(
            "cases.json",
            serde_json::Value::from(cases.clone()).to_string(),
        );
        let arguments = [host.namespace(), &file].map(|path| path.display().to_string());
        let output = peer.run_python(PROGRAM, &arguments.each_ref().map(String::as_str));
        let mut tally = [0; 3];
        for (case, line) in cases.iter().zip(output.lines()) {
            compare(case, line, &mut tally);
        }
        let [passed, stopped, unknown] = tally;
        assert_eq!(passed + stopped + unknown, 8 * cases.len());
        assert!(passed > 50 && stopped > 50, "too alike: {tally:?}");
        assert!(unknown == 0, "these rules are all understood: {tally:?}");
    });
}

/// As many as `TUNLB_FIREWALLS` says, other ones for each number.
fn cases() -> Vec<serde_json::Value> {
    let wanted = std::env::var("TUNLB_FIREWALLS").ok();
    let count = wanted.map_or(RULESETS, |count| count.parse().expect("a number"));
    let mut dice = Dice(count as u64);
    let case = |number| match number % 3 {
        0 => serde_json::json!({"legacy": iptables_ruleset(&mut dice)}),
        _ => serde_json::json!({"nft": nft_ruleset(&mut dice)}),
    };
    (0..count).map(case).collect()
}

fn compare(case: &serde_json::Value, line: &str, tally: &mut [usize; 3]) {
    let seen: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    let text = |key: &str| Observed::Seen(seen[key].as_str().expect("a text").to_owned());
    let facts = FirewallFacts {
        nft: text("nft"),
        iptables: [("iptables-legacy-save".to_owned(), text("legacy"))].into(),
        conntrack: Observed::Seen(None),
        clock: Clock::parse("1795838164+0000"),
        ..FirewallFacts::default()
    };
    let firewall = Firewall::parse(&facts).expect("rules of the real tools");
    for (at, packet) in packets().iter().enumerate() {
        let verdict = firewall.judge(packet);
        let arrived = seen["arrived"][at].as_str();
        let same = match &verdict {
            FilterVerdict::Accept => arrived == Some(&packet.source.to_string()),
            FilterVerdict::Drop(_) => arrived.is_none(),
            // To the address that is the device's own, be it the same.
            FilterVerdict::Rewritten(rule) if rule.rule.to_lowercase().contains("masquerade") => {
                arrived == Some("10.0.0.2")
            }
            FilterVerdict::Rewritten(_) => {
                arrived.is_some_and(|source| source != packet.source.to_string())
            }
            // It passes now, and at other times it would not.
            FilterVerdict::Chance(_, Chance::Time) => arrived == Some(&packet.source.to_string()),
            FilterVerdict::Diverted(..) | FilterVerdict::Chance(..) | FilterVerdict::NotSeen(_) => {
                false
            }
            FilterVerdict::Unknown(_) => true,
        };
        let rules = case["nft"].as_str().or(case["legacy"].as_str());
        assert!(
            same,
            "{verdict:?}, but it arrived as {arrived:?}: {packet:?}\n{}",
            rules.unwrap_or_default()
        );
        let kind = if matches!(verdict, FilterVerdict::Unknown(_)) {
            2
        } else {
            usize::from(arrived.is_none())
        };
        tally[kind] += 1;
    }
}
