use std::time::Duration;

use proptest::prelude::*;

use super::super::overlay::{Action, Edit, Edits};
use super::super::tests::{Fixture, state};
use super::super::{ReloadOptions, Request};
use super::*;
use crate::probe::{SizeFound, Standing};

const A: &str = "10.0.1.11";
const B: &str = "10.0.1.12";

/// A VIP "web" with two backends, and the keys of its `[vip.health]`.
fn two(health: &str) -> String {
    format!(
        "backend = [{{ address = \"{A}\" }}, {{ address = \"{B}\" }}]\n[vip.health]\n{health}\n"
    )
}

impl Fixture {
    pub(in crate::control) fn report(&mut self, address: &str, result: ProbeResult) {
        self.report_of(address, result, self.plan_number(), false);
    }

    pub(in crate::control) fn report_of(
        &mut self,
        address: &str,
        result: ProbeResult,
        plan: u64,
        suspects_itself: bool,
    ) {
        let standing = if result == ProbeResult::Ok {
            Standing::Healthy
        } else {
            Standing::Unhealthy
        };
        let report = Report {
            target: target(address),
            standing,
            result,
            streak: 3,
            cause: None,
            size: None,
        };
        self.control.ask(Request::Health(Reports {
            plan,
            changes: vec![report],
            suspects_itself,
        }));
        self.adopt();
    }

    pub(in crate::control) fn plan_number(&self) -> u64 {
        self.kernel.borrow().plan.number
    }

    /// What both backends take.
    fn letters(&self) -> String {
        let takes = self.takes().into_iter();
        takes
            .map(|(_, takes)| format!("{takes:?}").chars().next().unwrap())
            .collect()
    }
}

fn target(address: &str) -> Target {
    Target {
        vip: "web".into(),
        address: address.parse().unwrap(),
    }
}

#[test]
fn what_becomes_of_flows_is_the_operators_choice() {
    use ProbeResult::{NoAnswer, Refused};
    for (choice, result, expected) in [
        ("auto", NoAnswer, "KN"),
        ("auto", Refused, "NN"),
        ("move", NoAnswer, "NN"),
        ("keep", Refused, "KN"),
    ] {
        let mut fixture = Fixture::new(&two(&format!("on_unhealthy = \"{choice}\"")));
        fixture.report(A, result);
        let takes = fixture.takes();
        assert_eq!(fixture.letters(), expected, "{choice} {result}: {takes:?}");
        assert_ne!(
            takes[0].1,
            crate::director::Takes::NewFlows,
            "{choice} {result}"
        );
        assert_eq!(fixture.kinds(), ["health_changed"]);
        let epoch = fixture.control.view().load().snapshot.epoch();
        fixture.report(A, NoAnswer);
        let again = fixture.control.view().load().snapshot.epoch();
        assert_eq!((epoch, again), (2, 2), "nothing new is no new snapshot");
        fixture.report(A, ProbeResult::Ok);
        assert_eq!(fixture.takes()[0].1, crate::director::Takes::NewFlows);
    }
}

#[test]
fn an_operator_knows_better() {
    let mut fixture = Fixture::new(&two(""));
    let set = |health| {
        Action::Edit(Edits {
            health: Edit::Set(health),
            ..Edits::default()
        })
    };
    fixture.report(A, ProbeResult::NoAnswer);
    fixture.change(A, set(Health::Healthy), Some(Duration::from_secs(60)));
    fixture.adopt();
    assert_eq!(fixture.letters(), "NN");
    fixture.change(A, Action::Clear, None);
    fixture.adopt();
    assert_eq!(fixture.letters(), "KN", "what was measured holds again");
}

#[test]
fn a_fault_of_this_host_changes_nothing() {
    let mut fixture = Fixture::new(&two(""));
    fixture.report(A, ProbeResult::NoAnswer);
    let plan = fixture.plan_number();
    fixture.report_of(B, ProbeResult::NoAnswer, plan, true);
    assert_eq!(fixture.letters(), "NN");
    assert!(fixture.kinds().contains(&"host_problem"));
    fixture.report_of(B, ProbeResult::Ok, plan, false);
    assert_eq!(fixture.letters(), "KN");
    assert!(fixture.kinds().contains(&"host_recovered"));
}

#[test]
fn a_reload_keeps_what_was_measured_by_the_same_check() {
    let mut fixture = Fixture::new(&two(""));
    fixture.report(A, ProbeResult::NoAnswer);
    let old = fixture.plan_number();
    let mut reload = |health: &str| {
        fixture.reload(&two(health), ReloadOptions::default());
        fixture.adopt();
        (fixture.letters(), fixture.plan_number())
    };
    assert_eq!(
        reload("on_unhealthy = \"keep\"").0,
        "KN",
        "the check is the same"
    );
    assert_eq!(reload("fall = 2").0, "NN", "another check begins on trial");
    let (letters, new) = reload("fall = 2\ninitial = \"unhealthy\"");
    assert_eq!(
        letters, "NN",
        "no backend is healthy, so that all count as such"
    );
    assert!(new > old);
    fixture.report_of(B, ProbeResult::Ok, old, false);
    assert_eq!(
        fixture.letters(),
        "NN",
        "a report of an old plan says nothing"
    );
    fixture.report(B, ProbeResult::Ok);
    assert_eq!(fixture.letters(), "KN");
}

