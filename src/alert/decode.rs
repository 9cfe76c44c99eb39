//! The decoder of Alertmanager's webhook, version 4 (`notify/webhook`, `template.Data`): bytes in, alerts out. Pure.
//! Each entry counts by its own labels and status. The status and the common labels of the group are ignored.

use super::alert::{Alert, Source, Status, fingerprint};
use crate::http::web_address;
use crate::labels::Labels;
use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::SmallVec;
use smol_str::{SmolStr, StrExt};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// A real envelope is five levels deep (envelope, alerts, alert, labels, value); the rest is for future fields.
const MAX_DEPTH: usize = 32;

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
    /// Number of alerts that Alertmanager left out (`truncatedAlerts`, from `max_alerts` of its receiver).
    pub truncated: u64,
    /// Alertmanager's name of the group; empty if missing.
    pub group_key: String,
    /// Name of Alertmanager's receiver; empty if missing.
    pub receiver: String,
}

/// An entry of `alerts` that is no alert; the entries beside it are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("alerts[{index}]: {reason}")]
pub struct InvalidEntry {
    pub index: usize,
    pub reason: String,
}

/// The reason why a body is not a version 4 envelope. The webhook answers 400.
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
    #[error("\"version\" is {found}; only Alertmanager's webhook version \"4\" is known")]
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAlert<'a> {
    #[serde(borrow)]
    status: Option<Word<'a>>,
    labels: Option<Labels>,
    annotations: Option<Labels>,
    #[serde(borrow, rename = "generatorURL")]
    generator_url: Option<Address<'a>>,
    #[serde(borrow)]
    starts_at: Option<Word<'a>>,
    #[serde(borrow)]
    ends_at: Option<Word<'a>>,
    #[serde(borrow)]
    fingerprint: Option<Word<'a>>,
}

/// The address of a `generatorURL`. Anything else counts as missing, because an alert is worth more than its link.
#[derive(Deserialize)]
#[serde(untagged)]
enum Address<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

impl Address<'_> {
    fn permitted(&self) -> Option<SmolStr> {
        match self {
            Address::Text(text) => web_address(text),
            Address::Other(IgnoredAny) => None,
        }
    }
}

/// An entry that must be an object, because serde would also read a list as the fields of a struct in order.
struct Entry<'a>(RawAlert<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Entry<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry<'a>, D::Error> {
        struct Object<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
            type Value = RawAlert<'a>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawAlert<'a>, A::Error> {
                RawAlert::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Object(PhantomData)).map(Entry)
    }
}

/// A borrowed string where possible. (serde's own `Cow` in an option is always a copy.)
#[derive(Deserialize)]
#[serde(transparent)]
struct Word<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Word<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Decodes the body of a webhook request that arrived at `now`.
///
/// # Errors
/// When the body as a whole is not a version 4 envelope. A fault in one entry of `alerts` is reported in its place.
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
        return envelope(raw, |Entry(raw)| alert(raw, now));
    }
    envelope(serde_json::from_str(text)?, |entry: &RawValue| {
        if first_character(entry.get()) != Some('{') {
            return Err("an alert is a JSON object".to_owned());
        }
        let raw: RawAlert<'_> = serde_json::from_str(entry.get()).map_err(|wrong| wrong.to_string())?;
        alert(raw, now)
    })
}

fn envelope<E>(raw: RawEnvelope<'_, E>, judge: impl Fn(E) -> Result<Alert, String>) -> Result<Envelope, DecodeError> {
    let version = raw.version.map_or("missing", RawValue::get);
    if serde_json::from_str::<Cow<'_, str>>(version).ok().as_deref() != Some("4") {
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

fn alert(raw: RawAlert<'_>, now: Timestamp) -> Result<Alert, String> {
    let status = match raw.status.as_deref() {
        Some("firing") => Status::Firing,
        Some("resolved") => Status::Resolved,
        Some(other) => return Err(format!("the status is {other:?}; it is firing or resolved")),
        None => return Err("the status is missing; it is firing or resolved".to_owned()),
    };
    let labels = raw.labels.ok_or("the labels are missing")?;
    // Prometheus and Alertmanager treat an empty label as missing, and leave it out of the fingerprint.
    let labels = labels.filtered(|_, value| !value.is_empty());
    if labels.is_empty() {
        return Err("there is no label with a value".to_owned());
    }
    if labels.get("").is_some() {
        return Err("a label has an empty name".to_owned());
    }
    let starts_at = time("startsAt", raw.starts_at.as_deref()).map_err(|error| error.to_string())?;
    let ends_at = time("endsAt", raw.ends_at.as_deref()).map_err(|error| error.to_string())?;
    let fingerprint = match raw.fingerprint.as_deref() {
        None | Some("") => fingerprint(&labels),
        Some(text) if text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            text.to_ascii_lowercase_smolstr()
        }
        Some(text) => {
            return Err(format!(
                "the fingerprint {text:?} is not 16 hexadecimal digits; it may be left out"
            ));
        }
    };
    Ok(Alert {
        labels,
        annotations: raw.annotations.unwrap_or_default(),
        generator_url: raw.generator_url.as_ref().and_then(Address::permitted),
        status,
        // As Alertmanager's own API fills in a missing start: from the end, or else from now.
        starts_at: starts_at.or(ends_at).unwrap_or(now),
        ends_at: match status {
            Status::Firing => None,
            Status::Resolved => Some(ends_at.unwrap_or(now)),
        },
        fingerprint,
        source: Source::Alertmanager,
    })
}

