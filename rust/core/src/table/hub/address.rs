//! `hf://datasets/owner/name/folder`: repositories, their files and folders.

use object_store::path::Path;
use reqwest::Url;

use super::super::options::{StorageOptions, option};

const SCHEME: &str = "hf://";
/// How many parts between slashes name a repository.
pub(in crate::table) const SEGMENTS: usize = 5;
/// Without revisions.
const BUCKETS: &str = "buckets";
const MODELS: &str = "models";
const KINDS: [&str; 4] = ["datasets", MODELS, "spaces", BUCKETS];
const REVISION: [&str; 2] = ["hf_revision", "revision"];
const ROOT: [&str; 2] = ["hf_root", "root"];

/// Returns whether an address is one of Hugging Face.
pub(in crate::table) fn is_hub(uri: &str) -> bool {
    uri.starts_with(SCHEME)
}

/// Returns the name of the repository of an address, with the revision if one is set.
pub(in crate::table) fn repository_of(uri: &str, options: &StorageOptions) -> String {
    let parts: Vec<_> = uri.split('/').skip(3).take(SEGMENTS - 3).collect();
    let name = parts.join("/");
    match option(options, &REVISION) {
        Some(revision) => format!("{name}@{revision}"),
        None => name,
    }
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    kind: &'static str,
    owner: String,
    name: String,
    revision: String,
}

impl Repository {
    /// Returns the repository of an address, and the folder in it; `None` if it names none.
    pub(super) fn of(uri: &str, options: &StorageOptions) -> Option<(Self, Path)> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let kind = parts.next()?;
        // As in Lance, also in the singular.
        let matches = |known: &&&str| **known == kind || known.strip_suffix('s') == Some(kind);
        let kind = KINDS.iter().find(matches)?;
        let mut named = || parts.next().filter(|part| !part.is_empty()).map(str::to_string);
        let (owner, name) = (named()?, named()?);
        let revision = option(options, &REVISION).filter(|revision| !revision.is_empty());
        let revision = revision.unwrap_or_else(|| "main".to_string());
        let root = option(options, &ROOT).unwrap_or_default();
        let inside = Path::from_url_path(parts.collect::<Vec<_>>().join("/")).ok()?;
        let path = Path::from(root).parts().chain(inside.parts()).collect();
        Some((Self { kind, owner, name, revision }, path))
    }

    /// Returns `datasets/owner/name`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}/{}", self.kind, self.owner, self.name)
    }

    /// Returns where a file is asked for.
    pub(super) fn file(&self, endpoint: &Url, path: &Path) -> Url {
        let kind = if self.kind == MODELS { None } else { Some(self.kind) };
        let head = kind.into_iter().chain([&*self.owner, &*self.name, "resolve"]);
        join(endpoint, head.chain(self.revision()), path)
    }

    /// Returns where a folder is listed.
    pub(super) fn tree(&self, endpoint: &Url, path: &Path, is_recursive: bool) -> Url {
        let head = ["api", self.kind, &self.owner, &self.name, "tree"].into_iter();
        let mut url = join(endpoint, head.chain(self.revision()), path);
        url.set_query(Some(&format!("recursive={is_recursive}")));
        url
    }

    fn revision(&self) -> Option<&str> {
        (self.kind != BUCKETS).then_some(&*self.revision)
    }
}

fn join<'a>(endpoint: &'a Url, head: impl Iterator<Item = &'a str>, path: &Path) -> Url {
    let mut url = endpoint.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(head);
        for part in path.parts() {
            segments.push(part.as_ref());
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(uri: &str, options: &[(&str, &str)]) -> [String; 2] {
        let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let (repository, path) = Repository::of(uri, &options.collect()).unwrap();
        let endpoint = Url::parse("https://h/").unwrap();
        let (file, tree) =
            (repository.file(&endpoint, &path), repository.tree(&endpoint, &path, true));
        [file.to_string(), tree.to_string()]
    }

    #[test]
    fn files_and_folders_have_the_addresses_of_the_hub() {
        for (uri, options, file, tree) in [
            (
                "hf://datasets/o/r/a b/t.lance",
                &[][..],
                "https://h/datasets/o/r/resolve/main/a%20b/t.lance",
                "https://h/api/datasets/o/r/tree/main/a%20b/t.lance?recursive=true",
            ),
            (
                "hf://models/o/r/t.lance/",
                &[("HF_Revision", "refs/pr/1")],
                "https://h/o/r/resolve/refs%2Fpr%2F1/t.lance",
                "https://h/api/models/o/r/tree/refs%2Fpr%2F1/t.lance?recursive=true",
            ),
            (
                "hf://space/o/r",
                &[("root", "/x/"), ("revision", "")],
                "https://h/spaces/o/r/resolve/main/x",
                "https://h/api/spaces/o/r/tree/main/x?recursive=true",
            ),
            (
                "hf://buckets/o/r/t.lance",
                &[("revision", "v1")],
                "https://h/buckets/o/r/resolve/t.lance",
                "https://h/api/buckets/o/r/tree/t.lance?recursive=true",
            ),
        ] {
            assert_eq!(urls(uri, options), [file, tree], "{uri}");
        }
    }

    #[test]
    fn addresses_without_a_repository_are_not_known() {
        for uri in
            ["hf://datasets/o", "hf://datasets//r/x", "hf://o/r/t.lance", "s3://datasets/o/r"]
        {
            assert_eq!(Repository::of(uri, &StorageOptions::new()), None, "{uri}");
        }
    }

    #[test]
    fn a_repository_is_named_with_its_revision() {
        let options = [("revision".to_string(), "v2".to_string())].into();
        assert_eq!(repository_of("hf://datasets/o/r/a/t.lance", &options), "o/r@v2");
        assert_eq!(repository_of("hf://datasets/o/r", &StorageOptions::new()), "o/r");
    }
}
