//! Where the rows of a table lie: row offset ⇄ row address.

use crate::error::{Error, Result};
use crate::order::Bitmap;

/// `fragment id << 32 | place in the fragment`, deleted rows counted.
///
/// Lance's `_rowaddr`, and its `_rowid` in tables without stable row ids. Moves on compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowAddress(pub u64);

impl RowAddress {
    /// Returns the address of `place` in the fragment with this id.
    pub fn new(fragment_id: u32, place: u32) -> Self {
        Self(u64::from(fragment_id) << 32 | u64::from(place))
    }

    /// Returns the id of the fragment.
    pub fn fragment_id(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the place in the fragment.
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    pub fn place(self) -> u32 {
        self.0 as u32
    }
}

/// The rows of one fragment.
#[derive(Debug, Clone)]
pub struct FragmentRows {
    /// Its id, ascending over a table but with gaps.
    pub id: u32,
    /// Rows written, deleted ones counted.
    pub num_places: u32,
    /// The places of live rows, or `None` if nothing was deleted.
    pub live: Option<Bitmap>,
}

impl FragmentRows {
    /// Returns the rows not deleted.
    pub fn num_rows(&self) -> u64 {
        self.live.as_ref().map_or(u64::from(self.num_places), Bitmap::len)
    }

    /// Returns the place of the live row with this rank; there is one.
    #[expect(clippy::cast_possible_truncation, reason = "places are 32 bits")]
    fn place_of(&self, rank: u64) -> u32 {
        match &self.live {
            Some(live) => live.select(rank).unwrap_or(0) as u32,
            None => rank as u32,
        }
    }

    /// Returns the places of the live rows with these ranks, as runs.
    #[expect(clippy::cast_possible_truncation, reason = "places are 32 bits")]
    pub(super) fn places(&self, ranks: std::ops::Range<u64>) -> Vec<std::ops::Range<u32>> {
        let Some(live) = &self.live else {
            let all = ranks.start as u32..ranks.end as u32;
            return std::iter::once(all).collect();
        };
        let mut places: Vec<u64> = ranks.collect();
        live.apply(&mut places);
        let runs = places.chunk_by(|a, b| a + 1 == *b);
        runs.map(|run| run[0] as u32..run[0] as u32 + run.len() as u32).collect()
    }

    /// Returns the rank of a live row among the live ones, or `None` if there is no such row.
    fn rank_of(&self, place: u32) -> Option<u64> {
        let place = u64::from(place);
        match &self.live {
            Some(live) => live.contains(place).then(|| live.rank(place)),
            None => (place < u64::from(self.num_places)).then_some(place),
        }
    }
}

/// The rows of a table at one version: fragment after fragment, deleted rows left out.
#[derive(Debug, Clone)]
pub struct Layout {
    fragments: Vec<FragmentRows>,
    /// Live rows before each fragment; one entry more than there are fragments.
    starts: Vec<u64>,
}

impl Layout {
    /// Returns the layout of `fragments`, given by ascending id.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the ids do not ascend.
    pub fn new(fragments: Vec<FragmentRows>) -> Result<Self> {
        if !fragments.is_sorted_by(|a, b| a.id < b.id) {
            return Err(Error::corrupt("the manifest", "fragment ids do not ascend"));
        }
        let mut starts = Vec::with_capacity(fragments.len() + 1);
        let mut rows = 0;
        for fragment in &fragments {
            starts.push(rows);
            rows += fragment.num_rows();
        }
        starts.push(rows);
        Ok(Self { fragments, starts })
    }

    /// Returns the live rows in all.
    pub fn num_rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Returns the fragments, by ascending id.
    pub fn fragments(&self) -> &[FragmentRows] {
        &self.fragments
    }

    /// Returns the row offsets of a fragment, by its index.
    pub fn offsets_of(&self, fragment: usize) -> std::ops::Range<u64> {
        self.starts[fragment]..self.starts[fragment + 1]
    }

    /// Returns the index of the fragment that holds a row offset, and the row's place in it.
    ///
    /// `hint` is an index to try first, for callers that walk ascending offsets.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn locate(&self, offset: u64, hint: usize) -> Result<(usize, u32)> {
        let num_rows = self.num_rows();
        if offset >= num_rows {
            return Err(Error::OutOfRange { offset, num_rows });
        }
        let holds = |at: usize| {
            self.starts.get(at + 1).is_some_and(|&end| self.starts[at] <= offset && offset < end)
        };
        let at = if holds(hint) {
            hint
        } else {
            self.starts.partition_point(|&start| start <= offset) - 1
        };
        Ok((at, self.fragments[at].place_of(offset - self.starts[at])))
    }

    /// Returns the address of each row offset.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`], naming the first offset that is too large.
    pub fn addresses(&self, offsets: &[u64]) -> Result<Vec<RowAddress>> {
        let mut hint = 0;
        let address = |&offset| {
            let (at, place) = self.locate(offset, hint)?;
            hint = at;
            Ok(RowAddress::new(self.fragments[at].id, place))
        };
        offsets.iter().map(address).collect()
    }

    /// Returns the row offset at an address, or `None` if no live row is there.
    pub fn offset_of(&self, address: RowAddress) -> Option<u64> {
        let id = address.fragment_id();
        let at = self.fragments.binary_search_by_key(&id, |fragment| fragment.id).ok()?;
        let rank = self.fragments[at].rank_of(address.place())?;
        Some(self.starts[at] + rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let fragment = |id, num_places, deleted: &[u64]| {
            let live = (0..u64::from(num_places)).filter(|place| !deleted.contains(place));
            let live = (!deleted.is_empty()).then(|| Bitmap::from_offsets(live.collect()));
            FragmentRows { id, num_places, live }
        };
        let fragments = vec![
            fragment(0, 4, &[]),
            fragment(2, 5, &[0, 3]),
            fragment(3, 2, &[0, 1]),
            fragment(7, 3, &[2]),
        ];
        Layout::new(fragments).unwrap()
    }

    #[test]
    fn offsets_count_live_rows_and_addresses_count_all() {
        let layout = layout();
        assert_eq!(layout.num_rows(), 9);
        let addresses = layout.addresses(&(0..9).collect::<Vec<_>>()).unwrap();
        let wanted = [(0, 0), (0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (2, 4), (7, 0), (7, 1)];
        assert_eq!(addresses, wanted.map(|(id, place)| RowAddress::new(id, place)));
        for (offset, address) in (0..).zip(addresses) {
            assert_eq!(layout.offset_of(address), Some(offset));
        }
        assert_eq!(layout.offsets_of(2), 7..7);
    }

    #[test]
    fn addresses_of_deleted_or_missing_rows_have_no_offset() {
        let layout = layout();
        for (id, place) in [(2, 0), (2, 3), (3, 0), (7, 2), (7, 3), (1, 0), (9, 0), (0, 4)] {
            assert_eq!(layout.offset_of(RowAddress::new(id, place)), None, "{id} {place}");
        }
    }

    #[test]
    fn the_first_offset_beyond_the_end_is_named() {
        let error = layout().addresses(&[3, 9, 12]).unwrap_err().to_string();
        assert_eq!(error, "row 9 is out of range for 9 rows");
    }
}
