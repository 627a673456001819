//! Which tokens stand in which block of an epoch.

use std::ops::Range;
use std::sync::Arc;

use super::Lengths;
use super::fit::{self, Fitted, Rule};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::order::Order;

/// Positions between two places of the token stream that are remembered.
const STRIDE: u64 = 1024;

/// How documents are put into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// End to end, cut wherever a block is full.
    Concat,
    /// Whole, as they come, each into the first block of its window that has room.
    FirstFit,
    /// Whole, the longest of a window first, each into the block with the least room left.
    BestFit,
}

/// What becomes of a document of more tokens than a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Long {
    /// It is cut into several pieces.
    Split,
    /// Its first tokens are kept, as many as a block has.
    Truncate,
    /// It is left out.
    Drop,
    /// It is an error.
    Error,
}

/// What decides where tokens go, beside the order and the lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Tokens of a block.
    pub block: u32,
    /// How blocks are filled.
    pub placement: Placement,
    /// What becomes of documents longer than a block.
    pub long: Long,
    /// Whether an end-of-sequence token follows each document, and counts as one of it.
    pub has_eos: bool,
    /// Documents that are fitted together; not for [`Placement::Concat`].
    pub window: u32,
}

/// Tokens `start..start + len` of the document at `position` of the order, in the order of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where the document stands in the order.
    pub position: u64,
    /// The first token.
    pub start: u32,
    /// The number of tokens.
    pub len: u32,
    /// Tokens that the row has, without the one that ends a sequence.
    pub tokens: u32,
}

/// Some blocks, one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// The pieces of all blocks.
    pub pieces: Vec<Piece>,
    /// Where the pieces of each block end.
    pub ends: Vec<usize>,
}

impl Packed {
    /// Forgets all blocks.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.ends.clear();
    }
}

/// The totals of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackCounts {
    /// Documents with at least one token in a block.
    pub documents: u64,
    /// Tokens in blocks, those that end sequences among them.
    pub tokens: u64,
    /// Documents left out or cut short for their length.
    pub long_documents: u64,
    /// Tokens that they lost, those that end sequences among them.
    pub lost_tokens: u64,
}

/// The blocks of an epoch.
///
/// Concatenated, 8 bytes for 1024 documents are kept; fitted, 8 bytes for a window of them.
#[derive(Debug)]
pub struct Packing {
    order: Order,
    lengths: Arc<Lengths>,
    settings: Settings,
    /// Tokens before each run of [`STRIDE`] documents, or blocks before each window; then all.
    before: Vec<u64>,
    counts: PackCounts,
}

impl Packing {
    /// Plans the epoch of `order`. Looks at the length of every row once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if blocks or windows are empty, a length is missing, or a document is longer
    /// than a block under [`Long::Error`]; [`Error::Interrupted`].
    pub fn new(order: Order, lengths: Arc<Lengths>, settings: Settings) -> Result<Self> {
        if settings.block == 0 || i32::try_from(settings.block).is_err() {
            let wanted = format!("from 1 to {} tokens", i32::MAX);
            return Err(Error::invalid(format!("blocks of {} tokens", settings.block), wanted));
        }
        if settings.window == 0 {
            return Err(Error::invalid("window 0", "at least 1 document"));
        }
        let (before, counts) = (Vec::new(), PackCounts::default());
        let mut packing = Self { order, lengths, settings, before, counts };
        packing.plan()?;
        Ok(packing)
    }

    fn plan(&mut self) -> Result<()> {
        let mut cursor = Window::default();
        let mut before = 0;
        let num_windows = self.order.len().div_ceil(self.run());
        self.before.reserve(usize::try_from(num_windows).unwrap_or(0) + 1);
        for window in 0..num_windows {
            interrupt::check()?;
            self.before.push(before);
            self.read(window, &mut cursor)?;
            self.count(&cursor)?;
            before += match self.rule() {
                None => cursor.lengths.iter().map(|&len| u64::from(len)).sum(),
                Some(rule) => fit::count(&cursor.lengths, self.settings.block, rule)?,
            };
        }
        self.before.push(before);
        Ok(())
    }

    /// Returns the number of documents that are looked at together.
    fn run(&self) -> u64 {
        match self.settings.placement {
            Placement::Concat => STRIDE,
            Placement::FirstFit | Placement::BestFit => u64::from(self.settings.window),
        }
    }

    fn rule(&self) -> Option<Rule> {
        match self.settings.placement {
            Placement::Concat => None,
            Placement::FirstFit => Some(Rule::First),
            Placement::BestFit => Some(Rule::Best),
        }
    }

    /// Returns the lengths of the documents of a window, as they count.
    fn read(&self, window: u64, into: &mut Window) -> Result<()> {
        into.start = window * self.run();
        let end = self.order.len().min(into.start + self.run());
        into.offsets = self.order.offsets(into.start..end)?;
        self.lengths.look_up(&into.offsets, &mut into.tokens)?;
        let Settings { block, long, has_eos, .. } = self.settings;
        let length = |&tokens: &u32| {
            let len = tokens + u32::from(has_eos);
            match long {
                Long::Truncate => len.min(block),
                Long::Drop if len > block => 0,
                Long::Split | Long::Error | Long::Drop => len,
            }
        };
        into.lengths.clear();
        into.lengths.extend(into.tokens.iter().map(length));
        Ok(())
    }

