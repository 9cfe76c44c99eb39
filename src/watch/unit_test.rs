//! The runner of promtool's unit tests on evenkeel's evaluator.

use super::alerting::ActiveAlert;
use super::evaluator::{Evaluator, EvaluatorSettings};
use super::history::{History, ReadSet};
use super::promql::{Dialect, Element, Semantics};
use super::rule_file::RuleFile;
use super::rule_state::EvaluationFailure;
use super::test_file::{AlertTest, ExpressionTest, Test, describe};
pub use super::test_file::{LoadedTests, TestFile, load, parse};
use std::collections::BTreeSet;

/// A difference from an expectation of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct TestMismatch {
    /// The name of the test, or its number in the file.
    pub test: String,
    /// The alert or expression under test.
    pub subject: String,
    pub at_ms: i64,
    /// Expected series or alerts that are missing.
    pub missing: Vec<String>,
    /// Unexpected series or alerts.
    pub unexpected: Vec<String>,
    /// The reason why the test has no result to compare.
    pub error: Option<String>,
}

/// The result of a unit-test file.
#[derive(Debug, Default)]
pub struct UnitTestReport {
    pub tests: usize,
    pub checks: usize,
    pub mismatches: Vec<TestMismatch>,
}

impl TestFile {
    /// Runs every test on these rules.
    pub fn run(&self, files: &[RuleFile], dialect: Dialect) -> UnitTestReport {
        let mut report = UnitTestReport {
            tests: self.tests.len(),
            ..UnitTestReport::default()
        };
        for test in &self.tests {
            test.run(self, files, dialect, &mut report);
        }
        report
    }
}

impl Test {
    fn run(&self, file: &TestFile, files: &[RuleFile], dialect: Dialect, report: &mut UnitTestReport) {
        let semantics = Semantics {
            dialect,
            default_step_ms: file.interval_ms,
            ..Semantics::default()
        };
        let settings = EvaluatorSettings {
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
        let mut everything = ReadSet::default();
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
            let round = evaluator.evaluate_all(&mut history, self.start_ms + now_ms);
            if !round.failures.is_empty() {
                let failures = round.failures.iter();
                report
                    .mismatches
                    .extend(failures.map(|failure| self.failed(failure, now_ms)));
                report.checks += round.failures.len();
                return;
            }
            // A time between two evaluations has the result of the first.
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
                .extend(self.check_expression(test, &history, semantics, file.is_fuzzy));
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
                history.record(self.start_ms + self.interval_ms * index, labels, value);
            }
        }
    }

    fn failed(&self, failure: &EvaluationFailure, at_ms: i64) -> TestMismatch {
        let mismatch = self.mismatch(format!("rule {}", failure.rule), at_ms);
        TestMismatch {
            error: Some(failure.error.to_string()),
            ..mismatch
        }
    }

    fn mismatch(&self, subject: String, at_ms: i64) -> TestMismatch {
        TestMismatch {
            test: self.name.clone(),
            subject,
            at_ms,
            missing: Vec::new(),
            unexpected: Vec::new(),
            error: None,
        }
    }

    fn check_alerts<'a>(
        &self,
        test: &AlertTest,
        active: impl Iterator<Item = ActiveAlert<'a>>,
    ) -> Option<TestMismatch> {
        let is_meant =
            |alert: &ActiveAlert<'_>| alert.fired_at_ms.is_some() && alert.labels.get("alertname") == test.alert;
        let got: BTreeSet<String> = active
            .filter(is_meant)
            .map(|alert| describe(alert.labels, alert.annotations.iter().cloned().collect()))
            .collect();
        let mismatch = TestMismatch {
            missing: test.expected.difference(&got).cloned().collect(),
            unexpected: got.difference(&test.expected).cloned().collect(),
            ..self.mismatch(format!("alert {}", test.alert), test.at_ms)
        };
        (!mismatch.missing.is_empty() || !mismatch.unexpected.is_empty()).then_some(mismatch)
    }

    fn check_expression(
        &self,
        test: &ExpressionTest,
        history: &History,
        semantics: Semantics,
        is_fuzzy: bool,
    ) -> Option<TestMismatch> {
        let mismatch = self.mismatch(format!("expression {:?}", test.query.text), test.at_ms);
        let mut got = match test.query.evaluate(history, self.start_ms + test.at_ms, semantics) {
            Ok(value) => value.into_vector(),
            Err(error) => {
                return Some(TestMismatch {
                    error: Some(error.to_string()),
                    ..mismatch
                });
            }
        };
        let mut missing = Vec::new();
        for expected in &test.expected {
            let is_equal = |value: f64| match semantics.dialect {
                // 2.42 does not compensate sums.
                Dialect::V2_42 => near(value, expected.value),
                Dialect::V3 => same_number(value, expected.value, is_fuzzy),
            };
            let same = |element: &Element| element.labels == expected.labels && is_equal(element.value);
            match got.iter().position(same) {
                Some(index) => drop(got.swap_remove(index)),
                None => missing.push(format!("{} {}", expected.labels, expected.value)),
            }
        }
        let unexpected: Vec<String> = got
            .iter()
            .map(|element| format!("{} {}", element.labels, element.value))
            .collect();
        (!missing.is_empty() || !unexpected.is_empty()).then_some(TestMismatch {
            missing,
            unexpected,
            ..mismatch
        })
    }
}

