//! The engine on a fake host with a fake clock and a real ledger.

use super::*;
use crate::alert::{Alert, Source, Status, alert::fingerprint};
use crate::host::fake::FakeHost;
use crate::ledger::Decision;
use crate::process::{Identity, Process};
use crate::rule::example;
use nix::sys::signal::Signal;
use std::time::Instant;

struct World {
    engine: Engine<FakeHost>,
    tally: Tally,
    directory: tempfile::TempDir,
    policy: Policy,
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        rules: RuleSet {
            rules: rules.into_iter().map(Arc::new).collect(),
        },
        enforce: true,
        here: Here::new(vec!["instance".into()], "web1", "", &[]),
        protect: vec![],
        budget: Budget::default(),
        restore_on_exit: true,
    }
}

fn engine(host: FakeHost, directory: &std::path::Path, policy: Policy, tally: &Tally) -> Engine<FakeHost> {
    let (journal, book) = Journal::open(directory, crate::process::BootId(1));
    let mut engine = Engine::new(host, journal, book, policy, Box::new(|_| None), tally.clone());
    engine.resume();
    engine
}

fn world(policy: Policy) -> World {
    let directory = tempfile::tempdir().unwrap();
    let tally = Tally::default();
    let host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
    World {
        engine: engine(host, directory.path(), policy.clone(), &tally),
        tally,
        directory,
        policy,
    }
}

impl World {
    fn add(&mut self, pid: i32, threads: u32) -> Identity {
        let mut process = Process::example(pid, "burner");
        process.threads = threads;
        process.details.exe = Some("/usr/bin/burner".into());
        self.engine.host().add(process)
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.engine.host().advance(Duration::from_secs(1));
            if self.engine.time_until_due().is_some_and(|left| left.is_zero()) {
                self.engine.tick();
            }
        }
    }

    fn send(&mut self, name: &str, status: Status, starts: i64, source: Source) {
        let labels: crate::alert::Labels = [
            ("alertname".to_owned(), name.to_owned()),
            ("instance".to_owned(), "web1:9100".to_owned()),
        ]
        .into();
        let starts_at = jiff::Timestamp::from_second(1_700_000_000 + starts).unwrap();
        let alert = Alert {
            fingerprint: fingerprint(&labels),
            labels,
            annotations: Default::default(),
            status,
            starts_at,
            ends_at: (status == Status::Resolved).then(|| starts_at + Duration::from_secs(60)),
            source,
        };
        self.engine.take(&[alert], Instant::now()).unwrap();
    }

    fn fire(&mut self, name: &str) {
        self.send(name, Status::Firing, 0, Source::Alertmanager);
    }

    fn resolve(&mut self, name: &str) {
        self.send(name, Status::Resolved, 0, Source::Alertmanager);
    }

    /// The daemon is killed: nothing is undone, and only what is durable is known afterwards.
    fn crash_and_restart(&mut self) {
        let host = self.engine.host().clone();
        self.engine = engine(host, self.directory.path(), self.policy.clone(), &self.tally);
    }

    fn restart(&mut self) {
        self.engine.shut_down();
        self.crash_and_restart();
    }

    fn nice(&mut self, pid: i32) -> Vec<i32> {
        self.engine.host().processes[&pid]
            .threads
            .values()
            .map(|thread| thread.nice)
            .collect()
    }

    fn signals(&mut self) -> Vec<(i32, Signal)> {
        self.engine.host().signals.clone()
    }

    /// The end of a process, told as the real host tells it.
    fn reap(&mut self, target: Identity) {
        self.engine.host().processes.remove(&target.pid);
        self.engine.exited(target);
        self.engine.tick();
    }

    fn decided(&self, rule: &str, decision: Decision) -> f64 {
        self.count("evenkeel_decisions_total", &[rule, decision.as_str()])
    }

    fn count(&self, family: &str, labels: &[&str]) -> f64 {
        let families = self.tally.families();
        let family = families.iter().find(|found| found.name == family).unwrap();
        let holds = |point: &&crate::family::Point| point.labels.iter().map(|(_, value)| value).eq(labels.iter());
        match family.points.iter().find(holds).map(|point| &point.value) {
            Some(crate::family::Value::Number(number)) => *number,
            _ => 0.0,
        }
    }
}

