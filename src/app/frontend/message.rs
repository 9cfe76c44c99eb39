//! The messages of the channel between the actuator and the frontend, and the checks of what comes from the frontend. A
//! frontend that was taken over can write any message, so each has its bounds here.

use super::frame::FrameLimits;
use crate::alert::alert::{Alert, Source, Status};
use crate::alert::decode::MAX_ENTRIES;
use crate::alert::receiver::{Delivery, MAX_BODY_BYTES, Receipt};
use crate::http::remote_access::AccessVersion;
use crate::http::web_address;
use crate::labels::Labels;
use crate::publish::request::{MetricsRequest, ReplyHead};
use crate::sandbox::Report;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Webhook requests whose receipt the frontend waits for: one for each connection.
pub const MAX_DELIVERIES: usize = 256;
/// Memory for the alerts of these requests in KiB. A larger request is taken while there is no other.
pub const MAX_DELIVERIES_KIB: u32 = 32 * 1024;
/// Scrapes and pages that the frontend waits for. The access rules of a listener do not wait for them.
pub const MAX_METRICS: usize = 128;
/// Questions for the access rules of one listener.
pub const MAX_ACCESS: usize = 1;

/// The frames to the actuator. The smallest alerts of a body take twice their size, because times and fingerprints are
/// added.
pub const TO_ACTUATOR: FrameLimits = FrameLimits {
    head_bytes: 5 * MAX_BODY_BYTES / 2,
    body_bytes: 0,
};
/// The frames to the frontend: certificates, and a scrape of a large host.
pub const TO_FRONTEND: FrameLimits = FrameLimits {
    head_bytes: 16 * 1024 * 1024,
    body_bytes: 64 * 1024 * 1024,
};

/// The oldest arrival that is believed. A body arrives within 10 s.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Log lines that can be lost between two messages.
const MAX_LINES_DROPPED: u64 = 1_000_000;
/// The status codes of the webhook listener.
const RESPONSE_CODES: [u16; 13] = [200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 431];

/// A listener, by which access rules are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listener {
    Metrics,
    Webhook,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ToActuator {
    /// Always the first message.
    Started(Report),
    Ask {
        id: u64,
        question: Question,
    },
    /// The webhook listener has responded so often with this status code.
    Responded {
        code: u16,
        count: u32,
    },
    LogLinesDropped(u64),
    /// No webhook request is pending, and none will be accepted.
    WebhookDrained,
    /// The reply to a ping.
    Pong,
}

/// A question. Each gets one answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    Metrics(MetricsRequest),
    Deliver(DeliveredAlerts),
    /// The access rules of a listener, if their number is not this one.
    Access {
        listener: Listener,
        known: u64,
    },
}

#[derive(Serialize, Deserialize)]
pub enum ToFrontend {
    /// Always the first message.
    Configure(Box<Settings>),
    Answer {
        id: u64,
        answer: Answer,
    },
    /// Reply. Any message shows that the frontend is alive.
    Ping,
    /// Accept no more connections, end pending requests, and exit.
    Stop,
}

/// An answer, whose kind is that of the question.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// The body of the reply is the body of the frame.
    Metrics(ReplyHead),
    Receipt(Receipt),
    Access(Option<AccessVersion>),
}

/// What the frontend must know. It has contents of files and no paths, because it cannot read files.
#[derive(Clone, Serialize, Deserialize)]
pub struct Settings {
    pub telemetry_path: String,
    pub metrics_access: AccessVersion,
    pub webhook_access: AccessVersion,
    pub metrics_connections: usize,
    pub webhook_connections: usize,
}

/// The alerts of one webhook request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredAlerts {
    alerts: Vec<DeliveredAlert>,
    invalid: usize,
    truncated: u64,
    /// Since the request's head was complete.
    age: Duration,
}

/// Labels, annotations, start, end if it is resolved, fingerprint, and address of the expression.
type DeliveredAlert = (Labels, Labels, Timestamp, Option<Timestamp>, SmolStr, Option<SmolStr>);

/// Why a message from the frontend is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("{0} entries in one request")]
    TooManyEntries(usize),
    #[error("an alert that no decoder returns")]
    Alert,
    #[error("the status code {0}, which the webhook never has")]
    Code(u16),
    #[error("{0} lost log lines at once")]
    Lines(u64),
}

