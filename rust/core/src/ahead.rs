//! Reads ahead of a caller that asks for one batch after another, as a `DataLoader` does whose sampler
//! is sequential: over a shuffled permutation, every batch of an epoch.
//!
//! Two takes of neighbouring runs of positions, at a distance that a third one confirms, are taken for
//! a worker that serves every so many batches. From then on a [`Loader`] reads the batches it will ask
//! for. A take that was not expected ends that, and costs nothing else.

use std::sync::{Mutex, TryLockError};

use crate::error::Result;
use crate::gather::Gathered;
use crate::loader::Loader;
use crate::order::Order;
use crate::read::Reader;

/// What the takes of one reader have in common.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    pid: u32,
    last: Option<Run>,
    /// The distance of the last two runs.
    stride: u64,
    running: Option<Running>,
}

/// A run of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
}

#[derive(Debug)]
struct Running {
    loader: Loader,
    order: Order,
    next: Run,
}

impl Ahead {
    /// Returns the rows at `positions` of `order`, if they were read ahead.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn take(
        &self,
        reader: &Reader,
        order: &Order,
        positions: &[u64],
    ) -> Result<Option<Gathered>> {
        let mut state = match self.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            // Another thread takes at the same time, so there is no sequence.
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        if state.pid != std::process::id() {
            // The threads of a loader stay behind in the process that was forked.
            std::mem::forget(state.running.take());
            *state = State { pid: std::process::id(), ..State::default() };
        }
        let run = run_of(positions).filter(|_| !reader.has_packed_rows());
        let Some(run) = run else {
            state.running = None;
            state.last = None;
            return Ok(None);
        };
        let is_expected = state
            .running
            .as_ref()
            .is_some_and(|running| running.next == run && running.order.is_same(order));
        if !is_expected {
            state.running = None;
            if !state.confirms(run) {
                return Ok(None);
            }
            let loader = Loader::new(
                reader.clone(),
                rest(order, run, state.stride)?,
                positions.len(),
                false,
            )?;
            let loader = loader.guessed();
            state.running = Some(Running { loader, order: order.clone(), next: run });
        }
        state.last = Some(run);
        let stride = state.stride;
        let Some(running) = &mut state.running else {
            return Ok(None);
        };
        let found = running.loader.next_batch();
        let start = run.start.saturating_add(stride);
        let left = order.len().saturating_sub(start);
        running.next = Run { start, len: run.len.min(left) };
        if !matches!(found, Ok(Some(_))) {
            state.running = None;
        }
        found
    }
}

impl State {
    /// Returns whether a run continues the last two; remembers it.
    fn confirms(&mut self, run: Run) -> bool {
        let before = self.stride;
        self.stride = match self.last.replace(run) {
            Some(last) if last.len == run.len && run.start > last.start => run.start - last.start,
            _ => 0,
        };
        self.stride > 0 && self.stride == before && self.stride.is_multiple_of(run.len)
    }
}

/// Runs as long as this one from it on, so far apart, up to the end of the order.
fn rest(order: &Order, run: Run, stride: u64) -> Result<Order> {
    let left = order.len().saturating_sub(run.start);
    let len = left / stride * run.len + (left % stride).min(run.len);
    order.blocks(run.start, run.len, stride, len)
}

/// Returns positions as a run, if they are consecutive and several.
fn run_of(positions: &[u64]) -> Option<Run> {
    let (&start, len) = (positions.first()?, positions.len() as u64);
    let is_run = positions.iter().zip(start..).all(|(&position, wanted)| position == wanted);
    (is_run && len > 1).then_some(Run { start, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::offsets_reader as reader;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;

    #[test]
    fn batches_of_a_sequence_are_read_ahead_and_are_the_right_ones() {
        let reader = reader(1000);
        let order = Order::all(1000).shuffled(3, 0, 1).unwrap();
        for (first, stride) in [(0, 16), (16, 32), (48, 64)] {
            let ahead = Ahead::default();
            let mut found = 0;
            for start in (first..1000).step_by(stride) {
                let positions: Vec<u64> = (start..1000.min(start + 16)).collect();
                let Some(rows) = ahead.take(&reader, &order, &positions).unwrap() else {
                    continue;
                };
                found += 1;
                let rows = rows.batch.column(0).as_primitive::<UInt64Type>().values().to_vec();
                let range = positions[0]..positions[0] + positions.len() as u64;
                assert_eq!(rows, order.offsets(range).unwrap());
            }
            let batches = (first..1000).step_by(stride).count();
            assert_eq!(found, batches - 2, "all but the two that show the sequence");
        }
    }

    #[test]
    fn what_is_no_sequence_is_not_read_ahead() {
        let reader = reader(1000);
        let order = Order::all(1000);
        let ahead = Ahead::default();
        let take = |positions: &[u64]| ahead.take(&reader, &order, positions).unwrap();
        for positions in [&[5, 3, 9][..], &[1], &[], &[7, 8, 9], &[100, 101, 102], &[300, 301, 302]]
        {
            assert!(take(positions).is_none());
        }
        // A sequence that breaks off.
        for start in [0, 4, 8, 12] {
            take(&[start, start + 1, start + 2, start + 3]);
        }
        assert!(take(&[500, 501, 502, 503]).is_none());
        assert!(take(&[16, 17, 18, 19]).is_none());
    }
}
