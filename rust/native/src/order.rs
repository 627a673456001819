//! `lanceloader_core::order` as an immutable class.

use std::sync::Arc;

use lanceloader_core::order::{self, Bitmap, Map, Purpose, Weighted, split};
use pyo3::exceptions::PyValueError;
use pyo3::types::{PyAnyMethods, PyTuple};
use pyo3::{Bound, IntoPyObject, PyRef, PyResult, Python, pyfunction, pymethods};

use crate::arguments::{Numbers, Weights, tail_of};
use crate::classes::Order;
use crate::enter::enter;
use crate::handoff::Batch;
use crate::parts::{Part, part};

#[pymethods]
impl Order {
    /// Returns the offsets `0..num_rows`.
    #[staticmethod]
    fn all(num_rows: u64) -> Self {
        Self(order::Order::all(num_rows))
    }

    /// Creates an order of explicit offsets, repeats included.
    #[staticmethod]
    fn listed(py: Python<'_>, offsets: Numbers) -> PyResult<Self> {
        enter(py, || Ok(Self(order::Order::listed(offsets.0))))
    }

    /// Returns the offsets in ascending order, each once.
    #[staticmethod]
    fn set(py: Python<'_>, offsets: Numbers) -> PyResult<Self> {
        enter(py, || Ok(Self(order::Order::bitmap(Bitmap::from_offsets(offsets.0)))))
    }

    /// Orders laid end to end.
    #[staticmethod]
    fn concat(py: Python<'_>, orders: Vec<PyRef<'_, Self>>) -> PyResult<Self> {
        let orders = orders.iter().map(|order| order.0.clone()).collect();
        enter(py, || Ok(Self(order::Order::concat(orders)?)))
    }

    /// Returns the inverse of `__reduce__`.
    #[staticmethod]
    fn from_parts(py: Python<'_>, length: u64, parts: Vec<Part>) -> PyResult<Self> {
        let maps = parts.into_iter().map(|part| part.0).collect();
        enter(py, || Ok(Self(order::Order::from_maps(length, maps)?)))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let make = py.get_type::<Self>().getattr("from_parts")?;
        let parts = self.0.maps().iter().map(|map| part(py, map));
        let parts = parts.collect::<PyResult<Vec<_>>>()?;
        (make, (self.0.len(), parts)).into_pyobject(py)
    }

    /// Returns the number of positions, also beyond what `len` can say.
    #[getter]
    fn num_rows(&self) -> u64 {
        self.0.len()
    }

    fn __len__(&self) -> PyResult<usize> {
        usize::try_from(self.0.len()).map_err(|_| {
            PyValueError::new_err(format!(
                "an order of {} rows is too long for len(): use num_rows",
                self.0.len()
            ))
        })
    }

    fn __repr__(&self) -> String {
        format!("<Order of {}>", self.0)
    }

    /// Returns the bytes of memory it takes.
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    /// Returns whether offsets ascend with position.
    #[getter]
    fn is_ascending(&self) -> bool {
        self.0.is_ascending()
    }

    /// Returns `length` positions from `start` on, `step` apart; `step` may be negative.
    #[pyo3(signature = (start, length, step=1))]
    fn slice(&self, py: Python<'_>, start: u64, length: u64, step: i64) -> PyResult<Self> {
        enter(py, || {
            Ok(Self(match step {
                1 => self.0.slice(start, length)?,
                step => self.0.stepped(start, step, length)?,
            }))
        })
    }

