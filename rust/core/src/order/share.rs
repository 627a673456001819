//! Which batches of an epoch one reader gets.

use std::ops::Range;

/// Batches of positions: `num_full` of `size`, `stride` apart, and one more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The first position.
    pub first: u64,
    /// Positions of a batch.
    pub size: u64,
    /// From the first position of a batch to that of the next.
    pub stride: u64,
    /// The number of batches of `size`.
    pub num_full: u64,
    /// The first position of one more batch.
    pub last_start: u64,
    /// Its positions, which may go on from the start of the epoch; `None` if there is no such batch.
    pub last_size: Option<u64>,
}

impl Share {
    /// What it is, as words to hash.
    pub(super) fn words(&self) -> [u64; 8] {
        let last = self.last_size.map_or([0, 0], |size| [1, size]);
        let full = [self.size, self.stride, self.num_full, self.last_start];
        [1, self.first, full[0], full[1], full[2], full[3], last[0], last[1]]
    }

    /// The positions of each batch.
    pub fn batches(&self) -> impl Iterator<Item = Range<u64>> {
        let full = (0..self.num_full).map(|batch| self.first + batch * self.stride);
        let full = full.map(|start| start..start + self.size);
        full.chain(self.last_size.map(|size| self.last_start..self.last_start + size))
    }
}
