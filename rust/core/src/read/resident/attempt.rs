//! How blocks are filled: from a file that is there already, or by packing rows.

use std::ops::Range;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;

use super::super::choose::too_little;
use super::super::scan::{scan_at_once, scan_rows};
use super::buffers::{Buffers, PackBuffer};
use super::filling::Filling;
use super::{BLOCK_BYTES, Resident};
use crate::address_space::check_room;
use crate::cache::{Block, Claim, Entry, Rows};
use crate::error::{Error, Result};
use crate::packed::PackedRows;

/// Bytes that are decoded at a time while a block is filled: few, so that they are packed from the caches.
const DECODED_BYTES: u64 = 2 << 20;
/// The same where each time is a round trip to another machine.
const DECODED_BYTES_FAR: u64 = 8 << 20;
/// What a request for a part of a column on another machine should bring, and how many neighbours are
/// asked for together to that end.
const REQUEST_BYTES: u64 = 2 << 20;
const MOST_AT_ONCE: u64 = 4;
/// Neighbours are not filled together where there would be fewer runs of them than this.
const FEWEST_RUNS: usize = 4;

/// The outcome of an attempt to fill a block.
pub(super) enum Attempt {
    Filled(Block),
    Mapped(Block),
    /// The block was in memory; it is now in a file if that could be written.
    Moved(Option<Block>),
    /// Another process is filling it.
    Busy,
}

/// A block whose rows have to be packed, and the right to write its file.
struct Wanted<'a> {
    block: usize,
    claim: Option<Claim<'a>>,
}

/// What was found of a block.
enum Look<'a> {
    Over(Attempt),
    Wanted(Wanted<'a>),
}

/// Rows of a block that are being packed, and what is taken of the limit for them.
struct Share {
    count: u64,
    /// Bytes of the heads.
    heads: u64,
    /// Bytes of heads and tails, by what is known before.
    expected: u64,
    /// Of all blocks so far.
    packed_rows: u64,
    sum: u64,
}

impl Share {
    /// Forgets the rows of another block, and makes room for those of this one.
    fn make_room(&self, rows: &mut PackedRows) -> Result<()> {
        rows.clear();
        rows.reserve(self.heads, self.expected - self.heads)
    }
}

impl Resident {
    /// Returns how many neighbours of `num_blocks` are filled together: on another machine, blocks of many
    /// columns would take many short requests.
    pub(super) fn blocks_at_once(&self, num_blocks: usize) -> usize {
        if !self.scan.is_remote() {
            return 1;
        }
        let columns = self.packing.schema().fields().len() as u64;
        let bytes = self.sizes.weights.of_run(self.rows_of(0)).max(1);
        let most = (num_blocks / FEWEST_RUNS).max(1);
        let count = (REQUEST_BYTES * columns).div_ceil(bytes).clamp(1, MOST_AT_ONCE);
        usize::try_from(count).unwrap_or(1).min(most)
    }

    fn rows_of(&self, block: usize) -> Range<u64> {
        let start = (block as u64) << self.shift;
        start..self.num_rows.min(start + (1 << self.shift))
    }

    /// Fills blocks that are neighbours, and hands each on.
    pub(super) fn attempt(
        &self,
        filling: &Filling,
        blocks: &[usize],
        is_alone: bool,
        each: &mut dyn FnMut(usize, Attempt),
    ) -> Result<()> {
        let entry = self.entry();
        let mut runs: Vec<Vec<Wanted<'_>>> = Vec::new();
        for &block in blocks {
            match self.look(entry.as_deref(), block, is_alone) {
                Look::Over(attempt) => each(block, attempt),
                Look::Wanted(wanted) => match runs.last_mut() {
                    Some(run) if run.last().is_some_and(|last| last.block + 1 == block) => {
                        run.push(wanted);
                    }
                    _ => runs.push(vec![wanted]),
                },
            }
        }
        // Of all processes, the one that packs the first block.
        if runs.first().is_some_and(|run| run[0].block == 0) {
            filling.keep_ahead(self.scan.ask_ahead()?);
        }
        runs.into_iter().try_for_each(|run| self.pack_run(run, &filling.buffers, each))
    }

