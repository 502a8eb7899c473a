//! Backends that work, each set up in another right way: nothing may be called a fault or a risk.

use super::bench::{Bench, WAY};
use crate::enter::in_lab;

/// A right way to set up a backend.
struct Variant {
    name: &'static str,
    /// What the doctor must answer: `pass`, or a risk that is true.
    verdict: &'static str,
    /// Shell, on the backend.
    set: &'static str,
    undo: &'static str,
}

const fn variant(
    name: &'static str,
    verdict: &'static str,
    set: &'static str,
    undo: &'static str,
) -> Variant {
    Variant {
        name,
        verdict,
        set,
        undo,
    }
}

const VARIANTS: &[Variant] = &[
    variant("as it was set up by hand", "pass", ":", ":"),
    variant(
        "loose rp_filter, an address on the tunnel device",
        "pass",
        "echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter; ip addr add 127.0.0.42/32 dev decap0",
        "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; ip addr del 127.0.0.42/32 dev decap0",
    ),
    variant(
        "the same, and the files of the next boot say the same",
        "pass",
        "echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter; ip addr add 127.0.0.42/32 dev decap0
         echo net.ipv4.conf.all.rp_filter=2 >/run/sysctl.d/50-fine.conf",
        "echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter; ip addr del 127.0.0.42/32 dev decap0
         rm /run/sysctl.d/50-fine.conf",
    ),
    variant(
        "strict rp_filter on the other devices",
        "pass",
        "echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/lo/rp_filter",
        "echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter; echo 0 >/proc/sys/net/ipv4/conf/lo/rp_filter",
    ),
    variant(
        "forwarding",
        "pass",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
    ),
    variant(
        "AnyIP",
        "pass",
        "ip addr del 10.0.0.100/32 dev lo; ip route add local 10.0.0.100 dev lo",
        "ip route del local 10.0.0.100 dev lo; ip addr add 10.0.0.100/32 dev lo",
    ),
    variant(
        "AnyIP for a whole prefix",
        "pass",
        "ip addr del 10.0.0.100/32 dev lo; ip route add local 10.0.0.96/28 dev lo",
        "ip route del local 10.0.0.96/28 dev lo; ip addr add 10.0.0.100/32 dev lo",
    ),
    variant(
        "the VIP on the tunnel device", // works, and goes with the device
        "warn B5",
        "ip addr add 10.0.0.100/32 dev decap0; ip addr del 10.0.0.100/32 dev lo",
        "ip addr del 10.0.0.100/32 dev decap0; ip addr add 10.0.0.100/32 dev lo",
    ),
    variant(
        "the VIP on a device without a cable",
        "pass",
        "ip link add vip0 type bridge; ip link set vip0 up
         ip addr add 10.0.0.100/32 dev vip0; ip addr del 10.0.0.100/32 dev lo",
        "ip link del vip0; ip addr add 10.0.0.100/32 dev lo",
    ),
    variant(
        "several addresses on lo",
        "pass",
        "for host in 101 102 103; do ip addr add 10.0.0.$host/32 dev lo; done",
        "for host in 101 102 103; do ip addr del 10.0.0.$host/32 dev lo; done",
    ),
    variant(
        "arp settings on all",
        "pass",
        "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce
         echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_ignore; echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_announce",
        "echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore; echo 0 >/proc/sys/net/ipv4/conf/all/arp_announce
         echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_ignore; echo 2 >/proc/sys/net/ipv4/conf/eth0/arp_announce",
    ),
    variant(
        "policy routing",
        "pass",
        "ip route del default; ip route add default via 10.0.1.1 table 100
         ip rule add from 10.0.1.11 lookup 100; ip rule add from 10.0.0.100 lookup 100",
        "ip rule del from 10.0.1.11; ip rule del from 10.0.0.100
         ip route flush table 100; ip route add default via 10.0.1.1",
    ),
    variant(
        "policy routing by the subnet of the VIPs, loose rp_filter",
        "pass",
        "ip route del default; ip route add default via 10.0.1.1 table 100
         ip rule add from 10.0.0.0/24 lookup 100; ip addr add 127.0.0.42/32 dev decap0
         echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        "ip rule del from 10.0.0.0/24; ip addr del 127.0.0.42/32 dev decap0
         echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter
         ip route flush table 100; ip route add default via 10.0.1.1",
    ),
    variant(
        "answers are routed by a mark of the packet filter",
        "pass",
        "ip route replace default via 10.0.1.2; ip route add default via 10.0.1.1 table 100
         ip rule add fwmark 1 lookup 100
         nft add table ip fine
         nft 'add chain ip fine out { type route hook output priority mangle; }'
         nft add rule ip fine out ip saddr 10.0.0.100 meta mark set 1",
        "nft delete table ip fine; ip rule del fwmark 1 lookup 100
         ip route flush table 100; ip route replace default via 10.0.1.1",
    ),
    variant(
        "the same by iptables",
        "pass",
        "ip route replace default via 10.0.1.2; ip route add default via 10.0.1.1 table 100
         ip rule add fwmark 1 lookup 100
         iptables-nft -t mangle -A OUTPUT -s 10.0.0.100 -j MARK --set-mark 1",
        "nft flush ruleset; ip rule del fwmark 1 lookup 100
         ip route flush table 100; ip route replace default via 10.0.1.1",
    ),
    variant(
        "a small MSS on the way back",
        "pass",
        "ip route replace default via 10.0.1.1 advmss 1440",
        "ip route replace default via 10.0.1.1",
    ),
    variant(
        "nft drops all but what is needed",
        "pass",
        "nft -f - <<'EOF'
table inet fine {
  chain in {
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    ct state invalid drop
    iif lo accept
    ip protocol icmp accept
    ip saddr 10.0.1.2 meta l4proto 4 accept
    tcp dport { 22, 80 } accept
  }
  chain forward { type filter hook forward priority 0; policy drop; }
  chain out {
    type filter hook output priority 0; policy drop;
    ct state established,related accept
    oif lo accept
  }
}
EOF",
        "nft delete table inet fine",
    ),
    variant(
        "nft without conntrack",
        "pass",
        "nft -f - <<'EOF'
table inet fine {
  chain early {
    type filter hook prerouting priority raw;
    notrack
  }
  chain early_out {
    type filter hook output priority raw;
    notrack
  }
  chain in {
    type filter hook input priority 0; policy drop;
    ct state established accept
    ct state invalid drop
    ct state untracked ip protocol { 4, 6, 17 } accept
  }
}
EOF",
        "nft delete table inet fine",
    ),
    variant(
        "nft with sets, maps and chains",
        "pass",
        "nft -f - <<'EOF'
table ip fine {
  set directors { type ipv4_addr; flags interval; elements = { 10.0.1.0/29, 10.0.5.1 } }
  map verdicts { type inet_proto : verdict; elements = { ipencap : jump tunnel, tcp : jump web } }
  chain tunnel {
    ip saddr @directors counter accept
  }
  chain web {
    iifname { decap0, eth0 } tcp dport vmap { 80 : accept, 443 : accept }
  }
  chain in {
    type filter hook input priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    iifname lo accept
    ip protocol vmap @verdicts
    limit rate 3/second log prefix \"dropped \"
    reject with icmp type admin-prohibited
  }
}
EOF",
        "nft delete table ip fine",
    ),
    variant(
        "nft's reverse-path check with an exemption",
        "pass",
        "nft -f - <<'EOF'
table inet fine {
  chain early {
    type filter hook prerouting priority raw;
    iifname decap0 accept
    fib saddr . iif oif missing drop
  }
}
EOF",
        "nft delete table inet fine",
    ),
    variant(
        "invalid packets are dropped, flows are taken up anywhere",
        "pass",
        "nft -f - <<'EOF'
table inet fine {
  chain in {
    type filter hook input priority 0
    ct state invalid drop
  }
}
EOF",
        "nft delete table inet fine",
    ),
    variant(
        "nft masquerades all but the VIP",
        "pass",
        "nft -f - <<'EOF'
table ip fine {
  chain post {
    type nat hook postrouting priority srcnat;
    ip saddr 10.0.0.100 accept
    oifname eth0 masquerade
  }
}
EOF",
        "nft delete table ip fine",
    ),
    variant(
        "iptables drops all but what is needed",
        "pass",
        "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
         iptables-nft -A INPUT -i lo -j ACCEPT
         iptables-nft -A INPUT -p 4 -s 10.0.1.2 -j ACCEPT
         iptables-nft -A INPUT -d 10.0.0.100 -p tcp -m multiport --dports 80,443 -j ACCEPT
         iptables-nft -A INPUT -j REJECT --reject-with icmp-host-prohibited
         iptables-nft -P INPUT DROP; iptables-nft -P FORWARD DROP
         iptables-nft -A OUTPUT -m conntrack --ctstate INVALID -j DROP",
        "nft flush ruleset",
    ),
    variant(
        "iptables as Docker leaves it, with an exemption",
        "pass",
        "iptables-nft -P FORWARD DROP
         iptables-nft -t nat -N DOCKER
         iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
         iptables-nft -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
         iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to 172.17.0.2:80
         iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
         iptables-nft -t nat -A POSTROUTING -s 10.0.0.100 -j RETURN
         iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
        "nft flush ruleset",
    ),
    variant(
        "iptables-legacy drops all but what is needed",
        "pass",
        "iptables-legacy -A INPUT -p tcp --dport 80 -j ACCEPT
         iptables-legacy -A INPUT -p 4 -s 10.0.1.0/24 -j ACCEPT
         iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -P INPUT DROP",
        "iptables-legacy -P INPUT ACCEPT; iptables-legacy -F",
    ),
    variant(
        "a firewall of another network",
        "pass",
        "nft -f - <<'EOF'
table ip fine {
  chain in {
    type filter hook input priority 0;
    ip saddr 192.168.0.0/16 drop
    ip daddr 10.0.0.101 drop
    iifname \"wlan*\" drop
    tcp dport 25 reject
  }
}
EOF",
        "nft delete table ip fine",
    ),
];

