//! Requests that are not answered in time are made a second time, and the first answer counts.
//!
//! A batch waits for the slowest of its requests: of 64, some take as long as 1 of 100 does, which is several
//! times the median on object stores. So a request without an answer after the time in which 9 of 10
//! were answered is made again, as long as few are. The scheme is that of "hedged requests" (Dean and
//! Barroso, "The tail at scale", Communications of the ACM 56, 2013).

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::{Either, select};

use crate::runtime::{self, lock};

/// The share of requests that are made a second time at most, and how many are in any case.
const VARIABLE: &str = "LANCELOADER_HEDGED_REQUESTS";
const SHARE: f64 = 0.1;
const ALLOWED: f64 = 8.0;
/// Of how many answers the times are known, and of how many they must be.
const RECENT: usize = 64;
const ENOUGH: usize = 8;
/// The share of recent answers that came within the time after which a request is made again.
const QUANTILE: f64 = 0.9;
/// Times below this are noise.
const LEAST: Duration = Duration::from_millis(10);
/// How often is looked while too few answers are known, or no request may be made again.
const PERIOD: Duration = Duration::from_millis(20);

/// The times of answers of one store.
#[derive(Debug)]
pub(super) struct Hedge {
    share: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    recent: Vec<Duration>,
    next: usize,
    requests: f64,
    hedged: f64,
}

impl Hedge {
    pub(super) fn new() -> Self {
        let set = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok());
        Self::of_share(set.unwrap_or(SHARE))
    }

    fn of_share(share: f64) -> Self {
        Self { share: share.clamp(0.0, 1.0), state: Mutex::default() }
    }

    /// Makes a request, and another one if there is no answer in time and `may_repeat`.
    ///
    /// # Errors
    ///
    /// Those of the last one that failed, once all have.
    pub(super) async fn first_of<T, E, F: Future<Output = Result<T, E>> + Unpin>(
        &self,
        request: impl Fn() -> F,
        may_repeat: impl Fn() -> bool,
    ) -> Result<T, E> {
        let start = Instant::now();
        lock(&self.state).requests += 1.0;
        let mut first = request();
        loop {
            let rest = self.patience().and_then(|time| time.checked_sub(start.elapsed()));
            if let Some(answer) = runtime::within(rest.unwrap_or(PERIOD), &mut first).await {
                self.note(start.elapsed());
                return answer;
            }
            let is_late = self.patience().is_some_and(|time| start.elapsed() >= time);
            if is_late && may_repeat() && self.take() {
                break;
            }
        }
        let (answer, other) = match select(first, request()).await {
            Either::Left((answer, other)) | Either::Right((answer, other)) => (answer, other),
        };
        self.note(start.elapsed());
        match answer {
            Ok(answer) => Ok(answer),
            Err(_) => other.await,
        }
    }

    /// Returns the time after which a request is made again; `None` while too few were answered.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into few values"
    )]
    fn patience(&self) -> Option<Duration> {
        let state = lock(&self.state);
        if state.recent.len() < ENOUGH {
            return None;
        }
        let mut times = state.recent.clone();
        drop(state);
        let at = (times.len() as f64 * QUANTILE) as usize;
        let (_, time, _) = times.select_nth_unstable(at);
        Some((*time).max(LEAST))
    }

    fn note(&self, time: Duration) {
        let mut state = lock(&self.state);
        if state.recent.len() < RECENT {
            state.recent.push(time);
        } else {
            let next = state.next;
            state.recent[next] = time;
            state.next = (next + 1) % RECENT;
        }
    }

    /// Takes the right to make one request again.
    fn take(&self) -> bool {
        let mut state = lock(&self.state);
        let allowed = if self.share > 0.0 { ALLOWED } else { 0.0 };
        let is_allowed = state.hedged < allowed + self.share * state.requests;
        state.hedged += f64::from(is_allowed);
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn known(share: f64, time: Duration) -> Hedge {
        let hedge = Hedge::of_share(share);
        (0..RECENT).for_each(|_| hedge.note(time));
        hedge
    }

    /// Answers of requests, each after so many milliseconds; how many were made.
    fn ask(
        hedge: &Hedge,
        answers: &[(u64, Result<u64, u64>)],
        may_repeat: bool,
    ) -> (Result<u64, u64>, usize) {
        let made = Cell::new(0);
        let request = || -> BoxFuture<'static, Result<u64, u64>> {
            let (time, answer) = answers[made.get()];
            made.set(made.get() + 1);
            async move {
                runtime::sleep(Duration::from_millis(time)).await;
                answer
            }
            .boxed()
        };
        let answer = hedge.first_of(request, || may_repeat);
        let answer = runtime::runtime().unwrap().block_on(answer);
        (answer, made.get())
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_answer_counts() {
        let hedge = known(0.1, 10 * MS);
        assert_eq!(ask(&hedge, &[(0, Ok(1)), (0, Ok(2))], true), (Ok(1), 1));
        assert_eq!(ask(&hedge, &[(60_000, Ok(1)), (0, Ok(2))], true), (Ok(2), 2));
        assert_eq!(ask(&hedge, &[(100, Ok(1)), (60_000, Ok(2))], true), (Ok(1), 2));
    }

    #[test]
    fn an_error_counts_if_there_is_no_other_answer() {
        let hedge = known(0.1, 10 * MS);
        assert_eq!(ask(&hedge, &[(0, Err(1)), (0, Ok(2))], true), (Err(1), 1));
        assert_eq!(ask(&hedge, &[(300, Ok(1)), (0, Err(2))], true), (Ok(1), 2));
        assert_eq!(ask(&hedge, &[(100, Err(1)), (0, Err(2))], true), (Err(1), 2));
    }

    #[test]
    fn few_are_made_again() {
        let hedge = known(0.1, 10 * MS);
        assert_eq!((0..1000).filter(|_| hedge.take()).count(), 8);
        lock(&hedge.state).requests += 1000.0;
        assert_eq!((0..1000).filter(|_| hedge.take()).count(), 100, "and one in ten");
        lock(&hedge.state).hedged += 5.0;
        assert_eq!(ask(&hedge, &[(100, Ok(1))], true), (Ok(1), 1));
        assert_eq!(ask(&known(0.1, 10 * MS), &[(100, Ok(1))], false), (Ok(1), 1));
        assert_eq!(ask(&known(0.0, 10 * MS), &[(100, Ok(1))], true), (Ok(1), 1));
    }

    #[test]
    fn nothing_is_made_again_before_times_are_known() {
        let hedge = Hedge::of_share(1.0);
        assert_eq!(ask(&hedge, &[(100, Ok(1))], true), (Ok(1), 1));
        (0..ENOUGH).for_each(|_| hedge.note(50 * MS));
        assert!(hedge.patience().unwrap() >= 50 * MS);
        assert_eq!(known(0.1, Duration::ZERO).patience(), Some(LEAST));
    }
}
