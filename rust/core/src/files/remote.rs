//! A file on another machine, as an input of Lance's decoder.
//!
//! What is missing of the copy on a local disk, if one is kept, is asked for in as few requests as are worth
//! it, all at once, within the limit of the store. A request that fails is made again: after a pause
//! that doubles each time and is cut at random, so that those that failed together do not come back
//! together ("full jitter" would start at 0; half of the pause is always waited for).

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_buffer::Buffer;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, try_join_all};
use futures::stream::{self, StreamExt, TryStreamExt};
use lance_encoding::EncodingsIo;
use lance_io::object_store::ObjectStore;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStoreExt};
use twox_hash::XxHash3_64;

use super::ahead::{Ahead, Slot};
use super::asked::{Asked, Claim};
use super::copied::Copier;
use super::limits::{Limits, limits_of};
use super::requests::{Part, Shape, cut, requests, runs};
use super::traffic::Meter;
use crate::cache::{Copies, Copy, PAGE};
use crate::error::{Error, Result, StoreFault};
use crate::runtime::{self, Task, lock};

/// What a request may fetch beyond what is wanted, rather than make another one. More would be kept and not
/// lost where there is a copy, but ranks of a node that read at the same time would fetch it several times.
const GAP: u64 = 32 << 10;
/// Longer requests are divided: one connection has a fraction of the bandwidth.
const MOST: u64 = 4 << 20;
/// What a single value brings with it, if the next one that is wanted is not far from it.
pub(crate) const SINGLE_BYTES: u64 = GAP + 2 * PAGE;
/// How many of the longest requests are in flight where whole files are fetched, which are in memory
/// meanwhile.
const LONG_AT_ONCE: usize = 16;
/// How long another process may take for the same files, and how often is looked.
const TURN: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(5);
/// The first pause before another attempt, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A store, as the files of one table are read from it.
#[derive(Debug)]
pub(crate) struct Source {
    store: Arc<ObjectStore>,
    limits: Arc<Limits>,
    meter: Arc<Meter>,
    copies: Option<Arc<Copies>>,
    /// Open as long as the copies of this version's files must stay.
    _list: Option<File>,
    /// Why there are no copies.
    copies_failure: Option<Arc<Error>>,
    retries: Retries,
}

/// How long a request that fails is made again, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retries {
    pub(crate) patience: Duration,
    pub(crate) most: u32,
}

impl Source {
    pub(crate) fn new(
        store: Arc<ObjectStore>,
        meter: Arc<Meter>,
        copies: Option<Result<(Arc<Copies>, Option<File>)>>,
        retries: Retries,
    ) -> Self {
        let limits = limits_of(&store.store_prefix);
        // A disk that cannot be used is no reason to stop.
        let (copies, copies_failure) = match copies.transpose() {
            Ok(copies) => (copies, None),
            Err(error) => (None, Some(Arc::new(error))),
        };
        let (copies, list) = copies.unzip();
        let list = list.flatten();
        Self { store, limits, meter, copies, _list: list, copies_failure, retries }
    }

    /// Returns why nothing more is kept, if that is so.
    pub(crate) fn copy_failure(&self) -> Option<Arc<Error>> {
        self.copies_failure.clone().or_else(|| self.copies.as_ref()?.failure())
    }

