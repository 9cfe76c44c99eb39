//! promtool's unit-test files for rules, run on our own evaluator. `load` reads the rule files that a test names; the rest
//! is pure.

use super::alerting::ActiveAlert;
use super::evaluator::{Evaluator, Failure, Settings};
use super::history::{History, Interest};
use super::labels::LabelSet;
use super::promql::{self, Dialect, Element, Query, Semantics};
use super::rule_file::{self, DurationMs, Place, Places, Reader, RuleError, RuleFile, Scalar};
use super::series_notation::{parse_series, parse_values};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    rule_files: Vec<String>,
    evaluation_interval: Option<DurationMs>,
    #[serde(default)]
    group_eval_order: Vec<String>,
    #[serde(default)]
    tests: Vec<TestText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestText {
    name: Option<String>,
    interval: Option<DurationMs>,
    #[serde(default)]
    input_series: Vec<SeriesText>,
    #[serde(default)]
    alert_rule_test: Vec<AlertTestText>,
    #[serde(default)]
    promql_expr_test: Vec<ExpressionTestText>,
    #[serde(default)]
    external_labels: BTreeMap<String, Scalar>,
    #[serde(default)]
    external_url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeriesText {
    series: String,
    values: Scalar,
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
    exp_labels: BTreeMap<String, Scalar>,
    exp_annotations: BTreeMap<String, Scalar>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpressionTestText {
    expr: Scalar,
    eval_time: DurationMs,
    #[serde(default)]
    exp_samples: Vec<SampleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleText {
    #[serde(default)]
    labels: String,
    value: f64,
}

/// A unit-test file that can be run.
#[derive(Debug)]
pub struct TestFile {
    /// As written: relative to the test file, with wildcards.
    pub rule_files: Vec<String>,
    interval_ms: i64,
    group_order: Vec<String>,
    tests: Vec<Test>,
}

#[derive(Debug)]
struct Test {
    name: String,
    interval_ms: i64,
    series: Vec<(LabelSet, Vec<Option<f64>>)>,
    alerts: Vec<AlertTest>,
    expressions: Vec<ExpressionTest>,
    external_labels: LabelSet,
    external_url: String,
}

#[derive(Debug)]
struct AlertTest {
    at_ms: i64,
    alert: String,
    expected: BTreeSet<String>,
}

#[derive(Debug)]
struct ExpressionTest {
    at_ms: i64,
    query: Query,
    expected: Vec<Element>,
}

/// What did not come out as the file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// The name of the test, or its number in the file.
    pub test: String,
    /// The alert or the expression.
    pub subject: String,
    pub at_ms: i64,
    /// What was expected and is not there, one series or alert each.
    pub missing: Vec<String>,
    /// What is there and was not expected.
    pub unexpected: Vec<String>,
    /// Why there is nothing to compare.
    pub error: Option<String>,
}

/// The result of a unit-test file.
#[derive(Debug, Default)]
pub struct Report {
    pub checks: usize,
    pub mismatches: Vec<Mismatch>,
}

impl Report {
    pub fn is_ok(&self) -> bool {
        self.mismatches.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mismatch in &self.mismatches {
            writeln!(f, "{mismatch}")?;
        }
        write!(f, "{} of {} checks failed", self.mismatches.len(), self.checks)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} at {}s:", self.test, self.subject, self.at_ms as f64 / 1000.0)?;
        if let Some(error) = &self.error {
            write!(f, " {error}")?;
        }
        self.missing.iter().try_for_each(|line| write!(f, "\n  - {line}"))?;
        self.unexpected.iter().try_for_each(|line| write!(f, "\n  + {line}"))
    }
}

/// Reads a unit-test file; `file` names it in errors.
///
/// # Errors
/// Every mistake at once; where the structure is wrong, the first.
pub fn parse(file: &str, text: &str) -> Result<TestFile, Vec<RuleError>> {
    let mut reader = Reader {
        file,
        places: Places::new(text),
        errors: Vec::new(),
    };
    let Some(content) = reader.whole::<FileText>(text) else {
        return Err(reader.errors);
    };
    let interval_ms = content.evaluation_interval.map_or(60_000, |interval| interval.0).max(1);
    let tests = content.tests.into_iter().enumerate();
    let tests = tests
        .map(|(index, test)| reader.test(index, test, interval_ms))
        .collect();
    if !reader.errors.is_empty() {
        return Err(reader.errors);
    }
    let group_order = content.group_eval_order;
    Ok(TestFile {
        rule_files: content.rule_files,
        interval_ms,
        group_order,
        tests,
    })
}

/// Reads a unit-test file and the rule files that it names, from the disk.
///
/// # Errors
/// Every mistake in any of them, and files that cannot be read.
pub fn load(path: &Path) -> Result<(TestFile, Vec<RuleFile>), Vec<RuleError>> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| {
            vec![RuleError {
                file: path.display().to_string(),
                line: None,
                message: error.to_string(),
                hint: None,
            }]
        })
    };
    let name = path.display().to_string();
    let test_file = parse(&name, &read(path)?)?;
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for pattern in &test_file.rule_files {
        let full = path.parent().unwrap_or(Path::new("")).join(pattern);
        let found: Vec<_> = glob::glob(&full.to_string_lossy())
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        if found.is_empty() {
            let message = format!("no rule file matches {pattern:?}");
            errors.push(RuleError {
                file: name.clone(),
                line: None,
                message,
                hint: None,
            });
        }
        for path in found {
            match read(&path).and_then(|text| rule_file::parse(&path.display().to_string(), &text)) {
                Ok(file) => files.push(file),
                Err(more) => errors.extend(more),
            }
        }
    }
    if errors.is_empty() {
        Ok((test_file, files))
    } else {
        Err(errors)
    }
}