impl DeliveredAlerts {
    pub fn of(delivery: &Delivery) -> DeliveredAlerts {
        let delivered = |alert: &Alert| {
            let Alert {
                labels,
                annotations,
                generator_url,
                ..
            } = alert.clone();
            (
                labels,
                annotations,
                alert.starts_at,
                alert.ends_at,
                alert.fingerprint.clone(),
                generator_url,
            )
        };
        DeliveredAlerts {
            alerts: delivery.alerts.iter().map(delivered).collect(),
            invalid: delivery.invalid,
            truncated: delivery.truncated,
            age: delivery.received_at.elapsed(),
        }
    }

    /// Memory of the alerts, which is several times that of their JSON where they are small.
    pub fn bytes(&self) -> usize {
        let bytes = |(labels, annotations, ..): &DeliveredAlert| labels.heap_bytes() + annotations.heap_bytes();
        self.alerts.len() * size_of::<DeliveredAlert>() + self.alerts.iter().map(bytes).sum::<usize>()
    }

    /// The delivery, if it is one that the decoder of webhooks could return.
    ///
    /// # Errors
    /// What it could not return.
    pub fn into_delivery(self, now: Instant, reply: oneshot::Sender<Receipt>) -> Result<Delivery, InvalidMessage> {
        let entries = self.alerts.len().saturating_add(self.invalid);
        if entries > MAX_ENTRIES {
            return Err(InvalidMessage::TooManyEntries(entries));
        }
        let alerts = self.alerts.into_iter().map(checked);
        Ok(Delivery {
            alerts: Arc::new(alerts.collect::<Result<_, _>>()?),
            invalid: self.invalid,
            truncated: self.truncated,
            received_at: now.checked_sub(self.age.min(MAX_AGE)).unwrap_or(now),
            reply,
        })
    }
}

fn checked(alert: DeliveredAlert) -> Result<Alert, InvalidMessage> {
    let (labels, annotations, starts_at, ends_at, fingerprint, generator_url) = alert;
    let is_hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_fingerprint = fingerprint.len() == 16 && fingerprint.bytes().all(is_hexadecimal);
    let are_labels = !labels.is_empty() && labels.iter().all(|(name, value)| !name.is_empty() && !value.is_empty());
    let is_address = |url: &SmolStr| web_address(url).is_some();
    if !is_fingerprint || !are_labels || !generator_url.iter().all(is_address) {
        return Err(InvalidMessage::Alert);
    }
    Ok(Alert {
        labels,
        annotations,
        generator_url,
        status: match ends_at {
            None => Status::Firing,
            Some(_) => Status::Resolved,
        },
        starts_at,
        ends_at,
        fingerprint,
        source: Source::Alertmanager,
    })
}

/// A status code of the webhook listener.
///
/// # Errors
/// When the listener never responds with it.
pub fn checked_code(code: u16) -> Result<u16, InvalidMessage> {
    match RESPONSE_CODES.contains(&code) {
        true => Ok(code),
        false => Err(InvalidMessage::Code(code)),
    }
}

