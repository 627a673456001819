//! Reading chosen columns of one fragment.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch, RecordBatchOptions, new_null_array};
use futures::future::try_join_all;
use lance_arrow::json::convert_lance_json_to_arrow;
use lance_encoding::decoder::PageInfo;
use lance_table::format::{DataFile as DataFileOf, Fragment};

use super::blobs::{BlobHome, find_external, load};
use super::file_columns::{FileColumns, Requested, Wanted};
use super::long::gather::{ALL_COPIED, LongValues};
use super::shape::{FileShape, Shape};
use super::storage::{Part, Storage};
use crate::error::{Error, Result};
use crate::files::RemoteFile;
use crate::projection::batch;
use crate::runtime;

/// Reads chosen columns of one fragment.
#[derive(Debug)]
pub(crate) struct FragmentReader {
    storage: Arc<Storage>,
    shape: Arc<Shape>,
    num_places: u64,
    files: Vec<FileColumns>,
}

/// Rows of one fragment.
pub(crate) struct Block {
    pub(crate) rows: RecordBatch,
    /// The columns of long values that are still to be copied, by their places; they are empty in `rows`.
    pub(crate) long: Vec<(usize, LongValues)>,
    /// Whether the buffers of `rows` are parts of no mapped file.
    pub(crate) is_owned: bool,
}

/// Rows of one fragment on their way from its files: requested, but not decoded yet.
pub(crate) struct Pending<'a> {
    reader: &'a FragmentReader,
    files: Vec<Requested>,
    ranges: Vec<Range<u64>>,
    num_rows: usize,
    keeps: bool,
}

impl FragmentReader {
    /// Returns a reader for the fragment with this index.
    ///
    /// Opens the files that hold some of the columns of `shape`, and reads where these are in them.
    pub(super) async fn open(
        storage: &Arc<Storage>,
        index: usize,
        fragment: &Fragment,
        shape: &Arc<Shape>,
    ) -> Result<Self> {
        let open = async |part: &FileShape| {
            let DataFileOf { path, base_id, file_size_bytes, .. } = &fragment.files[part.index];
            let key = storage.key(index, part.index);
            let part = Part {
                key: &key,
                base: *base_id,
                name: path,
                size: file_size_bytes,
                columns: &part.columns,
            };
            let (file, metadata) = storage.open_columns(part).await?;
            let home = BlobHome { base: *base_id, name: path.clone() };
            Ok(FileColumns { file, metadata, home })
        };
        let files = try_join_all(shape.files.iter().map(open)).await?;
        let num_places = fragment.physical_rows.unwrap_or(0) as u64;
        Ok(Self { storage: Arc::clone(storage), shape: Arc::clone(shape), num_places, files })
    }

    /// Returns whether a block has buffers of its own, none of them a part of a mapped file.
    fn owns(&self, block: &RecordBatch) -> bool {
        block.columns().iter().all(|column| {
            let data = column.to_data();
            self.files.iter().all(|columns| !columns.file.holds_some_of(&data))
        })
    }

    /// Returns the rows and the bytes of each page of the columns that are read, column by column.
    pub(crate) fn pages(&self) -> Vec<Vec<(u64, u64)>> {
        let columns = self.files.iter().flat_map(|columns| columns.metadata.infos.iter());
        columns.map(|info| info.page_infos.iter().map(rows_and_bytes).collect()).collect()
    }

    /// Returns where the pages of the columns that are read lie in files on other machines.
    pub(crate) fn far_pages(&self) -> Vec<(Arc<RemoteFile>, Vec<Range<u64>>)> {
        let far = self.files.iter().filter_map(|columns| {
            let file = columns.file.remote.as_ref()?;
            Some((Arc::clone(file), buffers_of(columns).collect()))
        });
        far.collect()
    }

    /// Returns whether the copies on a local disk seem to have all pages of the columns that are read.
    pub(crate) fn seems_copied(&self) -> bool {
        let mut far = self.far_pages().into_iter();
        far.all(|(file, buffers)| buffers.iter().all(|buffer| file.seems_copied(buffer)))
    }

