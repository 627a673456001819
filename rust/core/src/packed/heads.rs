//! Which packed rows an answer is made of, and bringing them close to the processor.

use std::ops::Range;

use super::bytes::read_u64;
use crate::processor::prefetch;

/// Rows that are taken apart while their heads stay in L1.
const TILE_ROWS: usize = 64;
/// The distance of bytes that share a cache line.
const LINE_BYTES: usize = 64;
/// Lines of a head that are asked for a tile ahead.
const HEAD_LINES: usize = 4;
/// Lines of a tail that are asked for. No more, and always as many: tails of any length follow, which are
/// mostly longer, and a loop over the lines of each would be mispredicted.
const TAIL_LINES: usize = 2;

/// The rows of an answer: for each its head and the tails of its block.
pub struct Heads<'a> {
    /// One for each row.
    pub heads: Vec<&'a [u8]>,
    /// As many, or none if rows have no tails.
    pub tails: Vec<&'a [u8]>,
}

impl Heads<'_> {
    /// Makes an empty list with capacity for `rows` rows.
    pub fn with_capacity(rows: usize) -> Self {
        Self { heads: Vec::with_capacity(rows), tails: Vec::new() }
    }

    /// Iterates over tiles of rows whose heads are in the cache: the heads of the next tile are
    /// prefetched when a tile begins.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let num_rows = self.heads.len();
        self.fetch(0..TILE_ROWS);
        (0..num_rows).step_by(TILE_ROWS).map(move |start| {
            let end = start + TILE_ROWS;
            self.fetch(end..end + TILE_ROWS);
            start..num_rows.min(end)
        })
    }

    /// Prefetches the heads of these rows, as far as they exist.
    fn fetch(&self, rows: Range<usize>) {
        let end = rows.end.min(self.heads.len());
        for head in &self.heads[rows.start.min(end)..end] {
            fetch(head, HEAD_LINES);
            head.last().map(prefetch);
        }
    }

    /// Prefetches the beginning of the tail of a row, if the row exists.
    pub(super) fn fetch_tail(&self, row: usize, slot: usize) {
        if let Some(head) = self.heads.get(row) {
            let tail = self.tails[row].get(read_u64(head, slot)..);
            fetch(tail.unwrap_or_default(), TAIL_LINES);
        }
    }
}

/// Prefetches the first `lines` cache lines of these bytes.
pub(super) fn fetch(bytes: &[u8], lines: usize) {
    for line in bytes.chunks(LINE_BYTES).take(lines) {
        prefetch(&line[0]);
    }
}
