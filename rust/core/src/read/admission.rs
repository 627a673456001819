//! Which reads may be under way at the same time where address space is limited.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::address_space::{BESIDE_BYTES, has_room, hold_reserve, is_limited, no_room};
use crate::error::Result;
use crate::interrupt;
use crate::runtime::{PerProcess, lock};

/// What is read exists up to four times at once: as it lies in files, decoded, gathered, and handed out.
const COPIES: u64 = 4;

static UNDER_WAY: PerProcess<UnderWay> = PerProcess::new();

/// The reads that were admitted and are not over.
#[derive(Debug, Default)]
struct UnderWay {
    admitted: Mutex<Admitted>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Admitted {
    reads: u64,
    bytes: u64,
}

/// A read that may allocate; over when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Admission(Option<(Arc<UnderWay>, u64)>);

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((under_way, bytes)) = self.0.take() {
            let mut admitted = lock(&under_way.admitted);
            admitted.reads -= 1;
            admitted.bytes -= bytes;
            under_way.changed.notify_all();
        }
    }
}

/// Waits until there is room to read so many bytes of `what`; `bytes` is only asked for under a limit.
///
/// A thread that holds an admission must not wait for another one.
///
/// # Errors
///
/// [`Error::Memory`](crate::Error::Memory) if there is none when no other read is under way;
/// [`Error::Interrupted`](crate::Error::Interrupted); those of `bytes`.
pub(super) fn admit(what: &'static str, bytes: impl FnOnce() -> Result<u64>) -> Result<Admission> {
    if !is_limited() {
        return Ok(Admission(None));
    }
    let bytes = bytes()?;
    let wanted = bytes.saturating_mul(COPIES).saturating_add(BESIDE_BYTES);
    let under_way = UNDER_WAY.get_or_make(|| Ok(UnderWay::default()))?;
    let mut admitted = lock(&under_way.admitted);
    while !(hold_reserve() && has_room(admitted.bytes.saturating_add(wanted))) {
        if admitted.reads == 0 {
            return Err(no_room(what, bytes, wanted));
        }
        // A hook may enter the interpreter, which must not be waited for with a lock held.
        drop(admitted);
        interrupt::check()?;
        admitted = lock(&under_way.admitted);
        if admitted.reads == 0 {
            continue;
        }
        let woken = under_way.changed.wait_timeout(admitted, interrupt::PERIOD);
        admitted = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
    admitted.reads += 1;
    admitted.bytes += wanted;
    drop(admitted);
    Ok(Admission(Some((under_way, wanted))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admission_ends_when_it_is_dropped() {
        let under_way = Arc::new(UnderWay::default());
        *lock(&under_way.admitted) = Admitted { reads: 1, bytes: 7 };
        drop(Admission(Some((Arc::clone(&under_way), 7))));
        let admitted = lock(&under_way.admitted);
        assert_eq!((admitted.reads, admitted.bytes), (0, 0));
    }
}