const TERM_THEN_KILL: &str = "signal TERM; wait 10; signal KILL";

#[test]
fn resolve_restores_the_prior_nice_of_every_thread() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 3);
    world.fire("calm");
    assert_eq!(world.nice(100), [15, 15, 15]);
    assert_eq!(world.count("evenkeel_leases", &["calm", "nice"]), 1.0);
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::Planned), 1.0);
    assert_eq!(world.decided("calm", Decision::Duplicate), 1.0);
    world.resolve("calm");
    assert_eq!(world.nice(100), [0, 0, 0]);
    assert_eq!(world.count("evenkeel_leases", &["calm", "nice"]), 0.0);
    assert_eq!(
        world.count("evenkeel_actions_total", &["calm", "nice", "restored"]),
        1.0
    );
}

#[test]
fn dry_run_changes_nothing_and_says_what_would_be() {
    let mut world = world(Policy {
        enforce: false,
        ..policy(vec![example("calm", "nice 15; wait 10; signal TERM")])
    });
    world.add(100, 1);
    world.fire("calm");
    world.pass(30);
    assert_eq!((world.nice(100), world.signals()), (vec![0], vec![]));
    assert_eq!(world.decided("calm", Decision::DryRun), 2.0);
    assert_eq!(
        world.count("evenkeel_actions_total", &["calm", "signal", "dry_run"]),
        1.0
    );
    assert!(world.engine.book().leases.is_empty());
}

#[test]
fn a_rule_may_be_stricter_than_the_daemon() {
    let mut rule = example("calm", "nice 15");
    rule.dry_run = true;
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.fire("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn a_lease_survives_a_crash_and_nothing_is_done_twice() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 2);
    world.fire("calm");
    world.crash_and_restart();
    world.fire("calm");
    assert_eq!(world.count("evenkeel_actions_total", &["calm", "nice", "applied"]), 1.0);
    world.crash_and_restart();
    world.resolve("calm");
    assert_eq!(world.nice(100), [0, 0]);
}

#[test]
fn exit_restores_and_a_restart_goes_on() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.shut_down();
    assert_eq!(world.nice(100), [0]);
    world.crash_and_restart();
    assert_eq!(world.nice(100), [15], "the episode is still open");
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn a_deadline_restores_and_only_a_repeat_takes_again() {
    let mut rule = example("calm", "nice 15");
    rule.hold = Duration::from_secs(40);
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(30);
    world.fire("calm");
    world.pass(30);
    assert_eq!(world.nice(100), [15], "renewed by the repeat");
    world.pass(15);
    assert_eq!(world.nice(100), [0]);
    world.pass(60);
    assert_eq!(world.nice(100), [0]);
    assert_eq!(world.count("evenkeel_actions_total", &["calm", "nice", "expired"]), 1.0);
    world.fire("calm");
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn new_matches_are_taken_in_a_round_up_to_the_limit() {
    let mut rule = example("calm", "nice 15");
    rule.limit = 2;
    let mut world = world(policy(vec![rule]));
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::NoTarget), 1.0);
    for pid in [100, 200, 300] {
        world.add(pid, 1);
    }
    world.pass(16);
    assert_eq!([world.nice(100), world.nice(200), world.nice(300)], [[15], [15], [0]]);
}

