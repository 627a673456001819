//! How long the stages of the path of a batch take, by thread.
//!
//! A stage measures what it does itself: a stage within another one is not counted twice.

use std::cell::Cell;
use std::time::Instant;

/// A part of the path of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Position to row offset.
    Order,
    /// Row offsets to reads.
    Plan,
    /// Reads to decoded blocks, and rows through scratch files.
    Read,
    /// Rows to batches.
    Gather,
}

/// Nanoseconds of each stage, in the order of [`Stage`].
pub type Nanos = [u64; 4];

thread_local! {
    static SPENT: Cell<Nanos> = const { Cell::new([0; 4]) };
}

/// Does `work` as a stage.
pub(crate) fn measure<T>(stage: Stage, work: impl FnOnce() -> T) -> T {
    let before: u64 = SPENT.get().iter().sum();
    let start = Instant::now();
    let done = work();
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut spent = SPENT.get();
    let within = spent.iter().sum::<u64>() - before;
    spent[stage as usize] += nanos.saturating_sub(within);
    SPENT.set(spent);
    done
}

/// Returns the time this thread spent on each stage since the last call.
pub(crate) fn take() -> Nanos {
    SPENT.replace([0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_stage_within_another_is_counted_once() {
        let pause = || std::thread::sleep(Duration::from_millis(5));
        take();
        let start = Instant::now();
        measure(Stage::Read, || {
            pause();
            measure(Stage::Plan, pause);
        });
        let all = u64::try_from(start.elapsed().as_nanos()).unwrap();
        let [order, plan, read, gather] = take();
        assert_eq!((order, gather), (0, 0));
        assert!(plan >= 5_000_000 && read >= 5_000_000 && plan + read <= all);
        assert_eq!(take(), [0; 4]);
    }
}
