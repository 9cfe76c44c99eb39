//! The exposition of families as text: OpenMetrics 1.0.0 through `prometheus-client`, and Prometheus' text format
//! 0.0.4.

use super::negotiation::Format;
use super::normalize::{FamilyOrder, NormalizedFamily, normalize};
use crate::family::{Family, Histogram, LabelSet, MetricKind, Point, SampleValue, SharedStr};
use crate::sense::CollectorReading;
use crate::watch::number;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelKey, EncodeLabelValue, LabelKeyEncoder, LabelValueEncoder, MetricEncoder, NoLabelSet,
    text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Integers up to here are exact in a double, and are shorter and cheaper to write as integers.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;

/// The content of one response.
#[derive(Debug, Default)]
pub struct Content {
    pub readings: Vec<Arc<CollectorReading>>,
    pub derived: Arc<Vec<Family>>,
    pub own: Vec<Family>,
    /// Shared by successive responses.
    pub order: Arc<FamilyOrder>,
}

impl Content {
    pub(super) fn families(&self) -> impl Iterator<Item = &Family> {
        self.readings
            .iter()
            .flat_map(|reading| &reading.families)
            .chain(self.derived.iter())
            .chain(&self.own)
    }
}

/// Encodes a content as text.
///
/// # Errors
///
/// When the encoder of `prometheus-client` fails, for which there is no known case after normalization.
pub fn write(content: &Arc<Content>, format: Format) -> Result<String, fmt::Error> {
    match format {
        Format::OpenMetrics => openmetrics(Arc::clone(content)),
        Format::Text => text(content),
    }
}

/// The values of a text in its order, to be compared by address. `None` if a value was withheld.
pub(super) fn written(content: &Content, format: Format) -> Option<Vec<*const SampleValue>> {
    let mut points = Vec::new();
    let mut is_complete = true;
    let mut note = |family: &NormalizedFamily| {
        let withheld = |point: &Point| is_withheld(*point, family.kind, format);
        is_complete &= !family.points.iter().any(withheld);
        points.extend(family.points.iter().map(|point| std::ptr::from_ref(point.value)));
        Ok(())
    };
    match format {
        Format::OpenMetrics => for_each_in_openmetrics(content, |family, _, _| note(family)),
        Format::Text => for_each_in_text(content, |family, _| note(family)),
    }
    .ok()?;
    is_complete.then_some(points)
}

/// Whether OpenMetrics forbids the value: a counter must be neither NaN nor negative.
pub(super) fn is_withheld(point: Point, kind: MetricKind, format: Format) -> bool {
    let is_wrong = |value: f64| value.is_nan() || value < 0.0;
    let is_wrong = matches!(*point.value, SampleValue::Number(value) if is_wrong(value));
    format == Format::OpenMetrics && kind == MetricKind::Counter && is_wrong
}

