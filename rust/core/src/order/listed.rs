//! Explicit row offsets.

use crate::error::{Error, Result};

/// Explicit values, as narrow as they allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// Every value is below 2³².
    Narrow(Vec<u32>),
    /// Some are not.
    Wide(Vec<u64>),
}

impl Listed {
    pub(super) fn new(values: Vec<u64>) -> Self {
        let narrow = values.iter().map(|&value| u32::try_from(value)).collect();
        match narrow {
            Ok(narrow) => Self::Narrow(narrow),
            Err(_) => Self::Wide(values),
        }
    }

    /// Returns the number of entries.
    pub fn len(&self) -> u64 {
        match self {
            Self::Narrow(list) => list.len() as u64,
            Self::Wide(list) => list.len() as u64,
        }
    }

    /// Returns whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn bound(&self) -> u64 {
        match self {
            Self::Narrow(list) => list.iter().max().map_or(0, |&max| u64::from(max) + 1),
            Self::Wide(list) => list.iter().max().map_or(0, |max| max.saturating_add(1)),
        }
    }

    /// Returns the entry at a position below [`len`](Self::len).
    pub(super) fn at(&self, position: u64) -> u64 {
        match self {
            Self::Narrow(list) => u64::from(list[index(position)]),
            Self::Wide(list) => list[index(position)],
        }
    }

    pub(super) fn apply(&self, positions: &mut [u64]) {
        match self {
            Self::Narrow(list) => {
                for position in positions {
                    *position = u64::from(list[index(*position)]);
                }
            }
            Self::Wide(list) => {
                for position in positions {
                    *position = list[index(*position)];
                }
            }
        }
    }

    pub(super) fn fill(&self, start: u64, out: &mut [u64]) {
        let range = index(start)..index(start) + out.len();
        match self {
            Self::Narrow(list) => {
                for (value, &entry) in out.iter_mut().zip(&list[range]) {
                    *value = u64::from(entry);
                }
            }
            Self::Wide(list) => out.copy_from_slice(&list[range]),
        }
    }

    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::Narrow(list) => size_of_val(&**list),
            Self::Wide(list) => size_of_val(&**list),
        }
    }

    /// Returns the entries in little-endian order, and their width: 4 bytes if all fit, else 8.
    pub fn to_bytes(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Narrow(list) => (4, list.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Self::Wide(list) => (8, list.iter().flat_map(|v| v.to_le_bytes()).collect()),
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the bytes are not whole entries of 4 or 8 bytes.
    pub fn from_bytes(width: u8, bytes: &[u8]) -> Result<Self> {
        match width {
            4 if bytes.len().is_multiple_of(4) => {
                let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
                Ok(Self::Narrow(words.collect()))
            }
            8 if bytes.len().is_multiple_of(8) => {
                let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
                Ok(Self::Wide(words.collect()))
            }
            _ => Err(Error::invalid(
                format!("{} bytes in entries of {width}", bytes.len()),
                "whole entries of 4 or 8 bytes",
            )),
        }
    }
}

/// Converts to an index. OK: a list holds every entry in memory.
#[expect(clippy::cast_possible_truncation, reason = "positions of a list in memory")]
fn index(position: u64) -> usize {
    position as usize
}
