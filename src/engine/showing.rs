//! What the engine lets others see of itself: log lines of decisions, and the state behind metrics and page.

use super::Engine;
use crate::alert::Source;
use crate::host::{Host, Moment};
use crate::ledger::errand::ALLOCATION_STATES;
use crate::ledger::{Effect, Entry, Lease, Record};
use crate::rule::{Rule, Step};
use crate::tally::{HeldLease, OpenAlert, State, Told};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The page lists this many leases; the metrics count them all.
const MAX_SHOWN_LEASES: usize = 1000;

impl<H: Host> Engine<H> {
    /// Shows a record of the audit trail as it becomes durable.
    pub(super) fn show(&self, entry: &Entry) {
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
        self.tally.tell(told(record));
    }

    /// Brings metrics and page up to date with the book.
    pub(super) fn publish_state(&self) {
        let now = self.host.now();
        let mut firing = BTreeMap::<_, BTreeSet<_>>::new();
        let mut alerts = Vec::new();
        for episode in self.book.episodes.values() {
            let source = Source::from(episode.source).as_str();
            firing.entry(source).or_default().insert(&episode.key.fingerprint);
            alerts.push(OpenAlert {
                alertname: episode.labels.get("alertname").cloned().unwrap_or_default(),
                rule: episode.key.rule.clone(),
                source,
                since: episode.starts_at,
                dry_run: episode.key.simulated,
                targets: episode.climbs.len(),
            });
        }
        // A series that was there stays, at 0, so that a graph does not break off.
        let mut leases = self.tally.state().leases;
        leases.values_mut().for_each(|count| *count = 0);
        for lease in self.book.leases.values() {
            *leases.entry((lease.rule.clone(), lease.knob())).or_default() += 1;
        }
        let held = self
            .book
            .leases
            .values()
            .take(MAX_SHOWN_LEASES)
            .map(|lease| held(lease, now));
        self.tally.set_open(alerts, held.collect());
        self.tally.set_state(State {
            enforce: self.policy.enforce,
            paused: self.book.paused,
            rules: self.policy.rules.rules.len(),
            ledger_writable: self.journal.is_writable(),
            budget_remaining: self
                .policy
                .budget
                .remaining(&self.book.victims, !self.policy.enforce, now.boot),
            alerts_firing: firing
                .into_iter()
                .map(|(source, alerts)| (source, alerts.len()))
                .collect(),
            leases,
            allocations: self.count_allocations(),
            breakers: BTreeMap::new(),
        });
    }
}

impl<H: Host> Engine<H> {
    /// By rule and state; every state of a rule that allocates, so that a graph does not break off.
    fn count_allocations(&self) -> BTreeMap<(String, &'static str), usize> {
        let mut counts = self.tally.state().allocations;
        counts.values_mut().for_each(|count| *count = 0);
        let allocates = |rule: &&Arc<Rule>| rule.actions.iter().any(|step| matches!(step, Step::Allocate(_)));
        for rule in self.policy.rules.rules.iter().filter(allocates) {
            for state in ALLOCATION_STATES {
                counts.entry((rule.name.clone(), state)).or_default();
            }
        }
        for lease in self.book.leases.values() {
            if let Effect::Allocation(allocation) = &lease.effect {
                *counts.entry((lease.rule.clone(), allocation.state())).or_default() += 1;
            }
        }
        counts
    }
}

fn told(record: &Record) -> Told {
    let pid = record.target.as_ref().and_then(|(target, _)| target.pid());
    let process = record.target.as_ref().map(|(_, name)| name.clone());
    let decision = record.decision.map(|decision| decision.as_str());
    Told {
        at: record.at,
        rule: record.rule.clone(),
        alertname: record.alertname.clone(),
        verdict: decision
            .or(record.outcome.map(|outcome| outcome.as_str()))
            .unwrap_or_default(),
        pid,
        process,
        step: record.step.clone(),
        before: record.before.clone(),
        after: record.after.clone(),
        reason: record.reason.clone(),
    }
}

fn held(lease: &Lease, now: Moment) -> HeldLease {
    let left = lease.deadline.saturating_sub(now.boot);
    HeldLease {
        id: lease.id,
        rule: lease.rule.clone(),
        pid: lease.target.pid(),
        process: lease.name.clone(),
        what: lease.effect.to_string(),
        until: now.wall.checked_add(left).unwrap_or(Timestamp::MAX),
    }
}
