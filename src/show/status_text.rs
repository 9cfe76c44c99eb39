//! The status as text: the state, the firing alerts, the host's last minutes as sparklines, leases, last actions and
//! rules, in the order of the status page. Pure.

use super::listing::{self, lease_table};
use crate::diagnostic::printable;
use crate::publish::{self, Meaning, nothing_done};
use crate::telemetry::{
    BudgetLimits, Event, FrontendStatus, LeaseStatus, MAX_RECENT, OpenAlert, RuleStatus, UnansweredAlert,
};
use crate::terminal::{Style, Tone, count, shell_word, width};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Lines of leases and of actions, and number of alerts.
const MAX_LINES: usize = 10;
/// Columns of a sparkline at most, and of what stands before it.
const SPARK_COLUMNS: usize = 60;
const FIGURE_COLUMNS: usize = 29;
/// An event of an episode may have a time that is this much before it.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// What the text needs of `/api/v1/status`.
#[derive(Debug, Deserialize)]
pub struct Answer {
    version: String,
    host: Host,
    sampled_at: Timestamp,
    mode: String,
    paused: bool,
    paused_by: Option<Event>,
    actuator_off: Option<String>,
    /// Left out by versions before it existed.
    #[serde(default)]
    engine_restarts: u64,
    frontend: Option<FrontendStatus>,
    alerts: Vec<OpenAlert>,
    rules: Vec<RuleStatus>,
    leases: Vec<LeaseStatus>,
    leases_held: usize,
    /// Left out by versions before it existed.
    #[serde(default)]
    unanswered_alerts: Vec<UnansweredAlert>,
    actions: Vec<Event>,
    decisions: Vec<Event>,
    budget_remaining: u32,
    commands_remaining: u32,
    budget: BudgetLimits,
    breakers_open: Vec<String>,
    /// Left out by versions before it existed.
    #[serde(default)]
    paused_rules: Vec<String>,
    ledger_writable: bool,
    config_last_reload_successful: bool,
    trail: BTreeMap<String, Vec<Option<f32>>>,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
}

/// Formats the status in the order of the status page. `storage` is the option that leads commands to this daemon.
pub fn text(status: &Answer, now: Timestamp, storage: &str, style: Style) -> String {
    let mut out = state(status, now, storage, style);
    out += &alerts(status, now, storage, style);
    out += &timeline(status, style);
    out += &leases(status, now, storage, style);
    out += &actions(status, now, style);
    out += &rules(status, now, style);
    out
}

fn heading(style: Style, text: &str) -> String {
    format!("\n{}\n", style.paint(Tone::Heading, text))
}

/// A text below others, wrapped and indented.
fn wrapped(style: Style, indent: usize, text: &str) -> String {
    let lines = style.wrap(text, indent);
    lines
        .iter()
        .map(|line| format!("{}{line}\n", " ".repeat(indent)))
        .collect()
}