    /// Returns the buffers that say where values lie in the pages of the columns that Lance decodes, in
    /// files on other machines: all of a page but the longest. Lance reads each as a whole.
    pub(crate) fn far_indexes(&self) -> Vec<(Arc<RemoteFile>, Vec<Range<u64>>)> {
        let indexes_of = |page: &PageInfo| {
            let buffers = &page.buffer_offsets_and_sizes;
            let values = (0..buffers.len()).max_by_key(|&at| buffers[at].1);
            let others = buffers.iter().enumerate().filter(move |(at, _)| Some(*at) != values);
            let ranges = others.map(|(_, &(start, bytes))| start..start.saturating_add(bytes));
            ranges.filter(|range| range.start < range.end).collect::<Vec<_>>()
        };
        let far = self.files.iter().filter_map(|columns| {
            let file = columns.file.remote.as_ref()?;
            let decoded = columns.metadata.decoded();
            let pages = decoded.flat_map(|info| info.page_infos.iter());
            Some((Arc::clone(file), pages.flat_map(indexes_of).collect()))
        });
        far.collect()
    }

    /// Returns whether reads wait, for another machine or a disk.
    pub(crate) fn is_remote(&self) -> bool {
        self.files.iter().any(|columns| columns.file.is_remote())
    }

    /// Asks for the rows at `places`, ascending and disjoint, `num_rows` in all.
    ///
    /// For remote files all requests are under way when this returns.
    /// `keeps` says whether what is fetched is added to the copies on a local disk.
    pub(crate) fn request(
        &self,
        places: &[Range<u32>],
        num_rows: usize,
        keeps: bool,
    ) -> Result<Pending<'_>> {
        let ranges = places.iter().map(|range| range.start.into()..range.end.into()).collect();
        self.request_ranges(ranges, num_rows, num_rows, keeps)
    }

    /// Asks for the same rows, to be decoded `at_once` at a time.
    pub(crate) fn request_parts(
        &self,
        places: &[Range<u32>],
        num_rows: usize,
        at_once: usize,
        keeps: bool,
    ) -> Result<Pending<'_>> {
        let ranges = places.iter().map(|range| range.start.into()..range.end.into()).collect();
        self.request_ranges(ranges, num_rows, at_once, keeps)
    }

    fn request_ranges(
        &self,
        ranges: Vec<Range<u64>>,
        num_rows: usize,
        at_once: usize,
        keeps: bool,
    ) -> Result<Pending<'_>> {
        let at_once = u32::try_from(at_once).map_err(|_| {
            Error::invalid(format!("{at_once} rows of one fragment at once"), "fewer than 2^32")
        })?;
        // Some decoders of file version 2.0 start tasks.
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let files = self.files.iter().zip(&self.shape.files);
        let wanted = Wanted { ranges: &ranges, num_rows, at_once, keeps };
        let request = |(columns, part): (&FileColumns, _)| columns.request(part, &wanted);
        let files = files.map(request).collect::<Result<Vec<_>>>()?;
        Ok(Pending { reader: self, files, ranges, num_rows, keeps })
    }

    /// Returns a block of the columns that are read, given those of each file.
    fn block(&self, read: &[RecordBatch], num_rows: usize) -> Result<RecordBatch> {
        let shape = &self.shape;
        let mut parts = Vec::with_capacity(read.len() + 1);
        for ((read, columns), part) in read.iter().zip(&self.files).zip(&shape.files) {
            if read.num_rows() != num_rows {
                return Err(Error::corrupt(
                    &columns.file.path,
                    format!("{num_rows} rows were read, and {} came out", read.num_rows()),
                ));
            }
            parts.push(load(&self.storage, &columns.home, &part.fields, read)?);
        }
        if let Some(absent) = &shape.absent {
            let nulls = absent.fields().iter().map(|f| new_null_array(f.data_type(), num_rows));
            parts.push(batch(Arc::clone(absent), nulls.collect(), num_rows)?);
        }
        let columns = (0..shape.origins.len()).map(|at| shape.column(at, &parts));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let fail = |error| Error::arrow("a data file", &error);
        let options = RecordBatchOptions::new().with_row_count(Some(num_rows));
        let whole = RecordBatch::try_new_with_options(Arc::clone(&shape.schema), columns, &options)
            .map_err(fail)?;
        if shape.has_json { convert_lance_json_to_arrow(&whole).map_err(fail) } else { Ok(whole) }
    }
}

