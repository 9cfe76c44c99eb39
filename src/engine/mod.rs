//! The engine: it processes alerts and due work through the pipeline of `pipeline.rs`. It runs on its own thread and
//! knows no HTTP, no async and no YAML.

pub mod batch;
mod control;
mod signal_delivery;
pub mod late_delivery;
mod episodes;
mod executor;
pub mod host_identity;
mod host_steps;
mod intents;
mod start_job;
mod job_results;
mod jobs_in_flight;
pub mod latency;
mod members;
mod open_episodes;
mod operator;
pub mod pipeline;
pub mod privileges;
mod process_view;
mod recheck;
mod reconcile;
mod reload_limit;
mod reported_alert;
mod rollback;
mod pending_reverts;
pub mod run;
pub mod select;
mod share;
pub mod status;
mod steps;
mod targets;
pub mod timers;
pub mod transaction;
mod underlying_value;
mod undo;
mod verify;
mod victims;

#[cfg(test)]
mod tests;

pub use privileges::{confined_steps, missing_privileges};
pub use reported_alert::open_episode;
pub use targets::{CgroupMatch, screen_cgroups, select_cgroups};

use crate::act::budget::Budget;
use crate::host::Host;
use crate::ledger::state::REMEMBER_VICTIMS;
use crate::ledger::{
    Decision, Entry, Episode, EpisodeKey, EvidenceSource, Journal, LedgerState, Level, Record, Retention,
};
use crate::process::Selector;
use crate::process::cpu_baseline::CpuBaseline;
use crate::rule::{Rule, RuleSet};
use crate::telemetry::Telemetry;
use episodes::Episodes;
use executor::Executor;
use host_identity::HostIdentity;
use jobs_in_flight::JobsInFlight;
use late_delivery::Statement;
use open_episodes::OpenEpisodes;
use pending_reverts::PendingReverts;
use privileges::warn_of_privileges;
use process_view::ProcessView;
use reload_limit::ReloadLimit;
use reported_alert::ReportedAlert;
use smol_str::SmolStr;
use status::{StateView, show_rules};
use std::sync::Arc;
use std::time::Duration;
use steps::StepPlanner;
use timers::Timers;
use transaction::Transaction;
use verify::Verifier;

/// What the configuration lets the engine do.
#[derive(Debug, Clone)]
pub struct Policy {
    pub rules: RuleSet,
    /// False is dry-run.
    pub enforce: bool,
    pub host_identity: HostIdentity,
    pub protect: Vec<Selector>,
    pub budget: Budget,
    /// `on_exit: restore`.
    pub restore_on_exit: bool,
    /// How much history the ledger keeps.
    pub retention: Retention,
}

impl Policy {
    /// The users that selectors list by name.
    fn users(&self) -> Vec<&str> {
        let of_rules = self.rules.rules.iter().filter_map(|rule| rule.selector());
        of_rules.chain(&self.protect).flat_map(Selector::users).collect()
    }

    /// Whether the steps of a rule are only recorded.
    pub fn is_simulated(&self, rule: &Rule) -> bool {
        !self.enforce || rule.dry_run
    }

    /// The rule of an open episode: the one of that name. A reload changes the rule of the episodes that stay open.
    fn rule_of(&self, episode: &Episode) -> Option<&Arc<Rule>> {
        self.rules.get(&episode.key.rule)
    }

    /// The level of an open episode at `now` (CLOCK_BOOTTIME). An episode without a rule is over.
    fn level_of(&self, episode: &Episode, now: Duration) -> Level {
        let rule = self.rule_of(episode);
        rule.map_or(Level::Over, |rule| episode.evidence.level(now, rule.hold))
    }

