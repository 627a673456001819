//! Options of object stores, by the names that Lance and LanceDB give them.

use std::collections::HashMap;

/// Options of an object store, by name.
pub type StorageOptions = HashMap<String, String>;

/// Returns the first of these options that was given, in upper or lower case.
pub(super) fn option(options: &StorageOptions, names: &[&str]) -> Option<String> {
    let is_it = |name: &&str, given: &str| given.eq_ignore_ascii_case(name);
    let found = |name| options.iter().find(|(given, _)| is_it(name, given));
    names.iter().find_map(found).map(|(_, value)| value.clone())
}
