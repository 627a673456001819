//! The maps that an order is a chain of.

use super::blocks;
use super::expression::{Map, Order};
use super::shuffle::Shuffle;
use super::windowed::Windowed;

impl Map {
    /// Returns the number its images are below if it is given `0..n`, or `None` if it does not take
    /// them.
    pub(super) fn images(&self, n: u64) -> Option<u64> {
        let fits = |len: u64, bound: u64| (n <= len).then_some(if n == 0 { 0 } else { bound });
        match self {
            Self::Range { step: 0, .. } => None,
            Self::Range { start, step } => {
                let Some(last) = n.checked_sub(1) else {
                    return Some(0);
                };
                let end = i128::from(*start) + i128::from(last) * i128::from(*step);
                let lowest = end.min(i128::from(*start));
                let highest = end.max(i128::from(*start));
                (lowest >= 0).then_some(u64::try_from(highest + 1).ok()?)
            }
            Self::Blocks { start, block, stride } => (0 < *block && block <= stride)
                .then(|| blocks::images(*start, *block, *stride, n))
                .flatten(),
            Self::Bitmap(rows) => fits(rows.len(), rows.last().map_or(0, |last| last + 1)),
            Self::Listed(list) => fits(list.len(), list.bound()),
            Self::Shuffle(shuffle) => fits(shuffle.len(), shuffle.len()),
            Self::Windowed(windowed) => fits(windowed.len(), windowed.len()),
            Self::Weighted(weighted) => Some(if n == 0 { 0 } else { weighted.num_rows() }),
            Self::Mixed(mixed) => fits(mixed.len(), mixed.bound()),
            Self::Neighbours(rows) => fits(rows.len(), rows.bound()),
            Self::Repeat { len } => (*len > 0 || n == 0).then_some((*len).min(n)),
            Self::Concat(parts) => fits(
                parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.len()))?,
                parts.iter().map(Order::bound).max().unwrap_or(0),
            ),
        }
    }

    pub(super) fn apply(&self, values: &mut [u64]) {
        match self {
            Self::Range { start, step } => {
                let step = step.cast_unsigned();
                for value in values {
                    // Negative steps wrap to the right sum; the bounds were checked when made.
                    *value = start.wrapping_add(value.wrapping_mul(step));
                }
            }
            Self::Blocks { start, block, stride } => blocks::apply(*start, *block, *stride, values),
            Self::Bitmap(rows) => rows.apply(values),
            Self::Listed(list) => list.apply(values),
            Self::Shuffle(shuffle) => shuffle.apply(values),
            Self::Windowed(windowed) => windowed.apply(values),
            Self::Weighted(weighted) => weighted.apply(values),
            Self::Mixed(mixed) => mixed.apply(values),
            Self::Neighbours(rows) => rows.apply(values),
            Self::Repeat { len } => {
                for value in values {
                    *value %= len;
                }
            }
            Self::Concat(parts) => {
                let ends = ends(parts);
                for value in values {
                    let at = ends.partition_point(|end| end <= value);
                    let start = at.checked_sub(1).map_or(0, |before| ends[before]);
                    let mut position = [*value - start];
                    parts[at].apply(&mut position);
                    [*value] = position;
                }
            }
        }
    }

    pub(super) fn fill(&self, start: u64, out: &mut [u64]) {
        match self {
            Self::Blocks { start: first, block, stride } => {
                blocks::fill(*first, *block, *stride, start, out);
            }
            Self::Shuffle(shuffle) => shuffle.fill(start, out),
            Self::Windowed(windowed) => windowed.fill(start, out),
            Self::Listed(list) => list.fill(start, out),
            Self::Bitmap(rows) => rows.fill(start, out),
            Self::Mixed(mixed) => mixed.fill(start, out),
            Self::Neighbours(rows) => rows.fill(start, out),
            Self::Concat(parts) => {
                let (mut start, mut out) = (start, out);
                for part in parts.iter() {
                    if start >= part.len {
                        start -= part.len;
                        continue;
                    }
                    let count = usize::try_from(part.len - start).unwrap_or(usize::MAX);
                    let (head, rest) = out.split_at_mut(count.min(out.len()));
                    part.fill(start, head);
                    (start, out) = (0, rest);
                }
            }
            Self::Range { .. } | Self::Weighted(_) | Self::Repeat { .. } => {
                for (value, position) in out.iter_mut().zip(start..) {
                    *value = position;
                }
                self.apply(out);
            }
        }
    }

    pub(super) fn num_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Range { .. } | Self::Blocks { .. } | Self::Repeat { .. } => 0,
                Self::Bitmap(rows) => rows.num_bytes(),
                Self::Listed(list) => list.num_bytes(),
                Self::Shuffle(_) => size_of::<Shuffle>() + 512,
                Self::Windowed(_) => size_of::<Windowed>() + 512,
                Self::Weighted(weighted) => weighted.num_bytes(),
                Self::Mixed(mixed) => mixed.num_bytes(),
                Self::Neighbours(rows) => rows.num_bytes(),
                Self::Concat(parts) => parts.iter().map(Order::num_bytes).sum(),
            }
    }
}

impl std::fmt::Display for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range { start, step: 1 } => write!(f, "from {start} on"),
            Self::Range { start, step } => write!(f, "from {start} by {step}"),
            Self::Blocks { start, block, stride } => {
                write!(f, "{block} of each {stride} from {start} on")
            }
            Self::Bitmap(rows) => write!(f, "of a bitmap of {} bytes", rows.num_bytes()),
            Self::Listed(list) => write!(f, "of a list of {} entries", list.len()),
            Self::Shuffle(s) if s.clump() == 1 => {
                write!(f, "shuffled by seed {} epoch {}", s.seed(), s.epoch())
            }
            Self::Shuffle(s) => {
                write!(f, "shuffled by seed {} epoch {} clump {}", s.seed(), s.epoch(), s.clump())
            }
            Self::Windowed(w) => write!(
                f,
                "shuffled by seed {} epoch {} in blocks of {} and windows of {} blocks",
                w.seed(),
                w.epoch(),
                w.block(),
                w.window_blocks()
            ),
            Self::Weighted(w) => write!(
                f,
                "drawn by seed {} epoch {} from {} classes of {} rows",
                w.seed(),
                w.epoch(),
                w.num_classes(),
                w.num_rows()
            ),
            Self::Mixed(mixed) => write!(f, "mixed from {} orders", mixed.orders().len()),
            Self::Neighbours(rows) => {
                write!(f, "{} steps from each of {}", rows.steps().len(), rows.order())
            }
            Self::Repeat { len } => write!(f, "repeating {len}"),
            Self::Concat(parts) => write!(f, "of {} orders end to end", parts.len()),
        }
    }
}

/// Returns where each part ends.
fn ends(parts: &[Order]) -> Vec<u64> {
    let mut end = 0;
    let add = |part: &Order| {
        end += part.len;
        end
    };
    parts.iter().map(add).collect()
}
