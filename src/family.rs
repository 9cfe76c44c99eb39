//! A metric family as plain data: collectors build it, alerting rules read it, the exposition writes it. It knows
//! nothing of formats, files or clocks.

use smallvec::SmallVec;
use smol_str::SmolStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A string for names, helps and label values. Literals and short strings are stored inline, others are shared by all
/// clones, so that a string that stays the same costs no memory per sample.
#[derive(Clone, Eq, PartialOrd, Ord)]
pub struct SharedStr(SmolStr);

impl PartialEq for SharedStr {
    fn eq(&self, other: &SharedStr) -> bool {
        // Equal addresses need no comparison of bytes.
        let (one, other) = (self.0.as_bytes(), other.0.as_bytes());
        one.len() == other.len() && (one.as_ptr() == other.as_ptr() || one == other)
    }
}

impl Hash for SharedStr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl From<&'static str> for SharedStr {
    fn from(literal: &'static str) -> Self {
        SharedStr(SmolStr::new_static(literal))
    }
}

impl From<String> for SharedStr {
    fn from(text: String) -> Self {
        SharedStr(text.into())
    }
}

impl From<SmolStr> for SharedStr {
    fn from(text: SmolStr) -> Self {
        SharedStr(text)
    }
}

impl Deref for SharedStr {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for SharedStr {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq<str> for SharedStr {
    fn eq(&self, other: &str) -> bool {
        **self == *other
    }
}

impl PartialEq<&str> for SharedStr {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for SharedStr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self)
    }
}

impl fmt::Debug for SharedStr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

/// The type of a family, as `# TYPE` names it in the text format 0.0.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    Counter,
    Gauge,
    /// `untyped` in text 0.0.4, `unknown` in OpenMetrics.
    Untyped,
    Histogram,
    /// Series with the label `quantile`. The sums and counts are untyped families beside this one, with its name and
    /// `_sum` and `_count`.
    Summary,
}

/// No series has more labels.
pub const MAX_LABELS: usize = 64;

/// A label: name and value. The name is nearly always a literal.
pub type Label = (SharedStr, SharedStr);

/// The labels of a series. Most series have at most one, which needs no allocation.
pub type LabelSet = SmallVec<[Label; 1]>;

/// One series of a family at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    pub labels: &'a LabelSet,
    pub value: &'a SampleValue,
}

