use super::super::counters::Traffic;
use super::super::verdict::DropReason;
use super::*;
use crate::director::eligible::Takes;
use crate::director::spec::{AllDown, BackendSpec, BackendState, Echo, HashFields, Mss, PortMatch};
use crate::packet::{EncapKind, FlowKey, Protocol, SourceRule};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::num::{NonZeroU8, NonZeroU16};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));

const fn host(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, last))
}

const fn index(number: u32) -> BackendIndex {
    BackendIndex::new(number)
}

fn active(last: u8) -> BackendSpec {
    BackendSpec {
        address: host(last),
        weight: 1,
        state: BackendState::Active,
    }
}

/// A VIP with active backends; port 0 is any.
fn vip(port: u16, hosts: &[u8]) -> VipSpec {
    VipSpec {
        name: format!("vip-{port}"),
        address: VIP,
        port: NonZeroU16::new(port).map_or(PortMatch::Any, PortMatch::Exact),
        protocol: Protocol::Tcp,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Forward,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: None,
        encap: EncapKind::Ipip,
        backends: hosts.iter().copied().map(active).collect(),
    }
}

fn flow(port: u16) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
        destination: VIP,
        source_port: 40_000,
        destination_port: port,
        protocol: Protocol::Tcp,
    }
}

fn build_by(
    roster: &mut Roster,
    vips: &[VipSpec],
    health: impl Fn(&VipSpec, IpAddr) -> Health,
) -> Result<Snapshot, SnapshotError> {
    let plan = Plan {
        vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).unwrap(),
        flows: FlowLimits::default(),
    };
    roster.build(&plan, health, |vip, backend| {
        let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 0, 2).into());
        Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
    })
}

fn build(roster: &mut Roster, vips: &[VipSpec]) -> Snapshot {
    build_by(roster, vips, |_, _| Health::Healthy).unwrap()
}

/// A roster with two workers.
fn staffed() -> (Roster, [Arc<Counters>; 2]) {
    let mut roster = Roster::default();
    let workers = [0; 2].map(|room| Arc::new(Counters::new(room)));
    for worker in &workers {
        roster.attach(Arc::clone(worker));
    }
    (roster, workers)
}

fn adopt(worker: &Counters, snapshot: &Snapshot) {
    worker.adopt(snapshot);
}

/// Address and index of every backend.
fn seats(snapshot: &Snapshot) -> Vec<(IpAddr, BackendIndex)> {
    let seats = snapshot.backends();
    seats
        .map(|(index, backend)| (backend.address, index))
        .collect()
}

#[test]
fn an_index_is_kept_whatever_else_changes() {
    let mut roster = Roster::default();
    let mut web = vip(80, &[1, 2, 3]);
    let first = build(&mut roster, std::slice::from_ref(&web));
    let expected = [
        (host(1), index(0)),
        (host(2), index(1)),
        (host(3), index(2)),
    ];
    assert_eq!(seats(&first), expected);

    web.name = "renamed".into();
    web.encap = EncapKind::Gue {
        port: NonZeroU16::new(6080).unwrap(),
    };
    web.backends[0].weight = 0;
    web.backends[1].state = BackendState::Draining;
    web.backends.reverse();
    let second = build(&mut roster, &[vip(443, &[1, 4]), web]);
    let expected = [
        (host(1), index(3)), // of another VIP
        (host(4), index(4)),
        (host(3), index(2)),
        (host(2), index(1)),
        (host(1), index(0)),
    ];
    assert_eq!(seats(&second), expected);
    let web = second.find_vip(&flow(80)).unwrap();
    for known in [0, 1, 2].map(index) {
        assert_eq!(second.stays_with(web, known), Some(known));
    }
}

#[test]
fn flows_stay_with_the_host_when_their_vip_is_another() {
    let mut roster = Roster::default();
    build(&mut roster, &[vip(80, &[1, 2, 3])]);
    let mut any = vip(0, &[3, 1, 4]);
    any.backends[0].state = BackendState::Disabled;
    let second = build(&mut roster, &[any]);
    let here = second.find_vip(&flow(80)).unwrap();
    for (what, known, stays) in [
        ("configured there, too", 0, Some(4)),
        ("not configured any more", 1, None),
        ("disabled there", 2, None),
        ("never configured", 99, None),
    ] {
        assert_eq!(
            second.stays_with(here, index(known)),
            stays.map(index),
            "{what}"
        );
    }
}

