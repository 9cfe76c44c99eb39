//! The steps of one target: each is guarded, and what is allowed is written down as intent and as work. Touches
//! nothing but the book.

use super::agenda::ROUND;
use super::turn::{Action, ActionContext, AlertRef, Transaction, shown};
use super::{Answer, Engine};
use crate::act::effect;
use crate::act::guard::{Denial, FinalGate, KillClass, notice};
use crate::act::plan::DueSteps;
use crate::host::{Host, Knob, Value};
use crate::ledger::book::{Excluded, MemoryBefore};
use crate::ledger::{Decision, Effect, Entry, Episode, Lease, Outcome, Record, TargetProgress, Victim};
use crate::process::{Candidate, Selector, Target};
use crate::rule::step::{Change, Send, SignalKind};
use crate::rule::{Rule, Step};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What stays the same while one target climbs.
pub(super) struct StepContext<'a> {
    pub rule: &'a Arc<Rule>,
    pub selector: &'a Arc<Selector>,
    pub about: &'a AlertRef,
    pub candidate: &'a Candidate,
}

impl<H: Host> Engine<H> {
    /// Guards each due step of one target, and notes what is to be done.
    pub(super) fn ascend(
        &mut self,
        ascent: DueSteps,
        seat: StepContext<'_>,
        episode: &mut Episode,
        turn: &mut Transaction,
    ) {
        let simulated = episode.key.simulated;
        let mut climb = TargetProgress {
            target: ascent.target,
            name: ascent.name.clone(),
            rung: ascent.next_rung,
            due: if ascent.next_rung < seat.rule.actions.len() {
                turn.boot_now() + ascent.wait
            } else {
                Duration::MAX
            },
            refused: None,
        };
        let previously = episode
            .climbs
            .iter()
            .find(|known| known.target == ascent.target)
            .cloned();
        for (rung, step) in &ascent.steps {
            let allowed = self.allow(step, &seat, episode, turn);
            let refusal = match allowed {
                Ok(Some(KillClass::Done)) => {
                    self.adopt_victim(ascent.target, &episode.key, turn);
                    turn.counted.push((seat.rule.name.clone(), Decision::Duplicate));
                    continue;
                }
                Ok(strike) => {
                    if let (Some(_), Some(signal)) = (strike, step.final_signal()) {
                        self.note_strike(&seat, signal, episode, turn);
                    }
                    self.intend_step(step, *rung, &seat, simulated, turn);
                    continue;
                }
                Err(refusal) => refusal,
            };
            let is_news = previously
                .as_ref()
                .is_none_or(|known| known.refused != Some(refusal.decision));
            if is_news {
                let mut record = seat.about.record(turn.now);
                (record.target, record.step) = (shown(seat.candidate), Some(step.to_string()));
                (record.decision, record.reason) = (Some(refusal.decision), refusal.reason);
                turn.decide(&mut self.book, record);
            }
            if step.is_final() {
                // It stays at this rung and is judged again; what is only forbidden for ever is passed over.
                (climb.rung, climb.due) = (*rung, turn.boot_now() + ROUND);
                climb.refused = Some(refusal.decision);
                break;
            }
        }
        let is_done = climb.due == Duration::MAX;
        episode.climbs.retain(|known| known.target != ascent.target);
        if simulated && is_done && seat.rule.has_final_steps() {
            // It would be gone by now: its place is free, and the next one's turn is simulated too.
            turn.intend(
                &mut self.book,
                Entry::VictimGone {
                    target: ascent.target,
                    at: turn.boot_now(),
                    simulated: true,
                },
            );
            episode.barred.push(Excluded {
                target: ascent.target,
                until_repeat: false,
            });
        } else {
            episode.climbs.push(climb);
        }
    }