impl Pending<'_> {
    /// Decodes the rows, in the order of their places.
    ///
    /// Columns are those of the schema the reader was opened with; their buffers may belong to a
    /// mapped file.
    fn decode(self) -> Result<RecordBatch> {
        Ok(self.into_block(ALL_COPIED)?.rows)
    }

    /// Decodes the rows as a block. Long values that have at least `least_apart` bytes on average are still to
    /// be copied, if possible.
    pub(crate) fn into_block(self, least_apart: usize) -> Result<Block> {
        let Self { reader, files, ranges, num_rows, .. } = self;
        let shape = &reader.shape;
        let least_apart = if shape.has_json { ALL_COPIED } else { least_apart };
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut read = Vec::with_capacity(files.len());
        let mut long = Vec::new();
        let parts = reader.files.iter().zip(&shape.files).enumerate();
        for (mut requested, (file, (columns, part))) in files.into_iter().zip(parts) {
            let num_places = reader.num_places;
            let (rows, apart) =
                columns.read(part, &mut requested, &ranges, num_places, least_apart)?;
            read.push(rows);
            for (place, values) in apart {
                let at = shape.origins.iter().position(|origins| origins == &[(file, place)]);
                let missing = || Error::bug("a column of long values that is no column");
                long.push((at.ok_or_else(missing)?, values));
            }
        }
        let rows = reader.block(&read, num_rows)?;
        let is_owned = reader.owns(&rows);
        Ok(Block { rows, long, is_owned })
    }

    /// Decodes the rows in parts, in the order of their places, and hands each on.
    pub(crate) fn decode_parts(
        mut self,
        each: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < self.num_rows {
            let Some(read) = self.next_part()? else {
                let ranges = after(&self.ranges, done as u64);
                let left = self.num_rows - done;
                let rest = self.reader.request_ranges(ranges, left, left, self.keeps)?;
                return each(&rest.decode()?);
            };
            let num_rows = read[0].num_rows();
            each(&self.reader.block(&read, num_rows)?)?;
            done += num_rows;
        }
        Ok(())
    }

    /// Returns the next rows of each file; `None` if these cannot be read in parts: Lance's decoder sees
    /// no value, or has cut the rows of one file elsewhere than those of another.
    fn next_part(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut read = Vec::with_capacity(self.files.len());
        let parts = self.reader.files.iter().zip(&self.reader.shape.files);
        for (requested, (columns, part)) in self.files.iter_mut().zip(parts) {
            crate::interrupt::check()?;
            match columns.next(part, requested)? {
                Some(rows) => read.push(rows),
                None => return Ok(None),
            }
        }
        let are_alike = read.windows(2).all(|pair| pair[0].num_rows() == pair[1].num_rows());
        Ok((are_alike && read.first().is_some_and(|part| part.num_rows() > 0)).then_some(read))
    }
}

/// Returns what is left of ascending ranges after the first `done` of their values.
fn after(ranges: &[Range<u64>], mut done: u64) -> Vec<Range<u64>> {
    let rest = ranges.iter().map(|range| {
        let skipped = done.min(range.end - range.start);
        done -= skipped;
        range.start + skipped..range.end
    });
    rest.filter(|range| range.start < range.end).collect()
}

/// Returns where the pages of the columns that are read lie in their file.
fn buffers_of(columns: &FileColumns) -> impl Iterator<Item = Range<u64>> {
    let pages = columns.metadata.infos.iter().flat_map(|info| info.page_infos.iter());
    let buffers = pages.flat_map(|page| page.buffer_offsets_and_sizes.iter());
    buffers.map(|&(start, bytes)| start..start.saturating_add(bytes))
}

fn rows_and_bytes(page: &PageInfo) -> (u64, u64) {
    (page.num_rows, page.buffer_offsets_and_sizes.iter().map(|(_, bytes)| bytes).sum())
}

impl Pending<'_> {
    /// Returns the ids of columns of blobs, some of which lie outside of the table.
    pub(super) fn external_blobs(self) -> Result<Vec<i32>> {
        let Self { reader, files, ranges, .. } = self;
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut found = Vec::new();
        let parts = reader.files.iter().zip(&reader.shape.files);
        for (mut requested, (columns, part)) in files.into_iter().zip(parts) {
            let (read, _) =
                columns.read(part, &mut requested, &ranges, reader.num_places, ALL_COPIED)?;
            let columns = part.fields.fields.iter().zip(read.columns());
            columns.for_each(|(field, column)| find_external(field, column, &mut found));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_ranges_is_all_after_the_first_values() {
        let ranges = [3..5, 9..9, 10..14];
        let all: Vec<u64> = ranges.iter().cloned().flatten().collect();
        for done in 0..=all.len() {
            let left: Vec<u64> = after(&ranges, done as u64).into_iter().flatten().collect();
            assert_eq!(left, all[done..]);
        }
    }
}