#[test]
fn a_disabled_backend_is_not_measured_and_returns_on_trial() {
    let mut fixture = Fixture::new(&two(""));
    fixture.report(A, ProbeResult::NoAnswer);
    fixture.change(A, state(BackendState::Disabled), None);
    fixture.adopt();
    let probed = |fixture: &Fixture| fixture.kernel.borrow().plan.probed.len();
    assert_eq!(probed(&fixture), 1);
    fixture.change(A, state(BackendState::Active), None);
    fixture.adopt();
    assert_eq!((probed(&fixture), fixture.letters().as_str()), (2, "NN"));
}

#[test]
fn a_vip_goes_by_the_probes_of_another() {
    let tls = format!(
        "[[vip]]\nname = \"tls\"\naddress = \"10.0.0.100\"\nport = 443\n\
         backend = [{{ address = \"{A}\" }}, {{ address = \"{B}\" }}]\n\
         [vip.health]\ntrack = \"web\"\non_unhealthy = \"keep\"\n"
    );
    let mut fixture = Fixture::new(&(two("on_unhealthy = \"move\"") + &tls));
    assert_eq!(
        fixture.kernel.borrow().plan.probed.len(),
        2,
        "only one of them sends probes"
    );
    fixture.report(B, ProbeResult::NoAnswer);
    let takes: Vec<_> = fixture
        .takes()
        .into_iter()
        .map(|(_, takes)| takes)
        .collect();
    use crate::director::Takes::{KnownFlows, NewFlows, Nothing};
    assert_eq!(takes, [NewFlows, Nothing, NewFlows, KnownFlows]);
}

#[test]
fn a_cause_is_told_once_with_its_rows() {
    let mut fixture = Fixture::new(&two(""));
    fixture.report(A, ProbeResult::NoAnswer);
    let cause = Cause {
        text: "no answer through the tunnel".into(),
        codes: vec!["B5", "B10"],
    };
    let epoch = |fixture: &Fixture| fixture.control.view().load().snapshot.epoch();
    let before = epoch(&fixture);
    for _ in 0..2 {
        let plan = fixture.plan_number();
        fixture.control.ask(Request::Health(Reports {
            plan,
            changes: vec![Report {
                target: target(A),
                standing: Standing::Unhealthy,
                result: ProbeResult::NoAnswer,
                streak: 4,
                cause: Some(cause.clone()),
                size: None,
            }],
            suspects_itself: false,
        }));
    }
    assert_eq!(fixture.kinds(), ["health_changed", "health_changed"]);
    let events = fixture.control.events.after(1, 9);
    assert_eq!(events[0].what.codes, ["B5", "B10"]);
    assert!(
        events[0]
            .what
            .text
            .contains("(B5, B10); run `tunlb doctor`"),
        "{:?}",
        events[0]
    );
    assert_eq!(epoch(&fixture), before, "no flow goes another way");
}

#[test]
fn an_mtu_black_hole_is_told_and_marks_nothing_down() {
    let mut fixture = Fixture::new(&two("mtu_check = \"5m\""));
    let size = |fits, told| SizeFound {
        wanted: 1480,
        full: ProbeResult::NoAnswer,
        fits,
        told,
    };
    let good = SizeFound {
        full: ProbeResult::Ok,
        ..size(None, None)
    };
    let router = Some((Some("10.0.1.1".parse().unwrap()), 1400));
    for (found, expected) in [
        (good, None),
        (size(Some(1380), router), None),
        (
            size(Some(1380), None),
            Some("those of 1380 do, and nobody says so: an MTU black hole (B24)"),
        ),
        (size(Some(1380), None), None),
        (
            good,
            Some("packets of 1480 bytes get through the tunnel again"),
        ),
    ] {
        let before = fixture.control.events.after(0, 99).len();
        let plan = fixture.plan_number();
        fixture.control.ask(Request::Health(Reports {
            plan,
            changes: vec![Report {
                target: target(A),
                standing: Standing::Healthy,
                result: ProbeResult::Ok,
                streak: 4,
                cause: None,
                size: Some(found),
            }],
            suspects_itself: false,
        }));
        let events = fixture.control.events.after(0, 99);
        let mut told = events[before..].iter();
        // What routers are told is another matter.
        let told = told.find(|event| event.what.kind == EventKind::HealthChanged);
        let told = told.map(|event| event.what.text.clone());
        assert_eq!(told.is_some(), expected.is_some(), "{found:?}: {told:?}");
        assert!(
            told.unwrap_or_default()
                .contains(expected.unwrap_or_default())
        );
        assert_eq!(fixture.letters(), "NN");
    }
}

