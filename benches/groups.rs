//! The cost of a refresh of process groups with many processes, compared with plain reads of the same files, and with a
//! scrape of process-exporter with the same metrics.

#[path = "scrape/peer.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod peer;

use std::fs::{self, File};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel::process::selector::{Condition, Pattern};
use evenkeel::process::{ProcessFields, Selector};
use evenkeel::sense::groups::GroupsReader;
use evenkeel::sense::groups::group::{DEFAULT_METRICS, ExtraMetrics};
use evenkeel::sense::{Group, Roots};

const PROCESSES: [usize; 3] = [100, 1000, 5000];
const ROUNDS: usize = 9;

/// Sleepers that end with the benchmark.
struct Sleepers(Vec<Child>);

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // The child may have exited.
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// The shortest of some rounds, because longer ones include other work of the machine.
fn shortest(mut work: impl FnMut()) -> Duration {
    let round = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..ROUNDS).map(|_| round(&mut work)).min().unwrap_or_default()
}

/// Processor time of this thread, which reads the groups.
fn own_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// Reads the same files of the same processes into one buffer, without parsing.
fn plain_reads(files: &[&str], only: &[Child]) {
    let mut buffer = vec![0; 64 << 10];
    let mut read = |path: String| {
        if let Ok(mut file) = File::open(path) {
            // The process may have exited.
            let _ = file.read(&mut buffer);
        }
    };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            read(format!("/proc/{name}/stat"));
        }
    }
    for child in only {
        for file in files {
            read(format!("/proc/{}/{file}", child.id()));
        }
    }
}

/// All metrics of a group.
const EVERYTHING: ProcessFields = DEFAULT_METRICS.union(ProcessFields::OPEN_FDS);

fn main() -> peer::Outcome<()> {
    println!(
        "{:<12}{:<36}{:>12}{:>12}{:>8}",
        "processes", "what is read", "groups, ms", "other, ms", "ratio"
    );
    let row = |processes: usize, what: &str, groups: Duration, other: Duration| {
        let [groups, other] = [groups, other].map(|time| time.as_secs_f64() * 1e3);
        println!(
            "{processes:<12}{what:<36}{groups:>12.2}{other:>12.2}{:>8.2}",
            groups / other
        );
    };
    let by_name = vec![Condition::Name(Pattern::fixed("sleep")?)];
    let by_cgroup = [by_name.clone(), vec![Condition::Cgroup(Pattern::fixed(".*")?)]].concat();
    let reader = |metrics, conditions: &[Condition]| {
        let group = Group {
            name: "sleepers".to_owned(),
            template: None,
            selector: Arc::new(Selector {
                conditions: conditions.to_vec(),
            }),
            metrics,
            extra: ExtraMetrics::empty(),
        };
        GroupsReader::new(Arc::new(arc_swap::ArcSwap::from_pointee(vec![group].into())))
    };
    let roots = Roots::default();
    let read = |reader: &mut GroupsReader| drop(reader.read(&roots).expect("a readable /proc"));
    // From the second round on, the cache knows that sleepers have not run, so less is read.
    let refresh = |metrics, conditions: &[Condition]| {
        let mut reader = reader(metrics, conditions);
        shortest(|| read(&mut reader))
    };
    let mut sleepers = Sleepers(Vec::new());
    for processes in PROCESSES {
        while sleepers.0.len() < processes {
            sleepers
                .0
                .push(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?);
        }
        for (metrics, conditions, files) in [
            (ProcessFields::empty(), &by_name, &[][..]),
            (DEFAULT_METRICS, &by_name, &["status", "io"][..]),
            (DEFAULT_METRICS, &by_cgroup, &["cgroup", "status", "io"][..]),
        ] {
            let groups = refresh(metrics, conditions);
            let plain = shortest(|| plain_reads(files, &sleepers.0));
            let names = [&["stat"][..], files].concat().join(" ");
            row(processes, &format!("{names}; other: plain reads"), groups, plain);
        }
        // Without threads and smaps, because the group of evenkeel has no such metrics.
        let args = ["-procnames=sleep", "-threads=false", "-gather-smaps=false"];
        let mut exporter = peer::tool("process-exporter", &args.map(str::to_owned))?;
        let mut failed = None;
        let spent = exporter.cpu_ms()?;
        let scrape = shortest(|| failed = exporter.scrape().err());
        if let Some(error) = failed {
            return Err(error);
        }
        let scrape_cpu = Duration::from_secs_f64((exporter.cpu_ms()? - spent) / 1e3 / ROUNDS as f64);
        let spent = own_cpu();
        let groups = refresh(EVERYTHING, &by_name);
        let groups_cpu = (own_cpu() - spent) / ROUNDS as u32;
        row(processes, "all; other: process-exporter", groups, scrape);
        let unknown = shortest(|| read(&mut reader(EVERYTHING, &by_name)));
        row(processes, "the same, had all of them run", unknown, scrape);
        // It reads on several threads, so its processor time exceeds the latency.
        row(processes, "all, processor time", groups_cpu, scrape_cpu);
    }
    Ok(())
}
