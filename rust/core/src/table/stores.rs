//! The object stores that are read natively, and what their users call things.

use super::hub::{self, repository_of};
use super::options::{StorageOptions, option};

/// A kind of object store.
#[derive(Debug)]
pub(super) struct Store {
    /// The schemes of its addresses.
    schemes: &'static [&'static str],
    /// The prefix of its options that the environment has in upper case.
    prefix: &'static str,
    /// Where the store is unless an endpoint is set.
    pub(super) home: &'static str,
    /// The options that set the endpoint; empty where only a variable does.
    endpoints: &'static [&'static str],
    regions: &'static [&'static str],
    /// The option of the endpoint, in words.
    pub(super) endpoint: &'static str,
    /// The options of credentials, in words.
    pub(super) keys: &'static str,
    /// What else to check when access is denied.
    pub(super) rights: &'static str,
    /// What its users call a bucket.
    pub(super) bucket: &'static str,
    /// The option that allows plain HTTP, in words.
    pub(super) plain_http: &'static str,
}

const STORES: [Store; 4] = [
    Store {
        schemes: &["s3"],
        prefix: "aws_",
        home: "AWS",
        endpoints: &["aws_endpoint", "aws_endpoint_url", "endpoint", "endpoint_url"],
        regions: &["aws_region", "region", "aws_default_region"],
        endpoint: "the option `aws_endpoint` (AWS_ENDPOINT)",
        keys: "the options `aws_access_key_id`, `aws_secret_access_key` and `aws_session_token` \
               (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)",
        rights: ", and what they may read",
        bucket: "bucket",
        plain_http: "`allow_http` (AWS_ALLOW_HTTP)",
    },
    Store {
        schemes: &["gs"],
        prefix: "google_",
        home: "Google Cloud Storage",
        endpoints: &["google_base_url", "base_url"],
        regions: &[],
        endpoint: "the option `google_base_url` (GOOGLE_BASE_URL)",
        keys: "the options `google_service_account`, `google_service_account_key`, \
               `google_application_credentials` and `google_storage_token` (GOOGLE_SERVICE_ACCOUNT, \
               GOOGLE_SERVICE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_STORAGE_TOKEN)",
        rights: ", and what they may read",
        bucket: "bucket",
        plain_http: "`allow_http` (GOOGLE_ALLOW_HTTP)",
    },
    Store {
        schemes: &["az", "abfss"],
        prefix: "azure_",
        home: "Azure",
        endpoints: &["azure_storage_endpoint", "azure_endpoint", "endpoint"],
        regions: &[],
        endpoint: "the option `azure_storage_endpoint` (AZURE_STORAGE_ENDPOINT)",
        keys: "the options `azure_storage_account_name`, `azure_storage_account_key` and \
               `azure_storage_sas_token` (AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, \
               AZURE_STORAGE_SAS_TOKEN)",
        rights: ", and what they may read",
        bucket: "container",
        plain_http: "`allow_http` (AZURE_ALLOW_HTTP)",
    },
    Store {
        schemes: &["hf"],
        prefix: "hf_",
        home: "Hugging Face",
        endpoints: &[],
        regions: &[],
        endpoint: "the variable HF_ENDPOINT, whether the storage that it redirects to can be reached,",
        keys: "the name of the repository and the option `hf_token` (HF_TOKEN)",
        rights: "; without a token that may read it, a private repository looks like one that does \
                 not exist",
        bucket: "repository",
        plain_http: "`allow_http`",
    },
];

impl Store {
    /// Returns the store that an address is in; `None` for folders and for stores that only the table's
    /// own library reads.
    pub(super) fn of(uri: &str) -> Option<&'static Self> {
        let (scheme, _) = uri.split_once("://")?;
        STORES.iter().find(|store| store.schemes.contains(&scheme))
    }

    /// Returns where requests go to: the endpoint without a password, and the region, as far as they are
    /// known.
    pub(super) fn place(&self, options: &StorageOptions) -> String {
        let endpoint = if self.endpoints.is_empty() {
            hub::endpoint_variable()
        } else {
            self.setting(options, self.endpoints)
        };
        let region = self.setting(options, self.regions);
        let endpoint = endpoint.as_deref().map_or_else(|| self.home.to_string(), without_user);
        match region {
            Some(region) => format!("{endpoint} (region {region})"),
            None => endpoint,
        }
    }

    /// Returns an option that was given, or that the environment has.
    fn setting(&self, options: &StorageOptions, names: &[&str]) -> Option<String> {
        let of_environment = |name: &&str| {
            std::env::var(name.to_ascii_uppercase()).ok().filter(|value| !value.is_empty())
        };
        let from_around = names.iter().filter(|name| name.starts_with(self.prefix));
        option(options, names).or_else(|| from_around.into_iter().find_map(of_environment))
    }
}

/// Returns the bucket of an address.
pub(super) fn bucket_of(uri: &str, options: &StorageOptions) -> String {
    if hub::is_hub(uri) {
        return repository_of(uri, options);
    }
    let host = uri.split('/').nth(2).unwrap_or_default();
    host.split_once('@').map_or(host, |(container, _)| container).to_string()
}

/// Returns an address without credentials in front of the host.
fn without_user(url: &str) -> String {
    // A scheme may have been forgotten.
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let host = rest.split('/').next().unwrap_or_default();
    let start = host.rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}{}", &rest[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_its_password() {
        assert_eq!(without_user("http://me:secret@h:9/x"), "http://h:9/x");
        assert_eq!(without_user("http://h:9/a@b"), "http://h:9/a@b");
        assert_eq!(without_user("h:9"), "h:9");
    }

    #[test]
    fn a_store_is_known_by_its_scheme() {
        for (uri, home, bucket) in [
            ("s3://b/t.lance", "AWS", "b"),
            ("gs://b/t.lance", "Google Cloud Storage", "b"),
            ("az://c/t.lance", "Azure", "c"),
            ("abfss://c@account.dfs.core.windows.net/t.lance", "Azure", "c"),
            ("hf://datasets/me/music/t.lance", "Hugging Face", "me/music"),
        ] {
            let store = Store::of(uri).unwrap();
            let found = bucket_of(uri, &StorageOptions::new());
            assert_eq!((store.home, &*found), (home, bucket));
        }
        for uri in ["t.lance", "file:///t.lance", "oss://b/t.lance", "memory://t"] {
            assert!(Store::of(uri).is_none(), "{uri}");
        }
    }

    #[test]
    fn options_take_precedence_over_what_the_store_is_by_default() {
        let store = Store::of("az://c/t").unwrap();
        assert_eq!(store.place(&StorageOptions::new()), "Azure");
        let options = [("Azure_Storage_Endpoint".into(), "http://k:s@h:1".into())].into();
        assert_eq!(store.place(&options), "http://h:1");
    }
}
