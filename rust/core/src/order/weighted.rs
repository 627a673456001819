//! Draws with replacement: by a weight for each row, or by class.
//!
//! A draw is computed from its number, so that any of them is as near as the first, and there may
//! be more of them than rows: words `3k`, `3k + 1` and `3k + 2` of a SplitMix64 stream choose a
//! class by an alias table and then one of its rows. Where rows have weights of their own, each row
//! is a class. What is stored is the table, 12 bytes a class, and the rows class by class.

mod alias;
mod bytes;
mod choose;
mod stream;

use self::alias::{Alias, index};
use self::bytes::{foreign, read_list, read_word, read_words, take, write_list, write_words};
pub use self::choose::choose;
use self::stream::{scaled, word};
use super::Listed;
use super::bijection::{Purpose, key};
use crate::error::{Error, Result};

/// Any number of rows drawn from `0..num_rows`, chosen by `(seed, epoch)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighted {
    num_rows: u64,
    seed: u64,
    epoch: u64,
    key: u64,
    num_classes: u64,
    /// How classes are drawn; evenly without it.
    alias: Option<Alias>,
    /// The rows of each class; the class itself without it.
    members: Option<Members>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Members {
    /// Where the rows of a class begin; one entry more than there are classes. No class is empty.
    starts: Vec<u64>,
    rows: Listed,
}

impl Weighted {
    /// Creates draws in which every row is equally likely. Stores nothing per row.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there are no rows.
    pub fn uniform(num_rows: u64, seed: u64, epoch: u64) -> Result<Self> {
        Self::new(num_rows, num_rows, None, None).map(|drawn| drawn.with_seed(seed, epoch))
    }

    /// Creates draws of row `k` with a probability proportional to `weights[k]`, never if that is 0.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a weight is negative or not finite, or none is above 0.
    pub fn by_row(weights: &[f64], seed: u64, epoch: u64) -> Result<Self> {
        let num_rows = weights.len() as u64;
        let alias = Alias::new(weights)?;
        Self::new(num_rows, num_rows, Some(alias), None).map(|drawn| drawn.with_seed(seed, epoch))
    }

    /// Creates draws in which a class is drawn, evenly or in proportion to `weights`, and then any of its rows.
    ///
    /// `classes[k]` is the class of row `k`, counted from 0 without a gap.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if a class has no row, if there is not a weight for each, or as for
    /// [`by_row`](Self::by_row).
    pub fn by_class(
        classes: &[u32],
        weights: Option<&[f64]>,
        seed: u64,
        epoch: u64,
    ) -> Result<Self> {
        let sizes = sizes_of(classes)?;
        let mut starts = Vec::with_capacity(sizes.len() + 1);
        let mut next = Vec::with_capacity(sizes.len());
        let mut end = 0;
        starts.push(0);
        for size in &sizes {
            next.push(end);
            end += *size;
            starts.push(end as u64);
        }
        let mut rows = vec![0; classes.len()];
        for (row, &class) in (0..).zip(classes) {
            let place = &mut next[class as usize];
            rows[*place] = row;
            *place += 1;
        }
        let alias = match weights {
            Some(weights) if weights.len() != sizes.len() => {
                return Err(Error::invalid(
                    format!("{} weights", weights.len()),
                    format!("one for each of {} classes", sizes.len()),
                ));
            }
            Some(weights) => Some(Alias::new(weights)?),
            None => None,
        };
        let members = Members { starts, rows: Listed::new(rows) };
        Self::new(classes.len() as u64, sizes.len() as u64, alias, Some(members))
            .map(|drawn| drawn.with_seed(seed, epoch))
    }

    fn new(
        num_rows: u64,
        num_classes: u64,
        alias: Option<Alias>,
        members: Option<Members>,
    ) -> Result<Self> {
        if num_rows == 0 {
            return Err(Error::invalid("draws from 0 rows", "at least 1 row"));
        }
        Ok(Self { num_rows, seed: 0, epoch: 0, key: 0, num_classes, alias, members })
    }