    fn count(&mut self, window: &Window) -> Result<()> {
        let Settings { block, long, has_eos, .. } = self.settings;
        for (at, (&tokens, &len)) in window.tokens.iter().zip(&window.lengths).enumerate() {
            let whole = tokens + u32::from(has_eos);
            self.counts.documents += u64::from(len > 0);
            self.counts.tokens += u64::from(len);
            self.counts.long_documents += u64::from(len < whole);
            self.counts.lost_tokens += u64::from(whole - len);
            if long == Long::Error && whole > block {
                let eos = if has_eos { ", the one that ends it among them," } else { "" };
                return Err(Error::invalid(
                    format!("{whole} tokens{eos} in row {}", window.offsets[at]),
                    format!("at most {block}, or long=\"split\", \"truncate\" or \"drop\""),
                ));
            }
        }
        Ok(())
    }

    /// Returns the order that was planned.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Returns the rules of the plan.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Returns the number of blocks.
    pub fn num_blocks(&self) -> u64 {
        let all = self.before.last().copied().unwrap_or(0);
        match self.settings.placement {
            Placement::Concat => all.div_ceil(u64::from(self.settings.block)),
            Placement::FirstFit | Placement::BestFit => all,
        }
    }

    /// Returns the totals of the blocks.
    pub fn counts(&self) -> PackCounts {
        self.counts
    }

    /// Returns the bytes of memory of the plan, without the lengths.
    pub fn num_bytes(&self) -> usize {
        size_of::<Self>() + self.before.len() * size_of::<u64>() + self.order.num_bytes()
    }
}

/// The documents of a window.
#[derive(Debug, Default)]
struct Window {
    /// The first position.
    start: u64,
    offsets: Vec<u64>,
    /// What rows have, and what is kept of it with the token that ends a sequence.
    tokens: Vec<u32>,
    lengths: Vec<u32>,
}

impl Window {
    fn piece(&self, row: usize, start: u32, len: u32) -> Piece {
        Piece { position: self.start + row as u64, start, len, tokens: self.tokens[row] }
    }
}

/// Finds blocks, and remembers the window it looked at last: going forward costs no search.
#[derive(Debug)]
pub struct Cursor {
    packing: Arc<Packing>,
    /// The number of the window, if there is one.
    number: Option<u64>,
    window: Window,
    fitted: Fitted,
}

impl Cursor {
    /// Returns a cursor over the blocks of `packing`.
    pub fn new(packing: Arc<Packing>) -> Self {
        Self { packing, number: None, window: Window::default(), fitted: Fitted::default() }
    }

    /// Returns the plan.
    pub fn packing(&self) -> &Arc<Packing> {
        &self.packing
    }

    /// Appends blocks to `out`.
    ///
    /// Takes as long as for the documents of the windows that the blocks are in, wherever that is.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if there are fewer; [`Error::Interrupted`].
    pub fn blocks(&mut self, blocks: Range<u64>, out: &mut Packed) -> Result<()> {
        let num_rows = self.packing.num_blocks();
        if blocks.end > num_rows {
            return Err(Error::OutOfRange { offset: blocks.end - 1, num_rows });
        }
        if blocks.is_empty() {
            return Ok(());
        }
        match self.packing.rule() {
            None => self.cut(blocks, out),
            Some(_) => self.fitted(blocks, out),
        }
    }

    /// Returns the window that holds token or block `at`.
    fn window_of(&self, at: u64) -> u64 {
        let before = &self.packing.before;
        before[..before.len() - 1].partition_point(|&start| start <= at) as u64 - 1
    }

    fn go_to(&mut self, number: u64) -> Result<()> {
        if self.number == Some(number) {
            return Ok(());
        }
        interrupt::check()?;
        // What is interrupted here is begun anew.
        self.number = None;
        self.packing.read(number, &mut self.window)?;
        if let Some(rule) = self.packing.rule() {
            let block = self.packing.settings.block;
            self.fitted = fit::fit(&self.window.lengths, block, rule)?;
        }
        self.number = Some(number);
        Ok(())
    }

    fn cut(&mut self, blocks: Range<u64>, out: &mut Packed) -> Result<()> {
        let block = u64::from(self.packing.settings.block);
        let num_tokens = self.packing.counts.tokens;
        let end = num_tokens.min(blocks.end * block);
        let mut at = blocks.start * block;
        let mut number = self.window_of(at);
        while at < end {
            self.go_to(number)?;
            let mut start = self.packing.before[usize::try_from(number).expect("in memory")];
            for (row, &len) in self.window.lengths.iter().enumerate() {
                let stop = start + u64::from(len);
                while at < stop.min(end) {
                    let cut = stop.min((at / block + 1) * block).min(end);
                    // Both fit, as they lie in one document.
                    let [from, count] = [at - start, cut - at]
                        .map(|tokens| u32::try_from(tokens).expect("within a document"));
                    out.pieces.push(self.window.piece(row, from, count));
                    at = cut;
                    if at.is_multiple_of(block) || at == num_tokens {
                        out.ends.push(out.pieces.len());
                    }
                }
                start = stop;
                if at >= end {
                    break;
                }
            }
            number += 1;
        }
        Ok(())
    }

    fn fitted(&mut self, blocks: Range<u64>, out: &mut Packed) -> Result<()> {
        let mut at = blocks.start;
        let mut number = self.window_of(at);
        while at < blocks.end {
            self.go_to(number)?;
            let window = usize::try_from(number).expect("in memory");
            let (first, last) = (self.packing.before[window], self.packing.before[window + 1]);
            for block in at..blocks.end.min(last) {
                let block = usize::try_from(block - first).expect("blocks of a window");
                let start = block.checked_sub(1).map_or(0, |before| self.fitted.ends[before]);
                let parts = &self.fitted.parts[start..self.fitted.ends[block]];
                let pieces = parts
                    .iter()
                    .map(|part| self.window.piece(part.row as usize, part.start, part.len));
                out.pieces.extend(pieces);
                out.ends.push(out.pieces.len());
            }
            at = blocks.end.min(last).max(at);
            number += 1;
        }
        Ok(())
    }
}
