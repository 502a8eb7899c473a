//! The undo of each kind of command, from what the machine's own tools print.

use super::*;
use crate::doctor::lines::FixLine;

const MARK: &str = "tunlb-doctor-1763714432-1";

fn planned(text: &str, settings: &[(&str, &str)], listings: &[&str]) -> Result<Plan, Refusal> {
    let own_settings = ["net.ipv4.conf.decap0.rp_filter".to_owned()];
    let before = Before {
        settings: settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        listings: listings.iter().map(|text| (*text).to_owned()).collect(),
    };
    let context = Context {
        own_settings: &own_settings,
        mark: MARK,
    };
    plan(
        &Command::of(&FixLine::from(text)).unwrap(),
        &before,
        context,
    )
}

/// The undo of a command that is one step, which runs as it is written.
fn undo(text: &str, listings: &[&str]) -> Vec<String> {
    let Ok(Plan::Steps(steps)) = planned(text, &[], listings) else {
        panic!("{text}: no steps");
    };
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].command.join(" "), text);
    steps[0].undo.clone()
}

fn lines(steps: &[Step]) -> Vec<(String, Vec<&str>)> {
    let line = |step: &'_ Step| shell::line(&step.command);
    steps
        .iter()
        .map(|step| (line(step), step.undo.iter().map(String::as_str).collect()))
        .collect()
}

#[test]
fn a_setting_gets_its_old_value() {
    let text = "sysctl -w net.ipv4.conf.decap0.rp_filter=0";
    let name = "net.ipv4.conf.decap0.rp_filter";
    let Ok(Plan::Steps(steps)) = planned(text, &[(name, "1")], &[]) else {
        panic!("no steps");
    };
    let back = vec!["sysctl -w net.ipv4.conf.decap0.rp_filter=1"];
    assert_eq!(lines(&steps), [(text.to_owned(), back)]);
    assert_eq!(planned(text, &[(name, "0")], &[]), Ok(Plan::AlreadySo));
    assert_eq!(
        planned(text, &[], &[]),
        Err(Refusal::Unseen(
            "sysctl net.ipv4.conf.decap0.rp_filter".to_owned()
        ))
    );
}

#[test]
fn an_entry_that_was_not_there_goes_again() {
    let listed = "10.0.0.100 dev eth1 proxy \n2001:db8::100 dev eth0 proxy \n";
    let text = "ip neigh add proxy 10.0.0.100 dev eth0";
    let expected = ["ip neigh del proxy 10.0.0.100 dev eth0"];
    assert_eq!(undo(text, &[listed]), expected);
    let there = "ip neigh add proxy 2001:db8:0::100 dev eth0";
    assert_eq!(planned(there, &[], &[listed]), Ok(Plan::AlreadySo));
}

#[test]
fn what_hangs_on_forwarding_comes_back_too() {
    let before = [
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.all.forwarding", "0"),
        ("net.ipv4.conf.default.forwarding", "0"),
        ("net.ipv4.conf.eth0.forwarding", "1"),
        ("net.ipv4.conf.all.accept_redirects", "0"),
    ];
    let Ok(Plan::Steps(steps)) = planned("sysctl -w net.ipv4.ip_forward=1", &before, &[]) else {
        panic!("no steps");
    };
    let back = vec![
        "sysctl -w net.ipv4.ip_forward=0",
        "sysctl -w net.ipv4.conf.all.accept_redirects=0",
        "sysctl -w net.ipv4.conf.eth0.forwarding=1",
    ];
    assert_eq!(lines(&steps)[0].1, back);
}

#[test]
fn other_devices_stay_strict_when_all_is_loosened() {
    let before = [
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.decap0.rp_filter", "0"),
        ("net.ipv4.conf.eth0.rp_filter", "0"),
        ("net.ipv4.conf.eth1.rp_filter", "2"),
        ("net.ipv4.conf.lo.rp_filter", "1"),
    ];
    let text = "sysctl -w net.ipv4.conf.all.rp_filter=0";
    let Ok(Plan::Steps(steps)) = planned(text, &before, &[]) else {
        panic!("no steps");
    };
    assert_eq!(
        lines(&steps),
        [
            (
                "sysctl -w net.ipv4.conf.eth0.rp_filter=1".to_owned(),
                vec!["sysctl -w net.ipv4.conf.eth0.rp_filter=0"]
            ),
            (
                text.to_owned(),
                vec!["sysctl -w net.ipv4.conf.all.rp_filter=1"]
            ),
        ]
    );
}