impl<'a> Point<'a> {
    /// The value of a label, if the series has it.
    pub fn label(self, name: &str) -> Option<&'a str> {
        let mut labels = self.labels.iter();
        labels.find(|(label, _)| label == name).map(|(_, value)| &**value)
    }

    /// The value, unless it is a histogram.
    pub fn number(self) -> Option<f64> {
        match self.value {
            SampleValue::Number(value) => Some(*value),
            SampleValue::Histogram(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum SampleValue {
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

/// The constant part of a family: name, help, kind, and the labels of its series.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    /// The full name that the text format 0.0.4 shows (`node_cpu_seconds_total`, with `_total`).
    pub name: SharedStr,
    pub help: SharedStr,
    pub kind: MetricKind,
    /// Labels of each series in the order of the exposition. Most families have one series.
    labels: SmallVec<[LabelSet; 1]>,
}

impl Descriptor {
    /// A descriptor of a family with one series without labels.
    pub fn single(name: impl Into<SharedStr>, help: impl Into<SharedStr>, kind: MetricKind) -> Arc<Descriptor> {
        Family::new(name, help, kind).value(0.0).descriptor
    }

    /// A family with this descriptor and a number per series.
    ///
    /// # Panics
    ///
    /// When the number of values differs from the number of series.
    pub fn family(self: &Arc<Self>, values: impl IntoIterator<Item = f64>) -> Family {
        let family = Family {
            descriptor: Arc::clone(self),
            values: values.into_iter().map(SampleValue::Number).collect(),
        };
        // A mismatch would put numbers beside the wrong series.
        assert_eq!(family.values.len(), self.labels.len(), "{}", self.name);
        family
    }
}

/// Descriptors of counters and gauges without labels, from name and help. The names of counters end in `_total`.
pub fn unlabelled_descriptors<const N: usize>(table: [(&'static str, &'static str); N]) -> [Arc<Descriptor>; N] {
    table.map(|(name, help)| Family::counter_or_gauge(name, help).value(0.0).descriptor)
}

/// Families of one series without labels each: a number per descriptor, in order. One without a number is left out.
pub fn unlabelled_families<'f>(
    descriptors: impl IntoIterator<Item = &'f Arc<Descriptor>>,
    values: impl IntoIterator<Item = Option<f64>>,
) -> Vec<Family> {
    let both = descriptors.into_iter().zip(values);
    both.filter_map(|(descriptor, value)| Some(descriptor.family([value?])))
        .collect()
}

/// A metric family at one moment. Successive samples share its descriptor, so that a comparison of addresses says
/// whether anything but numbers has changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    descriptor: Arc<Descriptor>,
    values: SmallVec<[SampleValue; 1]>,
}

impl Deref for Family {
    type Target = Descriptor;

    fn deref(&self) -> &Descriptor {
        &self.descriptor
    }
}

impl Family {
    pub fn new(name: impl Into<SharedStr>, help: impl Into<SharedStr>, kind: MetricKind) -> Self {
        let descriptor = Descriptor {
            name: name.into(),
            help: help.into(),
            kind,
            labels: SmallVec::new(),
        };
        Family {
            descriptor: Arc::new(descriptor),
            values: SmallVec::new(),
        }
    }

    pub fn counter(name: impl Into<SharedStr>, help: impl Into<SharedStr>) -> Self {
        Self::new(name, help, MetricKind::Counter)
    }

    pub fn gauge(name: impl Into<SharedStr>, help: impl Into<SharedStr>) -> Self {
        Self::new(name, help, MetricKind::Gauge)
    }

    /// A counter where the name ends in `_total`, else a gauge.
    pub fn counter_or_gauge(name: impl Into<SharedStr>, help: impl Into<SharedStr>) -> Self {
        let name = name.into();
        match name.ends_with("_total") {
            true => Self::counter(name, help),
            false => Self::gauge(name, help),
        }
    }

    /// The family with another help.
    pub fn with_help(mut self, help: impl Into<SharedStr>) -> Self {
        Arc::make_mut(&mut self.descriptor).help = help.into();
        self
    }

    /// Adds a series without labels.
    pub fn value(mut self, value: f64) -> Self {
        self.push([], value);
        self
    }

    /// Adds a series with labels, in the order of the exposition.
    pub fn push(&mut self, labels: impl IntoIterator<Item = Label>, value: f64) {
        self.push_value(labels, SampleValue::Number(value));
    }

    pub fn push_histogram(&mut self, labels: impl IntoIterator<Item = Label>, histogram: Histogram) {
        self.push_value(labels, SampleValue::Histogram(Box::new(histogram)));
    }

    pub fn push_value(&mut self, labels: impl IntoIterator<Item = Label>, value: SampleValue) {
        // A family under construction does not share its descriptor.
        Arc::make_mut(&mut self.descriptor)
            .labels
            .push(labels.into_iter().collect());
        self.values.push(value);
    }

    pub fn descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }

    /// The series with their values.
    pub fn points(&self) -> impl ExactSizeIterator<Item = Point<'_>> + Clone {
        let both = self.descriptor.labels.iter().zip(&self.values);
        both.map(|(labels, value)| Point { labels, value })
    }

    /// The series at `index`, which must exist.
    pub fn point(&self, index: usize) -> Point<'_> {
        Point {
            labels: &self.descriptor.labels[index],
            value: &self.values[index],
        }
    }

    /// The number of series.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// A pool of the descriptors of the last sample, which the next one shares.
#[derive(Debug, Default)]
pub struct DescriptorPool(Vec<Arc<Descriptor>>);