#[test]
fn who_ignores_sigterm_gets_sigkill_at_its_time_and_no_sooner() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world
        .engine
        .host()
        .processes
        .get_mut(&100)
        .unwrap()
        .ignores
        .insert(Signal::SIGTERM as i32);
    world.fire("end");
    world.pass(9);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world.pass(2);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn a_wait_survives_a_restart() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world
        .engine
        .host()
        .processes
        .get_mut(&100)
        .unwrap()
        .ignores
        .insert(Signal::SIGTERM as i32);
    world.fire("end");
    world.pass(5);
    world.crash_and_restart();
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world.pass(6);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn who_ends_at_once_is_not_killed_and_the_next_one_lives() {
    let mut rule = example("end", TERM_THEN_KILL);
    rule.limit = 5;
    let mut world = world(policy(vec![rule]));
    let first = world.add(100, 1);
    world.add(200, 1);
    world.fire("end");
    world.reap(first);
    world.pass(400);
    world.fire("end");
    assert_eq!(
        world.signals(),
        [(100, Signal::SIGTERM)],
        "one victim per episode without `while`"
    );
}

#[test]
fn local_alerts_take_the_next_victim_after_the_cooldown() {
    let mut rule = example("end", TERM_THEN_KILL);
    (rule.limit, rule.cooldown) = (5, Duration::from_secs(30));
    let mut world = world(policy(vec![rule]));
    let first = world.add(100, 1);
    world.add(200, 1);
    world.send("end", Status::Firing, 0, Source::Local);
    world.pass(20);
    world.reap(first);
    assert_eq!(world.signals().len(), 1);
    world.pass(8);
    assert_eq!(world.signals().len(), 1, "cooldown");
    world.pass(20);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (200, Signal::SIGTERM)]);
    assert!(world.decided("end", Decision::Cooldown) >= 1.0);
}

#[test]
fn two_rules_do_not_kill_one_victim_twice() {
    let mut second = example("other", TERM_THEN_KILL);
    second.matchers = example("end", "nice 1").matchers;
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL), second]));
    world.add(100, 1);
    world
        .engine
        .host()
        .processes
        .get_mut(&100)
        .unwrap()
        .ignores
        .insert(Signal::SIGTERM as i32);
    world.fire("end");
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    assert_eq!(world.decided("other", Decision::AwaitingEffect), 1.0);
}

#[test]
fn budget_bounds_the_host() {
    let names = ["a", "b", "c", "d"];
    let rules = names.iter().map(|name| {
        let mut rule = example(name, "signal KILL");
        let pattern = crate::process::selector::Pattern::fixed(name).unwrap();
        rule.select.conditions = vec![crate::process::selector::Condition::Name(pattern)];
        rule
    });
    let mut world = world(policy(rules.collect()));
    for (index, name) in names.iter().enumerate() {
        let mut process = Process::example(100 * (index as i32 + 1), name);
        process.details.exe = Some("/usr/bin/x".into());
        world.engine.host().add(process);
        world.fire(name);
    }
    assert_eq!(world.signals().len(), 3);
    assert_eq!(world.decided("d", Decision::Budget), 1.0);
    assert_eq!(world.count("evenkeel_budget_remaining", &[]), 0.0);
}

#[test]
fn alerts_of_other_hosts_and_without_identity_are_left_alone() {
    let mut world = world(Policy {
        here: Here::new(vec!["host".into()], "web1", "", &[]),
        ..policy(vec![example("calm", "nice 15")])
    });
    world.add(100, 1);
    world.fire("calm");
    assert_eq!(world.nice(100), [0]);
    assert_eq!(world.decided("calm", Decision::OtherHost), 1.0);
    world.send("calm", Status::Firing, 0, Source::Local);
    assert_eq!(world.nice(100), [15], "our own evaluation speaks of this host");
}

#[test]
fn late_deliveries_are_stale() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.resolve("calm");
    world.fire("calm");
    assert_eq!(world.nice(100), [0], "its resolve came first");
    assert_eq!(world.decided("calm", Decision::Stale), 1.0);
    world.send("calm", Status::Firing, 61, Source::Alertmanager);
    assert_eq!(world.nice(100), [15]);
    world.resolve("calm");
    assert_eq!(world.nice(100), [15], "it resolves the earlier episode");
}

