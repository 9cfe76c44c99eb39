//! The selection of targets: text in labels never widens a selection, and no step reaches a process that is protected,
//! over the limit, or does not match the selector at that time. Hostile names and command lines are real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel::act::budget::Budget;
use evenkeel::act::guard::Protection;
use evenkeel::alert::alert::fingerprint;
use evenkeel::alert::{Alert, Labels, Source as AlertSource, Status};
use evenkeel::diagnostic::SourceText;
use evenkeel::engine::host_identity::HostIdentity;
use evenkeel::engine::select::{select, still_holds};
use evenkeel::engine::{Engine, Policy};
use evenkeel::host::fake::FakeHost;
use evenkeel::host::{
    CgroupError, Host, HostError, Knob, LimitState, LinuxHost, Moment, Reading, Reclaimed, Thread, UnitState, Value,
};
use evenkeel::knob::limit::Device;
use evenkeel::ledger::{Journal, LedgerState};
use evenkeel::process::selector::SelectorMatch;
use evenkeel::process::table::Procfs;
use evenkeel::process::{BootId, Cgroup, Identity, Process, ProcessFields};
use evenkeel::rule::{self, Context, Rule, RuleSet};
use evenkeel::telemetry::Telemetry;
use nix::sys::signal::Signal;
use proptest::prelude::*;

use crate::support::eventually;

const TIMEOUT: Duration = Duration::from_secs(20);
const EVERYTHING: ProcessFields = ProcessFields::CMDLINE
    .union(ProcessFields::EXE)
    .union(ProcessFields::HOST_PROGRAM)
    .union(ProcessFields::LOGIN)
    .union(ProcessFields::USER)
    .union(ProcessFields::CGROUP)
    .union(ProcessFields::SIGNALS);

/// Compiles rules as the daemon does.
fn rules(text: &str) -> RuleSet {
    let source = SourceText::new("test.yml", text);
    let context = Context {
        groups: &BTreeMap::new(),
        known_alerts: None,
        own_alerts: &[],
        repeat_interval: None,
        allow_exec: true,
        check_promql: &|_| Ok(Vec::new()),
    };
    let compiled = rule::compile(vec![rule::file::read(&source)], &context);
    compiled
        .rules
        .unwrap_or_else(|| panic!("{text}\n{:?}", compiled.diagnostics))
}

pub fn one_rule(select: &str) -> Arc<Rule> {
    let text =
        format!("rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  select: {select}\n  actions: [{{nice: 10}}]\n");
    rules(&text).rules[0].clone()
}

/// Strings for patterns, including those that would break out of one.
fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab.*+?|()\\[\\]{}^$\\\\ \n-]{0,6}",
        Just(".*".to_owned()),
        Just("a|b".to_owned()),
        Just(")|(.*".to_owned()),
        Just("(?i)A".to_owned()),
        Just("\\Qa\\E".to_owned()),
        Just("{{ $labels.m }}".to_owned()),
        any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn label_text_selects_itself_and_nothing_else(
        label in hostile_text(),
        other in hostile_text(),
        names in proptest::collection::vec(hostile_text(), 1..6),
    ) {
        let labels = Labels::from([("l".to_owned(), label.clone()), ("m".to_owned(), other)]);
        let by_name = one_rule("{name: '{{ $labels.l }}'}").selector().unwrap().resolve(&labels);
        let around = one_rule("{cmdline: 'run (fast|slow) {{ $labels.l }}'}").selector().unwrap().resolve(&labels);
        let all_but = one_rule("{name: 'a.*', not: {name: '{{ $labels.l }}'}}").selector().unwrap().resolve(&labels);
        for name in names.iter().chain([&label]) {
            let mut process = Process::example(7, name);
            process.details.cmdline = Some(format!("run fast {name}"));
            let is_it = !label.is_empty() && *name == label;
            prop_assert_eq!(by_name.judge(&process) == SelectorMatch::Holds, is_it, "{:?} {:?}", &label, name);
            prop_assert_eq!(around.judge(&process) == SelectorMatch::Holds, is_it, "{:?} {:?}", &label, name);
// A negation selects only processes that the rest of the rule selects and that the label does not name.
            let is_left = !label.is_empty() && *name != label && name.starts_with('a');
            prop_assert_eq!(all_but.judge(&process) == SelectorMatch::Holds, is_left, "{:?} {:?}", &label, name);
        }
    }
}

