//! Tests of the decoder with real, broken and hostile bodies.

use super::*;
use crate::alert::Status;
use crate::alert::alert::fingerprint;

const NOW: &str = "2026-11-22T04:00:00Z";

/// Decodes at once and entry by entry, which must have the same result.
fn read(body: &str) -> Result<Envelope, DecodeError> {
    let now = NOW.parse().unwrap();
    let read = decode(body.as_bytes(), now);
    let long = [body, &" ".repeat(MAX_AT_ONCE_BYTES)].concat();
    assert_eq!(
        read.as_ref().ok(),
        decode(long.as_bytes(), now).as_ref().ok(),
        "{body:.60}"
    );
    read
}

fn entry(alert: &str) -> Result<Alert, InvalidEntry> {
    let mut envelope = read(&format!(r#"{{"version":"4","alerts":[{alert}]}}"#)).unwrap();
    envelope.alerts.remove(0)
}

#[test]
fn body_of_alertmanager_is_decoded() {
    let envelope = read(include_str!("../../../tests/fixtures/alertmanager/webhook_group.json")).unwrap();
    assert_eq!(envelope.truncated, 1);
    assert_eq!(envelope.receiver, "evenkeel");
    assert_eq!(envelope.group_key, r#"{}:{alertname="HostCpuSaturated"}"#);
    let statuses: Vec<Status> = envelope
        .alerts
        .iter()
        .map(|alert| alert.as_ref().unwrap().status)
        .collect();
    assert_eq!(statuses, [Status::Firing, Status::Resolved]);
    let firing = envelope.alerts[0].as_ref().unwrap();
    assert_eq!(firing.name(), "HostCpuSaturated");
    assert_eq!(firing.ends_at, None);
    let resolved = envelope.alerts[1].as_ref().unwrap();
    assert!(resolved.ends_at.unwrap() > resolved.starts_at);
    for alert in &envelope.alerts {
        let alert = alert.as_ref().unwrap();
        assert_eq!(
            alert.fingerprint,
            fingerprint(&alert.labels),
            "computed as Alertmanager computes it"
        );
    }
}

#[test]
fn body_of_grafana_is_decoded() {
    let body = include_str!("../../../tests/fixtures/grafana/webhook_group.json");
    let envelope = read(body).unwrap();
    assert_eq!((envelope.truncated, &*envelope.receiver), (0, "evenkeel"));
    let alerts: Vec<Alert> = envelope.alerts.into_iter().map(Result::unwrap).collect();
    let [firing, resolved] = alerts.try_into().unwrap();
    assert_eq!((firing.status, firing.ends_at), (Status::Firing, None));
    assert_eq!(firing.labels.get("grafana_folder"), Some("Hosts"));
    assert_eq!(firing.starts_at.to_string(), "2026-11-30T08:20:10Z");
    // Grafana's fingerprint counts labels that it leaves out of the body.
    assert_ne!(firing.fingerprint, fingerprint(&firing.labels));
    assert!(body.contains(&*firing.fingerprint));
    assert!(firing.generator_url.is_some());
    assert_eq!(resolved.status, Status::Resolved);
    assert_eq!(resolved.ends_at.unwrap().to_string(), "2026-11-30T08:31:10Z");
}

#[test]
fn other_bodies_are_rejected_with_the_reason() {
    let check = |body: &str, says: &str| {
        let wrong = read(body).expect_err(body).to_string();
        assert!(wrong.contains(says), "{body:.60}: {wrong}");
    };
    check("", "empty");
    check(" \n", "empty");
    check("firing", "begins with 'f'");
    check("[]", "begins with '['");
    check(r#"["4", []]"#, "begins with '['");
    check("\u{feff}{}", "begins with");
    check(r#"{"version":"4","alerts":[]"#, "EOF");
    check(r#"{"version":"4","alerts":[]} x"#, "trailing");
    check(r#"{"version":"4","alerts":{}}"#, "sequence");
    check(r#"{"version":"4"}"#, "\"alerts\" is missing");
    check(r#"{"alerts":[]}"#, "\"version\" is missing");
    check(r#"{"version":4,"alerts":[]}"#, "\"version\" is 4;");
    check(r#"{"version":"3","alerts":[]}"#, "\"version\" is \"3\"");
    check(r#"{"version":"1"}"#, "\"alerts\" is missing");
    check(r#"{"version":"14","alerts":[]}"#, "\"version\" is \"14\"");
    check(r#"{"version":"4","version":"4","alerts":[]}"#, "duplicate field");
    check(r#"{"version":"4","alerts":[],"truncatedAlerts":-1}"#, "u64");
    let many = format!(r#"{{"version":"4","alerts":[{}0]}}"#, "0,".repeat(MAX_ENTRIES));
    check(&many, "65537 entries");
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    check(&deep("[", "]"), "nested");
    check(&deep("[", ""), "nested");
    check(&deep(r#"{"a":"#, "}"), "nested");
    check(&format!(r#"{{"version":"4","alerts":[{}]}}"#, deep("[", "]")), "nested");
    check(
        &format!(r#"{{"version":"4","alerts":[],"new":{}}}"#, deep("[", "]")),
        "nested",
    );
    assert!(matches!(
        decode(b"{\"a\xff\"", Timestamp::UNIX_EPOCH),
        Err(DecodeError::NotUtf8 { valid_up_to: 3 })
    ));
}

#[test]
fn brackets_in_strings_do_not_nest() {
    let name = r#"[[\"{{\\"#.repeat(1000);
    let alert = entry(&format!(r#"{{"status":"firing","labels":{{"a":"{name}"}}}}"#)).unwrap();
    assert_eq!(alert.labels.get("a").unwrap(), r#"[["{{\"#.repeat(1000));
}

#[test]
fn invalid_entry_does_not_affect_others() {
    let body = r#"{"version":"4","status":"resolved","commonLabels":{"a":7},"new":[{}],"alerts":[
        {"status":"firing","labels":{"a":"1"},"startsAt":"2026-11-22T03:00:00Z","new":{"x":[1]}},
        7,
        {"status":"firing","labels":{"a":"3"},"startsAt":"2026-11-22T03:00:00.5+01:00","fingerprint":null}
    ]}"#;
    let envelope = read(body).unwrap();
    assert_eq!(envelope.alerts.len(), 3);
    assert_eq!(
        envelope.alerts[0].as_ref().unwrap().status,
        Status::Firing,
        "the group's status does not count"
    );
    assert_eq!(
        envelope.alerts[1].as_ref().unwrap_err().to_string(),
        "alerts[1]: an alert is a JSON object"
    );
    let third = envelope.alerts[2].as_ref().unwrap();
    assert_eq!(third.starts_at.to_string(), "2026-11-22T02:00:00.5Z");
    assert_eq!(third.fingerprint, fingerprint(&third.labels));
}

#[test]
fn invalid_entry_has_a_reason() {
    let check = |alert: &str, says: &str| {
        let wrong = entry(alert).expect_err(alert);
        assert!(wrong.reason.contains(says), "{alert:.60}: {wrong}");
        assert!(wrong.reason.chars().count() <= MAX_REASON_CHARS + 1);
    };
    check("null", "JSON object");
    check(r#"["firing",{"a":"b"}]"#, "JSON object");
    check("{}", "status is missing");
    check(r#"{"status":"Firing","labels":{"a":"b"}}"#, "status is \"Firing\"");
    check(r#"{"status":7,"labels":{"a":"b"}}"#, "expected a string");
    check(r#"{"status":"firing"}"#, "labels are missing");
    check(r#"{"status":"firing","labels":{}}"#, "no label");
    check(r#"{"status":"firing","labels":{"a":""}}"#, "no label");
    check(r#"{"status":"firing","labels":{"":"b"}}"#, "empty name");
    check(r#"{"status":"firing","labels":{"a":1}}"#, "expected a string");
    check(r#"{"status":"firing","labels":{"a":null}}"#, "expected a string");
    check(r#"{"status":"firing","labels":{"a":["b"]}}"#, "expected a string");
    check(r#"{"status":"firing","labels":["a"]}"#, "an object of strings");
    check(
        r#"{"status":"firing","labels":{"a":"b","a":"b"}}"#,
        "\"a\" is given twice",
    );
    check(
        r#"{"status":"firing","status":"resolved","labels":{"a":"b"}}"#,
        "duplicate field",
    );
    check(
        r#"{"status":"firing","labels":{"a":"b"},"annotations":{"s":1}}"#,
        "expected a string",
    );
    check(
        r#"{"status":"firing","labels":{"a":"b"},"startsAt":"yesterday"}"#,
        "startsAt is \"yesterday\"",
    );
    check(
        r#"{"status":"firing","labels":{"a":"b"},"startsAt":"2026-11-22T03:00:00"}"#,
        "RFC 3339",
    );
    check(
        r#"{"status":"resolved","labels":{"a":"b"},"endsAt":"2026-13-22T03:00:00Z"}"#,
        "endsAt",
    );
    check(
        r#"{"status":"firing","labels":{"a":"b"},"startsAt":1}"#,
        "expected a string",
    );
    check(
        r#"{"status":"firing","labels":{"a":"b"},"fingerprint":"../etc"}"#,
        "16 hexadecimal",
    );
    check(
        &format!(r#"{{"status":"{}","labels":{{"a":"b"}}}}"#, "x".repeat(10_000)),
        "status is",
    );
}

#[test]
fn missing_times_are_filled_in_as_alertmanager_does() {
    let check = |times: &str, starts: &str, ends: Option<&str>| {
        let status = if ends.is_some() { "resolved" } else { "firing" };
        let alert = entry(&format!(r#"{{"status":"{status}","labels":{{"a":"b"}}{times}}}"#)).unwrap();
        assert_eq!(alert.starts_at, starts.parse().unwrap(), "{times}");
        assert_eq!(alert.ends_at, ends.map(|ends| ends.parse().unwrap()), "{times}");
    };
    let (early, late) = ("2026-11-22T01:00:00Z", "2026-11-22T02:00:00Z");
    let zero = "0001-01-01T00:00:00Z";
    check("", NOW, None);
    check(&format!(r#","startsAt":"{zero}""#), NOW, None);
    check(r#","startsAt":"""#, NOW, None);
    check(&format!(r#","startsAt":"{early}","endsAt":"{zero}""#), early, None);
    check(&format!(r#","startsAt":"{early}","endsAt":"{late}""#), early, None);
    check(
        &format!(r#","startsAt":"{early}","endsAt":"{late}""#),
        early,
        Some(late),
    );
    check(&format!(r#","endsAt":"{late}""#), late, Some(late));
    check(&format!(r#","startsAt":"{early}","endsAt":"{zero}""#), early, Some(NOW));
}

#[test]
fn a_fingerprint_that_was_sent_is_kept_in_lower_case() {
    let alert = entry(r#"{"status":"firing","labels":{"a":"b"},"fingerprint":"D2B371819297F98A"}"#).unwrap();
    assert_eq!(alert.fingerprint, "d2b371819297f98a");
}

proptest::proptest! {
    #[test]
    fn no_body_makes_decoding_panic(at in 0..900_usize, length in 0..40_usize, by: Vec<u8>) {
        let mut body = include_bytes!("../../../tests/fixtures/alertmanager/webhook_group.json").to_vec();
        let end = (at + length).min(body.len());
        body.splice(at.min(end)..end, by);
        let now = NOW.parse().unwrap();
        let decoded = decode(&body, now);
        body.resize(body.len() + MAX_AT_ONCE_BYTES, b' ');
        let each = decode(&body, now);
        proptest::prop_assert_eq!(decoded.as_ref().ok(), each.as_ref().ok());
        if let Ok(envelope) = decoded {
            for alert in envelope.alerts.into_iter().flatten() {
                proptest::prop_assert!(!alert.labels.is_empty());
                proptest::prop_assert!(alert.labels.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
                proptest::prop_assert_eq!(alert.ends_at.is_some(), alert.status == Status::Resolved);
                proptest::prop_assert_eq!(alert.fingerprint.len(), 16);
            }
        }
    }
}

#[test]
fn link_of_an_alert_is_a_web_address_or_missing() {
    for (url, expected) in [
        (
            "\"http://prometheus/graph?g0.expr=up\"",
            Some("http://prometheus/graph?g0.expr=up"),
        ),
        ("\"https://a/\\u0062\"", Some("https://a/b")),
        ("\"javascript:alert(1)\"", None),
        ("\"\"", None),
        ("null", None),
        ("7", None),
        ("{\"a\": [1]}", None),
    ] {
        let body = format!(
            "{{\"version\":\"4\",\"alerts\":[{{\"status\":\"firing\",\"labels\":{{\"a\":\"b\"}},\"generatorURL\":{url}}}]}}"
        );
        let envelope = decode(body.as_bytes(), Timestamp::UNIX_EPOCH).unwrap();
        let alert = envelope.alerts[0].as_ref().unwrap();
        assert_eq!(alert.generator_url.as_deref(), expected, "{url}");
    }
}
