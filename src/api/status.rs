//! `GET /v1/status` and its parts: a view, and what the API's thread measured beside it, become documents. Control has
//! no part in it.
//!
//! A director may have 100,000 backends: each VIP is made as it is written, and nothing is looked up twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::losses::Losses;
use super::measured;
use super::model::{
    Announce, Backend, ConfigState, Director, Encap, Flows, Health, LastReload, Layered, Override,
    Path, Problem, Rates, Readiness, SCHEMA, SnapshotState, Traffic, Vip, Worker,
};
use super::numbers;
use super::overrides;
use super::problem;
use super::rates::AllRates;
use super::shares::{Shares, VipShares};
use crate::control::Handle;
use crate::control::overlay::{self, BackendName, ChangeError};
use crate::control::view::View;
use crate::director::{
    self, BackendIndex, BackendSpec, Health as Measured, Takes, Timestamp, VipSpec,
};
use crate::packet::{EncapKind, SourceRule};
use crate::probe::ProbeResult;
use crate::site::NAMED;
use crate::text::time::rfc3339;
use crate::text::version;

/// What the API's thread knows beside the view.
#[derive(Debug)]
pub(super) struct Measurements {
    pub(super) rates: AllRates,
    pub(super) shares: Shares,
    /// What the kernel drops.
    pub(super) losses: Losses,
    /// The machine's name.
    pub(super) host: String,
}

/// All that a document is made from.
#[derive(Debug)]
pub(super) struct Source<'a> {
    view: &'a View,
    handle: &'a Handle,
    measured: &'a RefCell<Measurements>,
    now: SystemTime,
    /// The same by the clock of the data path.
    moment: Option<Timestamp>,
    /// Those of each VIP that has some, by its name.
    overrides: HashMap<&'a str, HashMap<IpAddr, &'a overlay::Override>>,
}

/// As [`Status`](super::model::Status).
#[derive(Serialize)]
struct Document<L> {
    schema: u32,
    at: String,
    generation: u64,
    director: Director,
    vips: L,
}

/// As [`Vips`](super::model::Vips) and its like.
#[derive(Serialize)]
struct List<L: Serialize> {
    schema: u32,
    generation: u64,
    #[serde(flatten)]
    members: BTreeMap<&'static str, L>,
}

/// A list whose members are made as they are written.
pub(super) struct Lazy<F>(pub(super) F);