/// An event of a process while the engine reads it.
#[derive(Debug, Clone, Copy)]
enum ProcessEvent {
    Dies,
    Execs,
    /// The process exits, and another program gets its pid.
    Succeeded,
    Nothing,
}

/// A host whose processes change between reads, and which checks every step.
struct Restless {
    host: FakeHost,
    rule: Arc<Rule>,
    /// One event for each read of details.
    events: std::vec::IntoIter<ProcessEvent>,
    faults: Vec<String>,
}

impl Restless {
    fn befall(&mut self, pid: i32) {
        let Some(found) = self.host.processes.get_mut(&pid) else {
            return;
        };
        match self.events.next().unwrap_or(ProcessEvent::Nothing) {
            ProcessEvent::Nothing => {}
            ProcessEvent::Dies => drop(self.host.processes.remove(&pid)),
            ProcessEvent::Execs => {
                found.process.name = "postgres".into();
                found.process.details.exe = Some("/usr/lib/postgresql/15/bin/postgres".into());
            }
            ProcessEvent::Succeeded => {
                found.process.identity.start_ticks += 1;
                found.process.details.user = Some("root".into());
            }
        }
    }

    /// Checks the present state of the target of a step.
    fn judge(&mut self, id: Identity, what: &str) {
        let own_ancestors = self.host.own_ancestors();
        let protection = Protection {
            own_ancestors: &own_ancestors,
            protect: &[],
        };
        let Some(mut process) = self.host.process(id.pid) else {
            return;
        };
        self.host.read_details(&mut process, EVERYTHING);
        let fault = match (
            self.rule.selector().unwrap().judge(&process),
            protection.screen(&self.rule, &process),
        ) {
            _ if process.identity != id => "it is another process",
            (SelectorMatch::Holds, Ok(())) => return,
            (SelectorMatch::Holds, Err(_)) => "it is protected",
            _ => "it is not selected",
        };
        self.faults.push(format!("{what} on {process:?}: {fault}"));
    }
}

impl Host for Restless {
    fn now(&self) -> Moment {
        self.host.now()
    }
    fn processes(&mut self) -> io::Result<Vec<Process>> {
        self.host.processes()
    }
    fn process(&mut self, pid: i32) -> Option<Process> {
        self.host.process(pid)
    }
    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        self.befall(process.identity.pid);
        self.host.read_details(process, needs)
    }
    fn threads(&mut self, process: Identity) -> Result<Vec<Thread>, HostError> {
        self.host.threads(process)
    }
    fn get(&mut self, process: Identity, thread: Thread, knob: Knob) -> Result<Value, HostError> {
        self.host.get(process, thread, knob)
    }
    fn set(&mut self, process: Identity, thread: Thread, value: &Value) -> Result<(), HostError> {
        // Any other value is a revert, which is never denied.
        if *value == Value::Nice(10) {
            self.judge(process, "nice 10");
        }
        self.host.set(process, thread, value)
    }
    fn signal(&mut self, process: Identity, signal: Signal) -> Result<(), HostError> {
        self.judge(process, signal.as_str());
        self.host.signal(process, signal)
    }
    fn resets_on_fork(&mut self, process: Identity, thread: Thread) -> Result<bool, HostError> {
        self.host.resets_on_fork(process, thread)
    }
    fn set_reset_on_fork(&mut self, process: Identity, thread: Thread, resets: bool) -> Result<(), HostError> {
        self.host.set_reset_on_fork(process, thread, resets)
    }
    fn page_out(&mut self, process: Identity, bytes: u64) -> Result<Reclaimed, HostError> {
        self.judge(process, "reclaim");
        self.host.page_out(process, bytes)
    }
    fn memory_bytes(&self) -> u64 {
        self.host.memory_bytes()
    }
    fn begin(&mut self, ticket: u64, errand: evenkeel::host::Job) {
        self.host.begin(ticket, errand);
    }
    fn watch_exit(&mut self, process: Identity) {
        self.host.watch_exit(process);
    }
    fn own_ancestors(&self) -> BTreeSet<i32> {
        self.host.own_ancestors()
    }
    fn available_memory(&mut self) -> Option<u64> {
        None
    }

    fn online_cpus(&self) -> BTreeSet<u32> {
        self.host.online_cpus()
    }
    fn may_undo(&self, knob: Knob) -> Result<(), &'static str> {
        self.host.may_undo(knob)
    }

    // No rule here selects a cgroup.
    fn cgroups(&mut self) -> Result<Vec<Cgroup>, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn cgroup(&mut self, _path: &str) -> Option<Cgroup> {
        None
    }
    fn members(&mut self, _cgroup: &Cgroup) -> Result<Vec<i32>, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn read_cgroup(&mut self, _cgroup: &Cgroup, _knob: Knob) -> Result<Reading, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn set_cgroup(&mut self, _: &Cgroup, _: &Value, _: Option<&UnitState>) -> Result<(), CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn restore_cgroup(&mut self, _: &Cgroup, _: &Value, _: Option<&UnitState>) -> Result<(), CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn limit_state(&mut self, _: &Cgroup, _: &Value, _: &UnitState) -> Result<LimitState, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn restore_unit(&mut self, _: &UnitState, _: &Value, _: Option<&Value>) -> Result<bool, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn reclaim(&mut self, _cgroup: &Cgroup, _bytes: u64) -> Result<Reclaimed, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn kill_cgroup(&mut self, _cgroup: &Cgroup) -> Result<(), CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn is_populated(&mut self, _cgroup: &Cgroup) -> Result<bool, CgroupError> {
        Err(CgroupError::NoHierarchy)
    }
    fn may_change_cgroups(&self) -> Result<(), &'static str> {
        Err("cgroup v2")
    }
    fn device(&self, _path: &str) -> Option<Device> {
        None
    }
    fn processors_of(&mut self, _process: Identity) -> BTreeSet<u32> {
        self.online_cpus()
    }
    fn processors_of_cgroup(&mut self, _cgroup: &Cgroup) -> BTreeSet<u32> {
        self.online_cpus()
    }
}

