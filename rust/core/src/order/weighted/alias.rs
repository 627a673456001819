//! Drawing by weight in constant time.

use super::bytes::{foreign, read_list, read_words, write_list, write_words};
use crate::error::{Error, Result};
use crate::order::Listed;

/// Slots filled between two looks at whether the caller was interrupted.
const INTERRUPT_ROWS: usize = 1 << 16;

/// An alias table (A. Walker, 1977; built as in M. Vose, 1991): of `n` equally likely slots, each
/// keeps a share of its own index and gives the rest to one other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alias {
    /// The share that a slot keeps, of 2⁶⁴.
    kept: Vec<u64>,
    others: Listed,
}

impl Alias {
    /// Returns the table of `weights`. An index of weight 0 is never drawn, whatever the rounding.
    ///
    /// Only adds, subtracts, multiplies and divides, in one order: the same on every machine.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a weight is negative or not finite, or none is above 0;
    /// [`Error::Interrupted`].
    pub(super) fn new(weights: &[f64]) -> Result<Self> {
        let heaviest = check(weights)?;
        let largest = weights[heaviest];
        // By the largest first: a sum of weights may be more than a float holds.
        let per_row = float(weights.len()) / sum_of(weights.iter().map(|weight| weight / largest));
        let share = |weight: &f64| weight / largest * per_row;
        let mut shares: Vec<f64> = weights.iter().map(share).collect();
        let mut others: Vec<u64> = (0..weights.len() as u64).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for (slot, &share) in shares.iter().enumerate() {
            if share < 1.0 { small.push(slot) } else { large.push(slot) }
        }
        while let (Some(&poor), Some(&rich)) = (small.last(), large.last()) {
            small.pop();
            if small.len().is_multiple_of(INTERRUPT_ROWS) {
                crate::interrupt::check()?;
            }
            others[poor] = rich as u64;
            // What it gives away is 1 − its share.
            shares[rich] = (shares[rich] + shares[poor]) - 1.0;
            if shares[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        // What rounding left over keeps all of its slot, or, without a weight, none of it.
        for slot in small.into_iter().chain(large) {
            if weights[slot] == 0.0 {
                others[slot] = heaviest as u64;
            } else {
                shares[slot] = 1.0;
            }
        }
        let kept = shares.into_iter().map(of_two_to_the_64).collect();
        Ok(Self { kept, others: Listed::new(others) })
    }

    /// Returns the index that `word` picks of `slot`.
    pub(super) fn pick(&self, slot: u64, word: u64) -> u64 {
        if word < self.kept[index(slot)] { slot } else { self.others.at(slot) }
    }

    pub(super) fn num_bytes(&self) -> usize {
        size_of_val(&*self.kept) + self.others.num_bytes()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_words(&self.kept, out);
        write_list(&self.others, out);
    }

    pub(super) fn read(count: usize, bytes: &mut &[u8]) -> Result<Self> {
        let kept = read_words(count, bytes)?;
        let others = read_list(count, bytes)?;
        if others.bound() > count as u64 {
            return Err(foreign());
        }
        Ok(Self { kept, others })
    }
}

/// Returns a sum whose error does not grow with the number of terms (W. Kahan, 1965): it would become
/// slots that no row claims.
fn sum_of(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0, 0.0);
    for term in terms {
        let term = term - lost;
        let next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    sum
}

/// Returns where the first largest of weights stands, all of which can be drawn by.
pub(super) fn check(weights: &[f64]) -> Result<usize> {
    let is_wrong = |weight: &f64| !weight.is_finite() || *weight < 0.0;
    if let Some(at) = weights.iter().position(is_wrong) {
        return Err(Error::invalid(
            format!("weight {} of row {at}", weights[at]),
            "a finite number, 0 or more",
        ));
    }
    let larger = |a: usize, b: usize| if weights[b] > weights[a] { b } else { a };
    (0..weights.len()).reduce(larger).filter(|&heaviest| weights[heaviest] > 0.0).ok_or_else(|| {
        let none = format!("{} weights of which none is above 0", weights.len());
        Error::invalid(none, "at least one that is")
    })
}

/// Converts to an index. OK: what is indexed holds an entry for each row or class.
#[expect(clippy::cast_possible_truncation, reason = "the length of something in memory")]
pub(super) fn index(x: u64) -> usize {
    x as usize
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2⁵³ rows, and close enough beyond")]
fn float(count: usize) -> f64 {
    count as f64
}

/// A share of one as a share of 2⁶⁴; all of it is one less, and gives its rest to itself.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates: shares are from 0 to 1"
)]
fn of_two_to_the_64(share: f64) -> u64 {
    (share * 18_446_744_073_709_551_616.0) as u64
}
