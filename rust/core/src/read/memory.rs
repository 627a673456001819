//! Arrow data in memory: what another library handed over whole.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};

use super::cuts::Cuts;
use super::scan::Scan;
use super::weights::Weights;
use super::window::{Blocks, cut};
use crate::error::{Error, Result};
use crate::gather::Gathered;
use crate::plan::Rows;
use crate::projection::{Projection, Source, batch, by_name, num_bytes};

/// Record batches, and the row id of each row if they came from a table.
#[derive(Debug)]
pub struct MemoryTable {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// Rows before each batch; one entry more than there are batches.
    starts: Vec<u64>,
    row_ids: Option<Vec<u64>>,
    /// Ids and their offsets, sorted on first use.
    by_id: OnceLock<Vec<(u64, u64)>>,
}

impl MemoryTable {
    /// Returns a table of `batches`, which all have this schema.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are row ids, but not one per row.
    pub fn new(
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
        row_ids: Option<Vec<u64>>,
    ) -> Result<Self> {
        let mut starts = Vec::with_capacity(batches.len() + 1);
        let mut rows = 0;
        for batch in &batches {
            starts.push(rows);
            rows += batch.num_rows() as u64;
        }
        starts.push(rows);
        if let Some(ids) = row_ids.as_ref().filter(|ids| ids.len() as u64 != rows) {
            return Err(Error::invalid(
                format!("{} row ids for {rows} rows", ids.len()),
                "one each",
            ));
        }
        Ok(Self { schema, batches, starts, row_ids, by_id: OnceLock::new() })
    }

    /// Returns the number of rows.
    pub fn num_rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Returns the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the record batches.
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// Returns the ids that came with the rows.
    pub fn known_row_ids(&self) -> Option<&[u64]> {
        self.row_ids.as_deref()
    }

    /// Returns the id of each row offset: the offset itself where none came with the rows.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn row_ids(&self, offsets: &[u64]) -> Result<Vec<u64>> {
        self.check(offsets)?;
        let Some(ids) = &self.row_ids else {
            return Ok(offsets.to_vec());
        };
        Ok(offsets.iter().map(|&offset| ids[usize::try_from(offset).unwrap_or(0)]).collect())
    }

    /// Returns the row offset of each id, or `None` where no row has it.
    pub fn offsets(&self, ids: &[u64]) -> Vec<Option<u64>> {
        let Some(known) = &self.row_ids else {
            return ids.iter().map(|&id| (id < self.num_rows()).then_some(id)).collect();
        };
        let by_id = self.by_id.get_or_init(|| {
            let mut by_id: Vec<(u64, u64)> = known.iter().copied().zip(0..).collect();
            by_id.sort_unstable();
            by_id
        });
        let offset = |id: &u64| {
            let at = by_id.binary_search_by_key(id, |&(id, _)| id).ok()?;
            Some(by_id[at].1)
        };
        ids.iter().map(offset).collect()
    }

    fn check(&self, offsets: &[u64]) -> Result<()> {
        let num_rows = self.num_rows();
        match offsets.iter().find(|&&offset| offset >= num_rows) {
            Some(&offset) => Err(Error::OutOfRange { offset, num_rows }),
            None => Ok(()),
        }
    }

    /// Returns the batch and the row in it of each offset.
    fn locate(&self, offsets: &[u64]) -> Result<Vec<(usize, usize)>> {
        self.check(offsets)?;
        let mut hint = 0;
        let place = |&offset| {
            let holds = self.starts[hint] <= offset && offset < self.starts[hint + 1];
            if !holds {
                hint = self.starts.partition_point(|&start| start <= offset) - 1;
            }
            (hint, usize::try_from(offset - self.starts[hint]).unwrap_or(0))
        };
        Ok(offsets.iter().map(place).collect())
    }
}

/// Reads a projection of a [`MemoryTable`].
#[derive(Debug)]
pub(super) struct Memory {
    table: Arc<MemoryTable>,
    projection: Projection,
    schema: SchemaRef,
    /// The columns that are read, of each batch.
    blocks: Vec<RecordBatch>,
}

