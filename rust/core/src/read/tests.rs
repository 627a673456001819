//! Whatever the strategy, the same rows come in the same order.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};
use proptest::strategy::Strategy as Generator;

use super::scan::Scan;
use super::weights::Weights;
use super::*;
use crate::error::{Error, Result};
use crate::loader::{Batches, Loader};
use crate::order::Order;
use crate::packed::Packing;
use crate::projection::{Projection, ROW_OFFSET, batch};

const COLUMNS: [(&str, &str); 3] = [("n", "n"), ("s", "s"), ("at", ROW_OFFSET)];

/// Rows without columns, read as their offsets.
pub(crate) fn offsets_reader(num_rows: usize) -> Reader {
    let schema = Arc::new(Schema::empty());
    let rows = batch(Arc::clone(&schema), vec![], num_rows).unwrap();
    let table = Arc::new(MemoryTable::new(schema, vec![rows], None).unwrap());
    let projection = Projection::new(table.schema(), [("row", ROW_OFFSET)]).unwrap();
    Reader::of_memory(&table, projection, Options::default()).unwrap()
}

/// A table of numbers and strings, some of them null, in batches of different lengths.
fn table(num_rows: usize) -> Arc<MemoryTable> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
    ]));
    let rows = |range: Range<usize>| {
        let n: Int64Array =
            range.clone().map(|row| (row % 7 != 0).then(|| i64::try_from(row).unwrap())).collect();
        let s: StringArray =
            range.map(|row| (row % 5 != 0).then(|| "x".repeat(row % 11))).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(n), Arc::new(s)];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let cut = num_rows / 3;
    let batches = vec![rows(0..cut), rows(cut..cut), rows(cut..num_rows)];
    Arc::new(MemoryTable::new(Arc::clone(&schema), batches, None).unwrap())
}

fn reader(
    num_rows: usize,
    strategy: Strategy,
    memory: u64,
    scratch: Option<&std::path::Path>,
) -> Reader {
    let table = table(num_rows);
    let projection = Projection::new(table.schema(), COLUMNS).unwrap();
    let options = Options {
        strategy: Some(strategy),
        memory_limit: Some(memory),
        scratch_folder: scratch.map(std::path::Path::to_path_buf),
        threads: Some(3),
        ..Options::default()
    };
    Reader::of_memory(&table, projection, options).unwrap()
}

fn rows(mut loader: Loader) -> Result<RecordBatch> {
    let mut batches = Vec::new();
    while let Some(gathered) = loader.next_batch()? {
        batches.push(gathered.batch);
    }
    let schema = batches[0].schema();
    Ok(arrow_select::concat::concat_batches(&schema, &batches).unwrap())
}

