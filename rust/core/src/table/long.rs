//! Columns of long values, such as encoded images, which are read without Lance's decoder.
//!
//! Lance stores a value of more than a few hundred bytes as it is, behind its length, and an index of where
//! each row begins (the *full-zip* layout); longer ones are compressed, each for itself. Its decoder copies such
//! values three or four times, each time to memory that the system has to clear first, which costs more than
//! all the rest. Here they are copied, or decompressed, to where the column has them. Columns that are nested, or
//! stored in any other way, are left to the decoder.

mod codec;
pub(super) mod gather;
mod locate;
mod out;
mod values;

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use lance_encoding::decoder::{ColumnInfo, PageEncoding, PageInfo};
use lance_encoding::encodings::physical::block::CompressionScheme;
use lance_encoding::format::metadata::compressive_encoding::Compression;
use lance_encoding::format::metadata::full_zip_layout::Details;
use lance_encoding::format::metadata::page_layout::Layout;
use lance_encoding::format::metadata::{CompressiveEncoding, FullZipLayout, RepDefLayer};

use crate::files::{MOST_HEAD_BYTES, Record};

/// Pages whose values have fewer bytes on average are left to the decoder: a system call for each costs as
/// much as it saves.
const LONG_BYTES: u64 = 8 << 10;

/// Where the values of a column lie in its file.
#[derive(Debug)]
pub(super) struct LongColumn {
    pages: Vec<LongPage>,
    compression: CompressionScheme,
}

#[derive(Debug)]
struct LongPage {
    num_rows: u64,
    /// Where its values lie in the file.
    values: Range<u64>,
    /// Where its index begins, and the bytes of one of its `num_rows + 1` entries.
    index: u64,
    entry_bytes: u64,
    /// The bytes in front of each row that say whether it is null.
    null_bytes: usize,
    /// The bytes of the length in front of each value.
    length_bytes: usize,
    /// How each value is compressed.
    compression: CompressionScheme,
    /// The index, once it was fetched from another machine.
    fetched: OnceLock<Bytes>,
}

/// Where some values of a column lie, in the order of their rows.
#[derive(Debug)]
pub(super) struct LongRows {
    records: Vec<Record>,
    valid: Vec<bool>,
    /// The bytes of nulls and of lengths that each record was found to begin with.
    heads: Vec<(usize, usize)>,
    compression: CompressionScheme,
    /// The records, where they were fetched; what was read of them is gone.
    fetched: Option<Vec<Bytes>>,
}

impl LongColumn {
    /// Returns a column all of whose pages hold long values, `None` for any other.
    pub(super) fn of(info: &ColumnInfo) -> Option<Self> {
        let pages = info.page_infos.iter().filter(|page| page.num_rows > 0);
        let pages = pages.map(LongPage::of).collect::<Option<Vec<_>>>()?;
        let add = |sum: u64, more: u64| sum.checked_add(more);
        let sizes = pages.iter().map(|page| page.values.end - page.values.start);
        let bytes = sizes.into_iter().try_fold(0, add)?;
        let rows = pages.iter().map(|page| page.num_rows).try_fold(0, add)?;
        let compression = pages.first()?.compression;
        let are_alike = pages.iter().all(|page| page.compression == compression);
        (are_alike && bytes / rows >= LONG_BYTES).then_some(Self { pages, compression })
    }

    /// Returns the bytes of its indexes, which are kept once they were fetched.
    pub(super) fn index_bytes(&self) -> u64 {
        self.pages
            .iter()
            .map(|page| page.entries(&(0..page.num_rows)))
            .map(|at| at.end - at.start)
            .sum()
    }

    /// Returns the pages that hold the rows of `ranges`, and which of their rows these are.
    fn parts(&self, ranges: &[Range<u64>]) -> Vec<(&LongPage, Range<u64>)> {
        let mut parts = Vec::with_capacity(ranges.len());
        let mut pages = self.pages.iter();
        let mut page = pages.next();
        let mut start = 0;
        for range in ranges {
            let mut row = range.start;
            while row < range.end
                && let Some(here) = page
            {
                let end = start + here.num_rows;
                if row < end {
                    let last = range.end.min(end);
                    parts.push((here, row - start..last - start));
                    row = last;
                }
                if row >= end {
                    start = end;
                    page = pages.next();
                }
            }
        }
        parts
    }
}

