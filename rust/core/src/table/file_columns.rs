//! Rows of the columns that one file of a fragment holds: those of long values are copied from the file, the
//! others go through Lance's decoder.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchReader, make_array};
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_data::ArrayData;
use arrow_schema::DataType;
use futures::future::try_join_all;
use lance_core::datatypes::{Field, Schema};
use lance_encoding::decoder::{
    DecoderConfig, DecoderPlugins, FilterExpression, RequestedRows, SchedulerDecoderConfig,
    schedule_and_decode_blocking,
};

use super::blobs::{BlobHome, has_blobs};
use super::data_file::DataFile;
use super::guard::guard;
use super::lists::{read_around, saw_no_value};
use super::long::LongRows;
use super::long::gather::{ALL_COPIED, LongValues};
use super::open_files::Metadata;
use super::shape::FileShape;
use crate::error::{Error, Result};
use crate::projection::batch;
use crate::runtime::Task;

/// A file of a fragment, and where its columns are in it.
#[derive(Debug)]
pub(super) struct FileColumns {
    pub(super) file: Arc<DataFile>,
    pub(super) metadata: Arc<Metadata>,
    pub(super) home: BlobHome,
}

type Stream = Box<dyn RecordBatchReader + Send>;

/// Which rows of a file to read.
pub(super) struct Wanted<'a> {
    pub(super) ranges: &'a [Range<u64>],
    pub(super) num_rows: usize,
    /// How many are decoded at once.
    pub(super) at_once: u32,
    /// Whether what is fetched is added to the copies on a local disk.
    pub(super) keeps: bool,
}

/// Rows of a file that were asked for.
pub(super) struct Requested {
    /// The rows of the columns that Lance decodes, if there are any.
    stream: Option<Stream>,
    /// The others.
    long: Long,
    num_rows: usize,
    at_once: usize,
    /// The number of rows returned so far.
    done: usize,
}

/// Columns of long values, by their places.
type ByPlace = Vec<(usize, LongRows)>;

/// The columns of long values of some rows.
enum Long {
    /// Those of a mapped file are found at once.
    Found(ByPlace),
    /// Those of another file are fetched; `None` once they were waited for.
    Pending(Option<Task<Result<ByPlace>>>),
}

impl Long {
    /// Returns the columns, when they are there.
    fn found(&mut self) -> Result<&mut ByPlace> {
        if let Self::Pending(task) = self
            && let Some(task) = task.take()
        {
            *self = Self::Found(task.wait()??);
        }
        match self {
            Self::Found(found) => Ok(found),
            Self::Pending(_) => Err(Error::bug("long values that could not be fetched are read")),
        }
    }
}

impl FileColumns {
    /// Asks for some rows.
    ///
    /// Lance's reader of files is not used: it looks at all columns of the file each time.
    pub(super) fn request(&self, part: &FileShape, wanted: &Wanted<'_>) -> Result<Requested> {
        self.file.check()?;
        let places = self.long_places(part);
        // Before those that Lance decodes, as it may wait for what files say of their pages.
        let long = self.ask_long(part, &places, wanted)?;
        let stream = match places.len() {
            0 => Some(self.decode(&part.stored, &part.starts, wanted)?),
            count if count == part.spans.len() => None,
            _ => {
                let others = part.without(&places);
                Some(self.decode(&others.stored, &others.starts, wanted)?)
            }
        };
        let at_once = wanted.at_once as usize;
        Ok(Requested { stream, long, num_rows: wanted.num_rows, at_once, done: 0 })
    }

    /// Returns the places of the columns of long values.
    fn long_places(&self, part: &FileShape) -> Vec<usize> {
        let fields = part.stored.fields.iter().zip(&part.spans).enumerate();
        let long = fields.filter(|(_, (field, span))| {
            may_be_long(field) && self.metadata.long(part.starts[span.start]).is_some()
        });
        long.map(|(at, _)| at).collect()
    }

