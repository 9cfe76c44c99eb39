//! Own evaluation with a clock made up for the test: steps of the wall clock, restarts, firing sets, and `while`.

use super::*;
use crate::alert::Status;
use crate::family::Family;
use crate::sense::{CollectorReading, Freshness, SampleTime};
use crate::watch::LabelSet;
use crate::watch::promql;
use crate::watch::rule_file::parse;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Instant;

const HOUR_MS: i64 = 3_600_000;

/// A sample as the sampler takes it. Each reading is a collector, CLOCK_BOOTTIME at which it was read, and
/// what it yielded.
pub fn sample(
    taken_at: jiff::Timestamp,
    taken_boot: Duration,
    readings: Vec<(&'static str, Duration, Vec<Family>)>,
) -> Snapshot {
    let taken = SampleTime {
        wall: taken_at,
        instant: Instant::now(),
        boot: taken_boot,
    };
    let reading = |(collector, read_boot, families)| {
        Arc::new(CollectorReading {
            collector,
            families,
            read: SampleTime {
                boot: read_boot,
                ..taken
            },
            duration: Duration::ZERO,
            freshness: Freshness::Fast,
            skipped_lines: 0,
            error: None,
        })
    };
    Snapshot {
        taken,
        readings: readings.into_iter().map(reading).collect(),
        derived: Arc::default(),
    }
}

fn orders(groups: &str, conditions: &[&str]) -> EvaluationConfig {
    let conditions = conditions
        .iter()
        .map(|text| ((*text).to_owned(), promql::parse(text).unwrap()));
    EvaluationConfig {
        files: vec![parse("x.yml", &format!("groups: [{groups}]")).unwrap()],
        conditions: conditions.collect(),
        interval: Duration::from_secs(1),
        target: LabelSet::default(),
    }
}

fn group(rules: &str) -> String {
    format!("{{name: g, rules: [{rules}]}}")
}

/// A daemon that samples the metric `a` each second.
struct Daemon {
    evaluation: OwnEvaluation,
    /// Seconds of CLOCK_BOOTTIME since the first start.
    second: u64,
    wall_ms: i64,
    /// Which alerts began (`+`) and ended (`-`), and when.
    heard: Vec<String>,
    /// Every firing set: when, of which alerts, and whether it was complete.
    sets: Vec<(u64, Vec<String>, bool)>,
    /// The names of the alerts in each of them whose rule was not evaluated.
    unevaluated: Vec<String>,
}

const BOOT: Duration = Duration::from_secs(1000);

fn daemon(orders: EvaluationConfig) -> Daemon {
    Daemon {
        evaluation: OwnEvaluation::new(orders, Sampling::default(), &ActiveAlerts::default(), BOOT, SETTLING),
        second: 0,
        wall_ms: 1_700_000_000_000,
        heard: Vec::new(),
        sets: Vec::new(),
        unevaluated: Vec::new(),
    }
}

impl Daemon {
    fn boot(&self) -> Duration {
        BOOT + Duration::from_secs(self.second)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millisecond(self.wall_ms).unwrap()
    }

    fn pass(&mut self, seconds: u64) {
        self.second += seconds;
        self.wall_ms += seconds as i64 * 1000;
    }

    fn hear(&mut self, messages: Messages) {
        for alert in &messages.alerts {
            let sign = if alert.status == Status::Firing { '+' } else { '-' };
            self.heard.push(format!("{} {sign}{}", self.second, alert.name()));
        }
        if let Some(set) = messages.firing {
            let names = set.firing.iter().map(|alert| alert.name().to_owned()).collect();
            self.sets.push((self.second, names, set.is_complete));
            let unevaluated: Vec<&str> = set.unevaluated.iter().map(|name| name.as_str()).collect();
            self.unevaluated.push(unevaluated.join(" "));
        }
    }

    fn sample(&self, value: f64) -> Snapshot {
        let families = vec![Family::gauge("a", "").value(value)];
        sample(self.wall(), self.boot(), vec![("fast", self.boot(), families)])
    }

    /// So many seconds in which `a` has this value.
    fn run(&mut self, seconds: u64, value: f64) {
        for _ in 0..seconds {
            let messages = self.evaluation.take_sample(&self.sample(value));
            self.hear(messages);
            self.pass(1);
        }
    }

    /// Another process goes on after so many seconds.
    fn restart(&mut self, orders: EvaluationConfig, after: u64) {
        let written = serde_json::to_string(&self.evaluation.active_alerts()).unwrap();
        let before = serde_json::from_str(&written).unwrap();
        self.pass(after);
        self.evaluation = OwnEvaluation::new(orders, Sampling::default(), &before, self.boot(), SETTLING);
    }
}

#[test]
fn wall_clock_steps_end_nothing_and_hasten_nothing() {
    let rules = "{alert: Fires, expr: a > 5}, {alert: Waits, expr: a > 5, for: 60s}, \
                 {alert: Range, expr: 'count_over_time(a[10s]) >= 10'}, \
                 {alert: Kept, expr: a > 50, keep_firing_for: 30s}";
    for step_ms in [HOUR_MS, -HOUR_MS, 5000, -5000] {
        let mut daemon = daemon(orders(&group(rules), &[]));
        daemon.run(1, 99.0);
        daemon.run(19, 9.0);
        daemon.wall_ms += step_ms;
        daemon.run(10, 9.0);
        daemon.wall_ms -= step_ms;
        daemon.run(50, 9.0);
        let heard = ["0 +Fires", "0 +Kept", "9 +Range", "31 -Kept", "60 +Waits"];
        assert_eq!(daemon.heard, heard, "{step_ms} ms");
        let mut firing = daemon.evaluation.active_alerts().alerts;
        firing.retain(|alert| alert.labels["alertname"] == "Fires");
        assert_eq!(firing[0].active_at_ms, 1_700_000_000_000, "{step_ms} ms");
    }
}

#[test]
fn group_intervals_go_by_time_that_passes() {
    for step_ms in [HOUR_MS, -HOUR_MS] {
        let groups = "{name: g, interval: 30s, rules: [{alert: A, expr: a > 5}]}";
        let mut daemon = daemon(orders(groups, &[]));
        daemon.run(10, 1.0);
        daemon.wall_ms += step_ms;
        daemon.run(25, 9.0);
        assert_eq!(daemon.heard, ["30 +A"], "{step_ms} ms");
    }
}

#[test]
fn early_samples_follow_wall_clock_steps() {
    for step_ms in [HOUR_MS, -HOUR_MS] {
        let rules = "{alert: Fires, expr: a > 5}, {alert: Waits, expr: a > 5, for: 20s}";
        let mut daemon = daemon(orders(&group(rules), &[]));
        daemon.run(5, 1.0);
        daemon.wall_ms += step_ms;
        let messages = daemon.evaluation.take_early_sample(&daemon.sample(9.0));
        daemon.hear(messages);
        daemon.pass(1);
        daemon.run(25, 9.0);
        assert_eq!(daemon.heard, ["5 +Fires", "25 +Waits"], "{step_ms} ms");
    }
}

#[test]
fn slewing_moves_nothing() {
    let rules = "{alert: Fires, expr: a > 5}, {alert: Waits, expr: a > 5, for: 20s}";
    let mut daemon = daemon(orders(&group(rules), &[]));
    for _ in 0..30 {
        daemon.run(1, 9.0);
        daemon.wall_ms -= 20;
    }
    assert_eq!(daemon.heard, ["0 +Fires", "21 +Waits"]);
}

#[test]
fn an_alert_that_is_over_after_a_restart_ends_at_once() {
    let rules = || orders(&group("{alert: A, expr: a > 5, for: 10s}"), &[]);
    let mut daemon = daemon(rules());
    daemon.run(20, 9.0);
    daemon.restart(rules(), 5);
    daemon.run(1, 1.0);
    daemon.run(30, 9.0);
    assert_eq!(daemon.heard, ["10 +A", "25 -A", "36 +A"]);
    let active = daemon.evaluation.active_alerts().alerts;
    assert_eq!(active[0].fired_at_ms, Some(1_700_000_000_000 + 36_000));
}

#[test]
fn alert_that_ended_during_a_restart_waits_its_whole_for() {
    let rules = || orders(&group("{alert: A, expr: a > 5, for: 10s}"), &[]);
    let mut daemon = daemon(rules());
    daemon.run(9, 9.0);
    daemon.restart(rules(), 5);
    daemon.run(1, 1.0);
    daemon.run(30, 9.0);
    assert_eq!(daemon.heard, ["25 +A"]);
}

#[test]
fn an_alert_over_a_restart_is_confirmed_by_enough_samples() {
    let rules = || orders(&group("{alert: A, expr: 'avg_over_time(a[60s]) > 5'}"), &[]);
    for (value, expected) in [(9.0, "85 +A"), (1.0, "85 -A")] {
        let mut daemon = daemon(rules());
        daemon.run(20, 9.0);
        daemon.restart(rules(), 5);
        daemon.heard.clear();
        daemon.sets.clear();
        daemon.run(30, 9.0);
        daemon.run(31, value - 4.5);
        assert_eq!(daemon.heard, [expected], "{value}");
        let unconfirmed = daemon.sets.iter().filter(|(at, ..)| *at < 85);
        assert!(unconfirmed.clone().count() > 3);
        unconfirmed.for_each(|(_, firing, is_complete)| assert!(firing.is_empty() && !is_complete));
        if value > 5.0 {
            let active = daemon.evaluation.active_alerts().alerts;
            assert_eq!(active[0].fired_at_ms, Some(1_700_000_000_000), "its old start");
        }
    }
}

#[test]
fn recording_rules_before_an_alert_need_samples_too() {
    let rules = "{record: 'r:a', expr: 'avg_over_time(a[60s])'}, {alert: A, expr: 'r:a > 5'}";
    let rules = || orders(&group(rules), &[]);
    let mut daemon = daemon(rules());
    daemon.run(20, 9.0);
    daemon.restart(rules(), 5);
    daemon.heard.clear();
    daemon.run(61, 9.0);
    assert_eq!(daemon.heard, ["85 +A"]);
}

#[test]
fn a_metric_that_comes_late_is_waited_for() {
    let rules = || orders(&group("{alert: A, expr: b > 5}"), &[]);
    let mut daemon = daemon(rules());
    let take = |daemon: &mut Daemon, value: f64| {
        let families = vec![Family::gauge("b", "").value(value)];
        let sample = sample(daemon.wall(), daemon.boot(), vec![("slow", daemon.boot(), families)]);
        let messages = daemon.evaluation.take_sample(&sample);
        daemon.hear(messages);
        daemon.pass(1);
    };
    take(&mut daemon, 9.0);
    daemon.restart(rules(), 5);
    daemon.run(3, 1.0);
    take(&mut daemon, 9.0);
    assert_eq!(daemon.heard, ["0 +A", "9 +A"]);
    // A collector that is gone for good does not keep an alert for ever.
    daemon.restart(rules(), 5);
    daemon.heard.clear();
    daemon.run(61, 1.0);
    assert_eq!(daemon.heard, ["75 -A"]);
}

#[test]
fn undecided_alert_survives_a_second_restart() {
    let rules = || orders(&group("{alert: A, expr: 'avg_over_time(a[60s]) > 5'}"), &[]);
    let mut daemon = daemon(rules());
    daemon.run(20, 9.0);
    daemon.restart(rules(), 5);
    daemon.run(5, 1.0);
    daemon.restart(rules(), 5);
    daemon.heard.clear();
    daemon.run(61, 9.0);
    assert_eq!(daemon.heard, ["95 +A"]);
    let active = daemon.evaluation.active_alerts().alerts;
    assert_eq!(active[0].fired_at_ms, Some(1_700_000_000_000));
}

#[test]
fn an_early_sample_confirms_nothing_after_a_restart() {
    let rules = || orders(&group("{alert: A, expr: a > 5}"), &[]);
    let mut daemon = daemon(rules());
    daemon.run(20, 9.0);
    daemon.restart(rules(), 5);
    let messages = daemon.evaluation.take_early_sample(&daemon.sample(9.0));
    daemon.hear(messages);
    daemon.pass(1);
    daemon.run(1, 9.0);
    assert_eq!(daemon.heard, ["0 +A", "26 +A"]);
}

#[test]
fn reload_that_removes_a_rule_ends_its_restored_alerts() {
    let rules = || orders(&group("{alert: A, expr: 'avg_over_time(a[60s]) > 5'}"), &[]);
    let mut daemon = daemon(rules());
    daemon.run(20, 9.0);
    daemon.restart(rules(), 5);
    daemon.run(5, 9.0);
    let messages = daemon
        .evaluation
        .replace(orders(&group("{alert: B, expr: a > 50}"), &[]), daemon.boot());
    daemon.hear(messages);
    assert_eq!(daemon.heard, ["0 +A", "30 -A"]);
}

#[test]
fn firing_sets_name_what_fires_and_say_when_they_are_complete() {
    let rules = "{alert: Fires, expr: a > 5}, {alert: Waits, expr: a > 5, for: 40s}";
    let mut daemon = daemon(orders(&group(rules), &[]));
    daemon.run(10, 9.0);
    let messages = daemon.evaluation.replace(orders(&group(rules), &[]), daemon.boot());
    daemon.hear(messages);
    daemon.run(155, 9.0);
    let expected: Vec<(u64, usize, bool)> = [(0, 1, false), (10, 1, false), (25, 1, false), (40, 2, false)]
        .into_iter()
        .chain((55..160).step_by(15).map(|at| (at, 2, false)))
        .chain([(160, 2, true)])
        .collect();
    let sets = daemon
        .sets
        .iter()
        .map(|(at, firing, is_complete)| (*at, firing.len(), *is_complete));
    assert_eq!(sets.collect::<Vec<_>>(), expected);
}

#[test]
fn without_rules_one_empty_set_is_complete() {
    let mut daemon = daemon(orders("", &[]));
    assert_eq!(daemon.evaluation.next_due(), Some(BOOT + SETTLING));
    daemon.pass(120);
    let messages = daemon.evaluation.settle(daemon.boot());
    daemon.hear(messages);
    assert_eq!(daemon.sets, [(120, vec![], true)]);
    assert_eq!(daemon.evaluation.next_due(), None);
}

/// The result of the only condition: whether it holds, and the second of the sample.
fn ask(daemon: &Daemon, condition: &str) -> (bool, i64) {
    let answer = daemon.evaluation.answer(condition, daemon.boot()).unwrap();
    (answer.holds, answer.sample_at.as_secs() as i64 - BOOT.as_secs() as i64)
}

impl Daemon {
    /// One beat with a slow reading of that second beside.
    fn beat(&mut self, slow_at: u64) {
        let read_boot = BOOT + Duration::from_secs(slow_at);
        let fast = vec![Family::gauge("a", "").value(9.0)];
        let slow = vec![Family::gauge("b", "").value(9.0)];
        let readings = vec![("fast", self.boot(), fast), ("filesystem", read_boot, slow)];
        let messages = self.evaluation.take_sample(&sample(self.wall(), self.boot(), readings));
        self.hear(messages);
    }
}

#[test]
fn while_rests_on_the_oldest_of_the_samples_that_it_reads() {
    let conditions = ["a > 5", "b > 5", "a + b > 5", "r > 5", "vector(1)", "absent(c)"];
    let groups = "{name: g, interval: 20s, rules: [{record: r, expr: a}]}";
    let mut daemon = daemon(orders(groups, &conditions));
    daemon.beat(0);
    for _ in 0..10 {
        daemon.pass(1);
        daemon.beat(0);
    }
    let asked = conditions.map(|condition| ask(&daemon, condition));
    // It is not known yet whether a collector publishes `c`.
    let expected = [(true, 10), (true, 0), (true, 0), (true, 0), (true, 10), (false, 10)];
    assert_eq!(asked, expected);
    for _ in 0..60 {
        daemon.pass(1);
        daemon.beat(daemon.second);
    }
    let asked = conditions.map(|condition| ask(&daemon, condition));
    let expected = [(true, 70), (true, 70), (true, 70), (true, 60), (true, 70), (true, 70)];
    assert_eq!(asked, expected);
}

#[test]
fn while_is_false_when_its_samples_are_too_old() {
    let conditions = ["a > 5", "b > 5", "vector(1)"];
    let mut daemon = daemon(orders("", &conditions));
    daemon.beat(0);
    // The sampler is stuck.
    daemon.pass(10);
    assert_eq!(conditions.map(|condition| ask(&daemon, condition).0), [true; 3]);
    daemon.pass(1);
    assert_eq!(conditions.map(|condition| ask(&daemon, condition).0), [false; 3]);
    // Only the slow collector is: the beat goes on.
    daemon.beat(11);
    for _ in 0..61 {
        daemon.pass(1);
        daemon.beat(11);
        let is_recent = daemon.second <= 11 + 60;
        let expected = [true, is_recent, true];
        assert_eq!(conditions.map(|condition| ask(&daemon, condition).0), expected);
    }
}

#[test]
fn outdated_reading_ends_its_series() {
    let mut daemon = daemon(orders(&group("{alert: B, expr: b > 5}, {alert: A, expr: a > 5}"), &[]));
    daemon.beat(0);
    daemon.pass(60);
    daemon.beat(0);
    daemon.pass(1);
    // The same reading counts as a failed one.
    let fast = ("fast", daemon.boot(), vec![Family::gauge("a", "").value(9.0)]);
    let slow = ("filesystem", BOOT, vec![Family::gauge("b", "").value(9.0)]);
    let mut outdated = sample(daemon.wall(), daemon.boot(), vec![fast, slow]);
    outdated.readings[1] = Arc::new(outdated.readings[1].outdated(Duration::from_secs(60), None));
    let messages = daemon.evaluation.take_sample(&outdated);
    daemon.hear(messages);
    assert_eq!(daemon.heard, ["0 +B", "0 +A", "61 -B"]);
}

#[test]
fn while_goes_by_samples_over_a_wall_clock_step() {
    let conditions = ["a > 5", "avg_over_time(a[5s]) > 5"];
    for step_ms in [HOUR_MS, -HOUR_MS] {
        let mut daemon = daemon(orders("", &conditions));
        daemon.run(10, 9.0);
        daemon.wall_ms += step_ms;
        daemon.beat(0);
        assert_eq!(conditions.map(|condition| ask(&daemon, condition)), [(true, 10); 2]);
    }
}

#[test]
fn suspension_does_not_count_for_a_pending_alert() {
    let rules = || orders(&group("{alert: A, expr: a > 5, for: 10m}"), &[]);
    // Lost samples, and a host that sleeps for eight hours: A is pending since second 0.
    for (gap, fires_at) in [(3, 600), (8 * 3600, 600 + 8 * 3600 + 1)] {
        let mut daemon = daemon(rules());
        daemon.run(5, 9.0);
        daemon.pass(gap);
        daemon.run(700, 9.0);
        assert_eq!(daemon.heard, [format!("{fires_at} +A")], "{gap} s");
    }
    let mut daemon = daemon(rules());
    daemon.run(601, 9.0);
    daemon.pass(8 * 3600);
    daemon.run(20, 9.0);
    assert_eq!(daemon.heard, ["600 +A"], "a firing alert goes on");
}

impl Daemon {
    /// So many seconds in which `a` has two series, which become one alert where a rule sets the label `l`.
    fn run_with_two_series(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let mut family = Family::gauge("a", "");
            for name in ["x", "y"] {
                family.push(vec![crate::family::label("l", name)], 9.0);
            }
            let sample = sample(self.wall(), self.boot(), vec![("fast", self.boot(), vec![family])]);
            let messages = self.evaluation.take_sample(&sample);
            self.hear(messages);
            self.pass(1);
        }
    }

    fn replace(&mut self, orders: EvaluationConfig) {
        let messages = self.evaluation.replace(orders, self.boot());
        self.hear(messages);
    }
}