fn some_process(pid: i32) -> impl Strategy<Value = Process> {
    let exes = proptest::sample::select(vec![
        Some("/usr/bin/job"),
        Some("/usr/sbin/sshd"),
        Some("/usr/bin/dockerd"),
        None,
    ]);
    let names = proptest::sample::select(vec!["job", "job-b", "sshd", ") Z 1 ("]);
    (exes, names, any::<bool>(), 0..100_u32, 0..1000_u64, -5..5_i32).prop_map(
        move |(exe, name, is_batch, kernel, megabytes, nice)| {
            let mut process = Process::example(pid, name);
            process.details.exe = exe.map(str::to_owned);
            process.details.user = Some(if is_batch { "batch" } else { "root" }.to_owned());
            process.details.uid = Some(u32::from(is_batch));
            process.details.caught_signals = Some(0);
            process.is_kernel_thread = kernel < 5;
            process.resident_bytes = megabytes << 20;
            process.nice = nice;
            process
        },
    )
}

fn a_table() -> impl Strategy<Value = Vec<Process>> {
    let pids = [1, 100, 101, 102, 103, 104, 105, 106];
    pids.map(some_process).into_iter().collect::<Vec<_>>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_step_reaches_a_process_that_matches_then(
        table in a_table(),
        limit in 1..5_usize,
        is_final in any::<bool>(),
        overrides in any::<bool>(),
        events in proptest::collection::vec(
            prop_oneof![Just(ProcessEvent::Dies), Just(ProcessEvent::Execs), Just(ProcessEvent::Succeeded), Just(ProcessEvent::Nothing)],
            0..40,
        ),
        pauses in proptest::collection::vec(0..40_u64, 1..12),
    ) {
        let actions = if is_final { "[{nice: 10}, {wait: 5s}, {signal: SIGTERM}]" } else { "[{nice: 10}]" };
        let lifted = if overrides { "  override_protection: [sshd]\n" } else { "" };
        let rules = rules(&format!(
            "rules:\n- name: r\n  matchers: ['alertname=\"A\"']\n  select: {{name: 'job.*|sshd|\\) Z 1 \\(', user: batch}}\n  \
             order_by: memory\n  limit: {limit}\n  actions: {actions}\n  cooldown: 5s\n  any_host: true\n{lifted}"
        ));
        let mut host = FakeHost::new(2, "2026-01-01T00:00:00Z".parse().expect("a time"));
        for process in table {
            host.add(process);
        }
        let restless = Restless {
            host,
            rule: rules.rules[0].clone(),
            events: events.into_iter(),
            faults: Vec::new(),
        };
        let policy = Policy {
            rules,
            enforce: true,
            host_identity: HostIdentity::new(vec!["instance".into()], "web1", "", &[]),
            protect: vec![],
            budget: Budget::default(),
            restore_on_exit: true,
            retention: Default::default(),
        };
        let journal = Journal::in_memory(BootId(1)).expect("memory");
        let mut engine = Engine::new(restless, journal, LedgerState::default(), policy, Box::new(|_| None), Telemetry::default());
        let labels = Labels::from([("alertname".to_owned(), "A".to_owned())]);
        let alert = Alert {
            fingerprint: fingerprint(&labels),
            labels,
            annotations: Labels::new(),
            generator_url: None,
            status: Status::Firing,
            starts_at: "2026-01-01T00:00:00Z".parse().expect("a time"),
            ends_at: None,
            source: AlertSource::Local,
        };
        for seconds in pauses {
            engine.take(std::slice::from_ref(&alert), Instant::now()).expect("a ledger in memory is writable");
            let living: BTreeSet<Identity> =
                engine.host().host.processes.values().map(|found| found.process.identity).collect();
            let held: BTreeSet<Identity> = engine.ledger().leases.values().filter_map(|lease| lease.target.process()).collect();
            prop_assert!(held.intersection(&living).count() <= limit, "{} are held", held.len());
            engine.host().host.advance(Duration::from_secs(seconds));
            engine.tick();
            let struck: BTreeSet<i32> = engine.host().host.signals.iter().map(|(pid, _)| *pid).collect();
            prop_assert!(struck.len() <= limit, "{struck:?}");
        }
        prop_assert_eq!(&engine.host().faults, &Vec::<String>::new());
        engine.shut_down();
        prop_assert!(engine.ledger().leases.is_empty());
    }
}

