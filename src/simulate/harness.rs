//! The test harness: a host in memory, a clock that the test advances, and the real engine on them.

use super::test_file::{CgroupSpec, ProcessSpec, ScriptedResponse, StepEvent, ValueTarget};
use crate::alert::alert::{FIRING_SET_INTERVAL, fingerprint};
use crate::alert::{Alert, FiringSet, Labels, Source, Status};
use crate::engine::{Answer, Engine, Policy};
use crate::host::fake::FakeHost;
use crate::host::job::{End, Job, Report};
use crate::host::{Host, HostError, Knob, Moment, Value};
use crate::ledger::store::StoreError;
use crate::ledger::{Decision, Journal, LedgerState, Outcome, Record};
use crate::process::cpu_baseline::MIN_CPU_WINDOW;
use crate::process::table::TICKS_PER_SECOND;
use crate::process::{BootId, Identity, Process};
use crate::telemetry::Telemetry;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The host name in tests.
pub const HOST_NAME: &str = "host-a";
/// Default resident memory of a process.
const DEFAULT_MEMORY_BYTES: u64 = 10 << 20;
const DEFAULT_AGE: Duration = Duration::from_secs(3600);
const DEFAULT_USER: &str = "app";
/// Time from a deadly signal to the exit of a process, so that the exit is older than the next sample.
const EXIT_DELAY: Duration = Duration::from_millis(1);
/// Start time of all tests, 2026-01-01, so that results do not depend on the date.
const START_SECOND: i64 = 1_767_225_600;

/// A denial, an action or a revert.
#[derive(Debug, Clone, PartialEq)]
pub struct Happening {
    /// Time since the start of the test.
    pub at: Duration,
    pub event: StepEvent,
}

