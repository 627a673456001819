use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, UInt16Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, Int32Array, Int64Array, LargeListArray, ListArray, RecordBatch,
};
use proptest::prelude::*;

use super::*;
use crate::order::{Order, Share};

const PLACEMENTS: [Placement; 3] = [Placement::Concat, Placement::FirstFit, Placement::BestFit];
const EOS: i64 = -9;
const PAD: i64 = -1;

/// `(position, start, len)` of the pieces of a block.
type Pieces = Vec<(u64, u32, u32)>;

fn settings(block: u32, placement: Placement) -> Settings {
    Settings { block, placement, long: Long::Split, has_eos: false, window: 8 }
}

fn packing(order: &Order, lengths: &[u32], settings: Settings) -> Arc<Packing> {
    let lengths = Arc::new(Lengths::new(lengths.to_vec()));
    Arc::new(Packing::new(order.clone(), lengths, settings).unwrap())
}

/// All blocks, as `(position, start, len)`.
fn blocks(packing: &Arc<Packing>) -> Vec<Pieces> {
    some_blocks(packing, 0..packing.num_blocks())
}

fn some_blocks(packing: &Arc<Packing>, range: std::ops::Range<u64>) -> Vec<Pieces> {
    let mut packed = Packed::default();
    Cursor::new(Arc::clone(packing)).blocks(range, &mut packed).unwrap();
    let mut start = 0;
    let mut out = Vec::new();
    for &end in &packed.ends {
        let pieces = packed.pieces[start..end].iter();
        out.push(pieces.map(|piece| (piece.position, piece.start, piece.len)).collect());
        start = end;
    }
    assert_eq!(start, packed.pieces.len());
    out
}

/// The blocks of one window, or of all documents if they are concatenated, the slow way.
fn oracle(lengths: &[u32], first: u64, block: u32, placement: Placement) -> Vec<Pieces> {
    let mut parts = Vec::new();
    for (&len, position) in lengths.iter().zip(first..) {
        for start in (0..len).step_by(block as usize) {
            parts.push((position, start, block.min(len - start)));
        }
    }
    if placement == Placement::BestFit {
        parts.sort_by_key(|&(position, start, len)| (u32::MAX - len, position, start));
    }
    let mut blocks: Vec<(Pieces, u32)> = Vec::new();
    for part in parts {
        let rooms = blocks.iter().enumerate().filter(|(_, (_, room))| *room >= part.2);
        let found = match placement {
            Placement::BestFit => rooms.min_by_key(|(at, (_, room))| (*room, *at)),
            _ => rooms.min_by_key(|(at, _)| *at),
        };
        match found.map(|(at, _)| at) {
            Some(at) => {
                blocks[at].0.push(part);
                blocks[at].1 -= part.2;
            }
            None => blocks.push((vec![part], block - part.2)),
        }
    }
    blocks.sort_by_key(|(parts, _)| parts[0]);
    let sorted = |(mut parts, _): (Vec<_>, _)| {
        parts.sort_unstable();
        parts
    };
    blocks.into_iter().map(sorted).collect()
}

fn concatenated(lengths: &[u32], block: u32) -> Vec<Pieces> {
    let tokens: Vec<(u64, u32)> =
        lengths.iter().zip(0..).flat_map(|(&len, row)| (0..len).map(move |at| (row, at))).collect();
    let cut = |block: &[(u64, u32)]| {
        let mut pieces: Pieces = Vec::new();
        for &(row, at) in block {
            match pieces.last_mut() {
                Some((last, _, len)) if *last == row => *len += 1,
                _ => pieces.push((row, at, 1)),
            }
        }
        pieces
    };
    tokens.chunks(block as usize).map(cut).collect()
}

fn expected(lengths: &[u32], block: u32, placement: Placement, window: u32) -> Vec<Pieces> {
    if placement == Placement::Concat {
        return concatenated(lengths, block);
    }
    let windows = lengths.chunks(window as usize).zip((0..).step_by(window as usize));
    windows.flat_map(|(lengths, first)| oracle(lengths, first, block, placement)).collect()
}

