//! Batches of several sources → one batch of their mixture, and which source each row is from.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::gather::{Gathered, gather};
use crate::order::mix::{Mix, Parts};
use crate::plan::Rows;
use crate::projection::batch;

/// A column that names the source of each row.
#[derive(Debug, Clone)]
pub struct Labels {
    /// What the column is called.
    pub column: String,
    /// The name of each source.
    pub names: Vec<String>,
}

/// Merges the batches of all groups in the order of the mixture at `positions`.
///
/// Positions beyond its end go on from its start. Each batch holds the rows that its group has there, and
/// all have columns of the same types; the names are those of the first. A single batch is not copied.
///
/// # Errors
///
/// [`Error::Invalid`] if a column outgrows the offsets of its type; [`Error::Bug`] if the rows are not
/// those.
pub fn merge(
    mix: &Mix,
    positions: Range<u64>,
    batches: &[Gathered],
    labels: Option<&Labels>,
) -> Result<Gathered> {
    let num_rows = usize::try_from(positions.end - positions.start).unwrap_or(usize::MAX);
    let found: usize = batches.iter().map(|gathered| gathered.batch.num_rows()).sum();
    if found != num_rows || batches.len() != mix.num_groups() {
        return Err(Error::bug(format!(
            "{found} rows in {} batches for {num_rows} rows of {} groups",
            batches.len(),
            mix.num_groups()
        )));
    }
    let merged = match batches {
        [batch] => batch.clone(),
        batches => {
            let blocks: Vec<RecordBatch> = batches.iter().map(|one| one.batch.clone()).collect();
            let places = places(mix, positions.clone(), num_rows, blocks.len());
            gather(&schema(&blocks), &blocks, false, &Rows::Picked(places))?
        }
    };
    match labels {
        None => Ok(merged),
        Some(labels) => labelled(merged, mix, positions, labels),
    }
}

/// Returns the batch and the row of each row of the mixture.
fn places(
    mix: &Mix,
    positions: Range<u64>,
    num_rows: usize,
    num_groups: usize,
) -> Vec<(usize, usize)> {
    let mut places = vec![(0, 0); num_rows];
    let mut next = vec![0; num_groups];
    each_piece(
        mix,
        positions,
        |piece, out| {
            mix.deal(Parts::Groups, piece, &mut |dealt| {
                for &slot in dealt.slots {
                    out[slot as usize] = (dealt.part, next[dealt.part]);
                    next[dealt.part] += 1;
                }
            });
        },
        &mut places,
    );
    places
}

/// Cuts positions where the epoch ends, and the rows of `out` with them.
fn each_piece<T>(
    mix: &Mix,
    positions: Range<u64>,
    mut work: impl FnMut(Range<u64>, &mut [T]),
    mut out: &mut [T],
) {
    for piece in mix.pieces(positions) {
        let count = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
        let (head, rest) = out.split_at_mut(count);
        work(piece, head);
        out = rest;
    }
}

fn labelled(
    merged: Gathered,
    mix: &Mix,
    positions: Range<u64>,
    labels: &Labels,
) -> Result<Gathered> {
    let Gathered { batch: rows, is_owned } = merged;
    let mut codes = vec![0_i32; rows.num_rows()];
    each_piece(
        mix,
        positions,
        |piece, out| {
            mix.deal(Parts::Sources, piece, &mut |dealt| {
                let code = i32::try_from(dealt.part).unwrap_or(i32::MAX);
                for &slot in dealt.slots {
                    out[slot as usize] = code;
                }
            });
        },
        &mut codes,
    );
    let names = Arc::new(StringArray::from_iter_values(&labels.names));
    let column = DictionaryArray::<Int32Type>::try_new(Int32Array::from(codes), names);
    let column = column.map_err(|error| Error::bug("names of sources").caused_by(&error))?;
    let schema = labelled_schema(rows.schema_ref(), &labels.column);
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(column) as ArrayRef);
    Ok(Gathered { batch: batch(schema, columns, rows.num_rows())?, is_owned })
}

