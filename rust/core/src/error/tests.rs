use super::text::distance;
use super::*;

#[test]
fn a_wrong_name_lists_the_nearest_columns() {
    let known: Vec<String> =
        ["dep_delay", "arr_delay", "carrier", "hour", "minute", "dest"].map(String::from).to_vec();
    let message = Error::NoColumn { name: "dep_dealy".into(), known }.to_string();
    assert!(
        message.starts_with(
            "column `dep_dealy` does not exist; the nearest of 6 columns are `dep_delay`"
        ),
        "{message}"
    );
}

#[test]
fn source_locations_of_lance_are_cut_off() {
    assert_eq!(without_location("Not found: x, /registry/src/lance-io/a.rs:12:5"), "Not found: x");
    assert_eq!(without_location("A: x, /a/b.rs:1:2, /c.rs:3:4"), "A: x");
    assert_eq!(without_location("A: x, /a/b.rs:1:2 (y, z)"), "A: x (y, z)");
    assert_eq!(without_location("a, b"), "a, b");
}

#[test]
fn distance_counts_edits() {
    assert_eq!(distance("kitten", "sitting"), 3);
    assert_eq!(distance("", "ab"), 2);
    assert_eq!(distance("Same", "same"), 0);
}
