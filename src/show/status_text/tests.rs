//! Tests of the text of the status.

use super::*;
use crate::publish::nothing_done;
use crate::telemetry::MAX_RECENT;
use std::sync::Arc;

fn answer() -> Answer {
    serde_json::from_value(answer_json()).unwrap()
}

fn answer_json() -> serde_json::Value {
    let event = serde_json::json!({
        "at": "2026-01-02T03:04:00Z", "rule": "calm", "alertname": "A", "fingerprint": "f", "outcome": "applied",
        "pid": 4711, "process": "ff\u{1b}mpeg", "step": "nice 10", "before": "0", "after": "10",
    });
    let mut of_former_episode = event.clone();
    of_former_episode["at"] = "2026-01-02T02:04:00Z".into();
    let alert = |rule: &str| {
        serde_json::json!({"alertname": "A", "fingerprint": "f", "rule": rule, "source": "local", "state": "firing",
            "since": "2026-01-02T03:00:05Z", "opened_at": "2026-01-02T03:00:06Z", "dry_run": false, "episode": rule,
            "labels": {}, "targets": 1})
    };
    serde_json::json!({
        "version": "1.2.3", "host": {"name": "web1"}, "sampled_at": "2026-01-02T03:04:04.5Z",
        "frontend": {"since": "2026-01-02T03:02:00Z", "restarts": 1},
        "mode": "enforce", "paused": true, "leases_held": 12,
        "paused_by": {"at": "2026-01-02T03:03:05Z", "rule": "", "alertname": "", "operation": "pause",
            "reason": "by root (uid 0): a test"},
        "alerts": [alert("waits"), alert("calm")],
        "rules": [
            {"rule": "calm", "steps": ["nice 10"], "acts": true},
            {"rule": "waits", "steps": ["wait 10m", "nice 10"], "acts": true},
            {"rule": "other", "steps": ["freeze"], "acts": false},
            {"rule": "quiet", "steps": ["freeze"], "acts": false},
        ],
        "leases": [{"id": 7, "rule": "calm", "fingerprint": "f", "since": "2026-01-02T03:04:00Z", "pid": 4711,
            "process": "ffmpeg", "what": "nice 0 -> 10", "until": "2026-01-02T03:05:05Z"}],
        "actions": [event, of_former_episode],
        "decisions": [{"at": "2026-01-02T03:04:00Z", "rule": "calm", "alertname": "A", "fingerprint": "f",
            "decision": "no_target", "reason": "no process matches the selector"}],
        "budget_remaining": 2, "commands_remaining": 9,
        "budget": {"final_steps": 3, "commands": 10, "per_seconds": 300},
        "breakers_open": ["other"], "ledger_writable": false, "config_last_reload_successful": true,
        "trail": {"cpu_busy_ratio": [0.0, null, 0.5, 1.0]},
        "effects": {"calm": "CPU busy 98.0 % → 61.0 %"},
        "collectors": [{"name": "cpu", "success": true}, {"name": "zfs", "success": false}],
    })
}

const NOW: &str = "2026-01-02T03:04:05Z";

#[test]
fn status_has_the_order_of_the_page() {
    let expected = "\
evenkeel 1.2.3 on web1, sampled at 03:04:04 UTC
paused: no new steps; leases are still reverted
  1m0s ago by root (uid 0): a test, until `evenkeel resume`
last action 5s ago: applied nice 10 on 4711 ff\\u{1b}mpeg (0 -> 10), rule calm
not healthy: the ledger cannot be written, so only rules with without_ledger apply steps; 1 breaker open
actuator running, no restarts; frontend running for 2m5s, 1 restart
2 of 3 irreversible actions and 9 of 10 commands left per 5m0s
  other has an open breaker; `evenkeel release --breaker other` closes it

FIRING ALERTS
A firing for 4m0s, from local
  rule calm
          5s ago  applied nice 10 on 4711 ff\\u{1b}mpeg (0 -> 10)
          5s ago  no target
                  no process matches the selector
    held: lease 7, until the alert is over, at the latest in 1m0s; there are more leases than are listed here
    did it help? CPU busy 98.0 % -> 61.0 %
  rule waits
    nothing yet; its steps are wait 10m, nice 10
    held: there are more leases than are listed here

HOST, LAST MINUTES
CPU busy            100.0 %  ▁ ▅█

LEASES
NUMBER  TARGET       CHANGE        UNDONE   RULE
7       4711 ffmpeg  nice 0 -> 10  in 1m0s  calm
and 11 more: `evenkeel leases`

LAST ACTIONS
      5s ago  applied nice 10 on 4711 ff\\u{1b}mpeg (0 -> 10)
    1h0m ago  applied nice 10 on 4711 ff\\u{1b}mpeg (0 -> 10)

RULES
calm (enforce): nice 10
waits (enforce): wait 10m, nice 10
other (dry-run): freeze
1 rule without an open alert or lease

COLLECTORS
1 of 2 collectors read without error
";
    assert_eq!(text(&answer(), NOW.parse().unwrap(), "", Style::PLAIN), expected);
}

#[test]
fn alert_with_more_events_than_are_listed_says_so() {
    let mut json = answer_json();
    let mut of_others = json["actions"][0].clone();
    of_others["rule"] = "other".into();
    json["actions"] = vec![of_others; MAX_RECENT].into();
    let status = serde_json::from_value(json).unwrap();
    let alerts = alerts::alerts(&status, NOW.parse().unwrap(), "", Style::PLAIN);
    let forgotten = nothing_done(&[], true);
    assert!(alerts.contains(&format!("  rule waits\n    {forgotten}\n")), "{alerts}");
}

