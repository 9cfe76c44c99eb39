//! A transaction of the engine: the decisions so far, the entries that must be durable before any action, and the
//! actions that follow. Alerts that arrive together share a transaction, and so share commits and the reading of the
//! process table.

use super::latency::{Arrival, TransactionTimes};
use super::share::{OpenCounts, ShareExceeded};
use crate::alert::Labels;
use crate::host::Moment;
use crate::ledger::state::PreviousState;
use crate::ledger::{Decision, Entry, EpisodeKey, LedgerState, Outcome, Record};
use crate::process::{Candidate, Process, ProcessTree, Selector, Target};
use crate::rule::Rule;
use nix::sys::signal::Signal;
use smol_str::SmolStr;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An action on the host, to be executed once its intent is durable.
pub enum Action {
    /// Set the value of this lease, on a process that must still match the rule.
    Set { lease: u64, context: ActionContext },
    /// Send a signal; `lease` reverts it, if it is reversible.
    Signal {
        signal: Signal,
        lease: Option<u64>,
        is_final: bool,
        context: ActionContext,
    },
    /// Kill every process in a cgroup.
    Kill { context: ActionContext },
    /// Reclaim memory.
    Reclaim { bytes: u64, context: ActionContext },
    /// Start the next job of this lease's allocation or command.
    Send { lease: u64, was_in_doubt: bool },
    /// Revert this lease. `outcome` is the one on success.
    Undo { lease: u64, outcome: Outcome },
}

/// The target of a step, and the reason for it.
pub struct ActionContext {
    pub about: AlertRef,
    pub candidate: Candidate,
    pub rule: Arc<Rule>,
    /// The selector with the labels of the alert.
    pub selector: Arc<Selector>,
    /// Index of the step in the rule.
    pub step_index: usize,
    pub step: String,
    pub action: &'static str,
    /// Whether the step gives the target more than it has of its own.
    pub is_favour: bool,
}

impl ActionContext {
    /// The episode of the step. Dry-run steps have no action.
    pub fn episode(&self) -> EpisodeKey {
        EpisodeKey::new(&self.about.rule, &self.about.fingerprint, false)
    }

    /// Whether the step is irreversible.
    pub fn is_final(&self) -> bool {
        self.rule
            .actions
            .get(self.step_index)
            .is_some_and(|step| step.is_final())
    }
}

/// The rule and the alert of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertRef {
    pub rule: SmolStr,
    pub alertname: SmolStr,
    pub fingerprint: SmolStr,
}

impl AlertRef {
    pub fn new(rule: &str, labels: &Labels, fingerprint: &str) -> AlertRef {
        AlertRef {
            rule: rule.into(),
            alertname: labels.get("alertname").unwrap_or_default().into(),
            fingerprint: fingerprint.into(),
        }
    }

    /// A rule without an alert.
    pub fn of_rule(rule: &str) -> AlertRef {
        AlertRef {
            rule: rule.into(),
            ..AlertRef::default()
        }
    }

    /// An empty record at a moment.
    pub fn record(&self, at: Moment) -> Record {
        Record {
            at: at.wall,
            rule: self.rule.to_string(),
            alertname: self.alertname.to_string(),
            fingerprint: self.fingerprint.to_string(),
            target: None,
            step: None,
            decision: None,
            outcome: None,
            before: None,
            after: None,
            output: None,
            reason: String::new(),
            operation: None,
            by: None,
            is_effect: false,
        }
    }
}

/// The treatment of an entry when the commit fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The entry is rolled back, and its action is dropped.
    Intent,
    /// The entry stays, and becomes durable as soon as possible: ends of episodes, and entries for reverts.
    Closing,
}

pub struct Transaction {
    pub now: Moment,
    pub latency: TransactionTimes,
    /// For rules with `without_ledger: allow` after a failed commit: the intents stay, and are recorded later.
    pub is_unledgered: bool,
    /// The arrival of the alert of this transaction.
    pub arrival: Option<Arrival>,
    /// Names of the alerts whose episodes this transaction closed, by fingerprint.
    pub closed: BTreeMap<SmolStr, SmolStr>,
    /// The one process of a rule and its ancestors, if no other process was read.
    pub near: Option<ProcessTree>,
    /// Read at most once per transaction; alerts in quick succession share one reading.
    pub table: Option<Arc<ProcessTree>>,
    /// The former values of what the intents changed in the ledger's state.
    formers: Vec<PreviousState>,
    /// Durable before `actions`, in the order of the decisions, because a resolve in the same transaction as its firing must follow
    /// it in the ledger too.
    entries: Vec<(Kind, Entry)>,
    pub actions: Vec<Action>,
    /// Whether its decisions were logged.
    is_shown: Cell<bool>,
    /// Whether the next round must come early, because the cause of a denial may be gone soon.
    pub wants_early_round: bool,
    /// The numbers of open episodes, counted once an alert opens one of many.
    pub open_counts: Option<OpenCounts>,
    /// Why an alert was refused, because too many episodes are open.
    pub share_exceeded: Option<ShareExceeded>,
    /// Decisions that are only counted and not recorded, such as duplicates.
    pub counted: Vec<(SmolStr, Decision)>,
}

