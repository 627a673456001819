//! Runs order → plan → read → gather ahead of the consumer.
//!
//! A loader has threads of its own. Each takes the next window of positions, reads it, and puts its
//! batches in line; the consumer gets them in order. Threads run ahead by a few windows, which bounds
//! memory, start with the first batch asked for and stop when the loader is dropped.

mod batches;
mod depth;
mod line;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

pub use batches::Batches;
pub use watch::{Event, LoadStats, Watch};

use crate::error::{Error, Result};
use crate::gather::Gathered;
use crate::order::Order;
use crate::read::Reader;
use line::{Running, Weighed};

/// Batches of an order, one after another.
#[derive(Debug)]
pub struct Loader {
    reader: Reader,
    order: Order,
    batches: Batches,
    num_rows: u64,
    /// The first position, and the first batch, that were not handed out yet.
    position: u64,
    batch: usize,
    running: Option<Running>,
    ready: VecDeque<Weighed>,
    watch: Arc<Watch>,
    next: Option<Order>,
    is_guess: bool,
}

impl Loader {
    /// Returns a loader of `order` in batches. Nothing is read yet.
    ///
    /// With `drop_last` a last batch that is shorter than [`Batches::Every`] says is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a batch has 0 rows by [`Batches::Every`], or if ends do not ascend;
    /// [`Error::OutOfRange`] if they lie beyond the order.
    pub fn new(
        reader: Reader,
        order: Order,
        batches: impl Into<Batches>,
        drop_last: bool,
    ) -> Result<Self> {
        let batches = batches.into();
        let len = order.len();
        let num_rows = match &batches {
            Batches::Every(0) => return Err(Error::invalid("batch_size 0", "at least 1 row")),
            Batches::Every(size) if drop_last => len - len % *size as u64,
            Batches::AsRead | Batches::Every(_) => len,
            Batches::Ends(ends) => {
                if let Some([end, next, ..]) = ends.windows(2).find(|pair| pair[0] > pair[1]) {
                    let found = format!("a batch that ends at {next} after {end}");
                    return Err(Error::invalid(found, "ends that ascend"));
                }
                let last = ends.last().copied().unwrap_or(0);
                if last > len {
                    return Err(Error::OutOfRange { offset: last - 1, num_rows: len });
                }
                last
            }
        };
        Ok(Self {
            reader,
            order,
            batches,
            num_rows,
            position: 0,
            batch: 0,
            running: None,
            ready: VecDeque::new(),
            watch: Arc::new(Watch::new()),
            next: None,
            is_guess: false,
        })
    }

    /// Sets the order that will probably be loaded after this one, so that it can be prepared meanwhile.
    #[must_use]
    pub fn followed_by(mut self, next: Order) -> Self {
        self.next = Some(next);
        self
    }

    /// Marks the batches as a guess, which may never be requested: less is read ahead, and nothing written.
    #[must_use]
    pub(crate) fn guessed(mut self) -> Self {
        self.is_guess = true;
        self
    }