    /// Whether the configuration in force has a rule of the episode's name, in the same mode, that answers its alert.
    fn is_in_force(&self, episode: &Episode) -> bool {
        let Some(rule) = self.rule_of(episode) else {
            return false;
        };
        let is_about_us = || {
            let is_own = episode.evidence.last_firing(EvidenceSource::Own).is_some();
            is_own || rule.any_host || self.host_identity.recognises(&episode.labels).is_ok()
        };
        self.is_simulated(rule) == episode.key.simulated && rule.matches(&episode.labels) && is_about_us()
    }
}

/// The answer to a rule's `while`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub holds: bool,
    /// CLOCK_BOOTTIME of the oldest of the newest samples that it rests on, one for each collector that it reads.
    pub sample_at: Duration,
}

/// The evaluation of `while` on samples; `None` if the result is unknown now.
pub type Conditions = Box<dyn Fn(&str) -> Option<Answer> + Send>;

pub struct Engine<H: Host> {
    host: H,
    journal: Journal,
    ledger: LedgerState,
    policy: Policy,
    telemetry: Telemetry,
    conditions: Conditions,
    open: OpenEpisodes,
    processes: ProcessView,
    reverts: PendingReverts,
    jobs: JobsInFlight,
    timers: Timers,
    reload_limit: ReloadLimit,
}

impl<H: Host> Engine<H> {
    /// Takes over what the journal holds. Call [`Engine::resume`] before anything else.
    pub fn new(
        host: H,
        journal: Journal,
        ledger: LedgerState,
        policy: Policy,
        conditions: Conditions,
        telemetry: Telemetry,
    ) -> Self {
        let processes = ProcessView::new(host.own_ancestors());
        let timers = Timers {
            last_round: host.now().boot,
            ..Timers::default()
        };
        let mut engine = Engine {
            host,
            journal,
            ledger,
            policy,
            telemetry,
            conditions,
            open: OpenEpisodes::default(),
            processes,
            reverts: PendingReverts::default(),
            jobs: JobsInFlight::default(),
            timers,
            reload_limit: ReloadLimit::default(),
        };
        engine.host.prepare_users(&engine.policy.users());
        engine.retain_history();
        engine.measure_cpu();
        show_rules(&engine.telemetry, &engine.policy);
        warn_of_privileges(&engine.host, &engine.policy);
        engine
    }

    fn episodes<'a>(&'a mut self, transaction: &'a mut Transaction) -> Episodes<'a> {
        self.planner(transaction).episodes
    }

    fn report<'a, 's>(
        &'a mut self,
        statement: Statement<'s>,
        transaction: &'a mut Transaction,
    ) -> ReportedAlert<'a, 's> {
        ReportedAlert {
            episodes: self.episodes(transaction),
            statement,
        }
    }

    fn verifier<'a>(&'a mut self, transaction: &'a mut Transaction) -> Verifier<'a, H> {
        let planner = self.planner(transaction);
        Verifier {
            host: planner.host,
            processes: planner.processes,
            episodes: planner.episodes,
        }
    }

    fn planner<'a>(&'a mut self, transaction: &'a mut Transaction) -> StepPlanner<'a, H> {
        StepPlanner {
            boot: self.journal.boot(),
            host: &mut self.host,
            processes: &mut self.processes,
            conditions: &self.conditions,
            episodes: Episodes {
                ledger: &mut self.ledger,
                policy: &self.policy,
                open: &mut self.open,
                telemetry: &self.telemetry,
                reverts: &mut self.reverts,
                jobs: &self.jobs,
                transaction,
            },
        }
    }

    fn executor<'a>(&'a mut self, transaction: &'a mut Transaction) -> Executor<'a, H> {
        Executor {
            host: &mut self.host,
            ledger: &mut self.ledger,
            policy: &self.policy,
            processes: &self.processes,
            telemetry: &self.telemetry,
            reverts: &mut self.reverts,
            jobs: &mut self.jobs,
            transaction,
            outcomes: Vec::new(),
        }
    }

    /// Has the ledger forget a portion of its oldest history, when nothing else is to be done. Whether there may be more.
    pub fn sweep_ledger(&mut self) -> bool {
        self.journal.sweep()
    }