/// A number of log lines that were lost at once.
///
/// # Errors
/// When there cannot be so many.
pub fn checked_lines(lines: u64) -> Result<u64, InvalidMessage> {
    match lines <= MAX_LINES_DROPPED {
        true => Ok(lines),
        false => Err(InvalidMessage::Lines(lines)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::decode;

    fn deliver(text: &str) -> Result<Delivery, InvalidMessage> {
        let delivered: DeliveredAlerts = serde_json::from_str(text).unwrap();
        delivered.into_delivery(Instant::now(), oneshot::channel().0)
    }

    #[test]
    fn delivered_alerts_are_those_that_were_decoded() {
        let body = include_bytes!("../../../tests/fixtures/alertmanager/webhook_group.json");
        let envelope = decode(body, Timestamp::UNIX_EPOCH).unwrap();
        let alerts: Vec<Alert> = envelope.alerts.into_iter().map(Result::unwrap).collect();
        let delivery = Delivery {
            alerts: Arc::new(alerts.clone()),
            invalid: 2,
            truncated: 3,
            received_at: Instant::now(),
            reply: oneshot::channel().0,
        };
        let delivery = deliver(&serde_json::to_string(&DeliveredAlerts::of(&delivery)).unwrap()).unwrap();
        assert_eq!(*delivery.alerts, alerts);
        assert_eq!((delivery.invalid, delivery.truncated), (2, 3));
    }

    #[test]
    fn message_of_any_body_fits_into_a_frame() {
        let entry = |labels: &str| format!("{{\"status\":\"resolved\",\"labels\":{{{labels}}}}}");
        let mut body = r#"{"version":"4","alerts":["#.to_owned();
        let smallest = entry("\"a\":\"b\"") + ",";
        body.push_str(&smallest.repeat(MAX_ENTRIES - 1));
        let rest = MAX_BODY_BYTES - body.len() - entry("\"a\":\"\"").len() - "]}".len();
        body.push_str(&entry(&format!("\"a\":\"{}\"", "x".repeat(rest))));
        body.push_str("]}");
        assert_eq!(body.len(), MAX_BODY_BYTES);
        let envelope = decode(body.as_bytes(), Timestamp::now()).unwrap();
        let alerts: Vec<Alert> = envelope.alerts.into_iter().map(Result::unwrap).collect();
        assert_eq!(alerts.len(), MAX_ENTRIES);
        let bytes: usize = alerts.iter().map(Alert::bytes).sum();
        let delivery = Delivery {
            alerts: Arc::new(alerts),
            invalid: 0,
            truncated: 0,
            received_at: Instant::now(),
            reply: oneshot::channel().0,
        };
        let delivered = DeliveredAlerts::of(&delivery);
        let text = serde_json::to_vec(&delivered).unwrap();
        assert!(text.len() + 1024 < TO_ACTUATOR.head_bytes, "{}", text.len());
        // What is charged is memory, and not JSON.
        assert!(delivered.bytes() > text.len(), "{} {}", delivered.bytes(), text.len());
        assert!(
            delivered.bytes().abs_diff(bytes) < bytes / 4,
            "{} {bytes}",
            delivered.bytes()
        );
    }

    #[test]
    fn alerts_that_no_decoder_returns_are_refused() {
        let alert_of = |labels: &str, fingerprint: &str, url: &str| {
            let times = "\"2026-01-01T00:00:00Z\",null";
            deliver(&format!(
                "{{\"alerts\":[[{labels},{{}},{times},\"{fingerprint}\",{url}]],\"invalid\":0,\"truncated\":0,\
                 \"age\":{{\"secs\":9999,\"nanos\":0}}}}"
            ))
        };
        let alert = |labels: &str, fingerprint: &str| alert_of(labels, fingerprint, "null");
        let address = |url: &str| alert_of("{\"a\":\"1\"}", "0123456789abcdef", url);
        assert!(address("\"https://prometheus/graph\"").is_ok());
        assert_eq!(address("\"javascript:alert(1)\"").unwrap_err(), InvalidMessage::Alert);
        let good = alert("{\"a\":\"1\"}", "0123456789abcdef").unwrap();
        assert_eq!(good.alerts[0].status, Status::Firing);
        assert!(good.received_at.elapsed() < 2 * MAX_AGE);
        for (labels, fingerprint) in [
            ("{}", "0123456789abcdef"),
            ("{\"\":\"1\"}", "0123456789abcdef"),
            ("{\"a\":\"\"}", "0123456789abcdef"),
            ("{\"a\":\"1\"}", "0123456789ABCDEF"),
            ("{\"a\":\"1\"}", "0123"),
        ] {
            let refused = alert(labels, fingerprint).unwrap_err();
            assert_eq!(refused, InvalidMessage::Alert, "{labels} {fingerprint}");
        }
        let many = deliver("{\"alerts\":[],\"invalid\":70000,\"truncated\":0,\"age\":{\"secs\":0,\"nanos\":0}}");
        assert_eq!(many.unwrap_err(), InvalidMessage::TooManyEntries(70_000));
    }

    #[test]
    fn foreign_codes_and_counts_are_refused() {
        assert_eq!(checked_code(503), Ok(503));
        assert_eq!(checked_code(999), Err(InvalidMessage::Code(999)));
        assert_eq!(checked_lines(512), Ok(512));
        assert!(checked_lines(u64::MAX).is_err());
    }
}