    /// Looks for a block in memory and in its file, and claims it if it is in neither.
    fn look<'a>(&self, entry: Option<&'a Entry>, block: usize, is_alone: bool) -> Look<'a> {
        let wanted = self.rows_of(block);
        let count = usize::try_from(wanted.end - wanted.start).unwrap_or(usize::MAX);
        let is_whole = |found: &Block| {
            found.num_rows() == count && found.heads().len() == count * self.packing.stride()
        };
        let load = || entry.and_then(|entry| entry.load(block)).filter(is_whole);
        let kept = self.blocks.load().all[block].clone();
        let mapped = |found| {
            let is_kept = kept.is_some();
            Look::Over(if is_kept { Attempt::Moved(Some(found)) } else { Attempt::Mapped(found) })
        };
        if let Some(found) = load() {
            return mapped(found);
        }
        let claim = match entry.map(|entry| entry.claim(block)) {
            Some(Ok(None)) if !is_alone => return Look::Over(Attempt::Busy),
            Some(Ok(claim)) => claim,
            Some(Err(error)) => {
                self.detach(error);
                None
            }
            None => None,
        };
        // Another process may have finished it between the look and the claim.
        if claim.is_some()
            && let Some(found) = load()
        {
            return mapped(found);
        }
        match &kept {
            Some(kept) => {
                let moved = kept.unwritten().and_then(|rows| self.publish(claim, rows));
                Look::Over(Attempt::Moved(moved))
            }
            None => Look::Wanted(Wanted { block, claim }),
        }
    }

    /// Writes rows to the file of their block, if there is to be one.
    fn publish(&self, claim: Option<Claim<'_>>, rows: Rows<'_>) -> Option<Block> {
        match claim?.publish(rows) {
            Ok(block) => {
                self.detached.end();
                Some(block)
            }
            Err(error) => {
                // The disk is full, or the folder was removed: go on in memory.
                self.detach(error);
                None
            }
        }
    }

    /// Makes a block of packed rows.
    fn finish(&self, wanted: Wanted<'_>, rows: &PackedRows) -> Result<Attempt> {
        let Wanted { block, claim } = wanted;
        let count = self.rows_of(block);
        let count = count.end - count.start;
        if rows.num_rows as u64 != count {
            return Err(Error::bug(format!("block {block} has {} rows of {count}", rows.num_rows)));
        }
        match self.publish(claim, rows.into()) {
            Some(block) => Ok(Attempt::Filled(block)),
            None => Block::in_memory(rows).map(Attempt::Filled),
        }
    }

    /// Packs the rows of neighbours, and hands on each block that is full.
    fn pack_run(
        &self,
        run: Vec<Wanted<'_>>,
        buffers: &Buffers,
        each: &mut dyn FnMut(usize, Attempt),
    ) -> Result<()> {
        let is_short =
            |wanted: &Wanted<'_>| self.is_asked_for_as_a_whole(self.rows_of(wanted.block));
        let is_whole = run.iter().all(is_short);
        // A thread that waits for a buffer may hold an admission, so one that holds a buffer must not wait for an
        // admission, as reads that are made one after the other do. On this machine each thread has a buffer.
        let is_shared = is_whole || !self.scan.is_remote();
        if run.len() == 1 || !is_whole {
            return run.into_iter().try_for_each(|wanted| {
                let mut buffer = if is_shared { buffers.buffer() } else { PackBuffer::alone() };
                self.pack(self.rows_of(wanted.block), &mut buffer)?;
                each(wanted.block, self.finish(wanted, buffer.rows())?);
                Ok(())
            });
        }
        let all = self.rows_of(run[0].block).start..self.rows_of(run[run.len() - 1].block).end;
        let mut left = run.into_iter();
        // The block that is being packed, and its share.
        let mut current: Option<(Wanted<'_>, Share)> = None;
        let mut buffer = buffers.buffer();
        let packed = self.scan_whole(all, &mut |batch| {
            let mut done = 0;
            while done < batch.num_rows() {
                let rows = buffer.rows();
                let Some((_, share)) = &current else {
                    let next =
                        left.next().ok_or_else(|| Error::bug("more rows than blocks have"))?;
                    let share = self.begin(self.rows_of(next.block))?;
                    current.insert((next, share)).1.make_room(rows)?;
                    continue;
                };
                let room = usize::try_from(share.count).unwrap_or(usize::MAX) - rows.num_rows;
                let count = room.min(batch.num_rows() - done);
                self.packing.pack(&batch.slice(done, count), rows)?;
                self.check(share, rows.num_bytes() as u64)?;
                done += count;
                if count == room
                    && let Some((wanted, share)) = current.take()
                {
                    self.end(&share, Some(rows));
                    each(wanted.block, self.finish(wanted, rows)?);
                    // The next block may be long in coming.
                    buffer = buffers.buffer();
                }
            }
            Ok(())
        });
        if let Some((_, share)) = &current {
            self.end(share, None);
        }
        packed?;
        if current.is_some() || left.next().is_some() {
            return Err(Error::bug("fewer rows than blocks have"));
        }
        Ok(())
    }

    /// Packs the rows of a block, unless all would be more than may be kept.
    fn pack(&self, wanted: Range<u64>, buffer: &mut PackBuffer<'_>) -> Result<()> {
        let share = self.begin(wanted.clone())?;
        // If others may wait for the buffer, it is taken once rows have arrived. Otherwise room is made at once, as
        // it was just checked that there is some.
        let mut has_room = !self.is_asked_for_as_a_whole(wanted.clone());
        let ready = if has_room { share.make_room(buffer.rows()) } else { Ok(()) };
        let packed = ready.and_then(|()| {
            self.scan_block(wanted, &mut |batch| {
                let rows = buffer.rows();
                if !std::mem::replace(&mut has_room, true) {
                    share.make_room(rows)?;
                }
                self.packing.pack(batch, rows)?;
                self.check(&share, rows.num_bytes() as u64)
            })
        });
        self.end(&share, packed.is_ok().then(|| &*buffer.rows()));
        packed
    }

    /// Takes the share of the rows of a block.
    fn begin(&self, wanted: Range<u64>) -> Result<Share> {
        let count = wanted.end - wanted.start;
        let heads = count * self.packing.stride() as u64;
        let expected = heads.max(self.sizes.weights.of_run(wanted));
        let packed_rows = self.packed_rows.fetch_add(count, Ordering::Relaxed) + count;
        let sum = self.packed_bytes.fetch_add(expected, Ordering::Relaxed) + expected;
        let share = Share { count, heads, expected, packed_rows, sum };
        let ready = self
            .check(&share, expected)
            .and_then(|()| check_room("packed rows", self.sizes.weights.at_most(expected)));
        if ready.is_err() {
            self.end(&share, None);
        }
        ready.map(|()| share)
    }

    /// Checks that all rows may be kept if those of a block have `found` bytes.
    fn check(&self, share: &Share, found: u64) -> Result<()> {
        let sum = share.sum - share.expected + found;
        match self.limit() {
            Some(limit) if sum > limit => {
                let all = u128::from(sum) * u128::from(self.num_rows);
                let all = u64::try_from(all / u128::from(share.packed_rows)).unwrap_or(u64::MAX);
                Err(too_little(limit, all, self.sizes.set_limit))
            }
            _ => Ok(()),
        }
    }

    /// Turns the share of a block into what its rows have, or gives it back if they are not there.
    fn end(&self, share: &Share, rows: Option<&PackedRows>) {
        if rows.is_none() {
            self.packed_rows.fetch_sub(share.count, Ordering::Relaxed);
        }
        let found = rows.map_or(0, |rows| rows.num_bytes() as u64);
        self.packed_bytes.fetch_add(found, Ordering::Relaxed);
        self.packed_bytes.fetch_sub(share.expected, Ordering::Relaxed);
    }

    /// Reads the rows of a block, and hands on some at a time.
    fn scan_block(
        &self,
        wanted: Range<u64>,
        each: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        if self.is_asked_for_as_a_whole(wanted.clone()) {
            return self.scan_whole(wanted, each);
        }
        let mut start = wanted.start;
        while start < wanted.end {
            let bytes = if self.scan.is_remote() { DECODED_BYTES_FAR } else { DECODED_BYTES };
            let at_once = scan_rows(self.sizes.row_bytes, bytes);
            let run = scan_at_once(&self.sizes.weights, start..wanted.end, at_once, bytes);
            start = run.end;
            self.scan.scan(run, self.keeps())?.iter().try_for_each(&mut *each)?;
        }
        Ok(())
    }

    /// Returns whether the rows of a block are asked for in one round trip, and by few requests.
    fn is_asked_for_as_a_whole(&self, wanted: Range<u64>) -> bool {
        self.scan.is_remote() && self.sizes.weights.of_run(wanted) <= 2 * BLOCK_BYTES
    }

    fn scan_whole(
        &self,
        wanted: Range<u64>,
        each: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let at_once = scan_rows(self.sizes.row_bytes, DECODED_BYTES);
        self.scan.scan_parts(wanted, at_once, self.keeps(), each)
    }

    /// Returns whether copies of the files that rows come from are kept: rows that are kept packed need none.
    fn keeps(&self) -> bool {
        self.home.is_none()
    }
}
