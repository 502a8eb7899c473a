//! Each fault alone, and two together.

use super::*;

/// Each row that facts alone can show, alone.
pub(super) const FAULTS: &[(&str, Status, Change)] = &[
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
