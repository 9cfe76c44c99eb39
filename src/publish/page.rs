//! The status page and the pages of episodes: HTML from the same data as `/api/v1/status`. They need no script; their
//! script only fetches them again, replaces what has changed, and shows values at the pointer. Pure.

mod alerts;
mod banner;
mod curve;
mod effect;
mod episode;
mod health;
mod host;
mod html;
mod open_alerts;
#[cfg(test)]
mod palette;
mod story;
mod tables;
mod timeline;
#[cfg(test)]
mod tests;

pub use alerts::effects;
pub use episode::{episode, unknown_episode};
pub use health::Health;
pub use open_alerts::{HeldLeases, active_rules, answers, last_act, lease_numbers, open_alerts};
pub use story::{Meaning, nothing_done, state};
pub use timeline::Range;

use super::status::Status;
use html::{EscapedText, clock};
use std::fmt::{self, Write};

pub const STYLE: &str = include_str!("page/style.css");
pub const SCRIPT: &str = include_str!("page/script.js");
pub const ICON: &str = include_str!("page/icon.svg");

/// The link to the documents.
const DOCUMENTS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/docs");

/// What the pages need besides the status.
#[derive(Debug, Clone, Copy)]
pub struct PageOptions<'a> {
    /// The target of the link to the metrics.
    pub telemetry_path: &'a str,
    /// The option that leads commands to this daemon, with a blank before it; empty for the default directory.
    pub storage_option: &'a str,
    /// Whether the client has authenticated, so that it may follow the links of an alert.
    pub is_authenticated: bool,
}

/// Renders the status page.
pub fn page(status: &Status, options: PageOptions<'_>, range: Option<Range>) -> String {
    let mut out = String::with_capacity(64 << 10);
    write_page(&mut out, status, options, range).expect("writing to a String does not fail");
    out
}

fn write_page(out: &mut String, status: &Status, options: PageOptions<'_>, range: Option<Range>) -> fmt::Result {
    let firing: usize = status.alerts_firing.values().sum();
    let badge = if firing > 0 {
        format!("({firing}) ")
    } else {
        String::new()
    };
    let title = format!("{badge}evenkeel on {}", EscapedText(host_name(status)));
    let heading = format!("evenkeel on {}", EscapedText(host_name(status)));
    // Links are relative, so that a proxy may serve the page below another path.
    begin(out, &title, &heading, "", status, options)?;
    banner::banner(out, status, options, firing)?;
    alerts::alerts(out, status, options)?;
    timeline::timeline(out, status, range)?;
    tables::leases(out, status, options)?;
    tables::actions(out, status)?;
    tables::rules(out, status, options)?;
    host::host(out, status)?;
    tables::collectors(out, status)?;
    writeln!(out, "</main>\n</body>\n</html>")
}

/// The name is unknown where the collector `uname` is disabled.
fn host_name(status: &Status) -> &str {
    match &*status.host.name {
        "" => "this host",
        name => name,
    }
}

/// Writes everything up to the content; `root` leads to the status page.
fn begin(
    out: &mut String,
    title: &str,
    heading: &str,
    root: &str,
    status: &Status,
    options: PageOptions<'_>,
) -> fmt::Result {
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<link rel=\"icon\" href=\"{root}icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"{root}style.css\">\n<script src=\"{root}script.js\" defer></script>\n\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n</head>\n<body>\n\
         <header>\n<h1>{heading}</h1>\n<nav aria-label=\"Other views\">"
    )?;
    let metrics = match root {
        "" => format!(".{}", EscapedText(options.telemetry_path)),
        _ => {
            write!(out, "<a href=\"{root}\">Status of this host</a>")?;
            format!("..{}", EscapedText(options.telemetry_path))
        }
    };
    writeln!(
        out,
        "<a href=\"{metrics}\">Metrics</a><a href=\"{root}api/v1/status\">Status as JSON</a>\
         <a href=\"{DOCUMENTS}\" rel=\"noreferrer\">Documents</a></nav>"
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
        "<p>Version {}{system}. Sampled at {} <span id=\"zone\">UTC, as are all times here</span>. \
         <button id=\"switch\" type=\"button\" hidden></button></p>\n\
         <p id=\"contact\" role=\"status\"></p>\n</header>\n<main>",
        status.version,
        clock(status.sampled_at, status.sampled_at)
    )
}