/// Every list of `count` lengths below `bound`.
fn all_lengths(count: u32, bound: u32) -> impl Iterator<Item = Vec<u32>> {
    (0..bound.pow(count))
        .map(move |code| (0..count).map(|at| code / bound.pow(at) % bound).collect())
}

#[test]
fn every_small_table_is_packed_as_by_hand() {
    for count in 0..6 {
        for lengths in all_lengths(count, 5) {
            for block in [1, 2, 3, 4] {
                for placement in PLACEMENTS {
                    let settings = Settings { window: 3, ..settings(block, placement) };
                    let packing = packing(&Order::all(count.into()), &lengths, settings);
                    let wanted = expected(&lengths, block, placement, 3);
                    assert_eq!(blocks(&packing), wanted, "{lengths:?} {settings:?}");
                }
            }
        }
    }
}

#[test]
fn sequences_are_pinned() {
    let lengths: Vec<u32> = (0..20).map(|row| row * 7 % 11).collect();
    let order = Order::all(20).shuffled(7, 0, 1).unwrap();
    let first =
        |placement| blocks(&packing(&order, &lengths, settings(12, placement)))[..3].to_vec();
    let wanted = [
        [
            vec![(0, 0, 2), (1, 0, 10)],
            vec![(2, 0, 3), (3, 0, 1), (4, 0, 8)],
            vec![(4, 8, 1), (5, 0, 9), (7, 0, 2)],
        ],
        [vec![(0, 0, 2), (1, 0, 10)], vec![(2, 0, 3), (3, 0, 1), (7, 0, 7)], vec![(4, 0, 9)]],
        [vec![(0, 0, 2), (1, 0, 10)], vec![(2, 0, 3), (4, 0, 9)], vec![(3, 0, 1), (5, 0, 9)]],
    ];
    assert_eq!(PLACEMENTS.map(first), wanted);
}

#[test]
fn long_documents_are_cut_left_out_or_refused() {
    let lengths = [3, 9, 4, 0, 5];
    let order = Order::all(5);
    let of = |long, has_eos| {
        packing(&order, &lengths, Settings { long, has_eos, ..settings(4, Placement::Concat) })
    };
    assert_eq!(blocks(&of(Long::Split, false)), concatenated(&lengths, 4));
    assert_eq!(blocks(&of(Long::Truncate, false)), concatenated(&[3, 4, 4, 0, 4], 4));
    let dropped = of(Long::Drop, true);
    assert_eq!(blocks(&dropped), concatenated(&[4, 0, 0, 1, 0], 4));
    let counts = PackCounts { documents: 2, tokens: 5, long_documents: 3, lost_tokens: 10 + 5 + 6 };
    assert_eq!(dropped.counts(), counts);
    let refused = Settings { long: Long::Error, ..settings(4, Placement::BestFit) };
    let lengths = Arc::new(Lengths::new(lengths.to_vec()));
    let error = Packing::new(Order::listed(vec![4, 0]), Arc::clone(&lengths), refused).unwrap_err();
    assert!(error.to_string().contains("5 tokens in row 4"), "{error}");
    let settings = settings(4, Placement::Concat);
    let error = Packing::new(Order::all(6), lengths, settings).unwrap_err();
    assert!(error.to_string().contains("row 5 without a length"), "{error}");
}

