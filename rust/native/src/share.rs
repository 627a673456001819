//! `lanceloader_core::order::Share`, taken from Python's by its attributes.

use lanceloader_core::order;
use pyo3::FromPyObject;

/// `lanceloader.units.share.Share`.
#[derive(FromPyObject)]
pub(crate) struct Share {
    first: u64,
    size: u64,
    stride: u64,
    num_full: u64,
    last_start: u64,
    last_size: Option<u64>,
    num_units: u64,
}

impl From<Share> for order::Share {
    fn from(share: Share) -> Self {
        let Share { first, size, stride, num_full, last_start, last_size, num_units } = share;
        Self { first, size, stride, num_full, last_start, last_size, num_units }
    }
}

/// The fields of a share in their order: what it pickles as.
pub(crate) type Parts = (u64, u64, u64, u64, u64, Option<u64>, u64);

pub(crate) fn from_parts(parts: Parts) -> order::Share {
    let (first, size, stride, num_full, last_start, last_size, num_units) = parts;
    order::Share { first, size, stride, num_full, last_start, last_size, num_units }
}

pub(crate) fn to_parts(share: &order::Share) -> Parts {
    let &order::Share { first, size, stride, num_full, last_start, last_size, num_units } = share;
    (first, size, stride, num_full, last_start, last_size, num_units)
}