fn state(status: &Answer, now: Timestamp, storage: &str, style: Style) -> String {
    let mut out = format!(
        "evenkeel {} on {}, sampled at {}\n",
        status.version,
        printable(match &*status.host.name {
            "" => "this host",
            name => name,
        }),
        status.sampled_at.strftime("%H:%M:%S UTC")
    );
    let is_off = status.actuator_off.is_some();
    let mut sentence = publish::state(&status.mode, is_off, status.paused, status.ledger_writable).to_owned();
    let tone = match &status.actuator_off {
        Some(reason) => {
            sentence += &format!(" ({})", printable(reason));
            Tone::Bad
        }
        None if status.mode != "enforce" || status.paused => Tone::Held,
        None if status.ledger_writable => Tone::Good,
        None => Tone::Bad,
    };
    for line in style.wrap(&sentence, 0) {
        out += &(style.paint(tone, &line) + "\n");
    }
    if let Some(by) = status.paused_by.as_ref().filter(|_| status.paused) {
        let (when, who) = (ago(by.at, now), printable(&by.reason));
        let who = format!("{when} {who}, until `evenkeel resume{}`", printable(storage));
        out += &wrapped(style, 2, &who);
    }
    let restarts = |restarts: u64| match restarts {
        0 => "no restarts".to_owned(),
        restarts => count(usize::try_from(restarts).unwrap_or(usize::MAX), "restart"),
    };
    if status.actuator_off.is_none() {
        out += &format!("actuator running, {}; ", restarts(status.engine_restarts));
    }
    out += &match &status.frontend {
        Some(FrontendStatus {
            since: Some(since),
            restarts: number,
        }) => {
            format!("frontend running for {}, {}", span(*since, now), restarts(*number))
        }
        Some(FrontendStatus {
            since: None,
            restarts: number,
        }) => style.paint(Tone::Bad, &format!("frontend not running, {}", restarts(*number))),
        None => "no frontend: the main process serves HTTP".to_owned(),
    };
    let word = |is_good: bool, good: &str, bad: &str| match is_good {
        true => style.paint(Tone::Good, good),
        false => style.paint(Tone::Bad, bad),
    };
    let BudgetLimits {
        final_steps,
        commands,
        per_seconds,
    } = status.budget;
    out += &format!(
        "\n{}, {}, {}\n{} of {final_steps} irreversible actions and {} of {commands} commands left per {}\n",
        word(status.ledger_writable, "ledger writable", "ledger not writable"),
        word(
            status.config_last_reload_successful,
            "configuration in force",
            "last reload failed"
        ),
        word(
            status.breakers_open.is_empty(),
            "no breaker open",
            &(count(status.breakers_open.len(), "breaker") + " open")
        ),
        status.budget_remaining,
        status.commands_remaining,
        listing::left(Duration::from_secs(per_seconds)),
    );
    for rule in &status.paused_rules {
        let resume = format!("evenkeel resume --rule {}{storage}", shell_word(rule));
        let paused = format!("{} is paused until `{}`", printable(rule), printable(&resume));
        out += &wrapped(style, 2, &paused);
    }
    for rule in &status.breakers_open {
        out += &wrapped(
            style,
            2,
            &format!(
                "{} has an open breaker; {} closes it",
                printable(rule),
                listing::close_breaker(rule, storage)
            ),
        );
    }
    out
}

/// An alert with the rules that answer it: the newest first, alerts with actions before the others, as on the page.
fn alerts(status: &Answer, now: Timestamp, storage: &str, style: Style) -> String {
    let mut out = heading(style, "FIRING ALERTS");
    let mut of_alert: BTreeMap<_, Vec<&OpenAlert>> = BTreeMap::new();
    for alert in &status.alerts {
        let key = (
            Reverse(alert.since),
            alert.alertname.as_str(),
            alert.fingerprint.as_str(),
        );
        of_alert.entry(key).or_default().push(alert);
    }
    if of_alert.is_empty() {
        out += "no alert of a rule is open\n";
    }
    let is_idle = |alert: &&OpenAlert| !events(status, alert).any(|event| Meaning::of(event).is_act());
    let left_out = of_alert.len().saturating_sub(MAX_LINES);
    let mut alerts: Vec<Vec<&OpenAlert>> = of_alert.into_values().collect();
    alerts.sort_by_cached_key(|answers| answers.iter().all(&is_idle));
    for mut answers in alerts.into_iter().take(MAX_LINES) {
        answers.sort_by_cached_key(&is_idle);
        let Some(first) = answers.first() else { continue };
        out += &format!(
            "{} {} for {}, from {}\n",
            style.paint(Tone::Held, &printable(&first.alertname)),
            first.state,
            span(now, first.since),
            first.source
        );
        for alert in answers {
            out += &answer(status, alert, now, style);
        }
    }
    if left_out > 0 {
        out += &format!(
            "and {left_out} more: `evenkeel status --output json{}`\n",
            printable(storage)
        );
    }
    for alert in status.unanswered_alerts.iter().take(MAX_LINES) {
        let UnansweredAlert {
            alertname,
            source,
            since,
            ..
        } = alert;
        let text = format!("{alertname} for {}, from {source}: no rule answers", span(now, *since));
        out += &wrapped(style, 0, &printable(&text));
    }
    if let Some(more) = status
        .unanswered_alerts
        .len()
        .checked_sub(MAX_LINES)
        .filter(|more| *more > 0)
    {
        out += &format!("and {more} more that no rule answers\n");
    }
    out
}

