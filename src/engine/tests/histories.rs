//! Random histories on the fake host with a real ledger. In the end every value is as it was before, wherever the
//! daemon died.

use super::*;
use crate::act::effect::PATIENCE;
use crate::alert::{Alert, Source, Status, alert::fingerprint};
use crate::host::fake::{FakeHost, FakeThread};
use crate::host::{Knob, Thread, Value, fault};
use crate::knob::{IoPriority, Policy as SchedPolicy};
use crate::process::selector::{Condition, Part, Pattern};
use crate::process::{Identity, Process, Selector};
use crate::rule::{Step, TargetSelector, example};
use crate::step::wait::Wait;
use crate::step::{AffinityChange, Change, Send as SendSignal};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::time::Instant;

const ALERTS: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["burner", "other", "worker"];
/// Label text that would mean every process, were it read as a pattern.
const COMMS: [&str; 4] = ["worker", ".*", "other|burner", ""];
const SLOTS: [i32; 5] = [100, 110, 120, 130, 140];
/// Never to be touched: pid 1, and one whose executable is protected.
const UNTOUCHABLE: [i32; 2] = [1, 50];
const KILL_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
enum Op {
    Fire {
        alert: usize,
        is_local: bool,
    },
    Resolve(usize),
    FireAndResolve(usize),
    /// A firing or resolve of an earlier time, delivered late or twice.
    Late {
        alert: usize,
        back: i64,
        status: bool,
    },
    Pass(u64),
    Restart,
    Reload(usize),
    Release(Option<usize>),
    Pause(bool),
    Exec {
        slot: usize,
        name: usize,
        has_handlers: bool,
    },
    Fork {
        slot: usize,
        name: usize,
    },
    ThreadBorn(usize),
    ThreadEnds(usize),
    Dies(usize),
    PidReused {
        slot: usize,
        name: usize,
    },
    Foreign {
        slot: usize,
        knob: usize,
    },
    ClockJumps(bool),
    /// It hangs in the kernel, or comes out.
    Hangs {
        slot: usize,
        hangs: bool,
    },
    /// Another process holds the ledger, or lets it go.
    LedgerLocked(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS.len();
    let alert = || 0..ALERTS.len();
    let name = || 0..NAMES.len();
    prop_oneof![
        8 => (alert(), any::<bool>()).prop_map(|(alert, is_local)| Op::Fire { alert, is_local }),
        4 => alert().prop_map(Op::Resolve),
        1 => alert().prop_map(Op::FireAndResolve),
        2 => (alert(), 0i64..200, any::<bool>()).prop_map(|(alert, back, status)| Op::Late { alert, back, status }),
        8 => (1u64..45).prop_map(Op::Pass),
        1 => Just(Op::Restart),
        2 => (0usize..4).prop_map(Op::Reload),
        1 => proptest::option::of(0usize..5).prop_map(Op::Release),
        1 => any::<bool>().prop_map(Op::Pause),
        2 => (slot(), name(), any::<bool>())
            .prop_map(|(slot, name, has_handlers)| Op::Exec { slot, name, has_handlers }),
        3 => (slot(), name()).prop_map(|(slot, name)| Op::Fork { slot, name }),
        2 => slot().prop_map(Op::ThreadBorn),
        1 => slot().prop_map(Op::ThreadEnds),
        1 => slot().prop_map(Op::Dies),
        2 => (slot(), name()).prop_map(|(slot, name)| Op::PidReused { slot, name }),
        2 => (slot(), 0usize..5).prop_map(|(slot, knob)| Op::Foreign { slot, knob }),
        1 => any::<bool>().prop_map(Op::ClockJumps),
        2 => (slot(), any::<bool>()).prop_map(|(slot, hangs)| Op::Hangs { slot, hangs }),
        1 => any::<bool>().prop_map(Op::LedgerLocked),
    ]
}

/// An operation, and after how many fault points the daemon dies in it and in the restart after that.
type Move = (Op, Option<u32>, Option<u32>);

fn history() -> impl Strategy<Value = Vec<Move>> {
    let death = || prop_oneof![3 => Just(None), 1 => (0u32..90).prop_map(Some)];
    proptest::collection::vec((op(), death(), death()), 1..30)
}

fn rule(name: &str, alert: &str, limit: usize, actions: Vec<Step>) -> Rule {
    Rule {
        matchers: example(alert, "nice 1").matchers,
        limit,
        actions,
        cooldown: Duration::from_secs(20),
        hold: Duration::from_secs(60),
        ..example(name, "nice 1")
    }
}

fn set(value: Value) -> Step {
    Step::Set(Change::To(value))
}

fn wait(seconds: u64) -> Step {
    Step::Wait(Wait(Duration::from_secs(seconds)))
}

fn signal(signal: Signal, undo: Option<Signal>) -> Step {
    Step::Signal(SendSignal { signal, undo })
}

fn cpus(text: &str) -> Value {
    Value::Affinity(text.parse().unwrap())
}

fn kill_steps() -> [Step; 3] {
    [
        signal(Signal::SIGTERM, None),
        Step::Wait(Wait(KILL_WAIT)),
        signal(Signal::SIGKILL, None),
    ]
}

/// Variant 0 has every rule, 1 lacks some, 2 has changed ones, 3 is dry-run. Made once: patterns are expensive to compile.
static POLICIES: LazyLock<[Policy; 4]> = LazyLock::new(|| [0, 1, 2, 3].map(policy));

fn policy(variant: usize) -> Policy {
    let mut end = rule("end", "c", 2, kill_steps().to_vec());
    let mut slow_end = rule("slow-end", "c", 1, vec![set(Value::Nice(5)), wait(5)]);
    slow_end.actions.extend(kill_steps());
    end.cooldown = Duration::from_secs(5);
    slow_end.without_ledger = true;
    let mut warm_up = rule("rehearsal", "a", 2, vec![set(Value::Nice(19)), wait(5)]);
    warm_up.actions.extend(kill_steps());
    warm_up.dry_run = true;
    let mut by_label = rule(
        "by-label",
        "b",
        2,
        vec![Step::Set(Change::Affinity(AffinityChange::Percent(-50)))],
    );
    by_label.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![Condition::Name(Pattern::Template(vec![Part::Label("comm".into())]))],
    });
    let quiet = rule(
        "quiet",
        "c",
        2,
        vec![
            signal(Signal::SIGUSR1, Some(Signal::SIGUSR2)),
            signal(Signal::SIGHUP, None),
        ],
    );
    let calmer = if variant == 2 {
        vec![set(Value::Nice(12))]
    } else {
        vec![set(Value::Nice(15)), wait(5), set(cpus("0-1,9"))]
    };
    if variant == 2 {
        slow_end.actions = kill_steps().to_vec();
    }
    let still = vec![set(Value::Sched(SchedPolicy::Batch)), wait(7), set(Value::Freeze(true))];
    let mut rules = vec![
        rule("calmer", "a", 1, calmer),
        rule(
            "idle",
            "b",
            3,
            vec![set(Value::Ionice(IoPriority::Idle)), set(Value::OomScoreAdj(500))],
        ),
        end,
        slow_end,
        warm_up,
        by_label,
        quiet,
    ];
    if variant != 1 {
        rules.push(rule("calm", "a", 2, vec![set(Value::Nice(10))]));
        rules.push(rule("still", "b", 1, still));
    }
    Policy {
        rules: RuleSet {
            rules: rules.into_iter().map(Arc::new).collect(),
        },
        enforce: variant != 3,
        host_identity: HostIdentity::new(vec!["instance".into()], "web1", "", &[]),
        protect: vec![],
        budget: Budget {
            final_steps: 3,
            commands: Budget::default().commands,
            per: Duration::from_secs(100),
        },
        restore_on_exit: true,
        retention: Default::default(),
    }
}

