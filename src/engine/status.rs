//! The engine's view for others: log lines of decisions, and the state behind metrics and status page.

use super::Policy;
use super::timers::{RELIST, Timers};
use super::transaction::Transaction;
use crate::alert::Labels;
use crate::host::Moment;
use crate::ledger::job::ALLOCATION_STATES;
use crate::ledger::{Effect, Entry, Lease, LedgerState, OperatorRequest, Outcome, Record};
use crate::rule::{Rule, Step};
use crate::telemetry::{
    BudgetLimits, EngineState, Event, EventKind, LeaseStatus, OpenAlert, OpenLists, RuleStatus, Telemetry, episode_id,
};
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of leases and of alerts on the status page; the metrics count all.
pub(super) const MAX_SHOWN: usize = 1000;
/// Number of alerts and leases up to which each transaction counts them again.
const MANY: usize = 256;
/// Characters of a label's value that the page shows.
const MAX_SHOWN_LABEL: usize = 100;

/// Shows what was decided and done before the start: the newest records, newest first.
pub fn recall(telemetry: &Telemetry, records: &[Record]) {
    records
        .iter()
        .rev()
        .for_each(|record| telemetry.record_event(event(record)));
}

/// Logs and shows a record when it becomes durable.
pub(super) fn show(telemetry: &Telemetry, entry: &Entry) {
    let Entry::Record(record) = entry else { return };
    if let Some(decision) = record.decision {
        tracing::info!(
            rule = record.rule,
            alert = record.alertname,
            decision = decision.as_str(),
            step = record.step.as_deref().unwrap_or(""),
            pid = record.target.as_ref().and_then(|(target, _)| target.pid()),
            process = record.target.as_ref().map_or("", |(_, name)| name),
            before = record.before.as_deref().unwrap_or(""),
            after = record.after.as_deref().unwrap_or(""),
            reason = record.reason,
            "decision"
        );
    }
    telemetry.record_event(event(record));
}

pub(super) fn show_decisions(telemetry: &Telemetry, transaction: &Transaction) {
    transaction.to_show().for_each(|entry| show(telemetry, entry));
}

/// Shows the active rules on the status page.
pub(super) fn show_rules(telemetry: &Telemetry, policy: &Policy) {
    let rules = policy.rules.rules.iter().map(|rule| RuleStatus {
        rule: rule.name.to_string(),
        steps: rule.actions.iter().map(ToString::to_string).collect(),
        text: rule.to_string().into(),
        actions: rule
            .actions
            .iter()
            .map(Step::action)
            .filter(|action| *action != "wait")
            .collect(),
        acts: !policy.is_simulated(rule),
        last_decision: None,
    });
    telemetry.set_rules(rules.collect());
}

/// What metrics and status page show of the engine.
pub(super) struct StateView<'a> {
    pub ledger: &'a LedgerState,
    pub policy: &'a Policy,
    pub telemetry: &'a Telemetry,
    pub is_ledger_writable: bool,
}

