//! The flow table: which backend an existing flow keeps.
//!
//! Bounded in number, never scanned, never rehashed as a whole: the work of one packet is bounded,
//! also while the table grows, shrinks or expires. It decides nothing about backends and reads no
//! clock.
//!
//! - An entry is one cache line ([`entry`](self::entry)), found through an index of linear hashing
//!   ([`index`](self::index)): a known flow's packet reads its bucket's head and, mostly, one line.
//! - Each class of entries ([`flow_class`](super::flow_class)) is a list in the order of filing
//!   ([`lists`](self::lists)). A packet writes only its own line; its entry is filed anew when its
//!   class changes, or when it was filed more than 1/64 of its idle timeout ago. So "the oldest"
//!   here is exact to 1/64 of the timeout; look-ups judge expiry by the last packet itself.
//! - A flow starts in a class that has a bounded part of the table. Only its second packet moves
//!   it on, so a flood of first packets (SYN flood, spoofed UDP) pushes out its like and what is
//!   closed, and no flow that lasts.

mod chunks;
mod entry;
mod index;
mod listing;
mod lists;
mod slab;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;

pub(super) use entry::NONE;
pub(super) use index::Sought;
pub use listing::{FlowCursor, KnownFlow, NotACursor};

use super::counters::Counters;
pub(super) use super::flow_class::Tick;
use super::flow_class::Timeouts;
pub use super::flow_class::{FlowClass, FlowEvent};
use super::indices::BackendIndex;
use super::spec::FlowLimits;
use super::time::Timestamp;
use crate::packet::{FlowKey, PackedFlow};
use entry::Entry;
use index::Index;
use lists::Lists;
use slab::Slab;

/// The part of the table that flows of one packet may fill, by protocol: one in this many.
const FIRST_PART: usize = 4;

/// What one insertion evicts at most: more than it adds, so a table above a lowered bound shrinks.
const EVICT_PER_INSERT: usize = 4;

/// The largest bound, so that places and buckets can be numbered in 32 bits.
const MAX_FLOWS: usize = 1 << 30;

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    index: Index,
    entries: Slab,
    lists: Lists,
    counters: Arc<Counters>,
    bound: usize,
    timeouts: Timeouts,
    /// Nothing more expires before the next tick.
    expired_at: Option<Tick>,
}

impl FlowTable {
    /// A table of at most `limits.bound` flows (and never more than 2³⁰), this worker's own bound.
    /// `seed` keys the index against chosen collisions; it changes no decision. The flows of each
    /// backend are counted in `counters`.
    #[must_use]
    pub fn new(limits: FlowLimits, seed: [u64; 4], counters: Arc<Counters>) -> Self {
        let [a, b, c, d] = seed;
        let bound = effective(limits.bound);
        counters.tell_flow_bound(bound);
        Self {
            index: Index::new(RandomState::with_seeds(a, b, c, d)),
            entries: Slab::new(),
            lists: Lists::new(),
            counters,
            bound,
            timeouts: Timeouts::new(&limits.timeouts),
            expired_at: None,
        }
    }

    /// Takes other limits. Timeouts hold at once, for the flows in the table too; a smaller bound
    /// is reached by the evictions of further [`insert`](Self::insert)s, a few each.
    pub fn set_limits(&mut self, limits: FlowLimits) {
        self.bound = effective(limits.bound);
        self.counters.tell_flow_bound(self.bound);
        self.timeouts = Timeouts::new(&limits.timeouts);
        self.expired_at = None;
    }

