//! Runs of neighbours at a fixed distance: the batches of one rank among those of all.

use super::nowhere::NOWHERE;

/// Returns the largest image of `n` positions and one more; `None` if that leaves 64 bits.
pub(super) fn images(start: u64, block: u64, stride: u64, n: u64) -> Option<u64> {
    let Some(last) = n.checked_sub(1) else {
        return Some(0);
    };
    let run = (last / block).checked_mul(stride)?;
    start.checked_add(run)?.checked_add(last % block)?.checked_add(1)
}

pub(super) fn apply(start: u64, block: u64, stride: u64, values: &mut [u64]) {
    for value in values {
        *value = start + (*value / block) * stride + *value % block;
    }
}

pub(super) fn fill(start: u64, block: u64, stride: u64, first: u64, out: &mut [u64]) {
    let (mut position, mut out) = (first, out);
    while !out.is_empty() {
        let (run, place) = (position / block, position % block);
        let count = usize::try_from(block - place).unwrap_or(usize::MAX).min(out.len());
        let (head, rest) = out.split_at_mut(count);
        let image = start + run * stride + place;
        for (value, image) in head.iter_mut().zip(image..) {
            *value = image;
        }
        position += count as u64;
        out = rest;
    }
}

/// Returns the position of an image, or [`NOWHERE`].
pub(super) fn inverse(start: u64, block: u64, stride: u64, image: u64) -> u64 {
    let Some(distance) = image.checked_sub(start) else {
        return NOWHERE;
    };
    let (run, place) = (distance / stride, distance % stride);
    if place < block { run * block + place } else { NOWHERE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Order;

    #[test]
    fn blocks_are_what_they_say_and_invert() {
        for (start, block, stride, len) in
            [(0, 1, 2, 50), (3, 2, 7, 26), (1, 5, 6, 80), (90, 10, 20, 10), (0, 4, 4, 100)]
        {
            let order = Order::all(100).blocks(start, block, stride, len).unwrap();
            let wanted: Vec<u64> =
                (0..len).map(|k| start + k / block * stride + k % block).collect();
            assert_eq!(order.to_vec(), wanted);
            assert_eq!(
                order.offsets(len / 3..len).unwrap(),
                wanted[usize::try_from(len / 3).unwrap()..]
            );
            assert!(order.is_ascending() && order.is_invertible());
            let mut positions = Vec::new();
            order.positions_of(0..100, &mut positions).unwrap();
            for offset in 0..100 {
                let wanted = wanted.iter().position(|&o| o == offset).map(|at| at as u64);
                assert_eq!(order.position_of(offset).unwrap(), wanted);
                assert_eq!(positions[usize::try_from(offset).unwrap()], wanted.unwrap_or(NOWHERE));
            }
        }
    }

    #[test]
    fn blocks_of_a_shuffle_are_blocks_of_the_next() {
        let shuffled = |epoch| Order::all(100).shuffled(1, epoch, 1).unwrap();
        let order = shuffled(0).blocks(2, 3, 9, 30).unwrap();
        let next = shuffled(4).blocks(2, 3, 9, 30).unwrap();
        assert_eq!(order.with_epoch(4).unwrap().to_vec(), next.to_vec());
        assert!(order.with_epoch(4).unwrap().is_same(&next));
        assert!(!order.is_same(&next));
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        let all = Order::all(10);
        assert!(all.blocks(0, 0, 1, 1).is_err());
        assert!(all.blocks(0, 3, 2, 1).is_err());
        assert!(all.blocks(0, 2, 4, 7).is_err());
        assert!(all.blocks(0, 2, u64::MAX, 3).is_err());
        assert_eq!(all.blocks(0, 2, 4, 6).unwrap().to_vec(), [0, 1, 4, 5, 8, 9]);
        assert!(all.blocks(0, 2, 4, 0).unwrap().is_empty());
    }
}
