use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::director::counters::Counters;
use crate::director::spec::{FlowLimits, FlowTimeouts};
use crate::director::{FlowEvent, Protocol};

const BACKEND: BackendIndex = BackendIndex::new(3);
const NOW: Timestamp = Timestamp::START;

fn table() -> FlowTable {
    let limits = FlowLimits {
        bound: NonZeroUsize::new(100_000).unwrap(),
        timeouts: FlowTimeouts::default(),
    };
    FlowTable::new(limits, [1, 2, 3, 4], Arc::new(Counters::new(4)))
}

fn flow(number: u32) -> FlowKey {
    FlowKey {
        source: Ipv4Addr::from_bits(number).into(),
        destination: Ipv4Addr::new(203, 0, 113, 10).into(),
        source_port: 40_000,
        destination_port: 53,
        protocol: Protocol::Udp,
    }
}

fn enter(table: &mut FlowTable, number: u32) {
    table.insert(flow(number), BACKEND, FlowEvent::Udp, NOW);
}

/// One step: at most `most` flows of at most `buckets` buckets.
fn step(
    table: &FlowTable,
    from: FlowCursor,
    buckets: u32,
    most: usize,
    met: &mut Vec<FlowKey>,
) -> Option<FlowCursor> {
    let before = met.len();
    table.visit(from, buckets, NOW, |flow| {
        if met.len() - before == most {
            return ControlFlow::Break(());
        }
        met.push(flow.key);
        ControlFlow::Continue(())
    })
}

#[test]
fn what_is_known_of_a_flow() {
    let mut table = table();
    let at = |millis| Timestamp::after(Duration::from_millis(millis));
    table.insert(flow(7), BACKEND, FlowEvent::Udp, at(1000));
    let mut met = Vec::new();
    let end = table.visit(FlowCursor::default(), 100, at(3500), |flow| {
        met.push(flow);
        ControlFlow::Continue(())
    });
    let expected = KnownFlow {
        key: flow(7),
        backend: BACKEND,
        class: FlowClass::FirstDatagram,
        idle: Duration::from_millis(2500),
    };
    assert_eq!((met, end), (vec![expected], None));
    let mut expired = 0;
    table.visit(FlowCursor::default(), 100, at(61_000), |_| {
        expired += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(expired, 0);
}

#[test]
fn cursors_as_text() {
    for (text, bucket, after) in [("0", 0, None), ("17", 17, None), ("17.4", 17, Some(4))] {
        let cursor = FlowCursor { bucket, after };
        assert_eq!(text.parse(), Ok(cursor));
        assert_eq!(cursor.to_string(), text);
    }
    for text in ["", ".", "1.", ".1", "-1", "4294967296", "1.2.3", "x"] {
        assert_eq!(text.parse::<FlowCursor>(), Err(NotACursor), "{text}");
    }
    let beyond = "4294967295.4294967295".parse().unwrap();
    assert_eq!(step(&table(), beyond, u32::MAX, 1, &mut Vec::new()), None);
}

proptest! {
    /// Whatever the steps are: every flow is met once, in steps no longer than asked for.
    #[test]
    fn all_flows_are_met_once(count in 0u32..600, buckets in 1u32..200, most in 1usize..40) {
        let mut table = table();
        (0..count).for_each(|number| enter(&mut table, number));
        let (mut met, mut cursor) = (Vec::new(), Some(FlowCursor::default()));
        while let Some(from) = cursor {
            let before = met.len();
            cursor = step(&table, from, buckets, most, &mut met);
            prop_assert!(met.len() - before <= most);
            prop_assert!(cursor != Some(from), "no step forward");
        }
        let once: HashSet<_> = met.iter().copied().collect();
        prop_assert_eq!(once.len(), met.len());
        prop_assert_eq!(once, (0..count).map(flow).collect::<HashSet<_>>());
    }

    /// Flows come and go between the steps, in a table that does not grow: those that stay are met once. In one
    /// that grows, at least once.
    #[test]
    fn flows_that_stay_are_met_once(
        changes in prop::collection::vec((any::<bool>(), 100u32..300), 0..300),
        buckets in 1u32..40,
        most in 1usize..9,
        grown in any::<bool>(),
    ) {
        let mut table = table();
        (0..300).for_each(|number| enter(&mut table, number));
        if !grown {
            (100..300).for_each(|number| table.remove(&flow(number)));
        }
        let (mut met, mut cursor) = (Vec::new(), Some(FlowCursor::default()));
        let mut changes = changes.into_iter();
        let mut further = 1000;
        while let Some(from) = cursor {
            cursor = step(&table, from, buckets, most, &mut met);
            for (enters, number) in changes.by_ref().take(5) {
                table.remove(&flow(number));
                if enters {
                    enter(&mut table, number);
                }
                if grown {
                    further += 1;
                    enter(&mut table, further);
                }
            }
        }
        let mut times = HashMap::<_, usize>::new();
        for key in met {
            *times.entry(key).or_default() += 1;
        }
        for number in 0..100 {
            let met = times.get(&flow(number)).copied().unwrap_or(0);
            prop_assert!(met == 1 || (grown && met > 1), "{} met {} times", number, met);
        }
    }
}
