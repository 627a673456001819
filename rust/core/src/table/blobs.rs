//! Blobs of version 2: values stored outside of the rows, which hold descriptors of where they are.
//!
//! A blob is *inline*, in a buffer of the data file; *packed*, with others in a file beside it; or
//! *dedicated*, alone in such a file. They come out as plain binary. Blobs that Lance did not write
//! itself (*external*) or that lie in shared storage (*managed*) are left to the table's own library.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, LargeBinaryArray, LargeListArray, ListArray, RecordBatch, StructArray,
};
use arrow_buffer::{BooleanBuffer, MutableBuffer, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, FieldRef, Schema as ArrowSchema};
use bytes::Bytes;
use lance_core::datatypes::{BlobKind, Field, Schema};
use lance_core::utils::blob::blob_path;

use super::storage::Storage;
use crate::error::{Error, Result};

/// The data file that blobs belong to.
#[derive(Debug, Clone)]
pub(super) struct BlobHome {
    /// The base of the file, if it is not in the table's own folder.
    pub(super) base: Option<u32>,
    /// The file's name in that folder.
    pub(super) name: String,
}

/// One blob: a file and the bytes in it.
struct Blob {
    /// `None` for the data file itself.
    file_id: Option<u32>,
    range: Range<u64>,
}

/// Returns whether a column is or holds blobs of version 2.
pub(super) fn has_blobs(field: &Field) -> bool {
    field.is_blob_v2() || field.children.iter().any(has_blobs)
}

/// Returns the ids of the blobs of version 2 that a column is or holds.
pub(super) fn blob_ids(field: &Field) -> Vec<i32> {
    if field.is_blob_v2() {
        return vec![field.id];
    }
    field.children.iter().flat_map(blob_ids).collect()
}

/// Returns the schema to read from a file: descriptors in the place of blobs of version 2.
pub(super) fn with_descriptors(schema: &Schema) -> Schema {
    let mut schema = schema.clone();
    schema.fields.iter_mut().for_each(Field::unload_blobs_recursive);
    schema
}

/// Returns the Arrow schema of what comes out: binary in the place of blobs of version 2.
pub(super) fn with_binary(schema: &Schema) -> ArrowSchema {
    let arrow = ArrowSchema::from(schema);
    let fields = schema.fields.iter().zip(arrow.fields());
    let fields: Vec<_> = fields.map(|(field, plain)| binary(field, plain)).collect();
    ArrowSchema::new_with_metadata(fields, arrow.metadata)
}

fn binary(field: &Field, plain: &FieldRef) -> FieldRef {
    if !has_blobs(field) {
        return Arc::clone(plain);
    }
    let metadata = || {
        let mut metadata = plain.metadata().clone();
        metadata.retain(|key, _| !key.starts_with("ARROW:extension:"));
        metadata
    };
    let inner = |at: usize, plain: &FieldRef| binary(&field.children[at], plain);
    let plain = plain.as_ref().clone();
    Arc::new(match plain.data_type() {
        _ if field.is_blob_v2() => {
            let metadata = metadata();
            plain.with_data_type(DataType::LargeBinary).with_metadata(metadata)
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().enumerate().map(|(at, field)| inner(at, field)).collect();
            plain.with_data_type(DataType::Struct(fields))
        }
        DataType::List(item) => {
            let item = inner(0, item);
            plain.with_data_type(DataType::List(item))
        }
        DataType::LargeList(item) => {
            let item = inner(0, item);
            plain.with_data_type(DataType::LargeList(item))
        }
        // Refused when the column is read.
        _ => plain,
    })
}

/// Replaces the descriptors in `batch`, read from the file of `home`, by the blobs.
///
/// `fields` are the columns of `batch`, in its order.
pub(super) fn load(
    storage: &Storage,
    home: &BlobHome,
    fields: &Schema,
    batch: &RecordBatch,
) -> Result<RecordBatch> {
    if !fields.fields.iter().any(has_blobs) {
        return Ok(batch.clone());
    }
    let schema = Arc::new(with_binary(fields));
    let columns = fields.fields.iter().zip(schema.fields()).zip(batch.columns());
    let columns =
        columns.map(|((field, wanted), column)| loaded(storage, home, field, wanted, column));
    let columns = columns.collect::<Result<_>>()?;
    crate::projection::batch(schema, columns, batch.num_rows())
}

/// Returns a column as `wanted`, with the blobs in the place of their descriptors, however deep
/// these lie.
fn loaded(
    storage: &Storage,
    home: &BlobHome,
    field: &Field,
    wanted: &FieldRef,
    column: &ArrayRef,
) -> Result<ArrayRef> {
    if field.is_blob_v2() {
        return read(storage, home, column.as_struct()).map(|blobs| Arc::new(blobs) as ArrayRef);
    }
    if !has_blobs(field) {
        return Ok(Arc::clone(column));
    }
    let inner = |at: usize, wanted, part| loaded(storage, home, &field.children[at], wanted, part);
    let fail = |error| Error::arrow(&home.name, &error);
    let nulls = column.nulls().cloned();
    match wanted.data_type() {
        DataType::Struct(fields) => {
            let parts = fields.iter().zip(column.as_struct().columns()).enumerate();
            let parts = parts.map(|(at, (wanted, part))| inner(at, wanted, part));
            let parts = parts.collect::<Result<_>>()?;
            let len = column.len();
            let array = StructArray::try_new_with_length(fields.clone(), parts, nulls, len);
            Ok(Arc::new(array.map_err(fail)?))
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let (values, offsets) = (inner(0, item, list.values())?, list.offsets().clone());
            let array = ListArray::try_new(Arc::clone(item), offsets, values, nulls);
            Ok(Arc::new(array.map_err(fail)?))
        }
        DataType::LargeList(item) => {
            let list = column.as_list::<i64>();
            let (values, offsets) = (inner(0, item, list.values())?, list.offsets().clone());
            let array = LargeListArray::try_new(Arc::clone(item), offsets, values, nulls);
            Ok(Arc::new(array.map_err(fail)?))
        }
        other => Err(Error::bug(format!("blobs in a column of type {other}"))),
    }
}

