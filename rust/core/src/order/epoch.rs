//! The same order for another epoch.

use std::sync::Arc;

use super::bijection::Purpose;
use super::chain::too_long;
use super::expression::{Map, Order};
use super::shuffle::Shuffle;
use super::windowed::Windowed;
use crate::error::Result;

impl Order {
    /// Returns the order with its last shuffle made anew for `epoch`, and with the same rows in
    /// every epoch: a shuffle that rows were split, filtered, sampled or sliced from afterwards
    /// stays as it is, also if that was done to a shard of it. Shards of a whole shuffle are shards
    /// of the new one. An order that is not shuffled is the same in every epoch.
    ///
    /// Constant time.
    ///
    /// # Errors
    ///
    /// None for an order that could be made.
    pub fn with_epoch(&self, epoch: u64) -> Result<Self> {
        let mut order = self.clone();
        let Some(at) = self.renewed() else {
            return Ok(order);
        };
        order.maps[at] = match &self.maps[at] {
            Map::Shuffle(shuffle) => {
                let (len, seed, clump) = (shuffle.len(), shuffle.seed(), shuffle.clump());
                let next = Shuffle::new(len, Purpose::Shuffle, seed, epoch, clump)?;
                Map::Shuffle(Arc::new(next))
            }
            Map::Windowed(windowed) => {
                let (len, seed) = (windowed.len(), windowed.seed());
                let (block, window_blocks) = (windowed.block(), windowed.window_blocks());
                let next = Windowed::new(len, seed, epoch, block, window_blocks)?;
                Map::Windowed(Arc::new(next))
            }
            Map::Mixed(mixed) => Map::Mixed(Arc::new(mixed.with_epoch(epoch)?)),
            map => map.clone(),
        };
        Ok(order)
    }

    /// Returns the map that another epoch makes anew: a shuffle or a mixture, of which all that
    /// comes before it is a share of the whole.
    fn renewed(&self) -> Option<usize> {
        // Of how many positions the next map is the front, where that is known.
        let mut len = Some(self.len);
        for (at, map) in self.maps.iter().enumerate() {
            match map {
                Map::Shuffle(shuffle) if shuffle.purpose() == Purpose::Shuffle => {
                    return len.is_none_or(|len| len == shuffle.len()).then_some(at);
                }
                Map::Windowed(windowed) => {
                    return len.is_none_or(|len| len == windowed.len()).then_some(at);
                }
                Map::Mixed(mixed) => {
                    return len.is_none_or(|len| len == mixed.len()).then_some(at);
                }
                // What chooses rows, of those that come before it.
                Map::Bitmap(_)
                | Map::Listed(_)
                | Map::Shuffle(_)
                | Map::Weighted(_)
                | Map::Neighbours(_)
                | Map::Concat(_) => return None,
                Map::Range { .. } => {
                    let is_share = |len| map.is_share(len, Whole::of(self.maps.get(at + 1)));
                    if !len.map_or(!map.is_slice(), is_share) {
                        return None;
                    }
                    len = None;
                }
                Map::Blocks { .. } => len = None,
                Map::Repeat { len: repeated } => len = Some(*repeated),
            }
        }
        None
    }

    /// Returns whether `len` images of `map` are what one of several readers gets of all positions.
    pub(super) fn is_share(&self, map: &Map, len: u64) -> bool {
        map.is_share(len, Whole::Is(self.len))
    }

    /// Puts `map`, known to fit, in front, so that [`with_epoch`](Self::with_epoch) makes a shuffle anew
    /// only for shares of all its rows. Ranges next to each other become one.
    pub(super) fn in_front(&self, map: Map, len: u64, is_share: bool) -> Result<Self> {
        let is_renewed = is_share && self.renewed().is_some();
        let plain = self.clone().unmarked();
        if let Some(mut joined) = plain.joined(&map, len)? {
            if !is_renewed {
                joined.keep_from(1);
            }
            if joined.renewed().is_some() == is_renewed {
                return Ok(joined);
            }
        }
        let mut order = plain;
        order.len = len;
        order.maps.insert(0, map);
        if !is_renewed {
            order.keep_from(1);
        }
        Ok(order)
    }

    /// Marks the order so that no epoch renews map `first` or a later one. The mark is a range that changes
    /// nothing. Only orders that would otherwise be renewed have one, so that all others have the same maps
    /// and the same fingerprint as before there were marks.
    pub(super) fn keep_from(&mut self, first: usize) {
        if let Some(at) = self.renewed().filter(|&at| at >= first) {
            self.maps.insert(at, Map::Range { start: 0, step: 1 });
        }
    }

    /// Removes the marks.
    pub(super) fn unmarked(mut self) -> Self {
        let is_mark = |at: usize| match &self.maps[at..] {
            [Map::Range { start: 0, step: 1 }, next, ..] if at > 0 => match self.maps[at - 1] {
                // Nothing else stands between a range and what it chooses from, or takes all of it.
                Map::Range { .. } => true,
                Map::Repeat { len } => {
                    matches!(Whole::of(Some(next)), Whole::Is(whole) if whole == len)
                }
                _ => false,
            },
            _ => false,
        };
        let marks: Vec<usize> = (0..self.maps.len()).filter(|&at| is_mark(at)).collect();
        for at in marks.into_iter().rev() {
            self.maps.remove(at);
        }
        self
    }

