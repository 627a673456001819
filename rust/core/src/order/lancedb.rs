//! The row order of LanceDB's `permutation_builder`, bit for bit.
//!
//! LanceDB 0.40 shuffles with `rand` 0.9: `SmallRng` on 64-bit machines is xoshiro256++ seeded
//! through SplitMix64, and `SliceRandom::shuffle` is a forward Fisher–Yates that draws several
//! indices from one 32-bit number. From `ROWS_IN_MEMORY` rows on it first deals the clumps to
//! files at random and then shuffles file after file with the same generator. The same sequence is
//! made here without files, and without its condition that batches hold whole clumps.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::error::{Error, Result};

/// From this many rows on LanceDB shuffles through files of this many rows.
const ROWS_IN_MEMORY: u64 = 10 * 1024 * 1024;

/// The positions `0..num_rows` in the order LanceDB's shuffle leaves them in.
///
/// `seed` and `clump_size` are those of `PermutationBuilder.shuffle` or `split_random`. Takes time
/// and memory proportional to `num_rows`: 8 bytes a row, 16 from 10,485,760 rows on.
///
/// # Errors
///
/// [`Error::Invalid`] if `clump_size` is 0.
pub fn shuffled(num_rows: u64, seed: u64, clump_size: u64) -> Result<Vec<u64>> {
    shuffled_in_files(num_rows, seed, clump_size, ROWS_IN_MEMORY)
}

fn shuffled_in_files(
    num_rows: u64,
    seed: u64,
    clump_size: u64,
    rows_per_file: u64,
) -> Result<Vec<u64>> {
    if clump_size == 0 {
        return Err(Error::invalid("clump_size 0", "at least 1 row"));
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let clump_starts = (0..num_rows.div_ceil(clump_size)).map(|clump| clump * clump_size);
    if num_rows < rows_per_file {
        let mut clumps: Vec<u64> = clump_starts.collect();
        clumps.shuffle(&mut rng);
        return Ok(expand(&clumps, clump_size, num_rows));
    }
    let num_files = num_rows.div_ceil(rows_per_file);
    let mut files = vec![Vec::new(); usize::try_from(num_files).expect("files fit in memory")];
    for start in clump_starts {
        let file = rng.random_range(0..num_files);
        files[usize::try_from(file).expect("an index of files")].push(start);
    }
    let mut order = Vec::with_capacity(usize::try_from(num_rows).unwrap_or(0));
    for mut clumps in files {
        clumps.shuffle(&mut rng);
        order.extend(expand(&clumps, clump_size, num_rows));
    }
    Ok(order)
}

/// The rows of each clump; only the last clump of the table may be short.
fn expand(clump_starts: &[u64], clump_size: u64, num_rows: u64) -> Vec<u64> {
    if clump_size == 1 {
        return clump_starts.to_vec();
    }
    clump_starts.iter().flat_map(|&start| start..num_rows.min(start + clump_size)).collect()
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
    fn any_size_clump_and_number_of_files_gives_every_row_once() {
        for rows_per_file in [1, 7, 100, 1000] {
            for num_rows in [0, 1, 2, 99, 100, 101, 500] {
                for clump in [1, 3, 16, 1000] {
                    let mut order = shuffled_in_files(num_rows, 5, clump, rows_per_file).unwrap();
                    order.sort_unstable();
                    assert!(order.into_iter().eq(0..num_rows));
                }
            }
        }
        assert!(shuffled(10, 0, 0).is_err());
    }

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
