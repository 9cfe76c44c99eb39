//! The status as text: the state, the firing alerts, the host's last minutes as sparklines, leases, last actions, rules
//! and collectors, in the order of the status page. Pure.

mod alerts;

use super::listing::{self, lease_table};
use crate::diagnostic::printable;
use crate::publish::{self, Health, Meaning, active_rules, last_act};
use crate::telemetry::{Activity, BudgetLimits, Event, FrontendStatus, LeaseStatus};
use crate::terminal::{Style, Tone, count, shell_word, width};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Lines of leases and of actions, and number of alerts.
const MAX_LINES: usize = 10;
/// Columns of a sparkline at most, and of what stands before it.
const SPARK_COLUMNS: usize = 60;
const FIGURE_COLUMNS: usize = 29;

/// What the text needs of `/api/v1/status`.
#[derive(Debug, Deserialize)]
pub struct Answer {
    version: String,
    host: Host,
    sampled_at: Timestamp,
    mode: String,
    paused: bool,
    actuator_off: Option<String>,
    /// Left out by versions before it existed.
    #[serde(default)]
    engine_restarts: u64,
    frontend: Option<FrontendStatus>,
    leases_held: usize,
    #[serde(flatten)]
    activity: Activity,
    /// Whether the steps of an open alert helped, by the number of its episode.
    #[serde(default)]
    effects: BTreeMap<String, String>,
    budget_remaining: u32,
    commands_remaining: u32,
    budget: BudgetLimits,
    breakers_open: Vec<String>,
    /// Left out by versions before it existed.
    #[serde(default)]
    paused_rules: BTreeSet<String>,
    ledger_writable: bool,
    config_last_reload_successful: bool,
    trail: BTreeMap<String, Vec<Option<f32>>>,
    #[serde(default)]
    collectors: Vec<Collector>,
}

#[derive(Debug, Deserialize)]
struct Collector {
    success: bool,
}

#[derive(Debug, Deserialize)]
struct Host {
    name: String,
}

/// Formats the status in the order of the status page. `storage` is the option that leads commands to this daemon.
pub fn text(status: &Answer, now: Timestamp, storage: &str, style: Style) -> String {
    let mut out = state(status, now, storage, style);
    out += &alerts::alerts(status, now, storage, style);
    out += &timeline(status, style);
    out += &leases(status, now, storage, style);
    out += &actions(status, now, style);
    out += &rules(status, now, style);
    out += &collectors(status, style);
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
    if let Some(by) = status.activity.paused_by.as_ref().filter(|_| status.paused) {
        let (when, who) = (ago(by.at, now), printable(&by.reason));
        let who = format!("{when} {who}, until `evenkeel resume{}`", printable(storage));
        out += &wrapped(style, 2, &who);
    }
    out += &last_action(status, now, style);
    out += &health(status, style);
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
    let BudgetLimits {
        final_steps,
        commands,
        per_seconds,
    } = status.budget;
    out += &format!(
        "\n{} of {final_steps} irreversible actions and {} of {commands} commands left per {}\n",
        status.budget_remaining,
        status.commands_remaining,
        listing::left(Duration::from_secs(per_seconds)),
    );
    for rule in &status.paused_rules {
        let resume = format!("evenkeel resume --rule {}{storage}", shell_word(rule));
        let by = status.activity.rule_paused_by(rule).map_or(String::new(), |event| {
            format!(" {} {},", ago(event.at, now), printable(&event.reason))
        });
        let paused = format!("{} is paused:{by} until `{}`", printable(rule), printable(&resume));
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

/// When evenkeel last changed something, and what.
fn last_action(status: &Answer, now: Timestamp, style: Style) -> String {
    let text = match last_act(&status.activity) {
        Some(event) => format!(
            "last action {}: {}, rule {}",
            ago(event.at, now),
            sentence(event),
            printable(&event.rule)
        ),
        None => "last action: none is known".to_owned(),
    };
    wrapped(style, 0, &text)
}

/// Whether everything works, and what does not.
fn health(status: &Answer, style: Style) -> String {
    let health = Health {
        actuator_off: status.actuator_off.as_deref(),
        frontend: status.frontend.as_ref(),
        is_ledger_writable: status.ledger_writable,
        breakers_open: status.breakers_open.len(),
        is_config_in_force: status.config_last_reload_successful,
    };
    let faults = health.faults();
    let (tone, text) = match faults.is_empty() {
        true => (Tone::Good, format!("healthy: {}", health.parts())),
        false => (Tone::Bad, format!("not healthy: {}", printable(&faults.join("; ")))),
    };
    let lines = style.wrap(&text, 0);
    lines.iter().map(|line| style.paint(tone, line) + "\n").collect()
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
    let (word, text) = (word(event), sentence(event));
    let start = format!("{indent}{:>12}  ", ago(event.at, now));
    let columns = width(&start);
    let mut out = String::new();
    for (number, part) in style.wrap(&text, columns).iter().enumerate() {
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

/// The decision or outcome, in the words of the status page.
fn word(event: &Event) -> String {
    event.kind.as_str().replace('_', " ")
}

/// The event as text: `applied nice 10 on 4711 ffmpeg (0 -> 10)`.
fn sentence(event: &Event) -> String {
    let step = event.step.as_deref().filter(|step| !step.is_empty());
    let mut text = word(event) + &step.map_or(String::new(), |step| format!(" {}", printable(step)));
    if let Some(process) = &event.process {
        let pid = event.pid.map_or(String::new(), |pid| format!("{pid} "));
        text += &format!(" on {pid}{}", printable(process));
    }
    if let (Some(before), Some(after)) = (&event.before, &event.after) {
        text += &format!(" ({} -> {})", printable(before), printable(after));
    }
    text
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
    let leases = &status.activity.leases;
    if leases.is_empty() {
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
    let rows: Vec<_> = leases.iter().take(MAX_LINES).map(row).collect();
    let left_out = status.leases_held.saturating_sub(rows.len());
    out += &lease_table(style, rows);
    if left_out > 0 {
        out += &format!("and {left_out} more: `evenkeel leases{}`\n", printable(storage));
    }
    out
}

fn actions(status: &Answer, now: Timestamp, style: Style) -> String {
    let mut out = heading(style, "LAST ACTIONS");
    if status.activity.actions.is_empty() {
        out += "none\n";
    }
    for event in status.activity.actions.iter().take(MAX_LINES) {
        out += &line(event, now, style, "");
    }
    out
}

/// The rules with an open alert, a lease or an open breaker, and the number of the others.
fn rules(status: &Answer, now: Timestamp, style: Style) -> String {
    let mut out = heading(style, "RULES");
    let (active, quiet) = active_rules(&status.activity, &status.breakers_open, &status.paused_rules);
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
        out += &format!("{} without an open alert or lease\n", count(quiet.len(), "rule"));
    }
    out
}

/// How many collectors read.
fn collectors(status: &Answer, style: Style) -> String {
    let all = &status.collectors;
    let good = all.iter().filter(|collector| collector.success).count();
    match all.is_empty() {
        true => String::new(),
        false => {
            heading(style, "COLLECTORS") + &format!("{good} of {} read without error\n", count(all.len(), "collector"))
        }
    }
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