impl<F: Fn() -> I, I: Iterator<Item: Serialize>> Serialize for Lazy<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(
        handle: &'a Handle,
        view: &'a View,
        measured: &'a RefCell<Measurements>,
        now: SystemTime,
    ) -> Self {
        let mut overrides: HashMap<_, HashMap<_, _>> = HashMap::new();
        for (BackendName { vip, address }, set) in view.overlay.iter() {
            overrides.entry(&**vip).or_default().insert(*address, set);
        }
        Self {
            view,
            handle,
            measured,
            now,
            moment: handle
                .identity
                .workers
                .first()
                .map(|worker| worker.heartbeat.now()),
            overrides,
        }
    }

    /// The whole status, of one VIP alone where `vip` names it.
    pub(super) fn status(&self, vip: Option<&str>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Document {
            schema: SCHEMA,
            at: rfc3339(self.now),
            generation: self.view.generation,
            director: self.director(),
            vips: Lazy(|| self.vips(vip)),
        })
    }

    /// A list of some of it, under that name.
    pub(super) fn list(
        &self,
        name: &'static str,
        members: impl Serialize,
    ) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&List {
            schema: SCHEMA,
            generation: self.view.generation,
            members: BTreeMap::from([(name, members)]),
        })
    }

    /// Refuses what names nothing.
    pub(super) fn known(&self, vip: Option<&str>, address: Option<IpAddr>) -> Result<(), Problem> {
        let vips = &self.view.effective.vips;
        let named = |spec: &&VipSpec| vip.is_none_or(|vip| vip == spec.name);
        if let Some(vip) = vip
            && !vips.iter().any(|spec| spec.name == vip)
        {
            let known = vips.iter().take(NAMED).map(|vip| vip.name.clone());
            let (vip, known) = (vip.to_owned(), known.collect());
            return Err(ChangeError::NoVip { vip, known }.into());
        }
        let mut backends = vips.iter().filter(named).flat_map(|vip| &vip.backends);
        let Some(address) = address else {
            return Ok(());
        };
        if backends.any(|backend| backend.address == address) {
            return Ok(());
        }
        Err(problem::of(
            404,
            "address",
            format!("{address} is no backend here"),
        ))
    }

    /// The director itself.
    pub(super) fn director(&self) -> Director {
        let identity = &self.handle.identity;
        let counters = &self.view.counters;
        let measured = self.measured.borrow();
        let uptime = self.now.duration_since(identity.started);
        Director {
            version: version::LONG.to_owned(),
            host: measured.host.clone(),
            pid: std::process::id(),
            started: rfc3339(identity.started),
            uptime_seconds: uptime.unwrap_or_default().as_secs(),
            tun: identity.tun.clone(),
            workers: self.workers(),
            xdp: identity.driver.as_deref().map(numbers::xdp),
            config: self.config(),
            snapshot: SnapshotState {
                epoch: self.view.snapshot.epoch(),
                adopted: counters.is_adopted(self.view.snapshot.epoch()),
            },
            ready: readiness(self.view),
            flows: Flows {
                now: counters.all_traffic().flows,
                bound: self.view.effective.director.flows.bound.get() as u64,
            },
            drops: numbers::drops(counters),
            send_errors: numbers::send_errors(counters),
            replies: counters.replied(),
            tun_drops: measured.losses.told().tun_drops,
            device_drops: measured.losses.told().device_drops.clone(),
        }
    }

    fn workers(&self) -> Vec<Worker> {
        let workers = self.handle.identity.workers.iter().enumerate();
        let worker = |(id, link): (usize, &crate::control::WorkerLink)| {
            let (bursts, packets) = numbers::bursts(&link.counters);
            Worker {
                id,
                flows: link.counters.all_traffic().flows,
                bursts,
                burst_mean: mean(packets, bursts),
                heartbeat_age_seconds: super::rates::thousandths(
                    link.heartbeat.age().as_secs_f64(),
                ),
            }
        };
        workers.map(worker).collect()
    }

    fn config(&self) -> ConfigState {
        let last = self.view.last_reload.as_ref();
        ConfigState {
            file: self.handle.identity.file.clone(),
            loaded: rfc3339(self.view.loaded),
            overrides: self.view.overlay.len(),
            last_reload: last.map(|last| LastReload {
                at: rfc3339(last.at),
                ok: last.problems.is_empty(),
                problems: last.problems.clone(),
            }),
        }
    }

    /// The VIPs in the order of the configuration, or the one with that name.
    pub(super) fn vips(&self, name: Option<&str>) -> impl Iterator<Item = Vip> {
        let vips = self
            .view
            .snapshot
            .vips()
            .iter()
            .zip(&self.view.effective.vips);
        let wanted = move |name_of: &str| name.is_none_or(|name| name == name_of);
        vips.enumerate()
            .filter(move |(_, (vip, _))| wanted(&vip.name))
            .map(|(position, (vip, spec))| self.vip(position, vip, spec))
    }

    fn vip(&self, position: usize, vip: &director::Vip, spec: &VipSpec) -> Vip {
        let backends = self.backends(position, vip, spec);
        let (traffic, rates) = sums(&backends);
        let is_up = |backend: &&Backend| self.view.health(spec, backend.address).is_up();
        let takes_new = backends.iter().filter(|backend| backend.takes == "new");
        let takes_new = takes_new.count();
        let goes_on = |backend: &Backend| !is_up(&backend) && backend.takes == "new";
        Vip {
            name: vip.name.clone(),
            address: vip.address(),
            port: match spec.port {
                director::PortMatch::Exact(port) => Some(port.get()),
                director::PortMatch::Any => None,
            },
            protocol: spec.protocol.to_string(),
            encap: encap(spec.encap),
            ring: numbers::ring(self.view, vip),
            healthy: backends.iter().filter(is_up).count(),
            takes_new,
            fail_open: backends.iter().any(goes_on),
            announce: self.announce(vip.address()),
            drops: numbers::vip_drops(self.view, vip),
            traffic,
            rates: rates.rounded(),
            backends,
        }
    }

    fn announce(&self, address: IpAddr) -> Option<Announce> {
        let announced = self.view.announced(address)?;
        Some(Announce {
            state: announced.state.name().to_owned(),
            since: rfc3339(announced.since),
            why: announced.why.clone(),
        })
    }

    /// The backends of the VIP at that position of the configuration, of which `spec` is with the overrides.
    fn backends(&self, position: usize, vip: &director::Vip, spec: &VipSpec) -> Vec<Backend> {
        let of_vip = spec;
        let mut measured = self.measured.borrow_mut();
        let shares = measured.shares.of(vip);
        let overrides = self.overrides.get(&*vip.name);
        // Overrides change neither the order nor the number of VIPs.
        let file = self
            .view
            .config
            .vips
            .get(position)
            .filter(|file| file.name == vip.name);
        let of = |(&index, spec): (&BackendIndex, &BackendSpec)| {
            let set = overrides
                .and_then(|of_vip| of_vip.get(&spec.address))
                .copied();
            let configured = match set {
                None => Some(spec),
                Some(_) => file.and_then(|file| {
                    file.backends
                        .iter()
                        .find(|backend| backend.address == spec.address)
                }),
            };
            let rates = measured.rates.of(index, vip.service, spec.address);
            let seat = Seat {
                vip,
                index,
                of: of_vip,
                spec,
                configured,
                set,
            };
            self.backend(&seat, &shares, rates)
        };
        vip.backends().iter().zip(&spec.backends).map(of).collect()
    }

    fn backend(&self, seat: &Seat<'_>, shares: &VipShares, rates: Rates) -> Backend {
        let address = seat.spec.address;
        let takes = self.view.snapshot.lane(seat.index).map(|lane| lane.takes);
        let takes = takes.unwrap_or(Takes::Nothing);
        let counted = self.view.counters.traffic(seat.index);
        let set = seat.set;
        Backend {
            vip: seat.vip.name.clone(),
            address,
            weight: Layered {
                configured: seat.configured.map(|file| file.weight),
                overridden: set.and_then(|set| set.weight),
                effective: seat.spec.weight,
            },
            state: Layered {
                configured: seat.configured.map(|file| file.state.to_string()),
                overridden: set.and_then(|set| set.state).map(|state| state.to_string()),
                effective: seat.spec.state.to_string(),
            },
            health: Health {
                overridden: set
                    .and_then(|set| set.health)
                    .map(|health| overlay::health_word(health).to_owned()),
                slow_start_percent: match self.view.health(seat.of, address) {
                    Measured::Starting(tenths) => Some(tenths.percent()),
                    Measured::Healthy | Measured::Unhealthy | Measured::Doubtful => None,
                },
                ..self.health(seat)
            },
            takes: takes_word(takes).to_owned(),
            why: why(takes, seat, self.failure(seat)),
            share_percent: shares.percent(seat.index),
            flows: counted.flows,
            traffic: Traffic {
                packets: counted.packets,
                bytes: counted.bytes,
                untracked: counted.untracked,
                new_flows: numbers::new_flows(&counted),
            },
            rates: rates.rounded(),
            path: self.path(seat.index, address),
            overridden: set.map(|set| self.override_of(&seat.vip.name, address, set)),
        }
    }

    /// What is measured of it.
    fn health(&self, seat: &Seat<'_>) -> Health {
        match self.view.gauge(seat.of, seat.spec.address) {
            Some(gauge) => measured::shown(gauge),
            None => Health {
                status: "unchecked".to_owned(),
                ..Health::default()
            },
        }
    }

    /// What showed that it is down.
    fn failure(&self, seat: &Seat<'_>) -> Option<ProbeResult> {
        self.view.measured.failure(seat.of, seat.spec.address)
    }

    fn override_of(&self, vip: &str, address: IpAddr, set: &overlay::Override) -> Override {
        overrides::shown(vip, address, set, self.now)
    }

    fn path(&self, index: BackendIndex, address: IpAddr) -> Path {
        let paths = &self.view.paths;
        let fixed = |source| match source {
            SourceRule::Fixed(source) if !source.is_unspecified() => Some(source),
            SourceRule::Fixed(_) | SourceRule::Entropy(_) => None,
        };
        Path {
            device: paths.device(address).map(str::to_owned),
            mtu: self.path_mtu(index),
            outer_source: paths.source(address).and_then(fixed),
        }
    }

    /// What was learnt, as long as it holds, else what the route or the device has.
    fn path_mtu(&self, index: BackendIndex) -> Option<u32> {
        let mtus = self.view.snapshot.path_mtus();
        match self.moment {
            Some(now) => mtus.of(index, now),
            None => mtus.configured(index).map(NonZeroU32::get),
        }
    }
}

