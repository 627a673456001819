//! A keyed shuffle of positions, by single rows or by clumps of neighbours.

use super::bijection::{Bijection, Purpose, check_len, key};
use crate::error::{Error, Result};

/// Positions taken through a shuffle by clumps together: their places in the clumps stay in L1.
const RUN: usize = 1024;

/// A shuffle of `0..len` chosen by `(seed, epoch)`.
///
/// With a `clump` of more than one, runs of that many positions stay together and in order; only
/// the last run of `0..len` may be shorter. A few hundred bytes at any length.
#[derive(Debug, Clone)]
pub struct Shuffle {
    len: u64,
    seed: u64,
    epoch: u64,
    clump: u64,
    purpose: Purpose,
    clumps: Bijection,
    /// Where the short last clump begins once shuffled, and how long it is.
    short_start: u64,
    short_len: u64,
}

impl Shuffle {
    /// Returns the shuffle of `0..len` that belongs to `purpose`, `seed` and `epoch`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `clump` is 0 or `len` beyond [`MAX_ROWS`](super::MAX_ROWS).
    pub fn new(len: u64, purpose: Purpose, seed: u64, epoch: u64, clump: u64) -> Result<Self> {
        if clump == 0 {
            return Err(Error::invalid("clump_size 0", "at least 1 row"));
        }
        // However few the clumps: positions and gaps are added in 64 bits.
        check_len(len)?;
        let count = len.div_ceil(clump);
        let clumps = Bijection::new(count, key(purpose, seed, epoch))?;
        let short_len = len % clump;
        let short_start = if short_len == 0 { len } else { clumps.inverse(count - 1) * clump };
        Ok(Self { len, seed, epoch, clump, purpose, clumps, short_start, short_len })
    }

    /// Returns the number of positions.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the seed it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the epoch it was made for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the rows that stay together.
    pub fn clump(&self) -> u64 {
        self.clump
    }

    /// Returns what it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Returns where the short last clump is served; the end if all clumps are full.
    pub(super) fn short_start(&self) -> u64 {
        self.short_start
    }

    /// Replaces each shuffled position by the position it came from.
    pub fn apply(&self, positions: &mut [u64]) {
        if self.clump == 1 {
            return self.clumps.apply(positions);
        }
        let mut within = [0; RUN];
        for run in positions.chunks_mut(RUN) {
            for (position, place) in run.iter_mut().zip(&mut within) {
                (*position, *place) = self.slot(*position);
            }
            self.clumps.apply(run);
            for (position, place) in run.iter_mut().zip(within) {
                *position = *position * self.clump + place;
            }
        }
    }

    /// Like [`apply`](Self::apply) for positions that are all from `first` to `last`: where these are of
    /// fewer clumps than there are positions, each clump is looked for once.
    pub(super) fn apply_between(&self, first: u64, last: u64, positions: &mut [u64]) {
        let (first, last) = (self.slot(first).0, self.slot(last).0);
        let count = usize::try_from(last - first).unwrap_or(usize::MAX);
        if count >= positions.len() {
            return self.apply(positions);
        }
        let mut images = vec![0; count + 1];
        self.clumps.fill(first, &mut images);
        for position in positions {
            let (slot, place) = self.slot(*position);
            let image = images[usize::try_from(slot - first).expect("below a length")];
            *position = image * self.clump + place;
        }
    }

    /// Applies the shuffle to `start, start + 1, …`.
    pub fn fill(&self, start: u64, out: &mut [u64]) {
        if self.clump == 1 {
            return self.clumps.fill(start, out);
        }
        // A run of clumps is as many images, not as many as there are rows.
        let (mut slot, mut place) = self.slot(start);
        let (mut images, mut out) = ([0; RUN], out);
        while !out.is_empty() {
            let left = usize::try_from(self.len.div_ceil(self.clump) - slot).unwrap_or(RUN);
            // One more, as the first may be begun and another be the short one.
            let wanted = out.len() / usize::try_from(self.clump).unwrap_or(usize::MAX) + 2;
            let images = &mut images[..wanted.min(left).min(RUN)];
            self.clumps.fill(slot, images);
            slot += images.len() as u64;
            for image in images {
                let begin = *image * self.clump + place;
                let end = self.len.min((*image * self.clump).saturating_add(self.clump));
                let count = usize::try_from(end - begin).unwrap_or(usize::MAX).min(out.len());
                let (head, rest) = out.split_at_mut(count);
                for (value, row) in head.iter_mut().zip(begin..) {
                    *value = row;
                }
                (out, place) = (rest, 0);
            }
        }
    }

