//! Test files that pass and test files that fail.

use super::*;

const RULES: &str = "rules:
- name: calm
  matchers: ['alertname=\"Hot\"']
  select: {name: burner, min_cpu: 0.5}
  order_by: cpu
  limit: 2
  actions: [{nice: 10}]
  hold: 30m
- name: shy
  matchers: ['alertname=\"Shy\"']
  select: {name: shy}
  actions: [{nice: 5}]
  mode: dry-run
- name: end
  matchers: ['alertname=\"Low\"']
  select: {name: hog}
  actions: [{signal: SIGTERM}, {wait: 10s}, {signal: SIGKILL}]
  limit: 2
  while: 'up > 0'
  cooldown: 1m
";

/// Runs tests on the rules above.
fn play(tests: &str) -> TestReport {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rules.yml"), RULES).unwrap();
    let path = directory.path().join("x.test.yml");
    std::fs::write(&path, format!("rule_files: [rules.yml]\ntests:\n{tests}")).unwrap();
    let mut report = run(&path);
    report.file = "x.test.yml".into();
    for diagnostic in report
        .errors
        .iter_mut()
        .chain(report.failures.iter_mut().map(|failure| &mut failure.diagnostic))
    {
        diagnostic.file = diagnostic.file.replace(&format!("{}/", directory.path().display()), "");
    }
    report
}

