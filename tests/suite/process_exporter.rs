//! evenkeel compared with process-exporter on the same configuration and the same processes: the same families, series
//! and values, except those in docs/compatibility.md.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home};
use crate::support::metrics::Scrape;
use crate::support::process::Process;
use crate::support::tools::tool;
use crate::support::{eventually, free_address, http};

const TIMEOUT: Duration = Duration::from_secs(60);
const START_ATTEMPTS: u32 = 5;
/// How long the burner burns between the two comparisons.
const BURNING: Duration = Duration::from_millis(1500);
/// Tolerance for memory, as a share: pages are shared with processes that come and go.
const SHARING: f64 = 0.05;

const TEXT: (&str, &str) = ("Accept", "text/plain;version=0.0.4");

/// A process that sleeps under any arguments, and is killed with its test.
struct Sleeper(Child);

impl Sleeper {
    fn start(arguments: &[&str]) -> Self {
        // A shell ignores its further arguments, and waits for its input without a child.
        let mut command = Command::new("/bin/sh");
        command.arg0(arguments[0]).args(["-c", "read line"]).args(arguments);
        Sleeper(command.stdin(Stdio::piped()).spawn().expect("a shell"))
    }

    /// A shell with this argument and a child that no entry matches. Both end with their input.
    fn with_child(argument: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        // A shell gives background processes no input but one that is named.
        command.args(["-c", "exec 3<&0; cat <&3 & read line", argument]);
        Sleeper(command.stdin(Stdio::piped()).spawn().expect("a shell"))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // The child may have exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The series and the types of the families of process-exporter.
fn namedprocess(address: SocketAddr) -> Option<(BTreeMap<String, f64>, BTreeMap<String, String>)> {
    let answer = http::request(address, "GET", "/metrics", &[TEXT], b"").ok()?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let types = answer.body.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        name.starts_with("namedprocess_")
            .then(|| (name.to_owned(), kind.to_owned()))
    });
    let mut series = Scrape::parse(&answer.body).series();
    series.retain(|name, _| name.starts_with("namedprocess_"));
    Some((series, types.collect()))
}

/// Both programs on one configuration.
struct Both {
    evenkeel: Daemon,
    exporter: SocketAddr,
    _exporter: Process,
    _home: Home,
}

impl Both {
    fn start(file: &str) -> Both {
        let home = Home::new("rules: []\n");
        home.write(
            "evenkeel.yml",
            "sampling: {interval: 100ms, slow_interval: 100ms}\nrule_files: [rules/*.yml]\n",
        );
        home.write("groups.yml", file);
        let path = home.path().join("groups.yml");
        let evenkeel = home.start(&[&format!("--process-exporter.config={}", path.display())]);
        let start = |address: SocketAddr| {
            let mut command = tool("process-exporter");
            command.arg(format!("-config.path={}", path.display()));
            command.arg(format!("-web.listen-address={address}"));
            Process::start("process-exporter", &mut command)
        };
        for _ in 0..START_ATTEMPTS {
            let address = free_address();
            let mut process = start(address);
            let is_ready = eventually("process-exporter to start", TIMEOUT, || match process.ended() {
                Some(_) => Some(false),
                None => namedprocess(address).map(|_| true),
            });
            if is_ready {
                return Both {
                    evenkeel,
                    exporter: address,
                    _exporter: process,
                    _home: home,
                };
            }
        }
        panic!("process-exporter does not start");
    }

    /// Both expositions, process-exporter's first.
    fn scrape(&self) -> [(BTreeMap<String, f64>, BTreeMap<String, String>); 2] {
        [self.exporter, self.evenkeel.metrics].map(|address| namedprocess(address).expect("an answer"))
    }

