//! The section about the host: a table with a chart of the last minutes in each row. The chart is hidden from screen
//! readers, because the numbers of the row say the same.

use super::html::{EscapedText, bytes, percent};
use crate::publish::status::{HostFigures, Status};
use crate::sense::recent_history::{HistoryMetric, MAX_SAMPLES, RecentHistory};
use std::fmt::{self, Write};

/// Height of a chart in units.
const HEIGHT: u32 = 40;

/// The least upper end of the axis, so that little traffic is not drawn as a peak.
const LEAST_TOP_BYTES: f32 = 10240.0;

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
    let span = span(status.recent_history.len() as f64 * status.sampling_interval_seconds);
    writeln!(
        out,
        "<table class=\"figures\">\n<caption>The last {span}, one point per sample. \
         Waiting is the share of time in which some task waited (PSI); network and disk are those of the busiest device.</caption>\n\
         <thead><tr><th scope=\"col\">Figure</th><th scope=\"col\" class=\"number\">Now</th>\
         <th scope=\"col\" class=\"number\">Mean</th><th scope=\"col\" class=\"number\">Peak</th>\
         <th scope=\"col\" class=\"chart\">Chart</th></tr></thead>\n<tbody>"
    )?;
    for metric in HistoryMetric::ALL {
        row(out, metric, &status.recent_history)?;
    }
    writeln!(out, "</tbody>\n</table>")?;
    fill_levels(out, &status.figures)?;
    writeln!(out, "</section>")
}

fn span(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.0} seconds")
    } else {
        format!("{:.0} minutes", (seconds / 60.0).floor())
    }
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
    let (name, now) = (name(metric), now.map_or("-".to_owned(), text));
    let top = if metric.is_ratio() {
        1.0
    } else {
        peak.max(LEAST_TOP_BYTES)
    };
    write!(
        out,
        "<tr><th scope=\"row\">{name}</th><td class=\"number now\">{now}</td><td class=\"number\">{}</td>\
         <td class=\"number\">{}</td><td class=\"chart\"><svg aria-hidden=\"true\" viewBox=\"0 0 {} {HEIGHT}\" \
         preserveAspectRatio=\"none\"><path d=\"",
        text(mean),
        text(peak),
        MAX_SAMPLES - 1
    )?;
    draw(
        out,
        recent_history.values(metric),
        MAX_SAMPLES - recent_history.len(),
        top,
    )?;
    writeln!(out, "\"/></svg></td></tr>")
}

/// Writes the outline of an area, broken where a value is unknown. Points on a level stretch are left out.
fn draw(out: &mut String, values: impl Iterator<Item = f32>, first: usize, top: f32) -> fmt::Result {
    let points = values.enumerate().map(|(place, value)| {
        let level = (value / top).clamp(0.0, 1.0) * HEIGHT as f32;
        (
            first + place,
            (!value.is_nan()).then_some(HEIGHT - level.round() as u32),
        )
    });
    let mut before: Option<(usize, u32)> = None;
    // The x of the last written point of the stretch on which `before` lies.
    let mut written = 0;
    let finish = |out: &mut String, last: Option<(usize, u32)>, written: usize| -> fmt::Result {
        match last {
            Some((x, y)) if x > written => write!(out, " {x} {y} {x} {HEIGHT}"),
            Some((x, _)) => write!(out, " {x} {HEIGHT}"),
            None => Ok(()),
        }
    };
    for (x, y) in points {
        let Some(y) = y else {
            finish(out, before.take(), written)?;
            continue;
        };
        match before {
            None => {
                write!(out, "M{x} {HEIGHT} {x} {y}")?;
                written = x;
            }
            Some((last_x, last_y)) if last_y != y => {
                if last_x > written {
                    write!(out, " {last_x} {last_y}")?;
                }
                write!(out, " {x} {y}")?;
                written = x;
            }
            Some(_) => {}
        }
        before = Some((x, y));
    }
    finish(out, before, written)
}

/// Writes the table of load, memory and file systems.
fn fill_levels(out: &mut String, figures: &HostFigures) -> fmt::Result {
    if figures.filesystem_used_ratio.is_empty() && figures.load1.is_none() {
        return Ok(());
    }
    writeln!(
        out,
        "<table>\n<caption>Load, memory and file systems now</caption>\n<thead><tr><th scope=\"col\">Figure</th>\
         <th scope=\"col\">Value</th></tr></thead>\n<tbody>"
    )?;
    if let Some(load) = figures.load1 {
        writeln!(
            out,
            "<tr><th scope=\"row\">Load, 1 minute</th><td class=\"level\">{load:.2}</td></tr>"
        )?;
    }
    if let (Some(used), Some(total)) = (figures.memory_used_ratio, figures.memory_total_bytes) {
        let (used, total) = (bytes(used * total), bytes(total));
        writeln!(
            out,
            "<tr><th scope=\"row\">Memory</th><td class=\"level\">{used} of {total} used</td></tr>"
        )?;
    }
    for (mount_point, ratio) in &figures.filesystem_used_ratio {
        let (mount_point, percent) = (EscapedText(mount_point), percent(*ratio));
        writeln!(
            out,
            "<tr><th scope=\"row\">File system {mount_point}</th><td class=\"level\"><meter value=\"{ratio:.3}\" high=\"0.8\" \
             aria-hidden=\"true\"></meter>{percent} used</td></tr>"
        )?;
    }
    writeln!(out, "</tbody>\n</table>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_stretches_need_two_points_and_gaps_break_lines() {
        for (values, expected) in [
            (&[][..], ""),
            (&[f32::NAN], ""),
            (&[0.5], "M7 40 7 20 7 40"),
            (&[0.5, 0.5, 0.5], "M7 40 7 20 9 20 9 40"),
            (&[0.5, 0.5, 1.0, 2.0], "M7 40 7 20 8 20 9 0 10 0 10 40"),
            (&[0.0, f32::NAN, 1.0, 0.0], "M7 40 7 40 7 40M9 40 9 0 10 40 10 40"),
        ] {
            let mut out = String::new();
            draw(&mut out, values.iter().copied(), 7, 1.0).unwrap();
            assert_eq!(out, expected, "{values:?}");
        }
    }
}
