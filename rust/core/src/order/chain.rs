//! Orders as chains of maps: making them, and evaluating them.

use std::ops::Range;
use std::sync::Arc;

use super::bijection::Purpose;
use super::bitmap::{Bitmap, BitmapBuilder};
use super::expression::{Map, Mixed, Order};
use super::listed::Listed;
use super::shuffle::Shuffle;
use super::weighted::Weighted;
use super::windowed::Windowed;
use crate::error::{Error, Result};

/// Offsets evaluated between two looks at whether the caller was interrupted.
pub(super) const INTERRUPT_ROWS: usize = 1 << 20;

impl Order {
    /// Returns the offsets `0..num_rows`.
    pub fn all(num_rows: u64) -> Self {
        Self { len: num_rows, maps: Vec::new() }
    }

    /// Returns the members of `rows`, ascending.
    pub fn bitmap(rows: Bitmap) -> Self {
        Self { len: rows.len(), maps: vec![Map::Bitmap(Arc::new(rows))] }
    }

    /// Creates an order of `offsets` as they are, repeats included.
    pub fn listed(offsets: Vec<u64>) -> Self {
        Self { len: offsets.len() as u64, maps: vec![Map::Listed(Arc::new(Listed::new(offsets)))] }
    }

    /// Creates an order of `count` draws with replacement.
    pub fn draws(weighted: Weighted, count: u64) -> Self {
        Self { len: count, maps: vec![Map::Weighted(Arc::new(weighted))] }
    }

    /// Returns the rows of a mixture.
    pub fn mixed(mixed: Mixed) -> Self {
        Self { len: mixed.len(), maps: vec![Map::Mixed(Arc::new(mixed))] }
    }

    /// Returns an order from its maps, position first: the inverse of [`maps`](Self::maps).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a map gives values that the next one does not take.
    pub fn from_maps(len: u64, maps: Vec<Map>) -> Result<Self> {
        let mut images = len;
        for map in &maps {
            images = map.images(images).ok_or_else(|| {
                Error::invalid(
                    format!("{map} after {images} positions"),
                    "a map that takes as many",
                )
            })?;
        }
        Ok(Self { len, maps })
    }

    /// Returns the number of positions.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the maps from position to row offset, in the order they apply.
    pub fn maps(&self) -> &[Map] {
        &self.maps
    }

    /// Returns the smallest number that every offset is below.
    pub fn bound(&self) -> u64 {
        let images = self.maps.iter().try_fold(self.len, |n, map| map.images(n));
        images.expect("every constructor fits its maps together")
    }

    /// Returns whether offsets ascend with position, each once.
    pub fn is_ascending(&self) -> bool {
        self.maps.iter().all(|map| match map {
            Map::Range { step, .. } => *step > 0,
            Map::Blocks { .. } | Map::Bitmap(_) => true,
            Map::Concat(parts) => follow_each_other(parts),
            Map::Listed(_)
            | Map::Shuffle(_)
            | Map::Windowed(_)
            | Map::Weighted(_)
            | Map::Mixed(_)
            | Map::Neighbours(_)
            | Map::Repeat { .. } => false,
        })
    }

    /// Replaces each position by its row offset.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], naming the first position that is not in `0..len`.
    pub fn resolve(&self, positions: &mut [u64]) -> Result<()> {
        if let Some(&offset) = positions.iter().find(|&&position| position >= self.len) {
            let num_rows = self.len;
            return Err(Error::OutOfRange { offset, num_rows });
        }
        self.apply(positions);
        Ok(())
    }

    /// Returns the row offsets at `positions`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if the range ends beyond `len`; [`Error::Interrupted`].
    pub fn offsets(&self, positions: Range<u64>) -> Result<Vec<u64>> {
        if positions.end > self.len {
            let (offset, num_rows) = (positions.end - 1, self.len);
            return Err(Error::OutOfRange { offset, num_rows });
        }
        let count = positions.end.saturating_sub(positions.start);
        let mut out = vec![0; usize::try_from(count).map_err(|_| too_long(count))?];
        for (chunk, start) in
            out.chunks_mut(INTERRUPT_ROWS).zip((positions.start..).step_by(INTERRUPT_ROWS))
        {
            crate::interrupt::check()?;
            self.fill(start, chunk);
        }
        Ok(out)
    }

