//! The fragments that wait: a bounded store of buffers that are used again.
//!
//! A buffer counts from the moment a fragment is kept until it is taken out again, also while its
//! release waits to be collected, so what the store owns has one bound whatever its user does.

/// Fragments kept in all.
pub(super) const MAX_HELD: usize = 1024;
/// Bytes kept in all.
pub(super) const MAX_HELD_BYTES: usize = 1 << 20;
/// A buffer that outgrew this is given back to the allocator instead of being used again: else a few
/// large fragments at a time would, one after the other, make all of them large. With it the store
/// owns at most `MAX_HELD * SPARE_BYTES + MAX_HELD_BYTES`, 3 MiB.
const SPARE_BYTES: usize = 2048;

/// The fragments of one datagram, in the order of their arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    first: usize,
    last: usize,
    pub(super) length: usize,
}

#[derive(Debug)]
struct Slot {
    bytes: Vec<u8>,
    next: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct HeldFragments {
    slots: Vec<Slot>,
    free: Vec<usize>,
    bytes: usize,
}

impl HeldFragments {
    /// How many are kept.
    pub(super) const fn fragments(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps the first fragment of a chain; `None` when there is no room.
    pub(super) fn start(&mut self, bytes: &[u8]) -> Option<Chain> {
        let at = self.keep(bytes)?;
        Some(Chain {
            first: at,
            last: at,
            length: 1,
        })
    }

    /// Keeps one more fragment of a chain; `None` when there is no room.
    pub(super) fn append(&mut self, chain: &mut Chain, bytes: &[u8]) -> Option<()> {
        let at = self.keep(bytes)?;
        self.slots[chain.last].next = Some(at);
        chain.last = at;
        chain.length += 1;
        Some(())
    }

    /// Copies the first fragment of a chain to the start of `buffer`, cut where it does not fit, and
    /// forgets it. Returns its length and the rest of the chain.
    pub(super) fn take_first(&mut self, chain: Chain, buffer: &mut [u8]) -> (usize, Option<Chain>) {
        let kept = &self.slots[chain.first].bytes;
        let length = kept.len().min(buffer.len());
        buffer[..length].copy_from_slice(&kept[..length]);
        (length, self.drop_first(chain))
    }

    /// The first fragment of a chain.
    pub(super) fn first(&self, chain: Chain) -> &[u8] {
        &self.slots[chain.first].bytes
    }

    /// The fragments of a chain, in its order.
    pub(super) fn iter(&self, chain: Chain) -> impl Iterator<Item = &[u8]> {
        let slots = std::iter::successors(Some(chain.first), |&at| self.slots[at].next);
        slots.map(|at| self.slots[at].bytes.as_slice())
    }

    /// Forgets a whole chain.
    pub(super) fn drop_all(&mut self, chain: Chain) {
        let mut rest = Some(chain);
        while let Some(chain) = rest {
            rest = self.drop_first(chain);
        }
    }

    fn keep(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.bytes + bytes.len() > MAX_HELD_BYTES {
            return None;
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.slots.len() < MAX_HELD => {
                self.slots.push(Slot {
                    bytes: Vec::new(),
                    next: None,
                });
                self.slots.len() - 1
            }
            None => return None,
        };
        self.bytes += bytes.len();
        self.slots[at].bytes.extend_from_slice(bytes);
        Some(at)
    }

    /// Forgets the first fragment of a chain; returns the rest.
    pub(super) fn drop_first(&mut self, chain: Chain) -> Option<Chain> {
        let slot = &mut self.slots[chain.first];
        self.bytes -= slot.bytes.len();
        slot.bytes.clear();
        if slot.bytes.capacity() > SPARE_BYTES {
            slot.bytes = Vec::new();
        }
        self.free.push(chain.first);
        let next = slot.next.take()?;
        Some(Chain {
            first: next,
            length: chain.length - 1,
            ..chain
        })
    }
}

#[cfg(test)]
impl HeldFragments {
    /// Fragments and bytes kept, and bytes owned.
    pub(super) fn usage(&self) -> (usize, usize, usize) {
        let owned = self.slots.iter().map(|slot| slot.bytes.capacity()).sum();
        (self.fragments(), self.bytes, owned)
    }
}
