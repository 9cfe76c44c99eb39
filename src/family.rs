//! A metric family as plain data: what collectors yield, what the own evaluation reads, what exposition writes.
//! Knows nothing of formats, files or clocks.

use smallvec::SmallVec;
use smol_str::SmolStr;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

/// A name, a help or a label's value. A literal and what is short stand in place, the rest is shared by all copies: what is
/// the same every second costs no memory every second.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(SmolStr);

impl From<&'static str> for Text {
    fn from(literal: &'static str) -> Self {
        Text(SmolStr::new_static(literal))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Text(text.into())
    }
}

impl From<SmolStr> for Text {
    fn from(text: SmolStr) -> Self {
        Text(text)
    }
}

impl From<Cow<'static, str>> for Text {
    fn from(text: Cow<'static, str>) -> Self {
        match text {
            Cow::Borrowed(literal) => literal.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

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
pub type Label = (Text, Text);

/// The labels of a series. Most have one at most, which takes no allocation.
pub type LabelSet = SmallVec<[Label; 1]>;

/// One series of a family at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub labels: LabelSet,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Histogram(Box<Histogram>),
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
    pub name: Text,
    pub help: Text,
    pub kind: Kind,
    /// Most families have one.
    pub points: SmallVec<[Point; 1]>,
}

impl Family {
    pub fn new(name: impl Into<Text>, help: impl Into<Text>, kind: Kind) -> Self {
        Family {
            name: name.into(),
            help: help.into(),
            kind,
            points: SmallVec::new(),
        }
    }

    pub fn counter(name: impl Into<Text>, help: impl Into<Text>) -> Self {
        Self::new(name, help, Kind::Counter)
    }

    pub fn gauge(name: impl Into<Text>, help: impl Into<Text>) -> Self {
        Self::new(name, help, Kind::Gauge)
    }

    /// Adds a series without labels.
    pub fn value(mut self, value: f64) -> Self {
        self.push([], value);
        self
    }

    /// Adds a series with labels, in the order in which they shall be written.
    pub fn push(&mut self, labels: impl IntoIterator<Item = Label>, value: f64) {
        self.points.push(Point {
            labels: labels.into_iter().collect(),
            value: Value::Number(value),
        });
    }

    pub fn push_histogram(&mut self, labels: impl IntoIterator<Item = Label>, histogram: Histogram) {
        self.points.push(Point {
            labels: labels.into_iter().collect(),
            value: Value::Histogram(Box::new(histogram)),
        });
    }
}

/// A label from a literal name and any value.
pub fn label(name: &'static str, value: impl Into<Text>) -> Label {
    (name.into(), value.into())
}
