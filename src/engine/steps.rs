//! The steps of one target: the guard checks each, and the allowed ones become intents and actions. Only the ledger's
//! state changes here.

use super::episodes::Episodes;
use super::process_view::ProcessView;
use super::signal_delivery::{may_deliver, may_freeze};
use super::timers::ROUND;
use super::transaction::{AlertRef, shown};
use super::victims::{orphaned_victims, spent};
use super::{Answer, Conditions};
use crate::act::effect;
use crate::act::final_gate::{FinalGate, KillClass, KnownVictims, WHILE_IS_FALSE};
use crate::act::guard::{Denial, notice};
use crate::act::plan::DueSteps;
use crate::host::{Host, Knob, Value};
use crate::ledger::episode::Excluded;
use crate::ledger::victim::MemoryBefore;
use crate::ledger::{Decision, Entry, Episode, EpisodeKey, TargetProgress, Victim};
use crate::process::identity::BootId;
use crate::process::{Candidate, Selector, Target};
use crate::rule::{Rule, Step};
use crate::step::{Change, SignalKind};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Plans the due steps of one episode.
pub(super) struct StepPlanner<'a, H: Host> {
    pub host: &'a mut H,
    pub processes: &'a mut ProcessView,
    pub conditions: &'a Conditions,
    /// The boot, for keys of requests.
    pub boot: BootId,
    pub episodes: Episodes<'a>,
}

/// The context that all steps of one target share.
pub(super) struct StepContext<'a> {
    pub rule: &'a Arc<Rule>,
    pub selector: &'a Arc<Selector>,
    pub about: &'a AlertRef,
    pub candidate: &'a Candidate,
    /// The answer to the rule's `while`; `None` without one.
    pub condition: Option<Answer>,
}

/// # Errors
/// When `while` does not hold, which every step but a wait needs. Irreversible actions pass the `FinalGate` instead,
/// because they also depend on the age of the answer.
pub(super) fn may_begin(step: &Step, condition: Option<Answer>) -> Result<(), Denial> {
    match condition {
        Some(Answer { holds: false, .. }) if !step.is_final() && !step.is_wait() => Err(Denial {
            decision: Decision::Condition,
            reason: WHILE_IS_FALSE.to_owned(),
        }),
        _ => Ok(()),
    }
}

