//! Events as sentences, and what they mean: which shape a mark has, and whether an event changed something. Pure.

use super::html::EscapedText;
use crate::telemetry::{Event, EventKind};

/// The meaning of an event. Each has a shape besides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meaning {
    /// A decision that a step follows, which has an event of its own.
    Planned,
    /// A decision against a step.
    NotDone,
    /// A step that dry-run only logs.
    Simulated,
    /// The request of an operator.
    Operator,
    Reverted,
    Applied,
    Failed,
}

impl Meaning {
    pub fn of(event: &Event) -> Meaning {
        let is_undo = event.step.as_deref().is_some_and(|step| step.starts_with("undo "));
        match &event.kind {
            EventKind::Operation(_) => Meaning::Operator,
            EventKind::Decision(word) => match word.as_str() {
                "planned" => Meaning::Planned,
                "dry_run" => Meaning::Simulated,
                _ => Meaning::NotDone,
            },
            EventKind::Outcome(word) => match word.as_str() {
                "failed" | "denied" | "no_effect" => Meaning::Failed,
                "dry_run" => Meaning::Simulated,
                "restored" | "expired" | "released" | "superseded" => Meaning::Reverted,
                _ if is_undo => Meaning::Reverted,
                "applied" | "granted" => Meaning::Applied,
                _ => Meaning::NotDone,
            },
        }
    }

    /// The class for its colour, and the name of its shape in the drawing.
    pub fn class(self) -> &'static str {
        match self {
            Meaning::Applied => "applied",
            Meaning::Reverted => "reverted",
            Meaning::Failed => "failed",
            Meaning::NotDone | Meaning::Planned => "held",
            Meaning::Simulated => "simulated",
            Meaning::Operator => "operator",
        }
    }

    /// The shape as a character.
    pub fn shape(self) -> &'static str {
        match self {
            Meaning::Applied => "▲",
            Meaning::Reverted => "▼",
            Meaning::Failed => "✕",
            Meaning::NotDone | Meaning::Planned => "○",
            Meaning::Simulated => "△",
            Meaning::Operator => "◆",
        }
    }
}

/// A word such as `dry_run` for people.
pub fn plain(word: &str) -> String {
    EscapedText(word).to_string().replace('_', " ")
}

/// The event as text, escaped: `applied nice 10 on 4711 ffmpeg (0 → 10)`.
pub fn sentence(event: &Event) -> String {
    let change = change(event);
    let change = if change.is_empty() {
        change
    } else {
        format!(" ({change})")
    };
    format!("{}{}{change}", plain(event.kind.as_str()), subject(event))
}

/// The subject of an event, escaped: ` nice 10 on 4711 ffmpeg`.
pub fn subject(event: &Event) -> String {
    let step = event.step.as_deref().map(|step| format!(" {}", EscapedText(step)));
    let process = event.process.as_deref().map(|_| format!(" on {}", process(event)));
    step.unwrap_or_default() + &process.unwrap_or_default()
}

/// The values before and after, escaped.
pub fn change(event: &Event) -> String {
    match (event.before.as_deref(), event.after.as_deref()) {
        (Some(before), Some(after)) => format!("{} → {}", EscapedText(before), EscapedText(after)),
        (Some(value), None) | (None, Some(value)) => EscapedText(value).to_string(),
        (None, None) => String::new(),
    }
}

/// The process of an event, escaped.
pub fn process(event: &Event) -> String {
    let pid = event.pid.map_or(String::new(), |pid| format!("{pid} "));
    format!("{pid}{}", EscapedText(event.process.as_deref().unwrap_or_default()))
}

/// The reason of an event, escaped. A step without one was applied because the alert fires; a revert was not.
pub fn why(event: &Event) -> String {
    let is_revert = event.step.as_deref().is_some_and(|step| step.starts_with("undo "));
    match (event.reason.as_str(), event.alertname.as_str()) {
        ("", "") => String::new(),
        ("", _) if is_revert => String::new(),
        ("", alertname) => format!("{} fires", EscapedText(alertname)),
        (reason, _) => EscapedText(reason).to_string(),
    }
}

/// The anchor of an event on the page of its episode.
pub fn anchor(event: &Event) -> String {
    format!("t{}", event.at.as_millisecond())
}
