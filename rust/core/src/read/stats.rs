//! What a reader did so far.

use crate::files::Traffic;

/// What a reader did so far, in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// Rows gathered from packed rows.
    pub rows_packed: u64,
    /// Rows read from the data files.
    pub rows_direct: u64,
    /// Rows written to scratch files.
    pub rows_spilled: u64,
    /// Blocks of packed rows that were decoded here.
    pub blocks_filled: u64,
    /// Blocks that another process, or an earlier run, had left.
    pub blocks_mapped: u64,
    /// Bytes of packed rows that are there.
    pub bytes_kept: u64,
    /// Nanoseconds that filling took, or 0 if it is not over.
    pub fill_nanos: u64,
    /// What was asked of stores on other machines, by all readers of the table.
    pub traffic: Traffic,
    /// Whether packed rows are shared with other processes.
    pub is_shared: bool,
    /// Why rows could not be packed, or not be kept in files.
    pub failure: Option<String>,
    /// Why nothing more is kept of what is fetched.
    pub copy_failure: Option<String>,
}
