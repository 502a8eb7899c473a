//! The rows of a director.

use super::shown::picture;
use super::*;

/// A director in which everything is right.
pub(super) fn director() -> Facts {
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

pub(super) const FAULTS_OF_A_DIRECTOR: &[(&str, Status, Change)] = &[
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
