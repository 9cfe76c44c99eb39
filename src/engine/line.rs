//! The straight line that every alert walks:
//!
//! decode -> match rules -> select processes -> plan -> guard -> ledger.begin (durable intent)
//!        -> apply -> ledger.settle (durable outcome)
//!
//! Decoding was done by whoever brought the alert. A round over open episodes enters at "select".

use super::Engine;
use super::agenda::{BASELINE, RETRY, ROUND};
use super::ascend::StepContext;
use super::episode::Statement;
use super::reconcile::before;
use super::select::{Selection, needs_cpu, select, selector_for};
use super::stages::Arrival;
use super::turn::{Action, AlertRef, Transaction};
use crate::act::guard::{Denial, Protection, bound_matches};
use crate::act::plan::plan;
use crate::alert::{Alert, Status};
use crate::host::Host;
use crate::ledger::{
    Closed, Decision, Entry, Episode, EpisodeKey, Evidence, EvidenceSource, Lease, LedgerState, Level, Outcome,
    TargetProgress,
};
use crate::process::{Candidate, Process, ProcessTree, Selector, Target};
use crate::rule::{Rule, RuleIndex, TargetSelector};
use smol_str::SmolStr;
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Alerts that may be open at once, whatever is sent: more are a fault of the sender, and each costs a look per round.
const MAX_OPEN_EPISODES: usize = 4096;
/// A process table serves alerts that come so soon after it was read.
const JUST_READ: Duration = Duration::from_millis(20);
/// A repeat so soon after the last look changes nothing.
const JUST_NOW: Duration = Duration::from_secs(1);

/// Why an episode is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Opened,
    Repeat,
    Round,
}

impl<H: Host> Engine<H> {
    /// Walks the line with alerts that arrived together.
    ///
    /// # Errors
    /// When the decisions could not be made durable. Nothing new was done then, though undoing was.
    pub fn take<A: Borrow<Alert>>(&mut self, alerts: &[A], arrival: impl Into<Arrival>) -> Result<(), String> {
        let now = self.host.now().boot;
        let statements: Vec<Statement<'_>> = alerts
            .iter()
            .map(|alert| Statement::delivered(alert.borrow(), now))
            .collect();
        self.walk(&statements, arrival.into())
    }

