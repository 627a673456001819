//! A value that threads use one after another, in the process that made it.
//!
//! Waiting for a turn is interruptible, unlike waiting for a lock, and a forked child is told so at once
//! instead of waiting for a thread that it does not have.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::interrupt;
use crate::runtime::lock;

/// A value that one thread uses at a time.
#[derive(Debug)]
pub struct Turns<T> {
    pid: u32,
    is_taken: Mutex<bool>,
    freed: Condvar,
    /// Locked only by the thread whose turn it is, so never waited for.
    value: Mutex<T>,
}

/// Ends a turn, also when it panics.
struct Turn<'a, T>(&'a Turns<T>);

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.freed.notify_one();
    }
}

impl<T> Turns<T> {
    /// Wraps a value that no thread uses yet.
    pub fn new(value: T) -> Self {
        Self {
            pid: std::process::id(),
            is_taken: Mutex::new(false),
            freed: Condvar::new(),
            value: Mutex::new(value),
        }
    }

    /// Calls `with` once no other thread uses the value.
    ///
    /// # Errors
    ///
    /// Those of `with`; [`Error::forked`] in a child of the process that made the value, and
    /// [`Error::Interrupted`].
    pub fn take<R>(&self, with: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        if self.pid != std::process::id() {
            return Err(Error::forked());
        }
        let mut is_taken = lock(&self.is_taken);
        while *is_taken {
            let waited = self.freed.wait_timeout(is_taken, interrupt::PERIOD);
            is_taken = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *is_taken {
                // A hook may enter the interpreter, which must not be waited for with a lock held.
                drop(is_taken);
                interrupt::check()?;
                is_taken = lock(&self.is_taken);
            }
        }
        *is_taken = true;
        drop(is_taken);
        let _turn = Turn(self);
        with(&mut lock(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn threads_take_turns() {
        let turns = Turns::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let count = |count: &mut i32| {
                            *count += 1;
                            Ok(())
                        };
                        turns.take(count).unwrap();
                    }
                });
            }
        });
        assert_eq!(turns.take(|count| Ok(*count)).unwrap(), 4000);
    }

    #[test]
    fn a_turn_ends_with_an_error_and_with_a_panic() {
        let turns = Turns::new(0);
        assert!(turns.take(|_| Err::<(), _>(Error::bug("no"))).is_err());
        let panics = || turns.take(|_| -> Result<()> { panic!("on purpose") });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(turns.take(|count| Ok(*count)).unwrap(), 0);
    }

    #[test]
    fn who_waits_for_a_turn_can_be_interrupted() {
        let turns = Turns::new(());
        let (began, has_begun) = channel();
        let (end, is_ended) = channel::<()>();
        std::thread::scope(|scope| {
            let turns = &turns;
            scope.spawn(move || {
                turns.take(|()| {
                    began.send(()).unwrap();
                    is_ended.recv().unwrap();
                    Ok(())
                })
            });
            has_begun.recv().unwrap();
            let is_cancelled = Arc::new(AtomicBool::new(true));
            let waited = interrupt::until(&is_cancelled, || turns.take(|()| Ok(())));
            assert!(matches!(waited, Err(Error::Interrupted)));
            end.send(()).unwrap();
        });
        turns.take(|()| Ok(())).unwrap();
    }

    #[test]
    fn another_process_gets_no_turn() {
        let turns = Turns { pid: std::process::id() + 1, ..Turns::new(()) };
        let _held = lock(&turns.is_taken);
        assert!(turns.take(|()| Ok(())).unwrap_err().to_string().contains("forked"));
    }
}