    /// Returns the size of the file at `path`.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn num_bytes(&self, path: &Path) -> Result<u64> {
        let found = self.patiently(|| self.store.inner.head(path).boxed()).await;
        found.map(|meta| meta.size).map_err(|error| Error::store(path, error))
    }

    async fn fetch(self: Arc<Self>, path: Path, range: Range<u64>) -> object_store::Result<Part> {
        let bytes = self.patiently(|| self.get(&path, range.clone()).boxed()).await?;
        self.meter.fetched(bytes.len() as u64);
        Ok((range.start, bytes))
    }

    /// Makes a request, within the limit of the store, until it is answered or there is no point in making
    /// it again.
    async fn patiently<'a, T>(
        &'a self,
        request: impl Fn() -> BoxFuture<'a, object_store::Result<T>> + Send + 'a,
    ) -> object_store::Result<T> {
        let mut first_failure = None;
        let mut pause = FIRST_PAUSE;
        let mut retries = 0;
        loop {
            let permit = self.limits.permit().await;
            let in_flight = self.meter.begin();
            let got = request().await;
            drop((in_flight, permit));
            let error = match got {
                Ok(answer) => {
                    self.limits.answered();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let fault = StoreFault::of(&error);
            if fault.is_throttled || fault.is_late {
                self.limits.refused();
            }
            // Not since it was queued: others may have been before it.
            let start = *first_failure.get_or_insert_with(Instant::now);
            let is_over = start.elapsed() + pause > self.retries.patience;
            if !fault.may_pass || retries == self.retries.most || is_over {
                return Err(error);
            }
            retries += 1;
            self.meter.retried(fault.is_throttled);
            runtime::sleep(jittered(pause, start.elapsed())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Does the same as [`fetch`](Self::fetch), into memory that has room for it.
    async fn fetch_into(
        self: Arc<Self>,
        path: Path,
        range: Range<u64>,
        room: BytesMut,
    ) -> object_store::Result<BytesMut> {
        let room = Mutex::new(room);
        self.patiently(|| self.get_into(&path, range.clone(), &room).boxed()).await?;
        self.meter.fetched(range.end - range.start);
        Ok(room.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn get(&self, path: &Path, range: Range<u64>) -> object_store::Result<Bytes> {
        let length = range.end - range.start;
        let bytes = self.answer(path, range).await?.bytes().await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(cut_short(std::io::ErrorKind::UnexpectedEof, bytes.len() as u64, length))
    }

    async fn get_into(
        &self,
        path: &Path,
        range: Range<u64>,
        room: &Mutex<BytesMut>,
    ) -> object_store::Result<()> {
        let length = range.end - range.start;
        let mut parts = self.answer(path, range).await?.into_stream();
        // An earlier attempt may have ended in the middle.
        lock(room).clear();
        let mut found = 0;
        while let Some(part) = parts.try_next().await? {
            found += part.len() as u64;
            if found > length {
                break;
            }
            lock(room).extend_from_slice(&part);
        }
        if found == length {
            return Ok(());
        }
        Err(cut_short(std::io::ErrorKind::UnexpectedEof, found, length))
    }

    /// Waits for the beginning of the answer to a request.
    async fn answer(&self, path: &Path, range: Range<u64>) -> object_store::Result<GetResult> {
        let length = range.end - range.start;
        let made = AtomicU32::new(0);
        let request = || {
            if made.fetch_add(1, Ordering::Relaxed) > 0 {
                self.meter.repeated();
            }
            let range = Some(GetRange::Bounded(range.clone()));
            self.store.inner.get_opts(path, GetOptions { range, ..GetOptions::default() })
        };
        let may_repeat = || self.limits.is_calm();
        let answer = self.limits.hedge.first_of(request, may_repeat).await?;
        if answer.range.end - answer.range.start != length {
            // Asking again would not help.
            return Err(cut_short(std::io::ErrorKind::InvalidData, answer.meta.size, length));
        }
        Ok(answer)
    }
}

fn cut_short(kind: std::io::ErrorKind, found: u64, wanted: u64) -> object_store::Error {
    let text = match kind {
        std::io::ErrorKind::InvalidData => {
            format!("the object has {found} bytes, and more are wanted")
        }
        _ => format!("{found} bytes came where {wanted} were asked for"),
    };
    let source = std::io::Error::new(kind, text);
    object_store::Error::Generic { store: "object store", source: source.into() }
}

/// A file on another machine.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    source: Arc<Source>,
    path: Path,
    copy: Option<Arc<Copy>>,
    /// What is on its way to the copy.
    asked: Arc<Asked>,
    /// What was asked for before it is read.
    ahead: Arc<Slot>,
    /// Whether what is fetched is added to the copy.
    keeps: bool,
}

impl RemoteFile {
    /// Returns the file at `path`, which has `num_bytes`. No request is made.
    pub(crate) fn new(source: &Arc<Source>, path: Path, num_bytes: u64) -> Self {
        let open = |copies: &Arc<Copies>| {
            let copy = Copy::open(copies, path.as_ref(), num_bytes);
            copy.map_err(|error| copies.fail(error)).ok().map(Arc::new)
        };
        let copy = source.copies.as_ref().and_then(open);
        let (asked, ahead) = (Arc::default(), Arc::default());
        Self { source: Arc::clone(source), path, copy, asked, ahead, keeps: true }
    }

    /// Returns the same file, of which nothing is added to the copy.
    pub(crate) fn without_keeping(&self) -> Self {
        Self { keeps: false, ..self.clone() }
    }

    /// Returns whether a buffer is a part of the mapped copy.
    pub(crate) fn holds(&self, buffer: &Buffer) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.holds(buffer.as_ptr()))
    }

    /// Returns whether the copy has all bytes of these ranges, in any order, which are about to be copied.
    pub(crate) fn copies_all_of(&self, ranges: &[Range<u64>]) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.has_all(ranges))
    }

    /// Counts bytes that are copied from the copy.
    pub(crate) fn count_copied(&self, bytes: u64) {
        self.source.meter.served(bytes, bytes);
    }

    /// Returns whether the copy seems to have all of a range, without reading it.
    pub(crate) fn seems_copied(&self, range: &Range<u64>) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.seems_to_have(range))
    }

    /// Returns a copier for values of the copy, if there is one.
    pub(crate) fn copier(&self) -> Option<Copier<'_>> {
        let copy = self.copy.as_ref()?;
        Some(Copier::of_open(copy.file(), copy.path(), copy.num_bytes()))
    }

    /// Returns the bytes of some ranges.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn read(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        let read = self.fetch(ranges).await;
        read.map_err(|error| Error::store(&self.path, error))
    }

    /// Asks for ranges that will be read soon, each as a whole, all at once.
    ///
    /// They are in memory until what is returned is dropped, and nothing of them is added to the copy.
    pub(crate) fn ask_ahead(&self, ranges: Vec<Range<u64>>) -> Ahead {
        let answers = self.without_keeping().fetch_missing(ranges.clone());
        self.ahead.put(ranges, answers)
    }

    /// Asks for what is missing, and returns what waits for it.
    fn fetch(
        &self,
        ranges: Vec<Range<u64>>,
    ) -> impl Future<Output = object_store::Result<Vec<Bytes>>> + Send + 'static + use<> {
        let Some(found) = self.ahead.find(&ranges) else {
            return Either::Left(self.fetch_missing(ranges));
        };
        let file = self.clone();
        Either::Right(async move {
            match found.await {
                Some(found) => Ok(found),
                None => file.fetch_missing(ranges).await,
            }
        })
    }

    fn fetch_missing(
        &self,
        ranges: Vec<Range<u64>>,
    ) -> impl Future<Output = object_store::Result<Vec<Bytes>>> + Send + 'static + use<> {
        let missing = match &self.copy {
            Some(copy) => copy.missing(&ranges),
            None => ranges.clone(),
        };
        let asked = requests(missing, Shape { gap: GAP, most: MOST, step: PAGE });
        let (parts, others) = if self.copy.is_some() && self.keeps {
            let (own, others) = self.asked.claim(asked);
            let own = own.into_iter().map(|(range, claim)| (range, Some(claim))).collect();
            (self.start(own).boxed(), others)
        } else {
            let runs = runs(asked, &ranges);
            let parts = runs.into_iter().map(|run| self.start_run(run));
            (try_join_all(parts.collect::<Vec<_>>()).boxed(), Vec::new())
        };
        let file = self.clone();
        async move {
            let mut parts = parts.await?;
            if let Some(copy) = file.copy.as_ref().filter(|_| !others.is_empty()) {
                file.asked.ended(&others).await;
                // What could not be fetched, or not be kept.
                let left =
                    requests(copy.missing(&others), Shape { gap: 0, most: MOST, step: PAGE });
                parts.extend(
                    file.start(left.into_iter().map(|range| (range, None)).collect()).await?,
                );
                parts.sort_unstable_by_key(|part| part.0);
            }
            let answers: Option<Vec<_>> =
                ranges.iter().map(|range| file.answer(range, &parts)).collect();
            answers.ok_or_else(|| stopped("not all bytes came".into()))
        }
    }

    /// Sends requests, and returns what waits for the answers, which are kept before.
    fn start(
        &self,
        ranges: Vec<(Range<u64>, Option<Claim>)>,
    ) -> impl Future<Output = object_store::Result<Vec<Part>>> + Send + 'static + use<> {
        // Spawned, so that all are under way even if nobody looks at the answers yet.
        let spawn = |(range, claim): (Range<u64>, Option<Claim>)| {
            let file = self.clone();
            let work = async move {
                let part = Arc::clone(&file.source).fetch(file.path.clone(), range).await?;
                file.keep(&part).await;
                drop(claim);
                Ok(part)
            };
            Task::start(work)
        };
        let tasks: Vec<_> = ranges.into_iter().map(spawn).collect();
        try_join_all(tasks.into_iter().map(answer_of))
    }

    /// Sends requests for neighbours, which are not kept, and returns what waits for the answers. These come to
    /// lie side by side in memory, so that nothing is copied to put them together.
    fn start_run(
        &self,
        ranges: Vec<Range<u64>>,
    ) -> impl Future<Output = object_store::Result<Part>> + Send + 'static + use<> {
        let length = |range: &Range<u64>| usize::try_from(range.end - range.start).unwrap_or(0);
        let start = ranges.first().map_or(0, |range| range.start);
        let is_alone = ranges.len() == 1;
        let total = if is_alone { 0 } else { ranges.iter().map(length).sum() };
        let mut left = BytesMut::with_capacity(total);
        let spawn = |range: Range<u64>| {
            let (source, path) = (Arc::clone(&self.source), self.path.clone());
            if is_alone {
                return Task::start(async move {
                    let (_, bytes) = source.fetch(path, range).await?;
                    Ok(Fetched::Alone(bytes))
                });
            }
            let rest = left.split_off(length(&range));
            let room = std::mem::replace(&mut left, rest);
            Task::start(
                async move { source.fetch_into(path, range, room).await.map(Fetched::OfMany) },
            )
        };
        let tasks: Vec<_> = ranges.into_iter().map(spawn).collect();
        async move {
            let mut all = BytesMut::new();
            for fetched in try_join_all(tasks.into_iter().map(answer_of)).await? {
                match fetched {
                    Fetched::Alone(bytes) => return Ok((start, bytes)),
                    Fetched::OfMany(bytes) => all.unsplit(bytes),
                }
            }
            Ok((start, all.freeze()))
        }
    }

    /// Adds what was fetched to the copy.
    async fn keep(&self, part: &Part) {
        let Some(copy) = self.copy.as_ref().filter(|_| self.keeps) else {
            return;
        };
        let (copy, (start, bytes)) = (Arc::clone(copy), part.clone());
        // A disk that is slow must not keep answers of the store waiting.
        let written = runtime::spawn_blocking(move || copy.keep(start, &bytes));
        // What is not kept is fetched again.
        let _ = written.await;
    }

    /// Returns the bytes of a range, of what was fetched for it and of the copy.
    fn answer(&self, range: &Range<u64>, fetched: &[Part]) -> Option<Bytes> {
        let length = range.end.saturating_sub(range.start);
        if let Some(found) = cut(range, fetched) {
            self.source.meter.served(length, 0);
            return Some(found);
        }
        // What was not fetched is in the copy.
        let copy = self.copy.as_ref()?;
        let end_of = |(start, bytes): &Part| start + bytes.len() as u64;
        let first = fetched.partition_point(|part| end_of(part) <= range.start);
        let mut parts: Vec<Part> = Vec::new();
        let (mut position, mut copied) = (range.start, 0);
        let mut copy_until = |position: u64, end: u64, parts: &mut Vec<Part>| {
            if position < end {
                parts.push((position, copy.slice(&(position..end))));
                copied += end - position;
            }
        };
        for part in fetched[first..].iter().take_while(|part| part.0 < range.end) {
            copy_until(position, part.0, &mut parts);
            parts.push(part.clone());
            position = end_of(part);
        }
        copy_until(position, range.end, &mut parts);
        self.source.meter.served(length, copied);
        cut(range, &parts)
    }
}

