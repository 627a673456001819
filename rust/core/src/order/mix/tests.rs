//! Mixtures against walking them row by row.

use proptest::prelude::*;

use super::super::{Mixed, Order};
use super::ramp::{real, shares};
use super::*;
use std::sync::Arc;

fn recipe(sizes: &[u64], weights: &[u64], stop: Stop) -> Recipe {
    Recipe {
        sizes: sizes.to_vec(),
        groups: vec![0; sizes.len()],
        stages: vec![Stage { start: 0, weights: weights.to_vec() }],
        is_linear: false,
        first_row: 0,
        stop,
    }
}

/// The source and row of each position, one by one.
fn walk(mix: &Mix) -> Vec<(usize, u64)> {
    (0..mix.len()).map(|position| mix.locate(Parts::Sources, position)).collect()
}

/// Checks that rows of each source follow each other, and that counts are what was walked.
fn follow(mix: &Mix, walked: &[(usize, u64)]) {
    let mut counts = vec![0; mix.recipe().sizes.len()];
    for (position, &(source, row)) in (0..).zip(walked) {
        assert_eq!(mix.counts(position), counts);
        assert_eq!(row, counts[source]);
        counts[source] += 1;
    }
    assert_eq!(mix.counts(mix.len()), counts);
}

fn weights() -> impl Strategy<Value = Vec<u64>> {
    let weight = prop_oneof![1_u64..20, 1_u64..2000, 1_u64..1_000_000_000_000];
    prop::collection::vec(weight, 1..12)
}

