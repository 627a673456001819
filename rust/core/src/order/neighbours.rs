//! Rows around rows, within the episodes that they belong to.

use std::ops::Range;
use std::sync::Arc;

use super::episodes::Episodes;
use super::expression::{Map, Neighbours, Order};
use crate::error::{Error, Result};

impl Neighbours {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn bound(&self) -> u64 {
        self.order.bound().max(self.episodes.bound())
    }

    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    pub(super) fn steps(&self) -> &[i64] {
        &self.steps
    }

    pub(super) fn num_bytes(&self) -> usize {
        size_of::<Self>() + self.order.num_bytes() + self.episodes.num_bytes()
    }

    pub(super) fn apply(&self, positions: &mut [u64]) {
        let width = self.steps.len() as u64;
        let mut offsets: Vec<u64> = positions.iter().map(|position| position / width).collect();
        self.order.apply(&mut offsets);
        for (position, offset) in positions.iter_mut().zip(offsets) {
            let step = self.steps[index(*position % width)];
            *position = self.episodes.neighbour(offset, step);
        }
    }

    pub(super) fn fill(&self, start: u64, out: &mut [u64]) {
        let width = self.steps.len() as u64;
        let (first, skipped) = (start / width, index(start % width));
        let count = (skipped + out.len()).div_ceil(self.steps.len());
        let mut offsets = vec![0; count];
        self.order.fill(first, &mut offsets);
        let (mut out, mut skipped) = (out, skipped);
        for offset in offsets {
            let steps = &self.steps[skipped..];
            let (row, rest) = out.split_at_mut(steps.len().min(out.len()));
            self.episodes.neighbours(offset, steps, row);
            (out, skipped) = (rest, 0);
        }
    }
}

impl Order {
    /// Returns the rows around those of this order: for each row one at every step, within its episode;
    /// a step beyond the episode leads to its end. A row of no episode is its own neighbour.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are no steps, or 2⁶⁴ rows or more.
    pub fn neighbours(&self, episodes: &Arc<Episodes>, steps: &[i64]) -> Result<Self> {
        let len = self.len.checked_mul(steps.len() as u64);
        let len = len.filter(|_| !steps.is_empty()).ok_or_else(|| {
            Error::invalid(
                format!("{} steps from {} rows", steps.len(), self.len),
                "at least one step, and fewer than 2^64 rows in all",
            )
        })?;
        if len == 0 {
            return Ok(Self::all(0));
        }
        let (order, episodes) = (self.clone(), Arc::clone(episodes));
        let neighbours = Neighbours { order, episodes, steps: steps.into(), len };
        Ok(Self { len, maps: vec![Map::Neighbours(Arc::new(neighbours))] })
    }

    /// Returns whether each step from the rows at some positions, row after row, leads beyond its
    /// episode, for each set of steps; a row of no episode is alone in one.
    ///
    /// # Errors
    ///
    /// Those of [`offsets`](Self::offsets).
    pub fn padding(
        &self,
        positions: Range<u64>,
        episodes: &Episodes,
        sets: &[Vec<i64>],
    ) -> Result<Vec<Vec<bool>>> {
        let offsets = self.offsets(positions)?;
        let of = |steps: &Vec<i64>| {
            let mut padding = Vec::with_capacity(offsets.len() * steps.len());
            for &offset in &offsets {
                episodes.padding(offset, steps, &mut padding);
            }
            padding
        };
        Ok(sets.iter().map(of).collect())
    }
}

/// Converts to an index. OK: it is below the number of steps, which are in memory.
#[expect(clippy::cast_possible_truncation, reason = "below the length of a slice")]
fn index(position: u64) -> usize {
    position as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two episodes of three and two rows that stand in a table as 5, 0, 2 and 1, 4; row 3 is in none.
    fn episodes() -> Arc<Episodes> {
        Arc::new(Episodes::new(Some(vec![5, 0, 2, 1, 4]), vec![0, 3, 5], 6).unwrap())
    }

    #[test]
    fn neighbours_stay_within_their_episode() {
        let order = Order::listed(vec![0, 4, 3]);
        let rows = order.neighbours(&episodes(), &[-1, 0, 2]).unwrap();
        assert_eq!(rows.to_vec(), [5, 0, 2, 1, 4, 4, 3, 3, 3]);
        let padding = order.padding(0..3, &episodes(), &[vec![-1, 0, 2], vec![0]]).unwrap();
        let beyond = [false, false, true, false, false, true, true, false, true];
        assert_eq!(padding, [beyond.to_vec(), vec![false; 3]]);
    }

    #[test]
    fn any_part_of_neighbours_is_that_part_of_all() {
        let order = Order::all(6).shuffled(3, 0, 1).unwrap();
        let rows = order.neighbours(&episodes(), &[1, -2, i64::MAX, i64::MIN]).unwrap();
        let all = rows.to_vec();
        for start in 0..rows.len() {
            for end in start..=rows.len() {
                let part = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
                assert_eq!(rows.offsets(start..end).unwrap(), all[part]);
            }
            let mut position = [start];
            rows.resolve(&mut position).unwrap();
            assert_eq!(position[0], all[usize::try_from(start).unwrap()]);
        }
    }

    #[test]
    fn episodes_in_storage_order_take_no_list() {
        let stored = Arc::new(Episodes::new(None, vec![0, 2, 5], 5).unwrap());
        let rows = Order::all(5).neighbours(&stored, &[-1, 1]).unwrap();
        assert_eq!(rows.to_vec(), [0, 1, 0, 1, 2, 3, 2, 4, 3, 4]);
        assert_eq!(stored.num_bytes(), 3 * size_of::<u64>());
        assert_eq!((stored.len(), stored.num_rows()), (2, 5));
    }

    #[test]
    fn there_must_be_steps() {
        assert!(Order::all(3).neighbours(&episodes(), &[]).is_err());
        assert!(Order::all(0).neighbours(&episodes(), &[1]).unwrap().is_empty());
    }
}
