//! A status page with many leases, full lists and a day of history, served without a daemon: for views that a test cannot
//! bring about in a short time, and for the benchmark of the page.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::http::Access;
use evenkeel::publish::{self, HandlerOptions, MetricsHandler, MetricsServer};
use evenkeel::sense::DayHistory;
use evenkeel::telemetry::{
    BudgetLimits, EndedAlert, EndedLease, EngineState, Event, EventKind, LeaseStatus, OpenAlert, OpenLists, RuleStatus,
    StoredActivity, Telemetry, episode_id,
};
use jiff::{SignedDuration, Timestamp};

/// Figures of the last day that change from sample to sample.
pub fn day_history() -> DayHistory {
    let mut history = DayHistory::default();
    let now = Timestamp::now().as_second();
    for step in 0..86_400 / 5 {
        let value = (step * 7919 % 1009) as f32 / 1009.0;
        let sample = std::array::from_fn(|place| if place < 5 { value } else { value * 1e9 });
        let at = u64::try_from(now - 86_400 + step * 5).unwrap_or_default();
        history.observe(Duration::from_secs(at), &sample);
    }
    history
}

/// Episodes of the last day that are over, at equal distances. Each has a lease that ended, a step that was applied, one
/// that was not, and the revert.
pub fn day_activity(episodes: i32) -> StoredActivity {
    let (rule, now) = ("calm-batch-jobs", Timestamp::now());
    let mut activity = StoredActivity::default();
    for number in 0..episodes {
        let began = now - SignedDuration::from_mins(24 * 60 - 30) * number / episodes - SignedDuration::from_mins(20);
        let ended_at = began + SignedDuration::from_mins(12);
        let fingerprint = format!("f{number}");
        let lease = LeaseStatus {
            since: began,
            ..lease(rule, &fingerprint, 100_000 + u64::from(number.unsigned_abs()))
        };
        activity.leases.push(EndedLease { lease, ended_at });
        activity.alerts.push(EndedAlert {
            alert: alert(rule, &fingerprint, began),
            ended_at,
        });
        let event = |at, kind, step: &str| Event {
            at,
            step: Some(step.to_owned()),
            fingerprint: fingerprint.as_str().into(),
            ..event(rule, number, kind)
        };
        activity
            .actions
            .push(event(ended_at, EventKind::outcome("restored"), "undo nice"));
        activity
            .actions
            .push(event(began, EventKind::outcome("applied"), "nice 10"));
        activity
            .decisions
            .push(event(began, EventKind::decision("protected"), "nice 10"));
    }
    activity
}

fn alert(rule: &str, fingerprint: &str, since: Timestamp) -> OpenAlert {
    OpenAlert {
        episode: episode_id(rule, fingerprint, false, since),
        fingerprint: fingerprint.into(),
        opened_at: since,
        alertname: "HostCpuSaturated".to_owned(),
        labels: [("severity".to_owned(), "warning".to_owned())].into(),
        rule: rule.to_owned(),
        source: "alertmanager".into(),
        since,
        state: "firing".into(),
        dry_run: false,
        targets: 1,
        runbook_url: None,
        generator_url: None,
        rule_text: Arc::default(),
    }
}

fn lease(rule: &str, fingerprint: &str, id: u64) -> LeaseStatus {
    let now = Timestamp::now();
    LeaseStatus {
        id,
        rule: rule.to_owned(),
        fingerprint: fingerprint.into(),
        since: now,
        pid: i32::try_from(10_000 + id).ok(),
        process: format!("worker-{id}"),
        what: "nice 0 -> 10".to_owned(),
        until: Some(now + SignedDuration::from_mins(30)),
        released: None,
    }
}

fn event(rule: &str, pid: i32, kind: EventKind) -> Event {
    Event {
        at: Timestamp::now(),
        rule: rule.to_owned(),
        alertname: "HostCpuSaturated".to_owned(),
        fingerprint: "f".into(),
        kind,
        pid: Some(10_000 + pid),
        process: Some(format!("worker-{pid}")),
        step: Some("nice 10".to_owned()),
        before: Some("0".to_owned()),
        after: Some("10".to_owned()),
        reason: String::new(),
    }
}

/// A daemon's state with many leases and full lists, after a restart with this activity.
pub fn telemetry(activity: StoredActivity, leases: u64, ledger_writable: bool) -> Telemetry {
    let (telemetry, now) = (Telemetry::default(), Timestamp::now());
    telemetry.restore(activity);
    telemetry.reloaded(Some(now.as_second() as f64));
    let rule = "calm-batch-jobs".to_owned();
    telemetry.set_rules(vec![RuleStatus {
        rule: rule.clone(),
        steps: vec!["nice 10".to_owned(), "ionice idle".to_owned()],
        text: "name: calm-batch-jobs".into(),
        actions: ["nice", "ionice"].into(),
        acts: true,
        last_decision: None,
    }]);
    let listed = (1..=leases).map(|id| lease(&rule, "f", id));
    let open_alert = OpenAlert {
        targets: leases as usize,
        ..alert(&rule, "f", now)
    };
    let open = OpenLists {
        alerts: vec![open_alert],
        leases: listed.collect(),
        is_complete: true,
    };
    telemetry.set_open(open, now);
    telemetry.set_state(EngineState {
        enforce: true,
        is_ledger_lost: !ledger_writable,
        budget_remaining: 3,
        commands_remaining: 10,
        budget: BudgetLimits {
            final_steps: 3,
            commands: 10,
            per_seconds: 300,
        },
        rules: 1,
        alerts_firing: [("alertmanager", 1)].into(),
        leases: [((rule.clone(), "nice"), leases as usize)].into(),
        ..EngineState::default()
    });
    for pid in 0..100 {
        for kind in [EventKind::decision("planned"), EventKind::outcome("applied")] {
            telemetry.record_event(event(&rule, pid, kind));
        }
    }
    telemetry
}

pub fn server(handler: Arc<MetricsHandler>) -> MetricsServer<MetricsHandler> {
    MetricsServer {
        service: handler,
        access: Access::open(),
        telemetry_path: HandlerOptions::default().telemetry_path.into(),
        max_connections: publish::MAX_CONNECTIONS,
    }
}

/// Serves a handler until the benchmark exits, and returns its address.
pub fn serve(runtime: &tokio::runtime::Runtime, handler: Arc<MetricsHandler>) -> std::io::Result<String> {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let url = format!("http://{}/", listener.local_addr()?);
    runtime.spawn(server(handler).run(listener, std::future::pending()));
    Ok(url)
}
