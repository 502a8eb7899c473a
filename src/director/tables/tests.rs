use super::*;
use crate::director::{
    AllDown, BackendSpec, FlowLimits, HashKey, Health, Plan, PortMatch, Protocol, RingSize, Roster,
    VipSpec,
};
use crate::packet::{EncapKind, SourceRule};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::num::{NonZeroU8, NonZeroU16};

/// A backend: last byte of its address, state, weight, whether it is healthy.
type Host = (u8, u8, u16, bool);

/// Backends of VIPs by port, and whether they are all tunnelled in GUE.
type Site = (BTreeMap<u16, Vec<Host>>, bool);

fn site() -> impl Strategy<Value = Site> {
    let host = (1..6_u8, 0..4_u8, 0..3_u16, any::<bool>());
    let hosts = prop::collection::vec(host, 1..5).prop_map(|mut hosts| {
        hosts.sort_unstable();
        hosts.dedup_by_key(|(last, ..)| *last);
        hosts
    });
    (
        prop::collection::btree_map(0..4_u16, hosts, 1..4),
        any::<bool>(),
    )
}

fn vips((services, gue): &Site) -> Vec<VipSpec> {
    let kind = match gue {
        true => EncapKind::Gue {
            port: NonZeroU16::new(6080).unwrap(),
        },
        false => EncapKind::Ipip,
    };
    let backend = |&(last, state, weight, _): &Host| BackendSpec {
        address: [10, 0, 1, last].into(),
        weight,
        state: match state {
            0 => BackendState::Draining,
            1 => BackendState::Disabled,
            _ => BackendState::Active,
        },
    };
    let vip = |(&port, hosts): (&u16, &Vec<Host>)| VipSpec {
        name: format!("vip-{port}-{}", hosts.len()),
        address: Ipv4Addr::new(203, 0, 113, 10).into(),
        port: NonZeroU16::new(port).map_or(PortMatch::Any, PortMatch::Exact),
        protocol: Protocol::Tcp,
        hash: HashFields::FiveTuple,
        echo: Echo::Reply,
        mss: Mss::Keep,
        all_down: AllDown::Drop,
        min_healthy: 0,
        probing: None,
        new_flows_per_second: NonZeroU32::new(port.into()),
        encap: kind,
        backends: hosts.iter().map(backend).collect(),
    };
    services.iter().map(vip).collect()
}

/// How a snapshot follows the one before.
enum Step<'a> {
    Build,
    /// Only the health of the VIPs at these positions changed.
    Refresh(&'a [VipIndex]),
}

fn follow(roster: &mut Roster, site: &Site, step: &Step<'_>) -> Snapshot {
    let vips = vips(site);
    let plan = Plan {
        vips: &vips,
        hash_key: HashKey::DEFAULT,
        ring_size: RingSize::new(251).unwrap(),
        flows: FlowLimits::default(),
    };
    let health = |vip: &VipSpec, backend: IpAddr| {
        let hosts = site
            .0
            .values()
            .zip(&vips)
            .find(|(_, spec)| spec.name == vip.name);
        let is_healthy = hosts.is_some_and(|(hosts, _)| {
            let host = |&&(last, ..): &&Host| IpAddr::from([10, 0, 1, last]) == backend;
            hosts
                .iter()
                .find(host)
                .is_some_and(|&(.., healthy)| healthy)
        });
        if is_healthy {
            Health::Healthy
        } else {
            Health::Unhealthy
        }
    };
    let tunnel = |vip: &VipSpec, backend| {
        let source = SourceRule::Fixed([10, 0, 0, 2].into());
        Encap::new(vip.encap, source, backend, NonZeroU8::new(64).unwrap())
    };
    match step {
        Step::Build => roster.build(&plan, health, tunnel).unwrap(),
        Step::Refresh(changed) => roster.refresh(&plan, changed, health, tunnel).unwrap(),
    }
}

/// Rows refer to rows that are there.
fn assert_whole(tables: &Tables) {
    for row in tables.vips.values() {
        assert!(row.ring.is_none_or(|ring| tables.rings.contains_key(&ring)));
        let backends = &tables.backends;
        assert!(
            row.members
                .iter()
                .all(|member| backends.contains_key(member))
        );
    }
    for index in tables.backends.keys() {
        assert!(tables.tunnels.contains_key(&index.tunnel()));
    }
}

/// With rings in the place of their numbers, which depend on how a snapshot came about.
fn unnumbered(snapshot: &Snapshot) -> impl PartialEq + std::fmt::Debug + use<> {
    let Tables {
        vips,
        rings,
        backends,
        tunnels,
    } = snapshot.tables();
    let rows: Vec<_> = snapshot
        .vips()
        .iter()
        .map(|vip| {
            let row = &vips[&vip.service];
            let ring = row.ring.map(|ring| Arc::clone(&rings[&ring]));
            (
                vip.service,
                VipRow {
                    ring: None,
                    ..row.clone()
                },
                ring,
            )
        })
        .collect();
    (rows, backends, tunnels)
}

proptest! {
    #[test]
    fn updates_turn_one_snapshots_tables_into_anothers(sites in prop::collection::vec(site(), 2..6)) {
        let mut roster = Roster::default();
        let snapshots: Vec<_> = sites
            .iter()
            .map(|site| follow(&mut roster, site, &Step::Build))
            .collect();
        for before in &snapshots {
            for after in &snapshots {
                let mut tables = before.tables();
                for update in after.updates_since(Some(before)) {
                    let earlier = tables.clone();
                    tables.apply(update);
                    prop_assert_ne!(&tables, &earlier, "an update without effect");
                    assert_whole(&tables);
                }
                prop_assert_eq!(&tables, &after.tables());
            }
        }
    }

    #[test]
    fn a_refresh_is_as_good_as_a_build(site in site(), health in prop::collection::vec(any::<bool>(), 20..21)) {
        let (mut built, mut refreshed) = (Roster::default(), Roster::default());
        let mut changed = site.clone();
        follow(&mut built, &site, &Step::Build);
        let before = follow(&mut refreshed, &site, &Step::Build);
        let hosts = changed.0.values_mut().flatten();
        for ((.., healthy), becomes) in hosts.zip(health) {
            *healthy = becomes;
        }
        let all: Vec<_> = before.vips().iter().map(|vip| vip.index).collect();
        let built = follow(&mut built, &changed, &Step::Build);
        let after = follow(&mut refreshed, &changed, &Step::Refresh(&all));
        prop_assert_eq!(unnumbered(&after), unnumbered(&built));
        prop_assert_eq!(after.epoch(), built.epoch());
        prop_assert_eq!(after.generation(), before.generation());
    }
}

/// One backend's health among many VIPs is one VIP's rows, one backend's row and a ring each.
#[test]
fn one_change_is_a_short_list() {
    let hosts = |last| vec![(last, 2, 1, true), (last + 1, 2, 1, true)];
    let site: Site = ((1..100).map(|port| (port, hosts(1))).collect(), false);
    let mut roster = Roster::default();
    let before = follow(&mut roster, &site, &Step::Build);
    let mut changed = site.clone();
    changed.0.get_mut(&7).unwrap()[0].3 = false;
    let after = follow(&mut roster, &changed, &Step::Refresh(&[VipIndex::at(6)]));
    let updates = after.updates_since(Some(&before));
    assert_eq!(updates.len(), 3, "{updates:?}");
    let back = follow(&mut roster, &site, &Step::Refresh(&[VipIndex::at(6)]));
    assert_eq!(back.updates_since(Some(&before)), [], "the ring was kept");
    assert_eq!(roster.rings(), 2);
}
