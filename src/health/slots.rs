//! Values by small numbers that are used again.

/// Values by number.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// The number that the next value gets.
    pub(super) fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.values.len())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.values[number] = Some(value);
                number
            }
            None => {
                self.values.push(Some(value));
                self.values.len() - 1
            }
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.values.get(number)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.values.get_mut(number)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        let value = self.values.get_mut(number)?.take()?;
        self.free.push(number);
        Some(value)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().flatten()
    }

    /// The number of the first that is such a one.
    pub(super) fn find(&self, is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
        let found = |value: &Option<T>| value.as_ref().is_some_and(&is_wanted);
        self.values.iter().position(found)
    }

    pub(super) fn numbers(&self) -> Vec<usize> {
        let there = self
            .values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_some());
        there.map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut slots = Slots::default();
        assert_eq!(
            (slots.insert('a'), slots.insert('b'), slots.next()),
            (0, 1, 2)
        );
        assert_eq!(
            (slots.remove(0), slots.remove(0), slots.len()),
            (Some('a'), None, 1)
        );
        assert_eq!(
            (slots.next(), slots.insert('c'), slots.get(0)),
            (0, 0, Some(&'c'))
        );
        assert_eq!(slots.numbers(), [0, 1]);
    }
}