    /// The age up to which victims are asked for: by the host's budget, and by the cooldowns of all rules.
    fn victim_age(&self) -> Duration {
        let cooldowns = self.policy.rules.rules.iter().map(|rule| rule.cooldown);
        cooldowns.fold(self.policy.budget.per.max(REMEMBER_VICTIMS), Duration::max)
    }

    fn retain_history(&mut self) {
        let victims = self.victim_age();
        self.journal.retain(Retention {
            victims,
            ..self.policy.retention
        });
    }

    /// CLOCK_BOOTTIME by the clock of the host.
    pub fn boot_now(&self) -> Duration {
        self.host.now().boot
    }

    pub fn ledger(&self) -> &LedgerState {
        &self.ledger
    }

    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// The audit trail so far, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.journal.records()
    }

    /// Measures processor use from an earlier reading of the process table.
    pub fn measure_from(&mut self, baseline: CpuBaseline) {
        self.processes.measure_from(Some(baseline));
    }

    /// The unconfirmed episodes.
    pub fn unconfirmed(&self) -> Vec<EpisodeKey> {
        let now = self.host.now().boot;
        let episodes = self.ledger.episodes.values();
        let unconfirmed = episodes.filter(|episode| self.policy.level_of(episode, now) == Level::Unconfirmed);
        unconfirmed.map(|episode| episode.key.clone()).collect()
    }

    /// Whether a rule acts on an episode while the ledger cannot be written.
    fn acts_without_ledger(&self, key: &EpisodeKey) -> bool {
        let episode = self.ledger.episodes.get(key).filter(|_| !key.simulated);
        let rule = episode.and_then(|episode| self.policy.rule_of(episode));
        rule.is_some_and(|rule| rule.without_ledger)
    }

    /// CLOCK_BOOTTIME at which [`Engine::tick`] has something to do.
    pub fn next_due(&self) -> Option<Duration> {
        let due = timers::next_due(&self.ledger, self.timers, &self.jobs.awaited());
        due.into_iter().chain(self.reload_limit.next_due()).min()
    }

    /// How long until then.
    pub fn time_until_due(&self) -> Option<Duration> {
        self.next_due().map(|due| due.saturating_sub(self.host.now().boot))
    }

    /// Remembers how much processor time each process has used, where some rule will ask for its use.
    fn measure_cpu(&mut self) {
        if !self.policy.rules.rules.iter().any(|rule| select::needs_cpu(rule)) {
            self.processes.measure_from(None);
            self.timers.baseline_at = None;
            return;
        }
        let now = self.host.now().boot;
        if let Ok(table) = self.host.processes() {
            self.processes.add_baseline(&table, now);
        }
        self.timers.baseline_at = Some(now);
    }

    /// Counts the decisions of a transaction. Where the commit failed, rules that act without a ledger are evaluated again,
    /// and counted then.
    fn count_decisions(&self, entries: &[Entry], counted: Vec<(SmolStr, Decision)>, is_durable: bool) {
        let recorded = entries.iter().filter_map(|entry| match entry {
            Entry::Record(record) => Some((record.rule.as_str().into(), record.decision?)),
            _ => None,
        });
        for (rule, decision) in recorded.chain(counted) {
            let is_again = |rule: &Arc<Rule>| rule.without_ledger;
            match is_durable {
                true => self.telemetry.decision(&rule, decision.as_str()),
                false if self.policy.rules.get(&rule).is_some_and(is_again) => {}
                false => self.telemetry.decision(&rule, Decision::Ledger.as_str()),
            }
        }
    }

    /// Updates metrics and status page.
    fn publish_state(&mut self) {
        let now = self.host.now();
        let view = StateView {
            ledger: &self.ledger,
            policy: &self.policy,
            telemetry: &self.telemetry,
            is_ledger_writable: self.journal.is_writable(),
        };
        view.publish(&mut self.timers, now);
    }
}