#[test]
fn lengths_come_from_lists_and_numbers() {
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        Some(vec![]),
        Some(vec![Some(3); 4]),
    ]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![2, 0, 4]));
    for column in [&lists, &numbers, &lists.slice(0, 3)] {
        // Rows 5, 1 and 9 of a table, in any order and one of them twice.
        let order = Order::listed(vec![9, 1, 5, 9]);
        let mut builder = LengthsBuilder::new(&order).unwrap();
        assert_eq!(builder.rows().to_vec(), [1, 5, 9]);
        builder.push(&column.slice(0, 1)).unwrap();
        builder.push(&column.slice(1, 2)).unwrap();
        let lengths = builder.finish().unwrap();
        let mut found = Vec::new();
        lengths.look_up(&order.to_vec(), &mut found).unwrap();
        assert_eq!(found, [4, 2, 0, 4]);
    }
    let far = Order::listed(vec![1 << 40, 3]);
    let mut builder = LengthsBuilder::new(&far).unwrap();
    builder.push(&numbers.slice(1, 2)).unwrap();
    let mut found = Vec::new();
    builder.finish().unwrap().look_up(&far.to_vec(), &mut found).unwrap();
    assert_eq!(found, [4, 0]);
}

#[test]
fn lengths_that_are_none_are_refused_by_row() {
    let message = |column: ArrayRef| {
        let mut builder = LengthsBuilder::new(&Order::listed(vec![7, 3])).unwrap();
        builder.push(&column).and_then(|()| builder.finish()).unwrap_err().to_string()
    };
    let null = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), None]);
    assert!(message(Arc::new(null)).contains("row 7"));
    assert!(message(Arc::new(Int64Array::from(vec![0, -1]))).contains("-1 tokens in row 7"));
    assert!(message(Arc::new(Int64Array::from(vec![1 << 40, 1]))).contains("row 3"));
    assert!(message(Arc::new(Int32Array::from(vec![1]))).contains("1 lengths"));
    assert!(message(Arc::new(Int32Array::from(vec![1; 3]))).contains("more lengths"));
    let floats = arrow_array::Float32Array::from(vec![1.0, 2.0]);
    assert!(message(Arc::new(floats)).contains("Float32"));
}

/// Row `offset` of the table that batches are filled from: token `k` is `1000 · offset + k`.
fn tokens(lengths: &[u32], offsets: &[u64]) -> Vec<Option<Vec<Option<i32>>>> {
    let row = |&offset: &u64| {
        let len = i32::try_from(lengths[usize::try_from(offset).unwrap()]).unwrap();
        let first = 1000 * i32::try_from(offset).unwrap();
        Some((first..first + len).map(Some).collect())
    };
    offsets.iter().map(row).collect()
}

/// All batches of a share, of rows that come a few at a time.
fn filled(
    packing: &Arc<Packing>,
    lengths: &[u32],
    share: Share,
    at_once: usize,
) -> Vec<RecordBatch> {
    let rows: Vec<u64> = reads(packing, &share).unwrap().iter().flat_map(Order::to_vec).collect();
    let mut rows = rows.chunks(at_once);
    let mut filler = Filler::new(Arc::clone(packing), share, PAD, EOS).unwrap();
    let mut batches = Vec::new();
    loop {
        match filler.next_batch().unwrap() {
            Step::Batch(batch) => batches.push(batch),
            Step::Rows => {
                let lists = tokens(lengths, rows.next().expect("the rows that are listed suffice"));
                let column = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
                filler.push(&(Arc::new(column) as ArrayRef)).unwrap();
            }
            Step::End => break,
        }
    }
    assert!(rows.next().is_none(), "rows were read for nothing");
    batches
}