impl LongPage {
    fn of(info: &PageInfo) -> Option<Self> {
        let PageEncoding::Structural(layout) = &info.encoding else {
            return None;
        };
        let Some(Layout::FullZipLayout(layout)) = &layout.layout else {
            return None;
        };
        let Some(Details::BitsPerOffset(bits @ (32 | 64))) = layout.details else {
            return None;
        };
        let length_bytes = bits as usize / 8;
        let null_bytes = null_bytes(layout)?;
        let compression = compression(layout.value_compression.as_ref()?)?;
        let &[(start, bytes), (index, index_bytes)] = &*info.buffer_offsets_and_sizes else {
            return None;
        };
        let entries = info.num_rows.checked_add(1)?;
        let entry_bytes = index_bytes / entries;
        let is_index = entry_bytes * entries == index_bytes && matches!(entry_bytes, 1 | 2 | 4 | 8);
        let values = start..start.checked_add(bytes)?;
        index.checked_add(index_bytes)?;
        is_index.then_some(Self {
            num_rows: info.num_rows,
            values,
            index,
            entry_bytes,
            null_bytes,
            length_bytes,
            compression,
            fetched: OnceLock::new(),
        })
    }

    /// Returns where the entries of the index are that say where these rows begin and end.
    fn entries(&self, rows: &Range<u64>) -> Range<u64> {
        self.index + rows.start * self.entry_bytes..self.index + (rows.end + 1) * self.entry_bytes
    }

    /// Returns these entries of the index that was fetched.
    fn of_index(&self, rows: &Range<u64>) -> Option<Bytes> {
        let index = self.fetched.get()?;
        let entries = self.entries(rows);
        let start = usize::try_from(entries.start - self.index).ok()?;
        let end = usize::try_from(entries.end - self.index).ok()?;
        (end <= index.len()).then(|| index.slice(start..end))
    }

    /// Adds the rows that these entries of the index are of.
    fn find(&self, entries: &Bytes, rows: &mut LongRows) -> Result<(), String> {
        let width = usize::try_from(self.entry_bytes).unwrap_or(8);
        let places = entries.chunks_exact(width).map(|entry| {
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(entry);
            u64::from_le_bytes(bytes)
        });
        let most = self.values.end - self.values.start;
        let mut last: Option<u64> = None;
        for place in places {
            if place > most {
                return Err(format!("a row ends at byte {place} of a page of {most}"));
            }
            if let Some(start) = last.replace(place) {
                let length = place.checked_sub(start).and_then(|len| usize::try_from(len).ok());
                let length = length.ok_or("the rows of a page are not in their order")?;
                let head = self.null_bytes + self.length_bytes;
                let start = self.values.start + start;
                if length >= head {
                    rows.push(Record { start, head, len: length - head }, true, self);
                } else if length == self.null_bytes && length > 0 {
                    rows.push(Record { start, head: length, len: 0 }, false, self);
                } else {
                    return Err(format!("a row has {length} bytes, fewer than a length"));
                }
            }
        }
        Ok(())
    }
}

/// Returns how each value is compressed, if it is compressed for itself, and by nothing but this.
fn compression(encoding: &CompressiveEncoding) -> Option<CompressionScheme> {
    match encoding.compression.as_ref()? {
        Compression::Variable(plain) => plain.values.is_none().then_some(CompressionScheme::None),
        Compression::General(general) => {
            let inner = compression(general.values.as_ref()?)?;
            let scheme = general.compression.as_ref()?.scheme();
            let scheme = CompressionScheme::try_from(scheme).ok()?;
            (inner == CompressionScheme::None).then_some(scheme)
        }
        _ => None,
    }
}