    /// What differs, given the counters of an earlier moment.
    fn differences(&self, before: &[BTreeMap<String, f64>; 2]) -> Vec<String> {
        let [(theirs, their_types), (ours, our_types)] = self.scrape();
        let mut differences = Vec::new();
        if their_types != our_types {
            differences.push(format!("types: {their_types:?} here {our_types:?}"));
        }
        for name in theirs
            .keys()
            .chain(ours.keys().filter(|name| !theirs.contains_key(*name)))
        {
            let (Some(their), Some(our)) = (theirs.get(name), ours.get(name)) else {
                // A group without members has a start time before 1970 there, and none here.
                let is_empty = name.contains("oldest_start_time") && theirs.get(name).is_some_and(|time| *time < 0.0);
                if !is_empty {
                    differences.push(format!("{name}: {:?} here {:?}", theirs.get(name), ours.get(name)));
                }
                continue;
            };
            if name.starts_with("namedprocess_scrape_") {
                continue;
            }
            let at = |index: usize| before[index].get(name).copied().unwrap_or(0.0);
            let (their, our) = match name.contains("_total{") {
                true => (their - at(0), our - at(1)),
                false => (*their, *our),
            };
            let slack = if name.contains("memory_bytes") {
                SHARING * their.abs()
            } else {
                1e-6
            };
            if (their - our).abs() > slack {
                differences.push(format!("{name}: {their} here {our}"));
            }
        }
        differences
    }

