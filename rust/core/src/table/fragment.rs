//! The data files of one fragment as one reader.
//!
//! A fragment's columns may lie in several files, as adding a column writes a new one; a column that
//! is in none of them is null; the fields of one struct may be spread over files. The rules are those
//! of Lance's own `FragmentReader`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, RecordBatchReader, new_null_array,
};
use arrow_schema::{DataType, Schema as ArrowSchema, SchemaRef};
use lance_arrow::RecordBatchExt;
use lance_arrow::json::{convert_lance_json_to_arrow, has_json_fields};
use lance_core::datatypes::{Field, Schema};
use lance_encoding::decoder::{
    DecoderConfig, DecoderPlugins, FilterExpression, PageInfo, RequestedRows,
    SchedulerDecoderConfig, schedule_and_decode_blocking,
};
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::reader_projection_from_field_ids;
use lance_table::format::{DataFile as DataFileOf, Fragment};

use super::blobs::{BlobHome, find_external, has_blobs, load, with_binary, with_descriptors};
use super::footer::Run;
use super::guard::guard;
use super::held::Metadata;
use super::lists::{decoded_together, is_list_of_structs, read_around, saw_no_value};
use super::storage::{DataFile, Storage};
use crate::error::{Error, Result};
use crate::projection::{batch, num_bytes};
use crate::runtime;

/// A row that is longer may be a page of its own.
const LONG_ROW_BYTES: usize = 256 << 10;

/// How columns lie in the files of each fragment. Most fragments of a table are alike.
#[derive(Debug)]
pub(super) struct Shapes {
    all: Vec<Arc<Shape>>,
    /// Which of them each fragment has.
    of: Vec<usize>,
}

/// How columns lie in the files of a fragment.
#[derive(Debug)]
pub(super) struct Shape {
    files: Vec<FileShape>,
    /// Columns that lie in no file, as nullable fields.
    absent: Option<SchemaRef>,
    /// Of the columns as they are stored.
    schema: SchemaRef,
    /// Where each column comes from: the file, or one more for absent columns, and the column there.
    /// A struct may come from several.
    origins: Vec<Vec<(usize, usize)>>,
    has_json: bool,
}

/// The columns to read from one file.
#[derive(Debug)]
struct FileShape {
    /// The index of the file in the fragment.
    index: usize,
    /// The columns as the table knows them.
    fields: Schema,
    /// The same as they are decoded.
    stored: Arc<Schema>,
    /// The columns of the file whose metadata is needed.
    columns: Arc<[Run]>,
    /// Where among these each column of `stored` begins.
    starts: Vec<u32>,
}

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

impl Shapes {
    /// The shapes of `fragments` for the columns of `schema`, of a table with this schema.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if a column is stored in a way this reader does not read.
    pub(super) fn new(fragments: &[Fragment], table: &Schema, schema: &Schema) -> Result<Self> {
        let key = |fragment: &Fragment| -> Vec<_> {
            let files = fragment.files.iter();
            files
                .map(|file| {
                    let version = (file.file_major_version, file.file_minor_version);
                    (Arc::clone(&file.fields), Arc::clone(&file.column_indices), version)
                })
                .collect()
        };
        let (mut all, mut of) = (Vec::new(), Vec::with_capacity(fragments.len()));
        let mut known = HashMap::new();
        let mut last: Option<(_, usize)> = None;
        for fragment in fragments {
            let key = key(fragment);
            // Arrays that are the same one are equal at once, and need no hash.
            if let Some((_, at)) = last.as_ref().filter(|(last, _)| *last == key) {
                of.push(*at);
                continue;
            }
            let at = *known.entry(key.clone()).or_insert(all.len());
            if at == all.len() {
                all.push(Arc::new(Shape::new(fragment, table, schema)?));
            }
            of.push(at);
            last = Some((key, at));
        }
        Ok(Self { all, of })
    }

    /// The shape of the fragment with this index.
    pub(super) fn of(&self, fragment: usize) -> &Arc<Shape> {
        &self.all[self.of[fragment]]
    }
}

