//! Every shipped rule applies a step in one of its shipped tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use evenkeel::simulate::test::{TestReport, run};

use crate::support::burner::Burner;
use crate::support::tools::succeed;

fn shipped(suffix: &str) -> Vec<PathBuf> {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let files = std::fs::read_dir(rules).expect("rules/ ships");
    let mut files: Vec<PathBuf> = files
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    files.sort();
    files
}

#[test]
fn every_shipped_rule_acts_in_its_own_test() {
    for file in shipped(".yml")
        .iter()
        .filter(|file| !file.to_string_lossy().ends_with(".test.yml"))
    {
        let report = run(&file.with_extension("test.yml"));
        assert!(report.is_ok(), "{}", report.text(false));
        assert!(!report.rules.is_empty());
        assert_eq!(report.fired, report.rules, "in {} these rules never act", report.file);
    }
    let reports: Vec<TestReport> = shipped(".test.yml").iter().map(|file| run(file)).collect();
    let fired: BTreeSet<&str> = reports
        .iter()
        .flat_map(|report| &report.fired)
        .map(String::as_str)
        .collect();
    let embedded = evenkeel::config::Config::embedded().expect("what is built in is good");
    for rule in &embedded.rules.rules {
        assert!(
            fired.contains(rule.name.as_str()),
            "{} is built in and never acts in a test",
            rule.name
        );
    }
}

fn evenkeel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

#[test]
fn tests_of_rules_and_of_alerts_run_side_by_side() {
    let said = succeed(&mut evenkeel(&[
        "test",
        "rules/cpu-saturated.test.yml",
        "alerting/host.rules.test.yml",
    ]));
    assert!(said.contains("rules/cpu-saturated.test.yml: 2 tests"), "{said}");
    assert!(!said.contains('\u{1b}'), "colours belong to terminals: {said}");
}

#[test]
fn a_failed_expectation_is_exit_code_one_and_json_on_demand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    std::fs::copy(rules.join("io-saturated.yml"), folder.path().join("io-saturated.yml")).expect("a writable folder");
    let text = std::fs::read_to_string(rules.join("io-saturated.test.yml")).expect("it ships");
    let file = folder.path().join("wrong.test.yml");
    std::fs::write(
        &file,
        text.replacen("step: ionice idle", "step: ionice best-effort/7", 1),
    )
    .expect("a writable folder");
    let output = evenkeel(&["test", "--output=json"])
        .arg(&file)
        .output()
        .expect("evenkeel runs");
    assert_eq!(output.status.code(), Some(1));
    let reports: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let failure = &reports[0]["failures"][0];
    assert_eq!(failure["line"], 11, "{failure}");
    assert_eq!(
        failure["expected"][0],
        "{pid: 100, step: ionice best-effort/7, outcome: applied}"
    );
    assert!(
        failure["found"][0]
            .as_str()
            .is_some_and(|found| found.contains("ionice idle")),
        "{failure}"
    );
}

#[test]
fn schemas_are_printed_for_editors() {
    for (kind, key) in [("rules", "matchers"), ("config", "rule_files"), ("tests", "timeline")] {
        let said = succeed(&mut evenkeel(&["check", "--schema", kind]));
        let schema: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(said.contains(&format!("\"{key}\"")), "{said}");
    }
}

#[test]
fn a_recorded_host_is_explained_elsewhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (rules, config) = (folder.path().join("rules.yml"), folder.path().join("evenkeel.yml"));
    // Another process than this test, because the recorder and its ancestors are never targets.
    let name = format!("record-{}", std::process::id() % 100_000);
    let burner = Burner::start(&name);
    let rule = format!(
        "rules:\n- name: me\n  matchers: ['alertname=\"Me\"']\n  any_host: true\n  select: {{name: {name}}}\n  actions: [{{nice: 7}}]\n"
    );
    std::fs::write(rules, rule).expect("a writable folder");
    std::fs::write(&config, "rule_files: [rules.yml]\n").expect("a writable folder");
    let (host, alert) = (folder.path().join("host.json"), folder.path().join("alert.json"));
    let config = format!("--config.file={}", config.display());
    let payload = r#"{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"Me"},"startsAt":"2026-01-01T00:00:00Z"}]}"#;
    std::fs::write(&alert, payload).expect("a writable folder");
    succeed(evenkeel(&["explain", &config, "--record"]).arg(&host));
    let said = succeed(
        evenkeel(&["explain", &config, "--alert"])
            .arg(&alert)
            .arg("--host")
            .arg(&host),
    );
    let planned = format!("planned: nice 7 on {}", burner.pid());
    assert!(said.contains(&planned), "{planned:?} is not in\n{said}");
}
