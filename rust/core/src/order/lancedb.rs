//! The row order of LanceDB's `permutation_builder`, bit for bit.
//!
//! LanceDB 0.40 shuffles with `rand` 0.9: `SmallRng` on 64-bit machines is xoshiro256++ seeded
//! through SplitMix64, and `SliceRandom::shuffle` is a forward Fisher–Yates that draws several
//! indices from one 32-bit number. From 10,485,760 rows on LanceDB, given more memory than its
//! default, shuffles through files and then merges them in an order that depends on its memory
//! limit; here the one algorithm serves every size.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::error::{Error, Result};

/// Returns the positions `0..num_rows` in the order LanceDB's shuffle leaves them in.
///
/// `seed` and `clump_size` are those of `PermutationBuilder.shuffle` or `split_random`. Takes time
/// and memory proportional to `num_rows`: 8 bytes a row, or a clump and a row if rows are in clumps.
///
/// # Errors
///
/// [`Error::Invalid`] if `clump_size` is 0.
pub fn shuffled(num_rows: u64, seed: u64, clump_size: u64) -> Result<Vec<u64>> {
    if clump_size == 0 {
        return Err(Error::invalid("clump_size 0", "at least 1 row"));
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut clumps: Vec<u64> = (0..num_rows.div_ceil(clump_size)).collect();
    clumps.shuffle(&mut rng);
    if clump_size == 1 {
        return Ok(clumps);
    }
    // Only the last clump of the table may be short.
    let rows = |clump: u64| {
        let start = clump * clump_size;
        start..num_rows.min(start.saturating_add(clump_size))
    };
    Ok(clumps.into_iter().flat_map(rows).collect())
}

/// Returns the places of `splits` in the order that LanceDB's final sort by split leaves them in.
///
/// Arrow's sort of a column of numbers: the standard library's unstable sort of pairs of place and
/// number, compared by number. Rows of one split come in an order that only that algorithm explains;
/// it depends on the width of the numbers, so `T` must have that of the column.
pub fn sorted_by_split<T: Copy + Ord>(splits: impl IntoIterator<Item = T>) -> Vec<u64> {
    let mut pairs: Vec<(u32, T)> = (0..).zip(splits).collect();
    pairs.sort_unstable_by_key(|&(_, split)| split);
    pairs.into_iter().map(|(place, _)| place.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_lancedb_0_40_are_reproduced() {
        let small: [(u64, u64, u64, &[u64]); 6] = [
            (5, 42, 1, &[2, 1, 4, 3, 0]),
            (10, 0, 1, &[3, 0, 5, 8, 6, 1, 2, 7, 9, 4]),
            (10, 42, 1, &[2, 1, 4, 6, 9, 5, 3, 8, 7, 0]),
            (10, 100_003, 1, &[5, 2, 6, 4, 3, 8, 9, 0, 7, 1]),
            (17, 1, 1, &[13, 9, 8, 1, 6, 0, 12, 7, 16, 11, 15, 2, 3, 4, 5, 14, 10]),
            (10, 0, 4, &[8, 9, 0, 1, 2, 3, 4, 5, 6, 7]),
        ];
        for (n, seed, clump, wanted) in small {
            assert_eq!(shuffled(n, seed, clump).unwrap(), wanted, "n = {n}, seed = {seed}");
        }
        let large = [
            (1_000, 1, 2_035_184_396),
            (100_000, 1, 3_710_770_884),
            (1_000_000, 1, 3_366_489_952),
            (1_000_000, 16, 3_654_079_704),
        ];
        for (n, clump, wanted) in large {
            let order = shuffled(n, 42, clump).unwrap();
            assert_eq!(crc32(&order), wanted, "n = {n}, clump = {clump}");
        }
    }

    #[test]
    fn any_size_and_clump_gives_every_row_once() {
        for num_rows in [0, 1, 2, 99, 100, 101, 500] {
            for clump in [1, 3, 16, 1000, u64::MAX] {
                let mut order = shuffled(num_rows, 5, clump).unwrap();
                order.sort_unstable();
                assert!(order.into_iter().eq(0..num_rows));
            }
        }
        assert!(shuffled(10, 0, 0).is_err());
    }

    #[test]
    fn splits_are_sorted_as_lancedb_sorts_them() {
        let splits: Vec<u64> = (0..50).map(|k| k * 7 % 3).collect();
        let order = sorted_by_split(splits.iter().copied());
        let sorted: Vec<u64> = order.iter().map(|&k| splits[usize::try_from(k).unwrap()]).collect();
        assert!(sorted.is_sorted());
        let mut places = order.clone();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..50));
        assert_eq!(order[..10], GOLDEN_SORT);
    }

    const GOLDEN_SORT: [u64; 10] = [24, 48, 3, 6, 9, 12, 15, 18, 21, 0];

    /// CRC-32 (IEEE) of the little-endian words.
    fn crc32(words: &[u64]) -> u32 {
        let mut crc = u32::MAX;
        for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            }
        }
        !crc
    }
}