impl Shape {
    fn new(fragment: &Fragment, table: &Schema, schema: &Schema) -> Result<Self> {
        let wanted = wanted_ids(table, schema);
        // The other columns need not be looked at.
        let top: HashSet<i32> = schema.fields.iter().map(|field| field.id).collect();
        let table = Schema {
            fields: table.fields.iter().filter(|field| top.contains(&field.id)).cloned().collect(),
            metadata: HashMap::new(),
        };
        let mut files = Vec::new();
        let mut found = HashSet::new();
        for (index, data_file) in fragment.files.iter().enumerate() {
            if !data_file.fields.iter().any(|id| wanted.contains(id)) {
                continue;
            }
            let lance = |error: &lance_core::Error| Error::lance(&data_file.path, error);
            let version = data_file.file_version().map_err(|e| lance(&e))?;
            if version == ConcreteFileVersion::V2_0
                && schema.fields_pre_order().any(is_list_of_structs)
            {
                return Err(Error::Unsupported(format!(
                    "{}: lists of a fixed size whose values are structs in a file of version 2.0",
                    data_file.path
                )));
            }
            let in_file =
                columns_in_file(schema, &data_file.schema(&table)).map_err(|e| lance(&e))?;
            if in_file.fields.is_empty() {
                continue;
            }
            found.extend(in_file.field_ids());
            let column_of: BTreeMap<u32, u32> = data_file
                .fields
                .iter()
                .zip(data_file.column_indices.iter())
                .filter(|(id, _)| wanted.contains(id))
                .filter_map(|(&id, &column)| {
                    Some((u32::try_from(id).ok()?, u32::try_from(column).ok()?))
                })
                .collect();
            let is_old = matches!(version, ConcreteFileVersion::V2_0 | ConcreteFileVersion::V2_1);
            if is_old && in_file.fields.iter().any(has_blobs) {
                return Err(Error::Unsupported(format!(
                    "{}: blobs of version 2 in a file of version {version}",
                    data_file.path
                )));
            }
            for fields in decoded_together(in_file) {
                let stored = with_descriptors(&fields);
                let projection = reader_projection_from_field_ids(version, &stored, &column_of)
                    .map_err(|e| lance(&e))?;
                let (columns, starts) = runs(&projection.column_indices, data_file)?;
                let stored = projection.schema;
                files.push(FileShape { index, fields, stored, columns: columns.into(), starts });
            }
        }
        let missing: Vec<i32> =
            schema.field_ids().into_iter().filter(|id| !found.contains(id)).collect();
        let absent = (!missing.is_empty()).then(|| {
            let fields = with_binary(&schema.project_by_ids(&missing, true));
            let nullable = fields.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
            Arc::new(ArrowSchema::new(nullable.collect::<Vec<_>>()))
        });
        let schema = Arc::new(with_binary(schema));
        let has_json = schema.fields().iter().any(|field| has_json_fields(field));
        let origins = origins(&schema, &files, absent.as_ref());
        Ok(Self { files, absent, schema, origins, has_json })
    }
}

impl FragmentReader {
    /// A reader for the fragment with this index.
    ///
    /// Opens the files that hold some of the columns of `shape`, and reads where these are in them.
    pub(super) fn open(
        storage: &Arc<Storage>,
        index: usize,
        fragment: &Fragment,
        shape: &Arc<Shape>,
    ) -> Result<Self> {
        let open = |part: &FileShape| {
            let DataFileOf { path, base_id, file_size_bytes, .. } = &fragment.files[part.index];
            let key = storage.key(index, part.index);
            let file = storage.file(&key, *base_id, path, file_size_bytes)?;
            let metadata = storage.metadata(&key, &file, &part.columns)?;
            let home = BlobHome { base: *base_id, name: path.clone() };
            Ok(FileColumns { file, metadata, home })
        };
        let files = shape.files.iter().map(open).collect::<Result<_>>()?;
        let num_places = fragment.physical_rows.unwrap_or(0) as u64;
        Ok(Self { storage: Arc::clone(storage), shape: Arc::clone(shape), num_places, files })
    }

    /// Whether a block has buffers of its own, none of them a part of a mapped file.
    pub(crate) fn owns(&self, block: &RecordBatch) -> bool {
        block.columns().iter().all(|column| {
            let data = column.to_data();
            self.files.iter().all(|columns| !columns.file.holds_some_of(&data))
        })
    }

