//! Tests with a pid that is reused between any two calls of the host: evenkeel never touches the new process.

use super::*;
use crate::host::Value;
use crate::rule::Step;
use crate::step::{Change, Send};

/// Races with `EVENKEEL_TESTS=full`.
const RACES: u32 = 100_000;
const PROCESSES: i32 = 60;
/// What is remembered of former rounds would slow down later ones.
const ROUNDS_PER_ENGINE: usize = 16;

fn racing() -> Engine<FakeHost> {
    let set = |value| Step::Set(Change::To(value));
    let mut calm = example("calm", "nice 15");
    calm.actions.extend([
        set(Value::OomScoreAdj(500)),
        set(Value::Affinity("0-1".parse().unwrap())),
        set(Value::Freeze(true)),
        Step::Signal(Send {
            signal: Signal::SIGUSR1,
            undo: Some(Signal::SIGUSR2),
        }),
    ]);
    calm.limit = PROCESSES as usize;
    let mut end = along("end", TERM_THEN_KILL);
    end.limit = PROCESSES as usize;
    let host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
    let journal = Journal::in_memory(crate::process::BootId(1)).unwrap();
    let policy = Policy {
        budget: Budget {
            final_steps: u32::MAX,
            commands: Budget::default().commands,
            per: Duration::from_secs(1),
        },
        ..policy(vec![calm, end])
    };
    let ledger = LedgerState::default();
    Engine::new(host, journal, ledger, policy, Box::new(|_| None), Telemetry::default())
}

#[test]
fn races_for_a_pid_never_reach_its_new_process() {
    let enough = share_of(RACES) as usize;
    let (mut reached, mut races) = (0, 0);
    let mut engine = racing();
    for round in 0.. {
        if round % ROUNDS_PER_ENGINE == 0 {
            races += engine.host().hooks.strangers;
            if races >= enough {
                break;
            }
            engine = racing();
        }
        let host = engine.host();
        host.hooks.reused_every = 0;
        host.advance(Duration::from_secs(60));
        host.processes.clear();
        for pid in 0..PROCESSES {
            let mut process = Process::example(1000 + pid, "burner");
            process.details.exe = Some("/usr/bin/burner".into());
            process.details.caught_signals = Some(u64::MAX);
            process.threads = 1 + pid as u32 % 2;
            host.add(process);
        }
        // Mostly early in the life of a step, now and then late.
        host.hooks.reused_every = if round % 16 == 0 { 25 } else { 2 + round % 5 };
        for status in [Status::Firing, Status::Resolved] {
            let mut alert = alert("calm", status);
            let later = jiff::SignedDuration::from_secs(1000 * round as i64);
            alert.starts_at += later;
            alert.ends_at = alert.ends_at.map(|at| at + later);
            alert.source = Source::Local;
            engine.take(&[alert], Instant::now()).unwrap();
            engine.host().advance(Duration::from_secs(11));
            engine.tick();
        }
        for host_action in engine.host().hooks.host_actions.drain(..) {
            assert_eq!(host_action.process.name, "burner", "round {round}: {host_action:?}");
            reached += 1;
        }
    }
    // Most actions find that the pid was reused, but not all, or the test would have tried nothing.
    assert!(reached > enough / 100, "hardly anything was done: {reached}");
}

/// A rule for the process whose number stands in a label, and an alert about process 100 that began so many seconds ago.
fn by_label(steps: &str, began: i64) -> (World, Alert) {
    use crate::process::pattern::Part;
    use crate::process::selector::{Condition, Pattern};
    let mut rule = example("end", steps);
    rule.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![
            Condition::Name(Pattern::fixed("burner").unwrap()),
            Condition::Pid(Pattern::Template(vec![Part::Label("pid".into())])),
        ],
    });
    let mut world = world(policy(vec![rule]));
    let mut alert = alert("end", Status::Firing);
    alert.labels = [("alertname", "end"), ("instance", "web1"), ("pid", "100")].into();
    alert.starts_at = world.engine.host().now.wall - Duration::from_secs(began as u64);
    (world, alert)
}

fn add_aged(world: &mut World, age: u64) {
    let mut process = Process::example(100, "burner");
    process.details.exe = Some("/usr/bin/burner".into());
    process.age = Duration::from_secs(age);
    world.engine.host().add(process);
}

#[test]
fn pid_from_a_label_never_means_a_later_process() {
    for (age, is_meant) in [(3600, true), (61, true), (59, true), (50, false), (1, false)] {
        for steps in ["signal TERM", "nice 15"] {
            let (mut world, alert) = by_label(steps, 60);
            add_aged(&mut world, age);
            world.engine.take(&[alert], Instant::now()).unwrap();
            let is_done = !world.signals().is_empty() || world.nice(100) == [15];
            assert_eq!(is_done, is_meant, "{age} s old, {steps}");
            let records = world.engine.records();
            let is_told = records.iter().any(|record| {
                record.decision == Some(Decision::NoTarget)
                    && record.target.as_ref().and_then(|(target, _)| target.pid()) == Some(100)
                    && record.reason.ends_with("s after the alert")
            });
            assert_eq!(is_told, !is_meant, "{records:#?}");
        }
    }
}

#[test]
fn pid_reused_while_the_alert_fires_means_no_process() {
    let (mut world, alert) = by_label("signal TERM; wait 10; signal KILL", 60);
    world.engine.take(std::slice::from_ref(&alert), Instant::now()).unwrap();
    world.pass(5);
    add_aged(&mut world, 0);
    world.engine.take(&[alert], Instant::now()).unwrap();
    world.pass(60);
    assert_eq!(world.signals(), []);
}

/// The wall clock of this host went back after the alert came: by it, everything was born before the alert.
#[test]
fn a_clock_that_is_set_back_does_not_make_a_newborn_old() {
    let (mut world, alert) = by_label("signal TERM", 0);
    world.engine.take(&[alert], Instant::now()).unwrap();
    world.engine.host().now.wall -= Duration::from_secs(7200);
    world.pass(5);
    add_aged(&mut world, 0);
    world.pass(60);
    assert_eq!(world.signals(), []);
}

#[test]
fn pid_in_the_rule_means_the_process_that_has_it() {
    use crate::process::selector::{Condition, Pattern};
    let mut rule = example("end", "signal TERM");
    rule.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![Condition::Pid(Pattern::fixed("100").unwrap())],
    });
    let mut world = world(policy(vec![rule]));
    add_aged(&mut world, 0);
    world.fire("end");
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
}
