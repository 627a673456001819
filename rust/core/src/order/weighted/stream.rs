//! Random words that are computed from their numbers.

use crate::order::bijection::mix64;

/// Returns word `at` of the SplitMix64 stream of `key`, without computing those before it.
pub(super) fn word(key: u64, at: u64) -> u64 {
    let steps = at.wrapping_add(1);
    mix64(key.wrapping_add(steps.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// Returns a word scaled to `0..bound`; the bias of at most `bound / 2⁶⁴` is far below what draws
/// can show.
pub(super) fn scaled(word: u64, bound: u64) -> u64 {
    ((u128::from(word) * u128::from(bound)) >> 64) as u64
}