impl Memory {
    pub(super) fn new(table: &Arc<MemoryTable>, projection: Projection) -> Result<Self> {
        let known = by_name(&table.schema);
        let mut columns: Vec<usize> = Vec::new();
        for path in projection.paths() {
            let missing = || Error::bug(format!("column {} is not there", path[0]));
            columns.push(*known.get(path[0].as_str()).ok_or_else(missing)?);
        }
        // Paths are sorted: those into one column follow each other.
        columns.dedup();
        let project = |error: ArrowError| Error::bug("columns of a batch").caused_by(&error);
        let schema = Arc::new(table.schema.project(&columns).map_err(project)?);
        let keep = |whole: &RecordBatch| {
            let kept = columns.iter().map(|&at| Arc::clone(whole.column(at))).collect();
            batch(Arc::clone(&schema), kept, whole.num_rows())
        };
        let blocks = table.batches.iter().map(keep).collect::<Result<_>>()?;
        Ok(Self { table: Arc::clone(table), projection, schema, blocks })
    }

    pub(super) fn take_window(&self, offsets: &[u64], cuts: Cuts<'_>) -> Result<Vec<Gathered>> {
        let system = |source: &Source, offsets: &[u64]| self.system(source, offsets);
        if let Some(slices) = self.consecutive(offsets)? {
            let blocks =
                Blocks { schema: &self.schema, rows: &slices, long: &[], are_owned: false };
            return cut(&blocks, Rows::AsRead, offsets, cuts, &self.projection, system);
        }
        let rows = Rows::Picked(self.table.locate(offsets)?);
        let blocks =
            Blocks { schema: &self.schema, rows: &self.blocks, long: &[], are_owned: false };
        cut(&blocks, rows, offsets, cuts, &self.projection, system)
    }

    pub(super) fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Returns the ids of rows.
    pub(super) fn system(&self, source: &Source, offsets: &[u64]) -> Result<Vec<u64>> {
        match source {
            Source::RowId | Source::RowAddress => self.table.row_ids(offsets),
            other => Err(Error::bug(format!("{other:?} is not kept by the table"))),
        }
    }

    /// Returns the slices that hold `offsets` if these are consecutive.
    fn consecutive(&self, offsets: &[u64]) -> Result<Option<Vec<RecordBatch>>> {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else {
            return Ok(Some(Vec::new()));
        };
        if !offsets.is_sorted_by(|a, b| a.checked_add(1) == Some(*b)) {
            return Ok(None);
        }
        Ok(Some(self.run(first..last + 1)?))
    }

    /// Returns the slices that hold a run of offsets.
    fn run(&self, offsets: Range<u64>) -> Result<Vec<RecordBatch>> {
        if !offsets.is_empty() {
            self.table.check(&[offsets.end - 1])?;
        }
        let slice = |(block, range): (&RecordBatch, &[u64])| {
            let start = offsets.start.clamp(range[0], range[1]);
            let end = offsets.end.clamp(range[0], range[1]);
            let len = usize::try_from(end - start).unwrap_or(0);
            (len > 0).then(|| block.slice(usize::try_from(start - range[0]).unwrap_or(0), len))
        };
        Ok(self.blocks.iter().zip(self.table.starts.windows(2)).filter_map(slice).collect())
    }
}

impl Scan for Memory {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn num_rows(&self) -> u64 {
        self.table.num_rows()
    }

    fn scan(&self, offsets: Range<u64>, _keeps: bool) -> Result<Vec<RecordBatch>> {
        self.run(offsets)
    }

    fn weights(&self) -> Result<Weights> {
        let run = |block: &RecordBatch| {
            let rows = block.num_rows() as u64;
            (rows, (num_bytes(block) as u64).div_ceil(rows.max(1)))
        };
        Ok(Weights::new(self.blocks.iter().map(run)))
    }
}