/// What one rule did about an alert, and what it did not do.
fn answer(status: &Answer, alert: &OpenAlert, now: Timestamp, style: Style) -> String {
    let mode = if alert.dry_run { " (dry-run)" } else { "" };
    let pause = if status.paused_rules.contains(&alert.rule) {
        " (paused)"
    } else {
        ""
    };
    let mut out = format!("  rule {}{mode}{pause}\n", printable(&alert.rule));
    let (done, rest): (Vec<&Event>, Vec<&Event>) =
        events(status, alert).partition(|event| Meaning::of(event).is_done());
    if done.is_empty() {
        let of_rule = status.rules.iter().find(|rule| rule.rule == alert.rule);
        let steps = of_rule.map_or(&[][..], |rule| &rule.steps);
        let nothing = nothing_done(steps, is_incomplete(status, alert));
        out += &wrapped(style, 4, &printable(&nothing));
    }
    let not_done = rest
        .into_iter()
        .filter(|event| Meaning::of(event) != Meaning::Planned)
        .take(2);
    for event in done.into_iter().take(3).chain(not_done) {
        out += &line(event, now, style, "    ");
    }
    out
}

/// The listed events of an episode, newest first, actions before decisions.
fn events<'a>(status: &'a Answer, alert: &'a OpenAlert) -> impl Iterator<Item = &'a Event> {
    let is_its = |event: &&Event| {
        event.rule == alert.rule
            && event.fingerprint == alert.fingerprint
            && event.at >= alert.opened_at - CLOCK_TOLERANCE
    };
    status.actions.iter().chain(&status.decisions).filter(is_its)
}

/// Whether the lists may lack events of an episode, because they are full and begin after it.
fn is_incomplete(status: &Answer, alert: &OpenAlert) -> bool {
    let is_cut = |events: &[Event]| {
        let oldest = events.iter().map(|event| event.at).min();
        events.len() >= MAX_RECENT && oldest.is_some_and(|oldest| oldest >= alert.opened_at - CLOCK_TOLERANCE)
    };
    is_cut(&status.actions) || is_cut(&status.decisions)
}

/// One line about an event, and its reason on the next ones.
fn line(event: &Event, now: Timestamp, style: Style, indent: &str) -> String {
    let tone = match Meaning::of(event) {
        Meaning::Failed => Tone::Bad,
        Meaning::Applied | Meaning::Reverted => Tone::Good,
        Meaning::Planned | Meaning::NotDone | Meaning::Simulated | Meaning::NothingToRevert | Meaning::Operator => {
            Tone::Held
        }
    };
    // As on the status page.
    let word = event.kind.as_str().replace('_', " ");
    let step = event.step.as_deref().filter(|step| !step.is_empty());
    let mut what = step.map_or(String::new(), |step| format!(" {}", printable(step)));
    if let Some(process) = &event.process {
        let pid = event.pid.map_or(String::new(), |pid| format!("{pid} "));
        what += &format!(" on {pid}{}", printable(process));
    }
    if let (Some(before), Some(after)) = (&event.before, &event.after) {
        what += &format!(" ({} -> {})", printable(before), printable(after));
    }
    let start = format!("{indent}{:>12}  ", ago(event.at, now));
    let columns = width(&start);
    let mut out = String::new();
    for (number, part) in style.wrap(&(word.clone() + &what), columns).iter().enumerate() {
        out += &match part.strip_prefix(&word).filter(|_| number == 0) {
            Some(rest) => format!("{}{}{rest}\n", style.paint(Tone::Dim, &start), style.paint(tone, &word)),
            None => format!("{}{part}\n", " ".repeat(columns)),
        };
    }
    if !event.reason.is_empty() {
        for part in style.wrap(&printable(&event.reason), columns) {
            out += &format!("{}{}\n", " ".repeat(columns), style.paint(Tone::Dim, &part));
        }
    }
    out
}

