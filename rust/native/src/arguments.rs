//! Python values as core values.

use lanceloader_core::order::Tail;
use lanceloader_core::read::Strategy;
use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::types::{PyAnyMethods, PyBool, PyByteArray, PyBytes, PyStringMethods, PyTypeMethods};
use pyo3::{Borrowed, Bound, FromPyObject, PyAny, PyErr, PyResult};

/// Whole numbers, none negative: a buffer of integers of any width, or any sequence of them.
pub(crate) struct Numbers(pub(crate) Vec<u64>);

impl<'a, 'py> FromPyObject<'a, 'py> for Numbers {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let object = &*object;
        let found = signed::<i64>(object)
            .or_else(|| unsigned::<u64>(object))
            .or_else(|| signed::<i32>(object))
            .or_else(|| unsigned::<u32>(object))
            .or_else(|| signed::<i16>(object))
            .or_else(|| unsigned::<u16>(object))
            .or_else(|| signed::<i8>(object));
        match found {
            Some(numbers) => numbers.map(Self),
            None => listed(object).map(Self),
        }
    }
}

/// Returns the numbers of a sequence. Text, bytes and masks are sequences too, but hold no
/// positions.
fn listed(object: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
    let wrong = |what: &str| {
        PyTypeError::new_err(format!(
            "expected a sequence or 1-d array of whole numbers, not {what}"
        ))
    };
    if object.is_instance_of::<PyBytes>() || object.is_instance_of::<PyByteArray>() {
        return Err(wrong("bytes"));
    }
    let numbers = match object.extract::<Vec<u64>>() {
        Ok(numbers) => numbers,
        Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => return Err(error),
        Err(_) => return Err(wrong(&object.get_type().name()?.to_cow()?)),
    };
    // Looked at only where all numbers could be booleans: this is in the path of every batch.
    if numbers.iter().all(|&number| number <= 1) {
        for item in object.try_iter()? {
            if item?.is_instance_of::<PyBool>() {
                return Err(wrong("booleans; for a mask use `filter(mask)`"));
            }
        }
    }
    Ok(numbers)
}

/// Weights: a 1-d buffer of 64-bit floats.
pub(crate) struct Weights(pub(crate) Vec<f64>);

impl<'a, 'py> FromPyObject<'a, 'py> for Weights {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let weights = PyBuffer::<f64>::get(&object)?;
        if weights.dimensions() != 1 {
            let dimensions = weights.dimensions();
            return Err(PyTypeError::new_err(format!(
                "wanted a 1-d array of weights, got {dimensions} dimensions"
            )));
        }
        weights.to_vec(object.py()).map(Self)
    }
}

fn signed<T: Element + Copy + Into<i64>>(object: &Bound<'_, PyAny>) -> Option<PyResult<Vec<u64>>> {
    buffer::<T>(object, |number| {
        let number: i64 = number.into();
        u64::try_from(number).map_err(|_| {
            PyOverflowError::new_err(format!("can't convert negative int to unsigned: {number}"))
        })
    })
}

fn unsigned<T: Element + Copy + Into<u64>>(
    object: &Bound<'_, PyAny>,
) -> Option<PyResult<Vec<u64>>> {
    buffer::<T>(object, |number| Ok(number.into()))
}

fn buffer<T: Element + Copy>(
    object: &Bound<'_, PyAny>,
    number: impl Fn(T) -> PyResult<u64>,
) -> Option<PyResult<Vec<u64>>> {
    let buffer = PyBuffer::<T>::get(object).ok()?;
    if buffer.dimensions() != 1 {
        let dimensions = buffer.dimensions();
        return Some(Err(PyTypeError::new_err(format!(
            "wanted a 1-d array of whole numbers, got {dimensions} dimensions"
        ))));
    }
    let numbers = buffer.to_vec(object.py());
    Some(numbers.and_then(|numbers| numbers.into_iter().map(number).collect()))
}

/// Parses `"resident"`, `"external"` or `"direct"`; `None` for `"auto"`.
pub(crate) fn strategy_of(name: Option<&str>) -> PyResult<Option<Strategy>> {
    match name {
        None | Some("auto") => Ok(None),
        Some("resident") => Ok(Some(Strategy::Resident)),
        Some("external") => Ok(Some(Strategy::External)),
        Some("direct") => Ok(Some(Strategy::Direct)),
        Some(other) => Err(PyValueError::new_err(format!(
            "read {other:?}: wanted \"auto\", \"resident\", \"external\" or \"direct\""
        ))),
    }
}

/// Parses `"uneven"`, `"drop"` or `"pad"`.
pub(crate) fn tail_of(name: &str) -> PyResult<Tail> {
    match name {
        "uneven" => Ok(Tail::Uneven),
        "drop" => Ok(Tail::Drop),
        "pad" => Ok(Tail::Pad),
        other => Err(PyValueError::new_err(format!(
            "tail {other:?}: wanted \"uneven\", \"drop\" or \"pad\""
        ))),
    }
}
