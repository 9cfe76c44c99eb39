//! Tests of `while` with the real own evaluation: evenkeel kills no further process before a sample shows the effect
//! of the last kill.

use super::*;
use crate::app::own_evaluation::{self, OwnEvaluation, SETTLING};
use crate::app::policy::EvaluationConfig;
use crate::family::Family;
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