    /// Runs of `block` positions, `stride` apart, `length` positions in all.
    fn blocks(
        &self,
        py: Python<'_>,
        start: u64,
        block: u64,
        stride: u64,
        length: u64,
    ) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.blocks(start, block, stride, length)?)))
    }

    /// Returns the same rows, shuffled; `clump` neighbours stay together.
    #[pyo3(signature = (seed, epoch=0, clump=1))]
    fn shuffled(&self, py: Python<'_>, seed: u64, epoch: u64, clump: u64) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.shuffled(seed, epoch, clump)?)))
    }

    /// Returns the same rows, shuffled by blocks of neighbours and windows of blocks.
    fn windowed(
        &self,
        py: Python<'_>,
        seed: u64,
        epoch: u64,
        block: u64,
        window_blocks: u64,
    ) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.windowed(seed, epoch, block, window_blocks)?)))
    }

    /// Returns the same rows, shuffled for splits: independent of `shuffled` with the same seed.
    #[pyo3(signature = (seed, clump=1))]
    fn shuffled_for_split(&self, py: Python<'_>, seed: u64, clump: u64) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.shuffled_for(Purpose::Split, seed, 0, clump)?)))
    }

    /// Returns the same rows, shuffled for samples: independent of the others with the same seed.
    #[pyo3(signature = (seed, epoch=0))]
    fn shuffled_for_sample(&self, py: Python<'_>, seed: u64, epoch: u64) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.shuffled_for(Purpose::Sample, seed, epoch, 1)?)))
    }

    /// Returns the order with its last shuffle made anew for another epoch.
    fn with_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.with_epoch(epoch)?)))
    }

    /// Returns the order `times` times over.
    fn repeat(&self, py: Python<'_>, times: u64) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.repeat(times)?)))
    }

    /// Returns what reader `rank` of `world_size` gets.
    fn shard(&self, py: Python<'_>, rank: u64, world_size: u64, tail: &str) -> PyResult<Self> {
        let tail = tail_of(tail)?;
        enter(py, || Ok(Self(order::shard(&self.0, rank, world_size, tail)?)))
    }

    /// Returns the positions that `positions` holds, in that order.
    fn pick(&self, py: Python<'_>, positions: &Self) -> PyResult<Self> {
        enter(py, || Ok(Self(self.0.pick(&positions.0)?)))
    }

    /// Returns the positions whose offset is in `rows`, which must ascend.
    fn filtered(&self, py: Python<'_>, rows: &Self) -> PyResult<Self> {
        enter(py, || {
            let rows = match rows.0.maps() {
                [Map::Bitmap(rows)] => Arc::clone(rows),
                _ => Arc::new(Bitmap::from_offsets(rows.0.offsets(0..rows.0.len())?)),
            };
            Ok(Self(self.0.filtered(&rows)?))
        })
    }

    /// Returns a hash of what it serves, the same on every machine.
    fn fingerprint(&self, py: Python<'_>) -> PyResult<u64> {
        enter(py, || self.0.fingerprint())
    }

    /// Returns the offset at a position.
    fn at(&self, py: Python<'_>, position: u64) -> PyResult<u64> {
        let mut positions = [position];
        enter(py, || self.0.resolve(&mut positions))?;
        Ok(positions[0])
    }

    /// Returns the offsets at positions `start..stop`.
    fn offsets(&self, py: Python<'_>, start: u64, stop: u64) -> PyResult<Batch> {
        let offsets = enter(py, || self.0.offsets(start..stop))?;
        Batch::of_numbers("offset", offsets)
    }

    /// Returns the first positions that hold the offsets `start..stop`, `u64::MAX` for those that none does.
    fn positions_of(&self, py: Python<'_>, start: u64, stop: u64) -> PyResult<Batch> {
        let positions = enter(py, || {
            let mut positions = Vec::new();
            self.0.positions_of(start..stop, &mut positions)?;
            Ok(positions)
        })?;
        Batch::of_numbers("position", positions)
    }

    /// Returns the first position that holds an offset.
    fn position_of(&self, py: Python<'_>, offset: u64) -> PyResult<Option<u64>> {
        enter(py, || self.0.position_of(offset))
    }
}

/// Returns the rows of each split, by LanceDB's rules. Exactly one of the sizes must be given.
#[pyfunction]
#[pyo3(signature = (num_rows, *, ratios=None, counts=None, fixed=None))]
pub(crate) fn split_counts(
    py: Python<'_>,
    num_rows: u64,
    ratios: Option<Vec<f64>>,
    counts: Option<Vec<u64>>,
    fixed: Option<u64>,
) -> PyResult<Vec<u64>> {
    let sizes = match (ratios, counts, fixed) {
        (Some(ratios), None, None) => split::Sizes::Ratios(ratios),
        (None, Some(counts), None) => split::Sizes::Counts(counts),
        (None, None, Some(fixed)) => split::Sizes::Fixed(fixed),
        _ => {
            return Err(PyValueError::new_err(
                "Exactly one of 'ratios', 'counts', or 'fixed' must be provided",
            ));
        }
    };
    enter(py, || sizes.counts(num_rows))
}

