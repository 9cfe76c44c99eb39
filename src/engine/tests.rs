//! Tests of the engine on a fake host with a fake clock and a real ledger.

mod cgroup_histories;
mod clocks;
mod conditions;
mod effects;
mod ending_members;
mod favours;
pub(super) mod jobs;
mod former_ledger;
mod histories;
mod job_histories;
mod kinship;
mod level;
mod limits;
mod lost_outcomes;
mod many_members;
mod operators;
mod pid_reuse;
mod queue;
mod real_histories;
mod reconciling;
mod reloads;
mod scale;
mod signal_leases;
mod stopped;
mod unreadable;
mod victims;
mod units;

use super::*;
use crate::alert::{Alert, FiringSet, Source, Status, alert::fingerprint};
use crate::host::fake::{FakeHost, FakeThread};
use crate::host::{Knob, Value};
use crate::ledger::{Lease, OperatorRequest, Outcome};
use crate::process::{Identity, Process, Selector};
use crate::rule::{TargetSelector, example};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Own evaluation hands over what fires so often.
const FULL_SET: u64 = 15;

/// The number of cases of a long test: `full` with `EVENKEEL_TESTS=full`, which `make test` sets, else an eighth of
/// them, so that `cargo test --lib` takes less than a minute.
fn share_of(full: u32) -> u32 {
    match std::env::var("EVENKEEL_TESTS").as_deref() {
        Ok("full") => full,
        _ => full / 8,
    }
}

struct World {
    engine: Engine<FakeHost>,
    telemetry: Telemetry,
    /// What fires for own evaluation.
    own: Vec<Alert>,
    /// Whether own evaluation has stopped.
    is_own_stuck: bool,
    passed: u64,
    directory: tempfile::TempDir,
    policy: Policy,
}