    /// Finds the rows of the columns of long values; asks for them, if they are elsewhere.
    fn ask_long(&self, part: &FileShape, places: &[usize], wanted: &Wanted<'_>) -> Result<Long> {
        let start_of = |at: usize| part.starts[part.spans[at].start];
        let column = |at: usize| self.metadata.long(start_of(at));
        if let Some(file) = &self.file.mapped {
            let find =
                |&at: &usize| Some(column(at)?.find(file, wanted.ranges).map(|rows| (at, rows)));
            return places.iter().filter_map(find).collect::<Result<_>>().map(Long::Found);
        }
        if places.is_empty() {
            return Ok(Long::Found(Vec::new()));
        }
        let find = |&at: &usize| Some((at, column(at)?.find_in_copy(&self.file, wanted.ranges)?));
        if let Some(found) = places.iter().map(find).collect::<Option<ByPlace>>() {
            self.file.count_copied(found.iter().map(|(_, rows)| rows.bytes_in_file()).sum());
            return Ok(Long::Found(found));
        }
        let columns: Vec<_> = places.iter().map(|&at| (at, start_of(at))).collect();
        let file = Arc::clone(&self.file);
        let (metadata, ranges, keeps) =
            (Arc::clone(&self.metadata), wanted.ranges.to_vec(), wanted.keeps);
        let fetch = async move {
            let fetch = columns.iter().filter_map(|&(at, start)| {
                let column = metadata.long(start)?;
                let rows = column.fetch(&file, &ranges, keeps);
                Some(async move { Ok((at, rows.await?)) })
            });
            try_join_all(fetch).await
        };
        Ok(Long::Pending(Some(Task::start(fetch)?)))
    }

    /// Schedules the reads and the decoding of some rows.
    fn decode(&self, stored: &Arc<Schema>, starts: &[u32], wanted: &Wanted<'_>) -> Result<Stream> {
        let file = &self.file;
        let config = SchedulerDecoderConfig {
            decoder_plugins: Arc::<DecoderPlugins>::default(),
            batch_size: wanted.at_once,
            io: Arc::clone(file.io(wanted.keeps)),
            cache: Arc::clone(&file.pages),
            decoder_config: DecoderConfig::default(),
            batch_size_bytes: None,
        };
        guard(&file.path, || {
            schedule_and_decode_blocking(
                self.metadata.infos.clone(),
                RequestedRows::Ranges(wanted.ranges.to_vec()),
                FilterExpression::no_filter(),
                starts.to_vec(),
                Arc::clone(stored),
                config,
            )
            .map_err(|error| Error::lance(&file.path, &error))
        })
    }

    /// Returns all rows of `requested`, which are those in `ranges` of `num_places`.
    ///
    /// Columns of long values that have at least `least_apart` bytes on average are returned apart, by their
    /// places, and are empty in the rows.
    pub(super) fn read(
        &self,
        part: &FileShape,
        requested: &mut Requested,
        ranges: &[Range<u64>],
        num_places: u64,
        least_apart: usize,
    ) -> Result<(RecordBatch, Vec<(usize, LongValues)>)> {
        let read = self.read_rows(part, requested, ranges, num_places, least_apart)?;
        let found = std::mem::take(requested.long.found()?).into_iter();
        let found = found.filter(|(_, rows)| rows.mean_bytes() >= least_apart);
        let values = |rows| LongValues::new(Arc::clone(&self.file), rows);
        Ok((read, found.map(|(place, rows)| (place, values(rows))).collect()))
    }

