//! Column names → what is read, and the schema of the batch that comes out.
//!
//! A name is a column of the table, a dotted path through its structs (`meta.width`), or one of the
//! three columns every table has: `_rowid`, `_rowaddr` and `_rowoffset`. They come out in the order
//! asked for, under the names asked for.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, make_array};
use arrow_buffer::NullBuffer;
use arrow_data::transform::MutableArrayData;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use crate::error::{Error, Result};

/// Lance's name for a row's id.
pub const ROW_ID: &str = "_rowid";
/// Lance's name for a row's address.
pub const ROW_ADDRESS: &str = "_rowaddr";
/// LanceDB's name for a row's offset.
pub const ROW_OFFSET: &str = "_rowoffset";

/// The columns to read, in the order they come out.
#[derive(Debug, Clone)]
pub struct Projection {
    outputs: Vec<Source>,
    /// Whether another output holds the values of this one.
    is_repeated: Vec<bool>,
    schema: SchemaRef,
    /// Where the outputs are in what was read last: mostly, all that a reader reads has one schema.
    places: Arc<ArcSwapOption<Places>>,
}

/// Where outputs are in batches of one schema.
#[derive(Debug)]
struct Places {
    read: SchemaRef,
    /// For each output the index of its column, and those of the fields inside it; nothing if it is
    /// not there.
    indexes: Vec<Vec<usize>>,
}

/// Where one output column comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A column, or a field of a struct column: names from the top.
    Column(Vec<String>),
    /// The row's id.
    RowId,
    /// The row's address.
    RowAddress,
    /// The row's offset.
    RowOffset,
}

impl Projection {
    /// Returns the projection onto `columns`, pairs of output name and source name.
    ///
    /// # Errors
    ///
    /// [`Error::NoColumn`] for a source name that `table` does not have.
    pub fn new<'a>(
        table: &Schema,
        columns: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        let mut outputs = Vec::new();
        let mut fields = Vec::new();
        let known = by_name(table);
        for (name, source) in columns {
            let (source, field) = resolve(table, &known, source)?;
            outputs.push(source);
            fields.push(field.with_name(name));
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, table.metadata().clone()));
        let is_repeated = repeated(&outputs);
        Ok(Self { outputs, is_repeated, schema, places: Arc::default() })
    }

    /// Returns the schema of the batches that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns whether a column of this kind comes out.
    pub fn wants(&self, source: &Source) -> bool {
        self.outputs.contains(source)
    }

    /// Returns the schema of the batches of [`signed`](Self::signed).
    pub(crate) fn signed_schema(&self) -> SchemaRef {
        let signed = |(source, field): (&Source, &Arc<Field>)| match field.data_type() {
            DataType::UInt64 if says_which_row(source) => {
                Arc::new(field.as_ref().clone().with_data_type(DataType::Int64))
            }
            _ => Arc::clone(field),
        };
        let fields: Vec<_> = self.outputs.iter().zip(self.schema.fields()).map(signed).collect();
        Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()))
    }

    /// Returns a batch that came out with its ids, addresses and offsets of rows as signed numbers. No copy.
    pub(crate) fn signed(&self, whole: &RecordBatch) -> Result<RecordBatch> {
        let signed = |(source, column): (&Source, &ArrayRef)| -> ArrayRef {
            match column.as_primitive_opt::<UInt64Type>() {
                Some(ids) if says_which_row(source) => {
                    let values = ids.values().inner().clone().into();
                    Arc::new(Int64Array::new(values, ids.nulls().cloned()))
                }
                _ => Arc::clone(column),
            }
        };
        let columns = self.outputs.iter().zip(whole.columns()).map(signed).collect();
        batch(self.signed_schema(), columns, whole.num_rows())
    }

    /// Returns the names of the columns, if all of them are whole columns of the table.
    pub(crate) fn columns(&self) -> Option<Vec<&str>> {
        fn name(source: &Source) -> Option<&str> {
            match source {
                Source::Column(path) if path.len() == 1 => Some(path[0].as_str()),
                _ => None,
            }
        }
        self.outputs.iter().map(name).collect()
    }

    /// Returns the paths of the table's columns that must be read, each once, none inside another.
    pub fn paths(&self) -> Vec<&[String]> {
        let mut paths: Vec<&[String]> = self
            .outputs
            .iter()
            .filter_map(|source| match source {
                Source::Column(path) => Some(path.as_slice()),
                Source::RowId | Source::RowAddress | Source::RowOffset => None,
            })
            .collect();
        paths.sort_unstable();
        // A path sorts directly before the paths inside it.
        paths.dedup_by(|inner, outer| inner.starts_with(outer));
        paths
    }

    /// Returns the batch that comes out, given the columns read and the ids of their rows.
    ///
    /// `read` holds at least the columns of [`paths`](Self::paths), under the names of the table.
    /// `rows` gives a system column on demand. No two columns that come out share values, so that one
    /// may be written to without changing another.
    ///
    /// # Errors
    ///
    /// Those of `rows`; [`Error::Bug`] if a column is missing from `read`.
    pub fn assemble(
        &self,
        read: &RecordBatch,
        mut rows: impl FnMut(&Source) -> Result<ArrayRef>,
    ) -> Result<RecordBatch> {
        let places = self.places(read.schema_ref());
        let column = |((source, place), &is_repeated): ((&Source, &Vec<usize>), &bool)| match source
        {
            Source::Column(path) if is_repeated => Ok(copied(&extract(read, path, place)?)),
            Source::Column(path) => extract(read, path, place),
            system => rows(system),
        };
        let outputs = self.outputs.iter().zip(&places.indexes).zip(&self.is_repeated);
        let columns = outputs.map(column).collect::<Result<Vec<_>>>()?;
        batch(Arc::clone(&self.schema), columns, read.num_rows())
    }

    /// Returns where the outputs are in batches of this schema.
    fn places(&self, read: &SchemaRef) -> Arc<Places> {
        if let Some(places) = self.places.load_full()
            && Arc::ptr_eq(&places.read, read)
        {
            return places;
        }
        let known = by_name(read);
        let indexes = |source: &Source| match source {
            Source::Column(path) => indexes(read, &known, path).unwrap_or_default(),
            Source::RowId | Source::RowAddress | Source::RowOffset => Vec::new(),
        };
        let indexes = self.outputs.iter().map(indexes).collect();
        let places = Arc::new(Places { read: Arc::clone(read), indexes });
        self.places.store(Some(Arc::clone(&places)));
        places
    }
}

