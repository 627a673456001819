//! Packed rows: all columns of a row side by side, so that a random row costs one or two cache misses
//! instead of one per column.
//!
//! A row is a record of fixed size, its *head*, and bytes of any number, its *tail*:
//!
//! ```text
//! head   bits │ fixed-width values │ where the tail begins: u64 │ length of each part of the tail: u32
//! tail   strings, binary, list values, masks of list values, encoded nested values
//! ```
//!
//! Bits are one per nullable column, set if the row is null there, and one per boolean. Vectors
//! (fixed-size lists of numbers) lie in the head; structs are taken apart into their fields. Everything
//! is little-endian and unaligned. Heads stand at a fixed stride, tails wherever they end up.
//!
//! Arrow only: no I/O, and nothing is known of where rows are kept.

mod assemble;
mod bytes;
mod heads;
mod leaves;
mod nested;
mod pack;
mod packing;
mod unpack;

pub use heads::Heads;
pub use pack::PackedRows;
pub use packing::Packing;

#[cfg(test)]
mod tests;
