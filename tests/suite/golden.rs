//! All collectors on the files of a host that does not exist, in tests/fixtures/collectors/tree.txt: the daemon publishes
//! the series in expected.prom there. `UPDATE_COLLECTORS=1` writes that file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel::sense::COLLECTORS;

use crate::support::daemon::Home;
use crate::support::shipped::root;
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Collectors that ask more than files, or files that this test does not have.
const OTHERS: [&str; 14] = [
    "conntrack",
    "dmi",
    "ethtool",
    "filesystem",
    "groups",
    "network_route",
    "process",
    "processes",
    "systemd",
    "tcpstat",
    "time",
    "timex",
    "udp_queues",
    "uname",
];

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/collectors")
}

/// Writes the files and links of the fixture below a directory.
fn write_tree(directory: &Path) {
    let text = fs::read_to_string(fixtures().join("tree.txt")).expect("the fixture");
    for section in text.split("\n%% ").skip(1) {
        let (path, content) = section.split_once('\n').unwrap_or((section, ""));
        let (path, target) = match path.split_once(" -> ") {
            Some((path, target)) => (path, Some(target)),
            None => (path, None),
        };
        let path = directory.join(path);
        fs::create_dir_all(path.parent().expect("a path below the directory")).expect("a directory");
        match target {
            Some(target) => symlink(target, path).expect("a link"),
            None => fs::write(path, format!("{content}\n")).expect("a file"),
        }
    }
}

/// The series of host metrics, sorted, without those that differ from run to run.
fn series(exposition: &str, directory: &Path) -> Vec<String> {
    let is_stable = |line: &&str| line.starts_with("node_") && !line.starts_with("node_scrape_");
    let place = directory.display().to_string();
    let mut series: Vec<String> = exposition
        .lines()
        .filter(is_stable)
        .map(|line| line.replace(&place, ""))
        .filter(|line| !line.starts_with("node_exporter_build_info"))
        .collect();
    series.sort();
    series
}

#[test]
fn every_collector_publishes_the_series_of_the_fixture() {
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {slow_interval: 1s}\nrule_files: [rules/*.yml]\n",
    );
    let tree = home.path().join("tree");
    write_tree(&tree);
    let path = |name: &str| tree.join(name).display().to_string();
    let mut flags = vec![
        format!("--path.procfs={}", path("proc")),
        format!("--path.sysfs={}", path("sys")),
        format!("--path.rootfs={}", path("root")),
        format!("--path.udev.data={}", path("udev")),
        format!("--collector.wifi.fixtures={}", path("wifi")),
        format!("--collector.qdisc.fixtures={}", path("qdisc")),
        "--collector.bcache.priorityStats".to_owned(),
        "--collector.cpu.info.flags-include=^avx".to_owned(),
        "--collector.cpu.info.bugs-include=^mds$".to_owned(),
        "--collector.stat.softirq".to_owned(),
        "--collector.sysctl.include=fs.file-nr:total,current,max".to_owned(),
        "--collector.sysctl.include=kernel.threads-max".to_owned(),
        "--collector.sysctl.include-info=kernel.seccomp.actions_avail".to_owned(),
    ];
    for info in COLLECTORS {
        let no = if OTHERS.contains(&info.name) { "no-" } else { "" };
        flags.push(format!("--{no}collector.{}", info.name));
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let daemon = home.start(&flags);
    let scrape = || {
        let headers = [("Accept", "text/plain;version=0.0.4")];
        let answer = http::request(daemon.metrics, "GET", "/metrics", &headers, b"").ok()?;
        // The slow collectors are read once the first fast ones are.
        answer.body.contains("node_zoneinfo_").then_some(answer.body)
    };
    let found = series(&eventually("the slow collectors", TIMEOUT, scrape), &tree);
    let file = fixtures().join("expected.prom");
    if std::env::var_os("UPDATE_COLLECTORS").is_some() {
        fs::write(&file, found.join("\n") + "\n").expect("a writable fixture");
    }
    let expected = fs::read_to_string(&file).expect("the fixture");
    let expected: Vec<&str> = expected.lines().collect();
    let missing: Vec<_> = expected
        .iter()
        .filter(|line| !found.iter().any(|found| found == *line))
        .collect();
    let new: Vec<_> = found.iter().filter(|line| !expected.contains(&line.as_str())).collect();
    assert!(
        missing.is_empty() && new.is_empty(),
        "missing: {missing:#?}\nnew: {new:#?}"
    );
    for info in COLLECTORS.iter().filter(|info| !OTHERS.contains(&info.name)) {
        let names: Vec<&str> = info.metrics.split_ascii_whitespace().collect();
        let is_published = found.iter().any(|line| {
            names.iter().any(|name| {
                let name = name.trim_end_matches('*');
                line.strip_prefix(name)
                    .is_some_and(|rest| name.ends_with('_') || rest.starts_with(['{', ' ']))
            })
        });
        assert!(
            is_published || info.name == "textfile" || info.name == "bonding",
            "no series of {}",
            info.name
        );
    }
}
