//! The commands that a finding comes with.

use super::*;

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
