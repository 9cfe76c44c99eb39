//! What evenkeel may not do on this host: steps that it could not revert, and processes of other users that it cannot
//! reach or identify.

use super::Policy;
use crate::host::Host;
use crate::rule::{Rule, Step, TargetSelector};

/// The steps of a rule that could be taken here and not be undone, or not be taken at all, and what is missing.
pub fn missing_privileges<'r>(host: &impl Host, rule: &'r Rule) -> Vec<(&'r Step, &'static str)> {
    let missing = |step: &'r Step| Some((step, step.missing_privilege(host)?));
    rule.actions.iter().filter_map(missing).collect()
}

/// The steps of a rule that reach no processes of other users here, and what is missing.
pub fn confined_steps<'r>(host: &impl Host, rule: &'r Rule) -> Vec<(&'r Step, &'static str)> {
    if matches!(rule.target_selector, TargetSelector::Cgroups(_)) {
        return Vec::new();
    }
    let missing = |step: &'r Step| Some((step, step.missing_reach(host)?));
    rule.actions.iter().filter_map(missing).collect()
}

/// Says at the start which rules could be applied and not be undone here; their steps are refused.
pub(super) fn warn_of_privileges(host: &impl Host, policy: &Policy) {
    for rule in policy.rules.rules.iter().filter(|rule| !policy.is_simulated(rule)) {
        for (step, missing) in missing_privileges(host, rule) {
            tracing::warn!(
                rule = rule.name.as_str(),
                step = step.to_string(),
                missing,
                "step refused, because evenkeel could not revert it"
            );
        }
        for (step, missing) in confined_steps(host, rule) {
            tracing::warn!(
                rule = rule.name.as_str(),
                step = step.to_string(),
                missing,
                "step refused for processes of other users"
            );
        }
    }
    if let Err(missing) = host.may_identify_others()
        && policy.rules.rules.iter().any(|rule| rule.selector().is_some())
    {
        tracing::warn!(
            missing,
            "could not identify processes of other users, rules do not select them"
        );
    }
}
