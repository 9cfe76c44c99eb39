//! A status page with many leases and full lists, served without a daemon: for views that a test cannot bring about in a
//! short time, and for the benchmark of the page.

use std::sync::Arc;

use evenkeel::http::Access;
use evenkeel::publish::{self, HandlerOptions, MetricsHandler, MetricsServer};
use evenkeel::telemetry::{
    BudgetLimits, EngineState, Event, EventKind, LeaseStatus, OpenAlert, OpenLists, RuleStatus, Telemetry, episode_id,
};
use jiff::Timestamp;

/// A daemon's state with many leases and full lists.
pub fn telemetry(leases: u64, ledger_writable: bool) -> Telemetry {
    let (telemetry, now) = (Telemetry::default(), Timestamp::now());
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
    let listed = (1..=leases).map(|id| LeaseStatus {
        id,
        rule: rule.clone(),
        fingerprint: "f".into(),
        since: now,
        pid: Some(10_000 + id as i32),
        process: format!("worker-{id}"),
        what: "nice 0 -> 10".to_owned(),
        until: Some(now + jiff::SignedDuration::from_mins(30)),
        released: None,
    });
    let alert = OpenAlert {
        episode: episode_id(&rule, "f", false, now),
        fingerprint: "f".into(),
        opened_at: now,
        alertname: "HostCpuSaturated".to_owned(),
        labels: [("severity".to_owned(), "warning".to_owned())].into(),
        rule: rule.clone(),
        source: "alertmanager".into(),
        since: now,
        state: "firing".into(),
        dry_run: false,
        targets: leases as usize,
        runbook_url: None,
        generator_url: None,
        rule_text: Arc::default(),
    };
    let open = OpenLists {
        alerts: vec![alert],
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
            telemetry.record_event(Event {
                at: now,
                rule: rule.clone(),
                alertname: "HostCpuSaturated".to_owned(),
                fingerprint: "f".into(),
                kind,
                pid: Some(10_000 + pid),
                process: Some(format!("worker-{pid}")),
                step: Some("nice 10".to_owned()),
                before: Some("0".to_owned()),
                after: Some("10".to_owned()),
                reason: String::new(),
            });
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