/// What `tunlb decap --setup` makes up for.
const KEPT: &[Variant] = &[
    variant("as tunlb decap --setup left it", "pass", ":", ":"),
    variant(
        "loose rp_filter on its device",
        "pass",
        "echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        ":",
    ),
    variant(
        "systemd's own settings of the next boot",
        "pass",
        "printf '%s\\n' net.ipv4.conf.default.rp_filter=2 'net.ipv4.conf.*.rp_filter=2' \
         -net.ipv4.conf.all.rp_filter >/run/sysctl.d/50-default.conf",
        "rm /run/sysctl.d/50-default.conf",
    ),
    variant(
        "strict rp_filter at the next boot",
        "pass",
        "echo net.ipv4.conf.all.rp_filter = 1 >/run/sysctl.d/60-fine.conf",
        "rm /run/sysctl.d/60-fine.conf",
    ),
    variant(
        "its device has another name",
        "pass",
        "ip link set decap0 name tun77",
        "ip link set tun77 name decap0",
    ),
    variant(
        "loose rp_filter for the next device",
        "pass",
        "echo 2 >/proc/sys/net/ipv4/conf/default/rp_filter",
        "echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter",
    ),
];

#[test]
fn nothing_is_wrong() {
    in_lab(|lab| println!("{}", right_of(VARIANTS, &Bench::new(lab))));
}