/// The figures with a sparkline each, oldest value first.
fn timeline(status: &Answer, style: Style) -> String {
    let mut out = heading(style, "HOST, LAST MINUTES");
    for (name, key) in [
        ("CPU busy", "cpu_busy_ratio"),
        ("memory used", "memory_used_ratio"),
        ("waiting for CPU", "cpu_waiting_ratio"),
        ("waiting for I/O", "io_waiting_ratio"),
        ("waiting for memory", "memory_waiting_ratio"),
    ] {
        let Some(values) = status.trail.get(key) else { continue };
        let Some(Some(last)) = values.last() else { continue };
        let columns = style
            .columns
            .map_or(SPARK_COLUMNS, |columns| columns.saturating_sub(FIGURE_COLUMNS));
        let spark = sparkline(values, columns.clamp(1, SPARK_COLUMNS));
        out += &format!("{name:<18} {:>6.1} %  {spark}\n", last * 100.0);
    }
    out
}

/// Ratios as a line of blocks, each the mean of the samples that it stands for; a blank where they are unknown.
fn sparkline(values: &[Option<f32>], columns: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let per_column = values.len().div_ceil(columns).max(1);
    let column = |values: &[Option<f32>]| {
        let known: Vec<f32> = values.iter().flatten().copied().collect();
        if known.is_empty() {
            return ' ';
        }
        let mean = known.iter().sum::<f32>() / known.len() as f32;
        BLOCKS[((mean.clamp(0.0, 1.0) * 8.0) as usize).min(7)]
    };
    values.chunks(per_column).map(column).collect()
}

fn leases(status: &Answer, now: Timestamp, storage: &str, style: Style) -> String {
    let mut out = heading(style, "LEASES");
    if status.leases.is_empty() {
        return out + "no leases\n";
    }
    let row = |lease: &LeaseStatus| {
        let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
        [
            lease.id.to_string(),
            format!("{pid}{}", printable(&lease.process)),
            lease.what.clone(),
            match (&lease.released, lease.until) {
                (Some(request), _) => format!("being reverted, released {}", printable(request)),
                (None, Some(until)) => format!("in {}", span(until, now)),
                (None, None) => "being reverted".to_owned(),
            },
            lease.rule.clone(),
        ]
    };
    let rows: Vec<_> = status.leases.iter().take(MAX_LINES).map(row).collect();
    let left_out = status.leases_held.saturating_sub(rows.len());
    out += &lease_table(style, rows);
    if left_out > 0 {
        out += &format!("and {left_out} more: `evenkeel leases{}`\n", printable(storage));
    }
    out
}

fn actions(status: &Answer, now: Timestamp, style: Style) -> String {
    let mut out = heading(style, "LAST ACTIONS");
    if status.actions.is_empty() {
        out += "none\n";
    }
    for event in status.actions.iter().take(MAX_LINES) {
        out += &line(event, now, style, "");
    }
    out
}

/// The rules with an open alert, and the number of the others.
fn rules(status: &Answer, now: Timestamp, style: Style) -> String {
    let mut out = heading(style, "RULES");
    let is_active = |rule: &&RuleStatus| status.alerts.iter().any(|alert| alert.rule == rule.rule);
    let (active, quiet): (Vec<&RuleStatus>, Vec<&RuleStatus>) = status.rules.iter().partition(is_active);
    for rule in active {
        let mode = if rule.acts { "enforce" } else { "dry-run" };
        let steps = format!("{} ({mode}): {}", rule.rule, rule.steps.join(", "));
        for (number, part) in style.wrap(&printable(&steps), 2).iter().enumerate() {
            out += &format!("{}{part}\n", if number > 0 { "  " } else { "" });
        }
        if let Some(event) = &rule.last_decision {
            out += &line(event, now, style, "  ");
        }
    }
    if !quiet.is_empty() {
        out += &format!("{} without an open alert\n", count(quiet.len(), "rule"));
    }
    out
}

/// The two largest units of the time between two moments.
fn span(one: Timestamp, other: Timestamp) -> String {
    let time = Duration::try_from(one.duration_since(other).abs()).unwrap_or_default();
    listing::left(time)
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now, at))
}

#[cfg(test)]
mod tests;