pub struct Harness {
    engine: Engine<FakeHost>,
    telemetry: Telemetry,
    source: Source,
    /// The scripted responses of allocators and commands.
    answer: ScriptedResponse,
    /// The result of `while` for every rule.
    condition: Arc<Mutex<Answer>>,
    /// Both clocks at the start of the test.
    began: Moment,
    /// The start of each firing alert.
    firing: BTreeMap<Labels, Timestamp>,
    /// Time of the next firing set of own evaluation, on the engine's clock.
    next_full_set: Duration,
    /// Cores in use and clock ticks so far, by pid.
    cpu: BTreeMap<i32, (f64, f64)>,
    living: BTreeSet<Identity>,
    /// Number of the ledger's records that were returned already.
    reported: usize,
    counted: BTreeMap<(SmolStr, &'static str), u64>,
}

/// Why a simulated host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    #[error(transparent)]
    Clock(#[from] jiff::Error),
    #[error(transparent)]
    Ledger(#[from] StoreError),
}

impl Harness {
    /// A host with these processes, which have run long enough to have a measured processor use.
    ///
    /// # Errors
    /// When there is no memory for a ledger.
    pub fn new(
        policy: Policy,
        cpus: u32,
        source: Source,
        processes: &[ProcessSpec],
        cgroups: &[CgroupSpec],
    ) -> Result<Harness, HarnessError> {
        let wall = Timestamp::from_second(START_SECOND)?;
        let condition = Arc::new(Mutex::new(Answer {
            holds: true,
            sample_at: Duration::ZERO,
        }));
        let answer = Arc::clone(&condition);
        let conditions = Box::new(move |_: &str| Some(*answer.lock().unwrap_or_else(PoisonError::into_inner)));
        let journal = Journal::in_memory(BootId(1))?;
        let telemetry = Telemetry::default();
        let mut host = FakeHost::new(cpus, wall);
        // A day, because a process may be older than the uptime of a new fake host, an hour.
        host.now.boot += Duration::from_secs(24 * 3600);
        for group in cgroups {
            let made = host.add_cgroup(&group.path);
            made.memory_bytes = group.memory_bytes;
            made.reclaimable_bytes = group.reclaimable_bytes;
            let settings = group.settings.iter().map(|setting| (setting.file(), setting.clone()));
            made.settings.extend(settings);
        }
        let mut cpu = BTreeMap::new();
        for spec in processes {
            appear(
                &mut host,
                &mut cpu,
                spec,
                DEFAULT_AGE.saturating_sub(MIN_CPU_WINDOW),
                MIN_CPU_WINDOW,
            );
        }
        let mut engine = Engine::new(
            host,
            journal,
            LedgerState::default(),
            policy,
            conditions,
            telemetry.clone(),
        );
        let mut harness = Harness {
            began: engine.host().now,
            engine,
            telemetry,
            source,
            answer: ScriptedResponse::default(),
            condition,
            firing: BTreeMap::new(),
            next_full_set: Duration::ZERO,
            cpu,
            living: BTreeSet::new(),
            reported: 0,
            counted: BTreeMap::new(),
        };
        harness.began.boot += MIN_CPU_WINDOW;
        harness.began.wall += MIN_CPU_WINDOW;
        harness.pass_until(Duration::ZERO);
        harness.settle();
        Ok(harness)
    }

    fn now(&mut self) -> Duration {
        self.engine.host().now.boot
    }

    /// Advances the clock to a time of the test, with everything that the engine has due until then.
    pub fn pass_until(&mut self, at: Duration) {
        let end = self.began.boot + at;
        loop {
            let now = self.now();
            let full_set = self.full_set_due().filter(|due| *due <= end);
            match self.engine.next_due().filter(|due| *due <= end) {
                due if full_set.is_some_and(|at| due.is_none_or(|due| at < due)) => {
                    self.advance(full_set.unwrap_or(now).saturating_sub(now));
                    self.hand_over_own();
                }
                Some(due) => {
                    self.advance(due.saturating_sub(now));
                    self.engine.tick();
                    self.settle();
                    if self.engine.next_due().is_some_and(|due| due <= self.now()) {
                        // Time advances, because a failed attempt is not retried at the same time.
                        self.advance(EXIT_DELAY);
                    }
                }
                None => return self.advance(end.saturating_sub(now)),
            }
        }
    }

    fn full_set_due(&self) -> Option<Duration> {
        let is_own = self.source == Source::Local && !self.firing.is_empty();
        is_own.then_some(self.next_full_set)
    }

    /// Confirms own alerts as long as they fire, as the daemon's own evaluation does.
    fn hand_over_own(&mut self) {
        self.next_full_set = self.now() + FIRING_SET_INTERVAL;
        let firing = self.firing.iter();
        let firing = firing.map(|(labels, starts_at)| self.alert(labels.clone(), Status::Firing, *starts_at, None));
        let set = FiringSet {
            firing: firing.collect(),
            is_complete: true,
            ..FiringSet::default()
        };
        self.engine.take_firing_set(&set);
        self.settle();
    }

    fn advance(&mut self, by: Duration) {
        let host = self.engine.host();
        host.advance(by);
        for (pid, (cores, ticks)) in &mut self.cpu {
            let Some(found) = host.processes.get_mut(pid) else {
                continue;
            };
            *ticks += *cores * by.as_secs_f64() * TICKS_PER_SECOND as f64;
            found.process.cpu_ticks = *ticks as u64;
        }
        let sample_at = self.now();
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).sample_at = sample_at;
    }

    fn alive(&mut self) -> BTreeSet<Identity> {
        let processes = self.engine.host().processes.values();
        processes.map(|found| found.process.identity).collect()
    }

    /// Reports exits and responses to the engine, until there are no more.
    fn settle(&mut self) {
        loop {
            let alive = self.alive();
            let ended: Vec<Identity> = self.living.difference(&alive).copied().collect();
            self.living = alive;
            let jobs = std::mem::take(&mut self.engine.host().jobs);
            if ended.is_empty() && jobs.is_empty() {
                return;
            }
            self.advance(EXIT_DELAY);
            for target in ended {
                self.engine.exited(target);
            }
            for (ticket, job) in jobs {
                let report = self.answer_to(&job);
                self.engine.reported(ticket, &report);
            }
            self.advance(EXIT_DELAY);
            self.engine.tick();
        }
    }

    pub fn set_answer(&mut self, answer: ScriptedResponse) {
        self.answer = answer;
    }

    fn answer_to(&self, job: &Job) -> Report {
        let body = self.answer.body.as_ref().map_or(String::new(), ToString::to_string);
        match (job, self.answer.status) {
            (Job::Command(_), _) => Report::Ended {
                end: End::Status(self.answer.exit),
                output: String::new(),
            },
            (Job::Request(..), Some(status)) => Report::Answered {
                status,
                body: body.into_bytes(),
                retry_after: None,
            },
            (Job::Request(..), None) => Report::Unanswered {
                reason: "no answer: the test gives no `answer`".to_owned(),
                was_sent: false,
            },
        }
    }

    pub fn set_condition(&mut self, holds: bool) {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).holds = holds;
    }

    /// Fires or repeats an alert.
    pub fn fire(&mut self, labels: Labels) {
        let labels = about_us(labels);
        let now = self.engine.host().now.wall;
        let starts_at = *self.firing.entry(labels.clone()).or_insert(now);
        self.deliver(labels, Status::Firing, starts_at, None);
    }

    pub fn resolve(&mut self, labels: Labels) {
        let labels = about_us(labels);
        let now = self.engine.host().now.wall;
        let starts_at = self.firing.remove(&labels).unwrap_or(now);
        self.deliver(labels, Status::Resolved, starts_at, Some(now));
    }