const ADDRESSES: &str = "\
3: eth0    inet 10.0.1.11/24 brd 10.0.1.255 scope global eth0:x\\       valid_lft forever preferred_lft forever
3: eth0    inet 10.0.1.12/24 scope global secondary eth0\\       valid_lft forever preferred_lft forever
3: eth0    inet6 2001:db8::1/64 scope global tentative \\       valid_lft forever preferred_lft forever
";

#[test]
fn addresses() {
    assert_eq!(
        undo("ip addr add 10.0.0.100/32 dev eth0", &[ADDRESSES]),
        ["ip addr del 10.0.0.100/32 dev eth0"]
    );
    let there = planned("ip addr add 10.0.1.12/24 dev eth0", &[], &[ADDRESSES]);
    assert_eq!(there, Ok(Plan::AlreadySo));
    assert_eq!(
        undo("ip addr del 10.0.1.12/24 dev eth0", &[ADDRESSES, ""]),
        ["ip addr add 10.0.1.12/24 scope global dev eth0"]
    );
    assert_eq!(
        undo("ip addr del 2001:db8::1/64 dev eth0", &[ADDRESSES, ""]),
        ["ip addr add 2001:db8::1/64 scope global dev eth0"]
    );
    assert_eq!(
        planned("ip addr del 10.0.1.11/24 dev eth0", &[], &[ADDRESSES, ""]),
        Err(Refusal::Entangled("10.0.1.12/24".to_owned()))
    );
    let gone = planned("ip addr del 10.0.7.1/24 dev eth0", &[], &[ADDRESSES, ""]);
    assert_eq!(gone, Ok(Plan::AlreadySo));
}

#[test]
fn routes_that_go_with_an_address_come_back() {
    let addresses = ADDRESSES.lines().next().unwrap();
    let routes = "\
default via 10.0.1.1 dev eth0 table 100 linkdown \n\
10.0.1.0/24 dev eth0 proto kernel scope link src 10.0.1.11 linkdown \n\
10.8.0.0/16 via 10.7.0.1 dev eth1 \n\
10.9.0.0/16 via 10.7.0.1 dev eth1 src 10.0.1.11 metric 5 \n\
local 10.0.1.11 dev eth0 table local proto kernel scope host src 10.0.1.11 \n";
    assert_eq!(
        undo("ip addr del 10.0.1.11/24 dev eth0", &[addresses, routes]),
        [
            "ip addr add 10.0.1.11/24 brd 10.0.1.255 scope global dev eth0 label eth0:x",
            "ip route replace default via 10.0.1.1 dev eth0 table 100",
            "ip route replace 10.9.0.0/16 via 10.7.0.1 dev eth1 src 10.0.1.11 metric 5",
        ]
    );
}

#[test]
fn routes() {
    assert_eq!(
        undo("ip route add default via 10.0.1.1 dev eth0", &[""]),
        ["ip route del default via 10.0.1.1 dev eth0"]
    );
    let old = "10.0.0.100 via 10.0.1.2 dev eth0 metric 5 linkdown \n\
10.0.0.100 \\\tnexthop via 10.0.1.3 dev eth0 weight 1 \\\tnexthop via 10.0.1.4 dev eth0 weight 1 linkdown \n";
    assert_eq!(
        undo("ip route replace 10.0.0.100 dev tunlb0", &[old]),
        [
            "ip route replace 10.0.0.100 nexthop via 10.0.1.3 dev eth0 weight 1 nexthop via 10.0.1.4 dev eth0 weight 1"
        ]
    );
    assert_eq!(
        undo(
            "ip route replace 10.0.0.100 dev tunlb0 table 7 metric 5",
            &[old]
        ),
        ["ip route replace 10.0.0.100 via 10.0.1.2 dev eth0 metric 5 table 7"]
    );
    assert_eq!(
        undo("ip route replace 10.0.0.100 dev tunlb0 metric 9", &[old]),
        ["ip route del 10.0.0.100 dev tunlb0 metric 9"]
    );
    let old = "2001:db8::100 via 2001:db8:1::2 dev eth0 metric 1024 pref medium\n";
    assert_eq!(
        undo("ip route replace 2001:db8::100 dev tunlb0", &[old]),
        ["ip route replace 2001:db8::100 via 2001:db8:1::2 dev eth0 metric 1024 pref medium"]
    );
}

