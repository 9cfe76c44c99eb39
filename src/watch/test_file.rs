//! The format of promtool's unit-test files. [`load`] reads them from the disk; the rest is pure.

use super::labels::LabelSet;
use super::promql::{self, Element, Query};
use super::rule_file::{self, RuleError, RuleFile};
use super::series_notation::{NotationError, parse_series, parse_values};
use super::yaml_place::Place;
use super::yaml_reader::{DurationMs, Reader};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileText {
    rule_files: Vec<String>,
    evaluation_interval: Option<DurationMs>,
    group_eval_order: Vec<String>,
    fuzzy_compare: bool,
    pub(super) tests: Vec<TestText>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TestText {
    pub(super) name: Option<String>,
    interval: Option<DurationMs>,
    start_timestamp: Option<String>,
    input_series: Vec<SeriesText>,
    alert_rule_test: Vec<AlertTestText>,
    promql_expr_test: Vec<ExpressionTestText>,
    pub(super) external_labels: BTreeMap<String, String>,
    pub(super) external_url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeriesText {
    pub(super) series: String,
    values: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertTestText {
    eval_time: DurationMs,
    alertname: String,
    #[serde(default)]
    exp_alerts: Vec<AlertText>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct AlertText {
    exp_labels: BTreeMap<String, String>,
    exp_annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpressionTestText {
    expr: String,
    eval_time: DurationMs,
    #[serde(default)]
    exp_samples: Vec<SampleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleText {
    #[serde(default)]
    labels: String,
    #[serde(default)]
    value: f64,
    histogram: Option<String>,
}

/// A valid unit-test file.
#[derive(Debug)]
pub struct TestFile {
    /// Patterns as written, relative to the test file.
    pub rule_files: Vec<String>,
    pub(super) interval_ms: i64,
    pub(super) group_order: Vec<String>,
    /// Whether values that differ by rounding count as equal.
    pub(super) is_fuzzy: bool,
    pub(super) tests: Vec<Test>,
}

#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) interval_ms: i64,
    /// The time that the times of the test are after, Unix time in milliseconds.
    pub(super) start_ms: i64,
    pub(super) series: Vec<(LabelSet, Vec<Option<f64>>)>,
    pub(super) alerts: Vec<AlertTest>,
    pub(super) expressions: Vec<ExpressionTest>,
    pub(super) external_labels: LabelSet,
    pub(super) external_url: String,
}

#[derive(Debug)]
pub(super) struct AlertTest {
    pub(super) at_ms: i64,
    pub(super) alert: String,
    pub(super) expected: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct ExpressionTest {
    pub(super) at_ms: i64,
    pub(super) query: Query,
    pub(super) expected: Vec<Element>,
}

/// Parses a unit-test file; `file` names it in errors.
///
/// # Errors
/// All errors at once; for a wrong structure, the first error.
pub fn parse(file: &str, text: &str) -> Result<TestFile, Vec<RuleError>> {
    let mut reader = Reader::new(file, text);
    let Some(document) = reader.document() else {
        return Err(reader.errors);
    };
    let Some(content) = reader.part::<FileText>(&document, "") else {
        return Err(reader.errors);
    };
    let interval_ms = content.evaluation_interval.map_or(60_000, |interval| interval.0).max(1);
    let tests = content.tests.into_iter().enumerate();
    let tests = tests
        .map(|(index, test)| {
            let at = Place::of(&document).key("tests").index(index);
            reader.test(index, test, at, interval_ms)
        })
        .collect();
    if !reader.errors.is_empty() {
        return Err(reader.errors);
    }
    let group_order = content.group_eval_order;
    Ok(TestFile {
        rule_files: content.rule_files,
        interval_ms,
        group_order,
        is_fuzzy: content.fuzzy_compare,
        tests,
    })
}

/// A unit-test file with the rule files that it names.
#[derive(Debug)]
pub struct LoadedTests {
    pub tests: TestFile,
    pub rules: Vec<RuleFile>,
    /// Patterns that match no file, which promtool passes over.
    pub warnings: Vec<RuleError>,
}

/// Reads a unit-test file and the rule files that it names, from the disk.
///
/// # Errors
/// All errors in all files, and unreadable files.
pub fn load(path: &Path) -> Result<LoadedTests, Vec<RuleError>> {
    let about = |path: &Path, message: String| RuleError {
        file: path.display().to_string(),
        line: None,
        message,
        hint: None,
    };
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| vec![about(path, error.to_string())]);
    let tests = parse(&path.display().to_string(), &read(path)?)?;
    let (mut rules, mut warnings, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for pattern in &tests.rule_files {
        let full = path.parent().unwrap_or(Path::new("")).join(pattern);
        let found: Vec<_> = match glob::glob(&full.to_string_lossy()) {
            Ok(found) => found.flatten().collect(),
            Err(error) => {
                errors.push(about(path, format!("{pattern:?} is no pattern of files: {error}")));
                continue;
            }
        };
        if found.is_empty() {
            warnings.push(about(path, format!("no rule file matches {pattern:?}")));
        }
        for path in found {
            match read(&path).and_then(|text| rule_file::parse(&path.display().to_string(), &text)) {
                Ok(file) => rules.push(file),
                Err(more) => errors.extend(more),
            }
        }
    }
    if errors.is_empty() {
        Ok(LoadedTests { tests, rules, warnings })
    } else {
        Err(errors)
    }
}

/// RFC 3339 or Unix time in seconds, as milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        let is_possible = seconds.abs() * 1000.0 < i64::MAX as f64 / 4.0;
        return is_possible.then_some((seconds * 1000.0).round() as i64);
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond())
}

pub(super) fn describe(labels: &LabelSet, annotations: BTreeMap<String, String>) -> String {
    format!("{labels} {annotations:?}")
}

impl Reader {
    fn test(&mut self, index: usize, test: TestText, at: Place, default_interval_ms: i64) -> Test {
        let name = test
            .name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("test {}", index + 1));
        let mut series = Vec::new();
        for (index, input) in test.input_series.into_iter().enumerate() {
            let at = at.key("input_series").index(index);
            let labels = self.report_error(at.key("series"), parse_series(&input.series));
            let values = self.report_error(at.key("values"), parse_values(&input.values));
            series.extend(labels.zip(values));
        }
        let alerts = test.alert_rule_test.into_iter().map(|test| {
            let expected = test.exp_alerts.into_iter().map(|alert| {
                let labels = alert
                    .exp_labels
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()));
                let labels = LabelSet::from_pairs(labels.chain([("alertname", test.alertname.as_str())]));
                describe(&labels, alert.exp_annotations)
            });
            AlertTest {
                at_ms: test.eval_time.0,
                expected: expected.collect(),
                alert: test.alertname,
            }
        });
        let alerts = alerts.collect();
        let mut expressions = Vec::new();
        for (index, test) in test.promql_expr_test.into_iter().enumerate() {
            let at = at.key("promql_expr_test").index(index);
            let mut expected = Vec::new();
            for (index, sample) in test.exp_samples.into_iter().enumerate() {
                let path = at.key("exp_samples").index(index);
                if sample.histogram.is_some() {
                    self.error(path.key("histogram"), NotationError::NativeHistogram.to_string(), None);
                }
                let labels = self.report_error(path.key("labels"), parse_series(&sample.labels));
                expected.extend(labels.map(|labels| Element {
                    labels,
                    value: sample.value,
                }));
            }
            match promql::parse(&test.expr) {
                Ok(query) => expressions.push(ExpressionTest {
                    at_ms: test.eval_time.0,
                    query,
                    expected,
                }),
                Err(refusals) => {
                    refusals
                        .into_iter()
                        .for_each(|r| self.error(at.key("expr"), r.to_string(), r.hint));
                }
            }
        }
        let external_labels = test
            .external_labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let external_labels = LabelSet::from_pairs(external_labels);
        let interval_ms = test.interval.map_or(default_interval_ms, |interval| interval.0);
        let start_ms = test.start_timestamp.map_or(0, |text| {
            parse_time(&text).unwrap_or_else(|| {
                let message =
                    format!("{text:?} is not a time, expected for example 2024-01-01T00:00:00Z or 1704067200");
                self.error(at.key("start_timestamp"), message, None);
                0
            })
        });
        let external_url = test.external_url;
        Test {
            name,
            interval_ms,
            start_ms,
            series,
            alerts,
            expressions,
            external_labels,
            external_url,
        }
    }

    fn report_error<T>(&mut self, at: Place, result: Result<T, NotationError>) -> Option<T> {
        result.map_err(|error| self.error(at, error.to_string(), None)).ok()
    }
}
