//! Durations counted by size: a kilobyte, whatever their number.

/// Classes for each doubling.
const STEPS: u64 = 4;
/// Classes of 64-bit numbers.
const CLASSES: usize = 64 * 4;

/// How often durations were so long, each to a fifth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; CLASSES] }
    }
}

impl Histogram {
    /// Counts a duration of `nanos` nanoseconds.
    pub fn add(&mut self, nanos: u64) {
        self.counts[class_of(nanos)] += 1;
    }

    /// Returns the upper end of each class in nanoseconds and its count, shortest first.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        let classes = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        classes.map(|(class, &count)| (end_of(class), count)).collect()
    }

    /// Returns the duration in nanoseconds that a `share` of all do not exceed, or 0 if there are none.
    ///
    /// Too long by up to a quarter, as durations are counted by class.
    pub fn quantile(&self, share: f64) -> u64 {
        let total: u64 = self.counts.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "a share of a count")]
        let wanted = total as f64 * share;
        let mut sum = 0;
        for (class, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            sum += count;
            #[expect(clippy::cast_precision_loss, reason = "a share of a count")]
            if sum as f64 >= wanted {
                return end_of(class);
            }
        }
        0
    }
}

/// Classes have the highest bit of the duration and the two below it in common.
fn class_of(nanos: u64) -> usize {
    let high = u64::from(nanos.max(1).ilog2());
    let steps = if high < 2 { 0 } else { (nanos >> (high - 2)) & (STEPS - 1) };
    usize::try_from(high * STEPS + steps).unwrap_or(usize::MAX)
}

fn end_of(class: usize) -> u64 {
    let (high, steps) = (class as u64 / STEPS, class as u64 % STEPS);
    if high < 2 {
        return (1 << (high + 1)) - 1;
    }
    let first = (1_u64 << high) + (steps << (high - 2));
    first + ((1 << (high - 2)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_class_that_ends_at_or_above_it() {
        for nanos in (0..4096).chain([1 << 40, (1 << 40) + 7, u64::MAX]) {
            let end = end_of(class_of(nanos));
            assert!(end >= nanos && end - nanos <= nanos / 4 + 1, "{nanos}: {end}");
        }
    }

    #[test]
    fn quantiles_are_about_right() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=1000).for_each(|nanos| histogram.add(nanos * 1000));
        for (share, wanted) in [(0.5, 500_000), (0.95, 950_000), (1.0, 1_000_000)] {
            let found = histogram.quantile(share);
            assert!(found >= wanted && found <= wanted + wanted / 4, "{share}: {found}");
        }
        assert_eq!(histogram.counts().iter().map(|(_, count)| count).sum::<u64>(), 1000);
    }
}
