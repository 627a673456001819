//! Hashes of rows, for splits that depend on what a row says and not on where it stands.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, make_array};
use arrow_schema::DataType;
use arrow_select::take::take;
use datafusion_common::hash_utils::{RandomState, create_hashes};
use twox_hash::XxHash3_64;

use crate::error::{Error, Result};

/// Returns the split that LanceDB's `split_hash` puts each row in, or `None` if it discards the row.
///
/// The hash is DataFusion's with seed 0, as in LanceDB 0.40; it is not stable across its releases. Unlike
/// [`stable_hashes`], it tells 0 from -0 and one NaN from another.
///
/// # Errors
///
/// [`Error::Invalid`], in LanceDB's words, if there are no columns, no weights or a weight of 0;
/// [`Error::Unsupported`] for a type that has no hash.
pub fn lancedb_splits(
    columns: &[ArrayRef],
    weights: &[u64],
    discard_weight: u64,
) -> Result<Vec<Option<u64>>> {
    let invalid = |message: &str| Err(Error::invalid_text(message.to_string()));
    if columns.is_empty() {
        return invalid("Hash strategy requires at least one column");
    }
    if weights.is_empty() {
        return invalid("Hash strategy requires at least one split weight");
    }
    if weights.contains(&0) {
        return invalid("Split weights must be greater than 0");
    }
    let add = |sum: u64, &weight| sum.checked_add(weight);
    let Some(total) = weights.iter().chain([&discard_weight]).try_fold(0, add) else {
        return Err(Error::invalid(format!("{weights:?}"), "weights that sum to less than 2^64"));
    };
    let ends: Vec<u64> = weights
        .iter()
        .scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let mut hashes = vec![0; columns[0].len()];
    create_hashes(columns, &RandomState::with_seed(0), &mut hashes)
        .map_err(|error| Error::unsupported("hashing these columns").caused_by(&error))?;
    let split = |hash: u64| {
        let split = ends.partition_point(|&end| end <= hash % total);
        (split < ends.len()).then_some(split as u64)
    };
    Ok(hashes.into_iter().map(split).collect())
}

/// Returns a hash of each row's values that is the same on every machine and in every release.
///
/// XXH3-64 with `seed` over the row's columns, one after another: a byte 0 for null, else a byte 1
/// and the value as little-endian bytes. Integers of any width, booleans, dates, times, timestamps
/// and durations are written as 128-bit integers, floats of any width as 64-bit ones with one NaN and
/// no negative zero, strings and binary as a 64-bit length and their bytes; a dictionary as the values
/// it stands for. So widening a column, or encoding it otherwise, moves no row.
///
/// # Errors
///
/// [`Error::Unsupported`] for any other type.
pub fn stable_hashes(columns: &[ArrayRef], num_rows: usize, seed: u64) -> Result<Vec<u64>> {
    let mut rows = vec![Vec::new(); num_rows];
    for column in columns {
        append(column, &mut rows)?;
    }
    let hash = |row: &Vec<u8>| XxHash3_64::oneshot_with_seed(seed, row);
    Ok(rows.iter().map(hash).collect())
}