    /// Returns all row offsets.
    ///
    /// # Panics
    ///
    /// If interrupted or out of memory: for tests and small orders.
    pub fn to_vec(&self) -> Vec<u64> {
        self.offsets(0..self.len).expect("the range is in bounds")
    }

    /// Returns the positions `start..start + len`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if they reach beyond the order.
    pub fn slice(&self, start: u64, len: u64) -> Result<Self> {
        match start.checked_add(len) {
            Some(end) if end <= self.len => self.picked(Map::Range { start, step: 1 }, len),
            _ => Err(Error::OutOfRange { offset: start.max(self.len), num_rows: self.len }),
        }
    }

    /// Returns the positions `start, start + step, …`, `len` of them.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if they reach beyond the order; [`Error::Invalid`] if `step` is too
    /// large to be signed.
    pub fn strided(&self, start: u64, step: u64, len: u64) -> Result<Self> {
        let step = i64::try_from(step).map_err(|_| Error::invalid(step, "a smaller step"))?;
        self.stepped(start, step, len)
    }

    /// Returns what [`strided`](Self::strided) does, for a `step` that may be negative but not 0.
    ///
    /// # Errors
    ///
    /// As for [`strided`](Self::strided).
    pub fn stepped(&self, start: u64, step: i64, len: u64) -> Result<Self> {
        if step == 0 {
            return Err(Error::invalid("a step of 0", "a positive or negative step"));
        }
        if len > 0 {
            let last = i128::from(start) + i128::from(len - 1) * i128::from(step);
            for position in [i128::from(start), last] {
                if !(0..i128::from(self.len)).contains(&position) {
                    return Err(Error::OutOfRange {
                        offset: u64::try_from(position.max(0)).unwrap_or(u64::MAX),
                        num_rows: self.len,
                    });
                }
            }
        }
        self.picked(Map::Range { start, step }, len)
    }

    /// Returns the positions `start..start + block`, then as many from `start + stride` on, and so
    /// on, `len` in all; the last run may be shorter.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `block` is 0 or larger than `stride`; [`Error::OutOfRange`] if they reach
    /// beyond the order.
    pub fn blocks(&self, start: u64, block: u64, stride: u64, len: u64) -> Result<Self> {
        if block == 0 || block > stride {
            return Err(Error::invalid(
                format!("blocks of {block} positions, {stride} apart"),
                "1 <= block <= stride",
            ));
        }
        if block == stride {
            return self.slice(start, len);
        }
        let map = Map::Blocks { start, block, stride };
        match map.images(len) {
            Some(bound) if bound <= self.len => self.picked(map, len),
            bound => {
                let offset = bound.map_or(u64::MAX, |bound| bound - 1);
                Err(Error::OutOfRange { offset, num_rows: self.len })
            }
        }
    }

    /// Returns the positions that `positions` holds, in that order.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if one of them is not a position of this order.
    pub fn pick(&self, positions: &Self) -> Result<Self> {
        let bound = positions.bound();
        if bound > self.len {
            let num_rows = self.len;
            let offset = bound - 1;
            return Err(Error::OutOfRange { offset, num_rows });
        }
        if positions.maps.is_empty() {
            return self.slice(0, positions.len);
        }
        let mut picked = self.clone().unmarked();
        picked.len = positions.len;
        picked.maps.splice(0..0, positions.maps.iter().cloned());
        picked.keep_from(positions.maps.len());
        Ok(picked)
    }

    /// Returns the same rows, shuffled by `(seed, epoch)`; `clump` neighbours stay together.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `clump` is 0.
    pub fn shuffled(&self, seed: u64, epoch: u64, clump: u64) -> Result<Self> {
        self.shuffled_for(Purpose::Shuffle, seed, epoch, clump)
    }

    /// Shuffles as [`shuffled`](Self::shuffled) does, for another purpose: equal seeds stay independent.
    ///
    /// # Errors
    ///
    /// As for [`shuffled`](Self::shuffled).
    pub fn shuffled_for(
        &self,
        purpose: Purpose,
        seed: u64,
        epoch: u64,
        clump: u64,
    ) -> Result<Self> {
        let shuffle = Shuffle::new(self.len, purpose, seed, epoch, clump)?;
        self.picked(Map::Shuffle(Arc::new(shuffle)), self.len)
    }