#[test]
fn released_by_hand_is_not_taken_again_in_the_episode() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    assert_eq!(world.engine.release(None), 1);
    world.fire("calm");
    world.pass(60);
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn a_pause_plans_nothing_and_still_undoes() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("later", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.pause(true);
    world.restart();
    world.fire("later");
    assert_eq!(
        world.nice(100),
        [0],
        "restored at exit, and a pause survives the restart"
    );
    assert_eq!(world.decided("later", Decision::Paused), 1.0);
    world.engine.pause(false);
    world.pass(16);
    assert_eq!(world.nice(100), [15]);
    world.engine.pause(true);
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn a_removed_rule_releases_and_a_changed_one_keeps() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("more", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.reload(policy(vec![example("calm", "nice 3")]));
    world.pass(20);
    assert_eq!(world.nice(100), [15]);
    world.engine.reload(policy(vec![example("more", "nice 10")]));
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn too_many_matches_refuse_the_whole_plan() {
    let mut rule = example("calm", "nice 15");
    rule.max_matches = 1;
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.add(200, 1);
    world.fire("calm");
    assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]));
    assert!(world.decided("calm", Decision::TooManyMatches) >= 1.0);
}

#[test]
fn without_a_ledger_nothing_new_is_done_and_what_is_held_is_undone() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("more", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    let ledger = world.directory.path().join(crate::ledger::store::FILE_NAME);
    let lock = rusqlite::Connection::open(&ledger).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let labels: crate::alert::Labels = [
        ("alertname".to_owned(), "more".to_owned()),
        ("instance".to_owned(), "web1".to_owned()),
    ]
    .into();
    let alert = Alert {
        fingerprint: fingerprint(&labels),
        labels,
        annotations: Default::default(),
        status: Status::Firing,
        starts_at: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        ends_at: None,
        source: Source::Alertmanager,
    };
    assert!(world.engine.take(std::slice::from_ref(&alert), Instant::now()).is_err());
    assert_eq!(world.nice(100), [15]);
    assert_eq!(world.decided("more", Decision::Ledger), 1.0);
    assert_eq!(world.engine.release(None), 1);
    assert_eq!(world.nice(100), [0]);
    assert_eq!(world.count("evenkeel_ledger_writable", &[]), 0.0);
    lock.execute_batch("ROLLBACK").unwrap();
    world.pass(3);
    assert_eq!(world.count("evenkeel_ledger_writable", &[]), 1.0);
    assert!(world.engine.take(&[alert], Instant::now()).is_ok());
    assert_eq!(world.nice(100), [10]);
}

#[test]
fn a_process_that_became_another_program_is_left_alone() {
    let mut world = world(policy(vec![example("end", "nice 15; wait 10; signal TERM")]));
    world.add(100, 1);
    world.fire("end");
    world.engine.host().processes.get_mut(&100).unwrap().process.name = "postgres".into();
    world.pass(60);
    assert_eq!(world.signals(), []);
    world.resolve("end");
    assert_eq!(world.nice(100), [0], "what was set is put back all the same");
}

#[test]
fn reversible_steps_that_could_not_be_undone_are_refused() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.engine.host().denied.insert(crate::host::Knob::Nice);
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::Privilege), 1.0);
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn processor_use_is_known_whenever_an_alert_comes() {
    use crate::process::selector::Condition;
    for moment in 20..=31 {
        let mut rule = example("calm", "nice 5");
        rule.select.conditions.push(Condition::MinCpu(0.9));
        let mut world = world(policy(vec![rule]));
        world.add(100, 1);
        for _ in 0..moment {
            if let Some(found) = world.engine.host().processes.get_mut(&100) {
                found.process.cpu_ticks += crate::process::table::TICKS_PER_SECOND;
            }
            world.pass(1);
        }
        world.fire("calm");
        assert_eq!(world.nice(100), [5], "{moment} s after the start");
    }
}
