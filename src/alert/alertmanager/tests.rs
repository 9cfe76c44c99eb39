//! Responses of Alertmanager 0.25, and polls written as tables.

use super::*;
use crate::alert::Labels;

fn alert(fingerprint: &str, starts_at: i64) -> Alert {
    Alert {
        labels: Labels::new(),
        annotations: Labels::new(),
        generator_url: None,
        status: Status::Firing,
        starts_at: Timestamp::from_second(starts_at).unwrap(),
        ends_at: None,
        fingerprint: fingerprint.into(),
        source: Source::Alertmanager,
    }
}

/// A response: Alertmanager, start of its process, and firing fingerprints.
type Answer<'a> = (&'a str, i64, &'a str);

fn survey(answers: &[Answer]) -> PollResult {
    let view = |(alertmanager, started_at, firing): &Answer| View {
        alertmanager: (*alertmanager).to_owned(),
        started_at: Timestamp::from_second(*started_at).unwrap(),
        firing: firing.split_whitespace().map(|f| alert(f, 0)).collect(),
    };
    PollResult {
        asked_at: Duration::ZERO,
        fresh_for: Duration::ZERO,
        views: answers.iter().map(view).collect(),
        patience: Duration::from_secs(300),
    }
}

/// Runs polls at these seconds, each with the open alerts and the expected ones that are over.
#[track_caller]
fn check(rounds: &[(u64, &[Answer], &str, &str)]) {
    let mut absences = MissingAlerts::default();
    for (second, answers, open, over) in rounds {
        let found = absences.judge(
            &open.split_whitespace().collect(),
            &survey(answers),
            Duration::from_secs(*second),
        );
        assert_eq!(found, over.split_whitespace().collect(), "at {second}");
    }
}

#[test]
fn an_alert_is_over_after_five_minutes_of_absence() {
    check(&[
        (0, &[("a", 1, "x y")], "x y", ""),
        (30, &[("a", 1, "y")], "x y", ""),
        (300, &[("a", 1, "y")], "x y", ""),
        (330, &[("a", 1, "y")], "x y", "x"),
    ]);
}

#[test]
fn absence_with_a_break_counts_from_zero() {
    check(&[
        (0, &[("a", 1, "")], "x", ""),
        (270, &[("a", 1, "x")], "x", ""),
        (300, &[("a", 1, "")], "x", ""),
        (570, &[("a", 1, "")], "x", ""),
        (600, &[("a", 1, "")], "x", "x"),
    ]);
    // An episode that reopened starts over.
    check(&[
        (0, &[("a", 1, "")], "x", ""),
        (30, &[("a", 1, "")], "", ""),
        (300, &[("a", 1, "")], "x", ""),
        (600, &[("a", 1, "")], "x", "x"),
    ]);
}

#[test]
fn silent_alertmanager_neither_closes_nor_keeps_open() {
    // No Alertmanager answers.
    check(&[(0, &[("a", 1, "")], "x", ""), (300, &[], "x", ""), (900, &[], "x", "")]);
    // Time without responses does not count as absence.
    check(&[
        (0, &[("a", 1, "")], "x", ""),
        (30, &[], "x", ""),
        (300, &[("a", 1, "")], "x", ""),
        (600, &[("a", 1, "")], "x", "x"),
    ]);
    // One of two Alertmanagers never responds again.
    check(&[
        (0, &[("a", 1, "x"), ("b", 1, "x")], "x", ""),
        (30, &[("a", 1, "")], "x", ""),
        (330, &[("a", 1, "")], "x", "x"),
    ]);
}

#[test]
fn one_alertmanager_that_knows_the_alert_keeps_it_open() {
    check(&[
        (0, &[("a", 1, ""), ("b", 1, "x")], "x", ""),
        (600, &[("a", 1, ""), ("b", 1, "x")], "x", ""),
        (630, &[("a", 1, ""), ("b", 1, "")], "x", ""),
        (900, &[("a", 1, ""), ("b", 1, "")], "x", ""),
        (930, &[("a", 1, ""), ("b", 1, "")], "x", "x"),
    ]);
}

