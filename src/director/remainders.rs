//! What is left of packets whose first fragment left in its own frame: it follows in the order of the
//! packets, as frames are free.
//!
//! The worker reads nothing while something is left, so this holds the packets of one burst at most.

use std::collections::VecDeque;

use super::verdict::Target;
use crate::packet::{BURST, Fragmentation};

/// Bytes kept without an allocation: of a burst of Ethernet's longest packets. Longer ones make it grow, once.
const ROOM: usize = BURST * 1500;

/// The rest of some packets.
#[derive(Debug)]
pub(super) struct Remainders {
    queue: VecDeque<(Target, Fragmentation)>,
    /// The data of all of them, one behind the other.
    data: Vec<u8>,
    /// How much of it left.
    gone: usize,
}

impl Remainders {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(2 * BURST),
            data: Vec::with_capacity(ROOM),
            gone: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keeps the rest of a packet.
    pub(super) fn push(&mut self, target: Target, fragmentation: Fragmentation, rest: &[u8]) {
        self.data.extend_from_slice(rest);
        self.queue.push_back((target, fragmentation));
    }

    /// The next fragment, written to the start of `room`, with its length.
    pub(super) fn take(&mut self, room: &mut [u8]) -> Option<(Target, usize)> {
        let (target, fragmentation) = self.queue.front_mut()?;
        let left = self.data.get(self.gone..).unwrap_or_default();
        let (length, taken) = fragmentation.next(left, room)?;
        let fragment = (*target, length);
        self.gone += taken;
        if fragmentation.is_done() {
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.data.clear();
            self.gone = 0;
        }
        Some(fragment)
    }
}
