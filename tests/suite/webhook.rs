//! The webhook's responses to invalid requests: the right code, one log line, and no action.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::burner::Burner;
use crate::support::daemon::{Daemon, Home, TOKEN};
use crate::support::payload::{about, envelope, firing};
use crate::support::{eventually, http, node_name};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than the interval between two log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_millis(1100);
const RULE_NICE: i32 = 15;
const OVER_THE_LIMIT_BYTES: usize = 5 * 1024 * 1024;
const DEEP: usize = 10_000;

struct Bench {
    burner: Burner,
    evenkeel: Daemon,
    _home: Home,
}

/// evenkeel in `enforce`, with a burner that an alert named `Test` about this host would reach.
fn bench(comm: &str) -> Bench {
    let name = format!("{comm}-{}", std::process::id() % 100_000);
    let home = Home::new(&format!(
        "rules:\n\
         \x20 - name: test\n\
         \x20   matchers: ['alertname=\"Test\"']\n\
         \x20   select: {{name: {name}}}\n\
         \x20   actions: [{{nice: {RULE_NICE}}}]\n"
    ));
    let burner = Burner::start(&name);
    let evenkeel = home.start(&["--enforce"]);
    Bench {
        burner,
        evenkeel,
        _home: home,
    }
}

struct Request {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    content_type: &'static str,
    authorization: Option<&'static str>,
    origin: Option<&'static str>,
    body: String,
    expected_status: u16,
}

/// A valid request about this host. Each case below invalidates one part.
fn good() -> Request {
    Request {
        what: "good",
        method: "POST",
        path: "/webhook",
        content_type: "application/json",
        authorization: Some("Bearer the-token-of-the-tests"),
        origin: None,
        body: about("Test", &node_name()),
        expected_status: 200,
    }
}

impl Request {
    fn send(&self, evenkeel: &Daemon) -> http::Response {
        let mut headers = vec![("Content-Type", self.content_type)];
        headers.extend(self.authorization.map(|value| ("Authorization", value)));
        headers.extend(self.origin.map(|value| ("Origin", value)));
        http::request(evenkeel.webhook, self.method, self.path, &headers, self.body.as_bytes())
            .unwrap_or_else(|error| panic!("{}: no answer: {error}", self.what))
    }
}

fn bad_requests() -> Vec<Request> {
    let mut other_version = envelope(&[firing(json!({"alertname": "Test", "instance": node_name()}))]);
    other_version["version"] = json!("3");
    let huge = about("Test", &node_name()).replace("a test", &"x".repeat(OVER_THE_LIMIT_BYTES));
    let without_instance = envelope(&[firing(json!({"alertname": "Test"}))]).to_string();
    let nested = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));
    let nested_inside = about("Test", &node_name()).replacen("\"version\"", &format!("\"x\":{nested},\"version\""), 1);
    vec![
        Request {
            what: "empty",
            body: String::new(),
            expected_status: 400,
            ..good()
        },
        Request {
            what: "not JSON",
            body: "alert!".to_owned(),
            expected_status: 400,
            ..good()
        },
        Request {
            what: "wrong version",
            body: other_version.to_string(),
            expected_status: 400,
            ..good()
        },
        Request {
            what: "a list",
            body: "[]".to_owned(),
            expected_status: 400,
            ..good()
        },
        Request {
            what: "nested deeply",
            body: nested,
            expected_status: 400,
            ..good()
        },
        Request {
            what: "nested deeply inside",
            body: nested_inside,
            expected_status: 400,
            ..good()
        },
        Request {
            what: "5 MiB",
            body: huge,
            expected_status: 413,
            ..good()
        },
        Request {
            what: "Origin header",
            origin: Some("http://evil.example"),
            expected_status: 403,
            ..good()
        },
        Request {
            what: "no token",
            authorization: None,
            expected_status: 401,
            ..good()
        },
        Request {
            what: "wrong token",
            authorization: Some("Bearer guess"),
            expected_status: 401,
            ..good()
        },
        Request {
            what: "empty token",
            authorization: Some("Bearer "),
            expected_status: 401,
            ..good()
        },
        Request {
            what: "text",
            content_type: "text/plain",
            expected_status: 415,
            ..good()
        },
        Request {
            what: "GET",
            method: "GET",
            expected_status: 405,
            ..good()
        },
        Request {
            what: "unknown path",
            path: "/elsewhere",
            expected_status: 404,
            ..good()
        },
        Request {
            what: "another host",
            body: about("Test", "another-host:9100"),
            expected_status: 200,
            ..good()
        },
        Request {
            what: "no identity label",
            body: without_instance,
            expected_status: 200,
            ..good()
        },
    ]
}

