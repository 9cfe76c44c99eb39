//! OpenMetrics 1.0.0, written by `prometheus-client`.

use super::{Content, escape, exact_integer, finite_buckets, is_withheld};
use crate::family::{Histogram, LabelSet, MetricKind, Point, SampleValue, SharedStr};
use crate::publish::negotiation::Format;
use crate::publish::normalize::{NormalizedFamily, normalize};
use crate::watch::number;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelKey, EncodeLabelValue, LabelKeyEncoder, LabelValueEncoder, MetricEncoder, NoLabelSet,
    text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use rustc_hash::FxHashMap;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Encodes a content.
pub fn write(content: Arc<Content>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(content));
    let mut out = String::with_capacity(128 << 10);
    text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Collector for Content {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for_each_in_openmetrics(self, |family, name, kind| {
            let help = escape(family.help, true);
            let mut metric = encoder.encode_descriptor(name, &help, None, kind)?;
            for point in family.points {
                // A counter written as `unknown` may have any value.
                if matches!(kind, MetricType::Counter) && is_withheld(*point, family.kind, Format::OpenMetrics) {
                    continue;
                }
                if family.kind == MetricKind::Summary {
                    let labels = with_canonical_quantile(point.labels);
                    encode_point(
                        &mut metric,
                        &Point {
                            labels: &labels,
                            ..*point
                        },
                        kind,
                    )?;
                } else {
                    encode_point(&mut metric, point, kind)?;
                }
            }
            Ok(())
        })
    }
}

/// Visits the families of OpenMetrics in order, each with its name and type there.
pub fn for_each_in_openmetrics(
    content: &Content,
    mut visit: impl FnMut(&NormalizedFamily, &str, MetricType) -> fmt::Result,
) -> fmt::Result {
    let mut reserved = ReservedNames::default();
    for family in normalize(content.families(), &content.order).iter() {
        if let Some((name, kind)) = reserved.take(family.name, family.kind) {
            visit(&family, name, kind)?;
        }
    }
    Ok(())
}

/// Suffixes that OpenMetrics appends to the names of counters and histograms.
const SUFFIXES: [&str; 5] = ["_total", "_created", "_bucket", "_count", "_sum"];

/// The names of families already written, each with the suffixes of its samples: a family must not have the name of a
/// sample of another family.
#[derive(Default)]
struct ReservedNames<'a> {
    taken: FxHashMap<&'a str, &'static [&'static str]>,
    scratch: String,
}

impl<'a> ReservedNames<'a> {
    /// Name and type under which a family is written. A counter loses `_total`, which the encoder adds again. A counter
    /// of node_exporter without `_total`, or whose bare name is taken, is `unknown`, so that its series keep their
    /// name.
    fn take(&mut self, name: &'a str, kind: MetricKind) -> Option<(&'a str, MetricType)> {
        let typed = match kind {
            MetricKind::Counter => name
                .strip_suffix("_total")
                .filter(|bare| !bare.is_empty())
                .map(|bare| (bare, MetricType::Counter, &SUFFIXES[..2])),
            MetricKind::Gauge => Some((name, MetricType::Gauge, &[][..])),
            // The encoder knows no summaries.
            MetricKind::Untyped | MetricKind::Summary => None,
            MetricKind::Histogram => Some((name, MetricType::Histogram, &SUFFIXES[1..])),
        };
        let unknown = (kind != MetricKind::Histogram).then_some((name, MetricType::Unknown, &[][..]));
        let (name, kind, suffixes) = [typed, unknown]
            .into_iter()
            .flatten()
            .find(|(name, _, suffixes)| self.is_free(name, suffixes))?;
        self.taken.insert(name, suffixes);
        Some((name, kind))
    }

    /// Whether the name is that of no family and of no sample, and no sample of this family has the name of a family.
    fn is_free(&mut self, name: &str, suffixes: &[&str]) -> bool {
        let is_sample_of_another = |suffix: &&str| {
            let whose = name.strip_suffix(suffix).and_then(|bare| self.taken.get(bare));
            whose.is_some_and(|theirs| theirs.contains(suffix))
        };
        if self.taken.contains_key(name) || SUFFIXES.iter().any(is_sample_of_another) {
            return false;
        }
        suffixes.iter().all(|suffix| {
            self.scratch.clear();
            self.scratch.extend([name, suffix]);
            !self.taken.contains_key(self.scratch.as_str())
        })
    }
}

impl EncodeLabelKey for SharedStr {
    fn encode(&self, encoder: &mut LabelKeyEncoder) -> fmt::Result {
        encoder.write_str(self)
    }
}

impl EncodeLabelValue for SharedStr {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> fmt::Result {
        EncodeLabelValue::encode(&&**self, encoder)
    }
}

/// The labels with a quantile as Prometheus 3 stores it, which OpenMetrics asks for: `1.0`, not `1`.
fn with_canonical_quantile(labels: &LabelSet) -> LabelSet {
    let labels = labels.iter().map(|(name, value)| match quantile(name, value) {
        Some(quantile) => {
            let text = number::general(quantile);
            let is_integer = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            (
                name.clone(),
                SharedStr::from(if is_integer { text + ".0" } else { text }),
            )
        }
        None => (name.clone(), value.clone()),
    });
    labels.collect()
}

/// The number in the label of a summary.
fn quantile(label: &str, value: &str) -> Option<f64> {
    (label == "quantile").then(|| value.parse().ok()).flatten()
}

fn encode_point(metric: &mut MetricEncoder, point: &Point, kind: MetricType) -> fmt::Result {
    if point.labels.is_empty() {
        encode_value(metric, point.value, kind)
    } else {
        encode_value(&mut metric.encode_family(&&point.labels[..])?, point.value, kind)
    }
}

fn encode_value(metric: &mut MetricEncoder, value: &SampleValue, kind: MetricType) -> fmt::Result {
    match value {
        SampleValue::Histogram(histogram) => {
            metric.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count, &separate(histogram), None)
        }
        SampleValue::Number(value) => match (kind, exact_integer(*value)) {
            (MetricType::Counter, Some(value)) => {
                metric.encode_counter::<NoLabelSet, _, f64>(&value.unsigned_abs(), None)
            }
            (MetricType::Counter, None) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
            (_, Some(value)) => metric.encode_gauge(&value),
            (_, None) => metric.encode_gauge(value),
        },
    }
}

/// Buckets as `prometheus-client` expects them: not cumulative, and with the bound +Inf.
fn separate(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut below = 0;
    finite_buckets(histogram)
        .chain([(f64::INFINITY, histogram.count)])
        .map(|(bound, count)| {
            let own = count.saturating_sub(below);
            below = below.max(count);
            (bound, own)
        })
        .collect()
}
