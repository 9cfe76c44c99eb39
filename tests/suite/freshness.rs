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
use crate::support::metrics::Scrape as Metrics;
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
/// How long a busy machine may take to read for a scrape; the caches of a sample each second last longer.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_OF_WRITER: Duration = Duration::from_millis(5);
const MAX_ERROR: f64 = 0.02;
/// One window of so many may be wrong, because a busy machine may delay Prometheus between noting the time of a scrape and
/// the request.
const MAY_BE_WRONG: usize = 10;
/// A scrape is served what is younger than this share of its timeout, and than `MAX_AGE`, or than so many times the
/// time that its reading took.
const AGE_SHARE: f64 = 1.0 / 25.0;
const MAX_AGE: f64 = 0.1;
const AGE_PER_DURATION: f64 = 2.0;
/// A scrape is served the former sample where it has waited for this share of its patience: of this share of its timeout,
/// and of some seconds at most.
const READING_SHARE: f64 = 0.75;
const PATIENCE_SHARE: f64 = 0.8;
const MAX_PATIENCE: f64 = 2.0;
const START_ATTEMPTS: u32 = 5;

const GROUP_CPU: &str = "evenkeel_group_cpu_seconds_total";
const RUNNING: &str = "node_schedstat_running_seconds_total";

fn now() -> f64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    since_1970.as_secs_f64()
}

/// A value of a counter, read by the test between two Unix times.
struct Record {
    before: f64,
    after: f64,
    value: f64,
}

/// The values of a counter, oldest first. It never falls, so they bound its value at every time between them, also
/// where the machine is busy and the counter uneven.
#[derive(Default)]
struct Reference(Vec<Record>);

impl Reference {
    /// Records a value that is from between `before` and now.
    fn record(&mut self, before: f64, value: f64) {
        let after = now();
        self.0.push(Record { before, after, value });
    }

    /// The highest value that is known to be reached at a time.
    fn at_least(&self, time: f64) -> Option<f64> {
        let next = self.0.partition_point(|record| record.after <= time);
        Some(self.0.get(next.checked_sub(1)?)?.value)
    }

    /// The lowest value that is known not to be exceeded at a time.
    fn at_most(&self, time: f64) -> Option<f64> {
        let next = self.0.partition_point(|record| record.before < time);
        Some(self.0.get(next)?.value)
    }
}

#[test]
fn reference_bounds_the_counter() {
    let record = |at, value| Record {
        before: at - 0.5,
        after: at + 0.5,
        value,
    };
    let reference = Reference(vec![record(10.0, 1.0), record(12.0, 2.0), record(14.0, 6.0)]);
    assert_eq!(
        (reference.at_least(11.0), reference.at_most(11.0)),
        (Some(1.0), Some(2.0))
    );
    assert_eq!(
        (reference.at_least(12.0), reference.at_most(12.0)),
        (Some(1.0), Some(6.0))
    );
    assert_eq!(reference.at_least(9.0), None);
    assert_eq!(reference.at_most(15.0), None);
}

/// Seconds that the only thread of a process ran, in the scheduler's nanoseconds.
fn own_cpu(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process runs");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
    nanoseconds.expect("a number") / 1e9
}

/// The samples of a series with their times, oldest first.
fn samples(prometheus: &Prometheus, selector: &str) -> Vec<(f64, f64)> {
    let series = prometheus.query(&format!("{selector}[3m]"));
    let values = series.first().and_then(|series| series["values"].as_array());
    let pairs = values.into_iter().flatten();
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let samples = pairs.map(|pair| Some((number(&pair[0])?, number(&pair[1])?)));
    samples.collect::<Option<_>>().expect("samples")
}

/// A scrape, and the times between which its sample was read.
struct Scrape {
    at: f64,
    duration: f64,
    read: [f64; 2],
}

