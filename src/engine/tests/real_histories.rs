//! Short random histories on real processes, with a daemon that is dropped without notice in between. They touch only
//! children of the test, which have an executable of their own.

use super::histories::config;
use super::*;
use crate::alert::alertmanager::{PollResult, View};
use crate::alert::{Alert, FiringSet, Source, Status, alert::fingerprint};
use crate::host::{Knob, LinuxHost, Thread, Value};
use crate::knob::IoPriority;
use crate::process::selector::{Condition, Pattern};
use crate::process::table::Procfs;
use crate::process::{Identity, Selector};
use crate::rule::{Step, TargetSelector, example};
use crate::step::Change;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

/// Histories with `EVENKEEL_TESTS=full`; PROPTEST_CASES asks for others.
const HISTORIES: u32 = 200;
const ALERTS: [&str; 2] = ["a", "b"];
/// The label of no alert of these histories.
const ELSEWHERE: &str = "c";

#[derive(Debug, Clone, Copy)]
enum Op {
    /// By webhook, or by own evaluation.
    Fire(usize, bool),
    Resolve(usize, bool),
    /// A full set of what fires for Alertmanager, or for own evaluation.
    FullSet(bool),
    /// The daemon is gone without having put anything back, and comes again.
    Dropped,
    Restart,
    Release,
    Reload(Rules),
}

/// The rules in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Both,
    OnlyA,
    /// Rule b answers another alert.
    OtherMatchers,
}

impl Rules {
    fn answer(self, alert: usize) -> bool {
        alert == 0 || self == Rules::Both
    }
}

fn op() -> impl Strategy<Value = Op> {
    let rules = prop_oneof![Just(Rules::Both), Just(Rules::OnlyA), Just(Rules::OtherMatchers)];
    prop_oneof![
        4 => (0usize..2, any::<bool>()).prop_map(|(alert, is_own)| Op::Fire(alert, is_own)),
        2 => (0usize..2, any::<bool>()).prop_map(|(alert, is_own)| Op::Resolve(alert, is_own)),
        2 => any::<bool>().prop_map(Op::FullSet),
        2 => Just(Op::Dropped),
        1 => Just(Op::Restart),
        1 => Just(Op::Release),
        1 => rules.prop_map(Op::Reload),
    ]
}

/// What the sources have said of one alert: Alertmanager first, then own evaluation.
#[derive(Debug, Clone, Default)]
struct Said {
    fires: [bool; 2],
    /// Since the last start.
    is_confirmed: [bool; 2],
    /// The rule was in force when it was said last, and has been since.
    is_answered: bool,
    /// By hand, and the alert has not ended since.
    is_released: bool,
    /// Leases at the last start.
    leases: BTreeSet<u64>,
}

impl Said {
    fn set(&mut self, source: usize, fires: bool, is_in_force: bool) {
        (self.fires[source], self.is_confirmed[source]) = (fires, fires);
        self.is_answered |= fires && is_in_force;
        if self.fires == [false; 2] {
            *self = Said::default();
        }
    }

    fn is_confirmed(&self) -> bool {
        (0..2).any(|source| self.fires[source] && self.is_confirmed[source])
    }
}

/// Children that end with the test.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn host() -> LinuxHost {
    LinuxHost::new(Procfs::open(Path::new("/proc")).unwrap(), Arc::new(|_| ()))
}

fn policy(exe: &Path, rules_in_force: Rules) -> Policy {
    let exe = regex::escape(exe.to_str().unwrap());
    let rule = |name: &str, values: Vec<Value>| {
        let mut rule = example(name, "nice 1");
        rule.target_selector = TargetSelector::Processes(Selector {
            conditions: vec![Condition::Exe(Pattern::fixed(&exe).unwrap())],
        });
        rule.limit = 3;
        rule.actions = values.into_iter().map(|value| Step::Set(Change::To(value))).collect();
        Arc::new(rule)
    };
    let first = vec![
        Value::Nice(15),
        Value::Affinity("0".parse().unwrap()),
        Value::OomScoreAdj(500),
        Value::Freeze(true),
    ];
    let second = vec![
        Value::Nice(10),
        Value::Ionice(IoPriority::Idle),
        Value::OomScoreAdj(300),
    ];
    let mut rules = vec![rule("a", first)];
    if rules_in_force != Rules::OnlyA {
        rules.push(rule("b", second));
    }
    if rules_in_force == Rules::OtherMatchers
        && let Some(other) = rules.pop().and_then(Arc::into_inner)
    {
        let matchers = example(ELSEWHERE, "nice 1").matchers;
        rules.push(Arc::new(Rule { matchers, ..other }));
    }
    Policy {
        rules: RuleSet { rules },
        enforce: true,
        host_identity: HostIdentity::new(vec!["instance".into()], "web1", "", &[]),
        protect: vec![],
        budget: Budget::default(),
        restore_on_exit: true,
        retention: Default::default(),
    }
}

