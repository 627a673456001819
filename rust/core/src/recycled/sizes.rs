//! The sizes of blocks that are given out again, and how many of them are kept.

use std::alloc::Layout;
use std::time::Duration;

/// Smaller blocks are left to the system allocator, which keeps those itself.
pub(super) const SMALLEST: usize = 128 << 10;
/// Larger ones too: few of them would be all that is kept.
pub(super) const LARGEST: usize = 32 << 20;
/// Blocks are rounded up to one of so many sizes between two powers of two.
pub(super) const STEPS: usize = 4;
pub(super) const NUM_SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize * STEPS + 1;
/// All blocks are aligned so.
pub(super) const ALIGN: usize = 4096;
/// What is aligned less is no buffer of Arrow but a vector, which may grow: the system allocator does that
/// without copying.
pub(super) const LEAST_ALIGN: usize = 32;
/// Bytes that are kept: some ten windows are under way, and those of images are as large as a block may be.
pub(super) const MOST_IDLE: usize = 256 << 20;
/// Time after which a block that nobody asked for is given back, when the next one comes or goes.
pub(super) const KEPT: Duration = Duration::from_secs(1);

/// Returns the number of the size class of a block, if it is recycled.
pub(super) fn number_of(layout: Layout) -> Option<usize> {
    let bytes = layout.size();
    let is_buffer = (LEAST_ALIGN..=ALIGN).contains(&layout.align());
    if !(SMALLEST..=LARGEST).contains(&bytes) || !is_buffer {
        return None;
    }
    let power = (bytes / SMALLEST).ilog2() as usize;
    let step = (SMALLEST << power) / STEPS;
    Some(power * STEPS + (bytes - (SMALLEST << power)).div_ceil(step))
}

pub(super) const fn bytes_of(number: usize) -> usize {
    let base = SMALLEST << (number / STEPS);
    base + base / STEPS * (number % STEPS)
}

pub(super) fn layout_of(number: usize) -> Layout {
    Layout::from_size_align(bytes_of(number), ALIGN).expect("sizes are small")
}
