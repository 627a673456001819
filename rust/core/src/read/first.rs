//! The first rows of a loader, for which all others wait: what these ask of a disk or of another machine
//! would be answered in between.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::interrupt;

const PAUSE: Duration = Duration::from_millis(1);
const NOT_YET: u8 = 0;
const NOW: u8 = 1;
const OVER: u8 = 2;

/// Whether the first rows were read.
#[derive(Debug, Default)]
pub(super) struct First(AtomicU8);

/// The time in which they are read.
pub(super) struct Turn<'a>(&'a First);

impl First {
    /// Returns the turn of whoever comes first; others wait until that is over, for `most` of the time.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub(super) fn begin(&self, most: Duration) -> Result<Option<Turn<'_>>> {
        let (before, after) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.0.compare_exchange(NOT_YET, NOW, before, after).is_ok() {
            return Ok(Some(Turn(self)));
        }
        let start = Instant::now();
        while self.0.load(Ordering::Relaxed) == NOW && start.elapsed() < most {
            interrupt::check()?;
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.store(OVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_mins(5);

    #[test]
    fn one_comes_first_and_all_others_after_it() {
        let (first, seen) = (First::default(), Mutex::new(Vec::new()));
        let turn = first.begin(LONG).unwrap();
        assert!(turn.is_some());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    assert!(first.begin(LONG).unwrap().is_none());
                    seen.lock().unwrap().push("other");
                });
            }
            seen.lock().unwrap().push("first");
            drop(turn);
        });
        assert_eq!(*seen.lock().unwrap(), ["first", "other", "other", "other", "other"]);
        assert!(first.begin(LONG).unwrap().is_none());
    }

    #[test]
    fn nobody_waits_for_longer_than_that() {
        let first = First::default();
        let _turn = first.begin(LONG).unwrap();
        assert!(first.begin(Duration::ZERO).unwrap().is_none());
    }
}
