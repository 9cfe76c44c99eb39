//! The figures of the host: now, mean and peak of the last minutes, load, memory and file systems. Pure.

use super::html::{EscapedText, bytes, percent, span};
use crate::publish::status::{HostFigures, Status};
use crate::sense::recent_history::{HistoryMetric, RecentHistory};
use jiff::SignedDuration;
use std::fmt::{self, Write};

fn name(metric: HistoryMetric) -> &'static str {
    match metric {
        HistoryMetric::CpuBusy => "CPU busy",
        HistoryMetric::MemoryUsed => "Memory used",
        HistoryMetric::CpuWaiting => "Waiting for CPU",
        HistoryMetric::IoWaiting => "Waiting for I/O",
        HistoryMetric::MemoryWaiting => "Waiting for memory",
        HistoryMetric::Received => "Network in",
        HistoryMetric::Sent => "Network out",
        HistoryMetric::DiskRead => "Disk read",
        HistoryMetric::DiskWritten => "Disk written",
    }
}

/// Writes the section.
pub fn host(out: &mut String, status: &Status) -> fmt::Result {
    writeln!(out, "<section>\n<h2 id=\"host\">Host</h2>")?;
    let is_known = |metric| status.recent_history.values(metric).any(|value| !value.is_nan());
    if !HistoryMetric::ALL.into_iter().any(is_known) {
        return writeln!(out, "<p>The collectors of these figures are disabled.</p>\n</section>");
    }
    let seconds = status.recent_history.len() as f64 * status.sampling_interval_seconds;
    let span = span(SignedDuration::try_from_secs_f64(seconds).unwrap_or_default());
    writeln!(
        out,
        "<div class=\"side\">\n<table class=\"figures\">\n<caption>The last {span}</caption>\n\
         <thead><tr><th scope=\"col\">Figure</th><th scope=\"col\" class=\"number\">Now</th>\
         <th scope=\"col\" class=\"number\">Mean</th><th scope=\"col\" class=\"number\">Peak</th></tr></thead>\n<tbody>"
    )?;
    for metric in HistoryMetric::ALL {
        row(out, metric, &status.recent_history)?;
    }
    writeln!(out, "</tbody>\n</table>")?;
    fill_levels(out, &status.figures)?;
    writeln!(out, "</div>\n</section>")
}

fn row(out: &mut String, metric: HistoryMetric, recent_history: &RecentHistory) -> fmt::Result {
    let known = recent_history.values(metric).filter(|value| !value.is_nan());
    let Some(peak) = known.clone().reduce(f32::max) else {
        // The kernel or container does not report this figure.
        return Ok(());
    };
    let mean = known.clone().sum::<f32>() / known.count() as f32;
    let now = recent_history.values(metric).last().filter(|value| !value.is_nan());
    let text = |value: f32| {
        if metric.is_ratio() {
            percent(f64::from(value))
        } else {
            bytes(f64::from(value)) + "/s"
        }
    };
    writeln!(
        out,
        "<tr><th scope=\"row\">{}</th><td class=\"number now\">{}</td><td class=\"number\">{}</td>\
         <td class=\"number\">{}</td></tr>",
        name(metric),
        now.map_or("-".to_owned(), text),
        text(mean),
        text(peak),
    )
}

/// Writes the table of load, memory and file systems.
fn fill_levels(out: &mut String, figures: &HostFigures) -> fmt::Result {
    if figures.filesystem_used_ratio.is_empty() && figures.load1.is_none() {
        return Ok(());
    }
    writeln!(
        out,
        "<table class=\"levels\">\n<caption>Load, memory and file systems now</caption>\n<thead><tr><th scope=\"col\">Figure</th>\
         <th scope=\"col\">Value</th></tr></thead>\n<tbody>"
    )?;
    if let Some(load) = figures.load1 {
        writeln!(out, "<tr><th scope=\"row\">Load, 1 minute</th><td>{load:.2}</td></tr>")?;
    }
    if let (Some(used), Some(total)) = (figures.memory_used_ratio, figures.memory_total_bytes) {
        let (used, total) = (bytes(used * total), bytes(total));
        writeln!(
            out,
            "<tr><th scope=\"row\">Memory</th><td>{used} of {total} used</td></tr>"
        )?;
    }
    for (mount_point, ratio) in &figures.filesystem_used_ratio {
        let (mount_point, percent) = (EscapedText(mount_point), percent(*ratio));
        writeln!(
            out,
            "<tr><th scope=\"row\">File system {mount_point}</th><td><meter value=\"{ratio:.3}\" high=\"0.8\" \
             aria-hidden=\"true\"></meter>{percent} used</td></tr>"
        )?;
    }
    writeln!(out, "</tbody>\n</table>")
}
