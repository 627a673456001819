//! The threads that decode rows, of all batches at once.
//!
//! Rows of the batch that came first are begun first. A thread that is done with one row begins the next
//! one of any batch, so one that takes long occupies a single thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::scratch::Scratch;
use crate::error::Result;
use crate::interrupt;
use crate::runtime::{PerProcess, lock, spawn};

static POOL: PerProcess<Pool> = PerProcess::new();

type Work = Arc<dyn Fn(usize, &mut Scratch) + Send + Sync>;

/// The rows of a batch, of which any thread takes the next one.
struct Batch {
    /// What is done with a row; gone once all are done.
    work: Mutex<Option<Work>>,
    len: usize,
    next: AtomicUsize,
    num_done: Mutex<usize>,
    is_done: Condvar,
}

impl Batch {
    /// Returns a row that no thread has begun.
    fn take(&self) -> Option<usize> {
        // Only incremented while there are rows, so it cannot overflow.
        self.next
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |next| {
                (next < self.len).then_some(next + 1)
            })
            .ok()
    }

    /// Counts rows that are done, or that no thread will begin.
    fn count(&self, rows: usize) {
        let mut num_done = lock(&self.num_done);
        *num_done += rows;
        if *num_done == self.len {
            self.is_done.notify_all();
        }
    }
}

/// Threads, and the batches they take rows from.
struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    has_work: Condvar,
}

struct State {
    batches: VecDeque<Arc<Batch>>,
    /// Threads that there are.
    num_threads: usize,
    /// Threads that may take rows: those with the lowest numbers.
    num_wanted: usize,
}

impl Pool {
    fn new() -> Self {
        let state = State { batches: VecDeque::new(), num_threads: 0, num_wanted: 0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), has_work: Condvar::new() }) }
    }

    /// Adds a batch, and threads if there are too few.
    fn push(&self, batch: &Arc<Batch>, threads: usize) -> Result<()> {
        let mut state = lock(&self.shared.state);
        state.num_wanted = threads;
        while state.num_threads < threads {
            let (shared, number) = (Arc::clone(&self.shared), state.num_threads);
            let started = spawn(&format!("lanceloader-image-{number}"), move || shared.run(number));
            match started {
                Ok(()) => state.num_threads += 1,
                // Fewer threads are enough.
                Err(_) if state.num_threads > 0 => break,
                Err(error) => return Err(error),
            }
        }
        state.batches.push_back(Arc::clone(batch));
        self.shared.has_work.notify_all();
        Ok(())
    }

    /// Takes away the rows of a batch that no thread has begun.
    fn withdraw(&self, batch: &Arc<Batch>) {
        let mut state = lock(&self.shared.state);
        state.batches.retain(|other| !Arc::ptr_eq(other, batch));
        drop(state);
        let begun = batch.next.swap(batch.len, Ordering::AcqRel);
        batch.count(batch.len - begun);
    }
}

impl Shared {
    /// Decodes rows as long as the process lives.
    fn run(&self, number: usize) {
        let mut scratch = Scratch::default();
        loop {
            let (batch, row) = self.next(number);
            let work = lock(&batch.work).clone();
            if let Some(work) = work {
                work(row, &mut scratch);
            }
            scratch.shrink();
            batch.count(1);
        }
    }

    /// Waits for a row, of the first batch that has one.
    fn next(&self, number: usize) -> (Arc<Batch>, usize) {
        let mut state = lock(&self.state);
        loop {
            while number < state.num_wanted
                && let Some(batch) = state.batches.front().map(Arc::clone)
            {
                if let Some(row) = batch.take() {
                    return (batch, row);
                }
                state.batches.pop_front();
            }
            state = wait(&self.has_work, state);
        }
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Calls `work` for each of `len` rows on up to `threads` threads, and waits for all.
///
/// `work` must not panic, and is dropped before this returns. After an interrupt no further row is begun, and those that were are left to
/// end on their own.
///
/// # Errors
///
/// [`Error::Interrupted`](crate::Error::Interrupted), and those of starting threads.
pub(super) fn for_each(
    len: usize,
    threads: usize,
    work: impl Fn(usize, &mut Scratch) + Send + Sync + 'static,
) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let batch = Arc::new(Batch {
        work: Mutex::new(Some(Arc::new(work))),
        len,
        next: AtomicUsize::new(0),
        num_done: Mutex::new(0),
        is_done: Condvar::new(),
    });
    let pool = POOL.get_or_init(Pool::new);
    pool.push(&batch, threads.max(1))?;
    let mut num_done = lock(&batch.num_done);
    while *num_done < len {
        let waited = batch.is_done.wait_timeout(num_done, interrupt::PERIOD);
        num_done = waited.unwrap_or_else(PoisonError::into_inner).0;
        if *num_done < len
            && let Err(error) = interrupt::check()
        {
            drop(num_done);
            pool.withdraw(&batch);
            return Err(error);
        }
    }
    drop(num_done);
    // Threads may hold on to the batch for a moment, but not to what the work owns.
    lock(&batch.work).take();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn every_row_is_done_once() {
        let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..100).map(|_| 0.into()).collect());
        let seen = Arc::clone(&counts);
        for_each(100, 3, move |row, _| {
            seen[row].fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        for_each(0, 3, |_, _| unreachable!()).unwrap();
    }

    #[test]
    fn a_slow_row_holds_back_its_own_batch_only() {
        let (start, end) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let gates = (Arc::clone(&start), Arc::clone(&end));
        let slow = std::thread::Builder::new()
            .spawn(move || {
                for_each(1, 2, move |_, _| {
                    gates.0.wait();
                    gates.1.wait();
                })
            })
            .unwrap();
        start.wait();
        // The row of the first batch is not done, and cannot be before these are.
        for _ in 0..3 {
            for_each(8, 2, |_, _| ()).unwrap();
        }
        end.wait();
        slow.join().unwrap().unwrap();
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let is_cancelled = Arc::new(AtomicBool::new(true));
        let gate = Arc::new(Barrier::new(2));
        let inside = Arc::clone(&gate);
        let result = interrupt::until(&is_cancelled, || {
            for_each(1, 2, move |_, _| {
                inside.wait();
            })
        });
        assert!(matches!(result, Err(crate::Error::Interrupted)));
        gate.wait();
        for_each(5, 2, |_, _| ()).unwrap();
    }
}
