//! Machines that serve their clients raise no alarm.

use super::*;

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
    ("tunlb's own XDP program on the device", |facts| {
        xdp_program(facts, true);
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