/// One backend, from each side.
struct Seat<'a> {
    vip: &'a director::Vip,
    index: BackendIndex,
    /// The VIP, with the overrides.
    of: &'a VipSpec,
    /// With the overrides.
    spec: &'a BackendSpec,
    /// By the file.
    configured: Option<&'a BackendSpec>,
    set: Option<&'a overlay::Override>,
}

/// Whether the director can do its work.
pub(super) fn readiness(view: &View) -> Readiness {
    let serious = view
        .problems
        .iter()
        .filter(|problem| problem.keeps_from_work);
    let reasons: Vec<_> = serious.map(|problem| problem.text.clone()).collect();
    Readiness {
        ok: reasons.is_empty(),
        reasons,
    }
}

const fn takes_word(takes: Takes) -> &'static str {
    match takes {
        Takes::NewFlows => "new",
        Takes::KnownFlows => "known",
        Takes::Nothing => "nothing",
    }
}

/// What decides that a backend does not take all that its VIP has for it, or that it does so all the same.
fn why(takes: Takes, seat: &Seat<'_>, failure: Option<ProbeResult>) -> Option<String> {
    use crate::director::BackendState::{Active, Disabled, Draining};
    let said = seat.set.and_then(|set| set.health);
    let is_down = said == Some(Measured::Unhealthy);
    let fails = said.is_none() && failure.is_some();
    if let (true, Some(result)) = (fails && seat.spec.state != Disabled, failure) {
        return Some(match takes {
            Takes::NewFlows => format!("unhealthy: {result}, but too little is healthy"),
            Takes::KnownFlows | Takes::Nothing => format!("unhealthy: {result}"),
        });
    }
    let text = match (takes, seat.spec.state) {
        (Takes::NewFlows, _) if is_down => Some("down by an operator, but no backend is up"),
        (Takes::NewFlows, _) => None,
        (_, Disabled) => Some("disabled"),
        (Takes::Nothing, Active | Draining) => Some("down by an operator"),
        (Takes::KnownFlows, Draining) => Some("draining"),
        (Takes::KnownFlows, Active) => Some("weight 0"),
    };
    text.map(str::to_owned)
}