#[test]
fn an_index_is_given_on_when_no_worker_needs_it() {
    let (mut roster, [early, late]) = staffed();
    let first = build(&mut roster, &[vip(80, &[1, 2])]);
    adopt(&early, &first);
    adopt(&late, &first);
    late.count_flow(index(1));

    let second = build(&mut roster, &[vip(80, &[1, 3])]);
    assert_eq!(seats(&second)[1], (host(3), index(2)), "nobody has adopted");
    adopt(&early, &second);
    late.uncount_flow(index(1));
    let third = build(&mut roster, &[vip(80, &[1, 3, 4])]);
    assert_eq!(seats(&third)[2], (host(4), index(3)), "one has not adopted");
    late.count_flow(index(1)); // by its old snapshot
    adopt(&early, &third);
    adopt(&late, &third);
    let fourth = build(&mut roster, &[vip(80, &[1, 3, 4, 5])]);
    assert_eq!(seats(&fourth)[3], (host(5), index(4)), "one has a flow");
    assert!(fourth.backend(index(1)).is_none());
    late.uncount_flow(index(1));
    let fifth = build(&mut roster, &[vip(80, &[1, 3, 4, 5, 6])]);
    assert_eq!(seats(&fifth)[4], (host(6), index(1)));
    assert_eq!(fifth.index_bound(), 5);
}

#[test]
fn a_backend_that_returns_in_time_gets_its_index_back() {
    let (mut roster, workers) = staffed();
    let first = build(&mut roster, &[vip(80, &[1, 2])]);
    workers.iter().for_each(|worker| adopt(worker, &first));
    workers[0].count_flow(index(1));
    workers[0].count_sent(index(1), 100);
    let second = build(&mut roster, &[vip(80, &[1])]);
    workers.iter().for_each(|worker| adopt(worker, &second));
    let third = build(&mut roster, &[vip(80, &[1, 3, 2])]);
    assert_eq!(
        seats(&third)[1..],
        [(host(3), index(2)), (host(2), index(1))]
    );
    let Traffic { packets, flows, .. } = roster.counters().traffic(index(1));
    assert_eq!((packets, flows), (1, 1));
}

#[test]
fn counts_of_an_earlier_holder_are_not_shown_but_summed_up() {
    let (mut roster, workers) = staffed();
    let first = build(&mut roster, &[vip(80, &[1])]);
    for worker in &workers {
        adopt(worker, &first);
        worker.count_sent(index(0), 100);
        worker.count_untracked(index(0));
    }
    let second = build(&mut roster, &[]);
    workers.iter().for_each(|worker| adopt(worker, &second));
    let third = build(&mut roster, &[vip(80, &[2])]);
    assert_eq!(seats(&third), [(host(2), index(0))]);
    assert_eq!(roster.counters().traffic(index(0)), Traffic::default());
    workers[1].count_sent(index(0), 40);
    workers[1].count_flow(index(0));
    let one = Traffic {
        packets: 1,
        bytes: 40,
        untracked: 0,
        flows: 1,
        new_flows: 1,
        established: 0,
    };
    assert_eq!(roster.counters().traffic(index(0)), one);
    let all = Traffic {
        packets: 3,
        bytes: 240,
        untracked: 2,
        flows: 1,
        new_flows: 1,
        established: 0,
    };
    assert_eq!(roster.counters().all_traffic(), all);
}

/// A set that is refused leaves the roster so that the next one is as if it had not been.
#[test]
fn a_refused_set_takes_nobody_s_index() {
    let (mut roster, workers) = staffed();
    let first = build(&mut roster, &[vip(80, &[1, 2])]);
    workers.iter().for_each(|worker| adopt(worker, &first));
    let refused = build_by(&mut roster, &[vip(80, &[3]), vip(80, &[4])], |_, _| {
        Health::Healthy
    });
    assert!(matches!(refused, Err(SnapshotError::DuplicateVip { .. })));
    let next = build(&mut roster, &[vip(80, &[5, 2, 1])]);
    assert_eq!(
        seats(&next)[1..],
        [(host(2), index(1)), (host(1), index(0))]
    );
    assert!(!roster.is_adopted(next.epoch()));
}

