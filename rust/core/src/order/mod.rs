//! Stage 1, ORDER: which row offset stands at which position.
//!
//! An [`Order`] is an expression, not an array: a chain of maps, each from `0..len` to the values
//! the next one takes, the last one giving row offsets. Splitting, sharding, skipping and shuffling
//! put a map in front, so a shuffled shard of a filtered split of a billion rows is a few maps and
//! one bitmap. Nothing here reads a table or knows what a row is.
//!
//! ```
//! use lanceloader_core::order::Order;
//!
//! let order = Order::all(10).shuffled(7, 0, 1)?;
//! let train = order.slice(0, 8)?;
//! assert_eq!(train.len(), 8);
//! assert_eq!(train.position_of(train.to_vec()[3])?, Some(3));
//! # Ok::<(), lanceloader_core::Error>(())
//! ```

mod bijection;
mod bitmap;
pub mod lancedb;
mod shard;
mod shuffle;
pub mod split;

use std::ops::Range;
use std::sync::Arc;

pub use bijection::{MAX_ROWS, Purpose};
pub use bitmap::{Bitmap, BitmapBuilder};
pub use shard::{Tail, shard};
pub use shuffle::Shuffle;

use crate::error::{Error, Result};

/// Offsets evaluated between two looks at whether the caller was interrupted.
const INTERRUPT_ROWS: usize = 1 << 20;

/// A sequence of row offsets, computed when asked for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Order {
    len: u64,
    maps: Vec<Map>,
}

/// One step from a position towards a row offset.
#[derive(Debug, Clone)]
pub enum Map {
    /// Position `k` is `start + k · step`, at least 0; `step` may be negative.
    Range {
        /// The value of position 0.
        start: u64,
        /// The distance between neighbours.
        step: i64,
    },
    /// Position `k` is the `k`-th member of a set, in ascending order.
    Bitmap(Arc<Bitmap>),
    /// Position `k` is the `k`-th entry of a list.
    Listed(Arc<Listed>),
    /// Position `k` is where a shuffle took it from.
    Shuffle(Arc<Shuffle>),
    /// Position `k` is `k` modulo a length.
    Repeat {
        /// The length.
        len: u64,
    },
    /// Position `k` belongs to one of several orders laid end to end.
    Concat(Arc<[Order]>),
}

/// Explicit values, as narrow as they allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// Every value is below 2³².
    Narrow(Vec<u32>),
    /// Some are not.
    Wide(Vec<u64>),
}

impl Order {
    /// The offsets `0..num_rows`.
    pub fn all(num_rows: u64) -> Self {
        Self { len: num_rows, maps: Vec::new() }
    }

    /// The members of `rows`, ascending.
    pub fn bitmap(rows: Bitmap) -> Self {
        Self { len: rows.len(), maps: vec![Map::Bitmap(Arc::new(rows))] }
    }

    /// `offsets` as they stand, repeats included.
    pub fn listed(offsets: Vec<u64>) -> Self {
        Self { len: offsets.len() as u64, maps: vec![Map::Listed(Arc::new(Listed::new(offsets)))] }
    }

    /// An order from its maps, position first: the inverse of [`maps`](Self::maps).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a map gives values that the next one does not take.
    pub fn from_maps(len: u64, maps: Vec<Map>) -> Result<Self> {
        let mut images = len;
        for map in &maps {
            images = map.images(images).ok_or_else(|| {
                Error::invalid(format!("{map} after {images} positions"), "maps that fit")
            })?;
        }
        Ok(Self { len, maps })
    }

    /// The number of positions.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The maps from position to row offset, in the order they apply.
    pub fn maps(&self) -> &[Map] {
        &self.maps
    }

    /// The smallest number that every offset is below.
    pub fn bound(&self) -> u64 {
        let images = self.maps.iter().try_fold(self.len, |n, map| map.images(n));
        images.expect("every constructor fits its maps together")
    }

