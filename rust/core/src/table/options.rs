//! Options of object stores, by the names that Lance and LanceDB give them.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Options of an object store, by name.
pub type StorageOptions = HashMap<String, String>;

/// Returns the first of these options that was given, in upper or lower case.
pub(super) fn option(options: &StorageOptions, names: &[&str]) -> Option<String> {
    let is_it = |name: &&str, given: &str| given.eq_ignore_ascii_case(name);
    let found = |name| options.iter().find(|(given, _)| is_it(name, given));
    names.iter().find_map(found).map(|(_, value)| value.clone())
}

/// Options that are whole numbers, and examples of what they mean. Lance takes its default for anything else.
const NUMBERS: [(&str, &str); 2] =
    [("client_max_retries", "\"3\""), ("client_retry_timeout", "\"30\" for 30 seconds")];

/// Checks options that would be ignored without a word if they were no numbers.
///
/// # Errors
///
/// [`Error::Invalid`] if one of them is not a whole number.
pub(super) fn check_numbers(options: &StorageOptions) -> Result<()> {
    for (name, example) in NUMBERS {
        if let Some(text) = option(options, &[name])
            && text.trim().parse::<u32>().is_err()
        {
            let found = format!("the storage option `{name}` is {text:?}");
            return Err(Error::invalid(found, format!("a whole number, such as {example}")));
        }
    }
    Ok(())
}