impl DescriptorPool {
    /// Lets families share the descriptors of the last sample, position by position, and stores new ones.
    pub fn share(&mut self, families: &mut [Family]) {
        self.0.truncate(families.len());
        for (index, family) in families.iter_mut().enumerate() {
            match self.0.get_mut(index) {
                Some(known) if Arc::ptr_eq(known, &family.descriptor) => {}
                Some(known) if **known == *family.descriptor => family.descriptor = Arc::clone(known),
                Some(known) => *known = Arc::clone(&family.descriptor),
                None => self.0.push(Arc::clone(&family.descriptor)),
            }
        }
    }
}

/// A cache of the descriptors of families whose series belong to things such as devices.
#[derive(Debug)]
pub struct DescriptorCache<T> {
    things: Vec<T>,
    descriptors: Vec<Arc<Descriptor>>,
}

impl<T> Default for DescriptorCache<T> {
    fn default() -> Self {
        DescriptorCache {
            things: Vec::new(),
            descriptors: Vec::new(),
        }
    }
}

impl<T: PartialEq> DescriptorCache<T> {
    /// The descriptors for these things. `make` is called only where the things differ from the last call.
    pub fn descriptors<F>(&mut self, things: Vec<T>, make: impl FnOnce(&[T]) -> F) -> &[Arc<Descriptor>]
    where
        F: IntoIterator<Item = Family>,
    {
        if self.descriptors.is_empty() || self.things != things {
            self.descriptors = make(&things).into_iter().map(|family| family.descriptor).collect();
            self.things = things;
        }
        &self.descriptors
    }
}

/// A label from a literal name and any value.
pub fn label(name: &'static str, value: impl Into<SharedStr>) -> Label {
    (name.into(), value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&'static str], value: f64) -> Family {
        let mut family = Family::gauge("disk", "A disk.");
        names.iter().for_each(|name| family.push([label("name", *name)], value));
        family
    }

    #[test]
    fn samples_share_unchanged_descriptors() {
        let mut descriptors = DescriptorPool::default();
        let mut shared = |mut families: Vec<Family>| {
            descriptors.share(&mut families);
            families
        };
        let before = shared(vec![disks(&["a"], 1.0), Family::gauge("b", "").value(1.0)]);
        let now = shared(vec![
            disks(&["a", "c"], 2.0),
            Family::gauge("b", "").value(2.0),
            disks(&[], 0.0),
        ]);
        let is_shared = |index: usize| Arc::ptr_eq(before[index].descriptor(), now[index].descriptor());
        assert_eq!([is_shared(0), is_shared(1)], [false, true]);
        assert_eq!(now[1], Family::gauge("b", "").value(2.0));
        assert_eq!(now[0], disks(&["a", "c"], 2.0));
        let later = shared(vec![disks(&["a", "c"], 3.0)]);
        assert!(Arc::ptr_eq(now[0].descriptor(), later[0].descriptor()));
        // The pool dropped the descriptor at the sample without it.
        let again = shared(vec![disks(&["a", "c"], 4.0), Family::gauge("b", "").value(4.0)]);
        assert!(!Arc::ptr_eq(now[1].descriptor(), again[1].descriptor()));
    }

    #[test]
    fn same_things_share_descriptors() {
        let mut cache = DescriptorCache::default();
        let mut made = 0;
        for (names, expected) in [
            (vec!["a"], 1),
            (vec!["a"], 1),
            (vec!["a", "b"], 2),
            (vec![], 3),
            (vec!["a"], 4),
        ] {
            let descriptors = cache.descriptors(names.clone(), |names| {
                made += 1;
                [disks(names, 0.0)]
            });
            assert_eq!(descriptors[0].family(names.iter().map(|_| 7.0)), disks(&names, 7.0));
            assert_eq!(made, expected, "{names:?}");
        }
    }

    #[test]
    fn adding_a_series_does_not_change_a_shared_descriptor() {
        let one = disks(&["a"], 1.0);
        let mut other = one.descriptor().family([2.0]);
        other.push([label("name", "b")], 3.0);
        assert_eq!((one.len(), other.len()), (1, 2));
        assert_eq!(
            other
                .points()
                .map(|point| point.labels[0].1.to_string())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
    }
}
