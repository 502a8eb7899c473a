//! One packet after the other through a [`MemoryPipeline`], as a worker of `tunlb run` would take them
//! from its TUN. Bytes in, an answer and bytes out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::config::Config;
use crate::daemon::Totals;
use crate::daemon::pipeline::MemoryPipeline;
use crate::director::{Director, DropReason, Forward, Roster, Seat, Snapshot, Timestamp, Verdict};
use crate::packet::Packet;
use crate::site::{Paths, taken_for_healthy};

/// Keys the tables' hashes. Decisions do not depend on it, and nobody floods a replay.
const SEED: [u64; 4] = [0; 4];

/// A worker without a TUN, and the clock of the capture.
#[derive(Debug)]
pub(super) struct Core {
    snapshot: Arc<Snapshot>,
    roster: Roster,
    pipeline: MemoryPipeline,
    clock: Clock,
}

/// What became of a packet, in the words of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) verdict: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) vip: Option<&'a str>,
    pub(super) backend: Option<IpAddr>,
    /// Packets that left on account of it.
    pub(super) emitted: u64,
}

impl Core {
    /// # Errors
    /// What validation of the configuration would have refused.
    pub(super) fn new(config: &Config) -> Result<Self> {
        let mut roster = Roster::default();
        let snapshot =
            Paths::without_routes(config).snapshot(config, &mut roster, taken_for_healthy)?;
        let snapshot = Arc::new(snapshot);
        let seat = Seat {
            worker: 0,
            workers: 1,
            seed: SEED,
        };
        let director = Director::new(Arc::clone(&snapshot), &seat);
        roster.attach(Arc::clone(director.counters()));
        Ok(Self {
            roster,
            pipeline: MemoryPipeline::in_memory(director),
            snapshot,
            clock: Clock::default(),
        })
    }

    /// Sets the clock to a packet's timestamp. Returns the timestamp for what the packet causes:
    /// its own, else that of the packet before.
    pub(super) fn advance(&mut self, captured: Option<Duration>) -> Duration {
        self.clock.advance(captured)
    }

    /// Decides about a packet and hands what leaves on account of it to `emit`.
    ///
    /// # Errors
    /// Those of `emit`.
    pub(super) fn replay(
        &mut self,
        bytes: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Answer<'_>> {
        let passed = self.pipeline.pass(bytes, self.clock.now);
        for packet in &passed.emitted {
            emit(packet)?;
        }
        Ok(Answer {
            emitted: passed.emitted.len() as u64,
            ..self.answer(passed.verdict, bytes)
        })
    }

    /// What went where, so far.
    pub(super) fn totals(&self) -> Totals {
        Totals::new(&self.snapshot, self.roster.counters())
    }

    fn answer(&self, verdict: Verdict, bytes: &[u8]) -> Answer<'_> {
        match verdict {
            Verdict::Forward(forward) => forwarded(&self.snapshot, &forward),
            Verdict::Reply(_) => replied(&self.snapshot, bytes),
            Verdict::Hold => HELD,
            Verdict::Drop(reason) => dropped(reason),
        }
    }
}

const HELD: Answer<'_> = Answer {
    verdict: "hold",
    reason: None,
    vip: None,
    backend: None,
    emitted: 0,
};

const fn dropped(reason: DropReason) -> Answer<'static> {
    Answer {
        verdict: "drop",
        reason: Some(reason.name()),
        ..HELD
    }
}

fn forwarded<'a>(snapshot: &'a Snapshot, forward: &Forward) -> Answer<'a> {
    let backend = snapshot.backend(forward.backend);
    Answer {
        verdict: "forward",
        reason: None,
        vip: backend.map(|backend| snapshot.vip(backend.vip).name.as_str()),
        backend: backend.map(|backend| backend.address),
        ..HELD
    }
}

fn replied<'a>(snapshot: &'a Snapshot, bytes: &[u8]) -> Answer<'a> {
    let packet = Packet::parse(bytes).ok();
    let vip = packet.and_then(|packet| snapshot.addressed_vip(&packet));
    Answer {
        verdict: "reply",
        vip: vip.map(|vip| vip.name.as_str()),
        ..HELD
    }
}

/// Time of the core: since the first timestamp of the capture, never backwards.
#[derive(Debug, Default)]
struct Clock {
    first: Option<Duration>,
    last: Duration,
    now: Timestamp,
}

impl Clock {
    fn advance(&mut self, captured: Option<Duration>) -> Duration {
        if let Some(captured) = captured {
            let first = *self.first.get_or_insert(captured);
            let elapsed = Timestamp::after(captured.saturating_sub(first));
            self.now = self.now.max(elapsed);
            self.last = captured;
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_runs_backwards() {
        let seconds = Duration::from_secs;
        let mut clock = Clock::default();
        let mut now = |captured: Option<u64>| {
            let written = clock.advance(captured.map(seconds));
            (written, clock.now.since(Timestamp::START))
        };
        assert_eq!(now(None), (seconds(0), seconds(0)));
        assert_eq!(now(Some(100)), (seconds(100), seconds(0)));
        assert_eq!(now(Some(103)), (seconds(103), seconds(3)));
        assert_eq!(now(Some(101)), (seconds(101), seconds(3)));
        assert_eq!(now(None), (seconds(101), seconds(3)));
        assert_eq!(now(Some(50)), (seconds(50), seconds(3)));
        assert_eq!(now(Some(104)), (seconds(104), seconds(4)));
    }
}
