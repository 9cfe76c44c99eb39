//! The real promtool reads rule files, unit tests and expressions as evenkeel does, in the ways that people write them.

use super::promtool::{accepts_rules, run_promtool};
use evenkeel::watch::promql::Dialect;
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
