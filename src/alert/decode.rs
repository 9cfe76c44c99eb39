//! The decoder of the webhooks of Alertmanager (version 4, `template.Data`) and of Grafana (version 1, the same form with
//! more fields): bytes in, alerts out. Pure. Each entry counts by its own labels and status. The status and the common
//! labels of the group are ignored.

#[cfg(test)]
mod tests;

use super::alert::Alert;
use super::webhook_entry::{Entry, RawAlert};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::SmallVec;
use std::borrow::Cow;

/// A real envelope is five levels deep (envelope, alerts, alert, labels, value); the rest is for future fields.
const MAX_DEPTH: usize = 32;

/// The versions of Alertmanager's webhook and of Grafana's. Fields that only Grafana sends are ignored.
const VERSIONS: [&str; 2] = ["4", "1"];

/// Maximum number of entries, more than fit into 4 MiB with status, labels and start. It bounds the cost of tiny
/// entries.
pub const MAX_ENTRIES: usize = 65_536;

/// Size up to which all entries are parsed at once: the smallest entry, `{},`, takes a hundred times its size while it
/// is parsed.
const MAX_AT_ONCE_BYTES: usize = 64 * 1024;

/// Maximum length of an entry's reason in characters, because it quotes the input in a log line.
const MAX_REASON_CHARS: usize = 200;

/// The content of one webhook request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// In the order of the request.
    pub alerts: Vec<Result<Alert, InvalidEntry>>,
    /// Number of alerts that the sender left out (`truncatedAlerts`, from the `max_alerts` of its receiver).
    pub truncated: u64,
    /// The sender's name of the group; empty if missing.
    pub group_key: String,
    /// Name of the sender's receiver; empty if missing.
    pub receiver: String,
}

/// An entry of `alerts` that is no alert; the entries beside it are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("alerts[{index}]: {reason}")]
pub struct InvalidEntry {
    pub index: usize,
    pub reason: String,
}

/// The reason why a body is not an envelope of a known version. The webhook answers 400.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the body is empty; send Alertmanager's webhook JSON, version 4")]
    Empty,
    #[error("the body is not UTF-8 from byte {valid_up_to} on; JSON is UTF-8")]
    NotUtf8 { valid_up_to: usize },
    #[error("the body is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("the body begins with {found:?}; Alertmanager's webhook is a JSON object")]
    NotAnObject { found: char },
    #[error("not the JSON of Alertmanager's webhook: {0}")]
    Json(#[from] serde_json::Error),
    #[error("\"version\" is {found}; only webhook version \"4\" of Alertmanager and \"1\" of Grafana are known")]
    Version { found: String },
    #[error("\"alerts\" is missing; Alertmanager's webhook has a list of alerts there")]
    NoAlerts,
    #[error("{found} entries in \"alerts\"; {MAX_ENTRIES} are the most that is taken at once")]
    TooManyEntries { found: usize },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "E: Deserialize<'de>"))]
struct RawEnvelope<'a, E> {
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    // A nested option, to distinguish a missing list from a null (an empty slice in Go).
    // Most bodies have one alert, which needs no allocation here, so that retained parts of it fragment no heap.
    #[serde(default, deserialize_with = "present")]
    alerts: Option<Option<SmallVec<[E; 1]>>>,
    truncated_alerts: Option<u64>,
    group_key: Option<String>,
    receiver: Option<String>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Decodes the body of a webhook request that arrived at `now`.
///
/// # Errors
/// When the body as a whole is not an envelope of a known version. A fault in one entry of `alerts` is reported in its place.
pub fn decode(body: &[u8], now: Timestamp) -> Result<Envelope, DecodeError> {
    let text = std::str::from_utf8(body).map_err(|wrong| DecodeError::NotUtf8 {
        valid_up_to: wrong.valid_up_to(),
    })?;
    // This check comes first, because a parser may recurse, or skip unknown fields of any depth.
    if depth_exceeds(body, MAX_DEPTH) {
        return Err(DecodeError::TooDeep);
    }
    match first_character(text) {
        Some('{') => {}
        Some(found) => return Err(DecodeError::NotAnObject { found }),
        None => return Err(DecodeError::Empty),
    }
    // All entries are parsed at once if they are valid, as nearly always. Otherwise, and if many tiny entries could use
    // much memory, each is parsed by itself.
    if text.len() <= MAX_AT_ONCE_BYTES
        && let Ok(raw) = serde_json::from_str::<RawEnvelope<'_, Entry<'_>>>(text)
    {
        return envelope(raw, |Entry(raw)| raw.alert(now));
    }
    envelope(serde_json::from_str(text)?, |entry: &RawValue| {
        if first_character(entry.get()) != Some('{') {
            return Err("an alert is a JSON object".to_owned());
        }
        let raw: RawAlert<'_> = serde_json::from_str(entry.get()).map_err(|wrong| wrong.to_string())?;
        raw.alert(now)
    })
}

fn envelope<E>(raw: RawEnvelope<'_, E>, judge: impl Fn(E) -> Result<Alert, String>) -> Result<Envelope, DecodeError> {
    let version = raw.version.map_or("missing", RawValue::get);
    let is_known = |version: Cow<'_, str>| VERSIONS.contains(&version.as_ref());
    if !serde_json::from_str(version).is_ok_and(is_known) {
        return Err(DecodeError::Version {
            found: shortened(version),
        });
    }
    let entries = raw.alerts.ok_or(DecodeError::NoAlerts)?.unwrap_or_default();
    if entries.len() > MAX_ENTRIES {
        return Err(DecodeError::TooManyEntries { found: entries.len() });
    }
    let judge = |(index, entry)| {
        judge(entry).map_err(|reason| InvalidEntry {
            index,
            reason: shortened(&reason),
        })
    };
    let mut alerts = Vec::with_capacity(entries.len());
    alerts.extend(entries.into_iter().enumerate().map(judge));
    Ok(Envelope {
        alerts,
        truncated: raw.truncated_alerts.unwrap_or(0),
        group_key: raw.group_key.unwrap_or_default(),
        receiver: raw.receiver.unwrap_or_default(),
    })
}

fn first_character(text: &str) -> Option<char> {
    text.trim_start_matches([' ', '\t', '\n', '\r']).chars().next()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether brackets outside strings nest deeper than `limit`. The parser rejects invalid JSON.
fn depth_exceeds(body: &[u8], limit: usize) -> bool {
    // A fast path, because few alerts have this many brackets.
    if memchr::memchr2_iter(b'{', b'[', body).nth(limit).is_none() {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}
