//! The telemetry of evenkeel itself: counters and state, written by receiver, engine and sampler, read by `publish`.
//! Label values come from closed enums or from rule names, never from alerts or processes.

mod activity;
mod day;
mod entry;
mod families;

pub use activity::{Activity, Episode, MAX_ENDED, MAX_RECENT, OpenLists, episode_id};
pub use day::{EndedAlert, EndedLease, StoredActivity};
pub use entry::{
    Event, EventKind, GRANT_EXPIRES, LEFT_AS_IT_IS, LeaseStatus, NOT_REVERTIBLE, OpenAlert, RuleStatus, UnansweredAlert,
};

use crate::family::{Family, Histogram};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Upper bounds of `evenkeel_reaction_duration_seconds`, 1 ms to 60 s.
pub const REACTION_BOUNDS_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];

/// Counters and gauges of the daemon. A clone is cheap and shares them.
#[derive(Clone, Default)]
pub struct Telemetry(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    webhook_requests: BTreeMap<u16, u64>,
    alerts_received: BTreeMap<(&'static str, &'static str), u64>,
    alerts_truncated: u64,
    alerts_refused: BTreeMap<SmolStr, u64>,
    log_lines_dropped: u64,
    /// Why evenkeel only publishes metrics.
    actuator_off: Option<String>,
    early_samples: BTreeMap<&'static str, u64>,
    /// Whether a measure of the sandbox is in force, by part and measure.
    sandbox: BTreeMap<(&'static str, &'static str), bool>,
    /// Restarts of the frontend by reason.
    frontend_restarts: BTreeMap<&'static str, u64>,
    /// Since when the current frontend serves; `None` while there is none.
    frontend_since: Option<Timestamp>,
    /// Starts of the engine after a panic.
    engine_restarts: u64,
    /// How many answered the last request, and how many did not.
    alertmanagers: (usize, usize),
    decisions: BTreeMap<(SmolStr, &'static str), u64>,
    actions: BTreeMap<(String, &'static str, &'static str), u64>,
    reaction: Histogram,
    state: EngineState,
    activity: Activity,
    reload: ReloadStatus,
    /// The families built from all this, until it changes.
    families: Option<Vec<Family>>,
}

/// The process that serves HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// Since when it serves; left out while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// How often another one was started.
    pub restarts: u64,
}

/// Gauges that the engine sets as a whole after each batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineState {
    pub enforce: bool,
    pub paused: bool,
    /// The rules that are paused by themselves.
    pub paused_rules: BTreeSet<String>,
    pub rules: usize,
    /// Whether the ledger cannot be written.
    pub is_ledger_lost: bool,
    /// Victims that the host-wide budget still allows now.
    pub budget_remaining: u32,
    /// Episodes that may still run commands without `undo`.
    pub commands_remaining: u32,
    pub budget: BudgetLimits,
    /// Open alerts per source (`alertmanager`, `local`).
    pub alerts_firing: BTreeMap<&'static str, usize>,
    /// Live leases per (rule, knob).
    pub leases: BTreeMap<(String, &'static str), usize>,
    /// Requests to allocators per (rule, state).
    pub allocations: BTreeMap<(String, &'static str), usize>,
    /// Whether the breaker of a rule is open.
    pub breakers: BTreeMap<String, bool>,
}

/// The host-wide limits of irreversible actions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLimits {
    pub final_steps: u32,
    pub commands: u32,
    pub per_seconds: u64,
}

/// The outcome of the last reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ReloadStatus {
    /// The newest configuration is not in force.
    pub failed: bool,
    /// Unix time at which the configuration in force was loaded.
    pub success_timestamp_seconds: f64,
}

fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}

