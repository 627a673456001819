//! Orders against the vectors they stand for.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::error::Result;

/// A verb, with numbers that are bent to fit the order it is applied to.
#[derive(Debug, Clone)]
enum Verb {
    Slice(u64, u64),
    Step(u64, i64),
    Shuffle(u64, u64, u64),
    Window(u64, u64, u64, u64),
    Repeat(u64),
    Filter(u64),
    Pick(Vec<u64>),
    Shard(u64, u64, Tail),
    Draw(u64, u64),
    Twice,
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        (0_u64..100, 0_u64..100).prop_map(|(start, len)| Verb::Slice(start, len)),
        (0_u64..100, -5_i64..6).prop_map(|(start, step)| Verb::Step(start, step)),
        (any::<u64>(), 0_u64..3, 1_u64..5).prop_map(|(s, e, c)| Verb::Shuffle(s, e, c)),
        (any::<u64>(), 1_u64..40, 1_u64..9).prop_map(|(s, b, w)| Verb::Window(s, 0, b, w)),
        (0_u64..4).prop_map(Verb::Repeat),
        (1_u64..5).prop_map(Verb::Filter),
        prop::collection::vec(any::<u64>(), 0..20).prop_map(Verb::Pick),
        (0_u64..4, 1_u64..5, prop_oneof![Just(Tail::Uneven), Just(Tail::Drop), Just(Tail::Pad)])
            .prop_map(|(rank, world, tail)| Verb::Shard(rank % world, world, tail)),
        (any::<u64>(), 0_u64..60).prop_map(|(seed, count)| Verb::Draw(seed, count)),
        Just(Verb::Twice),
    ]
}

/// Applies a verb to an order and, the obvious way, to the rows it stands for.
fn apply(order: &Order, rows: &[u64], verb: &Verb) -> (Order, Vec<u64>) {
    let len = rows.len() as u64;
    let at = |k: u64| rows[usize::try_from(k).unwrap()];
    match verb {
        Verb::Slice(start, count) => {
            let start = start % (len + 1);
            let count = count % (len - start + 1);
            let wanted = (start..start + count).map(at).collect();
            (order.slice(start, count).unwrap(), wanted)
        }
        Verb::Step(start, step) if len > 0 && *step != 0 => {
            let start = i64::try_from(start % len).unwrap();
            let inside = |k: &i64| u64::try_from(*k).is_ok_and(|k| k < len);
            let positions = (0..).map(|k| start + k * step).take_while(inside);
            let wanted: Vec<u64> = positions.map(|k| at(k.cast_unsigned())).collect();
            let count = wanted.len() as u64;
            (order.stepped(start.cast_unsigned(), *step, count).unwrap(), wanted)
        }
        Verb::Shuffle(seed, epoch, clump) => {
            let order = order.shuffled(*seed, *epoch, *clump).unwrap();
            let shuffle = Shuffle::new(len, Purpose::Shuffle, *seed, *epoch, *clump).unwrap();
            let mut positions: Vec<u64> = (0..len).collect();
            shuffle.apply(&mut positions);
            (order, positions.into_iter().map(at).collect())
        }
        Verb::Window(seed, epoch, block, blocks) => {
            let windowed = Windowed::new(len, *seed, *epoch, *block, *blocks).unwrap();
            let mut positions: Vec<u64> = (0..len).collect();
            windowed.apply(&mut positions);
            let order = order.windowed(*seed, *epoch, *block, *blocks).unwrap();
            (order, positions.into_iter().map(at).collect())
        }
        Verb::Repeat(times) => {
            let times = if len > 500 { 1 } else { *times };
            (order.repeat(times).unwrap(), rows.repeat(usize::try_from(times).unwrap()))
        }
        Verb::Filter(modulus) => {
            let keep = |row: &u64| row.is_multiple_of(*modulus);
            let members: Vec<u64> = (0..200).filter(keep).collect();
            let order = order.filtered(&Bitmap::from_offsets(members)).unwrap();
            (order, rows.iter().copied().filter(keep).collect())
        }
        Verb::Pick(seeds) if len > 0 => {
            let positions: Vec<u64> = seeds.iter().map(|seed| seed % len).collect();
            let wanted = positions.iter().map(|&k| at(k)).collect();
            (order.pick(&Order::listed(positions)).unwrap(), wanted)
        }
        Verb::Shard(rank, world_size, tail) => {
            let order = shard(order, *rank, *world_size, *tail).unwrap();
            let mine = positions_of(len, *rank, *world_size, *tail);
            (order, mine.into_iter().map(|k| at(k % len)).collect())
        }
        Verb::Draw(seed, count) if len > 0 => {
            let weighted = Weighted::uniform(len, *seed, 0).unwrap();
            let mut drawn: Vec<u64> = (0..*count).collect();
            weighted.apply(&mut drawn);
            let order = order.pick(&Order::draws(weighted, *count)).unwrap();
            (order, drawn.into_iter().map(at).collect())
        }
        Verb::Twice => {
            let order = Order::concat(vec![order.clone(), Order::all(0), order.clone()]).unwrap();
            (order, rows.repeat(if len > 500 { 1 } else { 2 }))
        }
        Verb::Step(..) | Verb::Pick(_) | Verb::Draw(..) => (order.clone(), rows.to_vec()),
    }
}

