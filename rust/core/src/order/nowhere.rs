//! The mark of an offset without a position.

/// The position of an offset that an order does not serve.
pub(super) const NOWHERE: u64 = u64::MAX;