#[track_caller]
fn check(tests: &str, parts: &[&str]) {
    let report = play(tests);
    let text = report.text(false);
    assert_eq!(report.is_ok(), parts.is_empty(), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

const NICED: &str = "- name: the busiest two rest, and get back what they had
  processes:
  - {pid: 100, name: burner, cpu: 2, nice: 3, threads: 2}
  - {pid: 101, name: burner, cpu: 1}
  - {pid: 102, name: burner, cpu: 0.6}
  - {pid: 103, name: burner, cpu: 0.4}
  - {pid: 104, name: other, cpu: 4}
  - {pid: 105, exe: /usr/sbin/sshd, name: burner, cpu: 3}
  timeline:
  - at: 0s
    fire: {alertname: Hot}
    expect:
    - {pid: 100, step: nice 10, outcome: applied, before: 3, after: 10}
    - {pid: 101, step: nice 10, outcome: applied}
    - {pid: 105, decision: protected, reason: sshd}
    values: [{pid: 100, nice: 10}, {pid: 102, nice: 0}, {pid: 104, nice: 0}]
  - at: 5m
    fire: {alertname: Hot}
    expect: []
  - at: 6m
    exit: [101]
  - at: 6m30s
    expect: [{pid: 102, step: nice 10, outcome: applied}, {pid: 101, step: undo nice, outcome: gone}]
  - at: 7m
    resolve: {alertname: Hot}
    expect:
    - {pid: 100, step: undo nice, outcome: restored, after: 3}
    - {pid: 102, step: undo nice, outcome: restored}
    values: [{pid: 100, nice: 3}]
";

#[test]
fn expected_outcome_passes() {
    check(NICED, &[]);
    let report = play(NICED);
    assert_eq!((report.tests, report.checks), (1, 12));
    assert_eq!(Vec::from_iter(report.fired), ["calm"]);
}

#[test]
fn victims_go_one_at_a_time_on_the_clock_of_the_test() {
    check(
        "- name: two hogs
  processes: [{pid: 7, name: hog, ignores: [SIGTERM], age: 2h}, {pid: 8, name: hog}]
  timeline:
  - at: 0s
    fire: {alertname: Low}
    expect:
    - {pid: 7, step: signal SIGTERM, outcome: applied}
    - {pid: 8, step: signal SIGTERM, decision: awaiting_effect}
  - at: 9s
    expect: []
    values: [{pid: 7, alive: true}]
  - at: 10s
    expect: [{pid: 7, step: signal SIGKILL, outcome: applied}, {pid: 8, decision: cooldown}]
    values: [{pid: 7, alive: false}]
  - {at: 50s, while: false}
  - at: 80s
    expect: [{pid: 8, decision: condition}]
    while: true
  - at: 2m
    expect: [{pid: 8, step: signal SIGTERM, outcome: applied}]
",
        &[],
    );
}

#[test]
fn refusals_are_optional_and_actions_are_not() {
    let refused = "    - {pid: 105, decision: protected, reason: sshd}\n";
    check(&NICED.replace(refused, ""), &[]);
    let (one_more, all) = (
        "{pid: 105, exe: /usr/sbin/sshd",
        "{pid: 106, exe: /usr/bin/dockerd, name: burner, cpu: 3}\n  - ",
    );
    let two = NICED.replace(one_more, &format!("{all}{one_more}"));
    // A list with one protected process must have all of them.
    check(
        &two,
        &[
            "1 thing by 0s that the test does not expect",
            "+ {rule: calm, pid: 106, decision: protected",
        ],
    );
    check(&two.replace(refused, ""), &[]);
    // If an entry is missing, denials are shown.
    check(
        &NICED.replace(refused, "    - {pid: 105, step: nice 10, outcome: applied}\n"),
        &[
            "- {pid: 105, step: nice 10, outcome: applied}",
            "+ {rule: calm, pid: 105, decision: protected",
        ],
    );
    check(
        &NICED.replace("    - {pid: 101, step: nice 10, outcome: applied}\n", ""),
        &["+ {rule: calm, pid: 101, step: nice 10, outcome: applied"],
    );
}

#[test]
fn a_rule_that_says_dry_run_can_be_let_loose_in_a_test() {
    let timeline = "  processes: [{pid: 7, name: shy}]
  timeline:
  - {at: 0s, fire: {alertname: Shy}, expect: [{pid: 7, outcome: OUTCOME}], values: [{pid: 7, nice: NICE}]}
";
    let play = |mode: &str, outcome: &str, nice: &str| {
        let timeline = timeline.replace("OUTCOME", outcome).replace("NICE", nice);
        check(&format!("- name: as it says\n{mode}{timeline}"), &[]);
    };
    play("", "dry_run", "0");
    play("  mode: dry-run\n", "dry_run", "0");
    play("  mode: enforce\n", "applied", "5");
}

#[test]
fn alerts_of_other_hosts_and_the_past_are_reported() {
    check(
        "- name: not about us
  processes: [{pid: 7, name: burner, cpu: 1}]
  timeline:
  - {at: 0s, fire: {alertname: Hot, instance: 'db1:9100'}, expect: [{rule: calm, decision: other_host}]}
  - {at: 1s, fire: {alertname: Hot, instance: ''}, expect: [{decision: other_host}]}
",
        &[],
    );
}

#[test]
fn every_difference_is_shown_with_its_place() {
    check(
        &NICED.replace("pid: 101, step: nice 10", "pid: 101, step: nice 11"),
        &[
            "--> x.test.yml:16:7",
            "- {pid: 101, step: nice 11, outcome: applied}",
            "+ {rule: calm, pid: 101, step: nice 10, outcome: applied, before: 0, after: 10} # at 0s",
            "1 test, 12 checks: 1 failed",
        ],
    );
    check(
        &NICED.replace("{pid: 100, nice: 3}", "{pid: 100, nice: 4}"),
        &["nice of 100 at 420s is 3", "x.test.yml:31:31", "- nice: 4", "+ nice: 3"],
    );
    check(
        &NICED.replace("    - {pid: 102, step: undo nice, outcome: restored}\n", ""),
        &[
            "1 thing by 420s that the test does not expect",
            "+ {rule: calm, pid: 102",
        ],
    );
    let (opening, _) = NICED.split_once("    expect:").unwrap();
    let unfinished = format!("{opening}    values: [{{pid: 104, nice: 0}}]\n");
    check(
        &unfinished,
        &["more happened than the test expects", "+ {rule: calm, pid: 100"],
    );
}

#[test]
fn mistakes_in_a_test_are_found_before_it_is_played() {
    check(
        "- name: x
  processes: [{pid: 0, name: a}, {pid: 5}, {pid: 6, name: a, catches: [SIGURS1]}]
  timeline:
  - {at: 5s, fire: {severity: warning}}
  - {at: 1s, expect: [{pid: 6}, {pid: 7, decision: planned}, {outcome: aplied}]}
  - {at: 9s, chnage: []}
",
        &[
            "`pid` must be a whole number",
            "a process needs a `name` or an `exe`",
            "`SIGURS1` is no signal",
            "did you mean `SIGUSR1`?",
            "an alert has the label `alertname`",
            "this moment is earlier than the one before it",
            "an expectation has either an `outcome` or a `decision`",
            "`planned` is not listed",
            "did you mean `applied`?",
            "did you mean `change`?",
            "cannot be run",
        ],
    );
    check(
        "- {name: x, timeline: [{at: 0s, fire: {alertname: Hot}}]}\n",
        &["this test expects nothing"],
    );
    let report = run(Path::new("/nonexistent/x.test.yml"));
    assert!(!report.is_ok() && report.text(false).contains("cannot read the test file"));
}

#[test]
fn test_files_of_promtool_are_played_by_the_own_evaluator() {
    let alerting = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerting");
    let report = run(&alerting.join("host.rules.test.yml"));
    assert!(report.is_ok() && report.checks > 5, "{}", report.text(false));

    let text = std::fs::read_to_string(alerting.join("host.rules.test.yml")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(alerting.join("host.rules.yml"), directory.path().join("host.rules.yml")).unwrap();
    let path = directory.path().join("x.test.yml");
    std::fs::write(&path, text.replace("now 90%", "now 91%")).unwrap();
    let report = run(&path);
    assert_eq!(report.failures.len(), 1, "{}", report.text(false));
    assert!(report.failures[0].expected[0].contains("now 91%") && report.failures[0].found[0].contains("now 90%"));
}

#[test]
fn pattern_without_a_rule_file_is_a_warning_as_in_promtool() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.test.yml");
    let tests = "tests: [{promql_expr_test: [{expr: 1, eval_time: 0, exp_samples: [{value: 1}]}]}]\n";
    std::fs::write(&path, format!("rule_files: ['none*.yml']\n{tests}")).unwrap();
    let report = run(&path);
    let text = report.text(false);
    assert!(report.is_ok() && report.checks == 1, "{text}");
    assert!(
        text.starts_with("warning: no rule file matches \"none*.yml\""),
        "{text}"
    );
    std::fs::write(&path, format!("rule_files: ['none***']\n{tests}")).unwrap();
    let text = run(&path).text(false);
    assert!(text.contains("error: \"none***\" is no pattern of files"), "{text}");
}

#[test]
fn reference_of_test_files_is_that_of_the_code() {
    let text = include_str!("../../../docs/testing-rules.md");
    let tables = [
        &test_file::TEST_FILE,
        &test_file::TEST,
        &test_file::PROCESS,
        &test_file::CGROUP,
        &test_file::MOMENT,
        &test_file::ANSWER,
        &test_file::EXPECTED,
        &test_file::VALUES,
    ];
    for object in tables {
        let table = crate::schema::tests::markdown(object);
        assert!(
            text.contains(&table),
            "docs/testing-rules.md wants this table of {}:\n{table}",
            object.title
        );
    }
}

#[test]
fn differences_have_no_escapes() {
    let report = TestReport {
        file: "a\u{1b}.yml".to_owned(),
        failures: vec![Failure {
            test: "a".to_owned(),
            diagnostic: Diagnostic::of_file(Severity::Error, "a.yml", "differs", ""),
            expected: vec!["nice \u{1b}[2J".to_owned()],
            found: vec!["nice \u{202e}".to_owned()],
        }],
        ..TestReport::default()
    };
    let text = report.text(false);
    assert!(text.contains("  - nice \\u{1b}[2J\n  + nice \\u{202e}\n"), "{text:?}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
