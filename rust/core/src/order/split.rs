//! Named disjoint parts of the rows: how large each is, and which rows it gets.
//!
//! Random splits are slices of one shuffle and sequential ones slices of the order itself, so this
//! file only says where to cut. Stratified and grouped splits need a label per row, given as small
//! codes, and answer with a bitmap of positions per split.

use super::bijection::{Purpose, mix64};
use super::{Bitmap, Shuffle};
use crate::error::{Error, Result};

/// How large the splits are.
#[derive(Debug, Clone, PartialEq)]
pub enum Sizes {
    /// Shares of the rows, each above 0, together at most 1.
    Ratios(Vec<f64>),
    /// Rows of each, none 0, together at most all.
    Counts(Vec<u64>),
    /// This many splits of `num_rows / n` rows each.
    Fixed(u64),
}

impl Sizes {
    /// Returns the rows of each split of `num_rows` rows, by LanceDB's rules.
    ///
    /// A ratio is rounded to the nearest row, halves away from zero. Where that gives too many rows
    /// the first splits lose one each; where the ratios sum to one and it gives too few, the first
    /// splits gain one each. Rows beyond the last split belong to none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], in LanceDB's words, if a split would be empty or the splits too large.
    pub fn counts(&self, num_rows: u64) -> Result<Vec<u64>> {
        match self {
            Self::Ratios(ratios) => counts_of_ratios(ratios, num_rows),
            Self::Counts(counts) => {
                let sum = counts.iter().try_fold(0_u64, |sum, &count| sum.checked_add(count));
                match sum {
                    _ if counts.is_empty() => Err(empty("counts")),
                    _ if counts.contains(&0) => {
                        Err(Error::invalid_text("Split counts must be greater than 0"))
                    }
                    Some(sum) if sum <= num_rows => Ok(counts.clone()),
                    _ => Err(Error::invalid_text(format!(
                        "Split counts specified {} rows but only {num_rows} are available",
                        sum.map_or_else(|| "more than 2^64".to_string(), |sum| sum.to_string())
                    ))),
                }
            }
            Self::Fixed(0) => Err(Error::invalid_text("Split fixed must be greater than 0")),
            Self::Fixed(count) if *count > num_rows => Err(Error::invalid_text(format!(
                "Split fixed config specified {count} splits but only {num_rows} rows are \
                 available.  Must have at least 1 row per split."
            ))),
            Self::Fixed(count) => {
                let splits = usize::try_from(*count).map_err(|_| empty("fixed"))?;
                Ok(vec![num_rows / count; splits])
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the arithmetic of LanceDB, whose counts these are: ratios are within 0..=1"
)]
fn counts_of_ratios(ratios: &[f64], num_rows: u64) -> Result<Vec<u64>> {
    if ratios.is_empty() {
        return Err(empty("ratios"));
    }
    let rows = num_rows as f64;
    for ratio in ratios {
        if !(0.0..=1.0).contains(ratio) {
            return Err(Error::invalid_text(format!(
                "Split percentages must be between 0.0 and 1.0, got {ratio}"
            )));
        }
        if ratio * rows < 1.0 {
            return Err(Error::invalid_text(format!(
                "One of the splits has {}% of {num_rows} rows which rounds to 0 rows",
                ratio * 100.0
            )));
        }
    }
    let sum = ratios.iter().sum::<f64>();
    if sum > 1.0 {
        return Err(Error::invalid_text(format!(
            "Split percentages must sum to 1.0 or less, got {sum}"
        )));
    }
    let mut counts: Vec<u64> = ratios.iter().map(|ratio| (ratio * rows).round() as u64).collect();
    let splits = counts.len();
    let total: u64 = counts.iter().sum();
    let mut at = 0;
    for _ in num_rows..total {
        while counts[at % splits] == 0 {
            at += 1;
        }
        counts[at % splits] -= 1;
        at += 1;
    }
    if (rows - sum * rows).abs() < 0.5 {
        for at in 0..num_rows.saturating_sub(total) {
            counts[at as usize % splits] += 1;
        }
    }
    Ok(counts)
}

fn empty(argument: &str) -> Error {
    Error::invalid(format!("no {argument}"), "at least one split")
}

/// Returns where fold `fold` of `folds` lies in `0..num_rows`: the first `num_rows % folds` are one
/// longer.
///
/// # Errors
///
/// [`Error::Invalid`] unless `2 <= folds <= num_rows` and `fold < folds`.
pub fn fold(num_rows: u64, folds: u64, fold: u64) -> Result<std::ops::Range<u64>> {
    if folds < 2 || folds > num_rows {
        return Err(Error::invalid(
            format!("{folds} folds of {num_rows} rows"),
            "at least 2 folds of at least 1 row",
        ));
    }
    if fold >= folds {
        return Err(Error::invalid(
            format!("fold {fold} of {folds}"),
            format!("0 to {}", folds - 1),
        ));
    }
    let (whole, extra) = (num_rows / folds, num_rows % folds);
    let start = fold * whole + fold.min(extra);
    Ok(start..start + whole + u64::from(fold < extra))
}

/// Splits in which every label has its share.
///
/// `labels[k]` is a small code for the label of position `k`. The positions are laid in a line,
/// label after label, each label shuffled by `seed`, and dealt out so that any stretch of the line
/// is shared as `counts` share the whole: split `i` gets exactly `counts[i]` positions, and of each
/// label its share to within two rows. Positions left over belong to no split. The answer has the
/// positions of each split, ascending.
///
/// Dealing is the scheduling of unit tasks by earliest pseudo-deadline (S. Baruah, N. Cohen,
/// C. Plaxton and D. Varvel, "Proportionate progress", 1996): after `j` rows, split `i` has
/// `j · counts[i] / n` of them to within less than one.
///
/// # Errors
///
/// [`Error::Invalid`] if `counts` sum to more than there are labels.
pub fn stratified(labels: &[u32], counts: &[u64], seed: u64) -> Result<Vec<Bitmap>> {
    let num_rows = labels.len() as u64;
    let left_over = num_rows - check_sum(num_rows, counts)?;
    let mut tasks: Vec<Task> =
        counts.iter().chain([&left_over]).map(|&count| Task { count, dealt: Vec::new() }).collect();
    let mut row = 0;
    for (label, positions) in (0..).zip(positions_by_code(labels)) {
        let size = positions.len() as u64;
        // A label's shuffle must not depend on which other labels there are.
        let seed = mix64(seed ^ mix64(label));
        let mut shuffled: Vec<u64> = (0..size).collect();
        Shuffle::new(size, Purpose::Split, seed, 0, 1)?.apply(&mut shuffled);
        for place in shuffled {
            crate::interrupt::check()?;
            let next = tasks
                .iter_mut()
                .filter(|task| task.is_due(row, num_rows))
                .min_by_key(|task| task.deadline(num_rows));
            let next = next.expect("one of the shares is always due");
            next.dealt.push(positions[usize::try_from(place).expect("below a length")]);
            row += 1;
        }
    }
    tasks.truncate(counts.len());
    Ok(tasks.into_iter().map(|task| Bitmap::from_offsets(task.dealt)).collect())
}

/// A split that is dealt rows.
struct Task {
    count: u64,
    dealt: Vec<u64>,
}

impl Task {
    /// Returns whether it may get the row dealt as number `row`, counted from 0.
    fn is_due(&self, row: u64, num_rows: u64) -> bool {
        let dealt = self.dealt.len() as u64;
        let release = u128::from(dealt) * u128::from(num_rows);
        dealt < self.count && release / u128::from(self.count) <= u128::from(row)
    }

    /// Returns the row by which it must have got its next one.
    fn deadline(&self, num_rows: u64) -> u128 {
        let next = self.dealt.len() as u128 + 1;
        (next * u128::from(num_rows)).div_ceil(u128::from(self.count))
    }
}

/// Splits that keep every group whole.
///
/// `groups[k]` is a small code for the group of position `k`. The groups are shuffled by `seed` and
/// laid in a line, and a group belongs to the split that its middle falls in when the line is cut by
/// `counts`: sizes are as close to `counts` as whole groups in this order allow. The answer has the
/// positions of each split, ascending.
///
/// # Errors
///
/// [`Error::Invalid`] if `counts` sum to more than there are positions.
pub fn grouped(groups: &[u32], counts: &[u64], seed: u64) -> Result<Vec<Bitmap>> {
    check_sum(groups.len() as u64, counts)?;
    let positions_of = positions_by_code(groups);
    let num_groups = positions_of.len() as u64;
    let mut shuffled: Vec<u64> = (0..num_groups).collect();
    Shuffle::new(num_groups, Purpose::Split, seed, 0, 1)?.apply(&mut shuffled);
    let mut parts = vec![Vec::new(); counts.len()];
    let mut placed = 0;
    for group in shuffled {
        crate::interrupt::check()?;
        let positions = &positions_of[usize::try_from(group).expect("below a length")];
        let size = positions.len() as u64;
        let mut end = 0;
        let part = counts.iter().position(|count| {
            end += count;
            2 * placed + size < 2 * end
        });
        if let Some(part) = part {
            parts[part].extend_from_slice(positions);
        }
        placed += size;
    }
    Ok(parts.into_iter().map(Bitmap::from_offsets).collect())
}

fn check_sum(num_rows: u64, counts: &[u64]) -> Result<u64> {
    let sum = counts.iter().try_fold(0_u64, |sum, &count| sum.checked_add(count));
    sum.filter(|&sum| sum <= num_rows).ok_or_else(|| {
        Error::invalid(format!("splits of {counts:?} rows"), format!("at most {num_rows} in all"))
    })
}

fn positions_by_code(codes: &[u32]) -> Vec<Vec<u64>> {
    let num_codes = codes.iter().max().map_or(0, |&max| max as usize + 1);
    let mut positions = vec![Vec::new(); num_codes];
    for (position, &code) in (0..).zip(codes) {
        positions[code as usize].push(position);
    }
    positions
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_precision_loss, reason = "small numbers")]

