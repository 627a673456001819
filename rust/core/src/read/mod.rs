//! Stage 3, READ: row offsets → batches of the projected columns.
//!
//! Two readers stand behind [`Reader`]: `direct` reads the data files of a Lance table for each
//! window of offsets, and `memory` holds Arrow data that came in whole.

mod direct;
mod memory;

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::SchemaRef;

pub use memory::MemoryTable;

use crate::error::Result;
use crate::gather::{Gathered, gather};
use crate::plan::Rows;
use crate::projection::{Projection, Source};
use crate::table::Table;

/// Reads the projected columns of a table, rows by offset.
#[derive(Debug, Clone)]
pub struct Reader(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Direct(Arc<direct::Direct>),
    Memory(Arc<memory::Memory>),
}

impl Reader {
    /// A reader of a Lance table.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`](crate::Error::Unsupported) if a projected column is stored in a way
    /// this reader does not read.
    pub fn of_table(table: Arc<Table>, projection: Projection) -> Result<Self> {
        Ok(Self(Inner::Direct(Arc::new(direct::Direct::new(table, projection)?))))
    }

    /// A reader of Arrow data in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Bug`](crate::Error::Bug) if the projection is of another table.
    pub fn of_memory(table: &Arc<MemoryTable>, projection: Projection) -> Result<Self> {
        Ok(Self(Inner::Memory(Arc::new(memory::Memory::new(table, projection)?))))
    }

    /// The schema of the batches it gives.
    pub fn schema(&self) -> &SchemaRef {
        match &self.0 {
            Inner::Direct(reader) => reader.schema(),
            Inner::Memory(reader) => reader.schema(),
        }
    }

    /// The rows at `offsets`, in that order, repeats included.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), those of storage, and
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn take(&self, offsets: &[u64]) -> Result<Gathered> {
        let mut batches = self.take_window(offsets, offsets.len().max(1))?;
        Ok(batches.pop().expect("even no rows are a batch"))
    }

    /// The rows at `offsets` as batches of `batch_size`, planned and read together.
    ///
    /// Always at least one batch; only the last may be shorter. A row that is wanted by several
    /// batches is read once.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Self::take).
    pub fn take_window(&self, offsets: &[u64], batch_size: usize) -> Result<Vec<Gathered>> {
        match &self.0 {
            Inner::Direct(reader) => reader.take_window(offsets, batch_size),
            Inner::Memory(reader) => reader.take_window(offsets, batch_size),
        }
    }
}

/// Blocks of rows and the columns they hold.
struct Blocks<'a> {
    schema: &'a SchemaRef,
    rows: &'a [RecordBatch],
    /// Whether nothing else shows their rows.
    are_owned: bool,
}

/// Cuts a window of rows into batches and gives each its system columns.
///
/// `system` gives the ids or addresses of row offsets.
fn cut(
    blocks: &Blocks<'_>,
    rows: Rows,
    offsets: &[u64],
    batch_size: usize,
    projection: &Projection,
    system: impl Fn(&Source, &[u64]) -> Result<Vec<u64>>,
) -> Result<Vec<Gathered>> {
    let finish = |gathered: Gathered, range: Range<usize>| {
        let offsets = &offsets[range];
        let column = |source: &Source| -> Result<ArrayRef> {
            Ok(Arc::new(UInt64Array::from(match source {
                Source::RowOffset => offsets.to_vec(),
                source => system(source, offsets)?,
            })))
        };
        let batch = projection.assemble(&gathered.batch, column)?;
        Ok(Gathered { batch, ..gathered })
    };
    let ranges = || {
        let starts = (0..offsets.len().max(1)).step_by(batch_size);
        starts.map(|start| start..offsets.len().min(start + batch_size))
    };
    match rows {
        Rows::AsRead => {
            let whole = gather(blocks.schema, blocks.rows, blocks.are_owned, &Rows::AsRead)?;
            // Slices share buffers, but no row.
            let is_owned = whole.is_owned;
            let slice = |range: Range<usize>| {
                let batch = whole.batch.slice(range.start, range.len());
                finish(Gathered { batch, is_owned }, range)
            };
            ranges().map(slice).collect()
        }
        Rows::Picked(places) => {
            let pick = |range: Range<usize>| {
                crate::interrupt::check()?;
                let places = Rows::Picked(places[range.clone()].to_vec());
                finish(gather(blocks.schema, blocks.rows, blocks.are_owned, &places)?, range)
            };
            ranges().map(pick).collect()
        }
    }
}
