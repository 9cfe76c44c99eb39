//! What a refresh of process groups costs against plain reads of the same files, with many processes.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel::process::selector::{Condition, Pattern};
use evenkeel::process::{Needs, Selector};
use evenkeel::sense::groups::{DEFAULT_METRICS, GroupsReader};
use evenkeel::sense::{Group, Roots};

const PROCESSES: [usize; 2] = [100, 1000];
const ROUNDS: usize = 9;

/// Sleepers that end with the benchmark.
struct Sleepers(Vec<Child>);

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Ended already is ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The shortest of some rounds: the rest is what else the machine does.
fn shortest(mut work: impl FnMut()) -> Duration {
    let round = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    (0..ROUNDS).map(|_| round(&mut work)).min().unwrap_or_default()
}

/// The same files of the same processes, one buffer for all and nothing made of it.
fn plain_reads(files: &[&str], only: &[Child]) {
    let mut buffer = vec![0; 64 << 10];
    let mut read = |path: String| {
        if let Ok(mut file) = File::open(path) {
            // What has vanished is not read.
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:<12}{:<28}{:>12}{:>12}{:>8}",
        "processes", "files", "groups, ms", "plain, ms", "ratio"
    );
    let by_name = vec![Condition::Name(Pattern::fixed("sleep")?)];
    let by_cgroup = [by_name.clone(), vec![Condition::Cgroup(Pattern::fixed(".*")?)]].concat();
    let mut sleepers = Sleepers(Vec::new());
    for processes in PROCESSES {
        while sleepers.0.len() < processes {
            sleepers
                .0
                .push(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn()?);
        }
        for (metrics, conditions, files) in [
            (Needs::NONE, by_name.clone(), &[][..]),
            (DEFAULT_METRICS, by_name.clone(), &["status", "io"][..]),
            (DEFAULT_METRICS, by_cgroup.clone(), &["cgroup", "status", "io"][..]),
        ] {
            let group = Group {
                name: "sleepers".to_owned(),
                selector: Arc::new(Selector { conditions }),
                metrics,
            };
            let mut reader = GroupsReader::new(Arc::new(arc_swap::ArcSwap::from_pointee(vec![group])));
            let roots = Roots::default();
            let groups = shortest(|| {
                reader.read(&roots).expect("a readable /proc");
            });
            let plain = shortest(|| plain_reads(files, &sleepers.0));
            let [groups, plain] = [groups, plain].map(|time| time.as_secs_f64() * 1e3);
            let names = [&["stat"][..], files].concat().join(" ");
            println!(
                "{processes:<12}{names:<28}{groups:>12.2}{plain:>12.2}{:>8.2}",
                groups / plain
            );
        }
    }
    Ok(())
}
