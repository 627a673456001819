//! `lanceloader_core::table` and `read` as immutable classes.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{RecordBatch, RecordBatchReader};
use arrow_schema::SchemaRef;
use lanceloader_core::ahead::Ahead;
use lanceloader_core::loader::Batches;
use lanceloader_core::order::{self, Bitmap};
use lanceloader_core::projection::Projection;
use lanceloader_core::read::{self, MemoryTable};
use lanceloader_core::table::{self, Address, StorageOptions, Version};
use lanceloader_core::{Error, cache, hash, loader};
use pyo3::exceptions::PyValueError;
use pyo3::types::{PyAnyMethods, PyCapsule};
use pyo3::{Bound, PyAny, PyResult, Python, pyclass, pyfunction, pymethods};

use crate::arguments::{Numbers, strategy_of};
use crate::classes::Order;
use crate::enter::enter;
use crate::handoff::{
    Batch, batch_of, collect, columns_of, schema_capsule, stream_capsule, stream_of,
};
use crate::loader::Loader;
use crate::stats::{Choice, ReadStats, name_of};

/// A table at one version: a Lance table, or Arrow data in memory.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Table(Kind);

enum Kind {
    Lance(Arc<table::Table>),
    Memory(Arc<MemoryTable>),
}

#[pymethods]
impl Table {
    /// Opens a Lance table: its latest version, or the one that `version` or `tag` names.
    #[staticmethod]
    #[pyo3(signature = (uri, *, version=None, branch=None, tag=None, storage_options=None))]
    fn open(
        py: Python<'_>,
        uri: String,
        version: Option<u64>,
        branch: Option<String>,
        tag: Option<String>,
        storage_options: Option<StorageOptions>,
    ) -> PyResult<Self> {
        let version = match (version, tag) {
            (None, None) => Version::Latest,
            (Some(version), None) => Version::Number(version),
            (None, Some(tag)) => Version::Tag(tag),
            (Some(_), Some(_)) => {
                return Err(PyValueError::new_err("version and tag: wanted at most one of them"));
            }
        };
        let options = storage_options.unwrap_or_default();
        let address = Address { uri, branch, version, options };
        let table = enter(py, || table::Table::open(address))?;
        Ok(Self(Kind::Lance(Arc::new(table))))
    }

    /// Takes Arrow data over, without a copy: any object with `__arrow_c_stream__`.
    ///
    /// With `row_ids`, the column of that name is not part of the table but the ids of its rows.
    #[staticmethod]
    #[pyo3(signature = (data, *, row_ids=None))]
    fn from_arrow(py: Python<'_>, data: Bound<'_, PyAny>, row_ids: Option<&str>) -> PyResult<Self> {
        let stream = stream_of(&data)?;
        let table = enter(py, || memory_table(stream, row_ids))?;
        Ok(Self(Kind::Memory(Arc::new(table))))
    }

    /// Returns the path or URI it was opened at, or `None` for data in memory.
    #[getter]
    fn uri(&self) -> Option<&str> {
        self.lance().map(|table| table.address().uri.as_str())
    }

    /// Returns the version it is pinned to, or `None` for data in memory.
    #[getter]
    fn version(&self) -> Option<u64> {
        self.lance().map(table::Table::version)
    }

    /// Returns the branch, or `None` on the main line.
    #[getter]
    fn branch(&self) -> Option<&str> {
        self.lance().and_then(|table| table.address().branch.as_deref())
    }

    /// Returns the number of live rows.
    #[getter]
    fn num_rows(&self) -> u64 {
        match &self.0 {
            Kind::Lance(table) => table.layout().num_rows(),
            Kind::Memory(table) => table.num_rows(),
        }
    }

    /// Returns a hash that only tables with the same rows and columns have, or `None` for data in
    /// memory.
    #[getter]
    fn identity(&self) -> Option<String> {
        match &self.0 {
            Kind::Lance(table) => Some(table.identity()),
            Kind::Memory(_) => None,
        }
    }

    /// Returns the number of fragments, or of batches in memory.
    #[getter]
    fn num_fragments(&self) -> usize {
        match &self.0 {
            Kind::Lance(table) => table.layout().fragments().len(),
            Kind::Memory(table) => table.batches().len(),
        }
    }

