//! How many tokens each row has.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait};
use arrow_schema::DataType;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::order::{Bitmap, BitmapBuilder, Order};

/// Row offsets evaluated at once.
const CHUNK: u64 = 1 << 16;

/// Lengths are kept by row offset if that takes no more than this many places for each row.
const SPARSEST: u64 = 16;

/// The most tokens of a row: an end-of-sequence token may come on top.
const MAX_TOKENS: u64 = u32::MAX as u64 - 1;

/// The number of tokens of some rows of a table, in 4 bytes each.
#[derive(Debug)]
pub struct Lengths {
    /// The rows, if their lengths stand by rank and not by row offset.
    ranks: Option<Arc<Bitmap>>,
    values: Vec<u32>,
}

impl Lengths {
    /// Returns lengths for the rows `0..values.len()`.
    pub fn new(values: Vec<u32>) -> Self {
        Self { ranks: None, values }
    }

    /// Writes the length of each of the rows at `offsets` to `out`.
    ///
    /// Rows whose lengths are not here are found where they stand beyond all that are.
    pub(super) fn look_up(&self, offsets: &[u64], out: &mut Vec<u32>) -> Result<()> {
        out.clear();
        out.reserve(offsets.len());
        for &offset in offsets {
            let at = self.ranks.as_ref().map_or(offset, |rows| rows.rank(offset));
            let length = usize::try_from(at).ok().and_then(|at| self.values.get(at));
            out.push(*length.ok_or_else(|| {
                Error::invalid(format!("row {offset} without a length"), "one for each row")
            })?);
        }
        Ok(())
    }

    /// Returns the arguments of [`from_parts`](Self::from_parts): the rows, if they are not `0..n`, and
    /// their lengths.
    pub fn parts(&self) -> (Option<&Bitmap>, &[u32]) {
        (self.ranks.as_deref(), &self.values)
    }

    /// Makes lengths of [`parts`](Self::parts).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is not a length for each row.
    pub fn from_parts(ranks: Option<Bitmap>, values: Vec<u32>) -> Result<Self> {
        if let Some(rows) = ranks.as_ref().filter(|rows| rows.len() != values.len() as u64) {
            let wanted = format!("{}, one a row", rows.len());
            return Err(Error::invalid(format!("{} lengths", values.len()), wanted));
        }
        Ok(Self { ranks: ranks.map(Arc::new), values })
    }

    /// Returns the bytes of memory they take.
    pub fn num_bytes(&self) -> usize {
        self.values.len() * size_of::<u32>()
            + self.ranks.as_ref().map_or(0, |rows| rows.num_bytes())
    }
}

/// Collects [`Lengths`], row by row of [`rows`](Self::rows).
#[derive(Debug)]
pub struct LengthsBuilder {
    rows: Order,
    lengths: Lengths,
    num_done: u64,
}

impl LengthsBuilder {
    /// Makes a builder for the rows of `order`; each is read once, however often it is served.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`].
    pub fn new(order: &Order) -> Result<Self> {
        let rows = distinct(order)?;
        let (bound, len) = (rows.bound(), rows.len());
        let is_dense = bound <= SPARSEST.saturating_mul(len);
        let ranks = match rows.maps() {
            _ if is_dense => None,
            [crate::order::Map::Bitmap(rows)] => Some(Arc::clone(rows)),
            _ => Some(Arc::new(Bitmap::from_offsets(rows.offsets(0..len)?))),
        };
        let places = if is_dense { bound } else { len };
        let places = usize::try_from(places)
            .map_err(|_| Error::invalid(format!("lengths of {places} rows"), "fewer rows"))?;
        let lengths = Lengths { ranks, values: vec![0; places] };
        Ok(Self { rows, lengths, num_done: 0 })
    }

    /// Returns the rows to read, ascending.
    pub fn rows(&self) -> &Order {
        &self.rows
    }

    /// Takes the lengths of the next rows: of a column of lists, or of numbers of tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the column has another type, or a row is null, or its length is negative or
    /// beyond 32 bits; it names the row.
    pub fn push(&mut self, column: &ArrayRef) -> Result<()> {
        let count = column.len() as u64;
        if count > self.rows.len() - self.num_done {
            let wanted = self.rows.len();
            return Err(Error::invalid("more lengths than rows", format!("{wanted} lengths")));
        }
        let offsets = self.rows.offsets(self.num_done..self.num_done + count)?;
        let lengths = lengths_of(column, &offsets)?;
        if self.lengths.ranks.is_some() {
            let start = usize::try_from(self.num_done).expect("places are in memory");
            self.lengths.values[start..start + lengths.len()].copy_from_slice(&lengths);
        } else {
            for (offset, length) in offsets.iter().zip(lengths) {
                self.lengths.values[usize::try_from(*offset).expect("as above")] = length;
            }
        }
        self.num_done += count;
        Ok(())
    }

