//! Which rows the blocks of a share are made of.

use std::sync::Arc;

use super::{Cursor, Packed, Packing, Placement};
use crate::error::Result;
use crate::interrupt;
use crate::order::{BitmapBuilder, Order, Share};

/// More orders than this are laid end to end.
const MOST_ORDERS: usize = 4;

/// Returns the rows to read for a [`Filler`](super::Filler): the rows of these orders, one after
/// another.
///
/// A row that ends one block and begins the next stands there once. Concatenated documents keep the
/// order ascending where it was, so that a scan stays one.
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid) if the share is not one of these blocks;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn reads(packing: &Arc<Packing>, share: &Share) -> Result<Vec<Order>> {
    share.check(packing.num_blocks())?;
    let order = packing.order();
    if packing.settings().placement != Placement::Concat {
        let mut positions = Vec::new();
        each(packing, share, |position| positions.push(position))?;
        let is_empty = positions.is_empty();
        let read = order.pick(&Order::listed(positions))?;
        return Ok(if is_empty { Vec::new() } else { vec![read] });
    }
    let mut runs: Vec<Runs> = Vec::new();
    each(packing, share, |position| match runs.last_mut() {
        Some(last) if last.end() <= position => last.push(position),
        _ => runs.push(Runs(vec![(position, position + 1)])),
    })?;
    if runs.len() <= MOST_ORDERS {
        return runs.into_iter().map(|runs| runs.of(order)).collect();
    }
    let positions = runs.iter().flat_map(|runs| runs.0.iter().flat_map(|&(start, end)| start..end));
    Ok(vec![order.pick(&Order::listed(positions.collect()))?])
}

/// Calls `read` with the position of each row to read.
fn each(packing: &Arc<Packing>, share: &Share, mut read: impl FnMut(u64)) -> Result<()> {
    let mut cursor = Cursor::new(Arc::clone(packing));
    let mut packed = Packed::default();
    let mut last = None;
    for batch in 0..share.num_batches() {
        interrupt::check()?;
        for blocks in share.runs(batch) {
            packed.clear();
            cursor.blocks(blocks, &mut packed)?;
            for piece in &packed.pieces {
                if last.replace(piece.position) != Some(piece.position) {
                    read(piece.position);
                }
            }
        }
    }
    Ok(())
}

/// Ascending positions, as runs of neighbours.
#[derive(Debug, Default)]
struct Runs(Vec<(u64, u64)>);

impl Runs {
    fn end(&self) -> u64 {
        self.0.last().map_or(0, |&(_, end)| end)
    }

    fn push(&mut self, position: u64) {
        match self.0.last_mut() {
            Some((_, end)) if *end == position => *end += 1,
            _ => self.0.push((position, position + 1)),
        }
    }

    fn of(&self, order: &Order) -> Result<Order> {
        if let [(start, end)] = self.0[..] {
            return order.slice(start, end - start);
        }
        let mut positions = BitmapBuilder::default();
        for &(start, end) in &self.0 {
            positions.push_range(start, end);
        }
        order.pick(&Order::bitmap(positions.finish()))
    }
}