#[test]
fn what_backends_take() {
    use BackendState::{Active, Disabled, Draining};
    use Health::{Healthy, Unhealthy};
    use Takes::{KnownFlows, NewFlows, Nothing};
    let of = |all_down, backends: &[(BackendState, u16, Health)]| {
        let mut vip = vip(80, &[]);
        vip.all_down = all_down;
        vip.backends = (1..)
            .zip(backends)
            .map(|(last, &(state, weight, _))| BackendSpec {
                address: host(last),
                weight,
                state,
            })
            .collect();
        let health = |_: &VipSpec, backend| {
            let at = vip
                .backends
                .iter()
                .position(|other| other.address == backend);
            backends[at.unwrap()].2
        };
        let takes = takes(&vip, health).into_iter();
        takes.map(|(takes, _)| takes).collect::<Vec<_>>()
    };
    let one_up = (Active, 1, Healthy);
    for (state, weight, health, beside_another, trusted, dropped) in [
        (Active, 1, Healthy, NewFlows, NewFlows, NewFlows),
        (Active, 0, Healthy, KnownFlows, KnownFlows, KnownFlows),
        (Draining, 1, Healthy, KnownFlows, KnownFlows, KnownFlows),
        (Disabled, 1, Healthy, Nothing, Nothing, Nothing),
        (Active, 1, Unhealthy, Nothing, NewFlows, Nothing),
        (Active, 0, Unhealthy, Nothing, KnownFlows, Nothing),
        (Draining, 1, Unhealthy, Nothing, KnownFlows, Nothing),
        (Disabled, 1, Unhealthy, Nothing, Nothing, Nothing),
    ] {
        let one = (state, weight, health);
        let what = format!("{one:?}");
        for all_down in [AllDown::Forward, AllDown::Drop] {
            let two = of(all_down, &[one, one_up]);
            assert_eq!(two, [beside_another, NewFlows], "{what} beside another");
        }
        assert_eq!(
            of(AllDown::Forward, &[one]),
            [trusted],
            "{what} alone, trusted"
        );
        assert_eq!(
            of(AllDown::Drop, &[one]),
            [dropped],
            "{what} alone, dropped"
        );
    }
}

#[test]
fn health_is_of_a_backend_of_a_vip() {
    let mut roster = Roster::default();
    let vips = [vip(80, &[1, 2]), vip(443, &[1, 2])];
    let snapshot = build_by(&mut roster, &vips, |vip, backend| {
        if vip.name == "vip-80" && backend == host(1) {
            Health::Unhealthy
        } else {
            Health::Healthy
        }
    })
    .unwrap();
    let takes: Vec<_> = snapshot
        .backends()
        .map(|(_, backend)| backend.takes)
        .collect();
    let up = Takes::NewFlows;
    assert_eq!(takes, [Takes::Nothing, up, up, up]);
    let web = snapshot.find_vip(&flow(80)).unwrap();
    assert_eq!(snapshot.stays_with(web, index(0)), None);
    assert_eq!(snapshot.choose(web, &flow(80)).unwrap().backend, index(1));
}

#[test]
fn equal_sets_share_a_ring() {
    let mut roster = Roster::default();
    let mut reweighted = vip(444, &[1, 2]);
    reweighted.backends[0].weight = 2;
    let mut draining = vip(445, &[1, 2, 3]);
    draining.backends[2].state = BackendState::Draining;
    let vips = [vip(80, &[1, 2]), vip(443, &[2, 1]), reweighted, draining];
    let snapshot = build(&mut roster, &vips);
    assert_eq!(roster.rings(), 2);
    let chosen = |port| {
        let chosen = snapshot.choose(snapshot.find_vip(&flow(port)).unwrap(), &flow(80));
        snapshot.backend(chosen.unwrap().backend).unwrap()
    };
    assert_eq!(chosen(80).address, chosen(443).address);
    assert_ne!(chosen(80).vip, chosen(443).vip);
    build(&mut roster, &[]);
    assert_eq!(roster.rings(), 0);
}

