//! Events as sentences, and what they mean: which shape a mark has, and whether an event changed something. The terminal
//! uses their meaning and words as well. Pure.

use super::html::{EscapedText, shortened};
use crate::telemetry::{Activity, Event, EventKind, GRANT_EXPIRES, LEFT_AS_IT_IS, LeaseStatus, NOT_REVERTIBLE};
use std::sync::Arc;

/// The meaning of an event. Each has a shape besides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meaning {
    /// A decision that a step follows, which has an event of its own.
    Planned,
    /// A decision against a step.
    NotDone,
    /// A step that dry-run only logs.
    Simulated,
    /// The end of a lease that restored nothing: the change was gone, never made, or cannot be reverted.
    NothingToRevert,
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
                "planned" | "dry_run" => Meaning::Planned,
                _ => Meaning::NotDone,
            },
            EventKind::Outcome(word) => match word.as_str() {
                "failed" | "denied" | "no_effect" => Meaning::Failed,
                "dry_run" => Meaning::Simulated,
                "superseded" => Meaning::NothingToRevert,
                "restored" | "expired" | "released" if restored_something(event) => Meaning::Reverted,
                "restored" | "expired" | "released" => Meaning::NothingToRevert,
                // The revert of a value that was set, or may have been.
                "cancelled" if is_undo && event.after.is_some() && restored_something(event) => Meaning::Reverted,
                _ if is_undo => Meaning::NothingToRevert,
                "applied" | "granted" => Meaning::Applied,
                _ => Meaning::NotDone,
            },
        }
    }

    /// Whether evenkeel changed something, or tried to.
    pub fn is_act(self) -> bool {
        matches!(self, Meaning::Applied | Meaning::Failed | Meaning::Reverted)
    }

    /// Whether it is in the list of what a rule did; in dry-run as what the rule would do.
    pub fn is_done(self) -> bool {
        self.is_act() || matches!(self, Meaning::Simulated | Meaning::NothingToRevert)
    }

    /// The class for its colour, and the name of its shape in the drawing.
    pub fn class(self) -> &'static str {
        match self {
            Meaning::Applied => "applied",
            Meaning::Reverted => "reverted",
            Meaning::Failed => "failed",
            Meaning::NotDone | Meaning::Planned => "held",
            Meaning::Simulated => "simulated",
            Meaning::NothingToRevert => "untouched",
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
            Meaning::NothingToRevert => "▽",
            Meaning::Operator => "◆",
        }
    }
}

/// Whether a revert changed something. Some leases end without a request or a command, because their rule has none, or
/// leave the value of another program.
fn restored_something(event: &Event) -> bool {
    ![GRANT_EXPIRES, NOT_REVERTIBLE, LEFT_AS_IT_IS]
        .iter()
        .any(|end| event.reason.ends_with(end))
}

/// What evenkeel does with steps now, on the page and on a terminal.
pub fn state(mode: &str, is_off: bool, is_paused: bool, is_ledger_writable: bool) -> &'static str {
    match (is_off, is_paused, mode == "enforce", is_ledger_writable) {
        (true, ..) => "the actuator is off: only metrics are published",
        (_, true, ..) => "paused: no new steps; leases are still reverted",
        (.., true, true) => "enforce: steps are applied, and reverted when their alert resolves",
        (.., true, false) => "enforce, but the ledger cannot be written: only rules with without_ledger apply steps",
        (.., false, _) => "dry-run: actions are only logged",
    }
}

/// What stands for events that are not kept any more.
pub const FORGOTTEN: &str = "more than is kept here; the history has it";

/// What a rule without a step so far says about an open alert, on the page and on a terminal: what it waits for. Not
/// escaped.
pub fn nothing_done(steps: &[String], is_incomplete: bool) -> String {
    match (is_incomplete, steps) {
        (true, _) => FORGOTTEN.to_owned(),
        (false, []) => "nothing: the rule is gone".to_owned(),
        (false, [step]) => format!("nothing yet; its step is {step}"),
        (false, steps) => format!("nothing yet; its steps are {}", steps.join(", ")),
    }
}

/// A word such as `dry_run` for people.
pub fn plain(word: &str) -> String {
    EscapedText(word).to_string().replace('_', " ")
}

/// The event as text, escaped: `applied nice 10 on 4711 ffmpeg (0 → 10)`.
pub fn sentence(event: &Event) -> String {
    sentence_on(event, &process(event))
}

/// The event as text, with a long name of its process without its middle.
pub fn short_sentence(event: &Event, limit: usize) -> String {
    sentence_on(event, &short_process(event, limit))
}

fn sentence_on(event: &Event, process: &str) -> String {
    let change = change(event);
    let change = if change.is_empty() {
        change
    } else {
        format!(" ({change})")
    };
    format!("{}{}{change}", plain(event.kind.as_str()), subject_on(event, process))
}

/// The subject of an event, escaped: ` nice 10 on 4711 ffmpeg`.
pub fn subject(event: &Event) -> String {
    subject_on(event, &process(event))
}

