use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Mutex;

use super::host::{Host, Wanted};
use super::overlay::{Action, Author, BackendName, Change, Edit, Edits};
use super::view::HostProblem;
use super::*;
use crate::config::Config;
use crate::director::{BackendState, Director, Health, Seat, Takes};
use crate::health::{Plan, Told};

/// A host of which nothing is real: the tests say what it has, and see what is asked of it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    refuses: Option<&'static str>,
    fails_to_lead: bool,
    fails_to_complete: bool,
    /// The MTU of a device that was not there before.
    new_device: Option<u32>,
    asked: Vec<String>,
    pub(super) plan: Plan,
    pub(super) told: Vec<Told>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct FakeHost(Rc<RefCell<Kernel>>);

impl Host for FakeHost {
    fn refuse(&mut self, _: &Config) -> Result<()> {
        self.0
            .borrow()
            .refuses
            .map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
    }

    fn paths(&mut self, config: &Config) -> Result<Paths> {
        Ok(Paths::without_routes(config))
    }

    fn complete(&mut self, config: &Config, paths: &mut Paths) -> Result<()> {
        if self.0.borrow().fails_to_complete {
            anyhow::bail!("no answer today");
        }
        *paths = Paths::without_routes(config);
        Ok(())
    }

    fn paths_again(&mut self, config: &Config, _: &Paths) -> Result<(Paths, Vec<String>)> {
        let paths = Paths::without_routes(config);
        let paths = match self.0.borrow().new_device {
            Some(mtu) => paths.with_device(mtu),
            None => paths,
        };
        Ok((paths, Vec::new()))
    }

    fn prepare(&mut self, _: &Config, _: &Paths, _: &Wanted) -> Result<()> {
        self.0.borrow_mut().asked.push("prepare".into());
        Ok(())
    }

    fn lead(&mut self, _: &Wanted) -> Result<Vec<String>> {
        let mut kernel = self.0.borrow_mut();
        kernel.asked.push("lead".into());
        if std::mem::take(&mut kernel.fails_to_lead) {
            anyhow::bail!("no route today");
        }
        Ok(Vec::new())
    }

    fn answer(&mut self, _: &Config) -> Result<()> {
        self.0.borrow_mut().asked.push("answer".into());
        Ok(())
    }

    fn measure(&mut self, plan: Plan) -> Result<()> {
        self.0.borrow_mut().plan = plan;
        Ok(())
    }

    fn tell(&mut self, told: Told) -> Result<()> {
        self.0.borrow_mut().told.push(told);
        Ok(())
    }

    fn device_mtu(&self) -> u32 {
        1500
    }

    fn problems(&mut self, _: &Config) -> Vec<HostProblem> {
        Vec::new()
    }
}

pub(super) fn config(text: &str) -> Config {
    let vip = "[director]\nring_size = 2039\n[[vip]]\nname = \"web\"\naddress = \"10.0.0.100\"\n";
    Config::parse("f", &format!("{vip}{text}")).unwrap()
}

fn backends(list: &[(&str, u16)]) -> String {
    let backend = |(address, weight): &(&str, u16)| {
        format!("[[vip.backend]]\naddress = \"{address}\"\nweight = {weight}\n")
    };
    list.iter().map(backend).collect()
}

const A: &str = "10.0.1.11";
const B: &str = "10.0.1.12";

fn author() -> Author {
    Author {
        uid: 1000,
        user: Some("ann".into()),
        pid: Some(7),
    }
}

pub(super) struct Fixture {
    pub(super) control: Control<FakeHost>,
    pub(super) kernel: Rc<RefCell<Kernel>>,
    /// The one worker.
    director: Director,
    answers: Arc<Mutex<Vec<String>>>,
}

