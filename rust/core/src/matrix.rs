//! Columns of one number type as one row-major matrix: a batch of a single column of vectors.

use std::sync::Arc;

use arrow_array::{Array, FixedSizeListArray, RecordBatch, make_array};
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::projection::{batch, is_bfloat16, width_of};

/// What the column is called.
const NAME: &str = "matrix";
/// Rows that are turned while they stay in L1.
const TILE_ROWS: usize = 64;

/// Returns the type of all columns.
///
/// # Errors
///
/// [`Error::Invalid`] if there is none, or it is not that of a number.
pub(crate) fn type_of(schema: &SchemaRef) -> Result<&DataType> {
    let fields = schema.fields();
    let wanted = "columns of numbers of one type";
    let Some(first) = fields.first() else {
        return Err(Error::invalid("a matrix without columns", wanted));
    };
    if !is_number(first) {
        let (name, data_type) = (first.name(), first.data_type());
        return Err(Error::invalid(
            format!("column `{name}` of type {data_type} in a matrix"),
            wanted,
        ));
    }
    let is_other = |field: &&Arc<Field>| {
        field.data_type() != first.data_type() || is_bfloat16(field) != is_bfloat16(first)
    };
    match fields.iter().find(is_other) {
        None => Ok(first.data_type()),
        Some(other) => Err(Error::invalid(
            format!(
                "a matrix of column `{}` of type {} and column `{}` of type {}",
                first.name(),
                first.data_type(),
                other.name(),
                other.data_type()
            ),
            wanted,
        )),
    }
}

fn is_number(field: &Field) -> bool {
    field.data_type().is_integer() || field.data_type().is_floating() || is_bfloat16(field)
}

/// Returns the batch of `num_rows` rows with these values, row after row, for columns of `schema`.
pub(crate) fn from_values(
    schema: &SchemaRef,
    values: Buffer,
    num_rows: usize,
) -> Result<RecordBatch> {
    let data_type = type_of(schema)?;
    let num_columns = schema.fields().len();
    let bug = |error: ArrowError| Error::bug("a matrix does not fit").caused_by(&error);
    let values = ArrayData::builder(data_type.clone())
        .len(num_rows * num_columns)
        .add_buffer(values)
        .build()
        .map_err(bug)?;
    let mut child = Field::new("item", data_type.clone(), false);
    if is_bfloat16(schema.field(0)) {
        child.set_metadata(schema.field(0).metadata().clone());
    }
    let size = i32::try_from(num_columns)
        .map_err(|_| Error::invalid(format!("a matrix of {num_columns} columns"), "fewer"))?;
    let rows = FixedSizeListArray::try_new_with_length(
        Arc::new(child),
        size,
        make_array(values),
        None,
        num_rows,
    );
    let rows = rows.map_err(bug)?;
    let field = Field::new(NAME, rows.data_type().clone(), false);
    batch(Arc::new(Schema::new(vec![field])), vec![Arc::new(rows)], num_rows)
}

/// Returns the columns of a batch as a matrix.
///
/// # Errors
///
/// Those of [`type_of`]; [`Error::Invalid`] if there are nulls.
pub(crate) fn side_by_side(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    let width = width_of(type_of(&schema)?).unwrap_or(1);
    if let Some(at) = rows.columns().iter().position(|column| column.null_count() > 0) {
        let (name, count) = (schema.field(at).name(), rows.column(at).null_count());
        return Err(Error::invalid(
            format!("column `{name}` with {count} nulls in a matrix"),
            format!("none: filter them out with {name} IS NOT NULL"),
        ));
    }
    let (num_rows, num_columns) = (rows.num_rows(), rows.num_columns());
    let mut out = MutableBuffer::from_len_zeroed(num_rows * num_columns * width);
    let data: Vec<ArrayData> = rows.columns().iter().map(Array::to_data).collect();
    for first in (0..num_rows).step_by(TILE_ROWS) {
        let count = TILE_ROWS.min(num_rows - first);
        for (at, column) in data.iter().enumerate() {
            let start = (column.offset() + first) * width;
            let values = &column.buffers()[0][start..start + count * width];
            let rows = out.as_slice_mut()[first * num_columns * width..]
                .chunks_exact_mut(num_columns * width);
            for (row, value) in rows.zip(values.chunks_exact(width)) {
                row[at * width..(at + 1) * width].copy_from_slice(value);
            }
        }
    }
    from_values(&schema, out.into(), num_rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float32Type;
    use arrow_array::{ArrayRef, FixedSizeBinaryArray, Float32Array, Int32Array};

    fn rows(columns: Vec<ArrayRef>) -> RecordBatch {
        let field = |(at, column): (usize, &ArrayRef)| {
            Field::new(format!("c{at}"), column.data_type().clone(), true)
        };
        let fields: Vec<Field> = columns.iter().enumerate().map(field).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    #[test]
    fn rows_of_columns_become_vectors() {
        let column = |start: u16| -> ArrayRef {
            Arc::new(Float32Array::from_iter_values((start..start + 200).map(f32::from)))
        };
        let matrix = side_by_side(&rows(vec![column(0), column(1000)]).slice(50, 100)).unwrap();
        let vectors = matrix.column(0).as_fixed_size_list();
        assert_eq!(vectors.len(), 100);
        assert_eq!(
            vectors.value(99).as_primitive::<Float32Type>().values().as_ref(),
            [149.0, 1149.0]
        );
        assert_eq!(side_by_side(&rows(vec![column(0)]).slice(0, 0)).unwrap().num_rows(), 0);
    }

    #[test]
    fn lance_s_floats_of_16_bits_are_numbers() {
        let column = |bytes: [[u8; 2]; 2]| -> ArrayRef {
            Arc::new(FixedSizeBinaryArray::try_from_iter(bytes.into_iter()).unwrap())
        };
        let columns = [column([[1, 2], [3, 4]]), column([[5, 6], [7, 8]])];
        let rows = rows(columns.to_vec());
        assert!(side_by_side(&rows).is_err(), "bytes are no numbers");
        let name = ("ARROW:extension:name".to_string(), "lance.bfloat16".to_string());
        let field = |field: &Arc<Field>| {
            field.as_ref().clone().with_metadata([name.clone()].into_iter().collect())
        };
        let fields: Vec<Field> = rows.schema().fields().iter().map(field).collect();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.to_vec()).unwrap();
        let matrix = side_by_side(&rows).unwrap();
        let vectors = matrix.column(0).as_fixed_size_list();
        let values = vectors.values().as_fixed_size_binary();
        assert_eq!(values.value_data(), [1, 2, 5, 6, 3, 4, 7, 8]);
        let DataType::FixedSizeList(child, 2) = vectors.data_type() else {
            panic!("{}", vectors.data_type());
        };
        assert!(is_bfloat16(child));
    }

    #[test]
    fn what_is_no_matrix_is_named() {
        let floats: ArrayRef = Arc::new(Float32Array::from(vec![1.0]));
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let nulls: ArrayRef = Arc::new(Int32Array::from(vec![None]));
        let says = |columns: Vec<ArrayRef>| side_by_side(&rows(columns)).unwrap_err().to_string();
        assert!(says(vec![floats, Arc::clone(&ints)]).contains("column `c1` of type Int32"));
        assert!(says(vec![ints, nulls]).contains("column `c1` with 1 nulls in a matrix"));
    }
}
