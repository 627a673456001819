//! Packing and unpacking any rows gives what Arrow's `take` gives.

use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder, StructBuilder};
use arrow_array::types::{Float32Type, Int16Type, Int32Type};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, FixedSizeListArray,
    Int8Array, Int64Array, LargeListArray, LargeStringArray, ListArray, NullArray, RecordBatch,
    StringArray, StringViewArray, StructArray, UInt32Array,
};
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;

type Cell = Option<i8>;

fn int(cell: Cell) -> Option<i64> {
    cell.map(i64::from)
}

fn text(cell: Cell) -> Option<String> {
    cell.map(|value| "ab".repeat(usize::from(value.unsigned_abs() % 7)))
}

fn ints(cell: Cell) -> Option<Vec<Option<i32>>> {
    let count = cell.map(|value| i32::from(value % 5))?;
    Some((0..count).map(|at| (at % 3 != 1).then_some(at)).collect())
}

/// A column of every kind, from the same cells.
fn columns(cells: &[Cell]) -> Vec<ArrayRef> {
    let of = |array: ArrayRef| array;
    let plain: Int64Array = cells.iter().copied().map(int).collect();
    let bool: BooleanArray = cells.iter().map(|c| c.map(|v| v % 2 == 0)).collect();
    let strings: StringArray = cells.iter().copied().map(text).collect();
    let long: LargeStringArray = cells.iter().copied().map(text).collect();
    let bytes: BinaryArray = cells.iter().map(|&c| text(c).map(String::into_bytes)).collect();
    let tiny: Int8Array = cells.iter().copied().collect();
    let decimal: Decimal128Array = cells.iter().map(|c| c.map(i128::from)).collect();
    let sized = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        cells.iter().map(|c| c.map(|v| [v.unsigned_abs(), 1, 2])),
        3,
    )
    .unwrap();
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(cells.iter().copied().map(ints));
    let large =
        LargeListArray::from_iter_primitive::<Int32Type, _, _>(cells.iter().copied().map(ints));
    let vector = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
        cells.iter().map(|c| c.map(|v| vec![Some(f32::from(v)), (v % 3 != 0).then_some(0.5)])),
        2,
    );
    let whole = FixedSizeListArray::from_iter_primitive::<Int16Type, _, _>(
        cells.iter().map(|c| Some(vec![Some(i16::from(c.unwrap_or(9))); 3])),
        3,
    );
    let mut words = ListBuilder::new(StringBuilder::new());
    let mut pairs = ListBuilder::new(StructBuilder::from_fields(
        vec![Field::new("n", DataType::Int32, true), Field::new("s", DataType::Utf8, true)],
        0,
    ));
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    for &cell in cells {
        for value in ints(cell).unwrap_or_default() {
            words.values().append_option(value.map(|v| "w".repeat(usize::try_from(v).unwrap())));
            let pair = pairs.values();
            pair.field_builder::<Int32Builder>(0).unwrap().append_option(value);
            let word = value.map(|v| v.to_string());
            pair.field_builder::<StringBuilder>(1).unwrap().append_option(word);
            pair.append(value.is_some_and(|v| v != 2));
            map.keys().append_value(format!("{value:?}"));
            map.values().append_option(value);
        }
        words.append(cell.is_some());
        pairs.append(cell.is_some());
        map.append(cell.is_some()).unwrap();
    }
    let inner = Field::new("inner", DataType::Utf8, true);
    let other = Field::new("other", DataType::Boolean, true);
    let nulls = NullBuffer::from_iter(cells.iter().map(|c| c.is_none_or(|v| v % 4 != 0)));
    let structs = StructArray::new(
        vec![inner, other].into(),
        vec![Arc::new(strings.clone()), Arc::new(bool.clone())],
        Some(nulls),
    );
    vec![
        of(Arc::new(plain)),
        Arc::new(bool),
        Arc::new(strings),
        Arc::new(long),
        Arc::new(bytes),
        Arc::new(tiny),
        Arc::new(decimal.with_precision_and_scale(20, 2).unwrap()),
        Arc::new(sized),
        Arc::new(list),
        Arc::new(large),
        Arc::new(vector),
        Arc::new(whole),
        Arc::new(words.finish()),
        Arc::new(pairs.finish()),
        Arc::new(map.finish()),
        Arc::new(structs),
        Arc::new(NullArray::new(cells.len())),
    ]
}

use arrow_buffer::NullBuffer;

