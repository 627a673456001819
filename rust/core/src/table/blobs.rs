//! Blobs of version 2: values stored beside the rows, which hold descriptors of where they are.
//!
//! A blob is *inline*, in a buffer of the data file; *packed*, with others in a file beside it; or
//! *dedicated*, alone in such a file. They come out as plain binary. Blobs that Lance did not write
//! itself (*external*) or that lie in shared storage (*managed*) are left to the table's own library.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, LargeBinaryArray, RecordBatch, StructArray};
use arrow_buffer::{BooleanBuffer, MutableBuffer, NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema};
use bytes::Bytes;
use lance_core::datatypes::{BlobKind, Schema};
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

/// The schema to read from a file: descriptors in the place of blobs of version 2.
pub(super) fn with_descriptors(schema: &Schema) -> Schema {
    let mut schema = schema.clone();
    for field in &mut schema.fields {
        if field.is_blob_v2() {
            field.unloaded_mut();
        }
    }
    schema
}

/// The Arrow schema of what comes out: binary in the place of blobs of version 2.
pub(super) fn with_binary(schema: &Schema) -> ArrowSchema {
    let arrow = ArrowSchema::from(schema);
    let binary = |(field, plain): (&lance_core::datatypes::Field, &Arc<ArrowField>)| {
        if !field.is_blob_v2() {
            return plain.as_ref().clone();
        }
        let mut metadata = plain.metadata().clone();
        metadata.retain(|key, _| !key.starts_with("ARROW:extension:"));
        ArrowField::new(&field.name, DataType::LargeBinary, plain.is_nullable())
            .with_metadata(metadata)
    };
    let fields: Vec<_> = schema.fields.iter().zip(arrow.fields()).map(binary).collect();
    ArrowSchema::new_with_metadata(fields, arrow.metadata)
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
    if !fields.fields.iter().any(lance_core::datatypes::Field::is_blob_v2) {
        return Ok(batch.clone());
    }
    let column = |(field, column): (&lance_core::datatypes::Field, &ArrayRef)| {
        if !field.is_blob_v2() {
            return Ok(Arc::clone(column));
        }
        read(storage, home, column.as_struct()).map(|blobs| Arc::new(blobs) as ArrayRef)
    };
    let columns = fields.fields.iter().zip(batch.columns()).map(column);
    let schema = Arc::new(with_binary(fields));
    crate::projection::batch(schema, columns.collect::<Result<_>>()?, batch.num_rows())
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
        .map_err(|error| Error::Bug(format!("blobs do not fit: {error}")))
}

/// Where the blob of a row is, or `None` if it is null.
fn describe(home: &BlobHome, descriptors: &StructArray, row: usize) -> Result<Option<Blob>> {
    let corrupt = |reason: String| Error::Corrupt { path: home.name.clone(), reason };
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
            return Err(Error::Unsupported(format!(
                "{}: a blob of kind {kind:?}; read this column with the table's own library",
                home.name
            )));
        }
    };
    Ok(Some(Blob { file_id, range }))
}
