//! Who ends a memory hog sooner: evenkeel or earlyoom, with equal thresholds and no `for`. Runs in a guest of its own, for it takes
//! all memory of the machine: `make bench-guest`.
//!
//! The hog itself says how much memory was still available when SIGTERM reached it. A hog that says nothing was ended by
//! the kernel's OOM killer.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Of each, taking turns.
const RUNS: usize = 20;
/// In 19 of 20 runs the hog must be ended before the kernel does it.
const MAY_FAIL: usize = 1;
const HOG_PATIENCE: Duration = Duration::from_secs(60);
/// For a daemon to start and take its first samples.
const START: Duration = Duration::from_secs(4);

/// earlyoom counts available memory in percent of what user space could have: what is available and what it has.
const THRESHOLD_PERCENT: u32 = 10;

const HOME: &str = "/tmp/hog";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("hog") {
        hog();
    }
    // Taken by the harness of cargo for all benches, on a machine that others use.
    if std::env::var_os("EVENKEEL_MAY_EXHAUST_MEMORY").is_none() {
        println!("takes all memory of a machine: run it with `make bench-guest`");
        return ExitCode::SUCCESS;
    }
    let evenkeel = std::env::var("EVENKEEL").expect("EVENKEEL is the path of evenkeel");
    prepare();
    let mut contestants = [
        Contestant::new(
            "evenkeel",
            vec![
                evenkeel,
                "run".into(),
                format!("--config.file={HOME}/evenkeel.yml"),
                format!("--storage.path={HOME}/storage"),
                "--web.listen-address=127.0.0.1:0".into(),
                "--webhook.listen-address=127.0.0.1:0".into(),
            ],
        ),
        Contestant::new(
            "earlyoom",
            vec![
                "/usr/bin/earlyoom".into(),
                "-m".into(),
                THRESHOLD_PERCENT.to_string(),
                "-r".into(),
                "0".into(),
            ],
        ),
    ];
    for run in 1..=RUNS {
        for contestant in &mut contestants {
            let available = contestant.run();
            println!(
                "run {run:2} {:9} {}",
                contestant.name,
                available.map_or("ended by the kernel".to_owned(), mebibytes)
            );
        }
    }
    let [evenkeel, earlyoom] = contestants.map(Contestant::result);
    for result in [&evenkeel, &earlyoom] {
        println!(
            "{:9} ended {} of {RUNS} hogs before the kernel; available at the signal: median {}, least {}",
            result.name,
            result.available.len(),
            mebibytes(result.median()),
            mebibytes(result.available.first().copied().unwrap_or(0)),
        );
    }
    println!(
        "evenkeel / earlyoom, median available: {:.2}",
        evenkeel.median() as f64 / earlyoom.median().max(1) as f64
    );
    if evenkeel.available.len() + MAY_FAIL < RUNS {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Takes memory as fast as it can until it is told to end.
fn hog() -> ! {
    let term = SigSet::from_iter([Signal::SIGTERM]);
    term.thread_block().expect("a signal mask");
    std::thread::spawn(move || {
        term.wait().expect("a signal");
        println!("{}", available_bytes());
        std::process::exit(0);
    });
    let mut taken = Vec::new();
    loop {
        // Pages of zeros would not be there before they are written to.
        taken.push(vec![1u8; 4 << 20]);
    }
}

fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .expect("MemAvailable");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// No swap: the hog is to be ended before the machine crawls. And evenkeel's configuration.
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
             (node_memory_MemAvailable_bytes + node_memory_AnonPages_bytes) <= {THRESHOLD_PERCENT}'}}]}}]\n"
        ),
    );
}

struct Contestant {
    name: &'static str,
    command: Vec<String>,
    available: Vec<u64>,
}

impl Contestant {
    fn new(name: &'static str, command: Vec<String>) -> Self {
        Contestant {
            name,
            command,
            available: Vec::new(),
        }
    }

    /// What was available at the signal; nothing where the kernel was first.
    fn run(&mut self) -> Option<u64> {
        let log = std::fs::File::create(format!("{HOME}/{}.log", self.name)).expect("a log");
        let daemon = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        let mut daemon = daemon.expect("it starts");
        std::thread::sleep(START);
        let available = feed_a_hog();
        assert!(daemon.try_wait().expect("a child").is_none(), "{} has ended", self.name);
        end(&mut daemon);
        self.available.extend(available);
        available
    }

    fn result(mut self) -> Self {
        self.available.sort_unstable();
        self
    }

    fn median(&self) -> u64 {
        self.available.get(self.available.len() / 2).copied().unwrap_or(0)
    }
}

fn feed_a_hog() -> Option<u64> {
    let hog = std::env::current_exe().expect("a path");
    let mut hog = Command::new(hog)
        .arg("hog")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a hog");
    let until = Instant::now() + HOG_PATIENCE;
    while hog.try_wait().expect("a child").is_none() {
        if Instant::now() > until {
            println!("nobody ended the hog");
            end(&mut hog);
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut said = String::new();
    hog.stdout
        .take()
        .expect("a pipe")
        .read_to_string(&mut said)
        .expect("text");
    said.trim().parse().ok()
}

fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = child.wait();
}