#[test]
fn alert_whose_rule_fails_is_not_confirmed() {
    let rules = "{alert: Fails, expr: a > 5, labels: {l: same}}, {alert: Good, expr: vector(1)}";
    let mut daemon = daemon(orders(&group(rules), &[]));
    daemon.run(170, 9.0);
    daemon.heard.clear();
    daemon.sets.clear();
    daemon.unevaluated.clear();
    daemon.run_with_two_series(40);
    assert_eq!(daemon.heard, [""; 0]);
    let names = daemon
        .sets
        .iter()
        .map(|(_, firing, is_complete)| (firing.join(" "), *is_complete));
    assert_eq!(
        names.collect::<Vec<_>>(),
        [("Good".to_owned(), true), ("Good".to_owned(), true)]
    );
    assert_eq!(daemon.unevaluated, ["Fails", "Fails"]);
    daemon.sets.clear();
    daemon.unevaluated.clear();
    daemon.run(15, 9.0);
    assert_eq!(daemon.sets[0].1, ["Fails", "Good"]);
    assert_eq!(daemon.unevaluated, [""]);
}

#[test]
fn reload_with_the_same_rules_confirms_their_alerts_at_once() {
    let rules = || orders(&group("{alert: A, expr: a > 5}"), &[]);
    let mut daemon = daemon(rules());
    daemon.run(20, 9.0);
    daemon.sets.clear();
    daemon.replace(rules());
    assert_eq!(daemon.sets, [(20, vec!["A".to_owned()], false)]);
}

