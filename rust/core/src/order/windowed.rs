//! A shuffle for storage that is slow at single rows: blocks of neighbours, then rows within windows.
//!
//! Blocks of neighbouring rows are shuffled, and each run of some shuffled blocks, a window, is
//! shuffled row by row. Reading window after window reads whole blocks, and every row of a
//! batch may come from any block of its window; but rows of one window never meet those of another,
//! so it is less random than a [`Shuffle`] and never chosen unasked. Both steps are bijections: as
//! there, nothing is stored for a row.

use super::Shuffle;
use super::bijection::{Bijection, Purpose, key};
use crate::error::{Error, Result};

/// A shuffle of `0..len` by blocks and windows, chosen by `(seed, epoch)`.
///
/// Only the last block of `0..len` may be shorter than `block`, wherever it is served, and only the
/// window it is in and the last one shorter than `block · window_blocks`.
#[derive(Debug, Clone)]
pub struct Windowed {
    blocks: Shuffle,
    window_blocks: u64,
    window_rows: u64,
    key: u64,
    /// Where the window of the short block ends, and how many rows it lacks.
    short_end: u64,
    gap: u64,
}

impl Windowed {
    /// Returns the shuffle of `0..len` that belongs to `seed` and `epoch`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `block` or `window_blocks` is 0, or `len` beyond
    /// [`MAX_ROWS`](super::MAX_ROWS).
    pub fn new(len: u64, seed: u64, epoch: u64, block: u64, window_blocks: u64) -> Result<Self> {
        if block == 0 {
            return Err(Error::invalid("block_size 0", "at least 1 row"));
        }
        if window_blocks == 0 {
            return Err(Error::invalid("window_blocks 0", "at least 1 block"));
        }
        let blocks = Shuffle::new(len, Purpose::Window, seed, epoch, block)?;
        // A window has no more rows than there are; more than 64 bits hold are in one block.
        let all = len.div_ceil(block).max(1).saturating_mul(block);
        let window_rows = block.saturating_mul(window_blocks).min(all);
        let gap = if len.is_multiple_of(block) { 0 } else { block - len % block };
        let short_window = blocks.short_start() / window_rows;
        let short_end = (short_window + 1).saturating_mul(window_rows) - gap;
        let key = key(Purpose::Window, seed, epoch);
        Ok(Self { blocks, window_blocks, window_rows, key, short_end, gap })
    }

    /// Returns the number of positions.
    pub fn len(&self) -> u64 {
        self.blocks.len()
    }

    /// Returns whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Returns the seed it was made from.
    pub fn seed(&self) -> u64 {
        self.blocks.seed()
    }

    /// Returns the epoch it was made for.
    pub fn epoch(&self) -> u64 {
        self.blocks.epoch()
    }

    /// Returns the rows of a block.
    pub fn block(&self) -> u64 {
        self.blocks.clump()
    }

    /// Returns the number of blocks in a window.
    pub fn window_blocks(&self) -> u64 {
        self.window_blocks
    }

    /// Replaces each shuffled position by the position it came from.
    ///
    /// Costs least where neighbours are of one window.
    pub fn apply(&self, positions: &mut [u64]) {
        self.by_window(positions, Bijection::apply);
        self.blocks.apply(positions);
    }

    /// Applies the shuffle to `start, start + 1, …`.
    pub fn fill(&self, start: u64, out: &mut [u64]) {
        let (mut start, mut rest) = (start, out);
        while !rest.is_empty() {
            let window = self.window(self.window_of(start));
            let count = usize::try_from(window.end - start).unwrap_or(usize::MAX);
            let (head, tail) = rest.split_at_mut(count.min(rest.len()));
            window.rows.fill(start - window.start, head);
            for position in head.iter_mut() {
                *position += window.start;
            }
            self.blocks.apply_between(window.start, window.end - 1, head);
            (start, rest) = (window.end, tail);
        }
    }

    /// Returns the shuffled position that `value` went to.
    pub fn inverse(&self, value: u64) -> u64 {
        let position = self.blocks.inverse(value);
        let window = self.window(self.window_of(position));
        window.start + window.rows.inverse(position - window.start)
    }

    /// Replaces each position, all in `0..len`, by the shuffled position it went to.
    pub(super) fn invert(&self, values: &mut [u64]) {
        self.blocks.invert(values);
        self.by_window(values, Bijection::invert);
    }

