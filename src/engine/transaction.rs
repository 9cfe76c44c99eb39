//! One turn of the engine: what was decided so far, what must be durable before anything is done, and what is to be
//! done then. Alerts that come together share a turn, and so share commits and the reading of the process table.

use super::latency::{Arrival, Stages};
use crate::alert::Labels;
use crate::host::Moment;
use crate::ledger::state::PreviousState;
use crate::ledger::{Decision, Entry, EpisodeKey, LedgerState, Outcome, Record};
use crate::process::{Candidate, Process, ProcessTree, Selector, Target};
use crate::rule::{Rule, Step};
use nix::sys::signal::Signal;
use smol_str::SmolStr;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Something to do on the host once its intent is durable.
pub enum Action {
    /// Set what this lease says, on a process that must still be what the rule means.
    Take { lease: u64, context: ActionContext },
    /// Send a signal; `lease` is the one that undoes it, if it can be undone.
    Signal {
        signal: Signal,
        lease: Option<u64>,
        is_final: bool,
        context: ActionContext,
    },
    /// End everything in a cgroup.
    Kill { context: ActionContext },
    /// Have memory taken back.
    Reclaim { bytes: u64, context: ActionContext },
    /// Ask others about this lease: what its allocation or command needs next.
    Send { lease: u64, was_in_doubt: bool },
    /// Put back what this lease holds. `word` is the outcome when that works.
    Undo { lease: u64, word: Outcome },
}

/// Whom a step concerns and why.
pub struct ActionContext {
    pub about: AlertRef,
    pub candidate: Candidate,
    pub rule: Arc<Rule>,
    /// With the labels of the alert filled in.
    pub selector: Arc<Selector>,
    /// Index of the step in the ladder.
    pub step_index: usize,
    pub step: String,
    pub action: &'static str,
}

impl ActionContext {
    /// Whether the step cannot be taken back.
    pub fn is_final(&self) -> bool {
        self.rule.actions.get(self.step_index).is_some_and(Step::is_final)
    }
}

/// The rule and the alert that a record speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
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
            is_effect: false,
        }
    }
}

/// What becomes of an entry when the commit fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is taken back, and what it announced is not done.
    Intent,
    /// It stands, and is durable as soon as can be: ends of episodes and what serves undoing.
    Closing,
}

pub struct Transaction {
    pub now: Moment,
    pub latency: Stages,
    /// Of rules with `without_ledger: allow`, after the ledger could not be written: what is intended stands all the
    /// same, and is recorded when it can be.
    pub is_unledgered: bool,
    /// When the alert came that this turn reacts to.
    pub arrival: Option<Arrival>,
    /// Names of the alerts whose episodes were closed in this turn, by fingerprint.
    pub closed: BTreeMap<SmolStr, SmolStr>,
    /// The one process that a rule is about and its ancestors, where no more was read for it.
    pub near: Option<ProcessTree>,
    /// Read at most once a turn, and by alerts that come in quick succession not for each anew.
    pub table: Option<Arc<ProcessTree>>,
    /// What the intents changed in the book, as it was before each.
    formers: Vec<PreviousState>,
    /// Durable before `work`, in the order in which they were decided: a resolve that shares the turn with its firing
    /// must come after it in the ledger too.
    entries: Vec<(Kind, Entry)>,
    pub work: Vec<Action>,
    /// Whether its decisions were shown.
    is_shown: Cell<bool>,
    /// Decisions that are counted but not worth a durable line, such as duplicates.
    pub counted: Vec<(SmolStr, Decision)>,
}

impl Transaction {
    pub fn new(now: Moment, arrival: Option<Arrival>) -> Transaction {
        Transaction {
            now,
            latency: Stages::begin(),
            is_unledgered: false,
            arrival,
            closed: BTreeMap::new(),
            near: None,
            table: None,
            formers: Vec::new(),
            entries: Vec::new(),
            work: Vec::new(),
            is_shown: Cell::new(false),
            counted: Vec::new(),
        }
    }

