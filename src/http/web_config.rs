//! The format of exporter-toolkit's web configuration file. It reads strings only; `tls` opens certificates, and
//! `web_file` notices changes.

use crate::diagnostic::{SourceText, Span};
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The settings of a web configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct WebConfig {
    pub tls: Option<TlsSettings>,
    /// Whether HTTP/2 is offered, which requires TLS.
    pub http2: bool,
    /// Headers of every response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// bcrypt hashes by user name.
    pub users: BTreeMap<String, String>,
    pub rate_limit: Option<RateLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub clients: ClientAuth,
    /// The certificate authorities of client certificates.
    pub client_ca_file: Option<PathBuf>,
    /// A client certificate must have one of these names; empty accepts any name.
    pub client_allowed_sans: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// Suites for TLS 1.2, by Go's names; empty selects all safe ones.
    pub cipher_suites: Vec<String>,
    /// Curves by Go's names; empty selects all.
    pub curves: Vec<String>,
}

/// Go's `tls.ClientAuthType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// A certificate is requested and not verified.
    Request,
    /// Any certificate is accepted, including a self-signed one.
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

/// The supported versions. Older ones are insecure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A bucket of `burst` requests that gains one more each `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

/// An error in the content of the file.
#[derive(Debug, thiserror::Error)]
pub enum WebConfigError {
    #[error("{}{message}", place(.span.as_ref()))]
    Yaml {
        /// `None` where the reader knows no places.
        span: Option<Span>,
        message: String,
    },
    #[error("{place}: {problem}")]
    Setting { place: String, problem: String },
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Written {
    tls_server_config: Option<WrittenTls>,
    http_server_config: Option<WrittenHttp>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<WrittenRate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTls {
    cert_file: Option<String>,
    key_file: Option<String>,
    client_auth_type: Option<String>,
    client_ca_file: Option<String>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<String>,
    max_version: Option<String>,
    cipher_suites: Option<Vec<String>>,
    curve_preferences: Option<Vec<String>>,
    /// Ignored, as in Go since 1.18.
    #[serde(rename = "prefer_server_cipher_suites")]
    _prefer_server_cipher_suites: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHttp {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRate {
    interval: Option<String>,
    burst: Option<u32>,
}

fn place(span: Option<&Span>) -> String {
    span.map_or_else(String::new, |Span { line, column, .. }| {
        format!("line {line}, column {column}: ")
    })
}

/// A text of an error without hashes, which may stand where a name is wanted.
fn without_hashes(text: &str) -> String {
    let is_of_hash = |c: char| c.is_ascii_alphanumeric() || matches!(c, '$' | '.' | '/');
    let mut pieces = text.split("$2");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |before, piece| {
        before + "HASH" + piece.trim_start_matches(is_of_hash)
    })
}

fn wrong<T>(place: &str, problem: impl Into<String>) -> Result<T, WebConfigError> {
    Err(WebConfigError::Setting {
        place: without_hashes(place),
        problem: problem.into(),
    })
}

impl WebConfig {
    /// Parses a web configuration file, whose paths are relative to `folder`.
    ///
    /// # Errors
    /// Names the setting and the correction, and never quotes a hash.
    pub fn parse(text: &str, folder: &Path) -> Result<WebConfig, WebConfigError> {
        let read: Result<Option<Written>, _> = crate::yaml::from_str(&SourceText::new("", text));
        let written = read
            .map_err(|wrong| WebConfigError::Yaml {
                span: wrong.span,
                message: without_hashes(&wrong.message),
            })?
            .unwrap_or_default();
        let tls = match written.tls_server_config {
            Some(tls) => tls.settings(folder)?,
            None => None,
        };
        let (http2, headers) = match written.http_server_config {
            Some(http) => (http.http2.unwrap_or(true), headers(http.headers)?),
            None => (true, Vec::new()),
        };
        let users = written.basic_auth_users.unwrap_or_default();
        for (user, hash) in &users {
            let place = format!("basic_auth_users: {user:?}");
            if user.is_empty() || user.contains(':') {
                return wrong(&place, "the user name is empty or has a colon");
            }
            if bcrypt::HashParts::from_str(hash).is_err() {
                return wrong(
                    &place,
                    "not a bcrypt hash; make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`",
                );
            }
        }
        Ok(WebConfig {
            tls,
            http2,
            headers,
            users,
            rate_limit: rate_limit(written.rate_limit)?,
        })
    }
}

impl WrittenTls {
    fn settings(self, folder: &Path) -> Result<Option<TlsSettings>, WebConfigError> {
        let path = |path: Option<String>| path.filter(|path| !path.is_empty()).map(|path| folder.join(path));
        let clients = match self.client_auth_type.as_deref() {
            None | Some("" | "NoClientCert") => ClientAuth::None,
            Some("RequestClientCert") => ClientAuth::Request,
            Some("RequireAnyClientCert" | "RequireClientCert") => ClientAuth::RequireAny,
            Some("VerifyClientCertIfGiven") => ClientAuth::VerifyIfGiven,
            Some("RequireAndVerifyClientCert") => ClientAuth::RequireAndVerify,
            Some(other) => {
                let problem = format!(
                    "{other:?} is unknown; there are NoClientCert, RequestClientCert, RequireAnyClientCert, \
                     VerifyClientCertIfGiven and RequireAndVerifyClientCert"
                );
                return wrong("tls_server_config.client_auth_type", problem);
            }
        };
        let client_ca_file = path(self.client_ca_file);
        let client_allowed_sans = self.client_allowed_sans.unwrap_or_default();
        let (cert_file, key_file) = match (path(self.cert_file), path(self.key_file)) {
            (Some(cert_file), Some(key_file)) => (cert_file, key_file),
            // An empty section means no TLS, as in the toolkit.
            (None, None) if clients == ClientAuth::None && client_ca_file.is_none() => return Ok(None),
            (None, _) => {
                return wrong(
                    "tls_server_config.cert_file",
                    "missing; TLS requires a certificate and its key",
                );
            }
            (_, None) => {
                return wrong(
                    "tls_server_config.key_file",
                    "missing; TLS requires a certificate and its key",
                );
            }
        };
        match (clients, &client_ca_file) {
            (ClientAuth::None, Some(_)) => {
                let problem = "has no effect without client_auth_type, because no client would be asked for a certificate; add \
                     client_auth_type: RequireAndVerifyClientCert";
                return wrong("tls_server_config.client_ca_file", problem);
            }
            (ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify, None) => {
                return wrong(
                    "tls_server_config.client_ca_file",
                    "missing; client certificates are verified against it",
                );
            }
            _ => {}
        }
        if clients == ClientAuth::None && !client_allowed_sans.is_empty() {
            let problem = "has no effect without client_auth_type, because no client would be asked for a certificate";
            return wrong("tls_server_config.client_allowed_sans", problem);
        }
        let min_version = match self.min_version.as_deref() {
            // Older minimum versions are accepted because 1.2 satisfies them.
            None | Some("TLS10" | "TLS11" | "TLS12") => TlsVersion::Tls12,
            Some("TLS13") => TlsVersion::Tls13,
            Some(other) => {
                return wrong(
                    "tls_server_config.min_version",
                    format!("{other:?} is none of TLS12, TLS13"),
                );
            }
        };
        let max_version = match self.max_version.as_deref() {
            None | Some("TLS13") => TlsVersion::Tls13,
            Some("TLS12") => TlsVersion::Tls12,
            Some(old @ ("TLS10" | "TLS11")) => {
                return wrong(
                    "tls_server_config.max_version",
                    format!("{old} is not supported; TLS12 is the oldest version"),
                );
            }
            Some(other) => {
                return wrong(
                    "tls_server_config.max_version",
                    format!("{other:?} is none of TLS12, TLS13"),
                );
            }
        };
        if min_version > max_version {
            return wrong("tls_server_config.min_version", "newer than max_version");
        }
        Ok(Some(TlsSettings {
            cert_file,
            key_file,
            clients,
            client_ca_file,
            client_allowed_sans,
            min_version,
            max_version,
            cipher_suites: known("cipher_suites", self.cipher_suites, &GO_CIPHER_SUITES)?,
            curves: known("curve_preferences", self.curve_preferences, &GO_CURVES)?,
        }))
    }
}

/// The names that the toolkit accepts: Go's `tls.CipherSuites()`. evenkeel does not support CBC and static RSA.
const GO_CIPHER_SUITES: [&str; 17] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

const GO_CURVES: [&str; 4] = ["CurveP256", "CurveP384", "CurveP521", "X25519"];

fn known(key: &str, names: Option<Vec<String>>, all: &[&str]) -> Result<Vec<String>, WebConfigError> {
    let names = names.unwrap_or_default();
    match names.iter().find(|name| !all.contains(&name.as_str())) {
        None => Ok(names),
        Some(name) => wrong(
            &format!("tls_server_config.{key}"),
            format!("{name:?} is unknown; there are {}", all.join(", ")),
        ),
    }
}

/// Checks the headers: the toolkit accepts these five, and restricts the values of two.
fn headers(written: Option<BTreeMap<String, String>>) -> Result<Vec<(HeaderName, HeaderValue)>, WebConfigError> {
    const KNOWN: [&str; 5] = [
        "Content-Security-Policy",
        "Strict-Transport-Security",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "X-XSS-Protection",
    ];
    let mut headers = Vec::new();
    for (name, value) in written.unwrap_or_default() {
        let place = format!("http_server_config.headers: {name:?}");
        if !KNOWN.contains(&name.as_str()) {
            return wrong(&place, format!("unknown; there are {}", KNOWN.join(", ")));
        }
        let allowed: &[&str] = match name.as_str() {
            "X-Content-Type-Options" => &["nosniff"],
            "X-Frame-Options" => &["deny", "sameorigin"],
            _ => &[],
        };
        if value.is_empty() {
            continue;
        }
        if !allowed.is_empty() && !allowed.contains(&&*value.to_ascii_lowercase()) {
            return wrong(&place, format!("{value:?} is none of {}", allowed.join(", ")));
        }
        match (HeaderName::from_str(&name), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => headers.push((name, value)),
            _ => return wrong(&place, "the value is not printable ASCII"),
        }
    }
    Ok(headers)
}

fn rate_limit(written: Option<WrittenRate>) -> Result<Option<RateLimit>, WebConfigError> {
    let Some(WrittenRate { interval, burst }) = written else {
        return Ok(None);
    };
    // Without an interval there is no limit, as in the toolkit.
    let Some(interval) = interval else { return Ok(None) };
    let parsed = interval
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|interval| interval.try_into().ok());
    match parsed {
        None => wrong(
            "rate_limit.interval",
            format!("{interval:?} is no duration; write one as 100ms, 1s or 1m30s"),
        ),
        Some(Duration::ZERO) => Ok(None),
        Some(interval) => match burst.unwrap_or(1) {
            0 => wrong("rate_limit.burst", "0 would refuse every request; write 1 or more"),
            burst => Ok(Some(RateLimit { interval, burst })),
        },
    }
}

#[cfg(test)]
mod tests;
