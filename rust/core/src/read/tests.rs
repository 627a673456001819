//! Whatever the strategy, the same rows come in the same order.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::loader::Loader;
use crate::order::Order;
use crate::projection::ROW_OFFSET;

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
    assert!(load(10).unwrap_err().to_string().contains("at least one row"));
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
