//! Counters are as fresh as the scrape: a real Prometheus scrapes evenkeel and node_exporter at several intervals at
//! once, and the rates that it computes are those of the kernel between its samples.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::daemon::Home;
use crate::support::process::Process;
use crate::support::prometheus::{Prometheus, start_server};
use crate::support::tools::tool;
use crate::support::{eventually, free_address};

/// Scrape intervals in seconds.
const INTERVALS: [u32; 5] = [1, 4, 5, 10, 15];
/// The rates are over so many intervals, which have as many samples.
const SAMPLES: usize = 4;
/// The time in which most jobs have enough samples, and the longest time until the others have them.
const RUN: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_OF_WRITER: Duration = Duration::from_millis(5);
const MAX_ERROR: f64 = 0.02;
/// The share of windows that may have a larger error, and the largest: other tests can delay a scrape.
const MAY_BE_WRONG: f64 = 0.1;
const MAX_DELAYED_ERROR: f64 = 0.2;
const START_ATTEMPTS: u32 = 5;

const GROUP_CPU: &str = "evenkeel_group_cpu_seconds_total";
const RUNNING: &str = "node_schedstat_running_seconds_total";

fn now() -> f64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    since_1970.as_secs_f64()
}

/// Values of a counter at Unix times, as the test reads them itself.
#[derive(Default)]
struct Reference(Vec<(f64, f64)>);

impl Reference {
    /// Records a value that is from between `before` and now.
    fn record(&mut self, before: f64, value: f64) {
        self.0.push((f64::midpoint(before, now()), value));
    }

    /// The value at a time between two records.
    fn at(&self, time: f64) -> Option<f64> {
        let next = self.0.partition_point(|(at, _)| *at <= time);
        let (before, after) = (self.0.get(next.checked_sub(1)?)?, self.0.get(next)?);
        Some(before.1 + (after.1 - before.1) * (time - before.0) / (after.0 - before.0))
    }

    fn rate(&self, from: f64, to: f64) -> Option<f64> {
        Some((self.at(to)? - self.at(from)?) / (to - from))
    }
}

#[test]
fn reference_is_interpolated() {
    let reference = Reference(vec![(10.0, 1.0), (12.0, 2.0), (14.0, 6.0)]);
    assert_eq!(reference.at(11.0), Some(1.5));
    assert_eq!(reference.rate(11.0, 13.0), Some(1.25));
    assert_eq!(reference.at(9.0), None);
    assert_eq!(reference.at(15.0), None);
}

/// Seconds that the only thread of a process ran, in the scheduler's nanoseconds.
fn own_cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process runs");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
    nanoseconds.expect("a number") / 1e9
}

/// The times of the samples of a series, oldest first.
fn sample_times(prometheus: &Prometheus, selector: &str) -> Vec<f64> {
    let series = prometheus.query(&format!("{selector}[3m]"));
    let values = series.first().and_then(|series| series["values"].as_array());
    let times = values.into_iter().flatten().map(|pair| pair[0].as_f64());
    times.collect::<Option<_>>().expect("times")
}

/// A rate that Prometheus computed, and the one of the reference between the same samples.
struct Window {
    at: f64,
    rate: f64,
    expected: f64,
}

impl Window {
    /// The error as a share of the rate, or of one core where the process got less of it.
    fn error(&self) -> f64 {
        (self.rate - self.expected).abs() / self.expected.max(1.0)
    }
}

