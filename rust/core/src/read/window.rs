//! A window of rows → batches, as they are handed out.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::SchemaRef;

use super::cuts::Cuts;
use crate::error::Result;
use crate::gather::{Gathered, gather};
use crate::plan::Rows;
use crate::projection::{Projection, Source, batch};
use crate::stages::{Stage, measure};
use crate::table::{LongValues, Part, gather_long};

/// What batches are handed out as.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Form {
    /// Whether a batch is one column, of a vector with the values of all columns for each row.
    pub(super) is_matrix: bool,
    /// Whether ids, addresses and offsets of rows are signed, as torch wants them.
    pub(super) is_signed: bool,
}

/// Returns batches of the columns of a projection, as they are handed out.
pub(super) fn formed(
    projection: &Projection,
    mut batches: Vec<Gathered>,
    form: Form,
) -> Result<Vec<Gathered>> {
    for gathered in &mut batches {
        if form.is_signed {
            gathered.batch = projection.signed(&gathered.batch)?;
        }
        if form.is_matrix {
            let batch = crate::matrix::side_by_side(&gathered.batch)?;
            *gathered = Gathered { batch, is_owned: true };
        }
    }
    Ok(batches)
}

/// Blocks of rows and the columns they hold.
pub(super) struct Blocks<'a> {
    pub(super) schema: &'a SchemaRef,
    pub(super) rows: &'a [RecordBatch],
    /// The columns of each block whose values are still to be copied, if there are any.
    pub(super) long: &'a [Vec<(usize, LongValues)>],
    /// Whether nothing else shows their rows.
    pub(super) are_owned: bool,
}

impl Blocks<'_> {
    /// Gathers rows into one batch.
    fn gather(&self, rows: &Rows) -> Result<Gathered> {
        let gather = || gather(self.schema, self.rows, self.are_owned, rows);
        let mut gathered = measure(Stage::Gather, gather)?;
        let apart: BTreeSet<usize> =
            self.long.iter().flatten().map(|(column, _)| *column).collect();
        if let Rows::Picked(places) = rows
            && !apart.is_empty()
        {
            let mut columns = gathered.batch.columns().to_vec();
            for at in apart {
                columns[at] = measure(Stage::Read, || self.long_column(at, places))?;
            }
            gathered.batch = batch(Arc::clone(self.schema), columns, places.len())?;
        }
        Ok(gathered)
    }

    /// Returns a column whose values are still to be copied.
    fn long_column(&self, at: usize, places: &[(usize, usize)]) -> Result<ArrayRef> {
        let blocks = self.rows.iter().zip(self.long);
        let parts =
            blocks.map(|(block, long)| match long.iter().find(|(column, _)| *column == at) {
                Some((_, values)) => Part::Values(values),
                None => Part::Column(block.column(at)),
            });
        let parts: Vec<Part<'_>> = parts.collect();
        gather_long(&parts, places, self.schema.field(at).data_type())
    }
}

/// Returns a batch with its system columns, from the columns read; `system` gives the ids or addresses
/// of row offsets.
pub(super) fn assemble(
    projection: &Projection,
    read: &RecordBatch,
    offsets: impl Fn() -> Result<Vec<u64>>,
    system: impl Fn(&Source, &[u64]) -> Result<Vec<u64>>,
) -> Result<RecordBatch> {
    let column = |source: &Source| -> Result<ArrayRef> {
        Ok(Arc::new(UInt64Array::from(match source {
            Source::RowOffset => offsets()?,
            source => system(source, &offsets()?)?,
        })))
    };
    projection.assemble(read, column)
}

/// Cuts a window of rows into batches and gives each its system columns.
///
/// `system` is as for [`assemble`].
pub(super) fn cut(
    blocks: &Blocks<'_>,
    rows: Rows,
    offsets: &[u64],
    cuts: Cuts<'_>,
    projection: &Projection,
    system: impl Fn(&Source, &[u64]) -> Result<Vec<u64>>,
) -> Result<Vec<Gathered>> {
    let finish = |gathered: Gathered, range: Range<usize>| {
        let of_batch = || Ok(offsets[range.clone()].to_vec());
        let batch = assemble(projection, &gathered.batch, of_batch, &system)?;
        Ok(Gathered { batch, ..gathered })
    };
    match rows {
        Rows::AsRead => {
            let whole = blocks.gather(&Rows::AsRead)?;
            // Slices share buffers, but no row.
            let is_owned = whole.is_owned;
            let slice = |range: Range<usize>| {
                let batch = whole.batch.slice(range.start, range.len());
                finish(Gathered { batch, is_owned }, range)
            };
            cuts.ranges(offsets.len()).map(slice).collect()
        }
        Rows::Picked(places) => {
            let pick = |range: Range<usize>| {
                crate::interrupt::check()?;
                finish(blocks.gather(&Rows::Picked(places[range.clone()].to_vec()))?, range)
            };
            cuts.ranges(offsets.len()).map(pick).collect()
        }
    }
}
