//! The time until evenkeel and earlyoom kill a memory hog, with equal thresholds and no `for`. `make bench-guest` runs
//! it in a virtual machine, because it exhausts the memory. `tests/guest.sh --bench 5 evenkeel` runs five rounds of
//! evenkeel.
//!
//! The hog reports when its memory must have crossed the threshold, and when SIGTERM reached it with how much memory
//! still available. A hog without the second report was killed by the kernel's OOM killer. evenkeel's log shows its
//! part.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Number of runs of each program, in turns.
const RUNS: usize = 20;
/// In 19 of 20 runs the hog must be killed before the kernel does it.
const MAY_FAIL_ONE_IN: usize = 20;
const HOG_PATIENCE: Duration = Duration::from_secs(60);
/// Time for a daemon to start and take its first samples.
const START: Duration = Duration::from_secs(4);

/// Share of all memory, as earlyoom 1.7 counts it. Since 1.8 the base is available memory plus that of programs, which
/// is less.
const THRESHOLD_PERCENT: u32 = 10;
const EARLYOOM: &str = "/usr/bin/earlyoom";

const HOME: &str = "/tmp/hog";
const EVENKEEL: &str = "evenkeel";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("hog") {
        hog();
    }
    // `cargo bench` runs all benches, also on machines that others use.
    if std::env::var_os("EVENKEEL_MAY_EXHAUST_MEMORY").is_none() {
        println!("takes all memory of a machine: run it with `make bench-guest`");
        return ExitCode::SUCCESS;
    }
    let evenkeel = std::env::var("EVENKEEL").expect("EVENKEEL is the path of evenkeel");
    let version = Command::new(EARLYOOM).arg("-v").output().expect("earlyoom");
    let version = String::from_utf8_lossy(&[version.stdout, version.stderr].concat()).into_owned();
    assert!(version.contains(" v1.7"), "{version:?} may count in other percents");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runs = words.iter().find_map(|word| word.parse().ok()).unwrap_or(RUNS);
    prepare();
    let mut contestants = vec![
        Contestant::new(
            EVENKEEL,
            vec![
                evenkeel,
                "run".into(),
                format!("--config.file={HOME}/evenkeel.yml"),
                format!("--storage.path={HOME}/storage"),
                "--web.listen-address=127.0.0.1:0".into(),
                "--webhook.listen-address=127.0.0.1:0".into(),
                "--log.level=debug".into(),
                "--log.format=json".into(),
            ],
        ),
        Contestant::new(
            "earlyoom",
            vec![
                EARLYOOM.into(),
                "-m".into(),
                THRESHOLD_PERCENT.to_string(),
                "-r".into(),
                "0".into(),
            ],
        ),
    ];
    if contestants.iter().any(|one| words.iter().any(|word| word == one.name)) {
        contestants.retain(|one| words.iter().any(|word| word == one.name));
    }
    for run in 1..=runs {
        for contestant in &mut contestants {
            let how = contestant.run();
            println!("run {run:2} {:9} {how}", contestant.name);
        }
    }
    let results: Vec<Contestant> = contestants.into_iter().map(Contestant::result).collect();
    for result in &results {
        println!(
            "{:9} ended {} of {runs} hogs before the kernel; available at the signal: median {}, least {}; after the threshold: median {} ms",
            result.name,
            result.available.len(),
            mebibytes(median(&result.available)),
            mebibytes(result.available.first().copied().unwrap_or(0)),
            median(&result.delays_ms),
        );
    }
    if let [evenkeel, earlyoom] = &results[..] {
        println!(
            "evenkeel / earlyoom, median available: {:.2}",
            median(&evenkeel.available) as f64 / median(&earlyoom.available).max(1) as f64
        );
    }
    let evenkeel = results.iter().find(|result| result.name == EVENKEEL);
    if evenkeel.is_some_and(|evenkeel| evenkeel.available.len() + runs / MAY_FAIL_ONE_IN < runs) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Allocates memory as fast as possible until a signal.
fn hog() -> ! {
    const BITE: usize = 4 << 20;
    let term = SigSet::from_iter([Signal::SIGTERM]);
    term.thread_block().expect("a signal mask");
    std::thread::spawn(move || {
        term.wait().expect("a signal");
        println!("ended {} {}", now_ms(), bytes_of("MemAvailable"));
        std::process::exit(0);
    });
    let available = bytes_of("MemAvailable");
    let threshold = bytes_of("MemTotal") / 100 * u64::from(THRESHOLD_PERCENT);
    let to_cross = available.saturating_sub(threshold) as usize / BITE;
    let mut taken = Vec::with_capacity(4096);
    println!("began {} {available}", now_ms());
    loop {
        // Pages of zeros would not be resident until written.
        taken.push(vec![1u8; BITE]);
        if taken.len() == to_cross {
            println!("crossed {} {threshold}", now_ms());
        }
    }
}

/// Unix time, as in logs.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    since.as_millis() as u64
}

