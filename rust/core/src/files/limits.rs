//! How many requests are in flight at once to one store: fewer where it refuses some, more again where it
//! answers all (additive increase, multiplicative decrease).
//!
//! The scheme is that of TCP Reno (Jacobson, "Congestion avoidance and control", 1988): the limit is halved
//! when the store says that there are too many requests, once for all that were in flight together, and
//! grows by one when as many as the limit were answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hedge::Hedge;
use crate::runtime::{PerProcess, lock};

/// Requests in flight, unless `LANCELOADER_MAX_REQUESTS` says otherwise: at 30 ms each, more than what S3
/// answers for one prefix (5,500 a second).
const MOST: usize = 256;
const VARIABLE: &str = "LANCELOADER_MAX_REQUESTS";
/// The limit does not go below this.
const LEAST: f64 = 4.0;
/// Refusals within this time are one.
const ONE_REFUSAL: Duration = Duration::from_millis(200);

static LIMITS: PerProcess<Mutex<HashMap<String, Arc<Limits>>>> = PerProcess::new();

/// The limit of one store, for all tables of this process.
#[derive(Debug)]
pub(super) struct Limits {
    permits: Arc<Semaphore>,
    most: f64,
    state: Mutex<State>,
    pub(super) hedge: Hedge,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Permits that have to be taken back once they are free.
    debt: usize,
    last_refusal: Option<Instant>,
}

/// The right to make a request.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<Limits>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Returns the limits of the store with this name.
pub(super) fn limits_of(store: &str) -> Arc<Limits> {
    let known = LIMITS.get_or_init(Mutex::default);
    let mut known = lock(&known);
    let limits = known.entry(store.to_string()).or_insert_with(|| Arc::new(Limits::new(most())));
    Arc::clone(limits)
}

/// Returns how many requests may be in flight at most.
pub(super) fn most() -> usize {
    let set = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok());
    set.unwrap_or(MOST).clamp(1, Semaphore::MAX_PERMITS)
}

impl Limits {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn new(most: usize) -> Self {
        let state = State { limit: most as f64, debt: 0, last_refusal: None };
        let permits = Arc::new(Semaphore::new(most));
        Self { permits, most: most as f64, state: Mutex::new(state), hedge: Hedge::new() }
    }

    /// Waits for a permit; they are given in the order in which they are asked for.
    pub(super) async fn permit(self: &Arc<Self>) -> Permit {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        Permit { limits: Arc::clone(self), permit }
    }

    /// Returns whether the store has answered everything for a while, so that it bears more.
    pub(super) fn is_calm(&self) -> bool {
        lock(&self.state).limit >= self.most
    }

    /// Notes an answer.
    pub(super) fn answered(&self) {
        let mut state = lock(&self.state);
        if state.limit < self.most {
            let before = state.limit.floor();
            state.limit = (state.limit + 1.0 / state.limit).min(self.most);
            if state.limit.floor() > before {
                if state.debt > 0 {
                    state.debt -= 1;
                } else {
                    self.permits.add_permits(1);
                }
            }
        }
    }

    /// Notes that the store refused a request because there were too many.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    pub(super) fn refused(&self) {
        let mut state = lock(&self.state);
        if state.last_refusal.is_some_and(|at| at.elapsed() < ONE_REFUSAL) {
            return;
        }
        state.last_refusal = Some(Instant::now());
        let lower = (state.limit / 2.0).max(LEAST.min(self.most));
        let fewer = state.limit.floor() - lower.floor();
        state.debt += fewer.max(0.0) as usize;
        state.limit = lower;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.limits.state);
        if state.debt > 0
            && let Some(permit) = self.permit.take()
        {
            state.debt -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn take(limits: &Arc<Limits>, count: usize) -> Vec<Permit> {
        let taken = (0..count).map(|_| limits.permit().now_or_never());
        taken.map_while(|permit| permit).collect()
    }

    #[test]
    fn no_more_than_the_limit_are_in_flight() {
        let limits = Arc::new(Limits::new(8));
        let all = take(&limits, 20);
        assert_eq!(all.len(), 8);
        drop(all);
        assert_eq!(take(&limits, 20).len(), 8);
    }

    #[test]
    fn refusals_halve_the_limit_once_and_answers_raise_it_again() {
        let limits = Arc::new(Limits::new(32));
        let all = take(&limits, 32);
        limits.refused();
        limits.refused();
        drop(all);
        assert_eq!(take(&limits, 40).len(), 16);
        for _ in 0..16 * 3 {
            limits.answered();
        }
        let now = take(&limits, 40).len();
        assert!((17..=19).contains(&now), "{now}");
        for _ in 0..10_000 {
            limits.answered();
        }
        assert_eq!(take(&limits, 40).len(), 32);
    }

    #[test]
    fn the_limit_has_a_floor() {
        let limits = Arc::new(Limits::new(6));
        for _ in 0..5 {
            lock(&limits.state).last_refusal = None;
            limits.refused();
            drop(take(&limits, 10));
        }
        assert_eq!(take(&limits, 10).len(), 4);
    }
}