#[test]
fn policy_rules() {
    let rules = "0:\tfrom all lookup local\n32764:\tfrom 10.0.0.101 lookup main\n";
    assert_eq!(
        undo("ip rule add from 10.0.0.100 lookup 100", &[rules]),
        ["ip rule del from 10.0.0.100 lookup 100"]
    );
    let there = planned("ip rule add from 10.0.0.101 lookup main", &[], &[rules]);
    assert_eq!(there, Ok(Plan::AlreadySo));
}

const LINKS: &str = "\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN\\    link/loopback
3: eth0@if4: <NO-CARRIER,BROADCAST,UP,M-DOWN> mtu 1500 qdisc noqueue\\    link/ether
4: tunl0@NONE: <NOARP> mtu 1480 qdisc noop state DOWN\\    link/ipip 0.0.0.0 brd 0.0.0.0
";

#[test]
fn devices() {
    assert_eq!(
        undo("ip link set tunl0 up", &[LINKS]),
        ["ip link set dev tunl0 down"]
    );
    let up = planned("ip link set eth0 up", &[], &[LINKS]);
    assert_eq!(up, Ok(Plan::AlreadySo));
    let absent = planned("ip link set tunl1 up", &[], &[LINKS]);
    assert_eq!(
        absent,
        Err(Refusal::Unseen("ip link show dev tunl1".to_owned()))
    );
    assert_eq!(
        undo("ip link set eth0 mtu 1520", &[LINKS]),
        ["ip link set dev eth0 mtu 1500"]
    );
    assert_eq!(
        undo("ip link add ipip0 type ipip external", &[LINKS]),
        ["ip link del dev ipip0"]
    );
    let ends = "5: ipip1@NONE: <NOARP,UP> mtu 1480\\    link/ipip 10.0.1.11 peer 10.0.1.9\\    \
                ipip any remote 10.0.1.9 local any ttl inherit";
    assert_eq!(
        undo("ip tunnel change ipip1 remote any local any", &[ends]),
        ["ip tunnel change name ipip1 remote 10.0.1.9 local any"]
    );
}

#[test]
fn ports_modules_and_neighbours() {
    assert_eq!(
        undo("ip fou add port 6080 gue", &["port 6081 gue\n"]),
        ["ip fou del port 6080"]
    );
    let bound = planned("ip fou add port 6080 gue", &[], &["port 6080 gue\n"]);
    assert_eq!(bound, Ok(Plan::AlreadySo));
    let modules = "tunnel4 16384 0 - Live 0x0\n";
    assert_eq!(undo("modprobe ipip", &[modules]), ["modprobe -r ipip"]);
    let loaded = planned("modprobe tunnel4", &[], &[modules]);
    assert_eq!(loaded, Ok(Plan::AlreadySo));
    assert!(undo("ip neigh flush to 10.0.1.1 dev eth0", &[]).is_empty());
}

#[test]
fn firewall_rules_are_known_again() {
    let text = "nft insert rule inet f in iifname '\"decap0\"' accept";
    let Ok(Plan::Steps(steps)) = planned(text, &[], &[]) else {
        panic!("no steps");
    };
    assert_eq!(
        shell::line(&steps[0].command),
        format!("{text} comment {MARK}")
    );
    assert_eq!(
        steps[0].undo,
        [
            "nft --handle list chain inet f in | sed -n 's/.* comment \"tunlb-doctor-1763714432-1\" # handle \
             \\([0-9]*\\)$/\\1/p' | xargs -r -n 1 nft delete rule inet f in handle"
        ]
    );
    assert_eq!(
        undo("iptables -t filter -I OUTPUT -s 10.0.0.100 -j ACCEPT", &[]),
        ["iptables -t filter -D OUTPUT -s 10.0.0.100 -j ACCEPT"]
    );
}

#[test]
fn offloads() {
    let features = "Features for tunl0:\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                    \ttx-checksum-ip-generic: on\n\ttx-checksum-sctp: on [fixed]\nscatter-gather: on\n";
    assert_eq!(
        undo("ethtool -K tunl0 tx off", &[features]),
        ["ethtool -K tunl0 tx-checksum-ip-generic on"]
    );
    assert_eq!(
        planned("ethtool -K tunl0 tx off", &[], &[""]),
        Ok(Plan::AlreadySo)
    );
}
