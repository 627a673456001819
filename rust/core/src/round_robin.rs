//! Parts that lie end to end → one batch that takes a row of each part in turn.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use crate::error::{Error, Result};
use crate::gather::{Gathered, gather};
use crate::plan::Rows;

/// Takes one row of each part in turn, as long as a part has rows.
///
/// # Arguments
///
/// * `blocks` - The rows of all parts, end to end; a part may have several blocks, and a block several
///   parts.
/// * `lengths` - The number of rows of each part.
///
/// # Errors
///
/// [`Error::Invalid`] if the parts do not have as many rows as the blocks, or a column outgrows the
/// offsets of its type.
///
/// # Examples
///
/// Parts of 2, 2 and 1 rows are taken as rows 0, 2, 4, 1, 3.
pub fn round_robin(
    schema: &SchemaRef,
    blocks: &[RecordBatch],
    lengths: &[usize],
) -> Result<Gathered> {
    let found: usize = blocks.iter().map(RecordBatch::num_rows).sum();
    let wanted = lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length));
    if wanted != Some(found) {
        return Err(Error::invalid(
            format!("`lengths` {lengths:?}"),
            format!("numbers of rows that add up to {found}"),
        ));
    }
    let mut all = blocks
        .iter()
        .enumerate()
        .flat_map(|(block, rows)| (0..rows.num_rows()).map(move |row| (block, row)));
    let parts: Vec<Vec<_>> =
        lengths.iter().map(|&length| all.by_ref().take(length).collect()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut places = Vec::with_capacity(found);
    for round in 0..longest {
        places.extend(parts.iter().filter_map(|part| part.get(round)));
    }
    gather(schema, blocks, false, &Rows::Picked(places))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, RecordBatch, RecordBatchOptions};
    use arrow_schema::{DataType, Field, Schema};
    use proptest::prelude::*;

    use super::*;

    fn block(values: Vec<i64>) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    fn taken(blocks: &[RecordBatch], lengths: &[usize]) -> Vec<i64> {
        let found = round_robin(blocks[0].schema_ref(), blocks, lengths).unwrap();
        assert!(found.is_owned);
        found.batch.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn parts_take_turns() {
        let blocks = [block(vec![0]), block(vec![1, 2, 3]), block(vec![4])];
        assert_eq!(taken(&blocks, &[2, 2, 1]), [0, 2, 4, 1, 3]);
        assert_eq!(taken(&blocks, &[5]), [0, 1, 2, 3, 4]);
        assert_eq!(taken(&blocks, &[0, 1, 0, 4]), [0, 1, 2, 3, 4]);
        assert_eq!(taken(&blocks, &[1, 1, 1, 1, 1]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options);
        let found = round_robin(&schema, &[rows.unwrap()], &[2, 1]).unwrap();
        assert_eq!(found.batch.num_rows(), 3);
        assert_eq!(round_robin(&schema, &[], &[]).unwrap().batch.num_rows(), 0);
    }

    #[test]
    fn other_numbers_of_rows_are_an_error() {
        for lengths in [&[1_usize][..], &[1, 2], &[usize::MAX, 3], &[]] {
            let blocks = [block(vec![0, 1])];
            let error = round_robin(blocks[0].schema_ref(), &blocks, lengths).unwrap_err();
            assert!(error.to_string().contains("add up to 2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_row_comes_once_and_parts_keep_their_order(
            sizes in prop::collection::vec(0_usize..6, 1..5),
            cuts in prop::collection::vec(0_usize..6, 0..5),
        ) {
            let total: usize = sizes.iter().sum();
            let mut left = total;
            let mut lengths: Vec<usize> = cuts
                .into_iter()
                .map(|cut| {
                    let length = cut.min(left);
                    left -= length;
                    length
                })
                .collect();
            lengths.push(left);
            let mut rows = 0..i64::try_from(total).unwrap();
            let blocks: Vec<_> =
                sizes.iter().map(|&size| block(rows.by_ref().take(size).collect())).collect();
            // Slowly: the round of a row, then its part.
            let mut wanted = Vec::new();
            let mut row = 0;
            for (part, &length) in lengths.iter().enumerate() {
                for round in 0..length {
                    wanted.push((round, part, row));
                    row += 1;
                }
            }
            wanted.sort_unstable();
            let wanted: Vec<i64> = wanted.into_iter().map(|(_, _, row)| row).collect();
            prop_assert_eq!(taken(&blocks, &lengths), wanted);
        }
    }
}
