//! Errors of object stores: what was tried, where, and what to check.
//!
//! Lance retries for a long time, and drops what a store says about a missing bucket. So if the first
//! answer takes long, or opening a table failed, the store is asked for one listing, with a short
//! timeout and few retries.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};

use super::address::{Address, Version};
use super::options::option;
use super::storage::{Place, absolute};
use super::stores::{Store, bucket_of};
use crate::error::{Cause, Error, Fault, Result};
use crate::runtime;

/// How long the first answer may take before the store is asked for a listing.
const LONG: Duration = Duration::from_secs(1);

/// Options for that request; options that the user set are kept.
const IMPATIENT: [(&str, &str); 5] = [
    ("client_max_retries", "2"),
    // After a request that took longer, there is no other.
    ("client_retry_timeout", "4"),
    ("lance_aimd_max_retries", "0"),
    ("connect_timeout", "5 seconds"),
    ("timeout", "10 seconds"),
];

/// Waits for the first answer of a store, but not if the store cannot be reached.
pub(super) async fn first_answer<T>(
    address: &Address,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    if !address.is_remote() {
        return answer.await;
    }
    let answer = pin!(answer);
    let asked = pin!(async {
        runtime::sleep(LONG).await;
        ask(address).await
    });
    let (asked, answer) = match select(answer, asked).await {
        Either::Left((answer, _)) => return answer,
        Either::Right(right) => right,
    };
    let is_final = |error: &Error| match error.fault() {
        // A user who may not list versions may still be allowed to read one.
        Some(Fault::Denied) => !matches!(address.version, Version::Number(_)),
        Some(Fault::Passing | Fault::Lasting) | None => false,
        Some(_) => true,
    };
    match asked {
        Err(error) if is_final(&error) => Err(error),
        _ => answer.await,
    }
}

/// Returns why a table could not be opened, with what a user must know to fix it.
pub(super) async fn diagnosed(address: &Address, error: Error) -> Error {
    let is_vague = match &error {
        Error::NotFound { .. } => true,
        error => error.fault() == Some(Fault::Denied),
    };
    // The answer to a request for a single object has no text.
    let found = if is_vague && address.is_remote() { ask(address).await.err() } else { None };
    let knows_more =
        |found: &Error| found.fault() == Some(Fault::NoBucket) || found.fault() == error.fault();
    explained(address, found.filter(knows_more).unwrap_or(error))
}

/// Lists a folder that every table has.
async fn ask(address: &Address) -> Result<()> {
    let mut options = address.options.clone();
    for (name, value) in IMPATIENT {
        if option(&options, &[name]).is_none() {
            options.insert(name.to_string(), value.to_string());
        }
    }
    let place = Place::connect(&address.uri, &options).await?.join("_versions");
    match place.store.inner.list(Some(&place.path)).next().await {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(match Error::store(&address.uri, error) {
            // The listing of an existing bucket may be empty, but is never "not found".
            Error::NotFound { uri: path, reason, .. } => {
                let source = Some(Cause::new(&*reason, Fault::NoBucket));
                Error::Io { path, reason, source }
            }
            other => other,
        }),
    }
}

/// Adds to an error of a store what a user must know to fix it.
pub(super) fn explained(address: &Address, error: Error) -> Error {
    let Error::Io { path, reason, source } = error else {
        return error;
    };
    let fault = source.as_deref().map(Cause::fault);
    let (Some(fault), Some(store)) = (fault, Store::of(&address.uri)) else {
        return Error::Io { path, reason, source };
    };
    let (place, endpoint) = (store.place(&address.options), store.endpoint);
    if fault == Fault::NoBucket {
        let (kind, name) = (store.bucket, bucket_of(&address.uri, &address.options));
        let reason = format!(
            "there is no {kind} `{name}` at {place}; check its name, and {endpoint} if it is not on {}",
            store.home
        );
        return Error::NotFound { uri: address.uri.clone(), reason, source };
    }
    let check = match fault {
        Fault::Unreachable => format!("check {endpoint} and the network"),
        Fault::TimedOut => {
            format!(
                "check {endpoint} and the network; the options `timeout` and `connect_timeout` allow more time"
            )
        }
        Fault::Denied => format!("check {}{}", store.keys, store.rights),
        Fault::NoCredentials => format!(
            "set {}, or a role; pickles hold no credentials, so set them where it is unpickled",
            store.keys
        ),
        Fault::OtherRegion => "check the option `aws_region` (AWS_REGION)".to_string(),
        Fault::PlainHttp => format!("set the option {} to true", store.plain_http),
        _ => String::new(),
    };
    let check = if check.is_empty() { check } else { format!("; {check}") };
    let path = if path.contains("://") { path } else { absolute(&address.uri, &path) };
    Error::Io { path: format!("{path} at {place}"), reason: format!("{reason}{check}"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_check_is_said_with_where_it_was_tried() {
        let options = [
            ("AWS_Endpoint", "http://h:9"),
            ("region", "here"),
            ("aws_secret_access_key", "s3cr3t"),
        ];
        let options = options.map(|(name, value)| (name.to_string(), value.to_string()));
        let address = Address {
            uri: "s3://b/db/t.lance".into(),
            options: options.into(),
            ..Address::default()
        };
        let said = |path: &str, fault| {
            let source = Some(Cause::new("<xml>", fault));
            let error = Error::Io { path: path.into(), reason: "it failed".into(), source };
            explained(&address, error).to_string()
        };
        let start =
            "could not read s3://b/db/t.lance/data/x.lance at http://h:9 (region here): it failed";
        for (fault, check) in [
            (Fault::Unreachable, "AWS_ENDPOINT"),
            (Fault::TimedOut, "`connect_timeout`"),
            (Fault::Denied, "`aws_secret_access_key`"),
            (Fault::NoCredentials, "pickles hold no credentials"),
            (Fault::OtherRegion, "AWS_REGION"),
            (Fault::PlainHttp, "`allow_http`"),
        ] {
            let message = said("db/t.lance/data/x.lance", fault);
            assert!(message.starts_with(start), "{message}");
            assert!(message.contains(check), "{message}");
            assert!(!message.contains("s3cr3t"), "{message}");
        }
        assert_eq!(said("db/t.lance/data/x.lance", Fault::Passing), start);
        let missing = said("s3://b/db/t.lance", Fault::NoBucket);
        assert!(missing.contains("there is no bucket `b` at http://h:9"), "{missing}");
    }
}