    /// Flows in the table.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the table holds no flow.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory the table holds, in bytes. It grows with the flows and is kept when they leave.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        size_of::<Self>() + self.entries.bytes() + self.index.bytes()
    }

    /// The backend of a known flow, whose entry this packet refreshes.
    ///
    /// `None` for an unknown or expired flow, and for a SYN that reuses the ports of a closed
    /// one: the caller chooses anew and [`insert`](Self::insert)s.
    pub fn lookup(
        &mut self,
        key: &FlowKey,
        event: FlowEvent,
        now: Timestamp,
    ) -> Option<BackendIndex> {
        let now = Tick::at(now);
        let known = self.known(self.find(&self.seek(key))?, event, now);
        if known.is_over {
            self.remove_at(known.at);
            return None;
        }
        self.refresh(known.at, event, now);
        Some(known.backend)
    }

    /// The backend of a known flow, whose entry stays as it is: for packets that are not the
    /// client's own.
    #[must_use]
    pub fn peek(&self, key: &FlowKey, now: Timestamp) -> Option<BackendIndex> {
        let entry = &self.entries[self.find(&self.seek(key))?];
        let idle = Tick::at(now).since(entry.last_used);
        (!self.timeouts.is_over(entry.class, idle)).then_some(entry.backend)
    }

    /// Enters a flow that [`lookup`](Self::lookup) did not find, which is not looked for again, by
    /// its first packet; where the table is full, the oldest entry of the part it belongs to makes
    /// room.
    pub fn insert(
        &mut self,
        key: FlowKey,
        backend: BackendIndex,
        event: FlowEvent,
        now: Timestamp,
    ) {
        self.enter(&self.seek(&key), (backend, 0), event, Tick::at(now));
    }

    /// Moves a known flow to another backend; its class and age stay.
    pub fn reassign(&mut self, key: &FlowKey, backend: BackendIndex) {
        if let Some(at) = self.find(&self.seek(key)) {
            self.settle(at, (backend, 0));
        }
    }

    /// Forgets a flow.
    pub fn remove(&mut self, key: &FlowKey) {
        if let Some(at) = self.find(&self.seek(key)) {
            self.remove_at(at);
        }
    }

    /// Drops expired entries, at most `budget` of them, oldest first; returns how many.
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        let now = Tick::at(now);
        if self.expired_at == Some(now) {
            return 0;
        }
        let mut expired = 0;
        for class in FlowClass::ALL {
            while let Some(at) = self.lists.oldest(class)
                && self.is_over(at, now)
            {
                if expired == budget {
                    return expired;
                }
                self.remove_at(at);
                expired += 1;
            }
        }
        self.expired_at = Some(now);
        expired
    }
}

/// A flow that the table has an entry of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Its place.
    pub(super) at: u32,
    pub(super) backend: BackendIndex,
    /// It expired, or the packet is a SYN that reuses the ports of a closed one: to be
    /// [removed](FlowTable::remove_at).
    pub(super) is_over: bool,
}

/// Looked up in steps, for the director: each step of a burst reads one array for all packets, so that the
/// cache misses of one overlap with those of the others.
impl FlowTable {
    /// Packs and hashes a key: nothing of the table is read.
    pub(super) fn seek(&self, key: &FlowKey) -> Sought {
        self.index.seek(key)
    }

    /// Hashes a key.
    pub(super) fn seek_packed(&self, flow: PackedFlow) -> Sought {
        self.index.seek_packed(flow)
    }

    /// Reads the bucket's head: where the entry is, mostly.
    pub(super) fn head(&self, sought: &Sought) -> u32 {
        self.index.head(sought)
    }

    /// Reads the entries of the bucket that begins with `head`. Where the flow's is ([`NONE`]: nowhere), and its
    /// backend; a hint as soon as another packet is decided.
    pub(super) fn follow(&self, head: u32, sought: &Sought) -> (u32, BackendIndex) {
        match Index::follow(&self.entries, head, sought) {
            Some(at) => (at, self.entries[at].backend),
            None => (NONE, BackendIndex::new(0)),
        }
    }

    /// A packet of a flow that goes on as before, the rule, in one look at its entry: that is at `hint`, is not
    /// over, and its backend was found by the services of `generation` and `keeps` the flow. `None`, and nothing
    /// is changed, where one of these does not hold.
    #[inline]
    pub(super) fn pass(
        &mut self,
        (hint, sought): (u32, &Sought),
        (event, now): (FlowEvent, Tick),
        generation: u16,
        keeps: impl FnOnce(BackendIndex) -> bool,
    ) -> Option<BackendIndex> {
        let entry = self.entries.get_mut(hint)?;
        let backend = entry.backend;
        let goes_on = entry.is_of(&sought.flow)
            && entry.generation == generation
            && !entry.is_over(event, now, &self.timeouts)
            && keeps(backend);
        if !goes_on {
            return None;
        }
        if let Some(class) = entry.refresh(event, now, &self.timeouts) {
            self.file(hint, class, now);
        }
        Some(backend)
    }

