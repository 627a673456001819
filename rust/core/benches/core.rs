//! Benchmarks of what needs no files: the stages order, plan, unpack and gather, and a loader from end to
//! end over packed rows in memory.
//!
//! Reading tables from files is measured by `benches/loader.py`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::types::Float32Type;
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int64Array, PrimitiveArray, RecordBatch,
    StringArray,
};
use arrow_schema::{DataType, Field};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use lanceloader_core::gather::gather;
use lanceloader_core::loader::Loader;
use lanceloader_core::order::{BitmapBuilder, Order, Purpose, Tail, Weighted, choose, shard};
use lanceloader_core::packed::{Heads, PackedRows, Packing};
use lanceloader_core::plan::{FragmentRows, Layout, Plan, plan};
use lanceloader_core::projection::Projection;
use lanceloader_core::read::{MemoryTable, Options, Reader, Strategy};
use lanceloader_core::recycled::Recycled;
use memmap2::{Advice, MmapMut};

/// As a process that loads has it.
#[global_allocator]
static ALLOCATOR: Recycled = Recycled::new();

/// Positions evaluated at a time: 64 KiB of offsets, so that the allocator stays out of the figure.
const RUN: u64 = 8192;
/// Sizes of the orders measured.
const ROWS: [u64; 6] =
    [1_000_000, (1 << 22) + 1, 5_000_000, (1 << 30) + 1, 1_000_000_000_000, 1 << 40];
/// A batch of the table that `plan` and `gather` are measured on.
const BATCH: u64 = 1024;
const FRAGMENTS: u32 = 5;
const FRAGMENT_ROWS: u32 = 1_000_000;
/// Bytes of packed rows: far beyond any cache.
const PACKED_BYTES: usize = 1 << 30;
/// Batches of packed rows: as many other rows are read before one is read again.
const PACKED_BATCHES: u64 = 1024;
/// Bytes of the tables that a loader reads.
const LOADED_BYTES: usize = 512 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(40)
        .configure_from_args();
    orders(&mut criterion);
    others(&mut criterion);
    filters(&mut criterion);
    plans(&mut criterion);
    unpacks(&mut criterion);
    gathers(&mut criterion);
    loads(&mut criterion);
    criterion.final_summary();
}

