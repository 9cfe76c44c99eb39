//! The lanes below the curves: bars of alerts, marks of events, bars of leases. Pure.

use super::axis::Axis;
use super::{LATE, text_at};
use crate::publish::page::html::EscapedText;
use crate::publish::page::story::{Meaning, anchor, lease_change, short_sentence};
use crate::publish::status::Status;
use crate::telemetry::{Episode, Event, LeaseStatus, MAX_ENDED};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// The shapes of marks, drawn around the origin.
pub const SHAPES: &str = "<defs><path id=\"applied\" d=\"M0-6 6 5H-6z\"/><path id=\"reverted\" d=\"M0 6 6-5H-6z\"/>\
    <path id=\"failed\" d=\"M-5-5 5 5M5-5-5 5\"/><circle id=\"held\" r=\"4\"/><path id=\"simulated\" d=\"M0-6 6 5H-6z\"/>\
    <path id=\"untouched\" d=\"M0 6 6-5H-6z\"/>\
    <path id=\"operator\" d=\"M0-6 6 0 0 6-6 0z\"/></defs>";

/// Heights in pixels: of a lane's heading, of a row of bars, and of a bar.
const HEADING: u32 = 18;
const ROW: u32 = 20;
const BAR: u32 = 15;

/// Rows of bars of one kind.
const MAX_ROWS: usize = 8;
/// Leases that have bars of their own. More are summed up by rule.
const MAX_LEASE_BARS: usize = 12;
/// Marks side by side. Events that are closer share one.
const MARKS: f64 = 80.0;
/// Marks closer to an edge of the axis than this share of it move inwards.
const EDGE: f64 = 0.02;
/// Events that the title of a mark lists.
const MAX_LISTED: usize = 6;
/// A title that is longer lists no further event, because a page may have many marks, and names may be long.
const MAX_TITLE_BYTES: usize = 120;
/// Bytes of the name of a process in a title.
const MAX_NAME_BYTES: usize = 40;

/// The share of the axis that a character of a label takes on a screen of medium width.
const CHARACTER: f64 = 0.009;

/// A bar from a beginning to an end, or to now.
struct Bar {
    start: f64,
    end: f64,
    is_open: bool,
    label: String,
    title: String,
    link: String,
}

/// Bars of one kind, packed into rows.
pub struct Bars {
    heading: &'static str,
    class: &'static str,
    rows: Vec<Vec<Bar>>,
    left_out: usize,
}

impl Bars {
    /// Packs bars into rows in which neither bars nor labels overlap.
    fn pack(heading: &'static str, class: &'static str, mut bars: Vec<Bar>) -> Bars {
        bars.sort_by(|one, other| one.start.total_cmp(&other.start));
        let (mut rows, mut left_out): (Vec<Vec<Bar>>, usize) = (Vec::new(), 0);
        for bar in bars {
            let (from, _) = bar.extent();
            let is_free = |row: &Vec<Bar>| row.last().is_none_or(|last| last.extent().1 + 0.005 <= from);
            match rows.iter().position(is_free) {
                Some(row) => rows[row].push(bar),
                None if rows.len() < MAX_ROWS => rows.push(vec![bar]),
                None => left_out += 1,
            }
        }
        Bars {
            heading,
            class,
            rows,
            left_out,
        }
    }

    pub fn height(&self) -> u32 {
        match self.rows.len() {
            0 => 0,
            rows => HEADING + ROW * u32::try_from(rows).unwrap_or(0) + 4,
        }
    }

    /// Writes a band behind the curves for each bar.
    pub fn write_bands(&self, out: &mut String, top: u32, bottom: u32) -> fmt::Result {
        write!(out, "<g class=\"bands\">")?;
        for bar in self.rows.iter().flatten() {
            let (x, width) = (bar.start * 100.0, ((bar.end - bar.start) * 100.0).max(0.2));
            write!(
                out,
                "<rect class=\"band\" x=\"{x:.2}%\" width=\"{width:.2}%\" y=\"{top}\" height=\"{}\"/>",
                bottom - top
            )?;
        }
        write!(out, "</g>")
    }

