//! The engine of lanceloader.
pub mod error;
pub mod interrupt;
mod runtime;

pub mod order;

pub mod plan;

pub mod projection;
pub mod table;

pub mod read;

pub mod gather;

pub mod loader;

pub mod hash;

pub use error::{Error, Result};
