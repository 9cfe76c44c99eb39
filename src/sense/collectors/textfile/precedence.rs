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
    let mut is_wrong = false;
    let mut families = Vec::with_capacity(text.families.len());
    for family in &text.families {
        let of_collectors = read.get(&*family.name).map_or(&[][..], Vec::as_slice);
        let clashes = |known: &&Family| known.kind != family.kind;
        if is_from_file(family) && (of_collectors.iter().any(clashes) || hides_another(family, &read)) {
            tracing::debug!(metric = %family.name, "metric of a text file has another type in a collector");
            is_wrong = true;
        } else if of_collectors.is_empty() {
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

/// Whether a sample of a histogram or summary has the name of a collector's family.
fn hides_another(family: &Family, read: &FxHashMap<&str, Vec<&Family>>) -> bool {
    let suffixes: &[&str] = match family.kind {
        MetricKind::Histogram => &["_bucket", "_sum", "_count"],
        MetricKind::Summary => &["_sum", "_count"],
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Untyped => &[],
    };
    let is_read = |suffix: &&str| read.contains_key([&*family.name, suffix].concat().as_str());
    suffixes.iter().any(is_read)
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
}
