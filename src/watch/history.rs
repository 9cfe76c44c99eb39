//! A bounded history of the series that rules read: each as far back as the rules read it, plus one sample. It is
//! independent of PromQL, and the caller passes the time.

use super::labels::{LabelSet, METRIC_NAME, Text, Texts};
use super::number;
pub use super::read_set::ReadSet;
use super::samples::Samples;
use crate::family::{Family, SampleValue};
use std::cmp::Ordering;
use std::collections::HashMap;

/// The NaN with which Prometheus marks the end of a series (its `model/value`).
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The value that ends a series.
pub fn stale() -> f64 {
    f64::from_bits(STALE_BITS)
}

/// Whether a value marks the end of a series, unlike an ordinary NaN.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// The source of a snapshot. Series that are missing in the next snapshot of the same source have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotSource(pub u16);

/// The source of series that rules write. They belong to no snapshot, and the evaluator ends them itself.
const RULES: SnapshotSource = SnapshotSource(u16::MAX);

/// One series and its samples.
#[derive(Debug)]
pub struct Series {
    labels: LabelSet,
    samples: Samples,
    source: SnapshotSource,
    round: u64,
    /// Whether the newest sample is an early one, which the next sample replaces.
    is_provisional: bool,
}

impl Series {
    pub fn labels(&self) -> &LabelSet {
        &self.labels
    }

    /// The newest sample not later than `at_ms`; a staleness marker counts as a sample.
    pub fn newest_until(&self, at_ms: i64) -> Option<(i64, f64)> {
        self.samples
            .count_until(at_ms)
            .checked_sub(1)
            .map(|index| self.samples.at(index))
    }

    /// Copies the samples after `after_ms` and not later than `until_ms` into `window`, without staleness markers.
    pub fn read_window(&self, after_ms: i64, until_ms: i64, window: &mut Vec<(i64, f64)>) {
        window.clear();
        let (from, to) = (self.samples.count_until(after_ms), self.samples.count_until(until_ms));
        self.samples.visit(from, to, |at_ms, value| {
            if !is_stale(value) {
                window.push((at_ms, value));
            }
        });
    }

    fn has_ended(&self) -> bool {
        self.samples.last().is_some_and(|(_, value)| is_stale(value))
    }

    fn push(&mut self, at_ms: i64, value: f64, keep_ms: i64, is_provisional: bool) {
        if std::mem::take(&mut self.is_provisional) {
            self.samples.pop();
        }
        // As in Prometheus, a sample for the same or an earlier time is dropped.
        if self.samples.last().is_none_or(|(last_ms, _)| last_ms < at_ms) {
            self.samples.push(at_ms, value);
            self.is_provisional = is_provisional;
            self.samples.forget_before(at_ms.saturating_sub(keep_ms));
        }
    }
}

#[derive(Debug)]
struct Metric {
    keep_ms: i64,
    /// Time of its first sample. `sources` stay when the metric has no more series.
    first_ms: i64,
    sources: Vec<SnapshotSource>,
    /// Sorted by labels, so that a lookup needs no index and results have a fixed order.
    series: Vec<Series>,
}

/// Series in memory, by metric name.
#[derive(Debug, Default)]
pub struct History {
    read_set: ReadSet,
    metrics: HashMap<Text, Metric>,
    texts: Texts,
    round: u64,
    is_early: bool,
}

/// What all samples of one snapshot have in common.
#[derive(Clone, Copy)]
struct SnapshotFacts<'a> {
    source: SnapshotSource,
    at_ms: i64,
    target: &'a [(Text, Text)],
}

impl History {
    pub fn new(read_set: ReadSet) -> Self {
        History {
            read_set,
            ..History::default()
        }
    }

    /// Replaces the read set, and drops metrics that it does not contain.
    pub fn set_read_set(&mut self, read_set: ReadSet) {
        self.metrics.retain(|name, metric| match read_set.keep_ms(name) {
            Some(keep_ms) => {
                metric.keep_ms = keep_ms;
                true
            }
            None => false,
        });
        self.read_set = read_set;
        self.texts.forget_unused();
    }

    /// Shifts all samples after a step of the wall clock, so that their distances stay.
    pub fn shift(&mut self, by_ms: i64) {
        for metric in self.metrics.values_mut() {
            metric.first_ms += by_ms;
            metric.series.iter_mut().for_each(|series| series.samples.shift(by_ms));
        }
    }