/// A shuffled order, bulk in both directions; just above a power of two, a network over the next one
/// would walk the most.
fn orders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("order");
    for num_rows in ROWS {
        let order = shuffled(num_rows, 0);
        let start = num_rows / 2;
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(RUN));
        group.bench_function(BenchmarkId::new("offsets of a run", num_rows), |bench| {
            bench.iter(|| order.offsets(black_box(start..start + RUN)).expect("in bounds"));
        });
        group.bench_function(BenchmarkId::new("positions of a run", num_rows), |bench| {
            bench.iter(|| {
                out.clear();
                order.positions_of(black_box(start..start + RUN), &mut out).expect("it fits");
            });
        });

        // What a DataLoader asks for: the positions are already random.
        let positions = random(num_rows, BATCH);
        group.throughput(Throughput::Elements(BATCH));
        group.bench_function(BenchmarkId::new("resolve a batch", num_rows), |bench| {
            bench.iter(|| {
                let mut offsets = positions.clone();
                order.resolve(black_box(&mut offsets)).expect("in bounds");
                offsets
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("another epoch of 10¹² rows", |bench| {
        bench.iter(|| shuffled(1_000_000_000_000, black_box(3)));
    });
    group.bench_function("a shard of a split of another epoch of 10¹² rows", |bench| {
        let order = Order::all(1_000_000_000_000);
        bench.iter(|| {
            let split = order.shuffled_for(Purpose::Split, 7, 0, 1).and_then(|order| {
                order.slice(200_000_000_000, 800_000_000_000)?.shuffled(7, black_box(3), 1)
            });
            let rest = split.and_then(|split| shard(&split, 5, 8, Tail::Drop));
            rest.and_then(|rest| rest.slice(12_345, rest.len() - 12_345)).expect("in bounds")
        });
    });
    group.finish();
}

/// What is not the exact shuffle: clumps, windows, and draws by weight.
fn others(criterion: &mut Criterion) {
    let rows = Order::all(1_000_000);
    let weight = |row| f64::from((mixed(row) >> 32) as u32);
    let weights: Vec<f64> = (0..1_000_000).map(weight).collect();
    let weighted = Weighted::by_row(&weights, 7, 0).expect("weights above 0");
    let classes: Vec<u32> = (0..1_000_000).map(|row| row % 1000).collect();
    let balanced = Weighted::by_class(&classes, None, 7, 0).expect("no class is empty");
    let orders = [
        ("clumps of 64", rows.shuffled(7, 0, 64)),
        ("windows of 64 blocks of 1024", rows.windowed(7, 0, 1024, 64)),
        ("draws by weight", Ok(Order::draws(weighted, 1 << 40))),
        ("draws by class", Ok(Order::draws(balanced, 1 << 40))),
    ];
    let mut group = criterion.benchmark_group("other orders of 1,000,000");
    for (name, order) in orders {
        let order = order.expect("sizes above 0");
        let start = 500_000;
        group.throughput(Throughput::Elements(RUN));
        group.bench_function(BenchmarkId::new("offsets of a run", name), |bench| {
            bench.iter(|| order.offsets(black_box(start..start + RUN)).expect("in bounds"));
        });
    }
    group.throughput(Throughput::Elements(1_000_000));
    group.bench_function("weights of 1,000,000 to a table", |bench| {
        bench.iter(|| Weighted::by_row(black_box(&weights), 7, 0).expect("weights above 0"));
    });
    group.bench_function("1,000 of 1,000,000 by weight, none twice", |bench| {
        bench.iter(|| choose(black_box(&weights), 1000, 7, 0).expect("weights above 0"));
    });
    group.finish();
}

/// The rows of a filter, a random half of 10⁸: as they stand, and shuffled.
fn filters(criterion: &mut Criterion) {
    let mut builder = BitmapBuilder::default();
    let half = (0..100_000_000_u64).filter(|row| mixed(*row) >> 63 == 1);
    half.for_each(|row| builder.push(row));
    let rows = Order::bitmap(builder.finish());
    assert!(rows.num_bytes() <= 16 << 20, "{} bytes", rows.num_bytes());
    let mut group = criterion.benchmark_group("filter");
    let shuffled = rows.shuffled(7, 0, 1).expect("clumps of one row");
    // Another run each time: one by itself would stay in the caches.
    let starts = random(rows.len() - RUN, 1024);
    let mut starts = starts.iter().cycle().map(|start| black_box(*start));
    let mut run = || starts.next().map(|start| start..start + RUN).expect("a cycle");
    for (name, order) in [("as they stand", rows), ("shuffled", shuffled)] {
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(RUN));
        group.bench_function(BenchmarkId::new("offsets of a run", name), |bench| {
            bench.iter(|| order.offsets(run()).expect("in bounds"));
        });
        group.bench_function(BenchmarkId::new("positions of a run", name), |bench| {
            bench.iter(|| {
                out.clear();
                order.positions_of(run(), &mut out).expect("it fits");
            });
        });
    }
    group.finish();
}

/// One batch of a table of five fragments.
fn plans(criterion: &mut Criterion) {
    let layout = layout();
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(BATCH));
    let mut offsets = random(layout.num_rows(), BATCH);
    group.bench_function("random offsets", |bench| {
        bench.iter(|| plan(&layout, black_box(&offsets)).expect("in bounds"));
    });
    offsets.sort_unstable();
    group.bench_function("ascending offsets", |bench| {
        bench.iter(|| plan(&layout, black_box(&offsets)).expect("in bounds"));
    });
    group.finish();
}

/// One batch of random rows from packed rows, as of a table that is held in memory.
fn unpacks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unpack");
    unpack(&mut group, "18 columns", BATCH, &narrow(1 << 16));
    unpack(&mut group, "vectors of 768 float32", 256, &vectors(1 << 12));
    unpack(&mut group, "texts of 100 to 2,000 bytes", BATCH, &texts(1 << 13));
    group.finish();
}

fn unpack(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, batch: u64, block: &RecordBatch) {
    let packing = Packing::new(&block.schema()).expect("columns that can be packed");
    let mut rows = PackedRows::default();
    packing.pack(block, &mut rows).expect("short values");
    let bytes = [rows.heads.as_slice(), rows.tails.as_slice()].concat();
    // The same block over and over, with the huge pages that a block in memory asks for.
    let blocks = PACKED_BYTES / bytes.len();
    let mut memory = MmapMut::map_anon(blocks * bytes.len()).expect("memory");
    let _ = memory.advise(Advice::HugePage);
    memory.chunks_exact_mut(bytes.len()).for_each(|copy| copy.copy_from_slice(&bytes));
    let blocks: Vec<(&[u8], &[u8])> =
        memory.chunks_exact(bytes.len()).map(|copy| copy.split_at(rows.heads.len())).collect();
    let num_rows = blocks.len() as u64 * rows.num_rows as u64;
    let offsets = random(num_rows, num_rows.min(batch * PACKED_BATCHES));
    let mut batches = offsets.chunks_exact(usize::try_from(batch).expect("a few rows")).cycle();
    let columns: Vec<usize> = (0..block.num_columns()).collect();
    group.throughput(Throughput::Elements(batch));
    group.bench_function(name, |bench| {
        bench.iter(|| {
            let offsets = batches.next().expect("a cycle");
            let mut found = Heads::with_capacity(offsets.len());
            for &offset in offsets {
                let row = usize::try_from(offset).expect("a place in memory");
                let (heads, tails) = blocks[row / rows.num_rows];
                let start = row % rows.num_rows * packing.stride();
                found.heads.push(&heads[start..start + packing.stride()]);
                found.tails.push(tails);
            }
            packing.unpack(&found, &rows.bits_set, &columns).expect("it fits")
        });
    });
}

