//! Where entries live: places that are taken and given back.

use std::ops::{Index, IndexMut};

use super::chunks::Chunks;
use super::entry::{Entry, NONE};

/// Entries in an allocation: 64 KiB.
const CHUNK: usize = 1024;

/// Entries by place. Free places are a list through [`Entry::next`], so they cost nothing.
#[derive(Debug)]
pub(super) struct Slab {
    entries: Chunks<Entry, CHUNK>,
    free: u32,
    length: u32,
}

impl Slab {
    pub(super) const fn new() -> Self {
        Self {
            entries: Chunks::new(),
            free: NONE,
            length: 0,
        }
    }

    /// Places taken now.
    pub(super) const fn len(&self) -> usize {
        self.length as usize
    }

    /// Stores an entry and returns its place. The caller keeps their number below [`NONE`].
    pub(super) fn take(&mut self, entry: Entry) -> u32 {
        self.length += 1;
        if self.free == NONE {
            return self.entries.push(entry);
        }
        let at = self.free;
        self.free = self[at].next;
        self[at] = entry;
        at
    }

    /// Frees a place, which the next [`take`](Self::take) uses.
    pub(super) fn give(&mut self, at: u32) {
        self[at].clear();
        self[at].next = self.free;
        self.free = at;
        self.length -= 1;
    }

    /// The entry at a place; `None` beyond all places, above all at [`NONE`].
    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at)
    }

    /// Memory it holds.
    pub(super) const fn bytes(&self) -> usize {
        self.entries.bytes()
    }
}

impl Index<u32> for Slab {
    type Output = Entry;

    fn index(&self, at: u32) -> &Entry {
        &self.entries[at]
    }
}

impl IndexMut<u32> for Slab {
    fn index_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.entries[at]
    }
}
