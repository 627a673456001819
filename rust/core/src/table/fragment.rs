//! The data files of one fragment as one reader.
//!
//! A fragment's columns may lie in several files, as adding a column writes a new one; a column that
//! is in none of them is null; the fields of one struct may be spread over files. The rules are those
//! of Lance's own `FragmentReader`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchReader, new_null_array};
use arrow_schema::{DataType, Schema as ArrowSchema, SchemaRef};
use lance_arrow::RecordBatchExt;
use lance_arrow::json::{convert_lance_json_to_arrow, has_json_fields};
use lance_core::datatypes::{Field, Schema};
use lance_encoding::decoder::{FilterExpression, PageInfo};
use lance_file::reader::ReaderProjection;
use lance_file::version::ConcreteFileVersion;
use lance_file::versions::reader_projection_from_field_ids;
use lance_io::ReadBatchParams;
use lance_table::format::Fragment;

use super::Columns;
use super::blobs::{BlobHome, load, with_binary, with_descriptors};
use super::guard::guard;
use super::storage::{DataFile, Storage};
use crate::error::{Error, Result};
use crate::projection::batch;
use crate::runtime;

/// Reads chosen columns of one fragment.
#[derive(Debug)]
pub(crate) struct FragmentReader {
    storage: Arc<Storage>,
    files: Vec<FileColumns>,
    /// Columns that lie in no file, as nullable fields.
    absent: Option<SchemaRef>,
    /// Of the columns as they are stored.
    schema: SchemaRef,
    has_json: bool,
}

/// The columns to read from one file.
#[derive(Debug)]
struct FileColumns {
    file: Arc<DataFile>,
    projection: ReaderProjection,
    /// The columns as the table knows them.
    fields: Schema,
    home: BlobHome,
}

/// Rows of one fragment on their way from its files: requested, but not decoded yet.
pub(crate) struct Pending<'a> {
    reader: &'a FragmentReader,
    streams: Vec<Box<dyn RecordBatchReader + Send>>,
    num_rows: usize,
}

impl FragmentReader {
    /// A reader for `columns` of a table with this schema.
    ///
    /// Opens the files that hold some of them; their footers are read on first use.
    pub(super) fn open(
        storage: &Arc<Storage>,
        fragment: &Fragment,
        table: &Schema,
        columns: &Columns,
    ) -> Result<Self> {
        let schema = &columns.fields;
        let wanted = wanted_ids(table, schema);
        let mut files = Vec::new();
        let mut found = HashSet::new();
        for data_file in &fragment.files {
            if !data_file.fields.iter().any(|id| wanted.contains(id)) {
                continue;
            }
            let lance = |error: &lance_core::Error| Error::lance(&data_file.path, error);
            let in_file =
                columns_in_file(schema, &data_file.schema(table)).map_err(|e| lance(&e))?;
            if in_file.fields.is_empty() {
                continue;
            }
            found.extend(in_file.field_ids());
            let column_of: BTreeMap<u32, u32> = data_file
                .fields
                .iter()
                .zip(data_file.column_indices.iter())
                .filter_map(|(&id, &column)| {
                    Some((u32::try_from(id).ok()?, u32::try_from(column).ok()?))
                })
                .collect();
            let version = data_file.file_version().map_err(|e| lance(&e))?;
            let is_old = matches!(version, ConcreteFileVersion::V2_0 | ConcreteFileVersion::V2_1);
            if is_old && in_file.fields.iter().any(Field::is_blob_v2) {
                return Err(Error::Unsupported(format!(
                    "{}: blobs of version 2 in a file of version {version}",
                    data_file.path
                )));
            }
            let stored = with_descriptors(&in_file);
            let projection = reader_projection_from_field_ids(version, &stored, &column_of)
                .map_err(|e| lance(&e))?;
            let file =
                storage.file(data_file.base_id, &data_file.path, &data_file.file_size_bytes)?;
            let home = BlobHome { base: data_file.base_id, name: data_file.path.clone() };
            files.push(FileColumns { file, projection, fields: in_file, home });
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
        Ok(Self { storage: Arc::clone(storage), files, absent, schema, has_json })
    }

    /// Whether a block has buffers of its own, none of them a part of a mapped file.
    pub(crate) fn owns(&self, block: &RecordBatch) -> bool {
        block.columns().iter().all(|column| {
            let data = column.to_data();
            self.files.iter().all(|columns| !columns.file.holds_some_of(&data))
        })
    }

    /// Gives the memory back that mapped files take in this process.
    pub(crate) fn forget(&self) {
        self.files.iter().for_each(|columns| columns.file.forget());
    }

    /// The rows and the bytes of each page of the columns that are read, column by column.
    pub(crate) fn pages(&self) -> Vec<Vec<(u64, u64)>> {
        let of_file = |columns: &FileColumns| -> Vec<Vec<(u64, u64)>> {
            let infos = &columns.file.reader.metadata().column_infos;
            let known = columns.projection.column_indices.iter();
            let known = known.filter_map(|&column| infos.get(column as usize));
            known.map(|info| info.page_infos.iter().map(rows_and_bytes).collect()).collect()
        };
        self.files.iter().flat_map(of_file).collect()
    }

    /// Whether reads wait for another machine.
    pub(crate) fn is_remote(&self) -> bool {
        self.files.iter().any(|columns| columns.file.is_remote())
    }

    /// Asks for the rows at `places`, ascending and disjoint, `num_rows` in all.
    ///
    /// For remote files all requests are under way when this returns.
    pub(crate) fn request(&self, places: &[Range<u32>], num_rows: usize) -> Result<Pending<'_>> {
        let ranges: Arc<[Range<u64>]> =
            places.iter().map(|range| range.start.into()..range.end.into()).collect();
        let batch_size = u32::try_from(num_rows).map_err(|_| {
            Error::invalid(format!("{num_rows} rows of one fragment at once"), "fewer than 2^32")
        })?;
        // Some decoders of file version 2.0 start tasks.
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let open = |columns: &FileColumns| {
            columns.file.check()?;
            let params = ReadBatchParams::Ranges(Arc::clone(&ranges));
            let projection = Some(columns.projection.clone());
            let filter = FilterExpression::no_filter();
            let reader = &columns.file.reader;
            guard(&columns.file.path, || {
                reader
                    .read_stream_projected_blocking(params, batch_size, projection, filter)
                    .map_err(|error| Error::lance(&columns.file.path, &error))
            })
        };
        let streams = self.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Pending { reader: self, streams, num_rows })
    }
}