/// Returns a schema with the column of the names of sources.
fn labelled_schema(schema: &SchemaRef, column: &str) -> SchemaRef {
    let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(column, kind, false)));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Returns the schema of the first block, where a column may have nulls if it may in any.
fn schema(blocks: &[RecordBatch]) -> SchemaRef {
    let first = blocks[0].schema_ref();
    let field = |at: usize| {
        let is_nullable = blocks.iter().any(|block| block.schema_ref().field(at).is_nullable());
        first.field(at).clone().with_nullable(is_nullable)
    };
    let fields: Vec<Field> = (0..first.fields().len()).map(field).collect();
    Arc::new(Schema::new_with_metadata(fields, first.metadata().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::mix::{Recipe, Stage, Stop};
    use arrow_array::UInt64Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;

    fn mix(groups: &[usize]) -> Mix {
        Mix::new(Recipe {
            sizes: vec![10; groups.len()],
            groups: groups.to_vec(),
            stages: vec![Stage { start: 0, weights: vec![2; groups.len()] }],
            is_linear: false,
            first_row: 0,
            stop: Stop::Rows(8),
        })
        .unwrap()
    }

    fn block(values: &[u64], is_nullable: bool) -> Gathered {
        let schema = Schema::new(vec![Field::new("x", DataType::UInt64, is_nullable)]);
        let column = Arc::new(UInt64Array::from(values.to_vec()));
        Gathered {
            batch: RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap(),
            is_owned: false,
        }
    }

    fn values(gathered: &Gathered) -> Vec<u64> {
        gathered.batch.column(0).as_primitive::<UInt64Type>().values().to_vec()
    }

    fn names(gathered: &Gathered) -> Vec<String> {
        let column = gathered.batch.column(1).as_dictionary::<Int32Type>();
        let names = column.values().as_string::<i32>();
        column
            .keys()
            .values()
            .iter()
            .map(|&key| names.value(usize::try_from(key).unwrap()).into())
            .collect()
    }

    #[test]
    fn rows_stand_where_the_mixture_has_them() {
        let mix = mix(&[0, 1]);
        let labels = Labels { column: "of".into(), names: vec!["a".into(), "b".into()] };
        let blocks = [block(&[10, 11, 12], false), block(&[20, 21, 22], true)];
        let merged = merge(&mix, 2..8, &blocks, Some(&labels)).unwrap();
        assert_eq!(values(&merged), [10, 20, 11, 21, 12, 22]);
        assert_eq!(names(&merged), ["a", "b", "a", "b", "a", "b"]);
        assert!(merged.is_owned);
        assert!(merged.batch.schema().field(0).is_nullable());
        // On from the start, where the first of a mixture of eight is that of source a.
        let blocks = [block(&[14, 10], false), block(&[24], true)];
        let merged = merge(&mix, 6..9, &blocks, Some(&labels)).unwrap();
        assert_eq!(values(&merged), [14, 24, 10]);
        assert_eq!(names(&merged), ["a", "b", "a"]);
    }

    #[test]
    fn one_batch_is_not_copied() {
        let mix = mix(&[0, 0]);
        let one = block(&[1, 2, 3], false);
        let merged = merge(&mix, 1..4, std::slice::from_ref(&one), None).unwrap();
        assert!(!merged.is_owned);
        assert_eq!(merged.batch, one.batch);
        let labels = Labels { column: "of".into(), names: vec!["a".into(), "b".into()] };
        let merged = merge(&mix, 1..4, std::slice::from_ref(&one), Some(&labels)).unwrap();
        assert_eq!(values(&merged), [1, 2, 3]);
        assert_eq!(names(&merged), ["b", "a", "b"]);
    }

    #[test]
    fn other_rows_are_a_bug() {
        assert!(matches!(merge(&mix(&[0, 1]), 0..3, &[], None), Err(Error::Bug { .. })));
        let one = [block(&[1], false)];
        assert!(matches!(merge(&mix(&[0, 1]), 0..1, &one, None), Err(Error::Bug { .. })));
    }
}