#[test]
fn others_may_measure_where_the_file_says_so() {
    let told = Told {
        target: target(A),
        result: ProbeResult::Ok,
        holds: Duration::from_secs(9),
    };
    for (health, taken) in [("", false), ("kind = \"external\"", true)] {
        let mut fixture = Fixture::new(&two(health));
        let reply = fixture.answer();
        let told = told.clone();
        fixture.control.ask(Request::Told { told, reply });
        let answer = fixture.answers().remove(0);
        assert_eq!(answer.starts_with("Ok"), taken, "{answer}");
        assert_eq!(fixture.kernel.borrow().told.len(), usize::from(taken));
    }
}

/// What may happen to a director.
#[derive(Debug, Clone)]
enum Op {
    /// A backend turned, or began so.
    Result(usize, ProbeResult),
    /// The file is another one: another check, or another use of what it finds.
    Reload { fall: u8, keys: usize },
    /// An operator wants a backend so, or as the file has it.
    Override(usize, Option<BackendState>),
}

/// Keys that have nothing to do with what is measured.
const USES: [&str; 4] = [
    "",
    "on_unhealthy = \"move\"",
    "on_unhealthy = \"keep\"",
    "slow_start = \"1h\"",
];

fn op() -> impl Strategy<Value = Op> {
    let results = prop::sample::select(vec![
        ProbeResult::Ok,
        ProbeResult::NoAnswer,
        ProbeResult::Refused,
        ProbeResult::BadStatus,
    ]);
    let states = prop::sample::select(vec![
        None,
        Some(BackendState::Disabled),
        Some(BackendState::Draining),
        Some(BackendState::Active),
    ]);
    prop_oneof![
        6 => (0..2_usize, results).prop_map(|(host, result)| Op::Result(host, result)),
        1 => (2..4_u8, 0..USES.len()).prop_map(|(fall, keys)| Op::Reload { fall, keys }),
        2 => (0..2_usize, states).prop_map(|(host, to)| Op::Override(host, to)),
    ]
}

const HOSTS: [&str; 2] = [A, B];

/// What a director that starts anew is to be told, to be like one that went through all.
struct Model {
    text: String,
    fall: u8,
    /// For each backend since it is measured by its check.
    seen: [Vec<ProbeResult>; 2],
    overrides: [Option<BackendState>; 2],
}

impl Model {
    fn override_state(&mut self, fixture: &mut Fixture, host: usize, to: Option<BackendState>) {
        let is_off = |state| state == Some(BackendState::Disabled);
        if is_off(to) || is_off(self.overrides[host]) {
            self.seen[host].clear();
        }
        let before = std::mem::replace(&mut self.overrides[host], to);
        match to {
            Some(to) => fixture.change(HOSTS[host], state(to), None),
            None if before.is_some() => fixture.change(HOSTS[host], Action::Clear, None),
            None => {}
        }
        fixture.adopt();
    }

    /// One that starts now and sees the same.
    fn fresh(&self) -> Fixture {
        let mut fixture = Fixture::new(&self.text);
        for (host, to) in self.overrides.iter().enumerate() {
            if let Some(to) = *to {
                fixture.change(HOSTS[host], state(to), None);
                fixture.adopt();
            }
        }
        for (host, results) in self.seen.iter().enumerate() {
            results
                .iter()
                .for_each(|&result| fixture.report(HOSTS[host], result));
        }
        fixture
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever came between, packets go by what the checks that hold found: as in a director that starts now, has
    /// the same file and overrides, and sees the same results. No clock comes in but that of slow starts.
    #[test]
    fn only_what_holds_counts(ops in prop::collection::vec(op(), 0..40)) {
        let text = |fall: u8, keys: usize| two(&format!("fall = {fall}\n{}", USES[keys]));
        let mut model = Model {
            text: text(3, 0),
            fall: 3,
            seen: [Vec::new(), Vec::new()],
            overrides: [None; 2],
        };
        let mut fixture = Fixture::new(&model.text);
        for op in ops {
            match op {
                Op::Result(host, result) => {
                    fixture.report(HOSTS[host], result);
                    if model.overrides[host] != Some(BackendState::Disabled) {
                        model.seen[host].push(result);
                    }
                }
                Op::Reload { fall, keys } => {
                    if std::mem::replace(&mut model.fall, fall) != fall {
                        model.seen = [Vec::new(), Vec::new()];
                    }
                    model.text = text(fall, keys);
                    fixture.reload(&model.text, ReloadOptions::default());
                    fixture.adopt();
                }
                Op::Override(host, to) => model.override_state(&mut fixture, host, to),
            }
        }
        let mut fresh = model.fresh();
        prop_assert_eq!(&fixture.control.state.measured, &fresh.control.state.measured);
        prop_assert_eq!(fixture.letters(), fresh.letters());
        let share = |fixture: &mut Fixture| {
            // Once slow starts are over the rings are equal, too.
            let end = std::time::Instant::now() + Duration::from_secs(7200);
            fixture.control.step_to(end);
            fixture.adopt();
            let view = fixture.control.view().load_full();
            view.snapshot.vips()[0].fingerprint()
        };
        prop_assert_eq!(share(&mut fixture), share(&mut fresh));
        prop_assert_eq!(fixture.control.until_step(), None);
    }
}
