//! Tests of rounds of evaluation: intervals, reloads, failures, limits and offsets.

use super::super::alerting::Change;
use super::super::history::SnapshotSource;
use super::super::rule_state::EvaluationFailure;
use super::super::{promql, rule_file};
use super::*;
use crate::family::Family;

fn evaluator(groups: &str) -> (Evaluator, History) {
    let file = rule_file::parse("x.yml", &format!("groups: [{groups}]")).unwrap();
    let evaluator = Evaluator::new(
        EvaluatorSettings {
            interval_ms: 1000,
            ..EvaluatorSettings::default()
        },
        vec![file],
    );
    let history = History::new(evaluator.read_set());
    (evaluator, history)
}

fn sample(history: &mut History, second: i64, value: f64) {
    let target = [("job".into(), "node".into()), ("instance".into(), "here:1".into())];
    history.append(
        SnapshotSource(0),
        second * 1000,
        &[Family::gauge("a", "").value(value)],
        &target,
    );
}

fn changes(round: &EvaluationRound) -> Vec<(&str, Change)> {
    round
        .transitions
        .iter()
        .map(|transition| (transition.alert.name(), transition.change))
        .collect()
}

#[test]
fn recording_rules_feed_later_rules_and_end_with_their_input() {
    let (mut evaluator, mut history) = evaluator(
        "{name: g, rules: [{record: 'b:c', expr: 'a > 5', labels: {extra: x}}, {alert: High, expr: 'b:c'}, \
         {alert: Chained, expr: 'ALERTS{alertstate=\"firing\", alertname=\"High\"}'}]}",
    );
    let mut seen = Vec::new();
    for (second, value) in [(0, 1.0), (1, 9.0), (2, 9.0), (3, 1.0)] {
        sample(&mut history, second, value);
        let round = evaluator.evaluate(&mut history, second * 1000);
        assert!(round.failures.is_empty(), "{:?}", round.failures);
        seen.push(format!("{:?}", changes(&round)));
    }
    let expected = [
        "[]",
        r#"[("High", Began), ("Chained", Began)]"#,
        r#"[("High", Continues), ("Chained", Continues)]"#,
        r#"[("High", Ended), ("Chained", Ended)]"#,
    ];
    assert_eq!(seen, expected);
}

