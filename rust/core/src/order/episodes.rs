//! Which rows of a table belong to an episode, and in which order.

use super::bitmap::Bitmap;
use super::listed::Listed;
use crate::error::{Error, Result};

/// Rows of a table in episodes, the rows of each one after another.
///
/// A row's place is where it stands if all episodes are laid end to end.
#[derive(Debug)]
pub struct Episodes {
    /// The row offset at each place; `None` if it is the place.
    rows: Option<Listed>,
    /// The place of each row offset, too large for rows of no episode; `None` if it is the offset.
    places: Option<Listed>,
    /// The first place of each episode, and the number of places.
    starts: Vec<u64>,
    /// The number that all row offsets are below.
    bound: u64,
}

/// Where a row stands, and the places of its episode.
struct Stand {
    place: u64,
    first: u64,
    last: u64,
}

impl Episodes {
    /// Creates episodes.
    ///
    /// `rows` are the row offsets by place, by default `0..num_rows`; `starts` are the first places of
    /// all episodes and, last, the number of places.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if an offset is not below `num_rows` or there twice, or if `starts` do not
    /// ascend from 0 to the number of places.
    pub fn new(rows: Option<Vec<u64>>, starts: Vec<u64>, num_rows: u64) -> Result<Self> {
        let len = rows.as_ref().map_or(num_rows, |rows| rows.len() as u64);
        let is_ascending = starts.is_sorted_by(|one, next| one < next);
        if !is_ascending || starts.first() != Some(&0) || starts.last() != Some(&len) {
            return Err(Error::invalid(
                format!("episodes of {len} rows"),
                "starts that ascend from 0 to the number of rows",
            ));
        }
        let Some(rows) = rows else {
            return Ok(Self { rows: None, places: None, starts, bound: num_rows });
        };
        let mut places = vec![len; usize::try_from(num_rows).map_err(|_| bad_row(num_rows))?];
        let mut bound = 0;
        for (&row, place) in rows.iter().zip(0..) {
            let known = usize::try_from(row).ok().and_then(|row| places.get_mut(row));
            match known {
                Some(known) if *known == len => *known = place,
                _ => return Err(bad_row(row)),
            }
            bound = bound.max(row + 1);
        }
        let (rows, places) = (Listed::new(rows), Listed::new(places));
        Ok(Self { rows: Some(rows), places: Some(places), starts, bound })
    }

    /// Returns the number that all row offsets are below.
    pub(super) fn bound(&self) -> u64 {
        self.bound
    }

