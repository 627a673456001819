//! What was asked of the stores of a table, in this process.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::runtime::lock;

/// Counts of requests to another machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were answered, or given up; those that were made twice count twice.
    pub requests: u64,
    /// Bytes of the answers.
    pub bytes_fetched: u64,
    /// Bytes that were wanted of remote files, wherever they came from.
    pub bytes_served: u64,
    /// Of these, bytes that came from copies on a local disk.
    pub bytes_copied: u64,
    /// Attempts that failed and were made again.
    pub retries: u64,
    /// Of these, those that the store refused because there were too many (429, 503).
    pub throttled: u64,
    /// The most requests in flight at once.
    pub most_in_flight: u64,
    /// Time with any request in flight.
    pub busy: Duration,
    /// Time of all requests together: divided by `busy`, the mean number in flight.
    pub in_flight: Duration,
}

/// Counts as they grow.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    counts: Traffic,
    now: u64,
    busy_since: Option<Instant>,
}

/// A request in flight, counted until it is dropped.
pub(super) struct InFlight<'a> {
    meter: &'a Meter,
    start: Instant,
}

impl Meter {
    pub(crate) fn counts(&self) -> Traffic {
        let state = lock(&self.0);
        let mut counts = state.counts;
        counts.busy += state.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        counts
    }

    /// Returns how many requests are in flight.
    pub(crate) fn in_flight(&self) -> u64 {
        lock(&self.0).now
    }

    pub(super) fn begin(&self) -> InFlight<'_> {
        let start = Instant::now();
        let mut state = lock(&self.0);
        state.now += 1;
        state.counts.most_in_flight = state.counts.most_in_flight.max(state.now);
        state.busy_since.get_or_insert(start);
        InFlight { meter: self, start }
    }

    pub(super) fn fetched(&self, bytes: u64) {
        lock(&self.0).counts.bytes_fetched += bytes;
    }

    /// Counts a request that was made while the same one was still in flight.
    pub(super) fn repeated(&self) {
        lock(&self.0).counts.requests += 1;
    }

    pub(super) fn retried(&self, is_throttled: bool) {
        let counts = &mut lock(&self.0).counts;
        counts.retries += 1;
        counts.throttled += u64::from(is_throttled);
    }

    pub(super) fn served(&self, bytes: u64, copied: u64) {
        let counts = &mut lock(&self.0).counts;
        counts.bytes_served += bytes;
        counts.bytes_copied += copied;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.meter.0);
        state.now -= 1;
        state.counts.requests += 1;
        state.counts.in_flight += self.start.elapsed();
        if state.now == 0
            && let Some(since) = state.busy_since.take()
        {
            state.counts.busy += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_while_they_are_in_flight() {
        let meter = Meter::default();
        let (first, second) = (meter.begin(), meter.begin());
        assert_eq!(meter.in_flight(), 2);
        drop(first);
        meter.fetched(10);
        meter.served(7, 2);
        meter.retried(true);
        meter.retried(false);
        meter.repeated();
        drop(second);
        drop(meter.begin());
        let counts = meter.counts();
        assert_eq!((counts.requests, counts.most_in_flight), (4, 2));
        assert_eq!((counts.bytes_fetched, counts.bytes_served, counts.bytes_copied), (10, 7, 2));
        assert_eq!((counts.retries, counts.throttled), (2, 1));
        assert!(counts.in_flight >= counts.busy);
    }
}