fn sums(backends: &[Backend]) -> (Traffic, Rates) {
    let mut traffic = Traffic::default();
    let mut rates = Rates::default();
    for backend in backends {
        traffic.packets += backend.traffic.packets;
        traffic.bytes += backend.traffic.bytes;
        traffic.untracked += backend.traffic.untracked;
        traffic.new_flows += backend.traffic.new_flows;
        rates = rates.plus(backend.rates);
    }
    (traffic, rates)
}

fn encap(kind: EncapKind) -> Encap {
    let (kind, port) = match kind {
        EncapKind::Ipip => ("ipip", None),
        EncapKind::Gue { port } => ("gue", Some(port.get())),
    };
    Encap {
        kind: kind.to_owned(),
        port,
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a mean does not need the last of 53 bits"
)]
fn mean(sum: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| super::rates::thousandths(sum as f64 / count as f64))
}

#[cfg(test)]
mod tests {
    use super::super::model::Status;
    use super::super::testing::Fake;
    use super::*;

    fn status(fake: &Fake, vip: Option<&str>) -> Status {
        let (handle, view) = (fake.handle(), fake.view());
        let measured = RefCell::new(fake.measurements());
        let source = Source::new(&handle, &view, &measured, SystemTime::now());
        let document = source.status(vip).unwrap();
        serde_json::from_slice(&document).unwrap()
    }

    const BACKENDS: [&str; 3] = ["10.0.1.11", "10.0.1.12", "10.0.1.13"];