fn policy(rules: Vec<Rule>) -> Policy {
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

fn engine(host: FakeHost, directory: &std::path::Path, policy: Policy, telemetry: &Telemetry) -> Engine<FakeHost> {
    let (journal, ledger) = Journal::open(directory, crate::process::BootId(1));
    let mut engine = Engine::new(host, journal, ledger, policy, Box::new(|_| None), telemetry.clone());
    engine.resume();
    engine
}

fn world(policy: Policy) -> World {
    let directory = tempfile::tempdir().unwrap();
    let telemetry = Telemetry::default();
    let host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
    World {
        engine: engine(host, directory.path(), policy.clone(), &telemetry),
        telemetry,
        own: Vec::new(),
        is_own_stuck: false,
        passed: 0,
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
            self.passed += 1;
            if self.passed.is_multiple_of(FULL_SET) {
                self.hand_over_own();
            }
            if self.engine.time_until_due().is_some_and(|left| left.is_zero()) {
                self.engine.tick();
            }
        }
    }

    fn send(&mut self, name: &str, status: Status, starts: i64, source: Source) {
        let mut alert = alert(name, status);
        let later = jiff::SignedDuration::from_secs(starts);
        alert.starts_at += later;
        alert.ends_at = alert.ends_at.map(|at| at + later);
        alert.source = source;
        self.engine.take(std::slice::from_ref(&alert), Instant::now()).unwrap();
        if source == Source::Local {
            self.own.retain(|own| own.fingerprint != alert.fingerprint);
            if status == Status::Firing {
                self.own.push(alert);
            }
        }
    }

    fn hand_over_own(&mut self) {
        if !self.is_own_stuck {
            let set = FiringSet {
                firing: self.own.clone(),
                is_complete: true,
                ..FiringSet::default()
            };
            self.engine.take_firing_set(&set);
        }
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
        self.engine = engine(host, self.directory.path(), self.policy.clone(), &self.telemetry);
    }

    fn restart(&mut self) {
        self.engine.shut_down();
        self.crash_and_restart();
    }

    fn nice(&mut self, pid: i32) -> Vec<i32> {
        self.engine.host().processes[&pid]
            .threads
            .values()
            .map(FakeThread::nice)
            .collect()
    }

    fn ignores_sigterm(&mut self, pid: i32) {
        let process = self.engine.host().processes.get_mut(&pid).unwrap();
        process.ignores.insert(Signal::SIGTERM as i32);
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
        let families = self.telemetry.families();
        let family = families.iter().find(|found| found.name == family).unwrap();
        let holds = |point: &crate::family::Point| point.labels.iter().map(|(_, value)| value).eq(labels.iter());
        match family.points().find(holds).map(|point| point.value) {
            Some(crate::family::SampleValue::Number(number)) => *number,
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
    assert!(world.engine.ledger().leases.is_empty());
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
fn leases_outlast_an_exit_for_an_upgrade() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.hand_over();
    assert_eq!(world.nice(100), [15]);
    world.crash_and_restart();
    world.pass(20);
    assert_eq!(world.nice(100), [15]);
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn exit_restores_and_a_restart_goes_on() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.shut_down();
    assert_eq!(world.nice(100), [0]);
    world.crash_and_restart();
    world.pass(20);
    assert_eq!(world.nice(100), [0], "no source has confirmed the alert since");
    world.fire("calm");
    assert_eq!(world.nice(100), [15], "the episode is still open");
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn unconfirmed_episode_drops_a_target_that_exited() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.crash_and_restart();
    world.engine.host().processes.remove(&100);
    world.pass(20);
    let held = |world: &World| {
        let ledger = world.engine.ledger();
        let targets = ledger
            .episodes
            .values()
            .map(|episode| episode.targets.len())
            .sum::<usize>();
        (ledger.episodes.len(), targets, ledger.leases.values().count())
    };
    assert_eq!(held(&world), (1, 0, 0));
    world.crash_and_restart();
    assert_eq!(held(&world), (1, 0, 0), "also in the file");
}

#[test]
fn deadline_restores_and_only_a_repeat_acts_again() {
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
fn an_alert_that_goes_on_after_a_silence_gets_no_second_victim() {
    let mut rule = example("end", "signal KILL");
    rule.hold = Duration::from_secs(40);
    rule.cooldown = Duration::ZERO;
    let mut world = world(policy(vec![rule]));
    let first = world.add(100, 1);
    world.fire("end");
    world.reap(first);
    world.add(200, 1);
    world.pass(60);
    assert!(
        world.engine.ledger().episodes.is_empty(),
        "no source has confirmed the alert"
    );
    world.fire("end");
    world.pass(20);
    assert_eq!(world.signals(), [(100, Signal::SIGKILL)]);
    world.resolve("end");
    world.send("end", Status::Firing, 1000, Source::Alertmanager);
    assert_eq!(world.signals().len(), 2, "another alert");
}

#[test]
fn round_acts_on_new_matches_up_to_the_limit() {
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
fn outcome_has_the_time_of_the_action() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    let slow = |host: &mut FakeHost| host.advance(Duration::from_secs(2));
    world.engine.host().hooks.before_set.push_back(slow);
    world.fire("calm");
    let records = world.engine.records();
    let at = |is_it: fn(&Record) -> bool| records.iter().find(|record| is_it(record)).unwrap().at;
    let decided = at(|record| record.decision == Some(Decision::Planned));
    let applied = at(|record| record.outcome == Some(Outcome::Applied));
    assert_eq!(applied.duration_since(decided).as_secs(), 2);
}

#[test]
fn matches_beyond_the_limit_are_named_once() {
    let mut rule = example("calm", "nice 15");
    rule.limit = 2;
    let mut world = world(policy(vec![rule]));
    for pid in 101..=112 {
        world.add(pid, 1);
    }
    world.fire("calm");
    world.pass(16);
    world.fire("calm");
    let records = world.engine.records();
    let beyond = |record: &&Record| record.decision == Some(Decision::BeyondLimit);
    let reasons: Vec<&str> = records
        .iter()
        .filter(beyond)
        .map(|record| record.reason.as_str())
        .collect();
    let named = (103..=110)
        .map(|pid| format!("{pid} burner"))
        .collect::<Vec<_>>()
        .join(", ");
    assert_eq!(reasons, [format!("limit 2: 10 more match: {named}, …")]);
    assert_eq!(world.decided("calm", Decision::BeyondLimit), 1.0);
}

#[test]
fn ignored_sigterm_is_followed_by_sigkill_in_time() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world.ignores_sigterm(100);
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
    world.ignores_sigterm(100);
    world.fire("end");
    world.pass(5);
    world.crash_and_restart();
    world.fire("end");
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world.pass(6);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn victim_that_exits_at_once_is_the_only_one_signalled() {
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
fn local_alert_kills_the_next_victim_after_the_cooldown() {
    let mut rule = example("end", TERM_THEN_KILL);
    rule.limit = 5;
    rule.cooldown = Duration::from_secs(30);
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
    world.ignores_sigterm(100);
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
        rule.target_selector = TargetSelector::Processes(Selector {
            conditions: vec![crate::process::selector::Condition::Name(pattern)],
        });
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
        host_identity: HostIdentity::new(vec!["host".into()], "web1", "", &[]),
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
fn resolve_dated_in_the_future_does_not_make_firings_stale() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    let mut over = alert("calm", Status::Resolved);
    over.ends_at = Some("2030-01-01T00:00:00Z".parse().unwrap());
    world.engine.take(&[over], Instant::now()).unwrap();
    assert_eq!(world.nice(100), [0]);
    world.pass(121);
    let mut again = alert("calm", Status::Firing);
    again.starts_at = world.engine.host().now.wall;
    world.engine.take(&[again], Instant::now()).unwrap();
    assert_eq!(
        (world.nice(100), world.decided("calm", Decision::Stale)),
        (vec![15], 0.0)
    );
}

#[test]
fn released_target_stays_released_in_the_episode() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    assert_eq!(world.engine.release(None, &OperatorRequest::example()), 1);
    world.fire("calm");
    world.pass(60);
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn a_pause_plans_nothing_and_still_undoes() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("later", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.pause(true, &OperatorRequest::example());
    world.restart();
    world.fire("later");
    assert_eq!(
        world.nice(100),
        [0],
        "restored at exit, and a pause survives the restart"
    );
    assert_eq!(world.decided("later", Decision::Paused), 1.0);
    world.engine.pause(false, &OperatorRequest::example());
    world.pass(16);
    assert_eq!(
        world.nice(100),
        [10],
        "both alerts are answered, and the newer lease applies"
    );
    world.engine.pause(true, &OperatorRequest::example());
    world.resolve("calm");
    world.resolve("later");
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
    assert_eq!(world.decided("calm", Decision::TooManyMatches), 1.0);
    // Not at the moment of a round, where a repeat finds everything looked at.
    world.pass(65);
    assert_eq!(
        world.decided("calm", Decision::TooManyMatches),
        1.0,
        "a look is no news"
    );
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::TooManyMatches), 2.0, "a repeat is");
    world.engine.host().processes.remove(&200);
    world.pass(20);
    assert_eq!(world.nice(100), [15]);
    world.add(201, 1);
    world.add(202, 1);
    world.pass(20);
    assert_eq!(world.decided("calm", Decision::TooManyMatches), 3.0, "it starts over");
}

#[test]
fn crowd_of_a_user_leaves_the_processes_of_others_in_the_plan() {
    let mut rule = example("calm", "nice 15");
    rule.max_matches = 2;
    rule.limit = 9;
    let mut world = world(policy(vec![rule]));
    let mut add = |pid: i32, uid: u32, cgroup: &str| {
        let mut process = Process::example(pid, "burner");
        process.details.exe = Some("/usr/bin/burner".into());
        process.details.uid = Some(uid);
        process.details.cgroup = Some(cgroup.into());
        world.engine.host().add(process);
    };
    // With a subordinate uid, a process stays in the slice of its user.
    for (pid, uid) in [(100, 1000), (101, 100_001), (102, 100_002)] {
        add(pid, uid, "/user.slice/user-1000.slice/session-1.scope");
    }
    add(200, 1001, "/user.slice/user-1001.slice/session-2.scope");
    add(300, 33, "/system.slice/web.service");
    world.fire("calm");
    let values = [100, 101, 102, 200, 300].map(|pid| world.nice(pid)[0]);
    assert_eq!(values, [0, 0, 0, 15, 15]);
    let records = world.engine.records().into_iter();
    let refused: Vec<String> = records
        .filter(|record| record.decision == Some(Decision::TooManyMatches))
        .map(|record| record.reason)
        .collect();
    assert_eq!(
        refused,
        ["5 processes match, max_matches is 2; left out: 3 of uid 1000"]
    );
    world.pass(65);
    assert_eq!(
        world.decided("calm", Decision::TooManyMatches),
        1.0,
        "a look is no news"
    );
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::TooManyMatches), 2.0, "a repeat is");
    world.add(400, 1);
    world.add(401, 1);
    world.pass(20);
    assert_eq!(
        world.decided("calm", Decision::TooManyMatches),
        2.0,
        "the processes of an unknown user are left out as well"
    );
}

