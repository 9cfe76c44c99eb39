//! The requests of operators: pause, resume, release, reset of a breaker, reload. Each one is logged and recorded with
//! who asked, when and the reason given.

use super::Engine;
use super::job_results::record_of;
use super::transaction::{AlertRef, Transaction};
use crate::host::{Host, Moment};
use crate::ledger::{Breaker, Entry, Lease, LedgerState, Operation, OperatorRequest, Outcome, Record};
use std::time::Duration;

impl<H: Host> Engine<H> {
    /// Releases one lease or all, and returns their number. A second request drops a lease whose job fails.
    pub fn release(&mut self, id: Option<u64>, request: &OperatorRequest) -> usize {
        let mut transaction = Transaction::new(self.host.now(), None);
        let leases = self.ledger.leases.values();
        let chosen = leases.filter(|lease| id.is_none_or(|id| lease.id == id));
        let mut chosen: Vec<Lease> = chosen.rev().cloned().collect();
        if chosen.is_empty() {
            return 0;
        }
        let count = chosen.len();
        let mut record = match (id, chosen.first()) {
            (Some(_), Some(lease)) => record_of(&self.ledger, lease, transaction.now),
            _ => AlertRef::default().record(transaction.now),
        };
        record.step = Some(match id {
            Some(id) => format!("lease {id}"),
            None => format!("all leases ({count})"),
        });
        transaction.record_operation(&mut self.ledger, Operation::Release, request, record);
        for lease in &mut chosen {
            lease.released = Some(Box::new(request.clone()));
            transaction.record_always(&mut self.ledger, Entry::Lease(lease.clone()));
        }
        let mut episodes = self.episodes(&mut transaction);
        chosen.retain(|lease| !episodes.note_release_by_hand(lease, id.is_some()));
        episodes.take_out(&chosen, Outcome::Restored, false);
        self.finish(transaction);
        count
    }

    /// Pauses or resumes new steps. Durable, so that a restart does not end a pause.
    pub fn pause(&mut self, paused: bool, request: &OperatorRequest) {
        let mut transaction = Transaction::new(self.host.now(), None);
        transaction.record_always(&mut self.ledger, Entry::Paused(paused));
        let operation = if paused { Operation::Pause } else { Operation::Resume };
        let record = AlertRef::default().record(transaction.now);
        transaction.record_operation(&mut self.ledger, operation, request, record);
        self.finish(transaction);
    }

    /// Pauses or resumes one rule. Durable. False if there is neither such a rule nor a pause of it.
    pub fn pause_rule(&mut self, rule: &str, paused: bool, request: &OperatorRequest) -> bool {
        let exists = self.policy.rules.rules.iter().any(|known| known.name == rule);
        // A pause outlives its rule, which a later configuration may have again.
        if !exists && (paused || !self.ledger.paused_rules.contains(rule)) {
            return false;
        }
        let mut transaction = Transaction::new(self.host.now(), None);
        let entry = Entry::RulePaused {
            rule: rule.to_owned(),
            paused,
        };
        transaction.record_always(&mut self.ledger, entry);
        let operation = if paused { Operation::Pause } else { Operation::Resume };
        let record = AlertRef::of_rule(rule).record(transaction.now);
        transaction.record_operation(&mut self.ledger, operation, request, record);
        self.finish(transaction);
        true
    }

    /// Closes the breaker of a rule. False if it is not open.
    pub fn close_breaker(&mut self, rule: &str, request: &OperatorRequest) -> bool {
        if !self.ledger.is_breaker_open(rule) {
            return false;
        }
        let mut transaction = Transaction::new(self.host.now(), None);
        let record = AlertRef::of_rule(rule).record(transaction.now);
        let (rule, breaker) = (rule.to_owned(), Breaker::default());
        transaction.record_always(&mut self.ledger, Entry::Breaker { rule, breaker });
        transaction.record_operation(&mut self.ledger, Operation::CloseBreaker, request, record);
        self.finish(transaction);
        true
    }

    /// Records a reload, or one that was refused for a reason. Of equal ones it counts those that follow soon.
    pub fn record_reload(&mut self, request: &OperatorRequest, refused: Option<&str>) {
        let mut transaction = Transaction::new(self.host.now(), None);
        let now = transaction.now;
        self.record_counted_reloads(now.boot, &mut transaction);
        if self.reload_limit.permit(request, refused, now.wall, now.boot) {
            let record = reload_record(now, refused);
            transaction.record_operation(&mut self.ledger, Operation::Reload, request, record);
        }
        if transaction.has_something() {
            self.finish(transaction);
        }
    }

    /// Records the number of reloads without a record of their own, for the intervals that are over at `until`
    /// (CLOCK_BOOTTIME).
    pub(super) fn record_counted_reloads(&mut self, until: Duration, transaction: &mut Transaction) {
        for left_out in self.reload_limit.take(until) {
            let mut record = reload_record(transaction.now, left_out.refused.as_deref());
            let counted = format!("{} more like this, the last at {}", left_out.count, left_out.last_at);
            record.reason = match record.reason.as_str() {
                "" => counted,
                reason => format!("{counted}; {reason}"),
            };
            transaction.record_operation(&mut self.ledger, Operation::Reload, &left_out.last, record);
        }
    }
}

fn reload_record(at: Moment, refused: Option<&str>) -> Record {
    let mut record = AlertRef::default().record(at);
    if let Some(reason) = refused {
        record.outcome = Some(Outcome::Failed);
        record.reason = format!("the last good configuration stays: {reason}");
    }
    record
}

impl Transaction {
    fn record_operation(
        &mut self,
        ledger: &mut LedgerState,
        operation: Operation,
        request: &OperatorRequest,
        mut record: Record,
    ) {
        let OperatorRequest { by, reason } = request;
        let given = [reason.as_str(), record.reason.as_str()];
        record.reason = given
            .iter()
            .filter(|text| !text.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join("; ");
        tracing::info!(
            operation = operation.as_str(),
            by = by.name,
            uid = by.uid,
            login = by.login,
            rule = record.rule,
            object = record.step.as_deref().unwrap_or(""),
            reason = record.reason,
            "operator request"
        );
        record.operation = Some(operation);
        record.by = Some(by.clone());
        self.record_always(ledger, Entry::Record(record));
    }
}