/// The scrapes of a job. `collector` is the one whose sample may have been read for an earlier scrape; node_exporter
/// reads for every scrape.
fn scrapes(prometheus: &Prometheus, job: &str, interval: f64, collector: Option<&str>) -> Vec<Scrape> {
    let durations = samples(prometheus, &format!("scrape_duration_seconds{{job=\"{job}\"}}"));
    let readings = collector.map_or_else(Vec::new, |collector| {
        let labels = format!("{{job=\"{job}\",collector=\"{collector}\"}}");
        samples(prometheus, &format!("node_scrape_collector_duration_seconds{labels}"))
    });
    let scrapes = durations.iter().map(|&(at, duration)| {
        let reading = readings.iter().find(|(other, _)| *other == at);
        let max_age = reading.map_or(0.0, |(_, reading)| {
            MAX_AGE.min(interval * AGE_SHARE).max(AGE_PER_DURATION * reading)
        });
        Scrape {
            at,
            duration,
            read: [at - max_age, at + duration],
        }
    });
    scrapes.collect()
}

/// A rate that Prometheus computed, and the bounds of the kernel's between the same samples.
struct Window {
    at: f64,
    rate: f64,
    bounds: [f64; 2],
}

impl Window {
    /// The error as a share of the rate, or of one core where the process got less of it.
    fn error(&self) -> f64 {
        let [low, high] = self.bounds;
        (low - self.rate).max(self.rate - high).max(0.0) / low.max(1.0)
    }
}

/// Every window of four intervals. Prometheus's result is evaluated half an interval after a sample: then the window
/// has four samples, and `rate()` is their increase by the time between them.
fn windows(prometheus: &Prometheus, metric: &str, job: &str, interval: f64, of: &Counter) -> Vec<Window> {
    let scrapes = scrapes(prometheus, job, interval, of.collector);
    // A Prometheus that starts may scrape later than it says.
    let windows = scrapes.get(1..).unwrap_or_default().windows(SAMPLES);
    let windows = windows.filter_map(|window| {
        let (first, last) = (&window[0], &window[window.len() - 1]);
        let seconds = last.at - first.at;
        // A scrape that failed, or that the machine delayed beyond the patience of evenkeel, is not the matter here.
        let is_whole = (seconds - interval * (SAMPLES - 1) as f64).abs() < interval / 4.0;
        let max_wait = READING_SHARE * MAX_PATIENCE.min(interval * PATIENCE_SHARE);
        let is_in_time = first.duration < max_wait && last.duration < max_wait;
        if !is_whole || !is_in_time {
            return None;
        }
        let low = of.reference.at_least(last.read[0])? - of.reference.at_most(first.read[1])?;
        let high = of.reference.at_most(last.read[1])? - of.reference.at_least(first.read[0])?;
        let at = last.at + interval / 2.0;
        let range = SAMPLES as f64 * interval;
        let query = format!("sum(rate({metric}{{job=\"{job}\"}}[{range}s]))");
        let result = prometheus.query_at(&query, at);
        let rate = result.first().map(|series: &Value| series["value"][1].as_str());
        let rate = rate.flatten().and_then(|text| text.parse().ok()).expect("a rate");
        Some(Window {
            at,
            rate,
            bounds: [low / seconds, high / seconds],
        })
    });
    windows.collect()
}

/// A counter as the test read it, and the collector of evenkeel that publishes it.
struct Counter<'a> {
    reference: &'a Reference,
    collector: Option<&'static str>,
}

