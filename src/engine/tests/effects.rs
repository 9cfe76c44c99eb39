//! Tests of the effect of irreversible actions: victims that survive, block in the kernel or free nothing, and the
//! breaker.

use super::*;
use crate::rule::OrderBy;

const MIB: u64 = 1 << 20;
/// Longer than a victim has to end, its steps included.
const LONG: u64 = 45;

fn killer(name: &str, steps: &str) -> Rule {
    Rule {
        limit: 9,
        cooldown: Duration::from_secs(1),
        ..example(name, steps)
    }
}

fn generous(rules: Vec<Rule>) -> Policy {
    Policy {
        budget: Budget {
            final_steps: 99,
            commands: Budget::default().commands,
            per: Duration::from_secs(300),
        },
        ..policy(rules)
    }
}

impl World {
    fn hangs(&mut self, pid: i32) {
        self.engine.host().set_state(pid, 'D');
    }

    /// The end of everybody who is not there any more, told as the real host tells it.
    fn bury(&mut self, targets: &[Identity]) {
        for target in targets {
            self.engine.exited(*target);
        }
        self.engine.tick();
    }

    fn breaker(&self, rule: &str) -> f64 {
        self.count("evenkeel_breaker_open", &[rule])
    }

    fn effects(&self) -> Vec<(i32, Outcome)> {
        let records = self.engine.records();
        let effects = records.iter().filter(|record| record.is_effect);
        effects
            .map(|record| {
                (
                    record.target.as_ref().unwrap().0.pid().unwrap(),
                    record.outcome.unwrap(),
                )
            })
            .collect()
    }
}

#[test]
fn victim_stuck_in_the_kernel_is_not_retried_and_blocks_none() {
    let mut other = killer("other", "signal KILL");
    other.matchers = example("end", "nice 1").matchers;
    other.limit = 1;
    let mut world = world(generous(vec![killer("end", TERM_THEN_KILL), other]));
    for pid in [100, 200, 300] {
        world.add(pid, 1);
        world.engine.host().advance(Duration::from_secs(1));
    }
    world.hangs(100);
    world.send("end", Status::Firing, 0, Source::Local);
    world.pass(LONG);
    let to_first = |signals: Vec<(i32, Signal)>| -> Vec<Signal> {
        let to_it = signals.into_iter().filter(|(pid, _)| *pid == 100);
        to_it.map(|(_, signal)| signal).collect()
    };
    assert_eq!(to_first(world.signals()), [Signal::SIGTERM, Signal::SIGKILL]);
    let ended = |world: &mut World, pid| !world.engine.host().processes.contains_key(&pid);
    assert!(
        ended(&mut world, 200) && ended(&mut world, 300),
        "{:?}",
        world.signals()
    );
    world.send("end", Status::Resolved, 0, Source::Local);
    world.send("end", Status::Firing, 1000, Source::Local);
    world.add(400, 1);
    world.pass(LONG);
    assert!(ended(&mut world, 400));
    assert_eq!(to_first(world.signals()).len(), 2, "not in a later episode either");
    world.engine.host().set_state(100, 'S');
    assert!(ended(&mut world, 100), "the signal was pending");
}

#[test]
fn victim_that_outlives_its_time_is_reported_once() {
    let mut world = world(generous(vec![killer("end", "signal TERM")]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.send("end", Status::Firing, 0, Source::Local);
    world.pass(29);
    assert_eq!(world.effects(), []);
    world.crash_and_restart();
    world.pass(2);
    world.crash_and_restart();
    world.pass(LONG);
    assert_eq!(world.effects(), [(100, Outcome::NoEffect)]);
    assert_eq!(
        world.count("evenkeel_actions_total", &["end", "signal", "no_effect"]),
        1.0
    );
    world.add(200, 1);
    world.pass(LONG);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (200, Signal::SIGTERM)]);
}