/// A knob of a thread, or of the process where there is no thread.
type Place = (Identity, Option<Thread>, Knob);

struct History {
    engine: Engine<FakeHost>,
    directory: tempfile::TempDir,
    telemetry: Telemetry,
    policy: Policy,
    starts: [i64; 3],
    comm: usize,
    /// What everything would be without evenkeel.
    own: BTreeMap<Place, Value>,
    /// Children that held an inherited value when their parent died, so that they look like unrelated processes.
    orphaned: BTreeSet<Place>,
    alive: BTreeSet<Identity>,
    /// Those that some rule could ever mean, and all that were forked.
    touchable: BTreeSet<Identity>,
    checked_deeds: usize,
    signals: BTreeMap<Identity, Vec<(Duration, Signal)>>,
    has_crashed: bool,
    /// Held by another process.
    lock: Option<rusqlite::Connection>,
    next_pid: i32,
}

fn start(host: FakeHost, directory: &std::path::Path, policy: &Policy, telemetry: &Telemetry) -> Engine<FakeHost> {
    let (journal, ledger) = Journal::open(directory, crate::process::BootId(1));
    Engine::new(
        host,
        journal,
        ledger,
        policy.clone(),
        Box::new(|_| None),
        telemetry.clone(),
    )
}

/// Where the ledger lives; memory, where there is some, because each history has a ledger of its own.
fn ledger_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn value_at(host: &FakeHost, (identity, thread, knob): &Place) -> Option<Value> {
    let found = host.processes.get(&identity.pid)?;
    if found.process.identity != *identity {
        return None;
    }
    let Some(thread) = thread else {
        let is_stopped = Value::Freeze(found.process.state == 'T');
        return match knob {
            Knob::Freeze => Some(is_stopped),
            knob => found.values.get(knob).cloned(),
        };
    };
    let at = found.threads.get(&thread.tid)?;
    at.values
        .get(knob)
        .filter(|_| at.start_ticks == thread.start_ticks)
        .cloned()
}