#[test]
fn restarted_alertmanager_counts_once_it_is_up_long_enough() {
    check(&[
        (0, &[("a", 1, "")], "x", ""),
        (290, &[("a", 280, "")], "x", ""),
        (300, &[("a", 280, "")], "x", ""),
        (580, &[("a", 280, "")], "x", ""),
        (590, &[("a", 280, "")], "x", "x"),
    ]);
    // The other Alertmanager, which was up all the time, does not decide alone.
    check(&[
        (0, &[("a", 1, ""), ("b", 1, "")], "x", ""),
        (30, &[("a", 1, ""), ("b", 20, "")], "x", ""),
        (300, &[("a", 1, ""), ("b", 20, "")], "x", ""),
        (330, &[("a", 1, ""), ("b", 20, "")], "x", "x"),
    ]);
}

#[test]
fn listed_alert_is_not_absent() {
    let mut absences = MissingAlerts::default();
    let open = BTreeSet::from(["x", "y"]);
    let gone = survey(&[("a", 1, "")]);
    assert!(absences.judge(&open, &gone, Duration::ZERO).is_empty());
    absences.heard("x");
    assert_eq!(
        absences.judge(&open, &gone, Duration::from_secs(300)),
        BTreeSet::from(["y"])
    );
}

#[test]
fn several_alertmanagers_are_one_source() {
    let mut survey = survey(&[("a", 1, ""), ("b", 1, "")]);
    survey.views[0].firing = vec![alert("x", 10), alert("y", 20)];
    survey.views[1].firing = vec![alert("x", 30), alert("z", 5)];
    let found: Vec<(String, i64)> = survey
        .firing()
        .into_iter()
        .map(|alert| (alert.fingerprint.into(), alert.starts_at.as_second()))
        .collect();
    assert_eq!(found, [("x".into(), 30), ("y".into(), 20), ("z".into(), 5)]);
}

#[test]
fn receiver_name_is_matched_literally() {
    let check = |receiver: &str, expected: &str| {
        let path = alerts_path(receiver);
        assert_eq!(path.split_once("receiver=").unwrap().1, expected, "{receiver}");
    };
    check("evenkeel", "evenkeel");
    check("a.b|c*", "a%5C.b%5C%7Cc%5C%2A");
    check("web & db", "web%20%5C%26%20db");
    check("zürich", "z%C3%BCrich");
}

#[test]
fn responses_of_alertmanager_are_decoded() {
    let status = br#"{"cluster":{"name":"01","peers":[],"status":"ready"},"config":{"original":""},
        "uptime":"2026-03-01T10:00:00.123Z","versionInfo":{"version":"0.25.0"}}"#;
    assert_eq!(decode_start(status).unwrap().to_string(), "2026-03-01T10:00:00.123Z");
    let receivers = decode_receivers(br#"[{"name":"evenkeel"},{"name":"mail"}]"#).unwrap();
    assert_eq!(receivers, ["evenkeel", "mail"]);

    let entry = |fingerprint: &str, status: &str| {
        format!(
            r#"{{"annotations":{{"summary":"s"}},"endsAt":"2026-03-01T10:09:00Z","fingerprint":"{fingerprint}",
            "receivers":[{{"name":"evenkeel"}}],"startsAt":"2026-03-01T10:05:00Z","status":{status},
            "updatedAt":"2026-03-01T10:05:00Z","generatorURL":"","labels":{{"alertname":"A"}}}}"#
        )
    };
    let active = r#"{"inhibitedBy":[],"silencedBy":[],"state":"active"}"#;
    let suppressed = r#"{"inhibitedBy":[],"silencedBy":["7"],"state":"suppressed"}"#;
    let muted = r#"{"inhibitedBy":[],"silencedBy":[],"mutedBy":["nights"],"state":"active"}"#;
    let answer = format!(
        "[{},{},{}]",
        entry("000000000000000a", active),
        entry("000000000000000b", suppressed),
        entry("000000000000000c", muted)
    );
    let alerts = decode_alerts(answer.as_bytes()).unwrap();
    assert_eq!(alerts.len(), 1);
    assert_eq!((alerts[0].name(), &*alerts[0].fingerprint), ("A", "000000000000000a"));
    assert_eq!(alerts[0].starts_at.to_string(), "2026-03-01T10:05:00Z");

    for broken in ["", "{}", "[{}]", "null"] {
        assert!(decode_alerts(broken.as_bytes()).is_err(), "{broken}");
    }
    let spoilt = answer.replace("2026-03-01T10:05:00Z\",\"status", "yesterday\",\"status");
    assert!(decode_alerts(spoilt.as_bytes()).is_err());
}
