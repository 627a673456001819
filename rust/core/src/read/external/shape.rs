//! How an order is cut into buckets: arithmetic.

use std::ops::Range;

use super::super::choose::SetLimit;
use super::super::scan::scan_rows;
use crate::error::{Error, Result};

/// A row of a bucket begins with its place in it.
pub(super) const PLACE_BYTES: usize = size_of::<u32>();
/// Rows longer than this are not read with their bucket, but when they are served.
pub(super) const LONG_BYTES: usize = 64 << 10;

/// Buffers are no smaller than this, or the disk would see nothing but small writes.
const MIN_BUFFER: u64 = 1 << 10;
/// And no larger than this, which is enough.
const MAX_BUFFER: u64 = 1 << 20;
/// Rows of a bucket are numbered in 32 bits.
const MAX_BUCKET_ROWS: u64 = 1 << 31;
/// The budget in parts: up to three buckets take a sixth each, the buffers of pass 1 together a
/// quarter, what is decoded at once a sixteenth, and windows under way the rest.
const BUCKET_SHARE: u64 = 6;
const BUFFER_SHARE: u64 = 4;
const SCAN_SHARE: u64 = 16;

/// How an order is cut into buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    num_rows: u64,
    bucket_rows: u64,
    pub(super) bucket_bytes: usize,
    pub(super) buffer_bytes: usize,
    /// Rows and bytes that a thread decodes at once.
    pub(super) scan_rows: u64,
    pub(super) scan_bytes: u64,
}

impl Shape {
    /// Returns the shape for `num_rows` rows of some `row_bytes` within a budget.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the budget is too small, or [`Error::Memory`] if it was not set by a user.
    pub(super) fn new(
        num_rows: u64,
        row_bytes: u64,
        list_bytes: u64,
        (budget, limit): (u64, Option<SetLimit>),
        threads: usize,
    ) -> Result<Self> {
        let shape = |budget| Self::within(num_rows, row_bytes, list_bytes, budget, threads);
        shape(budget).ok_or_else(|| {
            let (mut least, mut most) = (budget, budget.max(1));
            while shape(most).is_none() && most < u64::MAX / 2 {
                (least, most) = (most, most * 2);
            }
            while most - least > (most / 256).max(1) {
                let middle = least + (most - least) / 2;
                if shape(middle).is_some() { most = middle } else { least = middle }
            }
            let bytes = num_rows.saturating_mul(row_bytes);
            let Some(limit) = limit else {
                return Error::Memory(format!(
                    "no memory to shuffle {bytes} bytes of rows, as {budget} may be used of what is free: \
                     memory_limit={most} allows it"
                ));
            };
            limit.too_little(&format!("shuffle {bytes} bytes of rows"), most, "")
        })
    }

    fn within(
        num_rows: u64,
        row_bytes: u64,
        list_bytes: u64,
        budget: u64,
        threads: usize,
    ) -> Option<Self> {
        // A list takes what it takes, up to half; buckets share the rest.
        let budget =
            budget.checked_sub(list_bytes.checked_mul(2)?).map(|rest| rest + list_bytes)?;
        let record =
            row_bytes.min(LONG_BYTES as u64) + PLACE_BYTES as u64 + size_of::<usize>() as u64;
        let bucket_rows = (budget / BUCKET_SHARE / record).min(MAX_BUCKET_ROWS);
        let num_buckets = num_rows.checked_div(bucket_rows)? + 1;
        let buffer = budget / BUFFER_SHARE / num_buckets;
        if buffer < MIN_BUFFER && num_buckets > 1 {
            return None;
        }
        let at_once = budget / SCAN_SHARE / threads.max(1) as u64;
        Some(Self {
            num_rows,
            bucket_rows,
            bucket_bytes: usize::try_from(budget / BUCKET_SHARE).unwrap_or(usize::MAX),
            buffer_bytes: usize::try_from(buffer.min(MAX_BUFFER)).unwrap_or(usize::MAX),
            scan_rows: scan_rows(row_bytes, at_once),
            scan_bytes: at_once,
        })
    }

    pub(super) fn num_buckets(&self) -> usize {
        usize::try_from(self.num_rows.div_ceil(self.bucket_rows)).unwrap_or(usize::MAX)
    }

    /// Returns the bucket of a position, and its place in it.
    #[expect(clippy::cast_possible_truncation, reason = "a bucket has fewer than 2^32 rows")]
    pub(super) fn place(&self, position: u64) -> (usize, u32) {
        let bucket = position / self.bucket_rows;
        (bucket as usize, (position % self.bucket_rows) as u32)
    }

    pub(super) fn rows_of(&self, bucket: usize) -> Range<u64> {
        let start = bucket as u64 * self.bucket_rows;
        start..self.num_rows.min(start + self.bucket_rows)
    }
}