/// Returns the bytes of each value, for types whose values are bytes at a fixed distance.
pub(crate) fn width_of(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        DataType::Dictionary(..) => None,
        other => other.primitive_width(),
    }
}

/// Returns whether a column holds Lance's 16-bit floats, which Arrow stores as two bytes each.
pub fn is_bfloat16(field: &Field) -> bool {
    field.data_type() == &DataType::FixedSizeBinary(2)
        && field.extension_type_name() == Some("lance.bfloat16")
}

/// Returns a batch of `columns` that has `num_rows` rows even without columns.
pub(crate) fn batch(
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    num_rows: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(num_rows));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .map_err(|error: ArrowError| Error::bug("a batch does not fit").caused_by(&error))
}

/// Returns whether a column holds ids, addresses or offsets of rows, also as the result of a query.
fn says_which_row(source: &Source) -> bool {
    match source {
        Source::RowId | Source::RowAddress | Source::RowOffset => true,
        Source::Column(path) => {
            path.len() == 1 && [ROW_ID, ROW_ADDRESS, ROW_OFFSET].contains(&path[0].as_str())
        }
    }
}

/// Returns the index of each column by its name; that of the first one if several have the same name.
pub(crate) fn by_name(schema: &Schema) -> HashMap<&str, usize> {
    let fields = schema.fields().iter().enumerate().rev();
    fields.map(|(at, field)| (field.name().as_str(), at)).collect()
}

/// Returns the index of a column, and of each field on the path inside it; `None` if it does not exist.
fn indexes(read: &Schema, known: &HashMap<&str, usize>, path: &[String]) -> Option<Vec<usize>> {
    let top = *known.get(path.first()?.as_str())?;
    let mut found = vec![top];
    let mut data_type = read.field(top).data_type();
    for name in &path[1..] {
        let DataType::Struct(fields) = data_type else {
            return None;
        };
        let (at, field) = fields.find(name)?;
        found.push(at);
        data_type = field.data_type();
    }
    Some(found)
}

