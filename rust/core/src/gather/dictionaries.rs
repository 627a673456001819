//! Columns of dictionaries: keys that say which value each row has.
//!
//! Readers of Arrow want values of a dictionary to be unlike each other; pandas insists. So where blocks
//! bring different ones, those are made one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::ArrowDictionaryKeyType;
use arrow_array::{Array, ArrayRef, DictionaryArray, PrimitiveArray};
use arrow_buffer::ArrowNativeType;
use arrow_data::ArrayData;
use arrow_schema::DataType;

use super::flat::{Place, bug, gather_flat, interleave, nulls};
use crate::error::{Error, Result};

/// Gathers one column of dictionaries with keys of type `K`.
///
/// The values are those of all blocks, if they all have the same, which costs nothing. Else they are the
/// values of all blocks, each once, or if these are more than rows, or more than keys, those that the
/// rows have.
pub(super) fn dictionaries<K: ArrowDictionaryKeyType>(
    parts: &[&ArrayRef],
    places: &[Place],
) -> Result<ArrayRef> {
    let all: Vec<&DictionaryArray<K>> = parts.iter().map(|part| part.as_dictionary()).collect();
    let old: Vec<&[K::Native]> = all.iter().map(|part| &**part.keys().values()).collect();
    let key_of = |&(block, row): &Place| old[block][row];
    let nulls = nulls(parts, places);
    let (keys, values): (Vec<K::Native>, ArrayRef) = if have_same_values(&all) {
        (places.iter().map(key_of).collect(), Arc::clone(all[0].values()))
    } else {
        let data: Vec<ArrayData> = all.iter().map(|part| part.values().to_data()).collect();
        let cells = all.iter().zip(&data).map(|(part, data)| cells(part.values(), data));
        let Some(cells) = cells.collect() else {
            return interleave(parts, places);
        };
        let mut unique = Unique { cells, keys: HashMap::new(), values: Vec::new() };
        let lens = all.iter().map(|part| part.values().len());
        let num_values: usize = lens.clone().sum();
        if num_values <= places.len() && K::Native::from_usize(num_values).is_some() {
            for (block, len) in lens.enumerate() {
                (0..len).try_for_each(|value| unique.key((block, value)).map(drop))?;
            }
        }
        let is_valid = |at| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(at));
        let key = |(at, place): (usize, &Place)| {
            if is_valid(at) {
                unique.key((place.0, key_of(place).as_usize()))
            } else {
                Ok(K::Native::default())
            }
        };
        let keys = places.iter().enumerate().map(key).collect::<Result<_>>()?;
        let values: Vec<&ArrayRef> = all.iter().map(|part| part.values()).collect();
        (keys, gather_flat(&values, &unique.values)?)
    };
    let keys = PrimitiveArray::<K>::try_new(keys.into(), nulls).map_err(bug)?;
    Ok(Arc::new(DictionaryArray::try_new(keys, values).map_err(bug)?))
}

fn have_same_values<K: ArrowDictionaryKeyType>(parts: &[&DictionaryArray<K>]) -> bool {
    let (first, others) = parts.split_first().expect("a column has at least one block");
    let first = first.values();
    others.iter().all(|part| Arc::ptr_eq(part.values(), first) || part.values() == first)
}

/// The values of several blocks, each once.
struct Unique<'a, N> {
    cells: Vec<Cells<'a>>,
    keys: HashMap<Option<&'a [u8]>, N>,
    /// Where the value of each key stands.
    values: Vec<Place>,
}

impl<N: ArrowNativeType> Unique<'_, N> {
    /// Returns the key of a value of a block.
    fn key(&mut self, place: Place) -> Result<N> {
        match self.keys.entry(self.cells[place.0](place.1)) {
            Entry::Occupied(entry) => Ok(*entry.get()),
            Entry::Vacant(entry) => {
                let key = N::from_usize(self.values.len()).ok_or_else(|| {
                    Error::invalid(
                        format!("more than {} values in one dictionary", self.values.len()),
                        "fewer rows per batch, or keys of more bits",
                    )
                })?;
                self.values.push(place);
                Ok(*entry.insert(key))
            }
        }
    }
}

