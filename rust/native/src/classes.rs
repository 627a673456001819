//! The classes of orders and mixtures, which hold each other; their methods are in `order` and `mix`.

use std::sync::Arc;

use lanceloader_core::order::{self, mix};
use pyo3::pyclass;

/// Which row offset stands at which position: an expression, cheap to make, to copy and to pickle.
#[pyclass(frozen, module = "lanceloader._native")]
#[derive(Clone)]
pub(crate) struct Order(pub(crate) order::Order);

/// An epoch of a mixture: which row of which source stands where.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Mix(pub(crate) Arc<mix::Mix>);
