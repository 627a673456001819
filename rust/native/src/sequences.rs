//! `lanceloader_core::sequences` as immutable classes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::ArrayRef;
use lanceloader_core::order::Bitmap;
use lanceloader_core::sequences::{
    self, Budget, Cursor, Long, Oversized, Packed, Placement, Settings, Step, reads,
};
use lanceloader_core::turns::Turns;
use lanceloader_core::{Error, Result};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::types::{PyAnyMethods, PyBytes, PyIterator, PyTuple};
use pyo3::{Bound, IntoPyObject, Py, PyAny, PyRef, PyResult, Python, pyclass, pymethods};

use crate::classes::Order;
use crate::enter::enter;
use crate::handoff::{Batch, columns_of};
use crate::share::Share;

/// Returns the first column of a batch of the core, or of Arrow data.
fn column_of(py: Python<'_>, batch: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let column = match batch.cast::<Batch>() {
        Ok(batch) => batch.get().column(0),
        Err(_) => columns_of(py, batch)?.0.into_iter().next(),
    };
    column.ok_or_else(|| PyValueError::new_err("a batch without columns: wanted one"))
}

/// How many tokens each row has.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Lengths(Arc<sequences::Lengths>);

#[pymethods]
impl Lengths {
    /// Returns the inverse of `__reduce__`.
    #[staticmethod]
    #[pyo3(signature = (rows, lengths))]
    fn from_parts(py: Python<'_>, rows: Option<&[u8]>, lengths: &[u8]) -> PyResult<Self> {
        enter(py, || {
            let rows = rows.map(Bitmap::from_bytes).transpose()?;
            let lengths = lengths.as_chunks().0.iter().map(|&length| u32::from_le_bytes(length));
            Ok(Self(Arc::new(sequences::Lengths::from_parts(rows, lengths.collect())?)))
        })
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (rows, lengths) = enter(py, || {
            let (rows, lengths) = self.0.parts();
            let lengths: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
            Ok((rows.map(Bitmap::to_bytes), lengths))
        })?;
        let rows = rows.map(|rows| PyBytes::new(py, &rows));
        let make = py.get_type::<Self>().getattr("from_parts")?;
        (make, (rows, PyBytes::new(py, &lengths))).into_pyobject(py)
    }

    /// Returns the bytes of memory they take.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }
}

/// Collects the lengths of the rows of an order, from lists or from numbers.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct LengthsBuilder(Mutex<Option<sequences::LengthsBuilder>>);

impl LengthsBuilder {
    fn lock(&self) -> Result<MutexGuard<'_, Option<sequences::LengthsBuilder>>> {
        let builder = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if builder.is_none() {
            return Err(Error::invalid("a builder of lengths that is finished", "a new builder"));
        }
        Ok(builder)
    }
}

#[pymethods]
impl LengthsBuilder {
    #[new]
    fn new(py: Python<'_>, order: &Order) -> PyResult<Self> {
        let builder = enter(py, || sequences::LengthsBuilder::new(&order.0))?;
        Ok(Self(Mutex::new(Some(builder))))
    }

    /// Returns the rows whose lengths are wanted, ascending.
    fn rows(&self, py: Python<'_>) -> PyResult<Order> {
        enter(py, || Ok(Order(self.lock()?.as_ref().expect("checked").rows().clone())))
    }

    /// Takes the first column of the next rows.
    fn push(&self, py: Python<'_>, batch: Bound<'_, PyAny>) -> PyResult<()> {
        let column = column_of(py, &batch)?;
        enter(py, || self.lock()?.as_mut().expect("checked").push(&column))
    }

    /// Returns the lengths; the builder is of no use afterwards.
    fn finish(&self, py: Python<'_>) -> PyResult<Lengths> {
        enter(py, || {
            let lengths = self.lock()?.take().expect("checked").finish()?;
            Ok(Lengths(Arc::new(lengths)))
        })
    }
}

/// Which tokens stand in which block of an epoch.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Packing(Arc<sequences::Packing>);