/// What is wrong with the rates at an interval.
fn complaint(what: &str, windows: &[Window]) -> Option<String> {
    let widths = windows.iter().map(|window| window.bounds[1] - window.bounds[0]);
    let widest = widths.fold(0.0, f64::max);
    let wrong: Vec<&Window> = windows.iter().filter(|window| window.error() > MAX_ERROR).collect();
    println!("{what}: {} windows, widest bounds {widest:.4}", windows.len());
    if windows.is_empty() {
        return Some(format!("{what}: no window"));
    }
    let lines = wrong.iter().map(|window| {
        let [low, high] = window.bounds;
        format!("\n{:.3}: {:.4}, not {low:.4} to {high:.4}", window.at, window.rate)
    });
    let lines = lines.collect::<String>();
    (wrong.len() * MAY_BE_WRONG > windows.len())
        .then(|| format!("{what}: {} of {} windows are wrong:{lines}", wrong.len(), windows.len()))
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

/// A file with a counter, what is around its number, and the metric with the number of its units in one.
const COUNTERS: [(&str, [&str; 2], &str, f64); 6] = [
    (
        "sys/class/net/eth0/carrier_changes",
        ["", "\n"],
        "node_network_carrier_changes_total",
        1.0,
    ),
    (
        "sys/class/net/eth0/statistics/rx_nohandler",
        ["", "\n"],
        "node_network_receive_nohandler_total",
        1.0,
    ),
    (
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
        ["", "\n"],
        "node_cpu_core_throttles_total",
        1.0,
    ),
    (
        "sys/class/hwmon/hwmon0/energy1_input",
        ["", "\n"],
        "node_hwmon_energy_joule_total",
        1e6,
    ),
    (
        "proc/sys/kernel/hung_task_detect_count",
        ["", "\n"],
        "node_kernel_hung_tasks_total",
        1.0,
    ),
    (
        "text/a.prom",
        ["# TYPE a_total counter\na_total ", "\n"],
        "a_total",
        1.0,
    ),
];

#[test]
fn counters_of_devices_and_text_files_are_read_for_the_scrape() {
    let home = Home::new("rules: []\n");
    // No timer reads them meanwhile.
    home.write(
        "evenkeel.yml",
        "sampling: {slow_interval: 1h}\nrule_files: [rules/*.yml]\n",
    );
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a path below the folder")).expect("a writable folder");
        // Readers find the former file or this one.
        let new = home.path().join("new");
        std::fs::write(&new, text).expect("a writable folder");
        std::fs::rename(new, path).expect("a writable folder");
    };
    let set = |number: f64| {
        for (path, [before, after], ..) in COUNTERS {
            write(path, &format!("{before}{number}{after}"));
        }
    };
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    for (path, text) in [
        ("proc/sys/kernel/random/boot_id", boot_id.as_str()),
        ("proc/stat", "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"),
        ("proc/net/dev", "x\nx\neth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"),
        ("sys/class/net/eth0/operstate", "up\n"),
        ("sys/class/hwmon/hwmon0/name", "chip\n"),
        ("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0\n"),
        ("sys/devices/system/cpu/cpu0/topology/core_id", "0\n"),
    ] {
        write(path, text);
    }
    set(1e6);
    let path = |name: &str| home.path().join(name).display().to_string();
    let daemon = home.start(&[
        &format!("--path.procfs={}", path("proc")),
        &format!("--path.sysfs={}", path("sys")),
        &format!("--collector.textfile.directory={}", path("text")),
    ]);
    for number in [1e6, 2e6, 3e6] {
        set(number);
        for (.., metric, unit) in COUNTERS {
            eventually(&format!("{metric} of {number}"), PATIENCE, || {
                let value = Metrics::parse(&daemon.scrape_text()).sum(metric, &[]);
                (value == Some(number / unit)).then_some(())
            });
        }
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
                samples(&prometheus, &format!("up{{job=\"{job}\"}}")).len() > SAMPLES
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
    for (name, metric, reference, collector) in [
        ("groups", GROUP_CPU, &cpu, Some("groups")),
        ("ours", RUNNING, &running, Some("schedstat")),
        ("theirs", RUNNING, &running, None),
    ] {
        let counter = Counter { reference, collector };
        complaints.extend(INTERVALS.iter().filter_map(|seconds| {
            let job = format!("{name}{seconds}");
            let windows = windows(&prometheus, metric, &job, f64::from(*seconds), &counter);
            complaint(&format!("{metric}, job {job}"), &windows)
        }));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
