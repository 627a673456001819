//! What a fork breaks, and the only tokio runtime.
//!
//! A forked child has one thread. Threads, runtimes, connections and the locks that other threads
//! held are dead in it, and dropping them waits for threads that no longer exist. So they live in a
//! [`PerProcess`]: each process makes its own on first use, and a child leaks what it inherited.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::FutureExt;
use tokio::runtime::{Builder, Runtime};

use crate::address_space::{self, check_room};
use crate::error::{Error, Result};
use crate::interrupt;

/// Threads that drive requests to object storage; decoding happens on the caller's thread.
const IO_THREADS: usize = 2;

/// What the stack of a thread takes, at least.
const THREAD_BYTES: u64 = 2 << 20;

static RUNTIME: PerProcess<Runtime> = PerProcess::new();

/// A value that every process makes for itself.
///
/// Reading it takes no lock, so it cannot be locked by a thread that a fork left behind.
#[derive(Debug)]
pub(crate) struct PerProcess<T>(ArcSwapOption<Made<T>>);

#[derive(Debug)]
struct Made<T> {
    pid: u32,
    value: Arc<T>,
}

impl<T> PerProcess<T> {
    /// Makes a cell without a value.
    pub(crate) const fn new() -> Self {
        Self(ArcSwapOption::const_empty())
    }

    /// Returns this process's value, made by `make` if there is none yet.
    ///
    /// Two threads that come first together may both make one; both then use the same.
    ///
    /// # Errors
    ///
    /// Those of `make`.
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        self.get_or_try_init(make)
    }

    /// Returns this process's value, if there is one.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let made = self.0.load();
        let mine = made.as_ref().filter(|made| made.pid == std::process::id());
        mine.map(|made| Arc::clone(&made.value))
    }

    /// Returns this process's value, made by `init`, which cannot fail, if there is none yet.
    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> Arc<T> {
        let Ok(value) = self.get_or_try_init(|| Ok::<_, Infallible>(init()));
        value
    }

    fn get_or_try_init<E>(&self, init: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let pid = std::process::id();
        let mine = |made: &Option<Arc<Made<T>>>| {
            made.as_ref().filter(|made| made.pid == pid).map(|made| Arc::clone(&made.value))
        };
        let found = self.0.load_full();
        if let Some(value) = mine(&found) {
            return Ok(value);
        }
        let value = Arc::new(init()?);
        let fresh = Made { pid, value: Arc::clone(&value) };
        let before = self.0.compare_and_swap(&found, Some(Arc::new(fresh)));
        let value = mine(&before).unwrap_or(value);
        if let Some(inherited) = found {
            // Never dropped in a child: see above.
            std::mem::forget(inherited);
        }
        Ok(value)
    }
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if let Some(made) = self.0.swap(None)
            && made.pid != std::process::id()
        {
            std::mem::forget(made);
        }
    }
}

/// Locks a mutex, also after a panic of another thread: values under our locks are consistent at every
/// step.
///
/// Only where the process is known to be the one that made the lock; a fork may have left it locked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns this process's runtime.
///
/// # Errors
///
/// [`Error::Io`] if its threads cannot be started.
pub(crate) fn runtime() -> Result<Arc<Runtime>> {
    RUNTIME.get_or_make(|| {
        check_room("threads", IO_THREADS as u64 * THREAD_BYTES)?;
        #[expect(clippy::disallowed_methods, reason = "this is the only runtime")]
        let mut builder = Builder::new_multi_thread();
        if let Some(threads) = address_space::blocking_threads() {
            builder.max_blocking_threads(threads);
        }
        builder
            .worker_threads(IO_THREADS)
            .thread_name("lanceloader-io")
            .enable_all()
            .build()
            .map_err(|error| Error::io("the runtime's threads", &error))
    })
}

/// Runs a future to its end on this thread, looking for interrupts while it waits.
///
/// # Errors
///
/// Those of the future, and [`Error::Interrupted`].
pub(crate) fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(async {
        let mut future = std::pin::pin!(future);
        loop {
            match tokio::time::timeout(interrupt::PERIOD, &mut future).await {
                Ok(result) => return result,
                Err(_) => interrupt::check()?,
            }
        }
    })
}

/// Runs a future that probably does not wait: without timers and interrupts, if it does not.
///
/// # Errors
///
/// Those of [`wait`].
pub(crate) fn at_once<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = std::pin::pin!(future);
    let runtime = runtime()?;
    // Files that cannot be mapped are opened by tasks.
    let entered = runtime.enter();
    let found = future.as_mut().now_or_never();
    drop(entered);
    match found {
        Some(result) => result,
        None => wait(future),
    }
}

/// Sleeps, in a future.
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits for a future for a time; `None` if it takes longer.
pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}