/// Every window of four intervals. Prometheus's result is evaluated half an interval after a sample: then the window
/// has four samples, and `rate()` is their increase by the time between them.
fn windows(prometheus: &Prometheus, metric: &str, job: &str, seconds: u32, reference: &Reference) -> Vec<Window> {
    let times = sample_times(prometheus, &format!("up{{job=\"{job}\"}}"));
    let interval = f64::from(seconds);
    // A Prometheus that starts may scrape later than it says.
    let samples = times.get(1..).unwrap_or_default().windows(SAMPLES);
    let windows = samples.filter_map(|samples| {
        let (first, last) = (samples[0], samples[samples.len() - 1]);
        // A scrape that failed is not the matter here.
        let is_whole = (last - first - interval * (SAMPLES - 1) as f64).abs() < interval / 4.0;
        let expected = reference.rate(first, last).filter(|_| is_whole)?;
        let at = last + interval / 2.0;
        let query = format!("sum(rate({metric}{{job=\"{job}\"}}[{}s]))", SAMPLES as u32 * seconds);
        let result = prometheus.query_at(&query, at);
        let rate = result.first().map(|series: &Value| series["value"][1].as_str());
        let rate = rate.flatten().and_then(|text| text.parse().ok()).expect("a rate");
        Some(Window { at, rate, expected })
    });
    windows.collect()
}

/// The windows of a job whose rate is wrong, of how many, and the largest error.
fn wrong_windows(what: &str, windows: &[Window]) -> (usize, usize, f64) {
    let mut errors: Vec<f64> = windows.iter().map(Window::error).collect();
    errors.sort_by(f64::total_cmp);
    let largest = *errors.last().unwrap_or_else(|| panic!("{what}: no window"));
    println!(
        "{what}: {} windows, error of half of them {:.4}, of all {largest:.4}",
        errors.len(),
        errors[errors.len() / 2]
    );
    let wrong = errors.iter().filter(|error| **error > MAX_ERROR).count();
    (wrong, errors.len(), largest)
}

/// What is wrong with the rates of evenkeel at an interval. A busy machine delays scrapes, so some may be, and as many
/// as of node_exporter.
fn complaint(what: &str, ours: &[Window], theirs: &[Window]) -> Option<String> {
    let (wrong, all, largest) = wrong_windows(what, ours);
    let their_wrong = if theirs.is_empty() {
        0
    } else {
        wrong_windows(&format!("{what}, node_exporter"), theirs).0
    };
    let may_be_wrong = ((all as f64 * MAY_BE_WRONG) as usize).max(their_wrong);
    if wrong <= may_be_wrong && largest <= MAX_DELAYED_ERROR {
        return None;
    }
    let lines = ours
        .iter()
        .map(|window| format!("\n{:.3}: {:.4} for {:.4}", window.at, window.rate, window.expected));
    Some(format!(
        "{what}: {wrong} of {all} windows are wrong:{}",
        lines.collect::<String>()
    ))
}

/// A directory of procfs with `schedstat`: that of this host, or one whose only processor is always busy where the
/// kernel has none.
enum Schedstat {
    OfKernel,
    Written(TempDir),
}

impl Schedstat {
    fn new() -> Schedstat {
        if Path::new("/proc/schedstat").exists() {
            return Schedstat::OfKernel;
        }
        let directory = tempfile::tempdir().expect("a temporary folder");
        // evenkeel needs it.
        let random = directory.path().join("sys/kernel/random");
        std::fs::create_dir_all(&random).expect("a writable folder");
        std::fs::copy("/proc/sys/kernel/random/boot_id", random.join("boot_id")).expect("a readable procfs");
        let schedstat = Schedstat::Written(directory);
        schedstat.write();
        schedstat
    }

    fn procfs(&self) -> &Path {
        match self {
            Schedstat::OfKernel => Path::new("/proc"),
            Schedstat::Written(directory) => directory.path(),
        }
    }

    /// Seconds that all processors ran.
    fn running(&self) -> f64 {
        let text = std::fs::read_to_string(self.procfs().join("schedstat")).expect("a readable procfs");
        let processors = text.lines().filter(|line| line.starts_with("cpu"));
        let nanoseconds = processors.filter_map(|line| line.split(' ').nth(7)?.parse::<f64>().ok());
        nanoseconds.sum::<f64>() / 1e9
    }

    fn write(&self) {
        let Schedstat::Written(directory) = self else { return };
        let nanoseconds = now() * 1e9;
        let text = format!("version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 {nanoseconds:.0} 1000 10\n");
        // Readers find the former file or this one.
        let new = directory.path().join("new");
        std::fs::write(&new, text).expect("a writable folder");
        std::fs::rename(new, directory.path().join("schedstat")).expect("a writable folder");
    }
}

