//! The engine of lanceloader: a Lance table's rows, in any order, as Arrow batches.
//!
//! It knows Arrow and Lance and cannot name Python. Its modules are the path of a batch:
//!
//! ```text
//! order/ ───► plan/ ───► read/ ────► gather.rs       ───► the caller
//! position    offset     address     blocks + places      one Arrow batch
//! → offset    → reads    → blocks    → one batch
//! └────────── loader/ keeps a window of batches going ──────────┘
//! ```
//!
//! Arrows point one way, between stages and between the files of a stage: none names a later one, and
//! only [`loader`] and [`read`] know them all. What is read stands in [`table`], which columns of it in [`projection`].
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use lanceloader_core::loader::Loader;
//! use lanceloader_core::order::Order;
//! use lanceloader_core::projection::Projection;
//! use lanceloader_core::read::{Options, Reader};
//! use lanceloader_core::table::{Address, Table};
//!
//! let address = Address { uri: "flights.lance".into(), ..Address::default() };
//! let table = Arc::new(Table::open(address)?);
//! let columns = table.projection(&[("distance", "distance")])?;
//! let order = Order::all(table.layout().num_rows()).shuffled(7, 0, 1)?;
//! let mut loader = Loader::new(Reader::of_table(table, columns, Options::default())?, order, 1024, false)?;
//! while let Some(gathered) = loader.next_batch()? {
//!     assert!(gathered.batch.num_rows() <= 1024);
//! }
//! # Ok::<(), lanceloader_core::Error>(())
//! ```
//!
//! # Words
//!
//! | word | means |
//! | --- | --- |
//! | row offset | place of a live row in the table at the opened version, `0..num_rows` |
//! | row address | `fragment << 32 \| place in the fragment`, deleted rows counted |
//! | row id | Lance's `_rowid`: the address unless the table has stable row ids |
//! | position | place in an order: the k-th row served |
//! | fragment, block, batch | Lance's file of rows, rows decoded together, rows handed over together |
//! | projection | the columns read, in the order they come out |
//! | order | position → row offset |
//! | split, shard | named disjoint part of the rows; what one reader gets of an epoch |
//! | clump | rows kept together in a shuffle |
//! | window | batches planned together, ahead of the reader |
//! | take, scan | rows by offset; rows in storage order |

mod address_space;
mod advice;
pub mod budget;
mod disk;
pub mod error;
mod files;
pub mod histogram;
pub mod interrupt;
mod mapping;
mod processor;
pub mod recycled;
mod runtime;
pub mod stages;
pub mod turns;

pub mod order;

pub mod plan;

pub mod projection;
pub mod table;

pub mod read;

pub mod gather;
pub mod merge;
pub mod round_robin;

mod matrix;
#[doc(hidden)] // For benches.
pub mod packed;

pub mod sequences;

pub mod cache;

pub mod loader;

pub mod ahead;

pub mod hash;

pub mod images;

pub use error::{Error, Result};
