//! Any body that a webhook may be sent: alerts or a reason, within bounds, and the index of rules finds what looking at
//! each rule finds.
#![no_main]

use evenkeel::alert::{Status, decode};
use evenkeel::config::Config;
use evenkeel::rule::{Rule, RuleIndex};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

/// Rules that insist on a value, on one of several, and on none.
const MATCHERS: [&str; 6] = [
    r#"'alertname="HostCpuSaturated"'"#,
    r#"'alertname=~"HostMemoryLow|HostOomKill"', 'severity="page"'"#,
    r#"'alertname=~"Host.*"', 'instance!=""'"#,
    r#"'severity=~"warning|critical|warning"'"#,
    r#"'job!~"a.*"', 'alertname!="Watchdog"', 'severity=~".+"'"#,
    "'severity=µ'",
];

static RULES: LazyLock<Vec<Arc<Rule>>> = LazyLock::new(|| {
    let rule = |(number, matchers): (usize, &&str)| {
        format!("  - {{name: r{number}, matchers: [{matchers}], select: {{name: x}}, actions: [{{nice: 5}}]}}\n")
    };
    let rules: String = MATCHERS.iter().enumerate().map(rule).collect();
    let text = format!("rules:\n{rules}");
    let loaded = Config::from_texts("rule_files: [r.yml]", &[("r.yml", &text)]);
    loaded.expect("good rules").rules.rules
});

fuzz_target!(|data: &[u8]| {
    let now = Timestamp::UNIX_EPOCH;
    let Ok(envelope) = decode(data, now) else {
        return;
    };
    let index = RuleIndex::new(&RULES);
    for (place, entry) in envelope.alerts.iter().enumerate() {
        let alert = match entry {
            Ok(alert) => alert,
            Err(invalid) => {
                assert_eq!(invalid.index, place);
                assert!(
                    !invalid.reason.is_empty() && invalid.reason.chars().count() <= 201,
                    "{invalid}"
                );
                continue;
            }
        };
        assert!(!alert.labels.is_empty());
        assert!(
            alert
                .labels
                .iter()
                .all(|(name, value)| !name.is_empty() && !value.is_empty())
        );
        assert!(alert.fingerprint.len() == 16 && alert.fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(alert.ends_at.is_some(), alert.status == Status::Resolved);
        let found: Vec<&str> = index.matching(&alert.labels).map(|rule| rule.name.as_str()).collect();
        let matching = RULES.iter().filter(|rule| rule.matches(&alert.labels));
        let expected: Vec<&str> = matching.map(|rule| rule.name.as_str()).collect();
        assert_eq!(found, expected);
    }
});