#[test]
fn lease_on_a_value_of_another_lease_says_so() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("more", "nice 15")]));
    world.add(100, 1);
    let words = |world: &World| -> Vec<(Option<Outcome>, String)> {
        let records = world.engine.records().into_iter();
        let outcomes = records.filter(|record| record.outcome.is_some());
        outcomes.map(|record| (record.outcome, record.reason)).collect()
    };
    world.fire("calm");
    world.fire("more");
    assert_eq!(words(&world)[1], (Some(Outcome::AlreadySet), String::new()));
    world.resolve("more");
    assert_eq!(world.nice(100), [15]);
    let (outcome, reason) = words(&world).pop().unwrap();
    assert_eq!(outcome, Some(Outcome::Restored));
    assert_eq!(reason, "an older lease holds the same value");
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn without_a_ledger_leases_are_undone_and_none_are_added() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("more", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    let lock = world.lock_ledger();
    let alert = alert("more", Status::Firing);
    assert!(world.engine.take(std::slice::from_ref(&alert), Instant::now()).is_err());
    assert_eq!(world.nice(100), [15]);
    assert_eq!(world.decided("more", Decision::Ledger), 1.0);
    assert_eq!(world.engine.release(None, &OperatorRequest::example()), 1);
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

/// The alert that `name` fires with, or resolves.
fn alert(name: &str, status: Status) -> Alert {
    let labels: crate::alert::Labels = [
        ("alertname".to_owned(), name.to_owned()),
        ("instance".to_owned(), "web1:9100".to_owned()),
    ]
    .into();
    let starts_at = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    Alert {
        fingerprint: fingerprint(&labels),
        labels,
        annotations: Default::default(),
        generator_url: None,
        status,
        starts_at,
        ends_at: (status == Status::Resolved).then(|| starts_at + Duration::from_secs(60)),
        source: Source::Alertmanager,
    }
}

impl World {
    fn lock_ledger(&self) -> rusqlite::Connection {
        let ledger = self.directory.path().join(crate::ledger::files::FILE_NAME);
        let lock = rusqlite::Connection::open(&ledger).unwrap();
        lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
        lock
    }
}

#[test]
fn a_resolve_that_shares_a_turn_with_its_firing_ends_it_durably() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    let both = [alert("calm", Status::Firing), alert("calm", Status::Resolved)];
    world.engine.take(&both, Instant::now()).unwrap();
    assert_eq!(world.nice(100), [0]);
    world.crash_and_restart();
    assert!(world.engine.ledger().episodes.is_empty());
    world.add(200, 1);
    world.pass(20);
    assert_eq!(world.nice(200), [0]);
}

