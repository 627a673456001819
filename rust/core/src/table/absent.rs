//! Why there is no table at an address: what is there instead, and what may have been meant.

use lance_io::object_store::ObjectStore;
use object_store::path::Path;

use super::storage::Place;

/// Returns what is at `uri`, where no manifest was found. Errors of storage are ignored.
pub(super) async fn reason(root: &Place, uri: &str) -> String {
    let uri = uri.trim_end_matches('/');
    let inside = names(&root.store, &root.path).await;
    let tables = tables(&inside);
    if let Some(first) = tables.first() {
        let pass = format!("pass the path of one, as in {uri}/{first}.lance");
        return format!("it is a database, with {}; {pass}", listed(&tables));
    }
    let local = std::path::Path::new(uri.strip_prefix("file://").unwrap_or(uri));
    if root.store.is_local() && local.is_file() {
        return "it is a file, and a Lance table is a folder".to_string();
    }
    let mut beside = Vec::new();
    if let (Some(parent), Some(name)) = (parent(&root.path), root.path.filename()) {
        beside = names(&root.store, &parent).await;
        if beside.contains(&format!("{name}.lance")) {
            return format!("there is a table at {uri}.lance; pass that");
        }
    }
    if !inside.is_empty() || (root.store.is_local() && local.exists()) {
        return "it has no manifest, so it is not a table".to_string();
    }
    match self::tables(&beside) {
        tables if tables.is_empty() => "it does not exist".to_string(),
        tables => format!("it does not exist; its folder has {}", listed(&tables)),
    }
}

/// Returns the names of what lies in a folder, or none if it cannot be listed.
async fn names(store: &ObjectStore, folder: &Path) -> Vec<String> {
    store.read_dir(folder.clone()).await.unwrap_or_default()
}

/// Returns the names of the tables among the names in a folder, in order.
fn tables(names: &[String]) -> Vec<&str> {
    let mut tables: Vec<_> = names.iter().filter_map(|name| name.strip_suffix(".lance")).collect();
    tables.sort_unstable();
    tables
}

fn parent(path: &Path) -> Option<Path> {
    let mut parts: Vec<_> = path.parts().collect();
    parts.pop()?;
    Some(parts.into_iter().collect())
}

/// Returns the names as text: "the table `a`", or "the tables `a`, `b` and 7 more".
fn listed(tables: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = tables.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>();
    let what = if tables.len() == 1 { "table" } else { "tables" };
    let more = match tables.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the {what} {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_listed_up_to_a_number() {
        assert_eq!(listed(&["a"]), "the table `a`");
        assert_eq!(listed(&["a", "b"]), "the tables `a`, `b`");
        let many = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        assert!(listed(&many).ends_with("`h` and 2 more"), "{}", listed(&many));
    }

    #[test]
    fn folders_of_tables_end_in_lance() {
        let names = ["b.lance", "notes.txt", "a.lance", "lance"].map(String::from);
        assert_eq!(tables(&names), ["a", "b"]);
    }
}
