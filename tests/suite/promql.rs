//! The real promtool has the results of evenkeel's PromQL: generated expressions over generated series, from a fixed
//! seed, written as a unit-test file that expects evenkeel's results.

mod generate;
mod notation;
mod promtool;

use evenkeel::watch::evaluator::{Evaluator, EvaluatorSettings};
use evenkeel::watch::history::{History, ReadSet};
use evenkeel::watch::labels::LabelSet;
use evenkeel::watch::promql::{self, Dialect, Element, Semantics};
use evenkeel::watch::rule_file;
use evenkeel::watch::series_notation::{parse_series, parse_values};
use evenkeel::watch::unit_test;
use generate::{Grower, Random, World, world};
use promtool::{objections, run_promtool};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const SEED: u64 = 20_240_229;
const WORLDS: usize = 10;
const RULE_WORLDS: usize = 6;
const EXPRESSIONS_PER_WORLD: usize = 100;
const SAMPLES: usize = 60;
const INTERVAL_SECONDS: usize = 15;

/// An expression, the time of its evaluation, and the result.
struct Case {
    expression: String,
    at_seconds: usize,
    result: Result<Vec<Element>, String>,
}

fn history_of(series: &[(String, String)]) -> History {
    let mut read_set = ReadSet::default();
    read_set.add(&[], i64::MAX / 4);
    let mut history = History::new(read_set);
    for (series, values) in series {
        let labels = parse_series(series).unwrap();
        for (index, value) in parse_values(values).unwrap().into_iter().enumerate() {
            if let Some(value) = value {
                history.record((index * INTERVAL_SECONDS * 1000) as i64, &labels, value);
            }
        }
    }
    history
}

fn semantics() -> Semantics {
    Semantics {
        dialect: Dialect::V2_42,
        default_step_ms: INTERVAL_SECONDS as i64 * 1000,
        ..Semantics::default()
    }
}

fn cases(random: &mut Random, history: &History) -> Vec<Case> {
    let mut cases = Vec::new();
    while cases.len() < EXPRESSIONS_PER_WORLD {
        let depth = 1 + random.below(3);
        let mut grower = Grower(random);
        let expression = if grower.0.one_in(12) {
            grower.scalar(depth)
        } else {
            grower.vector(depth)
        };
        let at_seconds = 300 + random.below(SAMPLES * INTERVAL_SECONDS - 240);
        let Ok(query) = promql::parse(&expression) else {
            continue;
        };
        let value = query.evaluate(history, at_seconds as i64 * 1000, semantics());
        let result = value
            .map(promql::QueryValue::into_vector)
            .map_err(|error| error.to_string());
        // Most expressions should have a result.
        if result.as_ref().is_ok_and(Vec::is_empty) && !random.one_in(4) {
            continue;
        }
        cases.push(Case {
            expression,
            at_seconds,
            result,
        });
    }
    cases
}

fn yaml_number(value: f64) -> String {
    if value.is_nan() {
        ".nan".into()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf".into() } else { "-.inf".into() }
    } else {
        format!("{value:e}")
    }
}

fn unit_test_file(worlds: &[(World, Vec<Case>)]) -> String {
    let mut text = format!("evaluation_interval: {INTERVAL_SECONDS}s\ntests:\n");
    let mut number = 0;
    for (series, cases) in worlds {
        let _ = writeln!(text, "- interval: {INTERVAL_SECONDS}s\n  input_series:");
        for (series, values) in series {
            let _ = writeln!(text, "  - {{series: '{series}', values: '{values}'}}");
        }
        let _ = writeln!(text, "  promql_expr_test:");
        for case in cases {
            // The comment identifies the case in the output of promtool.
            let expression = format!("{} # case {number}", case.expression);
            let _ = writeln!(
                text,
                "  - expr: '{expression}'\n    eval_time: {}s\n    exp_samples:",
                case.at_seconds
            );
            for element in case.result.as_deref().unwrap_or_default() {
                let (labels, value) = (&element.labels, yaml_number(element.value));
                let _ = writeln!(text, "    - {{labels: '{labels}', value: {value}}}");
            }
            number += 1;
        }
    }
    text
}