fn batch(cells: &[Cell], picked: &[usize]) -> RecordBatch {
    let all = columns(cells);
    let columns: Vec<ArrayRef> =
        picked.iter().map(|&at| Arc::clone(&all[at % all.len()])).collect();
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| Field::new(format!("c{at}"), column.data_type().clone(), true))
        .collect();
    crate::projection::batch(Arc::new(Schema::new(fields)), columns, cells.len()).unwrap()
}

fn heads<'a>(packing: &Packing, rows: &'a PackedRows, places: &[usize]) -> Heads<'a> {
    let stride = packing.stride();
    Heads {
        heads: places.iter().map(|&row| &rows.heads[row * stride..(row + 1) * stride]).collect(),
        tails: places.iter().map(|_| rows.tails.as_slice()).collect(),
    }
}

proptest! {
    #[test]
    fn any_rows_come_back_in_any_order(
        cells in prop::collection::vec(prop::option::weighted(0.8, 0_i8..100), 1..200),
        picked in prop::collection::vec(0_usize..17, 0..20),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
        cut in any::<prop::sample::Index>(),
        subset in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let batch = batch(&cells, &picked);
        let packing = Packing::new(&batch.schema()).unwrap();
        let mut rows = PackedRows::default();
        // In two parts, the second one sliced: offsets that are not 0.
        let cut = cut.index(cells.len());
        packing.pack(&batch.slice(0, cut), &mut rows).unwrap();
        packing.pack(&batch.slice(cut, cells.len() - cut), &mut rows).unwrap();
        prop_assert_eq!(rows.num_rows, cells.len());
        let places: Vec<usize> = places.iter().map(|at| at.index(cells.len())).collect();
        let wanted: Vec<usize> = if picked.is_empty() {
            Vec::new()
        } else {
            subset.iter().map(|at| at.index(picked.len())).collect()
        };
        let all: Vec<usize> = (0..picked.len()).collect();
        let indices = UInt32Array::from_iter_values(places.iter().map(|&at| u32::try_from(at).unwrap()));
        for wanted in [&all, &wanted] {
            let distinct: std::collections::HashSet<_> = wanted.iter().collect();
            if distinct.len() < wanted.len() {
                continue;
            }
            let heads = heads(&packing, &rows, &places);
            let found = packing.unpack(&heads, &rows.bits_set, wanted).unwrap();
            for (column, &at) in found.iter().zip(wanted.iter()) {
                let right = arrow_select::take::take(batch.column(at), &indices, None).unwrap();
                prop_assert_eq!(column.as_ref(), right.as_ref(), "{}", batch.schema().field(at));
                prop_assert_eq!(column.logical_null_count(), right.logical_null_count());
                column.to_data().validate_full().unwrap();
            }
        }
    }
}

use arrow_array::Array;

#[test]
fn a_matrix_is_the_columns_side_by_side() {
    let cells: Vec<Cell> = (0..50).map(Some).collect();
    let batch = batch(&cells, &[0, 0, 2, 0]);
    let packing = Packing::new(&batch.schema()).unwrap();
    let mut rows = PackedRows::default();
    packing.pack(&batch, &mut rows).unwrap();
    let heads = heads(&packing, &rows, &[7, 3]);
    let values = packing.unpack_matrix(&heads, &[0, 3, 1]).unwrap();
    assert_eq!(values.typed_data::<i64>(), [7, 7, 7, 3, 3, 3]);
    assert!(packing.unpack_matrix(&heads, &[0, 2]).is_none(), "strings have no width");
}

#[test]
fn heads_are_as_small_as_their_values() {
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    let packing = |fields: Vec<Field>| Packing::new(&Arc::new(Schema::new(fields))).unwrap();
    let narrow = packing(vec![
        field("id", DataType::Int64, false),
        field("x", DataType::Float32, true),
        field("ok", DataType::Boolean, true),
    ]);
    assert_eq!((narrow.stride(), narrow.num_bits(), narrow.has_tails()), (13, 3, false));
    let text = packing(vec![field("t", DataType::Utf8, false)]);
    assert_eq!((text.stride(), text.has_tails()), (12, true));
    assert_eq!(packing(vec![]).stride(), 0);
}

#[test]
fn what_cannot_be_packed_is_named() {
    let views = StringViewArray::from(vec!["a"]);
    let schema = Schema::new(vec![Field::new("v", views.data_type().clone(), false)]);
    let error = Packing::new(&Arc::new(schema)).unwrap_err().to_string();
    assert!(error.contains("column `v` of type Utf8View cannot be packed"), "{error}");
}
