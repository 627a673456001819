//! Weighted rows without replacement.

use super::alias::check;
use super::stream::word;
use crate::error::{Error, Result};
use crate::order::bijection::{Bijection, Purpose, key, mix64};

/// Rows looked at between two looks at whether the caller was interrupted.
const INTERRUPT_ROWS: usize = 1 << 16;

/// Draws `size` rows, none twice, in random order: as if one after another were drawn from those left, row
/// `k` with a probability proportional to `weights[k]`.
///
/// Every row waits for an exponential time of the rate of its weight, and the first are taken
/// (P. Efraimidis and P. Spirakis, "Weighted random sampling with a reservoir", 2006). They are then
/// shuffled, as otherwise heavy rows would come first. `O(size)` memory beside the weights.
///
/// # Errors
///
/// [`Error::Invalid`] if a weight is negative or not finite, or fewer than `size` are above 0;
/// [`Error::Interrupted`].
pub fn choose(weights: &[f64], size: u64, seed: u64, epoch: u64) -> Result<Vec<u64>> {
    if size > 0 {
        check(weights)?;
    }
    let drawable = weights.iter().filter(|&&weight| weight > 0.0).count();
    let size = usize::try_from(size).ok().filter(|&size| size <= drawable).ok_or_else(|| {
        Error::invalid(
            format!("a sample of {size} rows without replacement"),
            format!("at most the {drawable} whose weight is above 0"),
        )
    })?;
    let key = key(Purpose::Draw, seed, epoch);
    let mut first = Earliest { size, times: Vec::new(), latest: f64::INFINITY };
    for (row, &weight) in (0_u64..).zip(weights) {
        if row.is_multiple_of(INTERRUPT_ROWS as u64) {
            crate::interrupt::check()?;
        }
        if weight > 0.0 {
            first.push((exponential(word(key, row)) / weight, row));
        }
    }
    let mut rows: Vec<u64> = first.finish().into_iter().map(|(_, row)| row).collect();
    rows.sort_unstable();
    let mut places = vec![0; rows.len()];
    Bijection::new(rows.len() as u64, mix64(key))?.fill(0, &mut places);
    let at = |place: u64| rows[usize::try_from(place).expect("a place of a list")];
    Ok(places.into_iter().map(at).collect())
}

/// The earliest of many times, in twice their number of places.
struct Earliest {
    size: usize,
    times: Vec<(f64, u64)>,
    /// Nothing later can be among them.
    latest: f64,
}

impl Earliest {
    fn push(&mut self, time: (f64, u64)) {
        if time.0 > self.latest {
            return;
        }
        self.times.push(time);
        if self.times.len() > 2 * self.size {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.times.len() > self.size {
            // Of equal times the smaller row counts as earlier, in whichever order they came.
            let order = |a: &(f64, u64), b: &(f64, u64)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
            if let Some(last) = self.size.checked_sub(1) {
                self.latest = self.times.select_nth_unstable_by(last, order).1.0;
            }
            self.times.truncate(self.size);
        }
    }

    fn finish(mut self) -> Vec<(f64, u64)> {
        self.cut();
        self.times
    }
}

/// Returns an exponential time of rate one: `−ln u` for `u` strictly between 0 and 1.
///
/// The logarithm is a series in additions, multiplications and divisions, which are the same on
/// every machine; that of the machine's own library need not be.
fn exponential(word: u64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    #[expect(clippy::cast_precision_loss, reason = "52 bits and a half fit into 53")]
    let uniform = ((word >> 12) as f64 + 0.5) / 4_503_599_627_370_496.0;
    // u = mantissa · 2⁻ᵉ with a mantissa between ¾ and 1½, where the series is short.
    let (mut mantissa, mut halvings) = (uniform, 0.0);
    while mantissa < 0.75 {
        mantissa *= 2.0;
        halvings += 1.0;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [25.0, 23.0, 21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    halvings * LN_2 - 2.0 * s * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_logarithms() {
        for word in (0..64).map(|bit| u64::MAX >> bit).chain([0, 1 << 63, 3 << 62, 77 << 50]) {
            #[expect(clippy::cast_precision_loss, reason = "as in the function")]
            let uniform = ((word >> 12) as f64 + 0.5) / 4_503_599_627_370_496.0;
            let (got, wanted) = (exponential(word), -uniform.ln());
            assert!((got - wanted).abs() <= 4e-16 * wanted.max(1.0), "{word}: {got} {wanted}");
            assert!(got > 0.0);
        }
    }

    #[test]
    fn few_places_give_the_same_as_sorting_all() {
        let weights: Vec<f64> = (0..5000).map(|row| f64::from(row % 7)).collect();
        let key = key(Purpose::Draw, 3, 1);
        let drawable = (0..5000).filter(|row| row % 7 > 0);
        let time = |row: u64| exponential(word(key, row)) / weights[usize::try_from(row).unwrap()];
        let mut all: Vec<(f64, u64)> = drawable.map(|row| (time(row), row)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        for size in [0_usize, 1, 2, 10, 1000, all.len()] {
            let mut wanted: Vec<u64> = all[..size].iter().map(|&(_, row)| row).collect();
            wanted.sort_unstable();
            let mut got = choose(&weights, size as u64, 3, 1).unwrap();
            assert!(size < 10 || !got.is_sorted());
            got.sort_unstable();
            assert_eq!(got, wanted, "{size}");
        }
        assert!(choose(&weights, all.len() as u64 + 1, 3, 1).is_err());
    }
}
