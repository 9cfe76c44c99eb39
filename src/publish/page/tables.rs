//! The tables of the page: alerts, rules, leases, actions, decisions, collectors.

use super::html::{EscapedText, time};
use crate::publish::status::Status;
use crate::telemetry::{Event, OpenAlert};
use jiff::Timestamp;
use std::fmt::{self, Display, Write};

/// A section with one table, or with a sentence where there are no rows. A table that is larger than its area can be
/// scrolled, also with the keyboard.
struct Table<'a> {
    id: &'static str,
    title: &'static str,
    caption: &'a dyn Display,
    columns: &'static [&'static str],
    nothing: &'static str,
}

impl Table<'_> {
    fn write<T>(
        &self,
        out: &mut String,
        rows: impl ExactSizeIterator<Item = T>,
        mut row: impl FnMut(&mut String, T) -> fmt::Result,
    ) -> fmt::Result {
        let (id, title) = (self.id, self.title);
        writeln!(out, "<section>\n<h2 id=\"{id}\">{title}</h2>")?;
        if rows.len() == 0 {
            return writeln!(out, "<p>{}</p>\n</section>", self.nothing);
        }
        let caption = self.caption;
        writeln!(
            out,
            "<div class=\"scroll\" role=\"region\" aria-labelledby=\"{id}\" tabindex=\"0\">\n<table>\n<caption>{caption}</caption>\n<thead><tr>"
        )?;
        for column in self.columns {
            write!(out, "<th scope=\"col\">{column}</th>")?;
        }
        writeln!(out, "</tr></thead>\n<tbody>")?;
        for each in rows {
            row(out, each)?;
        }
        writeln!(out, "</tbody>\n</table>\n</div>\n</section>")
    }
}

pub fn alerts(out: &mut String, status: &Status) -> fmt::Result {
    let table = Table {
        id: "alerts",
        title: "Alerts",
        caption: &"Open alerts and the rules that match them",
        columns: &["Alert", "Labels", "From", "Since", "Rule", "Targets"],
        nothing: "No alert of a rule is open.",
    };
    table.write(out, status.activity.alerts.iter(), |out, alert| {
        let (name, rule) = (EscapedText(&alert.alertname), EscapedText(&alert.rule));
        let (source, targets) = (alert.source, alert.targets);
        let since = time(alert.since, status.sampled_at);
        let mode = if alert.dry_run { " (dry-run)" } else { "" };
        let state = match alert.state {
            "firing" => String::new(),
            other => format!(" <strong class=\"bad\">{other}</strong>"),
        };
        write!(out, "<tr><th scope=\"row\">{name}{state}</th><td class=\"labels\">")?;
        labels(out, alert)?;
        writeln!(
            out,
            "</td><td class=\"source\">{source}</td><td>{since}</td><td class=\"name\">{rule}{mode}</td><td class=\"number\">{targets}</td></tr>"
        )
    })
}

fn labels(out: &mut String, alert: &OpenAlert) -> fmt::Result {
    for (place, (name, value)) in alert.labels.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        write!(out, "{comma}{}=&quot;{}&quot;", EscapedText(name), EscapedText(value))?;
    }
    Ok(())
}

pub fn rules(out: &mut String, status: &Status) -> fmt::Result {
    let table = Table {
        id: "rules",
        title: "Rules",
        caption: &"Steps and last decision of each rule",
        columns: &["Rule", "Steps", "Mode", "Last decision", "At", "Why"],
        nothing: "There are no rules.",
    };
    table.write(out, status.activity.rules.iter(), |out, rule_status| {
        let (rule, steps) = (EscapedText(&rule_status.rule), rule_status.steps.join(", "));
        let mode = if rule_status.acts { "enforce" } else { "dry-run" };
        let stopped = if status.breakers_open.contains(&rule_status.rule) {
            " <strong class=\"bad\">breaker open</strong>"
        } else {
            ""
        };
        write!(
            out,
            "<tr><th scope=\"row\">{rule}</th><td>{}</td><td>{mode}{stopped}</td>",
            EscapedText(&steps)
        )?;
        match &rule_status.last_decision {
            None => writeln!(out, "<td>none yet</td><td></td><td></td></tr>"),
            Some(event) => writeln!(
                out,
                "<td class=\"name\">{}{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
                event.kind.as_str(),
                subject(event),
                time(event.at, status.sampled_at),
                why(event)
            ),
        }
    })
}

