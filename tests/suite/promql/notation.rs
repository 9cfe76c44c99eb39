//! The real promtool reads rule files, unit tests and expressions as evenkeel does, in the ways that people write them.

use super::promtool::{accepts_rules, objections, run_promtool};
use super::{Case, history_of, same, semantics, unit_test_file};
use evenkeel::watch::promql::{self, Dialect, QueryValue};
use evenkeel::watch::{rule_file, unit_test};
use std::fmt::Write as _;

/// Scalars as written, with the strings that they are.
const SCALARS: [(&str, &str); 19] = [
    ("1.10", "1.10"),
    ("-0", "-0"),
    ("+7", "+7"),
    ("017", "017"),
    ("1_000", "1_000"),
    ("0x1f", "0x1f"),
    ("1e3", "1e3"),
    (".inf", ".inf"),
    (".NaN", ".NaN"),
    ("99999999999999999999", "99999999999999999999"),
    ("yes", "yes"),
    ("off", "off"),
    ("True", "True"),
    ("2026-01-02", "2026-01-02"),
    ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
    ("1:30", "1:30"),
    ("!!str null", "null"),
    ("'~'", "~"),
    ("\"1.10\"", "1.10"),
];

/// Scalars that are null, which is the empty string.
const NULLS: [&str; 4] = ["null", "~", "", "NULL"];

#[test]
fn promtool_agrees_on_the_strings_that_scalars_are() {
    let mapping = |prefix: &str, quoted: bool| {
        let mut text = String::new();
        for (index, (written, meant)) in SCALARS.iter().enumerate() {
            let value = if quoted {
                serde_json::to_string(meant).unwrap()
            } else {
                (*written).to_owned()
            };
            let _ = writeln!(text, "        {prefix}{index}: {value}");
        }
        text
    };
    let nulls = |quoted: bool| {
        let mut text = String::new();
        for (index, written) in NULLS.iter().enumerate() {
            let _ = writeln!(text, "        null{index}: {}", if quoted { "''" } else { written });
        }
        text
    };
    let rules = format!(
        "groups:\n- name: 1.10\n  rules:\n  - record: record\n    expr: 1\n    labels:\n{}  - alert: 1.10\n    expr: \
         1.5\n    for: \n    labels:\n{}    annotations:\n{}{}        external: '{{{{ $externalLabels.e0 }}}}'\n",
        mapping("l", false),
        mapping("l", false) + &nulls(false),
        mapping("a", false),
        nulls(false),
    );
    let mut tests = format!(
        "rule_files: [rules.yml]\ntests:\n- external_labels:\n{}  alert_rule_test:\n",
        mapping("e", false)
    );
    for quoted in [true, false] {
        let _ = write!(
            tests,
            "  - eval_time: 1m\n    alertname: 1.10\n    exp_alerts:\n    - exp_labels:\n{}      exp_annotations:\n{}{}        \
             external: '1.10'\n",
            mapping("l", quoted),
            mapping("a", quoted),
            nulls(quoted),
        );
    }
    let labels: Vec<String> = SCALARS
        .iter()
        .enumerate()
        .map(|(index, (_, meant))| format!("l{index}=\"{meant}\""))
        .collect();
    let _ = write!(
        tests,
        "  promql_expr_test:\n  - expr: record\n    eval_time: 1m\n    exp_samples:\n    - {{labels: 'record{{{}}}', value: 1}}\n",
        labels.join(", ")
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.test.yml");
    std::fs::write(folder.path().join("rules.yml"), rules).unwrap();
    std::fs::write(&file, tests).unwrap();
    let said = run_promtool(std::slice::from_ref(&file));
    assert!(said.contains("SUCCESS"), "{said}");
    let loaded = unit_test::load(&file).unwrap_or_else(|errors| panic!("{errors:?}"));
    let report = loaded.tests.run(&loaded.rules, Dialect::V3);
    assert!(
        report.checks == 3 && report.mismatches.is_empty(),
        "{:?}",
        report.mismatches
    );
}

/// Rule files in unusual YAML. RULE stands for a rule in flow style.
const DOCUMENTS: [&str; 25] = [
    "{\n\t\"groups\": [\n\t\t{\"name\": \"g\", \"rules\": [RULE]}\n\t]\n}\n",
    "groups: [\n{name: g, rules: [RULE]}\n]\n",
    "groups:\n- name: g\n  rules: [\n  RULE,\n  ]\n",
    "groups:\n- name: g\n  rules:\n  - RULE\n...\n",
    "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: \"a\n+ b\"\n",
    "groups:\n- name: g\n  rules:\n  - alert: A\n    expr:\t'a'# comment\n",
    "%YAML 1.1\n---\ngroups:\n- name: g\n  rules: [RULE]\n",
    "# only a comment\n",
    "---\n",
    "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: |\n      1\n        + 1\n\n  - RULE\n",
    "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: >-\n      1\n      + 1\n",
    "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: 1\n      + 1\n",
    "groups:\n- name: \"a\n\n    b\"\n  rules: [RULE]\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: 1, labels: {a: b: c}}\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: 1, annotations: {a: {{ $value }}}}\n",
    "groups:\n- name: g\n  name: h\n  rules: [RULE]\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: 1, labels: {a: 1, a: 2}}\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: 1, labels: [a]}\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: [1]}\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, record: '', expr: 1}\n",
    "groups:\n- name: g\n  rules:\n  - {record: r, expr: 1, for: 0s, annotations: }\n",
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: }\n",
    "groups:\n- name: ~\n  rules: [RULE]\n",
    "groups:\n- name: g\n  limit: 0x10\n  interval: ~\n  rules: [RULE]\n",
    "groups:\n- name: g\n  limit: many\n  rules: [RULE]\n",
];

