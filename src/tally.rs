//! What evenkeel counts about itself, written by receiver, engine and sampler, read by publish.
//! Label values come from closed enums or from rule names; never from alerts or processes.

use crate::family::{Family, Histogram, label};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Upper bounds of `evenkeel_reaction_duration_seconds`, 1 ms to 60 s.
pub const REACTION_BOUNDS_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];

/// Counters and gauges of the daemon. Cheap to clone: all clones count together.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    webhook_requests: BTreeMap<u16, u64>,
    alerts_received: BTreeMap<(&'static str, &'static str), u64>,
    alerts_truncated: u64,
    decisions: BTreeMap<(String, &'static str), u64>,
    actions: BTreeMap<(String, &'static str, &'static str), u64>,
    reaction: Histogram,
    state: State,
    activity: Activity,
    reload: Reload,
}

/// Recent lines that are kept for the page.
const MAX_RECENT: usize = 50;

/// What the page shows beyond numbers: names of rules, alerts and processes, and pids; never command lines,
/// annotations or environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Activity {
    pub alerts: Vec<OpenAlert>,
    pub leases: Vec<HeldLease>,
    /// Newest first.
    pub recent: VecDeque<Told>,
}

/// An alert that fires, and the rule that answers it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpenAlert {
    pub alertname: String,
    pub rule: String,
    pub source: &'static str,
    pub since: Timestamp,
    pub dry_run: bool,
    /// Processes that the rule has taken up, or would have.
    pub targets: usize,
}

/// Something that will be undone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldLease {
    pub id: u64,
    pub rule: String,
    /// Left out where no process holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// `comm` of the process, path of the cgroup, or `host`.
    pub process: String,
    /// As in `nice 0 -> 10`.
    pub what: String,
    /// When it is undone at the latest.
    pub until: Timestamp,
}