proptest! {
    #[test]
    fn no_source_is_far_from_its_share(weights in weights()) {
        let sizes = vec![3; weights.len()];
        let mix = Mix::new(recipe(&sizes, &weights, Stop::Rows(400))).unwrap();
        let walked = walk(&mix);
        follow(&mix, &walked);
        let total: u64 = weights.iter().sum();
        // Of three, every error is halved; of two, there is but one.
        let bound = if weights.len() <= 3 { 1.0 } else { 1.7 };
        for position in 0..=400_u64 {
            for (count, weight) in mix.counts(position).into_iter().zip(&weights) {
                let share = real(*weight) / real(total) * real(position);
                prop_assert!((real(count) - share).abs() < bound, "{position}: {count} of {share}");
            }
        }
    }

    #[test]
    fn runs_are_dealt_as_rows_are(
        weights in weights(),
        groups in prop::collection::vec(0_usize..3, 12),
        start in 0_u64..300,
        count in 0_u64..100,
    ) {
        let mut recipe = recipe(&vec![5; weights.len()], &weights, Stop::Rows(400));
        recipe.groups = groups[..weights.len()].to_vec();
        // Groups are counted without a gap.
        recipe.groups[0] = 0;
        let mut known: Vec<usize> = recipe.groups.clone();
        known.sort_unstable();
        known.dedup();
        for group in &mut recipe.groups {
            *group = known.binary_search(group).unwrap();
        }
        let groups = recipe.groups.clone();
        let mix = Mix::new(recipe).unwrap();
        let walked = walk(&mix);
        follow(&mix, &walked);
        let mut found = vec![(usize::MAX, 0); usize::try_from(count).unwrap()];
        mix.deal(Parts::Sources, start..start + count, &mut |dealt| {
            for (&slot, row) in dealt.slots.iter().zip(dealt.start..) {
                found[slot as usize] = (dealt.part, row);
            }
        });
        let range = usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap();
        prop_assert_eq!(&found[..], &walked[range.clone()]);
        for group in 0..mix.num_groups() {
            let of_group = |found: &&(usize, u64)| groups[found.0] == group;
            let wanted: Vec<_> = walked.iter().filter(of_group).copied().collect();
            prop_assert_eq!(mix.group_rows(group, 400), wanted.len() as u64);
            let rows = (0..wanted.len() as u64).map(|k| mix.locate(Parts::SourcesOf(group), k));
            prop_assert_eq!(rows.collect::<Vec<_>>(), wanted);
            let before = walked[..range.start].iter().filter(of_group).count() as u64;
            prop_assert_eq!(mix.group_rows(group, start), before);
        }
        let in_groups = (0..400).map(|k| mix.locate(Parts::Groups, k).0);
        let wanted: Vec<usize> = walked.iter().map(|&(source, _)| groups[source]).collect();
        prop_assert_eq!(in_groups.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn sizes_as_weights_serve_every_row_once(sizes in prop::collection::vec(1_u64..60, 1..9)) {
        for stop in [Stop::First, Stop::All] {
            let mix = Mix::new(recipe(&sizes, &sizes, stop)).unwrap();
            prop_assert_eq!(mix.len(), sizes.iter().sum::<u64>());
            prop_assert_eq!(mix.counts(mix.len()), sizes.clone());
        }
    }

    #[test]
    fn an_epoch_ends_where_it_should(
        sizes in prop::collection::vec(1_u64..40, 1..6),
        seeds in prop::collection::vec(1_u64..50, 6),
    ) {
        let weights = &seeds[..sizes.len()];
        let first = Mix::new(recipe(&sizes, weights, Stop::First)).unwrap();
        let over = |position: u64| {
            first.counts(position).iter().zip(&sizes).any(|(count, size)| count > size)
        };
        prop_assert!(!over(first.len()) && over(first.len() + 1));
        let all = Mix::new(recipe(&sizes, weights, Stop::All)).unwrap();
        let whole = |position: u64| {
            all.counts(position).iter().zip(&sizes).all(|(count, size)| count >= size)
        };
        prop_assert!(whole(all.len()) && !whole(all.len() - 1));
    }

    #[test]
    fn an_order_serves_each_pass_whole(
        sizes in prop::collection::vec(1_u64..40, 1..5),
        seeds in prop::collection::vec(1_u64..50, 5),
        epoch in prop::option::of(0_u64..3),
        cut in (0_u64..100, 1_u64..30, 0_u64..20),
    ) {
        let weights = &seeds[..sizes.len()];
        let mix = Arc::new(Mix::new(recipe(&sizes, weights, Stop::Rows(300))).unwrap());
        let mut first = 0;
        let order = |&size: &u64| {
            first += 1000;
            Order::all(2000 * 10).slice(first, size).unwrap().shuffled(7, 9, 1).unwrap()
        };
        let orders: Arc<[Order]> = sizes.iter().map(order).collect();
        let whole = Mixed::new(Arc::clone(&mix), 0, Arc::clone(&orders), epoch, None).unwrap();
        let whole = Order::mixed(whole);
        let rows: Vec<u64> = (0..300)
            .map(|position| {
                let (source, row) = mix.locate(Parts::Sources, position);
                let (pass, row) = (row / sizes[source], row % sizes[source]);
                let order = &orders[source];
                let key = epoch.unwrap_or(0) + (pass << 32);
                let order = if pass > 0 || epoch.is_some() { order.with_epoch(key).unwrap() } else { order.clone() };
                let mut at = [row];
                order.resolve(&mut at).unwrap();
                at[0]
            })
            .collect();
        prop_assert_eq!(&whole.to_vec(), &rows);
        let mut backwards: Vec<u64> = (0..300).rev().collect();
        whole.resolve(&mut backwards).unwrap();
        prop_assert!(backwards.iter().rev().eq(&rows));
        prop_assert!(whole.is_same(&whole.clone()));
        let next = whole.with_epoch(5).unwrap();
        prop_assert!(!whole.is_same(&next));
        prop_assert_ne!(whole.fingerprint().unwrap(), next.fingerprint().unwrap());
        // Batches of a share, the last one beyond the end.
        let (first, size, more) = cut;
        let stride = size + more;
        let num_full = (300 - first) / stride;
        let share = Share {
            first,
            size,
            stride,
            num_full,
            last_start: 290,
            last_size: (more > 3).then_some(more),
            num_units: 300,
        };
        let wanted: Vec<u64> = share
            .batches()
            .flatten()
            .map(|position| rows[usize::try_from(position % 300).unwrap()])
            .collect();
        let part = Mixed::new(mix, 0, orders, epoch, Some(share)).unwrap();
        prop_assert_eq!(Order::mixed(part).to_vec(), wanted);
    }

    #[test]
    fn ramps_follow_their_line(
        from in prop::collection::vec(0_u64..50, 3),
        to in prop::collection::vec(0_u64..50, 3),
        first_row in 0_u64..5000,
    ) {
        prop_assume!(from.iter().sum::<u64>() > 0 && to.iter().sum::<u64>() > 0);
        let stages = vec![
            Stage { start: 0, weights: from.clone() },
            Stage { start: 2000, weights: from.clone() },
            Stage { start: 6000, weights: to.clone() },
        ];
        let mut recipe = recipe(&[10; 3], &from, Stop::Rows(7000));
        recipe.stages = stages;
        recipe.is_linear = true;
        recipe.first_row = first_row;
        let mix = Mix::new(recipe).unwrap();
        let walked = walk(&mix);
        follow(&mix, &walked);
        let (from, to) = (shares(&from), shares(&to));
        let mut targets = [0.0; 3];
        for position in 0..7000 {
            let counts = mix.counts(position);
            for source in 0..3 {
                let distance = (real(counts[source]) - targets[source]).abs();
                prop_assert!(distance < 4.0, "{position}: {distance}");
                let way = ((real(position + first_row) + 0.5 - 2000.0) / 4000.0).clamp(0.0, 1.0);
                targets[source] += from[source] + (to[source] - from[source]) * way;
            }
        }
    }
}

#[test]
fn the_published_sequence() {
    let sources = |weights: &[u64], rows: u64| -> Vec<usize> {
        let mix = Mix::new(recipe(&vec![1; weights.len()], weights, Stop::Rows(rows))).unwrap();
        walk(&mix).into_iter().map(|(source, _)| source).collect()
    };
    assert_eq!(sources(&[7, 2, 1], 10), [0, 1, 0, 0, 0, 2, 0, 0, 1, 0]);
    assert_eq!(sources(&[1, 1], 4), [0, 1, 0, 1]);
    assert_eq!(sources(&[5], 3), [0, 0, 0]);
    assert_eq!(sources(&[0, 1, 0], 2), [1, 1]);
}

#[test]
fn large_mixtures_are_as_near_as_small_ones() {
    let sizes: Vec<u64> = (1..=1000).map(|k| k * 1_000_000_007).collect();
    let mix = Mix::new(recipe(&sizes, &sizes, Stop::First)).unwrap();
    assert_eq!(mix.len(), sizes.iter().sum::<u64>());
    assert_eq!(mix.counts(mix.len()), sizes);
    let (source, row) = mix.locate(Parts::Sources, mix.len() - 1);
    assert_eq!(row, sizes[source] - 1);
}

#[test]
fn stages_take_turns() {
    let mut recipe = recipe(&[5, 5], &[1, 0], Stop::Rows(8));
    recipe.stages.push(Stage { start: 4, weights: vec![0, 1] });
    let sources = |recipe: &Recipe| -> Vec<usize> {
        let mix = Mix::new(recipe.clone()).unwrap();
        walk(&mix).into_iter().map(|(source, _)| source).collect()
    };
    assert_eq!(sources(&recipe), [0, 0, 0, 0, 1, 1, 1, 1]);
    recipe.first_row = 3;
    assert_eq!(sources(&recipe), [0, 1, 1, 1, 1, 1, 1, 1]);
    recipe.first_row = 100;
    assert_eq!(sources(&recipe), [1; 8]);
    recipe.stop = Stop::All;
    let error = Mix::new(recipe).unwrap_err().to_string();
    assert!(error.contains("source number 0, which is never served whole"), "{error}");
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = recipe(&[5, 5], &[1, 1], Stop::First);
        change(&mut recipe);
        Mix::new(recipe).unwrap_err().to_string()
    };
    let stage = |start, weights: &[u64]| Stage { start, weights: weights.to_vec() };
    assert!(refused(&|r| r.sizes[1] = 0).contains("number 1 without rows"));
    assert!(refused(&|r| r.sizes.clear()).contains("at least one source"));
    assert!(refused(&|r| r.groups[1] = 2).contains("groups [0, 2]"));
    assert!(refused(&|r| r.stages = vec![stage(1, &[1, 1])]).contains("from 0 on"));
    assert!(refused(&|r| r.stages.push(stage(0, &[1, 1]))).contains("from 0 on"));
    assert!(refused(&|r| r.stages = vec![stage(0, &[0, 0])]).contains("one above 0"));
    assert!(refused(&|r| r.stages = vec![stage(0, &[1])]).contains("one for each"));
    assert!(refused(&|r| r.stages = vec![stage(0, &[u64::MAX, 2])]).contains("2^60"));
    assert!(refused(&|r| r.stop = Stop::Rows(1 << 63)).contains("2^62"));
    let mix = Arc::new(Mix::new(recipe(&[5, 5], &[1, 1], Stop::First)).unwrap());
    let mixed = |orders: Vec<Order>| Mixed::new(Arc::clone(&mix), 0, orders.into(), None, None);
    assert!(mixed(vec![Order::all(5), Order::all(4)]).is_err());
    assert!(mixed(vec![Order::all(5)]).is_err());
    assert!(mixed(vec![Order::all(5), Order::all(5), Order::all(5)]).is_err());
}
