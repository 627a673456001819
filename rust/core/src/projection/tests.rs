use super::*;
use arrow_array::types::Int64Type;
use arrow_array::{Int32Array, StructArray, UInt64Array};

fn table() -> Schema {
    let inner = Field::new(
        "inner",
        DataType::Struct(vec![Field::new("x", DataType::Int32, false)].into()),
        false,
    );
    let dotted = Field::new("a.b", DataType::Int32, true);
    let meta =
        DataType::Struct(vec![Field::new("width", DataType::Int32, false), inner, dotted].into());
    let metadata = [("owner".to_string(), "us".to_string())].into();
    Schema::new_with_metadata(
        vec![
            Field::new("id", DataType::Int32, false),
            Field::new("meta", meta, true),
            Field::new("top.dotted", DataType::Int32, true),
        ],
        metadata,
    )
}

fn project(columns: &[&str]) -> Result<Projection> {
    Projection::new(&table(), columns.iter().map(|&name| (name, name)))
}

fn path(source: &str) -> Vec<String> {
    match &project(&[source]).unwrap().outputs[0] {
        Source::Column(path) => path.clone(),
        system => panic!("{system:?}"),
    }
}

#[test]
fn names_reach_through_structs() {
    assert_eq!(path("meta.width"), ["meta", "width"]);
    assert_eq!(path("meta.inner.x"), ["meta", "inner", "x"]);
    assert_eq!(path("meta.a.b"), ["meta", "a.b"]);
    assert_eq!(path("top.dotted"), ["top.dotted"]);
    for wrong in ["meta.", "meta.inner.y", "meta.width.x", "id.x", "Meta.width", "", "."] {
        let error = project(&[wrong]).unwrap_err();
        assert!(matches!(&error, Error::NoColumn { name, .. } if name == wrong), "{error}");
    }
}

#[test]
fn columns_come_out_as_asked_with_names_types_and_metadata() {
    let columns = [("offset", ROW_OFFSET), ("w", "meta.width"), ("id", "id"), (ROW_ID, ROW_ID)];
    let projection = Projection::new(&table(), columns).unwrap();
    let schema = projection.schema();
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["offset", "w", "id", "_rowid"]);
    assert!(schema.field(1).is_nullable(), "the struct around it is");
    assert!(!schema.field(2).is_nullable());
    assert_eq!(schema.metadata()["owner"], "us");
    assert!(projection.wants(&Source::RowId) && !projection.wants(&Source::RowAddress));
}

#[test]
fn signed_batches_differ_in_the_columns_of_every_table_only() {
    let table = Schema::new(vec![
        Field::new("n", DataType::UInt64, false),
        Field::new(ROW_ID, DataType::UInt64, false),
    ]);
    let columns = [("n", "n"), ("at", ROW_OFFSET), ("found", ROW_ID)];
    let projection = Projection::new(&table, columns).unwrap();
    let read: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![u64::MAX, 5])),
        Arc::new(UInt64Array::from(vec![3, 4])),
    ];
    let read = RecordBatch::try_new(Arc::new(table), read).unwrap();
    let rows = |_: &Source| Ok(Arc::new(UInt64Array::from(vec![7, 8])) as ArrayRef);
    let whole = projection.assemble(&read, rows).unwrap();
    let signed = projection.signed(&whole).unwrap();
    assert_eq!(signed.schema(), projection.signed_schema());
    assert_eq!(signed.column(0), whole.column(0));
    assert_eq!(signed.column(1).as_primitive::<Int64Type>().values().as_ref(), [7, 8]);
    assert_eq!(signed.column(2).as_primitive::<Int64Type>().values().as_ref(), [3, 4]);
}

#[test]
fn nothing_is_read_twice() {
    let projection = project(&["meta.inner.x", "id", "meta.inner", "meta.width", "id"]).unwrap();
    let paths = projection.paths();
    let joined: Vec<String> = paths.iter().map(|path| path.join("/")).collect();
    assert_eq!(joined, ["id", "meta/inner", "meta/width"]);
    assert_eq!(project(&["meta.width", "meta"]).unwrap().paths().len(), 1);
}

#[test]
fn a_null_struct_makes_its_fields_null() {
    let x: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let width = Field::new("width", DataType::Int32, false);
    let nulls = Some(NullBuffer::from(vec![true, false, true]));
    let meta = StructArray::new(vec![width].into(), vec![x], nulls);
    let field = Field::new("meta", meta.data_type().clone(), true);
    let table = Schema::new(vec![field]);
    let read = RecordBatch::try_new(Arc::new(table.clone()), vec![Arc::new(meta)]).unwrap();
    let projection = Projection::new(&table, [("w", "meta.width"), ("at", ROW_OFFSET)]).unwrap();
    let rows = |_: &Source| Ok(Arc::new(UInt64Array::from(vec![7, 8, 9])) as ArrayRef);
    let batch = projection.assemble(&read, rows).unwrap();
    assert_eq!(
        batch.column(0).as_primitive::<arrow_array::types::Int32Type>(),
        &Int32Array::from(vec![Some(1), None, Some(3)])
    );
    assert_eq!(batch.num_rows(), 3);
}