/// The positions of a shard, those beyond the end counted on from the start.
fn positions_of(len: u64, rank: u64, world_size: u64, tail: Tail) -> Vec<u64> {
    let end = match tail {
        Tail::Uneven => len,
        Tail::Drop => len / world_size * world_size,
        Tail::Pad if len == 0 => 0,
        Tail::Pad => len.div_ceil(world_size) * world_size,
    };
    (rank..end).step_by(usize::try_from(world_size).unwrap()).collect()
}

/// Whether what a verb keeps of `len` positions is a share of all, which every epoch has: all of them,
/// once or more, or one of their shards, from its start or from its end on.
fn is_share(verb: &Verb, len: u64) -> bool {
    match verb {
        Verb::Slice(start, count) => {
            let start = start % (len + 1);
            count % (len - start + 1) == len
        }
        Verb::Step(start, step) if len > 0 && *step != 0 => {
            let (start, stride) = (start % len, step.unsigned_abs());
            let mut positions: Vec<u64> = if *step > 0 {
                (start..len).step_by(usize::try_from(stride).unwrap()).collect()
            } else {
                (0..=start).rev().step_by(usize::try_from(stride).unwrap()).collect()
            };
            positions.sort_unstable();
            let tails = [Tail::Uneven, Tail::Drop];
            (0..stride).any(|k| tails.iter().any(|t| positions == positions_of(len, k, stride, *t)))
        }
        Verb::Pick(_) | Verb::Draw(..) => len == 0,
        Verb::Filter(_) | Verb::Twice | Verb::Shuffle(..) | Verb::Window(..) => false,
        Verb::Step(..) | Verb::Shard(..) | Verb::Repeat(_) => true,
    }
}

/// The last shuffle of which all that comes after it is a share.
fn renewed(verbs: &[(Verb, u64)]) -> Option<usize> {
    let behind = verbs.iter().rposition(|(verb, len)| !is_share(verb, *len))?;
    matches!(verbs[behind].0, Verb::Shuffle(..) | Verb::Window(..)).then_some(behind)
}

fn check(order: &Order, rows: &[u64]) {
    assert_eq!(order.len(), rows.len() as u64);
    assert_eq!(order.to_vec(), rows, "{order}");
    let mut positions: Vec<u64> = (0..order.len()).rev().collect();
    order.resolve(&mut positions).unwrap();
    positions.reverse();
    assert_eq!(positions, rows, "{order}");
    let middle = rows.len() / 2;
    assert_eq!(order.offsets(middle as u64..order.len()).unwrap(), rows[middle..]);
    assert!(rows.iter().all(|&row| row < order.bound()));
    for &row in rows.iter().take(20) {
        let first = rows.iter().position(|&other| other == row).unwrap() as u64;
        assert_eq!(order.position_of(row).unwrap(), Some(first), "{order}");
    }
    let absent = (0..=order.bound()).find(|row| !rows.contains(row)).unwrap();
    assert_eq!(order.position_of(absent).unwrap(), None, "{order}");
    let (start, end) = (order.bound() / 3, order.bound() + 9);
    let mut positions = vec![77];
    order.positions_of(start..end, &mut positions).unwrap();
    let position = |offset| order.position_of(offset).unwrap().unwrap_or(Order::NOWHERE);
    assert_eq!(positions[1..], (start..end).map(position).collect::<Vec<_>>(), "{order}");
    assert!(order.resolve(&mut [order.len()]).is_err());
    let again = Order::from_maps(order.len(), order.maps().to_vec()).unwrap();
    assert_eq!(again.to_vec(), rows);
}