    #[test]
    fn of_the_file_alone() {
        let fake = Fake::new(2, &BACKENDS);
        fake.send(1, 2, 3, 100);
        let status = status(&fake, None);
        assert_eq!((status.schema, status.generation), (SCHEMA, 1));
        assert_eq!(status.director.flows.bound, 1_000_000);
        assert!(status.director.ready.ok && status.director.snapshot.adopted);
        assert_eq!(status.vips.len(), 2);
        let vip = &status.vips[1];
        assert_eq!(
            (&*vip.name, vip.port, &*vip.protocol),
            ("vip1", Some(80), "tcp")
        );
        assert_eq!((vip.healthy, vip.takes_new, vip.fail_open), (3, 3, false));
        assert_eq!((vip.traffic.packets, vip.traffic.bytes), (3, 300));
        let backend = &vip.backends[2];
        assert_eq!(backend.traffic, vip.traffic);
        assert_eq!(backend.weight.configured, Some(1));
        assert_eq!((&*backend.takes, &backend.why), ("new", &None));
        assert_eq!(&*backend.health.status, "unchecked");
        assert!((backend.share_percent - 33.3).abs() < 0.5);
        assert_eq!(backend.overridden, None);
    }

    #[test]
    fn of_one_vip() {
        let fake = Fake::new(3, &BACKENDS);
        let one = status(&fake, Some("vip1"));
        let names: Vec<_> = one.vips.iter().map(|vip| &*vip.name).collect();
        assert_eq!(names, ["vip1"]);
        assert_eq!(status(&fake, Some("other")).vips, []);
    }

    #[test]
    fn what_an_operator_changed_is_told_apart_from_the_file() {
        let mut fake = Fake::new(1, &BACKENDS);
        fake.disable("vip0", BACKENDS[0]);
        fake.set_health("vip0", BACKENDS[1], Measured::Unhealthy);
        fake.add("vip0", "10.0.1.99");
        let status = status(&fake, None);
        assert_eq!(
            (status.generation, status.director.config.overrides),
            (4, 3)
        );
        let [disabled, down, left, added] = &status.vips[0].backends[..] else {
            panic!("{status:?}");
        };
        assert_eq!(disabled.state.configured.as_deref(), Some("active"));
        assert_eq!(disabled.state.overridden.as_deref(), Some("disabled"));
        assert_eq!(disabled.state.effective, "disabled");
        assert_eq!(disabled.why.as_deref(), Some("disabled"));
        assert_eq!(
            (&*down.takes, down.why.as_deref()),
            ("nothing", Some("down by an operator"))
        );
        assert_eq!(down.health.overridden.as_deref(), Some("down"));
        let set = down.overridden.as_ref().unwrap();
        assert_eq!((set.by.uid, set.reason.as_deref()), (1000, Some("a test")));
        assert!(
            set.expires_in_seconds
                .is_some_and(|left| (500..=600).contains(&left))
        );
        assert_eq!((&*left.takes, &left.overridden), ("new", &None));
        assert_eq!((added.weight.configured, added.weight.effective), (None, 1));
        assert_eq!(added.overridden.as_ref().unwrap().set.present, Some(true));
        let shares: f64 = status.vips[0]
            .backends
            .iter()
            .map(|b| b.share_percent)
            .sum();
        assert!((shares - 100.0).abs() < 0.1);
        assert_eq!((status.vips[0].healthy, status.vips[0].takes_new), (3, 2));
    }

    /// Flows go on where all is down; the status says so.
    #[test]
    fn all_down() {
        let mut fake = Fake::new(1, &BACKENDS[..2]);
        for address in &BACKENDS[..2] {
            fake.set_health("vip0", address, Measured::Unhealthy);
        }
        let status = status(&fake, None);
        let vip = &status.vips[0];
        assert_eq!((vip.healthy, vip.takes_new, vip.fail_open), (0, 2, true));
        let why = "down by an operator, but no backend is up";
        assert_eq!(vip.backends[0].why.as_deref(), Some(why));
    }

    #[test]
    fn a_problem_that_keeps_it_from_work_is_a_reason() {
        let fake = Fake::new(1, &BACKENDS);
        fake.problem("ip_forward", true);
        fake.problem("path", false);
        let ready = status(&fake, None).director.ready;
        assert_eq!(
            (ready.ok, ready.reasons),
            (false, vec!["ip_forward is off".to_owned()])
        );
    }
}
