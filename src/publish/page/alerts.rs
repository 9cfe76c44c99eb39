//! The firing alerts, each once, with the rules that answer it and what each did; and the alerts that are over. Pure.

use super::PageOptions;
use super::banner;
use super::effect::effect;
use super::html::{EscapedText, capitalised, command, elapsed, pause_command, pause_mark, relative, span};
use super::open_alerts::{HeldLeases, acted, answers, lease_numbers, open_alerts};
use super::story::{FORGOTTEN, Meaning, nothing_done, sentence, why};
use crate::labels::Labels;
use crate::publish::status::Status;
use crate::telemetry::{Episode, Event, LeaseStatus, OpenAlert, UnansweredAlert};
use crate::terminal::shell_word;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Alerts with a card. The others are counted.
const MAX_CARDS: usize = 20;
/// Alerts that are over in the list.
const MAX_OVER: usize = 10;
/// Events of a kind in a card. Its page has all.
const MAX_EVENTS: usize = 4;
/// Alerts without a rule that are listed. More are counted.
const MAX_UNANSWERED: usize = 8;

pub fn alerts(out: &mut String, status: &Status, options: PageOptions<'_>) -> fmt::Result {
    writeln!(out, "<section>\n<h2 id=\"alerts\">Firing alerts</h2>")?;
    let cards = open_alerts(&status.activity);
    if cards.is_empty() {
        writeln!(out, "<p>No alert of a rule is open.</p>")?;
    }
    for group in cards.iter().take(MAX_CARDS) {
        card(out, status, options, group)?;
    }
    if cards.len() > MAX_CARDS {
        writeln!(
            out,
            "<p>{} more alerts are open; <a href=\"api/v1/status\">the status as JSON</a> has them.</p>",
            cards.len() - MAX_CARDS
        )?;
    }
    unanswered(out, status)?;
    banner::hints(out, status, options)?;
    over(out, status)?;
    writeln!(out, "</section>")
}

/// Writes the firing alerts that no rule matches, for which a person is needed.
fn unanswered(out: &mut String, status: &Status) -> fmt::Result {
    let alerts = &status.activity.unanswered_alerts;
    if alerts.is_empty() {
        return Ok(());
    }
    writeln!(out, "<h3>No rule answers</h3>\n<ul class=\"over\">")?;
    for alert in alerts.iter().take(MAX_UNANSWERED) {
        let UnansweredAlert {
            alertname,
            labels: others,
            source,
            since,
        } = alert;
        let (name, for_long) = (EscapedText(alertname), elapsed(*since, status.sampled_at));
        write!(
            out,
            "<li>{name}, for {for_long}, from {source}. <span class=\"labels\">"
        )?;
        labels(out, others)?;
        writeln!(out, "</span></li>")?;
    }
    if let Some(more) = alerts.len().checked_sub(MAX_UNANSWERED).filter(|more| *more > 0) {
        writeln!(out, "<li>and {more} more</li>")?;
    }
    writeln!(out, "</ul>")
}

/// Writes an alert with its rules.
fn card(out: &mut String, status: &Status, options: PageOptions<'_>, group: &[&OpenAlert]) -> fmt::Result {
    let Some(alert) = group.first() else { return Ok(()) };
    let (name, id) = (EscapedText(&alert.alertname), &alert.episode);
    let (class, shape, state) = match alert.state.as_str() {
        "firing" => ("firing", "▲", "firing"),
        other => ("unconfirmed", "?", other),
    };
    writeln!(
        out,
        "<article class=\"alert {class}\" aria-labelledby=\"alert-{id}\">\n<h3 id=\"alert-{id}\">\
         <span class=\"shape\" aria-hidden=\"true\">{shape}</span> {name}</h3>\n\
         <p>{} for {}, from {}. <span class=\"labels\">",
        EscapedText(&capitalised(state)),
        elapsed(alert.since, status.sampled_at),
        alert.source
    )?;
    labels(out, &alert.labels)?;
    writeln!(out, "</span></p>")?;
    for alert in answers(&status.activity, group) {
        answer(out, status, options, alert)?;
    }
    writeln!(out, "</article>")
}

