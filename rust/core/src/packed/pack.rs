//! Batches → packed rows.

use arrow_array::RecordBatch;

use super::bytes::{Tail, too_long};
use super::leaves::{Nulls, Values, take_apart};
use super::packing::{Leaf, Packing};
use crate::address_space;
use crate::error::Result;

/// Rows whose columns are written one after another while their heads stay in L1.
const TILE_ROWS: usize = 256;

/// Packed rows in memory.
#[derive(Debug, Clone, Default)]
pub struct PackedRows {
    /// The heads, `stride` apart.
    pub heads: Vec<u8>,
    /// The tails; heads say where each begins.
    pub tails: Vec<u8>,
    /// How many there are.
    pub num_rows: usize,
    /// For each bit of a head, whether it is set in any row.
    pub bits_set: Vec<bool>,
}

impl PackedRows {
    /// Returns the bytes of the rows.
    pub(crate) fn num_bytes(&self) -> usize {
        self.heads.len() + self.tails.len()
    }

    /// Makes room for rows that have so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn reserve(&mut self, heads: u64, tails: u64) -> Result<()> {
        reserve(&mut self.heads, heads)?;
        reserve(&mut self.tails, tails)
    }

    /// Forgets the rows and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.heads.clear();
        self.tails.clear();
        self.num_rows = 0;
        self.bits_set.clear();
    }
}

impl Packing {
    /// Appends the rows of `batch`, which has the columns of the packing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) if a value has 4 GiB or more.
    pub fn pack(&self, batch: &RecordBatch, rows: &mut PackedRows) -> Result<()> {
        let (mut values, mut nulls) = (Vec::with_capacity(self.leaves.len()), Vec::new());
        for (node, array) in self.columns.iter().zip(batch.columns()) {
            take_apart(node, array, &mut values, &mut nulls)?;
        }
        rows.bits_set.resize(self.num_bits, false);
        let start = rows.heads.len();
        let count = batch.num_rows();
        reserve(&mut rows.heads, count as u64 * self.stride as u64)?;
        rows.heads.resize(start + count * self.stride, 0);
        rows.num_rows += count;
        if self.stride == 0 {
            return Ok(());
        }
        let heads = &mut rows.heads[start..];
        for (tile, first) in
            heads.chunks_mut(TILE_ROWS * self.stride).zip((0..count).step_by(TILE_ROWS))
        {
            for (leaf, values) in self.leaves.iter().zip(&values) {
                match (leaf, values) {
                    (Leaf::Fixed { slot, width }, Values::Fixed(values)) => {
                        let values = &values[first * width..];
                        copy_in(values, *width, tile, self.stride, *slot);
                    }
                    (Leaf::Bit { bit }, Values::Bits(values)) => {
                        let is_set = |row: usize| values.value(first + row);
                        rows.bits_set[*bit] |= set(tile, self.stride, *bit, is_set);
                    }
                    _ => {}
                }
            }
            for Nulls { bit, nulls } in &nulls {
                let is_null = |row: usize| nulls.is_null(first + row);
                rows.bits_set[*bit] |= set(tile, self.stride, *bit, is_null);
            }
        }
        self.pack_tails(heads, &values, &mut rows.tails)
    }

    fn pack_tails(&self, heads: &mut [u8], values: &[Values], tails: &mut Vec<u8>) -> Result<()> {
        let parts: Vec<(usize, &Tail)> = self
            .leaves
            .iter()
            .zip(values)
            .filter_map(|(leaf, values)| match (leaf, values) {
                (Leaf::Tail { slot }, Values::Tail(tail)) => Some((*slot, tail)),
                _ => None,
            })
            .collect();
        if parts.is_empty() {
            return Ok(());
        }
        let sum: usize = parts.iter().flat_map(|(_, tail)| &tail.ranges).map(|(_, len)| len).sum();
        reserve(tails, sum as u64)?;
        for (row, head) in heads.chunks_exact_mut(self.stride).enumerate() {
            self.set_tail(head, tails.len());
            for (slot, tail) in &parts {
                let value = tail.of(row);
                let len = u32::try_from(value.len()).map_err(|_| too_long(value.len()))?;
                head[*slot..slot + size_of::<u32>()].copy_from_slice(&len.to_le_bytes());
                tails.extend_from_slice(value);
            }
        }
        Ok(())
    }
}

/// Makes room for more bytes.
fn reserve(bytes: &mut Vec<u8>, more: u64) -> Result<()> {
    let room = bytes.capacity() - bytes.len();
    match usize::try_from(more) {
        Ok(more) if more <= room => Ok(()),
        // Exactly, the first time: what comes next mostly is as long.
        Ok(more) if bytes.capacity() == 0 => bytes.try_reserve_exact(more).map_err(|_| ()),
        Ok(more) => bytes.try_reserve(more).map_err(|_| ()),
        Err(_) => Err(()),
    }
    .map_err(|()| address_space::failed("packed rows", more))
}

/// Writes one value into each head of a tile.
fn copy_in(values: &[u8], width: usize, heads: &mut [u8], stride: usize, slot: usize) {
    match width {
        1 => copy_array_in::<1>(values, heads, stride, slot),
        2 => copy_array_in::<2>(values, heads, stride, slot),
        4 => copy_array_in::<4>(values, heads, stride, slot),
        8 => copy_array_in::<8>(values, heads, stride, slot),
        16 => copy_array_in::<16>(values, heads, stride, slot),
        0 => {}
        _ => {
            for (head, value) in heads.chunks_exact_mut(stride).zip(values.chunks_exact(width)) {
                head[slot..slot + width].copy_from_slice(value);
            }
        }
    }
}

fn copy_array_in<const WIDTH: usize>(values: &[u8], heads: &mut [u8], stride: usize, slot: usize) {
    let values = values.as_chunks::<WIDTH>().0;
    for (head, value) in heads.chunks_exact_mut(stride).zip(values) {
        head[slot..slot + WIDTH].copy_from_slice(value);
    }
}

/// Sets a bit in the heads of a tile where `is_set` says so, and says whether it did.
fn set(heads: &mut [u8], stride: usize, bit: usize, is_set: impl Fn(usize) -> bool) -> bool {
    let mut any = 0;
    for (row, head) in heads.chunks_exact_mut(stride).enumerate() {
        let one = u8::from(is_set(row)) << (bit % 8);
        head[bit / 8] |= one;
        any |= one;
    }
    any != 0
}
