//! Runs order → plan → read → gather ahead of the consumer.
//!
//! A loader has one thread of its own, which reads window after window into a bounded queue while the
//! consumer works. It starts with the first batch asked for and stops when the loader is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};

use arrow_array::{Array, RecordBatch};

use crate::error::{Error, Result};
use crate::gather::Gathered;
use crate::interrupt;
use crate::order::Order;
use crate::read::Reader;
use crate::runtime;

/// The first window where its size is ours to choose: rows may be images.
const FIRST_ROWS: usize = 64;
/// What a window aims to hold. Random reads of narrow rows gain from every doubling (1,024 rows at a
/// time read 70,000 rows/s, 8,192 read 200,000 and 262,144 read 460,000 of a table of 18 columns), so
/// this is what several loaders at once may take.
const WINDOW_BYTES: usize = 16 << 20;
/// A window never has more rows than this, however narrow they are.
const WINDOW_ROWS: usize = 1 << 20;
/// A window is at most this many times as long as the one before it.
const GROWTH: usize = 4;
/// Windows read but not yet asked for.
const QUEUE_WINDOWS: usize = 1;

/// Batches of an order, one after another.
#[derive(Debug)]
pub struct Loader {
    source: Source,
    batch_size: Option<usize>,
    num_rows: u64,
    position: u64,
    running: Option<Running>,
    ready: VecDeque<Gathered>,
}

/// What a window is read from.
#[derive(Debug, Clone)]
struct Source {
    reader: Reader,
    order: Order,
}

/// The thread at work.
#[derive(Debug)]
struct Running {
    pid: u32,
    windows: Receiver<Result<Vec<Gathered>>>,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// A loader of `order` in batches of `batch_size` rows.
    ///
    /// Only the last batch may be shorter; with `drop_last` it is left out. Without a batch size a
    /// batch is what was read at once: as many rows as make some megabytes. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `batch_size` is 0.
    pub fn new(
        reader: Reader,
        order: Order,
        batch_size: impl Into<Option<usize>>,
        drop_last: bool,
    ) -> Result<Self> {
        let batch_size = batch_size.into();
        if batch_size == Some(0) {
            return Err(Error::invalid("batch_size 0", "at least 1 row"));
        }
        let left_over = if drop_last { order.len() % batch_size.unwrap_or(1) as u64 } else { 0 };
        Ok(Self {
            num_rows: order.len() - left_over,
            source: Source { reader, order },
            batch_size,
            position: 0,
            running: None,
            ready: VecDeque::new(),
        })
    }

    /// The position of the first row that was not handed out yet.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next batch, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Those of reading, after which there are no more batches; [`Error::Interrupted`], after which
    /// the next call goes on.
    pub fn next_batch(&mut self) -> Result<Option<Gathered>> {
        if self.position >= self.num_rows {
            return Ok(None);
        }
        while self.ready.is_empty() {
            match self.next_window() {
                Ok(window) => self.ready.extend(window),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    self.position = self.num_rows;
                    return Err(error);
                }
            }
        }
        let batch = self.ready.pop_front();
        self.position += batch.as_ref().map_or(0, |batch| batch.batch.num_rows() as u64);
        Ok(batch)
    }

    fn next_window(&mut self) -> Result<Vec<Gathered>> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let running = self.running.as_ref().expect("it was just started");
        if running.pid != std::process::id() {
            return Err(Error::invalid(
                "an iterator that was started before this process was forked",
                "one made in this process",
            ));
        }
        loop {
            match running.windows.recv_timeout(interrupt::PERIOD) {
                Ok(window) => return window,
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Bug("the reading thread stopped early".into()));
                }
            }
        }
    }

    fn start(&self) -> Result<Running> {
        let (sender, windows) = sync_channel(QUEUE_WINDOWS);
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            source: self.source.clone(),
            batch_size: self.batch_size,
            position: self.position,
            num_rows: self.num_rows,
            stop: Arc::clone(&stop),
        };
        runtime::spawn("lanceloader-read", move || work.run(&sender))?;
        let pid = std::process::id();
        Ok(Running { pid, windows, stop })
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            if running.pid != std::process::id() {
                // The channel's lock may be held by a thread that this process does not have.
                std::mem::forget(running);
            }
        }
    }
}

/// What the thread does.
struct Work {
    source: Source,
    batch_size: Option<usize>,
    position: u64,
    num_rows: u64,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(mut self, windows: &SyncSender<Result<Vec<Gathered>>>) {
        let mut rows = self.batch_size.unwrap_or(FIRST_ROWS);
        while self.position < self.num_rows && !self.stop.load(Ordering::Relaxed) {
            let window = self.read(rows);
            if let Ok(batches) = &window {
                rows = self.next_rows(rows, batches);
            }
            let failed = window.is_err();
            if windows.send(window).is_err() || failed {
                break;
            }
        }
    }

    fn read(&mut self, rows: usize) -> Result<Vec<Gathered>> {
        let end = self.num_rows.min(self.position + rows as u64);
        let offsets = self.source.order.offsets(self.position..end)?;
        self.position = end;
        self.source.reader.take_window(&offsets, self.batch_size.unwrap_or(rows))
    }

    /// Whole batches that fill a window, going by the bytes of the last one.
    fn next_rows(&self, rows: usize, batches: &[Gathered]) -> usize {
        let bytes: usize = batches.iter().map(|batch| num_bytes(&batch.batch)).sum();
        let fitting = (rows as u128 * WINDOW_BYTES as u128 / bytes.max(1) as u128)
            .min(WINDOW_ROWS.min(rows.saturating_mul(GROWTH)) as u128);
        let unit = self.batch_size.unwrap_or(1);
        let batches = usize::try_from(fitting).unwrap_or(WINDOW_ROWS) / unit;
        batches.max(1) * unit
    }
}

/// Bytes of the rows themselves, without what else their buffers hold.
fn num_bytes(batch: &RecordBatch) -> usize {
    let bytes =
        |column: &arrow_array::ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::Projection;
    use crate::read::MemoryTable;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;
    use arrow_schema::Schema;

    /// Rows without columns, read as their offsets.
    fn reader(num_rows: usize) -> Reader {
        let schema = Arc::new(Schema::empty());
        let batch = crate::projection::batch(Arc::clone(&schema), vec![], num_rows).unwrap();
        let table = Arc::new(MemoryTable::new(schema, vec![batch], None).unwrap());
        let columns = [("row", crate::projection::ROW_OFFSET)];
        let projection = Projection::new(table.schema(), columns).unwrap();
        Reader::of_memory(&table, projection).unwrap()
    }

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
        let stop = Arc::downgrade(&loader.running.as_ref().unwrap().stop);
        drop(loader);
        // The thread holds the flag for as long as it runs.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while stop.strong_count() > 0 && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(stop.strong_count(), 0);
    }
}
