//! Draws against the probabilities they are made from.

#![expect(clippy::cast_precision_loss, reason = "small numbers")]

use proptest::prelude::*;

use super::*;

fn draws(weighted: &Weighted, count: u64) -> Vec<u64> {
    let mut out: Vec<u64> = (0..count).collect();
    weighted.apply(&mut out);
    out
}

/// `χ² / degrees of freedom` of rows drawn against their probabilities: 1 for chance.
fn chi_square(rows: &[u64], weights: &[f64]) -> f64 {
    let mut counts = vec![0_u32; weights.len()];
    for &row in rows {
        counts[index(row)] += 1;
    }
    let sum: f64 = weights.iter().sum();
    let mut squares = 0.0;
    for (&count, weight) in counts.iter().zip(weights) {
        let expected = weight / sum * rows.len() as f64;
        if expected == 0.0 {
            assert_eq!(count, 0, "a weight of 0 was drawn");
        } else {
            squares += (f64::from(count) - expected).powi(2) / expected;
        }
    }
    squares / (weights.iter().filter(|&&weight| weight > 0.0).count() - 1) as f64
}

#[test]
fn rows_are_drawn_by_weight() {
    let ramp: Vec<f64> = (0..1000).map(|row| f64::from(row % 50)).collect();
    let skewed: Vec<f64> = (0..200).map(|row| f64::from(row + 1).powi(-2)).collect();
    let even = vec![3.5; 300];
    let few = vec![0.0, 1e-300, 0.0, 3e-300];
    let vast = vec![1e308, 1e308, 0.5e308];
    for weights in [ramp, skewed, even, few, vast] {
        let scaled: Vec<f64> = weights.iter().map(|weight| weight / weights[1]).collect();
        for seed in 0..4 {
            let weighted = Weighted::by_row(&weights, seed, 1).unwrap();
            let ratio = chi_square(&draws(&weighted, 200_000), &scaled);
            let degrees = (weights.iter().filter(|&&weight| weight > 0.0).count() - 1) as f64;
            assert!((ratio - 1.0).abs() < 5.0 * (2.0 / degrees).sqrt() + 1.0 / degrees, "{ratio}");
        }
    }
}

#[test]
fn rows_are_drawn_by_class() {
    // A class of one row, one of nine, one of ninety and one of nine hundred.
    let classes: Vec<u32> = (0_u32..1000).map(|row| (row * 7 % 1000).max(1).ilog10() + 1).collect();
    let classes: Vec<u32> =
        classes.into_iter().enumerate().map(|(row, c)| if row == 0 { 0 } else { c }).collect();
    let sizes = sizes_of(&classes).unwrap();
    for class_weights in [None, Some(vec![1.0, 0.0, 2.0, 5.0])] {
        let of_class = |class: u32| class_weights.as_ref().map_or(1.0, |all| all[class as usize]);
        let of_row = |&class: &u32| of_class(class) / sizes[class as usize] as f64;
        let weights: Vec<f64> = classes.iter().map(of_row).collect();
        for seed in 0..4 {
            let weighted = Weighted::by_class(&classes, class_weights.as_deref(), seed, 0).unwrap();
            let ratio = chi_square(&draws(&weighted, 400_000), &weights);
            assert!((0.8..1.2).contains(&ratio), "{ratio}");
        }
    }
}

#[test]
fn uniform_draws_cost_nothing_at_any_size() {
    let weighted = Weighted::uniform(1_000_000_000_000, 7, 0).unwrap();
    assert!(weighted.num_bytes() < 256);
    let mut far = vec![u64::MAX, u64::MAX / 3, 1 << 40];
    weighted.apply(&mut far);
    assert!(far.iter().all(|&row| row < 1_000_000_000_000));
    let rows = draws(&weighted, 100_000);
    let tenths: Vec<u64> = rows.into_iter().map(|row| row / 10_000_000_000).collect();
    let ratio = chi_square(&tenths, &[1.0; 100]);
    assert!((0.3..1.8).contains(&ratio), "{ratio}");
}

#[test]
fn draws_of_another_seed_or_epoch_are_others() {
    let weighted = Weighted::by_row(&[1.0; 1000], 3, 0).unwrap();
    let first = draws(&weighted, 1000);
    for (seed, epoch) in [(3, 1), (4, 0), (0, 3)] {
        let other = draws(&weighted.clone().with_seed(seed, epoch), 1000);
        let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!(same < 10, "{same}");
    }
}

#[test]
fn weights_that_cannot_be_are_named() {
    let text = |weights: &[f64]| Weighted::by_row(weights, 0, 0).unwrap_err().to_string();
    assert!(text(&[1.0, -2.5]).contains("weight -2.5 of row 1: wanted a finite number"));
    assert!(text(&[f64::NAN]).contains("weight NaN of row 0"));
    assert!(text(&[1.0, 2.0, f64::INFINITY]).contains("weight inf of row 2"));
    assert!(text(&[0.0, 0.0]).contains("2 weights of which none is above 0"));
    assert!(Weighted::uniform(0, 0, 0).unwrap_err().to_string().contains("0 rows"));
    let text = |weights| Weighted::by_class(&[0, 1, 1], weights, 0, 0).unwrap_err().to_string();
    assert!(text(Some(&[1.0])).contains("1 weights: wanted one for each of 2 classes"));
    assert!(Weighted::by_class(&[0, 2], None, 0, 0).unwrap_err().to_string().contains("class 1"));
}

#[test]
fn foreign_bytes_are_refused() {
    let weighted = Weighted::by_class(&[0, 1, 1, 2], Some(&[1.0, 2.0, 0.5]), 0, 0).unwrap();
    let good = weighted.to_bytes();
    for cut in 0..good.len() {
        assert!(Weighted::from_bytes(&good[..cut], 0, 0).is_err(), "{cut}");
    }
    assert!(Weighted::from_bytes(&[good.as_slice(), &[0]].concat(), 0, 0).is_err());
    for at in 0..good.len() {
        let mut bent = good.clone();
        bent[at] ^= 0x5A;
        if let Ok(read) = Weighted::from_bytes(&bent, 0, 0) {
            // Whatever was read must draw rows there are.
            assert!(draws(&read, 1000).into_iter().all(|row| row < read.num_rows()));
        }
    }
}

proptest! {
    #[test]
    fn any_weights_draw_only_what_has_some(
        weights in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1.0, 0.0..1e300], 1..60),
        seed in any::<u64>(),
    ) {
        prop_assume!(weights.iter().any(|&weight| weight > 0.0));
        let weighted = Weighted::by_row(&weights, seed, 2).unwrap();
        for row in draws(&weighted, 200) {
            prop_assert!(weights[index(row)] > 0.0);
        }
        let again = Weighted::from_bytes(&weighted.to_bytes(), seed, 2).unwrap();
        prop_assert_eq!(again, weighted);
    }
}
