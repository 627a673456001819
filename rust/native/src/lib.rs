//! What Python sees of `lanceloader-core`.
//!
//! Glue only: arguments are checked and turned into core types, work runs without the interpreter,
//! and batches leave by capsule. There is no loop over rows here but that which makes Python objects of them.

mod arguments;
mod classes;
mod enter;
mod errors;
mod flat;
mod handoff;
mod images;
mod lists;
mod loader;
mod memory;
mod mix;
mod neighbours;
mod order;
mod parts;
mod runs;
mod sequences;
mod share;
mod stats;
mod stream;
mod table;

use pyo3::pymodule;

/// The compiled part of lanceloader. Use the classes of `lanceloader` instead.
#[pymodule]
mod _native {
    use pyo3::types::PyModuleMethods;

    #[pymodule_export]
    use crate::classes::{Mix, Order};
    #[pymodule_export]
    use crate::flat::FlatSchema;
    #[pymodule_export]
    use crate::handoff::{Batch, round_robin};
    #[pymodule_export]
    use crate::images::Recipe;
    #[pymodule_export]
    use crate::lists::small_number_lists;
    #[pymodule_export]
    use crate::loader::Loader;
    #[pymodule_export]
    use crate::memory::share_memory;
    #[pymodule_export]
    use crate::neighbours::{Episodes, stacked};
    #[pymodule_export]
    use crate::order::{
        choose, draws, fold, grouped, lancedb_shuffle, lancedb_sort, split_counts, stratified,
    };
    #[pymodule_export]
    use crate::runs::Block;
    #[pymodule_export]
    use crate::sequences::{Buckets, Filler, Lengths, LengthsBuilder, Packing};
    #[pymodule_export]
    use crate::stats::{Choice, Histogram, LoadStats, ReadStats, Watch};
    #[pymodule_export]
    use crate::table::{
        Reader, Table, branch_of_manifest, lancedb_hash_splits, prune, stable_hashes,
    };

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::enter::install();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