fn subject_on(event: &Event, process: &str) -> String {
    let step = event.step.as_deref().map(|step| format!(" {}", EscapedText(step)));
    let process = event.process.as_deref().map(|_| format!(" on {process}"));
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

/// What a lease changed, with the arrow of all changes here: `nice 0 → 10`. Not escaped.
pub fn lease_change(lease: &LeaseStatus) -> String {
    lease.what.replace(" -> ", " → ")
}

/// The process of an event, escaped.
pub fn process(event: &Event) -> String {
    short_process(event, usize::MAX)
}

/// The process of an event, escaped, with a long name without its middle.
pub fn short_process(event: &Event, limit: usize) -> String {
    let pid = event.pid.map_or(String::new(), |pid| format!("{pid} "));
    pid + &shortened(event.process.as_deref().unwrap_or_default(), limit)
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

/// The anchor of an event on the page of its episode: its time, and its number among the events of a rule and an alert at
/// that time, because the events of a transaction share one. The count begins with the oldest, so that later events do not
/// change it.
pub fn anchor(activity: &Activity, event: &Event) -> String {
    let (letter, events) = match event.kind {
        EventKind::Decision(_) => ('d', &activity.decisions),
        EventKind::Outcome(_) | EventKind::Operation(_) => ('t', &activity.actions),
    };
    let of_moment = |other: &&Arc<Event>| {
        other.at.as_millisecond() == event.at.as_millisecond()
            && other.rule == event.rule
            && other.fingerprint == event.fingerprint
    };
    let older = events.iter().rev().filter(of_moment);
    let number = older.take_while(|other| !std::ptr::eq(&***other, event)).count();
    format!("{letter}{}-{number}", event.at.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_never_promises_steps_that_are_not_applied() {
        let is_promise = |mode, off, paused, writable| state(mode, off, paused, writable).contains("steps are applied");
        for off in [false, true] {
            for paused in [false, true] {
                for writable in [false, true] {
                    assert_eq!(
                        is_promise("enforce", off, paused, writable),
                        !off && !paused && writable
                    );
                    assert!(!is_promise("dry-run", off, paused, writable));
                }
            }
        }
    }

    #[test]
    fn state_without_a_ledger_names_the_rules_that_still_act() {
        let text = state("enforce", false, false, false);
        assert!(text.contains("only rules with without_ledger apply steps"), "{text}");
        assert!(!text.contains("no new steps"), "{text}");
    }

    #[test]
    fn only_what_restored_something_is_reverted() {
        for (step, outcome, reason, expected) in [
            ("undo nice", "restored", "", Meaning::Reverted),
            ("undo nice", "expired", "", Meaning::Reverted),
            ("undo allocate", "released", "status 200", Meaning::Reverted),
            ("undo nice", "superseded", "", Meaning::NothingToRevert),
            ("undo nice", "gone", "", Meaning::NothingToRevert),
            ("undo nice", "changed_identity", "", Meaning::NothingToRevert),
            ("undo signal", "cancelled", "", Meaning::NothingToRevert),
            ("undo nice", "already_set", "", Meaning::NothingToRevert),
            ("undo allocate", "expired", GRANT_EXPIRES, Meaning::NothingToRevert),
            ("undo allocate", "released", GRANT_EXPIRES, Meaning::NothingToRevert),
            (
                "undo exec",
                "restored",
                "released by root; not revertible",
                Meaning::NothingToRevert,
            ),
            ("undo nice", "denied", "", Meaning::Failed),
            ("nice 10", "applied", "", Meaning::Applied),
            ("nice 10", "gone", "", Meaning::NotDone),
            ("wait 10s", "cancelled", "", Meaning::NotDone),
        ] {
            let event: Event = serde_json::from_value(serde_json::json!({
                "at": "2026-01-01T00:00:00Z", "rule": "a", "alertname": "A", "outcome": outcome, "step": step,
                "reason": reason,
            }))
            .unwrap();
            assert_eq!(Meaning::of(&event), expected, "{step} {outcome} {reason}");
        }
        let cancelled = |reason: &str| -> Event {
            serde_json::from_value(serde_json::json!({
                "at": "2026-01-01T00:00:00Z", "rule": "a", "alertname": "A", "outcome": "cancelled",
                "step": "undo nice", "before": "10", "after": "0", "reason": reason,
            }))
            .unwrap()
        };
        assert_eq!(Meaning::of(&cancelled("")), Meaning::Reverted);
        assert_eq!(Meaning::of(&cancelled(LEFT_AS_IT_IS)), Meaning::NothingToRevert);
        assert!(!Meaning::NothingToRevert.is_act() && Meaning::NothingToRevert.is_done());
    }

    #[test]
    fn rule_without_a_step_names_what_it_will_do() {
        let steps = ["wait 10s", "nice 10"].map(str::to_owned);
        for (steps, is_incomplete, expected) in [
            (&steps[..], false, "nothing yet; its steps are wait 10s, nice 10"),
            (&steps[1..], false, "nothing yet; its step is nice 10"),
            (&[], false, "nothing: the rule is gone"),
            (&steps, true, FORGOTTEN),
        ] {
            assert_eq!(nothing_done(steps, is_incomplete), expected);
        }
    }
}
