//! An entry of the webhook's `alerts`: from JSON to an alert. Pure.

use super::alert::{Alert, Source, Status, fingerprint};
use crate::http::web_address;
use crate::labels::Labels;
use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use smol_str::{SmolStr, StrExt};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

/// 0001-01-01T00:00:00Z, `time.Time{}` in Go.
const GO_ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// An entry as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawAlert<'a> {
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
pub(super) struct Entry<'a>(pub RawAlert<'a>);

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

impl RawAlert<'_> {
    /// The alert of an entry that arrived at `now`.
    pub fn alert(self, now: Timestamp) -> Result<Alert, String> {
        let status = match self.status.as_deref() {
            Some("firing") => Status::Firing,
            Some("resolved") => Status::Resolved,
            Some(other) => return Err(format!("the status is {other:?}; it is firing or resolved")),
            None => return Err("the status is missing; it is firing or resolved".to_owned()),
        };
        let labels = self.labels.ok_or("the labels are missing")?;
        // Prometheus and Alertmanager treat an empty label as missing, and leave it out of the fingerprint.
        let labels = labels.filtered(|_, value| !value.is_empty());
        if labels.is_empty() {
            return Err("there is no label with a value".to_owned());
        }
        if labels.get("").is_some() {
            return Err("a label has an empty name".to_owned());
        }
        let starts_at = time("startsAt", self.starts_at.as_deref()).map_err(|error| error.to_string())?;
        let ends_at = time("endsAt", self.ends_at.as_deref()).map_err(|error| error.to_string())?;
        let fingerprint = match self.fingerprint.as_deref() {
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
            annotations: self.annotations.unwrap_or_default(),
            generator_url: self.generator_url.as_ref().and_then(Address::permitted),
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