#[test]
fn alert_that_ends_in_its_first_delivery_sends_no_signal() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    let both = [alert("end", Status::Firing), alert("end", Status::Resolved)];
    world.engine.take(&both, Instant::now()).unwrap();
    assert_eq!(world.signals(), []);
    world.send("end", Status::Firing, 100, Source::Alertmanager);
    world.pass(11);
    let both = [(100, Signal::SIGTERM), (100, Signal::SIGKILL)];
    assert_eq!(world.signals(), both, "the next alert finds a victim");
}

#[test]
fn unwritable_ledger_does_not_make_the_engine_spin() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.fire("end");
    let _lock = world.lock_ledger();
    world.engine.host().advance(Duration::from_secs(11));
    world.engine.tick();
    assert_eq!(world.signals().len(), 1);
    assert!(world.engine.time_until_due().unwrap() >= Duration::from_secs(1));
}

#[test]
fn a_return_to_dry_run_releases_and_does_no_more() {
    let steps = "nice 15; wait 10; signal TERM";
    for is_reload in [true, false] {
        let mut world = world(policy(vec![example("end", steps)]));
        world.add(100, 1);
        world.fire("end");
        world.policy.enforce = false;
        if is_reload {
            let policy = world.policy.clone();
            world.engine.reload(policy);
        } else {
            world.crash_and_restart();
        }
        assert_eq!(world.nice(100), [0]);
        world.pass(60);
        assert_eq!(world.signals(), []);
        world.fire("end");
        assert_eq!(world.decided("end", Decision::DryRun), 1.0, "judged again, in dry-run");
    }
}

#[test]
fn a_rule_that_comes_back_acts_on_an_alert_that_still_fires() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.reload(policy(vec![]));
    assert_eq!(world.nice(100), [0]);
    world.engine.reload(policy(vec![example("calm", "nice 15")]));
    world.fire("calm");
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn changed_steps_apply_to_new_targets_of_all_open_episodes() {
    let mut world = world(policy(vec![example("end", "nice 15; wait 10; nice 19")]));
    world.add(100, 1);
    world.fire("end");
    world
        .engine
        .reload(policy(vec![example("end", "nice 5; wait 99; signal KILL")]));
    let mut other = alert("end", Status::Firing);
    other.labels.insert("severity", "critical");
    other.fingerprint = fingerprint(&other.labels);
    world.engine.take(&[other], Instant::now()).unwrap();
    world.pass(30);
    assert_eq!(
        world.nice(100),
        [5],
        "the other alert opens an episode with the changed rule"
    );
    world.fire("end");
    world.pass(30);
    assert_eq!(
        (world.signals(), world.nice(100)),
        (vec![], vec![5]),
        "the target of the former steps gets no further one of them"
    );
}