    /// Walks the line with what sources say of alerts.
    ///
    /// # Errors
    /// As [`Engine::take`].
    pub(super) fn walk(&mut self, statements: &[Statement<'_>], arrival: Arrival) -> Result<(), String> {
        let mut turn = Transaction::new(self.host.now(), Some(arrival));
        let rules = self.policy.rules.rules.clone();
        self.meet_all(&rules, statements, &mut turn);
        self.carry_out_or(turn, |engine, turn| {
            let goes_on = |rule: &Arc<Rule>| rule.without_ledger && !engine.is_simulated(rule);
            let rules: Vec<Arc<Rule>> = rules.into_iter().filter(goes_on).collect();
            let is_firing = |statement: &&Statement<'_>| statement.alert.status == Status::Firing;
            let firing: Vec<Statement<'_>> = statements.iter().filter(is_firing).copied().collect();
            engine.meet_all(&rules, &firing, turn);
        })
    }

    fn meet_all(&mut self, rules: &[Arc<Rule>], statements: &[Statement<'_>], turn: &mut Transaction) {
        let index = RuleIndex::new(rules);
        for statement in statements {
            let matching = index.matching(&statement.alert.labels);
            match statement.alert.status {
                Status::Firing => matching.for_each(|rule| self.meet(rule, statement, turn)),
                Status::Resolved => self.end(statement, matching, turn),
            }
        }
    }

    /// Does what is due: waits that are over, deadlines, rounds, retries.
    pub fn tick(&mut self) {
        let mut turn = Transaction::new(self.host.now(), None);
        let now = turn.boot_now();
        if self.chores.baseline_at.is_some_and(|at| at + BASELINE <= now) {
            self.measure_cpu();
        }
        if self.chores.last_retry.is_some_and(|at| at + RETRY <= now) {
            self.recover();
        }
        self.expire(&mut turn);
        self.bound_interrupted(&mut turn);
        self.give_up_survivors(&mut turn);
        let is_round = self.chores.last_round + ROUND <= now;
        if is_round {
            self.chores.last_round = now;
            let open = &self.book.episodes;
            self.judged_at.retain(|key, _| open.contains_key(key));
            self.crowded.retain(|key| open.contains_key(key));
            self.look_for_the_dead(&mut turn);
            self.check_limits_of_units(&mut turn);
        }
        self.run_errands(&mut turn);
        let is_due = |episode: &Episode| {
            let mut climbs = episode.climbs.iter();
            is_round || (!episode.evidence.is_doubted() && climbs.any(|climb| climb.due <= now))
        };
        let due: Vec<EpisodeKey> = self
            .book
            .episodes
            .values()
            .filter(|episode| is_due(episode))
            .map(|episode| episode.key.clone())
            .collect();
        for key in &due {
            self.judge(key, Trigger::Round, &mut turn);
        }
        self.book.forget(now, self.victim_age());
        if let Err(reason) = self.carry_out_or(turn, |engine, turn| engine.judge_without_ledger(&due, turn)) {
            tracing::warn!(reason, "what was due is put off");
        }
    }

    /// Brings the next round forward, once, for what may be different in a moment.
    pub(super) fn look_again_soon(&mut self, now: Duration) {
        let last_round = (now + RETRY).saturating_sub(ROUND);
        self.chores.last_round = self.chores.last_round.min(last_round);
    }

    fn judge_without_ledger(&mut self, keys: &[EpisodeKey], turn: &mut Transaction) {
        for key in keys.iter().filter(|key| !key.simulated) {
            let rule = self.book.episodes.get(key).and_then(|episode| self.rule_of(episode));
            if rule.is_some_and(|rule| rule.without_ledger) {
                self.judge(key, Trigger::Round, turn);
            }
        }
    }

    /// Goes on after a restart: undoes what no open episode stands for. Every open episode is in doubt: nothing new is done
    /// for it until some source confirms that its alert fires.
    pub fn resume(&mut self) {
        let mut turn = Transaction::new(self.host.now(), None);
        let now = turn.boot_now();
        self.book.episodes.values_mut().for_each(|episode| episode.doubt(now));
        for closed in self.book.closed.values_mut() {
            closed.closed_at.get_or_insert(now);
        }
        self.look_for_the_dead(&mut turn);
        self.watch_victims();
        self.release_orphans(&mut turn);
        self.leave_changed_ladders(&mut turn);
        self.resend_unsettled(&mut turn);
        self.bound_interrupted(&mut turn);
        self.revert_unsettled(&mut turn);
        self.take_up_errands(&mut turn);
        if let Err(reason) = self.carry_out_or(turn, |_, _| ()) {
            tracing::error!(reason, "could not take up what was left open");
        }
    }

    /// Whether an alert is about this host, or the rule does not ask. Own evaluation speaks of this host only.
    fn is_about_us(&self, rule: &Rule, statement: &Statement<'_>, turn: &mut Transaction) -> bool {
        if statement.source == EvidenceSource::Own || rule.any_host {
            return true;
        }
        let Err(reason) = self.policy.here.recognises(&statement.alert.labels) else {
            return true;
        };
        tracing::info!(
            rule = rule.name.as_str(),
            alert = statement.alert.name(),
            reason,
            "alert is about another host"
        );
        turn.counted.push((rule.name.clone(), Decision::OtherHost));
        false
    }

    /// A rule, and an alert that fires and that its matchers accept.
    fn meet(&mut self, rule: &Arc<Rule>, statement: &Statement<'_>, turn: &mut Transaction) {
        if !self.is_about_us(rule, statement, turn) {
            return;
        }
        let alert = statement.alert;
        let simulated = self.is_simulated(rule);
        let key = EpisodeKey {
            rule: rule.name.clone(),
            fingerprint: alert.fingerprint.clone(),
            simulated,
        };
        if statement.is_late_firing(self.book.closed.get(&key), turn.boot_now()) {
            let reason = "it began no later than the last episode ended";
            return self.pass_over(rule.name.clone(), alert, reason, turn);
        }
        if statement.source != EvidenceSource::Own {
            self.absences.heard(&alert.fingerprint);
        }
        if self.book.episodes.contains_key(&key) {
            return self.repeat(rule, &key, statement, turn);
        }
        if self.book.episodes.len() >= MAX_OPEN_EPISODES {
            tracing::warn!(
                rule = rule.name.as_str(),
                alert = alert.name(),
                open = MAX_OPEN_EPISODES,
                "too many alerts at once; this one is left"
            );
            return turn.counted.push((rule.name.clone(), Decision::Budget));
        }
        let mut episode = open_episode(rule, alert, turn.boot_now(), simulated);
        episode.evidence = evidence_of(rule, statement);
        let closed = self.book.closed.get(&key);
        episode.may_continue = closed.is_none_or(|closed| closed.ended_at < alert.starts_at);
        turn.intend(&mut self.book, Entry::Episode(episode));
        self.rules_in_use.insert(key.clone(), Arc::clone(rule));
        if self.book.paused {
            // It stays open, so that it is judged when the pause ends, not only at the next repeat.
            let about = AlertRef::new(&rule.name, &alert.labels, &alert.fingerprint);
            let mut record = about.record(turn.now);
            record.decision = Some(Decision::Paused);
            turn.decide(&mut self.book, record);
        }
        self.judge(&key, Trigger::Opened, turn);
    }

    fn repeat(&mut self, rule: &Rule, key: &EpisodeKey, statement: &Statement<'_>, turn: &mut Transaction) {
        let is_confirmed = self.confirm(key, rule.hold, statement, turn);
        if is_confirmed {
            self.take_up_requests(key, turn.boot_now());
        } else if !turn.is_unledgered && self.is_judged_just_now(key, turn.boot_now()) {
            return turn.counted.push((rule.name.clone(), Decision::Duplicate));
        }
        self.judge(key, Trigger::Repeat, turn);
    }

    /// A delivery that speaks of the past is counted, and changes nothing.
    fn pass_over(&self, rule: SmolStr, alert: &Alert, reason: &'static str, turn: &mut Transaction) {
        tracing::info!(rule = rule.as_str(), alert = alert.name(), reason, "stale delivery");
        turn.counted.push((rule, Decision::Stale));
    }

    /// The end of an alert reaches every open episode of it, whatever rules, identity and mode say by now. Where none is
    /// open, the end is remembered for the rules that match, so that a firing that comes late is known as such.
    fn end<'r>(
        &mut self,
        statement: &Statement<'_>,
        matching: impl Iterator<Item = &'r Arc<Rule>>,
        turn: &mut Transaction,
    ) {
        let alert = statement.alert;
        let is_its = |key: &&EpisodeKey| key.fingerprint == alert.fingerprint;
        let open: Vec<EpisodeKey> = self.book.episodes.keys().filter(is_its).cloned().collect();
        for key in &open {
            self.end_episode(key, statement, turn);
        }
        for rule in matching {
            let simulated = self.is_simulated(rule);
            let key = EpisodeKey {
                rule: rule.name.clone(),
                fingerprint: alert.fingerprint.clone(),
                simulated,
            };
            if open.contains(&key) || !self.is_about_us(rule, statement, turn) {
                continue;
            }
            let closed = Closed {
                ended_at: statement.ended_at(turn.now.wall),
                closed_at: Some(turn.boot_now()),
            };
            match self.book.closed.get(&key) {
                Some(known) if known.ended_at >= closed.ended_at => {
                    turn.counted.push((rule.name.clone(), Decision::Duplicate));
                }
                // Own evaluation is never late.
                _ if statement.source == EvidenceSource::Own => {}
                _ => turn.close(&mut self.book, Entry::EpisodeClosed { key, closed }),
            }
        }
    }

    fn end_episode(&mut self, key: &EpisodeKey, statement: &Statement<'_>, turn: &mut Transaction) {
        let Some(mut episode) = self.book.episodes.get(key).cloned() else {
            return;
        };
        if statement.is_late_resolve(&episode, turn.boot_now()) {
            let reason = "it resolves an earlier episode";
            return self.pass_over(key.rule.clone(), statement.alert, reason, turn);
        }
        episode.evidence.record_over(statement.source, statement.at);
        if self.level_of(&episode, turn.boot_now()) == Level::Over {
            let about = AlertRef::new(&key.rule, &statement.alert.labels, &key.fingerprint);
            let ended_at = statement.ended_at(turn.now.wall);
            return self.close(key, &about, ended_at, "the alert ended", turn);
        }
        tracing::info!(
            rule = key.rule.as_str(),
            alert = statement.alert.name(),
            "alert ended for one source and fires for another"
        );
        turn.close(&mut self.book, Entry::Episode(episode));
    }

    /// The open episodes that wait for a confirmation.
    pub fn unconfirmed(&self) -> Vec<EpisodeKey> {
        let now = self.host.now().boot;
        let episodes = self.book.episodes.values();
        let unconfirmed = episodes.filter(|episode| self.level_of(episode, now) == Level::Unconfirmed);
        unconfirmed.map(|episode| episode.key.clone()).collect()
    }

    /// The level of an open episode at `now` (CLOCK_BOOTTIME). An episode without a rule is over.
    pub(super) fn level_of(&self, episode: &Episode, now: Duration) -> Level {
        let rule = self.rule_of(episode);
        rule.map_or(Level::Over, |rule| episode.evidence.level(now, rule.hold))
    }

    /// Whether a repeat finds nothing new, because everything was looked at a moment ago. A storm of repeats must not
    /// read the process table each time.
    fn is_judged_just_now(&self, key: &EpisodeKey, now: Duration) -> bool {
        let waits_for_repeat = self
            .book
            .episodes
            .get(key)
            .is_some_and(|episode| episode.barred.iter().any(|barred| barred.until_repeat));
        !waits_for_repeat
            && self
                .judged_at
                .get(key)
                .is_some_and(|at| at.saturating_add(JUST_NOW) > now)
    }

    /// Notes that a source says that the alert of an open episode fires, and extends the deadlines of what is held. In
    /// memory at every repeat; durably only when a quarter of the time is gone or something new was said, so that repeats
    /// cost no commit. Whether it confirms an alert that was in doubt.
    fn confirm(&mut self, key: &EpisodeKey, hold: Duration, statement: &Statement<'_>, turn: &mut Transaction) -> bool {
        let now = turn.boot_now();
        let renewable = |lease: &&Lease| !lease.is_ending() && !lease.is_undoing;
        let renewed = Entry::Renewed {
            ids: self
                .book
                .leases_of(key)
                .filter(renewable)
                .map(|lease| lease.id)
                .collect(),
            deadline: now + hold,
        };
        let Some(episode) = self.book.episodes.get_mut(key) else {
            return false;
        };
        let was_doubted = episode.evidence.is_doubted();
        let is_new_source = episode.evidence.last_firing(statement.source).is_none();
        let fresh_for = statement.fresh_for.unwrap_or(hold);
        episode
            .evidence
            .record_firing(statement.source, statement.at, fresh_for);
        let is_confirmed = was_doubted && !episode.evidence.is_doubted();
        // Alertmanager merges the starts that two Prometheus servers send into the earlier one.
        let is_earlier = statement.source != EvidenceSource::Own && statement.alert.starts_at < episode.starts_at;
        let is_old = now.saturating_sub(episode.seen_at) >= hold / 4;
        if !(is_old || is_earlier || is_confirmed || is_new_source) {
            self.book.record(&renewed);
            return false;
        }
        let mut seen = episode.clone();
        seen.seen_at = now;
        if is_earlier {
            seen.starts_at = statement.alert.starts_at;
        }
        turn.intend(&mut self.book, Entry::Episode(seen));
        turn.intend(&mut self.book, renewed);
        is_confirmed
    }

    /// Select, plan and guard for one open episode.
    fn judge(&mut self, key: &EpisodeKey, occasion: Trigger, turn: &mut Transaction) {
        let Some(mut episode) = self.book.episodes.get(key).cloned() else {
            return;
        };
        let Some(rule) = self.rule_of(&episode) else { return };
        let about = AlertRef::new(&rule.name, &episode.labels, &key.fingerprint);
        match episode.evidence.level(turn.boot_now(), rule.hold) {
            Level::Firing => {}
            Level::Unconfirmed => return self.wait_for_confirmation(episode, turn),
            Level::Over => return self.close_silent(&episode, &about, turn),
        }
        self.judged_at.insert(key.clone(), turn.boot_now());
        if self.book.paused {
            return postpone(&mut self.book, key, turn.boot_now());
        }
        let is_first = occasion == Trigger::Opened;
        if let Some(refusal) = self.cannot_choose(&rule, turn.boot_now()) {
            if is_first {
                self.refuse_all(&about, &refusal, turn);
            }
            return postpone(&mut self.book, key, turn.boot_now());
        }
        let selector = selector_for(&rule, &episode, turn.now).map(Arc::new);
        let mut matches = match &selector {
            None => Vec::new(),
            Some(selector) => match self.find(&rule, selector, &about, is_first, turn) {
                Ok(matches) => matches,
                Err(refusal) => {
                    // Told when it begins and at each repeat: how often an open episode is looked at says nothing of it.
                    if self.crowded.insert(key.clone()) {
                        self.refuse_all(&about, &refusal, turn);
                    } else if occasion == Trigger::Repeat {
                        turn.counted.push((rule.name.clone(), refusal.decision));
                    }
                    return postpone(&mut self.book, key, turn.boot_now());
                }
            },
        };
        self.crowded.remove(key);
        self.drop_the_gone(&mut episode, turn);
        if rule.has_final_steps() {
            let spent = self.spent(turn.processes());
            matches.retain(|candidate| !spent.contains(&candidate.target()));
        }
        let held = self.places(&episode, turn);
        let ascents = plan(&rule, &held, &matches, turn.boot_now(), occasion == Trigger::Repeat);
        if occasion == Trigger::Repeat {
            episode.barred.retain(|barred| !barred.until_repeat);
            if ascents.is_empty() {
                turn.counted.push((rule.name.clone(), Decision::Duplicate));
            }
        }
        let before = self.book.episodes.get(key).cloned();
        let by_target: HashMap<Target, &Candidate> = matches
            .iter()
            .map(|candidate| (candidate.target(), candidate))
            .collect();
        for ascent in ascents {
            if ascent.target == Target::Host {
                // Nothing that others hold for us is asked for without a record of it.
                if !turn.is_unledgered {
                    self.climb_host(ascent, &rule, &about, &mut episode, turn);
                }
                continue;
            }
            let candidate = by_target.get(&ascent.target).copied();
            let (Some(candidate), Some(selector)) = (candidate, &selector) else {
                continue;
            };
            let seat = StepContext {
                rule: &rule,
                selector,
                about: &about,
                candidate,
            };
            self.ascend(ascent, seat, &mut episode, turn);
        }
        let next = turn.boot_now() + ROUND;
        for climb in episode.climbs.iter_mut().filter(|climb| climb.due <= turn.now.boot) {
            // Its process does not hold the selector at present; it is looked at again in a round.
            climb.due = next;
        }
        if before.as_ref() != Some(&episode) {
            let entry = Entry::Episode(episode);
            // Only new rungs and new words are worth a commit; another date for the next look is not.
            if differs_durably(before.as_ref(), &entry) {
                turn.intend(&mut self.book, entry);
            } else {
                self.book.record(&entry);
            }
        }
    }

    /// The processes or cgroups that the rule means and that may be touched, in its order. Who may not be is told the first time.
    ///
    /// # Errors
    /// When there are so many that the rule means none of them.
    fn find(
        &mut self,
        rule: &Rule,
        selector: &Selector,
        about: &AlertRef,
        is_first: bool,
        turn: &mut Transaction,
    ) -> Result<Vec<Candidate>, Denial> {
        turn.near = match selector.only_pid() {
            // Rounds read everything, and so see the children of those that are held.
            Some(pid) if is_first && turn.table.is_none() && needs_one_only(rule) => Some(self.read_line_of(pid)),
            _ => None,
        };
        if turn.near.is_none() && turn.table.is_none() {
            turn.table = Some(self.recent_table(turn));
        }
        if let TargetSelector::Cgroups(_) = rule.aim {
            return self.find_cgroups(rule, selector, about, is_first, turn);
        }
        let ward = Protection {
            own_line: &self.own_line,
            protect: &self.policy.protect,
        };
        let choice = turn.choice().map(|kin| &**kin).unwrap_or_default();
        let Selection {
            mut matches,
            unreadable,
        } = select(&mut self.host, choice, rule, selector, &ward);
        bound_matches(rule, matches.len())?;
        let found = matches.len();
        let reused = |process: &Process| {
            let reason = selector.reused_number(process)?.to_string();
            let decision = Decision::NoTarget;
            Some((Candidate::Process(process.clone()), Denial { decision, reason }))
        };
        let mut refused: Vec<(Candidate, Denial)> = choice.iter().filter_map(reused).collect();
        refused.extend(unreadable.into_iter().filter_map(|process| {
            let refusal = ward.screen(rule, &process).err()?;
            Some((Candidate::Process(process), refusal))
        }));
        matches.retain(|process| match ward.screen(rule, process) {
            Ok(()) => true,
            Err(refusal) => {
                refused.push((Candidate::Process(process.clone()), refusal));
                false
            }
        });
        let matches: Vec<Candidate> = matches.into_iter().map(Candidate::Process).collect();
        if !is_first {
            return Ok(matches);
        }
        self.tell_refused(about, refused, turn);
        if matches.is_empty() {
            let reason = match found {
                0 => "no process matches the selector".to_owned(),
                found => format!("{found} processes match the selector, and none of them may be touched"),
            };
            let decision = Decision::NoTarget;
            self.refuse_all(about, &Denial { decision, reason }, turn);
        }
        Ok(matches)
    }

    /// Why targets cannot be chosen at this time at all.
    fn cannot_choose(&self, rule: &Rule, now: Duration) -> Option<Denial> {
        // Whoever is oldest must not be taken for whoever uses the processors most.
        (needs_cpu(rule) && self.baseline(now).is_none()).then(|| Denial {
            decision: Decision::NoTarget,
            reason: "processor use has not been measured for long enough yet; it is looked at again".to_owned(),
        })
    }

    /// What is held stays held; only targets that ended are taken out.
    fn wait_for_confirmation(&mut self, mut episode: Episode, turn: &mut Transaction) {
        let key = episode.key.clone();
        let held = episode.climbs.len();
        self.drop_the_gone(&mut episode, turn);
        if episode.climbs.len() != held {
            turn.close(&mut self.book, Entry::Episode(episode.clone()));
        }
        // What is due is taken as soon as the alert is confirmed. Silence ends by itself, so it is looked at again.
        if !episode.evidence.is_doubted() {
            postpone(&mut self.book, &key, turn.boot_now());
        }
    }

    /// Closes an episode whose alert no source has confirmed for as long as is allowed.
    fn close_silent(&mut self, episode: &Episode, about: &AlertRef, turn: &mut Transaction) {
        tracing::info!(
            rule = about.rule.as_str(),
            alert = about.alertname.as_str(),
            fingerprint = about.fingerprint.as_str(),
            "no source confirms the alert any more"
        );
        let why = "no source confirmed the alert";
        self.close(&episode.key, about, before(episode.starts_at), why, turn);
    }

    /// The episode as it counts against `limit`: who still holds a lease keeps a place, though it was taken out of the
    /// episode when another of its leases ended. One whose target is gone keeps none, so that a unit which was restarted
    /// is taken again at once.
    fn places(&self, episode: &Episode, turn: &Transaction) -> Episode {
        let of_the_gone: BTreeSet<u64> = turn.undone_as(Outcome::Gone).collect();
        let mut held = episode.clone();
        let mut seen: BTreeSet<Target> = held.climbs.iter().map(|climb| climb.target).collect();
        let leases = self.book.leases_of(&episode.key);
        for lease in leases.filter(|lease| !of_the_gone.contains(&lease.id)) {
            if seen.insert(lease.target) {
                held.climbs.push(TargetProgress {
                    target: lease.target,
                    name: lease.name.clone(),
                    rung: usize::MAX,
                    due: Duration::MAX,
                    refused: None,
                });
            }
        }
        held
    }

    pub(super) fn refuse_all(&mut self, about: &AlertRef, refusal: &Denial, turn: &mut Transaction) {
        let mut record = about.record(turn.now);
        (record.decision, record.reason) = (Some(refusal.decision), refusal.reason.clone());
        turn.decide(&mut self.book, record);
    }

    /// Carries out a turn. Where its intents cannot be made durable, `again` judges once more for the rules that go on
    /// without a ledger.
    ///
    /// # Errors
    /// When the intents could not be made durable.
    pub(super) fn carry_out_or(
        &mut self,
        turn: Transaction,
        again: impl FnOnce(&mut Self, &mut Transaction),
    ) -> Result<(), String> {
        let (now, arrival) = (turn.boot_now(), turn.arrival);
        let begun = self.carry_out(turn);
        if begun.is_err() {
            let mut rest = Transaction::without_ledger(self.host.now(), arrival);
            again(self, &mut rest);
            if rest.has_something() {
                // Its intents stand, durable or not.
                let _ = self.carry_out(rest);
            }
            self.put_off(now);
        }
        begun
    }

    /// Durable intent, apply, durable outcome.
    ///
    /// # Errors
    /// When the intent could not be made durable.
    fn carry_out(&mut self, mut turn: Transaction) -> Result<(), String> {
        let entries = turn.entries();
        let decided: Vec<(SmolStr, Decision)> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some((record.rule.as_str().into(), record.decision?)),
                _ => None,
            })
            .chain(turn.counted.drain(..))
            .collect();
        turn.stages.decided = Instant::now();
        let begun = if entries.is_empty() || turn.is_unledgered {
            Ok(())
        } else {
            self.journal.begin(&entries)
        };
        turn.stages.durable = Instant::now();
        if begun.is_err() {
            let closings = turn.abandon(&mut self.book);
            self.journal.settle(closings);
        }
        for (rule, decision) in decided {
            let decision = if begun.is_ok() { decision } else { Decision::Ledger };
            if begun.is_err() && self.policy.rules.get(&rule).is_some_and(|rule| rule.without_ledger) {
                // It is judged once more, and counted then.
                continue;
            }
            self.tally.decision(&rule, decision.as_str());
        }
        // A storm of repeats must not describe thousands of open episodes for each of them.
        let changes_nothing = turn.arrival.is_some() && entries.is_empty() && turn.work.is_empty();
        if changes_nothing && self.journal.is_writable() {
            return begun;
        }
        // In an emergency the record follows the deed.
        let mut outcomes = if turn.is_unledgered { entries } else { Vec::new() };
        let told = outcomes.len();
        if !turn.work.is_empty() {
            self.last_table = None;
        }
        for work in std::mem::take(&mut turn.work) {
            if matches!(work, Action::Undo { .. }) && turn.table.is_none() {
                // Whoever undoes must know the children.
                turn.table = Some(Arc::new(self.read_kin()));
            }
            self.perform(work, &turn, &mut outcomes);
        }
        self.show_decisions(&turn);
        self.sweep();
        outcomes.iter().skip(told).for_each(|entry| self.show(entry));
        self.journal.settle(outcomes);
        self.chores.last_retry = (!self.journal.is_writable()).then_some(turn.now.boot);
        self.publish_state();
        begun
    }

    /// Climbs and errands that were due when the ledger could not be written are due again in a while, not at once: a ledger on a
    /// full disk must not make the engine spin.
    fn put_off(&mut self, now: Duration) {
        let climbs = self.book.episodes.values_mut().flat_map(|episode| &mut episode.climbs);
        for climb in climbs.filter(|climb| climb.due <= now) {
            climb.due = now + RETRY;
        }
        let courses = self.book.leases.courses_mut();
        for course in courses.filter(|course| course.next <= now) {
            course.next = now + RETRY;
        }
    }

    /// The process table as whoever undoes needs it.
    pub(super) fn read_kin(&mut self) -> ProcessTree {
        ProcessTree::from(self.host.processes().unwrap_or_default())
    }

    /// For alerts that come in quick succession one reading serves several: whom it names is read anew before it is
    /// touched. Nothing was done since then.
    fn recent_table(&mut self, turn: &Transaction) -> Arc<ProcessTree> {
        let now = turn.boot_now();
        let recent = self.last_table.take().filter(|_| turn.arrival.is_some());
        let recent = recent.filter(|(read_at, _)| now.saturating_sub(*read_at) < JUST_READ);
        let (read_at, table) = recent.unwrap_or_else(|| (now, Arc::new(self.read_table(now))));
        self.last_table = Some((read_at, Arc::clone(&table)));
        table
    }

    /// A process and its ancestors, which matter where one may hold what was inherited: who names it by number need not wait
    /// until all others are read.
    fn read_line_of(&mut self, pid: i32) -> ProcessTree {
        let mut line: Vec<Process> = Vec::new();
        let mut next = self.host.process(pid);
        while let Some(process) = next {
            // A pid that was handed out again may close a circle.
            let is_known = |known: &Process| known.identity.pid == process.parent;
            next = (!self.book.leases.is_empty() && !line.iter().any(is_known))
                .then(|| self.host.process(process.parent))
                .flatten();
            line.push(process);
        }
        ProcessTree::from(line)
    }

    fn read_table(&mut self, now: Duration) -> ProcessTree {
        let mut table = self.host.processes().unwrap_or_else(|error| {
            tracing::error!(%error, "the process table cannot be read");
            Vec::new()
        });
        if let Some(baseline) = self.baseline(now) {
            baseline.measure(&mut table, now);
        }
        let kin = ProcessTree::from(table);
        self.broods.note(&kin, &self.book.leases);
        kin
    }
}