    /// Takes every position through the bijection of its window, which is made once for a run.
    fn by_window(&self, positions: &mut [u64], map: fn(&Bijection, &mut [u64])) {
        for run in positions.chunk_by_mut(|&a, &b| self.window_of(a) == self.window_of(b)) {
            let window = self.window(self.window_of(run[0]));
            for position in run.iter_mut() {
                *position -= window.start;
            }
            map(&window.rows, run);
            for position in run {
                *position += window.start;
            }
        }
    }

    fn window_of(&self, position: u64) -> u64 {
        let gap = if position >= self.short_end { self.gap } else { 0 };
        (position + gap) / self.window_rows
    }

    fn window(&self, window: u64) -> Window {
        let start = self.start_of(window);
        let end = self.start_of(window + 1).min(self.len());
        let rows = Bijection::new(end - start, key(Purpose::Window, self.key, window));
        Window { start, end, rows: rows.expect("no longer than the whole") }
    }

    fn start_of(&self, window: u64) -> u64 {
        let start = window.saturating_mul(self.window_rows);
        if start > self.short_end { start - self.gap } else { start }
    }
}

/// Positions `start..end`, shuffled among themselves.
struct Window {
    start: u64,
    end: u64,
    rows: Bijection,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(windowed: &Windowed) -> Vec<u64> {
        let mut out = vec![0; usize::try_from(windowed.len()).unwrap()];
        windowed.fill(0, &mut out);
        out
    }

    #[test]
    fn every_row_is_served_once_and_found_again() {
        for len in (0..130).chain([1000, 2049]) {
            for (block, window_blocks) in
                [(1, 1), (1, 7), (2, 3), (3, 2), (7, 1), (10, 4), (64, 2), (129, 9), (4000, 2)]
            {
                let windowed = Windowed::new(len, 3, len, block, window_blocks).unwrap();
                let out = all(&windowed);
                let mut sorted = out.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..len), "{len} {block} {window_blocks}");
                for (position, &value) in (0..).zip(&out) {
                    assert_eq!(windowed.inverse(value), position, "{len} {block} {window_blocks}");
                }
                let mut applied: Vec<u64> = (0..len).rev().collect();
                windowed.apply(&mut applied);
                applied.reverse();
                assert_eq!(applied, out);
                windowed.invert(&mut applied);
                assert!(applied.into_iter().eq(0..len));
                let middle = out.len() / 2;
                let mut rest = vec![0; out.len() - middle];
                windowed.fill(middle as u64, &mut rest);
                assert_eq!(rest, out[middle..]);
            }
        }
    }

    #[test]
    fn a_window_serves_whole_blocks_and_mixes_them() {
        let (len, block, window_blocks) = (10_050_u64, 100, 10);
        for seed in 0..20 {
            let windowed = Windowed::new(len, seed, 0, block, window_blocks).unwrap();
            let mut out = all(&windowed).into_iter().peekable();
            while out.peek().is_some() {
                // Which rows, not how many: 101 blocks, the last of them short, in windows of 10.
                let mut rows: Vec<u64> = Vec::new();
                let mut blocks = std::collections::BTreeMap::new();
                while let Some(&row) = out.peek() {
                    if blocks.len() as u64 == window_blocks && !blocks.contains_key(&(row / block))
                    {
                        break;
                    }
                    *blocks.entry(row / block).or_insert(0) += 1;
                    rows.push(row);
                    out.next();
                }
                for (&at, &count) in &blocks {
                    assert_eq!(count, block.min(len - at * block), "block {at}");
                }
                let together = rows.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
                assert!(together < 12, "{together} of {} neighbours are left", rows.len());
            }
        }
    }

    #[test]
    fn huge_orders_invert() {
        for (len, block, window_blocks) in [
            (1 << 40, 1000, 64),
            ((1 << 40) + 1, 4096, 1 << 20),
            (super::super::MAX_ROWS, 1, 1),
            (super::super::MAX_ROWS, 3, u64::MAX),
            (1_000_003, u64::MAX, u64::MAX),
        ] {
            let windowed = Windowed::new(len, 1, 2, block, window_blocks).unwrap();
            for start in [0, len / 2, len - 500] {
                let mut out = vec![0; 500];
                windowed.fill(start, &mut out);
                assert_eq!(windowed.inverse(out[77]), start + 77);
                windowed.invert(&mut out);
                assert!(out.into_iter().eq(start..start + 500), "{len} {block} {window_blocks}");
            }
        }
    }

    #[test]
    fn windows_of_no_rows_are_refused() {
        let text = |block, blocks| Windowed::new(10, 0, 0, block, blocks).unwrap_err().to_string();
        assert!(text(0, 1).contains("block_size 0"));
        assert!(text(1, 0).contains("window_blocks 0"));
    }
}