#[test]
fn early_evaluation_starts_alerts_and_has_no_weight() {
    let (mut evaluator, mut history) = evaluator(
        "{name: g, interval: 1m, rules: [{record: 'b:c', expr: 'a > 5'}, {alert: High, expr: 'b:c'}, {alert: Now, expr: '1'}, \
         {alert: Mean, expr: 'avg_over_time(a[10s]) > 4'}, {alert: Many, expr: 'count_over_time(a[10s]) > 3'}]}",
    );
    let early = |evaluator: &mut Evaluator, history: &mut History, at_ms: i64, value: f64| {
        history.set_early(true);
        let target = [("job".into(), "node".into()), ("instance".into(), "here:1".into())];
        history.append(
            SnapshotSource(0),
            at_ms,
            &[Family::gauge("a", "").value(value)],
            &target,
        );
        let round = evaluator.evaluate_early(history, at_ms, &HashSet::from(["a"]));
        history.set_early(false);
        format!("{:?}", changes(&round))
    };
    let mut seen = Vec::new();
    for second in [0, 1] {
        sample(&mut history, second, 1.0);
        let round = evaluator.evaluate(&mut history, second * 1000);
        seen.push(format!("{:?}", changes(&round)));
    }
    // A hundred early samples count as one beside the regular ones: neither in a count nor in a mean.
    for number in 1..100 {
        let changes = early(&mut evaluator, &mut history, 1000 + number, 9.0);
        let expected = if number == 1 {
            r#"[("High", Began)]"#
        } else {
            r#"[("High", Continues)]"#
        };
        assert_eq!(changes, expected, "early sample {number}");
    }
    // An alert ends only with a regular sample.
    assert_eq!(
        early(&mut evaluator, &mut history, 1500, 1.0),
        r#"[("High", Continues)]"#
    );
    sample(&mut history, 2, 1.0);
    let round = evaluator.evaluate_all(&mut history, 2000);
    seen.push(format!("{:?}", changes(&round)));
    let expected = [r#"[("Now", Began)]"#, "[]", r#"[("High", Ended), ("Now", Continues)]"#];
    assert_eq!(seen, expected);
    assert_eq!(history.series("a")[0].newest_until(1999), Some((1000, 1.0)));
}

#[test]
fn own_alerts_carry_job_and_instance() {
    let (mut evaluator, mut history) = evaluator("{name: g, rules: [{alert: A, expr: a}]}");
    sample(&mut history, 0, 1.0);
    let round = evaluator.evaluate(&mut history, 0);
    let labels = &round.transitions[0].alert.labels;
    assert_eq!(
        (labels.get("job"), labels.get("instance")),
        (Some("node"), Some("here:1"))
    );
}

#[test]
fn groups_keep_their_interval_and_skip_what_they_missed() {
    let (mut evaluator, mut history) = evaluator(
        "{name: slow, interval: 3s, rules: [{alert: S, expr: '1'}]}, {name: fast, rules: [{alert: F, expr: '1'}]}",
    );
    let evaluated = [0, 1000, 2900, 3000, 3500, 10_000, 11_000, 12_000].map(|now_ms| {
        let round = evaluator.evaluate(&mut history, now_ms);
        changes(&round).iter().map(|(name, _)| *name).collect::<String>()
    });
    assert_eq!(evaluated, ["SF", "F", "F", "SF", "", "SF", "F", "SF"]);
    let next_due_ms = evaluator.groups.iter().map(|group| group.due_ms).min().flatten();
    assert_eq!(next_due_ms, Some(13_000));
}

#[test]
fn a_reload_keeps_alerts_of_rules_that_stay_and_ends_the_others() {
    let (mut evaluator, mut history) =
        evaluator("{name: g, rules: [{alert: Stays, expr: '1'}, {alert: Goes, expr: '1'}]}");
    evaluator.evaluate(&mut history, 0);
    let file = rule_file::parse("x.yml", "groups: [{name: g, rules: [{alert: Stays, expr: '2'}]}]").unwrap();
    let ended = evaluator.replace(EvaluatorSettings::default(), vec![file], &mut history, 1000);
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].alert.name(), ended[0].change), ("Goes", Change::Ended));
    let round = evaluator.evaluate(&mut history, 1000);
    assert_eq!(changes(&round), [("Stays", Change::Continues)]);
    assert_eq!(round.transitions[0].alert.starts_at.as_millisecond(), 0);
}

#[test]
fn failing_rule_is_reported_and_the_others_go_on() {
    let (mut evaluator, mut history) = evaluator(
        "{name: g, rules: [{alert: Bad, expr: 'label_replace({__name__=~\"a|b\"}, \"__name__\", \"c\", \"\", \"\")'}, \
         {alert: Good, expr: a}]}",
    );
    history.append(
        SnapshotSource(0),
        0,
        &[Family::gauge("a", "").value(1.0), Family::gauge("b", "").value(1.0)],
        &[],
    );
    let round = evaluator.evaluate(&mut history, 0);
    assert_eq!(changes(&round), [("Good", Change::Began)]);
    let failure = "x.yml: group \"g\", rule \"Bad\": vector cannot contain metrics with the same labelset: c";
    assert_eq!(
        round
            .failures
            .iter()
            .map(EvaluationFailure::to_string)
            .collect::<Vec<_>>(),
        [failure]
    );
}

#[test]
fn the_groups_limit_ends_the_alerts_of_a_rule() {
    let (mut evaluator, mut history) = evaluator("{name: g, limit: 1, rules: [{alert: A, expr: 'a{l=~\".+\"}'}]}");
    let family = |count: usize| {
        let mut family = Family::gauge("a", "");
        (0..count).for_each(|index| family.push(vec![crate::family::label("l", index.to_string())], 1.0));
        family
    };
    history.append(SnapshotSource(0), 0, &[family(1)], &[]);
    assert_eq!(changes(&evaluator.evaluate(&mut history, 0)), [("A", Change::Began)]);
    history.append(SnapshotSource(0), 1000, &[family(2)], &[]);
    let round = evaluator.evaluate(&mut history, 1000);
    assert_eq!((changes(&round), round.failures.len()), (vec![("A", Change::Ended)], 1));
}