    use super::*;
    use proptest::prelude::*;

    fn ratios(ratios: &[f64], num_rows: u64) -> Vec<u64> {
        Sizes::Ratios(ratios.to_vec()).counts(num_rows).unwrap()
    }

    fn message(sizes: Sizes, num_rows: u64) -> String {
        sizes.counts(num_rows).unwrap_err().to_string()
    }

    #[test]
    fn ratios_round_as_in_lancedb() {
        assert_eq!(ratios(&[1.0 / 3.0; 3], 10), [4, 3, 3]);
        assert_eq!(ratios(&[0.25, 0.25], 10), [3, 3]);
        assert_eq!(ratios(&[0.55, 0.45], 10), [5, 5]);
        assert_eq!(ratios(&[0.35, 0.35, 0.3], 10), [3, 4, 3]);
        assert_eq!(ratios(&[0.3, 0.3, 0.3], 10), [3, 3, 3]);
        assert_eq!(ratios(&[0.3, 0.41], 70), [21, 29]);
        assert_eq!(Sizes::Counts(vec![3, 4]).counts(10).unwrap(), [3, 4]);
        assert_eq!(Sizes::Fixed(3).counts(10).unwrap(), [3, 3, 3]);
    }

    #[test]
    fn impossible_sizes_are_refused_in_lancedb_s_words() {
        let ratios = |ratios: &[f64]| message(Sizes::Ratios(ratios.to_vec()), 10);
        assert!(ratios(&[1.5]).contains("must be between 0.0 and 1.0"));
        assert!(ratios(&[-0.1]).contains("must be between 0.0 and 1.0"));
        assert!(ratios(&[f64::NAN]).contains("must be between 0.0 and 1.0"));
        assert!(ratios(&[0.0]).contains("0% of 10 rows which rounds to 0 rows"));
        assert!(ratios(&[0.6, 0.6]).contains("must sum to 1.0 or less"));
        assert!(ratios(&[]).contains("at least one split"));
        let counts = |counts: &[u64]| message(Sizes::Counts(counts.to_vec()), 10);
        assert!(
            counts(&[5, 6]).contains("Split counts specified 11 rows but only 10 are available")
        );
        assert!(counts(&[u64::MAX, 1]).contains("only 10 are available"));
        assert!(counts(&[0, 1]).contains("Split counts must be greater than 0"));
        assert!(counts(&[]).contains("at least one split"));
        assert!(message(Sizes::Fixed(0), 10).contains("greater than 0"));
        assert!(message(Sizes::Fixed(11), 10).contains("at least 1 row per split"));
    }