    /// Returns the position of the first row that was not handed out yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the counters of this loader, which outlive it.
    pub fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Returns the next batch, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Those of reading, after which there are no more batches; [`Error::Interrupted`], after which
    /// the next call goes on.
    pub fn next_batch(&mut self) -> Result<Option<Gathered>> {
        if self.is_over() {
            return Ok(None);
        }
        let start = Instant::now();
        let mut ready = self.ready.len();
        if self.ready.is_empty() {
            match self.next_window() {
                Ok((window, others)) => {
                    self.ready.extend(window);
                    ready = others;
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
        let Some(Weighed { gathered, bytes }) = self.ready.pop_front() else {
            return Ok(None);
        };
        let rows = gathered.batch.num_rows() as u64;
        self.position += rows;
        self.batch += 1;
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.watch.handed(rows, bytes as u64, ready as u64, nanos);
        self.watch.happened(|| Event {
            thread: 0,
            start_nanos: self.watch.now_nanos().saturating_sub(nanos),
            nanos,
            stage_nanos: [0; 4],
            rows,
            bytes: bytes as u64,
        });
        Ok(Some(gathered))
    }

    fn is_over(&self) -> bool {
        match &self.batches {
            Batches::Ends(ends) => self.batch >= ends.len(),
            Batches::AsRead | Batches::Every(_) => self.position >= self.num_rows,
        }
    }

    fn end(&mut self) {
        self.position = self.num_rows;
        self.batch = usize::MAX;
        self.running = None;
    }

    fn next_window(&mut self) -> Result<(Vec<Weighed>, usize)> {
        if self.running.is_none() {
            let feed = self.reader.feed(
                &self.order,
                self.num_rows - self.position,
                self.next.clone(),
                self.is_guess,
                self.batches.rows_from(self.position, self.batch),
            )?;
            let from = (self.position, self.batch);
            let running = Running::start(feed, &self.batches, from, self.num_rows, &self.watch)?;
            self.running = Some(running);
        }
        self.running.as_ref().expect("it was just started").next_window()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && running.pid != std::process::id()
        {
            // The lock may be held by a thread that this process does not have.
            std::mem::forget(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::offsets_reader as reader;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;

    fn batches(mut loader: Loader) -> Vec<Vec<u64>> {
        let mut batches = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            batches.push(batch.batch.column(0).as_primitive::<UInt64Type>().values().to_vec());
        }
        assert!(loader.next_batch().unwrap().is_none());
        batches
    }

    #[test]
    fn batches_are_full_in_order_and_complete() {
        let order = Order::all(100_000).shuffled(3, 0, 1).unwrap();
        for batch_size in [7, 4096, 99_999, 100_000, 200_000] {
            let loader = Loader::new(reader(100_000), order.clone(), batch_size, false).unwrap();
            let batches = batches(loader);
            let (last, full) = batches.split_last().unwrap();
            assert!(full.iter().all(|batch| batch.len() == batch_size));
            assert!(!last.is_empty());
            assert_eq!(batches.concat(), order.to_vec());
        }
    }

    #[test]
    fn a_short_last_batch_can_be_left_out() {
        let loader = |n| Loader::new(reader(10), Order::all(n), 4, true).unwrap();
        assert_eq!(batches(loader(10)), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(batches(loader(8)).len(), 2);
        assert!(batches(loader(3)).is_empty());
        assert!(batches(loader(0)).is_empty());
    }

    #[test]
    fn batches_may_be_of_any_length() {
        let order = Order::all(1000).shuffled(3, 0, 1).unwrap();
        let ends: Vec<u64> = vec![0, 1, 1, 300, 307, 307, 999, 1000, 1000];
        let loader = |ends: &[u64]| {
            Loader::new(reader(1000), order.clone(), Batches::Ends(ends.into()), false)
        };
        let found = batches(loader(&ends).unwrap());
        let lens: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(lens, [0, 1, 0, 299, 7, 0, 692, 1, 0]);
        assert_eq!(found.concat(), order.to_vec());
        let many: Vec<u64> = (0..=1000).collect();
        assert_eq!(batches(loader(&many).unwrap()).len(), 1001);
        assert!(batches(loader(&[]).unwrap()).is_empty());
        assert!(loader(&[3, 2]).is_err());
        assert!(matches!(loader(&[1001]), Err(Error::OutOfRange { .. })));
    }

    #[test]
    fn batches_that_are_left_bound_the_threads() {
        assert_eq!(Batches::Every(4).left(9, 7), 3);
        assert_eq!(Batches::Ends([1, 1, 5, 6].into()).left(5, 1), 3);
        assert_eq!(Batches::AsRead.left(5, 1), 5);
    }

    #[test]
    fn what_happens_is_counted() {
        let mut loader = Loader::new(reader(1000), Order::all(1000), 100, false).unwrap();
        let watch = loader.watch();
        watch.trace();
        while loader.next_batch().unwrap().is_some() {}
        let stats = watch.stats();
        assert_eq!((stats.batches, stats.rows, stats.bytes), (10, 1000, 8000));
        assert!(stats.wait_nanos >= stats.first_batch_nanos);
        assert!(stats.stage_nanos.iter().sum::<u64>() > 0);
        let events = watch.events();
        let rows = |is_consumer: bool| -> u64 {
            let of = events.iter().filter(|event| (event.thread == 0) == is_consumer);
            of.map(|event| event.rows).sum()
        };
        assert_eq!((rows(true), rows(false)), (1000, 1000));
    }

    #[test]
    fn an_error_ends_the_batches() {
        let mut loader = Loader::new(reader(10), Order::all(20), 4, false).unwrap();
        let mut rows = 0;
        let error = loop {
            match loader.next_batch() {
                Ok(batch) => rows += batch.unwrap().batch.num_rows(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
        assert!(rows <= 8);
        assert!(loader.next_batch().unwrap().is_none());
    }

    #[test]
    fn dropping_a_loader_stops_its_thread() {
        let reader = reader(1000);
        let order = Order::all(1000).repeat(1_000_000).unwrap();
        let mut loader = Loader::new(reader, order, 10, false).unwrap();
        loader.next_batch().unwrap().unwrap();
        let stop = loader.running.as_ref().unwrap().stop();
        drop(loader);
        // The thread holds the flag for as long as it runs.
        let end = Instant::now() + std::time::Duration::from_secs(10);
        while stop.strong_count() > 0 && Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(stop.strong_count(), 0);
    }
}
