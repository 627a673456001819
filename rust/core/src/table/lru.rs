//! A map that drops its least recently used entries.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map of values up to a total weight.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    limit: u64,
    weight: u64,
    /// Grows with every use.
    clock: u64,
    entries: HashMap<K, Entry<V>>,
    by_use: BTreeMap<u64, K>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: u64,
    used: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Lru<K, V> {
    /// Creates an empty map.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, weight: 0, clock: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Returns the value of `key`, which counts as used.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.get_mut(key)?;
        let key = self.by_use.remove(&entry.used)?;
        self.clock += 1;
        entry.used = self.clock;
        self.by_use.insert(entry.used, key);
        Some(entry.value.clone())
    }

    /// Inserts a value and returns it; a value that is there already stays, and is returned instead.
    ///
    /// Returns what was removed to make room as well, to be dropped once the lock is released.
    pub(super) fn insert(&mut self, key: K, value: V, weight: u64) -> (V, Vec<V>) {
        if let Some(there) = self.get(&key) {
            return (there, vec![value]);
        }
        self.clock += 1;
        self.weight += weight;
        self.by_use.insert(self.clock, key.clone());
        self.entries.insert(key, Entry { value: value.clone(), weight, used: self.clock });
        let limit = self.limit;
        // The newest stays, however heavy: it is about to be used.
        let dropped = self.shrink(|lru| lru.weight <= limit || lru.entries.len() == 1);
        (value, dropped)
    }

    /// Removes the least recently used half and returns it, to be dropped once the lock is released.
    pub(super) fn halve(&mut self) -> Vec<V> {
        let rest = self.entries.len() / 2;
        self.shrink(|lru| lru.entries.len() <= rest)
    }

    /// Removes all keys that are not wanted.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&K) -> bool) {
        let weight = &mut self.weight;
        self.entries.retain(|key, entry| {
            let keeps = is_wanted(key);
            *weight -= if keeps { 0 } else { entry.weight };
            keeps
        });
        self.by_use.retain(|_, key| is_wanted(key));
    }

    fn shrink(&mut self, is_enough: impl Fn(&Self) -> bool) -> Vec<V> {
        let mut dropped = Vec::new();
        while !is_enough(self)
            && let Some((_, key)) = self.by_use.pop_first()
        {
            if let Some(entry) = self.entries.remove(&key) {
                self.weight -= entry.weight;
                dropped.push(entry.value);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lru: &Lru<u32, char>) -> Vec<u32> {
        lru.by_use.values().copied().collect()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut lru = Lru::new(3);
        for (key, value) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            assert_eq!(lru.insert(key, value, 1), (value, vec![]));
        }
        assert_eq!(lru.get(&1), Some('a'));
        assert_eq!(lru.insert(4, 'd', 1), ('d', vec!['b']));
        assert_eq!(lru.get(&2), None);
        assert_eq!(keys(&lru), [3, 1, 4]);
    }

    #[test]
    fn weights_add_up_and_the_newest_stays_however_heavy() {
        let mut lru = Lru::new(10);
        lru.insert(1, 'a', 4);
        lru.insert(2, 'b', 4);
        assert_eq!(lru.insert(3, 'c', 5).1, ['a']);
        assert_eq!(lru.insert(4, 'd', 50).1, ['b', 'c']);
        assert_eq!(lru.insert(5, 'e', 1).1, ['d']);
        assert_eq!((lru.weight, keys(&lru)), (1, vec![5]));
    }

    #[test]
    fn a_value_that_is_there_stays() {
        let mut lru = Lru::new(10);
        lru.insert(1, 'a', 4);
        assert_eq!(lru.insert(1, 'b', 4), ('a', vec!['b']));
        assert_eq!(lru.weight, 4);
    }

    #[test]
    fn half_or_some_can_be_let_go() {
        let mut lru = Lru::new(100);
        for key in 0..6 {
            lru.insert(key, 'x', 2);
        }
        assert_eq!(lru.halve().len(), 3);
        assert_eq!(keys(&lru), [3, 4, 5]);
        lru.retain(|key| key % 2 == 0);
        assert_eq!((lru.weight, keys(&lru)), (2, vec![4]));
        assert_eq!(lru.get(&4), Some('x'));
        lru.halve();
        assert_eq!((lru.weight, lru.entries.len()), (0, 0));
    }
}
