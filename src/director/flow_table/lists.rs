//! The entries of each class in the order in which they were filed.

use super::entry::NONE;
use super::slab::Slab;
use crate::director::flow_class::{FlowClass, Tick};

/// A doubly linked list through [`Entry::newer`](super::entry::Entry::newer) and
/// [`Entry::older`](super::entry::Entry::older).
#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
    length: usize,
}

/// One list per class.
#[derive(Debug)]
pub(super) struct Lists([List; FlowClass::COUNT]);

impl Lists {
    pub(super) const fn new() -> Self {
        let empty = List {
            oldest: NONE,
            newest: NONE,
            length: 0,
        };
        Self([empty; FlowClass::COUNT])
    }

    /// Entries of a class.
    pub(super) const fn len(&self, class: FlowClass) -> usize {
        self.0[class as usize].length
    }

    /// The entry of a class that was filed first.
    pub(super) fn oldest(&self, class: FlowClass) -> Option<u32> {
        Some(self.0[class as usize].oldest).filter(|&at| at != NONE)
    }

    /// Files an entry that is in no list as the newest of its class.
    pub(super) fn push(&mut self, entries: &mut Slab, at: u32, now: Tick) {
        let entry = &mut entries[at];
        let list = &mut self.0[entry.class as usize];
        entry.filed = now;
        entry.older = list.newest;
        entry.newer = NONE;
        if list.newest == NONE {
            list.oldest = at;
        } else {
            entries[list.newest].newer = at;
        }
        list.newest = at;
        list.length += 1;
    }

    /// Takes an entry out of its class's list.
    pub(super) fn unlink(&mut self, entries: &mut Slab, at: u32) {
        let entry = &entries[at];
        let (newer, older) = (entry.newer, entry.older);
        let list = &mut self.0[entry.class as usize];
        list.length -= 1;
        if newer == NONE {
            list.newest = older;
        } else {
            entries[newer].older = older;
        }
        if older == NONE {
            list.oldest = newer;
        } else {
            entries[older].newer = newer;
        }
    }
}