impl Fixture {
    pub(super) fn new(text: &str) -> Self {
        let host = FakeHost::default();
        let kernel = Rc::clone(&host.0);
        let mut beginning =
            Beginning::new(config(text), &mut host.clone(), Roster::default()).unwrap();
        let snapshot = Arc::clone(&beginning.current().load().snapshot);
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: [1; 4],
        };
        let director = Director::new(snapshot, &seat);
        beginning.roster.attach(Arc::clone(director.counters()));
        Self {
            control: beginning.control(host, Arc::default(), || ()),
            kernel,
            director,
            answers: Arc::default(),
        }
    }

    /// The worker takes over what is published, and control goes on.
    pub(super) fn adopt(&mut self) {
        let published = self.control.publisher.current().load_full();
        self.director.adopt(Arc::clone(&published.snapshot));
        self.control.go_on();
    }

    pub(super) fn answer<T: fmt::Debug + Send + 'static>(&self) -> Reply<T> {
        let answers = Arc::clone(&self.answers);
        Reply::new(move |answer| answers.lock().unwrap().push(format!("{answer:?}")))
    }

    pub(super) fn answers(&self) -> Vec<String> {
        std::mem::take(&mut *self.answers.lock().unwrap())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.kernel.borrow_mut().asked)
    }

    pub(super) fn change(&mut self, address: &str, action: Action, lasts: Option<Duration>) {
        let change = Change {
            backend: name(address),
            action,
            lasts,
            reason: None,
            if_generation: None,
        };
        let reply = self.answer();
        self.control.ask(Request::Change {
            change,
            by: author(),
            reply,
        });
    }

    pub(super) fn reload(&mut self, text: &str, options: ReloadOptions) {
        let reply = Some(self.answer());
        self.control.reload(Reload {
            read: Ok(config(text)),
            options,
            by: None,
            reply,
        });
    }

    /// What each backend takes by the view, in order.
    pub(super) fn takes(&self) -> Vec<(String, Takes)> {
        let view = self.control.view().load();
        let backends = view.snapshot.backends();
        let takes = backends.map(|(_, backend)| (backend.address.to_string(), backend.takes));
        takes.collect()
    }

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        let events = self.control.events.after(0, 100);
        events.iter().map(|event| event.what.kind.name()).collect()
    }
}

fn name(address: &str) -> BackendName {
    BackendName {
        vip: "web".into(),
        address: address.parse().unwrap(),
    }
}

fn weight(weight: u16) -> Action {
    Action::Edit(Edits {
        weight: Edit::Set(weight),
        ..Edits::default()
    })
}

pub(super) fn state(state: BackendState) -> Action {
    Action::Edit(Edits {
        state: Edit::Set(state),
        ..Edits::default()
    })
}

fn two() -> String {
    backends(&[(A, 1), (B, 1)])
}

#[test]
fn a_change_is_answered_once_every_worker_forwards_by_it() {
    let mut fixture = Fixture::new(&two());
    fixture.change(B, state(BackendState::Draining), None);
    assert!(fixture.answers().is_empty(), "nothing is adopted yet");
    assert_eq!(fixture.takes()[1], (B.into(), Takes::KnownFlows));
    fixture.control.go_on();
    assert!(fixture.answers().is_empty());
    fixture.adopt();
    assert_eq!(fixture.answers(), ["Ok(2)"]);
    assert_eq!(fixture.kinds(), ["override_set", "drained"]);
    let view = fixture.control.view().load_full();
    let set = view.overlay.of(&name(B)).unwrap();
    assert_eq!(
        (set.state, &set.by),
        (Some(BackendState::Draining), &author())
    );
    assert_eq!(view.config.vips[0].backends[1].state, BackendState::Active);
    assert_eq!(
        view.effective.vips[0].backends[1].state,
        BackendState::Draining
    );
}

#[test]
fn what_names_nothing_or_leaves_nothing_is_refused() {
    let mut fixture = Fixture::new(&two());
    let third = "10.0.1.13";
    let health = Action::Edit(Edits {
        health: Edit::Set(Health::Unhealthy),
        ..Edits::default()
    });
    for (address, action, lasts, expected) in [
        (third, weight(2), None, "NoBackend"),
        (third, Action::Remove, None, "NoBackend"),
        (A, Action::Add(Edits::default()), None, "Exists"),
        (A, Action::Clear, None, "NoOverride"),
        (A, health, None, "HealthForever"),
    ] {
        fixture.change(address, action, lasts);
        let answers = fixture.answers();
        assert!(answers[0].contains(expected), "{answers:?}");
    }
    fixture.change(A, Action::Remove, None);
    fixture.adopt();
    assert_eq!(fixture.answers(), ["Ok(2)"]);
    fixture.change(B, Action::Remove, None);
    assert!(fixture.answers()[0].contains("Last"));
    let change = Change {
        backend: name(B),
        action: weight(3),
        lasts: None,
        reason: None,
        if_generation: Some(1),
    };
    let reply = fixture.answer();
    fixture.control.ask(Request::Change {
        change,
        by: author(),
        reply,
    });
    assert!(fixture.answers()[0].contains("Stale { expected: 1, now: 2 }"));
    assert_eq!(fixture.takes(), [(B.to_owned(), Takes::NewFlows)]);
}