fn orders(num_rows: u64) -> impl Generator<Value = Order> {
    (any::<u64>(), 0..6_u8, any::<prop::sample::Index>()).prop_map(move |(seed, kind, cut)| {
        let all = Order::all(num_rows);
        let shuffled = all.shuffled(seed, 1, 1).unwrap();
        let cut = cut.index(usize::try_from(num_rows).unwrap()) as u64;
        match kind {
            0 => all,
            1 => shuffled,
            2 => shuffled.slice(cut, num_rows - cut).unwrap(),
            3 => all.shuffled(seed, 0, 3).unwrap().strided(0, 2, num_rows.div_ceil(2)).unwrap(),
            4 => shuffled.slice(0, cut + 1).unwrap().repeat(2).unwrap(),
            _ => Order::listed(shuffled.to_vec()).slice(cut, num_rows - cut).unwrap(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_strategy_serves_the_same_rows(
        order in orders(2000),
        batch_size in 1_usize..900,
        memory in 300_000_u64..900_000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let loaded = |strategy| {
            let reader = reader(2000, strategy, memory, Some(folder.path()));
            rows(Loader::new(reader, order.clone(), batch_size, false).unwrap()).unwrap()
        };
        let wanted = loaded(Strategy::Direct);
        let offsets = wanted.column(2).as_primitive::<UInt64Type>().values().to_vec();
        prop_assert_eq!(offsets, order.to_vec());
        for strategy in [Strategy::Resident, Strategy::External] {
            let found = loaded(strategy);
            prop_assert_eq!(&found, &wanted, "{:?}", strategy);
        }
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_limit_that_cannot_be_kept_says_which_could() {
    let order = Order::all(100_000).shuffled(1, 0, 1).unwrap();
    let load = |memory| {
        let reader = reader(100_000, Strategy::External, memory, None);
        rows(Loader::new(reader, order.clone(), 100, false).unwrap())
    };
    let error = load(20_000).unwrap_err().to_string();
    let least: u64 = error.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(error.contains("a memory_limit of 20000 bytes to shuffle"), "{error}");
    assert!(load(least).is_ok());
    assert!(load(10).unwrap_err().to_string().contains("a memory_limit of 10 bytes"));
    for memory in [30, 60, 100, 200, 300, 1000] {
        let reader = reader(5, Strategy::External, memory, None);
        let order = Order::all(5).shuffled(1, 0, 1).unwrap().repeat(2).unwrap();
        let _ = rows(Loader::new(reader, order, 2, false).unwrap());
    }
}

#[test]
fn scratch_that_cannot_be_written_is_done_without() {
    let order = Order::all(500).shuffled(1, 0, 1).unwrap();
    let nowhere = std::path::Path::new("/proc/nowhere");
    let reader = reader(500, Strategy::External, 1 << 20, Some(nowhere));
    let found = rows(Loader::new(reader.clone(), order.clone(), 100, false).unwrap()).unwrap();
    assert_eq!(found.column(2).as_primitive::<UInt64Type>().values().to_vec(), order.to_vec());
    let stats = reader.stats();
    assert!(stats.failure.unwrap().contains("could not write"), "it says so");
    assert_eq!((stats.rows_spilled, stats.rows_direct), (0, 500));
}

#[test]
fn the_next_epoch_is_the_right_one() {
    let reader = reader(5000, Strategy::External, 1 << 20, None);
    let order = |epoch| Order::all(5000).shuffled(1, epoch, 1).unwrap();
    for epoch in [0, 1, 2, 7, 8] {
        let loader = Loader::new(reader.clone(), order(epoch), 64, false).unwrap();
        let found = rows(loader.followed_by(order(epoch + 1))).unwrap();
        let offsets = found.column(2).as_primitive::<UInt64Type>().values().to_vec();
        assert_eq!(offsets, order(epoch).to_vec(), "epoch {epoch}");
    }
}

#[test]
fn what_was_asked_for_at_random_is_kept_after_a_while() {
    let reader = reader(5000, Strategy::Resident, 1 << 20, None);
    let offsets: Vec<u64> = Order::all(5000).shuffled(1, 0, 1).unwrap().to_vec();
    for chunk in offsets.chunks(100) {
        let found = reader.take(chunk).unwrap().batch;
        assert_eq!(found.column(2).as_primitive::<UInt64Type>().values().to_vec(), chunk);
    }
    assert!(reader.stats().rows_packed > 4000, "{:?}", reader.stats());
    assert!(reader.take(&[5000, 1]).is_err());
}

/// Strings of lengths that the files do not tell of, and a number of a row to panic at.
#[derive(Debug)]
struct Strings {
    schema: SchemaRef,
    lengths: Vec<usize>,
    weights: Weights,
    panics_at: Option<u64>,
    num_read: AtomicU64,
}

impl Strings {
    fn new(lengths: Vec<usize>) -> Self {
        let schema = Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8, false)]));
        let weights = Weights::default();
        Self { schema, lengths, weights, panics_at: None, num_read: AtomicU64::new(0) }
    }
}

impl Scan for Strings {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn num_rows(&self) -> u64 {
        self.lengths.len() as u64
    }

    fn scan(&self, offsets: Range<u64>, _keeps: bool) -> Result<Vec<RecordBatch>> {
        assert!(self.panics_at.is_none_or(|at| !offsets.contains(&at)), "on purpose");
        self.num_read.fetch_add(offsets.end - offsets.start, Ordering::Relaxed);
        let row = |at: u64| at.to_string().repeat(self.lengths[usize::try_from(at).unwrap()]);
        let column: StringArray = offsets.map(|at| Some(row(at))).collect();
        Ok(vec![RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::new(column)]).unwrap()])
    }

    fn weights(&self) -> Result<Weights> {
        Ok(self.weights.clone())
    }
}

fn limited(memory: u64) -> Options {
    Options { memory_limit: Some(memory), threads: Some(2), ..Options::default() }
}

#[test]
fn long_rows_are_looked_at_one_by_one() {
    let choice = |scan: &Strings| {
        Choice::new(scan, || Ok(Arc::new(scan.weights.clone())), &limited(1 << 20), false).unwrap()
    };
    let long = Strings::new(vec![1 << 20; 300]);
    let choice_of_long = choice(&long);
    assert_eq!(choice_of_long.strategy, Strategy::Direct);
    assert!(choice_of_long.row_bytes >= 2 << 20, "{choice_of_long:?}");
    assert!(long.num_read.load(Ordering::Relaxed) <= 5, "{long:?}");
    let short = Strings::new(vec![1; 300]);
    assert!(choice(&short).row_bytes < 32);
    assert_eq!(short.num_read.load(Ordering::Relaxed), 128);
    // Long rows that no sample meets, and one that it does.
    let mut rare = Strings::new(vec![1; 300]);
    rare.weights = Weights::new([(300, 1 << 20)]);
    assert_eq!(choice(&rare).row_bytes, 1 << 20);
    let mut one = Strings::new(vec![1; 129]);
    one.lengths[64] = 8 << 20;
    one.weights = Weights::new([(129, 200_000)]);
    assert_eq!(choice(&one).row_bytes, 200_000);
}

#[test]
fn a_limit_that_readers_share_is_named_as_it_was_set() {
    let options = Options { num_readers: 3, ..limited(1000) };
    assert_eq!((options.memory_bytes(), limited(1000).memory_bytes()), (333, 1000));
    let error = options.set_limit().unwrap().too_little("keep rows", 500, "").to_string();
    assert!(error.contains("a memory_limit of 1000 bytes, shared by 3 sets"), "{error}");
    assert!(error.ends_with("at least 1500"), "{error}");
}

