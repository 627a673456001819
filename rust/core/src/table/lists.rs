//! Fixed-size lists of structs, which Lance's file reader only reads alone.

use std::collections::HashSet;
use std::ops::Range;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_schema::DataType;
use lance_core::datatypes::{Field, Schema};

use super::fields::project;
use crate::error::{Error, Result};

/// How many rows around others are read with them, at first.
const ROWS_AROUND: u64 = 64;

/// Returns whether a column is a list of a fixed size whose values are structs.
pub(super) fn is_list_of_structs(field: &Field) -> bool {
    !field.children.is_empty() && field.logical_type.to_string().starts_with("fixed_size_list:")
}

/// Returns the columns of a file, in groups that can be decoded together.
///
/// To the file, the values of lists of structs of a fixed size are rows, so each such list is longer
/// than other columns and comes alone.
pub(super) fn decoded_together(schema: Schema) -> Vec<Schema> {
    fn collect(field: &Field, ids: &mut HashSet<i32>, alone: &mut Vec<i32>) {
        let is_plain_struct = field.logical_type.is_struct() && !field.children.is_empty();
        if is_list_of_structs(field) {
            alone.push(field.id);
        } else if is_plain_struct && !field.is_blob() && !field.is_packed_struct() {
            field.children.iter().for_each(|child| collect(child, ids, alone));
        } else {
            ids.insert(field.id);
        }
    }
    let (mut ids, mut alone) = (HashSet::new(), Vec::new());
    schema.fields.iter().for_each(|field| collect(field, &mut ids, &mut alone));
    if alone.is_empty() {
        return vec![schema];
    }
    let together = Some(ids).filter(|ids| !ids.is_empty());
    let groups = together.into_iter().chain(alone.into_iter().map(|id| HashSet::from([id])));
    groups.map(|ids| project(&schema, &ids)).collect()
}

/// Returns whether some of the values inside are lists of any length.
pub(super) fn holds_lists(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) => true,
        DataType::FixedSizeList(item, _) => holds_lists(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_lists(field.data_type())),
        _ => false,
    }
}

/// Returns whether Lance's decoder failed because none of the rows has a value.
///
/// It does so where lists hold structs of variable width that are packed, as descriptors of blobs are.
pub(super) fn saw_no_value(error: &Error) -> bool {
    let words = "DataBlockBuilder didn't see any data";
    matches!(error, Error::Corrupt { reason, .. } if reason.contains(words))
}

/// Returns the rows in `ranges`, ascending, of a file of `num_rows`, read with so many around them
/// that one of these has a value.
pub(super) fn read_around(
    ranges: &[Range<u64>],
    num_rows: u64,
    read: impl Fn(Range<u64>) -> Result<RecordBatch>,
) -> Result<RecordBatch> {
    let mut start = ranges.first().map_or(0, |range| range.start);
    let mut end = ranges.last().map_or(0, |range| range.end);
    loop {
        let more = (end - start).max(ROWS_AROUND);
        (start, end) = (start.saturating_sub(more), num_rows.min(end + more));
        match read(start..end) {
            Err(error) if saw_no_value(&error) && (start, end) != (0, num_rows) => {}
            Err(error) => return Err(error),
            Ok(whole) => {
                let rows = ranges.iter().flat_map(|range| range.start - start..range.end - start);
                let rows = UInt64Array::from_iter_values(rows);
                let taken = arrow_select::take::take_record_batch(&whole, &rows);
                return taken.map_err(|error| Error::arrow("a data file", &error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn rows(range: Range<u64>) -> RecordBatch {
        let column = Arc::new(UInt64Array::from_iter_values(range));
        RecordBatch::try_from_iter([("row", column as _)]).unwrap()
    }

    #[test]
    fn rows_around_are_read_until_one_has_a_value() {
        let empty = || Error::corrupt("f", "decoding failed: DataBlockBuilder didn't see any data");
        for value in [0, 99, 130, 500, 999] {
            let read = |range: Range<u64>| {
                assert!(range.end <= 1000);
                if range.contains(&value) { Ok(rows(range)) } else { Err(empty()) }
            };
            let ranges = [100..101, 110..112];
            let wanted = UInt64Array::from(vec![100, 110, 111]);
            let got = read_around(&ranges, 1000, read).unwrap();
            assert_eq!(got.column(0).as_ref(), &wanted as &dyn arrow_array::Array);
        }
        let one = std::array::from_fn::<_, 1, _>(|_| 3..4);
        assert!(saw_no_value(&read_around(&one, 1000, |_| Err(empty())).unwrap_err()));
        let other = |_| Err(Error::bug("another"));
        assert!(!saw_no_value(&read_around(&one, 1000, other).unwrap_err()));
    }
}
