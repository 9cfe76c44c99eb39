//! The text form of `leases` and `history`. Pure.

use crate::diagnostic::printable;
use crate::ledger::{Breaker, Decision, Lease, OperatorRequest, Outcome, Record};
use crate::process::Target;
use crate::terminal::{Style, Tone, shell_word, table, width};
use std::collections::BTreeMap;
use std::time::Duration;

/// The leases and the open breakers at `boot_now` (CLOCK_BOOTTIME). `storage` is the option that leads commands to this
/// daemon.
pub fn leases(
    leases: &[Lease],
    breakers: &BTreeMap<String, Breaker>,
    boot_now: Duration,
    storage: &str,
    style: Style,
) -> String {
    let stopped: String = breakers
        .iter()
        .map(|(rule, breaker)| stopped(rule, breaker, storage))
        .collect();
    if leases.is_empty() {
        return if stopped.is_empty() {
            "no leases\n".to_owned()
        } else {
            stopped
        };
    }
    let row = |lease: &Lease| {
        let undone = match (&lease.released, lease.runs_out_at()) {
            (Some(request), _) => format!("being reverted, released by {}", request.by.name.escape_debug()),
            (None, Some(deadline)) => format!("in {}", left(deadline.saturating_sub(boot_now))),
            (None, None) => "being reverted".to_owned(),
        };
        [
            lease.id.to_string(),
            who(lease.target, &lease.name),
            lease.effect.to_string(),
            undone,
            lease.rule.to_string(),
        ]
    };
    lease_table(style, leases.iter().map(row).collect()) + &stopped
}

/// A table of number, target, change, time of the undo, and rule of leases. Strings from outside are escaped.
pub(super) fn lease_table(style: Style, rows: Vec<[String; 5]>) -> String {
    let rows: Vec<[String; 5]> = rows.into_iter().map(|row| row.map(|cell| printable(&cell))).collect();
    let text = table(style, ["NUMBER", "TARGET", "CHANGE", "UNDONE", "RULE"], &rows);
    let fits = |columns| text.lines().skip(1).all(|line| width(line) <= columns);
    if style.columns.is_none_or(fits) {
        return text;
    }
    // Paths of cgroups are long, so each gets its own line, from which it can be copied.
    let (targets, rows): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .map(|[number, target, change, undone, rule]| (target, [number, change, undone, rule]))
        .unzip();
    let text = table(style, ["NUMBER", "CHANGE", "UNDONE", "RULE"], &rows);
    let below = targets.iter().map(|target| format!("        {target}\n"));
    let below = std::iter::once(String::new()).chain(below);
    text.lines()
        .zip(below)
        .map(|(line, below)| format!("{line}\n{below}"))
        .collect()
}

/// The command that closes the breaker of a rule, for a shell.
pub(super) fn close_breaker(rule: &str, storage: &str) -> String {
    let command = format!("evenkeel release --breaker {}{storage}", shell_word(rule));
    format!("`{}`", printable(&command))
}

fn stopped(rule: &str, breaker: &Breaker, storage: &str) -> String {
    let since = breaker.opened_at.map_or_else(String::new, |at| format!(" since {at}"));
    format!(
        "{} has an open breaker{since}: irreversible actions without effect,\n  {} in a row; {} closes it\n",
        printable(rule),
        breaker.failures,
        close_breaker(rule, storage)
    )
}