#[test]
fn changes_of_a_ring_are_counted_by_seat() {
    use BackendState::{Active, Draining};
    let (mut roster, workers) = staffed();
    let changes = |snapshot: &Snapshot, port| snapshot.find_vip(&flow(port)).unwrap().ring_changes;
    let web = |state, hosts: &[u8]| {
        let mut web = vip(80, hosts);
        web.backends[0].state = state;
        web
    };
    let mut configure = |vips: &[VipSpec]| {
        let snapshot = build(&mut roster, vips);
        workers.iter().for_each(|worker| adopt(worker, &snapshot));
        snapshot
    };
    let first = configure(&[web(Active, &[1, 2])]);
    assert_eq!(changes(&first, 80), 0);
    let moved = configure(&[vip(443, &[1, 2]), web(Active, &[2, 1])]);
    assert_eq!([80, 443].map(|port| changes(&moved, port)), [0, 0], "moved");
    let drained = configure(&[vip(443, &[1, 2]), web(Draining, &[1, 2])]);
    assert_eq!([80, 443].map(|port| changes(&drained, port)), [1, 0]);
    let none = configure(&[vip(443, &[1, 2]), web(Draining, &[1])]);
    assert_eq!(changes(&none, 80), 2);
    configure(&[]);
    configure(&[]);
    let other = configure(&[vip(8080, &[3]), web(Active, &[1, 2])]);
    assert_eq!(
        [80, 8080].map(|port| changes(&other, port)),
        [0, 0],
        "of others"
    );
}

#[test]
fn a_refresh_counts_changes_of_rings_too() {
    let (mut roster, _) = staffed();
    let vips = [vip(80, &[1, 2]), vip(443, &[1, 2])];
    build(&mut roster, &vips);
    let plan = Plan {
        vips: &vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).unwrap(),
        flows: FlowLimits::default(),
    };
    let mut refresh = |down: IpAddr| {
        let health = |_: &VipSpec, backend| {
            if backend == down {
                Health::Unhealthy
            } else {
                Health::Healthy
            }
        };
        let tunnel = |vip: &VipSpec, backend| {
            let source = SourceRule::Fixed(Ipv4Addr::new(10, 0, 0, 2).into());
            Encap::new(vip.encap, source, backend, NonZeroU8::MAX)
        };
        let changed = [VipIndex::at(0)];
        let snapshot = roster.refresh(&plan, &changed, health, tunnel).unwrap();
        [0, 1].map(|vip| snapshot.vips()[vip].ring_changes)
    };
    assert_eq!(refresh(host(1)), [1, 0]);
    assert_eq!(refresh(host(1)), [1, 0]);
    assert_eq!(refresh(host(9)), [2, 0], "the first ring again");
}

#[test]
fn a_fingerprint_is_of_what_is_chosen_whatever_it_is_numbered() {
    let fingerprint = |vips: &[VipSpec]| {
        let mut roster = Roster::default();
        let snapshot = build(&mut roster, vips);
        snapshot.find_vip(&flow(80)).unwrap().fingerprint()
    };
    let one = fingerprint(&[vip(80, &[1, 2, 3])]);
    assert_eq!(one, fingerprint(&[vip(443, &[9, 8]), vip(80, &[3, 1, 2])]));
    assert_ne!(one, fingerprint(&[vip(80, &[1, 2])]));
    let mut by_client = vip(80, &[1, 2, 3]);
    by_client.hash = HashFields::SourceAddress;
    assert_ne!(one, fingerprint(&[by_client.clone()]));
    by_client.backends.truncate(1);
    assert_eq!(
        fingerprint(&[vip(80, &[1])]),
        fingerprint(&[by_client]),
        "one choice"
    );
    let mut drained = vip(80, &[1]);
    drained.backends[0].state = BackendState::Draining;
    assert_eq!(fingerprint(&[drained]), None);
}

#[test]
fn shares_are_of_a_vip_s_backends() {
    let mut roster = Roster::default();
    let mut web = vip(80, &[2, 1, 3]);
    web.backends[0].weight = 2;
    web.backends[2].weight = 0;
    let snapshot = build(&mut roster, &[vip(443, &[1]), web]);
    let web = snapshot.find_vip(&flow(80)).unwrap();
    let shares = [1, 2, 3].map(|number| web.share(index(number)));
    assert_eq!((shares[0] + shares[1], shares[2]), (251, 0), "{shares:?}");
    assert!(shares[0].abs_diff(2 * shares[1]) <= 2, "{shares:?}");
    assert_eq!(web.share(index(0)), 0, "of another VIP");
    assert_eq!(web.slots(), Some(251));
    let shares = [(index(2), shares[1]), (index(1), shares[0])];
    assert!(web.shares().eq(shares), "in the order of addresses");
}

