//! The bytes of data files: mapped where they are local, fetched where they are not, and kept.
//!
//! Both answer the requests of Lance's decoder ([`EncodingsIo`](lance_encoding::EncodingsIo)). All requests
//! of a window are under way before the first answer is waited for.

mod ahead;
mod asked;
mod copied;
mod hedge;
mod limits;
mod mapped;
mod remote;
mod requests;
mod traffic;
pub(crate) mod zstd;

pub(crate) use ahead::Ahead;
pub(crate) use copied::{Copier, Head, MOST_HEAD_BYTES, Record};
pub(crate) use mapped::{Attempt, MappedFile};
pub(crate) use remote::{RemoteFile, Retries, SINGLE_BYTES, Source, copy_parts, jittered};
pub(crate) use traffic::Meter;
pub use traffic::Traffic;
