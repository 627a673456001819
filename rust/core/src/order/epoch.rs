//! The same order for another epoch.

use std::sync::Arc;

use super::{Map, Order, Purpose, Shuffle, Windowed};
use crate::error::Result;

impl Order {
    /// The order with its last shuffle made anew for `epoch`, and with the same rows in every epoch:
    /// a shuffle that rows were split, filtered, sampled or sliced from afterwards stays as it is. Shards
    /// of a shuffle are shards of the new one. An order that is not shuffled is the same in every epoch.
    ///
    /// Constant time.
    ///
    /// # Errors
    ///
    /// None for an order that could be made.
    pub fn with_epoch(&self, epoch: u64) -> Result<Self> {
        let mut order = self.clone();
        for map in &mut order.maps {
            match map {
                Map::Shuffle(shuffle) if shuffle.purpose() == Purpose::Shuffle => {
                    let (len, seed, clump) = (shuffle.len(), shuffle.seed(), shuffle.clump());
                    let next = Shuffle::new(len, Purpose::Shuffle, seed, epoch, clump)?;
                    *map = Map::Shuffle(Arc::new(next));
                    break;
                }
                Map::Windowed(windowed) => {
                    let (len, seed) = (windowed.len(), windowed.seed());
                    let (block, window_blocks) = (windowed.block(), windowed.window_blocks());
                    let next = Windowed::new(len, seed, epoch, block, window_blocks)?;
                    *map = Map::Windowed(Arc::new(next));
                    break;
                }
                Map::Mixed(mixed) => {
                    *map = Map::Mixed(Arc::new(mixed.with_epoch(epoch)?));
                    break;
                }
                // What chooses rows, of those that come before it.
                Map::Range { step: 1, .. }
                | Map::Bitmap(_)
                | Map::Listed(_)
                | Map::Shuffle(_)
                | Map::Weighted(_)
                | Map::Concat(_) => break,
                // Shards, which every epoch has, and repeats.
                Map::Range { .. } | Map::Blocks { .. } | Map::Repeat { .. } => {}
            }
        }
        Ok(order)
    }

    /// Whether an order is known to be the same one: made by the same steps from the same parts.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Map, &Map)| match (a, b) {
            (Map::Range { start, step }, Map::Range { start: other, step: stride }) => {
                (start, step) == (other, stride)
            }
            (
                Map::Blocks { start, block, stride },
                Map::Blocks { start: other, block: run, stride: distance },
            ) => (start, block, stride) == (other, run, distance),
            (Map::Repeat { len }, Map::Repeat { len: other }) => len == other,
            (Map::Bitmap(a), Map::Bitmap(b)) => Arc::ptr_eq(a, b),
            (Map::Listed(a), Map::Listed(b)) => Arc::ptr_eq(a, b),
            (Map::Shuffle(a), Map::Shuffle(b)) => {
                let key = |map: &Shuffle| (map.len(), map.seed(), map.epoch(), map.clump());
                key(a) == key(b) && a.purpose() == b.purpose()
            }
            (Map::Mixed(a), Map::Mixed(b)) => a.is_same(b),
            (Map::Windowed(a), Map::Windowed(b)) => {
                let key = |map: &Windowed| {
                    (map.len(), map.seed(), map.epoch(), map.block(), map.window_blocks())
                };
                key(a) == key(b)
            }
            _ => false,
        };
        self.len == other.len
            && self.maps.len() == other.maps.len()
            && self.maps.iter().zip(&other.maps).all(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_shuffle_is_made_anew() {
        let inner = Order::all(100).shuffled(1, 0, 1).unwrap().slice(0, 50).unwrap();
        let order = inner.shuffled(2, 0, 1).unwrap().strided(0, 2, 25).unwrap();
        let next = order.with_epoch(3).unwrap();
        let wanted = inner.shuffled(2, 3, 1).unwrap().strided(0, 2, 25).unwrap();
        assert_eq!(next.to_vec(), wanted.to_vec());
        assert_ne!(next.to_vec(), order.to_vec());
        assert_eq!(next.with_epoch(0).unwrap().to_vec(), order.to_vec());
    }

    #[test]
    fn what_was_chosen_from_a_shuffle_stays() {
        let shuffled = Order::all(100).shuffled(1, 0, 1).unwrap();
        let evens = crate::order::Bitmap::from_offsets((0..100).step_by(2).collect());
        let chosen = [
            shuffled.slice(0, 50).unwrap(),
            shuffled.filtered(&evens).unwrap(),
            shuffled.shuffled_for(Purpose::Split, 2, 0, 1).unwrap().slice(0, 80).unwrap(),
            shuffled.shuffled_for(Purpose::Sample, 2, 0, 1).unwrap().slice(0, 80).unwrap(),
            shuffled.pick(&Order::listed(vec![3, 1, 4])).unwrap(),
            Order::concat(vec![shuffled.clone(), shuffled.clone()]).unwrap(),
        ];
        for order in chosen {
            assert_eq!(order.with_epoch(5).unwrap().to_vec(), order.to_vec(), "{order}");
        }
        let train = shuffled.slice(0, 50).unwrap();
        let again = train.shuffled(9, 0, 1).unwrap().with_epoch(1).unwrap();
        let sorted = |order: &Order| {
            let mut rows = order.to_vec();
            rows.sort_unstable();
            rows
        };
        assert_eq!(sorted(&again), sorted(&train));
    }

    #[test]
    fn what_was_split_and_what_was_windowed() {
        let split = Order::all(100).shuffled_for(Purpose::Split, 1, 0, 1).unwrap();
        assert_eq!(split.with_epoch(9).unwrap().to_vec(), split.to_vec());
        let windowed = |epoch| Order::all(100).windowed(1, epoch, 5, 4).unwrap().to_vec();
        let first = Order::all(100).windowed(1, 0, 5, 4).unwrap();
        assert_eq!(first.with_epoch(2).unwrap().to_vec(), windowed(2));
    }
}
