//! The firing alerts on a terminal, with the rules that answer each, what they did, what is held, and whether it helped.
//! Pure.

use super::{Answer, MAX_LINES, heading, line, span, wrapped};
use crate::diagnostic::printable;
use crate::publish::{HeldLeases, Meaning, answers, lease_numbers, nothing_done, open_alerts};
use crate::telemetry::{Event, OpenAlert};
use crate::terminal::{Style, Tone};
use jiff::Timestamp;

/// The alerts in the order of the page.
pub fn alerts(status: &Answer, now: Timestamp, storage: &str, style: Style) -> String {
    let mut out = heading(style, "FIRING ALERTS");
    let groups = open_alerts(&status.activity);
    if groups.is_empty() {
        out += "no alert of a rule is open\n";
    }
    let left_out = groups.len().saturating_sub(MAX_LINES);
    for group in groups.iter().take(MAX_LINES) {
        let Some(first) = group.first() else { continue };
        out += &format!(
            "{} {} for {}, from {}\n",
            style.paint(Tone::Held, &printable(&first.alertname)),
            first.state,
            span(now, first.since),
            first.source
        );
        for alert in answers(&status.activity, group) {
            out += &answer(status, alert, now, style);
        }
    }
    if left_out > 0 {
        out += &format!(
            "and {left_out} more: `evenkeel status --output json{}`\n",
            printable(storage)
        );
    }
    let unanswered = &status.activity.unanswered_alerts;
    for alert in unanswered.iter().take(MAX_LINES) {
        let (name, since) = (&alert.alertname, span(now, alert.since));
        let text = format!("{name} for {since}, from {}: no rule answers", alert.source);
        out += &wrapped(style, 0, &printable(&text));
    }
    if let Some(more) = unanswered.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
        out += &format!("and {more} more that no rule answers\n");
    }
    out
}

/// What one rule did about an alert, and what it did not do.
fn answer(status: &Answer, alert: &OpenAlert, now: Timestamp, style: Style) -> String {
    let mode = if alert.dry_run { " (dry-run)" } else { "" };
    let is_paused = status.paused_rules.contains(&alert.rule);
    let pause = if is_paused { " (paused)" } else { "" };
    let mut out = format!("  rule {}{mode}{pause}\n", printable(&alert.rule));
    let events = status.activity.events_of(&alert.episode);
    let (done, rest): (Vec<&Event>, Vec<&Event>) = events.into_iter().partition(|event| Meaning::of(event).is_done());
    if done.is_empty() {
        let of_rule = status.activity.rules.iter().find(|rule| rule.rule == alert.rule);
        let steps = of_rule.map_or(&[][..], |rule| &rule.steps);
        let nothing = nothing_done(steps, status.activity.is_incomplete(alert));
        out += &wrapped(style, 4, &printable(&nothing));
    }
    let not_done = rest
        .into_iter()
        .filter(|event| Meaning::of(event) != Meaning::Planned)
        .take(2);
    for event in done.into_iter().take(3).chain(not_done) {
        out += &line(event, now, style, "    ");
    }
    if !alert.dry_run {
        out += &wrapped(style, 4, &format!("held: {}", held(status, alert, now)));
        if let Some(effect) = status.effects.get(&alert.episode) {
            out += &wrapped(
                style,
                4,
                &format!("did it help? {}", printable(&effect.replace(" → ", " -> "))),
            );
        }
    }
    out
}

/// The leases of an alert: which, and until when.
fn held(status: &Answer, alert: &OpenAlert, now: Timestamp) -> String {
    let held = HeldLeases::of(&status.activity, alert);
    let mut parts = Vec::new();
    if let Some(until) = held.latest() {
        let (leases, latest) = (lease_numbers(&held.open), span(until, now));
        parts.push(format!("{leases}, until the alert is over, at the latest in {latest}"));
    }
    if !held.ending.is_empty() {
        parts.push(format!("{}, being reverted", lease_numbers(&held.ending)));
    }
    match (parts.is_empty(), status.leases_held > status.activity.leases.len()) {
        (true, false) => parts.push("nothing".to_owned()),
        (_, true) => parts.push("there are more leases than are listed here".to_owned()),
        (false, false) => {}
    }
    parts.join("; ")
}
