//! IMAGES: files of images in a column → one batch of pixels.
//!
//! ```text
//! bytes ──► decode/ ──► crop.rs ──► resize.rs ──► jitter.rs ──► pixels.rs ──► the slot of the row
//!           RGB, 8 bit  which part  to the size   colours       turned, flipped, as the batch wants samples
//! ```
//!
//! Rows are decoded by one pool of threads that all batches share, so a row that takes long holds
//! back its own batch only. What is random depends on the key of the row and on nothing else.

mod batch;
mod column;
mod crop;
mod decode;
mod draws;
mod floats;
mod jitter;
mod pixels;
mod pool;
mod recipe;
mod resize;
mod scratch;
mod slots;

pub use batch::{Decoded, Fault, decode};
#[doc(hidden)] // For the fuzz target.
pub use decode::{decode_any, image::Image};
pub use recipe::{Crop, Float, Interpolation, Jitter, Recipe, Samples};
#[doc(hidden)]
pub use scratch::Scratch;

#[cfg(test)]
mod tests;
