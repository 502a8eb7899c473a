//! An array of which a changed copy shares what did not change.

use std::sync::Arc;

/// Elements in a part. A change copies one part and the list of parts: for 100,000 backends 4 KiB and 12 KiB.
const PART: usize = 64;

/// Elements by position, in parts.
#[derive(Debug)]
pub(super) struct Shared<T> {
    parts: Vec<Arc<[Option<T>; PART]>>,
    length: usize,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            length: self.length,
        }
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            length: 0,
        }
    }
}

impl<T> Shared<T> {
    /// The element at a position; `None` where there is none.
    pub(super) fn get(&self, position: usize) -> Option<&T> {
        self.parts.get(position / PART)?[position % PART].as_ref()
    }

    /// The positions of all parts that another one does not share, of either length.
    pub(super) fn changed(&self, before: Option<&Self>) -> impl Iterator<Item = usize> {
        let parts = self
            .parts
            .len()
            .max(before.map_or(0, |before| before.parts.len()));
        let differs = move |part: &usize| match (self.parts.get(*part), before) {
            (Some(is), Some(before)) => {
                let was = before.parts.get(*part);
                was.is_none_or(|was| !Arc::ptr_eq(is, was))
            }
            _ => true,
        };
        (0..parts)
            .filter(differs)
            .flat_map(|part| part * PART..(part + 1) * PART)
    }

    /// All positions are below it.
    pub(super) const fn bound(&self) -> usize {
        self.length
    }
}

impl<T: Clone + PartialEq> Shared<T> {
    /// Makes `element` the one at a position. What is there already is not copied.
    pub(super) fn set(&mut self, position: usize, element: Option<T>) {
        while self.parts.len() <= position / PART {
            self.parts.push(Arc::new([const { None }; PART]));
        }
        self.length = self.length.max(position + 1);
        let part = &mut self.parts[position / PART];
        if part[position % PART] != element {
            Arc::make_mut(part)[position % PART] = element;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_copies_one_part() {
        let mut first = Shared::default();
        for position in 0..3 * PART {
            first.set(position, Some(position));
        }
        let mut second = first.clone();
        second.set(PART, Some(PART));
        second.set(PART + 1, None);
        let shares = |part: usize| Arc::ptr_eq(&first.parts[part], &second.parts[part]);
        assert_eq!([0, 1, 2].map(shares), [true, false, true]);
        assert_eq!(first.get(PART + 1), Some(&(PART + 1)));
        assert_eq!(second.get(PART + 1), None);
        assert_eq!((second.bound(), second.get(3 * PART)), (3 * PART, None));
        second.set(2 * PART, Some(2 * PART));
        assert!(Arc::ptr_eq(&first.parts[2], &second.parts[2]), "unchanged");
    }
}
