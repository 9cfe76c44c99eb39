//! The exposition of families as text: OpenMetrics 1.0.0 through `prometheus-client`, and Prometheus' text format
//! 0.0.4. Here is what both share.

mod openmetrics;
mod text_format;

use super::negotiation::Format;
use super::normalize::{FamilyOrder, NormalizedFamily};
use crate::family::{Family, Histogram, MetricKind, Point, SampleValue};
use crate::sense::CollectorReading;
use openmetrics::for_each_in_openmetrics;
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;
use text_format::{for_each_in_text, write_number};

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
        Format::OpenMetrics => openmetrics::write(Arc::clone(content)),
        Format::Text => text_format::write(content),
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

/// Writes a value as the encoder of this format does.
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
}