fn column(batch: &RecordBatch, name: &str) -> Vec<Vec<i64>> {
    let lists = batch.column_by_name(name).unwrap().as_fixed_size_list();
    lists.iter().map(|row| row.unwrap().as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn segments(batch: &RecordBatch) -> Vec<Vec<i32>> {
    let lists = batch.column_by_name("cu_seqlens").unwrap().as_list::<i32>();
    lists.iter().map(|row| row.unwrap().as_primitive::<Int32Type>().values().to_vec()).collect()
}

#[test]
fn a_batch_is_what_lancedb_makes_of_it_and_more() {
    // The example of LanceDB's documentation: documents [1 2], [3 4] and [5], 9 ends them.
    let lists = [vec![1_u16, 2], vec![3, 4], vec![5]].map(|row| row.into_iter().map(Some));
    let lists: ArrayRef =
        Arc::new(LargeListArray::from_iter_primitive::<UInt16Type, _, _>(lists.map(Some)));
    let settings = Settings { has_eos: true, ..settings(6, Placement::Concat) };
    let packing = packing(&Order::all(3), &[2, 2, 1], settings);
    let share = Share::whole(2, 2);
    let mut filler = Filler::new(Arc::clone(&packing), share, 0, 9).unwrap();
    assert!(matches!(filler.next_batch().unwrap(), Step::Rows));
    filler.push(&lists).unwrap();
    let Step::Batch(batch) = filler.next_batch().unwrap() else { panic!("a batch") };
    assert_eq!(column(&batch, "input_ids"), [[1, 2, 9, 3, 4, 9], [5, 9, 0, 0, 0, 0]]);
    assert_eq!(column(&batch, "doc_ids"), [[0, 0, 0, 1, 1, 1], [0, 0, -1, -1, -1, -1]]);
    assert_eq!(column(&batch, "position_ids"), [[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3]]);
    assert_eq!(segments(&batch), [[0, 3, 6], [0, 2, 6]]);
    let num_tokens = batch.column_by_name("num_tokens").unwrap();
    assert_eq!(num_tokens.as_primitive::<Int64Type>().values(), &[6, 2]);
    assert!(matches!(filler.next_batch().unwrap(), Step::End));
}

#[test]
fn tokens_that_are_none_are_refused_by_row() {
    let packing = packing(&Order::listed(vec![1]), &[9, 2], settings(4, Placement::Concat));
    let message = |column: ArrayRef| {
        let mut filler = Filler::new(Arc::clone(&packing), Share::whole(1, 1), 0, 0).unwrap();
        filler.push(&column).and_then(|()| filler.next_batch()).unwrap_err().to_string()
    };
    let null = [Some(vec![Some(1), None])];
    let null = ListArray::from_iter_primitive::<Int32Type, _, _>(null);
    assert!(message(Arc::new(null)).contains("null among the tokens of row 1"));
    let large = [Some(vec![Some(1), Some(u64::MAX)])];
    let large = ListArray::from_iter_primitive::<UInt64Type, _, _>(large);
    let large = message(Arc::new(large));
    assert!(large.contains(&u64::MAX.to_string()) && large.contains("row 1"), "{large}");
    let short = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    assert!(message(Arc::new(short)).contains("1 tokens in row 1"));
    assert!(message(Arc::new(Int32Array::from(vec![1]))).contains("Int32"));
}

#[test]
fn shares_that_are_none_are_refused() {
    let packing = packing(&Order::all(0), &[], settings(4, Placement::BestFit));
    assert_eq!(packing.num_blocks(), 0);
    assert!(reads(&packing, &Share::whole(0, 3)).unwrap().is_empty());
    assert!(reads(&packing, &Share::whole(1, 1)).is_err());
    let none = Share { num_full: 1, ..Share::whole(0, 3) };
    assert!(Filler::new(Arc::clone(&packing), none, 0, 0).is_err());
    let beyond = Share { num_full: u64::MAX, ..Share::whole(0, 3) };
    assert!(reads(&packing, &beyond).is_err());
}

fn placements() -> impl Strategy<Value = Placement> {
    prop::sample::select(PLACEMENTS.to_vec())
}

fn budget(tokens: u64, window: u32, padded: bool) -> Budget {
    Budget { tokens, padded, most_rows: u64::MAX, window, oversized: Oversized::Alone }
}

proptest! {
    #[test]
    fn every_token_stands_in_one_block(
        lengths in prop::collection::vec(0_u32..40, 0..3000),
        (placement, block, window) in (placements(), 1_u32..50, 1_u32..600),
        has_eos: bool,
        seed: u64,
    ) {
        let order = Order::all(lengths.len() as u64).shuffled(seed, 0, 1).unwrap();
        let settings = Settings { has_eos, window, ..settings(block, placement) };
        let packing = packing(&order, &lengths, settings);
        let own: Vec<u32> = order
            .to_vec()
            .into_iter()
            .map(|row| lengths[usize::try_from(row).unwrap()] + u32::from(has_eos))
            .collect();
        let mut seen: BTreeMap<u64, Vec<(u32, u32)>> = BTreeMap::new();
        let found = blocks(&packing);
        for (at, pieces) in found.iter().enumerate() {
            let size: u32 = pieces.iter().map(|piece| piece.2).sum();
            prop_assert!(0 < size && size <= block);
            prop_assert!(placement != Placement::Concat || size == block || at + 1 == found.len());
            for &(position, start, len) in pieces {
                seen.entry(position).or_default().push((start, len));
            }
        }
        for (position, &len) in (0..).zip(&own) {
            let mut pieces = seen.remove(&position).unwrap_or_default();
            pieces.sort_unstable();
            let mut next = 0;
            for (start, len) in pieces {
                prop_assert_eq!(start, next);
                next += len;
            }
            prop_assert_eq!(next, len);
        }
        prop_assert_eq!(packing.num_blocks(), found.len() as u64);
        prop_assert_eq!(packing.counts().tokens, own.iter().map(|&len| u64::from(len)).sum::<u64>());
        prop_assert_eq!(&found, &expected(&own, block, placement, window));
        // Any block is found without those before it.
        let middle = found.len() / 2;
        let some = some_blocks(&packing, middle as u64..found.len() as u64);
        prop_assert_eq!(&some[..], &found[middle..]);
    }

    #[test]
    fn ranks_fill_the_batches_that_one_would(
        lengths in prop::collection::vec(0_u32..12, 1..80),
        (placement, block, window) in (placements(), 1_u32..12, 1_u32..30),
        (world, size, at_once) in (1_u64..5, 1_u64..5, 1_usize..9),
        has_eos: bool,
    ) {
        let order = Order::all(lengths.len() as u64).shuffled(3, 1, 1).unwrap();
        let settings = Settings { has_eos, window, ..settings(block, placement) };
        let packing = packing(&order, &lengths, settings);
        let num_units = packing.num_blocks();
        prop_assume!(num_units > 0);
        let alone = filled(&packing, &lengths, Share::whole(num_units, 1), at_once);
        let rows = |batch: &RecordBatch| {
            let ids = column(batch, "input_ids");
            ids.into_iter().zip(column(batch, "position_ids")).zip(segments(batch)).collect::<Vec<_>>()
        };
        let alone: Vec<_> = alone.iter().flat_map(rows).collect();
        // What stands in them is what was planned.
        let mut all: Vec<i64> =
            alone.iter().flat_map(|((ids, _), _)| ids).copied().filter(|&id| id != PAD).collect();
        let ends = all.iter().filter(|&&id| id == EOS).count();
        prop_assert_eq!(ends, if has_eos { lengths.len() } else { 0 });
        all.retain(|&id| id != EOS);
        all.sort_unstable();
        let table = tokens(&lengths, &(0..lengths.len() as u64).collect::<Vec<_>>());
        let wanted: Vec<i64> =
            table.into_iter().flatten().flatten().flatten().map(i64::from).collect();
        prop_assert_eq!(all, wanted);
        // Global batches, the last one padded round.
        let global = world * size;
        for rank in 0..world {
            let num_full = num_units / global;
            let left = num_units % global;
            let share = Share {
                first: rank * size,
                size,
                stride: global,
                num_full,
                last_start: num_full * global + rank * left.div_ceil(world),
                last_size: Some(left.div_ceil(world)),
                num_units,
            };
            let mine = filled(&packing, &lengths, share, at_once);
            prop_assert_eq!(mine.len() as u64, share.num_batches());
            for (at, batch) in mine.iter().enumerate() {
                let units = share.runs(at as u64).into_iter().flatten();
                let wanted: Vec<_> =
                    units.map(|unit| alone[usize::try_from(unit).unwrap()].clone()).collect();
                prop_assert_eq!(rows(batch), wanted);
            }
        }
    }

    #[test]
    fn every_row_stands_in_one_batch(
        lengths in prop::collection::vec(0_u32..40, 1..500),
        (tokens, window, padded) in (1_u64..120, 1_u32..600, any::<bool>()),
        most_rows in 1_u64..40,
        seed: u64,
    ) {
        let order = Order::all(lengths.len() as u64).shuffled(seed, 0, 1).unwrap();
        let budget = Budget { most_rows, ..budget(tokens, window, padded) };
        let known = Arc::new(Lengths::new(lengths.clone()));
        let buckets = Buckets::new(order.clone(), known, budget).unwrap();
        let whole = Share::whole(buckets.num_batches(), 1);
        let (rows, ends) = buckets.share(&whole).unwrap();
        let rows = rows.to_vec();
        let mut sorted = rows.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..lengths.len() as u64).collect::<Vec<_>>());
        let mut start = 0;
        let mut batches = Vec::new();
        for &end in &ends {
            let batch = &rows[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
            let own: Vec<u64> =
                batch.iter().map(|&row| lengths[usize::try_from(row).unwrap()].into()).collect();
            prop_assert!(own.is_sorted());
            let longest = *own.last().unwrap();
            let size = if padded { longest * own.len() as u64 } else { own.iter().sum() };
            prop_assert!(size <= tokens || own.len() == 1);
            prop_assert!(own.len() as u64 <= most_rows);
            batches.push(batch.to_vec());
            start = end;
        }
        prop_assert_eq!(buckets.num_batches(), batches.len() as u64);
        let total: u64 = lengths.iter().map(|&len| u64::from(len)).sum();
        prop_assert_eq!(buckets.counts().tokens, total);
        // Two ranks take turns.
        let turns = |rank| Share {
            first: rank,
            stride: 2,
            num_full: (batches.len() as u64 + 1 - rank) / 2,
            last_size: None,
            ..whole
        };
        for rank in 0..2 {
            let (rows, ends) = buckets.share(&turns(rank)).unwrap();
            let wanted: Vec<&Vec<u64>> =
                batches.iter().skip(usize::try_from(rank).unwrap()).step_by(2).collect();
            prop_assert_eq!(ends.len(), wanted.len());
            prop_assert_eq!(rows.to_vec(), wanted.into_iter().flatten().copied().collect::<Vec<_>>());
        }
    }
}

#[test]
fn batches_are_pinned_and_come_in_the_order_of_their_first_rows() {
    let lengths: Vec<u32> = (0..20).map(|row| row * 7 % 11).collect();
    let order = Order::all(20).shuffled(7, 0, 1).unwrap();
    let known = Arc::new(Lengths::new(lengths));
    let buckets = Buckets::new(order.clone(), Arc::clone(&known), budget(24, 16, true)).unwrap();
    let (rows, ends) = buckets.share(&Share::whole(buckets.num_batches(), 1)).unwrap();
    let wanted = [3, 14, 6, 17, 0, 11, 19, 8, 5, 2, 13, 12, 1, 7, 18, 4, 9, 16, 10, 15];
    assert_eq!(rows.to_vec(), wanted);
    assert_eq!(ends, [2, 4, 11, 13, 16, 17, 20]);
    assert_eq!(buckets.counts(), BucketCounts { tokens: 98, padded_tokens: 117, oversized: 0 });
    let refused = Budget { oversized: Oversized::Error, ..budget(9, 16, false) };
    let error = Buckets::new(order, known, refused).unwrap_err().to_string();
    assert!(error.contains("10 tokens in row"), "{error}");
}
