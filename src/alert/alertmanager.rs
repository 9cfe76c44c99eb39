//! Lists of alerts from Alertmanagers (API v2), and the decision which alerts are over because no Alertmanager lists
//! them any more. Pure: the caller sends the requests and passes the time.

use super::alert::{Alert, Source, Status};
use super::webhook_entry::time;
use crate::http::web_address;
use crate::labels::Labels;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// Path of the response for [`decode_start`], below an Alertmanager's prefix.
pub const STATUS_PATH: &str = "/api/v2/status";
/// Path of the response for [`decode_receivers`].
pub const RECEIVERS_PATH: &str = "/api/v2/receivers";

/// An invalid response. Its Alertmanager counts as unreachable.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("not the JSON of Alertmanager's API v2: {0}")]
    Json(#[from] serde_json::Error),
    #[error("alert {index}: {problem}")]
    Alert { index: usize, problem: String },
}

/// Path and query of the active alerts of one receiver, below an Alertmanager's prefix.
pub fn alerts_path(receiver: &str) -> String {
    // The API expects a pattern in Go's dialect, anchored at both ends. These escapes are valid in both dialects.
    let pattern = regex::escape(receiver);
    let mut path = "/api/v2/alerts?active=true&silenced=false&inhibited=false&receiver=".to_owned();
    for byte in pattern.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(char::from(byte)),
            // Writing into a string cannot fail.
            _ => drop(write!(path, "%{byte:02X}")),
        }
    }
    path
}

/// The start time of the Alertmanager's process.
///
/// # Errors
/// When this is not the response to [`STATUS_PATH`].
pub fn decode_start(body: &[u8]) -> Result<Timestamp, AnswerError> {
    #[derive(Deserialize)]
    struct Answer {
        /// The start time, despite its name.
        uptime: Timestamp,
    }
    Ok(serde_json::from_slice::<Answer>(body)?.uptime)
}

/// The names of the receivers that an Alertmanager has.
///
/// # Errors
/// When this is not the response to [`RECEIVERS_PATH`].
pub fn decode_receivers(body: &[u8]) -> Result<Vec<String>, AnswerError> {
    #[derive(Deserialize)]
    struct Answer {
        name: String,
    }
    let answers: Vec<Answer> = serde_json::from_slice(body)?;
    Ok(answers.into_iter().map(|answer| answer.name).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAlert {
    labels: Labels,
    #[serde(default)]
    annotations: Option<Labels>,
    #[serde(default, rename = "generatorURL")]
    generator_url: Option<String>,
    starts_at: String,
    fingerprint: String,
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    state: String,
    /// Time intervals that mute it, reported since Alertmanager 0.28.
    #[serde(default)]
    muted_by: Vec<String>,
}

/// The firing alerts that are neither silenced, inhibited nor muted.
///
/// # Errors
/// When this is not the response to [`alerts_path`]. One unreadable alert makes all invalid, because it would count as
/// absent otherwise.
pub fn decode_alerts(body: &[u8]) -> Result<Vec<Alert>, AnswerError> {
    let raw: Vec<RawAlert> = serde_json::from_slice(body)?;
    let is_active = |alert: &RawAlert| alert.status.state == "active" && alert.status.muted_by.is_empty();
    let alert = |(index, raw): (usize, RawAlert)| {
        let wrong = |problem: &str| AnswerError::Alert {
            index,
            problem: problem.to_owned(),
        };
        let starts_at = time("startsAt", Some(&raw.starts_at)).map_err(|error| wrong(&error.to_string()))?;
        Ok(Alert {
            labels: raw.labels,
            annotations: raw.annotations.unwrap_or_default(),
            generator_url: raw.generator_url.as_deref().and_then(web_address),
            status: Status::Firing,
            starts_at: starts_at.ok_or_else(|| wrong("it has no start"))?,
            ends_at: None,
            fingerprint: raw.fingerprint.into(),
            source: Source::Alertmanager,
        })
    };
    raw.into_iter()
        .enumerate()
        .filter(|(_, raw)| is_active(raw))
        .map(alert)
        .collect()
}

/// The response of one Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its address.
    pub alertmanager: String,
    /// Start of its process by its own clock. Another value means another process.
    pub started_at: Timestamp,
    pub firing: Vec<Alert>,
}

/// The responses of all reachable Alertmanagers, at about the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollResult {
    pub views: Vec<View>,
    /// CLOCK_BOOTTIME before the first request.
    pub asked_at: Duration,
    /// Time for which a listed alert counts as firing.
    pub fresh_for: Duration,
    /// Time for which an alert must be absent to be over.
    pub patience: Duration,
}

impl PollResult {
    /// The alerts that fire on any Alertmanager, each once. Of different starts the latest counts, because the others
    /// have missed a resolve.
    pub fn firing(&self) -> Vec<Alert> {
        let mut alerts = BTreeMap::<&str, &Alert>::new();
        for alert in self.views.iter().flat_map(|view| &view.firing) {
            let known = alerts.entry(&alert.fingerprint).or_insert(alert);
            if alert.starts_at > known.starts_at {
                *known = alert;
            }
        }
        alerts.into_values().cloned().collect()
    }
}

/// The times since which open alerts are absent, for each Alertmanager.
#[derive(Debug, Default)]
pub struct MissingAlerts(BTreeMap<Absent, Since>);

/// Alertmanager and fingerprint.
type Absent = (String, String);

#[derive(Debug, Clone, Copy)]
struct Since {
    /// Start of the Alertmanager's process. A new process knows no alerts, so its absences count from its first
    /// response, and so never for longer than it runs, regardless of its clock.
    started_at: Timestamp,
    /// CLOCK_BOOTTIME.
    at: Duration,
}

impl MissingAlerts {
    /// Evaluates a poll at `now` (CLOCK_BOOTTIME), and returns the `open` fingerprints that are over: absent from every
    /// reachable Alertmanager, on each for the poll's patience without a gap. Without a response no alert is over.
    pub fn judge<'o>(&mut self, open: &BTreeSet<&'o str>, poll: &PollResult, now: Duration) -> BTreeSet<&'o str> {
        let mut kept = BTreeMap::new();
        let mut over = open.clone();
        for view in &poll.views {
            let firing: BTreeSet<&str> = view.firing.iter().map(|alert| alert.fingerprint.as_str()).collect();
            for fingerprint in open {
                if firing.contains(fingerprint) {
                    over.remove(fingerprint);
                    continue;
                }
                let absent = (view.alertmanager.clone(), (*fingerprint).to_owned());
                let first = Since {
                    started_at: view.started_at,
                    at: now,
                };
                let known = self.0.get(&absent).copied();
                let since = known
                    .filter(|since| since.started_at == view.started_at)
                    .unwrap_or(first);
                if now.saturating_sub(since.at) < poll.patience {
                    over.remove(fingerprint);
                }
                kept.insert(absent, since);
            }
        }
        self.0 = kept;
        if poll.views.is_empty() {
            over.clear();
        }
        over
    }

    /// A source reported that this alert fires. Absence starts over from then: with a receiver whose alerts are sent
    /// but not listed, episodes would otherwise alternate between open and closed.
    pub fn heard(&mut self, fingerprint: &str) {
        self.0.retain(|(_, absent), _| absent != fingerprint);
    }
}

#[cfg(test)]
mod tests;