#[test]
fn rows_that_turn_out_to_be_longer_are_not_kept_beyond_the_limit() {
    let sizes = |limit| resident::Sizes {
        row_bytes: 10_000,
        weights: Arc::default(),
        block_rows: 16,
        limit,
        limits_files: true,
        set_limit: limited(1 << 20).set_limit(),
    };
    let filled = |limit| {
        let scan = Arc::new(Strings::new(vec![10_000; 100]));
        let packing = Packing::new(&scan.schema).unwrap();
        let rows = Arc::new(resident::Resident::new(scan, packing, sizes(limit), None));
        rows.fill(1).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !rows.is_complete() && rows.failure().is_none() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        rows
    };
    assert!(filled(3 << 20).is_complete());
    let rows = filled(1 << 20);
    let failure = rows.failure().unwrap().to_string();
    assert!(failure.contains("a memory_limit of 1048576 bytes to keep"), "{failure}");
    assert!((1..=1 << 20).contains(&rows.kept_bytes()), "{}", rows.kept_bytes());
}

#[test]
fn a_panic_in_the_first_pass_ends_the_wait_of_others() {
    let mut scan = Strings::new(vec![1; 100_000]);
    scan.panics_at = Some(99_000);
    let order = Order::all(100_000).shuffled(1, 0, 1).unwrap();
    let sizes = (10, Arc::new(Weights::default()));
    let pool = Arc::default();
    let external =
        external::External::new(Arc::new(scan), order, sizes, &limited(4 << 20), &pool).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| external.prepare())).collect();
        let ends: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        assert_eq!(ends.iter().filter(|end| end.is_err()).count(), 1);
        assert!(ends.iter().flatten().all(|end| matches!(end, Err(Error::Bug { .. }))), "{ends:?}");
    });
}

#[test]
fn long_rows_come_back_from_scratch_files_in_any_order() {
    let mut lengths: Vec<usize> = (0..3000).map(|row| row % 7).collect();
    for row in (0..3000).step_by(97) {
        lengths[row] = 20_000 * (1 + row % 5);
    }
    let all = Order::all(3000);
    let mut by_length: Vec<u64> = (0..3000).collect();
    by_length.sort_by_key(|&row| lengths[usize::try_from(row).unwrap()]);
    for order in [all.clone(), all.shuffled(1, 0, 1).unwrap(), Order::listed(by_length)] {
        let scan = Arc::new(Strings::new(lengths.clone()));
        let sizes = (100, Arc::new(Weights::new([(1500, 10), (1500, 100_000)])));
        let pool = Arc::default();
        let scan_of_rows = Arc::clone(&scan) as Arc<dyn Scan>;
        let external =
            external::External::new(scan_of_rows, order.clone(), sizes, &limited(1 << 20), &pool)
                .unwrap();
        external.prepare().unwrap();
        for start in (0..3000).step_by(500) {
            let found = external.gather(start..start + 500).unwrap();
            let offsets = order.offsets(start..start + 500).unwrap();
            let wanted = offsets.into_iter().flat_map(|at| scan.scan(at..at + 1, true).unwrap());
            let wanted: Vec<RecordBatch> = wanted.collect();
            let wanted = arrow_select::concat::concat_batches(&scan.schema, &wanted).unwrap();
            assert_eq!(found, wanted);
        }
    }
}

#[test]
fn windows_are_read_in_parts_where_rows_are_long() {
    let schema = Arc::new(Schema::new(vec![Field::new("s", DataType::Utf8, false)]));
    let lengths = [(900, 3), (30, 100_000), (900, 5)];
    let batches = lengths.map(|(rows, length)| {
        let column: StringArray = (0..rows).map(|_| Some("x".repeat(length))).collect();
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column)]).unwrap()
    });
    let table = Arc::new(MemoryTable::new(schema, batches.into(), None).unwrap());
    let projection = Projection::new(table.schema(), [("s", "s"), ("at", ROW_OFFSET)]).unwrap();
    for (seed, memory) in [(1, 1 << 20), (2, 8 << 20), (3, 1 << 30)] {
        let options = Options {
            strategy: Some(Strategy::Direct),
            memory_limit: Some(memory),
            threads: Some(3),
            ..Options::default()
        };
        let reader = Reader::of_memory(&table, projection.clone(), options).unwrap();
        for order in [Order::all(1830), Order::all(1830).shuffled(seed, 0, 1).unwrap()] {
            for batches in [Batches::Every(7), Batches::AsRead, Batches::Ends([5, 5, 1830].into())]
            {
                let loader = Loader::new(reader.clone(), order.clone(), batches, false).unwrap();
                let found = rows(loader).unwrap();
                let offsets = found.column(1).as_primitive::<UInt64Type>().values().to_vec();
                assert_eq!(offsets, order.to_vec());
            }
        }
    }
}