    pub fn write(&self, out: &mut String, top: u32) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let more = match self.left_out {
            0 => String::new(),
            more => format!(" ({more} more are not drawn)"),
        };
        writeln!(
            out,
            "<text class=\"lane\" x=\"0\" y=\"{}\">{}{more}</text>",
            top + 13,
            self.heading
        )?;
        for (number, row) in self.rows.iter().enumerate() {
            let y = top + HEADING + ROW * u32::try_from(number).unwrap_or(0);
            for bar in row {
                bar.write(out, self.class, y)?;
            }
        }
        Ok(())
    }
}

impl Bar {
    /// From where to where bar and label are. The label begins with the bar; late on the axis it ends with the bar, or
    /// before a bar that is too short for it.
    fn extent(&self) -> (f64, f64) {
        let label = self.label.chars().count() as f64 * CHARACTER;
        match (self.start > LATE, self.end - self.start >= label) {
            (false, _) => (self.start, self.end.max(self.start + label)),
            (true, true) => (self.start, self.end),
            (true, false) => (self.start - label, self.end),
        }
    }

    fn write(&self, out: &mut String, class: &str, y: u32) -> fmt::Result {
        let (x, width) = (self.start * 100.0, ((self.end - self.start) * 100.0).max(0.4));
        let open = if self.is_open { " open" } else { "" };
        write!(
            out,
            "<a href=\"{}\" aria-label=\"{label}; {title}\"><title>{title}</title>\
             <rect class=\"bar {class}{open}\" x=\"{x:.2}%\" width=\"{width:.2}%\" y=\"{y}\" height=\"{BAR}\" rx=\"2\"/>",
            self.link,
            label = EscapedText(&self.label),
            title = EscapedText(&self.title)
        )?;
        // Beside the edge of the bar, which is closer than 1 % on a narrow screen.
        let place = if self.extent().0 == self.start && self.start > LATE {
            self.end
        } else {
            self.start
        };
        text_at(out, "label", place, y + 12, &self.label)?;
        writeln!(out, "</a>")
    }
}

fn until_text(ended_at: Option<Timestamp>) -> String {
    ended_at.map_or("now".to_owned(), |ended_at| ended_at.strftime("%H:%M:%S").to_string())
}

