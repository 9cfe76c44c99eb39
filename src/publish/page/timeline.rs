//! The timeline: curves of the host, bands and bars for firing alerts, marks for what evenkeel decided and did, and bars
//! for leases, on one axis, as SVG. Places on the axis are shares of its width, so that text keeps its size on every
//! screen. Pure.

mod axis;
mod guides;
mod lanes;

pub use axis::Range;

use super::curve::{self, Point};
use super::effect::recent_samples;
use super::html::{EscapedText, bytes, percent};
use crate::publish::status::Status;
use crate::sense::recent_history::HistoryMetric;
use axis::Axis;
use std::fmt::{self, Write};

/// Heights in pixels: of the labels of the axis, of a curve's lane and of the drawing in it.
const AXIS: u32 = 20;
const LANE: u32 = 62;
const DRAWING: u32 = 42;

/// The least upper end of a scale in bytes, so that little traffic is not drawn as a peak.
const LEAST_TOP_BYTES: f32 = 102_400.0;

/// Curves that share a lane, with their names.
const LANES: [(&str, &[(HistoryMetric, &str)]); 5] = [
    ("CPU", &[(HistoryMetric::CpuBusy, "busy")]),
    ("Memory", &[(HistoryMetric::MemoryUsed, "used")]),
    (
        "Waiting for",
        &[
            (HistoryMetric::CpuWaiting, "CPU"),
            (HistoryMetric::IoWaiting, "I/O"),
            (HistoryMetric::MemoryWaiting, "memory"),
        ],
    ),
    (
        "Disk",
        &[
            (HistoryMetric::DiskRead, "read"),
            (HistoryMetric::DiskWritten, "written"),
        ],
    ),
    (
        "Network",
        &[(HistoryMetric::Received, "in"), (HistoryMetric::Sent, "out")],
    ),
];

/// Writes the section. Without a range it is the shortest one that shows the start of all that is open.
pub fn timeline(out: &mut String, status: &Status, range: Option<Range>) -> fmt::Result {
    let range = range.unwrap_or_else(|| Range::that_shows(status));
    writeln!(
        out,
        "<section class=\"timeline\">\n<h2 id=\"timeline\">Timeline</h2>\n<nav aria-label=\"Range of the timeline\">"
    )?;
    for other in Range::ALL {
        let current = if other == range { " aria-current=\"true\"" } else { "" };
        write!(out, "<a href=\"?range={}\"{current}>{}</a>", other.key(), other.name())?;
    }
    writeln!(out, "</nav>")?;
    draw(out, status, &Axis::new(range, status.sampled_at))?;
    writeln!(out, "</section>")
}

/// Writes the drawing for an axis.
fn draw(out: &mut String, status: &Status, axis: &Axis) -> fmt::Result {
    let curves: Vec<Lane> = LANES
        .iter()
        .filter_map(|(name, curves)| Lane::read(status, axis, name, curves))
        .collect();
    let alerts = lanes::alerts(status, axis);
    let leases = lanes::leases(status, axis);
    let marks = lanes::marks(status, axis);
    let changes = marks.changes();
    let top = AXIS + guides::height(&changes);
    let below_curves = top + LANE * u32::try_from(curves.len()).unwrap_or(0);
    let below_alerts = below_curves + alerts.height();
    let below_marks = below_alerts + marks.height();
    let height = below_marks + leases.height();
    writeln!(
        out,
        "<figure aria-label=\"Host, alerts, actions and leases over time\">\n<svg class=\"drawing\" width=\"100%\" height=\"{height}\" role=\"group\" aria-labelledby=\"timeline\" \
         data-start=\"{}\" data-end=\"{}\">\n{}",
        axis.start.as_millisecond(),
        axis.end.as_millisecond(),
        lanes::SHAPES
    )?;
    alerts.write_bands(out, AXIS, below_curves)?;
    axis.write_ticks(out, below_curves)?;
    guides::write(out, &changes, AXIS, below_curves)?;
    for (number, lane) in curves.iter().enumerate() {
        lane.write(out, top + LANE * u32::try_from(number).unwrap_or(0))?;
    }
    alerts.write(out, below_curves)?;
    marks.write(out, below_alerts)?;
    leases.write(out, below_marks)?;
    writeln!(
        out,
        "</svg>\n<p id=\"pointer\"></p>\n<figcaption class=\"legend\">Means; the light areas are peaks. Waiting is the \
         share of time in which some task waited (PSI); disk and network are those of the busiest device.<br>\
         Marks: <span class=\"applied\">▲ applied</span> <span class=\"reverted\">▼ reverted</span> \
         <span class=\"failed\">✕ failed</span> <span class=\"held\">○ not done</span> \
         <span class=\"simulated\">△ dry-run</span> <span class=\"untouched\">▽ nothing to revert</span> <span class=\"operator\">◆ operator</span>. \
         Each leads to its entry.<br>{}</figcaption>\n</figure>",
        guides::LEGEND
    )
}