#[test]
fn steps_changed_while_the_daemon_was_down_are_not_continued() {
    let mut world = world(policy(vec![example(
        "end",
        "nice 15; wait 10; nice 19; wait 10; nice 18",
    )]));
    world.add(100, 1);
    world.fire("end");
    for steps in ["nice 1; wait 9; signal KILL", "nice 1"] {
        world.policy = policy(vec![example("end", steps)]);
        world.crash_and_restart();
        world.pass(60);
        assert_eq!((world.signals(), world.nice(100)), (vec![], vec![15]));
    }
    world.resolve("end");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn an_end_of_all_times_is_no_fault() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    let mut late = alert("calm", Status::Resolved);
    late.ends_at = Some(jiff::Timestamp::MAX);
    late.starts_at = jiff::Timestamp::MAX;
    world.engine.take(&[late], Instant::now()).unwrap();
    world.engine.tick();
    world.add(100, 1);
    let mut future = alert("calm", Status::Resolved);
    future.labels.insert("severity", "warning");
    future.fingerprint = fingerprint(&future.labels);
    future.ends_at = Some(jiff::Timestamp::MAX);
    world.engine.take(&[future.clone()], Instant::now()).unwrap();
    future.status = Status::Firing;
    future.starts_at = world.engine.host().now.wall + Duration::from_secs(1);
    world.pass(late_delivery::LATE.as_secs());
    world.engine.take(&[future], Instant::now()).unwrap();
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn dry_run_rule_does_not_end_the_wait_of_a_real_one() {
    let mut warm_up = example("rehearsal", "signal TERM");
    warm_up.dry_run = true;
    let mut real = example("end", TERM_THEN_KILL);
    real.limit = 5;
    real.cooldown = Duration::ZERO;
    let mut world = world(policy(vec![real, warm_up]));
    world.add(100, 1);
    world.add(200, 1);
    world.ignores_sigterm(100);
    world.send("end", Status::Firing, 0, Source::Local);
    world.fire("rehearsal");
    world.pass(8);
    world.engine.host().advance(Duration::from_secs(8));
    world.engine.tick();
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn a_rehearsal_that_was_cut_short_does_not_block_the_next() {
    let mut rule = example("end", TERM_THEN_KILL);
    rule.dry_run = true;
    rule.cooldown = Duration::ZERO;
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    for start in [0, 1000] {
        world.pass(1);
        world.send("end", Status::Firing, start, Source::Alertmanager);
        world.pass(2);
        world.send("end", Status::Resolved, start, Source::Alertmanager);
    }
    assert_eq!(
        world.count("evenkeel_actions_total", &["end", "signal", "dry_run"]),
        2.0
    );
}

#[test]
fn a_restart_does_not_send_sigterm_again() {
    let mut world = world(policy(vec![example(
        "end",
        "nice 15; signal TERM; wait 10; signal KILL",
    )]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.fire("end");
    world.restart();
    world.fire("end");
    world.pass(9);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world.pass(2);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn second_episode_goes_on_with_survivors_of_the_first() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.fire("end");
    world.resolve("end");
    world.send("end", Status::Firing, 1000, Source::Alertmanager);
    world.pass(11);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn target_that_stops_matching_does_not_pass_its_step() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    let rename = |host: &mut FakeHost| host.processes.get_mut(&100).unwrap().process.name = "other".into();
    world.engine.host().hooks.meanwhile.push_back(rename);
    world.fire("end");
    assert_eq!(world.signals(), []);
    world.engine.host().processes.get_mut(&100).unwrap().process.name = "burner".into();
    world.pass(20);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    assert_eq!(world.count("evenkeel_budget_remaining", &[]), 2.0);
    world.pass(11);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
}

#[test]
fn a_wait_counts_from_the_signal_however_long_the_commit_took() {
    let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    let slow = |host: &mut FakeHost| host.advance(Duration::from_secs(6));
    world.engine.host().hooks.meanwhile.push_back(slow);
    world.fire("end");
    world.pass(9);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world.pass(2);
    assert_eq!(world.signals().len(), 2);
}

#[test]
fn program_without_handler_gets_no_undo_signal() {
    let mut rule = example("quiet", "nice 1");
    rule.actions = vec![crate::rule::Step::Signal(crate::step::Send {
        signal: Signal::SIGUSR1,
        undo: Some(Signal::SIGUSR2),
    })];
    let both = 1 << (Signal::SIGUSR1 as u32 - 1) | 1 << (Signal::SIGUSR2 as u32 - 1);
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    fn details(host: &mut FakeHost) -> &mut crate::process::Details {
        &mut host.processes.get_mut(&100).unwrap().process.details
    }
    details(world.engine.host()).caught_signals = Some(both);
    world
        .engine
        .host()
        .hooks
        .meanwhile
        .push_back(|host| details(host).caught_signals = Some(0));
    world.fire("quiet");
    assert_eq!(world.signals(), [], "it was replaced at the last moment");
    world.resolve("quiet");
    details(world.engine.host()).caught_signals = Some(both);
    world.send("quiet", Status::Firing, 1000, Source::Alertmanager);
    details(world.engine.host()).caught_signals = Some(0);
    world.send("quiet", Status::Resolved, 1000, Source::Alertmanager);
    assert_eq!(world.signals(), [(100, Signal::SIGUSR1)]);
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn ledger_that_opens_late_is_adopted() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("more", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    let lock = world.lock_ledger();
    world.crash_and_restart();
    assert_eq!(world.count("evenkeel_ledger_writable", &[]), 0.0);
    lock.execute_batch("ROLLBACK").unwrap();
    let more = alert("more", Status::Firing);
    drop(world.engine.take(&[more], Instant::now()));
    world.pass(2);
    world.resolve("calm");
    world.resolve("more");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn a_commit_that_fails_shows_until_one_works() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    let lock = world.lock_ledger();
    assert!(
        world
            .engine
            .take(&[alert("calm", Status::Firing)], Instant::now())
            .is_err()
    );
    assert_eq!(world.count("evenkeel_ledger_writable", &[]), 0.0);
    lock.execute_batch("ROLLBACK").unwrap();
    world.pass(2);
    assert_eq!(world.count("evenkeel_ledger_writable", &[]), 1.0);
}

/// A child of `parent` that is born now with its nice value.
fn fork(host: &mut FakeHost, parent: i32, pid: i32, name: &str) -> Identity {
    let mut child = Process::example(pid, name);
    (child.parent, child.age) = (parent, Duration::ZERO);
    child.nice = host.processes[&parent].threads[&parent].nice();
    child.details.exe = Some(format!("/usr/bin/{name}"));
    host.add(child)
}

/// Also for alerts of the name `calm`.
fn along(name: &str, steps: &str) -> Rule {
    Rule {
        matchers: example("calm", "nice 1").matchers,
        ..example(name, steps)
    }
}

#[test]
fn step_that_fails_halfway_is_reverted() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 3);
    world.engine.host().denied_threads.insert(101);
    world.fire("calm");
    assert_eq!(world.nice(100), [0, 0, 0]);
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn partly_restored_threads_are_retried() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 3);
    world.fire("calm");
    world.engine.host().denied_threads.insert(101);
    world.resolve("calm");
    assert_eq!(world.nice(100), [0, 15, 0]);
    world.engine.host().denied_threads.clear();
    world.pass(16);
    assert_eq!(world.nice(100), [0, 0, 0]);
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn children_started_under_the_first_lease_are_restored() {
    let mut world = world(policy(vec![example("calm", "nice 10"), example("more", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    fork(world.engine.host(), 100, 200, "child");
    world.pass(1);
    world.fire("more");
    world.resolve("calm");
    assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![0]));
    world.resolve("more");
    assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]));
}

#[test]
fn child_that_is_a_target_gets_back_the_value_of_its_parent() {
    for order in [["calm", "more"], ["more", "calm"]] {
        let mut second = example("more", "nice 10");
        let pattern = crate::process::selector::Pattern::fixed("child").unwrap();
        second.target_selector = TargetSelector::Processes(Selector {
            conditions: vec![crate::process::selector::Condition::Name(pattern)],
        });
        let mut world = world(policy(vec![example("calm", "nice 15"), second]));
        world.add(100, 1);
        world.fire("calm");
        world.pass(1);
        fork(world.engine.host(), 100, 200, "child");
        world.fire("more");
        assert_eq!(world.nice(200), [10]);
        order.iter().for_each(|name| world.resolve(name));
        assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]), "{order:?}");
    }
}