    /// Appends one snapshot of a source, adding the target's labels to every series. Marks series as ended that the
    /// source's previous snapshot had and this one lacks. Renames a label that clashes with one of the target to
    /// `exported_NAME`, as a scrape does. `at_ms` is Unix time in milliseconds and must not run backwards.
    pub fn append(&mut self, source: SnapshotSource, at_ms: i64, families: &[Family], target: &[(Text, Text)]) {
        let snapshot = SnapshotFacts { source, at_ms, target };
        self.round += 1;
        let mut derived = String::new();
        for family in families {
            if family
                .points()
                .all(|point| matches!(point.value, SampleValue::Number(_)))
            {
                self.append_numbers(snapshot, family);
            } else {
                for suffix in ["_bucket", "_sum", "_count"] {
                    derived.clear();
                    derived.push_str(&family.name);
                    derived.push_str(suffix);
                    if self.read_set.keep_ms(&derived).is_some() {
                        self.append_histograms(snapshot, family, &derived);
                    }
                }
            }
        }
        // An early snapshot has only a part of the series.
        if !self.is_early {
            self.end_missing(source, at_ms);
        }
    }

    /// Marks the following samples as early ones, until `false`. A series keeps an early sample only until its next
    /// sample, so that counts and averages over time have the weights of regular samples.
    pub fn set_early(&mut self, is_early: bool) {
        self.is_early = is_early;
    }

    /// Appends one sample of a series that a rule has written, if any rule reads its metric.
    pub fn record(&mut self, at_ms: i64, labels: &LabelSet, value: f64) {
        if let Some(keep_ms) = self.keep_ms(labels.metric_name()) {
            let pairs: Vec<(&str, &str)> = labels.iter().collect();
            self.write(RULES, at_ms, labels.metric_name(), keep_ms, &pairs, value);
        }
    }

    /// Whether any rule reads the metric.
    pub fn remembers(&self, metric_name: &str) -> bool {
        self.keep_ms(metric_name).is_some()
    }

    /// The series of one metric, sorted by labels.
    pub fn series(&self, metric_name: &str) -> &[Series] {
        self.metrics.get(metric_name).map_or(&[], |metric| &metric.series)
    }

    /// Time of the first sample of a metric since a rule reads it.
    pub fn first_ms(&self, metric_name: &str) -> Option<i64> {
        self.metrics.get(metric_name).map(|metric| metric.first_ms)
    }

