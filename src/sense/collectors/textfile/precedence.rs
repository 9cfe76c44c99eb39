//! The precedence of collectors over text files: a file can neither replace nor hide what a collector reads. Pure.

use super::{INFO, RESERVED, SCRAPE_ERROR, scrape_error};
use crate::family::{Family, Label, MetricKind};
use crate::sense::runtime::snapshot::CollectorReading;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

/// Leaves out of the text files what collectors read: series that both have, and families that collectors have with
/// another type. Only the latter is an error, because programs may add series to a family.
pub fn put_collectors_first(readings: &mut Vec<Arc<CollectorReading>>) {
    let Some(place) = readings.iter().position(|reading| reading.collector == INFO.name) else {
        return;
    };
    let text = readings.remove(place);
    let text = without_what_collectors_read(&text, readings).map_or(text, Arc::new);
    // Of families with one name the first gives the help.
    readings.push(text);
}

/// The reading of the text files with less. `None` where nothing is to be left out.
fn without_what_collectors_read(
    text: &CollectorReading,
    readings: &[Arc<CollectorReading>],
) -> Option<CollectorReading> {
    if !text.families.iter().any(is_from_file) {
        return None;
    }
    let mut read: FxHashMap<&str, Vec<&Family>> = FxHashMap::default();
    for family in readings.iter().flat_map(|reading| &reading.families) {
        read.entry(&family.name).or_default().push(family);
    }
    let is_touched = |family: &Family| read.contains_key(&*family.name) || hides_another(family, &read);
    if !text.families.iter().any(is_touched) {
        return None;
    }
    let clashing = text.families.iter().filter(|family| clashes(family, &read));
    // A summary has three families.
    let wrong: FxHashSet<String> = clashing
        .flat_map(|family| {
            tracing::debug!(metric = %family.name, "metric of a text file has another type in a collector");
            let own = [String::from(&*family.name)].into_iter();
            own.chain(names_of_samples(family))
        })
        .collect();
    let is_wrong = !wrong.is_empty();
    let mut families = Vec::with_capacity(text.families.len());
    for family in &text.families {
        let of_collectors = read.get(&*family.name).map_or(&[][..], Vec::as_slice);
        if is_from_file(family) && wrong.contains(&*family.name) {
            continue;
        }
        if of_collectors.is_empty() {
            families.push(family.clone());
        } else {
            families.push(without_series_of(family, of_collectors));
        }
    }
    if is_wrong && let Some(error) = families.iter_mut().find(|family| family.name == SCRAPE_ERROR) {
        *error = scrape_error(1.0);
    }
    Some(CollectorReading {
        families,
        ..text.clone()
    })
}

fn is_from_file(family: &Family) -> bool {
    !RESERVED.iter().any(|reserved| family.name.starts_with(reserved))
}

/// Whether a family of a text file has another type than a collector's, or hides one.
fn clashes(family: &Family, read: &FxHashMap<&str, Vec<&Family>>) -> bool {
    let of_collectors = read.get(&*family.name).map_or(&[][..], Vec::as_slice);
    let has_another_type = of_collectors.iter().any(|known| known.kind != family.kind);
    is_from_file(family) && (has_another_type || hides_another(family, read))
}

/// Whether a sample of a histogram or summary has the name of a collector's family.
fn hides_another(family: &Family, read: &FxHashMap<&str, Vec<&Family>>) -> bool {
    names_of_samples(family).any(|name| read.contains_key(name.as_str()))
}

/// The names of the samples of a histogram or summary beside its own.
fn names_of_samples(family: &Family) -> impl Iterator<Item = String> {
    let suffixes: &[&str] = match family.kind {
        MetricKind::Histogram => &["_bucket", "_sum", "_count"],
        MetricKind::Summary => &["_sum", "_count"],
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Untyped => &[],
    };
    suffixes.iter().map(|suffix| [&*family.name, suffix].concat())
}

fn without_series_of(family: &Family, others: &[&Family]) -> Family {
    let key = |labels: &[Label]| {
        let mut key: Vec<Label> = labels.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
        key.sort_unstable();
        key
    };
    let points = others.iter().flat_map(|other| other.points());
    let known: FxHashSet<Vec<Label>> = points.map(|point| key(point.labels)).collect();
    let mut left = Family::new(family.name.clone(), family.help.clone(), family.kind);
    for point in family.points().filter(|point| !known.contains(&key(point.labels))) {
        left.push_value(point.labels.iter().cloned(), point.value.clone());
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::label;
    use crate::sense::fixture::text_of;
    use crate::sense::runtime::snapshot::{Freshness, SampleTime};
    use std::time::Duration;

    fn reading(collector: &'static str, families: Vec<Family>) -> Arc<CollectorReading> {
        Arc::new(CollectorReading {
            collector,
            families,
            read: SampleTime::now(),
            duration: Duration::ZERO,
            freshness: Freshness::Timed,
            skipped_lines: 0,
            error: None,
        })
    }

    fn gauge(name: &'static str, series: &[(&'static str, f64)]) -> Family {
        let mut family = Family::gauge(name, "");
        series
            .iter()
            .for_each(|(name, value)| family.push([label("l", *name)], *value));
        family
    }

    /// What is left of the text files, with the error first.
    fn left(of_files: Vec<Family>) -> Vec<String> {
        let text = [vec![scrape_error(0.0)], of_files].concat();
        let mut readings = vec![
            reading("loadavg", vec![gauge("node_load1", &[("", 0.5)])]),
            reading("textfile", text),
            reading("filesystem", vec![gauge("fs", &[("a", 1.0), ("b", 2.0)])]),
            reading("other", vec![gauge("x_count", &[("", 1.0)])]),
        ];
        put_collectors_first(&mut readings);
        text_of(&readings[3].families, "")
    }

    #[test]
    fn file_adds_series_and_replaces_none() {
        assert_eq!(
            left(vec![
                gauge("node_load1", &[("", 99.0)]),
                gauge("fs", &[("b", 9.0), ("c", 3.0)]),
                gauge("own", &[("", 1.0)])
            ]),
            ["node_textfile_scrape_error 0", "fs{l=\"c\"} 3", "own{l=\"\"} 1"]
        );
    }

    #[test]
    fn family_of_another_type_is_an_error() {
        let mut histogram = Family::new("x", "", MetricKind::Histogram);
        histogram.push_histogram([], crate::family::Histogram::default());
        for wrong in [Family::counter("fs", "").value(1.0), histogram] {
            assert_eq!(
                left(vec![wrong, gauge("own", &[("", 1.0)])]),
                ["node_textfile_scrape_error 1", "own{l=\"\"} 1"]
            );
        }
    }

    #[test]
    fn summary_goes_with_its_sums_and_counts() {
        let of_files = |text: &[u8]| crate::sense::collectors::textfile::text_format::parse(text).unwrap();
        let own = "own 1\n";
        for summary in [
            "# TYPE x summary\nx{quantile=\"0.5\"} 1\nx_sum 3\nx_count 2\n",
            // Without quantiles.
            "# TYPE x summary\nx_sum 3\nx_count 2\n",
            // One that is in the way itself.
            "# TYPE fs summary\nfs{quantile=\"0.5\"} 1\nfs_sum 3\nfs_count 2\n",
        ] {
            let families = of_files([own, summary].concat().as_bytes());
            assert_eq!(left(families), ["node_textfile_scrape_error 1", "own 1"], "{summary}");
        }
    }
}