/// The alerts of the axis, each once, whatever number of rules answer it.
pub fn alerts(status: &Status, axis: &Axis) -> Bars {
    let mut of_alert: BTreeMap<(&str, Timestamp), (Episode<'_>, Vec<&str>)> = BTreeMap::new();
    for episode in status.activity.episodes() {
        let alert = episode.alert;
        if !axis.shows(began(&episode), episode.ended_at.unwrap_or(axis.end)) {
            continue;
        }
        let key = (alert.fingerprint.as_str(), alert.since);
        let (known, rules) = of_alert.entry(key).or_insert((episode, Vec::new()));
        if episode.ended_at.is_none() || (known.ended_at.is_some() && known.ended_at < episode.ended_at) {
            known.ended_at = episode.ended_at;
        }
        rules.push(&alert.rule);
    }
    let bars = of_alert.into_values().map(|(episode, rules)| {
        let began = began(&episode);
        let word = if episode.ended_at.is_none() { "firing" } else { "fired" };
        Bar {
            start: axis.place(began),
            end: axis.place(episode.ended_at.unwrap_or(axis.end)),
            is_open: episode.ended_at.is_none(),
            label: shorten(&episode.alert.alertname),
            title: format!(
                "{} {word} from {} to {}; rules: {}",
                episode.alert.alertname,
                began.strftime("%H:%M:%S"),
                until_text(episode.ended_at),
                rules.join(", ")
            ),
            link: format!("episodes/{}", episode.alert.episode),
        }
    });
    Bars::pack("Alerts", "alert", bars.collect())
}

/// The start of the alert, unless its sender has a wrong clock.
fn began(episode: &Episode<'_>) -> Timestamp {
    episode.alert.since.min(episode.alert.opened_at)
}

fn shorten(text: &str) -> String {
    const MAX: usize = 32;
    match text.chars().count() > MAX {
        true => text.chars().take(MAX - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// The leases of the axis, from applied to undone; many are summed up by rule.
pub fn leases(status: &Status, axis: &Axis) -> Bars {
    let activity = &status.activity;
    let held = activity.leases.iter().map(|lease| (lease, None));
    let ended = activity
        .ended_leases
        .iter()
        .map(|ended| (&ended.lease, Some(ended.ended_at)));
    let shown: Vec<(&LeaseStatus, Option<Timestamp>)> = held
        .chain(ended)
        .filter(|(lease, ended_at)| axis.shows(lease.since, ended_at.unwrap_or(axis.end)))
        .collect();
    let bars = if shown.len() <= MAX_LEASE_BARS {
        let bar = |(lease, ended_at): &(&LeaseStatus, Option<Timestamp>)| {
            let pid = lease.pid.map_or(String::new(), |pid| format!("{pid} "));
            Bar {
                start: axis.place(lease.since),
                end: axis.place(ended_at.unwrap_or(axis.end)),
                is_open: ended_at.is_none(),
                label: shorten(&format!("{} {pid}{}", lease_change(lease), lease.process)),
                title: format!(
                    "lease {} on {pid}{}: {} from {} to {}; rule {}",
                    lease.id,
                    lease.process,
                    lease_change(lease),
                    lease.since.strftime("%H:%M:%S"),
                    until_text(*ended_at),
                    lease.rule
                ),
                link: match (ended_at, activity.episode_of_lease(lease)) {
                    (Some(_), Some(episode)) => format!("episodes/{}", episode.alert.episode),
                    (Some(_), None) => "#actions".to_owned(),
                    (None, _) => format!("#lease-{}", lease.id),
                },
            }
        };
        shown.iter().map(bar).collect()
    } else {
        summed_up(&shown, axis, activity.ended_leases.len() >= MAX_ENDED)
    };
    Bars::pack("Leases, from applied to undone", "lease", bars)
}

/// A bar for each rule. Where some may be forgotten, it says so.
fn summed_up(leases: &[(&LeaseStatus, Option<Timestamp>)], axis: &Axis, may_lack: bool) -> Vec<Bar> {
    let least = if may_lack { "at least " } else { "" };
    let mut of_rule: BTreeMap<&str, Vec<&(&LeaseStatus, Option<Timestamp>)>> = BTreeMap::new();
    for found in leases {
        of_rule.entry(&found.0.rule).or_default().push(found);
    }
    let bar = |(rule, leases): (&str, Vec<&(&LeaseStatus, Option<Timestamp>)>)| {
        let held = leases.iter().filter(|(_, ended_at)| ended_at.is_none()).count();
        let starts = leases.iter().map(|(lease, _)| axis.place(lease.since));
        let ends = leases
            .iter()
            .map(|(_, ended_at)| axis.place(ended_at.unwrap_or(axis.end)));
        let label = match leases.len() {
            all if all == held => format!("{least}{all} leases held: {rule}"),
            all => format!("{least}{all} leases, {held} held: {rule}"),
        };
        Bar {
            start: starts.fold(1.0, f64::min),
            end: ends.fold(0.0, f64::max),
            is_open: held > 0,
            title: format!(
                "rule {rule}: {least}{} leases in this time, {held} of them held",
                leases.len()
            ),
            label: shorten(&label),
            link: "#leases".to_owned(),
        }
    };
    of_rule.into_iter().map(bar).collect()
}

/// Events at one place.
struct Mark<'a> {
    place: f64,
    meaning: Meaning,
    events: Vec<&'a Event>,
    link: String,
}

pub struct Marks<'a>(Vec<Mark<'a>>);

/// The events of the axis. Those that are close to each other share a mark, with the shape of the weightiest one.
pub fn marks<'a>(status: &'a Status, axis: &Axis) -> Marks<'a> {
    let activity = &status.activity;
    let events = activity.actions.iter().chain(&activity.decisions);
    let mut of_place: BTreeMap<u32, Vec<&Event>> = BTreeMap::new();
    for event in events.filter(|event| axis.shows(event.at, event.at)) {
        if Meaning::of(event) != Meaning::Planned {
            let place = (axis.place(event.at) * MARKS) as u32;
            of_place.entry(place).or_default().push(event);
        }
    }
    let mark = |mut events: Vec<&'a Event>| {
        events.sort_by_key(|event| event.at);
        let weightiest = events.iter().max_by_key(|event| Meaning::of(event))?;
        let link = match activity.episode_of(weightiest) {
            Some(episode) => format!("episodes/{}#{}", episode.alert.episode, anchor(activity, weightiest)),
            None => "#actions".to_owned(),
        };
        Some(Mark {
            place: axis.place(weightiest.at),
            meaning: Meaning::of(weightiest),
            link,
            events,
        })
    };
    Marks(of_place.into_values().filter_map(mark).collect())
}

