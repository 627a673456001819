//! What an order is: a chain of maps, some of which hold orders themselves.
//!
//! The three types name each other, so they stand together; what each does is in `chain`, `map` and
//! `mixed`.

use std::sync::Arc;

use super::bitmap::Bitmap;
use super::episodes::Episodes;
use super::listed::Listed;
use super::mix::Mix;
use super::share::Share;
use super::shuffle::Shuffle;
use super::weighted::Weighted;
use super::windowed::Windowed;

/// A sequence of row offsets, computed when asked for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Order {
    pub(super) len: u64,
    pub(super) maps: Vec<Map>,
}

/// One step from a position towards a row offset.
#[derive(Debug, Clone)]
pub enum Map {
    /// Position `k` is `start + k · step`, at least 0; `step` may be negative, but not 0.
    Range {
        /// The value of position 0.
        start: u64,
        /// The distance between neighbours.
        step: i64,
    },
    /// Position `k` is `start + k / block · stride + k % block`: runs of neighbours.
    Blocks {
        /// The value of position 0.
        start: u64,
        /// Positions of a run, at least 1.
        block: u64,
        /// From the beginning of a run to that of the next, at least `block`.
        stride: u64,
    },
    /// Position `k` is the `k`-th member of a set, in ascending order.
    Bitmap(Arc<Bitmap>),
    /// Position `k` is the `k`-th entry of a list.
    Listed(Arc<Listed>),
    /// Position `k` is where a shuffle took it from.
    Shuffle(Arc<Shuffle>),
    /// Position `k` is where a shuffle by blocks and windows took it from.
    Windowed(Arc<Windowed>),
    /// Position `k` is the `k`-th draw with replacement.
    Weighted(Arc<Weighted>),
    /// Position `k` is the `k`-th row of a mixture.
    Mixed(Arc<Mixed>),
    /// Position `k` is `k` modulo a length.
    Repeat {
        /// The length.
        len: u64,
    },
    /// Position `k` is a step from row `k / steps` of an order, within its episode.
    Neighbours(Arc<Neighbours>),
    /// Position `k` belongs to one of several orders laid end to end.
    Concat(Arc<[Order]>),
}

/// The rows of a group of sources, in the order that a mixture serves them in.
///
/// Row `j` of a source of `n` rows is row `j % n` of its order, made anew for epoch `e + (j / n) · 2³²`.
#[derive(Debug)]
pub struct Mixed {
    pub(super) mix: Arc<Mix>,
    pub(super) group: usize,
    pub(super) orders: Arc<[Order]>,
    pub(super) epoch: Option<u64>,
    pub(super) share: Option<Share>,
    /// The orders of the first pass.
    pub(super) first: Vec<Order>,
    /// The place of each source of the mixture among `orders`.
    pub(super) places: Vec<usize>,
    /// With a share, where the rows of its batches lie, and where they end if laid end to end.
    pub(super) starts: Vec<u64>,
    pub(super) ends: Vec<u64>,
    pub(super) len: u64,
}

/// The rows around those of an order: as many as there are steps for each, one row after another.
#[derive(Debug)]
pub struct Neighbours {
    pub(super) order: Order,
    pub(super) episodes: Arc<Episodes>,
    pub(super) steps: Arc<[i64]>,
    pub(super) len: u64,
}