/// Returns the bytes of the control word in front of each row, if it says nothing but whether the row is null.
fn null_bytes(layout: &FullZipLayout) -> Option<usize> {
    let is = |layer: RepDefLayer| layout.layers == [layer as i32];
    match (layout.bits_rep, layout.bits_def) {
        (0, 0) if is(RepDefLayer::RepdefAllValidItem) => Some(0),
        (0, 1) if is(RepDefLayer::RepdefNullableItem) => Some(1),
        _ => None,
    }
}

impl LongRows {
    fn new(count: usize, compression: CompressionScheme) -> Self {
        let (records, valid) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Self { records, valid, heads: Vec::with_capacity(count), compression, fetched: None }
    }

    /// Returns where they lie in the file.
    fn places(&self) -> Vec<Range<u64>> {
        self.records.iter().map(Record::range).collect()
    }

    /// Returns the bytes that they have in the file.
    pub(super) fn bytes_in_file(&self) -> u64 {
        self.places().iter().map(|place| place.end - place.start).sum()
    }

    fn push(&mut self, record: Record, is_valid: bool, page: &LongPage) {
        debug_assert!(record.head <= MOST_HEAD_BYTES);
        self.records.push(record);
        self.valid.push(is_valid);
        self.heads.push((page.null_bytes, page.length_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(num_rows: u64, values: Range<u64>) -> LongPage {
        LongPage {
            num_rows,
            values,
            index: 1000,
            entry_bytes: 2,
            null_bytes: 1,
            length_bytes: 4,
            compression: CompressionScheme::None,
            fetched: OnceLock::new(),
        }
    }

    fn column(pages: &[u64]) -> LongColumn {
        let pages = pages.iter().map(|&rows| page(rows, 0..0)).collect();
        LongColumn { pages, compression: CompressionScheme::None }
    }

    #[test]
    fn rows_are_found_in_the_pages_that_hold_them() {
        let column = column(&[3, 1, 6]);
        let rows_of = |ranges: &[Range<u64>]| {
            let starts = [0, 3, 4];
            let mut found = Vec::new();
            for (page, rows) in column.parts(ranges) {
                let at = column.pages.iter().position(|other| std::ptr::eq(other, page)).unwrap();
                assert!(!rows.is_empty() && rows.end <= page.num_rows);
                found.extend(rows.map(|row| starts[at] + row));
            }
            found
        };
        for wanted in 0_u32..1 << 10 {
            let rows: Vec<u64> = (0..10).filter(|row| wanted >> row & 1 == 1).collect();
            let alone: Vec<_> = rows.iter().map(|&row| row..row + 1).collect();
            assert_eq!(rows_of(&alone), rows);
        }
        for start in 0..10 {
            for end in start..10 {
                let run = start..end;
                assert_eq!(rows_of(std::slice::from_ref(&run)), run.collect::<Vec<_>>());
            }
        }
        // Those that no page has are missing.
        let beyond = 8..13;
        assert_eq!(rows_of(std::slice::from_ref(&beyond)), [8, 9]);
    }

    fn find(entries: &[u16]) -> Result<LongRows, String> {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let mut rows = LongRows::new(0, CompressionScheme::None);
        page(3, 500..600).find(&Bytes::from(bytes), &mut rows).map(|()| rows)
    }

    #[test]
    fn the_index_says_where_rows_lie_and_which_are_null() {
        let rows = find(&[10, 35, 36, 41]).unwrap();
        let record = |start, head, len| Record { start, head, len };
        assert_eq!(rows.records, [record(510, 5, 20), record(535, 1, 0), record(536, 5, 0)]);
        assert_eq!(rows.valid, [true, false, true]);
        assert_eq!(page(3, 500..600).entries(&(1..3)), 1002..1008);
    }

    #[test]
    fn an_index_that_makes_no_sense_is_told() {
        for (entries, words) in [
            ([10, 5, 40, 50], "order"),
            ([10, 20, 30, 101], "ends at byte 101 of a page of 100"),
            ([10, 13, 30, 40], "3 bytes"),
            ([10, 10, 30, 40], "0 bytes"),
        ] {
            let error = find(&entries).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
