//! The flow table: which backend an existing flow keeps.
//!
//! Bounded in number and never scanned. Entries live in a slab, found by an ahash index; each
//! class of entries (see [`Class`]) is a list in the order of last use. Within a class the idle
//! timeout is one, so that order is also the order of expiry: the oldest expire from the front, a
//! few per call.
//!
//! A flow starts in the class [`Class::Fresh`], which has a bound of its own. Only its second
//! packet moves it on, so a flood of first packets (SYN flood, spoofed UDP) pushes out other
//! first packets and no flow that lasts.

use super::{Counters, FlowLimits};

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use hashbrown::HashTable;

use super::snapshot::BackendIndex;
use super::time::Timestamp;
use crate::packet::{FlowKey, TcpFlags};

/// The part of the table that flows of one packet may fill: one in this many.
const FRESH_PART: usize = 4;

/// The life of a flow as one side of it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// One packet seen, or only SYNs.
    Fresh,
    /// TCP with more than a SYN.
    Established,
    /// TCP after a FIN of the client.
    Closing,
    /// TCP after a RST of the client.
    Reset,
    /// UDP with more than one packet.
    Udp,
}

impl Class {
    /// In the order in which a full table gives them up.
    const ALL: [Self; 5] = [
        Self::Reset,
        Self::Closing,
        Self::Fresh,
        Self::Udp,
        Self::Established,
    ];

    /// How long an entry of this class lives without a packet. Established is below the
    /// 2 h 4 min that RFC 5382 asks of NATs: a forgotten flow falls back to the ring, where it
    /// finds the same backend unless the set changed.
    const fn idle_timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Fresh => 30,
            Self::Established => 15 * 60,
            Self::Closing | Self::Udp => 60,
            Self::Reset => 10,
        })
    }

    /// The class after another packet of the flow.
    const fn after(self, event: FlowEvent) -> Self {
        match event {
            FlowEvent::Udp => Self::Udp,
            FlowEvent::Tcp(flags) if flags.rst => Self::Reset,
            FlowEvent::Tcp(flags) if flags.fin => Self::Closing,
            FlowEvent::Tcp(flags) if flags.opens => self,
            FlowEvent::Tcp(_) => match self {
                Self::Fresh | Self::Established | Self::Udp => Self::Established,
                Self::Closing | Self::Reset => self,
            },
        }
    }
}

/// What a packet says of its flow's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEvent {
    /// A TCP segment with these flags.
    Tcp(TcpFlags),
    /// A UDP datagram.
    Udp,
}

impl FlowEvent {
    const fn opens(self) -> bool {
        matches!(self, Self::Tcp(flags) if flags.opens)
    }
}

/// No entry; the end of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: FlowKey,
    last_used: Timestamp,
    backend: BackendIndex,
    newer: u32,
    older: u32,
    class: Class,
}

/// Entries of one class in the order of last use.
#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
    length: usize,
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    index: HashTable<u32>,
    hasher: RandomState,
    entries: Vec<Entry>,
    free: Vec<u32>,
    lists: [List; 5],
    bound: usize,
    counters: Arc<Counters>,
}

impl FlowTable {
    /// A table of at most `bound` flows (and never more than 2³² − 1). `seed` keys the in-memory
    /// index against chosen collisions; it changes no decision.
    #[must_use]
    pub fn new(limits: FlowLimits, seed: [u64; 4], counters: Arc<Counters>) -> Self {
        let bound = limits.bound;
        let [a, b, c, d] = seed;
        Self {
            index: HashTable::new(),
            hasher: RandomState::with_seeds(a, b, c, d),
            entries: Vec::new(),
            free: Vec::new(),
            lists: [List {
                oldest: NONE,
                newest: NONE,
                length: 0,
            }; 5],
            bound: bound.get().min(NONE as usize),
            counters,
        }
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether the table holds no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
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
        let Entry {
            class,
            last_used,
            backend,
            ..
        } = self.entries[at as usize];
        let closed = matches!(class, Class::Closing | Class::Reset);
        if now.since(last_used) >= class.idle_timeout() || (closed && event.opens()) {
            self.remove_at(at);
            return None;
        }
        self.unlink(at);
        self.push(at, class.after(event), now);
        Some(backend)
    }

    /// The backend of a known flow, whose entry stays as it is: for packets that are not the
    /// client's own.
    #[must_use]
    pub fn peek(&self, key: &FlowKey, now: Timestamp) -> Option<BackendIndex> {
        let entry = &self.entries[self.find(key)? as usize];
        (now.since(entry.last_used) < entry.class.idle_timeout()).then_some(entry.backend)
    }