/// A time that is not in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {text:?}; write a time as 2006-01-02T15:04:05Z (RFC 3339)")]
pub(super) struct InvalidTime {
    field: &'static str,
    text: String,
}

/// Parses RFC 3339. Go's zero time, the start of year 1, means "none".
pub(super) fn time(field: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, InvalidTime> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let time: Timestamp = text.parse().map_err(|_| InvalidTime {
        field,
        text: text.to_owned(),
    })?;
    Ok(Some(time).filter(|time| time.as_second() > GO_ZERO_TIME_SECONDS))
}

/// 0001-01-01T00:00:00Z, `time.Time{}` in Go.
const GO_ZERO_TIME_SECONDS: i64 = -62_135_596_800;

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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-22T04:00:00Z";

    /// Decodes at once and entry by entry, which must have the same result.
    fn read(body: &str) -> Result<Envelope, DecodeError> {
        let now = NOW.parse().unwrap();
        let read = decode(body.as_bytes(), now);
        let long = [body, &" ".repeat(MAX_AT_ONCE_BYTES)].concat();
        assert_eq!(
            read.as_ref().ok(),
            decode(long.as_bytes(), now).as_ref().ok(),
            "{body:.60}"
        );
        read
    }

    fn entry(alert: &str) -> Result<Alert, InvalidEntry> {
        let mut envelope = read(&format!(r#"{{"version":"4","alerts":[{alert}]}}"#)).unwrap();
        envelope.alerts.remove(0)
    }

    #[test]
    fn body_of_alertmanager_is_decoded() {
        let envelope = read(include_str!("../../tests/fixtures/alertmanager/webhook_group.json")).unwrap();
        assert_eq!(envelope.truncated, 1);
        assert_eq!(envelope.receiver, "evenkeel");
        assert_eq!(envelope.group_key, r#"{}:{alertname="HostCpuSaturated"}"#);
        let statuses: Vec<Status> = envelope
            .alerts
            .iter()
            .map(|alert| alert.as_ref().unwrap().status)
            .collect();
        assert_eq!(statuses, [Status::Firing, Status::Resolved]);
        let firing = envelope.alerts[0].as_ref().unwrap();
        assert_eq!(firing.name(), "HostCpuSaturated");
        assert_eq!(firing.ends_at, None);
        let resolved = envelope.alerts[1].as_ref().unwrap();
        assert!(resolved.ends_at.unwrap() > resolved.starts_at);
        for alert in &envelope.alerts {
            let alert = alert.as_ref().unwrap();
            assert_eq!(
                alert.fingerprint,
                fingerprint(&alert.labels),
                "computed as Alertmanager computes it"
            );
        }
    }

    #[test]
    fn other_bodies_are_rejected_with_the_reason() {
        let check = |body: &str, says: &str| {
            let wrong = read(body).expect_err(body).to_string();
            assert!(wrong.contains(says), "{body:.60}: {wrong}");
        };
        check("", "empty");
        check(" \n", "empty");
        check("firing", "begins with 'f'");
        check("[]", "begins with '['");
        check(r#"["4", []]"#, "begins with '['");
        check("\u{feff}{}", "begins with");
        check(r#"{"version":"4","alerts":[]"#, "EOF");
        check(r#"{"version":"4","alerts":[]} x"#, "trailing");
        check(r#"{"version":"4","alerts":{}}"#, "sequence");
        check(r#"{"version":"4"}"#, "\"alerts\" is missing");
        check(r#"{"alerts":[]}"#, "\"version\" is missing");
        check(r#"{"version":4,"alerts":[]}"#, "\"version\" is 4;");
        check(r#"{"version":"3","alerts":[]}"#, "\"version\" is \"3\"");
        check(r#"{"version":"4","version":"4","alerts":[]}"#, "duplicate field");
        check(r#"{"version":"4","alerts":[],"truncatedAlerts":-1}"#, "u64");
        let many = format!(r#"{{"version":"4","alerts":[{}0]}}"#, "0,".repeat(MAX_ENTRIES));
        check(&many, "65537 entries");
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
        check(&deep("[", "]"), "nested");
        check(&deep("[", ""), "nested");
        check(&deep(r#"{"a":"#, "}"), "nested");
        check(&format!(r#"{{"version":"4","alerts":[{}]}}"#, deep("[", "]")), "nested");
        check(
            &format!(r#"{{"version":"4","alerts":[],"new":{}}}"#, deep("[", "]")),
            "nested",
        );
        assert!(matches!(
            decode(b"{\"a\xff\"", Timestamp::UNIX_EPOCH),
            Err(DecodeError::NotUtf8 { valid_up_to: 3 })
        ));
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let name = r#"[[\"{{\\"#.repeat(1000);
        let alert = entry(&format!(r#"{{"status":"firing","labels":{{"a":"{name}"}}}}"#)).unwrap();
        assert_eq!(alert.labels.get("a").unwrap(), r#"[["{{\"#.repeat(1000));
    }

    #[test]
    fn invalid_entry_does_not_affect_others() {
        let body = r#"{"version":"4","status":"resolved","commonLabels":{"a":7},"new":[{}],"alerts":[
            {"status":"firing","labels":{"a":"1"},"startsAt":"2026-11-22T03:00:00Z","new":{"x":[1]}},
            7,
            {"status":"firing","labels":{"a":"3"},"startsAt":"2026-11-22T03:00:00.5+01:00","fingerprint":null}
        ]}"#;
        let envelope = read(body).unwrap();
        assert_eq!(envelope.alerts.len(), 3);
        assert_eq!(
            envelope.alerts[0].as_ref().unwrap().status,
            Status::Firing,
            "the group's status does not count"
        );
        assert_eq!(
            envelope.alerts[1].as_ref().unwrap_err().to_string(),
            "alerts[1]: an alert is a JSON object"
        );
        let third = envelope.alerts[2].as_ref().unwrap();
        assert_eq!(third.starts_at.to_string(), "2026-11-22T02:00:00.5Z");
        assert_eq!(third.fingerprint, fingerprint(&third.labels));
    }

    #[test]
    fn invalid_entry_has_a_reason() {
        let check = |alert: &str, says: &str| {
            let wrong = entry(alert).expect_err(alert);
            assert!(wrong.reason.contains(says), "{alert:.60}: {wrong}");
            assert!(wrong.reason.chars().count() <= MAX_REASON_CHARS + 1);
        };
        check("null", "JSON object");
        check(r#"["firing",{"a":"b"}]"#, "JSON object");
        check("{}", "status is missing");
        check(r#"{"status":"Firing","labels":{"a":"b"}}"#, "status is \"Firing\"");
        check(r#"{"status":7,"labels":{"a":"b"}}"#, "expected a string");
        check(r#"{"status":"firing"}"#, "labels are missing");
        check(r#"{"status":"firing","labels":{}}"#, "no label");
        check(r#"{"status":"firing","labels":{"a":""}}"#, "no label");
        check(r#"{"status":"firing","labels":{"":"b"}}"#, "empty name");
        check(r#"{"status":"firing","labels":{"a":1}}"#, "expected a string");
        check(r#"{"status":"firing","labels":{"a":null}}"#, "expected a string");
        check(r#"{"status":"firing","labels":{"a":["b"]}}"#, "expected a string");
        check(r#"{"status":"firing","labels":["a"]}"#, "an object of strings");
        check(
            r#"{"status":"firing","labels":{"a":"b","a":"b"}}"#,
            "\"a\" is given twice",
        );
        check(
            r#"{"status":"firing","status":"resolved","labels":{"a":"b"}}"#,
            "duplicate field",
        );
        check(
            r#"{"status":"firing","labels":{"a":"b"},"annotations":{"s":1}}"#,
            "expected a string",
        );
        check(
            r#"{"status":"firing","labels":{"a":"b"},"startsAt":"yesterday"}"#,
            "startsAt is \"yesterday\"",
        );
        check(
            r#"{"status":"firing","labels":{"a":"b"},"startsAt":"2026-11-22T03:00:00"}"#,
            "RFC 3339",
        );
        check(
            r#"{"status":"resolved","labels":{"a":"b"},"endsAt":"2026-13-22T03:00:00Z"}"#,
            "endsAt",
        );
        check(
            r#"{"status":"firing","labels":{"a":"b"},"startsAt":1}"#,
            "expected a string",
        );
        check(
            r#"{"status":"firing","labels":{"a":"b"},"fingerprint":"../etc"}"#,
            "16 hexadecimal",
        );
        check(
            &format!(r#"{{"status":"{}","labels":{{"a":"b"}}}}"#, "x".repeat(10_000)),
            "status is",
        );
    }

    #[test]
    fn missing_times_are_filled_in_as_alertmanager_does() {
        let check = |times: &str, starts: &str, ends: Option<&str>| {
            let status = if ends.is_some() { "resolved" } else { "firing" };
            let alert = entry(&format!(r#"{{"status":"{status}","labels":{{"a":"b"}}{times}}}"#)).unwrap();
            assert_eq!(alert.starts_at, starts.parse().unwrap(), "{times}");
            assert_eq!(alert.ends_at, ends.map(|ends| ends.parse().unwrap()), "{times}");
        };
        let (early, late) = ("2026-11-22T01:00:00Z", "2026-11-22T02:00:00Z");
        let zero = "0001-01-01T00:00:00Z";
        check("", NOW, None);
        check(&format!(r#","startsAt":"{zero}""#), NOW, None);
        check(r#","startsAt":"""#, NOW, None);
        check(&format!(r#","startsAt":"{early}","endsAt":"{zero}""#), early, None);
        check(&format!(r#","startsAt":"{early}","endsAt":"{late}""#), early, None);
        check(
            &format!(r#","startsAt":"{early}","endsAt":"{late}""#),
            early,
            Some(late),
        );
        check(&format!(r#","endsAt":"{late}""#), late, Some(late));
        check(&format!(r#","startsAt":"{early}","endsAt":"{zero}""#), early, Some(NOW));
    }

    #[test]
    fn a_fingerprint_that_was_sent_is_kept_in_lower_case() {
        let alert = entry(r#"{"status":"firing","labels":{"a":"b"},"fingerprint":"D2B371819297F98A"}"#).unwrap();
        assert_eq!(alert.fingerprint, "d2b371819297f98a");
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_decoding_panic(at in 0..900_usize, length in 0..40_usize, by: Vec<u8>) {
            let mut body = include_bytes!("../../tests/fixtures/alertmanager/webhook_group.json").to_vec();
            let end = (at + length).min(body.len());
            body.splice(at.min(end)..end, by);
            let now = NOW.parse().unwrap();
            let decoded = decode(&body, now);
            body.resize(body.len() + MAX_AT_ONCE_BYTES, b' ');
            let each = decode(&body, now);
            proptest::prop_assert_eq!(decoded.as_ref().ok(), each.as_ref().ok());
            if let Ok(envelope) = decoded {
                for alert in envelope.alerts.into_iter().flatten() {
                    proptest::prop_assert!(!alert.labels.is_empty());
                    proptest::prop_assert!(alert.labels.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
                    proptest::prop_assert_eq!(alert.ends_at.is_some(), alert.status == Status::Resolved);
                    proptest::prop_assert_eq!(alert.fingerprint.len(), 16);
                }
            }
        }
    }

    #[test]
    fn link_of_an_alert_is_a_web_address_or_missing() {
        for (url, expected) in [
            (
                "\"http://prometheus/graph?g0.expr=up\"",
                Some("http://prometheus/graph?g0.expr=up"),
            ),
            ("\"https://a/\\u0062\"", Some("https://a/b")),
            ("\"javascript:alert(1)\"", None),
            ("\"\"", None),
            ("null", None),
            ("7", None),
            ("{\"a\": [1]}", None),
        ] {
            let body = format!(
                "{{\"version\":\"4\",\"alerts\":[{{\"status\":\"firing\",\"labels\":{{\"a\":\"b\"}},\"generatorURL\":{url}}}]}}"
            );
            let envelope = decode(body.as_bytes(), Timestamp::UNIX_EPOCH).unwrap();
            let alert = envelope.alerts[0].as_ref().unwrap();
            assert_eq!(alert.generator_url.as_deref(), expected, "{url}");
        }
    }
}
