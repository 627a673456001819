//! What is kept on a local disk: packed rows in blocks, and copies of files of other machines, shared by
//! all processes.
//!
//! ```text
//! <cache folder>/lanceloader-cache             says that what lies here may be removed
//!                lanceloader.<user>.lock       held while room is made or taken
//!                <table>/<columns>/entry.json  what it holds, and when it was last used
//!                                  lock        held, shared, by every process that reads it
//!                                  000000.rows a block: header, heads, tails
//!                                  000001.new.part  a block that is being written, and is locked
//!                <origin>/<layout>/…           the same for copies of files of another machine:
//!                                  <file>.copy, <file>.sums  its pages, and their checksums
//!                                  <table>-<time>-<n>.files  the files of one of its versions
//!                                  room-<process>-<n>.new.part  room that was taken for more of them
//! ```
//!
//! Both names are hashes: of the data files, deletion files and fields of a table, and of the columns.
//! A table written anew under an old address is another table, and a version that only adds
//! an index is the same. A block appears under its name whole or not at all, carries a checksum
//! that is compared when it is mapped, and is written by one process at a time: the lock of one that
//! was killed is free again, also if it has left children, and the next one takes its file over.
//! Nothing here needs a recovery.

mod block;
mod copies;
mod copy;
mod description;
mod folder;
mod locks;
mod owned;
mod room;
mod verified;
mod versions;

pub(crate) use block::{Block, Rows};
pub(crate) use copies::Copies;
pub(crate) use copy::{Copy, PAGE};
pub(crate) use description::Found;
pub(crate) use folder::{Claim, Entry};
pub(crate) use room::Cache;
pub use room::{Pruned, prune};
pub(crate) use versions::Listing;