/// Gives a value as bytes, or `None` if it is null.
type Cells<'a> = Box<dyn Fn(usize) -> Option<&'a [u8]> + 'a>;

/// Returns the values of a dictionary as bytes that differ if they do; `None` for types without such.
fn cells<'a>(values: &'a ArrayRef, data: &'a ArrayData) -> Option<Cells<'a>> {
    let bytes: Box<dyn Fn(usize) -> &'a [u8] + 'a> = match values.data_type() {
        DataType::Boolean => {
            let values = values.as_boolean();
            Box::new(|at| if values.value(at) { &[1] } else { &[0] })
        }
        DataType::Utf8 => {
            let values = values.as_string::<i32>();
            Box::new(|at| values.value(at).as_bytes())
        }
        DataType::LargeUtf8 => {
            let values = values.as_string::<i64>();
            Box::new(|at| values.value(at).as_bytes())
        }
        DataType::Utf8View => {
            let values = values.as_string_view();
            Box::new(|at| values.value(at).as_bytes())
        }
        DataType::Binary => {
            let values = values.as_binary::<i32>();
            Box::new(|at| values.value(at))
        }
        DataType::LargeBinary => {
            let values = values.as_binary::<i64>();
            Box::new(|at| values.value(at))
        }
        DataType::BinaryView => {
            let values = values.as_binary_view();
            Box::new(|at| values.value(at))
        }
        DataType::FixedSizeBinary(_) => {
            let values = values.as_fixed_size_binary();
            Box::new(|at| values.value(at))
        }
        data_type => {
            let width = data_type.primitive_width()?;
            let buffer = data.buffers().first()?.as_slice();
            let start = data.offset();
            Box::new(move |at| &buffer[(start + at) * width..(start + at + 1) * width])
        }
    };
    Some(Box::new(move |at| values.is_valid(at).then(|| bytes(at))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::{all_places, gather};
    use crate::plan::Rows;
    use arrow_array::types::Int8Type;
    use arrow_array::{
        BooleanArray, Decimal128Array, Float32Array, Int8Array, Int32Array, LargeBinaryArray,
        RecordBatch, StringArray, StringViewArray,
    };

    fn categories(keys: &[Option<i8>], values: ArrayRef) -> RecordBatch {
        let column = DictionaryArray::<Int8Type>::new(Int8Array::from(keys.to_vec()), values);
        RecordBatch::try_from_iter([("kind", Arc::new(column) as ArrayRef)]).unwrap()
    }

    fn of_texts(keys: &[Option<i8>], values: &[Option<&str>]) -> RecordBatch {
        categories(keys, Arc::new(StringArray::from(values.to_vec())))
    }

    fn gathered(blocks: &[RecordBatch], rows: &Rows) -> DictionaryArray<Int8Type> {
        let gathered = gather(&blocks[0].schema(), blocks, false, rows).unwrap();
        gathered.batch.column(0).as_dictionary().clone()
    }

    fn texts_of(values: &ArrayRef) -> Vec<Option<&str>> {
        values.as_string::<i32>().iter().collect()
    }

    #[test]
    fn dictionaries_that_differ_become_one_of_unlike_values() {
        let blocks = [
            of_texts(&[Some(0), None, Some(1)], &[Some("a"), Some("b"), None]),
            of_texts(&[Some(1), Some(0), Some(2)], &[Some("c"), Some("b"), None]),
        ];
        let texts = |column: &DictionaryArray<Int8Type>| -> Vec<Option<String>> {
            let column = column.downcast_dict::<StringArray>().unwrap();
            column.into_iter().map(|text| text.map(Into::into)).collect()
        };
        let column = gathered(&blocks, &Rows::AsRead);
        assert_eq!(texts_of(column.values()), [Some("a"), Some("b"), None, Some("c")]);
        let rows = ["a", "", "b", "b", "c", ""].map(|text| Some(text.to_string()));
        assert_eq!(texts(&column), rows.map(|text| text.filter(|text| !text.is_empty())));
        // Fewer rows than values bring those that they have.
        let column = gathered(&blocks, &Rows::Picked(vec![(1, 0), (0, 2)]));
        assert_eq!(texts_of(column.values()), [Some("b")]);
        assert_eq!(column.keys().values(), &[0, 0]);
    }

    #[test]
    fn dictionaries_of_the_same_values_are_kept() {
        let values: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "b"]));
        let blocks = [0, 2].map(|key| categories(&[Some(key)], Arc::clone(&values)));
        let column = gathered(&blocks, &Rows::AsRead);
        assert!(Arc::ptr_eq(column.values(), &values));
        assert_eq!(column.keys().values(), &[0, 2]);
        let equal = [0, 1].map(|key| of_texts(&[Some(key)], &[Some("a"), Some("b")]));
        let column = gathered(&equal, &Rows::Picked(vec![(1, 0)]));
        assert_eq!(texts_of(column.values()), [Some("a"), Some("b")]);
        assert_eq!(column.keys().values(), &[1]);
    }

    #[test]
    fn more_values_than_keys_are_those_that_rows_have_or_refused() {
        let block = |from: i32| {
            let values = Int32Array::from_iter_values(from..from + 100);
            categories(&(0..100).map(Some).collect::<Vec<_>>(), Arc::new(values))
        };
        let blocks = [block(0), block(60)];
        let some = (0..120).map(|k| (k % 2, k % 60)).collect();
        assert_eq!(gathered(&blocks, &Rows::Picked(some)).values().len(), 60);
        let blocks = [block(0), block(90)];
        let error = gather(&blocks[0].schema(), &blocks, false, &Rows::AsRead).unwrap_err();
        assert!(error.to_string().contains("more than 128 values"), "{error}");
    }

    #[test]
    fn values_of_every_kind_are_told_apart() {
        let kinds: [fn(i8) -> ArrayRef; 5] = [
            |k| Arc::new(BooleanArray::from(vec![k % 2 == 0, k % 2 != 0])),
            |k| Arc::new(Float32Array::from(vec![f32::from(k), 0.5])),
            |k| {
                Arc::new(StringViewArray::from(vec![
                    "ab".repeat(usize::from(k.unsigned_abs())),
                    "ab".repeat(9),
                ]))
            },
            |k| Arc::new(LargeBinaryArray::from_vec(vec![&[k.unsigned_abs()], &[9]])),
            |k| Arc::new(Decimal128Array::from(vec![i128::from(k), 1 << 70])),
        ];
        for values in kinds {
            let blocks = [values(1), values(2), values(1)]
                .map(|values| categories(&[Some(1), Some(0), None], values).slice(1, 2));
            let column = gathered(&blocks, &Rows::AsRead);
            let parts: Vec<ArrayRef> = blocks.iter().map(|b| Arc::clone(b.column(0))).collect();
            for (row, place) in all_places(&blocks).into_iter().enumerate() {
                let wanted = parts[place.0].as_dictionary::<Int8Type>();
                let value = |of: &DictionaryArray<Int8Type>, row| {
                    of.key(row).map(|key| of.values().slice(key, 1))
                };
                assert_eq!(value(&column, row), value(wanted, place.1));
            }
            let found = (0..column.values().len()).map(|at| column.values().slice(at, 1));
            let found: Vec<ArrayRef> = found.collect();
            for (at, value) in found.iter().enumerate() {
                assert!(!found[..at].contains(value), "{value:?} twice");
            }
        }
    }
}
