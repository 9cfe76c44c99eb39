//! The exposition passes a strict parser.

use std::time::Duration;

use crate::support::daemon::Home;
use crate::support::tools::{python, succeed};
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

const STRICT_PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    print(family.name, family.type)
";

#[test]
fn metrics_pass_a_strict_openmetrics_parser() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&[]);
    // A ratio of processor time needs two samples, so it is there a second after the start.
    let answer = eventually("a scrape with processor use", TIMEOUT, || {
        let accept = [("Accept", OPENMETRICS)];
        let answer = http::request(evenkeel.metrics, "GET", "/metrics", &accept, b"").expect("an answer");
        assert_eq!(answer.status, 200);
        answer.body.contains("\nevenkeel_cpu_busy_ratio ").then_some(answer)
    });
    let content_type = answer.header("Content-Type").unwrap_or_default();
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    home.write("metrics.txt", &answer.body);
    let families = succeed(
        python()
            .args(["-c", STRICT_PARSER])
            .arg(home.path().join("metrics.txt")),
    );
    for expected in [
        "node_cpu_seconds counter",
        "node_memory_MemTotal_bytes gauge",
        "evenkeel_cpu_busy_ratio gauge",
    ] {
        assert!(
            families.lines().any(|family| family == expected),
            "no {expected} in\n{families}"
        );
    }
}

#[test]
fn health_answers_get_and_head() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&[]);
    for path in ["/-/healthy", "/-/ready", "/metrics"] {
        for method in ["GET", "HEAD"] {
            let answer = http::request(evenkeel.metrics, method, path, &[], b"").expect("an answer");
            assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{method} {path}");
        }
    }
}

/// Only the page requests a sample then.
#[test]
fn without_rules_status_and_curves_are_current() {
    let home = Home::new("rules: []\n");
    home.write("evenkeel.yml", "rule_files: []\n");
    let evenkeel = home.start(&[]);
    let status = || -> serde_json::Value {
        let answer = http::get(evenkeel.metrics, "/api/v1/status").expect("an answer");
        serde_json::from_str(&answer.body).expect("JSON")
    };
    let first = status();
    let later = eventually("five seconds on the curves", TIMEOUT, || {
        let status = status();
        let busy = status["trail"]["cpu_busy_ratio"].as_array().expect("a curve").clone();
        (busy.len() >= 5 && busy[1..].iter().all(serde_json::Value::is_number)).then_some(status)
    });
    let text = |status: &serde_json::Value| status["sampled_at"].as_str().expect("a time").to_owned();
    assert!(text(&later) > text(&first), "{first} {later}");
    for figure in ["cpu_busy_ratio", "memory_used_ratio", "load1"] {
        assert!(later["figures"][figure].is_number(), "{figure}: {later}");
    }
}