impl Reader<'_> {
    fn test(&mut self, index: usize, test: TestText, default_interval_ms: i64) -> Test {
        let at = Place::root().key("tests").index(index);
        let name = test
            .name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("test {}", index + 1));
        let mut series = Vec::new();
        for (index, input) in test.input_series.into_iter().enumerate() {
            let at = at.key("input_series").index(index);
            let labels = self.told(&at.key("series"), parse_series(&input.series));
            let values = self.told(&at.key("values"), parse_values(&input.values.0));
            series.extend(labels.zip(values));
        }
        let alerts = test.alert_rule_test.into_iter().map(|test| {
            let expected = test.exp_alerts.into_iter().map(|alert| {
                let labels = alert
                    .exp_labels
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.0.as_str()));
                let labels = LabelSet::from_pairs(labels.chain([("alertname", test.alertname.as_str())]));
                let annotations = alert
                    .exp_annotations
                    .into_iter()
                    .map(|(name, Scalar(text))| (name, text));
                describe(&labels, annotations.collect())
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
                let place = at.key("exp_samples").index(index).key("labels");
                let labels = self.told(&place, parse_series(&sample.labels));
                expected.extend(labels.map(|labels| Element {
                    labels,
                    value: sample.value,
                }));
            }
            match promql::parse(&test.expr.0) {
                Ok(query) => expressions.push(ExpressionTest {
                    at_ms: test.eval_time.0,
                    query,
                    expected,
                }),
                Err(refusals) => {
                    refusals
                        .into_iter()
                        .for_each(|r| self.error(&at.key("expr"), r.to_string(), r.hint));
                }
            }
        }
        let external_labels = test
            .external_labels
            .iter()
            .map(|(name, value)| (name.as_str(), value.0.as_str()));
        let external_labels = LabelSet::from_pairs(external_labels);
        let interval_ms = test.interval.map_or(default_interval_ms, |interval| interval.0);
        let external_url = test.external_url;
        Test {
            name,
            interval_ms,
            series,
            alerts,
            expressions,
            external_labels,
            external_url,
        }
    }

    fn told<T>(&mut self, at: &Place, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(at, message, None)).ok()
    }
}

impl TestFile {
    /// Runs every test on these rules.
    pub fn run(&self, files: &[RuleFile], dialect: Dialect) -> Report {
        let mut report = Report::default();
        for test in &self.tests {
            test.run(self, files, dialect, &mut report);
        }
        report
    }
}