    fn alert(&self, labels: Labels, status: Status, starts_at: Timestamp, ends_at: Option<Timestamp>) -> Alert {
        Alert {
            fingerprint: fingerprint(&labels),
            labels,
            annotations: Labels::new(),
            generator_url: None,
            status,
            starts_at,
            ends_at,
            source: self.source,
        }
    }

    fn deliver(&mut self, labels: Labels, status: Status, starts_at: Timestamp, ends_at: Option<Timestamp>) {
        let alert = self.alert(labels, status, starts_at, ends_at);
        self.next_full_set = self.now() + FIRING_SET_INTERVAL;
        // A ledger in memory is always writable. Otherwise the engine's decisions would show it.
        let _ = self.engine.take(&[alert], Instant::now());
        self.settle();
    }

    pub fn start(&mut self, spec: &ProcessSpec) {
        appear(self.engine.host(), &mut self.cpu, spec, Duration::ZERO, Duration::ZERO);
        self.living = self.alive();
    }

    /// Changes the given properties of a process. Returns false if no process has this pid.
    pub fn change(&mut self, spec: &ProcessSpec) -> bool {
        (spec.pid..spec.pid.saturating_add(spec.count)).all(|pid| change(self.engine.host(), &mut self.cpu, pid, spec))
    }

    /// Ends a process. Returns false if no process has this pid.
    pub fn exit(&mut self, pid: i32) -> bool {
        let existed = self.engine.host().processes.remove(&pid).is_some();
        self.settle();
        existed
    }

    /// Restarts a unit. Returns false if no cgroup has this path.
    pub fn restart(&mut self, path: &str) -> bool {
        let host = self.engine.host();
        let existed = host.cgroups.contains_key(path);
        host.restart_cgroup(path);
        existed
    }

    /// Whether a process, or any process of a cgroup, is alive.
    pub fn is_alive(&mut self, target: &ValueTarget) -> bool {
        let host = self.engine.host();
        match target {
            ValueTarget::Process(pid) => host.processes.contains_key(pid),
            ValueTarget::Cgroup(path) => host
                .cgroup(path)
                .is_some_and(|cgroup| host.is_populated(&cgroup).unwrap_or(false)),
        }
    }

    /// The value of a knob in the notation of rules. Different values of threads are joined by ` and `.
    pub fn value(&mut self, target: &ValueTarget, knob: Knob) -> Option<String> {
        let host = self.engine.host();
        let pid = match target {
            ValueTarget::Process(pid) => pid,
            ValueTarget::Cgroup(path) => {
                let cgroup = host.cgroup(path)?;
                return Some(host.read_cgroup(&cgroup, knob).ok()?.value.to_string());
            }
        };
        let id = host.processes.get(pid)?.process.identity;
        let threads = host.threads(id).ok()?;
        let values: Result<BTreeSet<String>, HostError> = threads
            .into_iter()
            .map(|thread| Ok(host.get(id, thread, knob)?.to_string()))
            .collect();
        Some(Vec::from_iter(values.ok()?).join(" and "))
    }

    /// The denials and outcomes since the last call.
    pub fn happenings(&mut self) -> Vec<Happening> {
        let records = self.engine.records();
        let new = records.iter().skip(self.reported);
        let mut happened: Vec<Happening> = new.filter_map(|record| happening(record, self.began.wall)).collect();
        self.reported = records.len();

        // Repeated denials are only counted in the ledger but reported to a test.
        let at = self.now().saturating_sub(self.began.boot);
        let counts = self.telemetry.decision_counts();
        for ((rule, word), count) in &counts {
            let seen = self.counted.get(&(rule.clone(), word)).copied().unwrap_or(0);
            let decision = [Decision::OtherHost, Decision::Stale]
                .into_iter()
                .find(|decision| decision.as_str() == *word);
            let decision = decision.into_iter().cycle().take((count - seen) as usize);
            happened.extend(decision.map(|decision| Happening {
                at,
                event: StepEvent {
                    rule: Some(rule.to_string()),
                    decision: Some(decision),
                    ..StepEvent::default()
                },
            }));
        }
        self.counted = counts;
        happened
    }
}

fn happening(record: &Record, began: Timestamp) -> Option<Happening> {
    // The outcome follows and has the same content.
    if matches!(record.decision, Some(Decision::Planned | Decision::DryRun)) {
        return None;
    }
    // Tests check exits through `is_alive`.
    if record.is_effect && record.outcome == Some(Outcome::Gone) {
        return None;
    }
    let event = StepEvent {
        rule: Some(record.rule.clone()),
        pid: record.target.as_ref().and_then(|(target, _)| target.pid()),
        cgroup: record
            .target
            .as_ref()
            .filter(|(target, _)| target.cgroup().is_some())
            .map(|(_, path)| path.clone()),
        step: record.step.clone(),
        decision: record.decision,
        outcome: record.outcome,
        before: record.before.clone(),
        after: record.after.clone(),
        reason: Some(record.reason.clone()).filter(|reason| !reason.is_empty()),
    };
    let at = record.at.duration_since(began).unsigned_abs();
    Some(Happening { at, event })
}