fn places(host: &FakeHost, pid: i32) -> Vec<Place> {
    let Some(found) = host.processes.get(&pid) else {
        return Vec::new();
    };
    let identity = found.process.identity;
    let mut places = vec![(identity, None, Knob::OomScoreAdj), (identity, None, Knob::Freeze)];
    for (&tid, thread) in &found.threads {
        let thread = Thread {
            tid,
            start_ticks: thread.start_ticks,
        };
        let knobs = [Knob::Nice, Knob::Affinity, Knob::Ionice, Knob::Sched];
        places.extend(knobs.map(|knob| (identity, Some(thread), knob)));
    }
    places
}

impl History {
    fn new() -> History {
        let (directory, telemetry, policy) = (ledger_directory(), Telemetry::default(), POLICIES[0].clone());
        let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
        for (pid, exe) in [(1, "/usr/lib/x"), (50, "/usr/sbin/sshd")] {
            let mut process = Process::example(pid, "burner");
            process.details.exe = Some(exe.into());
            host.add(process);
        }
        let mut engine = start(host, directory.path(), &policy, &telemetry);
        engine.resume();
        let mut history = History {
            engine,
            directory,
            telemetry,
            policy,
            starts: [0; 3],
            comm: 0,
            own: BTreeMap::new(),
            orphaned: BTreeSet::new(),
            alive: BTreeSet::new(),
            touchable: BTreeSet::new(),
            checked_deeds: 0,
            signals: BTreeMap::new(),
            has_crashed: false,
            lock: None,
            next_pid: 1000,
        };
        for (slot, name) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
            history.spawn(slot, name);
        }
        history
    }

    fn host(&mut self) -> &mut FakeHost {
        self.engine.host()
    }

    fn spawn(&mut self, slot: usize, name: usize) {
        let host = self.host();
        host.advance(Duration::from_secs(1));
        let mut process = Process::example(SLOTS[slot], NAMES[name]);
        process.age = Duration::ZERO;
        process.threads = 1 + slot as u32 % 3;
        process.details.exe = Some("/usr/bin/x".into());
        process.details.caught_signals = Some(u64::MAX);
        process.state = if slot == 4 { 'T' } else { 'S' };
        let identity = host.add(process);
        let found = host.processes.get_mut(&identity.pid).unwrap();
        if slot.is_multiple_of(2) {
            found.ignores.insert(Signal::SIGTERM as i32);
        }
        // Threads differ in what they have.
        for (index, thread) in found.threads.values_mut().enumerate().skip(1) {
            thread.put(Value::Nice(-(index as i32)));
            thread.put(Value::Ionice(IoPriority::BestEffort(index as u8)));
        }
        self.adopt(identity);
    }

    /// Takes what a process has now for its own.
    fn adopt(&mut self, identity: Identity) {
        for place in places(self.engine.host(), identity.pid) {
            let value = value_at(self.engine.host(), &place).unwrap();
            self.own.insert(place, value);
        }
        self.alive.insert(identity);
        self.note_touchable();
    }

    fn note_touchable(&mut self) {
        let host = self.engine.host();
        let meant = host
            .processes
            .values()
            .filter(|found| found.process.name != "other" && !UNTOUCHABLE.contains(&found.process.identity.pid));
        self.touchable.extend(meant.map(|found| found.process.identity));
    }

    fn alert(&self, index: usize, starts: i64, status: Status, source: Source) -> Alert {
        let mut labels: crate::alert::Labels = [("alertname", ALERTS[index]), ("instance", "web1:9100")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        // Not part of what Alertmanager told apart in this history, so that it may change under way.
        let fingerprint = fingerprint(&labels);
        labels.insert("comm", COMMS[self.comm]);
        let starts_at = jiff::Timestamp::from_second(1_700_000_000 + starts).unwrap();
        Alert {
            labels,
            annotations: Default::default(),
            generator_url: None,
            status,
            starts_at,
            ends_at: (status == Status::Resolved).then(|| starts_at + Duration::from_secs(50)),
            fingerprint,
            source,
        }
    }

    /// Lets the engine do something in which it may die; a death is followed by a restart in which it may die again.
    /// True when it died.
    fn run(&mut self, deaths: [Option<u32>; 2], host_action: impl FnOnce(&mut Engine<FakeHost>)) -> bool {
        let [first, second] = deaths;
        fault::arm(first);
        let result = catch_unwind(AssertUnwindSafe(|| host_action(&mut self.engine)));
        fault::arm(None);
        if !died(result) {
            return false;
        }
        self.has_crashed = true;
        self.restart(second);
        true
    }

    fn restart(&mut self, death: Option<u32>) {
        // What was done while nothing could be recorded is not known afterwards.
        self.has_crashed |= self.lock.is_some();
        for death in [death, None] {
            let host = self.engine.host().clone();
            self.engine = start(host, self.directory.path(), &self.policy, &self.telemetry);
            fault::arm(death);
            let result = catch_unwind(AssertUnwindSafe(|| self.engine.resume()));
            fault::arm(None);
            if !died(result) {
                return;
            }
            self.has_crashed = true;
        }
    }

    fn take(&mut self, deaths: [Option<u32>; 2], alerts: &[Alert]) {
        let is_locked = self.lock.is_some();
        let deliver = |engine: &mut Engine<FakeHost>| {
            let taken = engine.take(alerts, Instant::now());
            assert!(taken.is_ok() || is_locked, "{taken:?}");
        };
        if self.run(deaths, deliver) {
            // Alertmanager got no answer and comes again.
            self.run([None, None], deliver);
        }
    }

    fn pass(&mut self, seconds: u64, mut deaths: [Option<u32>; 2]) {
        let until = self.host().now.boot + Duration::from_secs(seconds);
        loop {
            let left = until.saturating_sub(self.host().now.boot);
            let step = self.engine.time_until_due().unwrap_or(left).min(left);
            self.host().advance(step);
            if self.engine.time_until_due().is_none_or(|left| !left.is_zero()) {
                return;
            }
            if !self.run(deaths, Engine::tick) {
                let left = self.engine.time_until_due();
                assert!(left.is_none_or(|left| !left.is_zero()), "it would spin");
            }
            deaths = [None, None];
            self.bury();
        }
    }

    /// Tells the engine who ended, as the real host does.
    fn bury(&mut self) {
        loop {
            let host = self.engine.host();
            let lives = |identity: &Identity| {
                let found = host.processes.get(&identity.pid);
                found.is_some_and(|found| found.process.identity == *identity)
            };
            let Some(dead) = self.alive.iter().find(|identity| !lives(identity)).copied() else {
                return;
            };
            self.alive.remove(&dead);
            let orphans: Vec<i32> = host
                .processes
                .values_mut()
                .filter(|found| found.process.parent == dead.pid && self.alive.contains(&found.process.identity))
                .map(|found| {
                    found.process.parent = 1;
                    found.process.identity.pid
                })
                .collect();
            let places: Vec<Place> = orphans.into_iter().flat_map(|pid| self.family(pid)).collect();
            for place in places {
                if value_at(self.engine.host(), &place).as_ref() != self.own.get(&place) {
                    self.orphaned.insert(place);
                }
            }
            self.engine.exited(dead);
            self.engine.tick();
        }
    }

    /// The places of a process and of all below it.
    fn family(&mut self, pid: i32) -> Vec<Place> {
        let host = self.engine.host();
        let mut pids = vec![pid];
        let mut index = 0;
        while let Some(&parent) = pids.get(index) {
            let children = host.processes.values().filter(|found| found.process.parent == parent);
            pids.extend(children.map(|found| found.process.identity.pid));
            index += 1;
        }
        pids.into_iter().flat_map(|pid| places(host, pid)).collect()
    }

    fn lock_ledger(&mut self, is_locked: bool) {
        if !is_locked {
            if self.lock.take().is_some() {
                // It is tried again each second.
                self.pass(2, [None, None]);
            }
        } else if self.lock.is_none() {
            let ledger = self.directory.path().join(crate::ledger::files::FILE_NAME);
            let lock = rusqlite::Connection::open(ledger).unwrap();
            lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
            self.lock = Some(lock);
        }
    }

    /// The process of a slot, if it lives and runs.
    fn running(&mut self, slot: usize) -> Option<i32> {
        let pid = SLOTS[slot];
        let found = self.host().processes.get(&pid)?;
        (!matches!(found.process.state, 'T' | 'D')).then_some(pid)
    }

    fn do_move(&mut self, (op, first, second): Move) {
        let deaths = [first, second];
        match op {
            Op::Fire { alert, is_local } => {
                let source = if is_local { Source::Local } else { Source::Alertmanager };
                let alert = self.alert(alert, self.starts[alert], Status::Firing, source);
                self.take(deaths, &[alert]);
            }
            Op::Resolve(index) => {
                let alert = self.alert(index, self.starts[index], Status::Resolved, Source::Alertmanager);
                self.starts[index] += 100;
                self.comm = (self.comm + 1) % COMMS.len();
                self.take(deaths, &[alert]);
            }
            Op::FireAndResolve(index) => {
                let both = [Status::Firing, Status::Resolved]
                    .map(|status| self.alert(index, self.starts[index], status, Source::Alertmanager));
                self.starts[index] += 100;
                self.take(deaths, &both);
            }
            Op::Late { alert, back, status } => {
                let status = if status { Status::Firing } else { Status::Resolved };
                let starts = (self.starts[alert] - back).max(0);
                let alert = self.alert(alert, starts, status, Source::Alertmanager);
                self.take(deaths, &[alert]);
            }
            Op::Pass(seconds) => self.pass(seconds, deaths),
            Op::Restart => {
                self.run([first, None], Engine::shut_down);
                self.restart(second);
            }
            Op::Reload(variant) => {
                self.policy = POLICIES[variant].clone();
                let policy = self.policy.clone();
                self.run(deaths, |engine| engine.reload(policy));
            }
            Op::Release(which) => {
                let nth = |index: usize| self.engine.ledger().leases.keys().nth(index).copied();
                let id = which.map(|index| nth(index).unwrap_or(u64::MAX));
                self.run(deaths, |engine| {
                    engine.release(id, &OperatorRequest::example());
                });
            }
            Op::Pause(paused) => {
                self.run(deaths, |engine| engine.pause(paused, &OperatorRequest::example()));
            }
            Op::Exec {
                slot,
                name,
                has_handlers,
            } => {
                if let Some(pid) = self.running(slot) {
                    let process = &mut self.host().processes.get_mut(&pid).unwrap().process;
                    process.name = NAMES[name].into();
                    process.details.caught_signals = Some(if has_handlers { u64::MAX } else { 0 });
                    self.note_touchable();
                }
            }
            Op::Fork { slot, name } => self.fork(slot, name),
            Op::ThreadBorn(slot) => self.bear_thread(slot),
            Op::ThreadEnds(slot) => {
                if let Some(pid) = self.running(slot) {
                    let threads = &mut self.host().processes.get_mut(&pid).unwrap().threads;
                    let last = *threads.keys().last().unwrap();
                    if last != pid {
                        threads.remove(&last);
                    }
                }
            }
            Op::Dies(slot) => {
                self.host().processes.remove(&SLOTS[slot]);
            }
            Op::PidReused { slot, name } => {
                self.host().processes.remove(&SLOTS[slot]);
                // The old process is reaped only after another one has its pid.
                self.spawn(slot, name);
            }
            Op::Foreign { slot, knob } => self.change(slot, knob),
            Op::ClockJumps(forward) => {
                let hour = jiff::SignedDuration::from_hours(if forward { 1 } else { -1 });
                self.host().now.wall += hour;
            }
            Op::Hangs { slot, hangs: true } => {
                if let Some(pid) = self.running(slot) {
                    self.host().set_state(pid, 'D');
                }
            }
            Op::Hangs { slot, hangs: false } => self.wake(SLOTS[slot]),
            Op::LedgerLocked(is_locked) => self.lock_ledger(is_locked),
        }
        self.bury();
        self.check();
    }

    fn wake(&mut self, pid: i32) {
        let host = self.host();
        if host.processes.get(&pid).is_some_and(|found| found.process.state == 'D') {
            host.set_state(pid, 'S');
        }
    }

    fn fork(&mut self, slot: usize, name: usize) {
        let Some(pid) = self.running(slot) else { return };
        let child_pid = self.next_pid;
        self.next_pid += 1;
        let host = self.engine.host();
        let parent = host.processes[&pid].clone();
        let mut child = Process::example(child_pid, NAMES[name]);
        (child.parent, child.age, child.details) = (pid, Duration::ZERO, parent.process.details.clone());
        let identity = host.add(child);
        let found = host.processes.get_mut(&child_pid).unwrap();
        found.values = parent.values;
        let start_ticks = found.threads[&child_pid].start_ticks;
        let thread = FakeThread {
            start_ticks,
            ..parent.threads[&pid].clone()
        };
        found.threads.insert(child_pid, thread);
        let main = |pid, start_ticks| Thread { tid: pid, start_ticks };
        let of_parent = main(pid, parent.threads[&pid].start_ticks);
        self.adopt(identity);
        self.touchable.insert(identity);
        for place in places(self.engine.host(), child_pid) {
            let (_, thread, knob) = place;
            if knob != Knob::Freeze {
                self.inherit(place, (parent.process.identity, thread.map(|_| of_parent), knob));
            }
        }
    }

    fn bear_thread(&mut self, slot: usize) {
        let Some(pid) = self.running(slot) else { return };
        let host = self.engine.host();
        let start_ticks = host.now.boot.as_millis() as u64 / 10;
        let found = host.processes.get_mut(&pid).unwrap();
        let Some(tid) = (pid + 1..pid + 6).find(|tid| !found.threads.contains_key(tid)) else {
            return;
        };
        let main = found.threads[&pid].clone();
        let of_main = Thread {
            tid: pid,
            start_ticks: main.start_ticks,
        };
        found.threads.insert(tid, FakeThread { start_ticks, ..main });
        let identity = found.process.identity;
        let born = Thread { tid, start_ticks };
        for knob in [Knob::Nice, Knob::Affinity, Knob::Ionice, Knob::Sched] {
            self.inherit((identity, Some(born), knob), (identity, Some(of_main), knob));
        }
    }

    fn inherit(&mut self, place: Place, from: Place) {
        self.own.insert(place, self.own[&from].clone());
        if self.orphaned.contains(&from) {
            self.orphaned.insert(place);
        } else {
            self.orphaned.remove(&place);
        }
    }

    /// Another program sets a value, one that no rule sets.
    fn change(&mut self, slot: usize, knob: usize) {
        let pid = SLOTS[slot];
        let host = self.engine.host();
        let Some(found) = host.processes.get_mut(&pid) else {
            return;
        };
        let main = found.threads.get_mut(&pid).unwrap();
        let thread = Some(Thread {
            tid: pid,
            start_ticks: main.start_ticks,
        });
        let (thread, value) = match knob {
            0 => (thread, Value::Nice(3)),
            1 => (thread, Value::Affinity("2".parse().unwrap())),
            2 => (thread, Value::Ionice(IoPriority::BestEffort(7))),
            3 => (thread, Value::Sched(SchedPolicy::Idle)),
            _ => (None, Value::OomScoreAdj(77)),
        };
        match thread {
            Some(_) => main.put(value.clone()),
            None => found.put(value.clone()),
        }
        let place = (found.process.identity, thread, value.knob());
        self.own.insert(place, value);
    }

    /// What holds at every moment.
    fn check(&mut self) {
        let mut targets = BTreeMap::<_, BTreeSet<_>>::new();
        for lease in self.engine.ledger().leases.values() {
            let key = (lease.rule.clone(), lease.fingerprint.clone());
            targets.entry(key).or_default().insert(lease.target);
        }
        for ((rule, _), targets) in &targets {
            let limit = POLICIES[0].rules.get(rule).unwrap().limit;
            assert!(
                targets.len() <= limit,
                "{rule} holds {} targets, limit is {limit}",
                targets.len()
            );
        }
        assert!(self.policy.enforce || targets.is_empty(), "dry-run holds leases");
        let host_actions: Vec<_> = self.host().hooks.host_actions.split_off(0);
        for host_action in host_actions {
            let process = &host_action.process;
            assert!(
                self.touchable.contains(&process.identity),
                "never to be touched: {host_action:?}"
            );
            let Some(signal) = host_action.signal else { continue };
            if matches!(signal, Signal::SIGTERM | Signal::SIGKILL) {
                assert_eq!(process.name, "burner", "{host_action:?}");
                self.signals
                    .entry(process.identity)
                    .or_default()
                    .push((host_action.at, signal));
            } else {
                assert_eq!(process.details.caught_signals, Some(u64::MAX), "{host_action:?}");
                assert!(signal == Signal::SIGUSR2 || process.name == "burner", "{host_action:?}");
            }
            self.checked_deeds += 1;
        }
        for (identity, signals) in &self.signals {
            let at = |wanted: Signal| -> Vec<Duration> {
                let found = signals.iter().filter(|(_, signal)| *signal == wanted);
                found.map(|(at, _)| *at).collect()
            };
            let (terms, kills) = (at(Signal::SIGTERM), at(Signal::SIGKILL));
            // Only a later episode sends a signal again, to one whose earlier steps were interrupted long ago.
            let is_repeated = |times: &[Duration]| times.windows(2).any(|pair| pair[1] - pair[0] < PATIENCE);
            assert!(
                self.has_crashed || !(is_repeated(&terms) || is_repeated(&kills)),
                "{identity}: {signals:?}"
            );
            if let Some(kill) = kills.first() {
                // After a crash SIGTERM may have been sent again shortly before.
                let mut asked = terms.iter().filter(|term| *term <= kill);
                let asked = if self.has_crashed {
                    asked.next()
                } else {
                    asked.next_back()
                };
                let has_had_its_time = asked.is_some_and(|term| *kill >= *term + KILL_WAIT);
                assert!(has_had_its_time, "SIGKILL too soon: {identity}: {signals:?}");
            }
        }
    }

    /// The alerts are over, the daemon is not paused, and time has passed: what is left is what would be anyway.
    fn end(mut self) {
        self.lock_ledger(false);
        SLOTS.iter().for_each(|pid| self.wake(*pid));
        self.run([None, None], |engine| engine.pause(false, &OperatorRequest::example()));
        self.pass(5, [None, None]);
        for index in 0..ALERTS.len() {
            let alert = self.alert(index, self.starts[index], Status::Resolved, Source::Alertmanager);
            self.take([None, None], &[alert]);
        }
        self.bury();
        self.pass(600, [None, None]);
        self.check();
        let ledger = self.engine.ledger();
        assert!(ledger.leases.is_empty(), "leases are left: {:?}", ledger.leases);
        assert!(ledger.episodes.is_empty(), "episodes are left: {:?}", ledger.episodes);
        let host = self.engine.host();
        for (place, expected) in &self.own {
            let Some(found) = value_at(host, place) else { continue };
            if !self.orphaned.contains(place) {
                assert_eq!(found, *expected, "{place:?}");
            }
        }
    }
}