/// Whether two values are equal; a fuzzy comparison permits the neighbouring floats. A NaN equals a NaN.
fn same_number(a: f64, b: f64, is_fuzzy: bool) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (is_fuzzy && (a.next_up() == b || a.next_down() == b))
}

/// Compares up to the last digits. A NaN equals a NaN.
fn near(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-11 * a.abs().max(b.abs())
}

#[cfg(test)]
mod tests {
    use super::super::rule_file::{self, RuleError};
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
        let report = parse("t.yml", tests).unwrap().run(&[rules], Dialect::V3);
        let mismatches = report.mismatches.iter().map(|mismatch| {
            let TestMismatch {
                test,
                subject,
                at_ms,
                error,
                ..
            } = mismatch;
            let error = error.as_ref().map_or(String::new(), |error| format!(" {error}"));
            let missing = mismatch.missing.iter().map(|line| format!("\n  - {line}"));
            let unexpected = mismatch.unexpected.iter().map(|line| format!("\n  + {line}"));
            let lines: String = missing.chain(unexpected).collect();
            format!("{test}, {subject} at {}s:{error}{lines}\n", *at_ms as f64 / 1000.0)
        });
        let failed = format!("{} of {} checks failed", report.mismatches.len(), report.checks);
        mismatches.collect::<String>() + &failed
    }

    #[test]
    fn correct_file_passes() {
        assert_eq!(run(TESTS), "0 of 4 checks failed");
    }

    #[test]
    fn names_may_be_any_strings() {
        let rules = r#"
groups:
- name: g
  rules:
  - {record: double.name, expr: 'sum by ("label.name") ({"metric.name", "label.name"!="z"}) * 2', labels: {é: x}}
  - alert: A
    expr: '{"double.name"} > 4'
    labels: {site.name: '{{ index $externalLabels "site.name" }}'}
    annotations: {text.en: '{{ index $labels "label.name" }} {{ $labels.é }}'}
"#;
        let tests = r#"
tests:
- interval: 1m
  external_labels: {site.name: home}
  input_series: [{series: '{"metric.name", "label.name"="y"}', values: 1x5}, {series: '{"metric.name", l="y"}', values: 3x5}]
  alert_rule_test:
  - eval_time: 1m
    alertname: A
    exp_alerts: [{exp_labels: {é: x, site.name: home}, exp_annotations: {text.en: ' x'}}]
  promql_expr_test:
  - expr: '{"double.name"}'
    eval_time: 1m
    exp_samples: [{labels: '{"double.name", "label.name"="y", "é"="x"}', value: 2}, {labels: '{"double.name", "é"="x"}', value: 6}]
"#;
        let rules = rule_file::parse("r.yml", rules).unwrap();
        let report = parse("t.yml", tests).unwrap().run(&[rules], Dialect::V3);
        assert_eq!((report.checks, report.mismatches), (2, Vec::new()));
    }

    #[test]
    fn failing_test_says_the_difference() {
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
    fn fuzzy_comparison_permits_the_neighbouring_float() {
        let tests = |is_fuzzy: bool| {
            format!(
                "fuzzy_compare: {is_fuzzy}\ntests: [{{input_series: [{{series: a, values: '2.9999999999999996'}}], \
                 promql_expr_test: [{{expr: a, eval_time: 0, exp_samples: [{{labels: a, value: 3}}]}}]}}]"
            )
        };
        assert_eq!(run(&tests(true)), "0 of 1 checks failed");
        assert!(run(&tests(false)).ends_with("1 of 1 checks failed"));
    }

    #[test]
    fn test_may_begin_at_another_time_than_the_epoch() {
        for start in ["2024-01-01T00:00:00Z", "1704067200"] {
            let text = format!(
                "tests: [{{start_timestamp: {start}, interval: 1m, input_series: [{{series: a, values: 1+1x5}}], \
                 promql_expr_test: [{{expr: timestamp(a), eval_time: 5m, exp_samples: [{{value: 1704067500}}]}}, \
                 {{expr: a @ 1704067320, eval_time: 5m, exp_samples: [{{labels: a, value: 3}}]}}]}}]"
            );
            assert_eq!(run(&text), "0 of 2 checks failed");
        }
        let errors = parse("t.yml", "tests: [{start_timestamp: soon}]").unwrap_err();
        assert!(errors[0].message.starts_with("\"soon\" is not a time"), "{errors:?}");
    }

    #[test]
    fn errors_in_a_test_file_have_lines() {
        let text = "tests:\n- input_series:\n  - series: 'a{'\n    values: 1 b\n  promql_expr_test:\n  - expr: info(a)\n    \
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
                "t.yml:6: the function info is experimental in Prometheus and not supported (at character 1)",
            ]
        );
        let text = "tests:\n- input_series:\n  - {series: a, values: '{{schema:0 sum:1 count:1 buckets:[1]}}x3'}\n  \
                    promql_expr_test:\n  - {expr: a, eval_time: 0, exp_samples: [{labels: a, histogram: '{{schema:0}}'}]}\n";
        let errors = parse("t.yml", text).unwrap_err();
        let errors: Vec<String> = errors.iter().map(RuleError::to_string).collect();
        let message = "native histograms are not supported, because evenkeel has none";
        assert_eq!(errors, [format!("t.yml:3: {message}"), format!("t.yml:5: {message}")]);
        assert!(
            parse("t.yml", "tests: [{interval: 5}]").unwrap_err()[0]
                .message
                .contains("is not a duration")
        );
    }
}