impl Marks<'_> {
    pub fn height(&self) -> u32 {
        if self.0.is_empty() { 0 } else { HEADING + ROW + 4 }
    }

    /// The places where something was changed, from left to right.
    pub fn changes(&self) -> Vec<(f64, Meaning)> {
        let acts = self.0.iter().filter(|mark| mark.meaning.is_act());
        acts.map(|mark| (mark.place, mark.meaning)).collect()
    }

    pub fn write(&self, out: &mut String, top: u32) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "<text class=\"lane\" x=\"0\" y=\"{}\">Decisions and actions</text>",
            top + 13
        )?;
        for mark in &self.0 {
            let mut title = String::new();
            for (listed, event) in mark.events.iter().enumerate() {
                if listed >= MAX_LISTED || title.len() > MAX_TITLE_BYTES {
                    write!(title, "; and {} more", mark.events.len() - listed)?;
                    break;
                }
                let separator = if title.is_empty() { "" } else { "; " };
                write!(
                    title,
                    "{separator}{} {}",
                    event.at.strftime("%H:%M:%S"),
                    short_sentence(event, MAX_NAME_BYTES)
                )?;
            }
            let class = mark.meaning.class();
            let edge = if mark.place < EDGE {
                " begin"
            } else if mark.place > 1.0 - EDGE {
                " end"
            } else {
                ""
            };
            writeln!(
                out,
                "<a href=\"{}\" aria-label=\"{title}\"><title>{title}</title><use class=\"mark {class}{edge}\" href=\"#{class}\" \
                 x=\"{:.2}%\" y=\"{}\"/></a>",
                mark.link,
                mark.place * 100.0,
                top + HEADING + ROW / 2
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(start: f64, end: f64) -> Bar {
        Bar {
            start,
            end,
            is_open: false,
            label: "ten chars.".to_owned(),
            title: String::new(),
            link: String::new(),
        }
    }

    #[test]
    fn every_meaning_has_a_shape() {
        for meaning in [
            Meaning::Planned,
            Meaning::NotDone,
            Meaning::Simulated,
            Meaning::NothingToRevert,
            Meaning::Operator,
            Meaning::Reverted,
            Meaning::Applied,
            Meaning::Failed,
        ] {
            assert!(SHAPES.contains(&format!("id=\"{}\"", meaning.class())), "{meaning:?}");
        }
    }

    #[test]
    fn marks_at_the_edges_move_inwards() {
        let marks = [0.0, 0.5, 1.0].map(|place| Mark {
            place,
            meaning: Meaning::Applied,
            events: Vec::new(),
            link: String::new(),
        });
        let mut out = String::new();
        Marks(marks.into()).write(&mut out, 0).unwrap();
        let classes: Vec<&str> = out
            .split("class=\"mark ")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(classes, ["applied begin", "applied", "applied end"]);
    }

    #[test]
    fn labels_lie_in_their_bar_or_beside_it() {
        for (start, end, from, to) in [
            (0.1, 0.5, 0.1, 0.5),
            (0.1, 0.12, 0.1, 0.19),
            (0.7, 0.9, 0.7, 0.9),
            (0.98, 1.0, 0.89, 1.0),
        ] {
            let extent = bar(start, end).extent();
            assert!(
                (extent.0 - from).abs() + (extent.1 - to).abs() < 1e-9,
                "{start} {end}: {extent:?}"
            );
        }
        // The label of the second one reaches back to the first one.
        let rows = |bars| Bars::pack("", "", bars).rows.len();
        assert_eq!(rows(vec![bar(0.85, 0.95), bar(0.97, 0.98)]), 2);
        assert_eq!(rows(vec![bar(0.1, 0.3), bar(0.97, 0.98)]), 1);
        let mut out = String::new();
        bar(0.98, 1.0).write(&mut out, "lease", 0).unwrap();
        assert!(out.contains("class=\"label end\" x=\"98.00%\""), "{out}");
    }
}
