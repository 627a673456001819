use super::*;
use arrow_array::{
    BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    Float32Array, Int8Array, Int32Array, LargeBinaryArray, LargeStringArray, ListArray, NullArray,
    StringArray, StringViewArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{Field, Schema};
use proptest::prelude::*;

/// Some null, some repeated, in the range of every type used here.
fn values() -> impl Strategy<Value = Vec<Option<i8>>> {
    prop::collection::vec(prop::option::weighted(0.8, 0_i8..100), 1..12)
}

fn text(value: i8) -> String {
    "xyz".repeat(usize::try_from(value).unwrap() % 5)
}

/// The same values as a column of every type we gather.
fn columns(values: &[Option<i8>]) -> Vec<ArrayRef> {
    let texts = || values.iter().map(|v| v.map(text));
    let bytes = || values.iter().map(|v| v.map(|v| text(v).into_bytes()));
    let lists = || {
        let list = |v: i8| (0..v % 4).map(|k| (k > 0).then_some(i32::from(k + v))).collect();
        values.iter().map(move |v| v.map(list)).collect::<Vec<Option<Vec<Option<i32>>>>>()
    };
    let dense = |v: &Option<i8>| {
        Some((0..v.unwrap_or(0) % 3).map(|k| Some(i64::from(k))).collect::<Vec<_>>())
    };
    let vectors = values.iter().map(|v| v.map(|v| vec![Some(i32::from(v)), None, Some(7)]));
    let coded: DictionaryArray<Int32Type> =
        texts().collect::<Vec<_>>().iter().map(Option::as_deref).collect();
    let inner: ArrayRef = Arc::new(Int32Array::from_iter(values.iter().map(|v| v.map(i32::from))));
    let inner_field = Field::new("inner", DataType::Int32, true);
    let valid = NullBuffer::from_iter(values.iter().map(|v| v.is_some_and(|v| v % 2 == 0)));
    let floats =
        Float32Array::from_iter_values(values.iter().flat_map(|v| [f32::from(v.unwrap_or(1)); 3]));
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let shorts = values.iter().map(|v| v.map(|v| [v.unsigned_abs(), 7]));
    let shorts = FixedSizeBinaryArray::try_from_sparse_iter_with_size(shorts, 2).unwrap();
    let short = Arc::new(Field::new("item", DataType::FixedSizeBinary(2), true));
    vec![
        Arc::new(Int8Array::from(values.to_vec())),
        Arc::new(UInt64Array::from_iter(
            values.iter().map(|v| v.map(|v| u64::try_from(v).unwrap())),
        )),
        Arc::new(Float32Array::from_iter(values.iter().map(|v| v.map(f32::from)))),
        Arc::new(Decimal128Array::from_iter(values.iter().map(|v| v.map(i128::from)))),
        Arc::new(
            TimestampMicrosecondArray::from_iter(values.iter().map(|v| v.map(i64::from)))
                .with_timezone("UTC"),
        ),
        Arc::new(BooleanArray::from_iter(values.iter().map(|v| v.map(|v| v % 2 == 0)))),
        Arc::new(StringArray::from_iter(texts())),
        Arc::new(LargeStringArray::from_iter(texts())),
        Arc::new(StringViewArray::from_iter(texts())),
        Arc::new(BinaryArray::from_iter(bytes())),
        Arc::new(LargeBinaryArray::from_iter(bytes())),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                values.iter().map(|v| v.map(|v| [v.unsigned_abs(); 3])),
                3,
            )
            .unwrap(),
        ),
        Arc::new(shorts.clone()),
        Arc::new(FixedSizeListArray::new(short, 1, Arc::new(shorts), None)),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists())),
        Arc::new(GenericListArray::<i64>::from_iter_primitive::<Int64Type, _, _>(
            values.iter().map(dense),
        )),
        Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(vectors, 3)),
        Arc::new(FixedSizeListArray::new(item, 3, Arc::new(floats), None)),
        Arc::new(StructArray::new(vec![inner_field].into(), vec![inner], Some(valid))),
        Arc::new(coded),
        Arc::new(NullArray::new(values.len())),
    ]
}

fn block(values: &[Option<i8>]) -> RecordBatch {
    let columns = columns(values);
    let field = |(at, column): (usize, &ArrayRef)| {
        Field::new(at.to_string(), column.data_type().clone(), true)
    };
    let schema = Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// Without keys.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.as_any().downcast_ref::<DictionaryArray<Int32Type>>() {
        Some(coded) => arrow_select::take::take(coded.values(), coded.keys(), None).unwrap(),
        None => Arc::clone(column),
    }
}

proptest! {
    #[test]
    fn every_type_is_gathered_as_by_arrow(
        blocks in prop::collection::vec((values(), 0_usize..3), 1..4),
        picks in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..20),
    ) {
        // Sliced, so that offsets of arrays count.
        let slice = |(values, cut): &(Vec<Option<i8>>, usize)| {
            let block = block(values);
            let cut = *cut % block.num_rows();
            block.slice(cut, block.num_rows() - cut)
        };
        let blocks: Vec<RecordBatch> = blocks.iter().map(slice).collect();
        let place = |(block, row): &(prop::sample::Index, prop::sample::Index)| {
            let block = block.index(blocks.len());
            (block, row.index(blocks[block].num_rows()))
        };
        let places: Vec<Place> = picks.iter().map(place).collect();
        let schema = blocks[0].schema();
        let answer = gather(&schema, &blocks, false, &Rows::Picked(places.clone())).unwrap();
        prop_assert!(answer.is_owned);
        prop_assert_eq!(answer.batch.num_rows(), places.len());
        for (at, column) in answer.batch.columns().iter().enumerate() {
            let parts: Vec<&dyn Array> = blocks.iter().map(|b| b.column(at).as_ref()).collect();
            let wanted = arrow_select::interleave::interleave(&parts, &places).unwrap();
            prop_assert_eq!(&plain(column), &plain(&wanted), "{}", wanted.data_type());
            prop_assert!(column.to_data().validate_full().is_ok());
        }
    }
}

#[test]
fn one_block_as_read_is_shared_and_several_are_copied() {
    let one = block(&[Some(1), None]);
    let schema = one.schema();
    let shared = gather(&schema, std::slice::from_ref(&one), false, &Rows::AsRead).unwrap();
    assert!(!shared.is_owned);
    assert!(shared.to_owned().unwrap().is_owned);
    assert_eq!(shared.to_owned().unwrap().batch, one);
    assert_eq!(shared.batch, one);
    let two = gather(&schema, &[one.clone(), block(&[Some(3)])], false, &Rows::AsRead).unwrap();
    assert!(two.is_owned);
    assert_eq!(two.batch.num_rows(), 3);
    let none = gather(&schema, &[], true, &Rows::AsRead).unwrap();
    assert_eq!((none.batch.num_rows(), none.batch.num_columns()), (0, one.num_columns()));
    let none = gather(&schema, &[], true, &Rows::Picked(vec![])).unwrap();
    assert_eq!(none.batch.schema(), schema);
}

#[test]
fn strings_beyond_two_gigabytes_are_refused() {
    let text = StringArray::from(vec!["x".repeat(1 << 20)]);
    let block = RecordBatch::try_from_iter([("text", Arc::new(text) as ArrayRef)]).unwrap();
    let places = vec![(0, 0); 2048];
    let error = gather(&block.schema(), &[block], true, &Rows::Picked(places)).unwrap_err();
    assert!(error.to_string().contains("fewer rows per batch"), "{error}");
}