    /// Enters a flow that [`lookup`](Self::lookup) did not find; where the table is full, the
    /// oldest entry of the part it belongs to makes room.
    pub fn insert(
        &mut self,
        key: FlowKey,
        backend: BackendIndex,
        _event: FlowEvent,
        now: Timestamp,
    ) {
        self.counters.count_flow(backend);
        if let Some(at) = self.find(&key) {
            self.remove_at(at);
        }
        self.make_room();
        let entry = Entry {
            key,
            last_used: now,
            backend,
            newer: NONE,
            older: NONE,
            class: Class::Fresh,
        };
        let at = self.store(entry);
        let Self {
            index,
            hasher,
            entries,
            ..
        } = self;
        index.insert_unique(hasher.hash_one(key), at, |&other| {
            hasher.hash_one(entries[other as usize].key)
        });
        self.push(at, Class::Fresh, now);
    }

    /// Moved.
    pub fn reassign(&mut self, key: &FlowKey, backend: BackendIndex) {
        if let Some(at) = self.find(key) {
            let entry = &mut self.entries[at as usize];
            self.counters.uncount_flow(entry.backend);
            self.counters.count_flow(backend);
            entry.backend = backend;
        }
    }

    /// Limits.
    pub fn set_limits(&mut self, limits: FlowLimits) {
        self.bound = limits.bound.get();
    }

    /// Forgets a flow.
    pub fn remove(&mut self, key: &FlowKey) {
        if let Some(at) = self.find(key) {
            self.remove_at(at);
        }
    }