    fn read_rows(
        &self,
        part: &FileShape,
        requested: &mut Requested,
        ranges: &[Range<u64>],
        num_places: u64,
        least_apart: usize,
    ) -> Result<RecordBatch> {
        let path = &self.file.path;
        let decoded = match requested.stream.take() {
            None => return self.with_long(part, requested, None, least_apart),
            Some(stream) => guard(path, || collect(stream, path)),
        };
        match decoded {
            Err(error) if saw_no_value(&error) => {
                // All columns are decoded.
                requested.long = Long::Found(Vec::new());
                read_around(ranges, num_places, |wider| {
                    let at_once = u32::try_from(wider.end - wider.start).unwrap_or(u32::MAX);
                    let num_rows = at_once as usize;
                    let wanted = Wanted { ranges: &[wider], num_rows, at_once, keeps: true };
                    let stream = self.decode(&part.stored, &part.starts, &wanted)?;
                    guard(path, || collect(stream, path))
                })
            }
            decoded => self.with_long(part, requested, Some(decoded?), least_apart),
        }
    }

    /// Returns the next rows; `None` if these cannot be read in parts, as Lance's decoder sees no value.
    pub(super) fn next(
        &self,
        part: &FileShape,
        requested: &mut Requested,
    ) -> Result<Option<RecordBatch>> {
        let path = &self.file.path;
        let Some(stream) = &mut requested.stream else {
            return self.with_long(part, requested, None, ALL_COPIED).map(Some);
        };
        let next = guard(path, || {
            let next = stream.next().transpose();
            next.map_err(|error| Error::arrow(path, &error))
        });
        match next {
            Ok(Some(decoded)) => {
                self.with_long(part, requested, Some(decoded), ALL_COPIED).map(Some)
            }
            Ok(None) => Ok(None),
            Err(error) if saw_no_value(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the next rows, of which the columns that Lance decodes are there.
    fn with_long(
        &self,
        part: &FileShape,
        requested: &mut Requested,
        decoded: Option<RecordBatch>,
        least_apart: usize,
    ) -> Result<RecordBatch> {
        let start = requested.done;
        let left = requested.num_rows.saturating_sub(start);
        let num_rows = match &decoded {
            Some(decoded) => decoded.num_rows(),
            None => left.min(requested.at_once),
        };
        requested.done += num_rows;
        let long = requested.long.found()?;
        if long.is_empty() {
            return decoded.ok_or_else(|| Error::bug("no column was asked for"));
        }
        if num_rows > left {
            let reason = format!("{left} rows were read, and {num_rows} came out");
            return Err(Error::corrupt(&self.file.path, reason));
        }
        let mut others = decoded.iter().flat_map(RecordBatch::columns).cloned();
        let mut long = long.iter_mut().peekable();
        let column = |at: usize| -> Result<ArrayRef> {
            match long.next_if(|(place, _)| *place == at) {
                Some((_, rows)) => {
                    let data_type = part.schema.field(at).data_type();
                    if rows.mean_bytes() >= least_apart {
                        return Ok(empty_values(data_type, num_rows));
                    }
                    rows.read(&self.file, start..start + num_rows, data_type)
                }
                None => others.next().ok_or_else(|| Error::bug("a column was not decoded")),
            }
        };
        let columns = (0..part.spans.len()).map(column).collect::<Result<Vec<_>>>()?;
        batch(Arc::clone(&part.schema), columns, num_rows)
    }
}

/// Returns a column of empty values.
fn empty_values(data_type: &DataType, num_rows: usize) -> ArrayRef {
    let offset_bytes = if matches!(data_type, DataType::Utf8 | DataType::Binary) { 4 } else { 8 };
    let offsets = Buffer::from(MutableBuffer::from_len_zeroed((num_rows + 1) * offset_bytes));
    let data = ArrayData::builder(data_type.clone()).len(num_rows).add_buffer(offsets);
    make_array(data.add_buffer(Buffer::default()).build().expect("offsets of empty values"))
}

/// Returns whether the values of a column may be long: its type, not what lies in its pages.
fn may_be_long(field: &Field) -> bool {
    use DataType::{Binary, LargeBinary, LargeUtf8, Utf8};
    let is_plain = !field.is_blob() && !has_blobs(field);
    is_plain && matches!(field.data_type(), Binary | LargeBinary | Utf8 | LargeUtf8)
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