impl Test {
    fn run(&self, file: &TestFile, files: &[RuleFile], dialect: Dialect, report: &mut Report) {
        let semantics = Semantics {
            dialect,
            default_step_ms: file.interval_ms,
            ..Semantics::default()
        };
        let settings = Settings {
            interval_ms: file.interval_ms,
            external_labels: self.external_labels.clone(),
            external_url: self.external_url.clone(),
            semantics,
        };
        let mut files = files.to_vec();
        for rules in &mut files {
            let place = |name: &str| file.group_order.iter().position(|known| known == name);
            rules
                .groups
                .sort_by_key(|group| place(&group.name).unwrap_or(usize::MAX));
        }
        let mut evaluator = Evaluator::new(settings, files);
        let mut everything = Interest::default();
        everything.add(&[], i64::MAX / 4);
        let mut history = History::new(everything);

        let alert_times = self.alerts.iter().map(|test| test.at_ms);
        let last_ms = alert_times
            .chain(self.expressions.iter().map(|test| test.at_ms))
            .max()
            .unwrap_or(0);
        let mut loaded = 0;
        for now_ms in (0..=last_ms).step_by(file.interval_ms as usize) {
            while self.interval_ms * loaded <= now_ms && self.interval_ms > 0 {
                self.load(loaded, &mut history);
                loaded += 1;
            }
            let round = evaluator.evaluate_all(&mut history, now_ms);
            if !round.failures.is_empty() {
                let failures = round.failures.iter();
                report
                    .mismatches
                    .extend(failures.map(|failure| self.failed(failure, now_ms)));
                report.checks += round.failures.len();
                return;
            }
            // A moment between two evaluations is judged by the one before it.
            for test in self
                .alerts
                .iter()
                .filter(|test| (now_ms..now_ms + file.interval_ms).contains(&test.at_ms))
            {
                report.checks += 1;
                report.mismatches.extend(self.check_alerts(test, evaluator.active()));
            }
        }
        while self.interval_ms > 0 && self.interval_ms * loaded <= last_ms {
            self.load(loaded, &mut history);
            loaded += 1;
        }
        for test in &self.expressions {
            report.checks += 1;
            report
                .mismatches
                .extend(self.check_expression(test, &history, semantics));
        }
    }

    fn load(&self, index: i64, history: &mut History) {
        for (labels, values) in &self.series {
            let value = usize::try_from(index)
                .ok()
                .and_then(|index| values.get(index))
                .copied()
                .flatten();
            if let Some(value) = value {
                history.record(self.interval_ms * index, labels, value);
            }
        }
    }

    fn failed(&self, failure: &Failure, at_ms: i64) -> Mismatch {
        let mismatch = self.mismatch(format!("rule {}", failure.rule), at_ms);
        Mismatch {
            error: Some(failure.error.to_string()),
            ..mismatch
        }
    }

    fn mismatch(&self, subject: String, at_ms: i64) -> Mismatch {
        Mismatch {
            test: self.name.clone(),
            subject,
            at_ms,
            missing: Vec::new(),
            unexpected: Vec::new(),
            error: None,
        }
    }

    fn check_alerts<'a>(&self, test: &AlertTest, active: impl Iterator<Item = ActiveAlert<'a>>) -> Option<Mismatch> {
        let is_meant =
            |alert: &ActiveAlert<'_>| alert.fired_at_ms.is_some() && alert.labels.get("alertname") == test.alert;
        let got: BTreeSet<String> = active
            .filter(is_meant)
            .map(|alert| describe(alert.labels, alert.annotations.iter().cloned().collect()))
            .collect();
        let mismatch = Mismatch {
            missing: test.expected.difference(&got).cloned().collect(),
            unexpected: got.difference(&test.expected).cloned().collect(),
            ..self.mismatch(format!("alert {}", test.alert), test.at_ms)
        };
        (!mismatch.missing.is_empty() || !mismatch.unexpected.is_empty()).then_some(mismatch)
    }

    fn check_expression(&self, test: &ExpressionTest, history: &History, semantics: Semantics) -> Option<Mismatch> {
        let mismatch = self.mismatch(format!("expression {:?}", test.query.text), test.at_ms);
        let mut got = match test.query.evaluate(history, test.at_ms, semantics) {
            Ok(value) => value.into_vector(),
            Err(error) => {
                return Some(Mismatch {
                    error: Some(error.to_string()),
                    ..mismatch
                });
            }
        };
        let mut missing = Vec::new();
        for expected in &test.expected {
            let same = |element: &Element| element.labels == expected.labels && near(element.value, expected.value);
            match got.iter().position(same) {
                Some(index) => drop(got.swap_remove(index)),
                None => missing.push(format!("{} {}", expected.labels, expected.value)),
            }
        }
        let unexpected: Vec<String> = got
            .iter()
            .map(|element| format!("{} {}", element.labels, element.value))
            .collect();
        (!missing.is_empty() || !unexpected.is_empty()).then_some(Mismatch {
            missing,
            unexpected,
            ..mismatch
        })
    }
}

