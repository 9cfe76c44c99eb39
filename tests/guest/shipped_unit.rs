//! The shipped unit with its sockets and this tree's program, started with a configuration of a test.

use super::*;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use support::metrics::Scrape;

const UNITS: &str = "/etc/systemd/system";
pub const STORAGE: &str = "/var/lib/evenkeel";
pub const RULES: &str = "/etc/evenkeel/rules/test.yml";
pub const SERVICE: &str = include_str!("../../packaging/evenkeel.service");
const SHIPPED: [(&str, &str); 3] = [
    ("evenkeel.service", SERVICE),
    ("evenkeel.socket", include_str!("../../packaging/evenkeel.socket")),
    (
        "evenkeel-webhook.socket",
        include_str!("../../packaging/evenkeel-webhook.socket"),
    ),
];

/// It is stopped and removed when the test ends.
pub struct ShippedUnit;

impl ShippedUnit {
    /// Starts it in `enforce` with a rule file and drop-ins.
    pub fn start(rules: &str, drop_ins: &[&str]) -> ShippedUnit {
        let folder = format!("{UNITS}/evenkeel.service.d");
        for folder in ["/etc/evenkeel/rules", &folder, "/var/log/journal"] {
            std::fs::create_dir_all(folder).expect("a writable guest");
        }
        for (name, text) in SHIPPED {
            let text = text.replace("/usr/bin/evenkeel", env!("CARGO_BIN_EXE_evenkeel"));
            write(&format!("{UNITS}/{name}"), &text);
        }
        for (number, text) in drop_ins.iter().enumerate() {
            write(&format!("{folder}/{number}.conf"), text);
        }
        write(
            "/etc/evenkeel/evenkeel.yml",
            "mode: enforce\nallow_exec: true\nrule_files: [rules/*.yml]\nwebhook: {allow_unauthenticated: true}\n",
        );
        write(RULES, rules);
        // Type=notify: it is ready when systemctl returns.
        sh("systemctl daemon-reload; systemctl start evenkeel");
        ShippedUnit
    }

    /// One rule named `test` that runs a command.
    pub fn start_with_command(argv: &str, drop_ins: &[&str]) -> ShippedUnit {
        let rules = format!("rules: [{{name: test, matchers: ['alertname=\"Test\"'], actions: [{{exec: {argv}}}]}}]\n");
        ShippedUnit::start(&rules, drop_ins)
    }
}

impl Drop for ShippedUnit {
    fn drop(&mut self) {
        let stop = ["stop", "evenkeel", "evenkeel.socket", "evenkeel-webhook.socket"];
        let _ = Command::new("systemctl").args(stop).status();
        for folder in [&format!("{UNITS}/evenkeel.service.d"), STORAGE, "/etc/evenkeel"] {
            let _ = std::fs::remove_dir_all(folder);
        }
        for (name, _) in SHIPPED {
            let _ = std::fs::remove_file(format!("{UNITS}/{name}"));
        }
        let _ = Command::new("systemctl").arg("daemon-reload").status();
    }
}

pub fn write(path: &str, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Sends a webhook to the installed daemon, which must accept it.
pub fn send(webhook: &str) {
    let address: SocketAddr = "127.0.0.1:19798".parse().expect("an address");
    let headers = [("Content-Type", "application/json")];
    let answer = support::http::request(address, "POST", "/webhook", &headers, webhook.as_bytes());
    assert_eq!(answer.expect("evenkeel answers").status, 200);
}

fn answer(path: &str) -> std::io::Result<support::http::Response> {
    let address: SocketAddr = "127.0.0.1:19797".parse().expect("an address");
    support::http::get(address, path)
}

/// The status of `/metrics` and other paths of the installed daemon.
pub fn get(path: &str) -> std::io::Result<u16> {
    answer(path).map(|answer| answer.status)
}

/// The text of `/metrics` of the installed daemon.
pub fn scrape_text() -> String {
    answer("/metrics").expect("an answer").body
}

pub fn scrape() -> Scrape {
    Scrape::parse(&scrape_text())
}

/// The sum of the metric's samples with at least these labels, 0 without samples.
pub fn metric(name: &str, labels: &[(&str, &str)]) -> f64 {
    scrape().sum(name, labels).unwrap_or(0.0)
}

/// A property of the installed unit.
pub fn shows(property: &str) -> String {
    let shown = sh(&format!("systemctl show --value --property={property} evenkeel"));
    shown.trim().to_owned()
}

pub fn main_pid() -> u32 {
    shows("MainPID").parse().expect("a pid")
}

/// The outcomes in the history of the installed daemon, oldest first, with their lines.
pub fn history() -> Vec<(String, String)> {
    let mut history = Command::new(if Path::new("/usr/bin/evenkeel").exists() {
        "/usr/bin/evenkeel"
    } else {
        env!("CARGO_BIN_EXE_evenkeel")
    });
    history.args(["history", "--output=json", &format!("--storage.path={STORAGE}")]);
    let output = history.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let outcome = |line: &str| {
        let record: Value = serde_json::from_str(line).ok()?;
        Some((record["outcome"].as_str()?.to_owned(), line.to_owned()))
    };
    text.lines().filter_map(outcome).collect()
}

/// Waits until the history has this many outcomes of a kind.
pub fn recorded(outcome: &str, number: usize) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let mut history = history();
        // The kernel did as it was asked. What it finds to reclaim in a small unit is up to it; `memory` measures that.
        for (found, line) in &mut history {
            if found == "no_effect" && line.contains("\"step\":\"reclaim ") {
                "applied".clone_into(found);
            }
        }
        let is_failure = |found: &str| ["failed", "denied", "no_effect"].contains(&found);
        let failed: Vec<_> = history.iter().filter(|(found, _)| is_failure(found)).collect();
        assert!(failed.is_empty(), "{failed:?}");
        let found = history.iter().filter(|(found, _)| found == outcome).count();
        if found >= number {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{found} records {outcome}, not {number}: {history:?}"
        );
        std::thread::sleep(PAUSE);
    }
}