    /// Returns the same weights, drawn from by another `(seed, epoch)`.
    #[must_use]
    pub fn with_seed(self, seed: u64, epoch: u64) -> Self {
        Self { seed, epoch, key: key(Purpose::Draw, seed, epoch), ..self }
    }

    /// Returns the number of rows drawn from.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Returns the number of classes: rows, if each has a weight of its own.
    pub fn num_classes(&self) -> u64 {
        self.num_classes
    }

    /// Returns the seed it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the epoch it was made for.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Replaces each position by the row drawn there.
    pub fn apply(&self, positions: &mut [u64]) {
        for position in positions.iter_mut() {
            let first = position.wrapping_mul(3);
            let mut class = scaled(word(self.key, first), self.num_classes);
            if let Some(alias) = &self.alias {
                class = alias.pick(class, word(self.key, first.wrapping_add(1)));
            }
            *position = class;
            if let Some(Members { starts, .. }) = &self.members {
                let class = index(class);
                let size = starts[class + 1] - starts[class];
                let place = scaled(word(self.key, first.wrapping_add(2)), size);
                *position = starts[class] + place;
            }
        }
        if let Some(members) = &self.members {
            members.rows.apply(positions);
        }
    }

    /// Returns the bytes of memory it takes.
    pub fn num_bytes(&self) -> usize {
        let members = self
            .members
            .as_ref()
            .map_or(0, |members| size_of_val(&*members.starts) + members.rows.num_bytes());
        size_of::<Self>() + self.alias.as_ref().map_or(0, Alias::num_bytes) + members
    }

    /// Returns what it draws from, but for seed and epoch: little-endian, the same on every
    /// machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.num_bytes());
        out.extend(self.num_rows.to_le_bytes());
        out.extend(self.num_classes.to_le_bytes());
        out.push(u8::from(self.alias.is_some()) | u8::from(self.members.is_some()) << 1);
        if let Some(alias) = &self.alias {
            alias.write(&mut out);
        }
        if let Some(members) = &self.members {
            write_words(&members.starts, &mut out);
            write_list(&members.rows, &mut out);
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the bytes are something else.
    pub fn from_bytes(mut bytes: &[u8], seed: u64, epoch: u64) -> Result<Self> {
        let bytes = &mut bytes;
        let (num_rows, num_classes) = (read_word(bytes)?, read_word(bytes)?);
        let [kind] = *take(bytes, 1)? else { return Err(foreign()) };
        let count = usize::try_from(num_classes).map_err(|_| foreign())?;
        let alias = if kind & 1 == 1 { Some(Alias::read(count, bytes)?) } else { None };
        let members = if kind & 2 == 2 {
            let starts = read_words(count.checked_add(1).ok_or_else(foreign)?, bytes)?;
            let rows = read_list(index(num_rows), bytes)?;
            let is_whole = starts[0] == 0 && starts[count] == num_rows;
            if !is_whole || !starts.is_sorted_by(|a, b| a < b) || rows.bound() > num_rows {
                return Err(foreign());
            }
            Some(Members { starts, rows })
        } else {
            None
        };
        if kind > 3 || !bytes.is_empty() || (members.is_none() && num_rows != num_classes) {
            return Err(foreign());
        }
        Self::new(num_rows, num_classes, alias, members).map(|drawn| drawn.with_seed(seed, epoch))
    }
}

/// Returns the rows of each class.
fn sizes_of(classes: &[u32]) -> Result<Vec<usize>> {
    let num_classes = classes.iter().max().map_or(0, |&max| max as usize + 1);
    let mut sizes = vec![0_usize; num_classes];
    for &class in classes {
        sizes[class as usize] += 1;
    }
    match sizes.iter().position(|&size| size == 0) {
        Some(class) => {
            Err(Error::invalid(format!("class {class} without rows"), "at least 1 row per class"))
        }
        None => Ok(sizes),
    }
}

#[cfg(test)]
mod tests;
