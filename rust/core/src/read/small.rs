//! Small tables on another machine, which are fetched as a whole before anything else.
//!
//! Where rows differ in length, a choice looks at a few of them, packing asks what files say of their pages,
//! and only then are the rows fetched: each of the three waits for the one before it. If the first batch
//! touches most of a small table, all of it comes at once instead, and the three find it on this machine.

use super::base::Base;
use super::choose::{Strategy, WIDE_BYTES};
use super::direct::Touched;
use super::packed_reader::is_packed;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::packed::Packing;

/// The most bytes of the files of a small table.
const SMALL_TABLE_BYTES: u64 = 64 << 20;

/// How many times as large a limit of the cache folder must be.
const ROOM_PER_BYTE: u64 = 8;

impl Reader {
    /// Fetches a small table that is about to be packed, and was not packed before; `first` rows are wanted
    /// first.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`], and those that may pass, as of a store that cannot be reached. Others surface when
    /// rows are read.
    pub(super) fn fetch_if_small(&self, first: usize) -> Result<()> {
        match self.try_fetch_if_small(first) {
            Err(error) if matches!(error, Error::Interrupted) || error.may_pass() => Err(error),
            _ => Ok(()),
        }
    }

    fn try_fetch_if_small(&self, first: usize) -> Result<()> {
        let shared = &self.shared;
        let Base::Direct(direct) = &shared.base else {
            return Ok(());
        };
        let is_known = shared.choice.load().is_some();
        // Only rows that differ in length are looked at.
        let may_be_sampled = shared.options.strategy != Some(Strategy::Direct)
            && Packing::new(direct.columns().schema()).is_ok_and(|packing| packing.has_tails());
        // The cache folder has to hold packed rows as well.
        let most = shared.options.cache_limit.map_or(u64::MAX, |limit| limit / ROOM_PER_BYTE);
        let is_small =
            direct.file_bytes().is_some_and(|bytes| bytes <= SMALL_TABLE_BYTES.min(most));
        if is_known || !may_be_sampled || !is_small || is_packed(direct, &shared.options) {
            return Ok(());
        }
        if direct.touched_by(first)? == Touched::Most && self.weights()?.mean() <= WIDE_BYTES {
            direct.fetch_all()?;
        }
        Ok(())
    }
}