#[test]
fn bad_requests_get_their_code_one_log_line_and_no_action() {
    let bench = bench("bad-req");
    // Log lines of the start must not count as those of a request.
    bench.evenkeel.log_of_start();
    let before = bench.burner.nice_values();
    let mut logged_at = BTreeMap::new();
    for request in bad_requests() {
        // The log has one line a second for each code.
        if let Some(last) = logged_at.get(&request.expected_status).map(Instant::elapsed) {
            std::thread::sleep(LOG_INTERVAL.saturating_sub(last));
        }
        let lines_before = bench.evenkeel.log().len();
        let answer = request.send(&bench.evenkeel);
        assert_eq!(answer.status, request.expected_status, "{}: {answer:?}", request.what);
        assert_eq!(answer.header("Location"), None, "{}: never a redirect", request.what);
        eventually(&format!("a log line about: {}", request.what), TIMEOUT, || {
            (bench.evenkeel.log().len() > lines_before).then_some(())
        });
        logged_at.insert(request.expected_status, Instant::now());
        let new_lines = bench.evenkeel.log().split_off(lines_before);
        assert_eq!(new_lines.len(), 1, "{}: {new_lines:#?}", request.what);
        assert!(!new_lines[0].contains(TOKEN), "no secret in the log: {new_lines:?}");
    }
    assert_eq!(bench.evenkeel.metric("evenkeel_actions_total", &[]), 0.0);
    assert_eq!(bench.burner.nice_values(), before);
}

/// Sends the payload and expects that it reaches the burner.
#[track_caller]
fn check_acts(comm: &str, body: &str) {
    let bench = bench(comm);
    let answer = bench.evenkeel.post(body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("the burner to be niced", TIMEOUT, || {
        bench.burner.is_at(RULE_NICE).then_some(())
    });
}

#[test]
fn a_good_payload_acts() {
    check_acts("good", &good().body);
}

#[test]
fn one_bad_entry_does_not_spoil_the_good_ones() {
    let good = firing(json!({"alertname": "Test", "instance": node_name()}));
    let bad = json!({"status": "perhaps", "labels": "none"});
    check_acts("bad-entry", &envelope(&[bad, good]).to_string());
}

#[test]
fn unknown_fields_and_a_missing_fingerprint_are_no_fault() {
    let mut entry = firing(json!({"alertname": "Test", "instance": node_name()}));
    entry.as_object_mut().expect("an object").remove("fingerprint");
    entry["unheardOf"] = json!({"deep": [1, 2, 3]});
    let mut payload = envelope(&[entry]);
    payload["alsoUnheardOf"] = json!(null);
    check_acts("unknown", &payload.to_string());
}

/// A body of Grafana with an alert named `Test` about this host, and `changed` in its first entry.
fn grafana(changed: &[(&str, &str)]) -> String {
    let text = include_str!("../fixtures/grafana/webhook_group.json").replace("HostCpuSaturated", "Test");
    let mut body: serde_json::Value = serde_json::from_str(&text).expect("a fixture in JSON");
    let entry = &mut body["alerts"][0];
    entry["labels"]["instance"] = json!(node_name());
    for (key, value) in changed {
        entry[key] = json!(value);
    }
    body.to_string()
}

#[test]
fn alert_of_grafana_acts_once_and_its_resolve_reverts() {
    let bench = bench("grafana");
    let before = bench.burner.nice_values();
    let post = |body: &str| assert_eq!(bench.evenkeel.post(body.as_bytes()).status, 200);
    post(&grafana(&[]));
    eventually("the burner to be niced", TIMEOUT, || {
        bench.burner.is_at(RULE_NICE).then_some(())
    });
    let applied = || {
        bench
            .evenkeel
            .metric("evenkeel_actions_total", &[("outcome", "applied")])
    };
    let steps = eventually("the outcome in the metrics", TIMEOUT, || {
        Some(applied()).filter(|&steps| steps > 0.0)
    });
    // A repeat confirms the alert, and is no new one.
    post(&grafana(&[]));
    bench.evenkeel.wait_for_leases(steps as usize);
    assert_eq!(applied(), steps);
    post(&grafana(&[
        ("status", "resolved"),
        ("endsAt", "2026-11-30T09:40:10+01:00"),
    ]));
    eventually("the former nice values", TIMEOUT, || {
        (bench.burner.nice_values() == before).then_some(())
    });
}

#[test]
fn enforce_without_authentication_refuses_to_start() {
    let home = Home::new("rules: []\n");
    home.write("evenkeel.yml", "mode: enforce\nrule_files: [rules/*.yml]\n");
    let (status, said) = home.run_to_its_end("127.0.0.1:0", "127.0.0.1:0");
    assert!(!status.success(), "{said}");
    assert!(said.contains("token_file"), "{said}");
    assert!(!said.contains("addr="), "no port is bound: {said}");
}
