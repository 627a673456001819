//! Parts of a file that are on their way to its copy, so that windows which are read at the same time do not
//! fetch the same pages.
//!
//! Whoever asks for a part holds a claim until the part is kept, or is given up. Requests run by themselves,
//! so that nobody who waits for a claim of another one can be waited for by that one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::runtime::lock;

/// The parts of one file that were asked for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Their ends by their starts; disjoint.
    parts: Mutex<BTreeMap<u64, u64>>,
    ended: Notify,
}

/// A part that is on its way until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    asked: Arc<Asked>,
    start: u64,
}

/// What was claimed, and what others have.
type Claimed = (Vec<(Range<u64>, Claim)>, Vec<Range<u64>>);

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.asked.parts).remove(&self.start);
        self.asked.ended.notify_waiters();
    }
}

impl Asked {
    /// Claims what nobody else has of some disjoint ranges. Returns it, and what others have.
    pub(super) fn claim(self: &Arc<Self>, ranges: Vec<Range<u64>>) -> Claimed {
        let (mut own, mut others) = (Vec::with_capacity(ranges.len()), Vec::new());
        let mut parts = lock(&self.parts);
        for range in ranges {
            let found = overlapping(&parts, &range);
            let mut start = range.start;
            let mut claim = |range: Range<u64>| {
                if range.start < range.end {
                    parts.insert(range.start, range.end);
                    let claim = Claim { asked: Arc::clone(self), start: range.start };
                    own.push((range, claim));
                }
            };
            for other in found {
                claim(start..other.start);
                start = other.end;
                others.push(other);
            }
            claim(start..range.end);
        }
        (own, others)
    }

    /// Waits until nobody has a claim of any of these ranges.
    pub(super) async fn ended(&self, ranges: &[Range<u64>]) {
        for range in ranges {
            loop {
                let mut ended = std::pin::pin!(self.ended.notified());
                // Before looking, as it may end in between.
                ended.as_mut().enable();
                if overlapping(&lock(&self.parts), range).is_empty() {
                    break;
                }
                ended.await;
            }
        }
    }
}

/// Returns what disjoint parts have of a range.
fn overlapping(parts: &BTreeMap<u64, u64>, range: &Range<u64>) -> Vec<Range<u64>> {
    let before = parts.range(..range.start).next_back().filter(|(_, end)| **end > range.start);
    let found = before.into_iter().chain(parts.range(range.clone()));
    found.map(|(&start, &end)| start.max(range.start)..end.min(range.end)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime;

    type Ranges = Vec<Range<u64>>;

    fn claimed(asked: &Arc<Asked>, ranges: &[Range<u64>]) -> (Vec<Claim>, Ranges, Ranges) {
        let (own, others) = asked.claim(ranges.to_vec());
        let (own, claims) = own.into_iter().unzip();
        (claims, own, others)
    }

    #[test]
    fn what_others_have_is_not_asked_for_again() {
        let asked = Arc::new(Asked::default());
        let (claims, own, others) = claimed(&asked, &[10..20, 30..40]);
        assert_eq!((own, others), (vec![10..20, 30..40], vec![]));
        let (more, own, others) = claimed(&asked, &[5..35, 38..45]);
        assert_eq!(own, [5..10, 20..30, 40..45]);
        assert_eq!(others, [10..20, 30..35, 38..40]);
        let (_, own, others) = claimed(&asked, &[12..14, 22..23]);
        assert_eq!((own, others), (vec![], vec![12..14, 22..23]));
        drop((claims, more));
        let (_, own, others) = claimed(&asked, &[0..50, 60..70]);
        assert_eq!((own, others), (vec![0..50, 60..70], vec![]));
    }

    #[test]
    fn waiting_ends_with_the_claims() {
        let asked = Arc::new(Asked::default());
        let (mut claims, ..) = claimed(&asked, &[10..20, 30..40]);
        let wait = |asked: Arc<Asked>, time| async move {
            let range = std::iter::once(0..100).collect::<Vec<_>>();
            runtime::within(time, asked.ended(&range)).await.is_some()
        };
        let runtime = runtime::runtime().unwrap();
        let short = Duration::from_millis(20);
        assert!(!runtime.block_on(wait(Arc::clone(&asked), short)));
        let waiting = runtime.spawn(wait(Arc::clone(&asked), Duration::from_mins(5)));
        claims.pop();
        assert!(!runtime.block_on(wait(Arc::clone(&asked), short)));
        drop(claims);
        assert!(runtime.block_on(waiting).unwrap());
    }
}
