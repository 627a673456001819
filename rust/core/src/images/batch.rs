//! Rows of files → one buffer of pixels, on the threads of the pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::ArrayRef;
use arrow_buffer::Buffer;

use super::column::Files;
use super::crop::{Plan, Region};
use super::decode::decode_rows;
use super::decode::image::Image;
use super::pixels::Orientation;
use super::recipe::Recipe;
use super::scratch::Scratch;
use super::slots::Slots;
use super::{crop, jitter, pixels, pool, resize};
use crate::error::{Error, Result, text_of_panic};
use crate::runtime::lock;

/// Why the image of a row could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The row in the batch.
    pub row: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The images of a batch.
#[derive(Debug)]
pub struct Decoded {
    /// Their samples: one buffer if they have one size, otherwise one for each row. Zeros stand for rows
    /// without an image.
    pub samples: Vec<Buffer>,
    /// The height and width of each row, unless they have one size.
    pub sizes: Vec<(u32, u32)>,
    /// The rows that are null.
    pub nulls: Vec<usize>,
    /// The rows that could not be decoded, ascending.
    pub faults: Vec<Fault>,
}

/// What became of a row.
#[derive(Debug)]
enum Outcome {
    InSlot,
    Alone((u32, u32), Buffer),
    Null,
    Broken(String),
}

/// Decodes the images of a column.
///
/// # Errors
///
/// [`Error::Invalid`] if the column holds no files, or the recipe or the number of keys is wrong;
/// [`Error::Interrupted`]. Images that are broken are no errors here.
pub fn decode(
    column: &ArrayRef,
    recipe: &Recipe,
    keys: Option<Vec<u64>>,
    threads: usize,
) -> Result<Decoded> {
    recipe.check()?;
    let files = Files::of(column)?;
    let num_rows = files.len();
    if keys.as_ref().map_or(recipe.is_random(), |keys| keys.len() != num_rows) {
        let found = keys.map_or(0, |keys| keys.len());
        return Err(Error::invalid(format!("{found} keys for {num_rows} rows"), "one for each"));
    }
    let slots = recipe.size.map(|size| slot_len(recipe, size).map(|len| (len, num_rows)));
    let slots = match slots.transpose()? {
        Some((len, count)) => {
            len.checked_mul(count).filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or_else(
                || Error::invalid(format!("{count} images of {len} bytes"), "fewer of them"),
            )?;
            Some(Slots::new(count, len))
        }
        None => None,
    };
    let rows = Arc::new(Rows {
        files,
        recipe: recipe.clone(),
        keys,
        slots,
        outcomes: (0..num_rows).map(|_| Mutex::new(None)).collect(),
    });
    let shared = Arc::clone(&rows);
    pool::for_each(num_rows, threads, move |row, scratch| {
        let outcome = shared.outcome(row, scratch);
        *lock(&shared.outcomes[row]) = Some(outcome);
    })?;
    Arc::try_unwrap(rows)
        .map_or_else(|_| Err(Error::bug("rows of images are still being decoded")), Rows::finish)
}

/// Returns the bytes of an image of the batch.
fn slot_len(recipe: &Recipe, (height, width): (u32, u32)) -> Result<usize> {
    (u64::from(height) * u64::from(width))
        .checked_mul(3 * recipe.samples.num_bytes() as u64)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| Error::invalid(format!("images of {height} x {width}"), "smaller ones"))
}

/// Where the pixels of a row lie, and what becomes of them.
struct Layout {
    plan: Plan,
    orientation: Orientation,
    /// The height and width of the image as it is stored.
    stored: (u32, u32),
    /// What is taken of it.
    region: Region,
    /// The height and width that it is resized to.
    target: (u32, u32),
}

impl Layout {
    fn of(recipe: &Recipe, image: Image, key: u64) -> Self {
        let Image { height, width, orientation } = image;
        let orientation = if recipe.exif { orientation } else { Orientation::default() };
        let stored = (height, width);
        let plan = crop::plan(recipe, orientation.turned(stored), key);
        let region = orientation.stored(plan.region, stored);
        let target = orientation.turned(plan.resized);
        Self { plan, orientation, stored, region, target }
    }

