//! The shipped files for Prometheus and Alertmanager: their own tools and evenkeel accept them, alerts fire and route
//! as intended, and each alert has a runbook.

use std::collections::BTreeSet;
use std::process::Command;

use regex::Regex;

use crate::support::shipped::{alerts, items, names, root, rule_files, yaml};
use crate::support::tools::{succeed, tool};

/// Runs a tool in `alerting/`, where the files name each other by relative paths.
#[track_caller]
fn check(name: &str, arguments: &[&str]) -> String {
    let mut command: Command = tool(name);
    succeed(command.args(arguments).current_dir(root().join("alerting")))
}

#[test]
fn promtool_accepts_the_rules() {
    for file in rule_files() {
        check(
            "promtool",
            &["check", "rules", "--lint-fatal", &file.display().to_string()],
        );
    }
}

#[test]
fn rules_fire_and_record_when_they_should() {
    let tests = names(&root().join("alerting"), ".test.yml");
    assert_eq!(tests.len(), rule_files().len(), "a test beside each file");
    for test in &tests {
        check("promtool", &["test", "rules", test]);
    }
}

#[test]
fn evenkeel_evaluates_them_as_prometheus_does() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let config = home.path().join("evenkeel.yml");
    let files: Vec<String> = rule_files()
        .iter()
        .map(|file| format!("'{}'", file.display()))
        .collect();
    std::fs::write(&config, format!("alerting_rule_files: [{}]\n", files.join(", "))).expect("a writable folder");
    let evenkeel = || Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    let said = succeed(
        evenkeel()
            .arg("check")
            .arg(format!("--config.file={}", config.display())),
    );
    assert!(
        said.contains(&format!("{} files of alerting rules are valid", files.len())),
        "{said}"
    );
    // A rule for a Prometheus only has a warning that says so. There must be no other warnings.
    let mut warnings = said.lines().filter(|line| line.starts_with("warning"));
    assert!(
        warnings.all(|line| line.contains("no collector of evenkeel publishes")),
        "{said}"
    );

    // Unit tests of expressions run in promtool only; those of alerts run in both.
    let tests = names(&root().join("alerting"), ".rules.test.yml");
    succeed(evenkeel().arg("test").args(&tests).current_dir(root().join("alerting")));
}