#[test]
fn kill_is_reported_with_the_memory_it_freed() {
    let mut rule = killer("end", "signal KILL");
    rule.order_by = OrderBy {
        key: crate::rule::OrderKey::Memory,
        reverse: false,
    };
    let mut world = world(generous(vec![rule]));
    world.engine.host().memory_bytes = Some(2000 * MIB);
    let target = world.add(100, 1);
    world
        .engine
        .host()
        .processes
        .get_mut(&100)
        .unwrap()
        .process
        .resident_bytes = 500 * MIB;
    world.send("end", Status::Firing, 0, Source::Local);
    world.bury(&[target]);
    let records = world.engine.records();
    let effect = records.iter().find(|record| record.is_effect).unwrap();
    assert_eq!(effect.outcome, Some(Outcome::Gone));
    assert!(
        effect
            .reason
            .contains("it used 500 MiB, and 500 MiB more are available"),
        "{effect:?}"
    );
}

#[test]
fn three_kills_without_effect_open_the_breaker_for_good() {
    let mut world = world(generous(vec![
        killer("end", "signal TERM"),
        killer("fine", "signal KILL"),
    ]));
    assert_eq!(world.breaker("end"), 0.0);
    for pid in [100, 200, 300, 400] {
        world.add(pid, 1);
        world.ignores_sigterm(pid);
        world.engine.host().advance(Duration::from_secs(1));
    }
    world.send("end", Status::Firing, 0, Source::Local);
    for _ in 0..4 * LONG {
        world.pass(1);
        let is_open = world.effects().len() == 3;
        assert_eq!(
            world.breaker("end"),
            f64::from(u8::from(is_open)),
            "{:?}",
            world.effects()
        );
    }
    assert_eq!(world.signals().len(), 3);
    assert!(world.decided("end", Decision::Breaker) >= 1.0);
    world.crash_and_restart();
    world.pass(LONG);
    assert_eq!((world.breaker("end"), world.breaker("fine")), (1.0, 0.0), "durable");
    assert!(!world.engine.close_breaker("fine", &OperatorRequest::example()));
    assert!(world.engine.close_breaker("end", &OperatorRequest::example()));
    let breaker = world.engine.ledger().breakers.get("end").copied();
    assert_eq!(
        breaker.unwrap_or_default(),
        Default::default(),
        "it counts from nothing again"
    );
    world.pass(LONG);
    assert_eq!(world.signals().last(), Some(&(400, Signal::SIGTERM)));
}

#[test]
fn victim_that_exits_late_is_not_counted_again() {
    let mut world = world(generous(vec![killer("end", "signal TERM")]));
    let target = world.add(100, 1);
    world.ignores_sigterm(100);
    world.send("end", Status::Firing, 0, Source::Local);
    world.pass(LONG);
    assert_eq!(world.effects(), [(100, Outcome::NoEffect)]);
    let failures = |world: &World| {
        world
            .engine
            .ledger()
            .breakers
            .get("end")
            .map(|breaker| breaker.failures)
    };
    assert_eq!(failures(&world), Some(1));
    world.engine.host().processes.remove(&100);
    world.bury(&[target]);
    assert_eq!(
        failures(&world),
        Some(1),
        "an exit before the step is no effect of the step"
    );
}

#[test]
fn effect_in_between_resets_the_count() {
    let mut world = world(generous(vec![killer("end", "signal TERM")]));
    let mut targets = Vec::new();
    for (pid, ignores) in [(100, true), (200, true), (300, false), (400, true), (500, true)] {
        targets.push(world.add(pid, 1));
        if ignores {
            world.ignores_sigterm(pid);
        }
        world.engine.host().advance(Duration::from_secs(1));
    }
    world.send("end", Status::Firing, 0, Source::Local);
    for _ in 0..6 {
        world.pass(LONG);
        let host = world.engine.host();
        let gone: Vec<Identity> = targets
            .iter()
            .filter(|id| !host.processes.contains_key(&id.pid))
            .copied()
            .collect();
        world.bury(&gone);
    }
    assert_eq!(world.signals().len(), 5);
    assert_eq!(world.breaker("end"), 0.0);
}