/// Writes labels as `name="value", …`.
pub fn labels(out: &mut String, labels: &Labels) -> fmt::Result {
    for (place, (name, value)) in labels.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        write!(out, "{comma}{}=&quot;{}&quot;", EscapedText(name), EscapedText(value))?;
    }
    Ok(())
}

/// Writes what one rule did about an alert.
fn answer(out: &mut String, status: &Status, options: PageOptions<'_>, alert: &OpenAlert) -> fmt::Result {
    let rule = EscapedText(&alert.rule);
    let mode = if alert.dry_run { "dry-run" } else { "enforce" };
    let stopped = if status.breakers_open.contains(&alert.rule) {
        " <strong class=\"bad\">breaker open</strong>"
    } else {
        ""
    };
    let is_paused = status.paused_rules.contains(&alert.rule);
    let pause = pause_mark(is_paused);
    let of_rule = status.activity.rules.iter().find(|known| known.rule == alert.rule);
    let steps = of_rule.map_or(&[][..], |known| &known.steps);
    writeln!(
        out,
        "<div class=\"answer\">\n<h4>Rule {rule} <span class=\"tag\">{mode}</span>{stopped}{pause}</h4>\n<dl class=\"facts\">"
    )?;
    let mut fact = |name: &str, value: &str| writeln!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    let events = status.activity.events_of(&alert.episode);
    let is_incomplete = status.activity.is_incomplete(alert);
    let done = list(status, &events, is_incomplete, Meaning::is_done);
    let nothing = || EscapedText(&nothing_done(steps, is_incomplete)).to_string();
    let did = if alert.dry_run { "Would do" } else { "Did" };
    fact(did, &done.unwrap_or_else(nothing))?;
    if let Some(not_done) = list(status, &events, is_incomplete, |meaning| meaning == Meaning::NotDone) {
        fact("Not done", &not_done)?;
    }
    if !alert.dry_run {
        fact("Held", &held(status, alert))?;
        if let Some(text) = help(status, &events, status.sampled_at) {
            fact("Did it help?", &text)?;
        }
    }
    let storage = options.storage_option;
    let pause = pause_command(&alert.rule, is_paused, storage);
    let purpose = if is_paused { "To go on" } else { "To stop the rule" };
    let history = command(&format!("evenkeel history --rule {}{storage}", shell_word(&alert.rule)));
    fact(
        "More",
        &format!(
            "<a href=\"episodes/{}\">this episode</a>, or {history}. {purpose}: {pause}",
            alert.episode
        ),
    )?;
    writeln!(out, "</dl>\n</div>")
}

/// The newest events of some meanings as a list; `None` if there are none.
fn list(status: &Status, events: &[&Event], is_incomplete: bool, is_meant: impl Fn(Meaning) -> bool) -> Option<String> {
    let meant: Vec<&&Event> = events.iter().filter(|event| is_meant(Meaning::of(event))).collect();
    if meant.is_empty() {
        return None;
    }
    let items = meant.iter().take(MAX_EVENTS).map(|event| {
        let meaning = Meaning::of(event);
        // The reason of what was done is the alert, and stands above.
        let reason = match meaning {
            Meaning::NotDone | Meaning::Failed | Meaning::NothingToRevert => why(event),
            _ => String::new(),
        };
        let reason = if reason.is_empty() {
            reason
        } else {
            format!(": {reason}")
        };
        format!(
            "<li class=\"{}\"><span class=\"shape\" aria-hidden=\"true\">{}</span> {}{reason}, {}</li>",
            meaning.class(),
            meaning.shape(),
            sentence(event),
            relative(event.at, status.sampled_at)
        )
    });
    let items: String = items.collect();
    let more = match meant.len().saturating_sub(MAX_EVENTS) {
        0 => String::new(),
        more if is_incomplete => format!("<li>and at least {more} more</li>"),
        more => format!("<li>and {more} more</li>"),
    };
    Some(format!("<ul>{items}{more}</ul>"))
}