impl Transaction {
    pub fn new(now: Moment, arrival: Option<Arrival>) -> Transaction {
        Transaction {
            now,
            latency: TransactionTimes::begin(),
            is_unledgered: false,
            arrival,
            closed: BTreeMap::new(),
            near: None,
            table: None,
            formers: Vec::new(),
            entries: Vec::new(),
            actions: Vec::new(),
            is_shown: Cell::new(false),
            wants_early_round: false,
            open_counts: None,
            share_exceeded: None,
            counted: Vec::new(),
        }
    }

    /// A transaction without a ledger.
    pub fn without_ledger(now: Moment, arrival: Option<Arrival>) -> Transaction {
        Transaction {
            is_unledgered: true,
            ..Transaction::new(now, arrival)
        }
    }

    /// CLOCK_BOOTTIME of this transaction.
    pub fn boot_now(&self) -> Duration {
        self.now.boot
    }

    /// Applies an entry to the ledger's state at once, so that later decisions see it, and stages it for the commit.
    pub fn stage(&mut self, ledger: &mut LedgerState, entry: Entry) {
        if self.is_unledgered {
            return self.record_always(ledger, entry);
        }
        self.formers.push(ledger.former(&entry));
        ledger.record(&entry);
        self.entries.push((Kind::Intent, entry));
    }

    /// The same for an entry that stays even if the commit fails.
    pub fn record_always(&mut self, ledger: &mut LedgerState, entry: Entry) {
        ledger.record(&entry);
        self.entries.push((Kind::Closing, entry));
    }

    /// The process table, if it was read.
    pub fn processes(&self) -> &[Process] {
        self.table.as_deref().map(|tree| &**tree).unwrap_or_default()
    }

    /// The processes from which a rule selects.
    pub fn choice(&self) -> Option<&ProcessTree> {
        self.near.as_ref().or(self.table.as_deref())
    }

    pub fn has_something(&self) -> bool {
        !self.entries.is_empty() || !self.actions.is_empty()
    }

    /// The entries that must be durable before the actions.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// The durable decisions, once. They are logged after the first action, because no action waits for a reader of the log.
    pub fn to_show(&self) -> impl Iterator<Item = &Entry> {
        let entries: &[(Kind, Entry)] = if self.is_shown.replace(true) {
            &[]
        } else {
            &self.entries
        };
        entries.iter().map(|(_, entry)| entry)
    }

    /// Rolls back all intents after a failed commit. Entries for reverts stay, and are returned.
    pub fn roll_back(&mut self, ledger: &mut LedgerState) -> Vec<Entry> {
        let is_closing = |(kind, entry)| (kind == Kind::Closing).then_some(entry);
        let closings: Vec<Entry> = std::mem::take(&mut self.entries)
            .into_iter()
            .filter_map(is_closing)
            .collect();
        while let Some(former) = self.formers.pop() {
            ledger.roll_back(former);
        }
        // The roll-back may have undone a remaining entry as well, so each is applied again.
        for entry in &closings {
            ledger.record(entry);
        }
        self.actions.retain(|action| matches!(action, Action::Undo { .. }));
        closings
    }

    /// The leases that this transaction reverts.
    pub fn undone(&self) -> impl Iterator<Item = u64> + '_ {
        self.actions.iter().filter_map(|action| match action {
            Action::Undo { lease, .. } => Some(*lease),
            _ => None,
        })
    }

    /// Those of them that have this outcome on success.
    pub fn undone_as(&self, outcome: Outcome) -> impl Iterator<Item = u64> + '_ {
        self.actions.iter().filter_map(move |action| match action {
            Action::Undo {
                lease,
                outcome: planned,
            } if *planned == outcome => Some(*lease),
            _ => None,
        })
    }
}

/// The form of a target in a record.
pub fn shown(candidate: &Candidate) -> Option<(Target, String)> {
    Some((candidate.target(), candidate.name().to_owned()))
}
