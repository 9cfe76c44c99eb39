//! The steps of one target: the guard checks each, and the allowed ones become intents and actions. Only the ledger
//! changes here.

use super::timers::ROUND;
use super::transaction::{Action, ActionContext, AlertRef, Transaction, shown};
use super::{Answer, Engine};
use crate::act::effect;
use crate::act::guard::{Denial, FinalGate, KillClass, notice};
use crate::act::plan::DueSteps;
use crate::host::{Host, Knob, Value};
use crate::ledger::episode::Excluded;
use crate::ledger::victim::MemoryBefore;
use crate::ledger::{Decision, Effect, Entry, Episode, Lease, Outcome, Record, TargetProgress, Victim};
use crate::process::{Candidate, Selector, Target};
use crate::rule::step::{Change, Send, SignalKind};
use crate::rule::{Rule, Step};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The context that all steps of one target share.
pub(super) struct StepContext<'a> {
    pub rule: &'a Arc<Rule>,
    pub selector: &'a Arc<Selector>,
    pub about: &'a AlertRef,
    pub candidate: &'a Candidate,
}

impl<H: Host> Engine<H> {
    /// Passes each due step of one target to the guard, and stages the allowed ones.
    pub(super) fn plan_steps(
        &mut self,
        due_steps: DueSteps,
        context: StepContext<'_>,
        episode: &mut Episode,
        transaction: &mut Transaction,
    ) {
        let simulated = episode.key.simulated;
        let mut progress = TargetProgress {
            target: due_steps.target,
            name: due_steps.name.clone(),
            step_index: due_steps.next_rung,
            due: if due_steps.next_rung < context.rule.actions.len() {
                transaction.boot_now() + due_steps.wait
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
            let allowed = self.allow(step, &context, episode, transaction);
            let denial = match allowed {
                Ok(Some(KillClass::Done)) => {
                    self.adopt_victim(due_steps.target, &episode.key, transaction);
                    transaction
                        .counted
                        .push((context.rule.name.clone(), Decision::Duplicate));
                    continue;
                }
                Ok(strike) => {
                    if let (Some(_), Some(signal)) = (strike, step.final_signal()) {
                        self.record_strike(&context, signal, episode, transaction);
                    }
                    self.stage_step(step, *step_index, &context, simulated, transaction);
                    continue;
                }
                Err(denial) => denial,
            };
            let is_news = previously
                .as_ref()
                .is_none_or(|known| known.refused != Some(denial.decision));
            if is_news {
                let mut record = context.about.record(transaction.now);
                (record.target, record.step) = (shown(context.candidate), Some(step.to_string()));
                (record.decision, record.reason) = (Some(denial.decision), denial.reason);
                transaction.stage_record(&mut self.ledger, record);
            }
            if step.is_final() {
                // The target stays at this step and is evaluated again; only a permanently refused step is skipped.
                (progress.step_index, progress.due) = (*step_index, transaction.boot_now() + ROUND);
                progress.refused = Some(denial.decision);
                break;
            }
        }
        let is_done = progress.due == Duration::MAX;
        episode.targets.retain(|known| known.target != due_steps.target);
        if simulated && is_done && context.rule.has_final_steps() {
            // In enforce mode the process would be gone now, so the dry-run continues with the next one.
            transaction.stage(
                &mut self.ledger,
                Entry::VictimGone {
                    target: due_steps.target,
                    at: transaction.boot_now(),
                    simulated: true,
                },
            );
            episode.excluded.push(Excluded {
                target: due_steps.target,
                until_repeat: false,
            });
        } else {
            episode.targets.push(progress);
        }
    }

    /// Counts a process as one victim, regardless of the signals.
    fn record_strike(
        &mut self,
        context: &StepContext<'_>,
        signal: Signal,
        episode: &Episode,
        transaction: &mut Transaction,
    ) {
        let target = context.candidate.target();
        let simulated = episode.key.simulated;
        let is_it = |known: &&Victim| known.target == target && known.simulated == simulated && known.gone_at.is_none();
        let known = self
            .ledger
            .victims
            .iter()
            .find(is_it)
            .filter(|known| !known.is_free_again());
        let new = || Victim::new(target, simulated, transaction.boot_now());
        let mut victim = known.cloned().unwrap_or_else(new);
        victim.rule.clone_from(&episode.key.rule);
        victim.fingerprint.clone_from(&episode.key.fingerprint);
        victim.alert_starts_at = Some(episode.starts_at);
        victim.signals.push(signal as i32);
        victim.last_struck_at = Some(transaction.boot_now());
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
        transaction.stage(&mut self.ledger, Entry::Victim(victim));
    }

    fn allow(
        &mut self,
        step: &Step,
        context: &StepContext<'_>,
        episode: &Episode,
        transaction: &Transaction,
    ) -> Result<Option<KillClass>, Denial> {
        self.may_reach(step, context.candidate)?;
        match step {
            Step::Wait(_) | Step::Allocate(_) | Step::Exec(_) => Ok(None),
            step if transaction.is_unledgered && !step.is_final() => Err(Denial {
                decision: Decision::Ledger,
                reason: "the ledger cannot be written: only irreversible actions are possible without it".to_owned(),
            }),
            Step::Reclaim(_) => Ok(None),
            Step::Set(change) => match self.may_undo(change.knob(), context.candidate) {
                Ok(()) if *change == Change::To(Value::Freeze(true)) => {
                    self.may_freeze(context.candidate).map(|()| None)
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
            Step::Kill => self.may_strike(Signal::SIGKILL, context, episode, transaction),
            Step::Signal(_) if self.host.may_signal().is_err() => {
                let missing = self.host.may_signal().err().unwrap_or_default();
                Err(Denial {
                    decision: Decision::Privilege,
                    reason: format!("a signal cannot be sent to exactly one process: {missing} is missing"),
                })
            }
            Step::Signal(send) => match (send.kind(), context.candidate.process()) {
                (SignalKind::Final, _) => self.may_strike(send.signal, context, episode, transaction),
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
        let (Some(process), knob) = (
            candidate.process(),
            match step {
                Step::Set(change) => Some(change.knob()),
                Step::Signal(_) => None,
                _ => return Ok(()),
            },
        ) else {
            return Ok(());
        };
        match self.host.may_reach_others(knob) {
            Err(missing) if !self.host.is_own(process.identity) => Err(Denial {
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

    fn may_strike(
        &mut self,
        signal: Signal,
        context: &StepContext<'_>,
        episode: &Episode,
        transaction: &Transaction,
    ) -> Result<Option<KillClass>, Denial> {
        let answer = match &context.rule.condition {
            None => None,
            Some(text) => {
                let unknown = Answer {
                    holds: false,
                    sample_at: Duration::ZERO,
                };
                Some((self.conditions)(text).unwrap_or(unknown))
            }
        };
        let mut stuck = self.spent(transaction.processes());
        let given_up = self.ledger.victims.iter().filter(|victim| victim.outlived);
        stuck.extend(given_up.map(|victim| victim.target));
        let orphaned = self.orphaned_victims();
        let gate = FinalGate {
            rule: context.rule,
            episode,
            victims: &self.ledger.victims,
            budget: self.policy.budget,
            now: transaction.boot_now(),
            sample_at: answer.map_or(transaction.boot_now(), |answer| answer.sample_at),
            condition: answer.map(|answer| answer.holds),
            stuck: &stuck,
            orphaned: &orphaned,
            is_broken: self.ledger.is_breaker_open(&context.rule.name),
        };
        let strike = gate.strike(context.candidate.target(), signal)?;
        if strike != KillClass::Done {
            self.may_deliver(signal, context.candidate)?;
        }
        Ok(Some(strike))
    }

    /// Records the intent, or the dry-run decision.
    fn stage_step(
        &mut self,
        step: &Step,
        step_index: usize,
        context: &StepContext<'_>,
        simulated: bool,
        transaction: &mut Transaction,
    ) {
        let mut record = context.about.record(transaction.now);
        (record.target, record.step) = (shown(context.candidate), Some(step.to_string()));
        record.decision = Some(if simulated { Decision::DryRun } else { Decision::Planned });
        let action_context = ActionContext {
            about: context.about.clone(),
            candidate: context.candidate.clone(),
            rule: Arc::clone(context.rule),
            selector: Arc::clone(context.selector),
            step_index,
            step: step.to_string(),
            action: step.action(),
        };
        let process = match context.candidate {
            Candidate::Process(process) => process,
            Candidate::Cgroup(_) => {
                return self.stage_on_cgroup(step, record, action_context, context, simulated, transaction);
            }
        };
        let target = process.identity;
        let prepared = match step {
            Step::Set(change) => match self.prepare_on_process(process, change, context, transaction) {
                Ok(prepared) => Some(prepared),
                Err(effected) => {
                    transaction.stage_record(&mut self.ledger, record.clone());
                    record.decision = None;
                    (record.outcome, record.reason) = (Some(effected.outcome), effected.reason);
                    return self.note_outcome(record, step.action(), transaction);
                }
            },
            _ => None,
        };
        let is_by_birth = prepared.as_ref().is_some_and(|prepared| prepared.is_by_birth);
        let mut prepared = prepared.map(|on_process| on_process.prepared);
        if let Some(prepared) = &prepared {
            record.before = prepared.saved.first().map(|saved| saved.value.to_string());
            record.after = Some(prepared.value.to_string());
        }
        if let Step::Set(change) = step {
            if change.knob() == Knob::Nice {
                record.reason = self.host.nice_reach(target).unwrap_or_default();
            }
            let mut held = self
                .ledger
                .leases
                .on(target.into())
                .filter_map(|lease| lease.effect.value());
            // The value of another lease is not the process's own.
            let is_its_own = held.all(|value| value.knob() != change.knob());
            if let (Knob::Affinity, true, Some(prepared)) = (change.knob(), is_its_own, &mut prepared) {
                prepared.widen(&self.host.processors_of(target));
            }
        }
        transaction.stage_record(&mut self.ledger, record.clone());
        if simulated {
            record.decision = None;
            record.outcome = Some(Outcome::DryRun);
            return self.note_outcome(record, step.action(), transaction);
        }
        match (step, prepared) {
            (Step::Set(change), Some(prepared)) => {
                let effect = Effect::Value {
                    value: prepared.value,
                    saved: prepared.saved,
                };
                let lease = self.new_lease(context, effect, transaction);
                let is_held = self
                    .ledger
                    .leases
                    .on(lease.target)
                    .any(|other| other.shares_knob(&lease));
                if prepared.is_set_already && !is_held && !is_by_birth && !change.is_relative() {
                    record.decision = None;
                    record.outcome = Some(Outcome::AlreadySet);
                    return self.note_outcome(record, step.action(), transaction);
                }
                let id = lease.id;
                transaction.stage(&mut self.ledger, Entry::Lease(lease));
                transaction.work.push(Action::Take {
                    lease: id,
                    context: action_context,
                });
            }
            (Step::Signal(Send { signal, undo }), _) => {
                let lease = undo.map(|undo| {
                    let (sent, undo) = (Some(*signal as i32), undo as i32);
                    let lease = self.new_lease(context, Effect::Signal { sent, undo }, transaction);
                    let id = lease.id;
                    transaction.stage(&mut self.ledger, Entry::Lease(lease));
                    id
                });
                transaction.work.push(Action::Signal {
                    signal: *signal,
                    lease,
                    is_final: step.is_final(),
                    context: action_context,
                });
            }
            (Step::Reclaim(bytes), _) => {
                let bytes = *bytes;
                transaction.work.push(Action::Reclaim {
                    bytes,
                    context: action_context,
                });
            }
            (Step::Set(_) | Step::Wait(_) | Step::Kill | Step::Allocate(_) | Step::Exec(_), _) => {}
        }
    }

    pub(super) fn new_lease(&self, context: &StepContext<'_>, effect: Effect, transaction: &Transaction) -> Lease {
        Lease {
            id: self.ledger.last_lease_id + 1,
            rule: context.rule.name.clone(),
            fingerprint: context.about.fingerprint.clone(),
            target: context.candidate.target(),
            name: context.candidate.name().to_owned(),
            effect,
            taken_at: transaction.boot_now(),
            deadline: transaction.boot_now() + context.rule.hold,
            settled: false,
            is_undoing: false,
        }
    }

    pub(super) fn note_outcome(&mut self, record: Record, action: &'static str, transaction: &mut Transaction) {
        if let Some(outcome) = record.outcome {
            self.telemetry.action(&record.rule, action, outcome.as_str());
        }
        transaction.stage_record(&mut self.ledger, record);
    }

    fn orphaned_victims(&self) -> BTreeSet<Target> {
        let is_open = |victim: &Victim| self.ledger.episodes.contains_key(&victim.episode());
        let victims = self.ledger.victims.iter();
        let victims = victims.filter(|victim| victim.is_interrupted || !is_open(victim));
        victims.map(|victim| victim.target).collect()
    }
}
