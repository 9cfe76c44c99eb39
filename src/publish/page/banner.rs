//! The banner of the page: mode, pause, health, budgets, breakers. Each state has a word and a shape besides its
//! colour.

use super::PageOptions;
use super::health::Health;
use super::html::{EscapedText, capitalised, clock, command, elapsed, pause_command, relative};
use super::open_alerts::last_act;
use super::story::{self, state};
use crate::publish::status::Status;
use crate::telemetry::FrontendStatus;
use crate::terminal::{count, shell_word};
use std::fmt::{self, Write};

/// How good a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Plain,
    Good,
    /// Unusual, but on purpose or harmless.
    Notice,
    Bad,
}

impl Grade {
    fn class(self) -> &'static str {
        match self {
            Grade::Plain => "plain",
            Grade::Good => "good",
            Grade::Notice => "notice",
            Grade::Bad => "bad",
        }
    }

    fn shape(self) -> &'static str {
        match self {
            Grade::Plain => "",
            Grade::Good => "<span class=\"shape\" aria-hidden=\"true\">✔</span> ",
            Grade::Notice => "<span class=\"shape\" aria-hidden=\"true\">▲</span> ",
            Grade::Bad => "<span class=\"shape\" aria-hidden=\"true\">✖</span> ",
        }
    }

    fn good_if(is_good: bool) -> Grade {
        if is_good { Grade::Good } else { Grade::Bad }
    }
}

pub fn banner(out: &mut String, status: &Status, options: PageOptions<'_>, firing: usize) -> fmt::Result {
    let is_off = status.actuator_off.is_some();
    let (class, shape) = match (status.mode, status.paused) {
        _ if is_off => ("off", "■"),
        (_, true) => ("paused", "❚❚"),
        ("enforce", _) => ("enforce", "●"),
        _ => ("dry-run", "○"),
    };
    let sentence = capitalised(state(status.mode, is_off, status.paused, status.ledger_writable));
    // Screen readers announce this sentence when it changes.
    writeln!(
        out,
        "<section class=\"banner {class}\">\n<h2 id=\"status\">State</h2>\n\
         <p class=\"headline\" role=\"status\"><span class=\"shape\" aria-hidden=\"true\">{shape}</span> {sentence}. {}, {}.</p>",
        count(firing, "alert") + if firing == 1 { " fires" } else { " fire" },
        count(status.leases_held, "lease")
            + if status.leases_held == 1 {
                " is held"
            } else {
                " are held"
            },
    )?;
    last_action(out, status)?;
    health(out, status)?;
    writeln!(out, "<dl class=\"state\">")?;
    tiles(out, status, options)?;
    writeln!(out, "</dl>")?;
    writeln!(out, "</section>")
}

/// Writes the commands that stop evenkeel, for the end of the alerts, which come first.
pub fn hints(out: &mut String, status: &Status, options: PageOptions<'_>) -> fmt::Result {
    let mut hint = |purpose: &str, wanted: &str| {
        let command = command(&format!("evenkeel {wanted}{}", options.storage_option));
        writeln!(out, "<p class=\"hint\">{purpose}: {command}</p>")
    };
    if !status.paused && status.actuator_off.is_none() {
        hint("To stop new steps", "pause")?;
    }
    if status.leases_held > 0 {
        hint("To revert all leases now", "release --all")?;
    }
    Ok(())
}

/// When evenkeel last changed something, and what.
fn last_action(out: &mut String, status: &Status) -> fmt::Result {
    match last_act(&status.activity) {
        Some(event) => writeln!(
            out,
            "<p>Last action {}: {}, rule <a href=\"#rules\">{}</a>.</p>",
            relative(event.at, status.sampled_at),
            story::sentence(event),
            EscapedText(&event.rule)
        ),
        None => writeln!(out, "<p>Last action: none is known.</p>"),
    }
}

/// What does not work, or that everything does.
fn health(out: &mut String, status: &Status) -> fmt::Result {
    let health = Health {
        actuator_off: status.actuator_off.as_deref(),
        frontend: status.frontend.as_ref(),
        is_ledger_writable: status.ledger_writable,
        breakers_open: status.breakers_open.len(),
        is_config_in_force: status.config_last_reload_successful,
    };
    let faults = health.faults();
    match faults.as_slice() {
        [] => writeln!(
            out,
            "<p class=\"health good\">{}Healthy: {}; <a href=\"#collectors\">{} of {}</a>.</p>",
            Grade::Good.shape(),
            health.parts(),
            // The others say why: most hosts lack what some of them read.
            status.collectors.iter().filter(|collector| collector.success).count(),
            count(status.collectors.len(), "collector")
        ),
        faults => writeln!(
            out,
            "<p class=\"health bad\">{}Not healthy: {}.</p>",
            Grade::Bad.shape(),
            EscapedText(&faults.join("; "))
        ),
    }
}

/// A paused rule: who paused it and until when.
fn paused_rule(status: &Status, storage: &str, rule: &str) -> String {
    let by = status.activity.rule_paused_by(rule).map_or(String::new(), |event| {
        format!(
            " {} {},",
            relative(event.at, status.sampled_at),
            EscapedText(&event.reason)
        )
    });
    format!(
        "{}:{by} until {}",
        EscapedText(rule),
        pause_command(rule, true, storage)
    )
}

