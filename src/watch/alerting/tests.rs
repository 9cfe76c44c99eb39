//! Tests of the states of an alert, also over a restart.

use super::super::rule_file::{Rule, parse};
use super::*;

/// Evaluates once per second, with a result for each `1` in `yields`; expects `b`egan, `c`ontinues, `e`nded or
/// nothing.
fn check(rule: &str, yields: &str, expected: &str) {
    let text = format!("groups: [{{name: g, rules: [{{alert: A, expr: a, {rule}}}]}}]");
    let mut file = parse("x.yml", &text).unwrap();
    let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
        panic!()
    };
    let mut state = AlertState::default();
    let labels = LabelSet::from_pairs([(METRIC_NAME, "a"), ("l", "x")]);
    let changes = (0..).zip(yields.chars()).map(|(second, yields)| {
        let elements = (yields == '1').then(|| Element {
            labels: labels.clone(),
            value: 1.0,
        });
        let external = LabelSet::default();
        let elements = elements.into_iter().collect();
        let mut transitions = Vec::new();
        state
            .advance(
                &rule,
                0,
                elements,
                (&external, ""),
                (second * 1000, EvaluationKind::Regular),
                &mut transitions,
            )
            .unwrap();
        match transitions.first().map(|transition| transition.change) {
            Some(Change::Began) => 'b',
            Some(Change::Continues) => 'c',
            Some(Change::Ended) => 'e',
            None => '.',
        }
    });
    assert_eq!(changes.collect::<String>(), expected, "{text}");
}

#[test]
fn alerts_fire_after_for_and_end_after_keep_firing_for() {
    check("for: 0s", "1100101", "bce.beb");
    check("for: 2s", "11101110110", "..be..be...");
    check("for: 1s, keep_firing_for: 2s", "1100011", ".bcce.b");
    check("for: 1s, keep_firing_for: 2s", "110110000", ".bccccce.");
    check("keep_firing_for: 2s", "101010000", "bcccccce.");
}

#[test]
fn restart_continues_firing_alerts_and_pending_waits() {
    let text = "groups: [{name: g, rules: [{alert: A, expr: a, for: 10s}]}]";
    let mut file = parse("x.yml", text).unwrap();
    let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
        panic!()
    };
    let external = LabelSet::default();
    let yielded = || {
        vec![Element {
            labels: LabelSet::from_pairs([("l", "x")]),
            value: 1.0,
        }]
    };
    let second = |second: i64| (second * 1000, EvaluationKind::Regular);
    // The alert was last seen at 100 s and comes back at `back`. Expects when it fires, and since when.
    for (fired_at_ms, back, expected) in [
        (None, 130, Some((136, 136_000))),
        (Some(95_000), 130, Some((130, 95_000))),
        (Some(95_000), 100 + 601, Some((711, 711_000))),
        // The wall clock was set back.
        (Some(95_000), 99, Some((109, 109_000))),
    ] {
        let mut state = AlertState::default();
        let labels = LabelSet::from_pairs([("alertname", "A"), ("l", "x")]);
        let remembered = Remembered {
            active_at_ms: 96_000,
            fired_at_ms,
            kept_since_ms: None,
            seen_at_ms: 100_000,
        };
        state.remember(labels, remembered);
        state.set_has_samples(true);
        let mut fired = None;
        for now in back..back + 20 {
            let mut output = Vec::new();
            state
                .advance(&rule, 0, yielded(), (&external, ""), second(now), &mut output)
                .unwrap();
            fired = fired.or(output
                .first()
                .map(|transition| (now, transition.alert.starts_at.as_millisecond())));
        }
        assert_eq!(fired, expected, "{fired_at_ms:?} {back}");
    }
}

