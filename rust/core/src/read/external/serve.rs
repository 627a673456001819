//! Pass 2: one bucket after another is read, and its rows are served by position.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;

use super::super::scratch::Extent;
use super::loaded::{Loaded, NOT_HERE};
use super::shape::PLACE_BYTES;
use super::{External, reserve};
use crate::error::{Error, Result};
use crate::gather::gather;
use crate::packed::Heads;
use crate::plan::Rows;
use crate::projection::batch;
use crate::runtime::lock;

/// A bucket that is larger than planned by more than this is not read whole: an order that is no shuffle
/// may put the longer rows side by side.
const SPARE_BYTES: usize = 32 << 20;
impl External {
    /// Returns the rows at these positions. Pass 1 must be over.
    ///
    /// Positions are asked for in about ascending order: buckets far below are forgotten.
    pub(in crate::read) fn gather(&self, positions: Range<u64>) -> Result<RecordBatch> {
        let schema = self.packing.schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let bits_set: Vec<bool> =
            self.bits_set.iter().map(|bit| bit.load(Ordering::Relaxed)).collect();
        let mut parts = Vec::new();
        let mut start = positions.start;
        while start < positions.end {
            let (number, _) = self.shape.place(start);
            let rows = self.shape.rows_of(number);
            let end = positions.end.min(rows.end);
            let loaded = self.load(number)?;
            let places = start - rows.start..end - rows.start;
            let far = self.read_far(&loaded, places.clone())?;
            let heads = self.heads(&loaded, &far, places);
            let columns = self.packing.unpack(&heads, &bits_set, &all)?;
            parts.push(batch(Arc::clone(schema), columns, heads.heads.len())?);
            // The next one is read while this one is served by others.
            let is_past_half = start - rows.start >= (rows.end - rows.start) / 2;
            if is_past_half && number + 1 < self.buckets.len() && !self.is_loading(number + 1) {
                self.load(number + 1)?;
            }
            start = end;
        }
        // One bucket mostly, which is then not copied.
        Ok(gather(schema, &parts, true, &Rows::AsRead)?.batch)
    }

    /// Returns the rows at these places that are still in the file, one after another.
    fn read_far(&self, bucket: &Loaded, places: Range<u64>) -> Result<Vec<Vec<u8>>> {
        if bucket.far.is_empty() {
            return Ok(Vec::new());
        }
        let places = places.filter_map(|place| bucket.far.get(&u32::try_from(place).ok()?));
        places
            .map(|&extent| {
                self.check()?;
                let mut row = Vec::new();
                reserve(&mut row, extent.len)?;
                row.resize(extent.len, 0);
                self.scratch().read(extent, &mut row)?;
                Ok(row)
            })
            .collect()
    }

    fn heads<'a>(&self, bucket: &'a Loaded, far: &'a [Vec<u8>], places: Range<u64>) -> Heads<'a> {
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let stride = self.packing.stride();
        let starts = &bucket.starts[place(places.start)..place(places.end)];
        let mut heads = Heads::with_capacity(starts.len());
        let mut far = far.iter();
        for &start in starts {
            let row = match start {
                NOT_HERE => far.next().expect("a row is in memory or in the file"),
                start => &bucket.bytes[start..],
            };
            let (head, tail) = row.split_at(stride);
            heads.heads.push(head);
            if self.packing.has_tails() {
                heads.tails.push(tail);
            }
        }
        heads
    }

    fn is_loading(&self, number: usize) -> bool {
        lock(&self.loaded).iter().any(|(at, _)| *at == number)
    }

    fn load(&self, number: usize) -> Result<Arc<Loaded>> {
        let slot = {
            let mut loaded = lock(&self.loaded);
            loaded.retain(|(at, _)| *at + 1 >= number);
            let at = loaded.iter().position(|(at, _)| *at == number).unwrap_or_else(|| {
                loaded.push((number, Arc::default()));
                loaded.len() - 1
            });
            Arc::clone(&loaded[at].1)
        };
        let mut slot = lock(&slot);
        if let Some(loaded) = slot.as_ref() {
            return Ok(Arc::clone(loaded));
        }
        let loaded = Arc::new(self.read_bucket(number)?);
        *slot = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    fn read_bucket(&self, number: usize) -> Result<Loaded> {
        let bucket = lock(&self.buckets[number]);
        let sum: usize = bucket.extents.iter().map(|extent| extent.len).sum();
        let is_here = sum <= self.shape.bucket_bytes.saturating_add(SPARE_BYTES);
        let rows = self.shape.rows_of(number);
        let count = usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX);
        let mut bytes = lock(&self.memory).pop().unwrap_or_default();
        bytes.clear();
        if is_here {
            reserve(&mut bytes, sum)?;
        }
        let mut starts = vec![NOT_HERE; count];
        let mut far: HashMap<u32, Extent> = bucket.long.iter().copied().collect();
        for &extent in &bucket.extents {
            self.check()?;
            if !is_here {
                bytes.clear();
                reserve(&mut bytes, extent.len)?;
            }
            let first = bytes.len();
            bytes.resize(first + extent.len, 0);
            self.scratch().read(extent, &mut bytes[first..])?;
            for (place, row) in self.records(&bytes[first..]) {
                if is_here {
                    starts[place as usize] = first + row.start;
                } else {
                    let start = extent.start + row.start as u64;
                    far.insert(place, Extent { start, len: row.len() });
                }
            }
        }
        let found = starts.iter().filter(|&&start| start != NOT_HERE).count() + far.len();
        if found != count {
            return Err(Error::bug(format!("bucket {number} has {found} rows of {count}")));
        }
        Ok(Loaded { bytes, starts, far, memory: Arc::clone(&self.memory) })
    }

    /// Returns the place of each row of an extent, and where the row is.
    fn records<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (u32, Range<usize>)> + 'a {
        let stride = self.packing.stride();
        let mut at = 0;
        std::iter::from_fn(move || {
            let place = bytes.get(at..at + PLACE_BYTES)?;
            let start = at + PLACE_BYTES;
            at = start + stride + self.packing.tail_of(&bytes[start..start + stride]).len();
            let place = u32::from_le_bytes(place.try_into().expect("four bytes were cut"));
            Some((place, start..at))
        })
    }
}