/// One curve with its points.
struct Curve {
    name: &'static str,
    mean: Vec<Point>,
    peak: Vec<Point>,
}

/// Curves with a common scale.
struct Lane {
    name: &'static str,
    curves: Vec<Curve>,
    top: f32,
    is_ratio: bool,
}

impl Lane {
    /// `None` where the host reports none of the figures.
    fn read(
        status: &Status,
        axis: &Axis,
        name: &'static str,
        metrics: &[(HistoryMetric, &'static str)],
    ) -> Option<Lane> {
        let curves: Vec<Curve> = metrics
            .iter()
            .map(|(metric, name)| points(status, axis, *metric, name))
            .filter(|curve| curve.peak.iter().any(|point| !point.value.is_nan()))
            .collect();
        let is_ratio = metrics.first().is_some_and(|(metric, _)| metric.is_ratio());
        let peaks = curves.iter().flat_map(|curve| &curve.peak).map(|point| point.value);
        let top = if is_ratio {
            1.0
        } else {
            peaks.fold(LEAST_TOP_BYTES, f32::max)
        };
        (!curves.is_empty()).then_some(Lane {
            name,
            curves,
            top,
            is_ratio,
        })
    }

    fn text(&self, value: f32) -> String {
        match self.is_ratio {
            true => percent(f64::from(value)),
            false => bytes(f64::from(value)) + "/s",
        }
    }

    fn write(&self, out: &mut String, y: u32) -> fmt::Result {
        write!(out, "<text class=\"lane\" x=\"0\" y=\"{}\">{}", y + 13, self.name)?;
        for (number, curve) in self.curves.iter().enumerate() {
            let now = curve.mean.last().filter(|point| !point.value.is_nan());
            let now = now.map_or("-".to_owned(), |point| self.text(point.value));
            write!(out, " <tspan class=\"key{number}\">{}</tspan> {now}", curve.name)?;
        }
        if !self.is_ratio {
            write!(out, " <tspan class=\"scale\">scale to {}</tspan>", self.text(self.top))?;
        }
        let unit = if self.is_ratio { "%" } else { "B/s" };
        let top = if self.is_ratio { 100.0 } else { self.top };
        write!(
            out,
            "</text><svg class=\"curves\" aria-hidden=\"true\" y=\"{}\" height=\"{DRAWING}\" viewBox=\"0 0 {} {}\" \
             preserveAspectRatio=\"none\"><path class=\"base\" d=\"M0 100 1000 100\"/>",
            y + 18,
            curve::WIDTH,
            curve::HEIGHT,
        )?;
        for (number, curve) in self.curves.iter().enumerate() {
            if number == 0 && self.curves.len() == 1 {
                write!(out, "<path class=\"area\" d=\"")?;
                curve::area(out, curve.peak.iter().copied(), self.top)?;
                write!(out, "\"/>")?;
            }
            write!(
                out,
                "<path class=\"line{number}\" data-name=\"{} {}\" data-top=\"{top}\" data-unit=\"{unit}\" d=\"",
                self.name, curve.name
            )?;
            curve::line(out, curve.mean.iter().copied(), self.top)?;
            write!(out, "\"/>")?;
        }
        writeln!(out, "</svg>")
    }
}

/// The points of a figure on an axis: samples of the last minutes, or steps of the day.
fn points(status: &Status, axis: &Axis, metric: HistoryMetric, name: &'static str) -> Curve {
    let Some(step) = axis.range.step_seconds() else {
        let samples = recent_samples(status, metric).filter(|(at, _)| *at >= axis.start);
        let mean: Vec<Point> = samples
            .map(|(at, value)| Point {
                place: axis.place(at),
                value,
            })
            .collect();
        let peak = mean.clone();
        return Curve { name, mean, peak };
    };
    let (start, end) = (axis.start.as_second(), axis.end.as_second());
    let steps = status.day_history.steps(metric, step);
    let steps = steps.filter(|found| found.start + step > start && found.start <= end);
    let (mean, peak) = steps
        .map(|found| {
            let middle = (found.start + step / 2).clamp(start, end);
            let place = (middle - start) as f64 / (end - start) as f64;
            [found.mean, found.peak].map(|value| Point { place, value })
        })
        .map(|[mean, peak]| (mean, peak))
        .unzip();
    Curve { name, mean, peak }
}

/// Where texts begin to stand before their place, so that they stay within the drawing.
const LATE: f64 = 0.6;

/// Writes a text element that stays within the drawing.
fn text_at(out: &mut String, class: &str, place: f64, y: u32, text: &str) -> fmt::Result {
    let (anchor, place) = if place > LATE {
        (" end", place.min(1.0))
    } else {
        ("", place)
    };
    write!(
        out,
        "<text class=\"{class}{anchor}\" x=\"{:.2}%\" y=\"{y}\">{}</text>",
        place * 100.0,
        EscapedText(text)
    )
}
