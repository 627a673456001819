//! The serialized form of weights: little-endian, the same on every machine.

use crate::error::{Error, Result};
use crate::order::Listed;

pub(super) fn foreign() -> Error {
    Error::invalid("these bytes", "the serialized form of weights")
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    bytes.split_off(..count).ok_or_else(foreign)
}

pub(super) fn read_word(bytes: &mut &[u8]) -> Result<u64> {
    Ok(read_words(1, bytes)?[0])
}

pub(super) fn read_words(count: usize, bytes: &mut &[u8]) -> Result<Vec<u64>> {
    let words = take(bytes, count.checked_mul(8).ok_or_else(foreign)?)?.as_chunks().0;
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

pub(super) fn write_words(words: &[u64], out: &mut Vec<u8>) {
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

pub(super) fn read_list(count: usize, bytes: &mut &[u8]) -> Result<Listed> {
    let [width] = *take(bytes, 1)? else { return Err(foreign()) };
    let size = count.checked_mul(usize::from(width)).ok_or_else(foreign)?;
    Listed::from_bytes(width, take(bytes, size)?)
}

pub(super) fn write_list(list: &Listed, out: &mut Vec<u8>) {
    let (width, bytes) = list.to_bytes();
    out.push(width);
    out.extend(bytes);
}
