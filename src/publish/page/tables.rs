//! The tables of the page: leases, actions and decisions, rules, collectors. On a narrow screen each row is a card.
//! Pure.

use super::PageOptions;
use super::html::{EscapedText, command, distance, pause_command, pause_mark, relative, shortened};
use super::open_alerts::active_rules;
use super::story::{Meaning, change, lease_change, plain, short_process, subject, why};
use crate::publish::status::{CollectorStatus, Status};
use crate::telemetry::{Event, LeaseStatus, MAX_RECENT, RuleStatus};
use crate::terminal::shell_word;
use jiff::Timestamp;
use std::fmt::{self, Display, Write};

/// Leases and actions that are not folded.
const MAX_OPEN_LEASES: usize = 15;
const MAX_OPEN_ACTIONS: usize = 15;

/// Bytes of names where there may be a thousand leases, and of the process of an event. Its episode has all of it.
const MAX_CELL_BYTES: usize = 24;
const MAX_PROCESS_BYTES: usize = 80;

/// A table; the names of its columns are in the style as well, for cards.
struct Table<'a> {
    class: &'static str,
    caption: &'a dyn Display,
    columns: &'static [&'static str],
}

impl Table<'_> {
    fn write<T>(
        &self,
        out: &mut String,
        rows: impl Iterator<Item = T>,
        mut row: impl FnMut(&mut String, T) -> fmt::Result,
    ) -> fmt::Result {
        write!(
            out,
            "<table class=\"cards {}\">\n<caption>{}</caption>\n<thead><tr>",
            self.class, self.caption
        )?;
        for column in self.columns {
            write!(out, "<th scope=\"col\">{column}</th>")?;
        }
        writeln!(out, "</tr></thead>\n<tbody>")?;
        for each in rows {
            row(out, each)?;
        }
        writeln!(out, "</tbody>\n</table>")
    }
}

fn begin(out: &mut String, id: &str, title: &str) -> fmt::Result {
    writeln!(out, "<section>\n<h2 id=\"{id}\">{title}</h2>")
}

/// Writes rows that are folded below a summary.
fn folded(out: &mut String, summary: &str, write: impl FnOnce(&mut String) -> fmt::Result) -> fmt::Result {
    writeln!(out, "<details>\n<summary>{summary}</summary>")?;
    write(out)?;
    writeln!(out, "</details>")
}

pub fn leases(out: &mut String, status: &Status, options: PageOptions<'_>) -> fmt::Result {
    begin(out, "leases", "Leases")?;
    let leases = &status.activity.leases;
    if leases.is_empty() {
        return writeln!(out, "<p>There are no leases.</p>\n</section>");
    }
    let storage = options.storage_option;
    let open = Table {
        class: "leases",
        caption: &"Changes that evenkeel reverts when their alert is over, or at their deadline",
        columns: &[
            "Number",
            "Target",
            "Change",
            "Since",
            "Until",
            "Rule",
            "To revert it now",
        ],
    };
    open.write(out, leases.iter().take(MAX_OPEN_LEASES), |out, lease| {
        let id = lease.id;
        let until = match lease.until {
            Some(until) if lease.released.is_none() => relative(until, status.sampled_at),
            _ => until_text(lease, status.sampled_at),
        };
        writeln!(
            out,
            "<tr id=\"lease-{id}\"><td>{id}</td><th scope=\"row\">{}</th><td class=\"change\">{}</td><td>{}</td><td>{until}</td><td class=\"name\">{}</td><td>{}</td></tr>",
            target(lease),
            EscapedText(&lease_change(lease)),
            relative(lease.since, status.sampled_at),
            rule_link(status, lease),
            command(&format!("evenkeel release {id}{storage}"))
        )
    })?;
    let (held, shown) = (status.leases_held, leases.len());
    if shown > MAX_OPEN_LEASES {
        let summary = match shown < held {
            true => format!("The next {} of {held} leases", shown - MAX_OPEN_LEASES),
            false => format!("{} more leases", shown - MAX_OPEN_LEASES),
        };
        folded(out, &summary, |out| {
            // As short as possible, because there may be a thousand.
            let rest = Table {
                class: "rest",
                caption: &"The number is the argument of <code>evenkeel release</code>.",
                columns: &["Number", "Target", "Change", "Until", "Rule"],
            };
            rest.write(out, leases.iter().skip(MAX_OPEN_LEASES), |out, lease| {
                let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
                let until = match &lease.released {
                    Some(_) => "being reverted".to_owned(),
                    None => until_text(lease, status.sampled_at),
                };
                writeln!(
                    out,
                    "<tr><td>{}<th scope=\"row\">{pid}{}<td>{}<td>{until}<td>{}",
                    lease.id,
                    shortened(&lease.process, MAX_CELL_BYTES),
                    shortened(&lease_change(lease), MAX_CELL_BYTES),
                    shortened(&lease.rule, MAX_CELL_BYTES)
                )
            })
        })?;
    }
    writeln!(out, "</section>")
}