fn append(column: &ArrayRef, rows: &mut [Vec<u8>]) -> Result<()> {
    match column.data_type() {
        DataType::Int8 => integers::<Int8Type>(column, rows),
        DataType::Int16 => integers::<Int16Type>(column, rows),
        DataType::Int32 => integers::<Int32Type>(column, rows),
        DataType::Int64 => integers::<Int64Type>(column, rows),
        DataType::UInt8 => integers::<UInt8Type>(column, rows),
        DataType::UInt16 => integers::<UInt16Type>(column, rows),
        DataType::UInt32 => integers::<UInt32Type>(column, rows),
        DataType::UInt64 => integers::<UInt64Type>(column, rows),
        DataType::Date32 | DataType::Time32(_) => {
            integers::<Int32Type>(&reinterpret(column, DataType::Int32)?, rows);
        }
        DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_) => {
            integers::<Int64Type>(&reinterpret(column, DataType::Int64)?, rows);
        }
        DataType::Float16 => floats::<Float16Type>(column, rows),
        DataType::Float32 => floats::<Float32Type>(column, rows),
        DataType::Float64 => floats::<Float64Type>(column, rows),
        DataType::Null => rows.iter_mut().for_each(|row| row.push(0)),
        DataType::Boolean => {
            let values = column.as_boolean();
            write(column, rows, |at, row| integer(values.value(at).into(), row));
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            write(column, rows, |at, row| string(values.value(at).as_bytes(), row));
        }
        DataType::LargeUtf8 => {
            let values = column.as_string::<i64>();
            write(column, rows, |at, row| string(values.value(at).as_bytes(), row));
        }
        DataType::Utf8View => {
            let values = column.as_string_view();
            write(column, rows, |at, row| string(values.value(at).as_bytes(), row));
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            write(column, rows, |at, row| string(values.value(at), row));
        }
        DataType::LargeBinary => {
            let values = column.as_binary::<i64>();
            write(column, rows, |at, row| string(values.value(at), row));
        }
        DataType::BinaryView => {
            let values = column.as_binary_view();
            write(column, rows, |at, row| string(values.value(at), row));
        }
        DataType::FixedSizeBinary(_) => {
            let values = column.as_fixed_size_binary();
            write(column, rows, |at, row| string(values.value(at), row));
        }
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            let values = take(dictionary.values(), dictionary.keys(), None);
            append(&values.map_err(|error| Error::arrow("a dictionary", &error))?, rows)?;
        }
        other => {
            return Err(Error::unsupported(format!("hashing a column of type {other}")));
        }
    }
    Ok(())
}

fn write(column: &ArrayRef, rows: &mut [Vec<u8>], value: impl Fn(usize, &mut Vec<u8>)) {
    for (at, row) in rows.iter_mut().enumerate() {
        if column.is_valid(at) {
            row.push(1);
            value(at, row);
        } else {
            row.push(0);
        }
    }
}

fn integers<T: ArrowPrimitiveType<Native: Into<i128>>>(column: &ArrayRef, rows: &mut [Vec<u8>]) {
    let values = column.as_primitive::<T>();
    write(column, rows, |at, row| integer(values.value(at).into(), row));
}

fn floats<T: ArrowPrimitiveType<Native: Into<f64>>>(column: &ArrayRef, rows: &mut [Vec<u8>]) {
    let values = column.as_primitive::<T>();
    write(column, rows, |at, row| {
        let value: f64 = values.value(at).into();
        // Adding 0 turns -0 into 0.
        let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
        row.extend(value.to_bits().to_le_bytes());
    });
}

fn integer(value: i128, row: &mut Vec<u8>) {
    row.extend(value.to_le_bytes());
}

fn string(value: &[u8], row: &mut Vec<u8>) {
    row.extend((value.len() as u64).to_le_bytes());
    row.extend(value);
}