/// A real child with another program's name.
struct Impostor(Child);

impl Impostor {
    /// `becoming` is Python code that runs before the child is ready; `extra` becomes its last argument.
    fn start(name: &[u8], becoming: &str, extra: &str) -> Impostor {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let script = format!(
            "import ctypes,sys,threading,time\nlibc=ctypes.CDLL(None)\nlibc.prctl(15,bytes.fromhex('{hex}'),0,0,0)\n\
             {becoming}\nprint('ready',flush=True)\nsys.stdin.read()\n"
        );
        let mut child = Command::new("python3")
            .args(["-S", "-c", &script, extra])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says something");
        assert_eq!(line, "ready\n");
        Impostor(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a pid fits")
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // The child may have exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn live_host() -> LinuxHost {
    LinuxHost::new(Procfs::open(Path::new("/proc")).expect("a procfs"), Arc::new(|_| ()))
}

/// Pids that a selector matches on this host now, before protections.
fn chosen(select_text: &str) -> BTreeSet<i32> {
    let mut host = live_host();
    let rule = one_rule(select_text);
    let own_ancestors = host.own_ancestors();
    let protection = Protection {
        own_ancestors: &own_ancestors,
        protect: &[],
    };
    let table = host.processes().expect("a process table");
    let found = select(&mut host, &table, &rule, rule.selector().unwrap(), &protection).matches;
    found.iter().map(|process| process.identity.pid).collect()
}

#[test]
fn names_that_are_made_to_confuse_are_read_as_they_are() {
    let names: [&[u8]; 7] = [
        b") Z 1 (",
        b"a\nb",
        b"",
        b"\xff\xfe\xfd",
        b"sshd",
        b"postgres",
        b"1 (x) R 1",
    ];
    for name in names {
        let impostor = Impostor::start(name, "", "token");
        let mut host = live_host();
        let process = host.process(impostor.pid()).expect("it runs");
        assert_eq!(process.name, String::from_utf8_lossy(name));
        assert!(
            process.identity.pid == impostor.pid() && matches!(process.state, 'R' | 'S'),
            "{process:?}"
        );
        assert_eq!(process.parent, i32::try_from(std::process::id()).expect("a pid fits"));
        let literal = serde_json::to_string(&regex_of(&process.name)).expect("a text");
        let found = chosen(&format!("{{name: {literal}, cmdline: '(?s:.*) token'}}"));
        assert_eq!(found, BTreeSet::from([impostor.pid()]), "{name:?}");
    }
}

/// A pattern that matches exactly this string. Does not use the code under test for escaping.
fn regex_of(text: &str) -> String {
    let escape = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_string()
        } else {
            format!("\\x{{{:x}}}", u32::from(c))
        }
    };
    // An empty pattern is rejected, so this adds an empty group.
    format!("(){}", text.chars().map(escape).collect::<String>())
}