    /// The rows and the bytes of each page of the columns that are read, column by column.
    pub(crate) fn pages(&self) -> Vec<Vec<(u64, u64)>> {
        let columns = self.files.iter().flat_map(|columns| columns.metadata.iter());
        columns.map(|info| info.page_infos.iter().map(rows_and_bytes).collect()).collect()
    }

    /// Whether reads wait, for another machine or a disk.
    pub(crate) fn is_remote(&self) -> bool {
        self.files.iter().any(|columns| columns.file.is_remote())
    }

    /// Asks for the rows at `places`, ascending and disjoint, `num_rows` in all.
    ///
    /// For remote files all requests are under way when this returns.
    pub(crate) fn request(&self, places: &[Range<u32>], num_rows: usize) -> Result<Pending<'_>> {
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
            |(columns, part): (&FileColumns, _)| columns.request(part, &ranges, batch_size);
        let streams = files.map(request).collect::<Result<Vec<_>>>()?;
        Ok(Pending { reader: self, streams, ranges, num_rows })
    }
}

impl FileColumns {
    /// Not by Lance's reader of files, which looks at all columns of the file each time.
    fn request(&self, part: &FileShape, ranges: &[Range<u64>], batch_size: u32) -> Result<Stream> {
        let file = &self.file;
        file.check()?;
        let config = SchedulerDecoderConfig {
            decoder_plugins: Arc::<DecoderPlugins>::default(),
            batch_size,
            io: Arc::clone(&file.io),
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

    /// The rows of `stream`, which are those in `ranges` of `num_places`.
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
                let stream = self.request(part, &[wider], batch_size)?;
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
        let (reader, num_rows) = (self.reader, self.num_rows);
        let block = self.decode_all()?;
        if num_bytes(&block) / num_rows.max(1) > LONG_ROW_BYTES {
            reader.storage.trim()?;
        }
        Ok(block)
    }

    fn decode_all(self) -> Result<RecordBatch> {
        let Self { reader, streams, ranges, num_rows } = self;
        let shape = &reader.shape;
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut parts = Vec::with_capacity(streams.len() + 1);
        for ((stream, columns), part) in streams.into_iter().zip(&reader.files).zip(&shape.files) {
            let read = columns.read(part, stream, &ranges, reader.num_places)?;
            if read.num_rows() != num_rows {
                return Err(Error::Corrupt {
                    path: columns.file.path.clone(),
                    reason: format!("it gave {} rows of {num_rows}", read.num_rows()),
                });
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

impl Shape {
    /// One column, from what was read of each file.
    fn column(&self, at: usize, parts: &[RecordBatch]) -> Result<ArrayRef> {
        let origins = &self.origins[at];
        if let &[(part, column)] = origins.as_slice()
            && parts[part].column(column).data_type() == self.schema.field(at).data_type()
        {
            return Ok(Arc::clone(parts[part].column(column)));
        }
        let fail = |error| Error::arrow("a data file", &error);
        let mut merged: Option<RecordBatch> = None;
        for &(part, column) in origins {
            let one = parts[part].project(&[column]).map_err(fail)?;
            merged = Some(match merged {
                None => one,
                Some(whole) => whole.merge(&one).map_err(fail)?,
            });
        }
        let wanted = self.schema.project(&[at]).map_err(fail)?;
        let name = wanted.field(0).name();
        let merged = merged.ok_or_else(|| Error::Bug(format!("column `{name}` was not read")))?;
        Ok(Arc::clone(merged.project_by_schema(&wanted).map_err(fail)?.column(0)))
    }
}

/// Where each column of `schema` comes from.
fn origins(
    schema: &ArrowSchema,
    files: &[FileShape],
    absent: Option<&SchemaRef>,
) -> Vec<Vec<(usize, usize)>> {
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let position: HashMap<&str, usize> = names.zip(0..).collect();
    let mut origins = vec![Vec::new(); schema.fields().len()];
    let mut add = |part: usize, column: usize, name: &str| {
        if let Some(&at) = position.get(name) {
            origins[at].push((part, column));
        }
    };
    for (part, file) in files.iter().enumerate() {
        for (column, field) in file.fields.fields.iter().enumerate() {
            add(part, column, &field.name);
        }
    }
    for (column, field) in absent.iter().flat_map(|absent| absent.fields().iter()).enumerate() {
        add(files.len(), column, field.name());
    }
    origins
}

/// The columns of a file whose metadata is needed, and where among them each of `columns` begins.
///
/// In file version 2.0 a column may go on in the columns after it, which no field names.
fn runs(columns: &[u32], file: &DataFileOf) -> Result<(Vec<Run>, Vec<u32>)> {
    let known = file.column_indices.iter().filter_map(|&column| u32::try_from(column).ok());
    let mut known: Vec<u32> = known.collect();
    known.sort_unstable();
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_unstable_by_key(|&at| columns[at]);
    let (mut runs, mut starts): (Vec<Run>, _) = (Vec::new(), vec![0; columns.len()]);
    let mut start = 0_u32;
    for at in order {
        let first = columns[at];
        let next = known.partition_point(|&column| column <= first);
        // The last one may go on to the end of the file.
        let end = known.get(next).copied().unwrap_or(u32::MAX);
        if runs.last().is_some_and(|run| run.0 == first) {
            return Err(Error::Corrupt {
                path: file.path.clone(),
                reason: format!("two fields have its column {first}"),
            });
        }
        runs.push((first, end));
        starts[at] = start;
        start = start.saturating_add(end - first);
    }
    Ok((runs, starts))
}

fn rows_and_bytes(page: &PageInfo) -> (u64, u64) {
    (page.num_rows, page.buffer_offsets_and_sizes.iter().map(|(_, bytes)| bytes).sum())
}

impl Pending<'_> {
    /// The ids of columns of blobs, some of which lie outside of the table.
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

/// Mostly one batch; Lance splits what would overflow 32-bit offsets.
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
            Error::invalid(format!("this many rows at once ({error})"), "fewer rows per batch")
        }),
    }
}

/// The ids of a file's columns that matter to `schema`.
///
/// A struct or list takes its validity from whichever of its leaves a file holds, so every leaf
/// under a projected parent counts, even one that is not projected itself.
fn wanted_ids(table: &Schema, schema: &Schema) -> HashSet<i32> {
    fn collect(field: &Field, ids: &mut HashSet<i32>) {
        ids.insert(field.id);
        field.children.iter().for_each(|child| collect(child, ids));
    }
    let mut ids: HashSet<i32> = schema.field_ids().into_iter().collect();
    let parents: HashSet<i32> = schema
        .fields_pre_order()
        .filter(|field| !field.children.is_empty())
        .map(|field| field.id)
        .collect();
    for whole in table.fields_pre_order().filter(|field| parents.contains(&field.id)) {
        collect(whole, &mut ids);
    }
    ids
}

/// The part of `schema` that a file with `file_schema` can give.
///
/// Where the file has a parent but none of its projected children, one of the children it does have
/// is kept, for the parent's validity.
fn columns_in_file(schema: &Schema, file_schema: &Schema) -> lance_core::Result<Schema> {
    let in_file: HashMap<i32, &Field> =
        file_schema.fields.iter().map(|field| (field.id, field)).collect();
    let mut found = Schema { fields: Vec::new(), metadata: schema.metadata.clone() };
    for field in &schema.fields {
        if let Some(in_file) = in_file.get(&field.id) {
            let mut common = field.intersection_ignore_types(in_file)?;
            keep_a_leaf(&mut common, in_file)?;
            found.fields.push(common);
        }
    }
    Ok(found)
}

/// `top` is the column of the file that `field` is, or is a part of.
fn keep_a_leaf(field: &mut Field, top: &Field) -> lance_core::Result<()> {
    if field.is_blob() || field.is_packed_struct() {
        return Ok(());
    }
    if !field.children.is_empty() {
        return field.children.iter_mut().try_for_each(|child| keep_a_leaf(child, top));
    }
    let Some(in_file) = field_by_id(top, field.id) else {
        return Ok(());
    };
    if in_file.children.is_empty() {
        return Ok(());
    }
    let mut path = Vec::new();
    let mut node = in_file;
    while !(node.is_packed_struct() || matches!(node.data_type(), DataType::Map(..)))
        && let Some(child) = node.children.first()
    {
        path.push(child.name.as_str());
        node = child;
    }
    *field = in_file.project(&path)?;
    Ok(())
}

fn field_by_id(field: &Field, id: i32) -> Option<&Field> {
    if field.id == id {
        return Some(field);
    }
    field.children.iter().find_map(|child| field_by_id(child, id))
}