    /// Returns the bytes of the data files, or `None` if they are not known.
    #[getter]
    fn data_bytes(&self) -> Option<u64> {
        match &self.0 {
            Kind::Lance(table) => table.data_bytes(),
            Kind::Memory(table) => {
                // Of the rows themselves: batches may be slices of the same buffers.
                let columns = table.batches().iter().flat_map(RecordBatch::columns);
                columns
                    .map(|column| column.to_data().get_slice_memory_size().ok())
                    .try_fold(0, |sum, bytes| Some(sum + bytes? as u64))
            }
        }
    }

    /// Returns the names of the columns, in order. The schema is not made for them.
    #[getter]
    fn column_names(&self) -> Vec<String> {
        match &self.0 {
            Kind::Lance(table) => table.column_names().map(str::to_string).collect(),
            Kind::Memory(table) => {
                table.schema().fields().iter().map(|field| field.name().clone()).collect()
            }
        }
    }

    /// Returns the schema, by the Arrow `PyCapsule` interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        schema_capsule(py, &self.schema())
    }

    /// Exports data in memory by the Arrow `PyCapsule` interface. A requested schema is ignored.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        match &self.0 {
            Kind::Memory(table) => stream_capsule(py, table.schema(), table.batches()),
            Kind::Lance(_) => Err(PyValueError::new_err(
                "a Lance table has no stream of rows: read it with a reader",
            )),
        }
    }

    /// Returns the row ids that came with data in memory.
    #[getter]
    fn known_row_ids(&self) -> PyResult<Option<Batch>> {
        let Kind::Memory(table) = &self.0 else {
            return Ok(None);
        };
        table.known_row_ids().map(|ids| Batch::of_numbers("row_id", ids.to_vec())).transpose()
    }

    /// Returns a reader of `columns`, pairs of output name and source name.
    #[pyo3(signature = (columns, *, read=None, memory_limit=None, num_readers=1, cache_folder=None,
        cache_limit=None, scratch_folder=None, threads=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn reader(
        &self,
        py: Python<'_>,
        columns: Vec<(String, String)>,
        read: Option<&str>,
        memory_limit: Option<u64>,
        num_readers: u64,
        cache_folder: Option<PathBuf>,
        cache_limit: Option<u64>,
        scratch_folder: Option<PathBuf>,
        threads: Option<usize>,
    ) -> PyResult<Reader> {
        let strategy = strategy_of(read)?;
        let options = read::Options {
            strategy,
            memory_limit,
            num_readers,
            cache_folder,
            cache_limit,
            scratch_folder,
            threads,
        };
        enter(py, || {
            let columns: Vec<_> =
                columns.iter().map(|(name, source)| (name.as_str(), source.as_str())).collect();
            Ok(Reader::new(match &self.0 {
                Kind::Lance(table) => {
                    let projection = table.projection(&columns)?;
                    read::Reader::of_table(Arc::clone(table), projection, options)?
                }
                Kind::Memory(table) => {
                    let projection = Projection::new(table.schema(), columns)?;
                    read::Reader::of_memory(table, projection, options)?
                }
            }))
        })
    }

    /// Returns the row ids at positions `start..stop` of an order.
    fn row_ids(&self, py: Python<'_>, order: &Order, start: u64, stop: u64) -> PyResult<Batch> {
        let ids = enter(py, || {
            let offsets = order.0.offsets(start..stop)?;
            match &self.0 {
                Kind::Lance(table) => table.row_ids(&offsets),
                Kind::Memory(table) => table.row_ids(&offsets),
            }
        })?;
        Batch::of_numbers("row_id", ids)
    }

    /// Returns the rows with these ids, in this order; an id that no row has is an error.
    fn order_of_row_ids(&self, py: Python<'_>, row_ids: Numbers) -> PyResult<Order> {
        enter(py, || {
            let offsets = self.offsets(&row_ids.0)?;
            let missing = offsets.iter().position(Option::is_none);
            if let Some(at) = missing {
                let id = row_ids.0[at];
                return Err(Error::invalid(format!("row id {id}"), "the id of a row of the table"));
            }
            Ok(Order(order::Order::listed(offsets.into_iter().flatten().collect())))
        })
    }

    /// Returns the rows whose ids are in `batches` of one `uint64` column, ascending by offset.
    ///
    /// Ids that no row has are left out: a filter may have been answered by an index that is behind.
    /// Batches come by iteration, because an error passes through that as it was raised, and through
    /// Arrow's C interface as a text.
    fn set_of_row_ids(&self, py: Python<'_>, batches: &Bound<'_, PyAny>) -> PyResult<Order> {
        let mut offsets = Vec::new();
        for batch in batches.try_iter()? {
            let batch = batch_of(py, &batch?)?.batch;
            let ids = batch.columns().first().and_then(|ids| ids.as_primitive_opt::<UInt64Type>());
            let Some(ids) = ids else {
                let schema = batch.schema();
                return Err(PyValueError::new_err(format!(
                    "row ids as {schema}: wanted one column of uint64"
                )));
            };
            offsets.extend(enter(py, || self.offsets(ids.values()))?.into_iter().flatten());
        }
        enter(py, || Ok(Order(order::Order::bitmap(Bitmap::from_offsets(offsets)))))
    }
}