#[test]
fn every_alert_has_tests_for_firing_and_not_firing() {
    let mut fires = BTreeSet::new();
    let mut rests = BTreeSet::new();
    for name in names(&root().join("alerting"), ".rules.test.yml") {
        let file = yaml(&root().join("alerting").join(name));
        for case in items(&file, "tests").flat_map(|test| items(test, "alert_rule_test")) {
            let seen = if items(case, "exp_alerts").next().is_some() {
                &mut fires
            } else {
                &mut rests
            };
            seen.insert(case["alertname"].as_str().expect("a name").to_owned());
        }
    }
    let alerts: BTreeSet<String> = alerts()
        .iter()
        .map(|(_, alert)| alert["alert"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(fires, alerts);
    assert_eq!(rests, alerts);
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_read_on() {
    const BASE: &str = "https://github.com/evenkeel/evenkeel/blob/main/docs/runbooks/";
    let mut told = BTreeSet::new();
    for (file, alert) in alerts() {
        let name = alert["alert"].as_str().expect("a name");
        let about = || format!("{name} in {}", file.display());
        let severity = alert["labels"]["severity"].as_str();
        assert!(
            matches!(severity, Some("warning" | "critical")),
            "{}: {severity:?}",
            about()
        );
        let annotation = |key: &str| alert["annotations"][key].as_str().unwrap_or_default();
        for key in ["summary", "description"] {
            assert!(!annotation(key).trim().is_empty(), "{} has no {key}", about());
        }
        assert_eq!(annotation("runbook_url"), format!("{BASE}{name}.md"), "{}", about());
        assert!(told.insert(format!("{name}.md")), "{} is there twice", about());
    }
    let folder = root().join("docs/runbooks");
    let written: BTreeSet<String> = names(&folder, ".md").into_iter().collect();
    assert_eq!(written, told, "a runbook for each alert, and an alert for each runbook");
    let word = Regex::new(r"\b(Host|Evenkeel)[A-Z][A-Za-z]+\b").expect("a pattern");
    let file = Regex::new("`((?:rules|docs|packaging|alerting)/[^` ]+)`").expect("a pattern");
    for name in written {
        let text = std::fs::read_to_string(folder.join(&name)).expect("a readable runbook");
        let title = name.trim_end_matches(".md");
        assert!(text.starts_with(&format!("# {title}\n")), "{name}");
        for heading in ["## Diagnosis", "## Fix", "## What evenkeel does"] {
            assert_eq!(text.matches(&format!("\n{heading}\n")).count(), 1, "{name}: {heading}");
        }
        // The alerts and rules that it mentions must exist.
        for found in word.find_iter(&text) {
            assert!(
                told.contains(&format!("{}.md", found.as_str())),
                "{name}: {}",
                found.as_str()
            );
        }
        for found in file.captures_iter(&text) {
            assert!(root().join(&found[1]).exists(), "{name}: {}", &found[1]);
        }
    }
}

#[test]
fn runbooks_name_the_rule_that_answers() {
    for file in names(&root().join("rules"), ".yml") {
        if file.ends_with(".test.yml") {
            continue;
        }
        let rules = yaml(&root().join("rules").join(&file));
        for rule in items(&rules, "rules") {
            let matchers = rule["matchers"].to_string();
            let alerts = alerts();
            let answered = alerts
                .iter()
                .filter_map(|(_, alert)| alert["alert"].as_str())
                .filter(|name| matchers.contains(&format!("\\\"{name}\\\"")));
            for alert in answered {
                let path = root().join(format!("docs/runbooks/{alert}.md"));
                let text = std::fs::read_to_string(&path).expect("a runbook");
                let name = rule["name"].as_str().expect("a rule has a name");
                assert!(
                    text.contains(&format!("`{name}` (`rules/{file}`)")),
                    "{alert}.md: {name}"
                );
            }
        }
    }
}

#[test]
fn promtool_accepts_the_configuration_with_every_rule_file() {
    let said = check("promtool", &["check", "config", "prometheus.yml"]);
    for file in rule_files() {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        assert!(said.contains(&name), "{name} is not in\n{said}");
    }
}

#[test]
fn amtool_accepts_the_alertmanager_configuration() {
    check("amtool", &["check-config", "alertmanager.yml"]);
}

#[test]
fn alerts_are_routed_to_evenkeel_and_to_people() {
    for (receivers, labels) in [
        (
            "evenkeel,people",
            &["alertname=HostCpuSaturated", "severity=warning"][..],
        ),
        ("evenkeel,pager", &["alertname=HostFilesystemFull", "severity=critical"]),
        ("evenkeel,none", &["alertname=Told", "severity=info"]),
        (
            "evenkeel,people",
            &["alertname=ShopErrors", "evenkeel=raise-log-level", "service=shop"],
        ),
        ("people", &["alertname=EvenkeelPausedTooLong", "severity=warning"]),
        ("pager", &["alertname=EvenkeelDown", "severity=critical"]),
    ] {
        let verify = format!("--verify.receivers={receivers}");
        let test = ["config", "routes", "test", "--config.file=alertmanager.yml", &verify];
        check("amtool", &[&test[..], labels].concat());
    }
}

/// An inhibited alert never reaches evenkeel, nor does its resolve.
#[test]
fn no_alert_that_a_rule_answers_is_inhibited() {
    let configuration = yaml(&root().join("alerting/alertmanager.yml"));
    let matcher = Regex::new(r#"^alertname=~?"(.*)"$"#).expect("a pattern");
    let mut inhibited = BTreeSet::new();
    for target in items(&configuration, "inhibit_rules").flat_map(|rule| items(rule, "target_matchers")) {
        let text = target.as_str().expect("a matcher");
        let names = matcher
            .captures(text)
            .unwrap_or_else(|| panic!("{text} is not about names"));
        inhibited.extend(names[1].split('|').map(str::to_owned));
    }
    assert!(inhibited.len() >= 5, "{inhibited:?}");
    let known: BTreeSet<String> = alerts()
        .iter()
        .filter_map(|(_, alert)| alert["alert"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(
        inhibited.difference(&known).collect::<Vec<_>>(),
        [&""; 0],
        "no such alerts"
    );
    let embedded = evenkeel::config::Config::embedded().expect("what is built in is good");
    for rule in &embedded.rules.rules {
        let answered = rule
            .matchers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ");
        for name in &inhibited {
            assert!(!answered.contains(name.as_str()), "{} answers to {name}", rule.name);
        }
    }
}
