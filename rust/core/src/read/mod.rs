//! Stage 3, READ: row offsets → batches of the projected columns.
//!
//! Behind [`Reader`] stand `direct`, which reads the data files of a Lance table for each window of
//! offsets; `memory`, which holds Arrow data that came in whole; `resident`, which keeps
//! packed rows of either of them; and `external`, which writes packed rows out in the order they are
//! served in. `choose` says which of them it is.

mod admission;
mod base;
mod choose;
mod cuts;
mod direct;
mod external;
mod feed;
mod first;
mod memory;
mod next_epoch;
mod packed_reader;
mod reader;
mod resident;
mod scan;
mod scratch;
mod setback;
mod small;
mod stats;
mod weights;
mod window;

pub use crate::files::Traffic;
pub use choose::{Choice, Options, Strategy};
pub use cuts::Cuts;
pub(crate) use feed::Feed;
pub use memory::MemoryTable;
pub use reader::Reader;
pub use stats::ReadStats;

#[cfg(test)]
pub(crate) mod tests;