#[test]
fn reload_confirms_no_alert_of_the_former_expression() {
    let rule = |expression: &str| orders(&group(&format!("{{alert: A, expr: '{expression}'}}")), &[]);
    for (expression, confirmed_at) in [("avg_over_time(a[90s]) > 5", 170 + 90), ("a > 6", 170)] {
        let mut daemon = daemon(rule("avg_over_time(a[60s]) > 5"));
        daemon.run(170, 9.0);
        daemon.heard.clear();
        daemon.sets.clear();
        daemon.unevaluated.clear();
        daemon.replace(rule(expression));
        assert_eq!(daemon.sets, [(170, vec![], true)], "{expression}");
        assert_eq!(daemon.unevaluated, ["A"], "{expression}");
        daemon.run(120, 9.0);
        assert_eq!(daemon.heard, [""; 0], "{expression}");
        for (at, firing, _) in &daemon.sets[1..] {
            assert_eq!(!firing.is_empty(), *at >= confirmed_at, "{expression} at {at}");
        }
    }
}

#[test]
fn reload_confirms_no_alert_of_a_former_recording_rule() {
    let rules = |record: &str| {
        let rules = format!("{{record: 'r:a', expr: '{record}'}}, {{alert: A, expr: 'r:a > 5'}}");
        orders(&group(&rules), &[])
    };
    let mut daemon = daemon(rules("a"));
    daemon.run(20, 9.0);
    daemon.sets.clear();
    daemon.replace(rules("a * 1"));
    assert_eq!(daemon.sets, [(20, vec![], false)]);
}