    /// Returns the number of rows of all episodes.
    pub fn num_rows(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Returns the number of episodes.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns whether there are no episodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of memory it takes.
    pub fn num_bytes(&self) -> usize {
        let lists = [&self.rows, &self.places].into_iter().flatten();
        size_of_val(&*self.starts) + lists.map(Listed::num_bytes).sum::<usize>()
    }

    /// Appends to `out` whether each step from a row leads beyond its episode.
    pub(super) fn padding(&self, offset: u64, steps: &[i64], out: &mut Vec<bool>) {
        match self.stand(offset) {
            Some(stand) => out.extend(steps.iter().map(|&step| stand.is_beyond(step))),
            None => out.extend(steps.iter().map(|&step| step != 0)),
        }
    }

    /// Returns the row at a step from another one, or at that end of the episode which it leads beyond.
    pub(super) fn neighbour(&self, offset: u64, step: i64) -> u64 {
        self.stand(offset).map_or(offset, |stand| self.row_at(stand.at(step)))
    }

    /// Writes the rows at steps from another one, as [`neighbour`](Self::neighbour) returns them.
    pub(super) fn neighbours(&self, offset: u64, steps: &[i64], out: &mut [u64]) {
        match self.stand(offset) {
            Some(stand) => {
                for (value, &step) in out.iter_mut().zip(steps) {
                    *value = self.row_at(stand.at(step));
                }
            }
            None => out.fill(offset),
        }
    }

    /// Returns the rows, ascending, at which a window begins: of those from which no step leads beyond
    /// the episode, or of all if `is_full` is false, every `stride`-th of each episode.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `stride` is 0; [`Error::Interrupted`].
    pub fn starts_of(&self, steps: &[i64], stride: u64, is_full: bool) -> Result<Bitmap> {
        if stride == 0 {
            return Err(Error::invalid("a stride of 0", "at least 1"));
        }
        let (before, after) = if is_full { reach(steps) } else { (0, 0) };
        let mut rows = Vec::new();
        for episode in self.starts.windows(2) {
            crate::interrupt::check()?;
            let first = episode[0].saturating_add(before);
            let end = episode[1].saturating_sub(after);
            let mut place = first;
            while place < end {
                rows.push(self.row_at(place));
                place = place.saturating_add(stride);
            }
        }
        Ok(Bitmap::from_offsets(rows))
    }

    fn row_at(&self, place: u64) -> u64 {
        self.rows.as_ref().map_or(place, |rows| rows.at(place))
    }

    fn stand(&self, offset: u64) -> Option<Stand> {
        let place = match &self.places {
            None => offset,
            Some(places) if offset < places.len() => places.at(offset),
            Some(_) => return None,
        };
        let next = self.starts.partition_point(|&start| start <= place);
        let end = *self.starts.get(next)?;
        Some(Stand { place, first: self.starts[next - 1], last: end - 1 })
    }
}

impl Stand {
    fn is_beyond(&self, step: i64) -> bool {
        match self.place.checked_add_signed(step) {
            Some(place) => place < self.first || place > self.last,
            None => true,
        }
    }

    /// Returns the place a step leads to, or that end of the episode which it leads beyond.
    fn at(&self, step: i64) -> u64 {
        self.place.saturating_add_signed(step).clamp(self.first, self.last)
    }
}

/// Returns how far steps lead back, and how far ahead.
fn reach(steps: &[i64]) -> (u64, u64) {
    let before = steps.iter().min().map_or(0, |&step| step.min(0).unsigned_abs());
    let after = steps.iter().max().map_or(0, |&step| step.max(0).unsigned_abs());
    (before, after)
}

fn bad_row(row: u64) -> Error {
    Error::invalid(format!("row {row} of an episode"), "distinct rows of the table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Order;

    /// Two episodes of three and two rows that stand in a table as 5, 0, 2 and 1, 4; row 3 is in none.
    fn episodes() -> Episodes {
        Episodes::new(Some(vec![5, 0, 2, 1, 4]), vec![0, 3, 5], 6).unwrap()
    }

    #[test]
    fn windows_start_at_every_row_from_which_they_are_full() {
        let found = |steps: &[i64], stride, is_full| {
            let rows = episodes().starts_of(steps, stride, is_full).unwrap();
            Order::bitmap(rows).to_vec()
        };
        assert_eq!(found(&[0], 1, true), [0, 1, 2, 4, 5]);
        assert_eq!(found(&[0, 1], 1, true), [0, 1, 5]);
        assert_eq!(found(&[-1], 1, true), [0, 2, 4]);
        assert_eq!(found(&[-1, 1], 1, true), [0]);
        assert_eq!(found(&[-1, 5], 2, true), Vec::<u64>::new());
        assert_eq!(found(&[-1, 5], 2, false), [1, 2, 5]);
    }

    #[test]
    fn wrong_episodes_are_refused() {
        for (rows, starts) in [
            (Some(vec![0, 0]), vec![0, 2]),
            (Some(vec![0, 9]), vec![0, 2]),
            (Some(vec![0, 1]), vec![0, 1]),
            (Some(vec![0, 1]), vec![1, 2]),
            (None, vec![0, 3, 3]),
            (None, vec![]),
        ] {
            assert!(Episodes::new(rows, starts, 3).is_err());
        }
        assert!(episodes().starts_of(&[0], 0, true).is_err());
    }
}