/// Whether the daemon was killed; any other panic goes on.
fn died(result: std::thread::Result<()>) -> bool {
    match result {
        Ok(()) => false,
        Err(why) if why.downcast_ref::<&str>() == Some(&fault::KILLED) => true,
        Err(why) => resume_unwind(why),
    }
}

fn live_through(moves: Vec<Move>) {
    let mut history = History::new();
    for step in moves {
        history.do_move(step);
    }
    history.end();
}

/// The same histories at every run: `cases` of them with `EVENKEEL_TESTS=full`, else a share. PROPTEST_CASES and
/// PROPTEST_RNG_SEED ask for others.
pub(super) fn config(cases: u32) -> ProptestConfig {
    let given = ProptestConfig::default();
    let is_set = |name: &str| std::env::var_os(name).is_some();
    ProptestConfig {
        cases: if is_set("PROPTEST_CASES") {
            given.cases
        } else {
            share_of(cases)
        },
        rng_seed: if is_set("PROPTEST_RNG_SEED") {
            given.rng_seed
        } else {
            RngSeed::Fixed(1)
        },
        ..given
    }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn random_histories_leave_nothing_changed(moves in history()) {
        live_through(moves);
    }
}

/// Found by the random histories.
#[test]
fn stack_undone_in_part_before_a_crash_is_undone_in_reverse() {
    live_through(vec![
        (
            Op::Fire {
                alert: 0,
                is_local: false,
            },
            None,
            None,
        ),
        (Op::Pass(5), None, None),
        (Op::LedgerLocked(true), None, None),
        (Op::Release(None), Some(24), None),
    ]);
}