/// Adds the host name to an alert without `instance`. `instance: ''` leaves it out.
fn about_us(mut labels: Labels) -> Labels {
    if labels.get("instance").is_none() {
        labels.insert("instance", format!("{HOST_NAME}:9100"));
    }
    labels.filtered(|_, value| !value.is_empty())
}

/// Adds a process. `earlier` is the time from now until the time to which `age` refers.
fn appear(
    host: &mut FakeHost,
    cpu: &mut BTreeMap<i32, (f64, f64)>,
    spec: &ProcessSpec,
    default_age: Duration,
    earlier: Duration,
) {
    let exe = spec.exe.clone().unwrap_or_else(|| {
        let name = spec.name.clone().unwrap_or_default();
        format!("/usr/bin/{name}")
    });
    let file = exe.rsplit('/').next().unwrap_or(&exe).to_owned();
    let name = spec.name.clone().unwrap_or(file);
    for pid in spec.pid..spec.pid.saturating_add(spec.count) {
        let mut process = Process::example(pid, "");
        process.age = spec.age.map_or(default_age, |age| age.saturating_sub(earlier));
        process.threads = spec.threads.unwrap_or(1);
        process.nice = spec.nice.unwrap_or(0);
        process.resident_bytes = DEFAULT_MEMORY_BYTES;
        process.details.oom_score = Some(0);
        process.details.caught_signals = Some(0);
        host.add(process);
        cpu.insert(pid, (0.0, 0.0));
        let spec = ProcessSpec {
            name: Some(name.clone()),
            exe: Some(exe.clone()),
            cmdline: Some(spec.cmdline.clone().unwrap_or_else(|| exe.clone())),
            user: Some(spec.user.clone().unwrap_or_else(|| DEFAULT_USER.to_owned())),
            cgroup: Some(
                spec.cgroup
                    .clone()
                    .unwrap_or_else(|| format!("/system.slice/{name}.service")),
            ),
            ..spec.clone()
        };
        change(host, cpu, pid, &spec);
    }
}

fn change(host: &mut FakeHost, cpu: &mut BTreeMap<i32, (f64, f64)>, pid: i32, spec: &ProcessSpec) -> bool {
    let Some(found) = host.processes.get_mut(&pid) else {
        return false;
    };
    let process = &mut found.process;
    let details = &mut process.details;
    // An empty string stands for an unreadable field.
    let readable = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    if let Some(name) = &spec.name {
        // The kernel cuts names (TASK_COMM_LEN is 16 with the NUL, proc(5)).
        process.name = String::from_utf8_lossy(&name.as_bytes()[..name.len().min(15)]).into_owned();
    }
    if let Some(exe) = &spec.exe {
        details.exe = readable(exe);
    }
    if let Some(cmdline) = &spec.cmdline {
        details.cmdline = Some(cmdline.clone());
    }
    let cgroup = spec.cgroup.as_ref();
    if let Some(cgroup) = cgroup {
        details.cgroup = readable(cgroup);
    }
    if let Some(user) = &spec.user {
        let uid = user.parse().ok();
        details.user = uid.is_none().then(|| user.clone());
        details.uid = Some(uid.unwrap_or(if user == "root" { 0 } else { 1000 }));
    }
    process.resident_bytes = spec.memory_bytes.unwrap_or(process.resident_bytes);
    details.oom_score = spec.oom_score.or(details.oom_score);
    process.parent = spec.parent.unwrap_or(process.parent);
    process.is_kernel_thread = spec.kernel_thread.unwrap_or(process.is_kernel_thread);
    if let Some(leads) = spec.login_leader {
        process.has_terminal = leads;
        process.session = if leads { pid } else { 0 };
        details.leads_login = Some(leads);
    }
    if let Some(signals) = &spec.catches {
        let bit = |signal: &Signal| 1_u64 << (*signal as u32 - 1);
        details.caught_signals = Some(signals.iter().map(bit).fold(0, |all, one| all | one));
    }
    if let Some(signals) = &spec.ignores {
        found.ignores = signals.iter().map(|signal| *signal as i32).collect();
    }
    if let Some(nice) = spec.nice {
        found
            .threads
            .values_mut()
            .for_each(|thread| thread.put(Value::Nice(nice)));
    }
    if let (Some(cores), Some((known, _))) = (spec.cpu_cores, cpu.get_mut(&pid)) {
        *known = cores;
    }
    if let Some(state) = spec.state {
        host.set_state(pid, state);
    }
    if let Some(path) = cgroup.filter(|path| path.starts_with('/')) {
        host.add_cgroup(path);
    }
    true
}
