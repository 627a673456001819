//! What went wrong, and when to try it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::error::Error;

/// How long the first pause is, and the longest; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The last error of something that is not tried again before a pause is over, and never if the error
/// will not pass.
#[derive(Debug, Default)]
pub(super) struct Setback {
    latest: ArcSwapOption<Noted>,
    /// How often in a row.
    count: AtomicU32,
}

#[derive(Debug)]
struct Noted {
    error: Arc<Error>,
    over: Option<Instant>,
}

impl Setback {
    /// Begins a pause.
    pub(super) fn note(&self, error: Error) {
        let count = self.count.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << count).min(LONGEST_PAUSE);
        let over = error.may_pass().then(|| Instant::now() + pause);
        self.latest.store(Some(Arc::new(Noted { error: Arc::new(error), over })));
    }

    /// Returns the last error, until the next attempt.
    pub(super) fn error(&self) -> Option<Arc<Error>> {
        self.latest.load().as_ref().map(|noted| Arc::clone(&noted.error))
    }

    /// Returns whether it is too early to try again, or useless.
    pub(super) fn forbids(&self) -> bool {
        let latest = self.latest.load();
        latest.as_ref().is_some_and(|noted| noted.over.is_none_or(|over| Instant::now() < over))
    }

    /// Notes another attempt. If it fails too, the next pause is longer.
    pub(super) fn lift(&self) {
        self.latest.store(None);
    }

    /// Notes that an attempt succeeded.
    pub(super) fn end(&self) {
        self.lift();
        self.count.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing() -> Error {
        Error::refused_now("a folder", "it is full")
    }

    #[test]
    fn what_passes_is_tried_again_after_longer_and_longer_pauses() {
        let setback = Setback::default();
        assert!(!setback.forbids());
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            setback.note(passing());
            assert!(setback.error().is_some());
            while setback.forbids() {
                std::thread::sleep(Duration::from_millis(1));
            }
            pauses.push(start.elapsed());
            setback.lift();
            assert!(setback.error().is_none());
        }
        assert!(pauses[0] >= FIRST_PAUSE);
        assert!(pauses[1] >= 2 * FIRST_PAUSE);
        assert!(pauses[2] >= 4 * FIRST_PAUSE);
        for _ in 0..50 {
            setback.note(passing());
        }
        let longest = setback.latest.load().as_ref().and_then(|noted| noted.over).unwrap();
        assert!(longest <= Instant::now() + LONGEST_PAUSE);
        setback.end();
        assert!(!setback.forbids());
    }

    #[test]
    fn what_does_not_pass_is_never_tried_again() {
        let setback = Setback::default();
        setback.note(Error::bug("a panic"));
        assert!(setback.latest.load().as_ref().is_some_and(|noted| noted.over.is_none()));
        assert!(setback.forbids());
    }
}
