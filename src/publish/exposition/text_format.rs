//! Prometheus' text format 0.0.4.

use super::{Content, escape, exact_integer, finite_buckets};
use crate::family::{MetricKind, Point, SampleValue};
use crate::publish::normalize::{NormalizedFamily, normalize};
use crate::watch::number;
use std::fmt::{self, Write};

/// Encodes a content.
pub fn write(content: &Content) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(128 << 10);
    for_each_in_text(content, |family, is_part| write_family(&mut out, family, is_part))?;
    Ok(out)
}

/// Visits the families of the text format in order. Sums and counts of a summary come behind its quantiles, without a
/// head of their own, which is what `true` says.
pub fn for_each_in_text(
    content: &Content,
    mut visit: impl FnMut(&NormalizedFamily, bool) -> fmt::Result,
) -> fmt::Result {
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

pub fn write_number(out: &mut String, value: f64) -> fmt::Result {
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