/// The subject of a decision: ` nice 10 on 4711 ffmpeg`.
fn subject(event: &Event) -> String {
    let step = event.step.as_deref().map(|step| format!(" {}", EscapedText(step)));
    let process = event.process.as_deref().map(|_| format!(" on {}", process(event)));
    step.unwrap_or_default() + &process.unwrap_or_default()
}

/// The reason of an event. A step without one was applied because the alert fires; a revert was not.
fn why(event: &Event) -> String {
    let is_revert = event.step.as_deref().is_some_and(|step| step.starts_with("undo "));
    match (event.reason.as_str(), event.alertname.as_str()) {
        ("", "") => String::new(),
        ("", _) if is_revert => String::new(),
        ("", alertname) => format!("{} fires", EscapedText(alertname)),
        (reason, _) => EscapedText(reason).to_string(),
    }
}

fn process(event: &Event) -> String {
    let pid = event.pid.map_or(String::new(), |pid| format!("{pid} "));
    format!("{pid}{}", EscapedText(event.process.as_deref().unwrap_or_default()))
}

pub fn leases(out: &mut String, status: &Status) -> fmt::Result {
    let leases = &status.activity.leases;
    let (held, shown) = (status.leases_held, leases.len());
    let caption = if shown < held {
        format!("Changes to revert, and their deadlines: the first {shown} of {held}")
    } else {
        "Changes to revert, and their deadlines".to_owned()
    };
    let table = Table {
        id: "leases",
        title: "Leases",
        caption: &caption,
        columns: &["Number", "Target", "Change", "Deadline", "Rule"],
        nothing: "There are no leases.",
    };
    table.write(out, leases.iter(), |out, lease| {
        let (id, rule, process) = (lease.id, EscapedText(&lease.rule), EscapedText(&lease.process));
        let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
        let what = EscapedText(&lease.what);
        let until = match (&lease.released, lease.until) {
            (Some(request), _) => format!("being reverted, released {}", EscapedText(request)),
            (None, Some(until)) => time(until, status.sampled_at),
            (None, None) => "being reverted".to_owned(),
        };
        writeln!(
            out,
            "<tr><td>{id}</td><th scope=\"row\">{pid}{process}</th><td>{what}</td><td>{until}</td><td class=\"name\">{rule}</td></tr>"
        )
    })
}

pub fn actions(out: &mut String, status: &Status) -> fmt::Result {
    let table = Table {
        id: "actions",
        title: "Last actions",
        caption: &"Applied steps, reverts and requests of operators, newest first",
        columns: &["At", "Target", "Step", "Before", "After", "Outcome", "Rule", "Why"],
        nothing: "There were no actions yet.",
    };
    table.write(out, status.activity.actions.iter(), |out, event| {
        event_row(out, event, status.sampled_at)
    })
}

pub fn decisions(out: &mut String, status: &Status) -> fmt::Result {
    let table = Table {
        id: "decisions",
        title: "Last decisions",
        caption: &"Decisions about planned steps, newest first",
        columns: &["At", "Target", "Step", "Before", "After", "Decision", "Rule", "Why"],
        nothing: "There were no decisions yet.",
    };
    table.write(out, status.activity.decisions.iter(), |out, event| {
        event_row(out, event, status.sampled_at)
    })
}

fn event_row(out: &mut String, event: &Event, now: Timestamp) -> fmt::Result {
    writeln!(
        out,
        "<tr><td>{}</td><td class=\"name\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"name\">{}</td><td class=\"why\">{}</td></tr>",
        time(event.at, now),
        process(event),
        EscapedText(event.step.as_deref().unwrap_or_default()),
        EscapedText(event.before.as_deref().unwrap_or_default()),
        EscapedText(event.after.as_deref().unwrap_or_default()),
        event.kind.as_str(),
        EscapedText(&event.rule),
        why(event)
    )
}

pub fn collectors(out: &mut String, status: &Status) -> fmt::Result {
    let table = Table {
        id: "collectors",
        title: "Collectors",
        caption: &"Age, duration and error of the last reading",
        columns: &["Name", "Age", "Duration", "State"],
        nothing: "All collectors are disabled.",
    };
    table.write(out, status.collectors.iter(), |out, collector| {
        let state = EscapedText(collector.error.as_deref().unwrap_or("ok"));
        let class = if collector.success { "" } else { " class=\"bad\"" };
        writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"number\">{:.1} s</td><td class=\"number\">{:.2} ms</td><td{class}>{state}</td></tr>",
            collector.name,
            collector.age_seconds,
            collector.duration_seconds * 1e3,
        )
    })
}
