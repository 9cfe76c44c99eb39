//! The status page: HTML without scripts, made from the same data as `/api/v1/status`. Pure.

use super::status::{Figures, Status};
use crate::tally::Activity;
use jiff::Timestamp;
use std::fmt::{self, Display, Write};

pub const STYLE: &str = include_str!("style.css");

/// Any text inside HTML, in content and in quoted attributes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // HTML allows no control characters, not even as references.
                control if control.is_control() => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// A size with a unit as people read it.
fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{scaled:.0} B")
    } else {
        format!("{scaled:.1} {}", UNITS[unit])
    }
}

fn ratio_row(out: &mut String, name: &str, ratio: f64) -> fmt::Result {
    writeln!(
        out,
        "<tr><th scope=\"row\">{}</th><td><meter value=\"{ratio:.3}\" high=\"0.8\"></meter>{:.1} %</td></tr>",
        Escaped(name),
        ratio * 100.0
    )
}

fn figures(out: &mut String, figures: &Figures) -> fmt::Result {
    if let Some(ratio) = figures.cpu_busy_ratio {
        ratio_row(out, "CPU busy", ratio)?;
    }
    if let Some(ratio) = figures.memory_used_ratio {
        let of = figures
            .memory_total_bytes
            .map_or(String::new(), |total| format!(" of {}", bytes(total)));
        ratio_row(out, &format!("Memory used{of}"), ratio)?;
    }
    for (mount_point, ratio) in &figures.filesystem_used_ratio {
        ratio_row(out, &format!("File system {mount_point}"), *ratio)?;
    }
    if let Some(load) = figures.load1 {
        writeln!(out, "<tr><th scope=\"row\">Load, 1 minute</th><td>{load:.2}</td></tr>")?;
    }
    for (device, received) in &figures.network_receive_bytes_per_second {
        let sent = figures
            .network_transmit_bytes_per_second
            .get(device)
            .copied()
            .unwrap_or(0.0);
        let (received, sent) = (bytes(*received), bytes(sent));
        let device = Escaped(device);
        writeln!(
            out,
            "<tr><th scope=\"row\">Network {device}</th><td>{received}/s in, {sent}/s out</td></tr>"
        )?;
    }
    Ok(())
}

fn head(out: &mut String, title: &str, columns: &[&str]) -> fmt::Result {
    writeln!(out, "<h2>{title}</h2>\n<table>\n<thead><tr>")?;
    for column in columns {
        write!(out, "<th scope=\"col\">{column}</th>")?;
    }
    writeln!(out, "</tr></thead>")
}

fn alerts(out: &mut String, activity: &Activity) -> fmt::Result {
    if activity.alerts.is_empty() {
        return writeln!(out, "<h2>Alerts</h2>\n<p>None fires for which there is a rule.</p>");
    }
    head(out, "Alerts", &["Alert", "Rule", "From", "Since", "Targets"])?;
    for alert in &activity.alerts {
        let (name, rule) = (Escaped(&alert.alertname), Escaped(&alert.rule));
        let (source, since, targets) = (alert.source, time(alert.since), alert.targets);
        let mode = if alert.dry_run { " (dry-run)" } else { "" };
        writeln!(
            out,
            "<tr><td>{name}</td><td>{rule}{mode}</td><td>{source}</td><td>{since}</td><td class=\"number\">{targets}</td></tr>"
        )?;
    }
    writeln!(out, "</table>")
}

fn leases(out: &mut String, activity: &Activity) -> fmt::Result {
    if activity.leases.is_empty() {
        return Ok(());
    }
    head(out, "Leases", &["Number", "Rule", "Process", "What", "Undone by"])?;
    for lease in &activity.leases {
        let (id, rule, process) = (lease.id, Escaped(&lease.rule), Escaped(&lease.process));
        let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
        let (what, until) = (Escaped(&lease.what), time(lease.until));
        writeln!(
            out,
            "<tr><td>{id}</td><td>{rule}</td><td>{pid}{process}</td><td>{what}</td><td>{until}</td></tr>"
        )?;
    }
    writeln!(out, "</table>")
}