#[test]
fn nothing_is_wrong_where_decap_keeps_the_settings() {
    in_lab(|lab| println!("{}", right_of(KEPT, &Bench::kept(lab))));
}

/// No variant may raise an alarm that it should not; returns how many they were.
fn right_of(variants: &[Variant], bench: &Bench) -> String {
    let wrong: Vec<_> = variants
        .iter()
        .filter_map(|variant| judge(bench, variant).err())
        .collect();
    let (all, false_alarms) = (variants.len(), wrong.len());
    let figure = bench.figure(&format!(
        "{false_alarms} false alarms of {all} healthy variants"
    ));
    assert!(wrong.is_empty(), "{figure}\n{}", wrong.join("\n"));
    figure
}

fn judge(bench: &Bench, variant: &Variant) -> Result<(), String> {
    bench.backend().sh(variant.set);
    let diagnosis = bench.examine();
    let lives = bench.answers();
    bench.backend().sh(variant.undo);
    assert!(lives, "{}: that is no healthy variant", variant.name);
    if diagnosis.verdict() == variant.verdict {
        return Ok(());
    }
    let (found, complaints) = (diagnosis.verdict(), diagnosis.complaints());
    Err(format!("{}: {found}\n{complaints}", variant.name))
}

/// Rules that drop some packets and let others pass, by what nobody knows beforehand: a warning that quotes the rule.
#[test]
fn rules_that_drop_some_packets() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        for (quoted, set) in [
            (
                "limit",
                "nft add rule inet unclear in meta l4proto 4 limit rate over 1/minute drop",
            ),
            (
                "random",
                "nft add rule inet unclear in meta l4proto 4 numgen random mod 10 0 drop",
            ),
            (
                "time",
                "nft add rule inet unclear in iifname decap0 meta time '>' '\"2090-01-01\"' drop",
            ),
            (
                "statistic",
                "iptables-nft -A INPUT -p 4 -m statistic --mode random --probability 0.01 -j DROP",
            ),
        ] {
            bench.backend().sh(&format!(
                "nft add table inet unclear
                 nft 'add chain inet unclear in {{ type filter hook input priority 0; }}'
                 {set}"
            ));
            let diagnosis = bench.examine();
            let complaints = diagnosis.complaints();
            assert_eq!(diagnosis.verdict(), "warn B19", "{set}: {complaints}");
            assert!(complaints.contains(quoted), "{quoted}: {complaints}");
            bench.backend().sh("nft flush ruleset");
        }
        assert_eq!(bench.examine().verdict(), "pass");
    });
}

/// Without arguments the VIPs are found, each with its services.
#[test]
fn a_backend_finds_its_vips() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench.backend().sh("ip addr add 10.0.0.101/32 dev lo");
        let diagnosis = bench.examine_with(&[]);
        let document = &diagnosis.document;
        let others = document["others"].as_array().map_or(&[][..], Vec::as_slice);
        let mut all: Vec<_> = [document].into_iter().chain(others).collect();
        all.sort_by_key(|one| one["vip"].as_str());
        let [first, second] = all[..] else {
            panic!("two VIPs, not {document}");
        };
        assert_eq!(
            (&first["vip"], &first["role"]),
            (&"10.0.0.100:80/tcp".into(), &"backend".into())
        );
        assert_eq!(first["verdict"]["status"], "pass", "{first}");
        assert_eq!(second["vip"], "10.0.0.101:any/tcp");
        assert_eq!(
            second["verdict"]["code"], "B2",
            "the decapsulator does not take it: {second}"
        );
        let both = [&WAY[..], &["--vip", "10.0.0.101:80/tcp"]].concat();
        let diagnosis = bench.examine_with(&both);
        assert_eq!(diagnosis.verdict(), "fail B2");
        assert_eq!(diagnosis.document["others"][0]["verdict"]["status"], "pass");
    });
}