    /// Waits until nothing differs; shows the last differences otherwise.
    #[track_caller]
    fn expect_the_same(&self, when: &str, before: &[BTreeMap<String, f64>; 2]) {
        let started = std::time::Instant::now();
        loop {
            let differences = self.differences(before);
            if differences.is_empty() {
                return;
            }
            assert!(started.elapsed() < TIMEOUT, "{when}:\n{}", differences.join("\n"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is a child of the test");
}

/// Stops a process and waits until all of its threads stand still.
fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    eventually("a process to stop", TIMEOUT, || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats
            .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
            .then_some(())
    });
}

#[test]
fn groups_of_process_exporter_have_its_series_and_values() {
    let id = format!("pe{}", std::process::id() % 1_000_000);
    let file = format!(
        "process_names:\n\
         \x20 - name: '{{{{.Comm}}}}'\n\
         \x20   comm: [{id}-burn, {id}-other]\n\
         \x20 - name: '{{{{.ExeBase}}}}:{{{{.Matches.Kind}}}}'\n\
         \x20   exe: [{id}-worker]\n\
         \x20   cmdline: ['--kind=(?P<Kind>\\w+)', '--size']\n\
         \x20 - exe: [/opt/{id}/full]\n\
         \x20 - name: 'tree {{{{.Username}}}} {{{{.Matches.none}}}}'\n\
         \x20   cmdline: ['{id}-tree']\n\
         \x20 - name: '{{{{.PID}}}} {{{{.StartTime}}}} {{{{.ExeFull}}}}'\n\
         \x20   cmdline: ['{id}-one']\n\
         \x20 - name: 'in {{{{.Cgroups}}}}'\n\
         \x20   cmdline: ['{id}-(cgroup|late)']\n"
    );
    let argument = |end: &str| format!("{id}-{end}");
    let mut burner = Burner::start(&argument("burn"));
    // Counters stand still while they are compared.
    stop(burner.pid());
    let worker = format!("/opt/{id}-worker");
    let _sleepers = [
        Sleeper::start(&[&worker, "--kind=red", "--size"]),
        Sleeper::start(&[&worker, "--kind=red", "--size=2"]),
        Sleeper::start(&[&worker, "--kind=blue", "--size"]),
        // Not of the group, because it lacks one argument.
        Sleeper::start(&[&worker, "--kind=green"]),
        Sleeper::start(&[&format!("/opt/{id}/full")]),
        Sleeper::start(&[&argument("one")]),
        Sleeper::start(&[&argument("cgroup")]),
        Sleeper::with_child(&argument("tree")),
    ];
    let both = Both::start(&file);
    let red = format!("namedprocess_namegroup_num_procs{{groupname=\"{id}-worker:red\"}}");
    let tree = "namedprocess_namegroup_num_procs{groupname=\"tree root <no value>\"}";
    eventually("both to know the groups", TIMEOUT, || {
        let knows = |(series, _): &(BTreeMap<String, f64>, _)| {
            series.get(&red) == Some(&2.0) && series.get(tree).is_some_and(|count| *count >= 2.0)
        };
        both.scrape().iter().all(knows).then_some(())
    });
    let before = both.scrape().map(|(series, _)| series);
    both.expect_the_same("at first", &before);

    signal(burner.pid(), Signal::SIGCONT);
    burner.burn();
    std::thread::sleep(BURNING);
    stop(burner.pid());
    let late = Sleeper::start(&[&argument("late")]);
    both.expect_the_same("after work", &before);
    let burned = both.scrape().map(|(series, _)| {
        let series = series.into_iter();
        let cpu = "namedprocess_namegroup_cpu_seconds_total{";
        let of_burner = series.filter(|(name, _)| name.starts_with(cpu) && name.contains("-burn\""));
        of_burner.map(|(_, value)| value).sum::<f64>()
    });
    assert!(burned.iter().all(|seconds| *seconds > 0.3), "{burned:?}");

    // A group keeps the sums of its members that end.
    let counters = || {
        let [_, (mut series, _)] = both.scrape();
        series.retain(|name, _| name.contains("_total{"));
        series
    };
    let until = counters();
    drop(late);
    signal(burner.pid(), Signal::SIGKILL);
    eventually("the burner to end", TIMEOUT, || burner.ended());
    eventually("evenkeel to see the end", TIMEOUT, || {
        let ended = format!("namedprocess_namegroup_num_procs{{groupname=\"{id}-burn\"}}");
        (both.scrape()[1].0.get(&ended) == Some(&0.0)).then_some(())
    });
    let after = counters();
    for (name, before) in until {
        let now = after.get(&name).copied();
        assert!(now >= Some(before), "{name} fell from {before} to {now:?}");
    }
}

/// Series that the published dashboards of process-exporter ask for (grafana.com 249, 4202, 8378, 10976, 13882).
const ASKED: [(&str, &[(&str, &str)]); 25] = [
    ("namedprocess_namegroup_num_procs", &[]),
    ("namedprocess_namegroup_num_threads", &[]),
    ("namedprocess_namegroup_cpu_seconds_total", &[("mode", "user")]),
    ("namedprocess_namegroup_cpu_seconds_total", &[("mode", "system")]),
    ("namedprocess_namegroup_memory_bytes", &[("memtype", "resident")]),
    ("namedprocess_namegroup_memory_bytes", &[("memtype", "virtual")]),
    ("namedprocess_namegroup_memory_bytes", &[("memtype", "swapped")]),
    (
        "namedprocess_namegroup_memory_bytes",
        &[("memtype", "proportionalResident")],
    ),
    (
        "namedprocess_namegroup_memory_bytes",
        &[("memtype", "proportionalSwapped")],
    ),
    ("namedprocess_namegroup_read_bytes_total", &[]),
    ("namedprocess_namegroup_write_bytes_total", &[]),
    ("namedprocess_namegroup_major_page_faults_total", &[]),
    ("namedprocess_namegroup_minor_page_faults_total", &[]),
    (
        "namedprocess_namegroup_context_switches_total",
        &[("ctxswitchtype", "voluntary")],
    ),
    (
        "namedprocess_namegroup_context_switches_total",
        &[("ctxswitchtype", "nonvoluntary")],
    ),
    ("namedprocess_namegroup_open_filedesc", &[]),
    ("namedprocess_namegroup_worst_fd_ratio", &[]),
    ("namedprocess_namegroup_oldest_start_time_seconds", &[]),
    ("namedprocess_namegroup_states", &[("state", "Sleeping")]),
    ("namedprocess_namegroup_states", &[("state", "Zombie")]),
    ("namedprocess_namegroup_thread_count", &[]),
    ("namedprocess_namegroup_thread_cpu_seconds_total", &[("mode", "user")]),
    ("namedprocess_namegroup_thread_io_bytes_total", &[("iomode", "read")]),
    (
        "namedprocess_namegroup_thread_context_switches_total",
        &[("ctxswitchtype", "voluntary")],
    ),
    ("namedprocess_scrape_partial_errors", &[]),
];

#[test]
fn dashboards_of_process_exporter_find_their_series() {
    let id = format!("pd{}", std::process::id() % 1_000_000);
    let _burner = Burner::start(&id);
    let has_all = |evenkeel: &Daemon| {
        eventually("the series of the dashboards", TIMEOUT, || {
            let answer = http::request(evenkeel.metrics, "GET", "/metrics", &[TEXT], b"").ok()?;
            let scrape = Scrape::parse(&answer.body);
            let has = |name: &str, labels: &[(&str, &str)]| {
                let group = [("groupname", id.as_str())];
                let of_group = if name.starts_with("namedprocess_scrape") {
                    &group[..0]
                } else {
                    &group[..]
                };
                scrape.sum(name, &[labels, of_group].concat()).is_some()
            };
            ASKED.iter().all(|(name, labels)| has(name, labels)).then_some(())
        });
    };
    let home = Home::new("rules: []\n");
    // The file of the packages.
    home.write(
        "all.yaml",
        "process_names:\n  - name: \"{{.Comm}}\"\n    cmdline:\n    - '.+'\n",
    );
    home.write(
        "evenkeel.yml",
        "sampling: {slow_interval: 1s}\nrule_files: [rules/*.yml]\n",
    );
    let evenkeel = home.start(&[&format!(
        "--process-exporter.config={}",
        home.path().join("all.yaml").display()
    )]);
    has_all(&evenkeel);
    drop(evenkeel);
    // Own groups under these names.
    home.write(
        "evenkeel.yml",
        &format!(
            "sampling: {{slow_interval: 1s}}\nrule_files: [rules/*.yml]\n\
             process_groups:\n\
             \x20 - {{name: '{{{{.Comm}}}}', select: {{name: {id}}}, metrics: [swap, context_switches, io, open_fds, threads, smaps]}}\n\
             grouping: {{metric_names: [evenkeel, process-exporter]}}\n"
        ),
    );
    let evenkeel = home.start(&[]);
    has_all(&evenkeel);
    assert!(evenkeel.metric("evenkeel_group_processes", &[("group", &id)]) > 0.0);
}

#[test]
fn reload_reads_the_file_of_process_exporter_again() {
    let home = Home::new("rules: []\n");
    home.write(
        "evenkeel.yml",
        "sampling: {interval: 100ms, slow_interval: 100ms}\nrule_files: [rules/*.yml]\n",
    );
    home.write("groups.yml", "process_names: [{name: before, cmdline: ['.+']}]\n");
    let flag = format!("--process-exporter.config={}", home.path().join("groups.yml").display());
    let evenkeel = home.start(&[
        &flag,
        "--process-exporter.gather-smaps=false",
        "--process-exporter.threads=false",
    ]);
    let has = |name: &str| {
        let answer = http::request(evenkeel.metrics, "GET", "/metrics", &[TEXT], b"").expect("an answer");
        assert!(
            !answer.body.contains("namegroup_thread_") && !answer.body.contains("proportionalR"),
            "{}",
            answer.body
        );
        answer.body.contains(&format!("num_procs{{groupname=\"{name}\"}}"))
    };
    eventually("the group", TIMEOUT, || has("before").then_some(()));
    home.write("groups.yml", "process_names: [{name: '{{.Com}}', cmdline: ['.+']}]\n");
    signal(evenkeel.pid(), Signal::SIGHUP);
    eventually("the mistake to be logged", TIMEOUT, || {
        let log = evenkeel.log().join("\n");
        (log.contains("config reload failed") && log.contains("groups.yml:1:")).then_some(())
    });
    assert!(has("before"));
    home.write("groups.yml", "process_names: [{name: after, cmdline: ['.+']}]\n");
    signal(evenkeel.pid(), Signal::SIGHUP);
    eventually("the other group", TIMEOUT, || {
        (has("after") && !has("before")).then_some(())
    });
}

#[test]
fn flags_without_the_file_of_process_exporter_are_logged() {
    let home = Home::new("rules: []\n");
    let evenkeel = home.start(&["--process-exporter.remove-empty-groups", "--process-exporter.threads"]);
    let lines = evenkeel.log_of_start();
    let mut about = lines
        .iter()
        .filter(|line| line.contains("without --process-exporter.config"));
    let line = about.next().expect("a line about the flag");
    assert!(line.contains("flag=--process-exporter.remove-empty-groups"), "{line}");
    // The default is no change.
    assert_eq!(about.next(), None);
}
