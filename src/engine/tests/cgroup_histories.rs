//! Random histories of cgroups on the fake host with a real ledger. In the end every cgroup, and every unit for its
//! next start, is as it would be without evenkeel, wherever the daemon died.

use super::histories::config;
use super::*;
use crate::alert::{Alert, Source, Status, alert::fingerprint};
use crate::host::fake::{DeviceLimits, FakeHost};
use crate::host::{Value, fault};
use crate::knob::limit::{CgroupFile, Device, IoKind, Limit, Setting};
use crate::process::selector::{Condition, Pattern};
use crate::process::{BootId, Process, Selector};
use crate::rule::{Step, TargetSelector, example};
use crate::step::wait::Wait;
use crate::step::{Change, IoChange, Relative};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

const ALERTS: [&str; 3] = ["a", "b", "c"];
/// Two units, a cgroup that systemd knows nothing of, and one that holds a protected process.
const PATHS: [&str; 4] = [
    "/work.slice/one.service",
    "/work.slice/two.service",
    "/plain",
    "/work.slice/guarded.service",
];
const GUARDED: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Fire(usize),
    Resolve(usize),
    Pass(u64),
    Restart,
    Release(Option<usize>),
    Pause(bool),
    /// A unit is restarted, or a plain cgroup is removed and made again.
    MadeAnew(usize),
    /// Another program sets a limit, as the administrator does.
    Foreign(usize, bool),
    /// The same, for I/O on a device that no rule is about.
    ForeignIo(usize, u64),
    /// What runs in it uses so many MiB, as far as it is let, and whether the kernel could reclaim that.
    Use(usize, u64, bool),
    /// Another program writes a file of a cgroup, past systemd: `memory.max` or `cpu.weight`.
    ByHand(usize, bool),
    /// systemd reads its files again.
    Reload,
    /// The next change of a unit is followed by its restart before it was checked.
    RestartWhenSet,
}

fn op() -> impl Strategy<Value = Op> {
    let alert = || 0..ALERTS.len();
    prop_oneof![
        6 => alert().prop_map(Op::Fire),
        4 => alert().prop_map(Op::Resolve),
        6 => (1u64..45).prop_map(Op::Pass),
        1 => Just(Op::Restart),
        1 => proptest::option::of(0usize..5).prop_map(Op::Release),
        1 => any::<bool>().prop_map(Op::Pause),
        3 => (0..PATHS.len()).prop_map(Op::MadeAnew),
        2 => (0..PATHS.len(), any::<bool>()).prop_map(|(path, high)| Op::Foreign(path, high)),
        1 => (0..PATHS.len(), 1u64..3).prop_map(|(path, limit)| Op::ForeignIo(path, limit)),
        3 => (0..PATHS.len(), 0u64..3000, any::<bool>())
            .prop_map(|(path, mib, reclaimable)| Op::Use(path, mib, reclaimable)),
        1 => (0..PATHS.len(), any::<bool>()).prop_map(|(path, is_memory)| Op::ByHand(path, is_memory)),
        2 => Just(Op::Reload),
        1 => Just(Op::RestartWhenSet),
    ]
}

type Move = (Op, Option<u32>, Option<u32>);

fn history() -> impl Strategy<Value = Vec<Move>> {
    let death = || prop_oneof![3 => Just(None), 1 => (0u32..60).prop_map(Some)];
    proptest::collection::vec((op(), death(), death()), 1..25)
}

fn setting(file: CgroupFile, text: &str) -> Setting {
    Setting::parse(file, text).unwrap()
}

fn set(file: CgroupFile, text: &str) -> Step {
    Step::Set(Change::To(Value::Cgroup(setting(file, text))))
}

