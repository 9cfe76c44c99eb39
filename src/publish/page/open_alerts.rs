//! The open alerts in the order in which page and terminal show them, and the leases of each. Pure.

use super::story::Meaning;
use crate::telemetry::{Activity, Event, LeaseStatus, OpenAlert, RuleStatus};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Each open alert with the rules that answer it. The newest is the one that a person was called for; alerts for which
/// something was done come before.
pub fn open_alerts(activity: &Activity) -> Vec<Vec<&OpenAlert>> {
    let mut of_alert: BTreeMap<(Timestamp, &str, &str), Vec<&OpenAlert>> = BTreeMap::new();
    for alert in &activity.alerts {
        let key = (alert.since, alert.alertname.as_str(), alert.fingerprint.as_str());
        of_alert.entry(key).or_default().push(alert);
    }
    let mut groups: Vec<Vec<&OpenAlert>> = of_alert.into_values().rev().collect();
    let acted = acted(activity);
    let has_no_act = |alert: &OpenAlert| !acted.contains(&(alert.rule.as_str(), alert.fingerprint.as_str()));
    groups.sort_by_cached_key(|answers| {
        answers
            .iter()
            .all(|alert| has_no_act(alert) || is_idle(activity, alert))
    });
    groups
}

/// The rules that answer an alert. Rules that did something come first, because others may only wait.
pub fn answers<'a>(activity: &Activity, answers: &[&'a OpenAlert]) -> Vec<&'a OpenAlert> {
    let mut answers = answers.to_vec();
    answers.sort_by_cached_key(|alert| is_idle(activity, alert));
    answers
}

/// The rules and alerts of all acts that are kept. Of a thousand open alerts most have none.
pub fn acted(activity: &Activity) -> HashSet<(&str, &str)> {
    let events = activity.actions.iter().chain(&activity.decisions);
    let acts = events.filter(|event| Meaning::of(event).is_act());
    acts.map(|event| (event.rule.as_str(), event.fingerprint.as_str()))
        .collect()
}

/// Whether the rule has done nothing about the alert.
fn is_idle(activity: &Activity, alert: &OpenAlert) -> bool {
    let events = activity.events_of(&alert.episode);
    !events.into_iter().any(|event| Meaning::of(event).is_act())
}

/// The newest event that changed something.
pub fn last_act(activity: &Activity) -> Option<&Event> {
    let mut actions = activity.actions.iter().map(|event| &**event);
    actions.find(|event| Meaning::of(event).is_act())
}

/// The rules with an open alert, a lease or an open breaker and the paused ones, and the others.
pub fn active_rules<'a>(
    activity: &'a Activity,
    breakers_open: &[String],
    paused_rules: &BTreeSet<String>,
) -> (Vec<&'a RuleStatus>, Vec<&'a RuleStatus>) {
    let open = activity.alerts.iter().map(|alert| alert.rule.as_str());
    let held = activity.leases.iter().map(|lease| lease.rule.as_str());
    let stopped = breakers_open.iter().map(String::as_str);
    let paused = paused_rules.iter().map(String::as_str);
    let busy: HashSet<&str> = open.chain(held).chain(stopped).chain(paused).collect();
    let rules = activity.rules.iter();
    rules.partition(|rule_status| busy.contains(rule_status.rule.as_str()))
}

/// The leases of an open alert.
pub struct HeldLeases<'a> {
    /// Those that are held until the alert is over.
    pub open: Vec<&'a LeaseStatus>,
    /// Those that are being reverted.
    pub ending: Vec<&'a LeaseStatus>,
}

impl<'a> HeldLeases<'a> {
    pub fn of(activity: &'a Activity, alert: &OpenAlert) -> HeldLeases<'a> {
        let is_its = |lease: &&LeaseStatus| lease.rule == alert.rule && lease.fingerprint == alert.fingerprint;
        let leases = activity.leases.iter().filter(is_its);
        let (ending, open) = leases.partition(|lease| lease.until.is_none() || lease.released.is_some());
        HeldLeases { open, ending }
    }

    /// The last deadline, after which nothing is held any more.
    pub fn latest(&self) -> Option<Timestamp> {
        self.open.iter().filter_map(|lease| lease.until).max()
    }
}

/// Leases that are named. More are counted.
const MAX_NUMBERS: usize = 4;

/// The words for leases: `leases 1, 2`, or their number where they are many.
pub fn lease_numbers(leases: &[&LeaseStatus]) -> String {
    let ids: Vec<String> = leases.iter().map(|lease| lease.id.to_string()).collect();
    match ids.as_slice() {
        [id] => format!("lease {id}"),
        ids if ids.len() <= MAX_NUMBERS => format!("leases {}", ids.join(", ")),
        ids => format!("{} leases", ids.len()),
    }
}
