#![expect(clippy::cast_precision_loss, reason = "small numbers")]

use super::*;

fn images(n: u64, key: u64) -> Vec<u64> {
    let mut out = vec![0; usize::try_from(n).unwrap()];
    Bijection::new(n, key).unwrap().fill(0, &mut out);
    out
}

#[test]
fn every_small_domain_and_every_neighbour_of_a_power_of_two_is_permuted() {
    let near_powers = (12..=20).flat_map(|k| [(1 << k) - 1, 1 << k, (1 << k) + 1]);
    for n in (0..=4096).chain(near_powers) {
        let bijection = Bijection::new(n, n ^ 9).unwrap();
        let forward = images(n, n ^ 9);
        let mut seen = vec![false; forward.len()];
        for (value, &image) in (0..).zip(&forward) {
            assert!(image < n, "{value} leaves 0..{n}");
            assert!(!std::mem::replace(&mut seen[index(image)], true), "{image} twice in 0..{n}");
            assert_eq!(bijection.inverse(image), value, "n = {n}");
        }
        let mut back = forward;
        bijection.invert(&mut back);
        assert!(back.into_iter().eq(0..n), "n = {n}");
    }
}

#[test]
fn large_domains_invert_and_agree_in_bulk() {
    let domains = [1 << 32, (1 << 32) + 1, 1 << 40, (1 << 40) + 1, 1_000_000_000_000, MAX_ROWS];
    for n in domains {
        let bijection = Bijection::new(n, 7).unwrap();
        for start in [0, 1, n / 2 - 77, n - 1000] {
            let mut filled = vec![0; 1000];
            bijection.fill(start, &mut filled);
            let mut applied: Vec<u64> = (start..start + 1000).collect();
            bijection.apply(&mut applied);
            assert_eq!(filled, applied);
            bijection.invert(&mut applied);
            assert!(applied.into_iter().eq(start..start + 1000), "n = {n}");
            for (value, image) in (start..).zip(filled) {
                assert!(image < n);
                assert_eq!(bijection.inverse(image), value);
            }
        }
    }
    assert!(Bijection::new(MAX_ROWS + 1, 7).is_err());
}

#[test]
fn keys_of_different_seed_epoch_and_purpose_differ() {
    let mut keys = std::collections::HashSet::new();
    for seed in 0..64 {
        for epoch in 0..64 {
            for purpose in [Purpose::Shuffle, Purpose::Split, Purpose::Sample] {
                assert!(keys.insert(key(purpose, seed, epoch)), "{seed} {epoch} {purpose:?}");
            }
        }
    }
}

/// `χ² / degrees of freedom` of `counts` against a uniform expectation: 1 for chance.
fn chi_square(counts: &[u32]) -> f64 {
    let expected = counts.iter().map(|&c| f64::from(c)).sum::<f64>() / counts.len() as f64;
    let squares = counts.iter().map(|&c| (f64::from(c) - expected).powi(2));
    squares.sum::<f64>() / expected / (counts.len() - 1) as f64
}

#[test]
fn every_permutation_of_few_rows_is_equally_likely() {
    let mut counts = std::collections::HashMap::new();
    for seed in 0..240_000 {
        *counts.entry(images(5, key(Purpose::Shuffle, seed, 0))).or_insert(0) += 1;
    }
    let counts: Vec<u32> = counts.into_values().collect();
    assert_eq!(counts.len(), 120);
    assert!(chi_square(&counts) < 1.6);
}

#[test]
fn neighbouring_positions_get_independent_rows() {
    // The network's smallest domains are its hardest.
    for n in [257_u64, 300, 1000] {
        const CELLS: u64 = 16;
        let mut counts = vec![0; index(CELLS * CELLS)];
        for seed in 0..4000 {
            let out = images(n, key(Purpose::Shuffle, seed, 0));
            for pair in out[..64].chunks_exact(2) {
                let cell = pair[0] * CELLS / n * CELLS + pair[1] * CELLS / n;
                counts[index(cell)] += 1;
            }
        }
        // Unequal cell sizes add at most (16 / n)² · pairs to χ², which n = 257 keeps below 2.
        assert!(chi_square(&counts) < 2.5, "n = {n}: {}", chi_square(&counts));
    }
}

#[test]
fn position_and_offset_are_uncorrelated_and_neighbours_far_apart() {
    let n = 100_003_u64;
    for seed in 0..4 {
        let out = images(n, key(Purpose::Shuffle, seed, seed));
        let mean = (n - 1) as f64 / 2.0;
        let (mut covariance, mut variance, mut jump) = (0.0, 0.0, 0.0);
        for (position, &offset) in out.iter().enumerate() {
            let d = position as f64 - mean;
            covariance += d * (offset as f64 - mean);
            variance += d * d;
        }
        for pair in out.windows(2) {
            jump += pair[0].abs_diff(pair[1]) as f64 / n as f64;
        }
        // Chance gives a correlation of about 1/√n = 0.003 and a mean jump of a third.
        assert!((covariance / variance).abs() < 0.015, "{}", covariance / variance);
        assert!((jump / (n - 1) as f64 - 1.0 / 3.0).abs() < 0.005);
    }
}

