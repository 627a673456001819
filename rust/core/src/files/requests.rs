//! Ranges of a file → the requests that bring them.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// A part of a file that was fetched.
pub(super) type Part = (u64, Bytes);

/// How ranges become requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes between two ranges that are fetched rather than asked around.
    pub(super) gap: u64,
    /// The most bytes of one request, a multiple of `step`.
    pub(super) most: u64,
    /// Long ranges are divided at multiples of this from their start.
    pub(super) step: u64,
}

/// Returns disjoint requests, ascending, that cover all ranges: neighbours are joined, and what is too
/// long is divided into equal parts.
pub(super) fn requests(mut ranges: Vec<Range<u64>>, shape: Shape) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    if !ranges.is_sorted_by_key(|range| range.start) {
        ranges.sort_by_key(|range| range.start);
    }
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(shape.gap) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    let mut all = Vec::with_capacity(joined.len());
    for range in joined {
        let count = (range.end - range.start).div_ceil(shape.most.max(1));
        let length = (range.end - range.start).div_ceil(count).next_multiple_of(shape.step.max(1));
        let starts = (0..count).map(|part| range.start + part * length);
        let starts = starts.take_while(|start| *start < range.end);
        all.extend(starts.map(|start| start..range.end.min(start + length)));
    }
    all
}

/// Requests for a range of at least this length are placed side by side in memory.
const LONG: u64 = 2 << 20;
/// The most bytes of such a run, which stays in memory as long as any part of it.
const LONGEST_RUN: u64 = 32 << 20;

/// Returns ascending requests in runs of neighbours that long ranges lie in.
pub(super) fn runs(requests: Vec<Range<u64>>, ranges: &[Range<u64>]) -> Vec<Vec<Range<u64>>> {
    let long: Vec<_> =
        ranges.iter().filter(|range| range.end.saturating_sub(range.start) >= LONG).collect();
    let is_crossed = |place: u64| {
        let crosses = |range: &Range<u64>| range.start < place && place < range.end;
        long.iter().any(|range| crosses(range))
    };
    let mut runs: Vec<Vec<Range<u64>>> = Vec::with_capacity(requests.len());
    for request in requests {
        match runs.last_mut() {
            Some(run)
                if run[run.len() - 1].end == request.start
                    && request.end - run[0].start <= LONGEST_RUN
                    && is_crossed(request.start) =>
            {
                run.push(request);
            }
            _ => runs.push(vec![request]),
        }
    }
    runs
}

/// Returns the bytes of `range` from parts that cover it, ascending; without a copy if one part has all
/// of them. `None` if they do not cover it.
pub(super) fn cut(range: &Range<u64>, parts: &[Part]) -> Option<Bytes> {
    if range.start >= range.end {
        return Some(Bytes::new());
    }
    let first = parts.partition_point(|(start, _)| *start <= range.start).checked_sub(1)?;
    let slice = |(start, bytes): &Part, from: u64| {
        let begin = usize::try_from(from.checked_sub(*start)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(*start)?).ok()?.min(bytes.len());
        (begin < end).then(|| bytes.slice(begin..end))
    };
    let head = slice(&parts[first], range.start)?;
    let mut position = range.start + head.len() as u64;
    if position == range.end {
        return Some(head);
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(range.end - range.start).ok()?);
    whole.extend_from_slice(&head);
    for part in &parts[first + 1..] {
        if position == range.end {
            break;
        }
        let next = slice(part, position)?;
        position += next.len() as u64;
        whole.extend_from_slice(&next);
    }
    (position == range.end).then(|| whole.freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(range: Range<u64>, shape: Shape) -> Vec<Range<u64>> {
        requests(std::iter::once(range).collect(), shape)
    }

    #[test]
    fn neighbours_are_joined_and_long_ones_divided() {
        let shape = Shape { gap: 10, most: 100, step: 1 };
        assert_eq!(requests(vec![0..5, 15..20, 31..40], shape), [0..20, 31..40]);
        assert_eq!(requests(vec![40..45, 0..5, 3..4, 7..7], shape), [0..5, 40..45]);
        assert_eq!(one(0..250, shape), [0..84, 84..168, 168..250]);
        assert!(one(7..7, shape).is_empty());
        let shape = Shape { step: 50, ..shape };
        assert_eq!(one(10..240, shape), [10..110, 110..210, 210..240]);
    }

    #[test]
    fn requests_of_a_long_range_are_a_run() {
        const MIB: u64 = 1 << 20;
        let mib = |range: Range<u64>| range.start * MIB..range.end * MIB;
        let asked = |ranges: &[Range<u64>]| ranges.iter().cloned().map(mib).collect::<Vec<_>>();
        let all = asked(&[0..4, 4..8, 8..12, 20..24, 24..28]);
        let found = runs(all.clone(), &asked(&[1..9, 20..28]));
        assert_eq!(found, [asked(&[0..4, 4..8, 8..12]), asked(&[20..24, 24..28])]);
        // None of these is long, and the others end where a request does.
        let short: Vec<_> = (1..28).map(|at| at * MIB - 1..(at + 1) * MIB - 2).collect();
        assert_eq!(runs(all.clone(), &short).len(), 5);
        assert_eq!(runs(all, &asked(&[0..4, 4..8])).len(), 5);
        let many: Vec<_> = (0..20).map(|at| mib(4 * at..4 * at + 4)).collect();
        let lengths: Vec<usize> = runs(many, &[mib(0..80)]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [8, 8, 4]);
        assert!(runs(Vec::new(), &[]).is_empty());
    }

    #[test]
    fn what_is_not_covered_is_not_cut() {
        let part = |start, text: &'static [u8]| (start, Bytes::from_static(text));
        let parts = [part(3, b"abc"), part(6, b"def"), part(20, b"x")];
        assert_eq!(cut(&(4..8), &parts).unwrap(), "bcde");
        assert_eq!(cut(&(3..6), &parts).unwrap(), "abc");
        for range in [0..4, 4..10, 9..10, 20..22, 30..31] {
            assert_eq!(cut(&range, &parts), None, "{range:?}");
        }
        assert_eq!(cut(&(9..9), &[]).unwrap(), "");
    }

    proptest! {
        #[test]
        fn any_ranges_come_out_of_their_requests(
            ranges in prop::collection::vec((0_u64..2000, 0_u64..300), 0..40),
            gap in 0_u64..200,
            steps in 1_u64..40,
            step in 1_u64..40,
        ) {
            let most = step * steps;
            let file: Vec<u8> = (0..2300_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let ranges: Vec<_> = ranges.into_iter().map(|(at, len)| at..at + len).collect();
            let asked = requests(ranges.clone(), Shape { gap, most, step });
            prop_assert!(asked.iter().all(|range| range.start < range.end && range.end - range.start <= most));
            prop_assert!(asked.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let at = |place: u64| usize::try_from(place).unwrap();
            let bytes = |range: &Range<u64>| Bytes::from(file[at(range.start)..at(range.end)].to_vec());
            let parts: Vec<Part> = asked.iter().map(|range| (range.start, bytes(range))).collect();
            for range in &ranges {
                prop_assert_eq!(cut(range, &parts).unwrap(), bytes(range));
            }
        }
    }
}