/// A part of evenkeel that runs: `running for 3 h, no restarts`.
fn running(elapsed: Option<String>, restarts: u64) -> String {
    let duration = elapsed.map_or(String::new(), |elapsed| format!(" for {elapsed}"));
    format!("running{duration}, {}", count_restarts(restarts))
}

fn count_restarts(restarts: u64) -> String {
    match restarts {
        0 => "no restarts".to_owned(),
        restarts => count(usize::try_from(restarts).unwrap_or(usize::MAX), "restart"),
    }
}

fn alive(restarts: u64) -> Grade {
    if restarts > 0 { Grade::Notice } else { Grade::Good }
}

fn tiles(out: &mut String, status: &Status, options: PageOptions<'_>) -> fmt::Result {
    let mut tile = |name: &str, value: &str, grade: Grade| {
        let (class, shape) = (grade.class(), grade.shape());
        // The headline says how many.
        let repeated = match name {
            "Alerts firing" | "Leases" => " class=\"repeated\"",
            _ => "",
        };
        writeln!(
            out,
            "<div{repeated}><dt>{name}</dt><dd class=\"{class}\">{shape}{value}</dd></div>"
        )
    };
    let storage = options.storage_option;
    let (now, budget) = (status.sampled_at, status.budget);
    let mode = if status.mode == "enforce" {
        Grade::Plain
    } else {
        Grade::Notice
    };
    tile("Mode", status.mode, mode)?;
    let paused = match (status.paused, &status.activity.paused_by) {
        (false, _) => "no".to_owned(),
        (true, by) => {
            let end = format!("until {}", command(&format!("evenkeel resume{storage}")));
            match by {
                Some(event) => format!("{} {}, {end}", relative(event.at, now), EscapedText(&event.reason)),
                None => format!("yes, {end}"),
            }
        }
    };
    let pausing = if status.paused { Grade::Notice } else { Grade::Good };
    tile("Paused", &paused, pausing)?;
    let paused_rules: Vec<String> = status
        .paused_rules
        .iter()
        .map(|rule| paused_rule(status, storage, rule))
        .collect();
    if !paused_rules.is_empty() {
        tile("Paused rules", &paused_rules.join(", "), Grade::Notice)?;
    }
    match &status.actuator_off {
        Some(reason) => tile("Actuator", &format!("off: {}", EscapedText(reason)), Grade::Bad)?,
        None => tile(
            "Actuator",
            &running(None, status.engine_restarts),
            alive(status.engine_restarts),
        )?,
    }
    match &status.frontend {
        Some(FrontendStatus {
            since: Some(since),
            restarts,
        }) => {
            tile(
                "Frontend",
                &running(Some(elapsed(*since, now)), *restarts),
                alive(*restarts),
            )?;
        }
        Some(FrontendStatus { since: None, restarts }) => {
            let text = format!("not running, {}", count_restarts(*restarts));
            tile("Frontend", &text, Grade::Bad)?;
        }
        None => tile("Frontend", "none: the main process serves HTTP", Grade::Plain)?,
    }
    let ledger = if status.ledger_writable {
        "writable"
    } else {
        "not writable"
    };
    tile("Ledger", ledger, Grade::good_if(status.ledger_writable))?;
    let sources: Vec<String> = status
        .alerts_firing
        .iter()
        .map(|(source, count)| format!("{count} from {source}"))
        .collect();
    let (from, grade) = match sources.is_empty() {
        true => ("none".to_owned(), Grade::Good),
        false => (sources.join(", "), Grade::Notice),
    };
    tile("Alerts firing", &from, grade)?;
    tile("Leases", &status.leases_held.to_string(), Grade::Plain)?;
    let per = super::html::span(jiff::SignedDuration::from_secs(
        i64::try_from(budget.per_seconds).unwrap_or(i64::MAX),
    ));
    let left = |left: u32, limit: u32| format!("{left} of {limit} per {per}");
    let grade = |left: u32| if left == 0 { Grade::Bad } else { Grade::Plain };
    let (kills, commands) = (status.budget_remaining, status.commands_remaining);
    tile(
        "Irreversible actions left",
        &left(kills, budget.final_steps),
        grade(kills),
    )?;
    tile("Commands left", &left(commands, budget.commands), grade(commands))?;
    let breakers: Vec<String> = status
        .breakers_open
        .iter()
        .map(|rule| {
            let close = command(&format!("evenkeel release --breaker {}{storage}", shell_word(rule)));
            format!("{}: {close}", EscapedText(rule))
        })
        .collect();
    match breakers.is_empty() {
        true => tile("Open breakers", "none", Grade::Good)?,
        false => tile("Open breakers", &breakers.join(", "), Grade::Bad)?,
    }
    let since = clock(status.config_last_reload_success_at, now);
    let configuration = if status.config_last_reload_successful {
        format!("loaded at {since}")
    } else {
        format!("loaded at {since}; the last reload failed")
    };
    tile(
        "Configuration",
        &configuration,
        Grade::good_if(status.config_last_reload_successful),
    )?;
    Ok(())
}