/// Sums of ours are compensated and those of older versions are not, so the last digits may differ; and where a NaN is
/// expected, a NaN will do.
fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-11 * a.abs().max(b.abs())
}

fn describe(labels: &LabelSet, annotations: BTreeMap<String, String>) -> String {
    format!("{labels} {annotations:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "groups:\n- name: g\n  rules:\n  - {record: double, expr: a * 2}\n  - alert: High\n    expr: \
                         double > 4\n    for: 1m\n    labels: {site: '{{ $externalLabels.site }}'}\n    annotations: \
                         {text: '{{ $labels.l }} has {{ $value }}'}\n";

    const TESTS: &str = r#"
evaluation_interval: 1m
tests:
- name: rises
  interval: 1m
  external_labels: {site: home}
  input_series: [{series: 'a{l="x"}', values: 1+1x5}]
  alert_rule_test:
  - {eval_time: 2m, alertname: High}
  - eval_time: 3m59s
    alertname: High
    exp_alerts: [{exp_labels: {l: x, site: home}, exp_annotations: {text: x has 8}}]
  promql_expr_test:
  - {expr: double, eval_time: 4m, exp_samples: [{labels: 'double{l="x"}', value: 10}]}
  - {expr: time(), eval_time: 4m, exp_samples: [{value: 240}]}
"#;

    fn run(tests: &str) -> String {
        let rules = rule_file::parse("r.yml", RULES).unwrap();
        parse("t.yml", tests).unwrap().run(&[rules], Dialect::V3).to_string()
    }

    #[test]
    fn a_right_file_passes() {
        assert_eq!(run(TESTS), "0 of 4 checks failed");
    }

    #[test]
    fn a_wrong_one_says_what_differs() {
        let wrong = TESTS
            .replace("x has 8", "x has 9")
            .replace("value: 10", "value: 11")
            .replace("eval_time: 2m", "eval_time: 3m");
        assert_eq!(
            run(&wrong),
            "rises, alert High at 180s:\n  + {alertname=\"High\", l=\"x\", site=\"home\"} {\"text\": \"x has 8\"}\n\
             rises, alert High at 239s:\n  - {alertname=\"High\", l=\"x\", site=\"home\"} {\"text\": \"x has 9\"}\n  \
             + {alertname=\"High\", l=\"x\", site=\"home\"} {\"text\": \"x has 8\"}\n\
             rises, expression \"double\" at 240s:\n  - double{l=\"x\"} 11\n  + double{l=\"x\"} 10\n\
             3 of 4 checks failed"
        );
    }

    #[test]
    fn mistakes_in_a_test_file_have_lines() {
        let text = "tests:\n- input_series:\n  - series: 'a{'\n    values: 1 b\n  promql_expr_test:\n  - expr: deg(a)\n    \
                    eval_time: 0\n";
        let errors: Vec<String> = parse("t.yml", text)
            .unwrap_err()
            .iter()
            .map(RuleError::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "t.yml:3: \"a{\" is not a series, expected for example metric{label=\"value\"}",
                "t.yml:4: \"b\" is no value, expected for example 1, NaN, stale, _, _x5, 1x5, 0+10x5 or 100-10x5",
                "t.yml:6: the function deg is not supported (at character 1)",
            ]
        );
        assert!(
            parse("t.yml", "tests: [{interval: 5}]").unwrap_err()[0]
                .message
                .contains("is not a duration")
        );
    }
}
