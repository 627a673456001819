//! The other direction: at which position a row offset stands.

use std::ops::Range;

use super::blocks;
use super::chain::{INTERRUPT_ROWS, too_long};
use super::expression::{Map, Order};
use super::nowhere::NOWHERE;
use crate::error::Result;

/// Offsets taken back through all maps together: 64 KiB stay in the second-level cache.
const RUN: usize = 8192;

impl Order {
    /// What [`positions_of`](Self::positions_of) writes for an offset that is not served.
    ///
    /// No order has this position: it holds fewer than 2⁶⁴ of them.
    pub const NOWHERE: u64 = NOWHERE;

    /// Returns whether every offset is served at most once and its position computed, not searched
    /// for.
    pub fn is_invertible(&self) -> bool {
        self.maps.iter().all(|map| match map {
            Map::Range { .. }
            | Map::Blocks { .. }
            | Map::Bitmap(_)
            | Map::Shuffle(_)
            | Map::Windowed(_) => true,
            Map::Listed(_)
            | Map::Weighted(_)
            | Map::Mixed(_)
            | Map::Neighbours(_)
            | Map::Repeat { .. }
            | Map::Concat(_) => false,
        })
    }

    /// Returns the first position that holds `offset`.
    ///
    /// Constant time, with a binary search per bitmap; an order that may hold an offset twice
    /// (lists, repeats, orders end to end) is searched from the front.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn position_of(&self, offset: u64) -> Result<Option<u64>> {
        let mut value = offset;
        for (at, map) in self.maps.iter().enumerate().rev() {
            let images = |n, map: &Map| map.images(n);
            let domain = self.maps[..at].iter().try_fold(self.len, images).unwrap_or(0);
            match map.inverse(value) {
                Inverse::At(position) if position < domain => value = position,
                Inverse::At(_) | Inverse::Nowhere => return Ok(None),
                Inverse::Unknown => return self.search(offset),
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

    /// Appends to `out` the first position of each of `offsets`, [`NOWHERE`](Self::NOWHERE) for
    /// those that no position holds: [`position_of`](Self::position_of) in bulk.
    ///
    /// A few nanoseconds an offset if the order [is invertible](Self::is_invertible), and nothing
    /// for those that a filter, a split or a shard leaves out; any other order is evaluated once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) if there are more than fit in memory;
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn positions_of(&self, offsets: Range<u64>, out: &mut Vec<u64>) -> Result<()> {
        let count = offsets.end.saturating_sub(offsets.start);
        let first = out.len();
        let len = usize::try_from(count).ok().and_then(|count| first.checked_add(count));
        let len = len.ok_or_else(|| too_long(count))?;
        out.try_reserve(len - first).map_err(|_| too_long(count))?;
        out.resize(len, NOWHERE);
        let out = &mut out[first..];
        if !self.is_invertible() {
            return self.search_all(&offsets, out);
        }
        let domains = self.domains();
        let mut scratch = Scratch::default();
        for (chunk, start) in
            out.chunks_mut(INTERRUPT_ROWS).zip((offsets.start..).step_by(INTERRUPT_ROWS))
        {
            crate::interrupt::check()?;
            for (run, start) in chunk.chunks_mut(RUN).zip((start..).step_by(RUN)) {
                self.invert(&domains, start, &mut scratch, run);
            }
        }
        Ok(())
    }

    /// Returns what each map is given: `0..domains[k]` for map `k`; the last one is the offsets.
    fn domains(&self) -> Vec<u64> {
        let mut domains = vec![self.len];
        for map in &self.maps {
            let images = map.images(domains[domains.len() - 1]);
            domains.push(images.expect("every constructor fits its maps together"));
        }
        domains
    }

    /// Writes the positions of `start, start + 1, …` to `out`, which holds nothing but `NOWHERE`.
    fn invert(&self, domains: &[u64], start: u64, scratch: &mut Scratch, out: &mut [u64]) {
        scratch.reset(start, out.len());
        scratch.keep_below(domains[self.maps.len()]);
        for (map, &domain) in self.maps.iter().zip(domains).rev() {
            map.invert(&mut scratch.values);
            scratch.keep_below(domain);
        }
        if scratch.values.len() == out.len() {
            out.copy_from_slice(&scratch.values);
            return;
        }
        for (&value, &place) in scratch.values.iter().zip(&scratch.places) {
            out[usize::from(place)] = value;
        }
    }

    fn search_all(&self, offsets: &Range<u64>, out: &mut [u64]) -> Result<()> {
        let mut start = 0;
        while start < self.len {
            let end = self.len.min(start + INTERRUPT_ROWS as u64);
            for (position, offset) in (start..end).zip(self.offsets(start..end)?) {
                if offsets.contains(&offset) {
                    let at = usize::try_from(offset - offsets.start).expect("a place of a slice");
                    out[at] = out[at].min(position);
                }
            }
            start = end;
        }
        Ok(())
    }
}

/// Values on their way back to positions, and the place in the answer that each is for.
#[derive(Default)]
struct Scratch {
    values: Vec<u64>,
    places: Vec<u16>,
}

impl Scratch {
    fn reset(&mut self, start: u64, len: usize) {
        self.values.clear();
        self.values.extend((start..).take(len));
        self.places.clear();
        self.places.extend((0..=u16::MAX).take(len));
    }

    /// Drops what the next map cannot have given, so that it is not computed any further.
    fn keep_below(&mut self, domain: u64) {
        if self.values.iter().all(|&value| value < domain) {
            return;
        }
        let mut kept = 0;
        for at in 0..self.values.len() {
            let value = self.values[at];
            self.values[kept] = value;
            self.places[kept] = self.places[at];
            kept += usize::from(value < domain);
        }
        self.values.truncate(kept);
        self.places.truncate(kept);
    }
}

/// What a map knows of the position of an image.
pub(super) enum Inverse {
    /// The only one.
    At(u64),
    /// There is none.
    Nowhere,
    /// There may be several: they must be searched for.
    Unknown,
}

impl From<Option<u64>> for Inverse {
    fn from(position: Option<u64>) -> Self {
        position.map_or(Self::Nowhere, Self::At)
    }
}

impl Map {
    /// Returns where this image comes from.
    pub(super) fn inverse(&self, image: u64) -> Inverse {
        match self {
            Self::Range { start, step } => {
                let distance = i128::from(image) - i128::from(*start);
                let (position, rest) = (distance / i128::from(*step), distance % i128::from(*step));
                u64::try_from(position).ok().filter(|_| rest == 0).into()
            }
            Self::Blocks { start, block, stride } => {
                let position = blocks::inverse(*start, *block, *stride, image);
                Some(position).filter(|&position| position != NOWHERE).into()
            }
            Self::Bitmap(rows) => rows.contains(image).then(|| rows.rank(image)).into(),
            Self::Shuffle(shuffle) => {
                (image < shuffle.len()).then(|| shuffle.inverse(image)).into()
            }
            Self::Windowed(windowed) => {
                (image < windowed.len()).then(|| windowed.inverse(image)).into()
            }
            Self::Listed(_)
            | Self::Weighted(_)
            | Self::Mixed(_)
            | Self::Neighbours(_)
            | Self::Repeat { .. }
            | Self::Concat(_) => Inverse::Unknown,
        }
    }

    /// Replaces each image by its position: [`inverse`](Self::inverse) in bulk, for maps that have
    /// one. What no position gives becomes a number that is too large to be one.
    fn invert(&self, images: &mut [u64]) {
        match self {
            Self::Range { start, step } => invert_range(*start, *step, images),
            Self::Blocks { start, block, stride } => {
                for image in images {
                    *image = blocks::inverse(*start, *block, *stride, *image);
                }
            }
            Self::Bitmap(rows) => rows.invert(images),
            Self::Shuffle(shuffle) => shuffle.invert(images),
            Self::Windowed(windowed) => windowed.invert(images),
            Self::Listed(_)
            | Self::Weighted(_)
            | Self::Mixed(_)
            | Self::Neighbours(_)
            | Self::Repeat { .. }
            | Self::Concat(_) => {
                unreachable!("only called for orders that are invertible")
            }
        }
    }
}

/// Replaces each `start + k · step` by `k`, and any other image by a number too large to be a `k`.
///
/// Multiplying by the inverse of an odd number modulo 2⁶⁴ divides what it divides exactly, and takes
/// everything else beyond the largest quotient (T. Granlund and P. Montgomery, "Division by Invariant
/// Integers using Multiplication", 1994, section 9). A distance below zero wraps: if it divides even
/// so, its `k` is one for which `start + k · step` leaves 64 bits, and no domain reaches that far.
fn invert_range(start: u64, step: i64, images: &mut [u64]) {
    let divisor = step.unsigned_abs();
    let twos = divisor.trailing_zeros();
    let odd = divisor >> twos;
    // Right to 3 bits as it stands; each step of Newton's doubles them.
    let mut inverse = odd;
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    let largest = u64::MAX / divisor;
    let is_down = step < 0;
    for image in images {
        let distance = if is_down { start.wrapping_sub(*image) } else { image.wrapping_sub(start) };
        let position = distance.wrapping_mul(inverse).rotate_right(twos);
        *image = if position <= largest { position } else { NOWHERE };
    }
}
