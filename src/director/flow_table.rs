//! The flow table: which backend an existing flow keeps.
//!
//! Bounded in number, never scanned, never rehashed as a whole: the work of one packet is bounded,
//! also while the table grows, shrinks or expires. It decides nothing about backends and reads no
//! clock.
//!
//! - An entry is one cache line ([`entry`](self::entry)), found through an index of linear hashing
//!   ([`index`](self::index)): a known flow's packet reads its bucket's head and, mostly, one line.
//! - Each class of entries ([`class`](self::class)) is a list in the order of filing
//!   ([`lists`](self::lists)). A packet writes only its own line; its entry is filed anew when its
//!   class changes, or when it was filed more than 1/64 of its idle timeout ago. So "the oldest"
//!   here is exact to 1/64 of the timeout; look-ups judge expiry by the last packet itself.
//! - A flow starts in a class that has a bounded part of the table. Only its second packet moves
//!   it on, so a flood of first packets (SYN flood, spoofed UDP) pushes out its like and what is
//!   closed, and no flow that lasts.

mod chunks;
mod class;
mod entry;
mod index;
mod lists;
mod slab;

use std::num::NonZeroUsize;
use std::sync::Arc;

use ahash::RandomState;

pub use class::FlowEvent;

use super::snapshot::BackendIndex;
use super::spec::FlowLimits;
use super::time::Timestamp;
use super::verdict::Counters;
use crate::packet::FlowKey;
use class::{Class, Tick, Timeouts};
use entry::{Entry, PackedKey};
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
        Self {
            index: Index::new(RandomState::with_seeds(a, b, c, d)),
            entries: Slab::new(),
            lists: Lists::new(),
            counters,
            bound: effective(limits.bound),
            timeouts: Timeouts::new(&limits.timeouts),
            expired_at: None,
        }
    }

    /// Takes other limits. Timeouts hold at once, for the flows in the table too; a smaller bound
    /// is reached by the evictions of further [`insert`](Self::insert)s, a few each.
    pub fn set_limits(&mut self, limits: FlowLimits) {
        self.bound = effective(limits.bound);
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
        let at = self.find(key)?;
        let now = Tick::at(now);
        let entry = &mut self.entries[at];
        let idle = now.since(entry.last_used);
        let reopens = entry.class.is_closed() && event.opens();
        if reopens || self.timeouts.is_over(entry.class, idle) {
            self.remove_at(at);
            return None;
        }
        entry.last_used = now;
        let (backend, class) = (entry.backend, entry.class.after(event));
        let filed = now.since(entry.filed);
        if class != entry.class || self.timeouts.is_misfiled(class, filed) {
            self.file(at, class, now);
        }
        Some(backend)
    }

    /// The backend of a known flow, whose entry stays as it is: for packets that are not the
    /// client's own.
    #[must_use]
    pub fn peek(&self, key: &FlowKey, now: Timestamp) -> Option<BackendIndex> {
        let entry = &self.entries[self.find(key)?];
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
        debug_assert!(self.find(&key).is_none(), "{key} is in the table");
        let (class, now) = (Class::first(event), Tick::at(now));
        self.make_room(class);
        let entry = Entry::new(&PackedKey::new(&key), class, backend, now);
        let at = self.entries.take(entry);
        self.lists.push(&mut self.entries, at, now);
        self.index.insert(&mut self.entries, at);
        self.counters.count_flow(backend);
    }

    /// Moves a known flow to another backend; its class and age stay.
    pub fn reassign(&mut self, key: &FlowKey, backend: BackendIndex) {
        if let Some(at) = self.find(key) {
            let entry = &mut self.entries[at];
            self.counters.uncount_flow(entry.backend);
            self.counters.count_flow(backend);
            entry.backend = backend;
        }
    }

    /// Forgets a flow.
    pub fn remove(&mut self, key: &FlowKey) {
        if let Some(at) = self.find(key) {
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
        for class in Class::ALL {
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

    fn find(&self, key: &FlowKey) -> Option<u32> {
        self.index.find(&self.entries, &PackedKey::new(key))
    }

    fn is_over(&self, at: u32, now: Tick) -> bool {
        let entry = &self.entries[at];
        self.timeouts
            .is_over(entry.class, now.since(entry.last_used))
    }

    /// Evicts until one more flow of the class fits both its part and the whole.
    fn make_room(&mut self, class: Class) {
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
            self.remove_at(at);
        }
    }

    fn remove_at(&mut self, at: u32) {
        self.lists.unlink(&mut self.entries, at);
        self.index.remove(&mut self.entries, at);
        self.counters.uncount_flow(self.entries[at].backend);
        self.entries.give(at);
    }

    fn file(&mut self, at: u32, class: Class, now: Tick) {
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