fn recent(out: &mut String, activity: &Activity) -> fmt::Result {
    if activity.recent.is_empty() {
        return Ok(());
    }
    head(
        out,
        "Decisions and steps",
        &["At", "Rule", "Verdict", "Process", "Step", "Why"],
    )?;
    for told in &activity.recent {
        let process = told.process.as_deref().unwrap_or_default();
        let pid = told.pid.map_or(String::new(), |pid| format!("{pid} "));
        let change = match (&told.before, &told.after) {
            (Some(before), Some(after)) => format!(" ({before} -> {after})"),
            _ => String::new(),
        };
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{pid}{}</td><td>{}{}</td><td>{}</td></tr>",
            time(told.at),
            Escaped(&told.rule),
            told.verdict,
            Escaped(process),
            Escaped(told.step.as_deref().unwrap_or_default()),
            Escaped(&change),
            Escaped(&told.reason)
        )?;
    }
    writeln!(out, "</table>")
}

/// A moment as people read it, for machines beside it.
fn time(at: Timestamp) -> String {
    let (machine, people) = (at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%H:%M:%S"));
    format!("<time datetime=\"{machine}\" title=\"{machine}\">{people}</time>")
}

/// The page; `telemetry_path` is where its link to the metrics leads.
pub fn page(status: &Status, telemetry_path: &str) -> String {
    let mut out = String::with_capacity(8 << 10);
    write_page(&mut out, status, telemetry_path).expect("writing to a String does not fail");
    out
}

fn write_page(out: &mut String, status: &Status, telemetry_path: &str) -> fmt::Result {
    let host = Escaped(&status.host.name);
    writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n\
         <title>evenkeel on {host}</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n</head>\n<body>\n\
         <h1>evenkeel on {host}</h1>"
    )?;
    writeln!(
        out,
        "<p>Version {}, Linux {} on {}, sampled at {}.</p>",
        status.version,
        Escaped(&status.host.kernel),
        Escaped(&status.host.machine),
        Escaped(&status.sampled_at)
    )?;
    writeln!(
        out,
        "<nav><a href=\"{}\">Metrics</a><a href=\"/api/v1/status\">Status as JSON</a></nav>",
        Escaped(telemetry_path)
    )?;

    let what = match status.mode {
        "enforce" => "acts on processes",
        _ => "says what it would do, and does nothing",
    };
    let paused = if status.paused {
        "yes: nothing new is planned"
    } else {
        "no"
    };
    writeln!(out, "<h2>Acting</h2>\n<table>")?;
    let mut row =
        |name: &str, value: &dyn Display| writeln!(out, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
    row("Mode", &format_args!("{}: {what}", status.mode))?;
    row("Paused", &paused)?;
    row("Rules", &status.rules)?;
    for (source, count) in &status.alerts_firing {
        row("Alerts firing", &format_args!("{count} ({source})"))?;
    }
    row("Leases", &status.leases_held)?;
    row("Final steps left in the budget", &status.budget_remaining)?;
    if !status.ledger_writable {
        row("Ledger", &"<strong class=\"bad\">cannot be written</strong>")?;
    }
    for rule in &status.breakers_open {
        row("Stopped without effect", &Escaped(rule))?;
    }
    writeln!(out, "</table>")?;

    alerts(out, &status.activity)?;
    leases(out, &status.activity)?;
    recent(out, &status.activity)?;

    writeln!(out, "<h2>Host</h2>\n<table>")?;
    figures(out, &status.figures)?;
    writeln!(out, "</table>")?;

    head(out, "Collectors", &["Name", "Age", "Took", "State"])?;
    for collector in &status.collectors {
        let state = collector.error.as_deref().unwrap_or("fine");
        let class = if collector.success { "" } else { " class=\"bad\"" };
        writeln!(
            out,
            "<tr><td>{}</td><td class=\"number\">{:.1} s</td><td class=\"number\">{:.2} ms</td><td{class}>{}</td></tr>",
            collector.name,
            collector.age_seconds,
            collector.duration_seconds * 1e3,
            Escaped(state)
        )?;
    }
    writeln!(out, "</table>\n</body>\n</html>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_world_cannot_leave_its_place() {
        let hostile = "<script>\"'&\u{1}\n";
        assert_eq!(
            Escaped(hostile).to_string(),
            "&lt;script&gt;&quot;&#39;&amp;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn sizes_are_readable() {
        for (size, expected) in [
            (0.0, "0 B"),
            (1536.0, "1.5 KiB"),
            (25.0 * 1024.0 * 1024.0 * 1024.0, "25.0 GiB"),
        ] {
            assert_eq!(bytes(size), expected);
        }
    }
}