fn values(host: &mut LinuxHost, targets: &[Identity]) -> Vec<(i32, Value)> {
    let mut values = Vec::new();
    for &target in targets {
        for thread in host.threads(target).unwrap() {
            // The processes are in the session of the tests, whose autogroup no rule here changes.
            let knobs = Knob::ALL.into_iter().filter(|knob| *knob != Knob::Autogroup);
            values.extend(knobs.map(|knob| (thread.tid, host.get(target, thread, knob).unwrap())));
        }
    }
    values
}

struct Scene<'a> {
    exe: &'a Path,
    targets: &'a [Identity],
    /// Every value that was other than at first at some moment.
    changed: &'a mut BTreeSet<Knob>,
    before: &'a [(i32, Value)],
}

/// An alert that starts later than all before.
fn alert(index: usize, status: Status, is_own: bool, starts: &mut i64) -> Alert {
    let labels: crate::alert::Labels = [("alertname", ALERTS[index]), ("instance", "web1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    *starts += 100;
    let starts_at = jiff::Timestamp::from_second(1_700_000_000 + *starts).unwrap();
    Alert {
        fingerprint: fingerprint(&labels),
        labels,
        annotations: Default::default(),
        generator_url: None,
        status,
        starts_at,
        ends_at: (status == Status::Resolved).then_some(starts_at),
        source: if is_own { Source::Local } else { Source::Alertmanager },
    }
}

fn start(directory: &Path, policy: &Policy) -> Engine<LinuxHost> {
    let host = host();
    let (journal, ledger) = Journal::open(directory, host.procfs().boot);
    let telemetry = Telemetry::default();
    let mut engine = Engine::new(host, journal, ledger, policy.clone(), Box::new(|_| None), telemetry);
    engine.resume();
    engine
}

fn hand_over(engine: &mut Engine<LinuxHost>, is_own: bool, firing: Vec<Alert>) {
    if is_own {
        return engine.take_firing_set(&FiringSet {
            firing,
            is_complete: true,
            ..FiringSet::default()
        });
    }
    engine.reconcile(&PollResult {
        views: vec![View {
            alertmanager: "http://am:9093/".into(),
            started_at: jiff::Timestamp::UNIX_EPOCH,
            firing,
        }],
        asked_at: crate::host::linux::boot_time(),
        fresh_for: Duration::from_secs(300),
        // What is not listed is over at once.
        patience: Duration::ZERO,
    });
}

fn live_through(scene: &mut Scene<'_>, ops: &[Op]) {
    let directory = tempfile::tempdir().unwrap();
    let mut rules = Rules::Both;
    let mut engine = start(directory.path(), &policy(scene.exe, rules));
    let (mut starts, mut said) = (0, [Said::default(), Said::default()]);
    for op in ops {
        match *op {
            Op::Fire(index, is_own) => {
                let alert = alert(index, Status::Firing, is_own, &mut starts);
                engine.take(&[alert], Instant::now()).unwrap();
                said[index].set(usize::from(is_own), true, rules.answer(index));
            }
            Op::Resolve(index, is_own) => {
                let alert = alert(index, Status::Resolved, is_own, &mut starts);
                engine.take(&[alert], Instant::now()).unwrap();
                said[index].set(usize::from(is_own), false, rules.answer(index));
            }
            Op::FullSet(is_own) => {
                let source = usize::from(is_own);
                let firing = (0..2).filter(|index| said[*index].fires[source]);
                let firing = firing.map(|index| alert(index, Status::Firing, is_own, &mut starts));
                hand_over(&mut engine, is_own, firing.collect());
                for (index, said) in said.iter_mut().enumerate() {
                    said.set(source, said.fires[source], rules.answer(index));
                }
            }
            Op::Dropped | Op::Restart => {
                if matches!(op, Op::Restart) {
                    engine.shut_down();
                }
                engine = start(directory.path(), &policy(scene.exe, rules));
                for said in &mut said {
                    said.is_confirmed = [false; 2];
                    said.leases = engine.ledger().leases.keys().copied().collect();
                }
            }
            Op::Release => {
                engine.release(None, &OperatorRequest::example());
                said.iter_mut()
                    .for_each(|said| said.is_released = said.fires != [false; 2]);
            }
            Op::Reload(now) => {
                rules = now;
                engine.reload(policy(scene.exe, rules));
                for (index, said) in said.iter_mut().enumerate() {
                    if !rules.answer(index) {
                        (said.is_answered, said.is_released) = (false, false);
                    }
                }
            }
        }
        check(&engine, &said, ops);
        let now = values(engine.host(), scene.targets);
        let differs = now.iter().zip(scene.before).filter(|(now, before)| now != before);
        scene.changed.extend(differs.map(|(now, _)| now.1.knob()));
    }
    for index in 0..2 {
        for is_own in [false, true] {
            let alert = alert(index, Status::Resolved, is_own, &mut starts);
            engine.take(&[alert], Instant::now()).unwrap();
        }
    }
    assert!(engine.ledger().leases.is_empty(), "{ops:?}");
    assert_eq!(values(engine.host(), scene.targets), scene.before, "{ops:?}");
}

/// What is held is what the sources say, and nothing more.
fn check(engine: &Engine<LinuxHost>, said: &[Said; 2], ops: &[Op]) {
    for (said, name) in said.iter().zip(ALERTS) {
        let leases = engine.ledger().leases.values().filter(|lease| lease.rule == name);
        let held: BTreeSet<u64> = leases.map(|lease| lease.id).collect();
        if !said.is_answered {
            assert!(held.is_empty(), "{name} is over, {ops:?}");
        } else if !said.is_confirmed() {
            assert!(held.is_subset(&said.leases), "{name} is not confirmed, {ops:?}");
        } else if !said.is_released {
            assert!(!held.is_empty(), "{name} fires, {ops:?}");
        }
    }
}

#[test]
fn real_processes_get_back_their_values() {
    let directory = tempfile::tempdir().unwrap();
    let exe = directory.path().join("burner");
    std::fs::copy("/bin/sleep", &exe).unwrap();
    let mut host = host();
    let children: Vec<Child> = (0..3).map(|_| Command::new(&exe).arg("600").spawn().unwrap()).collect();
    let children = Children(children);
    let targets: Vec<Identity> = children
        .0
        .iter()
        .map(|child| host.process(child.id() as i32).unwrap().identity)
        .collect();
    // One of them differs from the start.
    let main = Thread {
        tid: targets[1].pid,
        start_ticks: targets[1].start_ticks,
    };
    for value in [
        Value::Nice(3),
        Value::Ionice(IoPriority::BestEffort(6)),
        Value::OomScoreAdj(100),
    ] {
        host.set(targets[1], main, &value).unwrap();
    }
    let before = values(&mut host, &targets);
    let mut changed = BTreeSet::new();
    let mut runner = TestRunner::new(config(HISTORIES));
    let history = proptest::collection::vec(op(), 1..7);
    for _ in 0..runner.config().cases {
        let ops = history.new_tree(&mut runner).unwrap().current();
        let mut scene = Scene {
            exe: &exe,
            targets: &targets,
            changed: &mut changed,
            before: &before,
        };
        live_through(&mut scene, &ops);
    }
    let may = Knob::ALL
        .into_iter()
        .filter(|knob| host.may_undo(*knob).is_ok() && !matches!(knob, Knob::Sched | Knob::Autogroup));
    assert_eq!(changed, may.collect(), "each knob was turned at some time");
}