#[test]
fn child_with_the_inherited_value_is_held_by_its_own_rule() {
    let mut rule = example("calm", "nice 15");
    rule.limit = 2;
    let mut world = world(policy(vec![rule]));
    let parent = world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    fork(world.engine.host(), 100, 200, "burner");
    world.pass(16);
    world.engine.host().processes.get_mut(&200).unwrap().process.parent = 1;
    world.reap(parent);
    world.resolve("calm");
    assert_eq!(world.nice(200), [0], "though its parent was gone by then");
}

#[test]
fn children_of_a_reused_pid_are_strangers() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    let host = world.engine.host();
    let mut stranger = Process::example(100, "burner");
    stranger.nice = 15;
    stranger.age = Duration::ZERO;
    host.add(stranger);
    fork(host, 100, 200, "child");
    world.resolve("calm");
    assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![15]));
}

#[test]
fn missing_processors_do_not_stop_a_restored_mask() {
    let mut rule = example("calm", "nice 1");
    let wanted = Value::Affinity("1-9".parse().unwrap());
    rule.actions = vec![crate::rule::Step::Set(crate::step::Change::To(wanted))];
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    let mask =
        |world: &mut World| world.engine.host().processes[&100].threads[&100].values[&Knob::Affinity].to_string();
    world.fire("calm");
    assert_eq!(mask(&mut world), "1-3");
    world.resolve("calm");
    assert_eq!(mask(&mut world), "0-3");
}