impl EncodingsIo for RemoteFile {
    fn submit_request(
        &self,
        ranges: Vec<Range<u64>>,
        _priority: u64,
    ) -> BoxFuture<'static, lance_core::Result<Vec<Bytes>>> {
        let answers = self.fetch(ranges);
        async move { answers.await.map_err(|error| lance_core::Error::io_source(Box::new(error))) }
            .boxed()
    }
}

/// Adds parts of files to their copies, unless they are there, by few requests, and says whether all could be
/// kept. Nothing is fetched where there are no copies, or no room.
///
/// # Errors
///
/// Those of the store.
pub(crate) async fn copy_parts(files: Vec<(Arc<RemoteFile>, Vec<Range<u64>>)>) -> Result<bool> {
    let kept: Vec<_> = files.iter().filter(|(file, _)| file.copy.is_some()).collect();
    let Some(copies) = kept.first().and_then(|(file, _)| file.source.copies.clone()) else {
        return Ok(false);
    };
    // Ranks of a node begin at the same time, and want the same.
    let start = Instant::now();
    let _turn = loop {
        match copies.turn() {
            Ok(Some(turn)) => break turn,
            Ok(None) if start.elapsed() < TURN => runtime::sleep(LOOK).await,
            Ok(None) | Err(_) => return Ok(false),
        }
    };
    let asked_of = |(file, ranges): &&(Arc<RemoteFile>, Vec<Range<u64>>)| {
        let mut ranges = ranges.clone();
        ranges.sort_by_key(|range| range.start);
        let missing = file.copy.as_ref().map_or_else(Vec::new, |copy| copy.missing(&ranges));
        let asked = requests(missing, Shape { gap: GAP, most: MOST, step: PAGE });
        let file = Arc::clone(file);
        asked.into_iter().map(move |range| (Arc::clone(&file), range))
    };
    let asked: Vec<_> = kept.iter().flat_map(asked_of).collect();
    let bytes = asked.iter().map(|(_, range)| range.end - range.start).sum();
    if !copies.has_room(bytes) {
        return Ok(false);
    }
    let fetch = |(file, range): (Arc<RemoteFile>, Range<u64>)| async move {
        if file.source.copy_failure().is_some() {
            return Ok(());
        }
        let fetched = file.start(vec![(range, None)]).await;
        fetched.map(drop).map_err(|error| Error::store(&file.path, error))
    };
    stream::iter(asked).map(fetch).buffer_unordered(LONG_AT_ONCE).try_collect::<()>().await?;
    Ok(kept.iter().all(|(file, _)| file.source.copy_failure().is_none()))
}

/// What a request brought, by itself or as one of several that lie side by side.
enum Fetched {
    Alone(Bytes),
    OfMany(BytesMut),
}

/// Waits for the answer to a request that ends when nobody waits for it any more.
async fn answer_of<T: Send + 'static>(
    task: Result<Task<object_store::Result<T>>>,
) -> object_store::Result<T> {
    let answer = async { task?.answer().await };
    answer.await.unwrap_or_else(|error| Err(stopped(error.into())))
}

/// Returns from a half of `pause` to all of it, by a hash of the time.
#[expect(clippy::cast_precision_loss, reason = "any number does")]
pub(crate) fn jittered(pause: Duration, elapsed: Duration) -> Duration {
    let noise = XxHash3_64::oneshot(&elapsed.as_nanos().to_le_bytes());
    pause.mul_f64(0.5 + 0.5 * noise as f64 / u64::MAX as f64)
}

fn stopped(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "object store", source }
}
