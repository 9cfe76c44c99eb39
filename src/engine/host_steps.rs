//! Steps for the host as a whole: a request to an allocator, or a command. Their results arrive later.

use super::Answer;
use super::steps::{StepPlanner, may_begin};
use super::timers::ROUND;
use super::transaction::{Action, AlertRef};
use crate::act::guard::Denial;
use crate::act::plan::{DueSteps, HOST_NAME};
use crate::host::Host;
use crate::ledger::{Decision, Effect, Entry, Episode, Outcome, TargetProgress, Victim};
use crate::process::Target;
use crate::rule::{Rule, Step};
use crate::step::allocate::without_query;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The placeholder for a granted resource in a dry-run.
const IMAGINED: &str = "RESOURCE";

impl<H: Host> StepPlanner<'_, H> {
    /// Passes the due steps of the host to the guard, up to the first job. The rest follows after its result.
    pub fn plan_host_steps(
        &mut self,
        due_steps: DueSteps,
        rule: &Arc<Rule>,
        about: &AlertRef,
        condition: Option<Answer>,
        episode: &mut Episode,
    ) {
        if self.episodes.transaction.is_unledgered {
            // A request that makes a server hold something needs a durable record first.
            return;
        }
        let simulated = episode.key.simulated;
        let is_at_end = due_steps.next_step_index >= rule.actions.len();
        let mut progress = TargetProgress {
            target: Target::Host,
            name: HOST_NAME.to_owned(),
            step_index: due_steps.next_step_index,
            due: if is_at_end {
                Duration::MAX
            } else {
                self.episodes.now() + due_steps.wait
            },
            refused: None,
        };
        let known = episode.targets.iter().find(|progress| progress.target == Target::Host);
        let former = known.and_then(|progress| progress.refused);
        for (step_index, step) in &due_steps.steps {
            let mut record = about.record(self.episodes.transaction.now);
            record.target = Some((Target::Host, HOST_NAME.to_owned()));
            record.step = Some(step.to_string());
            let allowed = if step.is_final() {
                self.may_run(rule, episode, condition)
            } else {
                may_begin(step, condition)
            };
            if let Err(denial) = allowed {
                if former != Some(denial.decision) {
                    record.decision = Some(denial.decision);
                    record.reason = denial.reason;
                    self.episodes.stage_record(record);
                }
                progress.step_index = *step_index;
                progress.due = self.episodes.now() + ROUND;
                progress.refused = Some(denial.decision);
                break;
            }
            let effect = match self.host_effect(step, episode) {
                Ok(effect) => effect,
                Err(reason) => {
                    record.decision = Some(Decision::Planned);
                    self.episodes.stage_record(record.clone());
                    record.reason = reason;
                    self.record_outcome(record, Outcome::Failed, step.action());
                    progress.step_index = step_index + 1;
                    progress.due = Duration::MAX;
                    break;
                }
            };
            if let Effect::Allocation(allocation) = &effect {
                record.reason = format!("{} {}", allocation.ask.method, without_query(&allocation.ask.url));
            }
            record.decision = Some(if simulated { Decision::DryRun } else { Decision::Planned });
            self.episodes.stage_record(record.clone());
            if step.is_final() {
                self.note_run(episode);
            }
            if simulated {
                self.record_outcome(record, Outcome::DryRun, step.action());
                continue;
            }
            let lease = self.episodes.new_lease(rule, about, (Target::Host, HOST_NAME), effect);
            let id = lease.id;
            self.episodes.stage(Entry::Lease(lease));
            self.episodes.transaction.actions.push(Action::Send {
                lease: id,
                was_in_doubt: false,
            });
            progress.step_index = step_index + 1;
            progress.due = Duration::MAX;
            break;
        }
        episode.targets.retain(|progress| progress.target != Target::Host);
        episode.targets.push(progress);
    }

    fn may_run(&self, rule: &Rule, episode: &Episode, condition: Option<Answer>) -> Result<(), Denial> {
        // No step waits for a command as it does for a process.
        let nothing = BTreeSet::new();
        let gate = self.final_gate(rule, episode, condition, &nothing, &nothing);
        gate.run().map(drop)
    }

    /// Counts the host as one victim per episode, which is settled at once because no step waits for it. A run that failed
    /// before does not count, so the next one does.
    fn note_run(&mut self, episode: &Episode) {
        let is_known =
            |victim: &Victim| victim.target == Target::Host && victim.counts_for(episode) && !victim.is_uncounted;
        if self.episodes.ledger.victims.iter().any(is_known) {
            return;
        }
        let now = self.episodes.now();
        let mut victim = Victim::new(Target::Host, episode.key.simulated, now);
        victim.assign(episode);
        victim.gone_at = Some(now);
        self.episodes.stage(Entry::Victim(victim));
    }

    /// The job of a step, with the labels of the alert.
    fn host_effect(&self, step: &Step, episode: &Episode) -> Result<Effect, String> {
        let granted = self
            .episodes
            .ledger
            .leases_of(&episode.key)
            .filter(|lease| !lease.is_ending());
        let mut granted = granted.filter_map(|lease| match &lease.effect {
            Effect::Allocation(allocation) => allocation.resource(),
            _ => None,
        });
        let resource = if episode.key.simulated {
            Some(IMAGINED)
        } else {
            granted.next_back()
        };
        let now = self.episodes.now();
        // Unique even if the ledger is lost and its numbers start over.
        let (boot, id) = (self.boot, self.episodes.ledger.last_lease_id + 1);
        let key = || format!("evenkeel-{boot}-{id}-{:x}", now.as_nanos());
        let effect = step.host_effect(episode, resource, &key);
        let mut effect = effect.ok_or("not a step for the host")??;
        match &mut effect {
            Effect::Allocation(allocation) => allocation.retry.next = now,
            Effect::Command(command) => command.retry.next = now,
            Effect::Value { .. } | Effect::Signal { .. } => {}
        }
        Ok(effect)
    }
}
