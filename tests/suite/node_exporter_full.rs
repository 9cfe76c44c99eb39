//! The series that the dashboard Node Exporter Full reads (Grafana 1860, version 102): evenkeel has all that
//! node_exporter 1.12.1 has. The names are in `tests/fixtures/node_exporter_full.txt`, one a line.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel::sense::names::may_be_published;

use crate::support::daemon::Home;
use crate::support::eventually;
use crate::support::shipped::root;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Names that node_exporter 1.12.1 does not have.
const UNKNOWN_TO_NODE_EXPORTER: [(&str, &str); 1] = [("node_kernel_hung_tasks", "it is node_kernel_hung_tasks_total")];

/// Names that neither the fixture of the collectors nor every host has.
const ELSEWHERE: [(&str, &str); 7] = [
    (
        "node_netstat_Tcp_MaxConn",
        "only with --collector.netstat.fields, as in node_exporter",
    ),
    ("node_nf_conntrack_entries", "a kernel that tracks connections"),
    ("node_nf_conntrack_entries_limit", "a kernel that tracks connections"),
    ("node_systemd_socket_accepted_connections_total", "systemd"),
    ("node_systemd_socket_current_connections", "systemd"),
    ("node_systemd_socket_refused_connections_total", "systemd"),
    ("node_systemd_units", "systemd"),
];

/// Collectors that are off by default and read by the dashboard.
const FLAGS: [&str; 3] = ["--collector.processes", "--collector.tcpstat", "--collector.interrupts"];

fn names_of(exposition: &str) -> BTreeSet<&str> {
    let series = exposition.lines().filter(|line| !line.starts_with('#'));
    series.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/fixtures").join(name)).expect("a fixture")
}

#[test]
fn every_series_of_node_exporter_full_is_published() {
    let wanted = fixture("node_exporter_full.txt");
    let unknown = UNKNOWN_TO_NODE_EXPORTER.map(|(name, _)| name);
    let elsewhere = ELSEWHERE.map(|(name, _)| name);
    let wanted: BTreeSet<&str> = wanted.lines().collect();
    for name in unknown.iter().chain(&elsewhere) {
        assert!(wanted.contains(name), "the dashboard does not read {name}");
    }
    for name in elsewhere {
        assert!(may_be_published(name), "{name}");
    }
    // The golden test compares it with what a daemon publishes.
    let of_fixture = fixture("collectors/expected.prom");
    let of_fixture = names_of(&of_fixture);
    assert!(of_fixture.contains("node_kernel_hung_tasks_total"));
    let is_open = |name: &&&str| !of_fixture.contains(**name) && !unknown.contains(*name) && !elsewhere.contains(*name);
    let on_this_host: Vec<&&str> = wanted.iter().filter(is_open).collect();
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&FLAGS);
    let mut missing: Vec<&&&str> = Vec::new();
    // Slow collectors may come after the first scrape.
    let is_complete = || {
        let scrape = evenkeel.scrape_text();
        let published = names_of(&scrape);
        missing = on_this_host.iter().filter(|name| !published.contains(**name)).collect();
        eprintln!("missing: {missing:?}");
        missing.is_empty().then_some(())
    };
    eventually("all series of the dashboard", TIMEOUT, is_complete);
}