#[test]
fn columns_are_found_in_batches_of_several_schemas() {
    let projection = Projection::new(&table(), [("a", "id"), ("b", "top.dotted")]).unwrap();
    let batch = |names: &[&str]| {
        let fields = names.iter().map(|name| Field::new(*name, DataType::Int32, true));
        let values = |(_, at): (&&str, i32)| Arc::new(Int32Array::from(vec![at])) as ArrayRef;
        let columns = names.iter().zip(0..).map(values).collect();
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns).unwrap()
    };
    let values = |read: &RecordBatch| {
        let found = projection.assemble(read, |_| unreachable!()).unwrap();
        let value =
            |column: &ArrayRef| column.as_primitive::<arrow_array::types::Int32Type>().value(0);
        found.columns().iter().map(value).collect::<Vec<_>>()
    };
    let (one, other) = (batch(&["id", "top.dotted"]), batch(&["top.dotted", "x", "id", "id"]));
    for _ in 0..2 {
        assert_eq!(values(&one), [0, 1]);
        assert_eq!(values(&other), [2, 0]);
    }
    let error = projection.assemble(&batch(&["id"]), |_| unreachable!()).unwrap_err();
    assert_eq!(error.to_string().matches("top.dotted was not read").count(), 1, "{error}");
}

fn buffers(data: &arrow_data::ArrayData, found: &mut Vec<*const u8>) {
    let nulls = data.nulls().map(NullBuffer::buffer);
    found.extend(data.buffers().iter().chain(nulls).map(arrow_buffer::Buffer::as_ptr));
    data.child_data().iter().for_each(|child| buffers(child, found));
}

fn buffers_of(column: &ArrayRef) -> Vec<*const u8> {
    let mut found = Vec::new();
    buffers(&column.to_data(), &mut found);
    found
}

#[test]
fn columns_that_come_out_twice_share_nothing() {
    let meta = table().field(1).clone();
    let (id, top) = (Int32Array::from(vec![1, 2]), Int32Array::from(vec![Some(5), None]));
    let width: ArrayRef = Arc::new(Int32Array::from(vec![7, 8]));
    let DataType::Struct(fields) = meta.data_type() else { panic!("{meta}") };
    let DataType::Struct(inner) = fields[1].data_type() else { panic!("{fields:?}") };
    let inner = StructArray::new(inner.clone(), vec![Arc::clone(&width)], None);
    let dotted: ArrayRef = Arc::new(Int32Array::from(vec![None, Some(1)]));
    let children =
        vec![Arc::new(Int32Array::from(vec![3, 4])) as ArrayRef, Arc::new(inner), dotted];
    let meta = StructArray::new(fields.clone(), children, None);
    let columns: Vec<ArrayRef> = vec![Arc::new(id), Arc::new(meta), Arc::new(top)];
    let read = RecordBatch::try_new(Arc::new(table()), columns).unwrap();

    let schema = read.schema();
    let known = by_name(&schema);
    let place = |source| indexes(&schema, &known, &path(source)).unwrap();
    let names = ["meta.inner.x", "id", "meta", "top.dotted", "meta.inner", "meta.width"];
    let columns = names.iter().map(|&name| (name, name));
    let columns = columns.chain([("again", "id"), ("once more", "id"), ("m", "meta")]);
    let batch = Projection::new(&table(), columns).unwrap();
    let batch = batch.assemble(&read, |_| unreachable!()).unwrap();
    for (name, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let source = match name.name().as_str() {
            "again" | "once more" => "id",
            "m" => "meta",
            name => name,
        };
        let alone = Projection::new(&table(), [("it", source)]).unwrap();
        let wanted = alone.assemble(&read, |_| unreachable!()).unwrap();
        assert_eq!(column, wanted.column(0), "{name}");
        assert_eq!(
            buffers_of(wanted.column(0)),
            buffers_of(&extract(&read, &path(source), &place(source)).unwrap())
        );
    }
    let mut found = Vec::new();
    batch.columns().iter().for_each(|column| buffers(&column.to_data(), &mut found));
    let num_buffers = found.len();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), num_buffers);
}

#[test]
fn a_batch_without_columns_still_counts_its_rows() {
    let projection = project(&[]).unwrap();
    let read = batch(Arc::new(Schema::empty()), vec![], 5).unwrap();
    let out = projection.assemble(&read, |_| unreachable!()).unwrap();
    assert_eq!((out.num_rows(), out.num_columns()), (5, 0));
}