    /// Drops expired entries, at most `budget` of them, oldest first; returns how many.
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        let mut expired = 0;
        for class in Class::ALL {
            while expired < budget
                && let Some(at) = self.oldest(class)
                && now.since(self.entries[at as usize].last_used) >= class.idle_timeout()
            {
                self.remove_at(at);
                expired += 1;
            }
        }
        expired
    }

    fn find(&self, key: &FlowKey) -> Option<u32> {
        self.index
            .find(self.hasher.hash_one(key), |&at| {
                self.entries[at as usize].key == *key
            })
            .copied()
    }

    fn oldest(&self, class: Class) -> Option<u32> {
        Some(self.lists[class as usize].oldest).filter(|&at| at != NONE)
    }

    /// Evicts until one more fresh flow fits both its part and the whole.
    fn make_room(&mut self) {
        let fresh_bound = (self.bound / FRESH_PART).max(1);
        if self.lists[Class::Fresh as usize].length >= fresh_bound
            && let Some(at) = self.oldest(Class::Fresh)
        {
            self.remove_at(at);
        }
        if self.len() >= self.bound
            && let Some(at) = Class::ALL.into_iter().find_map(|class| self.oldest(class))
        {
            self.remove_at(at);
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the bound keeps every position below NONE"
    )]
    fn store(&mut self, entry: Entry) -> u32 {
        if let Some(at) = self.free.pop() {
            self.entries[at as usize] = entry;
            return at;
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    fn remove_at(&mut self, at: u32) {
        self.counters
            .uncount_flow(self.entries[at as usize].backend);
        self.unlink(at);
        let hash = self.hasher.hash_one(self.entries[at as usize].key);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.free.push(at);
    }

    /// Takes an entry out of its class's list.
    fn unlink(&mut self, at: u32) {
        let Entry {
            newer,
            older,
            class,
            ..
        } = self.entries[at as usize];
        let list = &mut self.lists[class as usize];
        list.length -= 1;
        if newer == NONE {
            list.newest = older;
        }
        if older == NONE {
            list.oldest = newer;
        }
        if newer != NONE {
            self.entries[newer as usize].older = older;
        }
        if older != NONE {
            self.entries[older as usize].newer = newer;
        }
    }

    /// Makes an unlinked entry the newest of `class`.
    fn push(&mut self, at: u32, class: Class, now: Timestamp) {
        let list = &mut self.lists[class as usize];
        let older = list.newest;
        list.newest = at;
        list.length += 1;
        if older == NONE {
            list.oldest = at;
        } else {
            self.entries[older as usize].newer = at;
        }
        let entry = &mut self.entries[at as usize];
        entry.class = class;
        entry.last_used = now;
        entry.older = older;
        entry.newer = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;
    use std::num::NonZeroUsize;

    const ACK: FlowEvent = tcp(false, false, false);
    const SYN: FlowEvent = tcp(true, false, false);
    const FIN: FlowEvent = tcp(false, true, false);
    const RST: FlowEvent = tcp(false, false, true);

    const fn tcp(opens: bool, fin: bool, rst: bool) -> FlowEvent {
        FlowEvent::Tcp(TcpFlags { opens, fin, rst })
    }

    fn flow(number: u32) -> FlowKey {
        FlowKey {
            source: Ipv4Addr::from_bits(number).into(),
            destination: Ipv4Addr::new(203, 0, 113, 10).into(),
            source_port: 40_000,
            destination_port: 80,
            protocol: Protocol::Tcp,
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::after(Duration::from_secs(seconds))
    }

    fn table(bound: usize) -> FlowTable {
        FlowTable::new(
            FlowLimits {
                bound: NonZeroUsize::new(bound).unwrap(),
                ..Default::default()
            },
            [1, 2, 3, 4],
            Arc::new(Counters::new(65536)),
        )
    }

    const A: BackendIndex = BackendIndex::new(7);

    #[test]
    fn idle_timeouts() {
        for (event, lives, dies) in [
            (SYN, 29, 30),
            (ACK, 899, 900),
            (FIN, 59, 60),
            (RST, 9, 10),
            (FlowEvent::Udp, 59, 60),
        ] {
            for (seconds, expected) in [(lives, Some(A)), (dies, None)] {
                let mut table = table(10);
                table.insert(flow(1), A, ACK, at(0));
                assert_eq!(table.lookup(&flow(1), event, at(1)), Some(A));
                assert_eq!(
                    table.lookup(&flow(1), ACK, at(1 + seconds)),
                    expected,
                    "{event:?} then {seconds} s"
                );
            }
        }
    }

    #[test]
    fn a_syn_after_the_close_is_a_new_flow() {
        for close in [FIN, RST] {
            let mut table = table(10);
            table.insert(flow(1), A, ACK, at(0));
            table.lookup(&flow(1), close, at(1));
            assert_eq!(
                table.lookup(&flow(1), ACK, at(2)),
                Some(A),
                "late acknowledgement"
            );
            assert_eq!(table.lookup(&flow(1), SYN, at(3)), None);
        }
    }

    #[test]
    fn a_flood_of_first_packets_pushes_out_no_lasting_flow() {
        let mut table = table(1000);
        for number in 0..700 {
            table.insert(flow(number), A, ACK, at(0));
            table.lookup(&flow(number), ACK, at(0));
        }
        for number in 10_000..60_000 {
            table.insert(flow(number), A, ACK, at(1));
        }
        assert!((0..700).all(|number| table.lookup(&flow(number), ACK, at(2)) == Some(A)));
        assert_eq!(table.len(), 950);
    }

    #[test]
    fn a_full_table_gives_up_its_oldest() {
        let mut table = table(8);
        for number in 0..9 {
            table.insert(flow(number), A, ACK, at(number.into()));
            table.lookup(&flow(number), ACK, at(number.into()));
        }
        assert_eq!(table.len(), 8);
        assert_eq!(table.lookup(&flow(0), ACK, at(10)), None);
        assert_eq!(table.lookup(&flow(1), ACK, at(10)), Some(A));
    }

    #[test]
    fn expiry_is_bounded_per_call() {
        let mut table = table(1000);
        for number in 0..100 {
            table.insert(flow(number), A, ACK, at(0));
        }
        assert_eq!(table.expire(at(29), 10), 0);
        assert_eq!(table.expire(at(30), 10), 10);
        assert_eq!(table.expire(at(30), 1000), 90);
        assert!(table.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Packet(u32, FlowEvent, u16),
        Forget(u32),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let event = prop::sample::select(vec![SYN, ACK, FIN, RST, FlowEvent::Udp]);
        prop_oneof![
            8 => (0u32..20, event, any::<u16>()).prop_map(|(f, e, b)| Step::Packet(f, e, b)),
            1 => (0u32..20).prop_map(Step::Forget),
            1 => (0u64..40).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Whatever happens: what it finds is what was last entered, the bound holds, and lists,
        /// index and slab agree.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec(step(), 0..200), bound in 1usize..40) {
            let (mut table, mut model, mut now) = (table(bound), HashMap::new(), 0);
            for step in steps {
                match step {
                    Step::Packet(number, event, backend) => {
                        let found = table.lookup(&flow(number), event, at(now));
                        if let Some(found) = found {
                            prop_assert_eq!(Some(&found), model.get(&number));
                        } else {
                            let backend = BackendIndex::new(backend.into());
                            table.insert(flow(number), backend, ACK, at(now));
                            model.insert(number, backend);
                        }
                    }
                    Step::Forget(number) => {
                        table.remove(&flow(number));
                        model.remove(&number);
                    }
                    Step::Pass(seconds) => {
                        now += seconds;
                        table.expire(at(now), 3);
                    }
                }
                prop_assert!(table.len() <= bound);
                let listed: usize = table.lists.iter().map(|list| list.length).sum();
                prop_assert_eq!(listed, table.len());
                prop_assert_eq!(table.entries.len(), table.len() + table.free.len());
            }
        }
    }
}
