//! evenkeel compared with node_exporter on this machine: the same series, types and values, except those in
//! docs/compatibility.md.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use evenkeel::sense::COLLECTORS;
use regex::Regex;

use crate::support::daemon::{Daemon, Home};
use crate::support::metrics::{Scrape, notation};
use crate::support::process::Process;
use crate::support::prometheus::{Prometheus, start_server};
use crate::support::tools::{succeed, tool};
use crate::support::{eventually, free_address, http};

/// Number of rounds. A changing value must lie between two of evenkeel's in one of them.
const ROUNDS: usize = 40;
const START_ATTEMPTS: u32 = 5;
/// Pause between rounds, longer than a sample stays fresh.
const PAUSE: Duration = Duration::from_millis(150);
/// Number of scrapes of each by a Prometheus, which may miss some on a busy machine.
const SAMPLES: usize = 20;
const TIMEOUT: Duration = Duration::from_secs(120);
/// Tolerance for gauges that swing, such as free memory, as a share of the value.
const SWING: f64 = 0.01;
/// Tolerance for another order of divisions and multiplications.
const ROUNDING: f64 = 1e-9;

const TEXT: (&str, &str) = ("Accept", "text/plain;version=0.0.4");

/// The permitted differences of the series that a pattern matches.
struct Exception {
    pattern: Regex,
    presence: bool,
    value: bool,
}

/// The rows of the table in the documentation.
fn exceptions() -> Vec<Exception> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = std::fs::read_to_string(path).expect("the documentation ships");
    let (_, section) = text
        .split_once("\n## What a comparison leaves out\n")
        .expect("the section of exceptions");
    let section = section.split("\n## ").next().unwrap_or_default();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let pattern = cells.next()?.strip_suffix('`')?;
        let differs = cells.next()?;
        Some(Exception {
            pattern: Regex::new(&format!("^(?:{pattern})$")).expect("a pattern"),
            presence: differs.contains("presence"),
            value: differs.contains("value"),
        })
    };
    let rows: Vec<Exception> = section.lines().filter_map(row).collect();
    assert!(!rows.is_empty(), "no exceptions were read from the table");
    rows
}

struct Exposition {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

fn scrape(address: SocketAddr) -> Exposition {
    let answer = http::request(address, "GET", "/metrics", &[TEXT], b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let types = answer.body.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name.to_owned(), kind.to_owned()))
    });
    Exposition {
        types: types.collect(),
        series: Scrape::parse(&answer.body).series(),
    }
}

fn family(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}

/// Whether the value lies between two others, give or take.
fn agrees(value: f64, before: f64, after: f64) -> bool {
    if value.is_nan() {
        return before.is_nan() || after.is_nan();
    }
    let (least, most) = (before.min(after), before.max(after));
    let slack = if before == after { ROUNDING } else { SWING } * value.abs();
    (least - slack..=most + slack).contains(&value)
}

#[test]
fn value_must_lie_between_two_reads_or_equal_them() {
    for (value, before, after, expected) in [
        (5.0, 5.0, 5.0, true),
        (5.0, 4.0, 6.0, true),
        (5.0, 5.0 + 1e-12, 5.0 + 1e-12, true),
        (5.0, 5.01, 5.01, false),
        (100.0, 100.5, 101.0, true),
        (100.0, 102.0, 103.0, false),
        (f64::NAN, f64::NAN, f64::NAN, true),
        (5.0, f64::NAN, f64::NAN, false),
    ] {
        assert_eq!(agrees(value, before, after), expected, "{value} {before} {after}");
    }
}

/// Both programs with the same collectors. evenkeel reads all of them often.
struct Beside {
    _home: Home,
    evenkeel: Daemon,
    node_exporter: SocketAddr,
    _process: Process,
}

/// The collectors of the node_exporter that runs beside evenkeel, which is older than the one that evenkeel follows.
fn collectors_of_node_exporter() -> BTreeSet<String> {
    let help = succeed(tool("node_exporter").arg("--help"));
    let flag = Regex::new(r"--(?:\[no-\])?collector\.([a-z_]+) ").expect("a pattern");
    let names: BTreeSet<String> = flag.captures_iter(&help).map(|found| found[1].to_owned()).collect();
    assert!(names.contains("zfs") && names.len() > 50, "{names:?}");
    names
}