#[pymethods]
impl Packing {
    #[new]
    #[pyo3(signature = (order, lengths, *, length, strategy, long, has_eos, window))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        py: Python<'_>,
        order: &Order,
        lengths: &Lengths,
        length: u32,
        strategy: &str,
        long: &str,
        has_eos: bool,
        window: u32,
    ) -> PyResult<Self> {
        let placement = match strategy {
            "concat" => Placement::Concat,
            "first_fit" => Placement::FirstFit,
            "best_fit" => Placement::BestFit,
            other => {
                return Err(PyValueError::new_err(format!(
                    "strategy {other:?}: wanted \"concat\", \"first_fit\" or \"best_fit\""
                )));
            }
        };
        let long = match long {
            "split" => Long::Split,
            "truncate" => Long::Truncate,
            "drop" => Long::Drop,
            "error" => Long::Error,
            other => {
                return Err(PyValueError::new_err(format!(
                    "long {other:?}: wanted \"split\", \"truncate\", \"drop\" or \"error\""
                )));
            }
        };
        let settings = Settings { block: length, placement, long, has_eos, window };
        let packing = enter(py, || {
            sequences::Packing::new(order.0.clone(), Arc::clone(&lengths.0), settings)
        })?;
        Ok(Self(Arc::new(packing)))
    }

    /// Returns the number of blocks.
    #[getter]
    fn num_blocks(&self) -> u64 {
        self.0.num_blocks()
    }

    /// Returns four counts: documents with a token in a block; tokens in blocks; documents cut short or left
    /// out for their length; tokens that these lost.
    #[getter]
    fn counts(&self) -> (u64, u64, u64, u64) {
        let counts = self.0.counts();
        (counts.documents, counts.tokens, counts.long_documents, counts.lost_tokens)
    }

    /// Returns the bytes of memory it takes, without the lengths.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    /// Returns `(position, start, length)` of each piece of blocks `start..stop`.
    fn blocks(&self, py: Python<'_>, start: u64, stop: u64) -> PyResult<Vec<Vec<(u64, u32, u32)>>> {
        enter(py, || {
            let mut packed = Packed::default();
            Cursor::new(Arc::clone(&self.0)).blocks(start..stop, &mut packed)?;
            let mut pieces =
                packed.pieces.iter().map(|piece| (piece.position, piece.start, piece.len));
            let mut before = 0;
            let block = |&end: &usize| {
                let block = pieces.by_ref().take(end - before).collect();
                before = end;
                block
            };
            Ok(packed.ends.iter().map(block).collect())
        })
    }

    /// Returns the rows that the blocks of a share are made of: orders, to be read one after
    /// another.
    fn reads(&self, py: Python<'_>, share: Share) -> PyResult<Vec<Order>> {
        let orders = enter(py, || reads(&self.0, &share.into()))?;
        Ok(orders.into_iter().map(Order).collect())
    }

    /// Returns the batches of a share, made of batches of those rows with their tokens as first
    /// column.
    #[pyo3(signature = (share, rows, *, pad_id, eos_id))]
    fn fill(
        &self,
        py: Python<'_>,
        share: Share,
        rows: Bound<'_, PyIterator>,
        pad_id: i64,
        eos_id: i64,
    ) -> PyResult<Filler> {
        let filler = enter(py, || {
            sequences::Filler::new(Arc::clone(&self.0), share.into(), pad_id, eos_id)
        })?;
        Ok(Filler { blocks: Turns::new(filler), rows: rows.unbind() })
    }
}

/// The batches of blocks of a share.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Filler {
    blocks: Turns<sequences::Filler>,
    rows: Py<PyIterator>,
}

#[pymethods]
impl Filler {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// Returns the next batch; raises `StopIteration` at the end.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        // A turn is only waited for without the interpreter, so whoever has it can enter Python.
        let next = |filler: &mut sequences::Filler| loop {
            match filler.next_batch()? {
                Step::Batch(batch) => return Ok(Ok(Some(Batch::owned(batch)))),
                Step::End => return Ok(Ok(None)),
                Step::Rows => match Python::attach(|py| self.next_rows(py)) {
                    Ok(column) => filler.push(&column)?,
                    Err(error) => return Ok(Err(error)),
                },
            }
        };
        enter(py, || self.blocks.take(next))?
    }
}

impl Filler {
    fn next_rows(&self, py: Python<'_>) -> PyResult<ArrayRef> {
        match self.rows.bind(py).clone().next() {
            Some(batch) => column_of(py, &batch?),
            None => Err(PyRuntimeError::new_err("rows ended before the blocks that they make up")),
        }
    }
}

/// The batches of an epoch under a token budget.
#[pyclass(frozen, module = "lanceloader._native")]
pub(crate) struct Buckets(sequences::Buckets);

#[pymethods]
impl Buckets {
    #[new]
    #[pyo3(signature = (order, lengths, *, tokens, padded, most_rows, window, long))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        py: Python<'_>,
        order: &Order,
        lengths: &Lengths,
        tokens: u64,
        padded: bool,
        most_rows: Option<u64>,
        window: u32,
        long: &str,
    ) -> PyResult<Self> {
        let oversized = match long {
            "alone" => Oversized::Alone,
            "error" => Oversized::Error,
            other => {
                return Err(PyValueError::new_err(format!(
                    "long {other:?}: wanted \"alone\" or \"error\""
                )));
            }
        };
        let most_rows = most_rows.unwrap_or(u64::MAX);
        let budget = Budget { tokens, padded, most_rows, window, oversized };
        let lengths = Arc::clone(&lengths.0);
        let buckets = enter(py, || sequences::Buckets::new(order.0.clone(), lengths, budget))?;
        Ok(Self(buckets))
    }

    /// Returns the number of batches.
    #[getter]
    fn num_batches(&self) -> u64 {
        self.0.num_batches()
    }

    /// Returns three counts: tokens of all rows; the same with padding; batches of one row beyond the budget.
    #[getter]
    fn counts(&self) -> (u64, u64, u64) {
        let counts = self.0.counts();
        (counts.tokens, counts.padded_tokens, counts.oversized)
    }

    /// Returns the bytes of memory it takes, without the lengths.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    /// Returns the rows of a share, whose units are batches, and where each batch ends among them.
    fn share(&self, py: Python<'_>, share: Share) -> PyResult<(Order, Batch)> {
        let (order, ends) = enter(py, || self.0.share(&share.into()))?;
        Ok((Order(order), Batch::of_numbers("end", ends)?))
    }
}
