//! Which batches of an epoch one reader gets.

use std::ops::Range;

use crate::error::{Error, Result};

/// The batches of one reader: of `size` units each, the `k`-th from `first + k · stride` on, and then
/// one of `last_size` from `last_start` on. Units are counted modulo `num_units`, as padding goes
/// round to the first ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The first unit of the first batch.
    pub first: u64,
    /// Units of a batch.
    pub size: u64,
    /// Units from the start of a batch to the start of the next.
    pub stride: u64,
    /// Batches of `size` units.
    pub num_full: u64,
    /// The first unit of the last batch.
    pub last_start: u64,
    /// Units of the last batch, maybe 0; `None` if there is no such batch.
    pub last_size: Option<u64>,
    /// Units of the epoch.
    pub num_units: u64,
}

impl Share {
    /// Creates the share that is everything, in batches of `size` units, the last one shorter.
    pub fn whole(num_units: u64, size: u64) -> Self {
        let num_full = num_units / size;
        let last_start = num_full * size;
        let last_size = Some(num_units - last_start).filter(|&left| left > 0);
        Self { first: 0, size, stride: size, num_full, last_start, last_size, num_units }
    }

    /// Fails if there are batches but no units to fill them with, or places beyond 64 bits.
    pub(crate) fn check(&self, num_units: u64) -> Result<()> {
        if self.num_units != num_units {
            let given = self.num_units;
            return Err(Error::invalid(
                format!("a share of {given} units"),
                format!("a share of all {num_units} units"),
            ));
        }
        let end = (self.num_full.checked_mul(self.stride))
            .and_then(|units| units.checked_add(self.first)?.checked_add(self.size));
        let last_size = self.last_size.unwrap_or(0);
        let is_served = self.num_full > 0 || last_size > 0;
        let fits = end.is_some() && self.last_start.checked_add(last_size).is_some();
        if (is_served && num_units == 0) || !fits {
            return Err(Error::invalid(
                format!("{self:?}"),
                "batches that fit in 2^64 units, of at least one unit",
            ));
        }
        Ok(())
    }

    /// Returns what it is, as words to hash.
    pub(super) fn words(&self) -> [u64; 8] {
        let last = self.last_size.map_or([0, 0], |size| [1, size]);
        let full = [self.size, self.stride, self.num_full, self.last_start];
        [1, self.first, full[0], full[1], full[2], full[3], last[0], last[1]]
    }

    /// Returns the number of batches.
    pub fn num_batches(&self) -> u64 {
        self.num_full + u64::from(self.last_size.is_some())
    }

    /// Returns the units of each batch, one by one; beyond the end they are those from the start.
    pub fn batches(&self) -> impl Iterator<Item = Range<u64>> {
        let full = (0..self.num_full).map(|batch| self.first + batch * self.stride);
        let full = full.map(|start| start..start + self.size);
        full.chain(self.last_size.map(|size| self.last_start..self.last_start + size))
    }

    /// Returns the runs of neighbouring units that make up a batch; more than one where it goes
    /// round.
    pub fn runs(&self, batch: u64) -> Vec<Range<u64>> {
        let (mut start, mut left) = if batch < self.num_full {
            (self.first + batch * self.stride, self.size)
        } else {
            (self.last_start, self.last_size.unwrap_or(0))
        };
        let mut runs = Vec::with_capacity(1);
        while left > 0 {
            let from = start % self.num_units;
            let count = left.min(self.num_units - from);
            runs.push(from..from + count);
            start += count;
            left -= count;
        }
        runs
    }
}
