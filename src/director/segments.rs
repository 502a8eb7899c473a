//! An array that grows without moving: one thread's counters can be read by others meanwhile.

use std::fmt;
use std::sync::OnceLock;

/// Elements of the first segment; each further one doubles the array.
const FIRST: usize = 64;
/// Enough for every `u32` position.
const SEGMENTS: usize = 27;

/// Elements by position. It starts empty and grows by [`reserve`](Self::reserve).
pub(super) struct Segments<T>([OnceLock<Box<[T]>>; SEGMENTS]);

impl<T: Default> Segments<T> {
    pub(super) const fn new() -> Self {
        Self([const { OnceLock::new() }; SEGMENTS])
    }

    /// Makes room for the positions below `length`.
    pub(super) fn reserve(&self, length: usize) {
        let Some(last) = length.checked_sub(1) else {
            return;
        };
        let (needed, _) = place(last);
        for (number, segment) in self.0.iter().enumerate().take(needed + 1) {
            segment.get_or_init(|| (0..segment_length(number)).map(|_| T::default()).collect());
        }
    }
}

impl<T> Segments<T> {
    /// The element at `position`; `None` where no room was made for it.
    pub(super) fn get(&self, position: usize) -> Option<&T> {
        let (segment, offset) = place(position);
        self.0.get(segment)?.get()?.get(offset)
    }

    /// All elements, in the order of their positions.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(OnceLock::get).flatten()
    }
}

impl<T> fmt::Debug for Segments<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segments({})", self.iter().count())
    }
}

/// 64, 64, 128, 256, …: a segment is as long as all before it together.
const fn segment_length(number: usize) -> usize {
    match number {
        0 => FIRST,
        _ => FIRST << (number - 1),
    }
}

/// The segment and the offset in it.
const fn place(position: usize) -> (usize, usize) {
    if position < FIRST {
        return (0, position);
    }
    let number = (position / FIRST).ilog2() as usize + 1;
    (number, position - segment_length(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_position_has_a_place_of_its_own() {
        let array: Segments<AtomicUsize> = Segments::new();
        assert!(array.get(0).is_none());
        array.reserve(1000);
        for position in 0..1000 {
            array
                .get(position)
                .unwrap()
                .store(position, Ordering::Relaxed);
        }
        array.reserve(5000);
        let kept: Vec<_> = array
            .iter()
            .take(1000)
            .map(|n| n.load(Ordering::Relaxed))
            .collect();
        assert_eq!(kept, (0..1000).collect::<Vec<_>>());
        assert!(array.get(4999).is_some());
        assert!(array.get(8192).is_none());
        assert_eq!(place(u32::MAX as usize).0, SEGMENTS - 1);
    }
}
