//! The maps of an order as tuples of their parameters: what an order pickles as.

use std::sync::Arc;

use lanceloader_core::order::{
    self, Bitmap, Listed, Map, Mixed, Purpose, Shuffle, Weighted, Windowed,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::types::{PyAnyMethods, PyBytes, PyBytesMethods, PyTuple};
use pyo3::{
    Borrowed, Bound, FromPyObject, IntoPyObject, IntoPyObjectExt, Py, PyAny, PyErr, PyRef,
    PyResult, Python,
};

use crate::classes::{Mix, Order};
use crate::enter::enter;
use crate::share;

/// A map of an order as a tuple of its parameters.
pub(crate) struct Part(pub(crate) Map);

/// Returns what [`Part`] is extracted from.
pub(crate) fn part<'py>(py: Python<'py>, map: &Map) -> PyResult<Bound<'py, PyTuple>> {
    match map {
        Map::Range { start, step } => ("range", *start, *step).into_pyobject(py),
        Map::Blocks { start, block, stride } => {
            ("blocks", *start, *block, *stride).into_pyobject(py)
        }
        Map::Bitmap(rows) => ("bitmap", PyBytes::new(py, &rows.to_bytes())).into_pyobject(py),
        Map::Listed(list) => {
            let (width, bytes) = list.to_bytes();
            ("listed", width, PyBytes::new(py, &bytes)).into_pyobject(py)
        }
        Map::Shuffle(shuffle) => {
            let purpose = name_of(shuffle.purpose());
            (purpose, shuffle.len(), shuffle.seed(), shuffle.epoch(), shuffle.clump())
                .into_pyobject(py)
        }
        Map::Windowed(windowed) => {
            let blocks = (windowed.block(), windowed.window_blocks());
            ("windowed", windowed.len(), windowed.seed(), windowed.epoch(), blocks.0, blocks.1)
                .into_pyobject(py)
        }
        Map::Weighted(weighted) => {
            let bytes = PyBytes::new(py, &weighted.to_bytes());
            ("draws", weighted.seed(), weighted.epoch(), bytes).into_pyobject(py)
        }
        Map::Mixed(mixed) => {
            let order = |order: &order::Order| Order(order.clone()).into_py_any(py);
            let orders = mixed.orders().iter().map(order).collect::<PyResult<Vec<Py<PyAny>>>>()?;
            let mix = Mix(Arc::clone(mixed.mix())).into_py_any(py)?;
            let share = mixed.share().map(share::to_parts);
            ("mixed", mix, mixed.group(), orders, mixed.epoch(), share).into_pyobject(py)
        }
        Map::Neighbours(_) => Err(PyTypeError::new_err(
            "the neighbours of rows are not pickled: each process makes them from the rows",
        )),
        Map::Repeat { len } => ("repeat", *len).into_pyobject(py),
        Map::Concat(orders) => {
            let order = |order: &order::Order| Order(order.clone()).into_py_any(py);
            let orders = orders.iter().map(order).collect::<PyResult<Vec<Py<PyAny>>>>()?;
            ("concat", orders).into_pyobject(py)
        }
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Part {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let get = |at: usize| object.get_item(at);
        let py = object.py();
        let kind: String = get(0)?.extract()?;
        if let Some(purpose) = purpose_of(&kind) {
            let (len, seed) = (get(1)?.extract()?, get(2)?.extract()?);
            let (epoch, clump) = (get(3)?.extract()?, get(4)?.extract()?);
            let shuffle = enter(py, || Shuffle::new(len, purpose, seed, epoch, clump))?;
            return Ok(Self(Map::Shuffle(Arc::new(shuffle))));
        }
        Ok(Self(match kind.as_str() {
            "range" => Map::Range { start: get(1)?.extract()?, step: get(2)?.extract()? },
            "blocks" => {
                let (start, block) = (get(1)?.extract()?, get(2)?.extract()?);
                Map::Blocks { start, block, stride: get(3)?.extract()? }
            }
            "repeat" => Map::Repeat { len: get(1)?.extract()? },
            "windowed" => {
                let (len, seed, epoch) =
                    (get(1)?.extract()?, get(2)?.extract()?, get(3)?.extract()?);
                let (block, window_blocks) = (get(4)?.extract()?, get(5)?.extract()?);
                let windowed = enter(py, || Windowed::new(len, seed, epoch, block, window_blocks))?;
                Map::Windowed(Arc::new(windowed))
            }
            "draws" => {
                let (seed, epoch) = (get(1)?.extract()?, get(2)?.extract()?);
                let bytes = get(3)?.cast_into::<PyBytes>()?;
                let bytes = bytes.as_bytes();
                let weighted = enter(py, || Weighted::from_bytes(bytes, seed, epoch))?;
                Map::Weighted(Arc::new(weighted))
            }
            "bitmap" => {
                let bytes = get(1)?.cast_into::<PyBytes>()?;
                let bytes = bytes.as_bytes();
                Map::Bitmap(Arc::new(enter(py, || Bitmap::from_bytes(bytes))?))
            }
            "listed" => {
                let width: u8 = get(1)?.extract()?;
                let bytes = get(2)?.cast_into::<PyBytes>()?;
                let bytes = bytes.as_bytes();
                Map::Listed(Arc::new(enter(py, || Listed::from_bytes(width, bytes))?))
            }
            "mixed" => {
                let mix: PyRef<'py, Mix> = get(1)?.extract()?;
                let mix = Arc::clone(&mix.0);
                let group = get(2)?.extract()?;
                let orders: Vec<PyRef<'py, Order>> = get(3)?.extract()?;
                let orders: Vec<_> = orders.iter().map(|order| order.0.clone()).collect();
                let (epoch, share) = (get(4)?.extract()?, get(5)?.extract::<Option<_>>()?);
                let share = share.map(share::from_parts);
                let mixed = enter(py, || Mixed::new(mix, group, orders.into(), epoch, share))?;
                Map::Mixed(Arc::new(mixed))
            }
            "concat" => {
                let orders: Vec<PyRef<'py, Order>> = get(1)?.extract()?;
                Map::Concat(orders.iter().map(|order| order.0.clone()).collect())
            }
            other => {
                return Err(PyValueError::new_err(format!("{other:?} is not a part of an order")));
            }
        }))
    }
}

/// What a shuffle is called by what it is for.
const SHUFFLES: [(&str, Purpose); 3] =
    [("shuffle", Purpose::Shuffle), ("split", Purpose::Split), ("sample", Purpose::Sample)];

fn name_of(purpose: Purpose) -> &'static str {
    let known = SHUFFLES.iter().find(|(_, other)| *other == purpose);
    known.map_or("another", |(name, _)| name)
}

fn purpose_of(name: &str) -> Option<Purpose> {
    SHUFFLES.iter().find(|(other, _)| *other == name).map(|(_, purpose)| *purpose)
}
