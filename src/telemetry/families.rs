//! The conversion of telemetry to families. Pure.

use super::{Counts, REACTION_BOUNDS_SECONDS};
use crate::family::{Family, MetricKind, label};

impl Counts {
    /// The `evenkeel_*` families about evenkeel itself, except those of the sampler.
    pub(super) fn as_families(&self) -> Vec<Family> {
        let state = &self.state;
        let flag = |on: bool| f64::from(on);

        let mut build = Family::gauge("evenkeel_build_info", "Version of this build; the value is always 1.");
        build.push([label("version", env!("CARGO_PKG_VERSION"))], 1.0);

        let mut mode = Family::gauge("evenkeel_mode", "1 for the active mode, 0 for the other.");
        mode.push([label("mode", "dry-run")], flag(!state.enforce));
        mode.push([label("mode", "enforce")], flag(state.enforce));

        let mut webhook = Family::counter(
            "evenkeel_webhook_requests_total",
            "Responses of the webhook listener by HTTP status code.",
        );
        for (code, count) in &self.webhook_requests {
            webhook.push([label("code", code.to_string())], *count as f64);
        }

        let mut received = Family::counter(
            "evenkeel_alerts_received_total",
            "Received alerts by source and status, regardless of decisions about them.",
        );
        for ((source, status), count) in &self.alerts_received {
            received.push([label("source", *source), label("status", *status)], *count as f64);
        }

        let mut early = Family::counter("evenkeel_early_samples_total", "Early samples for rules, by cause.");
        for (cause, count) in &self.early_samples {
            early.push([label("cause", *cause)], *count as f64);
        }

        let mut alertmanagers = Family::gauge(
            "evenkeel_alertmanagers",
            "Configured Alertmanagers, by whether they responded to the last poll.",
        );
        let (answering, silent) = self.alertmanagers;
        for (state, count) in [("answering", answering), ("silent", silent)] {
            alertmanagers.push([label("state", state)], count as f64);
        }

        let mut firing = Family::gauge(
            "evenkeel_alerts_firing",
            "Firing alerts with an open episode, by source.",
        );
        for source in ["alertmanager", "local"] {
            let count = state.alerts_firing.get(source).copied().unwrap_or(0);
            firing.push([label("source", source)], count as f64);
        }

        let mut refused = Family::counter(
            "evenkeel_alerts_refused_total",
            "Alerts that opened no episode of a rule, because too many were open; the sender was told to try again.",
        );
        for (rule, count) in &self.alerts_refused {
            refused.push([label("rule", rule.clone())], *count as f64);
        }

        let mut decisions = Family::counter("evenkeel_decisions_total", "Decisions about planned steps and alerts.");
        for ((rule, decision), count) in &self.decisions {
            decisions.push(
                vec![label("rule", rule.clone()), label("decision", *decision)],
                *count as f64,
            );
        }

        let mut actions = Family::counter("evenkeel_actions_total", "Steps applied or simulated, by outcome.");
        for ((rule, action, outcome), count) in &self.actions {
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
            "Leases: reversible steps that are applied and will be reverted.",
        );
        for ((rule, knob), count) in &state.leases {
            leases.push([label("rule", rule.clone()), label("knob", *knob)], *count as f64);
        }

        let mut allocations = Family::gauge(
            "evenkeel_allocations",
            "Allocations by state: requested, granted, expired (granted and not renewed in time), or releasing.",
        );
        for ((rule, held), count) in &state.allocations {
            allocations.push([label("rule", rule.clone()), label("state", *held)], *count as f64);
        }

        let mut breakers = Family::gauge(
            "evenkeel_breaker_open",
            "1 while the breaker of a rule is open because its irreversible actions had no effect.",
        );
        for (rule, open) in &state.breakers {
            breakers.push([label("rule", rule.clone())], flag(*open));
        }

        let mut reaction = Family::new(
            "evenkeel_reaction_duration_seconds",
            "Time from the arrival of an alert to an applied step.",
            MetricKind::Histogram,
        );
        let mut histogram = self.reaction.clone();
        if histogram.buckets.is_empty() {
            histogram.buckets = REACTION_BOUNDS_SECONDS.iter().map(|&bound| (bound, 0)).collect();
        }
        reaction.push_histogram(Vec::new(), histogram);

        let mut sandbox = Family::gauge(
            "evenkeel_sandbox",
            "1 if a measure of the sandbox is in force in a part of evenkeel, 0 if not; the log of the start says why.",
        );
        for ((part, measure), is_in_force) in &self.sandbox {
            sandbox.push([label("part", *part), label("measure", *measure)], flag(*is_in_force));
        }

        let mut restarts = Family::counter(
            "evenkeel_frontend_restarts_total",
            "Restarts of the process that serves HTTP, by the reason of its end.",
        );
        for (reason, count) in &self.frontend_restarts {
            restarts.push([label("reason", *reason)], *count as f64);
        }

        let mut paused_rules = Family::gauge(
            "evenkeel_rule_paused",
            "1 for each rule that is paused by itself and plans no new steps; other rules have no series.",
        );
        for rule in &state.paused_rules {
            paused_rules.push([label("rule", rule.clone())], 1.0);
        }

        vec![
            build,
            mode,
            Family::gauge(
                "evenkeel_actuator_on",
                "0 while the actuator is off because this host has no boot id; metrics are published all the same.",
            )
            .value(flag(self.actuator_off.is_none())),
            sandbox,
            restarts,
            Family::gauge("evenkeel_paused", "1 while evenkeel is paused and plans no new steps.")
                .value(flag(state.paused)),
            paused_rules,
            Family::gauge(
                "evenkeel_config_last_reload_successful",
                "1 if the last reload of the configuration succeeded.",
            )
            .value(flag(!self.reload.failed)),
            Family::gauge(
                "evenkeel_config_last_reload_success_timestamp_seconds",
                "Unix time of the last successful load of the configuration.",
            )
            .value(self.reload.success_timestamp_seconds),
            Family::gauge("evenkeel_rules", "Active rules.").value(state.rules as f64),
            webhook,
            received,
            alertmanagers,
            early,
            firing,
            Family::counter(
                "evenkeel_alerts_truncated_total",
                "Alerts that Alertmanager left out of its notifications (max_alerts).",
            )
            .value(self.alerts_truncated as f64),
            Family::counter(
                "evenkeel_log_lines_dropped_total",
                "Log lines dropped because the reader of the log stalled.",
            )
            .value(self.log_lines_dropped as f64),
            refused,
            decisions,
            actions,
            leases,
            allocations,
            Family::gauge(
                "evenkeel_budget_remaining",
                "Irreversible actions that the host-wide budget still allows.",
            )
            .value(f64::from(state.budget_remaining)),
            breakers,
            Family::gauge("evenkeel_ledger_writable", "1 while the ledger can be written.")
                .value(flag(!state.is_ledger_lost)),
            reaction,
        ]
    }
}
