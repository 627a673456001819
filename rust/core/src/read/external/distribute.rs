//! Pass 1: every row of the table goes to the bucket that its position is in.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::super::scan::scan_at_once;
use super::pass::Part;
use super::shape::{LONG_BYTES, PLACE_BYTES};
use super::{Bucket, External, reserve};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::order::Order;
use crate::packed::PackedRows;
use crate::runtime::lock;

impl External {
    /// Takes part in pass 1 until it is over. Every thread that wants rows does.
    ///
    /// # Errors
    ///
    /// Those of reading; [`Error::Interrupted`].
    pub(in crate::read) fn prepare(&self) -> Result<()> {
        let part = Part::of(&self.pass, &self.passed);
        let result = self.distribute();
        if let Err(error) = result {
            lock(&self.pass).error.get_or_insert(error);
        }
        drop(part);
        let mut pass = lock(&self.pass);
        loop {
            if let Some(error) = &pass.error {
                self.passed.notify_all();
                return Err(error.clone());
            }
            if pass.is_done || self.failure.load().is_some() {
                self.passed.notify_all();
                return Ok(());
            }
            if pass.threads == 0 && self.next_offset.load(Ordering::Relaxed) >= self.scan.num_rows()
            {
                if let Err(error) = self.flush() {
                    self.give_up(error);
                }
                pass.is_done = true;
                self.passed.notify_all();
                return Ok(());
            }
            self.check()?;
            let waited = self.passed.wait_timeout(pass, interrupt::PERIOD);
            pass = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_up(&self, error: Error) {
        self.failure.store(Some(Arc::new(error)));
    }

    /// Does the part of pass 1 that this thread gets to.
    fn distribute(&self) -> Result<()> {
        let num_rows = self.scan.num_rows();
        let step = self.shape.scan_rows;
        let mut rows = PackedRows::default();
        let mut places = Vec::new();
        while self.failure.load().is_none() && lock(&self.pass).error.is_none() {
            self.check()?;
            let start = self.next_offset.fetch_add(step, Ordering::Relaxed);
            if start >= num_rows {
                return Ok(());
            }
            let end = num_rows.min(start + step);
            let mut start = start;
            while start < end && self.failure.load().is_none() {
                let run = scan_at_once(&self.weights, start..end, step, self.shape.scan_bytes);
                start = run.end;
                self.places_of(run.clone(), &mut places)?;
                if places.is_empty() {
                    continue;
                }
                self.check()?;
                let most = (LONG_BYTES as u64).max(2 * self.shape.scan_bytes);
                if rows.num_bytes() as u64 > most {
                    // As much will not be wanted again soon.
                    rows = PackedRows::default();
                }
                rows.clear();
                for batch in self.scan.scan(run, true)? {
                    self.packing.pack(&batch, &mut rows)?;
                }
                self.scan.forget();
                if let Err(error) = self.deal(&rows, &mut places) {
                    self.give_up(error);
                }
            }
        }
        Ok(())
    }

    /// Lists the bucket, the place in it and the row of the run for the rows of a run of offsets.
    fn places_of(&self, offsets: Range<u64>, out: &mut Vec<(usize, u32, usize)>) -> Result<()> {
        out.clear();
        if let Some(listed) = &self.listed {
            let first = listed.partition_point(|&(offset, _)| offset < offsets.start);
            let run = listed[first..].iter().take_while(|(offset, _)| *offset < offsets.end);
            out.extend(run.map(|&(offset, position)| {
                let (bucket, place) = self.shape.place(position);
                (bucket, place, usize::try_from(offset - offsets.start).unwrap_or(usize::MAX))
            }));
            return Ok(());
        }
        let mut positions = Vec::new();
        self.order.positions_of(offsets, &mut positions)?;
        out.extend(positions.into_iter().enumerate().filter(|(_, p)| *p != Order::NOWHERE).map(
            |(row, position)| {
                let (bucket, place) = self.shape.place(position);
                (bucket, place, row)
            },
        ));
        Ok(())
    }

    /// Puts rows into the buffers of their buckets.
    fn deal(&self, rows: &PackedRows, places: &mut [(usize, u32, usize)]) -> Result<()> {
        for (bit, _) in self.bits_set.iter().zip(&rows.bits_set).filter(|(_, is_set)| **is_set) {
            bit.store(true, Ordering::Relaxed);
        }
        places.sort_unstable_by_key(|&(bucket, ..)| bucket);
        let stride = self.packing.stride();
        for run in places.chunk_by(|a, b| a.0 == b.0) {
            let mut bucket = lock(&self.buckets[run[0].0]);
            for &(_, place, row) in run {
                let head = &rows.heads[row * stride..(row + 1) * stride];
                let tail = &rows.tails[self.packing.tail_of(head)];
                let record = PLACE_BYTES + stride + tail.len();
                if record > LONG_BYTES {
                    let mut head = head.to_vec();
                    self.packing.set_tail(&mut head, 0);
                    let extent = self.scratch().append_parts(&[&head, tail])?;
                    bucket.long.push((place, extent));
                    continue;
                }
                if bucket.buffer.len() + record > self.shape.buffer_bytes {
                    self.spill(&mut bucket)?;
                }
                let most = record.max(self.shape.buffer_bytes);
                if bucket.buffer.capacity() < record {
                    reserve(&mut bucket.buffer, most)?;
                }
                let start = bucket.buffer.len();
                bucket.buffer.extend_from_slice(&place.to_le_bytes());
                bucket.buffer.extend_from_slice(head);
                self.packing.set_tail(&mut bucket.buffer[start + PLACE_BYTES..], 0);
                bucket.buffer.extend_from_slice(tail);
            }
        }
        self.rows_spilled.fetch_add(places.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn spill(&self, bucket: &mut Bucket) -> Result<()> {
        if bucket.buffer.is_empty() {
            return Ok(());
        }
        let extent = self.scratch().append(&bucket.buffer)?;
        bucket.extents.push(extent);
        bucket.buffer.clear();
        Ok(())
    }

    /// Writes what is left in the buffers, and gives their memory back.
    fn flush(&self) -> Result<()> {
        for bucket in &self.buckets {
            let mut bucket = lock(bucket);
            self.spill(&mut bucket)?;
            bucket.buffer = Vec::new();
        }
        Ok(())
    }
}