    /// Returns the shuffled position that `value` went to.
    pub fn inverse(&self, value: u64) -> u64 {
        self.start_of(self.clumps.inverse(value / self.clump)) + value % self.clump
    }

    /// Replaces each position, all in `0..len`, by the shuffled position it went to.
    pub(super) fn invert(&self, values: &mut [u64]) {
        if self.clump == 1 {
            return self.clumps.invert(values);
        }
        let mut within = [0; RUN];
        for run in values.chunks_mut(RUN) {
            for (value, place) in run.iter_mut().zip(&mut within) {
                (*value, *place) = (*value / self.clump, *value % self.clump);
            }
            self.clumps.invert(run);
            for (value, place) in run.iter_mut().zip(within) {
                *value = self.start_of(*value) + place;
            }
        }
    }

    /// Returns where a clump, counted in shuffled order, begins.
    fn start_of(&self, slot: u64) -> u64 {
        let start = slot * self.clump;
        if start > self.short_start { start - (self.clump - self.short_len) } else { start }
    }

    /// Returns the clump a shuffled position lies in, counted in shuffled order, and its place
    /// there.
    fn slot(&self, position: u64) -> (u64, u64) {
        let gap = if position >= self.short_start + self.short_len && self.short_len > 0 {
            self.clump - self.short_len
        } else {
            0
        };
        let position = position + gap;
        let slot = position / self.clump;
        (slot, position - slot * self.clump)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_ROWS;
    use super::*;

    #[test]
    fn the_longest_shuffles_are_exact_and_longer_ones_refused() {
        for clump in [1, 2, 3, 1 << 31, MAX_ROWS - 1, MAX_ROWS, u64::MAX] {
            let shuffle = Shuffle::new(MAX_ROWS, Purpose::Shuffle, 3, 1, clump).unwrap();
            let positions = [0, 1, MAX_ROWS / 2, MAX_ROWS - 2, MAX_ROWS - 1];
            let mut rows = positions;
            shuffle.apply(&mut rows);
            assert!(rows.iter().all(|&row| row < MAX_ROWS), "clump {clump}");
            assert_eq!(rows.map(|row| shuffle.inverse(row)), positions, "clump {clump}");
            for len in [MAX_ROWS + 1, u64::MAX] {
                assert!(Shuffle::new(len, Purpose::Shuffle, 3, 1, clump).is_err(), "{len} {clump}");
            }
        }
    }

    #[test]
    fn clumps_stay_whole_and_every_position_is_served_once() {
        for len in 0..200 {
            for clump in [1, 2, 3, 7, 64, 199, 500] {
                let shuffle = Shuffle::new(len, Purpose::Shuffle, 3, len, clump).unwrap();
                let mut out = vec![0; usize::try_from(len).unwrap()];
                shuffle.fill(0, &mut out);
                for (position, &value) in (0..).zip(&out) {
                    assert_eq!(shuffle.inverse(value), position, "len {len} clump {clump}");
                }
                let mut applied: Vec<u64> = (0..len).collect();
                shuffle.apply(&mut applied);
                assert_eq!(applied, out, "len {len} clump {clump}");
                for start in [1, out.len() / 3, out.len() / 2] {
                    let mut some = vec![0; out.len().saturating_sub(start).min(150)];
                    shuffle.fill(start as u64, &mut some);
                    assert_eq!(some, out[start.min(out.len())..][..some.len()]);
                }
                let mut back = out.clone();
                shuffle.invert(&mut back);
                assert!(back.into_iter().eq(0..len), "len {len} clump {clump}");
                for pair in out.windows(2) {
                    let boundary = pair[1] % clump == 0;
                    assert!(boundary || pair[1] == pair[0] + 1, "len {len} clump {clump}");
                }
                let mut sorted = out.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..len));
            }
        }
    }

    #[test]
    fn a_clump_of_no_rows_is_refused() {
        let error = Shuffle::new(10, Purpose::Shuffle, 0, 0, 0).unwrap_err();
        assert!(error.to_string().contains("clump_size 0"), "{error}");
    }
}
