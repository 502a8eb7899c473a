//! An array that grows without moving.
//!
//! A `Vec` of 64-byte-aligned entries cannot be resized in place (`realloc` keeps 16 bytes only), so
//! growth would copy tens of megabytes between two packets. Here it costs one allocation of a chunk,
//! whose pages are touched as they fill.

use std::ops::{Index, IndexMut};

/// Elements by position, in chunks of `CHUNK`.
#[derive(Debug)]
pub(super) struct Chunks<T, const CHUNK: usize> {
    chunks: Vec<Vec<T>>,
    length: u32,
}

impl<T, const CHUNK: usize> Chunks<T, CHUNK> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            length: 0,
        }
    }

    /// Elements pushed so far.
    pub(super) const fn len(&self) -> u32 {
        self.length
    }

    /// Appends `element` and returns its position.
    pub(super) fn push(&mut self, element: T) -> u32 {
        let at = self.length;
        if (at as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(element);
        }
        self.length += 1;
        at
    }

    /// The element at a position; `None` where none was pushed yet.
    #[inline]
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        chunk.get_mut(at as usize % CHUNK)
    }

    /// Memory it holds.
    pub(super) const fn bytes(&self) -> usize {
        self.chunks.len() * size_of::<[T; CHUNK]>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

impl<T, const CHUNK: usize> Index<u32> for Chunks<T, CHUNK> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}

impl<T, const CHUNK: usize> IndexMut<u32> for Chunks<T, CHUNK> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_over_chunks() {
        let mut chunks = Chunks::<u64, 4>::new();
        for number in 0..9 {
            assert_eq!(u64::from(chunks.push(number * 10)), number);
        }
        chunks[4] = 41;
        assert_eq!([0, 3, 4, 8].map(|at| chunks[at]), [0, 30, 41, 80]);
        assert_eq!(chunks.len(), 9);
        assert!(chunks.bytes() >= 3 * 4 * 8);
    }
}