    /// Returns whether all pixels are taken as they are.
    fn is_same(&self) -> bool {
        let Self { plan, stored, region, target, .. } = self;
        let is_whole = target == stored && !plan.is_window;
        is_whole && (region.width, region.height) == (stored.1.into(), stored.0.into())
    }

    /// Returns how many rows of the stored image are looked at, from the first one.
    fn rows(&self, recipe: &Recipe) -> u32 {
        let Self { plan, stored, region, target, .. } = self;
        let reach =
            if plan.is_window { resize::reach(recipe, region.height, target.0) } else { 0.0 };
        crop::whole((region.top + region.height + reach).ceil()).min(stored.0)
    }
}

/// The rows of a batch, while they are decoded.
struct Rows {
    files: Files,
    recipe: Recipe,
    keys: Option<Vec<u64>>,
    slots: Option<Slots>,
    outcomes: Vec<Mutex<Option<Outcome>>>,
}

impl Rows {
    /// Decodes a row. A panic of a decoder makes it broken.
    fn outcome(&self, row: usize, scratch: &mut Scratch) -> Outcome {
        let Some(file) = self.files.get(row) else {
            return Outcome::Null;
        };
        match catch_unwind(AssertUnwindSafe(|| self.decode(row, file, scratch))) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(reason)) => Outcome::Broken(reason),
            Err(panic) => {
                *scratch = Scratch::default();
                Outcome::Broken(format!("the decoder failed: {}", text_of_panic(&*panic)))
            }
        }
    }

    fn decode(&self, row: usize, file: &[u8], scratch: &mut Scratch) -> Result<Outcome, String> {
        let recipe = &self.recipe;
        let key = self.keys.as_ref().map_or(0, |keys| keys[row]);
        let rows = |image: Image| Layout::of(recipe, image, key).rows(recipe);
        let image = decode_rows(file, recipe.max_pixels, scratch, &rows)?;
        let layout = Layout::of(recipe, image, key);
        let Layout { plan, orientation, stored, region, target } = layout;
        let is_same = layout.is_same();
        if !is_same {
            resize::resize(recipe, scratch, stored, region, plan.is_window, target)?;
        }
        let rgb = if is_same { &mut scratch.rgb } else { &mut scratch.resized };
        if !recipe.jitter.is_none() {
            let len = target.0 as usize * target.1 as usize * 3;
            let shown = rgb.get_mut(..len).ok_or("fewer samples than pixels")?;
            jitter::apply(&recipe.jitter, key, shown.as_chunks_mut().0);
        }
        let write = |slot: &mut [u8]| {
            pixels::write(recipe, rgb, orientation, plan.is_flipped, plan.resized, plan.size, slot)
        };
        if let Some(slots) = &self.slots {
            write(slots.take(row).ok_or("a row that was decoded before")?)?;
            return Ok(Outcome::InSlot);
        }
        let len = slot_len(recipe, plan.size).map_err(|error| error.to_string())?;
        let slots = Slots::new(1, len);
        write(slots.take(0).ok_or("no slot")?)?;
        Ok(Outcome::Alone(plan.size, slots.into_buffer()))
    }

    /// Returns the batch, of rows that are all done.
    fn finish(self) -> Result<Decoded> {
        let mut decoded = Decoded { samples: vec![], sizes: vec![], nulls: vec![], faults: vec![] };
        let is_alone = self.slots.is_none();
        for (row, outcome) in self.outcomes.into_iter().enumerate() {
            let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
            let (size, samples) = match outcome {
                Some(Outcome::Alone(size, samples)) => (size, samples),
                Some(Outcome::InSlot) => continue,
                Some(Outcome::Null) => {
                    decoded.nulls.push(row);
                    ((0, 0), Buffer::default())
                }
                Some(Outcome::Broken(reason)) => {
                    decoded.faults.push(Fault { row, reason });
                    ((0, 0), Buffer::default())
                }
                None => return Err(Error::bug("a row of images was not decoded")),
            };
            if is_alone {
                decoded.sizes.push(size);
                decoded.samples.push(samples);
            }
        }
        if let Some(slots) = self.slots {
            decoded.samples.push(slots.into_buffer());
        }
        Ok(decoded)
    }
}
