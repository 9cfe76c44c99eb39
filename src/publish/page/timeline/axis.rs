//! The axis of the timeline: its range, places on it, and its ticks. Pure.

use crate::publish::status::Status;
use crate::sense::day_history::STEP_SECONDS;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// The share of the axis, in percent, that half a label takes on the narrowest screen: 16 of 278 pixels. Closer to an
/// edge, a label begins or ends at its tick.
const EDGE: f64 = 6.0;

/// How far back the timeline goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Range {
    FiveMinutes,
    Hour,
    SixHours,
    Day,
}

impl Range {
    pub const ALL: [Range; 4] = [Range::FiveMinutes, Range::Hour, Range::SixHours, Range::Day];

    /// The value of `range` in the address.
    pub fn key(self) -> &'static str {
        match self {
            Range::FiveMinutes => "5m",
            Range::Hour => "1h",
            Range::SixHours => "6h",
            Range::Day => "24h",
        }
    }

    /// The range of a query such as `range=1h`.
    pub fn of_query(query: &str) -> Option<Range> {
        let mut values = query.split('&').filter_map(|pair| pair.strip_prefix("range="));
        let last = values.next_back()?;
        Range::ALL.into_iter().find(|range| range.key() == last)
    }

    pub fn name(self) -> &'static str {
        match self {
            Range::FiveMinutes => "5 minutes",
            Range::Hour => "1 hour",
            Range::SixHours => "6 hours",
            Range::Day => "24 hours",
        }
    }

    fn duration(self) -> SignedDuration {
        match self {
            Range::FiveMinutes => SignedDuration::from_mins(5),
            Range::Hour => SignedDuration::from_hours(1),
            Range::SixHours => SignedDuration::from_hours(6),
            Range::Day => SignedDuration::from_hours(24),
        }
    }

    /// The step of the history that it shows; `None` for single samples.
    pub fn step_seconds(self) -> Option<i64> {
        let [hour, six_hours, day] = STEP_SECONDS;
        match self {
            Range::FiveMinutes => None,
            Range::Hour => Some(hour),
            Range::SixHours => Some(six_hours),
            Range::Day => Some(day),
        }
    }

    fn tick(self) -> i64 {
        match self {
            Range::FiveMinutes => 60,
            Range::Hour => 600,
            Range::SixHours => 3600,
            Range::Day => 4 * 3600,
        }
    }

    /// The shortest range that shows the beginning of every open alert and lease, with some time before it.
    pub fn that_shows(status: &Status) -> Range {
        let activity = &status.activity;
        let alerts = activity.alerts.iter().map(|alert| alert.opened_at);
        let leases = activity.leases.iter().map(|lease| lease.since);
        let earliest = alerts.chain(leases).min();
        let age = earliest.map_or(SignedDuration::ZERO, |earliest| {
            status.sampled_at.duration_since(earliest)
        });
        let fits = |range: &Range| age * 5 / 4 <= range.duration();
        Range::ALL.into_iter().find(fits).unwrap_or(Range::Day)
    }
}

/// The axis from `start` to `end`.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    pub range: Range,
    pub start: Timestamp,
    pub end: Timestamp,
}

impl Axis {
    pub fn new(range: Range, end: Timestamp) -> Axis {
        Axis {
            range,
            start: end - range.duration(),
            end,
        }
    }

    /// The place of a time: 0 at the start, 1 at the end.
    pub fn place(&self, at: Timestamp) -> f64 {
        let share = at.duration_since(self.start).as_secs_f64() / self.range.duration().as_secs_f64();
        share.clamp(0.0, 1.0)
    }

    /// Whether something that began and ended then is on the axis.
    pub fn shows(&self, began: Timestamp, ended: Timestamp) -> bool {
        began <= self.end && ended >= self.start
    }

    /// Writes lines and labels at round times.
    pub fn write_ticks(&self, out: &mut String, bottom: u32) -> fmt::Result {
        let tick = self.range.tick();
        let first = self.start.as_second().div_euclid(tick) + 1;
        for number in first..=self.end.as_second().div_euclid(tick) {
            let Ok(at) = Timestamp::from_second(number * tick) else {
                continue;
            };
            let x = self.place(at) * 100.0;
            let anchor = if x < EDGE {
                " begin"
            } else if x > 100.0 - EDGE {
                " end"
            } else {
                ""
            };
            write!(
                out,
                "<line class=\"tick\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"16\" y2=\"{bottom}\"/>\
                 <text class=\"tick{anchor}\" x=\"{x:.2}%\" y=\"12\" data-at=\"{}\">{}</text>",
                at.as_second(),
                at.strftime("%H:%M")
            )?;
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_from_the_query() {
        for (query, expected) in [
            ("", None),
            ("range=1h", Some(Range::Hour)),
            ("x=1&range=24h", Some(Range::Day)),
            ("range=2h", None),
            ("range=6h&range=5m", Some(Range::FiveMinutes)),
        ] {
            assert_eq!(Range::of_query(query), expected, "{query:?}");
        }
    }

    #[test]
    fn ticks_are_at_round_times() {
        let end: Timestamp = "2026-01-02T03:04:30Z".parse().unwrap();
        let mut out = String::new();
        Axis::new(Range::Hour, end).write_ticks(&mut out, 50).unwrap();
        let labels: Vec<&str> = out
            .split("</text>")
            .filter_map(|part| part.rsplit('>').next())
            .collect();
        assert_eq!(labels[..6], ["02:10", "02:20", "02:30", "02:40", "02:50", "03:00"]);
    }

    #[test]
    fn labels_at_the_edges_stay_within_a_narrow_drawing() {
        // The last tick is at 95.3 %, which cut its label at 390 pixels; the first one at 15.3 %.
        let end: Timestamp = "2026-01-02T03:04:14Z".parse().unwrap();
        let mut out = String::new();
        Axis::new(Range::FiveMinutes, end).write_ticks(&mut out, 50).unwrap();
        assert!(out.contains("class=\"tick end\" x=\"95.33%\""), "{out}");
        assert!(out.contains("class=\"tick\" x=\"15.33%\""), "{out}");
    }
}