    /// Where the flow is: at the place of the hint, if that still holds.
    pub(super) fn find_by(&self, hint: u32, sought: &Sought) -> Option<u32> {
        if hint != NONE && self.entries[hint].is_of(&sought.flow) {
            return Some(hint);
        }
        self.find(sought)
    }

    pub(super) fn find(&self, sought: &Sought) -> Option<u32> {
        Index::follow(&self.entries, self.head(sought), sought)
    }

    /// What the entry at a place means for a packet.
    pub(super) fn known(&self, at: u32, event: FlowEvent, now: Tick) -> Known {
        let entry = &self.entries[at];
        Known {
            at,
            backend: entry.backend,
            is_over: entry.is_over(event, now, &self.timeouts),
        }
    }

    /// A packet of the flow went by.
    pub(super) fn refresh(&mut self, at: u32, event: FlowEvent, now: Tick) {
        if let Some(class) = self.entries[at].refresh(event, now, &self.timeouts) {
            self.file(at, class, now);
        }
    }

    /// The flow is with this backend, by the services of that generation.
    pub(super) fn settle(&mut self, at: u32, (backend, generation): (BackendIndex, u16)) {
        let entry = &mut self.entries[at];
        entry.generation = generation;
        if entry.backend != backend {
            self.counters.move_flow(entry.backend, backend);
            entry.backend = backend;
        }
    }

    /// Enters a flow that has no entry.
    pub(super) fn enter(
        &mut self,
        sought: &Sought,
        (backend, generation): (BackendIndex, u16),
        event: FlowEvent,
        now: Tick,
    ) {
        debug_assert!(self.find(sought).is_none(), "{sought:?} is in the table");
        let class = FlowClass::first(event);
        self.make_room(class);
        let entry = Entry::new(&sought.flow, class, (backend, generation), now);
        let at = self.entries.take(entry);
        self.lists.push(&mut self.entries, at, now);
        self.index.insert(&mut self.entries, at);
        self.counters.count_flow(backend);
    }

    /// Forgets the flow at a place.
    pub(super) fn remove_at(&mut self, at: u32) {
        self.lists.unlink(&mut self.entries, at);
        self.index.remove(&mut self.entries, at);
        self.counters.uncount_flow(self.entries[at].backend);
        self.entries.give(at);
    }
}

impl FlowTable {
    /// Whether a flow of that class would be expired, after so long without a packet.
    pub(super) fn is_past(&self, class: FlowClass, idle: Duration) -> bool {
        let idle = Tick::at(Timestamp::after(idle)).since(Tick::at(Timestamp::START));
        self.timeouts.is_over(class, idle)
    }

    fn is_over(&self, at: u32, now: Tick) -> bool {
        let entry = &self.entries[at];
        self.timeouts
            .is_over(entry.class, now.since(entry.last_used))
    }

    /// Evicts until one more flow of the class fits both its part and the whole.
    fn make_room(&mut self, class: FlowClass) {
        let part = (self.bound / FIRST_PART).max(1);
        for _ in 0..EVICT_PER_INSERT {
            let victim = if self.lists.len(class) >= part {
                self.lists.oldest(class)
            } else if self.len() >= self.bound {
                let victims = class.victims().into_iter();
                victims.filter_map(|class| self.lists.oldest(class)).next()
            } else {
                None
            };
            let Some(at) = victim else { return };
            self.counters.count_eviction(self.entries[at].class);
            self.remove_at(at);
        }
    }

    #[inline(never)] // seldom, beside each packet's `refresh`
    fn file(&mut self, at: u32, class: FlowClass, now: Tick) {
        let entry = &self.entries[at];
        if entry.class == FlowClass::HalfOpen && class != entry.class {
            self.counters.count_established(entry.backend);
        }
        self.lists.unlink(&mut self.entries, at);
        self.entries[at].class = class;
        self.lists.push(&mut self.entries, at, now);
    }
}

fn effective(bound: NonZeroUsize) -> usize {
    bound.get().min(MAX_FLOWS)
}

#[cfg(test)]
mod tests;