fn bytes_of(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .expect("a line of meminfo");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Disables swap, so that the machine does not slow down first, and writes evenkeel's configuration.
fn prepare() {
    let _ = Command::new("swapoff").arg("-a").status();
    std::fs::create_dir_all(HOME).expect("a folder");
    let write = |name: &str, text: String| std::fs::write(format!("{HOME}/{name}"), text).expect("a writable folder");
    write(
        "evenkeel.yml",
        "mode: enforce\nwebhook: {allow_unauthenticated: true}\nbudget: {final_steps: 1000}\nrule_files: [rule.yml]\n\
         alerting_rule_files: [alert.yml]\n"
            .into(),
    );
    write(
        "rule.yml",
        "rules:\n  - {name: end-hog, matchers: ['alertname=\"MemoryGone\"'], select: {cmdline: '.* hog', min_memory: 100MiB}, order_by: memory, \
         cooldown: 0s, actions: [{signal: SIGTERM}]}\n"
            .into(),
    );
    write(
        "alert.yml",
        format!(
            "groups: [{{name: g, rules: [{{alert: MemoryGone, expr: '100 * node_memory_MemAvailable_bytes / \
             node_memory_MemTotal_bytes <= {THRESHOLD_PERCENT}'}}]}}]\n"
        ),
    );
}

struct Contestant {
    name: &'static str,
    command: Vec<String>,
    available: Vec<u64>,
    delays_ms: Vec<u64>,
}

impl Contestant {
    fn new(name: &'static str, command: Vec<String>) -> Self {
        Contestant {
            name,
            command,
            available: Vec::new(),
            delays_ms: Vec::new(),
        }
    }

    /// Runs one round and returns its result.
    fn run(&mut self) -> String {
        // A new ledger, because the last hog would count as the one victim of this episode.
        let _ = std::fs::remove_dir_all(format!("{HOME}/storage"));
        let path = format!("{HOME}/{}.log", self.name);
        let log = std::fs::File::create(&path).expect("a log");
        let daemon = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        let mut daemon = daemon.expect("it starts");
        std::thread::sleep(START);
        let said = feed_a_hog();
        assert!(daemon.try_wait().expect("a child").is_none(), "{} has ended", self.name);
        end(&mut daemon);
        let told = std::fs::read_to_string(path).unwrap_or_default();
        let [began, crossed, ended] = ["began", "crossed", "ended"].map(|word| noted(&said, word));
        // Other programs also allocate memory, so the kill may come before the hog reports the threshold.
        let Some((crossed_ms, threshold)) = crossed.or(ended) else {
            return format!("the hog said {said:?}");
        };
        let before = began.map_or(0, |(began_ms, _)| crossed_ms - began_ms);
        let pace = began.map_or(0, |(_, available)| (available - threshold) * 1000 / before.max(1));
        let mut way = stages(&told, crossed_ms);
        let how = match ended {
            Some((ended_ms, available)) => {
                self.available.push(available);
                self.delays_ms.push(ended_ms.saturating_sub(crossed_ms));
                let delay = ended_ms as i64 - crossed_ms as i64;
                format!("{} at the signal, {delay} ms after the threshold", mebibytes(available))
            }
            None => {
                way.push_str(&timeline(&told, crossed_ms));
                "ended by the kernel".to_owned()
            }
        };
        format!(
            "{how} of {} (crossed at {before} ms, {}/s){way}",
            mebibytes(threshold),
            mebibytes(pace)
        )
    }

    fn result(mut self) -> Self {
        self.available.sort_unstable();
        self.delays_ms.sort_unstable();
        self
    }
}

fn median(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

/// A report of the hog by its keyword: time and bytes.
fn noted(said: &str, word: &str) -> Option<(u64, u64)> {
    let mut fields = said
        .lines()
        .find_map(|line| line.strip_prefix(word))?
        .split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The lines of evenkeel's log, with their time from `crossed_ms` on.
fn lines(log: &str, crossed_ms: u64) -> impl Iterator<Item = (i64, serde_json::Value)> {
    log.lines().filter_map(move |line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let at: jiff::Timestamp = line["ts"].as_str()?.parse().ok()?;
        Some((at.as_millisecond() - crossed_ms as i64, line))
    })
}

/// The time per stage from the sample to the signal, from evenkeel's log.
fn stages(log: &str, crossed_ms: u64) -> String {
    let Some((at, line)) = lines(log, crossed_ms).find(|(_, line)| line["msg"] == "reaction") else {
        return String::new();
    };
    let ms = |name: &str| line[name].as_f64().unwrap_or(f64::NAN);
    let stages = ["evaluate_ms", "wait_ms", "decide_ms", "commit_ms", "act_ms"];
    let stages = stages.map(|name| format!("{} {:.1}", name.trim_end_matches("_ms"), ms(name)));
    format!("; sampled at {} ms, {}", at - ms("total_ms") as i64, stages.join(", "))
}

/// evenkeel's log from shortly before the threshold on.
fn timeline(log: &str, crossed_ms: u64) -> String {
    lines(log, crossed_ms)
        .filter(|(at, _)| *at > -1000)
        .map(|(at, line)| format!("\n    {at} ms {line}"))
        .collect()
}

/// Runs a hog and returns its output.
fn feed_a_hog() -> String {
    let hog = std::env::current_exe().expect("a path");
    let mut hog = Command::new(hog)
        .arg("hog")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a hog");
    let until = Instant::now() + HOG_PATIENCE;
    while hog.try_wait().expect("a child").is_none() {
        if Instant::now() > until {
            println!("the hog survived");
            end(&mut hog);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut said = String::new();
    hog.stdout
        .take()
        .expect("a pipe")
        .read_to_string(&mut said)
        .expect("text");
    said
}

fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = child.wait();
}
