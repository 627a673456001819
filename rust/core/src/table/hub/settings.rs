//! What options and variables of Hugging Face say. Names and precedence are those of Lance and
//! `huggingface_hub`.

use std::path::PathBuf;
use std::time::Duration;

use object_store::Result;
use reqwest::Url;
use reqwest::header::HeaderValue;

use super::super::options::{StorageOptions, option};
use super::answer::failed;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const ENDPOINT: &str = "HF_ENDPOINT";
/// Variables that hold a token: first that of `huggingface_hub`, then Lance's, and an older one.
const TOKENS: [&str; 3] = ["HF_TOKEN", "HUGGINGFACE_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// As Lance has them for other stores.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_RETRIES: u32 = 3;
/// Longer than a window of five minutes, in which the Hub counts requests.
pub(in crate::table) const RETRY_TIMEOUT: Duration = Duration::from_mins(6);

/// How the Hub is reached.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) endpoint: Url,
    /// The header of requests to the Hub.
    pub(super) token: Option<HeaderValue>,
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) proxy: Option<String>,
    pub(super) allow_http: bool,
    /// How long, and how often, a request is made again.
    pub(super) retry_timeout: Duration,
    pub(super) max_retries: u32,
    /// Whether files are to be fetched by the protocol of Xet.
    pub(super) is_xet: bool,
}

impl Settings {
    pub(super) fn new(options: &StorageOptions) -> Result<Self> {
        let endpoint = set(ENDPOINT).unwrap_or_else(|| DEFAULT_ENDPOINT.to_string());
        let parsed = Url::parse(&endpoint).ok().filter(Url::has_host);
        let endpoint = parsed
            .filter(|url| ["http", "https"].contains(&url.scheme()))
            .ok_or_else(|| failed(format!("the variable {ENDPOINT} is not an address of HTTP")))?;
        let seconds = |name: &str, default| match option(options, &[name]) {
            Some(text) => humantime::parse_duration(&text)
                .map_err(|error| failed(format!("the option `{name}` is {text:?}: {error}"))),
            None => Ok(default),
        };
        let number = |name: &str| option(options, &[name])?.trim().parse().ok();
        let is_true = |name: &str| option(options, &[name]).is_some_and(|text| is_truthy(&text));
        let mode = option(options, &["hf_download_mode", "download_mode"]);
        Ok(Self {
            allow_http: endpoint.scheme() == "http" || is_true("allow_http"),
            endpoint,
            token: token(options).map(|token| header(&token)).transpose()?,
            timeout: seconds("timeout", TIMEOUT)?,
            connect_timeout: seconds("connect_timeout", CONNECT_TIMEOUT)?,
            proxy: option(options, &["proxy_url"]),
            retry_timeout: number("client_retry_timeout")
                .map_or(RETRY_TIMEOUT, |seconds| Duration::from_secs(u64::from(seconds))),
            max_retries: number("client_max_retries").unwrap_or(MAX_RETRIES),
            is_xet: mode.is_some_and(|mode| mode.eq_ignore_ascii_case("xet")),
        })
    }
}

/// Returns the endpoint that `HF_ENDPOINT` sets, which may hold a password.
pub(in crate::table) fn endpoint_variable() -> Option<String> {
    set(ENDPOINT)
}

fn token(options: &StorageOptions) -> Option<String> {
    let is_blank = |token: &String| token.trim().is_empty();
    let given = option(options, &["hf_token", "token"]).filter(|token| !is_blank(token));
    if given.is_some() {
        return given;
    }
    if set("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|text| is_truthy(&text)) {
        return None;
    }
    let stored = || std::fs::read_to_string(token_file()?).ok().filter(|token| !is_blank(token));
    TOKENS.iter().find_map(|name| set(name)).or_else(stored)
}

/// Returns the file that `hf auth login` writes.
fn token_file() -> Option<PathBuf> {
    if let Some(file) = set("HF_TOKEN_PATH") {
        return Some(expanded(&file));
    }
    let home = || Some(PathBuf::from(set("HOME")?).join(".cache"));
    let cache = || set("XDG_CACHE_HOME").map(|folder| expanded(&folder)).or_else(home);
    let folder = set("HF_HOME").map(|folder| expanded(&folder));
    Some(folder.or_else(|| Some(cache()?.join("huggingface")))?.join("token"))
}

/// Returns a path, which may begin in the home directory as in a shell.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), set("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.into(),
    }
}

fn header(token: &str) -> Result<HeaderValue> {
    let text = format!("Bearer {}", token.trim());
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| failed("the token has characters that no header may have".to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn is_truthy(text: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &[(&str, &str)]) -> Result<Settings> {
        let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Settings::new(&options.collect())
    }

    #[test]
    fn options_are_read_in_upper_and_lower_case() {
        let found = settings(&[
            ("HF_Token", " secret\n"),
            ("timeout", "2 minutes"),
            ("client_max_retries", "0"),
            ("download_mode", "Xet"),
        ]);
        let found = found.unwrap();
        assert_eq!(found.token.as_ref().unwrap(), "Bearer secret");
        assert!(!format!("{found:?}").contains("secret"));
        assert_eq!((found.timeout, found.max_retries), (Duration::from_mins(2), 0));
        assert!(found.is_xet);
    }

    #[test]
    fn what_cannot_be_used_is_named_without_secrets() {
        for (name, value, wanted) in
            [("timeout", "soon", "`timeout` is \"soon\""), ("token", "s3\ncret", "the token has")]
        {
            let text = settings(&[(name, value)]).unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}");
            assert!(!text.contains("cret"), "{text}");
        }
    }
}