impl<H: Host> StepPlanner<'_, H> {
    /// Drops the targets that are new in the episode while `while` does not hold. With a place in the episode, a target
    /// without a step would keep that place from the one that comes first once `while` holds. Recorded when it begins.
    pub fn refuse_new_targets(
        &mut self,
        due: &mut Vec<DueSteps>,
        condition: Option<Answer>,
        about: &AlertRef,
        key: &EpisodeKey,
    ) {
        let Some(Answer { holds, .. }) = condition else {
            return;
        };
        let refused = due.extract_if(.., |new| !holds && new.is_new && new.target != Target::Host);
        let refused: Vec<DueSteps> = refused.collect();
        if holds || !refused.is_empty() {
            let is_news = self.episodes.open.set_refused_by_condition(key, !holds);
            for due_steps in refused.into_iter().filter(|_| is_news) {
                let mut record = about.record(self.episodes.transaction.now);
                record.target = Some((due_steps.target, due_steps.name));
                record.step = due_steps.steps.first().map(|(_, step)| step.to_string());
                record.decision = Some(Decision::Condition);
                record.reason = WHILE_IS_FALSE.to_owned();
                self.episodes.stage_record(record);
            }
        }
    }

    /// Passes each due step of one target to the guard, and stages the allowed ones.
    pub fn plan_steps(&mut self, due_steps: DueSteps, context: StepContext<'_>, episode: &mut Episode) {
        let simulated = episode.key.simulated;
        let mut progress = TargetProgress {
            target: due_steps.target,
            name: due_steps.name.clone(),
            step_index: due_steps.next_step_index,
            due: if due_steps.next_step_index < context.rule.actions.len() {
                self.episodes.now() + due_steps.wait
            } else {
                Duration::MAX
            },
            refused: None,
        };
        let previously = episode
            .targets
            .iter()
            .find(|known| known.target == due_steps.target)
            .cloned();
        for (step_index, step) in &due_steps.steps {
            let allowed = self.allow(step, &context, episode);
            let allowed = allowed.and_then(|class| may_begin(step, context.condition).map(|()| class));
            let denial = match allowed {
                Ok(Some(KillClass::Done)) => {
                    self.episodes.adopt_victim(due_steps.target, episode);
                    self.episodes.count(context.rule.name.clone(), Decision::Duplicate);
                    continue;
                }
                Ok(kill_class) => {
                    if let (Some(_), Some(signal)) = (kill_class, step.final_signal()) {
                        self.record_kill(&context, signal, episode);
                    }
                    self.stage_step(step, *step_index, &context, simulated);
                    continue;
                }
                Err(denial) => denial,
            };
            let is_news = previously
                .as_ref()
                .is_none_or(|known| known.refused != Some(denial.decision));
            if is_news {
                let mut record = context.about.record(self.episodes.transaction.now);
                record.target = shown(context.candidate);
                record.step = Some(step.to_string());
                record.decision = Some(denial.decision);
                record.reason = denial.reason;
                self.episodes.stage_record(record);
            }
            if step.is_final() || denial.decision == Decision::Condition {
                // The target stays at this step and is evaluated again; only a permanently refused step is skipped.
                progress.step_index = *step_index;
                progress.due = self.episodes.now() + ROUND;
                progress.refused = Some(denial.decision);
                break;
            }
        }
        let is_done = progress.due == Duration::MAX;
        episode.targets.retain(|known| known.target != due_steps.target);
        if simulated && is_done && context.rule.has_final_steps() {
            // In enforce mode the process would be gone now, so the dry-run continues with the next one.
            self.episodes.stage(Entry::VictimGone {
                target: due_steps.target,
                at: self.episodes.now(),
                simulated: true,
            });
            episode.excluded.push(Excluded {
                target: due_steps.target,
                until_repeat: false,
            });
        } else {
            episode.targets.push(progress);
        }
    }

    /// Counts a process as one victim, regardless of the signals.
    fn record_kill(&mut self, context: &StepContext<'_>, signal: Signal, episode: &Episode) {
        let target = context.candidate.target();
        let simulated = episode.key.simulated;
        let is_it = |known: &&Victim| known.target == target && known.simulated == simulated && known.gone_at.is_none();
        let known = self
            .episodes
            .ledger
            .victims
            .iter()
            .find(is_it)
            .filter(|known| !known.is_free_again());
        let new = || Victim::new(target, simulated, self.episodes.now());
        let mut victim = known.cloned().unwrap_or_else(new);
        victim.assign(episode);
        victim.signals.push(signal as i32);
        victim.last_struck_at = Some(self.episodes.now());
        victim.unsent = (!simulated).then_some(signal as i32);
        if !simulated && effect::is_about_memory(context.rule) {
            let used = match context.candidate {
                Candidate::Process(process) => Some(process.resident_bytes),
                Candidate::Cgroup(cgroup) => cgroup.memory_bytes,
            };
            victim.memory = self
                .host
                .available_memory()
                .zip(used)
                .map(|(available_bytes, resident_bytes)| MemoryBefore {
                    resident_bytes,
                    available_bytes,
                });
        }
        self.episodes.stage(Entry::Victim(victim));
    }

    /// The answer to the `while` of a rule; `None` without one. What is unknown does not hold.
    pub fn condition_of(&self, rule: &Rule) -> Option<Answer> {
        let unknown = Answer {
            holds: false,
            sample_at: Duration::ZERO,
        };
        let text = rule.condition.as_ref()?;
        Some((self.conditions)(text).unwrap_or(unknown))
    }

    fn allow(
        &mut self,
        step: &Step,
        context: &StepContext<'_>,
        episode: &Episode,
    ) -> Result<Option<KillClass>, Denial> {
        self.may_reach(step, context.candidate)?;
        match step {
            Step::Wait(_) | Step::Allocate(_) | Step::Exec(_) => Ok(None),
            step if self.episodes.transaction.is_unledgered && !step.is_final() => Err(Denial {
                decision: Decision::Ledger,
                reason: "the ledger cannot be written: only irreversible actions are possible without it".to_owned(),
            }),
            Step::Reclaim(_) => Ok(None),
            Step::Set(change) => match self.may_undo(change.knob(), context.candidate) {
                Ok(()) if *change == Change::To(Value::Freeze(true)) => {
                    may_freeze(self.host, self.episodes.ledger, context.candidate).map(|()| None)
                }
                Ok(()) => Ok(None),
                Err(missing) => {
                    let reason = format!("{} could be set but not reverted: {missing} is missing", change.knob());
                    Err(Denial {
                        decision: Decision::Privilege,
                        reason,
                    })
                }
            },
            Step::Kill(_) => self.may_kill(Signal::SIGKILL, context, episode),
            Step::Signal(_) if self.host.may_signal().is_err() => {
                let missing = self.host.may_signal().err().unwrap_or_default();
                Err(Denial {
                    decision: Decision::Privilege,
                    reason: format!("a signal cannot be sent to exactly one process: {missing} is missing"),
                })
            }
            Step::Signal(send) => match (send.kind(), context.candidate.process()) {
                (SignalKind::Final, _) => self.may_kill(send.signal, context, episode),
                // Only processes get signals.
                (_, None) => Ok(None),
                (_, Some(process)) => {
                    notice(process, send.signal)?;
                    send.undo.map_or(Ok(()), |undo| notice(process, undo)).map(|()| None)
                }
            },
        }
    }

    /// # Errors
    /// When the process belongs to another user, and a capability is missing.
    fn may_reach(&self, step: &Step, candidate: &Candidate) -> Result<(), Denial> {
        let Some(process) = candidate.process() else {
            return Ok(());
        };
        match step.missing_reach(self.host) {
            Some(missing) if !self.host.is_own(process.identity) => Err(Denial {
                decision: Decision::Privilege,
                reason: format!("a process of another user: {missing} is missing"),
            }),
            _ => Ok(()),
        }
    }

    fn may_undo(&self, knob: Knob, candidate: &Candidate) -> Result<(), &'static str> {
        match candidate {
            Candidate::Process(_) => self.host.may_undo(knob),
            Candidate::Cgroup(_) => self.host.may_change_cgroups(),
        }
    }

    /// The guard of irreversible actions, for one of this rule in this episode.
    pub(super) fn final_gate<'g>(
        &'g self,
        rule: &'g Rule,
        episode: &'g Episode,
        condition: Option<Answer>,
        stuck: &'g BTreeSet<Target>,
        orphaned: &'g BTreeSet<Target>,
    ) -> FinalGate<'g> {
        let Episodes { ledger, policy, .. } = &self.episodes;
        FinalGate {
            rule,
            episode,
            victims: KnownVictims {
                all: &ledger.victims,
                stuck,
                orphaned,
            },
            budget: policy.budget,
            now: self.episodes.now(),
            sample_at: condition.map_or(self.episodes.now(), |answer| answer.sample_at),
            condition: condition.map(|answer| answer.holds),
            is_broken: ledger.is_breaker_open(&rule.name),
        }
    }

    fn may_kill(
        &mut self,
        signal: Signal,
        context: &StepContext<'_>,
        episode: &Episode,
    ) -> Result<Option<KillClass>, Denial> {
        let mut stuck = spent(self.episodes.ledger, self.episodes.transaction.processes());
        let given_up = self.episodes.ledger.victims.iter().filter(|victim| victim.outlived);
        stuck.extend(given_up.map(|victim| victim.target));
        let orphaned = orphaned_victims(self.episodes.ledger);
        let gate = self.final_gate(context.rule, episode, context.condition, &stuck, &orphaned);
        let kill_class = gate.kill_class(context.candidate.target(), signal)?;
        if kill_class != KillClass::Done {
            may_deliver(self.host, self.episodes.ledger, signal, context.candidate)?;
        }
        Ok(Some(kill_class))
    }
}