#[test]
fn rates_are_right_at_every_scrape_interval() {
    let mark = format!("fresh-{}", std::process::id());
    let mut command = Command::new("sh");
    command.args(["-c", &format!(": {mark}; while :; do :; done")]);
    let burner = Process::start("burner", &mut command);
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        &format!(
            "rule_files: [rules/*.yml]\nwebhook: {{token_file: webhook.token}}\n\
             process_groups: [{{name: burner, select: {{cmdline: '.*{mark}.*'}}}}]\n"
        ),
    );
    let evenkeel = home.start(&[]);
    let schedstat = Schedstat::new();
    let path = format!("--path.procfs={}", schedstat.procfs().display());
    let only_schedstat = ["--collector.disable-defaults", "--collector.schedstat", &path];
    let other_home = Home::new("rules: []\n");
    let with_schedstat = other_home.start(&only_schedstat);
    let (node_exporter, _process) = start_server("node_exporter", START_ATTEMPTS, |address| {
        let mut command = tool("node_exporter");
        command
            .arg(format!("--web.listen-address={address}"))
            .args(only_schedstat);
        command
    });
    let targets = [
        ("groups", evenkeel.metrics),
        ("ours", with_schedstat.metrics),
        ("theirs", node_exporter),
    ];
    let jobs = targets.map(|(name, address)| INTERVALS.map(|seconds| (format!("{name}{seconds}"), address, seconds)));
    let jobs: Vec<_> = jobs
        .as_flattened()
        .iter()
        .map(|(job, address, seconds)| (job.as_str(), *address, *seconds))
        .collect();
    let prometheus = Prometheus::start_at_intervals(&jobs, "groups: []\n", free_address());

    let is_over = AtomicBool::new(false);
    let (mut cpu, mut running) = (Reference::default(), Reference::default());
    // The last record is later than every sample.
    let repeat = |pause, work: &mut dyn FnMut()| {
        loop {
            let is_last = is_over.load(Ordering::Relaxed);
            work();
            if is_last {
                return;
            }
            std::thread::sleep(pause);
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(|| repeat(PAUSE_OF_WRITER, &mut || schedstat.write()));
        threads.spawn(|| {
            repeat(PAUSE, &mut || {
                let before = now();
                cpu.record(before, own_cpu(burner.pid()));
                let before = now();
                running.record(before, schedstat.running());
            });
        });
        std::thread::sleep(RUN);
        let has_all = || {
            let enough = |(job, ..): &(&str, SocketAddr, u32)| {
                let times = sample_times(&prometheus, &format!("up{{job=\"{job}\"}}"));
                times.len() > SAMPLES
            };
            jobs.iter().all(enough).then_some(())
        };
        eventually("enough samples of each job", TIMEOUT, has_all);
        is_over.store(true, Ordering::Relaxed);
    });

    for query in [
        "max by (job) (max_over_time(scrape_duration_seconds[3m]))",
        "max by (job) (max_over_time(evenkeel_sample_age_seconds{collector=\"groups\"}[3m]))",
        "max by (job) (max_over_time(node_scrape_collector_duration_seconds{collector=\"groups\"}[3m]))",
    ] {
        println!("{query}: {}", Value::from(prometheus.query(query)));
    }
    let mut complaints = Vec::new();
    for seconds in INTERVALS {
        let of = |name: &str, metric: &str, reference: &Reference| {
            windows(&prometheus, metric, &format!("{name}{seconds}"), seconds, reference)
        };
        let what = |metric: &str| format!("{metric} each {seconds} s");
        complaints.extend(complaint(&what(GROUP_CPU), &of("groups", GROUP_CPU, &cpu), &[]));
        complaints.extend(complaint(
            &what(RUNNING),
            &of("ours", RUNNING, &running),
            &of("theirs", RUNNING, &running),
        ));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
