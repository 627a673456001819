//! Which positions one of several readers gets.
//!
//! Reader `rank` of `world_size` takes positions `rank, rank + world_size, …`: the first
//! `world_size · b` positions are then the same rows whatever the world size, as in PyTorch's
//! `DistributedSampler`, and a reader needs no word from the others.

use super::expression::{Map, Order};
use crate::error::{Error, Result};

/// What becomes of the `len % world_size` positions left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// One each for the first ranks: every row once, lengths differ by at most one.
    Uneven,
    /// Left out: equal lengths, up to `world_size − 1` rows not served.
    Drop,
    /// Filled up from the start of the order: equal lengths, some rows served twice.
    Pad,
}

/// Returns the part of `order` that reader `rank` of `world_size` gets.
///
/// # Errors
///
/// [`Error::Invalid`] if `rank` is not in `0..world_size`.
pub fn shard(order: &Order, rank: u64, world_size: u64, tail: Tail) -> Result<Order> {
    if rank >= world_size {
        return Err(Error::invalid(
            format!("rank {rank} of world_size {world_size}"),
            "0 <= rank < world_size",
        ));
    }
    let len = order.len();
    let (whole, left) = (len / world_size, len % world_size);
    let has_extra = match tail {
        Tail::Uneven => rank < left,
        Tail::Drop => false,
        Tail::Pad => left > 0,
    };
    let count = whole + u64::from(has_extra);
    let source = if tail == Tail::Pad && rank >= left && has_extra {
        order.repeat(wraps(len, world_size))?
    } else {
        order.clone()
    };
    let step = i64::try_from(world_size)
        .map_err(|_| Error::invalid(format!("world_size {world_size}"), "at most 2^63 - 1"))?;
    match count {
        0 => Ok(Order::all(0)),
        _ if world_size == 1 => Ok(source),
        _ => source.in_front(Map::Range { start: rank, step }, count, true),
    }
}

/// Returns how many times `len` positions must be served to give each of `world_size` readers one.
fn wraps(len: u64, world_size: u64) -> u64 {
    1 + world_size.div_ceil(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(len: u64, world_size: u64, tail: Tail) -> Vec<u64> {
        let order = Order::all(len);
        let shards = (0..world_size).map(|rank| shard(&order, rank, world_size, tail));
        shards.map(|shard| shard.unwrap().len()).collect()
    }

    #[test]
    fn lengths_follow_the_tail() {
        assert_eq!(lens(10, 4, Tail::Uneven), [3, 3, 2, 2]);
        assert_eq!(lens(10, 4, Tail::Drop), [2, 2, 2, 2]);
        assert_eq!(lens(10, 4, Tail::Pad), [3, 3, 3, 3]);
        assert_eq!(lens(8, 4, Tail::Pad), [2, 2, 2, 2]);
        assert_eq!(lens(2, 5, Tail::Uneven), [1, 1, 0, 0, 0]);
        assert_eq!(lens(2, 5, Tail::Drop), [0; 5]);
        assert_eq!(lens(2, 5, Tail::Pad), [1; 5]);
        assert_eq!(lens(0, 3, Tail::Pad), [0; 3]);
    }

    #[test]
    fn uneven_shards_partition_and_padded_ones_wrap() {
        for len in 0..30 {
            let order = Order::all(len);
            for world_size in 1..9 {
                let all = |tail| -> Vec<u64> {
                    let shard = |rank| shard(&order, rank, world_size, tail).unwrap().to_vec();
                    (0..world_size).flat_map(shard).collect()
                };
                let mut uneven = all(Tail::Uneven);
                uneven.sort_unstable();
                assert!(uneven.into_iter().eq(0..len));
                let padded = all(Tail::Pad);
                assert!((0..len).all(|row| padded.contains(&row)));
                assert!(padded.iter().all(|&row| row < len));
            }
        }
    }

    #[test]
    fn a_rank_outside_the_world_is_refused() {
        assert!(shard(&Order::all(3), 2, 2, Tail::Drop).is_err());
        assert!(shard(&Order::all(3), 0, 0, Tail::Drop).is_err());
    }
}
