//! Pieces of documents and the rows they are in → one batch of blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, Int32Array, Int64Array, ListArray, OffsetSizeTrait,
    RecordBatch,
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::{Cursor, Packed, Packing, Piece};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::order::Share;

/// What [`Filler::next_batch`] comes to.
#[derive(Debug)]
pub enum Step {
    /// The next batch.
    Batch(RecordBatch),
    /// More rows are needed: push the next ones.
    Rows,
    /// There are no more batches.
    End,
}

/// Makes the batches of a share of the rows that [`reads()`](super::reads()) lists.
///
/// A batch has a row for each block, and the columns
///
/// * `input_ids`, `doc_ids`, `position_ids`: `FixedSizeList<Int64>` of as many tokens as a block has;
/// * `cu_seqlens`: `List<Int32>`, where the documents of the block begin and the end of the last;
/// * `num_tokens`: `Int64`, how many tokens are not padding.
///
/// `doc_ids` count the documents of a block from 0, `position_ids` the tokens of each. Padding is a document
/// of its own in `position_ids` and in `cu_seqlens`, which so ends at the block's length, as kernels
/// that take segments want it; its `doc_ids` are -1.
#[derive(Debug)]
pub struct Filler {
    cursor: Cursor,
    share: Share,
    pad_id: i64,
    eos_id: i64,
    next: u64,
    /// The pieces of the next batch, if they were looked for.
    packed: Option<Packed>,
    /// Columns pushed, and which of all rows read is the first of each.
    columns: VecDeque<(u64, Tokens)>,
    num_read: u64,
    /// Of all rows read, the one used last, and its position.
    used: Option<(u64, u64)>,
    schema: SchemaRef,
}

impl Filler {
    /// Returns a filler for the batches of `share`. `eos_id` is for plans that end documents with a
    /// token.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the share is not one of these blocks.
    pub fn new(packing: Arc<Packing>, share: Share, pad_id: i64, eos_id: i64) -> Result<Self> {
        share.check(packing.num_blocks())?;
        let block = i32::try_from(packing.settings().block).expect("checked by the plan");
        Ok(Self {
            cursor: Cursor::new(packing),
            share,
            pad_id,
            eos_id,
            next: 0,
            packed: None,
            columns: VecDeque::new(),
            num_read: 0,
            used: None,
            schema: schema(block),
        })
    }

    /// Returns the schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Takes the tokens of the next rows.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if they are no lists of whole numbers.
    pub fn push(&mut self, column: &ArrayRef) -> Result<()> {
        if !column.is_empty() {
            self.columns.push_back((self.num_read, Tokens::new(column)?));
            self.num_read += column.len() as u64;
        }
        Ok(())
    }

    /// Returns the next batch, if the rows that were pushed suffice for it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], naming the row, if a token is null or beyond 64 bits with a sign, or a row has
    /// another length than it was planned with; [`Error::Interrupted`].
    pub fn next_batch(&mut self) -> Result<Step> {
        if self.next >= self.share.num_batches() {
            return Ok(Step::End);
        }
        if self.packed.is_none() {
            let mut packed = Packed::default();
            for blocks in self.share.runs(self.next) {
                self.cursor.blocks(blocks, &mut packed)?;
            }
            self.packed = Some(packed);
        }
        let packed = self.packed.take().expect("it was just made");
        let rows = self.rows_of(&packed.pieces);
        if rows.last().is_some_and(|&row| row >= self.num_read) {
            self.packed = Some(packed);
            return Ok(Step::Rows);
        }
        let batch = self.fill(&packed, &rows)?;
        self.next += 1;
        if let (Some(&row), Some(piece)) = (rows.last(), packed.pieces.last()) {
            self.used = Some((row, piece.position));
            // The row used last may be where the next batch begins.
            while self.columns.get(1).is_some_and(|(first, _)| *first <= row) {
                self.columns.pop_front();
            }
        }
        Ok(Step::Batch(batch))
    }