#[test]
fn keep_firing_for_counts_over_a_restart() {
    let text = "groups: [{name: g, rules: [{alert: A, expr: a, keep_firing_for: 60s, \
                annotations: {fixed: f, of_value: '{{ $value }}'}}]}]";
    let mut file = parse("x.yml", text).unwrap();
    let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
        panic!()
    };
    let external = LabelSet::default();
    // The alert was last evaluated at 100 s. Samples suffice from `decided` on, and the expression yields nothing.
    for (kept_since_ms, decided, expected) in [
        (Some(80_000), 110, "bcce"),
        (Some(80_000), 140, "e...."),
        (Some(80_000), 900, "e...."),
        // Its condition still held before the restart.
        (None, 110, "bccccc"),
        (None, 900, "e...."),
    ] {
        let mut state = AlertState::default();
        let before = Remembered {
            active_at_ms: 50_000,
            fired_at_ms: Some(50_000),
            kept_since_ms,
            seen_at_ms: 100_000,
        };
        state.remember(LabelSet::from_pairs([("alertname", "A")]), before);
        let mut changes = String::new();
        for second in (decided - 20..decided + 60).step_by(10).take(2 + expected.len()) {
            state.set_has_samples(second >= decided);
            let mut output = Vec::new();
            let at = (second * 1000, EvaluationKind::Regular);
            state
                .advance(&rule, 0, Vec::new(), (&external, ""), at, &mut output)
                .unwrap();
            assert!(second >= decided || output.is_empty());
            for Transition { alert, change } in &output {
                assert_eq!(alert.starts_at.as_millisecond(), 50_000);
                let annotations: Vec<_> = alert.annotations.iter().collect();
                assert!(
                    expected == "e...." || annotations == [("fixed", "f")],
                    "{annotations:?}"
                );
                changes.push(match change {
                    Change::Began => 'b',
                    Change::Continues => 'c',
                    Change::Ended => 'e',
                });
            }
            if output.is_empty() && second >= decided {
                changes.push('.');
            }
        }
        assert_eq!(changes, expected, "{kept_since_ms:?} {decided}");
    }
}

#[test]
fn alert_has_labels_of_series_and_rule_and_its_name() {
    let text = "groups: [{name: g, rules: [{alert: A, expr: a, labels: {sev: '{{ $labels.l }}!', gone: ''}, \
                annotations: {s: 'v={{ $value }}'}}]}]";
    let mut file = parse("x.yml", text).unwrap();
    let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
        panic!()
    };
    let labels = LabelSet::from_pairs([(METRIC_NAME, "a"), ("l", "x"), ("gone", "y"), ("alertname", "other")]);
    let mut state = AlertState::default();
    let elements = vec![Element { labels, value: 2.5 }];
    let mut transitions = Vec::new();
    state
        .advance(
            &rule,
            0,
            elements,
            (&LabelSet::default(), ""),
            (1500, EvaluationKind::Regular),
            &mut transitions,
        )
        .unwrap();
    let alert = &transitions[0].alert;
    let expected = [("alertname", "A"), ("l", "x"), ("sev", "x!")];
    assert_eq!(
        alert.labels,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    );
    assert_eq!(alert.annotations.get("s"), Some("v=2.5"));
    assert_eq!((alert.starts_at.as_millisecond(), alert.source), (1500, Source::Local));
    let series: Vec<String> = state
        .series()
        .iter()
        .map(|s| format!("{} {}", s.labels, s.value))
        .collect();
    let labels = "alertname=\"A\"";
    assert_eq!(
        series,
        [
            format!("ALERTS{{{labels}, alertstate=\"firing\", l=\"x\", sev=\"x!\"}} 1"),
            format!("ALERTS_FOR_STATE{{{labels}, l=\"x\", sev=\"x!\"}} 1"),
        ]
    );
}

#[test]
fn alerts_with_equal_labels_are_an_error() {
    let text = "groups: [{name: g, rules: [{alert: A, expr: a, labels: {l: same}}]}]";
    let mut file = parse("x.yml", text).unwrap();
    let Rule::Alerting(rule) = file.groups[0].rules.remove(0) else {
        panic!()
    };
    let element = |l: &str| Element {
        labels: LabelSet::from_pairs([("l", l)]),
        value: 1.0,
    };
    let mut state = AlertState::default();
    let both = vec![element("x"), element("y")];
    let result = state.advance(
        &rule,
        0,
        both,
        (&LabelSet::default(), ""),
        (0, EvaluationKind::Regular),
        &mut Vec::new(),
    );
    assert!(matches!(result, Err(AlertingError::SameLabels(_))));
    assert_eq!(state.active().count(), 0);
}
