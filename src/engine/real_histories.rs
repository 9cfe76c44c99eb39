//! Short random histories on real processes, children of the test, with a daemon that is dropped without a word in
//! between. Touches nothing but those children, which are known by an executable of their own.

use super::histories::config;
use super::*;
use crate::alert::{Alert, Source, Status, alert::fingerprint};
use crate::host::knob::IoPriority;
use crate::host::{Knob, LinuxHost, Thread, Value};
use crate::process::selector::{Condition, Pattern};
use crate::process::table::Procfs;
use crate::process::{Identity, Selector};
use crate::rule::step::Change;
use crate::rule::{Aim, Step, example};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

#[derive(Debug, Clone, Copy)]
enum Op {
    Fire(usize),
    Resolve(usize),
    /// The daemon is gone without having put anything back, and comes again.
    Dropped,
    Restart,
    Release,
    Reload(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..2).prop_map(Op::Fire),
        2 => (0usize..2).prop_map(Op::Resolve),
        2 => Just(Op::Dropped),
        1 => Just(Op::Restart),
        1 => Just(Op::Release),
        1 => any::<bool>().prop_map(Op::Reload),
    ]
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

fn policy(exe: &Path, has_both: bool) -> Policy {
    let exe = regex::escape(exe.to_str().unwrap());
    let rule = |name: &str, values: Vec<Value>| {
        let mut rule = example(name, "nice 1");
        rule.aim = Aim::Processes(Selector {
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
    if has_both {
        rules.push(rule("b", second));
    }
    Policy {
        rules: RuleSet { rules },
        enforce: true,
        here: Here::new(vec!["instance".into()], "web1", "", &[]),
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
            values.extend(Knob::ALL.map(|knob| (thread.tid, host.get(target, thread, knob).unwrap())));
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

fn live_through(scene: &mut Scene<'_>, ops: &[Op]) {
    let directory = tempfile::tempdir().unwrap();
    let mut policy_now = policy(scene.exe, true);
    let start = |policy: &Policy| {
        let host = host();
        let (journal, book) = Journal::open(directory.path(), host.procfs().boot);
        let mut engine = Engine::new(
            host,
            journal,
            book,
            policy.clone(),
            Box::new(|_| None),
            Tally::default(),
        );
        engine.resume();
        engine
    };
    let mut starts = 0;
    let mut alert = |index: usize, status: Status| {
        let labels: crate::alert::Labels = [
            ("alertname".to_owned(), ["a", "b"][index].to_owned()),
            ("instance".to_owned(), "web1".to_owned()),
        ]
        .into();
        starts += 100;
        let starts_at = jiff::Timestamp::from_second(1_700_000_000 + starts).unwrap();
        Alert {
            fingerprint: fingerprint(&labels),
            labels,
            annotations: Default::default(),
            status,
            starts_at,
            ends_at: None,
            source: Source::Local,
        }
    };
    let mut engine = start(&policy_now);
    for op in ops {
        match *op {
            Op::Fire(index) => engine.take(&[alert(index, Status::Firing)], Instant::now()).unwrap(),
            Op::Resolve(index) => engine.take(&[alert(index, Status::Resolved)], Instant::now()).unwrap(),
            Op::Dropped => engine = start(&policy_now),
            Op::Restart => {
                engine.shut_down();
                engine = start(&policy_now);
            }
            Op::Release => {
                engine.release(None);
            }
            Op::Reload(has_both) => {
                policy_now = policy(scene.exe, has_both);
                engine.reload(policy_now.clone());
            }
        }
        let now = values(engine.host(), scene.targets);
        let differs = now.iter().zip(scene.before).filter(|(now, before)| now != before);
        scene.changed.extend(differs.map(|(now, _)| now.1.knob()));
    }
    for index in 0..2 {
        engine.take(&[alert(index, Status::Resolved)], Instant::now()).unwrap();
    }
    assert!(engine.book().leases.is_empty());
    assert_eq!(values(engine.host(), scene.targets), scene.before, "{ops:?}");
}

#[test]
fn real_processes_get_back_what_they_had() {
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
    let mut runner = TestRunner::new(config(100));
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
        .filter(|knob| host.may_undo(*knob).is_ok() && *knob != Knob::Sched);
    assert_eq!(changed, may.collect(), "each knob was turned at some time");
}