/// Processors are plugged in while a mask is held, also over a restart: who had all has the new ones as well, and who had
/// some has exactly those.
#[test]
fn all_processors_are_restored_as_all_and_some_as_those() {
    let to_first = || {
        let mut rule = example("calm", "nice 1");
        let wanted = Value::Affinity("0".parse().unwrap());
        rule.actions = vec![crate::rule::Step::Set(crate::step::Change::To(wanted))];
        rule.limit = 2;
        rule
    };
    for is_restarted in [false, true] {
        let mut world = world(policy(vec![to_first()]));
        world.add(100, 2);
        world.add(200, 1);
        let threads = &mut world.engine.host().processes.get_mut(&200).unwrap().threads;
        let own = Value::Affinity("1-2".parse().unwrap());
        threads.get_mut(&200).unwrap().put(own);
        let masks = |world: &mut World| {
            let processes = &world.engine.host().processes;
            let threads = processes.values().flat_map(|found| found.threads.values());
            threads
                .map(|thread| thread.values[&Knob::Affinity].to_string())
                .collect::<Vec<_>>()
        };
        world.fire("calm");
        assert_eq!(masks(&mut world), ["0", "0", "0"]);
        world.engine.host().cpus = 8;
        if is_restarted {
            world.crash_and_restart();
        }
        world.resolve("calm");
        assert_eq!(masks(&mut world), ["0-7", "0-7", "1-2"], "restarted: {is_restarted}");
        assert!(world.engine.ledger().leases.is_empty());
    }
}

#[test]
fn pending_stop_is_undone() {
    let mut world = world(policy(vec![example("calm", "freeze true")]));
    world.add(100, 1);
    world.engine.host().processes.get_mut(&100).unwrap().process.state = 'D';
    world.fire("calm");
    assert!(world.engine.host().processes[&100].is_stop_pending);
    world.resolve("calm");
    assert!(!world.engine.host().processes[&100].is_stop_pending);
}

#[test]
fn interrupted_step_waits_for_confirmation_and_uses_the_rule() {
    for name in ["burner", "postgres"] {
        let mut world = world(policy(vec![example("calm", "nice 15")]));
        world.add(100, 2);
        // Dies after one of two threads was set.
        let mut at = 0;
        while world.nice(100) != [15, 0] {
            world
                .engine
                .host()
                .processes
                .get_mut(&100)
                .unwrap()
                .threads
                .values_mut()
                .for_each(|thread| thread.put(Value::Nice(0)));
            std::fs::remove_dir_all(world.directory.path()).unwrap();
            world.crash_and_restart();
            crate::host::fault::arm(Some(at));
            let alert = [alert("calm", Status::Firing)];
            let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                world.engine.take(&alert, Instant::now())
            }));
            assert!(killed.is_err(), "no fault point left");
            at += 1;
        }
        world.engine.host().processes.get_mut(&100).unwrap().process.name = name.into();
        world.crash_and_restart();
        world.pass(30);
        assert_eq!(world.nice(100), [0, 0], "no source has confirmed the alert since");
        world.fire("calm");
        let expected = if name == "burner" { [15, 15] } else { [0, 0] };
        assert_eq!(world.nice(100), expected);
        world.resolve("calm");
        assert_eq!(world.nice(100), [0, 0]);
    }
}

#[test]
fn release_by_hand_outlasts_a_crash() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    for after in 0.. {
        crate::host::fault::arm(Some(after));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.engine.release(None, &OperatorRequest::example())
        }));
        crate::host::fault::arm(None);
        world.crash_and_restart();
        if !world
            .engine
            .ledger()
            .episodes
            .values()
            .all(|episode| episode.excluded.is_empty())
        {
            assert_eq!(world.nice(100), [0]);
        }
        if killed.is_ok() {
            return;
        }
    }
}

