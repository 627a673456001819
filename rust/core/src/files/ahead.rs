//! Parts of a file that were asked for before they are read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::runtime::lock;

/// The parts of one file that were asked for ahead, if any.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<Arc<Parts>>>);

/// Parts by where they lie. They are all there at the same time.
#[derive(Debug)]
struct Parts {
    places: HashMap<Range<u64>, usize>,
    /// `None` if they could not be fetched.
    answers: Shared<BoxFuture<'static, Option<Arc<[Bytes]>>>>,
}

/// Keeps parts that were asked for ahead, until this is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    slot: Arc<Slot>,
    parts: Arc<Parts>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let gone = lock(&self.slot.0).take_if(|parts| Arc::ptr_eq(parts, &self.parts));
        drop(gone);
    }
}

impl Slot {
    /// Keeps `ranges`, whose bytes `answers` brings, in place of those that were kept before.
    pub(super) fn put<E>(
        self: &Arc<Self>,
        ranges: Vec<Range<u64>>,
        answers: impl Future<Output = Result<Vec<Bytes>, E>> + Send + 'static,
    ) -> Ahead {
        let answers = async move { answers.await.ok().map(Arc::from) };
        let places = ranges.into_iter().zip(0..).collect();
        let parts = Arc::new(Parts { places, answers: answers.boxed().shared() });
        let gone = lock(&self.0).replace(Arc::clone(&parts));
        drop(gone);
        Ahead { slot: Arc::clone(self), parts }
    }

    /// Returns what waits for the bytes of `ranges`, if all of them were asked for, each as a whole.
    pub(super) fn find(
        &self,
        ranges: &[Range<u64>],
    ) -> Option<impl Future<Output = Option<Vec<Bytes>>> + Send + 'static + use<>> {
        let parts = lock(&self.0).clone()?;
        let places: Option<Vec<usize>> =
            ranges.iter().map(|range| parts.places.get(range).copied()).collect();
        let (places, answers) = (places?, parts.answers.clone());
        Some(async move {
            let answers = answers.await?;
            places.into_iter().map(|at| answers.get(at).cloned()).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::future::ready;

    use super::*;

    fn found(slot: &Slot, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
        block_on(slot.find(ranges)?)
    }

    fn found_one(slot: &Slot, range: Range<u64>) -> Option<Vec<Bytes>> {
        found(slot, std::slice::from_ref(&range))
    }

    fn put_one(slot: &Arc<Slot>, range: Range<u64>, bytes: Result<Bytes, ()>) -> Ahead {
        slot.put(std::iter::once(range).collect(), ready(bytes.map(|bytes| vec![bytes])))
    }

    #[test]
    fn parts_are_found_until_they_are_let_go_of() {
        let slot = Arc::new(Slot::default());
        let [first, second] = [Bytes::from_static(b"ab"), Bytes::from_static(b"cde")];
        let both = vec![first.clone(), second.clone()];
        let ahead = slot.put(vec![0..2, 7..10], ready(Ok::<_, ()>(both)));
        assert_eq!(found(&slot, &[7..10, 0..2]), Some(vec![second, first.clone()]));
        for other in [0..1, 0..3, 1..2, 7..9] {
            assert!(slot.find(&[0..2, other]).is_none());
        }
        let later = put_one(&slot, 0..2, Ok(first.clone()));
        assert_eq!(found_one(&slot, 7..10), None);
        drop(ahead);
        assert_eq!(found_one(&slot, 0..2), Some(vec![first]));
        drop(later);
        assert_eq!(found_one(&slot, 0..2), None);
    }

    #[test]
    fn what_could_not_be_fetched_is_not_found() {
        let slot = Arc::new(Slot::default());
        let _ahead = put_one(&slot, 0..2, Err(()));
        assert!(slot.find(&[0..2, 0..2]).is_some());
        assert_eq!(found_one(&slot, 0..2), None);
    }
}
