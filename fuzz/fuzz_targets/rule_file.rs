//! Any text as a configuration, as a rule file, as a file of alerting rules, as a test file and as process-exporter's
//! configuration: it is read or refused, every finding can be shown, and what is refused has an error.
#![no_main]

use evenkeel::config::{Config, Loaded, parse_process_exporter};
use evenkeel::diagnostic::{Diagnostic, Findings, Severity, SourceText, render_all};
use evenkeel::sense::groups::group::ExporterOptions;
use evenkeel::simulate::test_file;
use evenkeel::yaml;
use libfuzzer_sys::{Corpus, fuzz_target};

const NAMES_A_RULE_FILE: &str = "\
rule_files: [rules.yml]
process_groups:
  - {name: batch, select: {cgroup: '/batch(/.*)?'}}
";
const NAMES_ALERTING_RULES: &str = "alerting_rule_files: [rules.yml]";

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else {
        return Corpus::Reject;
    };
    // A configuration is read together with the files that hold its secrets; devices and the like are no input here.
    if !text.contains("_file") {
        check(text, Config::from_texts(text, &[]));
    }
    check(text, Config::from_texts(NAMES_A_RULE_FILE, &[("rules.yml", text)]));
    check(text, Config::from_texts(NAMES_ALERTING_RULES, &[("rules.yml", text)]));
    read_process_exporter(text);
    read_test_file(text);
    Corpus::Keep
});

fn read_process_exporter(text: &str) {
    let is_error = |found: &Diagnostic| found.severity == Severity::Error;
    match parse_process_exporter(&SourceText::new("groups.yml", text), ExporterOptions::default()) {
        Ok((groups, warnings)) => {
            assert!(!warnings.iter().any(is_error) && !groups.matchers.is_empty());
            show(text, &warnings);
        }
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(is_error), "refused without an error");
            show(text, &diagnostics);
        }
    }
}

fn check(text: &str, loaded: Result<Loaded, Vec<Diagnostic>>) {
    let is_error = |found: &Diagnostic| found.severity == Severity::Error;
    match loaded {
        Ok(loaded) => {
            assert!(!loaded.warnings.iter().any(is_error));
            show(text, &loaded.warnings);
            for rule in &loaded.rules.rules {
                assert!(!rule.matchers.is_empty());
                assert!(rule.selector().is_none_or(|selector| !selector.conditions.is_empty()));
                assert!(!rule.actions.is_empty() && !rule.hold.is_zero());
                assert!((1..=rule.max_matches.max(rule.limit)).contains(&rule.limit));
            }
        }
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(is_error), "refused without an error");
            show(text, &diagnostics);
        }
    }
}

fn show(text: &str, diagnostics: &[Diagnostic]) {
    // A lone carriage return breaks a line too (YAML 1.2, section 5.4).
    let lines = text.replace("\r\n", "\n").replace('\r', "\n").lines().count() + 1;
    for found in diagnostics {
        assert!(!found.message.is_empty());
        if let Some(span) = found.span {
            assert!(span.line >= 1 && span.column >= 1 && span.width >= 1, "{span:?}");
            // The configuration of our own has four lines.
            assert!(span.line <= lines.max(4), "{span:?}");
        }
    }
    render_all(diagnostics, false);
    render_all(diagnostics, true);
}

fn read_test_file(text: &str) {
    let source = SourceText::new("x.test.yml", text);
    let mut findings = Findings::new(&source);
    if let Some(root) = yaml::parse(&mut findings) {
        test_file::is_promtool(&root);
        test_file::read(&root, &mut findings);
    }
    show(text, &findings.into_diagnostics());
}
