//! Batches of rows of similar length under a token budget.

use std::ops::Range;
use std::sync::Arc;

use super::Lengths;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::order::{Order, Share};

/// What becomes of a row that is longer than a batch may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// It is a batch of its own.
    Alone,
    /// It is an error.
    Error,
}

/// How large a batch may be, and which rows may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Tokens of a batch.
    pub tokens: u64,
    /// Whether padding counts: all rows are then as long as the longest of their batch.
    pub padded: bool,
    /// Rows of a batch, at most.
    pub most_rows: u64,
    /// Neighbours in the order that are sorted by length together.
    pub window: u32,
    /// What becomes of rows longer than `tokens`.
    pub oversized: Oversized,
}

/// The totals of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketCounts {
    /// Tokens of all rows.
    pub tokens: u64,
    /// Tokens of all batches with each row as long as the longest of its batch.
    pub padded_tokens: u64,
    /// Batches of one row that is longer than the budget.
    pub oversized: u64,
}

/// The batches of an epoch: every row in one of them. Keeps 8 bytes for a window.
#[derive(Debug)]
pub struct Buckets {
    order: Order,
    lengths: Arc<Lengths>,
    budget: Budget,
    /// Batches before each window; then all.
    before: Vec<u64>,
    counts: BucketCounts,
}

/// The batches of a window: places of rows, and where each batch ends among them.
#[derive(Debug, Default)]
struct Window {
    offsets: Vec<u64>,
    lengths: Vec<u32>,
    places: Vec<u32>,
    batches: Vec<Range<usize>>,
}

impl Buckets {
    /// Plans the epoch of `order`. Looks at the length of every row once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if batches or windows are empty, a length is missing, or a row is longer than a
    /// batch under [`Oversized::Error`]; [`Error::Interrupted`].
    pub fn new(order: Order, lengths: Arc<Lengths>, budget: Budget) -> Result<Self> {
        for (what, size, unit) in [
            ("batch_tokens", budget.tokens, "token"),
            ("batch_size", budget.most_rows, "row"),
            ("bucket_rows", u64::from(budget.window), "row"),
        ] {
            if size == 0 {
                return Err(Error::invalid(format!("{what} 0"), format!("at least 1 {unit}")));
            }
        }
        let mut buckets =
            Self { order, lengths, budget, before: vec![0], counts: BucketCounts::default() };
        let mut window = Window::default();
        for number in 0..buckets.order.len().div_ceil(u64::from(budget.window)) {
            buckets.read(number, &mut window)?;
            buckets.count(&window)?;
            let before = buckets.num_batches();
            buckets.before.push(before + window.batches.len() as u64);
        }
        Ok(buckets)
    }

    /// Sorts rows by length and cuts them into batches, which come in the order of their first rows.
    fn read(&self, number: u64, into: &mut Window) -> Result<()> {
        interrupt::check()?;
        let start = number * u64::from(self.budget.window);
        let end = self.order.len().min(start + u64::from(self.budget.window));
        into.offsets = self.order.offsets(start..end)?;
        self.lengths.look_up(&into.offsets, &mut into.lengths)?;
        let lengths = &into.lengths;
        into.places.clear();
        into.places.extend((0..).take(lengths.len()));
        // Positions tell rows of one length apart: shuffled rows stay shuffled.
        into.places.sort_unstable_by_key(|&place| (lengths[place as usize], place));
        into.batches.clear();
        let (mut first, mut sum) = (0, 0);
        for (at, &place) in into.places.iter().enumerate() {
            let len = u64::from(lengths[place as usize]);
            let rows = (at - first) as u64;
            let tokens = if self.budget.padded { (rows + 1) * len } else { sum + len };
            if rows > 0 && (tokens > self.budget.tokens || rows == self.budget.most_rows) {
                into.batches.push(first..at);
                (first, sum) = (at, 0);
            }
            sum += len;
        }
        into.batches.push(first..into.places.len());
        let places = &into.places;
        into.batches.sort_unstable_by_key(|batch| places[batch.start]);
        Ok(())
    }

    fn count(&mut self, window: &Window) -> Result<()> {
        for batch in &window.batches {
            let lengths =
                window.places[batch.clone()].iter().map(|&place| window.lengths[place as usize]);
            let longest = u64::from(lengths.clone().next_back().unwrap_or(0));
            self.counts.tokens += lengths.map(u64::from).sum::<u64>();
            self.counts.padded_tokens += longest * batch.len() as u64;
            if longest > self.budget.tokens {
                self.counts.oversized += 1;
                if self.budget.oversized == Oversized::Error {
                    let offset = window.offsets[window.places[batch.start] as usize];
                    return Err(Error::invalid(
                        format!("{longest} tokens in row {offset}"),
                        format!("at most {}, or long=\"alone\"", self.budget.tokens),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns the order that was planned.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Returns the number of batches.
    pub fn num_batches(&self) -> u64 {
        self.before.last().copied().unwrap_or(0)
    }

    /// Returns the totals of the batches.
    pub fn counts(&self) -> BucketCounts {
        self.counts
    }

    /// Returns the bytes of memory of the plan, without the lengths.
    pub fn num_bytes(&self) -> usize {
        size_of::<Self>() + self.before.len() * size_of::<u64>() + self.order.num_bytes()
    }

    /// Returns the rows of the batches of a share, one batch after another, and where each batch ends.
    ///
    /// Batches are the units of the share. Takes 4 bytes for a row and 8 for a batch.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the share is not one of these batches; [`Error::Interrupted`].
    pub fn share(&self, share: &Share) -> Result<(Order, Vec<u64>)> {
        share.check(self.num_batches())?;
        let mut window = (None, Window::default());
        let (mut positions, mut ends) = (Vec::new(), Vec::new());
        for batch in (0..share.num_batches()).flat_map(|at| share.runs(at)).flatten() {
            let number = self.before.partition_point(|&before| before <= batch) - 1;
            if window.0 != Some(number) {
                self.read(number as u64, &mut window.1)?;
                window.0 = Some(number);
            }
            let at = usize::try_from(batch - self.before[number]).expect("batches of a window");
            let window = &window.1;
            let places = &window.places[window.batches[at].clone()];
            let start = number as u64 * u64::from(self.budget.window);
            positions.extend(places.iter().map(|&place| start + u64::from(place)));
            ends.push(positions.len() as u64);
        }
        Ok((self.order.pick(&Order::listed(positions))?, ends))
    }
}