fn policy() -> Policy {
    let rule = |name: &str, alert: &str, limit: usize, actions: Vec<Step>| Rule {
        matchers: example(alert, "nice 1").matchers,
        target_selector: TargetSelector::Cgroups(Selector {
            conditions: vec![Condition::Cgroup(
                Pattern::fixed(r"/work\.slice/.*\.service|/plain").unwrap(),
            )],
        }),
        limit,
        actions,
        hold: Duration::from_secs(60),
        ..example(name, "nice 1")
    };
    let by = |percent| {
        let (file, by) = (CgroupFile::CpuMax, Relative::Percent(percent));
        Step::Set(Change::Limit { file, by })
    };
    let memory = |percent| {
        let (file, by) = (CgroupFile::MemoryMax, Relative::Percent(percent));
        Step::Set(Change::Limit { file, by })
    };
    let io = |device: &str, kind, limit| {
        let (device, limit) = (device.to_owned(), Limit(Some(limit)));
        Step::Set(Change::Io(IoChange { device, kind, limit }))
    };
    let wait = Step::Wait(Wait(Duration::from_secs(5)));
    let rules = [
        rule(
            "more",
            "a",
            3,
            vec![
                by(100),
                set(CgroupFile::CpuWeight, "200"),
                io("8:0", IoKind::WriteBytes, 100),
                memory(100),
            ],
        ),
        rule(
            "less",
            "b",
            2,
            vec![
                set(CgroupFile::CpuWeight, "20"),
                io("8:16", IoKind::WriteBytes, 200),
                wait,
                set(CgroupFile::CpuMax, "10000"),
                set(CgroupFile::MemoryMax, "536870912"),
            ],
        ),
        rule(
            "still",
            "c",
            2,
            vec![
                Step::Set(Change::To(Value::Freeze(true))),
                set(CgroupFile::CpuWeight, "30"),
                by(-50),
                io("8:0", IoKind::WriteBytes, 300),
                io("8:0", IoKind::Reads, 400),
                memory(50),
            ],
        ),
    ];
    Policy {
        rules: RuleSet {
            rules: rules.into_iter().map(Arc::new).collect(),
        },
        enforce: true,
        host_identity: HostIdentity::new(vec!["instance".into()], "web1", "", &[]),
        protect: vec![],
        budget: Budget::default(),
        restore_on_exit: true,
        retention: Default::default(),
    }
}

/// What one cgroup would have without evenkeel, and what its unit would give to the next one.
#[derive(Debug, Clone, PartialEq, Default)]
struct Own {
    settings: BTreeMap<CgroupFile, Setting>,
    runtime: Option<BTreeMap<CgroupFile, Setting>>,
    persistent: BTreeMap<CgroupFile, Setting>,
    live: BTreeMap<CgroupFile, Setting>,
    runtime_io: DeviceLimits,
    persistent_io: DeviceLimits,
    live_io: DeviceLimits,
}

impl Own {
    /// In `io.max`, and where there is a unit in the property behind it.
    fn put_io(&mut self, device: Device, kind: IoKind, limit: u64) {
        put_io(&mut self.settings, device, kind, limit);
        if self.runtime.is_some() {
            self.runtime_io.entry(kind).or_default().insert(device, limit);
            self.live_io.entry(kind).or_default().insert(device, limit);
        }
    }

    /// Rebuilds the cgroup's settings from systemd's record.
    fn rebuild(&mut self, defaults: &BTreeMap<CgroupFile, Setting>) {
        self.settings.clone_from(defaults);
        self.settings.extend(self.live.clone());
        for (kind, devices) in &self.live_io {
            for (device, limit) in devices {
                put_io(&mut self.settings, *device, *kind, *limit);
            }
        }
    }

    fn reload(&mut self, defaults: &BTreeMap<CgroupFile, Setting>) {
        if let Some(runtime) = &self.runtime {
            self.live.clone_from(runtime);
            self.live.extend(self.persistent.clone());
            self.live_io.clone_from(&self.runtime_io);
            self.live_io.extend(self.persistent_io.clone());
            self.rebuild(defaults);
        }
    }
}

fn put_io(settings: &mut BTreeMap<CgroupFile, Setting>, device: Device, kind: IoKind, limit: u64) {
    if let Some(Setting::IoMax(limits)) = settings.get_mut(&CgroupFile::IoMax) {
        limits.put(device, kind, Limit(Some(limit)));
    }
}

fn restart_units(host: &mut FakeHost) {
    host.restart_cgroup(PATHS[0]);
    host.restart_cgroup(PATHS[1]);
}

struct History {
    engine: Engine<FakeHost>,
    directory: tempfile::TempDir,
    telemetry: Telemetry,
    own: BTreeMap<&'static str, Own>,
    defaults: BTreeMap<CgroupFile, Setting>,
    /// By which it is known that a cgroup was replaced.
    inodes: [u64; PATHS.len()],
}

fn start(host: FakeHost, directory: &std::path::Path, telemetry: &Telemetry) -> Engine<FakeHost> {
    let (journal, ledger) = Journal::open(directory, BootId(1));
    Engine::new(host, journal, ledger, policy(), Box::new(|_| None), telemetry.clone())
}

fn died(result: std::thread::Result<()>) -> bool {
    match result {
        Ok(()) => false,
        Err(payload) if payload.downcast_ref::<&str>() == Some(&fault::KILLED) => true,
        Err(payload) => resume_unwind(payload),
    }
}