    /// Every metric that had a sample since a rule reads it, with the sources that have written it.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &[SnapshotSource])> {
        self.metrics
            .iter()
            .map(|(name, metric)| (&**name, metric.sources.as_slice()))
    }

    /// The names of all metrics that have series, sorted.
    pub fn metric_names(&self) -> Vec<&str> {
        let with_series = self.metrics.iter().filter(|(_, metric)| !metric.series.is_empty());
        let mut names: Vec<&str> = with_series.map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names
    }

    /// Number of series and of samples.
    pub fn size(&self) -> (usize, usize) {
        let series = self.metrics.values().flat_map(|metric| &metric.series);
        series.fold((0, 0), |(series, samples), one| {
            (series + 1, samples + one.samples.len())
        })
    }

    fn keep_ms(&self, name: &str) -> Option<i64> {
        self.metrics
            .get(name)
            .map(|metric| metric.keep_ms)
            .or_else(|| self.read_set.keep_ms(name))
    }

    fn append_numbers(&mut self, snapshot: SnapshotFacts<'_>, family: &Family) {
        let Some(keep_ms) = self.keep_ms(&family.name) else {
            return;
        };
        for point in family.points() {
            let Some(value) = point.number() else { continue };
            let labels = point.labels.iter().map(|(name, value)| (&**name, &**value));
            self.write_point(snapshot, &family.name, keep_ms, labels, value);
        }
    }

    fn append_histograms(&mut self, snapshot: SnapshotFacts<'_>, family: &Family, name: &str) {
        let Some(keep_ms) = self.keep_ms(name) else { return };
        for point in family.points() {
            let SampleValue::Histogram(histogram) = point.value else {
                continue;
            };
            let labels: Vec<(&str, &str)> = point.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            let part = &name[family.name.len()..];
            if part == "_bucket" {
                let bounds = histogram.buckets.iter().map(|(bound, count)| (*bound, *count));
                for (bound, count) in bounds.chain([(f64::INFINITY, histogram.count)]) {
                    let bound = number::general(bound);
                    let labels = labels.iter().copied().chain([("le", bound.as_str())]);
                    self.write_point(snapshot, name, keep_ms, labels, count as f64);
                }
            } else {
                let value = if part == "_sum" {
                    histogram.sum
                } else {
                    histogram.count as f64
                };
                self.write_point(snapshot, name, keep_ms, labels.into_iter(), value);
            }
        }
    }

    fn write_point<'a>(
        &mut self,
        snapshot: SnapshotFacts<'_>,
        name: &str,
        keep_ms: i64,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        value: f64,
    ) {
        let SnapshotFacts { source, at_ms, target } = snapshot;
        let renamed: Vec<String>;
        let mut pairs: Vec<(&str, &str)> = labels.filter(|(_, value)| !value.is_empty()).collect();
        let clashes = |label: &str| target.iter().any(|(known, _)| &**known == label);
        if pairs.iter().any(|(label, _)| clashes(label)) {
            renamed = pairs.iter().map(|(label, _)| format!("exported_{label}")).collect();
            for (pair, renamed) in pairs.iter_mut().zip(&renamed).filter(|(pair, _)| clashes(pair.0)) {
                pair.0 = renamed;
            }
        }
        pairs.push((METRIC_NAME, name));
        pairs.extend(target.iter().map(|(label, value)| (&**label, &**value)));
        pairs.sort_unstable();
        self.write(source, at_ms, name, keep_ms, &pairs, value);
    }

    /// Appends one sample. `pairs` are all labels, sorted by name.
    fn write(
        &mut self,
        source: SnapshotSource,
        at_ms: i64,
        name: &str,
        keep_ms: i64,
        pairs: &[(&str, &str)],
        value: f64,
    ) {
        if !self.metrics.contains_key(name) {
            self.metrics.insert(
                self.texts.share(name),
                Metric {
                    keep_ms,
                    first_ms: at_ms,
                    sources: Vec::new(),
                    series: Vec::new(),
                },
            );
        }
        let Some(metric) = self.metrics.get_mut(name) else {
            return;
        };
        if source != RULES && !metric.sources.contains(&source) {
            metric.sources.push(source);
        }
        let index = metric
            .series
            .binary_search_by(|series| compare(&series.labels, pairs))
            .unwrap_or_else(|index| {
                let labels = pairs
                    .iter()
                    .map(|(name, value)| (self.texts.share(name), self.texts.share(value)))
                    .collect();
                let series = Series {
                    labels: LabelSet::new(labels),
                    samples: Samples::default(),
                    source,
                    round: self.round,
                    is_provisional: false,
                };
                metric.series.insert(index, series);
                index
            });
        let series = &mut metric.series[index];
        (series.source, series.round) = (source, self.round);
        series.push(at_ms, value, keep_ms, self.is_early);
    }

    fn end_missing(&mut self, source: SnapshotSource, at_ms: i64) {
        let mut forgotten = false;
        for metric in self.metrics.values_mut() {
            let keep_ms = metric.keep_ms;
            for series in &mut metric.series {
                if series.source == source && series.round != self.round && !series.has_ended() {
                    series.push(at_ms, stale(), keep_ms, false);
                }
            }
            let before = metric.series.len();
            let horizon_ms = at_ms.saturating_sub(keep_ms);
            let is_past = |series: &Series| series.samples.last().is_none_or(|(last_ms, _)| last_ms < horizon_ms);
            metric.series.retain(|series| !(series.has_ended() && is_past(series)));
            forgotten |= metric.series.len() < before;
        }
        if forgotten {
            // A metric that is read by name keeps its sources.
            let read_set = &self.read_set;
            self.metrics
                .retain(|name, metric| !metric.series.is_empty() || read_set.is_named(name));
            self.texts.forget_unused();
        }
    }
}