/// The target of a lease, escaped.
fn target(lease: &LeaseStatus) -> String {
    let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
    format!("{pid}{}", EscapedText(&lease.process))
}

fn until_text(lease: &LeaseStatus, now: Timestamp) -> String {
    match (&lease.released, lease.until) {
        (Some(request), _) => format!("being reverted, released {}", EscapedText(request)),
        (None, Some(until)) => distance(until, now),
        (None, None) => "being reverted".to_owned(),
    }
}

fn rule_link(status: &Status, lease: &LeaseStatus) -> String {
    let rule = EscapedText(&lease.rule);
    match status.activity.episode_of_lease(lease) {
        Some(episode) => format!("<a href=\"episodes/{}\">{rule}</a>", episode.alert.episode),
        None => rule.to_string(),
    }
}

pub fn actions(out: &mut String, status: &Status) -> fmt::Result {
    begin(out, "actions", "Last actions")?;
    let actions: Vec<&Event> = status
        .activity
        .actions
        .iter()
        .take(MAX_RECENT)
        .map(|event| &**event)
        .collect();
    let table = |caption: &'static &'static str| Table {
        class: "events",
        caption,
        columns: &["At", "Outcome", "Target", "Step", "Change", "Rule", "Why"],
    };
    let (open, rest) = actions.split_at(actions.len().min(MAX_OPEN_ACTIONS));
    if open.is_empty() {
        writeln!(out, "<p>There were no actions yet.</p>")?;
    } else {
        table(&"Applied steps, reverts and requests of operators, newest first").write(
            out,
            open.iter(),
            |out, event| event_row(out, status, event),
        )?;
    }
    if !rest.is_empty() {
        folded(out, &format!("{} earlier actions", rest.len()), |out| {
            table(&"Earlier actions").write(out, rest.iter(), |out, event| event_row(out, status, event))
        })?;
    }
    let decisions: Vec<&Event> = status
        .activity
        .decisions
        .iter()
        .take(MAX_RECENT)
        .map(|event| &**event)
        .collect();
    if decisions.is_empty() {
        writeln!(out, "<p id=\"decisions\">There were no decisions yet.</p>")?;
    } else {
        writeln!(out, "<div id=\"decisions\">")?;
        folded(out, &format!("Last decisions ({})", decisions.len()), |out| {
            table(&"Decisions about planned steps, newest first")
                .write(out, decisions.iter(), |out, event| event_row(out, status, event))
        })?;
        writeln!(out, "</div>")?;
    }
    writeln!(out, "</section>")
}

fn event_row(out: &mut String, status: &Status, event: &Event) -> fmt::Result {
    let meaning = Meaning::of(event);
    let rule = EscapedText(&event.rule);
    let rule = match status.activity.episode_of(event) {
        Some(episode) => format!("<a href=\"episodes/{}\">{rule}</a>", episode.alert.episode),
        None => rule.to_string(),
    };
    writeln!(
        out,
        "<tr><td>{}</td><td class=\"{}\"><span class=\"shape\" aria-hidden=\"true\">{}</span> {}</td><td class=\"name\">{}</td><td>{}</td>\
         <td class=\"change\">{}</td><td class=\"name\">{rule}</td><td class=\"why\">{}</td></tr>",
        relative(event.at, status.sampled_at),
        meaning.class(),
        meaning.shape(),
        plain(event.kind.as_str()),
        short_process(event, MAX_PROCESS_BYTES),
        EscapedText(event.step.as_deref().unwrap_or_default()),
        change(event),
        why(event)
    )
}