impl History {
    fn new() -> History {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
        for (pid, path) in (100..).zip(PATHS) {
            let mut process = Process::example(pid, "worker");
            let exe = if path == PATHS[GUARDED] {
                "/usr/sbin/sshd"
            } else {
                "/usr/bin/x"
            };
            (process.details.exe, process.details.cgroup) = (Some(exe.into()), Some(path.into()));
            host.add(process);
            host.add_cgroup(path);
        }
        let quota = setting(CgroupFile::CpuMax, "50000");
        let first = host.add_cgroup(PATHS[0]);
        first.settings.insert(CgroupFile::CpuMax, quota.clone());
        first.live.insert(CgroupFile::CpuMax, quota.clone());
        first.runtime.as_mut().unwrap().insert(CgroupFile::CpuMax, quota);
        let quota = setting(CgroupFile::CpuMax, "40000");
        let second = host.add_cgroup(PATHS[1]);
        second.settings.insert(CgroupFile::CpuMax, quota.clone());
        second.live.insert(CgroupFile::CpuMax, quota.clone());
        second.persistent.insert(CgroupFile::CpuMax, quota);
        let foreign = Device { major: 9, minor: 0 };
        let devices = BTreeMap::from([(IoKind::Reads, BTreeMap::from([(foreign, 9)]))]);
        put_io(&mut second.settings, foreign, IoKind::Reads, 9);
        (second.live_io, second.persistent_io) = (devices.clone(), devices);
        let memory = setting(CgroupFile::MemoryMax, "1073741824");
        for path in [PATHS[0], PATHS[2]] {
            let found = host.add_cgroup(path);
            found.settings.insert(CgroupFile::MemoryMax, memory.clone());
            put_io(&mut found.settings, foreign, IoKind::WriteBytes, 7);
            if let Some(runtime) = &mut found.runtime {
                runtime.insert(CgroupFile::MemoryMax, memory.clone());
                found.live.insert(CgroupFile::MemoryMax, memory.clone());
                let devices = BTreeMap::from([(IoKind::WriteBytes, BTreeMap::from([(foreign, 7)]))]);
                (found.live_io, found.runtime_io) = (devices.clone(), devices);
            }
        }
        let inodes = PATHS.map(|path| host.cgroups[path].inode);
        let telemetry = Telemetry::default();
        let mut history = History {
            own: BTreeMap::new(),
            defaults: host.add_cgroup("/work.slice").settings.clone(),
            engine: start(host, directory.path(), &telemetry),
            directory,
            telemetry,
            inodes,
        };
        history.own = PATHS.map(|path| (path, history.found(path))).into();
        history.engine.resume();
        history
    }

    fn found(&mut self, path: &str) -> Own {
        let found = &self.engine.host().cgroups[path];
        Own {
            settings: found.settings.clone(),
            runtime: found.runtime.clone(),
            persistent: found.persistent.clone(),
            live: found.live.clone(),
            runtime_io: found.runtime_io.clone(),
            persistent_io: found.persistent_io.clone(),
            live_io: found.live_io.clone(),
        }
    }

    fn note_restarts(&mut self) {
        for (path, known) in PATHS.into_iter().zip(&mut self.inodes) {
            let now = self.engine.host().cgroups[path].inode;
            if std::mem::replace(known, now) != now {
                self.own.get_mut(path).unwrap().rebuild(&self.defaults);
            }
        }
    }

    /// systemd may write a value by hand over at a reload, and evenkeel put it back: neither is wrong.
    fn has_values_by_hand(&self) -> bool {
        let mut units = self.own.values().filter(|own| own.runtime.is_some());
        units.any(|own| {
            let mut expected = own.clone();
            expected.rebuild(&self.defaults);
            expected != *own
        })
    }

    fn run(&mut self, deaths: [Option<u32>; 2], host_action: impl Fn(&mut Engine<FakeHost>)) {
        fault::arm(deaths[0]);
        let result = catch_unwind(AssertUnwindSafe(|| host_action(&mut self.engine)));
        fault::arm(None);
        if died(result) {
            self.restart(deaths[1]);
            // The sender got no answer and retries.
            host_action(&mut self.engine);
        }
    }

    fn restart(&mut self, death: Option<u32>) {
        for death in [death, None] {
            let host = self.engine.host().clone();
            self.engine = start(host, self.directory.path(), &self.telemetry);
            fault::arm(death);
            let result = catch_unwind(AssertUnwindSafe(|| self.engine.resume()));
            fault::arm(None);
            if !died(result) {
                return;
            }
        }
    }

