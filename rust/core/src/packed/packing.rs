//! How rows of a schema are packed: where each value lies in a row.

use std::sync::Arc;

use arrow_schema::{DataType, Field, SchemaRef};
use twox_hash::XxHash3_64;

use super::bytes::{read_u32, read_u64, width_of};
use super::nested;
use crate::error::Result;

/// How rows of a schema are packed.
#[derive(Debug, Clone)]
pub struct Packing {
    pub(super) schema: SchemaRef,
    pub(super) columns: Vec<Node>,
    /// Every value that is stored, in the order of the columns.
    pub(super) leaves: Vec<Leaf>,
    pub(super) num_bits: usize,
    pub(super) stride: usize,
    /// Where a head says where its tail begins, if rows have tails.
    pub(super) tail_slot: Option<usize>,
}

/// A column, or a field inside one.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) field: Arc<Field>,
    /// The bit that is set where it is null.
    pub(super) null_bit: Option<usize>,
    pub(super) kind: Kind,
}

/// How a column's values are stored, by number of the leaf.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Every value is null.
    Null,
    /// Numbers, times, decimals, fixed-size binary.
    Fixed(usize),
    Bool(usize),
    /// Strings and binary.
    Bytes(usize),
    /// Lists of fixed-width values, and where values are null inside of them.
    List {
        values: usize,
        mask: Option<usize>,
        width: usize,
    },
    /// Vectors of `len` fixed-width values.
    Vector {
        values: usize,
        mask: Option<usize>,
        len: usize,
    },
    Struct(Vec<Node>),
    /// Anything else, encoded value by value.
    Nested(usize),
}

/// A place for values in a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leaf {
    /// `width` bytes of the head from `slot` on.
    Fixed { slot: usize, width: usize },
    /// A bit of the head.
    Bit { bit: usize },
    /// A part of the tail; its length stands in the head at `slot`.
    Tail { slot: usize },
}

impl Packing {
    /// Lays out rows with these columns.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for dictionaries, unions, views and run-end encoded columns.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let mut plan = Plan::default();
        let columns = schema.fields().iter().map(|field| plan.node(field, false));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let bits = plan.num_bits.div_ceil(8);
        let mut end = bits;
        for leaf in &mut plan.leaves {
            if let Leaf::Fixed { slot, width } = leaf {
                *slot = end;
                end += *width;
            }
        }
        let has_tail = plan.leaves.iter().any(|leaf| matches!(leaf, Leaf::Tail { .. }));
        let tail_slot = has_tail.then_some(end);
        end += if has_tail { size_of::<u64>() } else { 0 };
        for leaf in &mut plan.leaves {
            if let Leaf::Tail { slot } = leaf {
                *slot = end;
                end += size_of::<u32>();
            }
        }
        Ok(Self {
            schema: Arc::clone(schema),
            columns,
            leaves: plan.leaves,
            num_bits: plan.num_bits,
            stride: end,
            tail_slot,
        })
    }

    /// Returns the columns, in the order they are packed and unpacked.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the bytes of a head.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Returns a hash of the layout: rows packed by one are read by another only if theirs is equal.
    pub(crate) fn signature(&self) -> u64 {
        let Self { columns, leaves, num_bits, stride, tail_slot, .. } = self;
        let text = format!("{columns:?} {leaves:?} {num_bits} {stride} {tail_slot:?}");
        XxHash3_64::oneshot(text.as_bytes())
    }

    /// Returns whether rows have tails.
    pub(crate) fn has_tails(&self) -> bool {
        self.tail_slot.is_some()
    }

    /// Returns the number of bits of a head.
    pub(crate) fn num_bits(&self) -> usize {
        self.num_bits
    }

    /// Returns whether any of the columns numbered `wanted` is null in some row, going by the bits that
    /// are set.
    pub(crate) fn may_be_null(&self, wanted: &[usize], bits_set: &[bool]) -> bool {
        let is_set =
            |&column: &usize| self.columns[column].null_bit.is_some_and(|bit| bits_set[bit]);
        wanted.iter().any(is_set)
    }

    /// Returns where the tail of a row begins, and how long it is.
    pub(crate) fn tail_of(&self, head: &[u8]) -> std::ops::Range<usize> {
        let Some(slot) = self.tail_slot else {
            return 0..0;
        };
        let start = read_u64(head, slot);
        let lengths = self.leaves.iter().map(|leaf| match leaf {
            Leaf::Tail { slot } => read_u32(head, *slot),
            Leaf::Fixed { .. } | Leaf::Bit { .. } => 0,
        });
        start..start + lengths.sum::<usize>()
    }

    /// Says in `head` that its tail begins at `start`.
    pub(crate) fn set_tail(&self, head: &mut [u8], start: usize) {
        if let Some(slot) = self.tail_slot {
            head[slot..slot + size_of::<u64>()].copy_from_slice(&(start as u64).to_le_bytes());
        }
    }
}

/// Numbers bits and leaves, column after column.
#[derive(Default)]
struct Plan {
    leaves: Vec<Leaf>,
    num_bits: usize,
}

impl Plan {
    /// Lays out a field. Inside of a nullable one it is nullable, whatever it says itself.
    fn node(&mut self, field: &Arc<Field>, is_masked: bool) -> Result<Node> {
        let may_be_null = is_masked || field.is_nullable();
        let null_bit = may_be_null.then(|| self.bit());
        let kind = match field.data_type() {
            DataType::Null => Kind::Null,
            DataType::Boolean => {
                let bit = self.bit();
                Kind::Bool(self.leaf(Leaf::Bit { bit }))
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
                Kind::Bytes(self.tail())
            }
            DataType::Struct(fields) => {
                let inner = fields.iter().map(|field| self.node(field, may_be_null));
                Kind::Struct(inner.collect::<Result<_>>()?)
            }
            DataType::List(child) | DataType::LargeList(child) => match width_of(child) {
                Some(width) => {
                    let values = self.tail();
                    let mask = child.is_nullable().then(|| self.tail());
                    Kind::List { values, mask, width }
                }
                None => self.nested(field)?,
            },
            DataType::FixedSizeList(child, len) => match width_of(child) {
                Some(width) => {
                    let len = usize::try_from(*len).unwrap_or(0);
                    let values = self.leaf(Leaf::Fixed { slot: 0, width: width * len });
                    let mask = child.is_nullable().then(|| self.tail());
                    Kind::Vector { values, mask, len }
                }
                None => self.nested(field)?,
            },
            _ => match width_of(field) {
                Some(width) => Kind::Fixed(self.leaf(Leaf::Fixed { slot: 0, width })),
                None => self.nested(field)?,
            },
        };
        Ok(Node { field: Arc::clone(field), null_bit, kind })
    }

    fn nested(&mut self, field: &Field) -> Result<Kind> {
        nested::check(field)?;
        Ok(Kind::Nested(self.tail()))
    }

    fn bit(&mut self) -> usize {
        self.num_bits += 1;
        self.num_bits - 1
    }

    fn tail(&mut self) -> usize {
        self.leaf(Leaf::Tail { slot: 0 })
    }

    fn leaf(&mut self, leaf: Leaf) -> usize {
        self.leaves.push(leaf);
        self.leaves.len() - 1
    }
}