pub fn rules(out: &mut String, status: &Status, options: PageOptions<'_>) -> fmt::Result {
    begin(out, "rules", "Rules")?;
    let activity = &status.activity;
    let (active, quiet) = active_rules(activity, &status.breakers_open, &status.paused_rules);
    let table = |caption: &'static &'static str| Table {
        class: "rules",
        caption,
        columns: &["Rule", "Steps", "Mode", "Last decision", "Why", "Commands"],
    };
    let write = |out: &mut String, rules: &[&RuleStatus], caption| {
        table(caption).write(out, rules.iter(), |out, rule_status| {
            rule_row(out, status, options, rule_status)
        })
    };
    match (active.is_empty(), quiet.is_empty()) {
        (true, true) => writeln!(out, "<p>There are no rules.</p>")?,
        (true, false) => write(out, &quiet, &"No rule is active")?,
        (false, is_all) => {
            write(
                out,
                &active,
                &"Rules with an open alert, a lease or an open breaker, and paused ones",
            )?;
            if !is_all {
                folded(out, &format!("{} other rules", quiet.len()), |out| {
                    write(out, &quiet, &"Rules without an open alert")
                })?;
            }
        }
    }
    writeln!(out, "</section>")
}

fn rule_row(out: &mut String, status: &Status, options: PageOptions<'_>, rule_status: &RuleStatus) -> fmt::Result {
    let (rule, steps) = (EscapedText(&rule_status.rule), rule_status.steps.join(", "));
    let (mode, storage) = (
        if rule_status.acts { "enforce" } else { "dry-run" },
        options.storage_option,
    );
    let name = shell_word(&rule_status.rule);
    let is_paused = status.paused_rules.contains(&rule_status.rule);
    let mut commands = pause_command(&rule_status.rule, is_paused, storage);
    write!(
        commands,
        " {}",
        command(&format!("evenkeel history --rule {name}{storage}"))
    )?;
    let pause = pause_mark(is_paused);
    let stopped = if status.breakers_open.contains(&rule_status.rule) {
        write!(
            commands,
            " {}",
            command(&format!("evenkeel release --breaker {name}{storage}"))
        )?;
        " <strong class=\"bad\">breaker open</strong>"
    } else {
        ""
    };
    write!(
        out,
        "<tr><th scope=\"row\">{rule}</th><td>{}</td><td>{mode}{stopped}{pause}</td>",
        EscapedText(&steps)
    )?;
    match &rule_status.last_decision {
        None => write!(out, "<td>none yet</td><td></td>")?,
        Some(event) => write!(
            out,
            "<td class=\"name\">{}{}, {}</td><td class=\"why\">{}</td>",
            plain(event.kind.as_str()),
            subject(event),
            relative(event.at, status.sampled_at),
            why(event)
        )?,
    }
    writeln!(out, "<td>{commands}</td></tr>")
}

pub fn collectors(out: &mut String, status: &Status) -> fmt::Result {
    begin(out, "collectors", "Collectors")?;
    if status.collectors.is_empty() {
        return writeln!(out, "<p>All collectors are disabled.</p>\n</section>");
    }
    let table = Table {
        class: "collectors",
        caption: &"Age, duration and error of the last reading",
        columns: &["Name", "Age", "Duration", "State"],
    };
    let (good, bad): (Vec<&CollectorStatus>, Vec<&CollectorStatus>) =
        status.collectors.iter().partition(|collector| collector.success);
    if !bad.is_empty() {
        table.write(out, bad.iter(), |out, collector| collector_row(out, collector))?;
    }
    folded(out, &format!("{} collectors read without error", good.len()), |out| {
        table.write(out, good.iter(), |out, collector| collector_row(out, collector))
    })?;
    writeln!(out, "</section>")
}

fn collector_row(out: &mut String, collector: &CollectorStatus) -> fmt::Result {
    let state = EscapedText(collector.error.as_deref().unwrap_or("ok"));
    let class = if collector.success { "" } else { " class=\"why\"" };
    writeln!(
        out,
        "<tr><th scope=\"row\">{}</th><td class=\"number\">{:.1} s</td><td class=\"number\">{:.2} ms</td><td{class}>{state}</td></tr>",
        collector.name,
        collector.age_seconds,
        collector.duration_seconds * 1e3,
    )
}