/// The leases of an episode: which, and until when.
fn held(status: &Status, alert: &OpenAlert) -> String {
    let held = HeldLeases::of(&status.activity, alert);
    let mut parts = Vec::new();
    if let Some(until) = held.latest() {
        let latest = relative(until, status.sampled_at);
        parts.push(format!(
            "{}, until the alert is over, at the latest {latest}",
            numbers(&held.open)
        ));
    }
    if !held.ending.is_empty() {
        parts.push(format!("{}, being reverted", numbers(&held.ending)));
    }
    match (parts.is_empty(), status.has_more_leases()) {
        (true, false) => parts.push("nothing".to_owned()),
        (_, true) => parts.push("there are more leases than are kept here".to_owned()),
        (false, false) => {}
    }
    parts.join("; ")
}

/// A link to leases that names them, or counts them where they are many.
fn numbers(leases: &[&LeaseStatus]) -> String {
    format!("<a href=\"#leases\">{}</a>", lease_numbers(leases))
}

/// For each open alert whose rule applied a step, whether it helped, by the number of the episode.
pub fn effects(status: &Status) -> BTreeMap<&str, String> {
    let acted = acted(&status.activity);
    let is_acted_on = |alert: &&OpenAlert| acted.contains(&(alert.rule.as_str(), alert.fingerprint.as_str()));
    let acting = status.activity.alerts.iter().filter(|alert| !alert.dry_run);
    let effect = |alert: &OpenAlert| help(status, &status.activity.events_of(&alert.episode), status.sampled_at);
    acting
        .filter(is_acted_on)
        .filter_map(|alert| Some((alert.episode.as_str(), effect(alert)?)))
        .collect()
}

/// The figures before the first applied step of an episode and since.
pub fn help(status: &Status, events: &[&Event], until: Timestamp) -> Option<String> {
    let applied = events.iter().filter(|event| Meaning::of(event) == Meaning::Applied);
    let first = applied.map(|event| event.at).min()?;
    match effect(status, first, until) {
        Some(text) => Some(format!("{text} (the minute before the first step, and the last one)")),
        None => Some("too early to say".to_owned()),
    }
}

/// Writes the alerts that are over.
fn over(out: &mut String, status: &Status) -> fmt::Result {
    let episodes: Vec<Episode<'_>> = status
        .activity
        .episodes()
        .filter(|episode| episode.ended_at.is_some())
        .take(MAX_OVER)
        .collect();
    if episodes.is_empty() {
        return Ok(());
    }
    writeln!(out, "<h3>Over</h3>\n<ul class=\"over\">")?;
    for episode in episodes {
        let (alert, Some(ended_at)) = (episode.alert, episode.ended_at) else {
            continue;
        };
        let events = status.activity.events_of(&alert.episode);
        let count = |meaning| events.iter().filter(|event| Meaning::of(event) == meaning).count();
        let counts = [
            (Meaning::Applied, "applied"),
            (Meaning::Reverted, "reverted"),
            (Meaning::NothingToRevert, "with nothing to revert"),
            (Meaning::Failed, "failed"),
            (Meaning::Simulated, "only logged"),
            (Meaning::NotDone, "not done"),
        ];
        let counts: Vec<String> = counts
            .into_iter()
            .filter_map(|(meaning, word)| match count(meaning) {
                0 => None,
                count => Some(format!("{count} {word}")),
            })
            .collect();
        let counts = match (status.activity.is_incomplete(alert), counts.is_empty()) {
            (true, true) => FORGOTTEN.to_owned(),
            (true, false) => format!("at least {}", counts.join(", ")),
            (false, true) => "nothing done".to_owned(),
            (false, false) => counts.join(", "),
        };
        writeln!(
            out,
            "<li><a href=\"episodes/{}\">{}</a> {}, after {}; rule {}: {counts}</li>",
            alert.episode,
            EscapedText(&alert.alertname),
            relative(ended_at, status.sampled_at),
            span(ended_at.duration_since(alert.opened_at)),
            EscapedText(&alert.rule)
        )?;
    }
    writeln!(out, "</ul>")
}
