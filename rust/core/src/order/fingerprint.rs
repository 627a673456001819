//! A number that tells orders apart, also between machines and runs.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use super::chain::INTERRUPT_ROWS;
use super::expression::{Map, Order};
use super::share::Share;
use crate::error::Result;

impl Order {
    /// Returns a hash of what the order serves: equal for orders made by the same steps from the
    /// same rows, on every machine and in every release.
    ///
    /// XXH3-64 of the length and, for each map, of a number for its kind and of its parameters as
    /// little-endian 64-bit words; of a list or a set, its members. Costs nanoseconds for an order that
    /// is computed, and some nanoseconds a member for lists and sets.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn fingerprint(&self) -> Result<u64> {
        let mut hasher = XxHash3_64::with_seed(0);
        self.hash_into(&mut hasher)?;
        Ok(hasher.finish())
    }

    fn hash_into(&self, hasher: &mut XxHash3_64) -> Result<()> {
        let mut words = |words: &[u64]| words.iter().for_each(|w| hasher.write(&w.to_le_bytes()));
        words(&[self.len, self.maps.len() as u64]);
        for map in &self.maps {
            let mut words =
                |words: &[u64]| words.iter().for_each(|w| hasher.write(&w.to_le_bytes()));
            match map {
                Map::Range { start, step } => words(&[1, *start, step.cast_unsigned()]),
                Map::Blocks { start, block, stride } => words(&[2, *start, *block, *stride]),
                Map::Bitmap(rows) => {
                    words(&[3, rows.len()]);
                    hash_values(map, rows.len(), hasher)?;
                }
                Map::Listed(list) => {
                    words(&[4, list.len()]);
                    hash_values(map, list.len(), hasher)?;
                }
                Map::Shuffle(shuffle) => {
                    let purpose = shuffle.purpose() as u64;
                    let key = [shuffle.seed(), shuffle.epoch(), shuffle.clump()];
                    words(&[5, purpose, shuffle.len(), key[0], key[1], key[2]]);
                }
                Map::Windowed(windowed) => {
                    let key = [windowed.seed(), windowed.epoch()];
                    let blocks = [windowed.block(), windowed.window_blocks()];
                    words(&[6, windowed.len(), key[0], key[1], blocks[0], blocks[1]]);
                }
                Map::Weighted(weighted) => {
                    words(&[7, weighted.seed(), weighted.epoch()]);
                    hasher.write(&weighted.to_bytes());
                }
                Map::Repeat { len } => words(&[8, *len]),
                Map::Mixed(mixed) => {
                    mixed.mix().recipe().words().iter().for_each(|word| words(&[*word]));
                    let share = mixed.share().map(Share::words);
                    let epoch = mixed.epoch().map_or([0, 0], |epoch| [1, epoch]);
                    words(&[10, mixed.group() as u64, epoch[0], epoch[1]]);
                    words(&share.unwrap_or_default());
                    mixed.orders().iter().try_for_each(|order| order.hash_into(hasher))?;
                }
                Map::Neighbours(rows) => {
                    words(&[11, rows.len()]);
                    hash_values(map, rows.len(), hasher)?;
                }
                Map::Concat(parts) => {
                    words(&[9, parts.len() as u64]);
                    parts.iter().try_for_each(|part| part.hash_into(hasher))?;
                }
            }
        }
        Ok(())
    }
}

fn hash_values(map: &Map, len: u64, hasher: &mut XxHash3_64) -> Result<()> {
    let mut chunk = Vec::new();
    let mut start = 0;
    while start < len {
        crate::interrupt::check()?;
        let count = (len - start).min(INTERRUPT_ROWS as u64);
        chunk.resize(usize::try_from(count).unwrap_or(INTERRUPT_ROWS), 0);
        map.fill(start, &mut chunk);
        for value in &chunk {
            hasher.write(&value.to_le_bytes());
        }
        start += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_told_apart_and_equal_ones_are_not() {
        let all = Order::all(1000);
        let shuffled = |seed, epoch| all.shuffled(seed, epoch, 1).unwrap();
        let orders = [
            all.clone(),
            Order::all(1001),
            all.slice(0, 999).unwrap(),
            all.strided(0, 2, 500).unwrap(),
            all.blocks(0, 2, 4, 500).unwrap(),
            all.blocks(0, 2, 5, 400).unwrap(),
            shuffled(1, 0),
            shuffled(0, 1),
            all.shuffled(1, 0, 4).unwrap(),
            all.windowed(1, 0, 4, 2).unwrap(),
            all.windowed(1, 0, 2, 4).unwrap(),
            Order::listed(vec![1, 2, 3]),
            Order::listed(vec![1, 3, 2]),
            Order::bitmap(super::super::Bitmap::from_offsets(vec![1, 2, 3])),
            Order::concat(vec![all.clone(), all.clone()]).unwrap(),
            all.repeat(2).unwrap(),
        ];
        let mut prints: Vec<u64> = orders.iter().map(|o| o.fingerprint().unwrap()).collect();
        let again: Vec<u64> = orders.iter().map(|o| o.fingerprint().unwrap()).collect();
        assert_eq!(prints, again);
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), orders.len());
    }

    #[test]
    fn fingerprints_are_the_published_ones() {
        let all = Order::all(10);
        assert_eq!(all.fingerprint().unwrap(), 8_889_078_051_205_228_626);
        assert_eq!(
            all.shuffled(7, 3, 1).unwrap().fingerprint().unwrap(),
            3_885_283_108_154_537_637
        );
        assert_eq!(Order::listed(vec![3, 1, 4]).fingerprint().unwrap(), 5_088_284_462_270_747_012);
    }
}