/// One decision or outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    pub at: Timestamp,
    pub rule: String,
    pub alertname: String,
    /// A decision or an outcome.
    pub verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Gauges that the engine sets as a whole after each turn.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub enforce: bool,
    pub paused: bool,
    pub rules: usize,
    pub ledger_writable: bool,
    /// Victims that the host-wide budget still allows now.
    pub budget_remaining: u32,
    /// Open alerts per source (`alertmanager`, `local`).
    pub alerts_firing: BTreeMap<&'static str, usize>,
    /// Live leases per (rule, knob).
    pub leases: BTreeMap<(String, &'static str), usize>,
    /// What was asked of allocators per (rule, state).
    pub allocations: BTreeMap<(String, &'static str), usize>,
    /// Whether the breaker of a rule is open.
    pub breakers: BTreeMap<String, bool>,
}

impl Default for State {
    fn default() -> Self {
        State {
            enforce: false,
            paused: false,
            rules: 0,
            ledger_writable: true,
            budget_remaining: 0,
            alerts_firing: BTreeMap::new(),
            leases: BTreeMap::new(),
            allocations: BTreeMap::new(),
            breakers: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Reload {
    failed: bool,
    success_timestamp_seconds: f64,
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters stay true even when a thread died while holding the lock: each update is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer of the webhook listener, by HTTP status code.
    pub fn webhook_request(&self, code: u16) {
        *self.counts().webhook_requests.entry(code).or_default() += 1;
    }

    /// One alert entry that arrived, whatever is decided about it.
    pub fn alert_received(&self, source: &'static str, status: &'static str) {
        *self.counts().alerts_received.entry((source, status)).or_default() += 1;
    }

    /// Alerts that Alertmanager left out of a notification (`truncatedAlerts`).
    pub fn alerts_truncated(&self, count: u64) {
        self.counts().alerts_truncated += count;
    }

    pub fn decision(&self, rule: &str, decision: &'static str) {
        *self.counts().decisions.entry((rule.to_owned(), decision)).or_default() += 1;
    }

    /// Decisions so far, by rule and word.
    pub fn decision_counts(&self) -> BTreeMap<(String, &'static str), u64> {
        self.counts().decisions.clone()
    }

    pub fn action(&self, rule: &str, action: &'static str, outcome: &'static str) {
        *self
            .counts()
            .actions
            .entry((rule.to_owned(), action, outcome))
            .or_default() += 1;
    }

    /// Time from the alert's arrival to a step applied.
    pub fn reaction_seconds(&self, seconds: f64) {
        let mut counts = self.counts();
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

    pub fn set_state(&self, state: State) {
        self.counts().state = state;
    }

    /// Replaces what is open and held now.
    pub fn set_open(&self, alerts: Vec<OpenAlert>, leases: Vec<HeldLease>) {
        let mut counts = self.counts();
        (counts.activity.alerts, counts.activity.leases) = (alerts, leases);
    }

    /// Adds a line to what happened.
    pub fn tell(&self, told: Told) {
        let mut counts = self.counts();
        let recent = &mut counts.activity.recent;
        recent.push_front(told);
        recent.truncate(MAX_RECENT);
    }

    pub fn activity(&self) -> Activity {
        self.counts().activity.clone()
    }

    pub fn state(&self) -> State {
        self.counts().state.clone()
    }

    /// A reload (or the start) at this Unix time that worked, or one that kept the last good configuration.
    pub fn reloaded(&self, success_at_seconds: Option<f64>) {
        let mut counts = self.counts();
        counts.reload.failed = success_at_seconds.is_none();
        if let Some(at) = success_at_seconds {
            counts.reload.success_timestamp_seconds = at;
        }
    }

    /// The `evenkeel_*` families about evenkeel itself (DESIGN section 4.5), sampler's ones excepted.
    pub fn families(&self) -> Vec<Family> {
        let counts = self.counts();
        let state = &counts.state;
        let flag = |on: bool| f64::from(u8::from(on));

        let mut build = Family::gauge("evenkeel_build_info", "Version of this build; the value is always 1.");
        build.push(vec![label("version", env!("CARGO_PKG_VERSION"))], 1.0);

        let mut mode = Family::gauge("evenkeel_mode", "1 for the mode that is in force, 0 for the other.");
        mode.push(vec![label("mode", "dry-run")], flag(!state.enforce));
        mode.push(vec![label("mode", "enforce")], flag(state.enforce));

        let mut webhook = Family::counter(
            "evenkeel_webhook_requests_total",
            "Answers of the webhook listener by HTTP status code.",
        );
        for (code, count) in &counts.webhook_requests {
            webhook.push(vec![label("code", code.to_string())], *count as f64);
        }

        let mut received = Family::counter(
            "evenkeel_alerts_received_total",
            "Alerts that arrived, by source and status, whatever was decided about them.",
        );
        for ((source, status), count) in &counts.alerts_received {
            received.push(vec![label("source", *source), label("status", *status)], *count as f64);
        }

        let mut firing = Family::gauge(
            "evenkeel_alerts_firing",
            "Alerts known to fire for which an episode is open.",
        );
        for source in ["alertmanager", "local"] {
            let count = state.alerts_firing.get(source).copied().unwrap_or(0);
            firing.push(vec![label("source", source)], count as f64);
        }

        let mut decisions = Family::counter(
            "evenkeel_decisions_total",
            "What was decided about planned steps and alerts.",
        );
        for ((rule, decision), count) in &counts.decisions {
            decisions.push(
                vec![label("rule", rule.clone()), label("decision", *decision)],
                *count as f64,
            );
        }

        let mut actions = Family::counter("evenkeel_actions_total", "Steps taken or simulated, by outcome.");
        for ((rule, action, outcome), count) in &counts.actions {
            actions.push(
                vec![
                    label("rule", rule.clone()),
                    label("action", *action),
                    label("outcome", *outcome),
                ],
                *count as f64,
            );
        }

        let mut leases = Family::gauge(
            "evenkeel_leases",
            "Reversible steps that are held now and will be undone.",
        );
        for ((rule, knob), count) in &state.leases {
            leases.push(vec![label("rule", rule.clone()), label("knob", *knob)], *count as f64);
        }

        let mut allocations = Family::gauge(
            "evenkeel_allocations",
            "What was asked of resource allocators: requested, granted, expired (granted and not renewed in time), or releasing.",
        );
        for ((rule, held), count) in &state.allocations {
            allocations.push(vec![label("rule", rule.clone()), label("state", *held)], *count as f64);
        }

        let mut breakers = Family::gauge(
            "evenkeel_breaker_open",
            "1 while a rule is stopped because its final steps had no effect.",
        );
        for (rule, open) in &state.breakers {
            breakers.push(vec![label("rule", rule.clone())], flag(*open));
        }

        let mut reaction = Family::new(
            "evenkeel_reaction_duration_seconds",
            "Time from the arrival of an alert to a step applied.",
            crate::family::Kind::Histogram,
        );
        let mut histogram = counts.reaction.clone();
        if histogram.buckets.is_empty() {
            histogram.buckets = REACTION_BOUNDS_SECONDS.iter().map(|&bound| (bound, 0)).collect();
        }
        reaction.push_histogram(Vec::new(), histogram);

        vec![
            build,
            mode,
            Family::gauge("evenkeel_paused", "1 while evenkeel was told to plan nothing new.")
                .value(flag(state.paused)),
            Family::gauge(
                "evenkeel_config_last_reload_successful",
                "1 when the newest configuration is the one in force.",
            )
            .value(flag(!counts.reload.failed)),
            Family::gauge(
                "evenkeel_config_last_reload_success_timestamp_seconds",
                "Unix time at which the configuration in force was loaded.",
            )
            .value(counts.reload.success_timestamp_seconds),
            Family::gauge("evenkeel_rules", "Rules in force.").value(state.rules as f64),
            webhook,
            received,
            firing,
            Family::counter(
                "evenkeel_alerts_truncated_total",
                "Alerts that Alertmanager left out of its notifications (max_alerts).",
            )
            .value(counts.alerts_truncated as f64),
            decisions,
            actions,
            leases,
            allocations,
            Family::gauge(
                "evenkeel_budget_remaining",
                "Final steps that the host-wide budget still allows now.",
            )
            .value(f64::from(state.budget_remaining)),
            breakers,
            Family::gauge("evenkeel_ledger_writable", "1 while decisions can be made durable.")
                .value(flag(state.ledger_writable)),
            reaction,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::Value;

    #[test]
    fn reaction_counts_are_cumulative() {
        let tally = Tally::default();
        tally.reaction_seconds(0.003);
        tally.reaction_seconds(100.0);
        let families = tally.families();
        let reaction = families
            .iter()
            .find(|family| family.name == "evenkeel_reaction_duration_seconds")
            .unwrap();
        let Value::Histogram(histogram) = &reaction.points[0].value else {
            panic!("not a histogram")
        };
        assert_eq!(histogram.count, 2);
        assert_eq!(histogram.buckets[1], (0.0025, 0));
        assert_eq!(histogram.buckets[2], (0.005, 1));
        assert_eq!(histogram.buckets[13], (60.0, 1));
    }
}