impl Table {
    fn lance(&self) -> Option<&table::Table> {
        match &self.0 {
            Kind::Lance(table) => Some(table),
            Kind::Memory(_) => None,
        }
    }

    fn schema(&self) -> SchemaRef {
        match &self.0 {
            Kind::Lance(table) => table.schema(),
            Kind::Memory(table) => Arc::clone(table.schema()),
        }
    }

    fn offsets(&self, ids: &[u64]) -> Result<Vec<Option<u64>>, Error> {
        match &self.0 {
            Kind::Lance(table) => table.offsets(ids),
            Kind::Memory(table) => Ok(table.offsets(ids)),
        }
    }
}

fn memory_table(
    stream: impl RecordBatchReader,
    row_ids: Option<&str>,
) -> Result<MemoryTable, Error> {
    let fail = |error: &arrow_schema::ArrowError| Error::arrow("Arrow data", error);
    let (mut schema, mut batches) = collect(stream)?;
    let mut ids = None;
    if let Some(name) = row_ids {
        let at = schema.index_of(name).map_err(|error| fail(&error))?;
        let mut found = Vec::new();
        for batch in &mut batches {
            let column = batch.remove_column(at);
            let column = column.as_primitive_opt::<UInt64Type>().ok_or_else(|| {
                Error::invalid(format!("row ids of type {}", column.data_type()), "uint64")
            })?;
            found.extend_from_slice(column.values());
        }
        let mut fields = arrow_schema::SchemaBuilder::from(schema.as_ref());
        fields.remove(at);
        schema = Arc::new(fields.finish());
        ids = Some(found);
    }
    MemoryTable::new(schema, batches, ids)
}

/// Reads chosen columns of a table, rows by position in an order.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Reader {
    reader: read::Reader,
    ahead: Ahead,
}

impl Reader {
    fn new(reader: read::Reader) -> Self {
        Self { reader, ahead: Ahead::default() }
    }
}