fn resolve(table: &Schema, known: &HashMap<&str, usize>, name: &str) -> Result<(Source, Field)> {
    if let Some(&at) = known.get(name) {
        return Ok((Source::Column(vec![name.to_string()]), table.field(at).clone()));
    }
    let system = |source| Ok((source, Field::new(name, DataType::UInt64, true)));
    match name {
        ROW_ID => return system(Source::RowId),
        ROW_ADDRESS => return system(Source::RowAddress),
        ROW_OFFSET => return system(Source::RowOffset),
        _ => {}
    }
    nested(table, name).ok_or_else(|| Error::NoColumn {
        name: name.to_string(),
        known: table.fields().iter().map(|field| field.name().clone()).collect(),
    })
}

/// Follows a dotted name through structs. A null struct makes its fields null.
fn nested(table: &Schema, name: &str) -> Option<(Source, Field)> {
    let (top, mut rest) = name.match_indices('.').find_map(|(at, _)| {
        let top = table.field_with_name(&name[..at]).ok()?;
        matches!(top.data_type(), DataType::Struct(_)).then_some((top, &name[at + 1..]))
    })?;
    let mut path = vec![top.name().clone()];
    let mut field = top;
    let mut nullable = top.is_nullable();
    loop {
        let DataType::Struct(children) = field.data_type() else {
            return None;
        };
        // A name may itself hold dots, so the longest child that fits is taken.
        let child = children
            .iter()
            .filter(|child| {
                let after = rest.strip_prefix(child.name().as_str());
                after.is_some_and(|after| after.is_empty() || after.starts_with('.'))
            })
            .max_by_key(|child| child.name().len())?;
        path.push(child.name().clone());
        nullable |= child.is_nullable();
        field = child;
        match rest[child.name().len()..].strip_prefix('.') {
            Some(after) => rest = after,
            None => return Some((Source::Column(path), field.clone().with_nullable(nullable))),
        }
    }
}

/// Returns which outputs repeat an earlier column, or are a field of a column that comes out.
fn repeated(outputs: &[Source]) -> Vec<bool> {
    let mut by_path: Vec<(&[String], usize)> = outputs
        .iter()
        .enumerate()
        .filter_map(|(at, source)| match source {
            Source::Column(path) => Some((path.as_slice(), at)),
            Source::RowId | Source::RowAddress | Source::RowOffset => None,
        })
        .collect();
    by_path.sort_unstable();
    let mut is_repeated = vec![false; outputs.len()];
    let mut outer: Option<&[String]> = None;
    for (path, at) in by_path {
        // A path sorts directly before the paths inside it.
        match outer {
            Some(outer) if path.starts_with(outer) => is_repeated[at] = true,
            _ => outer = Some(path),
        }
    }
    is_repeated
}

/// Returns the same values in buffers of their own.
fn copied(array: &ArrayRef) -> ArrayRef {
    let data = array.to_data();
    let mut copy = MutableArrayData::new(vec![&data], false, data.len());
    copy.extend(0, 0, data.len());
    make_array(copy.freeze())
}

/// Returns the column at `path`, which is at `place` in what was read.
fn extract(read: &RecordBatch, path: &[String], place: &[usize]) -> Result<ArrayRef> {
    let missing = || Error::bug(format!("column {} was not read", path.join(".")));
    let (&top, inside) = place.split_first().ok_or_else(missing)?;
    let mut column = Arc::clone(read.column(top));
    for &at in inside {
        let parent = column.as_struct_opt().ok_or_else(missing)?;
        let child = parent.column(at);
        column = match parent.nulls().filter(|nulls| nulls.null_count() > 0) {
            Some(outer) => with_nulls(child, outer)?,
            None => Arc::clone(child),
        };
    }
    Ok(column)
}

/// Returns `array` with the rows that are null in `outer` made null.
fn with_nulls(array: &ArrayRef, outer: &NullBuffer) -> Result<ArrayRef> {
    if array.data_type() == &DataType::Null {
        return Ok(Arc::clone(array));
    }
    let nulls = NullBuffer::union(array.nulls(), Some(outer));
    let data = array.to_data().into_builder().nulls(nulls).build();
    Ok(make_array(data.map_err(|error| Error::bug("nulls do not fit").caused_by(&error))?))
}

/// Returns the bytes of the rows themselves, without what else their buffers hold.
pub fn num_bytes(batch: &RecordBatch) -> usize {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(bytes).sum()
}

#[cfg(test)]
mod tests;
