//! Stage 1, ORDER: which row offset stands at which position.
//!
//! An [`Order`] is an expression, not an array: a chain of maps, each from `0..len` to the values
//! the next one takes, the last one giving row offsets. Splitting, sharding, skipping and shuffling
//! put a map in front, so a shuffled shard of a filtered split of a billion rows is a few maps and
//! one bitmap. Nothing here reads a table or knows what a row is.
//!
//! ```
//! use lanceloader_core::order::Order;
//!
//! let order = Order::all(10).shuffled(7, 0, 1)?;
//! let train = order.slice(0, 8)?;
//! assert_eq!(train.len(), 8);
//! assert_eq!(train.position_of(train.to_vec()[3])?, Some(3));
//! # Ok::<(), lanceloader_core::Error>(())
//! ```

mod bijection;
mod bitmap;
mod blocks;
mod chain;
mod episodes;
mod epoch;
mod expression;
mod fingerprint;
mod inverse;
pub mod lancedb;
mod listed;
mod map;
pub mod mix;
mod mixed;
mod neighbours;
mod nowhere;
mod shard;
mod share;
mod shuffle;
pub mod split;
mod weighted;
mod windowed;

pub use bijection::{MAX_ROWS, Purpose};
pub use bitmap::{Bitmap, BitmapBuilder};
pub use episodes::Episodes;
pub use expression::{Map, Mixed, Neighbours, Order};
pub use listed::Listed;
pub use shard::{Tail, shard};
pub use share::Share;
pub use shuffle::Shuffle;
pub use weighted::{Weighted, choose};
pub use windowed::Windowed;

#[cfg(test)]
mod tests;