    fn deliver(&mut self, deaths: [Option<u32>; 2], alert: usize, status: Status) {
        let labels: crate::alert::Labels = [("alertname", ALERTS[alert]), ("instance", "web1:9100")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let now = self.engine.host().now.wall;
        // A firing that started no later than the last one ended would be stale.
        let alert = Alert {
            fingerprint: fingerprint(&labels),
            labels,
            annotations: Default::default(),
            generator_url: None,
            status,
            starts_at: now,
            ends_at: (status == Status::Resolved).then_some(now),
            source: Source::Alertmanager,
        };
        self.run(deaths, |engine| {
            engine.take(std::slice::from_ref(&alert), Instant::now()).unwrap();
        });
        self.engine.host().advance(Duration::from_secs(1));
    }

    fn pass(&mut self, seconds: u64, deaths: [Option<u32>; 2]) {
        let until = self.engine.host().now.boot + Duration::from_secs(seconds);
        loop {
            let left = until.saturating_sub(self.engine.host().now.boot);
            if left.is_zero() {
                return;
            }
            let step = self.engine.time_until_due().unwrap_or(left).min(left);
            self.engine.host().advance(step.max(Duration::from_millis(100)));
            self.run(deaths, Engine::tick);
        }
    }

    fn live(&mut self, (op, first, second): Move) {
        let deaths = [first, second];
        match op {
            Op::Fire(alert) => self.deliver(deaths, alert, Status::Firing),
            Op::Resolve(alert) => self.deliver(deaths, alert, Status::Resolved),
            Op::Pass(seconds) => self.pass(seconds, deaths),
            Op::Restart => self.restart(second),
            Op::Release(nth) => self.run(deaths, |engine| {
                let id = nth.map(|nth| engine.ledger().leases.keys().nth(nth).copied().unwrap_or(0));
                engine.release(id, &OperatorRequest::example());
            }),
            Op::Pause(paused) => self.run(deaths, |engine| engine.pause(paused, &OperatorRequest::example())),
            Op::MadeAnew(index) => {
                self.engine.host().restart_cgroup(PATHS[index]);
            }
            Op::Use(index, mib, is_reclaimable) => self.use_memory(PATHS[index], mib << 20, is_reclaimable),
            Op::ForeignIo(index, limit) => self.change_io(PATHS[index], limit),
            Op::Foreign(index, high) => self.change(PATHS[index], if high { "777" } else { "7" }),
            Op::ByHand(index, is_memory) => self.write_by_hand(PATHS[index], is_memory),
            Op::Reload if self.has_values_by_hand() => {}
            Op::Reload => {
                self.engine.host().reload_systemd();
                self.own.values_mut().for_each(|own| own.reload(&self.defaults));
            }
            Op::RestartWhenSet => self.engine.host().hooks.after_unit_set.push_back(restart_units),
        }
        self.note_restarts();
        let guarded = self.found(PATHS[GUARDED]);
        assert_eq!(guarded, self.own[PATHS[GUARDED]], "it holds a protected process");
        self.check_bases();
        assert_eq!(self.engine.host().signals, [], "no limit ends anything");
    }

    /// The kernel keeps it to its limit; that is no business of evenkeel's.
    fn use_memory(&mut self, path: &str, bytes: u64, is_reclaimable: bool) {
        let found = self.engine.host().cgroups.get_mut(path).unwrap();
        let most = match &found.settings[&CgroupFile::MemoryMax] {
            Setting::MemoryMax(Limit(most)) => most.unwrap_or(u64::MAX),
            other => panic!("{other}"),
        };
        found.memory_bytes = bytes.min(most);
        found.reclaimable_bytes = if is_reclaimable { found.memory_bytes } else { 0 };
    }

    /// Whatever else is held: a relative limit counts from what the cgroup would have without evenkeel.
    fn check_bases(&self) {
        for lease in self.engine.ledger().leases.values() {
            let Some(Value::Cgroup(Setting::CpuMax(held))) = lease.effect.value() else {
                continue;
            };
            let expected = match &*lease.name {
                path if path == PATHS[0] => [Some(100_000), Some(10_000), Some(25_000)],
                path if path == PATHS[1] => [Some(80_000), Some(10_000), Some(20_000)],
                _ => [None, Some(10_000), Some(200_000)],
            };
            assert!(expected.contains(&held.quota_micros), "{lease:?}");
        }
    }

    /// systemd adds to a list what it is given.
    fn change_io(&mut self, path: &'static str, limit: u64) {
        let (device, kind) = (Device { major: 9, minor: 0 }, IoKind::WriteBytes);
        let found = self.engine.host().cgroups.get_mut(path).unwrap();
        put_io(&mut found.settings, device, kind, limit);
        if found.runtime.is_some() {
            // The drop-in has the whole list that systemd has.
            let live = found.live_io.entry(kind).or_default();
            live.insert(device, limit);
            found.runtime_io.insert(kind, live.clone());
        }
        self.own.get_mut(path).unwrap().put_io(device, kind, limit);
    }

    fn change(&mut self, path: &'static str, weight: &str) {
        let (file, value) = (CgroupFile::CpuWeight, setting(CgroupFile::CpuWeight, weight));
        let found = self.engine.host().cgroups.get_mut(path).unwrap();
        let own = self.own.get_mut(path).unwrap();
        found.settings.insert(file, value.clone());
        own.settings.insert(file, value.clone());
        for runtime in [&mut found.runtime, &mut own.runtime].into_iter().flatten() {
            runtime.insert(file, value.clone());
        }
        for (live, is_unit) in [
            (&mut found.live, found.runtime.is_some()),
            (&mut own.live, own.runtime.is_some()),
        ] {
            if is_unit {
                live.insert(file, value.clone());
            }
        }
    }

    fn write_by_hand(&mut self, path: &str, is_memory: bool) {
        let value = match is_memory {
            true => setting(CgroupFile::MemoryMax, "2621440000"),
            false => setting(CgroupFile::CpuWeight, "55"),
        };
        let found = self.engine.host().cgroups.get_mut(path).unwrap();
        let (used, is_reclaimable) = (found.memory_bytes, found.reclaimable_bytes > 0);
        for settings in [&mut found.settings, &mut self.own.get_mut(path).unwrap().settings] {
            settings.insert(value.file(), value.clone());
        }
        self.use_memory(path, used, is_reclaimable);
    }

    fn end(&mut self) {
        self.run([None, None], |engine| engine.pause(false, &OperatorRequest::example()));
        for alert in 0..ALERTS.len() {
            self.deliver([None, None], alert, Status::Resolved);
        }
        // What waits for room gets it.
        for path in PATHS {
            self.use_memory(path, 0, false);
        }
        self.pass(60, [None, None]);
        self.note_restarts();
        assert_eq!(self.engine.host().signals, [], "no limit ends anything");
        assert!(
            self.engine.ledger().leases.is_empty(),
            "{:?}",
            self.engine.ledger().leases
        );
        for path in PATHS {
            let told = |record: &&Record| record.target.as_ref().is_some_and(|(_, name)| name == path);
            let records: Vec<Record> = self.engine.records().into_iter().collect();
            let records: Vec<&Record> = records.iter().filter(told).collect();
            assert_eq!(self.found(path), self.own[path], "{path}: {records:#?}");
            assert!(!self.engine.host().cgroups[path].is_frozen, "{path} is left frozen");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..config(200) })]