fn start_beside() -> Beside {
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 100ms, slow_interval: 100ms}\nrule_files: [rules/*.yml]\n",
    );
    std::fs::create_dir(home.path().join("textfile")).expect("a writable folder");
    home.write(
        "textfile/a.prom",
        "# HELP a_text A.\n# TYPE a_text counter\na_text{b=\"c\\\"d\"} 3\n",
    );
    // Flags for both, because Debian's defaults differ from upstream's.
    let mut flags = vec![
        "--collector.disable-defaults".to_owned(),
        "--collector.netdev.device-exclude=^lo$".to_owned(),
        // Since 1.6 the default leaves out zram.
        r"--collector.diskstats.device-exclude=^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$".to_owned(),
        "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys)($|/)".to_owned(),
        format!(
            "--collector.textfile.directory={}",
            home.path().join("textfile").display()
        ),
    ];
    let theirs = collectors_of_node_exporter();
    let names = COLLECTORS
        .iter()
        .map(|info| info.name)
        .filter(|name| theirs.contains(*name));
    flags.extend(names.map(|name| format!("--collector.{name}")));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();

    let evenkeel = home.start(&flags);
    let (node_exporter, process) = start_server("node_exporter", START_ATTEMPTS, |address| {
        let mut command = tool("node_exporter");
        command.arg(format!("--web.listen-address={address}")).args(&flags);
        command
    });

    Beside {
        _home: home,
        evenkeel,
        node_exporter,
        _process: process,
    }
}

/// The exceptions that apply to a series.
struct May(Vec<Exception>);

impl May {
    fn lack(&self, series: &str) -> bool {
        self.differ(series, |exception| exception.presence)
    }

    fn have_another_value(&self, series: &str) -> bool {
        self.differ(series, |exception| exception.value)
    }

    fn differ(&self, series: &str, in_what: fn(&Exception) -> bool) -> bool {
        let mut exceptions = self.0.iter().filter(|exception| in_what(exception));
        exceptions.any(|exception| exception.pattern.is_match(series))
    }
}

#[test]
fn every_node_exporter_series_has_its_type_and_value() {
    let beside = start_beside();
    let may = May(exceptions());
    let mut open: BTreeMap<String, String> = BTreeMap::new();
    let mut settled: BTreeSet<String> = BTreeSet::new();
    for round in 0..ROUNDS {
        let before = scrape(beside.evenkeel.metrics);
        std::thread::sleep(PAUSE);
        let theirs = scrape(beside.node_exporter);
        std::thread::sleep(PAUSE);
        let after = scrape(beside.evenkeel.metrics);

        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for (series, value) in &theirs.series {
            if may.lack(series) {
                continue;
            }
            let name = family(series);
            if theirs.types.get(name) != after.types.get(name) {
                let types = (theirs.types.get(name), after.types.get(name));
                found.insert(series.clone(), format!("types {types:?}"));
                continue;
            }
            let ours = (before.series.get(series), after.series.get(series));
            let verdict = match ours {
                (Some(before), Some(after)) if agrees(*value, *before, *after) => None,
                (Some(_), Some(_)) if may.have_another_value(series) => None,
                (Some(before), Some(after)) => Some(format!("theirs {value}, ours {before} and {after}")),
                _ => Some(format!("theirs {value}, ours missing")),
            };
            match verdict {
                None => drop(settled.insert(series.clone())),
                Some(verdict) => drop(found.insert(series.clone(), verdict)),
            }
        }
        for series in after.series.keys() {
            let is_shared = theirs.types.contains_key(family(series));
            if is_shared && !theirs.series.contains_key(series) && !may.lack(series) {
                found.insert(series.clone(), "theirs missing".to_owned());
            }
        }
        // Series that agree in one round are done.
        if round == 0 {
            open = found;
        } else {
            open.retain(|series, _| found.contains_key(series) && !settled.contains(series));
        }
        if open.is_empty() {
            break;
        }
    }
    assert!(settled.len() > 200, "only {} series were compared", settled.len());
    let list: Vec<String> = open.iter().map(|(series, why)| format!("{series}: {why}")).collect();
    assert!(list.is_empty(), "{} series differ:\n{}", list.len(), list.join("\n"));
}

/// The samples of a job's series, oldest first: Unix time in seconds and value.
fn samples(prometheus: &Prometheus, job: &str) -> BTreeMap<String, Vec<(f64, f64)>> {
    let found = prometheus.query(&format!("{{job=\"{job}\"}}[2m]"));
    let series = found.iter().map(|series| {
        let labels: BTreeMap<String, String> =
            serde_json::from_value(series["metric"].clone()).expect("a map of labels");
        let is_own = |label: &str| !["__name__", "job", "instance"].contains(&label);
        let labels_of_its_own = labels.iter().filter(|(label, _)| is_own(label));
        let values: Vec<(f64, String)> = serde_json::from_value(series["values"].clone()).expect("times and values");
        let number = |(at, text): &(f64, String)| (*at, text.parse().expect("a number"));
        (
            notation(&labels["__name__"], labels_of_its_own),
            values.iter().map(number).collect(),
        )
    });
    series.collect()
}

/// Whether one of node_exporter's samples lies between evenkeel's two neighbouring samples.
fn agree(theirs: &[(f64, f64)], ours: &[(f64, f64)]) -> bool {
    theirs.iter().any(|(at, value)| {
        let next = ours.partition_point(|(time, _)| time < at);
        next > 0 && next < ours.len() && agrees(*value, ours[next - 1].1, ours[next].1)
    })
}

#[test]
fn one_prometheus_that_scrapes_both_sees_the_same() {
    let beside = start_beside();
    let may = May(exceptions());
    let jobs = [
        ("evenkeel", beside.evenkeel.metrics),
        ("node_exporter", beside.node_exporter),
    ];
    let prometheus = Prometheus::start(&jobs, "groups: []\n", free_address());
    eventually("enough samples of both", TIMEOUT, || {
        std::thread::sleep(Duration::from_secs(1));
        let count = |job: &str| samples(&prometheus, job).get("up{}").map_or(0, Vec::len);
        jobs.iter().all(|(job, _)| count(job) >= SAMPLES).then_some(())
    });
    let [ours, theirs] = jobs.map(|(job, _)| samples(&prometheus, job));
    let [our_types, their_types] = jobs.map(|(job, _)| prometheus.types(job));

    let about_the_scrape = |series: &str| family(series) == "up" || series.starts_with("scrape_");
    // A short-lived process state may be seen by only one of the two.
    let is_fleeting = |values: &[(f64, f64)]| values.len() < SAMPLES / 2;
    let mut differences = Vec::new();
    let mut compared = 0;
    for (series, values) in &theirs {
        if about_the_scrape(series) || may.lack(series) || is_fleeting(values) {
            continue;
        }
        compared += 1;
        let name = family(series);
        match ours.get(series) {
            None => differences.push(format!("{series}: ours missing")),
            Some(found) if agree(values, found) || may.have_another_value(series) => {}
            Some(found) => differences.push(format!("{series}: theirs {values:?}, ours {found:?}")),
        }
        // Prometheus requests OpenMetrics from evenkeel, where counters lose their suffix and those without one are
        // unknown.
        let our_type = our_types
            .get(name)
            .or_else(|| our_types.get(name.strip_suffix("_total")?))
            .map(String::as_str);
        let their_type = their_types.get(name).map(String::as_str);
        let is_without_suffix = their_type == Some("counter") && !name.ends_with("_total");
        if our_type != their_type && !(is_without_suffix && our_type == Some("unknown")) {
            differences.push(format!("{name}: theirs is {their_type:?}, ours {our_type:?}"));
        }
    }
    for (series, values) in &ours {
        let is_shared = their_types.contains_key(family(series)) && !is_fleeting(values);
        if is_shared && !theirs.contains_key(series) && !may.lack(series) {
            differences.push(format!("{series}: theirs missing"));
        }
    }
    assert!(compared > 200, "only {compared} series were compared");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