/// Returns where a fold of a cross-validation lies: its first position and its length.
#[pyfunction]
pub(crate) fn fold(py: Python<'_>, num_rows: u64, folds: u64, fold: u64) -> PyResult<(u64, u64)> {
    let range = enter(py, || split::fold(num_rows, folds, fold))?;
    Ok((range.start, range.end - range.start))
}

/// Returns the positions of each split, every label with its share. `labels` are small codes.
#[pyfunction]
pub(crate) fn stratified(
    py: Python<'_>,
    labels: Numbers,
    counts: Vec<u64>,
    seed: u64,
) -> PyResult<Vec<Order>> {
    let labels = codes(labels)?;
    let parts = enter(py, || split::stratified(&labels, &counts, seed))?;
    Ok(parts.into_iter().map(|part| Order(order::Order::bitmap(part))).collect())
}

/// Returns the positions of each split, every group whole. `groups` are small codes.
#[pyfunction]
pub(crate) fn grouped(
    py: Python<'_>,
    groups: Numbers,
    counts: Vec<u64>,
    seed: u64,
) -> PyResult<Vec<Order>> {
    let groups = codes(groups)?;
    let parts = enter(py, || split::grouped(&groups, &counts, seed))?;
    Ok(parts.into_iter().map(|part| Order(order::Order::bitmap(part))).collect())
}

/// Draws `size` of the positions `0..num_rows` with replacement: evenly, by a weight for each, or by
/// class. `classes` are small codes, and the weights then one for each class.
#[pyfunction]
#[pyo3(signature = (num_rows, size, *, seed, epoch=0, weights=None, classes=None))]
pub(crate) fn draws(
    py: Python<'_>,
    num_rows: u64,
    size: u64,
    seed: u64,
    epoch: u64,
    weights: Option<Weights>,
    classes: Option<Numbers>,
) -> PyResult<Order> {
    let classes = classes.map(codes).transpose()?;
    let weights = weights.as_ref().map(|weights| weights.0.as_slice());
    let weighted = enter(py, || match (&classes, weights) {
        (Some(classes), weights) => Weighted::by_class(classes, weights, seed, epoch),
        (None, Some(weights)) => Weighted::by_row(weights, seed, epoch),
        (None, None) => Weighted::uniform(num_rows, seed, epoch),
    })?;
    Ok(Order(order::Order::draws(weighted, size)))
}

/// Draws `size` positions by a weight for each, none twice, in random order.
#[pyfunction]
#[pyo3(signature = (weights, size, *, seed, epoch=0))]
pub(crate) fn choose(
    py: Python<'_>,
    weights: Weights,
    size: u64,
    seed: u64,
    epoch: u64,
) -> PyResult<Order> {
    enter(py, || Ok(Order(order::Order::listed(order::choose(&weights.0, size, seed, epoch)?))))
}

fn codes(numbers: Numbers) -> PyResult<Vec<u32>> {
    let codes: Result<Vec<u32>, _> = numbers.0.into_iter().map(u32::try_from).collect();
    codes.map_err(|_| PyValueError::new_err("codes of labels or groups: wanted codes below 2^32"))
}

/// Returns the places of `splits`, a column of 64-bit or of 32-bit numbers, in the order that
/// LanceDB's sort by split leaves them in.
#[pyfunction]
pub(crate) fn lancedb_sort(py: Python<'_>, splits: Numbers, is_narrow: bool) -> PyResult<Order> {
    enter(py, || {
        let splits = splits.0.into_iter();
        let places = if is_narrow {
            let narrow = |split| u32::try_from(split).unwrap_or(u32::MAX);
            order::lancedb::sorted_by_split(splits.map(narrow))
        } else {
            order::lancedb::sorted_by_split(splits)
        };
        Ok(Order(order::Order::listed(places)))
    })
}

/// Returns the positions `0..num_rows` as LanceDB's shuffle orders them.
#[pyfunction]
pub(crate) fn lancedb_shuffle(
    py: Python<'_>,
    num_rows: u64,
    seed: u64,
    clump_size: u64,
) -> PyResult<Order> {
    enter(py, || {
        let positions = order::lancedb::shuffled(num_rows, seed, clump_size)?;
        Ok(Order(order::Order::listed(positions)))
    })
}