/// Adds the ids of the columns of blobs, in or below `field`, that have one outside of the table.
///
/// `column` holds descriptors.
pub(super) fn find_external(field: &Field, column: &ArrayRef, found: &mut Vec<i32>) {
    let is_external = |kind| match BlobKind::try_from(kind) {
        Ok(BlobKind::Inline | BlobKind::Packed | BlobKind::Dedicated) | Err(_) => false,
        Ok(BlobKind::External | BlobKind::Managed | BlobKind::ManagedWithBase) => true,
    };
    let parts = match column.data_type() {
        DataType::Struct(_) => column.as_struct().columns(),
        DataType::List(_) => std::slice::from_ref(column.as_list::<i32>().values()),
        DataType::LargeList(_) => std::slice::from_ref(column.as_list::<i64>().values()),
        _ => return,
    };
    if !field.is_blob_v2() {
        let parts = field.children.iter().zip(parts);
        return parts.for_each(|(field, part)| find_external(field, part, found));
    }
    let kinds = parts.first().and_then(|kinds| kinds.as_primitive_opt::<UInt8Type>());
    if kinds.is_some_and(|kinds| kinds.iter().flatten().any(is_external)) {
        found.push(field.id);
    }
}

fn read(storage: &Storage, home: &BlobHome, descriptors: &StructArray) -> Result<LargeBinaryArray> {
    let blobs: Vec<Option<Blob>> = (0..descriptors.len())
        .map(|row| describe(home, descriptors, row))
        .collect::<Result<_>>()?;
    let mut slices = vec![Bytes::new(); blobs.len()];
    let mut by_file: Vec<usize> = (0..blobs.len()).filter(|&row| blobs[row].is_some()).collect();
    let key = |row: usize| blobs[row].as_ref().map(|blob| (blob.file_id, blob.range.start));
    by_file.sort_by_key(|&row| key(row));
    for rows in by_file.chunk_by(|&a, &b| key(a).map(|k| k.0) == key(b).map(|k| k.0)) {
        let of = |row: &usize| blobs[*row].as_ref().map_or(0..0, |blob| blob.range.clone());
        let ranges: Vec<Range<u64>> = rows.iter().map(of).collect();
        let file_id = key(rows[0]).and_then(|key| key.0);
        let path = |folder: &object_store::path::Path| match file_id {
            None => folder.clone().join(home.name.as_str()),
            Some(id) => {
                let stem = home.name.rsplit_once('.').map_or(home.name.as_str(), |(stem, _)| stem);
                blob_path(folder, stem, id)
            }
        };
        let found = storage.read_ranges(home.base, path, &ranges)?;
        for (&row, bytes) in rows.iter().zip(found) {
            slices[row] = bytes;
        }
    }
    let mut values = MutableBuffer::with_capacity(slices.iter().map(Bytes::len).sum());
    for slice in &slices {
        values.extend_from_slice(slice);
    }
    let offsets = OffsetBuffer::from_lengths(slices.iter().map(Bytes::len));
    let valid = BooleanBuffer::collect_bool(blobs.len(), |row| blobs[row].is_some());
    let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
    LargeBinaryArray::try_new(offsets, values.into(), nulls)
        .map_err(|error| Error::bug("blobs do not fit").caused_by(&error))
}

/// Returns where the blob of a row is, or `None` if it is null.
fn describe(home: &BlobHome, descriptors: &StructArray, row: usize) -> Result<Option<Blob>> {
    let corrupt = |reason: String| Error::corrupt(&home.name, reason);
    let columns = descriptors.columns();
    let [kinds, positions, sizes, ids, _uris] = columns else {
        return Err(corrupt(format!("blob descriptors with {} fields", columns.len())));
    };
    if descriptors.is_null(row) || kinds.is_null(row) {
        return Ok(None);
    }
    let (Some(kinds), Some(positions), Some(sizes), Some(ids)) = (
        kinds.as_primitive_opt::<UInt8Type>(),
        positions.as_primitive_opt::<UInt64Type>(),
        sizes.as_primitive_opt::<UInt64Type>(),
        ids.as_primitive_opt::<UInt32Type>(),
    ) else {
        return Err(corrupt("blob descriptors of another layout".to_string()));
    };
    let (start, size) = (positions.value(row), sizes.value(row));
    let end = start.checked_add(size).ok_or_else(|| corrupt(format!("a blob of {size} bytes")))?;
    let kind = BlobKind::try_from(kinds.value(row)).map_err(|e| Error::lance(&home.name, &e))?;
    let (file_id, range) = match kind {
        BlobKind::Inline => (None, start..end),
        BlobKind::Packed => (Some(ids.value(row)), start..end),
        BlobKind::Dedicated => (Some(ids.value(row)), 0..size),
        BlobKind::External | BlobKind::Managed | BlobKind::ManagedWithBase => {
            return Err(Error::unsupported(format!(
                "{}: a blob that lies outside of the table ({kind:?}), in a column whose first blobs \
                 do not; read this column with the table's own library",
                home.name
            )));
        }
    };
    Ok(Some(Blob { file_id, range }))
}