#[test]
fn paused_rules_and_alerts_that_no_rule_answers_are_named() {
    let mut json = answer_json();
    json["paused_rules"] = serde_json::json!(["waits"]);
    let alert = serde_json::json!({"alertname": "Full", "labels": {}, "source": "local", "since": NOW});
    json["unanswered_alerts"] = vec![alert; 11].into();
    let mut pause = json["actions"][0].clone();
    pause.as_object_mut().unwrap().remove("outcome");
    for (field, value) in [
        ("operation", "pause"),
        ("rule", "waits"),
        ("reason", "by root (uid 0): a look"),
        ("at", NOW),
    ] {
        pause[field] = value.into();
    }
    json["actions"].as_array_mut().unwrap().insert(0, pause);
    let status = serde_json::from_value(json).unwrap();
    let text = text(&status, NOW.parse().unwrap(), "", Style::PLAIN);
    assert!(text.contains("  rule waits (paused)\n"), "{text}");
    let expected = "waits is paused: 0s ago by root (uid 0): a look, until `evenkeel resume --rule waits`\n";
    assert!(text.contains(expected), "{text}");
    assert_eq!(
        text.matches("Full for 0s, from local: no rule answers\n").count(),
        10,
        "{text}"
    );
    assert!(text.contains("and 1 more that no rule answers\n"), "{text}");
}

#[test]
fn status_fits_80_columns() {
    let mut status = answer();
    let long = "a ".repeat(60);
    status.activity.paused_by.as_mut().unwrap().reason.clone_from(&long);
    Arc::make_mut(&mut status.activity.actions[0]).process = Some(long.clone());
    status.effects.insert("calm".to_owned(), long.clone());
    status.activity.rules[0].steps = vec!["cgroup memory.high 50%".to_owned(); 9];
    status.activity.rules[1].steps = vec!["cgroup memory.high 50%".to_owned(); 9];
    status.activity.leases[0].process = format!("/system.slice/{}", "x".repeat(50));
    status
        .trail
        .insert("memory_used_ratio".to_owned(), vec![Some(0.5); 300]);
    let style = Style {
        color: false,
        columns: Some(80),
    };
    let text = text(&status, NOW.parse().unwrap(), "", style);
    assert!(text.lines().all(|line| width(line) <= 80), "{text}");
}

#[test]
fn sparklines_fit_their_columns() {
    let values: Vec<Option<f32>> = (0..300).map(|number| Some(number as f32 / 299.0)).collect();
    let line = sparkline(&values, 60);
    assert_eq!(line.chars().count(), 60);
    assert!(line.starts_with('▁') && line.ends_with('█'));
    assert_eq!(sparkline(&[], 60), "");
}

#[test]
fn healthy_daemon_says_what_works_and_older_ones_are_understood() {
    let mut json = answer_json();
    json["ledger_writable"] = true.into();
    json["breakers_open"] = serde_json::json!([]);
    json["leases"][0]["rule"] = "quiet".into();
    // Left out by versions before they existed.
    for field in ["effects", "engine_restarts"] {
        json.as_object_mut().unwrap().remove(field);
    }
    let status = serde_json::from_value(json).unwrap();
    let text = text(&status, NOW.parse().unwrap(), "", Style::PLAIN);
    assert!(
        text.contains("\nhealthy: ledger, configuration, actuator, frontend and breakers\n"),
        "{text}"
    );
    // A rule with a lease is active, too.
    assert!(
        text.contains("\nquiet (dry-run): freeze\n1 rule without an open alert or lease\n"),
        "{text}"
    );
}

#[test]
fn commands_reach_this_daemon_and_are_quoted() {
    let mut status = answer();
    status.breakers_open = vec!["$(x)".to_owned()];
    let text = text(&status, NOW.parse().unwrap(), " --storage.path=/run/x", Style::PLAIN);
    for command in [
        "`evenkeel release --breaker '$(x)' --storage.path=/run/x`",
        "`evenkeel resume --storage.path=/run/x`",
        "`evenkeel leases --storage.path=/run/x`",
    ] {
        assert!(text.contains(command), "{command} in {text}");
    }
}

#[test]
fn leases_have_no_escapes() {
    let mut status = answer();
    status.activity.leases[0].rule = "a\u{1b}[2J".to_owned();
    status.activity.leases[0].what = "nice \u{202e}0 -> 10".to_owned();
    let text = leases(&status, NOW.parse().unwrap(), "", Style::PLAIN);
    assert!(
        text.contains("a\\u{1b}[2J") && text.contains("nice \\u{202e}0 -> 10"),
        "{text}"
    );
}

#[test]
fn lease_that_restored_nothing_is_not_shown_as_good() {
    let style = Style {
        color: true,
        columns: None,
    };
    let superseded = Event {
        kind: crate::telemetry::EventKind::outcome("superseded"),
        step: Some("undo nice".to_owned()),
        ..Event::clone(&answer().activity.actions[0])
    };
    let text = line(&superseded, NOW.parse().unwrap(), style, "");
    assert!(text.contains(&style.paint(Tone::Held, "superseded")), "{text}");
}