impl Pending<'_> {
    /// Decodes the rows, in the order of their places.
    ///
    /// Columns are those of the schema the reader was opened with; their buffers may belong to a
    /// mapped file.
    pub(crate) fn decode(self) -> Result<RecordBatch> {
        let Self { reader, streams, num_rows } = self;
        let runtime = runtime::runtime()?;
        let _entered = runtime.enter();
        let mut merged: Option<RecordBatch> = None;
        let mut merge = |part: RecordBatch| -> Result<()> {
            merged = Some(match merged.take() {
                None => part,
                Some(whole) => whole.merge(&part).map_err(|e| Error::arrow("a data file", &e))?,
            });
            Ok(())
        };
        for (stream, columns) in streams.into_iter().zip(&reader.files) {
            let path = &columns.file.path;
            let part = guard(path, || collect(stream, path))?;
            if part.num_rows() != num_rows {
                return Err(Error::Corrupt {
                    path: path.clone(),
                    reason: format!("it gave {} rows of {num_rows}", part.num_rows()),
                });
            }
            merge(load(&reader.storage, &columns.home, &columns.fields, &part)?)?;
        }
        if let Some(absent) = &reader.absent {
            let nulls = absent.fields().iter().map(|f| new_null_array(f.data_type(), num_rows));
            merge(batch(Arc::clone(absent), nulls.collect(), num_rows)?)?;
        }
        match merged {
            None => batch(Arc::clone(&reader.schema), Vec::new(), num_rows),
            Some(merged) => {
                let fail = |error| Error::arrow("a data file", &error);
                let merged = merged.project_by_schema(&reader.schema).map_err(fail)?;
                if reader.has_json {
                    convert_lance_json_to_arrow(&merged).map_err(fail)
                } else {
                    Ok(merged)
                }
            }
        }
    }
}

fn rows_and_bytes(page: &PageInfo) -> (u64, u64) {
    (page.num_rows, page.buffer_offsets_and_sizes.iter().map(|(_, bytes)| bytes).sum())
}

/// Mostly one batch; Lance splits what would overflow 32-bit offsets.
fn collect(stream: Box<dyn RecordBatchReader + Send>, path: &str) -> Result<RecordBatch> {
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
    for parent in schema.fields_pre_order().filter(|field| !field.children.is_empty()) {
        if let Some(whole) = table.field_by_id(parent.id) {
            collect(whole, &mut ids);
        }
    }
    ids
}

/// The part of `schema` that a file with `file_schema` can give.
///
/// Where the file has a parent but none of its projected children, one of the children it does have
/// is kept, for the parent's validity.
fn columns_in_file(schema: &Schema, file_schema: &Schema) -> lance_core::Result<Schema> {
    let mut found = schema.intersection_ignore_types(file_schema)?;
    for field in &mut found.fields {
        keep_a_leaf(field, file_schema)?;
    }
    Ok(found)
}

fn keep_a_leaf(field: &mut Field, file_schema: &Schema) -> lance_core::Result<()> {
    if field.is_blob() || field.is_packed_struct() {
        return Ok(());
    }
    if !field.children.is_empty() {
        return field.children.iter_mut().try_for_each(|child| keep_a_leaf(child, file_schema));
    }
    let Some(in_file) = file_schema.field_by_id(field.id) else {
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