/// One batch of shuffled rows as a training loop gets it: a loader's threads take it from packed rows in
/// memory, ahead of who asks.
fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loader over packed rows");
    load(&mut group, "18 columns", BATCH, narrow, 1 << 16);
    load(&mut group, "vectors of 768 float32", 256, vectors, 1 << 12);
    load(&mut group, "texts of 100 to 2,000 bytes", BATCH, texts, 1 << 13);
    group.finish();
}

fn load(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    batch: u64,
    block: fn(usize) -> RecordBatch,
    block_rows: usize,
) {
    let block = block(block_rows);
    let blocks = vec![block.clone(); LOADED_BYTES / block.get_array_memory_size()];
    let num_rows = (blocks.len() * block_rows) as u64;
    let schema = block.schema();
    let fields = schema.fields().iter();
    let names: Vec<(&str, &str)> =
        fields.map(|field| (field.name().as_str(), field.name().as_str())).collect();
    let table = MemoryTable::new(Arc::clone(&schema), blocks, None).expect("blocks of one schema");
    let projection = Projection::new(table.schema(), names).expect("columns of the table");
    let options = Options { strategy: Some(Strategy::Resident), ..Options::default() };
    let reader = Reader::of_memory(&Arc::new(table), projection, options).expect("its columns");
    let batch_size = usize::try_from(batch).expect("a few rows");
    let epoch = |epoch| {
        Loader::new(reader.clone(), shuffled(num_rows, epoch), batch_size, true).expect("a loader")
    };
    // The first epoch waits until all rows are packed.
    let mut first = epoch(0);
    while first.next_batch().expect("rows in memory").is_some() {}
    let is_packed = reader.stats().fill_nanos > 0;
    assert!(is_packed, "{:?}", reader.stats());
    let (mut loader, mut epochs) = (epoch(1), 2..);
    group.throughput(Throughput::Elements(batch));
    group.bench_function(name, |bench| {
        bench.iter(|| {
            loop {
                if let Some(batch) = loader.next_batch().expect("rows in memory") {
                    return batch;
                }
                loader = epoch(epochs.next().expect("no end"));
            }
        });
    });
}

/// One batch from blocks that hold its rows in another order, as a read from files leaves them.
fn gathers(criterion: &mut Criterion) {
    let layout = layout();
    let mut group = criterion.benchmark_group("gather");
    measure(&mut group, "18 columns", &layout, BATCH, narrow);
    measure(&mut group, "vectors of 768 float32", &layout, 256, vectors);
    measure(&mut group, "texts of 100 to 2,000 bytes", &layout, BATCH, texts);
    group.finish();
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    layout: &Layout,
    batch: u64,
    block: fn(usize) -> RecordBatch,
) {
    let Plan { reads, rows } = plan(layout, &random(layout.num_rows(), batch)).expect("in bounds");
    let blocks: Vec<RecordBatch> = reads.iter().map(|read| block(read.num_rows)).collect();
    let schema = blocks[0].schema();
    group.throughput(Throughput::Elements(batch));
    group.bench_function(name, |bench| {
        bench.iter(|| gather(&schema, black_box(&blocks), true, &rows).expect("it fits"));
    });
}

fn shuffled(num_rows: u64, epoch: u64) -> Order {
    Order::all(num_rows).shuffled(7, epoch, 1).expect("clumps of one row")
}

/// The first `count` of the numbers below `num_rows`, shuffled.
fn random(num_rows: u64, count: u64) -> Vec<u64> {
    shuffled(num_rows, 1).offsets(0..count).expect("in bounds")
}

/// Bits that are random enough for a filter.
fn mixed(row: u64) -> u64 {
    let mixed = row.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn layout() -> Layout {
    let fragment = |id| FragmentRows { id, num_places: FRAGMENT_ROWS, live: None };
    Layout::new((0..FRAGMENTS).map(fragment).collect()).expect("the ids ascend")
}

/// An id, sixteen numbers and a label.
fn narrow(num_rows: usize) -> RecordBatch {
    let integers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..).take(num_rows)));
    let names = (0..18).map(|at| format!("column {at}"));
    let columns = names.zip(0..).map(|(name, at)| match at {
        0 | 17 => (name, Arc::clone(&integers)),
        _ => (name, Arc::new(numbers(num_rows)) as ArrayRef),
    });
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn vectors(num_rows: usize) -> RecordBatch {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let vectors = FixedSizeListArray::new(item, 768, Arc::new(numbers(num_rows * 768)), None);
    RecordBatch::try_from_iter([("vector", Arc::new(vectors) as ArrayRef)]).expect("one column")
}

fn texts(num_rows: usize) -> RecordBatch {
    let text = |row| "x".repeat(100 + row * 997 % 1901);
    let texts = StringArray::from_iter_values((0..num_rows).map(text));
    RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).expect("one column")
}

fn numbers(count: usize) -> Float32Array {
    let value = |at: u16| f32::from(at);
    PrimitiveArray::<Float32Type>::from_iter_values((0..=u16::MAX).cycle().take(count).map(value))
}