/// Runs work that waits for a disk on a thread of its own, so that no other task waits for it.
///
/// # Errors
///
/// Those of [`runtime`], and [`Error::Bug`] if the work panicked.
pub(crate) async fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let stopped = |error| Error::bug("work on a disk stopped").caused_by(&error);
    runtime()?.spawn_blocking(work).await.map_err(stopped)
}

/// A future that runs on the runtime, until this is dropped.
#[derive(Debug)]
pub(crate) struct Task<T>(tokio::task::JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    /// Starts a future.
    ///
    /// # Errors
    ///
    /// Those of [`runtime`].
    pub(crate) fn start(future: impl Future<Output = T> + Send + 'static) -> Result<Self> {
        Ok(Self(runtime()?.spawn(future)))
    }

    /// Returns the result once it is there.
    ///
    /// # Errors
    ///
    /// [`Error::Bug`] if the future panicked.
    pub(crate) async fn answer(mut self) -> Result<T> {
        (&mut self.0).await.map_err(|error| Error::bug("a task stopped").caused_by(&error))
    }

    /// Waits for the result, on a thread that may wait.
    ///
    /// # Errors
    ///
    /// Those of [`Self::answer`].
    pub(crate) fn wait(self) -> Result<T> {
        futures::executor::block_on(self.answer())
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs blocking work on another thread while this one looks for interrupts.
///
/// For work that waits for remote storage inside Lance, where nothing can be polled. After an
/// interrupt the work is left to finish on its own.
///
/// # Errors
///
/// Those of the work, [`Error::Interrupted`], and [`Error::Bug`] if it panicked.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let handle = runtime()?.spawn_blocking(work);
    wait(async {
        handle.await.unwrap_or_else(|error| Err(Error::bug("a reader stopped").caused_by(&error)))
    })
}

/// Starts a thread that lives until `work` ends.
///
/// A value that waits for this thread must record which process started it.
///
/// # Errors
///
/// [`Error::Io`] if the system has no thread to give; [`Error::Memory`].
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    // What a thread sets up before it runs cannot fail but by ending the process.
    check_room("a thread", THREAD_BYTES)?;
    let thread = std::thread::Builder::new().name(name.to_string());
    thread.spawn(work).map(drop).map_err(|error| Error::io("a thread", &error))
}

/// Does work that mostly waits on some items, on up to `most` threads at once; the results are in the order
/// of the items. Where the system has no thread to give, this one does it.
pub(crate) fn together<T: Sync, R: Send>(
    items: &[T],
    most: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let go_on = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return;
            };
            let result = work(item);
            lock(&results).push((at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..items.len().min(most) {
            let thread = std::thread::Builder::new().name("lanceloader-ask".to_string());
            let has_room = check_room("a thread", THREAD_BYTES).is_ok();
            if !has_room || thread.spawn_scoped(scope, go_on).is_err() {
                break;
            }
        }
        go_on();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_several_items_are_one() {
        let items: Vec<usize> = (0..20).collect();
        let all = std::sync::Barrier::new(20);
        let work = |item: &usize| {
            // Passed only if all threads are here.
            all.wait();
            item * 2
        };
        assert_eq!(together(&items, 64, work), (0..40).step_by(2).collect::<Vec<_>>());
        assert_eq!(together(&items, 1, |item| *item), items);
        let none: [usize; 0] = [];
        assert!(together(&none, 8, |item| *item).is_empty());
    }

    #[test]
    fn a_value_is_made_once_per_process() {
        let cell = PerProcess::new();
        let first = cell.get_or_make(|| Ok(1)).unwrap();
        let second = cell.get_or_make(|| Ok(2)).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn a_value_of_another_process_is_left_alone() {
        struct Loud;
        impl Drop for Loud {
            fn drop(&mut self) {
                panic!("a parent's value was dropped in a child");
            }
        }
        let inherited = Made { pid: std::process::id() + 1, value: Arc::new(Loud) };
        let cell = PerProcess(ArcSwapOption::from_pointee(inherited));
        let mine = cell.get_or_make(|| Ok(Loud)).unwrap();
        assert_eq!(Arc::strong_count(&mine), 2);
        std::mem::forget((mine, cell));
    }

    #[test]
    fn a_failure_to_make_leaves_nothing_behind() {
        let cell: PerProcess<u8> = PerProcess::new();
        assert!(cell.get_or_make(|| Err(Error::bug("no"))).is_err());
        assert_eq!(*cell.get_or_make(|| Ok(3)).unwrap(), 3);
    }

    #[test]
    fn work_on_another_thread_answers_or_says_that_it_stopped() {
        assert_eq!(blocking(|| Ok(7)).unwrap(), 7);
        let stopped = blocking(|| -> Result<()> { panic!("on purpose") });
        assert!(matches!(stopped, Err(Error::Bug { .. })));
    }
}