    /// Whether offsets ascend with position, each once.
    pub fn is_ascending(&self) -> bool {
        self.maps.iter().all(|map| match map {
            Map::Range { step, .. } => *step > 0,
            Map::Bitmap(_) => true,
            Map::Listed(_) | Map::Shuffle(_) | Map::Repeat { .. } | Map::Concat(_) => false,
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

    /// The row offsets at `positions`.
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

    /// All row offsets.
    ///
    /// # Panics
    ///
    /// If interrupted or out of memory: for tests and small orders.
    pub fn to_vec(&self) -> Vec<u64> {
        self.offsets(0..self.len).expect("the range is in bounds")
    }

    /// The first position that holds `offset`.
    ///
    /// Constant time, with a binary search per bitmap; an order that may hold an offset twice
    /// (lists, repeats, orders end to end) is searched from the front.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn position_of(&self, offset: u64) -> Result<Option<u64>> {
        let mut value = offset;
        for (at, map) in self.maps.iter().enumerate().rev() {
            let Some(inverse) = map.inverse(value) else {
                return self.search(offset);
            };
            let images = |n, map: &Map| map.images(n);
            let domain = self.maps[..at].iter().try_fold(self.len, images).unwrap_or(0);
            match inverse {
                Some(position) if position < domain => value = position,
                _ => return Ok(None),
            }
        }
        Ok((value < self.len).then_some(value))
    }

    fn search(&self, offset: u64) -> Result<Option<u64>> {
        let mut start = 0;
        while start < self.len {
            let end = self.len.min(start + INTERRUPT_ROWS as u64);
            if let Some(at) = self.offsets(start..end)?.iter().position(|&o| o == offset) {
                return Ok(Some(start + at as u64));
            }
            start = end;
        }
        Ok(None)
    }

    /// Positions `start..start + len`.
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

    /// Positions `start, start + step, …`, `len` of them.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if they reach beyond the order; [`Error::Invalid`] if `step` is too
    /// large to be signed.
    pub fn strided(&self, start: u64, step: u64, len: u64) -> Result<Self> {
        let step = i64::try_from(step).map_err(|_| Error::invalid(step, "a smaller step"))?;
        self.stepped(start, step, len)
    }

    /// Like [`strided`](Self::strided), with a `step` that may be negative but not 0.
    ///
    /// # Errors
    ///
    /// As for [`strided`](Self::strided).
    pub fn stepped(&self, start: u64, step: i64, len: u64) -> Result<Self> {
        if step == 0 {
            return Err(Error::invalid("a step of 0", "any other"));
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

    /// The positions that `positions` holds, in that order.
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
        let mut picked = self.clone();
        picked.len = positions.len;
        picked.maps.splice(0..0, positions.maps.iter().cloned());
        Ok(picked)
    }

    /// The same rows, shuffled by `(seed, epoch)`; `clump` neighbours stay together.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `clump` is 0.
    pub fn shuffled(&self, seed: u64, epoch: u64, clump: u64) -> Result<Self> {
        self.shuffled_for(Purpose::Shuffle, seed, epoch, clump)
    }

    /// Like [`shuffled`](Self::shuffled), for another purpose: equal seeds stay independent.
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

    /// The order `times` times over.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if that is more than 2⁶⁴ positions.
    pub fn repeat(&self, times: u64) -> Result<Self> {
        let len = self.len.checked_mul(times);
        let len = len.ok_or_else(|| Error::invalid(format!("{times} repeats"), "fewer rows"))?;
        if self.is_empty() || times == 1 {
            return Ok(Self { len, ..self.clone() });
        }
        self.picked(Map::Repeat { len: self.len }, len)
    }

    /// `orders` laid end to end.
    pub fn concat(orders: Vec<Self>) -> Self {
        Self { len: orders.iter().map(Self::len).sum(), maps: vec![Map::Concat(orders.into())] }
    }

    /// The positions whose offset is a member of `rows`, in the order they stand.
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

    /// Bytes of memory it takes, without counting shared parts twice.
    pub fn num_bytes(&self) -> usize {
        size_of::<Self>() + self.maps.iter().map(Map::num_bytes).sum::<usize>()
    }

    /// Puts `map`, known to fit, in front. Ranges next to each other become one.
    fn picked(&self, map: Map, len: u64) -> Result<Self> {
        if len == 0 {
            return Ok(Self::all(0));
        }
        let mut maps = Vec::with_capacity(self.maps.len() + 1);
        match (map, self.maps.first()) {
            (Map::Range { start: 0, step: 1 }, _) if len == self.len => {
                maps.extend_from_slice(&self.maps);
            }
            (Map::Range { start, step }, Some(&Map::Range { start: base, step: stride })) => {
                let joined = i128::from(base) + i128::from(start) * i128::from(stride);
                let start = u64::try_from(joined).map_err(|_| too_long(start))?;
                let step = step.checked_mul(stride).ok_or_else(|| too_long(start))?;
                maps.push(Map::Range { start, step });
                maps.extend_from_slice(&self.maps[1..]);
            }
            (map, _) => {
                maps.push(map);
                maps.extend_from_slice(&self.maps);
            }
        }
        Ok(Self { len, maps })
    }

    fn fill(&self, start: u64, out: &mut [u64]) {
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

    fn apply(&self, positions: &mut [u64]) {
        for map in &self.maps {
            map.apply(positions);
        }
    }
}

impl Map {
    /// The number its images are below if it is given `0..n`, or `None` if it does not take them.
    fn images(&self, n: u64) -> Option<u64> {
        let fits = |len: u64, bound: u64| (n <= len).then_some(if n == 0 { 0 } else { bound });
        match self {
            Self::Range { start, step } => {
                let Some(last) = n.checked_sub(1) else {
                    return Some(0);
                };
                let end = i128::from(*start) + i128::from(last) * i128::from(*step);
                let lowest = end.min(i128::from(*start));
                let highest = end.max(i128::from(*start));
                (lowest >= 0).then_some(u64::try_from(highest + 1).ok()?)
            }
            Self::Bitmap(rows) => fits(rows.len(), rows.last().map_or(0, |last| last + 1)),
            Self::Listed(list) => fits(list.len(), list.bound()),
            Self::Shuffle(shuffle) => fits(shuffle.len(), shuffle.len()),
            Self::Repeat { len } => (*len > 0 || n == 0).then_some((*len).min(n)),
            Self::Concat(parts) => fits(
                parts.iter().map(Order::len).sum(),
                parts.iter().map(Order::bound).max().unwrap_or(0),
            ),
        }
    }

    fn apply(&self, values: &mut [u64]) {
        match self {
            Self::Range { start, step } => {
                let step = step.cast_unsigned();
                for value in values {
                    // Negative steps wrap to the right sum; the bounds were checked when made.
                    *value = start.wrapping_add(value.wrapping_mul(step));
                }
            }
            Self::Bitmap(rows) => rows.apply(values),
            Self::Listed(list) => list.apply(values),
            Self::Shuffle(shuffle) => shuffle.apply(values),
            Self::Repeat { len } => {
                for value in values {
                    *value %= len;
                }
            }
            Self::Concat(parts) => {
                let ends = ends(parts);
                for value in values {
                    let at = ends.partition_point(|end| end <= value);
                    let start = at.checked_sub(1).map_or(0, |before| ends[before]);
                    let mut position = [*value - start];
                    parts[at].apply(&mut position);
                    [*value] = position;
                }
            }
        }
    }

    fn fill(&self, start: u64, out: &mut [u64]) {
        match self {
            Self::Shuffle(shuffle) => shuffle.fill(start, out),
            Self::Listed(list) => list.fill(start, out),
            Self::Concat(parts) => {
                let (mut start, mut out) = (start, out);
                for part in parts.iter() {
                    if start >= part.len {
                        start -= part.len;
                        continue;
                    }
                    let count = usize::try_from(part.len - start).unwrap_or(usize::MAX);
                    let (head, rest) = out.split_at_mut(count.min(out.len()));
                    part.fill(start, head);
                    (start, out) = (0, rest);
                }
            }
            Self::Range { .. } | Self::Bitmap(_) | Self::Repeat { .. } => {
                for (value, position) in out.iter_mut().zip(start..) {
                    *value = position;
                }
                self.apply(out);
            }
        }
    }

    /// The only position with this image, if any; `None` for a map that may repeat images.
    fn inverse(&self, image: u64) -> Option<Option<u64>> {
        match self {
            Self::Range { start, step } => {
                let distance = i128::from(image) - i128::from(*start);
                let (position, rest) = (distance / i128::from(*step), distance % i128::from(*step));
                Some(u64::try_from(position).ok().filter(|_| rest == 0))
            }
            Self::Bitmap(rows) => Some(rows.contains(image).then(|| rows.rank(image))),
            Self::Shuffle(shuffle) => Some((image < shuffle.len()).then(|| shuffle.inverse(image))),
            Self::Listed(_) | Self::Repeat { .. } | Self::Concat(_) => None,
        }
    }

    fn num_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Range { .. } | Self::Repeat { .. } => 0,
                Self::Bitmap(rows) => rows.num_bytes(),
                Self::Listed(list) => list.num_bytes(),
                Self::Shuffle(_) => size_of::<Shuffle>() + 512,
                Self::Concat(parts) => parts.iter().map(Order::num_bytes).sum(),
            }
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows", self.len)?;
        self.maps.iter().try_for_each(|map| write!(f, ", {map}"))
    }
}

impl std::fmt::Display for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range { start, step: 1 } => write!(f, "from {start} on"),
            Self::Range { start, step } => write!(f, "from {start} by {step}"),
            Self::Bitmap(rows) => write!(f, "of a bitmap of {} bytes", rows.num_bytes()),
            Self::Listed(list) => write!(f, "of a list of {} entries", list.len()),
            Self::Shuffle(s) if s.clump() == 1 => {
                write!(f, "shuffled by seed {} epoch {}", s.seed(), s.epoch())
            }
            Self::Shuffle(s) => {
                write!(f, "shuffled by seed {} epoch {} clump {}", s.seed(), s.epoch(), s.clump())
            }
            Self::Repeat { len } => write!(f, "repeating {len}"),
            Self::Concat(parts) => write!(f, "of {} orders end to end", parts.len()),
        }
    }
}