#[test]
fn promtool_accepts_the_same_rule_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yml");
    let mut disagreements = Vec::new();
    for document in DOCUMENTS {
        let text = document.replace("RULE", "{alert: Flow, expr: a > 1, labels: {severity: page}}");
        std::fs::write(&file, &text).unwrap();
        let (theirs, ours) = (accepts_rules(&file), rule_file::parse("rules.yml", &text));
        if theirs.is_ok() != ours.is_ok() {
            disagreements.push(format!("{text}\n  ours: {:?}\n  theirs: {theirs:?}", ours.err()));
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn promtool_goes_on_where_no_rule_file_matches() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.test.yml");
    let tests = "rule_files: [none.yml, 'none*.yml']\ntests:\n- {promql_expr_test: [{expr: 1, eval_time: 1m, exp_samples: \
                 [{labels: '{}', value: 1}]}]}\n";
    std::fs::write(&file, tests).unwrap();
    let said = run_promtool(std::slice::from_ref(&file));
    assert!(
        said.contains("SUCCESS") && said.contains("no file match pattern"),
        "{said}"
    );
    let loaded = unit_test::load(&file).unwrap();
    let warnings: Vec<&str> = loaded.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        warnings,
        [
            "no rule file matches \"none.yml\"",
            "no rule file matches \"none*.yml\""
        ]
    );
    let report = loaded.tests.run(&loaded.rules, Dialect::V3);
    assert!(
        report.checks == 1 && report.mismatches.is_empty(),
        "{:?}",
        report.mismatches
    );
}

/// Expressions whose results depend on how numbers and times are read or printed. promtool names a case by the comment
/// after it.
fn expressions() -> Vec<String> {
    let mut expressions = Vec::new();
    for function in [
        "minute",
        "hour",
        "day_of_week",
        "day_of_month",
        "day_of_year",
        "days_in_month",
        "month",
        "year",
    ] {
        for time in [
            "NaN",
            "Inf",
            "-Inf",
            "0",
            "-0.9",
            "-1",
            "253402300800",
            "-62135596801",
            "1e15",
            "-1e15",
            "9e18",
            "-9e18",
            "9223372036854775807",
            "-9223372036854775808",
            "-9223372028800000000",
            "1e20",
            "-1e20",
        ] {
            expressions.push(format!("{function}(vector({time}))"));
        }
        expressions.push(format!("{function}()"));
    }
    for value in [
        "-0",
        "0",
        "0 * -1",
        "1e21",
        "1e-7",
        "0.1 + 0.2",
        "NaN",
        "-Inf",
        "123456789",
        "-1e-300",
    ] {
        expressions.push(format!("count_values(\"v\", vector({value}))"));
    }
    expressions.push("count_values(\"v\", vector(-0) or label_replace(vector(0), \"a\", \"b\", \"\", \"\"))".into());
    for range in [
        "1m # why",
        "1m # it''s\n\n    ",
        "1m: # one\n\n    15s # \"two\n\n    ",
        "1m # ]\n\n    ",
    ] {
        let end = if range.contains('\n') { "" } else { "\n\n    " };
        expressions.push(format!("sum_over_time(a[{range}{end}])"));
    }
    expressions.push("a # one\n\n    + # two\n\n    a{l=\"#\"}".into());
    expressions
}

#[test]
fn promtool_agrees_on_numbers_dates_and_comments() {
    let series = vec![("a{l=\"#\"}".to_owned(), "1x60".to_owned())];
    let history = history_of(&series);
    let mut cases = Vec::new();
    for expression in expressions() {
        // Single quotes and line breaks are doubled in the test file, which has the expression in single quotes.
        let plain = expression.replace("''", "'").replace("\n\n    ", "\n");
        let query = promql::parse(&plain).unwrap_or_else(|refusals| panic!("{plain}: {refusals:?}"));
        let value = query.evaluate(&history, 300_000, semantics()).unwrap();
        cases.push(Case {
            expression,
            at_seconds: 300,
            result: Ok(QueryValue::into_vector(value)),
        });
    }
    let worlds = [(series, cases)];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written.test.yml");
    std::fs::write(&file, unit_test_file(&worlds)).unwrap();
    let objections = objections(&file);
    let mut disagreements = Vec::new();
    for (number, case) in worlds[0].1.iter().enumerate() {
        let (ours, theirs) = (case.result.as_ref().unwrap(), objections.get(&number));
        let agreed = match theirs {
            None => true,
            Some(Ok(theirs)) => same(ours, theirs),
            Some(Err(_)) => false,
        };
        if !agreed {
            disagreements.push(format!("{}\n  ours: {ours:?}\n  theirs: {theirs:?}", case.expression));
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}
