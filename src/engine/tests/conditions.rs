//! Tests of `while`: it gates every step, and with the real own evaluation evenkeel kills no further process before a
//! sample shows the effect of the last kill.

use super::*;
use crate::app::own_evaluation::{self, OwnEvaluation, SETTLING};
use crate::app::policy::EvaluationConfig;
use crate::family::Family;
use crate::rule::OrderKey;
use crate::sense::Sampling;
use crate::watch::restart::ActiveAlerts;
use crate::watch::{LabelSet, promql};
use std::sync::Mutex;

const CONDITION: &str = "used > 70";
/// How often the collector of the metric is read.
const SLOW_INTERVAL: Duration = Duration::from_secs(60);

/// A daemon that samples each second. The metric is high as long as three processes live, and read rarely.
struct Daemon {
    world: World,
    evaluation: Arc<Mutex<(OwnEvaluation, Duration)>>,
    used: f64,
    read_at: Duration,
}

fn daemon() -> Daemon {
    let mut rule = example("end", "signal TERM");
    (rule.limit, rule.condition, rule.cooldown) = (5, Some(CONDITION.to_owned()), Duration::from_secs(1));
    let mut world = world(policy(vec![rule]));
    let orders = EvaluationConfig {
        files: Vec::new(),
        conditions: [(CONDITION.to_owned(), promql::parse(CONDITION).unwrap())].into(),
        interval: Duration::from_secs(1),
        target: LabelSet::default(),
    };
    let sampling = Sampling {
        slow_interval: SLOW_INTERVAL,
        ..Sampling::default()
    };
    let now = world.engine.host().now.boot;
    let evaluation = OwnEvaluation::new(orders, sampling, &ActiveAlerts::default(), now, SETTLING);
    let evaluation = Arc::new(Mutex::new((evaluation, now)));
    let asked = Arc::clone(&evaluation);
    world.engine.conditions = Box::new(move |text| {
        let asked = asked.lock().unwrap();
        asked.0.answer(text, asked.1)
    });
    Daemon {
        world,
        evaluation,
        used: 90.0,
        read_at: Duration::ZERO,
    }
}

impl Daemon {
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.world.engine.host().advance(Duration::from_secs(1));
            let now = self.world.engine.host().now;
            if now.boot >= self.read_at + SLOW_INTERVAL {
                self.read_at = now.boot;
                let living = self.world.engine.host().processes.len();
                self.used = if living == 3 { 90.0 } else { 50.0 };
            }
            let slow = vec![Family::gauge("used", "").value(self.used)];
            let readings = vec![("fast", now.boot, Vec::new()), ("filesystem", self.read_at, slow)];
            let sample = own_evaluation::tests::sample(now.wall, now.boot, readings);
            {
                let mut evaluation = self.evaluation.lock().unwrap();
                evaluation.0.take_sample(&sample);
                evaluation.1 = now.boot;
            }
            self.world.engine.tick();
        }
    }
}

#[test]
fn slow_metric_ends_one_process_where_one_is_right() {
    let mut daemon = daemon();
    let victims = [100, 200, 300].map(|pid| daemon.world.add(pid, 1));
    daemon.pass(2);
    daemon.world.fire("end");
    daemon.pass(5);
    assert_eq!(daemon.world.signals(), [(100, Signal::SIGTERM)]);
    daemon.world.reap(victims[0]);
    daemon.pass(180);
    assert_eq!(daemon.world.signals(), [(100, Signal::SIGTERM)]);
}

/// A world whose conditions hold as this flag says; `None` is unknown.
fn with_condition(mut rule: Rule, holds: &Arc<Mutex<Option<bool>>>, limit: usize) -> World {
    rule.condition = Some(CONDITION.to_owned());
    rule.limit = limit;
    let mut world = world(policy(vec![rule]));
    let asked = Arc::clone(holds);
    world.engine.conditions = Box::new(move |_| {
        let holds = (*asked.lock().unwrap())?;
        let sample_at = Duration::MAX;
        Some(Answer { holds, sample_at })
    });
    world
}

/// More than the time until the next round.
const NEXT_ROUND: u64 = 20;

#[test]
fn false_condition_gates_reversible_steps_and_keeps_leases() {
    for refused in [Some(false), None] {
        let holds = Arc::new(Mutex::new(refused));
        let mut world = with_condition(example("calm", "nice 15"), &holds, 2);
        world.add(100, 1);
        world.fire("calm");
        world.pass(NEXT_ROUND);
        assert_eq!(world.nice(100), [0]);
        assert_eq!(world.decided("calm", Decision::Condition), 1.0, "told once");
        *holds.lock().unwrap() = Some(true);
        world.pass(NEXT_ROUND);
        assert_eq!(world.nice(100), [15]);
        *holds.lock().unwrap() = refused;
        world.add(200, 1);
        world.pass(NEXT_ROUND);
        assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![0]));
        world.resolve("calm");
        assert_eq!(world.nice(100), [0]);
    }
}

/// One slot. The process that is first when the alert opens does nothing any more once `while` holds.
#[test]
fn false_condition_gives_no_place_to_a_new_target() {
    for steps in ["nice 15", "wait 10; nice 15", "signal TERM"] {
        let holds = Arc::new(Mutex::new(Some(false)));
        let mut rule = example("calm", steps);
        rule.order_by.key = OrderKey::Memory;
        let mut world = with_condition(rule, &holds, 1);
        world.add(100, 1);
        world.add(200, 1);
        let set_memory = |world: &mut World, pid: i32, bytes: u64| {
            let found = world.engine.host().processes.get_mut(&pid).unwrap();
            found.process.resident_bytes = bytes;
        };
        set_memory(&mut world, 100, 9 << 30);
        world.fire("calm");
        world.pass(NEXT_ROUND);
        world.fire("calm");
        world.pass(NEXT_ROUND);
        assert_eq!(world.decided("calm", Decision::Condition), 1.0, "{steps}: told once");
        set_memory(&mut world, 100, 1 << 20);
        set_memory(&mut world, 200, 9 << 30);
        *holds.lock().unwrap() = Some(true);
        world.pass(2 * NEXT_ROUND);
        assert_eq!(world.nice(100), [0], "{steps}");
        let reached = match steps {
            "signal TERM" => world.signals() == [(200, Signal::SIGTERM)],
            _ => world.nice(200) == [15],
        };
        assert!(reached, "{steps}: {:?}", world.signals());
    }
}

#[test]
fn false_condition_stops_a_rule_between_its_steps() {
    let holds = Arc::new(Mutex::new(Some(true)));
    let mut world = with_condition(example("calm", "nice 5; wait 10; nice 15"), &holds, 2);
    world.add(100, 1);
    world.fire("calm");
    *holds.lock().unwrap() = Some(false);
    world.pass(60);
    assert_eq!(world.nice(100), [5]);
    *holds.lock().unwrap() = Some(true);
    world.pass(NEXT_ROUND);
    assert_eq!(world.nice(100), [15]);
}

#[test]
fn false_condition_starts_no_command_with_an_undo() {
    let holds = Arc::new(Mutex::new(Some(false)));
    let step = "exec: {argv: [/bin/a], undo: [/bin/b]}";
    let mut world = with_condition(super::jobs::rule(&[step], ""), &holds, 2);
    world.fire("more");
    world.pass(NEXT_ROUND);
    assert!(world.engine.host().jobs.is_empty());
    *holds.lock().unwrap() = Some(true);
    world.pass(NEXT_ROUND);
    assert_eq!(world.engine.host().jobs.len(), 1);
}