impl Listed {
    fn new(values: Vec<u64>) -> Self {
        let narrow = values.iter().map(|&value| u32::try_from(value)).collect();
        match narrow {
            Ok(narrow) => Self::Narrow(narrow),
            Err(_) => Self::Wide(values),
        }
    }

    /// The number of entries.
    pub fn len(&self) -> u64 {
        match self {
            Self::Narrow(list) => list.len() as u64,
            Self::Wide(list) => list.len() as u64,
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bound(&self) -> u64 {
        match self {
            Self::Narrow(list) => list.iter().max().map_or(0, |&max| u64::from(max) + 1),
            Self::Wide(list) => list.iter().max().map_or(0, |max| max.saturating_add(1)),
        }
    }

    fn apply(&self, positions: &mut [u64]) {
        match self {
            Self::Narrow(list) => {
                positions.iter_mut().for_each(|p| *p = u64::from(list[index(*p)]));
            }
            Self::Wide(list) => positions.iter_mut().for_each(|p| *p = list[index(*p)]),
        }
    }

    fn fill(&self, start: u64, out: &mut [u64]) {
        let range = index(start)..index(start) + out.len();
        match self {
            Self::Narrow(list) => {
                for (value, &entry) in out.iter_mut().zip(&list[range]) {
                    *value = u64::from(entry);
                }
            }
            Self::Wide(list) => out.copy_from_slice(&list[range]),
        }
    }

    fn num_bytes(&self) -> usize {
        match self {
            Self::Narrow(list) => size_of_val(&**list),
            Self::Wide(list) => size_of_val(&**list),
        }
    }

    /// Little-endian entries, 4 bytes each if they are narrow, else 8.
    pub fn to_bytes(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Narrow(list) => (4, list.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Self::Wide(list) => (8, list.iter().flat_map(|v| v.to_le_bytes()).collect()),
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the bytes are not whole entries of 4 or 8 bytes.
    pub fn from_bytes(width: u8, bytes: &[u8]) -> Result<Self> {
        match width {
            4 if bytes.len().is_multiple_of(4) => {
                let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
                Ok(Self::Narrow(words.collect()))
            }
            8 if bytes.len().is_multiple_of(8) => {
                let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                Ok(Self::Wide(words.collect()))
            }
            _ => Err(Error::invalid(
                format!("{} bytes in entries of {width}", bytes.len()),
                "whole entries of 4 or 8 bytes",
            )),
        }
    }
}

/// Where each part ends.
fn ends(parts: &[Order]) -> Vec<u64> {
    let mut end = 0;
    let add = |part: &Order| {
        end += part.len;
        end
    };
    parts.iter().map(add).collect()
}

/// OK as an index: a list holds every entry in memory.
#[expect(clippy::cast_possible_truncation, reason = "positions of a list in memory")]
fn index(position: u64) -> usize {
    position as usize
}

fn too_long(len: u64) -> Error {
    Error::invalid(format!("{len} rows"), "fewer than fit in memory")
}

#[cfg(test)]
mod tests;