    /// Returns the number of the row that each piece is in, among all rows read; rows are read in the
    /// order they are used.
    fn rows_of(&self, pieces: &[Piece]) -> Vec<u64> {
        let mut used = self.used;
        let mut rows = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let row = match used {
                None => 0,
                Some((row, position)) => row + u64::from(position != piece.position),
            };
            used = Some((row, piece.position));
            rows.push(row);
        }
        rows
    }

    fn fill(&self, packed: &Packed, rows: &[u64]) -> Result<RecordBatch> {
        let block = self.cursor.packing().settings().block as usize;
        let mut out = Blocks::new(packed, block, self.pad_id);
        let mut column = 0;
        let mut start = 0;
        for (number, &end) in packed.ends.iter().enumerate() {
            interrupt::check()?;
            let mut at = number * block;
            for (piece, &row) in packed.pieces[start..end].iter().zip(&rows[start..end]) {
                while self.columns.get(column + 1).is_some_and(|(first, _)| *first <= row) {
                    column += 1;
                }
                let (first, tokens) = &self.columns[column];
                let place = usize::try_from(row - first).expect("rows are in memory");
                let slots = &mut out.input_ids[at..at + piece.len as usize];
                self.copy(tokens, place, *piece, slots)?;
                at += slots.len();
            }
            out.close(&packed.pieces[start..end]);
            start = end;
        }
        out.into_batch(&self.schema, block)
    }

    /// Copies the tokens of a piece, and the one that ends the document if the piece does.
    fn copy(&self, tokens: &Tokens, row: usize, piece: Piece, slots: &mut [i64]) -> Result<()> {
        let range = tokens.range(row);
        if range.len() != piece.tokens as usize {
            return Err(Error::invalid(
                format!("{} tokens in row {}", range.len(), self.offset(piece)),
                format!("{}, as the column of lengths has it", piece.tokens),
            ));
        }
        let start = range.start + piece.start as usize;
        let count = slots.len().min(range.end.saturating_sub(start));
        let (own, end) = slots.split_at_mut(count);
        if let Err(problem) = tokens.copy(start, own) {
            return Err(Error::invalid(
                format!("{problem} among the tokens of row {}", self.offset(piece)),
                "whole numbers that fit into int64",
            ));
        }
        end.fill(self.eos_id);
        Ok(())
    }

    /// Returns the row offset of a piece.
    fn offset(&self, piece: Piece) -> u64 {
        let mut offset = [piece.position];
        // For messages only: it was resolved before.
        let resolved = self.cursor.packing().order().resolve(&mut offset);
        resolved.map_or(piece.position, |()| offset[0])
    }
}

/// A column of lists of whole numbers.
#[derive(Debug)]
struct Tokens {
    lists: ArrayRef,
    values: ArrayRef,
}

impl Tokens {
    fn new(lists: &ArrayRef) -> Result<Self> {
        let values = match lists.data_type() {
            DataType::List(_) => lists.as_list::<i32>().values(),
            DataType::LargeList(_) => lists.as_list::<i64>().values(),
            DataType::FixedSizeList(..) => lists.as_fixed_size_list().values(),
            _ => return Err(not_tokens(lists)),
        };
        if !values.data_type().is_integer() {
            return Err(not_tokens(lists));
        }
        Ok(Self { lists: Arc::clone(lists), values: Arc::clone(values) })
    }

    /// Returns where the values of a row lie; nowhere if the row is null.
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        fn of<O: OffsetSizeTrait>(ends: &[O], row: usize) -> std::ops::Range<usize> {
            ends[row].as_usize()..ends[row + 1].as_usize()
        }
        if self.lists.is_null(row) {
            return 0..0;
        }
        match self.lists.data_type() {
            DataType::List(_) => of(self.lists.as_list::<i32>().value_offsets(), row),
            DataType::LargeList(_) => of(self.lists.as_list::<i64>().value_offsets(), row),
            _ => {
                let lists = self.lists.as_fixed_size_list();
                let len = usize::try_from(lists.value_length()).expect("not negative");
                row * len..(row + 1) * len
            }
        }
    }

    /// Copies the values from `start` on, or says what is wrong with one of them.
    fn copy(&self, start: usize, out: &mut [i64]) -> std::result::Result<(), String> {
        fn plain<T: ArrowPrimitiveType<Native: Into<i64>>>(
            values: &ArrayRef,
            start: usize,
            out: &mut [i64],
        ) {
            let values = &values.as_primitive::<T>().values()[start..start + out.len()];
            for (slot, &value) in out.iter_mut().zip(values) {
                *slot = value.into();
            }
        }
        let values = &self.values;
        if let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0)
            && (start..start + out.len()).any(|at| nulls.is_null(at))
        {
            return Err("null".into());
        }
        match values.data_type() {
            DataType::Int8 => plain::<Int8Type>(values, start, out),
            DataType::Int16 => plain::<Int16Type>(values, start, out),
            DataType::Int32 => plain::<Int32Type>(values, start, out),
            DataType::Int64 => plain::<Int64Type>(values, start, out),
            DataType::UInt8 => plain::<UInt8Type>(values, start, out),
            DataType::UInt16 => plain::<UInt16Type>(values, start, out),
            DataType::UInt32 => plain::<UInt32Type>(values, start, out),
            _ => {
                let values = values.as_primitive::<UInt64Type>().values();
                for (slot, &value) in out.iter_mut().zip(&values[start..]) {
                    *slot = i64::try_from(value).map_err(|_| value.to_string())?;
                }
            }
        }
        Ok(())
    }
}