/// Encodes OpenMetrics 1.0.0.
fn openmetrics(content: Arc<Content>) -> Result<String, fmt::Error> {
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
fn for_each_in_openmetrics(
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

fn exact_integer(value: f64) -> Option<i64> {
    // -0.0 loses its sign, which has no meaning here.
    (value.fract() == 0.0 && value.abs() <= MAX_EXACT_INTEGER).then_some(value as i64)
}

/// Escapes help text to one line. Quotes are escaped in OpenMetrics only.
fn escape(text: &str, quotes: bool) -> Cow<'_, str> {
    if memchr::memchr3(b'\\', b'\n', b'"', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes => escaped.push_str("\\\""),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Encodes Prometheus' text format 0.0.4.
fn text(content: &Content) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(128 << 10);
    for_each_in_text(content, |family, is_part| write_family(&mut out, family, is_part))?;
    Ok(out)
}

/// Visits the families of the text format in order. Sums and counts of a summary come behind its quantiles, without a
/// head of their own, which is what `true` says.
fn for_each_in_text(content: &Content, mut visit: impl FnMut(&NormalizedFamily, bool) -> fmt::Result) -> fmt::Result {
    let normalized = normalize(content.families(), &content.order);
    // Sorted, as the families are.
    let names = |kind| {
        let families = normalized.iter().filter(move |family| family.kind == kind);
        families.map(|family| family.name).collect::<Vec<_>>()
    };
    let (histograms, summaries) = (names(MetricKind::Histogram), names(MetricKind::Summary));
    for family in normalized.iter() {
        let is_sample = |names: &[&str], suffixes: &[&str]| {
            let mut owners = suffixes.iter().filter_map(|suffix| family.name.strip_suffix(suffix));
            owners.any(|owner| names.binary_search(&owner).is_ok())
        };
        // A histogram's samples must not collide with a family of their own. Those of a summary are written with it.
        if is_sample(&histograms, &["_bucket", "_count", "_sum"]) || is_sample(&summaries, &["_count", "_sum"]) {
            continue;
        }
        visit(&family, false)?;
        if family.kind == MetricKind::Summary {
            for suffix in ["_sum", "_count"] {
                if let Some(part) = normalized.get(&[family.name, suffix].concat()) {
                    visit(&part, true)?;
                }
            }
        }
    }
    Ok(())
}

/// The number of numbers that a value has in a text.
pub(super) fn numbers_of(value: &SampleValue) -> usize {
    match value {
        SampleValue::Number(_) => 1,
        // Buckets, the bound +Inf, sum and count.
        SampleValue::Histogram(histogram) => finite_buckets(histogram).count() + 3,
    }
}

/// Writes one of them as the encoder of this format writes it.
pub(super) fn write_number_of(out: &mut String, value: &SampleValue, index: usize, format: Format) -> fmt::Result {
    let histogram = match value {
        SampleValue::Number(value) => return write_value(out, *value, format),
        SampleValue::Histogram(histogram) => histogram,
    };
    let finite = finite_buckets(histogram).count();
    let (sum, count, first_bucket) = match format {
        Format::OpenMetrics => (0, 1, 2),
        Format::Text => (finite + 1, finite + 2, 0),
    };
    let bucket = index.wrapping_sub(first_bucket);
    let below = || finite_buckets(histogram).map(|(_, count)| count).take(bucket + 1);
    match format {
        Format::OpenMetrics if index == sum => out.write_str(dtoa::Buffer::new().format(histogram.sum)),
        Format::Text if index == sum => write_number(out, histogram.sum),
        Format::OpenMetrics if index == count => out.write_str(itoa::Buffer::new().format(histogram.count)),
        Format::OpenMetrics => {
            let last = (bucket == finite).then_some(histogram.count);
            let most = below().chain(last).max().unwrap_or(0);
            out.write_str(itoa::Buffer::new().format(most))
        }
        Format::Text if index == count || bucket == finite => write_number(out, histogram.count as f64),
        Format::Text => write_number(out, below().last().unwrap_or(0) as f64),
    }
}

/// Writes a value as [`encode_value`] and [`write_sample`] do.
fn write_value(out: &mut String, value: f64, format: Format) -> fmt::Result {
    match (format, exact_integer(value)) {
        (_, Some(integer)) => out.write_str(itoa::Buffer::new().format(integer)),
        (Format::OpenMetrics, None) => out.write_str(dtoa::Buffer::new().format(value)),
        (Format::Text, None) => write_number(out, value),
    }
}

fn finite_buckets(histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> {
    histogram.buckets.iter().copied().filter(|(bound, _)| bound.is_finite())
}

/// Writes a family; a part of a summary has no head of its own.
fn write_family(out: &mut String, family: &NormalizedFamily, is_part: bool) -> fmt::Result {
    let name = family.name;
    let kind = match family.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Untyped => "untyped",
        MetricKind::Histogram => "histogram",
        MetricKind::Summary => "summary",
    };
    if !family.help.is_empty() && !is_part {
        writeln!(out, "# HELP {name} {}", escape(family.help, false))?;
    }
    if !is_part {
        writeln!(out, "# TYPE {name} {kind}")?;
    }
    for point in family.points {
        match point.value {
            SampleValue::Number(value) => write_sample(out, name, "", point, None, *value)?,
            SampleValue::Histogram(histogram) => {
                for (bound, count) in finite_buckets(histogram) {
                    write_sample(out, name, "_bucket", point, Some(bound), count as f64)?;
                }
                write_sample(out, name, "_bucket", point, Some(f64::INFINITY), histogram.count as f64)?;
                write_sample(out, name, "_sum", point, None, histogram.sum)?;
                write_sample(out, name, "_count", point, None, histogram.count as f64)?;
            }
        }
    }
    Ok(())
}

fn write_sample(out: &mut String, name: &str, suffix: &str, point: &Point, le: Option<f64>, value: f64) -> fmt::Result {
    out.push_str(name);
    out.push_str(suffix);
    let mut separator = '{';
    for (label, text) in point.labels {
        out.push(separator);
        separator = ',';
        out.push_str(label);
        out.push_str("=\"");
        out.push_str(&escape(text, true));
        out.push('"');
    }
    if let Some(bound) = le {
        out.push(separator);
        separator = ',';
        out.push_str("le=\"");
        // As node_exporter writes it. OpenMetrics wants `1.0` for `1`, which Prometheus 3 makes of both.
        out.push_str(&number::general(bound));
        out.push('"');
    }
    if separator == ',' {
        out.push('}');
    }
    out.push(' ');
    write_number(out, value)?;
    out.push('\n');
    Ok(())
}

fn write_number(out: &mut String, value: f64) -> fmt::Result {
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
        return Ok(());
    }
    match exact_integer(value) {
        Some(integer) => out.write_str(itoa::Buffer::new().format(integer)),
        // Rust writes all places of a number: 1e-300 would be 302 characters.
        None if !(1e-6..1e17).contains(&value.abs()) && !value.is_nan() => write!(out, "{value:e}"),
        None => write!(out, "{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::label;

    fn both(families: Vec<Family>) -> (String, String) {
        let content = Arc::new(Content {
            own: families,
            ..Content::default()
        });
        let [openmetrics, text] = [Format::OpenMetrics, Format::Text].map(|format| write(&content, format).unwrap());
        (openmetrics, text)
    }

    fn check(families: Vec<Family>, expected_openmetrics: &str, expected_text: &str) {
        let (openmetrics, text) = both(families);
        assert_eq!(openmetrics, format!("{expected_openmetrics}# EOF\n"));
        assert_eq!(text, expected_text);
    }

    #[test]
    fn counters_keep_their_names_in_both_formats() {
        check(
            vec![
                Family::counter("a_total", "A.").value(2.5),
                Family::counter("node_vmstat_pgfault", "B.").value(3.0),
            ],
            "# HELP a A.\n# TYPE a counter\na_total 2.5\n\
             # HELP node_vmstat_pgfault B.\n# TYPE node_vmstat_pgfault unknown\nnode_vmstat_pgfault 3\n",
            "# HELP a_total A.\n# TYPE a_total counter\na_total 2.5\n\
             # HELP node_vmstat_pgfault B.\n# TYPE node_vmstat_pgfault counter\nnode_vmstat_pgfault 3\n",
        );
    }

    #[test]
    fn clashing_names_become_unknown_or_are_left_out() {
        let (openmetrics, _) = both(vec![
            Family::gauge("a", "").value(1.0),
            Family::counter("a_total", "").value(2.0),
            Family::counter("b_total", "").value(3.0),
            Family::gauge("b_created", "").value(4.0),
            Family::counter("c_total", "").value(-1.0),
        ]);
        for line in [
            "# TYPE a gauge\n",
            "# TYPE a_total unknown\n",
            "\na_total 2\n",
            "# TYPE b_total unknown\n",
            "\nb_total 3\n",
            "\nb_created 4\n",
        ] {
            assert!(openmetrics.contains(line), "{line:?} in {openmetrics}");
        }
        assert!(!openmetrics.contains("-1"), "{openmetrics}");
    }

    #[test]
    fn names_from_outside_are_escaped() {
        let mut family = Family::gauge("a", "Back\\slash \"quoted\"\nnew line");
        family.push([label("path", "x\"y\\z\nw")], 1.0);
        check(
            vec![family],
            "# HELP a Back\\\\slash \\\"quoted\\\"\\nnew line\n# TYPE a gauge\na{path=\"x\\\"y\\\\z\\nw\"} 1\n",
            "# HELP a Back\\\\slash \"quoted\"\\nnew line\n# TYPE a gauge\na{path=\"x\\\"y\\\\z\\nw\"} 1\n",
        );
    }

    #[test]
    fn histograms_are_cumulative_and_end_at_infinity() {
        let mut family = Family::new("h", "H.", MetricKind::Histogram);
        family.push_histogram(
            vec![label("l", "v")],
            Histogram {
                buckets: vec![(0.5, 1), (1.0, 3)],
                sum: 7.25,
                count: 4,
            },
        );
        check(
            vec![family],
            "# HELP h H.\n# TYPE h histogram\nh_sum{l=\"v\"} 7.25\nh_count{l=\"v\"} 4\n\
             h_bucket{le=\"0.5\",l=\"v\"} 1\nh_bucket{le=\"1.0\",l=\"v\"} 3\nh_bucket{le=\"+Inf\",l=\"v\"} 4\n",
            "# HELP h H.\n# TYPE h histogram\nh_bucket{l=\"v\",le=\"0.5\"} 1\nh_bucket{l=\"v\",le=\"1\"} 3\n\
             h_bucket{l=\"v\",le=\"+Inf\"} 4\nh_sum{l=\"v\"} 7.25\nh_count{l=\"v\"} 4\n",
        );
    }

    #[test]
    fn summary_is_one_block_in_text_and_unknown_in_openmetrics() {
        let mut quantiles = Family::new("s", "S.", MetricKind::Summary);
        quantiles.push([label("l", "v"), label("quantile", "0.5")], 2.5);
        quantiles.push([label("l", "v"), label("quantile", "1")], 3.0);
        let mut sums = Family::new("s_sum", "S.", MetricKind::Untyped);
        sums.push([label("l", "v")], 7.5);
        let mut counts = Family::new("s_count", "S.", MetricKind::Untyped);
        counts.push([label("l", "v")], 4.0);
        check(
            vec![counts, quantiles, sums, Family::gauge("s_a", "A.").value(1.0)],
            "# HELP s S.\n# TYPE s unknown\ns{l=\"v\",quantile=\"0.5\"} 2.5\ns{l=\"v\",quantile=\"1.0\"} 3\n\
             # HELP s_a A.\n# TYPE s_a gauge\ns_a 1\n# HELP s_count S.\n# TYPE s_count unknown\ns_count{l=\"v\"} 4\n\
             # HELP s_sum S.\n# TYPE s_sum unknown\ns_sum{l=\"v\"} 7.5\n",
            "# HELP s S.\n# TYPE s summary\ns{l=\"v\",quantile=\"0.5\"} 2.5\ns{l=\"v\",quantile=\"1\"} 3\n\
             s_sum{l=\"v\"} 7.5\ns_count{l=\"v\"} 4\n# HELP s_a A.\n# TYPE s_a gauge\ns_a 1\n",
        );
    }

    #[test]
    fn numbers_are_short_and_exact() {
        for (value, expected) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1e300, "1e300"),
            (1.5e-9, "1.5e-9"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (9_007_199_254_740_992.0, "9007199254740992"),
        ] {
            let mut out = String::new();
            write_number(&mut out, value).unwrap();
            assert_eq!(out, expected);
        }
    }
}