#[test]
fn kills_that_free_no_memory_open_the_breaker() {
    for (order, expected) in [(crate::rule::OrderKey::Memory, 1.0), (crate::rule::OrderKey::Age, 0.0)] {
        let mut rule = killer("end", "signal KILL");
        rule.order_by.key = order;
        let mut world = world(generous(vec![rule]));
        let mut targets = Vec::new();
        for pid in [100, 200, 300] {
            targets.push(world.add(pid, 1));
            world
                .engine
                .host()
                .processes
                .get_mut(&pid)
                .unwrap()
                .process
                .resident_bytes = 500 * MIB;
        }
        world.engine.host().memory_bytes = Some(5000 * MIB);
        world.send("end", Status::Firing, 0, Source::Local);
        for _ in 0..4 * LONG {
            world.pass(1);
            let host = world.engine.host();
            let (living, gone): (Vec<_>, Vec<_>) = targets.iter().partition(|id| host.processes.contains_key(&id.pid));
            // Another program takes it all at once.
            *host.memory_bytes.as_mut().unwrap() -= gone.len() as u64 * 500 * MIB;
            world.bury(&gone);
            targets = living;
        }
        assert!(targets.is_empty());
        assert_eq!(world.breaker("end"), expected, "{order:?}");
    }
}

#[test]
fn possibly_unsent_signal_is_repeated_before_sigkill() {
    for after in 0.. {
        let mut world = world(policy(vec![example("end", TERM_THEN_KILL)]));
        world.add(100, 1);
        world.ignores_sigterm(100);
        crate::host::fault::arm(Some(after));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.fire("end")));
        crate::host::fault::arm(None);
        world.crash_and_restart();
        world.fire("end");
        world.pass(9);
        let signals = world.signals();
        assert!(
            !signals.is_empty() && signals.iter().all(|sent| *sent == (100, Signal::SIGTERM)),
            "killed at point {after}: {signals:?}"
        );
        world.pass(7);
        assert_eq!(
            world.signals().last(),
            Some(&(100, Signal::SIGKILL)),
            "killed at point {after}"
        );
        if killed.is_ok() {
            assert_eq!(world.signals().len(), 2);
            return;
        }
    }
}

#[test]
fn rule_without_ledger_kills_and_records_it_later() {
    let mut allowed = example("end", "nice 15; signal TERM; wait 10; signal KILL");
    allowed.without_ledger = true;
    let mut world = world(policy(vec![allowed, example("calm", "nice 5")]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    let lock = world.lock_ledger();
    let alerts = [alert("calm", Status::Firing), alert("end", Status::Firing)];
    assert!(
        world.engine.take(&alerts, Instant::now()).is_err(),
        "Alertmanager is to come again"
    );
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    assert_eq!(world.nice(100), [0], "what would have to be undone is not done");
    assert_eq!(world.decided("end", Decision::Ledger), 1.0);
    assert_eq!(world.decided("calm", Decision::Ledger), 1.0);
    assert!(world.engine.take(&alerts, Instant::now()).is_err());
    world.pass(12);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM), (100, Signal::SIGKILL)]);
    lock.execute_batch("ROLLBACK").unwrap();
    world.pass(2);
    let records = world.engine.records();
    let applied = records.iter().filter(|record| record.outcome == Some(Outcome::Applied));
    assert_eq!(applied.count(), 2, "{records:#?}");
    world.crash_and_restart();
    assert_eq!(world.engine.ledger().victims[0].signals, [15, 9]);
    assert!(world.engine.ledger().victims[0].gone_at.is_some());
}

