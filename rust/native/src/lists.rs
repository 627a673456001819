//! Python lists of the small numbers of a column, such as tokens.

use pyo3::buffer::{Element, PyBuffer};
use pyo3::exceptions::PyValueError;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyList};
use pyo3::{Bound, IntoPyObject, Py, PyAny, PyResult, Python, pyfunction};

/// How many negative numbers are small: labels of ignored tokens are -100.
const BELOW_ZERO: i64 = 256;
/// Numbers below these are small.
const ABOVE: [i64; 2] = [1 << 16, 1 << 18];

/// Returns a list of Python integers for each pair of neighbouring `ends`, which count values; or `None` if
/// the values are not a buffer of integers, or not all of them small: below 2^18, and at least -256.
///
/// All lists share the objects of these numbers, which are made once in a process: to refer to an object takes
/// half of the time that it takes to make one, and 8 bytes in place of 40.
///
/// # Errors
///
/// `ValueError` unless the ends ascend within the values.
#[pyfunction]
pub(crate) fn small_number_lists<'py>(
    values: &Bound<'py, PyAny>,
    ends: PyBuffer<i64>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let ends = ends.to_vec(values.py())?;
    lists_of::<i32>(values, &ends)
        .or_else(|| lists_of::<i64>(values, &ends))
        .or_else(|| lists_of::<u16>(values, &ends))
        .or_else(|| lists_of::<u32>(values, &ends))
        .or_else(|| lists_of::<u64>(values, &ends))
        .or_else(|| lists_of::<i16>(values, &ends))
        .or_else(|| lists_of::<u8>(values, &ends))
        .or_else(|| lists_of::<i8>(values, &ends))
        .transpose()
}

/// Returns the lists, or `None` if the values are of another type, or not all small.
fn lists_of<'py, T>(
    values: &Bound<'py, PyAny>,
    ends: &[i64],
) -> Option<PyResult<Bound<'py, PyList>>>
where
    T: Element + Copy + Ord + Into<i128>,
{
    let py = values.py();
    let numbers = PyBuffer::<T>::get(values).ok()?.to_vec(py).ok()?;
    let shared = Shared::among(py, &numbers)?;
    let lists = ends.windows(2).map(|pair| {
        let range = usize::try_from(pair[0]).ok().zip(usize::try_from(pair[1]).ok());
        let found = range.and_then(|(start, end)| numbers.get(start..end)).ok_or_else(|| {
            let count = numbers.len();
            PyValueError::new_err(format!("`ends` must ascend within the {count} values"))
        })?;
        PyList::new(py, found.iter().map(|&number| shared.of(number)))
    });
    Some(lists.collect::<PyResult<Vec<_>>>().and_then(|lists| PyList::new(py, lists)))
}

/// The objects of consecutive numbers from `-BELOW_ZERO` on.
struct Shared(Vec<Py<PyInt>>);

impl Shared {
    /// Returns objects that all of the numbers are among, if they are small.
    fn among<T: Copy + Ord + Into<i128>>(py: Python<'_>, numbers: &[T]) -> Option<&'static Self> {
        static OBJECTS: [PyOnceLock<Shared>; 2] = [PyOnceLock::new(), PyOnceLock::new()];

        let bound = |number: Option<&T>| number.map_or(0, |&number| number.into());
        let lowest = bound(numbers.iter().min());
        let highest = bound(numbers.iter().max());
        if lowest < -i128::from(BELOW_ZERO) {
            return None;
        }
        let fits = |&(_, above): &(_, i64)| highest < i128::from(above);
        let (objects, above) = OBJECTS.iter().zip(ABOVE).find(fits)?;
        Some(
            objects.get_or_init(py, || Self((-BELOW_ZERO..above).map(|n| object(py, n)).collect())),
        )
    }

    /// Returns the object of one of the numbers.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is one of them"
    )]
    fn of(&self, number: impl Into<i128>) -> &Py<PyInt> {
        &self.0[(number.into() as i64).wrapping_add(BELOW_ZERO) as usize]
    }
}

/// Returns the object of a number.
fn object(py: Python<'_>, number: i64) -> Py<PyInt> {
    let Ok(object) = number.into_pyobject(py);
    object.unbind()
}