#[test]
fn a_backend_is_added_and_leaves_again() {
    let mut fixture = Fixture::new(&two());
    let third = "10.0.1.13";
    fixture.change(third, Action::Add(Edits::default()), None);
    fixture.adopt();
    assert_eq!(fixture.answers(), ["Ok(2)"]);
    assert_eq!(fixture.takes()[2], (third.into(), Takes::NewFlows));
    fixture.change(third, weight(5), None);
    fixture.adopt();
    assert_eq!(fixture.answers(), ["Ok(3)"]);
    let view = fixture.control.view().load_full();
    assert_eq!(view.effective.vips[0].backends[2].weight, 5);
    fixture.change(third, Action::Remove, None);
    fixture.adopt();
    assert_eq!(fixture.answers(), ["Ok(4)"]);
    assert_eq!(fixture.takes().len(), 2);
    assert!(fixture.control.view().load().overlay.is_empty());
}

#[test]
fn an_override_ends_in_time() {
    let mut fixture = Fixture::new(&two());
    fixture.change(B, weight(0), Some(Duration::from_millis(20)));
    fixture.adopt();
    let patience = fixture.control.patience().unwrap();
    assert!(patience <= Duration::from_millis(20), "{patience:?}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !fixture.control.view().load().overlay.is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
        fixture.adopt();
    }
    assert_eq!(fixture.takes()[1], (B.into(), Takes::NewFlows));
    assert_eq!(fixture.kinds(), ["override_set", "override_ended"]);
}

#[test]
fn an_override_that_cannot_be_taken_back_is_tried_again_later() {
    let mut fixture = Fixture::new(&two());
    fixture.change(B, weight(0), Some(Duration::ZERO));
    fixture.kernel.borrow_mut().fails_to_complete = true;
    fixture.adopt();
    let patience = fixture.control.patience().unwrap();
    assert!(patience > Duration::from_secs(5), "{patience:?}");
    assert_eq!(fixture.takes()[1], (B.into(), Takes::KnownFlows));
}

#[test]
fn a_device_of_a_longer_mtu_is_followed_once_the_workers_have_room() {
    let mut fixture = Fixture::new(&two());
    fixture.kernel.borrow_mut().new_device = Some(9000);
    fixture.control.converge();
    assert_eq!(fixture.control.publisher.longest(), 9000);
    assert!(fixture.asked().is_empty(), "no worker has room yet");
    fixture.adopt();
    assert_eq!(fixture.asked(), ["lead"]);
    fixture.control.converge();
    assert_eq!(fixture.asked(), ["lead"], "nothing new: at once");
    assert!(fixture.control.is_settled());
}

#[test]
fn the_host_follows_a_reload_after_the_workers() {
    let mut fixture = Fixture::new(&two());
    let three = backends(&[(A, 1), (B, 1), ("10.0.1.13", 1)]);
    fixture.reload(&three, ReloadOptions::default());
    assert!(fixture.asked().is_empty(), "no worker has adopted it");
    // What comes meanwhile waits.
    fixture.change(B, weight(7), None);
    assert!(fixture.answers().is_empty());
    fixture.adopt();
    assert_eq!(fixture.asked(), ["prepare", "lead", "answer"]);
    fixture.adopt();
    let answers = fixture.answers();
    assert!(
        answers[0].contains("generation: 2") && answers[0].contains("10.0.1.13: added"),
        "{answers:?}"
    );
    assert_eq!(answers[1], "Ok(3)");
    assert_eq!(fixture.takes().len(), 3);
}

#[test]
fn what_the_host_refuses_halfway_is_taken_back() {
    let mut fixture = Fixture::new(&two());
    fixture.kernel.borrow_mut().fails_to_lead = true;
    fixture.reload(&backends(&[(A, 1)]), ReloadOptions::default());
    fixture.adopt();
    assert_eq!(fixture.asked(), ["prepare", "lead"]);
    fixture.adopt();
    assert_eq!(fixture.asked(), ["lead", "answer"], "back to the old one");
    let answers = fixture.answers();
    assert!(answers[0].contains("no route today"), "{answers:?}");
    assert_eq!(fixture.takes().len(), 2);
    let view = fixture.control.view().load_full();
    assert_eq!(view.generation, 1);
    assert_eq!(
        view.last_reload.as_ref().unwrap().problems,
        ["no route today"]
    );
}

