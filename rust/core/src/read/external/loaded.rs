//! A bucket in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::super::scratch::Extent;
use crate::runtime::lock;

/// Where a bucket is put; locked while it is read.
pub(super) type Slot = Mutex<Option<Arc<Loaded>>>;

/// Instead of where a row begins.
pub(super) const NOT_HERE: usize = usize::MAX;

/// A bucket in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bytes: Vec<u8>,
    /// Where each place's row begins, or [`NOT_HERE`].
    pub(super) starts: Vec<usize>,
    /// Places whose rows are still in the file.
    pub(super) far: HashMap<u32, Extent>,
    pub(super) memory: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        lock(&self.memory).push(std::mem::take(&mut self.bytes));
    }
}