/// Returns the same values as another type of the same width.
fn reinterpret(column: &ArrayRef, data_type: DataType) -> Result<ArrayRef> {
    let data = column.to_data().into_builder().data_type(data_type).build();
    Ok(make_array(
        data.map_err(|error| Error::bug("signed numbers as unsigned ones").caused_by(&error))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{
        BinaryViewArray, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array,
        LargeStringArray, ListArray, NullArray, StringArray, StringViewArray,
        TimestampMicrosecondArray,
    };
    use std::sync::Arc;

    fn hashes(columns: Vec<ArrayRef>) -> Vec<u64> {
        stable_hashes(&columns, columns[0].len(), 7).unwrap()
    }

    #[test]
    fn splits_of_lancedb_0_40_are_reproduced() {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
        let splits = lancedb_splits(&[ids], &[1, 2], 1).unwrap();
        let wanted =
            [None, Some(1), Some(0), Some(1), Some(0), Some(0), Some(1), Some(0), Some(1), None];
        assert_eq!(splits, wanted);
    }

    #[test]
    fn impossible_weights_are_refused_in_lancedb_s_words() {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
        let message = |columns: &[ArrayRef], weights: &[u64]| {
            lancedb_splits(columns, weights, 0).unwrap_err().to_string()
        };
        assert!(message(&[], &[1]).contains("at least one column"));
        assert!(message(&[Arc::clone(&ids)], &[]).contains("at least one split weight"));
        assert!(message(&[Arc::clone(&ids)], &[1, 0]).contains("greater than 0"));
        assert!(message(&[ids], &[u64::MAX, 1]).contains("less than 2^64"));
    }

    #[test]
    fn a_hash_depends_on_values_not_on_their_encoding() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![Some(5), None, Some(-1)]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None, Some(-1)]));
        assert_eq!(hashes(vec![narrow]), hashes(vec![Arc::clone(&wide)]));
        let time: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(vec![Some(5), None, Some(-1)]));
        assert_eq!(hashes(vec![wide]), hashes(vec![time]));
        let strings = ["a", "b", "a"];
        let plain: ArrayRef = Arc::new(StringArray::from_iter_values(strings));
        let large: ArrayRef = Arc::new(LargeStringArray::from_iter_values(strings));
        let coded: DictionaryArray<Int32Type> = strings.into_iter().collect();
        assert_eq!(hashes(vec![Arc::clone(&plain)]), hashes(vec![large]));
        assert_eq!(hashes(vec![plain]), hashes(vec![Arc::new(coded)]));
        let single: ArrayRef = Arc::new(Float32Array::from(vec![0.5, -0.0, f32::NAN]));
        let double: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 0.0, -f64::NAN]));
        assert_eq!(hashes(vec![single]), hashes(vec![double]));
    }

    #[test]
    fn views_and_nulls_are_hashed_as_what_they_stand_for() {
        let strings = [Some("a"), None, Some("a text too long to lie in a view")];
        let bytes = strings.map(|text| text.map(str::as_bytes));
        let plain: ArrayRef = Arc::new(StringArray::from(strings.to_vec()));
        let text_view: ArrayRef = Arc::new(StringViewArray::from(strings.to_vec()));
        let view: ArrayRef = Arc::new(BinaryViewArray::from(bytes.to_vec()));
        let keys = Int32Array::from(vec![Some(0), Some(1), Some(2)]);
        let coded = DictionaryArray::new(keys, Arc::clone(&text_view));
        let wanted = hashes(vec![plain]);
        assert_eq!(hashes(vec![text_view]), wanted);
        assert_eq!(hashes(vec![view]), wanted);
        assert_eq!(hashes(vec![Arc::new(coded)]), wanted);
        let nulls: ArrayRef = Arc::new(NullArray::new(2));
        let all_null: ArrayRef = Arc::new(Int32Array::from(vec![None, None]));
        assert_eq!(hashes(vec![nulls]), hashes(vec![all_null]));
    }

    #[test]
    fn lancedb_tells_zeros_apart_and_stable_hashes_do_not() {
        let zeros: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0]));
        let splits = lancedb_splits(&[Arc::clone(&zeros)], &[1; 1000], 0).unwrap();
        assert_ne!(splits[0], splits[1]);
        let equal = hashes(vec![zeros]);
        assert_eq!(equal[0], equal[1]);
    }

    #[test]
    fn hashes_are_pinned() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), None]));
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("ab"), Some(""), Some("c")]));
        assert_eq!(
            hashes(vec![Arc::clone(&ids)]),
            [8_605_392_194_411_325_833, 10_248_326_681_473_913_029, 3_190_143_244_639_781_093]
        );
        assert_eq!(
            hashes(vec![ids, names]),
            [17_426_832_103_293_634_151, 4_339_612_841_436_732_519, 12_351_966_351_264_021_347]
        );
    }

    #[test]
    fn columns_do_not_run_into_each_other() {
        let strings =
            |values: [&str; 2]| Arc::new(StringArray::from_iter_values(values)) as ArrayRef;
        let rows = hashes(vec![strings(["ab", "a"]), strings(["c", "bc"])]);
        assert_ne!(rows[0], rows[1]);
    }

    #[test]
    fn nested_types_have_no_hash() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
        let error = stable_hashes(&[Arc::new(lists)], 1, 0).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}
