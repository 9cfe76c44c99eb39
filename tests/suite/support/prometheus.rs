//! A real Prometheus on loopback with an interval of one second, or others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::tools::tool;
use super::{eventually, free_address, http, node_name};

const START_ATTEMPTS: u32 = 5;
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Prometheus {
    pub address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Prometheus {
    /// Scrapes `targets` (job and address), each as an instance of this node's name, and sends the alerts of `rules`
    /// (the text of a rule file) to the Alertmanager.
    pub fn start(targets: &[(&str, SocketAddr)], rules: &str, alertmanager: SocketAddr) -> Self {
        let targets: Vec<_> = targets.iter().map(|(job, address)| (*job, *address, 1)).collect();
        Self::start_at_intervals(&targets, rules, alertmanager)
    }

    /// The same with an interval of some seconds for each job.
    pub fn start_at_intervals(targets: &[(&str, SocketAddr, u32)], rules: &str, alertmanager: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let node_name = node_name();
        let mut config = format!(
            "global: {{evaluation_interval: 1s}}\n\
             rule_files: [test.rules.yml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
             scrape_configs:\n"
        );
        for (job, address, seconds) in targets {
            // Prometheus permits no longer timeout than the interval, and its default is 10 s.
            let timeout = seconds.min(&10);
            config.push_str(&format!(
                "  - job_name: {job}\n    scrape_interval: {seconds}s\n    scrape_timeout: {timeout}s\n    static_configs: [{{targets: ['{address}'], labels: {{instance: '{node_name}'}}}}]\n"
            ));
        }
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("a writable folder");
        std::fs::write(dir.path().join("test.rules.yml"), rules).expect("a writable folder");
        let (address, process) = start_server("prometheus", START_ATTEMPTS, |address| {
            let mut command = tool("prometheus");
            command
                .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
                .arg(format!("--web.listen-address={address}"));
            command
        });
        Prometheus {
            address,
            _process: process,
            _dir: dir,
        }
    }

    /// The present result of a query, as the API's JSON.
    pub fn query(&self, expr: &str) -> Vec<Value> {
        self.ask("query?query=", expr)["result"]
            .as_array()
            .expect("a vector or a matrix")
            .clone()
    }

    /// The result of a query at a Unix time in seconds.
    pub fn query_at(&self, expr: &str, at: f64) -> Vec<Value> {
        self.ask(&format!("query?time={at:.3}&query="), expr)["result"]
            .as_array()
            .expect("a vector or a matrix")
            .clone()
    }

    /// The type of each family of a job, from the metadata of its target.
    pub fn types(&self, job: &str) -> BTreeMap<String, String> {
        let families = self.ask("targets/metadata?match_target=", &format!("{{job=\"{job}\"}}"));
        let text = |family: &Value, key: &str| family[key].as_str().expect("a text").to_owned();
        let families = families.as_array().expect("an array").iter();
        families
            .map(|family| (text(family, "metric"), text(family, "type")))
            .collect()
    }

    fn ask(&self, what: &str, parameter: &str) -> Value {
        let encoded: String = parameter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = http::get(self.address, &format!("/api/v1/{what}{encoded}")).expect("Prometheus answers");
        let mut json: Value = serde_json::from_str(&answer.body).expect("Prometheus answers JSON");
        assert_eq!(json["status"], "success", "{parameter}: {}", answer.body);
        json["data"].take()
    }
}

/// Starts a server on a free port and waits until it is ready; on another port if another process was faster.
pub fn start_server(
    name: &str,
    attempts: u32,
    command: impl Fn(SocketAddr) -> std::process::Command,
) -> (SocketAddr, Process) {
    let address = free_address();
    let mut process = Process::start(name, &mut command(address));
    let ready = eventually(&format!("{name} to be ready"), START_TIMEOUT, || {
        if process.ended().is_some() {
            return Some(false);
        }
        matches!(http::get(address, "/-/ready"), Ok(answer) if answer.status == 200).then_some(true)
    });
    if ready {
        return (address, process);
    }
    assert!(attempts > 1, "{name} does not start:\n{}", process.log().join("\n"));
    start_server(name, attempts - 1, command)
}
