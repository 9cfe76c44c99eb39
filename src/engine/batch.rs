//! The reports that wait together for the engine. It records all of them before it evaluates an episode, so that it does
//! nothing for an alert whose end waits in its queue.

use super::Engine;
use super::episodes::Trigger;
use super::late_delivery::Statement;
use super::latency::Arrival;
use super::share::ShareExceeded;
use super::timers::RETRY;
use super::transaction::Transaction;
use crate::alert::alertmanager::PollResult;
use crate::alert::{Alert, FiringSet};
use crate::host::Host;
use crate::ledger::{EpisodeKey, EvidenceSource, LedgerState};
use crate::rule::{Rule, RuleIndex};
use smol_str::SmolStr;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A report of a source. Its time is CLOCK_BOOTTIME of its arrival.
pub enum SourceReport {
    /// The alerts of a delivery, or of own evaluation.
    Alerts(Arc<Vec<Alert>>, Duration),
    /// The firing alerts of own evaluation, complete.
    FiringSet(FiringSet, Duration),
    /// The lists of the polled Alertmanagers, as old as the request.
    PollResult(PollResult),
}

impl SourceReport {
    /// What it says of single alerts. `listed` are the alerts to process of a poll.
    pub(super) fn statements<'a>(&'a self, listed: &'a [Alert]) -> Vec<Statement<'a>> {
        let delivered = |alerts: &'a [Alert], at: Duration| {
            let statements = alerts.iter().map(move |alert| Statement::delivered(alert, at));
            statements.collect()
        };
        match self {
            SourceReport::Alerts(alerts, at) => delivered(alerts, *at),
            SourceReport::FiringSet(set, at) => delivered(&set.firing, *at),
            SourceReport::PollResult(poll) => {
                let statements = listed.iter().map(|alert| Statement {
                    alert,
                    source: EvidenceSource::Polled,
                    at: poll.asked_at,
                    fresh_for: Some(poll.fresh_for),
                });
                statements.collect()
            }
        }
    }
}

/// An episode to evaluate once all reports are recorded.
pub(super) struct DueEpisode<'a> {
    pub key: EpisodeKey,
    pub trigger: Trigger,
    pub rule: Arc<Rule>,
    /// The last report that its alert fires.
    pub statement: Statement<'a>,
}

/// The episodes that the reports of one batch open or repeat, in their order.
#[derive(Default)]
pub(super) struct DueEpisodes<'a> {
    /// `None` where a later report closed the episode.
    episodes: Vec<Option<DueEpisode<'a>>>,
    by_fingerprint: HashMap<SmolStr, Vec<usize>>,
}

impl<'a> DueEpisodes<'a> {
    /// Adds an episode. Returns whether it was due already.
    pub fn add(&mut self, new: DueEpisode<'a>) -> bool {
        let places = self.by_fingerprint.entry(new.key.fingerprint.clone()).or_default();
        for place in places.iter() {
            if let Some(known) = self.episodes[*place].as_mut().filter(|known| known.key == new.key) {
                known.statement = new.statement;
                if new.trigger == Trigger::Opened {
                    known.trigger = Trigger::Opened;
                }
                return true;
            }
        }
        places.push(self.episodes.len());
        self.episodes.push(Some(new));
        false
    }

    /// Drops the episodes of an alert that are no longer open.
    pub fn drop_closed_of(&mut self, fingerprint: &str, ledger: &LedgerState) {
        for place in self.by_fingerprint.get(fingerprint).into_iter().flatten() {
            self.episodes[*place].take_if(|due| !ledger.episodes.contains_key(&due.key));
        }
    }

    /// Drops all episodes that are no longer open.
    pub fn drop_closed(&mut self, ledger: &LedgerState) {
        for place in &mut self.episodes {
            place.take_if(|due| !ledger.episodes.contains_key(&due.key));
        }
    }

    pub fn into_open(self) -> Vec<DueEpisode<'a>> {
        self.episodes.into_iter().flatten().collect()
    }
}

