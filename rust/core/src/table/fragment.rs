//! Reading chosen columns of one fragment.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch, RecordBatchOptions, RecordBatchReader, new_null_array};
use futures::future::try_join_all;
use lance_arrow::json::convert_lance_json_to_arrow;
use lance_encoding::decoder::{
    DecoderConfig, DecoderPlugins, FilterExpression, PageInfo, RequestedRows,
    SchedulerDecoderConfig, schedule_and_decode_blocking,
};
use lance_table::format::{DataFile as DataFileOf, Fragment};

use super::blobs::{BlobHome, find_external, load};
use super::data_file::DataFile;
use super::guard::guard;
use super::lists::{read_around, saw_no_value};
use super::open_files::Metadata;
use super::shape::{FileShape, Shape};
use super::storage::{Part, Storage};
use crate::error::{Error, Result};
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

/// A file of a fragment, and where its columns are in it.
#[derive(Debug)]
struct FileColumns {
    file: Arc<DataFile>,
    metadata: Metadata,
    home: BlobHome,
}

type Stream = Box<dyn RecordBatchReader + Send>;

/// Rows of one fragment on their way from its files: requested, but not decoded yet.
pub(crate) struct Pending<'a> {
    reader: &'a FragmentReader,
    streams: Vec<Stream>,
    ranges: Vec<Range<u64>>,
    num_rows: usize,
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
    pub(crate) fn owns(&self, block: &RecordBatch) -> bool {
        block.columns().iter().all(|column| {
            let data = column.to_data();
            self.files.iter().all(|columns| !columns.file.holds_some_of(&data))
        })
    }

    /// Returns the rows and the bytes of each page of the columns that are read, column by column.
    pub(crate) fn pages(&self) -> Vec<Vec<(u64, u64)>> {
        let columns = self.files.iter().flat_map(|columns| columns.metadata.iter());
        columns.map(|info| info.page_infos.iter().map(rows_and_bytes).collect()).collect()
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
        let ranges: Vec<Range<u64>> =
            places.iter().map(|range| range.start.into()..range.end.into()).collect();
        let batch_size = u32::try_from(num_rows).map_err(|_| {
            Error::invalid(format!("{num_rows} rows of one fragment at once"), "fewer than 2^32")
        })?;
        // Some decoders of file version 2.0 start tasks.
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let files = self.files.iter().zip(&self.shape.files);
        let request =
            |(columns, part): (&FileColumns, _)| columns.request(part, &ranges, batch_size, keeps);
        let streams = files.map(request).collect::<Result<Vec<_>>>()?;
        Ok(Pending { reader: self, streams, ranges, num_rows })
    }
}

impl FileColumns {
    /// Schedules the reads and the decoding of some rows.
    ///
    /// Lance's reader of files is not used: it looks at all columns of the file each time.
    fn request(
        &self,
        part: &FileShape,
        ranges: &[Range<u64>],
        batch_size: u32,
        keeps: bool,
    ) -> Result<Stream> {
        let file = &self.file;
        file.check()?;
        let config = SchedulerDecoderConfig {
            decoder_plugins: Arc::<DecoderPlugins>::default(),
            batch_size,
            io: Arc::clone(if keeps { &file.io } else { &file.passing_io }),
            cache: Arc::clone(&file.pages),
            decoder_config: DecoderConfig::default(),
            batch_size_bytes: None,
        };
        guard(&file.path, || {
            schedule_and_decode_blocking(
                self.metadata.to_vec(),
                RequestedRows::Ranges(ranges.to_vec()),
                FilterExpression::no_filter(),
                part.starts.clone(),
                Arc::clone(&part.stored),
                config,
            )
            .map_err(|error| Error::lance(&file.path, &error))
        })
    }

    /// Returns the rows of `stream`, which are those in `ranges` of `num_places`.
    fn read(
        &self,
        part: &FileShape,
        stream: Stream,
        ranges: &[Range<u64>],
        num_places: u64,
    ) -> Result<RecordBatch> {
        let path = &self.file.path;
        match guard(path, || collect(stream, path)) {
            Err(error) if saw_no_value(&error) => read_around(ranges, num_places, |wider| {
                let batch_size = u32::try_from(wider.end - wider.start).unwrap_or(u32::MAX);
                let stream = self.request(part, &[wider], batch_size, true)?;
                guard(path, || collect(stream, path))
            }),
            read => read,
        }
    }
}

impl Pending<'_> {
    /// Decodes the rows, in the order of their places.
    ///
    /// Columns are those of the schema the reader was opened with; their buffers may belong to a
    /// mapped file.
    pub(crate) fn decode(self) -> Result<RecordBatch> {
        let Self { reader, streams, ranges, num_rows } = self;
        let shape = &reader.shape;
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut parts = Vec::with_capacity(streams.len() + 1);
        for ((stream, columns), part) in streams.into_iter().zip(&reader.files).zip(&shape.files) {
            let read = columns.read(part, stream, &ranges, reader.num_places)?;
            if read.num_rows() != num_rows {
                return Err(Error::corrupt(
                    &columns.file.path,
                    format!("{num_rows} rows were read, and {} came out", read.num_rows()),
                ));
            }
            parts.push(load(&reader.storage, &columns.home, &part.fields, &read)?);
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

fn rows_and_bytes(page: &PageInfo) -> (u64, u64) {
    (page.num_rows, page.buffer_offsets_and_sizes.iter().map(|(_, bytes)| bytes).sum())
}

impl Pending<'_> {
    /// Returns the ids of columns of blobs, some of which lie outside of the table.
    pub(super) fn external_blobs(self) -> Result<Vec<i32>> {
        let Self { reader, streams, ranges, .. } = self;
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut found = Vec::new();
        let parts = reader.files.iter().zip(&reader.shape.files);
        for (stream, (columns, part)) in streams.into_iter().zip(parts) {
            let read = columns.read(part, stream, &ranges, reader.num_places)?;
            let columns = part.fields.fields.iter().zip(read.columns());
            columns.for_each(|(field, column)| find_external(field, column, &mut found));
        }
        Ok(found)
    }
}

/// Concatenates the batches of a stream. There is mostly one: Lance only splits what would overflow
/// 32-bit offsets.
fn collect(stream: Stream, path: &str) -> Result<RecordBatch> {
    let schema = stream.schema();
    let mut batches = Vec::with_capacity(1);
    for part in stream {
        crate::interrupt::check()?;
        batches.push(part.map_err(|error| Error::arrow(path, &error))?);
    }
    match batches.len() {
        1 => Ok(batches.remove(0)),
        _ => arrow_select::concat::concat_batches(&schema, &batches).map_err(|error| {
            Error::invalid(format!("the rows of {path} in one batch"), "fewer rows per batch")
                .caused_by(&error)
        }),
    }
}