#[test]
fn a_false_word_of_an_end_is_not_believed() {
    let mut rule = example("end", TERM_THEN_KILL);
    rule.limit = 5;
    rule.cooldown = Duration::ZERO;
    let mut world = world(policy(vec![rule]));
    let first = world.add(100, 1);
    world.add(200, 1);
    world.ignores_sigterm(100);
    world.send("end", Status::Firing, 0, Source::Local);
    world.engine.exited(first);
    world.pass(8);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
}

#[test]
fn two_rules_on_one_knob_are_undone_in_any_order() {
    for order in [["calm", "more"], ["more", "calm"]] {
        let mut world = world(policy(vec![example("calm", "nice 10"), along("more", "nice 15")]));
        world.add(100, 2);
        world.fire("calm");
        assert_eq!(world.nice(100), [15, 15]);
        for (index, name) in order.iter().enumerate() {
            let left = world.engine.ledger().leases.values().find(|lease| lease.rule == *name);
            let id = left.map(|lease| lease.id);
            assert_eq!(world.engine.release(id, &OperatorRequest::example()), 1);
            if index == 0 {
                let stays = if *name == "calm" { 15 } else { 10 };
                assert_eq!(world.nice(100), [stays, stays]);
            }
        }
        assert_eq!(world.nice(100), [0, 0]);
    }
}

#[test]
fn cpu_usage_is_always_measured_and_awaited_after_a_start() {
    let mut rule = example("calm", "nice 15");
    rule.order_by.key = crate::rule::OrderKey::Cpu;
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.engine.host().advance(Duration::from_secs(1));
    world.add(200, 1);
    let burn = |world: &mut World| {
        world.engine.host().processes.get_mut(&200).unwrap().process.cpu_ticks += 100;
        world.pass(1);
    };
    for start in 0..30 {
        world.send("calm", Status::Firing, start * 1000, Source::Alertmanager);
        for _ in 0..17 {
            burn(&mut world);
        }
        assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![15]), "start {start}");
        world.send("calm", Status::Resolved, start * 1000, Source::Alertmanager);
    }
}

#[test]
fn target_with_one_of_two_leases_keeps_its_place() {
    let mut rule = example("calm", "nice 15; wait 10; freeze true");
    rule.hold = Duration::from_secs(40);
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.engine.host().advance(Duration::from_secs(1));
    world.add(200, 1);
    world.fire("calm");
    for _ in 0..100 {
        world.pass(1);
        let held: std::collections::BTreeSet<_> = world
            .engine
            .ledger()
            .leases
            .values()
            .map(|lease| lease.target)
            .collect();
        assert!(held.len() <= 1);
    }
}

#[test]
fn silent_alert_acts_on_no_new_target_until_it_repeats() {
    let mut rule = example("calm", "nice 15");
    rule.hold = Duration::from_secs(40);
    rule.limit = 9;
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(60);
    world.add(200, 1);
    world.pass(60);
    assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]));
    world.fire("calm");
    assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![15]));
}

#[test]
fn step_has_one_audit_line_wherever_the_daemon_dies() {
    for after in 0.. {
        let mut world = world(policy(vec![example("calm", "nice 15")]));
        world.add(100, 2);
        crate::host::fault::arm(Some(after));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.fire("calm")));
        crate::host::fault::arm(None);
        world.crash_and_restart();
        world.fire("calm");
        world.resolve("calm");
        assert_eq!(world.nice(100), [0, 0]);
        for outcome in [Outcome::Applied, Outcome::Restored] {
            let records = world.engine.records();
            let lines = records.iter().filter(|record| record.outcome == Some(outcome)).count();
            assert_eq!(lines, 1, "{outcome}, killed at point {after}: {records:#?}");
        }
        if killed.is_ok() {
            assert!(after > 3, "hardly a fault point");
            return;
        }
    }
}

#[test]
fn an_alert_that_fires_during_a_pause_is_answered_when_it_ends() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.engine.pause(true, &OperatorRequest::example());
    world.fire("calm");
    world.pass(60);
    assert_eq!(
        (world.nice(100), world.decided("calm", Decision::Paused)),
        (vec![0], 1.0)
    );
    world.engine.pause(false, &OperatorRequest::example());
    world.pass(16);
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn a_storm_of_repeats_is_not_judged_each_time() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.fire("calm");
    world.add(100, 1);
    world.fire("calm");
    assert_eq!(world.nice(100), [0], "the host was looked at in this very moment");
    world.engine.host().advance(Duration::from_secs(1));
    world.fire("calm");
    assert_eq!(world.nice(100), [15]);
}