impl StateView<'_> {
    /// Updates metrics and status page from the ledger's state. The page refreshes once a second, so its lists may lag; with thousands
    /// of open alerts, so may the counts.
    pub fn publish(&self, timers: &mut Timers, now: Moment) {
        let is_recent = timers.listed_at.is_some_and(|at| now.boot < at + RELIST);
        let are_many = self.ledger.episodes.len() + self.ledger.leases.len() > MANY;
        if !(is_recent && are_many) {
            self.telemetry.set_state(self.state(now));
        }
        timers.must_list = is_recent;
        if is_recent {
            return;
        }
        timers.listed_at = Some(now.boot);
        let alerts = self.ledger.episodes.values().take(MAX_SHOWN).map(|episode| OpenAlert {
            episode: episode_id(
                &episode.key.rule,
                &episode.key.fingerprint,
                episode.key.simulated,
                episode.starts_at,
            ),
            fingerprint: episode.key.fingerprint.clone(),
            opened_at: at_wall(episode.opened_at, now),
            alertname: episode.labels.get("alertname").unwrap_or_default().to_owned(),
            labels: other_labels(&episode.labels),
            rule: episode.key.rule.to_string(),
            source: SmolStr::new_static(episode.source.as_str()),
            since: episode.starts_at,
            state: SmolStr::new_static(self.policy.level_of(episode, now.boot).as_str()),
            dry_run: episode.key.simulated,
            targets: episode.targets.len(),
            runbook_url: episode.annotations.get("runbook_url").map(str::to_owned),
            generator_url: episode.generator_url.clone(),
            rule_text: Arc::default(),
        });
        let held = self
            .ledger
            .leases
            .values()
            .take(MAX_SHOWN)
            .map(|lease| lease_status(lease, now));
        let open = OpenLists {
            alerts: alerts.collect(),
            leases: held.collect(),
            is_complete: self.ledger.episodes.len().max(self.ledger.leases.len()) <= MAX_SHOWN,
        };
        self.telemetry.set_open(open, now.wall);
    }

    fn state(&self, now: Moment) -> EngineState {
        let mut firing = HashMap::<_, HashSet<&str>>::new();
        for episode in self.ledger.episodes.values() {
            let source = episode.source.as_str();
            firing.entry(source).or_default().insert(&episode.key.fingerprint);
        }
        let mut held = HashMap::<(&str, &'static str), usize>::new();
        for lease in self.ledger.leases.values() {
            *held.entry((&lease.rule, lease.knob())).or_default() += 1;
        }
        // A series that was there stays, at 0, so that a graph does not break off.
        let mut leases = self.telemetry.state().leases;
        leases.values_mut().for_each(|count| *count = 0);
        leases.extend(
            held.into_iter()
                .map(|((rule, knob), count)| ((rule.to_owned(), knob), count)),
        );
        EngineState {
            enforce: self.policy.enforce,
            paused: self.ledger.paused,
            paused_rules: self.ledger.paused_rules.clone(),
            rules: self.policy.rules.rules.len(),
            is_ledger_lost: !self.is_ledger_writable,
            budget_remaining: self
                .policy
                .budget
                .remaining(&self.ledger.victims, !self.policy.enforce, now.boot),
            commands_remaining: self.policy.budget.remaining_commands(
                &self.ledger.victims,
                !self.policy.enforce,
                now.boot,
            ),
            budget: BudgetLimits {
                final_steps: self.policy.budget.final_steps,
                commands: self.policy.budget.commands,
                per_seconds: self.policy.budget.per.as_secs(),
            },
            alerts_firing: firing
                .into_iter()
                .map(|(source, alerts)| (source, alerts.len()))
                .collect(),
            leases,
            allocations: self.count_allocations(),
            breakers: self.breakers(),
        }
    }

    /// The breakers of all rules with irreversible actions, and all open ones.
    fn breakers(&self) -> BTreeMap<String, bool> {
        let rules = self.policy.rules.rules.iter().filter(|rule| rule.has_final_steps());
        let closed = rules.map(|rule| (rule.name.to_string(), false));
        let open = self.ledger.breakers.iter().filter(|(_, breaker)| breaker.is_open());
        closed.chain(open.map(|(rule, _)| (rule.clone(), true))).collect()
    }

    /// The allocations by rule and state, with every state of each allocating rule, so that a graph has no gap.
    fn count_allocations(&self) -> BTreeMap<(String, &'static str), usize> {
        let mut counts = self.telemetry.state().allocations;
        counts.values_mut().for_each(|count| *count = 0);
        let allocates = |rule: &&Arc<Rule>| rule.actions.iter().any(|step| matches!(step, Step::Allocate(_)));
        for rule in self.policy.rules.rules.iter().filter(allocates) {
            for state in ALLOCATION_STATES {
                counts.entry((rule.name.to_string(), state)).or_default();
            }
        }
        for lease in self.ledger.leases.values() {
            if let Effect::Allocation(allocation) = &lease.effect {
                *counts.entry((lease.rule.to_string(), allocation.state())).or_default() += 1;
            }
        }
        counts
    }
}