#[test]
fn borrowed_name_earns_no_protection_and_no_path_match() {
    let impostor = Impostor::start(b"sshd", "", "imitation");
    let mut host = live_host();
    let mut process = host.process(impostor.pid()).expect("it runs");
    assert!(host.read_details(&mut process, EVERYTHING));
    let own_ancestors = host.own_ancestors();
    let protection = Protection {
        own_ancestors: &own_ancestors,
        protect: &[],
    };
    assert!(protection.screen(&one_rule("{name: sshd}"), &process).is_ok());
    assert!(!chosen("{name: sshd, exe: '/usr/sbin/sshd'}").contains(&impostor.pid()));
}

#[test]
fn a_command_line_of_128_kib_is_read_to_its_bound() {
    let impostor = Impostor::start(b"long", "", &"x".repeat(128 * 1024 - 1));
    assert_eq!(
        chosen("{name: long, cmdline: '(?s:.*x{100})'}"),
        BTreeSet::from([impostor.pid()])
    );
    assert_eq!(chosen("{name: long, cmdline: 'y.*'}"), BTreeSet::new());
}

#[test]
fn zombies_are_not_chosen() {
    let mut dead = Command::new("sleep").arg("0").spawn().expect("sleep runs");
    let dead_pid = i32::try_from(dead.id()).expect("a pid fits");
    let mut host = live_host();
    eventually("a zombie", TIMEOUT, || {
        host.process(dead_pid).filter(|process| process.state == 'Z').map(drop)
    });
    assert!(!chosen(&format!("{{pid: '{dead_pid}'}}")).contains(&dead_pid));
    dead.wait().expect("it is our child");
}

#[test]
fn process_that_exits_or_execs_meanwhile_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, other) in [("evk-here", "evk-there"), ("evk-there", "evk-here")] {
        let path = folder.path().join(name);
        let script = format!("#!/bin/sh\nexec \"{}\"\n", folder.path().join(other).display());
        std::fs::write(&path, script).expect("a writable folder");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("our own file");
    }
    let mut restless = Command::new(folder.path().join("evk-here")).spawn().expect("sh runs");
    let pid = i32::try_from(restless.id()).expect("a pid fits");
    let rule = one_rule("{name: evk-here, cmdline: '/bin/sh .*/evk-here'}");
    let mut host = live_host();
    let own_ancestors = host.own_ancestors();
    let protection = Protection {
        own_ancestors: &own_ancestors,
        protect: &[],
    };
    let (mut seen, mut held) = (0, 0);
    for _ in 0..2000 {
        let Some(process) = host.process(pid) else { continue };
        for found in select(&mut host, &[process], &rule, rule.selector().unwrap(), &protection).matches {
            seen += 1;
            assert_eq!(found.name, "evk-here");
            assert!(
                found
                    .details
                    .cmdline
                    .as_ref()
                    .is_some_and(|line| line.ends_with("evk-here")),
                "{found:?}"
            );
            let checked = still_holds(&mut host, &found, &rule, rule.selector().unwrap(), &protection);
            held += usize::from(checked.is_ok());
        }
    }
    assert!(seen > 0 && held <= seen, "{seen} {held}");
    restless.kill().expect("it is our child");
    let last = host.process(pid);
    restless.wait().expect("it is our child");
    if let Some(last) = last {
        assert!(
            still_holds(&mut host, &last, &rule, rule.selector().unwrap(), &protection).is_err(),
            "it is gone"
        );
    }
}

#[test]
fn procfs_that_hides_processes_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let procfs = folder.path().join("proc");
    std::fs::create_dir(&procfs).expect("a writable folder");
    for path in [folder.path(), &procfs] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own folder");
    }
    let alert = folder.path().join("alert.json");
    std::fs::write(&alert, r#"{"version":"4","alerts":[]}"#).expect("a writable folder");
    std::fs::write(folder.path().join("evenkeel.yml"), "").expect("a writable folder");
    // The mount is private to these commands, and hides other users' processes from the program's unprivileged user.
    std::fs::copy(env!("CARGO_BIN_EXE_evenkeel"), folder.path().join("evenkeel")).expect("a writable folder");
    let script = "mount -t proc -o hidepid=2 proc proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups \
                  ./evenkeel explain --config.file=evenkeel.yml --path.procfs=\"$PWD/proc\" --alert=alert.json";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .current_dir(folder.path())
        .output()
        .expect("unshare runs");
    let said = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    assert!(said.contains("hidepid="), "{said}");
    assert!(said.contains("processes of other users cannot be seen"), "{said}");
}