impl Telemetry {
    /// Locks the counts for reading, or for changes that no family shows.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counters stay valid when a thread panics while it holds the lock, because each update is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the counts for a change and drops the cached families.
    fn lock_for_change(&self) -> MutexGuard<'_, Counts> {
        let mut counts = self.lock();
        counts.families = None;
        counts
    }

    /// Counts a response of the webhook listener by HTTP status code.
    pub fn webhook_request(&self, code: u16) {
        self.webhook_requests(code, 1);
    }

    /// Counts responses of the webhook listener with one HTTP status code.
    pub fn webhook_requests(&self, code: u16, count: u32) {
        let mut counts = self.lock_for_change();
        let total = counts.webhook_requests.entry(code).or_default();
        *total = total.saturating_add(count.into());
    }

    /// Counts an alert that arrived, whatever is decided about it.
    pub fn alert_received(&self, source: &'static str, status: &'static str) {
        count(&mut self.lock_for_change().alerts_received, (source, status));
    }

    /// Counts alerts that Alertmanager left out of a notification (`truncatedAlerts`).
    pub fn alerts_truncated(&self, count: u64) {
        let mut counts = self.lock_for_change();
        counts.alerts_truncated = counts.alerts_truncated.saturating_add(count);
    }

    /// Counts an alert that opened no episode, because too many are open.
    pub fn alert_refused(&self, rule: &str) {
        *self.lock_for_change().alerts_refused.entry(rule.into()).or_default() += 1;
    }

    /// Counts a log line that was dropped, because the reader of the log stalled.
    pub fn log_line_dropped(&self) {
        self.log_lines_dropped_elsewhere(1);
    }

    /// Counts log lines that were dropped in another process of evenkeel.
    pub fn log_lines_dropped_elsewhere(&self, lines: u64) {
        let mut counts = self.lock_for_change();
        counts.log_lines_dropped = counts.log_lines_dropped.saturating_add(lines);
    }

    /// Announces the reasons of restarts of the frontend, so that each has a series before the first one.
    pub fn expect_frontend_restarts(&self, reasons: impl IntoIterator<Item = &'static str>) {
        let mut counts = self.lock_for_change();
        for reason in reasons {
            counts.frontend_restarts.entry(reason).or_default();
        }
    }

    /// Counts a restart of the frontend by reason.
    pub fn frontend_restarted(&self, reason: &'static str) {
        count(&mut self.lock_for_change().frontend_restarts, reason);
    }

    /// Records that a frontend began to serve, or that none does.
    pub fn set_frontend(&self, since: Option<Timestamp>) {
        self.lock_for_change().frontend_since = since;
    }

    /// The frontend; `None` where the main process serves the listeners itself.
    pub fn frontend(&self) -> Option<FrontendStatus> {
        let counts = self.lock();
        (!counts.frontend_restarts.is_empty()).then(|| FrontendStatus {
            since: counts.frontend_since,
            restarts: counts.frontend_restarts.values().sum(),
        })
    }

    /// Counts a start of the engine after a panic.
    pub fn engine_restarted(&self) {
        self.lock_for_change().engine_restarts += 1;
    }

    pub fn engine_restarts(&self) -> u64 {
        self.lock().engine_restarts
    }

    /// Records that evenkeel only publishes metrics, and why.
    pub fn set_actuator_off(&self, reason: String) {
        self.lock_for_change().actuator_off = Some(reason);
    }

    /// Sets whether a measure of the sandbox is in force in a part of evenkeel.
    pub fn set_sandbox(&self, part: &'static str, measure: &'static str, is_in_force: bool) {
        self.lock_for_change().sandbox.insert((part, measure), is_in_force);
    }

    pub fn actuator_off(&self) -> Option<String> {
        self.lock().actuator_off.clone()
    }

    pub fn log_lines_dropped(&self) -> u64 {
        self.lock().log_lines_dropped
    }

    /// Announces the causes of early samples, so that each has a series before its first sample.
    pub fn expect_early_samples(&self, causes: impl IntoIterator<Item = &'static str>) {
        let mut state = self.lock_for_change();
        for cause in causes {
            state.early_samples.entry(cause).or_default();
        }
    }

    /// Counts an early sample by cause.
    pub fn early_sample(&self, cause: &'static str) {
        count(&mut self.lock_for_change().early_samples, cause);
    }

    /// Sets how many Alertmanagers answered the last requests, and how many did not.
    pub fn alertmanagers_asked(&self, answering: usize, silent: usize) {
        self.lock_for_change().alertmanagers = (answering, silent);
    }

    pub fn decision(&self, rule: &str, decision: &'static str) {
        count(&mut self.lock_for_change().decisions, (rule.into(), decision));
    }

    /// Number of decisions by rule and kind.
    pub fn decision_counts(&self) -> BTreeMap<(SmolStr, &'static str), u64> {
        self.lock().decisions.clone()
    }

    pub fn action(&self, rule: &str, action: &'static str, outcome: &'static str) {
        count(&mut self.lock_for_change().actions, (rule.to_owned(), action, outcome));
    }

    /// Observes the time from an alert's arrival to an applied step.
    pub fn reaction_seconds(&self, seconds: f64) {
        let mut counts = self.lock_for_change();
        let histogram = &mut counts.reaction;
        if histogram.buckets.is_empty() {
            histogram.buckets = REACTION_BOUNDS_SECONDS.iter().map(|&bound| (bound, 0)).collect();
        }
        for (bound, count) in &mut histogram.buckets {
            if seconds <= *bound {
                *count += 1;
            }
        }
        histogram.sum += seconds;
        histogram.count += 1;
    }

    pub fn set_state(&self, state: EngineState) {
        if self.lock().state != state {
            self.lock_for_change().state = state;
        }
    }

    /// Replaces the open alerts and held leases.
    pub fn set_open(&self, open: OpenLists, now: Timestamp) {
        self.lock().activity.set_open(open, now);
    }

    /// Replaces the firing alerts of a source that no rule matches.
    pub fn set_unanswered(&self, source: &str, alerts: Vec<UnansweredAlert>) {
        self.lock().activity.set_unanswered(source, alerts);
    }

    /// Forgets the firing alerts that no rule matches, until the next reports.
    pub fn forget_unanswered(&self) {
        self.lock().activity.unanswered_alerts.clear();
    }

    /// Loads the activity from before a restart.
    pub fn restore(&self, stored: StoredActivity) {
        self.lock().activity.restore(stored);
    }

    /// Replaces the rules in force. The expected series of each rule start at zero, so that `increase()` sees the first
    /// event.
    pub fn set_rules(&self, rules: Vec<RuleStatus>) {
        let mut counts = self.lock_for_change();
        for rule_status in &rules {
            counts
                .alerts_refused
                .entry(rule_status.rule.as_str().into())
                .or_default();
            let decision = if rule_status.acts { "planned" } else { "dry_run" };
            counts
                .decisions
                .entry((rule_status.rule.as_str().into(), decision))
                .or_default();
            for action in &rule_status.actions {
                let outcome = match *action {
                    _ if !rule_status.acts => "dry_run",
                    "allocate" => "granted",
                    _ => "applied",
                };
                let series = (rule_status.rule.clone(), *action, outcome);
                counts.actions.entry(series).or_default();
            }
        }
        counts.activity.set_rules(rules);
    }

    /// Adds an event to the activity.
    pub fn record_event(&self, event: Event) {
        self.lock().activity.record_event(event);
    }

    pub fn activity(&self) -> Activity {
        self.lock().activity.clone()
    }

    pub fn state(&self) -> EngineState {
        self.lock().state.clone()
    }

    pub fn reload(&self) -> ReloadStatus {
        self.lock().reload
    }

    /// Records a successful reload (or start) at this Unix time, or a failed one, which keeps the last good
    /// configuration.
    pub fn reloaded(&self, success_at_seconds: Option<f64>) {
        let mut counts = self.lock_for_change();
        counts.reload.failed = success_at_seconds.is_none();
        if let Some(at) = success_at_seconds {
            counts.reload.success_timestamp_seconds = at;
        }
    }

    /// The `evenkeel_*` families about evenkeel itself, except those of the sampler.
    pub fn families(&self) -> Vec<Family> {
        let mut counts = self.lock();
        if let Some(families) = &counts.families {
            return families.clone();
        }
        let families = counts.as_families();
        counts.families = Some(families.clone());
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::SampleValue;

    #[test]
    fn counters_of_planned_actions_start_at_zero() {
        let rule_status = |rule: &str, actions: &[&'static str], acts| RuleStatus {
            rule: rule.to_owned(),
            steps: Vec::new(),
            text: Arc::default(),
            actions: actions.iter().copied().collect(),
            acts,
            last_decision: None,
        };
        let series = |telemetry: &Telemetry, name: &str| {
            let families = telemetry.families();
            let family = families.iter().find(|family| family.name == name).unwrap();
            let words = family.points().map(|point| {
                let labels: Vec<&str> = point.labels.iter().map(|label| &*label.1).collect();
                format!("{} {:?}", labels.join(" "), point.value)
            });
            words.collect::<Vec<_>>()
        };
        let telemetry = Telemetry::default();
        let rules = || {
            vec![
                rule_status("a", &["nice", "allocate"], true),
                rule_status("b", &["nice"], false),
            ]
        };
        telemetry.set_rules(rules());
        assert_eq!(
            series(&telemetry, "evenkeel_decisions_total"),
            ["a planned Number(0.0)", "b dry_run Number(0.0)"]
        );
        assert_eq!(
            series(&telemetry, "evenkeel_actions_total"),
            [
                "a allocate granted Number(0.0)",
                "a nice applied Number(0.0)",
                "b nice dry_run Number(0.0)"
            ]
        );
        telemetry.decision("a", "planned");
        assert_eq!(
            series(&telemetry, "evenkeel_decisions_total")[0],
            "a planned Number(1.0)"
        );
        telemetry.set_rules(rules());
        assert_eq!(
            series(&telemetry, "evenkeel_decisions_total")[0],
            "a planned Number(1.0)"
        );
    }

    #[test]
    fn reaction_buckets_are_cumulative() {
        let telemetry = Telemetry::default();
        telemetry.reaction_seconds(0.003);
        telemetry.reaction_seconds(100.0);
        let families = telemetry.families();
        let reaction = families
            .iter()
            .find(|family| family.name == "evenkeel_reaction_duration_seconds")
            .unwrap();
        let SampleValue::Histogram(histogram) = &reaction.point(0).value else {
            panic!("not a histogram")
        };
        assert_eq!(histogram.count, 2);
        assert_eq!(histogram.buckets[1], (0.0025, 0));
        assert_eq!(histogram.buckets[2], (0.005, 1));
        assert_eq!(histogram.buckets[13], (60.0, 1));
    }
}