/// The two largest units of a duration: `4h59m`, `29m30s`, `7s`.
pub(super) fn left(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A target and its name: `4711 ffmpeg`, the path of a cgroup, `host`.
fn who(target: Target, name: &str) -> String {
    let name = name.escape_debug();
    match target.pid() {
        Some(pid) => format!("{pid} {name}"),
        None => name.to_string(),
    }
}

/// Formats records in their order, with a heading for each day, rule and alert.
pub fn history(records: &[&Record], style: Style) -> String {
    if records.is_empty() {
        return "no entries\n".to_owned();
    }
    let mut text = String::new();
    let mut above: Option<(String, &Record)> = None;
    for record in records {
        let day = record.at.strftime("%Y-%m-%d").to_string();
        // A revert belongs to a rule and may name no alert.
        let goes_on = above.as_ref().is_some_and(|(last_day, last)| {
            *last_day == day
                && last.rule == record.rule
                && (record.alertname.is_empty() || last.alertname == record.alertname)
        });
        if !goes_on {
            let rule = match (record.rule.as_str(), record.operation) {
                ("", Some(_)) => "operators",
                (rule, _) => rule,
            };
            let heading = printable(&format!("{day}  {rule}  {}", record.alertname.escape_debug()));
            text += &(style.paint(Tone::Heading, heading.trim_end()) + "\n");
            above = Some((day, record));
        }
        text += &line(record, style);
    }
    text
}

/// Formats a line such as `  07:45:46  applied    nice 10 on 4711 ffmpeg (0 -> 10)`, with the reason on the next line.
fn line(record: &Record, style: Style) -> String {
    let (word, tone) = verdict(record);
    let mut what: Vec<String> = record.step.iter().cloned().collect();
    if let Some((target, name)) = &record.target {
        what.push(format!("on {}", who(*target, name)));
    }
    if let (Some(before), Some(after)) = (&record.before, &record.after) {
        what.push(format!("({before} -> {after})"));
    }
    let start = format!("  {}  ", record.at.strftime("%H:%M:%S"));
    let padding = " ".repeat(10usize.saturating_sub(width(word)));
    let indent = width(&start) + 11;
    let mut text = style.paint(Tone::Dim, &start) + &style.paint(tone, word) + &padding + " ";
    for (number, part) in style.wrap(&printable(&what.join(" ")), indent).iter().enumerate() {
        let before = if number > 0 { " ".repeat(indent) } else { String::new() };
        text += &(before + part);
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let reason = match &record.by {
        Some(by) => printable(&OperatorRequest::new(by.clone(), &record.reason).to_string()),
        None => printable(&record.reason),
    };
    // Every line of a command's output has a mark, so that none passes for a line of the history.
    let output = record.output.iter().flat_map(|output| output.lines());
    let output = output.map(|line| format!("| {}", printable(line)));
    for more in std::iter::once(reason).chain(output) {
        for part in style.wrap(&more, indent).iter().filter(|part| !part.is_empty()) {
            text += &format!("{}{}\n", " ".repeat(indent), style.paint(Tone::Dim, part));
        }
    }
    text
}

fn verdict(record: &Record) -> (&'static str, Tone) {
    if let Some(operation) = record.operation {
        let tone = if record.outcome.is_some_and(Outcome::is_failure) {
            Tone::Bad
        } else {
            Tone::Held
        };
        return (operation.as_str(), tone);
    }
    if let Some(decision) = record.decision {
        let tone = match decision {
            Decision::Planned | Decision::DryRun => Tone::Good,
            Decision::Invalid | Decision::Ledger | Decision::Breaker | Decision::Privilege => Tone::Bad,
            _ => Tone::Held,
        };
        return (decision.as_str(), tone);
    }
    let Some(outcome) = record.outcome else {
        return ("", Tone::Dim);
    };
    let tone = match outcome {
        Outcome::Applied | Outcome::Restored | Outcome::Granted | Outcome::Released | Outcome::DryRun => Tone::Good,
        Outcome::Denied | Outcome::Failed | Outcome::NoEffect => Tone::Bad,
        _ => Tone::Held,
    };
    (outcome.as_str(), tone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Effect, Operation};
    use crate::process::{BootId, CgroupIdentity, Identity};

    fn target() -> Target {
        Target::Process(Identity {
            boot: BootId(1),
            pid: 4711,
            start_ticks: 70,
        })
    }

    fn lease() -> Lease {
        Lease {
            id: 1,
            rule: "cap-batch".into(),
            fingerprint: "".into(),
            target: target(),
            name: "ffmpeg".to_owned(),
            effect: Effect::Signal {
                sent: Some(10),
                undo: 12,
            },
            taken_at: Duration::ZERO,
            deadline: Duration::from_secs(60),
            settled: true,
            is_undoing: false,
            released: None,
        }
    }

    fn record(at: &str, outcome: Option<Outcome>, decision: Option<Decision>) -> Record {
        Record {
            at: at.parse().unwrap(),
            rule: "calm-batch-jobs".to_owned(),
            alertname: "HostCpu\u{1b}[2J".to_owned(),
            fingerprint: String::new(),
            target: Some((target(), "ff\nmpeg".to_owned())),
            step: Some("nice 10".to_owned()),
            decision,
            outcome,
            before: Some("0".to_owned()),
            after: Some("10".to_owned()),
            output: None,
            reason: String::new(),
            operation: None,
            by: None,
            is_effect: false,
        }
    }

    #[test]
    fn empty_history_says_so() {
        assert_eq!(history(&[], Style::PLAIN), "no entries\n");
    }

    #[test]
    fn history_fits_80_columns_and_says_each_heading_once() {
        let planned = record("2026-01-01T23:59:59Z", None, Some(Decision::Planned));
        let applied = record("2026-01-01T23:59:59.5Z", Some(Outcome::Applied), None);
        let mut denied = record("2026-01-02T00:00:00Z", Some(Outcome::Denied), None);
        denied.reason = "the kernel does not let this user do it, because it has no CAP_SYS_NICE there".to_owned();
        let style = Style {
            color: false,
            columns: Some(80),
        };
        let mut restored = record("2026-01-01T23:59:59.9Z", Some(Outcome::Restored), None);
        restored.alertname.clear();
        let text = history(&[&planned, &applied, &restored, &denied], style);
        let expected = "\
2026-01-01  calm-batch-jobs  HostCpu\\u{1b}[2J
  23:59:59  planned    nice 10 on 4711 ff\\nmpeg (0 -> 10)
  23:59:59  applied    nice 10 on 4711 ff\\nmpeg (0 -> 10)
  23:59:59  restored   nice 10 on 4711 ff\\nmpeg (0 -> 10)
2026-01-02  calm-batch-jobs  HostCpu\\u{1b}[2J
  00:00:00  denied     nice 10 on 4711 ff\\nmpeg (0 -> 10)
                       the kernel does not let this user do it, because it has
                       no CAP_SYS_NICE there
";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| width(line) <= 80));
    }

    #[test]
    fn long_paths_of_cgroups_stay_whole_and_leave_room_for_the_rest() {
        let path = "/system.slice/system-encode.slice/encode@a-very-long-instance-name.service";
        let cgroup = Target::Cgroup(CgroupIdentity {
            boot: BootId(1),
            inode: 7,
        });
        let style = Style {
            color: false,
            columns: Some(80),
        };
        let mut applied = record("2026-01-01T23:59:59Z", Some(Outcome::Applied), None);
        applied.target = Some((cgroup, path.to_owned()));
        applied.step = Some("cgroup cpu.max 50000 100000".to_owned());
        (applied.before, applied.after) = (Some("max 100000".to_owned()), Some("50000 100000".to_owned()));
        let expected = format!(
            "  23:59:59  applied    cgroup cpu.max 50000 100000 on\n{0}{path}\n{0}(max 100000 -> 50000 100000)\n",
            " ".repeat(23)
        );
        assert_eq!(line(&applied, style), expected);

        let mut lease = lease();
        let before = leases(
            std::slice::from_ref(&lease),
            &BTreeMap::new(),
            Duration::ZERO,
            "",
            style,
        );
        assert!(before.starts_with("NUMBER  TARGET "), "{before}");
        (lease.target, lease.name) = (cgroup, path.to_owned());
        let text = leases(&[lease], &BTreeMap::new(), Duration::ZERO, "", style);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NUMBER  CHANGE "), "{text}");
        assert_eq!(lines[2], format!("        {path}"));
    }

    #[test]
    fn requests_of_operators_say_who_and_why() {
        let style = Style {
            color: false,
            columns: Some(80),
        };
        let request = |operation, at: &str| Record {
            rule: String::new(),
            alertname: String::new(),
            target: None,
            step: None,
            before: None,
            after: None,
            operation: Some(operation),
            by: Some(OperatorRequest::example().by),
            reason: "a\u{1b}test".to_owned(),
            ..record(at, None, None)
        };
        let paused = request(Operation::Pause, "2026-01-01T10:00:00Z");
        let mut released = request(Operation::Release, "2026-01-01T10:00:01Z");
        (released.rule, released.step) = ("calm-batch-jobs".to_owned(), Some("lease 7".to_owned()));
        released.target = Some((target(), "ffmpeg".to_owned()));
        let expected = "\
2026-01-01  operators
  10:00:00  pause
                       by root (uid 0): a\\u{1b}test
2026-01-01  calm-batch-jobs
  10:00:01  release    lease 7 on 4711 ffmpeg
                       by root (uid 0): a\\u{1b}test
";
        assert_eq!(history(&[&paused, &released], style), expected);
    }

    #[test]
    fn command_of_a_breaker_is_quoted_and_reaches_this_daemon() {
        let breaker = Breaker {
            failures: 3,
            opened_at: None,
        };
        let breakers = BTreeMap::from([("$(x)\u{1b}".to_owned(), breaker)]);
        let text = leases(&[], &breakers, Duration::ZERO, " --storage.path=/run/x", Style::PLAIN);
        let expected = "`evenkeel release --breaker '$(x)\\u{1b}' --storage.path=/run/x`";
        assert!(text.contains(expected) && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn names_of_rules_have_no_escapes() {
        let lease = Lease {
            rule: "a\u{1b}[2J".into(),
            ..lease()
        };
        let text = leases(&[lease], &BTreeMap::new(), Duration::ZERO, "", Style::PLAIN);
        assert!(text.contains("a\\u{1b}[2J"), "{text}");
        let mut failed = record("2026-01-01T23:59:59Z", Some(Outcome::Failed), None);
        (failed.rule, failed.reason) = ("b\u{1b}[2J".to_owned(), "c\u{202e}".to_owned());
        failed.step = Some("exec \u{1b}c".to_owned());
        let text = history(&[&failed], Style::PLAIN);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn lease_released_by_hand_says_so() {
        let released = Some(Box::new(OperatorRequest::example()));
        let lease = Lease { released, ..lease() };
        let text = leases(&[lease], &BTreeMap::new(), Duration::ZERO, "", Style::PLAIN);
        assert!(text.contains("being reverted, released by root"), "{text}");
    }

    #[test]
    fn lines_of_an_output_stay_lines() {
        let style = Style {
            color: false,
            columns: Some(80),
        };
        let mut failed = record("2026-01-01T23:59:59Z", Some(Outcome::Failed), None);
        failed.reason = "status 1".to_owned();
        failed.output = Some("no \"space\" left\nC:\\x\u{1b}[2J".to_owned());
        let indent = " ".repeat(23);
        let expected = format!("{indent}status 1\n{indent}| no \"space\" left\n{indent}| C:\\x\\u{{1b}}[2J\n");
        let text = line(&failed, style);
        assert!(text.ends_with(&expected), "{text}");
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, expected) in [(7, "7s"), (90, "1m30s"), (17_943, "4h59m"), (90_000, "1d1h")] {
            assert_eq!(left(Duration::from_secs(seconds)), expected);
        }
    }
}
