//! The lines that the log shows once the daemon is ready: its mode and rules, and how to try it.

use super::settings;
use crate::cli;
use crate::config::Loaded;
use crate::engine::Policy;

/// Logs mode and rules of this daemon, and how to try it.
pub fn introduce(
    policy: &Policy,
    loaded: &Loaded,
    run: &cli::Run,
    [metrics, webhook]: &[Option<String>; 2],
    has_ledger: bool,
) {
    if run.config.path.is_none() && !settings::has_default_config() {
        tracing::info!(
            missing = cli::DEFAULT_CONFIG,
            "no config file, using the built-in config"
        );
    }
    for rule in &policy.rules.rules {
        let steps: Vec<String> = rule.actions.iter().map(ToString::to_string).collect();
        let acts = policy.enforce && !rule.dry_run;
        tracing::info!(
            rule = rule.name.as_str(),
            steps = steps.join(", "),
            limit = rule.limit,
            acts,
            "rule"
        );
    }
    let alerts: usize = loaded.config.alerting_rules.iter().map(|file| file.groups.len()).sum();
    let mode = match (policy.enforce, has_ledger) {
        (true, _) => "enforce: rules with acts=true are applied, and reverted when their alert resolves",
        (false, true) => "dry-run: actions are only logged, and recorded in ledger and metrics",
        (false, false) => "dry-run: actions are only logged and counted in metrics, because there is no ledger",
    };
    tracing::info!(alerting_rule_groups = alerts, "{mode}");
    if let Some(metrics) = metrics {
        tracing::info!("to try it: curl http://{metrics}/metrics, or open http://{metrics}/ in a browser");
    }
    let webhook = webhook.as_deref().unwrap_or_default();
    tracing::info!(
        "to send an alert: evenkeel explain --alert FILE shows what it would do; POST it to http://{webhook}/webhook"
    );
}