    /// A process counts as one victim, whatever it receives.
    fn note_strike(&mut self, seat: &StepContext<'_>, signal: Signal, episode: &Episode, turn: &mut Transaction) {
        let target = seat.candidate.target();
        let simulated = episode.key.simulated;
        let is_it = |known: &&Victim| known.target == target && known.simulated == simulated && known.gone_at.is_none();
        let known = self
            .book
            .victims
            .iter()
            .find(is_it)
            .filter(|known| !known.is_free_again());
        let new = || Victim::new(target, simulated, turn.boot_now());
        let mut victim = known.cloned().unwrap_or_else(new);
        victim.rule.clone_from(&episode.key.rule);
        victim.fingerprint.clone_from(&episode.key.fingerprint);
        victim.alert_starts_at = Some(episode.starts_at);
        victim.signals.push(signal as i32);
        victim.last_struck_at = Some(turn.boot_now());
        victim.unsent = (!simulated).then_some(signal as i32);
        if !simulated && effect::is_about_memory(seat.rule) {
            let used = match seat.candidate {
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
        turn.intend(&mut self.book, Entry::Victim(victim));
    }

    fn allow(
        &mut self,
        step: &Step,
        seat: &StepContext<'_>,
        episode: &Episode,
        turn: &Transaction,
    ) -> Result<Option<KillClass>, Denial> {
        self.may_reach(step, seat.candidate)?;
        match step {
            Step::Wait(_) | Step::Allocate(_) | Step::Exec(_) => Ok(None),
            step if turn.is_unledgered && !step.is_final() => Err(Denial {
                decision: Decision::Ledger,
                reason: "the ledger cannot be written: only final steps go on without it".to_owned(),
            }),
            Step::Reclaim(_) => Ok(None),
            Step::Set(change) => match self.may_undo(change.knob(), seat.candidate) {
                Ok(()) if *change == Change::To(Value::Freeze(true)) => self.may_freeze(seat.candidate).map(|()| None),
                Ok(()) => Ok(None),
                Err(missing) => {
                    let reason = format!(
                        "{} could be set and not be put back: {missing} is missing",
                        change.knob()
                    );
                    Err(Denial {
                        decision: Decision::Privilege,
                        reason,
                    })
                }
            },
            Step::Kill => self.may_strike(Signal::SIGKILL, seat, episode, turn),
            Step::Signal(_) if self.host.may_signal().is_err() => {
                let missing = self.host.may_signal().err().unwrap_or_default();
                Err(Denial {
                    decision: Decision::Privilege,
                    reason: format!("no signal can be sent to exactly one process: {missing} is missing"),
                })
            }
            Step::Signal(send) => match (send.kind(), seat.candidate.process()) {
                (SignalKind::Final, _) => self.may_strike(send.signal, seat, episode, turn),
                // Only processes get signals; the ladder has none for others.
                (_, None) => Ok(None),
                (_, Some(process)) => {
                    notice(process, send.signal)?;
                    send.undo.map_or(Ok(()), |undo| notice(process, undo)).map(|()| None)
                }
            },
        }
    }

    /// # Errors
    /// When the process is another user's, and those are out of reach.
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
                reason: format!("it belongs to another user: {missing} is missing"),
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
        seat: &StepContext<'_>,
        episode: &Episode,
        turn: &Transaction,
    ) -> Result<Option<KillClass>, Denial> {
        let answer = match &seat.rule.condition {
            None => None,
            Some(text) => {
                let unknown = Answer {
                    holds: false,
                    sample_at: Duration::ZERO,
                };
                Some((self.conditions)(text).unwrap_or(unknown))
            }
        };
        let mut stuck = self.spent(turn.processes());
        let given_up = self.book.victims.iter().filter(|victim| victim.outlived);
        stuck.extend(given_up.map(|victim| victim.target));
        let orphaned = self.orphaned_victims();
        let gate = FinalGate {
            rule: seat.rule,
            episode,
            victims: &self.book.victims,
            budget: self.policy.budget,
            now: turn.boot_now(),
            sample_at: answer.map_or(turn.boot_now(), |answer| answer.sample_at),
            condition: answer.map(|answer| answer.holds),
            stuck: &stuck,
            orphaned: &orphaned,
            is_broken: self.book.is_breaker_open(&seat.rule.name),
        };
        let strike = gate.strike(seat.candidate.target(), signal)?;
        if strike != KillClass::Done {
            self.may_deliver(signal, seat.candidate)?;
        }
        Ok(Some(strike))
    }

    /// Writes down what is about to be done, or what would be.
    fn intend_step(
        &mut self,
        step: &Step,
        rung: usize,
        seat: &StepContext<'_>,
        simulated: bool,
        turn: &mut Transaction,
    ) {
        let mut record = seat.about.record(turn.now);
        (record.target, record.step) = (shown(seat.candidate), Some(step.to_string()));
        record.decision = Some(if simulated { Decision::DryRun } else { Decision::Planned });
        let subject = ActionContext {
            about: seat.about.clone(),
            candidate: seat.candidate.clone(),
            rule: Arc::clone(seat.rule),
            selector: Arc::clone(seat.selector),
            rung,
            step: step.to_string(),
            action: step.action(),
        };
        let process = match seat.candidate {
            Candidate::Process(process) => process,
            Candidate::Cgroup(_) => {
                return self.intend_on_cgroup(step, record, subject, seat, simulated, turn);
            }
        };
        let target = process.identity;
        let prepared = match step {
            Step::Set(change) => match self.prepare_on_process(process, change, seat, turn) {
                Ok(prepared) => Some(prepared),
                Err(effected) => {
                    turn.decide(&mut self.book, record.clone());
                    record.decision = None;
                    (record.outcome, record.reason) = (Some(effected.outcome), effected.reason);
                    return self.note_outcome(record, step.action(), turn);
                }
            },
            _ => None,
        };
        let is_by_birth = prepared.as_ref().is_some_and(|prepared| prepared.is_by_birth);
        let mut prepared = prepared.map(|on_process| on_process.prepared);
        if let Some(prepared) = &prepared {
            record.before = prepared.prior.first().map(|prior| prior.value.to_string());
            record.after = Some(prepared.value.to_string());
        }
        if let Step::Set(change) = step {
            if change.knob() == Knob::Nice {
                record.reason = self.host.nice_reach(target).unwrap_or_default();
            }
            let mut held = self
                .book
                .leases
                .on(target.into())
                .filter_map(|lease| lease.effect.value());
            // What another lease set is not its own.
            let is_its_own = held.all(|value| value.knob() != change.knob());
            if let (Knob::Affinity, true, Some(prepared)) = (change.knob(), is_its_own, &mut prepared) {
                prepared.widen(&self.host.processors_of(target));
            }
        }
        turn.decide(&mut self.book, record.clone());
        if simulated {
            record.decision = None;
            record.outcome = Some(Outcome::DryRun);
            return self.note_outcome(record, step.action(), turn);
        }
        match (step, prepared) {
            (Step::Set(change), Some(prepared)) => {
                let effect = Effect::Value {
                    value: prepared.value,
                    prior: prepared.prior,
                };
                let lease = self.new_lease(seat, effect, turn);
                let is_held = self.book.leases.on(lease.target).any(|other| other.shares_knob(&lease));
                if prepared.is_set_already && !is_held && !is_by_birth && !change.is_relative() {
                    record.decision = None;
                    record.outcome = Some(Outcome::AlreadySet);
                    return self.note_outcome(record, step.action(), turn);
                }
                let id = lease.id;
                turn.intend(&mut self.book, Entry::Lease(lease));
                turn.work.push(Action::Take { lease: id, subject });
            }
            (Step::Signal(Send { signal, undo }), _) => {
                let lease = undo.map(|undo| {
                    let (sent, undo) = (Some(*signal as i32), undo as i32);
                    let lease = self.new_lease(seat, Effect::Signal { sent, undo }, turn);
                    let id = lease.id;
                    turn.intend(&mut self.book, Entry::Lease(lease));
                    id
                });
                turn.work.push(Action::Signal {
                    signal: *signal,
                    lease,
                    is_final: step.is_final(),
                    subject,
                });
            }
            (Step::Reclaim(bytes), _) => {
                let bytes = *bytes;
                turn.work.push(Action::Reclaim { bytes, subject });
            }
            (Step::Set(_) | Step::Wait(_) | Step::Kill | Step::Allocate(_) | Step::Exec(_), _) => {}
        }
    }

    pub(super) fn new_lease(&self, seat: &StepContext<'_>, effect: Effect, turn: &Transaction) -> Lease {
        Lease {
            id: self.book.last_lease_id + 1,
            rule: seat.rule.name.clone(),
            fingerprint: seat.about.fingerprint.clone(),
            target: seat.candidate.target(),
            name: seat.candidate.name().to_owned(),
            effect,
            taken_at: turn.boot_now(),
            deadline: turn.boot_now() + seat.rule.hold,
            settled: false,
            is_undoing: false,
        }
    }

    pub(super) fn note_outcome(&mut self, record: Record, action: &'static str, turn: &mut Transaction) {
        if let Some(outcome) = record.outcome {
            self.tally.action(&record.rule, action, outcome.as_str());
        }
        turn.decide(&mut self.book, record);
    }

    fn orphaned_victims(&self) -> BTreeSet<Target> {
        let is_open = |victim: &Victim| self.book.episodes.contains_key(&victim.episode());
        let victims = self.book.victims.iter();
        let victims = victims.filter(|victim| victim.is_interrupted || !is_open(victim));
        victims.map(|victim| victim.target).collect()
    }
}
