//! `status`: the state, the firing alerts, the host's last minutes as sparklines, leases and last actions of the
//! running daemon, in the order of the status page. The text is pure.

use super::{finish, json, progress, style, unexpected};
use crate::cli::{Output, Status};
use crate::control::{self, Reply, Request};
use crate::diagnostic::printable;
use crate::telemetry::{BudgetLimits, Event, EventKind, FrontendStatus, LeaseStatus, OpenAlert, RuleStatus};
use crate::terminal::{Style, Tone, count, table};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Interval of `--watch`, that of the status page.
const INTERVAL: Duration = Duration::from_secs(2);
/// Lines of leases and of actions.
const MAX_LINES: usize = 10;
/// Columns of a sparkline.
const SPARK_COLUMNS: usize = 60;
/// Moves to the upper left corner, and clears what is below it.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Prints the status once, or again and again until a signal ends it.
pub fn status(command: &Status) -> ExitCode {
    if !command.watch {
        return finish(progress::during("asking the daemon", || ask(command)));
    }
    let is_screen = std::io::stdout().is_terminal();
    loop {
        let text = match ask(command) {
            Ok(text) => text,
            Err(error) => format!("error: {error}\n"),
        };
        let start = if is_screen { CLEAR } else { "" };
        // A reader such as `head` may close the pipe.
        if std::io::stdout()
            .write_all(format!("{start}{text}").as_bytes())
            .is_err()
        {
            return ExitCode::SUCCESS;
        }
        drop(std::io::stdout().flush());
        std::thread::sleep(INTERVAL);
    }
}

fn ask(command: &Status) -> Result<String, String> {
    let value = read(&command.query.storage.path)?;
    match command.query.output {
        Output::Json => Ok(format!("{}\n", json(&value))),
        Output::Text => {
            let status = serde_json::from_value(value).map_err(|error| format!("unexpected answer: {error}"))?;
            Ok(text(&status, Timestamp::now(), style()))
        }
    }
}

fn read(storage: &Path) -> Result<serde_json::Value, String> {
    match control::request(storage, &Request::Status, "") {
        Ok(Reply::Status(value)) => Ok(value),
        Ok(other) => Err(unexpected(&other)),
        Err(error) => Err(error.to_string()),
    }
}

/// What the text needs of `/api/v1/status`.
#[derive(Debug, Deserialize)]
struct Answer {
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
    actions: Vec<Event>,
    decisions: Vec<Event>,
    budget_remaining: u32,
    commands_remaining: u32,
    budget: BudgetLimits,
    breakers_open: Vec<String>,
    ledger_writable: bool,
    config_last_reload_successful: bool,
    trail: BTreeMap<String, Vec<Option<f32>>>,
}

/// Formats the status in the order of the status page.
fn text(status: &Answer, now: Timestamp, style: Style) -> String {
    let mut out = state(status, now, style);
    out += &alerts(status, now, style);
    out += &timeline(status, style);
    out += &leases(status, now, style);
    out += &actions(status, now, style);
    out += &rules(status, now, style);
    out
}

fn heading(style: Style, text: &str) -> String {
    format!("\n{}\n", style.paint(Tone::Heading, text))
}

fn state(status: &Answer, now: Timestamp, style: Style) -> String {
    let (tone, sentence) = match (&status.actuator_off, status.paused) {
        (Some(reason), _) => (Tone::Bad, format!("actuator off: {}", printable(reason))),
        (None, true) => (Tone::Held, "paused: no new steps; leases are still reverted".to_owned()),
        (None, false) if status.mode == "enforce" => (Tone::Good, "enforce: steps are applied".to_owned()),
        (None, false) => (Tone::Held, "dry-run: actions are only logged".to_owned()),
    };
    let mut out = style.paint(tone, &sentence);
    if let Some(by) = status.paused_by.as_ref().filter(|_| status.paused) {
        out += &format!(
            " ({} {}, until `evenkeel resume`)",
            ago(by.at, now),
            printable(&by.reason)
        );
    }
    let restarts = |restarts: u64| match restarts {
        0 => "no restarts".to_owned(),
        restarts => count(usize::try_from(restarts).unwrap_or(usize::MAX), "restart"),
    };
    out += &match status.actuator_off {
        Some(_) => "\n".to_owned(),
        None => format!("\nactuator running, {}; ", restarts(status.engine_restarts)),
    };
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
    let breakers = status.breakers_open.join(", ");
    let BudgetLimits {
        final_steps,
        commands,
        per_seconds,
    } = status.budget;
    out += &format!(
        "\n{}, {}, {}\n{} of {final_steps} irreversible actions and {} of {commands} commands left per {per_seconds} s\n",
        word(status.ledger_writable, "ledger writable", "ledger not writable"),
        word(
            status.config_last_reload_successful,
            "configuration in force",
            "last reload failed"
        ),
        word(
            breakers.is_empty(),
            "no breaker open",
            &format!("open breakers: {breakers}")
        ),
        status.budget_remaining,
        status.commands_remaining,
    );
    out
}

fn alerts(status: &Answer, now: Timestamp, style: Style) -> String {
    let mut out = heading(style, "FIRING ALERTS");
    let mut of_alert: BTreeMap<(&str, &str), Vec<&OpenAlert>> = BTreeMap::new();
    for alert in &status.alerts {
        let key = (alert.alertname.as_str(), alert.fingerprint.as_str());
        of_alert.entry(key).or_default().push(alert);
    }
    if of_alert.is_empty() {
        out += "no alert of a rule is open\n";
    }
    for ((name, fingerprint), answers) in of_alert {
        let Some(first) = answers.first() else { continue };
        out += &format!(
            "{} {} for {}, from {}\n",
            style.paint(Tone::Held, &printable(name)),
            first.state,
            span(now, first.since),
            first.source
        );
        for alert in answers {
            let mode = if alert.dry_run { " (dry-run)" } else { "" };
            out += &format!("  rule {}{mode}\n", alert.rule);
            let is_its = |event: &&Event| event.rule == alert.rule && event.fingerprint == *fingerprint;
            let done = status.actions.iter().filter(is_its);
            let refused = status.decisions.iter().filter(is_its);
            let refused = refused.filter(|event| event.kind != EventKind::decision("planned"));
            for event in done.take(3).chain(refused.take(2)) {
                out += &line(event, now, style, "    ");
            }
        }
    }
    out
}