proptest! {
    #[test]
    fn any_chain_of_verbs_gives_the_rows_it_says(
        num_rows in 0_u64..200,
        verbs in prop::collection::vec(verb(), 0..6),
    ) {
        let mut order = Order::all(num_rows);
        let mut rows: Vec<u64> = (0..num_rows).collect();
        for verb in &verbs {
            // Doubling again and again would outgrow the oracle.
            if rows.len() < 2000 {
                (order, rows) = match verb {
                    Verb::Twice if rows.len() > 500 => (order, rows),
                    verb => apply(&order, &rows, verb),
                };
            }
        }
        check(&order, &rows);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn another_epoch_makes_a_shuffle_anew_only_for_shares_of_it(
        num_rows in 1_u64..40,
        given in prop::collection::vec(verb(), 1..6),
        first in any::<u64>(),
        epoch in 1_u64..100,
    ) {
        let rows_of = |verbs: &[(Verb, u64)]| {
            let start = (Order::all(num_rows), (0..num_rows).collect::<Vec<u64>>());
            verbs.iter().fold(start, |(order, rows), (verb, _)| apply(&order, &rows, verb))
        };
        let mut verbs = vec![(Verb::Shuffle(first, 0, 1), num_rows)];
        for verb in given {
            let len = rows_of(&verbs).1.len() as u64;
            if len <= 500 {
                verbs.push((verb, len));
            }
        }
        let (order, rows) = rows_of(&verbs);
        let at = renewed(&verbs);
        if let Some(Verb::Shuffle(_, of, _) | Verb::Window(_, of, _, _)) =
            at.map(|at| &mut verbs[at].0)
        {
            *of = epoch;
        }
        let (next, wanted) = rows_of(&verbs);
        prop_assert!(at.is_some() || wanted == rows);
        prop_assert_eq!(order.with_epoch(epoch).unwrap().to_vec(), wanted, "{}", &order);
        let again = Order::from_maps(order.len(), order.maps().to_vec()).unwrap();
        prop_assert_eq!(again.with_epoch(epoch).unwrap().to_vec(), next.to_vec());
    }
}

#[test]
fn ranges_join_into_one_map() {
    let order = Order::all(100).slice(10, 80).unwrap().strided(1, 2, 40).unwrap();
    let order = order.stepped(39, -1, 40).unwrap();
    assert_eq!(order.maps().len(), 1);
    assert_eq!(order.to_vec(), (0..40).rev().map(|k| 11 + 2 * k).collect::<Vec<_>>());
}

#[test]
fn a_trillion_rows_cost_less_than_a_kilobyte_and_no_time() {
    let order = Order::all(1_000_000_000_000).shuffled(7, 3, 1).unwrap();
    let shard = shard(&order, 5, 8, Tail::Drop).unwrap();
    assert!(shard.num_bytes() < 1024, "{}", shard.num_bytes());
    let positions = 77_777_777_777..77_777_777_779;
    for (position, offset) in positions.clone().zip(shard.offsets(positions).unwrap()) {
        assert_eq!(shard.position_of(offset).unwrap(), Some(position));
    }
}

#[test]
fn reaching_beyond_the_end_is_an_error_that_names_the_position() {
    let order = Order::all(10);
    let text = |result: Result<Order>| result.unwrap_err().to_string();
    assert_eq!(text(order.slice(5, 6)), "row 10 is out of range for 10 rows");
    assert_eq!(
        text(order.slice(u64::MAX, 2)),
        format!("row {} is out of range for 10 rows", u64::MAX)
    );
    assert_eq!(text(order.strided(3, 4, 3)), "row 11 is out of range for 10 rows");
    assert_eq!(text(order.stepped(3, -2, 3)), "row 0 is out of range for 10 rows");
    assert_eq!(text(order.pick(&Order::listed(vec![3, 12]))), "row 12 is out of range for 10 rows");
    assert!(text(order.stepped(3, 0, 1)).contains("a step of 0"));
    assert!(text(order.repeat(u64::MAX)).contains("repeats"));
    assert!(order.offsets(5..11).is_err());
}

#[test]
fn maps_that_do_not_fit_are_refused() {
    let short = Map::Listed(Arc::new(Listed::Narrow(vec![0, 1])));
    assert!(Order::from_maps(3, vec![short.clone()]).is_err());
    let negative = Map::Range { start: 1, step: -1 };
    assert!(Order::from_maps(3, vec![negative]).is_err());
    let shuffle = Shuffle::new(2, Purpose::Shuffle, 0, 0, 1).unwrap();
    let chain = vec![Map::Range { start: 1, step: 1 }, Map::Shuffle(Arc::new(shuffle))];
    assert!(Order::from_maps(2, chain).is_err());
    assert!(Order::from_maps(1, vec![Map::Repeat { len: 0 }]).is_err());
}

#[test]
fn lists_are_stored_as_narrow_as_they_allow() {
    let narrow = Listed::new(vec![5, 4_000_000_000]);
    let wide = Listed::new(vec![5, 5_000_000_000]);
    assert_eq!(narrow.to_bytes().0, 4);
    assert_eq!(wide.to_bytes().0, 8);
    for list in [narrow, wide] {
        let (width, bytes) = list.to_bytes();
        assert_eq!(Listed::from_bytes(width, &bytes).unwrap(), list);
        assert!(Listed::from_bytes(width, &bytes[1..]).is_err());
        assert!(Listed::from_bytes(3, &bytes).is_err());
    }
}

/// Verbs after which an order is still invertible.
fn one_to_one() -> impl Strategy<Value = Verb> {
    verb().prop_filter("lists, repeats and orders end to end are searched", |verb| {
        !matches!(verb, Verb::Repeat(_) | Verb::Pick(_) | Verb::Draw(..) | Verb::Twice)
    })
}

proptest! {
    #[test]
    fn positions_in_bulk_are_those_of_each_offset(
        num_rows in 0_u64..30_000,
        verbs in prop::collection::vec(one_to_one(), 0..6),
        start in 0_u64..30_000,
        middle in 0_u64..1 << 50,
    ) {
        // Far from 0, so that distances are long; the rows before are not in the order.
        let rows = Order::all(middle + num_rows).slice(middle, num_rows).unwrap();
        let mut order = rows;
        for verb in &verbs {
            let len = order.len();
            order = match verb {
                Verb::Filter(modulus) => {
                    let offsets = order.to_vec();
                    let keep = |row: &u64| row.is_multiple_of(*modulus);
                    order.filtered(&Bitmap::from_offsets(offsets.into_iter().filter(keep).collect()))
                }
                Verb::Slice(start, count) => order.slice(len * start / 1000, len * (count + 800) / 1000),
                Verb::Step(start, step) if len > 0 && *step != 0 => {
                    let start = if *step > 0 { start % len } else { len - 1 - start % len };
                    let left = if *step > 0 { len - 1 - start } else { start };
                    order.stepped(start, *step, left / step.unsigned_abs() + 1)
                }
                Verb::Shuffle(seed, epoch, clump) => order.shuffled(*seed, *epoch, *clump),
                Verb::Window(seed, _, block, blocks) => order.windowed(*seed, 1, *block, *blocks),
                Verb::Shard(rank, world_size, _) => shard(&order, *rank, *world_size, Tail::Uneven),
                _ => Ok(order),
            }.unwrap();
        }
        prop_assert!(order.is_invertible());
        let start = (middle + start).saturating_sub(10);
        let mut positions = Vec::new();
        order.positions_of(start..start + 20_000, &mut positions).unwrap();
        for (offset, position) in (start..).zip(positions) {
            let wanted = order.position_of(offset).unwrap().unwrap_or(Order::NOWHERE);
            prop_assert_eq!(position, wanted, "offset {} of {}", offset, &order);
        }
    }
}

#[test]
fn parts_that_follow_each_other_ascend() {
    let all = Order::all(100);
    let part = |start, len| all.slice(start, len).unwrap();
    let laid = |parts: &[&Order]| Order::concat(parts.iter().copied().cloned().collect()).unwrap();
    assert!(laid(&[&part(0, 10), &Order::all(0), &part(10, 5), &part(50, 1)]).is_ascending());
    assert!(!laid(&[&part(0, 10), &part(9, 5)]).is_ascending());
    assert!(!laid(&[&part(10, 5), &part(0, 10)]).is_ascending());
    assert!(!laid(&[&all, &all]).is_ascending());
    let shuffled = all.shuffled(1, 0, 1).unwrap().slice(0, 10).unwrap();
    assert!(!laid(&[&shuffled]).is_ascending());
}
