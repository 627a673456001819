//! The rows of a mixture, or of those of its sources that are read together.

use std::sync::Arc;

use super::expression::{Mixed, Order};
use super::mix::{Dealt, Mix, Parts};
use super::share::Share;
use crate::error::{Error, Result};

/// Rows dealt out at once.
const RUN: usize = 1 << 16;
/// A pass of a source is this much later an epoch than the one before it.
const PASS: u32 = 32;

impl Mixed {
    /// Returns the rows of a group, all of them or those of the batches of a share. `orders` are
    /// those of its sources.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the orders are not as many and as long as the mixture says, or the share
    /// is of another number of rows.
    pub fn new(
        mix: Arc<Mix>,
        group: usize,
        orders: Arc<[Order]>,
        epoch: Option<u64>,
        share: Option<Share>,
    ) -> Result<Self> {
        let recipe = mix.recipe();
        let mut places = vec![usize::MAX; recipe.sizes.len()];
        let mut num_sources = 0;
        for (source, _) in recipe.groups.iter().enumerate().filter(|(_, of)| **of == group) {
            places[source] = num_sources;
            num_sources += 1;
            let found = orders.get(places[source]).map(Order::len);
            if found != Some(recipe.sizes[source]) {
                return Err(Error::invalid(
                    match found {
                        Some(rows) => format!("an order of {rows} rows for source number {source}"),
                        None => format!("no order for source number {source}"),
                    },
                    format!("one of {} rows", recipe.sizes[source]),
                ));
            }
        }
        if num_sources != orders.len() {
            let found = format!("{} orders for group number {group}", orders.len());
            return Err(Error::invalid(found, num_sources));
        }
        if let Some(share) = &share {
            share.check(mix.len())?;
        }
        let in_epoch =
            |order: &Order| epoch.map_or_else(|| Ok(order.clone()), |e| order.with_epoch(e));
        let first = orders.iter().map(in_epoch).collect::<Result<Vec<_>>>()?;
        let (starts, ends) = share.as_ref().map(|share| mix.runs(group, share)).unwrap_or_default();
        let whole = mix.group_rows(group, mix.len());
        let len = if share.is_some() { ends.last().copied().unwrap_or(0) } else { whole };
        Ok(Self { mix, group, orders, epoch, share, first, places, starts, ends, len })
    }

    /// Returns the mixture.
    pub fn mix(&self) -> &Arc<Mix> {
        &self.mix
    }

    /// Returns the group of sources.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Returns the orders of its sources.
    pub fn orders(&self) -> &Arc<[Order]> {
        &self.orders
    }

    /// Returns the epoch, or `None` if the orders are served as they are.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Returns the share, if it is not everything.
    pub fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    /// Returns the number of rows.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns where the batches of the share end, runs beyond the end of the epoch as batches of
    /// their own.
    pub fn ends(&self) -> &[u64] {
        &self.ends
    }

    pub(super) fn bound(&self) -> u64 {
        self.orders.iter().map(Order::bound).max().unwrap_or(0)
    }

    pub(super) fn with_epoch(&self, epoch: u64) -> Result<Self> {
        let (mix, orders) = (Arc::clone(&self.mix), Arc::clone(&self.orders));
        Self::new(mix, self.group, orders, Some(epoch), self.share)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let has_same_orders = self.orders.len() == other.orders.len()
            && self.orders.iter().zip(other.orders.iter()).all(|(a, b)| a.is_same(b));
        (self.group, self.epoch, &self.share) == (other.group, other.epoch, &other.share)
            && self.mix.recipe() == other.mix.recipe()
            && has_same_orders
    }

    pub(super) fn num_bytes(&self) -> usize {
        let orders: usize = self.orders.iter().map(Order::num_bytes).sum();
        orders + size_of_val(&*self.starts) + size_of_val(&*self.ends) + size_of_val(&*self.places)
    }

    pub(super) fn apply(&self, values: &mut [u64]) {
        let mut rest = values;
        while let [start, ..] = *rest {
            let follows = |(value, wanted): &(&u64, u64)| **value == *wanted;
            let count = rest.iter().zip(start..).take_while(follows).count();
            let (run, others) = rest.split_at_mut(count);
            self.fill(start, run);
            rest = others;
        }
    }

    pub(super) fn fill(&self, start: u64, out: &mut [u64]) {
        if self.share.is_none() {
            return self.deal(start, out);
        }
        let (mut start, mut out) = (start, out);
        let mut run = self.ends.partition_point(|&end| end <= start);
        while !out.is_empty() {
            let before = run.checked_sub(1).map_or(0, |before| self.ends[before]);
            let count = usize::try_from(self.ends[run] - start).unwrap_or(usize::MAX);
            let (head, rest) = out.split_at_mut(count.min(out.len()));
            self.deal(self.starts[run] + (start - before), head);
            start += head.len() as u64;
            out = rest;
            run += 1;
        }
    }

    fn deal(&self, start: u64, out: &mut [u64]) {
        let mut scratch = Vec::new();
        for (chunk, start) in out.chunks_mut(RUN).zip((start..).step_by(RUN)) {
            let end = start + chunk.len() as u64;
            let group = Parts::SourcesOf(self.group);
            self.mix.deal(group, start..end, &mut |dealt| self.rows(&dealt, &mut scratch, chunk));
        }
    }

    /// Writes the rows of one source to their positions.
    fn rows(&self, dealt: &Dealt<'_>, scratch: &mut Vec<u64>, out: &mut [u64]) {
        let place = self.places[dealt.part];
        let size = self.orders[place].len();
        let (mut start, mut slots) = (dealt.start, dealt.slots);
        while !slots.is_empty() {
            let (pass, row) = (start / size, start % size);
            let count = usize::try_from(size - row).unwrap_or(usize::MAX).min(slots.len());
            scratch.resize(count, 0);
            if pass == 0 {
                self.first[place].fill(row, scratch);
            } else {
                let epoch = self.epoch.unwrap_or(0).wrapping_add(pass << PASS);
                let order = self.orders[place].with_epoch(epoch);
                order.expect("it was made for another epoch before").fill(row, scratch);
            }
            let (head, rest) = slots.split_at(count);
            for (&slot, &value) in head.iter().zip(scratch.iter()) {
                out[slot as usize] = value;
            }
            start += count as u64;
            slots = rest;
        }
    }
}
