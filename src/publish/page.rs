//! The status page: HTML from the same data as `/api/v1/status`. It needs no script; its script only fetches it again
//! and replaces what has changed. Pure.

mod chart;
mod html;
mod tables;

use super::status::Status;
use crate::terminal::count;
use html::{EscapedText, time};
use std::fmt::{self, Display, Write};

pub const STYLE: &str = include_str!("page/style.css");
pub const SCRIPT: &str = include_str!("page/script.js");
pub const ICON: &str = include_str!("page/icon.svg");

/// The link to the documents.
const DOCUMENTS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/docs");

/// Renders the page; `telemetry_path` is the target of its link to the metrics.
pub fn page(status: &Status, telemetry_path: &str) -> String {
    let mut out = String::with_capacity(64 << 10);
    write_page(&mut out, status, telemetry_path).expect("writing to a String does not fail");
    out
}

fn write_page(out: &mut String, status: &Status, telemetry_path: &str) -> fmt::Result {
    // The name is unknown where the collector `uname` is disabled.
    let host = EscapedText(match &*status.host.name {
        "" => "this host",
        name => name,
    });
    let firing: usize = status.alerts_firing.values().sum();
    let badge = if firing > 0 {
        format!("({firing}) ")
    } else {
        String::new()
    };
    // Links are relative, so that a proxy may serve the page below another path.
    writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{badge}evenkeel on {host}</title>\n<link rel=\"icon\" href=\"icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"style.css\">\n<script src=\"script.js\" defer></script>\n\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n</head>\n<body>\n\
         <header>\n<h1>evenkeel on {host}</h1>\n<nav aria-label=\"Other views\"><a href=\".{}\">Metrics</a>\
         <a href=\"api/v1/status\">Status as JSON</a><a href=\"{DOCUMENTS}\" rel=\"noreferrer\">Documents</a></nav>",
        EscapedText(telemetry_path)
    )?;
    // Only the version number is shown; the suffix of the build is in `node_uname_info`.
    let is_number = |character: char| character.is_ascii_digit() || character == '.';
    let kernel = status.host.kernel.split(|character| !is_number(character)).next();
    let system = match kernel {
        Some(kernel) if !kernel.is_empty() => format!(", Linux {kernel} on {}", EscapedText(&status.host.machine)),
        _ => String::new(),
    };
    writeln!(
        out,
        "<p>Version {}{}. Sampled at {} UTC, as are all times here.</p>\n\
         <p id=\"contact\" role=\"status\"></p>\n</header>\n<main>",
        status.version,
        system,
        time(status.sampled_at, status.sampled_at)
    )?;
    overview(out, status, firing)?;
    chart::host(out, status)?;
    tables::alerts(out, status)?;
    tables::rules(out, status)?;
    tables::leases(out, status)?;
    tables::actions(out, status)?;
    tables::decisions(out, status)?;
    tables::collectors(out, status)?;
    writeln!(out, "</main>\n</body>\n</html>")
}

fn overview(out: &mut String, status: &Status, firing: usize) -> fmt::Result {
    let mode = match (status.mode, status.paused) {
        _ if status.actuator_off.is_some() => "The actuator is off: only metrics are published.",
        (_, true) => "Paused: no new steps; leases are still reverted.",
        ("enforce", _) => "Enforce: steps are applied, and reverted when their alert resolves.",
        _ => "Dry-run: actions are only logged.",
    };
    // Screen readers announce this sentence when it changes.
    writeln!(
        out,
        "<section>\n<h2 id=\"status\">Status</h2>\n<p role=\"status\">{mode} {}, {}.</p>\n<dl class=\"state\">",
        count(firing, "alert") + if firing == 1 { " fires" } else { " fire" },
        count(status.leases_held, "lease")
            + if status.leases_held == 1 {
                " is held"
            } else {
                " are held"
            },
    )?;
    let mut tile = |name: &str, value: &dyn Display, is_bad: bool| {
        let class = if is_bad { " class=\"bad\"" } else { "" };
        writeln!(out, "<div><dt>{name}</dt><dd{class}>{value}</dd></div>")
    };
    tile("Mode", &status.mode, false)?;
    if let Some(reason) = &status.actuator_off {
        tile("Actuator", &format_args!("off: {}", EscapedText(reason)), true)?;
    }
    tile("Paused", &if status.paused { "yes" } else { "no" }, status.paused)?;
    let sources: Vec<String> = status
        .alerts_firing
        .iter()
        .map(|(source, count)| format!("{count} {source}"))
        .collect();
    let from = if sources.is_empty() {
        "none".to_owned()
    } else {
        sources.join(", ")
    };
    tile("Alerts firing", &from, false)?;
    tile("Leases", &status.leases_held, false)?;
    tile(
        "Irreversible actions left",
        &status.budget_remaining,
        status.budget_remaining == 0,
    )?;
    let stopped = status.breakers_open.join(", ");
    let breaker = if stopped.is_empty() {
        "none".to_owned()
    } else {
        EscapedText(&stopped).to_string()
    };
    tile("Open breakers", &breaker, !stopped.is_empty())?;
    let ledger = if status.ledger_writable {
        "writable"
    } else {
        "not writable"
    };
    tile("Ledger", &ledger, !status.ledger_writable)?;
    let since = time(status.config_last_reload_success_at, status.sampled_at);
    let configuration = if status.config_last_reload_successful {
        format!("loaded at {since}")
    } else {
        format!("loaded at {since}; the last reload failed")
    };
    tile("Configuration", &configuration, !status.config_last_reload_successful)?;
    writeln!(out, "</dl>\n</section>")
}
