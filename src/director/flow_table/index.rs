//! From a key to its entry: linear hashing, which grows by one bucket at a time.
//!
//! W. Litwin, "Linear Hashing: A New Tool for File and Table Addressing", VLDB 1980. Each new
//! bucket takes its share of one old bucket's entries; no insertion rehashes the whole.

use std::mem;

use ahash::RandomState;

use super::chunks::Chunks;
use super::entry::{NONE, PackedKey};
use super::slab::Slab;

/// Buckets for each entry: a look-up then reads 1.25 entries on average (1.5 with one bucket each),
/// for 4 bytes more.
const BUCKETS_PER_ENTRY: usize = 2;

/// Buckets in an allocation: 16 KiB.
const CHUNK: usize = 4096;

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

    /// The place of the entry that has `key`.
    pub(super) fn find(&self, entries: &Slab, key: &PackedKey) -> Option<u32> {
        let mut at = self.heads[self.bucket(key)];
        while at != NONE {
            let entry = &entries[at];
            if entry.key() == *key {
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
        let bucket = self.bucket(&entries[at].key());
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

    /// As many low bits of the hash as number a bucket that exists.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the mask takes bits of the lower half"
    )]
    fn bucket(&self, key: &PackedKey) -> u32 {
        let bucket = key.hash(&self.state) as u32 & self.mask;
        if bucket < self.heads.len() {
            bucket
        } else {
            bucket & (self.mask >> 1)
        }
    }

    fn link(&mut self, entries: &mut Slab, at: u32) {
        let entry = &mut entries[at];
        let bucket = self.bucket(&entry.key());
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
