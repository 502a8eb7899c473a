//! What runs on which CPU. Rings are built on all of them: with thousands of VIPs that have backends of their own,
//! they are nearly all the time of a start or a reload.

use std::io;
use std::thread;

use crate::director::{Ring, RingTask};
use crate::io::sys::pin_to_cpu;

/// A thread is worth it from this many rings on, at up to a millisecond each.
const FEWEST_PER_THREAD: usize = 8;

/// Builds rings, in the order of the tasks.
pub(super) fn build_rings(tasks: &[RingTask<'_>]) -> Vec<Option<Ring>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = tasks.len().div_ceil(threads).max(FEWEST_PER_THREAD);
    thread::scope(|scope| {
        let in_turn = |tasks: &[RingTask<'_>]| tasks.iter().map(RingTask::build).collect();
        let parts: Vec<_> = tasks
            .chunks(part)
            .map(|tasks| scope.spawn(move || -> Vec<_> { in_turn(tasks) }))
            .collect();
        let built = parts.into_iter().map(thread::ScopedJoinHandle::join);
        built
            .flat_map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Has this thread run on that CPU alone, where one is given.
pub(super) fn pin(cpu: Option<u16>) -> io::Result<()> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    pin_to_cpu(cpu).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot pin a worker to CPU {cpu}: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Flags};
    use crate::director::Roster;
    use crate::site::{Paths, taken_for_healthy};

    /// Each VIP still has the ring of its own backends.
    #[test]
    fn rings_of_many_vips() {
        let vips = (1..100)
            .map(|port| format!("10.0.0.100:{port}/tcp"))
            .collect();
        let backends = ["10.0.1.11", "10.0.1.12"].map(str::to_owned).into();
        let mut config = Config::from_flags(&Flags {
            vips,
            backends,
            ..Flags::default()
        })
        .unwrap();
        for (weight, vip) in (1..).zip(&mut config.vips) {
            vip.backends[0].weight = weight;
        }
        let snapshot = |mut roster: Roster| {
            let paths = Paths::without_routes(&config);
            let snapshot = paths
                .snapshot(&config, &mut roster, taken_for_healthy)
                .unwrap();
            assert_eq!(roster.rings(), 99);
            snapshot
        };
        let (alone, threaded) = (
            snapshot(Roster::default()),
            snapshot(Roster::building_by(build_rings)),
        );
        for vip in config.vips.iter().map(|vip| &vip.name) {
            let flow = crate::packet::FlowKey {
                source: [192, 0, 2, 1].into(),
                destination: [10, 0, 0, 100].into(),
                source_port: 40_000,
                destination_port: vip.split([':', '/']).nth(1).unwrap().parse().unwrap(),
                protocol: crate::director::Protocol::Tcp,
            };
            let choice = |snapshot: &crate::director::Snapshot| {
                snapshot.choose(snapshot.find_vip(&flow).unwrap(), &flow)
            };
            assert_eq!(choice(&alone), choice(&threaded), "{vip}");
        }
    }
}