fn not_tokens(column: &ArrayRef) -> Error {
    Error::invalid(
        format!("tokens in a column of type {}", column.data_type()),
        "lists of whole numbers",
    )
}

fn schema(block: i32) -> SchemaRef {
    let vector = |name: &str| {
        let item = Arc::new(Field::new("item", DataType::Int64, false));
        Field::new(name, DataType::FixedSizeList(item, block), false)
    };
    let ends = Arc::new(Field::new("item", DataType::Int32, false));
    Arc::new(Schema::new(vec![
        vector("input_ids"),
        vector("doc_ids"),
        vector("position_ids"),
        Field::new("cu_seqlens", DataType::List(ends), false),
        Field::new("num_tokens", DataType::Int64, false),
    ]))
}

/// The columns of a batch as they are filled.
struct Blocks {
    block: usize,
    input_ids: Vec<i64>,
    doc_ids: Vec<i64>,
    position_ids: Vec<i64>,
    starts: Vec<i32>,
    num_starts: Vec<i32>,
    num_tokens: Vec<i64>,
}

impl Blocks {
    fn new(packed: &Packed, block: usize, pad_id: i64) -> Self {
        let num_blocks = packed.ends.len();
        let size = num_blocks * block;
        Self {
            block,
            input_ids: vec![pad_id; size],
            doc_ids: Vec::with_capacity(size),
            position_ids: Vec::with_capacity(size),
            starts: Vec::with_capacity(packed.pieces.len() + 2 * num_blocks),
            num_starts: vec![0],
            num_tokens: Vec::with_capacity(num_blocks),
        }
    }

    /// Numbers the documents of the next block.
    fn close(&mut self, pieces: &[Piece]) {
        let mut start = 0;
        for (document, piece) in (0..).zip(pieces) {
            self.segment(&mut start, document, piece.len as usize);
        }
        self.num_tokens.push(narrow(start).into());
        if start < self.block {
            let padding = self.block - start;
            self.segment(&mut start, -1, padding);
        }
        self.starts.push(narrow(start));
        self.num_starts.push(narrow(self.starts.len()));
    }

    fn segment(&mut self, start: &mut usize, document: i64, len: usize) {
        self.starts.push(narrow(*start));
        self.doc_ids.extend(std::iter::repeat_n(document, len));
        self.position_ids.extend(0..i64::from(narrow(len)));
        *start += len;
    }

    fn into_batch(self, schema: &SchemaRef, block: usize) -> Result<RecordBatch> {
        let num_blocks = self.num_tokens.len();
        let list_size = narrow(block);
        let vector = |at: usize, values: Vec<i64>| -> Result<ArrayRef> {
            let DataType::FixedSizeList(field, _) = schema.field(at).data_type() else {
                return Err(Error::bug("blocks of another type"));
            };
            let values = Arc::new(Int64Array::from(values));
            let field = Arc::clone(field);
            let array =
                FixedSizeListArray::try_new_with_length(field, list_size, values, None, num_blocks);
            Ok(Arc::new(
                array
                    .map_err(|error| Error::bug("packed sequences do not fit").caused_by(&error))?,
            ))
        };
        let DataType::List(field) = schema.field(3).data_type() else {
            return Err(Error::bug("ends of another type"));
        };
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.num_starts));
        let starts = Arc::new(Int32Array::from(self.starts));
        let cu_seqlens = ListArray::try_new(Arc::clone(field), offsets, starts, None);
        let columns: Vec<ArrayRef> = vec![
            vector(0, self.input_ids)?,
            vector(1, self.doc_ids)?,
            vector(2, self.position_ids)?,
            Arc::new(
                cu_seqlens
                    .map_err(|error| Error::bug("packed sequences do not fit").caused_by(&error))?,
            ),
            Arc::new(Int64Array::from(self.num_tokens)),
        ];
        RecordBatch::try_new(Arc::clone(schema), columns)
            .map_err(|error| Error::bug("packed sequences do not fit").caused_by(&error))
    }
}

/// Converts a place within a batch, which has less than 2³¹ tokens.
fn narrow(place: usize) -> i32 {
    i32::try_from(place).expect("blocks and their pieces are counted in 32 bits")
}
