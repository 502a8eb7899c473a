use super::super::ReloadOptions;
use super::super::tests::{Fixture, state};
use super::*;
use crate::probe::ProbeResult;

const A: &str = "10.0.1.11";
const B: &str = "10.0.1.12";
const PROBED: &str = "[vip.health]\n";

/// Keys of the VIP "web", its two backends, and what follows them.
fn text(keys: &str, rest: &str) -> String {
    format!("{keys}\nbackend = [{{ address = \"{A}\" }}, {{ address = \"{B}\" }}]\n{rest}\n")
}

impl Fixture {
    /// The state of its address and why it is no better.
    fn announced(&self) -> (Announce, String) {
        let view = self.control.view().load();
        let address = view.effective.vips[0].address;
        let announced = view.announced(address).unwrap();
        (announced.state, announced.why.clone().unwrap_or_default())
    }

    fn is_announced(&self) -> Announce {
        self.announced().0
    }
}

#[test]
fn without_probes_it_is_up_at_once() {
    let fixture = Fixture::new(&text("", ""));
    assert_eq!(fixture.announced(), (Announce::Up, String::new()));
    assert_eq!(fixture.kinds(), [""; 0], "the beginning is no change");
    assert_eq!(fixture.control.patience(), None);
}

#[test]
fn it_follows_health() {
    let mut fixture = Fixture::new(&text("", PROBED));
    let waits = "waits for the first results of its probes";
    assert_eq!(fixture.announced(), (Announce::Down, waits.to_owned()));
    fixture.report(A, ProbeResult::Ok);
    assert_eq!(fixture.is_announced(), Announce::Up, "one can serve");
    fixture.report(A, ProbeResult::NoAnswer);
    assert_eq!(fixture.is_announced(), Announce::Up, "another one may");
    fixture.report(B, ProbeResult::Refused);
    let none = "no backend is healthy";
    assert_eq!(fixture.announced(), (Announce::Down, none.to_owned()));
    fixture.report(B, ProbeResult::Ok);
    assert_eq!(fixture.is_announced(), Announce::Up);
    let kinds = fixture.kinds();
    let changes = kinds.iter().filter(|kind| **kind == "announce_changed");
    assert_eq!(changes.count(), 3, "{kinds:?}");
}

#[test]
fn first_results_are_waited_for_once_and_not_for_ever() {
    let mut fixture = Fixture::new(&text("", PROBED));
    let patience = fixture.control.patience().unwrap();
    assert!(patience <= WAIT && patience > WAIT / 2, "{patience:?}");
    let announced = Arc::make_mut(&mut fixture.control.announced);
    for known in announced.values_mut() {
        known.waits_until = Some(Instant::now());
    }
    fixture.control.go_on();
    assert_eq!(fixture.is_announced(), Announce::Up);
    assert_eq!(fixture.control.patience(), None);
    let another = text("", "[vip.health]\nfall = 7");
    fixture.reload(&another, ReloadOptions::default());
    fixture.adopt();
    assert_eq!(
        fixture.is_announced(),
        Announce::Up,
        "another check begins on trial"
    );
}

#[test]
fn too_little_is_down() {
    let mut fixture = Fixture::new(&text("min_healthy = \"60%\"", PROBED));
    for address in [A, B] {
        fixture.report(address, ProbeResult::Ok);
    }
    assert_eq!(fixture.is_announced(), Announce::Up);
    fixture.report(A, ProbeResult::NoAnswer);
    let why = "less than 60 % is healthy (min_healthy)";
    assert_eq!(fixture.announced(), (Announce::Down, why.to_owned()));
}

#[test]
fn an_operator_drains_it() {
    use BackendState::{Disabled, Draining};
    let mut fixture = Fixture::new(&text("", ""));
    for (address, to, expected) in [
        (A, Draining, Announce::Up),
        (B, Disabled, Announce::Drain),
        (A, Disabled, Announce::Down),
        (B, BackendState::Active, Announce::Up),
    ] {
        fixture.change(address, state(to), None);
        fixture.adopt();
        assert_eq!(fixture.is_announced(), expected, "{address} {to}");
    }
}

#[test]
fn an_address_is_as_the_best_of_its_vips() {
    let other = format!(
        "[[vip]]\nname = \"tls\"\naddress = \"10.0.0.100\"\nport = 443\n\
         backend = [{{ address = \"{A}\" }}]\n[vip.health]\n"
    );
    let mut fixture = Fixture::new(&text("", &other));
    assert_eq!(fixture.is_announced(), Announce::Up);
    for address in [A, B] {
        fixture.change(address, state(BackendState::Disabled), None);
        fixture.adopt();
    }
    assert_eq!(fixture.is_announced(), Announce::Up, "by the other VIP");
    assert_eq!(fixture.control.announced.len(), 1);
}

#[test]
fn a_director_that_cannot_do_its_work_is_down() {
    let mut fixture = Fixture::new(&text("", PROBED));
    fixture.report(A, ProbeResult::Ok);
    let plan = fixture.plan_number();
    fixture.report_of(B, ProbeResult::NoAnswer, plan, true);
    let (state, why) = fixture.announced();
    assert_eq!(state, Announce::Down);
    assert!(why.starts_with("the director is not ready: every"), "{why}");
    let view = fixture.control.view().load_full();
    assert!(view.problems.iter().any(|problem| problem.keeps_from_work));
    fixture.report_of(B, ProbeResult::Ok, plan, false);
    assert_eq!(fixture.is_announced(), Announce::Up);
    let view = fixture.control.view().load_full();
    assert!(view.problems.is_empty(), "{:?}", view.problems);
}