    /// Returns the same rows, shuffled by blocks of `block` neighbours and windows of
    /// `window_blocks` blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if either is 0.
    pub fn windowed(&self, seed: u64, epoch: u64, block: u64, window_blocks: u64) -> Result<Self> {
        let windowed = Windowed::new(self.len, seed, epoch, block, window_blocks)?;
        self.picked(Map::Windowed(Arc::new(windowed)), self.len)
    }

    /// Returns the order `times` times over.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if that is more than 2⁶⁴ positions.
    pub fn repeat(&self, times: u64) -> Result<Self> {
        let len = self.len.checked_mul(times);
        let len = len.ok_or_else(|| {
            Error::invalid(format!("{times} repeats"), "fewer than 2^64 rows in all")
        })?;
        if self.is_empty() || times == 1 {
            return Ok(Self { len, ..self.clone() });
        }
        self.picked(Map::Repeat { len: self.len }, len)
    }

    /// Concatenates `orders`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if that is more than 2⁶⁴ positions.
    pub fn concat(orders: Vec<Self>) -> Result<Self> {
        let len = orders.iter().try_fold(0_u64, |sum, order| sum.checked_add(order.len));
        let len = len.ok_or_else(|| {
            Error::invalid(
                format!("{} orders end to end", orders.len()),
                "fewer than 2^64 rows in all",
            )
        })?;
        let orders = orders.into_iter().map(Self::unmarked).collect();
        Ok(Self { len, maps: vec![Map::Concat(orders)] })
    }

    /// Returns the positions whose offset is a member of `rows`, in the order they stand.
    ///
    /// A plain or filtered table stays a bitmap of offsets; any other order is kept, behind a
    /// bitmap of its positions. Evaluates the whole order once.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn filtered(&self, rows: &Bitmap) -> Result<Self> {
        let ascending = self.is_ascending();
        let mut kept = BitmapBuilder::default();
        let mut position = 0;
        while position < self.len {
            let end = self.len.min(position + INTERRUPT_ROWS as u64);
            for (position, offset) in (position..).zip(self.offsets(position..end)?) {
                if rows.contains(offset) {
                    kept.push(if ascending { offset } else { position });
                }
            }
            position = end;
        }
        let kept = Self::bitmap(kept.finish());
        if ascending { Ok(kept) } else { self.pick(&kept) }
    }

    /// Returns the bytes of memory it takes, without counting shared parts twice.
    pub fn num_bytes(&self) -> usize {
        size_of::<Self>() + self.maps.iter().map(Map::num_bytes).sum::<usize>()
    }

    /// Puts `map`, known to fit, in front.
    pub(super) fn picked(&self, map: Map, len: u64) -> Result<Self> {
        let is_share = self.is_share(&map, len);
        match map {
            _ if len == 0 => Ok(Self::all(0)),
            Map::Range { start: 0, step: 1 } if len == self.len => Ok(self.clone()),
            map => self.in_front(map, len, is_share),
        }
    }

    pub(super) fn fill(&self, start: u64, out: &mut [u64]) {
        let Some((first, rest)) = self.maps.split_first() else {
            for (value, position) in out.iter_mut().zip(start..) {
                *value = position;
            }
            return;
        };
        first.fill(start, out);
        for map in rest {
            map.apply(out);
        }
    }

    pub(super) fn apply(&self, positions: &mut [u64]) {
        for map in &self.maps {
            map.apply(positions);
        }
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows", self.len)?;
        self.maps.iter().try_for_each(|map| write!(f, ", {map}"))
    }
}

/// Returns whether every part ascends and lies behind the one before it.
fn follow_each_other(parts: &[Order]) -> bool {
    let mut end = 0;
    parts.iter().filter(|part| !part.is_empty()).all(|part| {
        let mut first = [0];
        part.apply(&mut first);
        let is_behind = first[0] >= end;
        end = part.bound();
        is_behind && part.is_ascending()
    })
}

pub(super) fn too_long(len: u64) -> Error {
    Error::invalid(format!("{len} rows"), "fewer than fit in memory")
}