/// `counts` of a table of `CELLS × CELLS`, from pairs of numbers below `n`.
fn cells(n: u64, pairs: impl Iterator<Item = (u64, u64)>) -> Vec<u32> {
    const CELLS: u64 = 32;
    let mut counts = vec![0; index(CELLS * CELLS)];
    for (x, y) in pairs {
        counts[index(x * CELLS / n * CELLS + y * CELLS / n)] += 1;
    }
    counts
}

/// Chance gives 1 ± 0.044; of whole permutations, whose rows and columns of cells are all full, 0.94 ±
/// 0.043. Random shuffles of these sizes were measured to give the same.
const STRAYS: std::ops::Range<f64> = 0.75..1.2;

#[test]
fn rows_from_everywhere_go_everywhere() {
    for n in [10_000, 65_537, 200_000, (1 << 18) + 1] {
        for seed in 0..3 {
            let out = images(n, key(Purpose::Shuffle, seed, 1));
            let places = chi_square(&cells(n, (0..).zip(out.iter().copied())));
            assert!(STRAYS.contains(&places), "n = {n}: {places}");
            let neighbours = out.windows(2).map(|pair| (pair[0], pair[1]));
            let neighbours = chi_square(&cells(n, neighbours));
            assert!(STRAYS.contains(&neighbours), "n = {n}: {neighbours}");
        }
    }
}

#[test]
fn epochs_and_seeds_are_independent() {
    let n = 100_003;
    let out = |seed, epoch| images(n, key(Purpose::Shuffle, seed, epoch));
    let first = out(0, 0);
    for other in [out(0, 1), out(0, 2), out(1, 0), out(1 << 63, 0)] {
        let both = chi_square(&cells(n, first.iter().copied().zip(other.iter().copied())));
        assert!(STRAYS.contains(&both), "{both}");
        // A position keeps its row once on average; nine times happens once in a million.
        let kept = first.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!(kept < 9, "{kept} rows stay where they were");
    }
}

#[test]
fn a_stretch_of_a_huge_order_is_spread_over_it() {
    for n in [(1 << 32) + 1, 1_000_000_000_000, (1 << 40) + 1] {
        let bijection = Bijection::new(n, key(Purpose::Shuffle, 3, 0)).unwrap();
        let mut out = vec![0; 100_000];
        bijection.fill(n / 3, &mut out);
        let neighbours = out.chunks_exact(2).map(|pair| (pair[0] >> 8, pair[1] >> 8));
        let neighbours = chi_square(&cells((n >> 8) + 1, neighbours));
        assert!(STRAYS.contains(&neighbours), "n = {n}: {neighbours}");
        // And back: the positions of neighbouring rows.
        for (value, row) in out.iter_mut().zip(n / 2..) {
            *value = row;
        }
        bijection.invert(&mut out);
        let positions = out.chunks_exact(2).map(|pair| (pair[0] >> 8, pair[1] >> 8));
        let positions = chi_square(&cells((n >> 8) + 1, positions));
        assert!(STRAYS.contains(&positions), "n = {n}: {positions}");
    }
}

#[test]
fn sequences_are_pinned() {
    // Changing any of these changes what every user's seed means: see docs/determinism.md.
    assert_eq!(key(Purpose::Shuffle, 0, 0), GOLDEN_KEY);
    for (n, seed, epoch, wanted) in GOLDEN {
        let mut out = vec![0; wanted.len()];
        let key = key(Purpose::Shuffle, seed, epoch);
        Bijection::new(n, key).unwrap().fill(0, &mut out);
        assert_eq!(out, wanted, "n = {n}, seed = {seed}, epoch = {epoch}");
    }
}

const GOLDEN_KEY: u64 = 16_114_588_281_468_274_625;
const GOLDEN: [(u64, u64, u64, [u64; 8]); 9] = [
    (10, 0, 0, [3, 1, 7, 9, 2, 6, 4, 0]),
    (10, 0, 1, [8, 7, 3, 6, 0, 5, 4, 1]),
    (10, 1, 0, [0, 4, 7, 5, 8, 9, 6, 2]),
    (256, 42, 0, [243, 216, 96, 203, 46, 198, 253, 88]),
    (257, 42, 0, [9, 104, 3, 207, 47, 107, 79, 49]),
    (1_000, 7, 3, [392, 339, 861, 295, 374, 463, 22, 232]),
    (1_000_000, 7, 0, [893_288, 382_883, 671_945, 455_270, 260_276, 689_685, 366_010, 397_184]),
    (
        4_294_967_297,
        0,
        0,
        [
            2_612_528_205,
            1_614_157_611,
            1_964_789_892,
            4_170_685_419,
            2_044_535_827,
            2_000_653_706,
            2_299_928_001,
            677_425_530,
        ],
    ),
    (
        1_000_000_000_000,
        123_456_789,
        5,
        [
            978_831_328_631,
            590_423_244_722,
            690_589_392_093,
            929_892_751_569,
            516_719_057_986,
            690_480_507_814,
            615_267_419_039,
            852_549_224_704,
        ],
    ),
];
