//! What is scraped: judged by a strict parser, by Prometheus, and by the dashboards that ship.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::burner::Burner;
use crate::support::daemon::Home;
use crate::support::payload::about;
use crate::support::prometheus::Prometheus;
use crate::support::tools::{python, succeed};
use crate::support::{eventually, free_address, http, node_name};

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
fn health_is_told_to_get_and_head() {
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

/// Every query that a dashboard makes, with its variables filled in; annotations apart, which show events only.
fn queries_of(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets
        .map(|target| {
            let expr = target["expr"].as_str().expect("a target has an expression");
            expr.replace("$job", "evenkeel")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "10s")
        })
        .collect()
}

#[test]
fn every_dashboard_query_finds_data() {
    let name = format!("dashboard-{}", std::process::id() % 100_000);
    // Something must have happened for the counters of what happened to be there.
    let home = Home::new(&format!(
        "rules:\n\
         \x20 - name: test\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {{name: {name}}}\n\
         \x20   actions: [{{nice: 15}}]\n"
    ));
    let burner = Burner::start(&name);
    let evenkeel = home.start(&["--enforce"]);
    let prometheus = Prometheus::start(&[("evenkeel", evenkeel.metrics)], "groups: []\n", free_address());
    evenkeel.post(about("Test", &node_name()).as_bytes());
    eventually("the burner to be niced", TIMEOUT, || burner.is_at(15).then_some(()));

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    let text = std::fs::read_to_string(folder.join("host.json")).expect("the dashboard ships");
    let queries = queries_of(&serde_json::from_str(&text).expect("a dashboard is JSON"));
    assert!(queries.len() > 20, "{queries:?}");
    // A kernel may be built without pressure information; nothing else may be missing.
    let has_pressure = Path::new("/proc/pressure/cpu").exists();
    for query in queries
        .iter()
        .filter(|query| has_pressure || !query.contains("node_pressure"))
    {
        eventually(&format!("data for {query}"), TIMEOUT, || {
            (!prometheus.query(query).is_empty()).then_some(())
        });
    }
}
