//! Weights that go in a straight line from one stage to the next.

use super::recipe::Stage;

/// Stretches that a ramp is cut into, each of the same weights throughout.
const SEGMENTS: u64 = 1024;
/// What the weights of a stretch add up to, about: 2⁴⁰.
const WEIGHT: f64 = 1_099_511_627_776.0;

/// Weights on their way from one stage to the next.
pub(super) struct Ramp {
    start: f64,
    end: f64,
    from: Vec<f64>,
    to: Vec<f64>,
    /// Rows that each source is behind its line.
    behind: Vec<f64>,
}

impl Ramp {
    pub(super) fn new(stage: &Stage, next: &Stage) -> Self {
        let (start, end) = (real(stage.start), real(next.start));
        Self {
            start,
            end,
            from: shares(&stage.weights),
            to: shares(&next.weights),
            behind: vec![0.0; stage.weights.len()],
        }
    }

    /// Returns the weights of a stretch: what each source should have of it, and what it is behind.
    pub(super) fn weights(&mut self, start: u64, end: u64) -> Vec<u64> {
        let wanted = self.rows(start, end);
        for (behind, wanted) in self.behind.iter_mut().zip(&wanted) {
            *behind += wanted;
        }
        whole(&self.behind)
    }

    /// Takes what each source had of it.
    pub(super) fn served(&mut self, counts: &[u64]) {
        for (behind, &count) in self.behind.iter_mut().zip(counts) {
            *behind -= real(count);
        }
    }

    /// Returns the rows that each source should have between two rows.
    fn rows(&self, start: u64, end: u64) -> Vec<f64> {
        let middle = f64::midpoint(real(start), real(end));
        let way = (middle - self.start) / (self.end - self.start);
        let share = |(from, to): (&f64, &f64)| (from + (to - from) * way) * real(end - start);
        self.from.iter().zip(&self.to).map(share).collect()
    }
}

/// Cuts a run of rows into stretches of about equal length.
pub(super) fn stretches(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let count = SEGMENTS.min(end - start);
    let cut = move |k: u64| {
        let length = u128::from(end - start) * u128::from(k) / u128::from(count);
        // OK: it is at most `end - start`.
        start + u64::try_from(length).unwrap_or(0)
    };
    (0..count).map(move |k| (cut(k), cut(k + 1)))
}

pub(super) fn shares(weights: &[u64]) -> Vec<f64> {
    let total = real(weights.iter().sum());
    weights.iter().map(|&weight| real(weight) / total).collect()
}

/// Returns the weights as whole numbers.
fn whole(weights: &[f64]) -> Vec<u64> {
    let total: f64 = weights.iter().map(|weight| weight.max(0.0)).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^40")]
    let number = |weight: &f64| (weight.max(0.0) / total * WEIGHT).round() as u64;
    weights.iter().map(number).collect()
}

#[expect(clippy::cast_precision_loss, reason = "rows beyond 2^53 may be off by a few")]
pub(super) fn real(number: u64) -> f64 {
    number as f64
}
