//! SEQUENCES: lengths of rows → blocks of a fixed length, or batches under a token budget.
//!
//! A plan is made from an [`Order`](crate::order::Order) and the [`Lengths`] of its rows, and from
//! nothing else: the same two give the same plan, so that ranks agree without communication. Plans
//! keep a few bytes for many rows and compute the rest again on demand, so that any block or batch is
//! found without those before it.
//!
//! Arrow only; nothing here reads a table. [`Filler`] is passed the rows that it requests.

mod buckets;
mod fill;
mod fit;
mod lengths;
mod pack;
mod reads;

pub use buckets::{BucketCounts, Buckets, Budget, Oversized};
pub use fill::{Filler, Step};
pub use lengths::{Lengths, LengthsBuilder};
pub use pack::{Cursor, Long, PackCounts, Packed, Packing, Piece, Placement, Settings};
pub use reads::reads;

#[cfg(test)]
mod tests;
