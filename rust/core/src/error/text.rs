//! The texts of errors: what is cut off from those of libraries, and which names to suggest.

/// Cuts each `, /path/to/source.rs:12:5` that Lance appends, layer by layer.
pub(super) fn without_location(message: &str) -> String {
    let mut parts = message.split(", ");
    let mut kept = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = location_len(part);
        if end == 0 {
            kept.push_str(", ");
        }
        kept.push_str(&part[end..]);
    }
    kept
}

/// Returns the length of the `/path/to/source.rs:12:5` that a text begins with.
fn location_len(text: &str) -> usize {
    match text.split_once(".rs:") {
        Some((path, place)) if !path.contains(char::is_whitespace) => {
            text.len() - place.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').len()
        }
        _ => 0,
    }
}

/// Returns the names to suggest, as text: the nearest ones, or all of them if the table has few.
pub(super) fn nearest(name: &str, known: &[String]) -> String {
    const SHOWN: usize = 5;
    if known.is_empty() {
        return "the table has no columns".to_string();
    }
    let quote = |names: &[&String]| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let mut names: Vec<&String> = known.iter().collect();
    if names.len() <= SHOWN {
        return format!("the columns are {}", quote(&names));
    }
    names.sort_by_key(|candidate| distance(name, candidate));
    format!("the nearest of {} columns are {}", known.len(), quote(&names[..SHOWN]))
}

/// Returns the Levenshtein distance between the lower-cased names.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