/// Logs an outcome: at `warn` where an operator must look at it, and else at `info`.
macro_rules! log_outcome {
    ($outcome:expr, $($fields:tt)+) => {
        match $outcome.is_failure() {
            true => tracing::warn!($($fields)+),
            false => tracing::info!($($fields)+),
        }
    };
}
pub(super) use log_outcome;

/// Logs a step that failed before there was anything to do. Other outcomes of such steps are in the history only.
pub(super) fn log_not_begun(record: &Record, outcome: Outcome) {
    if outcome.is_failure() {
        tracing::warn!(
            rule = record.rule,
            alert = record.alertname,
            pid = record.target.as_ref().and_then(|(target, _)| target.pid()),
            step = record.step.as_deref().unwrap_or(""),
            outcome = outcome.as_str(),
            reason = record.reason,
            "step"
        );
    }
}

/// Characters of an output that a log line has; the history has more.
const MAX_LOGGED_OUTPUT: usize = 500;

/// The end of the output of a command, or of the answer of a server, for a log line.
pub(super) fn end_of(output: Option<&str>) -> String {
    let output = output.unwrap_or_default();
    let surplus = output.chars().count().saturating_sub(MAX_LOGGED_OUTPUT);
    let mark = if surplus > 0 { "… " } else { "" };
    format!("{mark}{}", output.chars().skip(surplus).collect::<String>())
}

fn event(record: &Record) -> Event {
    let pid = record.target.as_ref().and_then(|(target, _)| target.pid());
    let process = record.target.as_ref().map(|(_, name)| name.clone());
    let kind = match (record.operation, record.decision) {
        (Some(operation), _) => EventKind::operation(operation.as_str()),
        (None, Some(decision)) => EventKind::decision(decision.as_str()),
        (None, None) => EventKind::outcome(record.outcome.map_or("", |outcome| outcome.as_str())),
    };
    let reason = match &record.by {
        Some(by) => OperatorRequest::new(by.clone(), &record.reason).to_string(),
        None => record.reason.clone(),
    };
    Event {
        at: record.at,
        rule: record.rule.clone(),
        alertname: record.alertname.clone(),
        fingerprint: record.fingerprint.as_str().into(),
        kind,
        pid,
        process,
        step: record.step.clone(),
        before: record.before.clone(),
        after: record.after.clone(),
        reason,
    }
}

pub(super) fn other_labels(labels: &Labels) -> Labels {
    let shorten = |value: &str| value.chars().take(MAX_SHOWN_LABEL).collect::<SmolStr>();
    let others = labels.iter().filter(|(name, _)| *name != "alertname");
    others.map(|(name, value)| (name, shorten(value))).collect()
}

/// A time of CLOCK_BOOTTIME on the wall clock.
fn at_wall(boot: Duration, now: Moment) -> Timestamp {
    match boot.checked_sub(now.boot) {
        Some(ahead) => now.wall.checked_add(ahead).unwrap_or(Timestamp::MAX),
        None => now.wall.checked_sub(now.boot - boot).unwrap_or(Timestamp::MIN),
    }
}

fn lease_status(lease: &Lease, now: Moment) -> LeaseStatus {
    let until = lease.runs_out_at().map(|deadline| at_wall(deadline.max(now.boot), now));
    LeaseStatus {
        id: lease.id,
        rule: lease.rule.to_string(),
        fingerprint: lease.fingerprint.clone(),
        since: at_wall(lease.taken_at, now),
        pid: lease.target.pid(),
        process: lease.name.clone(),
        what: lease.effect.to_string(),
        released: lease.released.as_ref().map(ToString::to_string),
        until,
    }
}