/// The transaction of a batch that is filled now, and what came of those before it.
struct Portion {
    transaction: Transaction,
    /// Number of alerts recorded, or episodes evaluated, in it.
    size: usize,
    max_size: usize,
    share_exceeded: Option<ShareExceeded>,
    result: Result<(), String>,
}

impl<H: Host> Engine<H> {
    /// Processes alerts that arrived together, now.
    ///
    /// # Errors
    /// As [`Engine::process_reports`].
    pub fn take(&mut self, alerts: &[Alert], arrival: impl Into<Arrival>) -> Result<(), String> {
        let reports = [SourceReport::Alerts(Arc::new(alerts.to_vec()), self.boot_now())];
        self.process_reports(&reports, arrival.into(), usize::MAX)
    }

    /// Processes reports that waited together: it records all of them in their order, and then evaluates the episodes that
    /// are open. So no step is planned for an alert whose end waits behind its firing. One transaction has at most
    /// `max_size` alerts to record, and as many episodes to evaluate, so that its memory and its commit stay bounded.
    ///
    /// # Errors
    /// When the decisions could not be made durable. No new step was applied then, but leases may have been reverted.
    /// And when too many episodes are open for one of the alerts.
    pub fn process_reports(
        &mut self,
        reports: &[SourceReport],
        arrival: Arrival,
        max_size: usize,
    ) -> Result<(), String> {
        let rules = self.policy.rules.rules.clone();
        let index = RuleIndex::new(&rules);
        let listed: Vec<Vec<Alert>> = reports.iter().map(|report| self.listed(report)).collect();
        let mut due = DueEpisodes::default();
        let mut portion = Portion {
            transaction: Transaction::new(self.host.now(), Some(arrival)),
            size: 0,
            max_size,
            share_exceeded: None,
            result: Ok(()),
        };
        for report in reports {
            self.show_unanswered(report, &index);
        }
        for (report, listed) in reports.iter().zip(&listed) {
            if self.record_absences(report, &mut portion.transaction) {
                due.drop_closed(&self.ledger);
            }
            for statement in report.statements(listed) {
                self.make_room(&mut portion);
                self.record_statement(&statement, &index, &mut due, &mut portion.transaction);
            }
        }
        portion.size = 0;
        let due = due.into_open();
        for due in &due {
            self.make_room(&mut portion);
            self.evaluate_episode(&due.key, due.trigger, &mut portion.transaction);
        }
        self.commit_portion(&mut portion);
        if portion.result.is_err() {
            self.act_without_ledger(&due, arrival);
        }
        portion.result?;
        // The sender retries, and some episodes may have closed by then.
        portion.share_exceeded.map_or(Ok(()), |reason| Err(reason.to_string()))
    }

    /// Counts one more alert or evaluation, in the next transaction where this one is full.
    fn make_room(&mut self, portion: &mut Portion) {
        if portion.size == portion.max_size {
            self.commit_portion(portion);
        }
        portion.size += 1;
    }

    fn commit_portion(&mut self, portion: &mut Portion) {
        let next = Transaction::new(self.host.now(), portion.transaction.arrival);
        let transaction = std::mem::replace(&mut portion.transaction, next);
        portion.size = 0;
        portion.share_exceeded = portion.share_exceeded.or(transaction.share_exceeded);
        if let Err(reason) = self.commit_and_apply(transaction) {
            portion.result = Err(reason);
        }
    }

    /// Evaluates the rules that act without a ledger once more.
    fn act_without_ledger(&mut self, due: &[DueEpisode<'_>], arrival: Arrival) {
        let now = self.host.now();
        let mut rest = Transaction::without_ledger(now, Some(arrival));
        for due in due {
            if !due.rule.without_ledger || self.policy.is_simulated(&due.rule) {
                continue;
            }
            if let Some((key, trigger)) = self.report(due.statement, &mut rest).record_firing(&due.rule) {
                self.evaluate_episode(&key, trigger, &mut rest);
            }
        }
        if rest.has_something() {
            // Its intents are valid, durable or not.
            let _ = self.commit_and_apply(rest);
        }
        self.ledger.postpone_due(now.boot, now.boot + RETRY);
    }
}