#[test]
fn what_is_impossible_or_only_asked_for_changes_nothing() {
    let mut fixture = Fixture::new(&two());
    let dry = ReloadOptions {
        dry_run: DryRun::Yes,
        ..ReloadOptions::default()
    };
    fixture.reload(&backends(&[(A, 9), (B, 1)]), dry);
    assert!(fixture.answers()[0].contains("weight 1 -> 9"));
    fixture.kernel.borrow_mut().refuses = Some("vip web is a local address");
    fixture.reload(&backends(&[(A, 9), (B, 1)]), ReloadOptions::default());
    assert!(fixture.answers()[0].contains("local address"));
    assert!(fixture.asked().is_empty());
    let view = fixture.control.view().load_full();
    assert_eq!((view.generation, view.snapshot.epoch()), (1, 1));
    assert_eq!(fixture.kinds(), ["reload_refused"]);
}

/// The file wins where its value of an overridden key changed; other overrides stay.
#[test]
fn overrides_survive_a_reload_by_rule() {
    let mut fixture = Fixture::new(&two());
    for (address, action) in [(A, weight(5)), (B, state(BackendState::Disabled))] {
        fixture.change(address, action, None);
        fixture.adopt();
    }
    fixture.answers();
    fixture.reload(&backends(&[(A, 2), (B, 3)]), ReloadOptions::default());
    fixture.adopt();
    let answers = fixture.answers();
    let ended = "overrides_ended: [\"vip web: backend 10.0.1.11: weight as in the file\"]";
    assert!(answers[0].contains(ended), "{answers:?}");
    let effective = fixture.control.effective().vips[0].backends.clone();
    assert_eq!((effective[0].weight, effective[1].weight), (2, 3));
    assert_eq!(effective[1].state, BackendState::Disabled);
    let none = ReloadOptions {
        overrides: KeepOverrides::No,
        ..ReloadOptions::default()
    };
    fixture.reload(&backends(&[(A, 2), (B, 3)]), none);
    fixture.adopt();
    assert!(fixture.control.view().load().overlay.is_empty());
    assert_eq!(fixture.takes()[1], (B.into(), Takes::NewFlows));
}

mod random {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Operation {
        Change(u8, Action),
        Reload(Vec<(u8, u16)>),
        Adopt,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let edits = prop_oneof![
            (0u16..4).prop_map(weight),
            Just(state(BackendState::Draining)),
            Just(state(BackendState::Disabled)),
            Just(Action::Add(Edits::default())),
            Just(Action::Remove),
            Just(Action::Clear),
        ];
        let file = proptest::collection::btree_map(1u8..5, 1u16..4, 1..4);
        prop_oneof![
            4 => (1u8..5, edits).prop_map(|(last, action)| Operation::Change(last, action)),
            1 => file.prop_map(|file| Operation::Reload(file.into_iter().collect())),
            3 => Just(Operation::Adopt),
        ]
    }

    fn address(last: u8) -> String {
        format!("10.0.1.{last}")
    }

    proptest! {
        /// However changes and reloads come, what holds in the end is the file with the overrides, every request was
        /// answered once, and nothing waits any more.
        #[test]
        fn what_holds_is_the_file_with_the_overrides(
            operations in proptest::collection::vec(operation(), 1..40)
        ) {
            let mut fixture = Fixture::new(&backends(&[("10.0.1.1", 1), ("10.0.1.2", 2)]));
            let mut requests = 0;
            for operation in operations {
                match operation {
                    Operation::Change(last, action) => {
                        requests += 1;
                        fixture.change(&address(last), action, None);
                    }
                    Operation::Reload(file) => {
                        requests += 1;
                        let file: Vec<_> = file.iter().map(|(last, weight)| (address(*last), *weight)).collect();
                        let file: Vec<_> = file.iter().map(|(address, weight)| (address.as_str(), *weight)).collect();
                        fixture.reload(&backends(&file), ReloadOptions::default());
                    }
                    Operation::Adopt => fixture.adopt(),
                }
            }
            while !fixture.control.pending.is_empty() || !fixture.control.queue.is_empty() {
                fixture.adopt();
            }
            prop_assert_eq!(fixture.answers().len(), requests);
            let view = fixture.control.view().load_full();
            prop_assert_eq!(&*view.effective, &view.overlay.applied(&view.config));
            let fresh = Paths::without_routes(&view.effective)
                .snapshot(&view.effective, &mut Roster::default(), crate::site::taken_for_healthy)
                .unwrap();
            let takes = |snapshot: &Snapshot| -> Vec<_> {
                snapshot.backends().map(|(_, backend)| (backend.address, backend.takes)).collect()
            };
            prop_assert_eq!(takes(&view.snapshot), takes(&fresh));
        }
    }
}