/// Compares results that promtool rejects again, to eleven digits, because promtool compares bits of floats, treats NaN
/// as unequal, and 2.42 does not compensate sums.
fn same(ours: &[Element], theirs: &BTreeMap<LabelSet, f64>) -> bool {
    let near = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-11 * a.abs().max(b.abs());
    ours.len() == theirs.len()
        && ours.iter().all(|element| {
            theirs
                .get(&element.labels)
                .is_some_and(|value| near(element.value, *value))
        })
}

#[test]
fn promtool_agrees_with_generated_expressions() {
    let mut random = Random(SEED);
    let worlds: Vec<(World, Vec<Case>)> = (0..WORLDS)
        .map(|_| {
            let series = world(&mut random);
            let cases = cases(&mut random, &history_of(&series));
            (series, cases)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("generated.test.yml");
    std::fs::write(&file, unit_test_file(&worlds)).unwrap();

    let objections = objections(&file);
    let cases: Vec<&Case> = worlds.iter().flat_map(|(_, cases)| cases).collect();
    let mut disagreements = Vec::new();
    let (mut errors, mut with_values) = (0, 0);
    for (number, case) in cases.iter().enumerate() {
        let agreed = match (&case.result, objections.get(&number)) {
            (Ok(_), None) => true,
            (Ok(ours), Some(Ok(theirs))) => same(ours, theirs),
            (Err(_), Some(Err(_))) => true,
            _ => false,
        };
        errors += usize::from(case.result.is_err());
        with_values += usize::from(case.result.as_ref().is_ok_and(|elements| !elements.is_empty()));
        if !agreed {
            let objection = objections.get(&number);
            disagreements.push(format!(
                "{} at {}s\n  ours: {:?}\n  theirs: {objection:?}",
                case.expression, case.at_seconds, case.result
            ));
        }
    }
    println!(
        "{} cases: {with_values} with values, {errors} errors, {} looked at twice",
        cases.len(),
        objections.len()
    );
    assert!(with_values >= 300, "only {with_values} cases say something");
    assert!(
        disagreements.is_empty(),
        "{} disagreements:\n{}",
        disagreements.len(),
        disagreements.join("\n")
    );
}

const TEMPLATES: [&str; 10] = [
    "{{ $labels.instance }} of {{ .Labels.job }}: {{ $value | humanize }}",
    "{{ printf \"%.2f|%8.1f|%-6s|%q|%e|%.3g|%%\" $value $value $labels.job $labels.instance 12.5 $value }}",
    "{{ humanizeDuration $value }} {{ humanize1024 $value }}",
    "{{ $value | humanizePercentage }} {{ $labels }}",
    "{{ $externalLabels.site }} {{ $externalURL }} {{ .ExternalLabels }}",
    "{{ $labels.job | toUpper }}{{ title \"is a-b c_d\" | printf \" %s\" -}}   end",
    "{{ $labels.missing }}|{{- 3 }}|{{ -2.5 }}|{{ `raw` }}{{/* silent */}}",
    "{{ (printf \"%d %v %s\" 7 $labels.job) | toUpper }}",
    "{{ printf \"%d %s\" $value }}",
    "{{ humanize \"4250\" }} {{ humanize 0.00321 }} {{ humanizeDuration 93784.5 }}",
];

/// Rules with few and exact values, so that annotations agree to the last character.
fn rules(random: &mut Random) -> String {
    let mut text = "groups:\n".to_owned();
    for group in ["first", "second"] {
        let _ = writeln!(text, "- name: {group}\n  rules:");
        for index in 0..2 {
            let expression = random.pick(&[
                "sum by (job) (few)",
                "few > 1",
                "max_over_time(few[1m]) + rank",
                "count without (instance) (c_total)",
                "ALERTS{alertstate=\"pending\"}",
                "first:r0 * 2",
            ]);
            let _ = writeln!(
                text,
                "  - {{record: '{group}:r{index}', expr: '{expression}', labels: {{by: '{group}'}}}}"
            );
        }
        for index in 0..5 {
            let expression = random.pick(&[
                "few > 1",
                "few * 1000 + rank > 1500",
                "rank / 16 > 20",
                "first:r0 > 2",
                "absent(few{job=\"a\", instance=\"1\"})",
                "changes(few[2m]) > 3",
                "second:r1 unless first:r1",
                "sum by (instance) (rank) * 100000",
                "vector(time()) > 400",
            ]);
            let (delay, kept) = (random.pick(&["0s", "30s", "1m"]), random.pick(&["0s", "30s", "75s"]));
            let (one, two) = (random.pick(&TEMPLATES), random.pick(&TEMPLATES));
            let label = random.pick(&["fixed", "{{ $labels.job }}!", ""]);
            let _ = write!(
                text,
                "  - alert: {group}{index}\n    expr: {expression}\n    for: {delay}\n    keep_firing_for: {kept}\n    \
                 labels: {{severity: '{label}'}}\n    annotations:\n      one: '{one}'\n      two: '{two}'\n"
            );
        }
    }
    text
}

/// A unit-test file that expects evenkeel's result of the rules at each step; `None` if a rule fails.
fn rule_test(random: &mut Random, rules: &str, rule_file: &str) -> Option<String> {
    let series = world(random);
    let parsed = rule_file::parse(rule_file, rules).unwrap();
    let external_labels = LabelSet::from_pairs([("site", "here"), ("zone", "z")]);
    let settings = EvaluatorSettings {
        interval_ms: INTERVAL_SECONDS as i64 * 1000,
        external_labels,
        external_url: "http://prom".into(),
        semantics: semantics(),
    };
    let mut evaluator = Evaluator::new(settings, vec![parsed]);
    let mut text = format!(
        "rule_files: [{rule_file}]\ngroup_eval_order: [first, second]\nevaluation_interval: {INTERVAL_SECONDS}s\ntests:\n- interval: {INTERVAL_SECONDS}s\n  \
         external_labels: {{site: here, zone: z}}\n  external_url: http://prom\n  input_series:\n"
    );
    for (series, values) in &series {
        let _ = writeln!(text, "  - {{series: '{series}', values: '{values}'}}");
    }
    let mut history = history_of(&series);
    text.push_str("  alert_rule_test:\n");
    let mut expressions = "  promql_expr_test:\n".to_owned();
    for step in 0..SAMPLES {
        let at_ms = (step * INTERVAL_SECONDS * 1000) as i64;
        if !evaluator.evaluate_all(&mut history, at_ms).failures.is_empty() {
            return None;
        }
        for name in (0..10).map(|index| format!("{}{}", ["first", "second"][index / 5], index % 5)) {
            let offset_seconds = random.below(INTERVAL_SECONDS);
            let at_seconds = step * INTERVAL_SECONDS + offset_seconds;
            let _ = writeln!(
                text,
                "  - eval_time: {at_seconds}s\n    alertname: {name}\n    exp_alerts:"
            );
            let active = evaluator.active();
            for alert in active.filter(|a| a.fired_at_ms.is_some() && a.labels.get("alertname") == name) {
                text.push_str("    - exp_labels:\n");
                for (name, value) in alert.labels.pairs().iter().filter(|(name, _)| &**name != "alertname") {
                    let _ = writeln!(text, "        {name}: {}", serde_json::to_string(&**value).unwrap());
                }
                text.push_str("      exp_annotations:\n");
                for (name, value) in alert.annotations {
                    let _ = writeln!(text, "        {name}: {}", serde_json::to_string(value).unwrap());
                }
            }
        }
    }
    for expression in [
        "ALERTS",
        "ALERTS_FOR_STATE",
        "{__name__=~\"first:.*|second:.*\"}",
        "count_over_time(ALERTS[2m])",
    ] {
        for at_seconds in [200, 433, 600, 880] {
            let _ = writeln!(
                expressions,
                "  - expr: '{expression}'\n    eval_time: {at_seconds}s\n    exp_samples:"
            );
            let query = promql::parse(expression).unwrap();
            let value = query.evaluate(&history, at_seconds * 1000, semantics()).unwrap();
            for element in value.into_vector() {
                let (labels, value) = (&element.labels, yaml_number(element.value));
                let _ = writeln!(expressions, "    - {{labels: '{labels}', value: {value}}}");
            }
        }
    }
    Some(text + &expressions)
}

#[test]
fn promtool_agrees_with_generated_rules_and_alerts() {
    let mut random = Random(SEED + 1);
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let mut checks = 0;
    while files.len() < RULE_WORLDS {
        let name = format!("rules{}.yml", files.len());
        let rules = rules(&mut random);
        let Some(test) = rule_test(&mut random, &rules, &name) else {
            continue;
        };
        std::fs::write(folder.path().join(&name), rules).unwrap();
        let file = folder.path().join(format!("rules{}.test.yml", files.len()));
        std::fs::write(&file, test).unwrap();
        let loaded = unit_test::load(&file).unwrap();
        let report = loaded.tests.run(&loaded.rules, Dialect::V2_42);
        assert!(report.mismatches.is_empty(), "{:?}", report.mismatches);
        checks += report.checks;
        files.push(file);
    }
    println!("{checks} checks in {} files", files.len());
    let said = run_promtool(&files);
    assert!(!said.contains("FAILED"), "{said}");
}

/// A rule file of a group with a limit, anchors, aliases and merge keys. LIMIT stands for the limit. Prometheus 2.42 takes
/// the name of an alias for the expression, 3 does not.
const WRITTEN_RULES: &str = "groups:
- &first
  name: first
  limit: LIMIT
  rules:
  - record: 'a:doubled'
    expr: a * 2
  - &alert
    alert: High
    expr: a * 2
    labels: &labels {severity: page, team: x}
    annotations: {summary: '{{ $labels.l }} has {{ $value }}'}
  - <<: *alert
    alert: Kept
    keep_firing_for: 2m
    labels: {<<: *labels, team: y}
- {<<: *first, name: second, rules: []}
";

const WRITTEN_TESTS: &str = "rule_files: [rules.yml]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - {series: 'a{l=\"1\"}', values: '1 2 _ stale'}
  - {series: 'a{l=\"2\"}', values: '3 3 3 3 3 3'}
  promql_expr_test:
  - expr: 'a:doubled'
    eval_time: 1m
    exp_samples: [{labels: 'a:doubled{l=\"1\"}', value: 4}, {labels: 'a:doubled{l=\"2\"}', value: 6}]
  alert_rule_test:
  - eval_time: 4m
    alertname: High
    exp_alerts: [{exp_labels: {l: 2, severity: page, team: x}, exp_annotations: {summary: 2 has 6}}]
  - eval_time: 4m
    alertname: Kept
    exp_alerts:
    - {exp_labels: {l: 1, severity: page, team: y}, exp_annotations: {summary: 1 has 4}}
    - {exp_labels: {l: 2, severity: page, team: y}, exp_annotations: {summary: 2 has 6}}
";

#[test]
fn promtool_agrees_on_limits_anchors_and_merge_keys() {
    let folder = tempfile::tempdir().unwrap();
    let (rules, tests) = (folder.path().join("rules.yml"), folder.path().join("rules.test.yml"));
    std::fs::write(&tests, WRITTEN_TESTS).unwrap();
    for (limit, ours, theirs) in [
        ("2", "", "SUCCESS"),
        ("-1", "", "SUCCESS"),
        (
            "1",
            "2 series exceed the group's limit of 1; 2 alerts exceed the group's limit of 1; 2 alerts exceed the \
             group's limit of 1",
            "exceeded limit of 1 with 2 series",
        ),
    ] {
        std::fs::write(&rules, WRITTEN_RULES.replace("LIMIT", limit)).unwrap();
        let said = run_promtool(std::slice::from_ref(&tests));
        assert!(said.contains(theirs), "{said}");
        let loaded = unit_test::load(&tests).unwrap_or_else(|errors| panic!("{errors:?}"));
        let report = loaded.tests.run(&loaded.rules, Dialect::V2_42);
        let errors: Vec<String> = report
            .mismatches
            .iter()
            .filter_map(|mismatch| mismatch.error.clone())
            .collect();
        assert_eq!(errors.join("; "), ours);
        assert_eq!(report.mismatches.is_empty(), ours.is_empty(), "{:?}", report.mismatches);
    }
}

#[test]
fn shipped_alerting_tests_pass_here_as_they_do_under_promtool() {
    let pattern = concat!(env!("CARGO_MANIFEST_DIR"), "/alerting/*.test.yml");
    let files: Vec<_> = glob::glob(pattern).unwrap().map(Result::unwrap).collect();
    assert!(!files.is_empty(), "no tests in {pattern}");
    let said = run_promtool(&files);
    assert!(!said.contains("FAILED"), "{said}");
    for file in &files {
        let loaded = unit_test::load(file).unwrap();
        for dialect in [Dialect::V3, Dialect::V2_42] {
            let report = loaded.tests.run(&loaded.rules, dialect);
            assert!(
                report.checks > 0 && report.mismatches.is_empty(),
                "{} as {dialect:?}: {:?}",
                file.display(),
                report.mismatches
            );
        }
    }
}