fn compare(labels: &LabelSet, pairs: &[(&str, &str)]) -> Ordering {
    labels.iter().cmp(pairs.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::super::promql::Matcher;
    use super::*;
    use crate::family::{Histogram, MetricKind, label};

    fn read_set(wanted: &[(&str, i64)]) -> ReadSet {
        let mut read_set = ReadSet::default();
        for (name, keep_ms) in wanted {
            read_set.add(&[Matcher::equal(METRIC_NAME, name)], *keep_ms);
        }
        read_set
    }

    fn gauge(name: &'static str, devices: &[&'static str], value: f64) -> Family {
        let mut family = Family::gauge(name, "");
        for device in devices {
            family.push([label("device", *device)], value);
        }
        family
    }

    fn samples(history: &History, name: &str, index: usize) -> Vec<(i64, f64)> {
        let series = &history.series(name)[index].samples;
        let mut all = Vec::new();
        series.visit(0, series.len(), |at_ms, value| all.push((at_ms, value)));
        all
    }

    #[test]
    fn only_named_metrics_are_kept_and_only_as_long_as_asked() {
        let mut history = History::new(read_set(&[("a", 3000), ("b", 0)]));
        for second in 0..10 {
            let families = [
                gauge("a", &["x"], 1.0),
                gauge("b", &["x"], 1.0),
                gauge("c", &["x"], 1.0),
            ];
            history.append(SnapshotSource(0), second * 1000, &families, &[]);
        }
        assert_eq!(
            samples(&history, "a", 0),
            [(6000, 1.0), (7000, 1.0), (8000, 1.0), (9000, 1.0)]
        );
        assert_eq!(samples(&history, "b", 0), [(9000, 1.0)]);
        assert_eq!(history.size(), (2, 5));
    }

    #[test]
    fn a_series_that_vanishes_is_ended_once_and_forgotten_later() {
        let mut history = History::new(read_set(&[("a", 2000)]));
        history.append(SnapshotSource(0), 1000, &[gauge("a", &["x", "y"], 1.0)], &[]);
        history.append(SnapshotSource(1), 1500, &[], &[]);
        history.append(SnapshotSource(0), 2000, &[gauge("a", &["y"], 1.0)], &[]);
        history.append(SnapshotSource(0), 3000, &[gauge("a", &["y"], 1.0)], &[]);
        let ended = samples(&history, "a", 0);
        assert_eq!(
            (ended[0], ended[1].0, is_stale(ended[1].1), ended.len()),
            ((1000, 1.0), 2000, true, 2)
        );
        history.append(SnapshotSource(0), 4001, &[gauge("a", &["y"], 1.0)], &[]);
        assert_eq!(history.series("a").len(), 1);
    }

    #[test]
    fn publisher_of_a_named_metric_stays_known() {
        let mut read_set = read_set(&[("a", 0)]);
        read_set.add(&[], 0);
        let mut history = History::new(read_set);
        let both = [gauge("a", &["x"], 1.0), gauge("b", &["x"], 1.0)];
        history.append(SnapshotSource(3), 1000, &both, &[]);
        history.append(SnapshotSource(3), 2000, &[], &[]);
        history.append(SnapshotSource(3), 3000, &[], &[]);
        assert_eq!(history.metric_names(), [""; 0]);
        let sources: Vec<(&str, &[SnapshotSource])> = history.sources().collect();
        assert_eq!(sources, [("a", &[SnapshotSource(3)][..])]);
        assert_eq!(history.first_ms("a"), Some(1000));
    }

    #[test]
    fn a_shift_moves_samples_and_keeps_their_distance() {
        let mut history = History::new(read_set(&[("a", 5000)]));
        for at_ms in [1000, 2000] {
            history.append(SnapshotSource(0), at_ms, &[gauge("a", &["x"], 1.0)], &[]);
        }
        history.shift(-3_600_000);
        history.append(SnapshotSource(0), 3000 - 3_600_000, &[gauge("a", &["x"], 2.0)], &[]);
        let expected = [1000, 2000, 3000].map(|at_ms| at_ms - 3_600_000);
        let found: Vec<i64> = samples(&history, "a", 0).iter().map(|(at_ms, _)| *at_ms).collect();
        assert_eq!(found, expected);
        assert_eq!(history.first_ms("a"), Some(expected[0]));
    }

    #[test]
    fn labels_of_the_target_win_and_the_clashing_one_is_kept_aside() {
        let mut history = History::new(read_set(&[("a", 0)]));
        let mut family = Family::gauge("a", "");
        family.push([label("zone", "z"), label("job", "own")], 1.0);
        history.append(SnapshotSource(0), 0, &[family], &[("job".into(), "node".into())]);
        assert_eq!(
            history.series("a")[0].labels().to_string(),
            r#"a{exported_job="own", job="node", zone="z"}"#
        );
    }

    #[test]
    fn histograms_are_remembered_by_their_parts() {
        let mut history = History::new(read_set(&[("h_bucket", 0), ("h_count", 0)]));
        let mut family = Family::new("h", "", MetricKind::Histogram);
        family.push_histogram(
            vec![],
            Histogram {
                buckets: vec![(0.5, 1), (1.0, 3)],
                sum: 2.0,
                count: 4,
            },
        );
        history.append(SnapshotSource(0), 0, &[family], &[]);
        let bounds: Vec<&str> = history
            .series("h_bucket")
            .iter()
            .map(|series| series.labels().get("le"))
            .collect();
        assert_eq!(bounds, ["+Inf", "0.5", "1"]);
        assert_eq!(samples(&history, "h_count", 0), [(0, 4.0)]);
        assert!(history.series("h_sum").is_empty());
    }
}