/// What happens between control and two workers.
#[derive(Debug, Clone)]
enum Step {
    /// VIPs on these ports are configured.
    Configure(Vec<u16>),
    /// A worker adopts the latest snapshot.
    Adopt(usize),
    /// A worker drops a packet for one of the VIPs of its snapshot.
    Drop(usize, prop::sample::Index, DropReason),
}

fn step() -> impl Strategy<Value = Step> {
    let ports = prop::sample::subsequence(vec![1u16, 2, 3, 4, 5], 0..=5).prop_shuffle();
    let reason = prop::sample::select(DropReason::ALL.to_vec());
    prop_oneof![
        2 => ports.prop_map(Step::Configure),
        3 => (0..2usize).prop_map(Step::Adopt),
        5 => (0..2usize, any::<prop::sample::Index>(), reason)
            .prop_map(|(worker, vip, reason)| Step::Drop(worker, vip, reason)),
    ]
}

/// What a VIP should show: as long as it is configured, or may still be in use, nothing of it is forgotten.
#[derive(Debug, Default)]
struct Shown {
    drops: HashMap<DropReason, u64>,
    /// The epoch of the first snapshot without it.
    left: Option<u64>,
}

proptest! {
    /// Whatever is configured and adopted when: no VIP loses a count or gets one of another VIP.
    #[test]
    fn drops_stay_with_their_vip(steps in prop::collection::vec(step(), 0..60)) {
        let (mut roster, workers) = staffed();
        let mut latest = build(&mut roster, &[]);
        let mut adopted = [latest.clone(), latest.clone()];
        workers.iter().for_each(|worker| adopt(worker, &latest));
        let mut shown = HashMap::<u16, Shown>::new();
        let mut totals = HashMap::<DropReason, u64>::new();
        for step in steps {
            match step {
                Step::Configure(ports) => {
                    let oldest = adopted.iter().map(Snapshot::epoch).min().unwrap();
                    shown.retain(|_, vip| vip.left.is_none_or(|left| left > oldest));
                    let vips: Vec<_> = ports.iter().map(|&port| vip(port, &[1])).collect();
                    latest = build(&mut roster, &vips);
                    for (port, vip) in &mut shown {
                        let epoch = vip.left.unwrap_or(latest.epoch());
                        vip.left = (!ports.contains(port)).then_some(epoch);
                    }
                    for port in ports {
                        shown.entry(port).or_default();
                    }
                }
                Step::Adopt(worker) => {
                    adopt(&workers[worker], &latest);
                    adopted[worker] = latest.clone();
                }
                Step::Drop(worker, which, reason) => {
                    let vips = adopted[worker].vips();
                    if vips.is_empty() {
                        continue;
                    }
                    let vip = which.get(vips);
                    workers[worker].count_drops(Some(vip.seat), reason, 1);
                    *totals.entry(reason).or_default() += 1;
                    let PortMatch::Exact(port) = vip.service.port else { unreachable!() };
                    let shown = shown.get_mut(&port.get()).unwrap();
                    *shown.drops.entry(reason).or_default() += 1;
                }
            }
            let mut seats: Vec<_> = latest.vips().iter().map(|vip| vip.seat).collect();
            for vip in latest.vips() {
                let PortMatch::Exact(port) = vip.service.port else { unreachable!() };
                for reason in DropReason::ALL {
                    let expected = shown[&port.get()].drops.get(&reason).copied().unwrap_or(0);
                    prop_assert_eq!(roster.counters().vip_drops(vip.seat, reason), expected);
                }
            }
            seats.sort_unstable();
            seats.dedup();
            prop_assert_eq!(seats.len(), latest.vips().len());
        }
        for reason in DropReason::ALL {
            let total = totals.get(&reason).copied().unwrap_or(0);
            prop_assert_eq!(roster.counters().dropped(reason), total);
        }
    }
}