    /// Merges a range with the one before it.
    fn joined(&self, map: &Map, len: u64) -> Result<Option<Self>> {
        let (&Map::Range { start, step }, Some(&Map::Range { start: base, step: stride })) =
            (map, self.maps.first())
        else {
            return Ok(None);
        };
        let joined = i128::from(base) + i128::from(start) * i128::from(stride);
        let start = u64::try_from(joined).map_err(|_| too_long(start))?;
        let step = step.checked_mul(stride).ok_or_else(|| too_long(start))?;
        let mut maps = self.maps.clone();
        maps[0] = Map::Range { start, step };
        Ok(Some(Self { len, maps }))
    }

    /// Returns whether an order is known to be the same one: made by the same steps from the same
    /// parts.
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

/// Of how many positions a map takes some.
#[derive(Debug, Clone, Copy)]
enum Whole {
    Is(u64),
    /// Once or several times as many.
    Repeats(u64),
    Unknown,
}

impl Whole {
    /// Returns what an order that begins with `map` says of its length.
    fn of(map: Option<&Map>) -> Self {
        match map {
            Some(Map::Shuffle(shuffle)) => Self::Is(shuffle.len()),
            Some(Map::Windowed(windowed)) => Self::Is(windowed.len()),
            Some(Map::Mixed(mixed)) => Self::Is(mixed.len()),
            Some(Map::Repeat { len }) => Self::Repeats(*len),
            _ => Self::Unknown,
        }
    }

    /// Returns whether it may be in `least..=most`.
    fn may_be(self, least: i128, most: i128) -> bool {
        match self {
            Self::Is(len) => (least..=most).contains(&i128::from(len)),
            Self::Repeats(len) => most / i128::from(len.max(1)) * i128::from(len) >= least,
            Self::Unknown => true,
        }
    }
}

impl Map {
    /// Returns whether `len` positions are what one of several readers gets of the whole, and not a
    /// slice.
    fn is_share(&self, len: u64, whole: Whole) -> bool {
        match self {
            // From one of the first positions on to one of the last, or one before that: see `Tail`.
            Self::Range { start, step } if !self.is_slice() => {
                let (len, step) = (i128::from(len), i128::from(*step));
                let lowest = i128::from(*start) + ((len - 1).saturating_mul(step)).min(0);
                let (before, after) = (len - 1, len + 1);
                let stride = step.abs();
                lowest < stride
                    && whole
                        .may_be(before.saturating_mul(stride) + 1, after.saturating_mul(stride) - 1)
            }
            Self::Blocks { .. } | Self::Repeat { .. } => true,
            _ => false,
        }
    }

    fn is_slice(&self) -> bool {
        matches!(self, Self::Range { step: 1, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Tail, shard as shard_of};

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
    fn slices_that_look_like_shards_are_told_apart() {
        let shuffled = |epoch| Order::all(21).shuffled(1, epoch, 1).unwrap();
        let of = |rank, tail| shard_of(&shuffled(0), rank, 2, tail).unwrap();
        // Either is positions 0, 2, …, 18 of the shuffle.
        let (shard, slice) = (of(0, Tail::Drop), of(0, Tail::Uneven).slice(0, 10).unwrap());
        assert_eq!(shard.to_vec(), slice.to_vec());
        assert_eq!(slice.with_epoch(1).unwrap().to_vec(), slice.to_vec());
        let next = shard_of(&shuffled(1), 0, 2, Tail::Drop).unwrap();
        assert_eq!(shard.with_epoch(1).unwrap().to_vec(), next.to_vec());
        // Orders that cannot be mistaken are the maps that they were in every release.
        assert_eq!((shard.maps().len(), slice.maps().len()), (2, 3));
        assert_eq!(of(0, Tail::Uneven).slice(0, 6).unwrap().maps().len(), 2);
        assert_eq!(of(1, Tail::Uneven).slice(3, 7).unwrap().maps().len(), 2);
        assert_eq!(of(1, Tail::Uneven).strided(1, 2, 5).unwrap().maps().len(), 2);
        // Nor are those that are made of one that can.
        let kinds = |order: &Order| order.maps().len();
        assert_eq!(kinds(&slice.slice(2, 5).unwrap()), 2);
        assert_eq!(kinds(&slice.shuffled(3, 0, 1).unwrap()), 3);
        assert_eq!(kinds(&slice.repeat(2).unwrap().slice(0, 15).unwrap()), 4);
        let twice = slice.repeat(2).unwrap();
        assert_eq!(twice.with_epoch(1).unwrap().to_vec(), twice.to_vec());
        let sorted = shard_of(&Order::all(21), 0, 2, Tail::Uneven).unwrap();
        assert_eq!(sorted.slice(0, 10).unwrap().maps().len(), 1);
    }

    #[test]
    fn picks_and_blocks_of_slices_stay_and_of_shards_do_not() {
        let shuffled = Order::all(20).shuffled(1, 0, 1).unwrap();
        let half = Order::all(20).strided(0, 2, 10).unwrap();
        let shard = shuffled.strided(0, 2, 10).unwrap();
        let stays = |order: &Order| order.with_epoch(3).unwrap().to_vec() == order.to_vec();
        assert!(stays(&shuffled.pick(&half).unwrap()));
        assert!(stays(&shuffled.pick(&Order::all(7)).unwrap()));
        assert!(!stays(&shuffled.pick(&Order::all(20)).unwrap()));
        assert!(!stays(&shard.blocks(0, 2, 4, 6).unwrap()));
        assert!(stays(&shard.slice(0, 6).unwrap().blocks(0, 2, 4, 4).unwrap()));
        assert!(stays(&shuffled.slice(0, 6).unwrap().blocks(0, 2, 4, 4).unwrap()));
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