    #[test]
    fn random_histories_leave_cgroups_and_units_as_without_us(moves in history()) {
        let mut history = History::new();
        for step in moves {
            history.live(step);
        }
        history.end();
    }
}

/// Found by the random histories.
#[test]
fn limit_of_others_beside_ours_keeps_its_drop_in() {
    let mut history = History::new();
    for op in [Op::Fire(0), Op::ForeignIo(1, 1), Op::Fire(1)] {
        history.live((op, None, None));
    }
    history.end();
}

/// Found by the random histories.
#[test]
fn manual_value_stays_in_the_next_cgroup_while_undo_waits() {
    let mut history = History::new();
    let ops = [
        Op::Fire(0),
        Op::RestartWhenSet,
        Op::Use(0, 1025, false),
        Op::Release(None),
        Op::ByHand(0, true),
    ];
    for op in ops {
        history.live((op, None, None));
    }
    history.end();
}

/// Found by the random histories: a property and a file that other people had set between two leases.
#[test]
fn property_below_a_value_by_hand_stays_on_record() {
    let mut history = History::new();
    for op in [Op::Fire(2), Op::Foreign(0, false), Op::ByHand(0, false), Op::Fire(0)] {
        history.live((op, None, None));
    }
    history.end();
}

/// Found by the random histories: the undo of a raised `memory.max` waited for room, and a crash left the next lease
/// without its value. The older lease handed over to it nevertheless, and its own value stayed.
#[test]
fn undo_that_waits_for_room_goes_on_after_a_crash() {
    for death in 0..80 {
        let mut history = History::new();
        for op in [Op::Fire(2), Op::Use(0, 1153, false), Op::Resolve(2)] {
            history.live((op, None, None));
        }
        history.live((Op::Fire(0), Some(death), None));
        history.end();
    }
}
