//! All collectors on the files of a host that does not exist, in tests/fixtures/collectors/tree.txt: the daemon publishes
//! the types and series in expected.prom there, and fuzzing starts from the same files. `UPDATE_COLLECTORS=1` writes
//! expected.prom and the seeds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel::sense::COLLECTORS;

use crate::support::daemon::Home;
use crate::support::shipped::root;
use crate::support::{eventually, http};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Collectors that ask more than files.
const OTHERS: [&str; 10] = [
    "ethtool",
    "filesystem",
    "groups",
    "network_route",
    "perf",
    "process",
    "systemd",
    "time",
    "timex",
    "uname",
];

/// The bounds of the fuzz target `kernel_files`, and the line between two files of a seed.
const MAX_FILES: usize = 16;
const MAX_BYTES: usize = 8000;
const MAX_DEPTH: usize = 8;
const DIVIDER: &str = "\n%%\n";

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/collectors")
}

/// An entry of the fixture.
enum Entry {
    File { path: String, content: String },
    Link { path: String, target: String },
}

fn entries() -> Vec<Entry> {
    let text = fs::read_to_string(fixtures().join("tree.txt")).expect("the fixture");
    let entry = |section: &str| {
        let (path, content) = section.split_once('\n').unwrap_or((section, ""));
        match path.split_once(" -> ") {
            Some((path, target)) => Entry::Link {
                path: path.to_owned(),
                target: target.to_owned(),
            },
            None => Entry::File {
                path: path.to_owned(),
                content: format!("{}\n", content.trim_end_matches('\n')),
            },
        }
    };
    text.split("\n%% ").skip(1).map(entry).collect()
}

/// Writes the files and links of the fixture below a directory.
fn write_tree(directory: &Path) {
    let create_parent = |path: &Path| {
        fs::create_dir_all(path.parent().expect("a path below the directory")).expect("a directory");
    };
    for entry in entries() {
        match entry {
            Entry::File { path, content } => {
                let path = directory.join(path);
                create_parent(&path);
                fs::write(path, content).expect("a file");
            }
            Entry::Link { path, target } => {
                let path = directory.join(path);
                create_parent(&path);
                symlink(target, path).expect("a link");
            }
        }
    }
}

/// The fixture as seeds, each with whole folders of the third level as long as they fit. A seed has no links: a file
/// behind one is at the place of the link.
fn seeds() -> Vec<String> {
    let entries = entries();
    let behind_link = |path: &str| {
        entries.iter().find_map(|entry| {
            let Entry::Link { path: link, target } = entry else {
                return None;
            };
            let target = target.trim_start_matches("../");
            let (_, rest) = path.split_once(&format!("/{target}/"))?;
            Some(format!("{link}/{rest}"))
        })
    };
    let folder = |path: &str| path.split('/').take(3).collect::<Vec<_>>().join("/");
    let mut folders: Vec<(String, Vec<String>)> = Vec::new();
    for entry in &entries {
        let Entry::File { path, content } = entry else { continue };
        let path = behind_link(path).unwrap_or_else(|| path.clone());
        assert!(path.split('/').count() <= MAX_DEPTH, "too deep for the target: {path}");
        let section = format!("{path}\n{}", content.trim_end_matches('\n'));
        match folders.last_mut() {
            Some((last, sections)) if *last == folder(&path) => sections.push(section),
            _ => folders.push((folder(&path), vec![section])),
        }
    }
    let bytes = |sections: &[String]| {
        sections
            .iter()
            .map(|section| section.len() + DIVIDER.len())
            .sum::<usize>()
    };
    let mut seeds: Vec<Vec<String>> = vec![Vec::new()];
    for (_, sections) in folders {
        for part in sections.chunks(MAX_FILES) {
            let last = seeds.last_mut().expect("one at least");
            let fits = last.len() + part.len() <= MAX_FILES && bytes(last) + bytes(part) <= MAX_BYTES;
            match fits {
                true => last.extend_from_slice(part),
                false => seeds.push(part.to_vec()),
            }
        }
    }
    seeds.iter().map(|sections| sections.join(DIVIDER)).collect()
}

#[test]
fn fuzzing_starts_from_every_file_of_the_fixture() {
    let directory = root().join("fuzz/seeds/kernel_files");
    let path = |number: usize| directory.join(format!("tree-{number:02}"));
    let seeds = seeds();
    if std::env::var_os("UPDATE_COLLECTORS").is_some() {
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(path(number), seed).expect("a writable folder");
        }
    }
    for (number, seed) in seeds.iter().enumerate() {
        let found = fs::read_to_string(path(number)).unwrap_or_default();
        assert!(
            found == *seed,
            "run this test with UPDATE_COLLECTORS=1: tree-{number:02}"
        );
        assert!(seed.len() <= MAX_BYTES, "tree-{number:02} is too long");
    }
    assert!(
        !path(seeds.len()).exists(),
        "delete the seeds from tree-{:02} on",
        seeds.len()
    );
}

const TYPE: &str = "# TYPE ";

/// The types and series of host metrics, sorted, without those that differ from run to run.
fn series(exposition: &str, directory: &Path) -> Vec<String> {
    let name = |line: &str| {
        let start = line.strip_prefix(TYPE).unwrap_or(line);
        start.split(['{', ' ']).next().unwrap_or_default().to_owned()
    };
    let is_stable = |line: &&str| {
        let name = name(line);
        name.starts_with("node_") && !name.starts_with("node_scrape_") && name != "node_exporter_build_info"
    };
    let place = directory.display().to_string();
    let mut series: Vec<String> = exposition
        .lines()
        .filter(is_stable)
        .map(|line| line.replace(&place, ""))
        .collect();
    // The type of a metric is before its series.
    series.sort_by_cached_key(|line| (name(line), !line.starts_with(TYPE), line.clone()));
    series
}

#[test]
fn every_collector_publishes_types_and_series_of_the_fixture() {
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