    /// Returns the lengths, once those of all rows are in.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if some are missing.
    pub fn finish(self) -> Result<Lengths> {
        let (done, wanted) = (self.num_done, self.rows.len());
        if done < wanted {
            return Err(Error::invalid(format!("{done} lengths"), format!("{wanted}, one a row")));
        }
        Ok(self.lengths)
    }
}

/// Returns the rows of `order`, ascending, each once.
fn distinct(order: &Order) -> Result<Order> {
    if order.is_ascending() || order.is_empty() {
        return Ok(order.clone());
    }
    let (bound, len) = (order.bound(), order.len());
    if bound / 256 > len {
        return Ok(Order::bitmap(Bitmap::from_offsets(order.offsets(0..len)?)));
    }
    let words = usize::try_from(bound.div_ceil(64))
        .map_err(|_| Error::invalid(format!("{bound} rows"), "fewer rows"))?;
    let mut seen = vec![0_u64; words];
    let mut start = 0;
    while start < len {
        let end = len.min(start + CHUNK);
        for offset in order.offsets(start..end)? {
            let word = usize::try_from(offset / 64).expect("its word is in memory");
            seen[word] |= 1 << (offset % 64);
        }
        start = end;
    }
    let num_rows: u64 = seen.iter().map(|word| u64::from(word.count_ones())).sum();
    if num_rows == bound {
        return Ok(Order::all(bound));
    }
    let mut rows = BitmapBuilder::default();
    for (mut word, base) in seen.into_iter().zip((0..).step_by(64)) {
        while word != 0 {
            rows.push(base + u64::from(word.trailing_zeros()));
            word &= word - 1;
        }
    }
    interrupt::check()?;
    Ok(Order::bitmap(rows.finish()))
}

fn lengths_of(column: &ArrayRef, offsets: &[u64]) -> Result<Vec<u32>> {
    if let Some(at) =
        column.nulls().and_then(|nulls| (0..nulls.len()).find(|&at| nulls.is_null(at)))
    {
        return Err(Error::invalid(
            format!("null as the tokens of row {}", offsets[at]),
            "a list or a length: leave such rows out with filter(\"... IS NOT NULL\")",
        ));
    }
    match column.data_type() {
        DataType::List(_) => differences(column.as_list::<i32>().value_offsets(), offsets),
        DataType::LargeList(_) => differences(column.as_list::<i64>().value_offsets(), offsets),
        DataType::FixedSizeList(_, size) => {
            checked(std::iter::repeat_n(i128::from(*size), column.len()), offsets)
        }
        DataType::Int8 => numbers::<Int8Type>(column, offsets),
        DataType::Int16 => numbers::<Int16Type>(column, offsets),
        DataType::Int32 => numbers::<Int32Type>(column, offsets),
        DataType::Int64 => numbers::<Int64Type>(column, offsets),
        DataType::UInt8 => numbers::<UInt8Type>(column, offsets),
        DataType::UInt16 => numbers::<UInt16Type>(column, offsets),
        DataType::UInt32 => numbers::<UInt32Type>(column, offsets),
        DataType::UInt64 => numbers::<UInt64Type>(column, offsets),
        other => Err(Error::invalid(
            format!("lengths from a column of type {other}"),
            "a column of lists, or of whole numbers that say how long rows are",
        )),
    }
}

fn numbers<T: ArrowPrimitiveType<Native: Into<i128>>>(
    column: &ArrayRef,
    offsets: &[u64],
) -> Result<Vec<u32>> {
    let values = column.as_primitive::<T>().values();
    checked(values.iter().map(|&value| value.into()), offsets)
}

fn differences<O: OffsetSizeTrait>(ends: &[O], offsets: &[u64]) -> Result<Vec<u32>> {
    let lengths = ends.windows(2).map(|pair| (pair[1] - pair[0]).as_usize() as i128);
    checked(lengths, offsets)
}

fn checked(lengths: impl Iterator<Item = i128>, offsets: &[u64]) -> Result<Vec<u32>> {
    let check = |(length, offset): (i128, &u64)| {
        u32::try_from(length).ok().filter(|&length| u64::from(length) <= MAX_TOKENS).ok_or_else(
            || {
                Error::invalid(
                    format!("{length} tokens in row {offset}"),
                    format!("from 0 to {MAX_TOKENS}"),
                )
            },
        )
    };
    lengths.zip(offsets).map(check).collect()
}
