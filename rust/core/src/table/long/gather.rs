//! Long values of several blocks → a column of a batch, in its order.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{BinaryType, ByteArrayType, LargeBinaryType, LargeUtf8Type, Utf8Type};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::{ArrowNativeType, NullBuffer};
use arrow_schema::DataType;

use super::super::data_file::DataFile;
use super::LongRows;
use super::out::Out;
use super::values::Copying;
use crate::error::{Error, Result};

/// The least bytes of values that are left in their files, where none are.
pub(crate) const ALL_COPIED: usize = usize::MAX;
/// The most files that stay mapped until their values are copied.
const MOST_MAPPED: usize = 256;
/// The most files that stay open while their values are copied.
const MOST_OPEN: usize = 8;
/// Values of fewer bytes are copied to their block first where there are more files: to open one for each
/// value takes as long as to copy it.
const LONG_FOR_MANY: usize = 64 << 10;

/// Long values of a block that were found or fetched, and that are still to be copied to a column.
pub(crate) struct LongValues {
    file: Arc<DataFile>,
    rows: LongRows,
}

impl LongValues {
    pub(in super::super) fn new(file: Arc<DataFile>, rows: LongRows) -> Self {
        Self { file, rows }
    }
}

/// What a block has of a column.
pub(crate) enum Part<'a> {
    Column(&'a ArrayRef),
    Values(&'a LongValues),
}

/// Returns the mean number of bytes from which on values of `num_blocks` blocks are left in their files until
/// a batch is gathered.
pub(crate) fn least_apart(num_blocks: usize) -> usize {
    match num_blocks {
        count if count <= MOST_OPEN => 0,
        count if count <= MOST_MAPPED => LONG_FOR_MANY,
        _ => ALL_COPIED,
    }
}

/// Gathers a column of this type from blocks, copying each value once; `places` are the block of each row and
/// the row in it.
///
/// # Errors
///
/// Those of reading the values; [`Error::Invalid`] if the column outgrows the offsets of its type.
pub(crate) fn gather_long(
    parts: &[Part<'_>],
    places: &[(usize, usize)],
    data_type: &DataType,
) -> Result<ArrayRef> {
    match data_type {
        DataType::Utf8 => gather::<Utf8Type>(parts, places, data_type),
        DataType::LargeUtf8 => gather::<LargeUtf8Type>(parts, places, data_type),
        DataType::Binary => gather::<BinaryType>(parts, places, data_type),
        DataType::LargeBinary => gather::<LargeBinaryType>(parts, places, data_type),
        other => Err(Error::bug(format!("long values of type {other}"))),
    }
}

fn gather<T: ByteArrayType>(
    parts: &[Part<'_>],
    places: &[(usize, usize)],
    data_type: &DataType,
) -> Result<ArrayRef> {
    let bytes_of = |&(block, row): &(usize, usize)| match &parts[block] {
        Part::Column(column) => column.as_bytes::<T>().value_length(row).as_usize(),
        Part::Values(values) => values.rows.records[row].len,
    };
    let mut out = Out::with_room(places.iter().map(bytes_of).sum());
    let mut all: Vec<Option<Copying<'_>>> = parts.iter().map(|_| None).collect();
    let mut path = "";
    for run in places.chunk_by(|(block, _), (next, _)| block == next) {
        let block = run[0].0;
        match &parts[block] {
            Part::Column(column) => {
                let column = column.as_bytes::<T>();
                for &(_, row) in run {
                    out.add(column.value(row).as_ref());
                }
            }
            Part::Values(LongValues { file, rows }) => {
                path = &file.path;
                let copying = match &mut all[block] {
                    Some(copying) => copying,
                    none => none.insert(Copying::new(file, rows)?),
                };
                let run: Vec<usize> = run.iter().map(|(_, row)| *row).collect();
                copying.add(&run, &mut out)?;
                if parts.len() > MOST_OPEN {
                    copying.close();
                }
            }
        }
    }
    let valid = places.iter().map(|&(block, row)| match &parts[block] {
        Part::Column(column) => column.is_valid(row),
        Part::Values(values) => values.rows.valid[row],
    });
    let nulls = Some(valid.collect::<NullBuffer>()).filter(|nulls| nulls.null_count() > 0);
    out.into_column(data_type, nulls, path)
}
