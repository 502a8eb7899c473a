//! From a key to its entry: linear hashing, which grows by one bucket at a time.
//!
//! W. Litwin, "Linear Hashing: A New Tool for File and Table Addressing", VLDB 1980. Each new
//! bucket takes its share of one old bucket's entries; no insertion rehashes the whole.

use std::mem;

use ahash::RandomState;

use super::chunks::Chunks;
use super::entry::{self, NONE};
use super::slab::Slab;
use crate::packet::{FlowKey, PackedFlow};

/// Buckets for each entry: a look-up then reads 1.25 entries on average (1.5 with one bucket each),
/// for 4 bytes more.
const BUCKETS_PER_ENTRY: usize = 2;

/// Buckets in an allocation: 16 KiB.
const CHUNK: usize = 4096;

/// A key as the table looks for it: packed and hashed once, whatever is done with it.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::director) struct Sought {
    pub(in crate::director) flow: PackedFlow,
    hash: u32,
}

/// The first entry of each bucket; the rest is a chain through
/// [`Entry::next`](super::entry::Entry::next).
#[derive(Debug)]
pub(super) struct Index {
    heads: Chunks<u32, CHUNK>,
    /// The number of buckets rounded up to a power of two, less one.
    mask: u32,
    state: RandomState,
}

impl Index {
    pub(super) fn new(state: RandomState) -> Self {
        let mut heads = Chunks::new();
        heads.push(NONE);
        Self {
            heads,
            mask: 0,
            state,
        }
    }

    /// Packs and hashes a key.
    pub(super) fn seek(&self, key: &FlowKey) -> Sought {
        self.seek_packed(PackedFlow::new(key))
    }

    /// Hashes a key.
    #[inline]
    pub(super) fn seek_packed(&self, flow: PackedFlow) -> Sought {
        let hash = self.hash(&flow);
        Sought { flow, hash }
    }

    /// The first place of the bucket in which a key is to be found; [`NONE`] where it is empty.
    pub(super) fn head(&self, sought: &Sought) -> u32 {
        self.heads[self.bucket(sought.hash)]
    }

    /// How many buckets there are.
    pub(super) const fn buckets(&self) -> u32 {
        self.heads.len()
    }

    /// The first place of a bucket that there is; [`NONE`] where it is empty.
    pub(super) fn first_of(&self, bucket: u32) -> u32 {
        self.heads[bucket]
    }

    /// The place of the entry that has the key, in the chain that begins with `at`.
    pub(super) fn follow(entries: &Slab, mut at: u32, sought: &Sought) -> Option<u32> {
        while at != NONE {
            let entry = &entries[at];
            if entry.is_of(&sought.flow) {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// Enters the entry at a place, whose key is not in the index.
    pub(super) fn insert(&mut self, entries: &mut Slab, at: u32) {
        self.link(entries, at);
        // At most twice, since the last insertion left enough.
        while (self.heads.len() as usize) < entries.len() * BUCKETS_PER_ENTRY {
            self.split(entries);
        }
    }

    /// Takes the entry at a place out.
    pub(super) fn remove(&mut self, entries: &mut Slab, at: u32) {
        let bucket = self.bucket(self.hash(&entries[at].key()));
        let next = entries[at].next;
        if self.heads[bucket] == at {
            self.heads[bucket] = next;
            return;
        }
        let mut before = self.heads[bucket];
        while before != NONE {
            let entry = &mut entries[before];
            if entry.next == at {
                entry.next = next;
                return;
            }
            before = entry.next;
        }
    }

    /// Memory it holds.
    pub(super) const fn bytes(&self) -> usize {
        self.heads.bytes()
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "no more buckets than the lower half numbers"
    )]
    fn hash(&self, key: &PackedFlow) -> u32 {
        entry::hash(key, &self.state) as u32
    }

    /// As many low bits of the hash as number a bucket that exists.
    fn bucket(&self, hash: u32) -> u32 {
        let bucket = hash & self.mask;
        if bucket < self.heads.len() {
            bucket
        } else {
            bucket & (self.mask >> 1)
        }
    }

    fn link(&mut self, entries: &mut Slab, at: u32) {
        let entry = &mut entries[at];
        let bucket = self.bucket(self.hash(&entry.key()));
        entry.next = mem::replace(&mut self.heads[bucket], at);
    }

    /// One bucket more: the one whose number less its top bit it has shared until now is divided.
    fn split(&mut self, entries: &mut Slab) {
        let new = self.heads.push(NONE);
        self.mask = self.mask.max(u32::MAX >> new.leading_zeros());
        let shared = new & (self.mask >> 1);
        let mut at = mem::replace(&mut self.heads[shared], NONE);
        while at != NONE {
            let next = entries[at].next;
            self.link(entries, at);
            at = next;
        }
    }
}