    #[test]
    fn folds_partition_the_rows() {
        for num_rows in 2..40 {
            for folds in 2..=num_rows {
                let mut end = 0;
                for k in 0..folds {
                    let range = fold(num_rows, folds, k).unwrap();
                    assert_eq!(range.start, end);
                    assert!((range.end - range.start).abs_diff(num_rows / folds) <= 1);
                    end = range.end;
                }
                assert_eq!(end, num_rows);
            }
        }
        assert!(fold(10, 1, 0).is_err());
        assert!(fold(3, 4, 0).is_err());
        assert!(fold(10, 2, 2).is_err());
    }

    fn members(part: &Bitmap) -> Vec<u64> {
        (0..part.len()).map(|k| part.select(k).unwrap()).collect()
    }

    fn all_members(parts: &[Bitmap]) -> Vec<u64> {
        let mut all: Vec<u64> = parts.iter().flat_map(members).collect();
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn strata_are_shared_and_sizes_exact(
            labels in prop::collection::vec(0_u32..5, 1..300),
            cuts in prop::collection::vec(1_u64..50, 1..5),
            seed in any::<u64>(),
        ) {
            let num_rows = labels.len() as u64;
            let weight: u64 = cuts.iter().sum::<u64>() + 10;
            let counts: Vec<u64> = cuts.iter().map(|cut| cut * num_rows / weight).collect();
            let parts = stratified(&labels, &counts, seed).unwrap();
            prop_assert!(all_members(&parts).windows(2).all(|pair| pair[0] < pair[1]));
            for (part, &count) in parts.iter().zip(&counts) {
                prop_assert_eq!(part.len(), count);
                for label in 0..5 {
                    let of = |rows: &mut dyn Iterator<Item = u64>| {
                        rows.filter(|&k| labels[usize::try_from(k).unwrap()] == label).count() as f64
                    };
                    let got = of(&mut members(part).into_iter());
                    let share = of(&mut (0..num_rows)) * count as f64 / num_rows as f64;
                    prop_assert!((got - share).abs() < 2.0, "{} of {}", got, share);
                }
            }
        }

        #[test]
        fn groups_stay_whole_and_sizes_come_close(
            groups in prop::collection::vec(0_u32..40, 1..300),
            share in 10_u64..90,
            seed in any::<u64>(),
        ) {
            let num_rows = groups.len() as u64;
            let first = num_rows * share / 100;
            let counts = [first, num_rows - first];
            let parts = grouped(&groups, &counts, seed).unwrap();
            prop_assert!(all_members(&parts).into_iter().eq(0..num_rows));
            let codes = |part: &Bitmap| -> std::collections::HashSet<u32> {
                members(part).iter().map(|&k| groups[usize::try_from(k).unwrap()]).collect()
            };
            prop_assert!(codes(&parts[0]).is_disjoint(&codes(&parts[1])));
            let size = |code| groups.iter().filter(|&&g| g == code).count() as u64;
            let largest = (0..40).map(size).max().unwrap();
            prop_assert!(parts[0].len().abs_diff(first) <= largest.div_ceil(2));
        }
    }

    #[test]
    fn too_many_rows_are_refused() {
        assert!(stratified(&[0, 1], &[2, 1], 0).is_err());
        assert!(grouped(&[0, 1], &[u64::MAX, 1], 0).is_err());
    }
}
