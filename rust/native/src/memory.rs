//! The memory of this process, and that of batches which another process maps.

use std::os::fd::RawFd;

use lanceloader_core::recycled::Recycled;
use pyo3::{PyResult, pyfunction};

#[global_allocator]
static ALLOCATOR: Recycled = Recycled::new();

/// Allocates the buffers of batches in shared memory from now on: returns its file, which stays open, and
/// the address and the size of its mapping.
#[pyfunction]
pub(crate) fn share_memory() -> PyResult<(RawFd, usize, usize)> {
    Ok(ALLOCATOR.share()?)
}