/// One line about an event, and its reason on the next ones.
fn line(event: &Event, now: Timestamp, style: Style, indent: &str) -> String {
    let tone = match &event.kind {
        EventKind::Operation(_) | EventKind::Decision(_) => Tone::Held,
        EventKind::Outcome(word) if ["failed", "denied", "no_effect"].contains(&word.as_str()) => Tone::Bad,
        EventKind::Outcome(_) => Tone::Good,
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
    let mut out = format!("{}{}{what}\n", style.paint(Tone::Dim, &start), style.paint(tone, &word));
    if !event.reason.is_empty() {
        let columns = start.chars().count();
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
        out += &format!(
            "{name:<18} {:>6.1} %  {}\n",
            last * 100.0,
            sparkline(values, SPARK_COLUMNS)
        );
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

fn leases(status: &Answer, now: Timestamp, style: Style) -> String {
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
            lease
                .until
                .map_or("being reverted".to_owned(), |until| format!("in {}", span(until, now))),
            lease.rule.clone(),
        ]
    };
    let rows: Vec<_> = status.leases.iter().take(MAX_LINES).map(row).collect();
    out += &table(style, ["NUMBER", "TARGET", "CHANGE", "UNDONE", "RULE"], &rows);
    if status.leases_held > rows.len() {
        out += &format!("and {} more: `evenkeel leases`\n", status.leases_held - rows.len());
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
        out += &format!("{} ({mode}): {}\n", rule.rule, rule.steps.join(", "));
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
    super::listing::left(time)
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let event = serde_json::json!({
            "at": "2026-01-02T03:04:00Z", "rule": "calm", "alertname": "A", "fingerprint": "f", "outcome": "applied",
            "pid": 4711, "process": "ff\u{1b}mpeg", "step": "nice 10", "before": "0", "after": "10",
        });
        serde_json::from_value(serde_json::json!({
            "frontend": {"since": "2026-01-02T03:02:00Z", "restarts": 1},
            "mode": "enforce", "paused": true, "leases_held": 12,
            "paused_by": {"at": "2026-01-02T03:03:05Z", "rule": "", "alertname": "", "operation": "pause",
                "reason": "by root (uid 0): a test"},
            "alerts": [{"alertname": "A", "fingerprint": "f", "rule": "calm", "source": "local", "state": "firing",
                "episode": "0123456789abcdef", "opened_at": "2026-01-02T03:00:06Z", "labels": {}, "targets": 1,
                "since": "2026-01-02T03:00:05Z", "dry_run": false}],
            "rules": [
                {"rule": "calm", "steps": ["nice 10"], "acts": true},
                {"rule": "other", "steps": [], "acts": false},
            ],
            "leases": [{"id": 7, "rule": "calm", "pid": 4711, "process": "ffmpeg", "what": "nice 0 -> 10",
                "fingerprint": "f", "since": "2026-01-02T03:04:00Z", "until": "2026-01-02T03:05:05Z"}],
            "actions": [event],
            "decisions": [{"at": "2026-01-02T03:04:00Z", "rule": "calm", "alertname": "A", "fingerprint": "f",
                "decision": "no_target", "reason": "no process matches the selector"}],
            "budget_remaining": 2, "commands_remaining": 9,
            "budget": {"final_steps": 3, "commands": 10, "per_seconds": 300},
            "breakers_open": [], "ledger_writable": false, "config_last_reload_successful": true,
            "trail": {"cpu_busy_ratio": [0.0, null, 0.5, 1.0]},
        }))
        .unwrap()
    }

    #[test]
    fn status_has_the_order_of_the_page() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let expected = "\
paused: no new steps; leases are still reverted (1m0s ago by root (uid 0): a test, until `evenkeel resume`)
actuator running, no restarts; frontend running for 2m5s, 1 restart
ledger not writable, configuration in force, no breaker open
2 of 3 irreversible actions and 9 of 10 commands left per 300 s

FIRING ALERTS
A firing for 4m0s, from local
  rule calm
          5s ago  applied nice 10 on 4711 ff\\u{1b}mpeg (0 -> 10)
          5s ago  no target
                  no process matches the selector

HOST, LAST MINUTES
CPU busy            100.0 %  ▁ ▅█

LEASES
NUMBER  TARGET       CHANGE        UNDONE   RULE
7       4711 ffmpeg  nice 0 -> 10  in 1m0s  calm
and 11 more: `evenkeel leases`

LAST ACTIONS
      5s ago  applied nice 10 on 4711 ff\\u{1b}mpeg (0 -> 10)

RULES
calm (enforce): nice 10
1 rule without an open alert
";
        assert_eq!(text(&answer(), now, Style::PLAIN), expected);
    }

    #[test]
    fn sparklines_fit_their_columns() {
        let values: Vec<Option<f32>> = (0..300).map(|number| Some(number as f32 / 299.0)).collect();
        let line = sparkline(&values, 60);
        assert_eq!(line.chars().count(), 60);
        assert!(line.starts_with('▁') && line.ends_with('█'));
        assert_eq!(sparkline(&[], 60), "");
    }
}
