//! A metric family as plain data: what collectors yield, what the own evaluation reads, what exposition writes.
//! Knows nothing of formats, files or clocks.

use std::borrow::Cow;

/// The type of a family, as `# TYPE` names it in the text format 0.0.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Counter,
    Gauge,
    /// `untyped` in text 0.0.4, `unknown` in OpenMetrics.
    Untyped,
    Histogram,
}

/// A label: its name is nearly always a literal, its value nearly never.
pub type Label = (Cow<'static, str>, Cow<'static, str>);

/// One series of a family at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub labels: Vec<Label>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// Cumulative counts at upper bounds in ascending order; the bound `+Inf` is implied by `count`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

/// A family under the full name that the text format 0.0.4 shows (`node_cpu_seconds_total`, with `_total`).
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: Cow<'static, str>,
    pub help: Cow<'static, str>,
    pub kind: Kind,
    pub points: Vec<Point>,
}

impl Family {
    pub fn new(name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>, kind: Kind) -> Self {
        Family {
            name: name.into(),
            help: help.into(),
            kind,
            points: Vec::new(),
        }
    }

    pub fn counter(name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) -> Self {
        Self::new(name, help, Kind::Counter)
    }

    pub fn gauge(name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) -> Self {
        Self::new(name, help, Kind::Gauge)
    }

    /// Adds a series without labels.
    pub fn value(mut self, value: f64) -> Self {
        // Most families have one series, and a first `push` would make room for four.
        self.points.reserve_exact(1);
        self.points.push(Point {
            labels: Vec::new(),
            value: Value::Number(value),
        });
        self
    }

    /// Adds a series with labels, in the order in which they shall be written.
    pub fn push(&mut self, labels: Vec<Label>, value: f64) {
        self.points.push(Point {
            labels,
            value: Value::Number(value),
        });
    }

    pub fn push_histogram(&mut self, labels: Vec<Label>, histogram: Histogram) {
        self.points.push(Point {
            labels,
            value: Value::Histogram(histogram),
        });
    }
}

/// A label from a literal name and any value.
pub fn label(name: &'static str, value: impl Into<Cow<'static, str>>) -> Label {
    (Cow::Borrowed(name), value.into())
}