#[pymethods]
impl Reader {
    /// Returns the schema of the batches, by the Arrow `PyCapsule` interface.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        schema_capsule(py, &self.reader.schema())
    }

    /// Returns the same reader, whose ids, addresses and offsets of rows are signed numbers.
    fn as_signed(&self) -> Self {
        Self::new(self.reader.as_signed())
    }

    /// Returns the same reader, whose batches are one column of vectors with the values of all
    /// columns.
    fn as_matrix(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(Self::new(enter(py, || self.reader.as_matrix())?))
    }

    /// Returns whether rows come from another machine. No request is made.
    #[getter]
    fn is_remote(&self, py: Python<'_>) -> PyResult<bool> {
        enter(py, || Ok(self.reader.is_remote()))
    }

    /// Returns how rows in random order are read, and why.
    fn choice(&self, py: Python<'_>) -> PyResult<Choice> {
        Ok(enter(py, || self.reader.choice())?.as_ref().into())
    }

    /// Returns how a loader reads an order.
    fn strategy(&self, py: Python<'_>, order: &Order) -> PyResult<&'static str> {
        let strategy = enter(py, || self.reader.strategy(order.0.len(), order.0.is_ascending()))?;
        Ok(name_of(strategy))
    }

    /// Returns the bytes that files hold of each column that is read, of all rows.
    fn stored_bytes(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        enter(py, || self.reader.stored_bytes())
    }

    /// Returns what was read so far.
    fn stats(&self, py: Python<'_>) -> PyResult<ReadStats> {
        Ok(enter(py, || Ok(self.reader.stats()))?.into())
    }

    /// Returns the rows at `positions` of `order`, in that order, repeats included.
    fn take(&self, py: Python<'_>, order: &Order, positions: Numbers) -> PyResult<Batch> {
        let mut positions = positions.0;
        let rows = enter(py, || {
            if let Some(rows) = self.ahead.take(&self.reader, &order.0, &positions)? {
                return Ok(rows);
            }
            order.0.resolve(&mut positions)?;
            self.reader.take(&positions)
        })?;
        Ok(Batch::new(rows))
    }

    /// Returns the rows at positions `start..stop` of `order`.
    fn read(&self, py: Python<'_>, order: &Order, start: u64, stop: u64) -> PyResult<Batch> {
        let rows = enter(py, || self.reader.take(&order.0.offsets(start..stop)?))?;
        Ok(Batch::new(rows))
    }

    /// Returns all rows of `order` in batches, read ahead by threads; without a batch size, as they
    /// are read. `following` is the order that will probably be loaded afterwards.
    #[pyo3(signature = (order, batch_size, drop_last, following=None, ends=None))]
    fn load(
        &self,
        py: Python<'_>,
        order: &Order,
        batch_size: Option<usize>,
        drop_last: bool,
        following: Option<&Order>,
        ends: Option<Numbers>,
    ) -> PyResult<Loader> {
        let batches = match (batch_size, ends) {
            (Some(size), None) => Batches::Every(size),
            (None, None) => Batches::AsRead,
            (None, Some(ends)) => Batches::Ends(ends.0.into()),
            (Some(_), Some(_)) => {
                return Err(PyValueError::new_err(
                    "batches end by batch_size or by ends, not both",
                ));
            }
        };
        let loader = enter(py, || {
            let loader =
                loader::Loader::new(self.reader.clone(), order.0.clone(), batches, drop_last)?;
            Ok(match following {
                Some(next) => loader.followed_by(next.0.clone()),
                None => loader,
            })
        })?;
        Ok(Loader::new(loader))
    }
}

/// Removes copies of files that only older versions of tables used from a cache folder, or only counts
/// them; returns how many, and their bytes.
#[pyfunction]
pub(crate) fn prune(py: Python<'_>, folder: PathBuf, dry_run: bool) -> PyResult<(u64, u64)> {
    let pruned = enter(py, || cache::prune(&folder, dry_run))?;
    Ok((pruned.files, pruned.bytes))
}

/// Returns the branch that a serialized manifest belongs to, or `None` for the main line.
#[pyfunction]
pub(crate) fn branch_of_manifest(py: Python<'_>, manifest: &[u8]) -> PyResult<Option<String>> {
    enter(py, || table::branch_of_manifest(manifest))
}

/// Returns the split that LanceDB's `split_hash` puts each row of `columns` in; null if it discards
/// the row.
#[pyfunction]
pub(crate) fn lancedb_hash_splits(
    py: Python<'_>,
    columns: Bound<'_, PyAny>,
    weights: Vec<u64>,
    discard_weight: u64,
) -> PyResult<Batch> {
    let (columns, _) = columns_of(py, &columns)?;
    let splits = enter(py, || hash::lancedb_splits(&columns, &weights, discard_weight))?;
    Batch::of_numbers("split_id", splits)
}

/// Returns a hash of each row of `columns` that never changes.
#[pyfunction]
pub(crate) fn stable_hashes(
    py: Python<'_>,
    columns: Bound<'_, PyAny>,
    seed: u64,
) -> PyResult<Batch> {
    let stream = stream_of(&columns)?;
    let hashes = enter(py, || {
        let (_, batches) = collect(stream)?;
        let mut hashes = Vec::new();
        for batch in batches {
            hashes.extend(hash::stable_hashes(batch.columns(), batch.num_rows(), seed)?);
        }
        Ok(hashes)
    })?;
    Batch::of_numbers("hash", hashes)
}
