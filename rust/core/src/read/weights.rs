//! About how many bytes rows have, and where the long ones are: what data files say without being read.
//!
//! An average says nothing of a few long rows among many short ones. Files say how many bytes each of
//! their pages has, and long rows have pages of their own, or nearly so.

use std::ops::Range;

/// Rows are of different length if somewhere they have more than this many bytes, and this many times
/// as many as on average.
const UNEVEN_BYTES: u64 = 16 << 10;
const UNEVEN_TIMES: u64 = 4;

/// The bytes of rows by offset, as a step function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Weights {
    /// Ascending; the first one starts at row 0.
    steps: Vec<Step>,
    num_rows: u64,
    total: u64,
    /// What a row may have at most, as far as is known: the bytes of the largest page.
    longest: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    start: u64,
    /// Bytes of all rows before `start`.
    before: u64,
    row_bytes: u64,
}

impl Weights {
    /// Weighs runs of rows, each given as the number of rows and the bytes of a row.
    pub(super) fn new(runs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut weights = Self::default();
        for (rows, row_bytes) in runs.into_iter().filter(|(rows, _)| *rows > 0) {
            if weights.steps.last().is_none_or(|last| last.row_bytes != row_bytes) {
                let (start, before) = (weights.num_rows, weights.total);
                weights.steps.push(Step { start, before, row_bytes });
            }
            weights.num_rows += rows;
            weights.total = weights.total.saturating_add(rows.saturating_mul(row_bytes));
        }
        weights
    }

    /// Returns the same weights with an upper bound for the longest row.
    pub(super) fn with_longest(self, longest: u64) -> Self {
        Self { longest, ..self }
    }

    /// Returns an upper bound for rows of about this many bytes, in case one of them is long.
    pub(super) fn at_most(&self, bytes: u64) -> u64 {
        if self.is_uneven() { bytes.max(self.longest) } else { bytes }
    }

    /// Returns the bytes of a row on average, rounded up.
    pub(super) fn mean(&self) -> u64 {
        self.total.div_ceil(self.num_rows.max(1))
    }

    /// Returns whether some rows are far longer than others.
    pub(super) fn is_uneven(&self) -> bool {
        let most = UNEVEN_BYTES.max(self.mean().saturating_mul(UNEVEN_TIMES));
        self.steps.iter().any(|step| step.row_bytes > most)
    }

    /// Returns the bytes of a run of rows.
    pub(super) fn of_run(&self, offsets: Range<u64>) -> u64 {
        self.before(offsets.end).saturating_sub(self.before(offsets.start))
    }

    /// Returns the bytes of some rows.
    pub(super) fn of_rows(&self, offsets: &[u64]) -> u64 {
        offsets.iter().map(|&offset| self.step_of(offset).map_or(0, |step| step.row_bytes)).sum()
    }

    /// Returns the end of the longest run from `offsets.start` with at most `most_bytes` bytes; at
    /// least one row.
    pub(super) fn end_of_run(&self, offsets: Range<u64>, most_bytes: u64) -> u64 {
        let (mut fits, mut end) = (offsets.end.min(offsets.start + 1), offsets.end);
        while fits < end {
            let middle = end - (end - fits) / 2;
            if self.of_run(offsets.start..middle) <= most_bytes {
                fits = middle;
            } else {
                end = middle - 1;
            }
        }
        fits
    }

    fn before(&self, offset: u64) -> u64 {
        self.step_of(offset).map_or(0, |step| {
            step.before.saturating_add((offset - step.start).saturating_mul(step.row_bytes))
        })
    }

    fn step_of(&self, offset: u64) -> Option<&Step> {
        let after = self.steps.partition_point(|step| step.start <= offset);
        self.steps.get(after.checked_sub(1)?)
    }
}

/// Returns the bytes of rows of a fragment, from the pages of each of its columns: rows and bytes.
/// Columns whose pages do not count rows are taken to be even.
pub(super) fn of_pages(num_rows: u64, columns: &[Vec<(u64, u64)>]) -> Vec<(u64, u64)> {
    // Where the bytes of a row change, and by how much.
    let mut changes: Vec<(u64, i128)> = Vec::new();
    for pages in columns {
        let counted: u64 = pages.iter().map(|(rows, _)| rows).sum();
        let sum = (num_rows, pages.iter().map(|(_, bytes)| bytes).sum());
        let pages = if counted == num_rows { pages.as_slice() } else { &[sum] };
        let mut start = 0;
        for &(rows, bytes) in pages.iter().filter(|(rows, _)| *rows > 0) {
            let row_bytes = i128::from(bytes.div_ceil(rows));
            changes.push((start, row_bytes));
            start += rows;
            changes.push((start, -row_bytes));
        }
    }
    changes.push((num_rows, 0));
    changes.sort_unstable();
    let (mut start, mut row_bytes) = (0, 0_i128);
    let mut runs = Vec::new();
    for (at, change) in changes {
        if at > start {
            runs.push((at - start, u64::try_from(row_bytes).unwrap_or(0)));
            start = at;
        }
        row_bytes += change;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_where_rows_are_long() {
        let weights = Weights::new([(100, 10), (0, 7), (2, 1_000_000), (100, 10)]);
        assert_eq!((weights.total, weights.mean()), (2_002_000, 2_002_000_u64.div_ceil(202)));
        assert!(weights.is_uneven());
        assert_eq!(weights.of_run(99..101), 1_000_010);
        assert_eq!(weights.of_run(0..202), weights.total);
        assert_eq!(weights.of_rows(&[101, 0, 100, 201]), 2_000_020);
        assert_eq!(weights.end_of_run(0..202, 500), 50);
        assert_eq!(weights.end_of_run(90..202, 500), 100);
        assert_eq!(weights.end_of_run(100..202, 500), 101);
        assert_eq!(weights.end_of_run(102..202, 1 << 40), 202);
        assert_eq!(weights.end_of_run(7..7, 500), 7);
        assert_eq!(weights.with_longest(3_000_000).at_most(500), 3_000_000);
    }

    #[test]
    fn rows_that_are_alike_are_even() {
        for row_bytes in [0, 1, 5000, 3 << 20] {
            let weights = Weights::new([(10, row_bytes), (90, row_bytes)]);
            assert!(!weights.is_uneven());
            assert_eq!(weights.mean(), row_bytes);
            assert_eq!(weights.with_longest(1 << 30).at_most(7), 7);
        }
        assert_eq!(Weights::new([]).mean(), 0);
        assert_eq!(Weights::new([]).of_rows(&[3]), 0);
    }

    #[test]
    fn pages_of_columns_add_up() {
        let columns = [vec![(4, 400), (6, 60)], vec![(7, 7), (3, 3000)]];
        assert_eq!(of_pages(10, &columns), [(4, 101), (3, 11), (3, 1010)]);
        // Pages of values inside of lists do not count rows.
        assert_eq!(of_pages(10, &[vec![(1000, 5000)]]), [(10, 500)]);
        assert_eq!(of_pages(10, &[]), [(10, 0)]);
    }
}
