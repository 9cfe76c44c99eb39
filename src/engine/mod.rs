//! The engine: it processes alerts and due work through the pipeline of `pipeline.rs`. It runs on its own thread and
//! knows no HTTP, no async and no YAML.

mod verify;
pub mod timers;
mod steps;
mod base;
mod cgroups;
mod delivery;
pub mod episode;
mod job;
pub mod host_identity;
mod open_episodes;
pub mod pipeline;
mod process_view;
mod perform;
mod reconcile;
mod room;
pub mod run;
pub mod select;
pub mod status;
pub mod latency;
pub mod transaction;
pub mod rollback;
mod unit_limits;

#[cfg(test)]
mod tests;

pub use cgroups::select_cgroups;

use crate::act::guard::Budget;
use crate::alert::alertmanager::MissingAlerts;
use crate::host::Host;
use crate::ledger::lease::Undo;
use crate::ledger::state::REMEMBER_VICTIMS;
use crate::ledger::{Episode, EvidenceSource, Journal, Lease, LedgerState, Record, Retention};
use crate::process::Selector;
use crate::process::table::CpuBaseline;
use crate::rule::{Rule, RuleSet, Step, TargetSelector};
use crate::telemetry::Telemetry;
use host_identity::HostIdentity;
use job::InFlight;
use open_episodes::OpenEpisodes;
use process_view::ProcessView;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use timers::Timers;

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

/// The steps of a rule that could be taken here and not be undone, or not be taken at all, and what is missing.
pub fn missing_privileges<'r>(host: &impl Host, rule: &'r Rule) -> Vec<(&'r Step, &'static str)> {
    let missing = |step: &'r Step| {
        let missing = match step {
            Step::Set(change) => host.may_undo(change.knob()).err(),
            Step::Signal(_) => host.may_signal().err(),
            _ => None,
        };
        missing.map(|missing| (step, missing))
    };
    rule.actions.iter().filter_map(missing).collect()
}

/// The steps of a rule that reach no processes of other users here, and what is missing.
pub fn confined_steps<'r>(host: &impl Host, rule: &'r Rule) -> Vec<(&'r Step, &'static str)> {
    let missing = |step: &'r Step| {
        let missing = match step {
            _ if matches!(rule.target_selector, TargetSelector::Cgroups(_)) => None,
            Step::Set(change) => host.may_reach_others(Some(change.knob())).err(),
            Step::Signal(_) => host.may_reach_others(None).err(),
            _ => None,
        };
        missing.map(|missing| (step, missing))
    };
    rule.actions.iter().filter_map(missing).collect()
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
    open_episodes: OpenEpisodes,
    processes: ProcessView,
    /// What was undone in this turn, whose newest children must be looked for once more.
    undone: Vec<(Lease, Undo)>,
    /// Leases that are being undone and wait for room, by number.
    waits: BTreeMap<u64, room::Wait>,
    timers: Timers,
    missing_alerts: MissingAlerts,
    /// What others were asked and have not answered, by ticket.
    jobs_in_flight: BTreeMap<u64, InFlight>,
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
            open_episodes: OpenEpisodes::default(),
            processes,
            undone: Vec::new(),
            waits: BTreeMap::new(),
            timers,
            missing_alerts: MissingAlerts::default(),
            jobs_in_flight: BTreeMap::new(),
        };
        engine.retain_history();
        engine.measure_cpu();
        engine.show_rules();
        engine.warn_of_privileges();
        engine
    }

    /// Says at the start which rules could be applied and not be undone here; their steps are refused.
    fn warn_of_privileges(&self) {
        for rule in self.policy.rules.rules.iter().filter(|rule| !self.is_simulated(rule)) {
            for (step, missing) in missing_privileges(&self.host, rule) {
                tracing::warn!(
                    rule = rule.name.as_str(),
                    step = step.to_string(),
                    missing,
                    "step refused, because evenkeel could not revert it"
                );
            }
            for (step, missing) in confined_steps(&self.host, rule) {
                tracing::warn!(
                    rule = rule.name.as_str(),
                    step = step.to_string(),
                    missing,
                    "step refused for processes of other users"
                );
            }
        }
        if let Err(missing) = self.host.may_identify_others()
            && !self.policy.rules.rules.is_empty()
        {
            tracing::warn!(
                missing,
                "could not identify processes of other users, rules do not select them"
            );
        }
    }

    /// Has the ledger forget a portion of its oldest history, when nothing else is to be done. Whether there may be more.
    pub fn sweep_ledger(&mut self) -> bool {
        self.journal.sweep()
    }

    /// The age up to which victims are asked for: by the host's budget, and by the cooldowns of all rules.
    fn victim_age(&self) -> Duration {
        let rules = self.policy.rules.rules.iter().chain(self.open_episodes.rules());
        let cooldowns = rules.map(|rule| rule.cooldown);
        cooldowns.fold(self.policy.budget.per.max(REMEMBER_VICTIMS), Duration::max)
    }

    fn retain_history(&mut self) {
        let victims = self.victim_age();
        self.journal.retain(Retention {
            victims,
            ..self.policy.retention
        });
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

    /// CLOCK_BOOTTIME at which [`Engine::tick`] has something to do.
    pub fn next_due(&self) -> Option<Duration> {
        timers::next_due(&self.ledger, self.timers, &self.awaited())
    }

    /// How long until then.
    pub fn time_until_due(&self) -> Option<Duration> {
        self.next_due().map(|due| due.saturating_sub(self.host.now().boot))
    }

    /// The rule of an episode: the one it came from, or after a restart the one of that name.
    fn rule_of(&self, episode: &Episode) -> Option<Arc<Rule>> {
        self.open_episodes
            .rule(&episode.key)
            .or_else(|| self.policy.rules.get(&episode.key.rule))
            .cloned()
    }

    fn is_simulated(&self, rule: &Rule) -> bool {
        !self.policy.enforce || rule.dry_run
    }

    /// Whether the configuration in force has a rule of the episode's name, in the same mode, that answers its alert.
    fn is_in_force(&self, episode: &Episode) -> bool {
        let Some(rule) = self.policy.rules.get(&episode.key.rule) else {
            return false;
        };
        let is_about_us = || {
            let is_own = episode.evidence.last_firing(EvidenceSource::Own).is_some();
            is_own || rule.any_host || self.policy.host_identity.recognises(&episode.labels).is_ok()
        };
        self.is_simulated(rule) == episode.key.simulated && rule.matches(&episode.labels) && is_about_us()
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
}
