//! Requests to the metrics listener and their replies as plain data, between the HTTP server and the handler.

use super::negotiation::Format;
use super::page::Range;
use crate::sense::{COLLECTORS, CollectorReading, Pace};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a client of the metrics listener wants from the handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricsRequest {
    Scrape(Scrape),
    /// The status page, with this range of its timeline.
    Page(Option<Range>),
    /// The page of the episode with this id.
    Episode(String),
    StatusJson,
    /// Whether the daemon is ready.
    Readiness,
    /// Reload the configuration, for a client at this address.
    Reload(IpAddr),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrape {
    pub collectors: CollectorFilter,
    pub format: Format,
    pub gzip: bool,
    /// How long it waits for fresh samples.
    pub patience: Duration,
}

/// Answers requests to the metrics listener.
pub trait MetricsService: Send + Sync + 'static {
    fn answer(&self, request: MetricsRequest) -> impl Future<Output = MetricsReply> + Send;
}

/// The reply to a request, from which the server makes the HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsReply {
    pub head: ReplyHead,
    pub body: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyHead {
    pub status: ReplyStatus,
    pub content: ContentType,
}

/// The status codes of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyStatus {
    Ok,
    /// Such as a scrape of a collector that is disabled.
    BadRequest,
    Forbidden,
    NotFound,
    Failed,
    Unavailable,
}

impl ReplyStatus {
    pub fn code(self) -> StatusCode {
        match self {
            ReplyStatus::Ok => StatusCode::OK,
            ReplyStatus::BadRequest => StatusCode::BAD_REQUEST,
            ReplyStatus::Forbidden => StatusCode::FORBIDDEN,
            ReplyStatus::NotFound => StatusCode::NOT_FOUND,
            ReplyStatus::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            ReplyStatus::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentType {
    Plain,
    Html,
    Json,
    Exposition { format: Format, gzip: bool },
}

impl MetricsReply {
    pub fn new(status: ReplyStatus, content: ContentType, body: impl Into<Bytes>) -> MetricsReply {
        MetricsReply {
            head: ReplyHead { status, content },
            body: body.into(),
        }
    }

    pub fn plain(status: ReplyStatus, body: impl Into<Bytes>) -> MetricsReply {
        MetricsReply::new(status, ContentType::Plain, body)
    }
}

/// The collectors that a URL selects with `collect[]` or `exclude[]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectorFilter {
    All,
    Only(#[serde(deserialize_with = "known_collectors")] BTreeSet<&'static str>),
    Without(#[serde(deserialize_with = "known_collectors")] BTreeSet<&'static str>),
}

/// The name of a collector, if there is one of this name.
fn known_collector(name: &str) -> Option<&'static str> {
    COLLECTORS.iter().map(|info| info.name).find(|known| *known == name)
}

fn known_collectors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<&'static str>, D::Error> {
    let names = Vec::<Cow<'de, str>>::deserialize(deserializer)?;
    let known = names.iter().map(|name| known_collector(name));
    known
        .collect::<Option<_>>()
        .ok_or_else(|| serde::de::Error::custom("there is no such collector"))
}

impl CollectorFilter {
    /// # Errors
    /// The text for the client, if the query selects no collectors.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut collect = BTreeSet::new();
        let mut exclude = BTreeSet::new();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let set = match decode_percent(key).as_ref() {
                "collect[]" => &mut collect,
                "exclude[]" => &mut exclude,
                _ => continue,
            };
            let name = decode_percent(value);
            set.insert(known_collector(&name).ok_or_else(|| format!("missing collector: {name}\n"))?);
        }
        match (collect.is_empty(), exclude.is_empty()) {
            (true, true) => Ok(CollectorFilter::All),
            (false, true) => Ok(CollectorFilter::Only(collect)),
            (true, false) => Ok(CollectorFilter::Without(exclude)),
            (false, false) => Err("Combined collect and exclude queries are not allowed.\n".to_owned()),
        }
    }

    pub fn includes(&self, collector: &str) -> bool {
        match self {
            CollectorFilter::All => true,
            CollectorFilter::Only(names) => names.contains(collector),
            CollectorFilter::Without(names) => !names.contains(collector),
        }
    }

    /// Whether it selects a collector that another thread than the sampler's reads for scrapes.
    pub fn includes_scraped(&self) -> bool {
        let mut scraped = COLLECTORS
            .iter()
            .filter(|info| matches!(info.pace, Pace::Scrape | Pace::IsolatedScrape));
        scraped.any(|info| self.includes(info.name))
    }

    /// The selected collectors that are disabled.
    pub fn missing(&self, readings: &[Arc<CollectorReading>]) -> Vec<&'static str> {
        let CollectorFilter::Only(names) = self else {
            return Vec::new();
        };
        let on: BTreeSet<_> = readings.iter().map(|reading| reading.collector).collect();
        names.difference(&on).copied().collect()
    }
}

/// Decodes percent escapes and `+` in a part of a query. Invalid escapes stay as they are.
fn decode_percent(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
        rest = tail;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_invalid_ones_stay() {
        for (text, expected) in [
            ("collect%5B%5d", "collect[]"),
            ("a+b", "a b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode_percent(text), expected, "{text:?}");
        }
    }

    #[test]
    fn filters_of_unknown_collectors_are_not_read() {
        let filter = CollectorFilter::from_query("collect[]=cpu&collect[]=loadavg").unwrap();
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(text, r#"{"Only":["cpu","loadavg"]}"#);
        assert_eq!(serde_json::from_str::<CollectorFilter>(&text).unwrap(), filter);
        assert!(serde_json::from_str::<CollectorFilter>(r#"{"Only":["cpu","other"]}"#).is_err());
    }
}
