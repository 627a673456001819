//! What reads rows when nothing is kept, and the system columns of its batches.

use std::sync::Arc;

use arrow_array::RecordBatch;

use super::cuts::Cuts;
use super::scan::Scan;
use super::window::assemble;
use super::{direct, memory};
use crate::error::Result;
use crate::gather::Gathered;
use crate::projection::{Projection, Source};

/// The reader of rows that are not kept.
#[derive(Debug, Clone)]
pub(super) enum Base {
    Direct(Arc<direct::Direct>),
    Memory(Arc<memory::Memory>),
}

impl Base {
    pub(super) fn projection(&self) -> &Projection {
        match self {
            Self::Direct(reader) => reader.projection(),
            Self::Memory(reader) => reader.projection(),
        }
    }

    pub(super) fn take_window(&self, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        match self {
            Self::Direct(reader) => reader.take_window(offsets, cuts),
            Self::Memory(reader) => reader.take_window(offsets, cuts),
        }
    }

    pub(super) fn scan(&self) -> Arc<dyn Scan> {
        match self {
            Self::Direct(reader) => Arc::clone(reader) as _,
            Self::Memory(reader) => Arc::clone(reader) as _,
        }
    }

    pub(super) fn system(&self, source: &Source, offsets: &[u64]) -> Result<Vec<u64>> {
        match self {
            Self::Direct(reader) => reader.system(source, offsets),
            Self::Memory(reader) => reader.system(source, offsets),
        }
    }

    /// Returns a batch with its system columns, from the columns read.
    pub(super) fn assemble(&self, read: &RecordBatch, offsets: &[u64]) -> Result<RecordBatch> {
        self.assemble_lazily(read, || Ok(offsets.to_vec()))
    }

    /// Returns the same batch, asking for offsets only if they are needed.
    pub(super) fn assemble_lazily(
        &self,
        read: &RecordBatch,
        offsets: impl Fn() -> Result<Vec<u64>>,
    ) -> Result<RecordBatch> {
        assemble(self.projection(), read, offsets, |source, offsets| self.system(source, offsets))
    }
}