    /// A turn that needs no ledger.
    pub fn without_ledger(now: Moment, arrival: Option<Arrival>) -> Transaction {
        Transaction {
            is_unledgered: true,
            ..Transaction::new(now, arrival)
        }
    }

    /// CLOCK_BOOTTIME of this turn.
    pub fn boot_now(&self) -> Duration {
        self.now.boot
    }

    /// Notes an entry in the book at once, so that later decisions of the turn see it, and for the commit.
    pub fn stage(&mut self, ledger: &mut LedgerState, entry: Entry) {
        if self.is_unledgered {
            return self.close(ledger, entry);
        }
        self.formers.push(ledger.former(&entry));
        ledger.record(&entry);
        self.entries.push((Kind::Intent, entry));
    }

    /// The same for what happens whether or not the ledger can be written.
    pub fn close(&mut self, ledger: &mut LedgerState, entry: Entry) {
        ledger.record(&entry);
        self.entries.push((Kind::Closing, entry));
    }

    /// The process table, where it was read.
    pub fn processes(&self) -> &[Process] {
        self.table.as_deref().map(|tree| &**tree).unwrap_or_default()
    }

    /// Those that a rule chooses from.
    pub fn choice(&self) -> Option<&ProcessTree> {
        self.near.as_ref().or(self.table.as_deref())
    }

    pub fn has_something(&self) -> bool {
        !self.entries.is_empty() || !self.work.is_empty()
    }

    /// All that must be durable before the work.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// What was decided and is durable, once: it is shown after the first deed, for no deed waits for whoever reads a log.
    pub fn to_show(&self) -> impl Iterator<Item = &Entry> {
        let entries: &[(Kind, Entry)] = if self.is_shown.replace(true) {
            &[]
        } else {
            &self.entries
        };
        entries.iter().map(|(_, entry)| entry)
    }

    /// Takes all intents back after a commit that failed. What undoes stays, and is returned.
    pub fn roll_back(&mut self, ledger: &mut LedgerState) -> Vec<Entry> {
        let is_closing = |(kind, entry)| (kind == Kind::Closing).then_some(entry);
        let closings: Vec<Entry> = std::mem::take(&mut self.entries)
            .into_iter()
            .filter_map(is_closing)
            .collect();
        while let Some(former) = self.formers.pop() {
            ledger.roll_back(former);
        }
        // What stands may have been taken back with what it followed.
        for entry in &closings {
            ledger.record(entry);
        }
        self.work.retain(|work| matches!(work, Action::Undo { .. }));
        closings
    }

    pub fn stage_record(&mut self, ledger: &mut LedgerState, record: Record) {
        self.stage(ledger, Entry::Record(record));
    }

    /// The leases that are undone in this turn.
    pub fn undone(&self) -> impl Iterator<Item = u64> + '_ {
        self.work.iter().filter_map(|work| match work {
            Action::Undo { lease, .. } => Some(*lease),
            _ => None,
        })
    }

    /// Those of them whose undoing has this outcome where it works.
    pub fn undone_as(&self, outcome: Outcome) -> impl Iterator<Item = u64> + '_ {
        self.work.iter().filter_map(move |work| match work {
            Action::Undo { lease, word } if *word == outcome => Some(*lease),
            _ => None,
        })
    }

    /// Whether a step for this episode is among the work.
    pub fn has_work_for(&self, key: &EpisodeKey) -> bool {
        self.work.iter().any(|work| match work {
            Action::Take { context, .. }
            | Action::Signal { context, .. }
            | Action::Kill { context }
            | Action::Reclaim { context, .. } => {
                context.about.rule == key.rule && context.about.fingerprint == key.fingerprint
            }
            Action::Send { .. } | Action::Undo { .. } => false,
        })
    }
}

/// A target as a record shows it.
pub fn shown(candidate: &Candidate) -> Option<(Target, String)> {
    Some((candidate.target(), candidate.name().to_owned()))
}
