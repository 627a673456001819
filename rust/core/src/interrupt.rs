//! A look at whether the caller was interrupted, for loops that may run for long.
//!
//! The core knows no signals. Its caller installs a hook once, and every loop over rows and every wait
//! calls [`check`] at least each 50 milliseconds of work.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a wait may go on between two looks.
pub(crate) const PERIOD: Duration = Duration::from_millis(50);

static HOOK: OnceLock<fn() -> bool> = OnceLock::new();

/// Installs the hook that says whether this thread was interrupted. The first one stays.
pub fn install(hook: fn() -> bool) {
    HOOK.get_or_init(|| hook);
}

thread_local! {
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static CANCELLED: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
    static LAST_LOOK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs `work` with [`check`] asking the hook. Outside of this, the hook is not asked: our own threads are
/// stopped by their owners.
pub fn listening<T>(work: impl FnOnce() -> T) -> T {
    let before = LISTENS.replace(true);
    let result = work();
    LISTENS.set(before);
    result
}

/// Runs `work`, which [`check`] ends once `is_cancelled`: for threads of our own.
pub(crate) fn until<T>(is_cancelled: &Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
    let before = CANCELLED.replace(Some(Arc::clone(is_cancelled)));
    let result = work();
    CANCELLED.set(before);
    result
}

/// Asks the hook, unless this thread asked it within the last 50 milliseconds or is not
/// [`listening`].
///
/// # Errors
///
/// [`Error::Interrupted`] if the hook says so, or the work was cancelled.
pub fn check() -> Result<()> {
    let is_set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
    if CANCELLED.with_borrow(|flag| flag.as_ref().is_some_and(is_set)) {
        return Err(Error::Interrupted);
    }
    let Some(interrupted) = HOOK.get().filter(|_| LISTENS.get()) else {
        return Ok(());
    };
    let now = Instant::now();
    let due = |last: Option<Instant>| last.is_none_or(|last| now - last >= PERIOD);
    if due(LAST_LOOK.get()) {
        LAST_LOOK.set(Some(now));
        if interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}