#[test]
fn repeats_renew_leases_while_the_ledger_cannot_be_written() {
    let mut rule = example("calm", "nice 15");
    rule.hold = Duration::from_secs(40);
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.fire("calm");
    let _lock = world.lock_ledger();
    for _ in 0..7 {
        world.pass(11);
        let _ = world.engine.take(&[alert("calm", Status::Firing)], Instant::now());
    }
    assert_eq!(world.nice(100), [15]);
    world.pass(41);
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn resolve_beside_its_firing_counts_without_a_ledger() {
    let mut allowed = example("end", "signal TERM");
    allowed.without_ledger = true;
    let mut world = world(policy(vec![allowed]));
    world.add(100, 1);
    let _lock = world.lock_ledger();
    let both = [alert("end", Status::Firing), alert("end", Status::Resolved)];
    assert!(world.engine.take(&both, Instant::now()).is_err());
    assert_eq!(world.signals(), []);
}

/// A rule that ends the largest, on a host where process 100 got SIGTERM, lives on, and its alert resolved before SIGKILL.
fn interrupted(steps: &str) -> World {
    let mut rule = killer("end", steps);
    rule.order_by = OrderBy {
        key: crate::rule::OrderKey::Memory,
        reverse: false,
    };
    let mut world = world(generous(vec![rule]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.send("end", Status::Firing, 0, Source::Local);
    world.pass(5);
    world.send("end", Status::Resolved, 0, Source::Local);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    world
}

fn add_larger(world: &mut World, pid: i32) -> Identity {
    let target = world.add(pid, 1);
    let added = world.engine.host().processes.get_mut(&pid).unwrap();
    added.process.resident_bytes = 10 * MIB;
    target
}

#[test]
fn victim_of_interrupted_steps_blocks_others_for_a_time() {
    let mut world = interrupted(TERM_THEN_KILL);
    world.engine.host().processes.get_mut(&100).unwrap().process.name = "other".into();
    world.crash_and_restart();
    add_larger(&mut world, 200);
    world.send("end", Status::Firing, 1000, Source::Local);
    assert_eq!(world.signals().len(), 1, "the one before may still be ending");
    world.pass(LONG);
    assert_eq!(world.signals()[1], (200, Signal::SIGTERM), "{:?}", world.signals());
    assert!(world.engine.ledger().breakers.is_empty(), "no failure of the rule");
    assert_eq!(world.effects()[0], (100, Outcome::Cancelled));
}

#[test]
fn victim_of_interrupted_steps_that_exits_is_an_effect() {
    let mut world = interrupted(TERM_THEN_KILL);
    let target = world.engine.host().processes[&100].process.identity;
    world.engine.host().processes.remove(&100);
    world.bury(&[target]);
    assert_eq!(world.effects(), [(100, Outcome::Gone)]);
}

#[test]
fn next_episode_goes_on_with_interrupted_steps() {
    let mut world = interrupted("signal TERM; wait 60; signal KILL");
    world.send("end", Status::Firing, 1000, Source::Local);
    world.pass(62);
    let (term, kill) = ((100, Signal::SIGTERM), (100, Signal::SIGKILL));
    assert_eq!(
        world.signals(),
        [term, kill],
        "its time to end counts from its second episode"
    );
}

#[test]
fn survivor_of_interrupted_steps_is_a_new_victim_later() {
    let mut world = interrupted(TERM_THEN_KILL);
    world.pass(LONG);
    assert_eq!(world.effects(), [(100, Outcome::Cancelled)]);
    world.send("end", Status::Firing, 1000, Source::Local);
    world.pass(12);
    let (term, kill) = ((100, Signal::SIGTERM), (100, Signal::SIGKILL));
    assert_eq!(
        world.signals(),
        [term, term, kill],
        "it is asked to end before it is made to"
    );
}

#[test]
fn victim_released_by_hand_blocks_others_for_a_time() {
    let mut world = world(generous(vec![killer(
        "end",
        "nice 5; signal TERM; wait 10; signal KILL",
    )]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.engine.host().advance(Duration::from_secs(1));
    world.add(200, 1);
    world.send("end", Status::Firing, 0, Source::Local);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    let of_first = world
        .engine
        .ledger()
        .leases
        .values()
        .find(|lease| lease.target.pid() == Some(100));
    let id = of_first.unwrap().id;
    world.engine.release(Some(id), &OperatorRequest::example());
    world.pass(2 * LONG);
    let to_first = world.signals().iter().filter(|(pid, _)| *pid == 100).count();
    assert_eq!(to_first, 1, "it was released");
    assert!(
        world.signals().contains(&(200, Signal::SIGTERM)),
        "{:?}",
        world.signals()
    );
}

/// The alert `end` with a severity.
fn of_severity(severity: &str, status: Status) -> Alert {
    let mut alert = alert("end", status);
    alert.labels.insert("severity", severity);
    alert.fingerprint = fingerprint(&alert.labels);
    alert
}

#[test]
fn orphaned_victim_of_another_alert_counts_against_the_limit() {
    for (limit, condition) in [(1, Some("holds")), (9, None)] {
        let mut rule = killer("end", TERM_THEN_KILL);
        (rule.limit, rule.condition) = (limit, condition.map(str::to_owned));
        let mut world = world(generous(vec![rule]));
        world.engine.conditions = Box::new(|_| {
            Some(Answer {
                holds: true,
                sample_at: Duration::MAX,
            })
        });
        let first = world.add(100, 1);
        let take = |world: &mut World, severity: &str, status| {
            world
                .engine
                .take(&[of_severity(severity, status)], Instant::now())
                .unwrap();
        };
        take(&mut world, "page", Status::Firing);
        world.reap(first);
        world.pass(5);
        world.add(200, 1);
        world.ignores_sigterm(200);
        take(&mut world, "info", Status::Firing);
        let both = [(100, Signal::SIGTERM), (200, Signal::SIGTERM)];
        assert_eq!(world.signals(), both);
        take(&mut world, "info", Status::Resolved);
        world.pass(2 * LONG);
        assert_eq!(world.signals(), both, "limit {limit}, while {condition:?}");
    }
}

#[test]
fn orphaned_victim_is_not_killed_beyond_cooldown_and_budget() {
    let mut rule = killer("end", TERM_THEN_KILL);
    rule.cooldown = Duration::from_secs(3600);
    let mut world = world(generous(vec![rule]));
    world.add(100, 1);
    world.ignores_sigterm(100);
    let take = |world: &mut World, severity: &str, status| {
        world
            .engine
            .take(&[of_severity(severity, status)], Instant::now())
            .unwrap();
    };
    take(&mut world, "page", Status::Firing);
    world.pass(5);
    take(&mut world, "page", Status::Resolved);
    take(&mut world, "info", Status::Firing);
    world.pass(12);
    let (term, kill) = ((100, Signal::SIGTERM), (100, Signal::SIGKILL));
    assert_eq!(
        world.signals(),
        [term, kill],
        "its own first signal is no reason to wait"
    );
}

#[test]
fn victim_of_an_unconfirmed_alert_blocks_others_for_a_bound_only() {
    let steps = "signal TERM; wait 60; signal KILL";
    let mut rule = killer("end", steps);
    rule.limit = 1;
    let mut world = world(generous(vec![rule]));
    let rename = |world: &mut World, name: &str| {
        let found = world.engine.host().processes.get_mut(&100).unwrap();
        found.process.name = name.into();
    };
    world.add(100, 1);
    world.ignores_sigterm(100);
    world.fire("end");
    rename(&mut world, "other");
    world.crash_and_restart();
    let second = add_larger(&mut world, 200);
    let other = of_severity("page", Status::Firing);
    world.engine.take(&[other], Instant::now()).unwrap();
    assert_eq!(
        world.signals(),
        [(100, Signal::SIGTERM)],
        "its alert may be confirmed soon"
    );
    world.pass(LONG);
    let both = [(100, Signal::SIGTERM), (200, Signal::SIGTERM)];
    assert_eq!(world.signals(), both);
    world.reap(second);
    rename(&mut world, "burner");
    world.pass(60);
    assert_eq!(world.signals(), both, "nothing for an alert that is not confirmed");
    world.fire("end");
    world.pass(20);
    assert_eq!(world.signals()[2..], [(100, Signal::SIGKILL)], "it goes on once it is");
}