/// Whether one process can be judged without the others: its use of processors is measured from the whole table, and who
/// ends processes looks at all that are ending.
fn needs_one_only(rule: &Rule) -> bool {
    matches!(rule.aim, TargetSelector::Processes(_)) && !needs_cpu(rule) && !rule.has_final_steps()
}

/// The episode that an alert opens for a rule at a time of CLOCK_BOOTTIME.
pub fn open_episode(rule: &Rule, alert: &Alert, now: Duration, simulated: bool) -> Episode {
    Episode {
        key: EpisodeKey {
            rule: rule.name.clone(),
            fingerprint: alert.fingerprint.clone(),
            simulated,
        },
        ladder: rule.ladder(),
        source: alert.source.into(),
        labels: alert.labels.clone(),
        annotations: alert.annotations.clone(),
        starts_at: alert.starts_at,
        opened_at: now,
        may_continue: false,
        seen_at: now,
        evidence: evidence_of(rule, &Statement::delivered(alert, now)),
        climbs: Vec::new(),
        barred: Vec::new(),
    }
}

fn evidence_of(rule: &Rule, statement: &Statement<'_>) -> Evidence {
    let fresh_for = statement.fresh_for.unwrap_or(rule.hold);
    Evidence::firing(statement.source, statement.at, fresh_for)
}

/// Looks at the waiting targets of an episode again in a round, not before.
fn postpone(book: &mut LedgerState, key: &EpisodeKey, now: Duration) {
    let Some(episode) = book.episodes.get_mut(key) else {
        return;
    };
    for climb in episode.climbs.iter_mut().filter(|climb| climb.due <= now) {
        climb.due = now + ROUND;
    }
}

fn differs_durably(before: Option<&Episode>, entry: &Entry) -> bool {
    let (Some(before), Entry::Episode(after)) = (before, entry) else {
        return true;
    };
    let rungs = |episode: &Episode| {
        let mut rungs: Vec<_> = episode
            .climbs
            .iter()
            .map(|climb| (climb.target, climb.rung, climb.refused))
            .collect();
        rungs.sort_unstable_by_key(|(target, ..)| *target);
        rungs
    };
    rungs(before) != rungs(after) || before.barred != after.barred
}