#[test]
fn a_recording_rule_above_the_limit_writes_nothing() {
    let (mut evaluator, mut history) =
        evaluator("{name: g, limit: 1, rules: [{record: r, expr: a}, {alert: A, expr: r}]}");
    let family = |count: usize| {
        let mut family = Family::gauge("a", "");
        (0..count).for_each(|index| family.push(vec![crate::family::label("l", index.to_string())], 1.0));
        family
    };
    for (second, count) in [(0, 1), (1, 2)] {
        history.append(SnapshotSource(0), second * 1000, &[family(count)], &[]);
        let round = evaluator.evaluate(&mut history, second * 1000);
        let failures: Vec<String> = round.failures.iter().map(ToString::to_string).collect();
        if count == 1 {
            assert!(failures.is_empty(), "{failures:?}");
        } else {
            let expected = "x.yml: group \"g\", rule \"r\": 2 series exceed the group's limit of 1";
            assert_eq!(failures, [expected]);
        }
    }
    let series = history.series("r");
    // As in Prometheus, no staleness marker is written.
    assert_eq!((series.len(), series[0].newest_until(1000)), (1, Some((0, 1.0))));
}

#[test]
fn query_offset_delays_what_a_group_reads_and_writes() {
    let (mut evaluator, mut history) = evaluator(
        "{name: late, query_offset: 2s, rules: [{record: 'b:c', expr: 'a + 0'}, {alert: High, expr: 'b:c > 5'}, \
         {alert: Whole, expr: 'max_over_time(a[1s] @ end()) > 5'}]}, {name: g, rules: [{alert: Now, expr: 'a > 5'}]}",
    );
    assert_eq!(evaluator.read_set().keep_ms("a"), Some(3000));
    let mut seen = Vec::new();
    for second in 0..6 {
        let value = if second == 1 { 9.0 } else { 1.0 };
        sample(&mut history, second, value);
        // The group reads no sample that has just arrived.
        let early = evaluator.evaluate_early(&mut history, second * 1000, &HashSet::from(["a", "b:c"]));
        assert!(
            early
                .transitions
                .iter()
                .all(|transition| transition.alert.name() == "Now")
        );
        let round = evaluator.evaluate(&mut history, second * 1000);
        assert!(round.failures.is_empty(), "{:?}", round.failures);
        let changes = changes(&round)
            .into_iter()
            .filter(|(_, change)| *change != Change::Continues);
        seen.extend(changes.map(|(name, change)| format!("{second} {name} {change:?}")));
        assert!(
            round
                .transitions
                .iter()
                .all(|t| t.alert.starts_at.as_millisecond() <= second * 1000)
        );
    }
    let expected = [
        "2 Now Ended",
        "3 High Began",
        "3 Whole Began",
        "4 High Ended",
        "4 Whole Ended",
    ];
    assert_eq!(seen, expected);
    assert_eq!(history.series("b:c")[0].newest_until(9000), Some((3000, 1.0)));
    // A series of a removed rule ends where it was last written.
    evaluator.replace(EvaluatorSettings::default(), Vec::new(), &mut history, 6000);
    let (ended_ms, value) = history.series("b:c")[0].newest_until(9000).unwrap();
    assert!(
        ended_ms == 4000 && super::super::history::is_stale(value),
        "{ended_ms} {value}"
    );
}

#[test]
fn conditions_hold_by_their_value() {
    let mut read_set = ReadSet::default();
    let parsed = |text: &str| promql::parse(text).unwrap();
    parsed("a").add_to_read_set(&mut read_set);
    let mut history = History::new(read_set);
    sample(&mut history, 0, 3.0);
    for (text, expected) in [
        ("a > 2", true),
        ("a > 3", false),
        ("a", true),
        ("2 > bool 1", true),
        ("1 > bool 2", false),
        ("scalar(b)", false),
        ("absent(b)", true),
        ("hour() >= 1", false),
        ("hour() < 1", true),
    ] {
        assert_eq!(
            holds(&parsed(text), &history, 1000, Semantics::default()),
            expected,
            "{text}"
        );
    }
}
