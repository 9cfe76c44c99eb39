//! The pipeline through which every alert passes:
//!
//! decode -> match rules -> select processes -> plan -> guard -> ledger.begin (durable intent)
//!        -> apply -> ledger.settle (durable outcome)
//!
//! The webhook, the reconciler and own evaluation have decoded the alerts. A round over open episodes enters at
//! "select".

use super::Engine;
use super::episode::Statement;
use super::latency::Arrival;
use super::process_view::{read_ancestry, read_tree};
use super::reconcile::before;
use super::select::{Selection, needs_cpu, select, selector_for};
use super::steps::StepContext;
use super::timers::{BASELINE, RETRY, ROUND};
use super::transaction::{Action, AlertRef, Transaction};
use crate::act::guard::{Denial, Protection, bound_matches};
use crate::act::plan::plan;
use crate::alert::{Alert, Status};
use crate::host::Host;
use crate::ledger::{
    Closed, Decision, Entry, Episode, EpisodeKey, Evidence, EvidenceSource, Lease, LedgerState, Level, Outcome,
    TargetProgress,
};
use crate::process::{Candidate, Process, Selector, Target};
use crate::rule::{Rule, RuleIndex, TargetSelector};
use smol_str::SmolStr;
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maximum number of open episodes. More are a fault of the sender, and each costs an evaluation per round.
const MAX_OPEN_EPISODES: usize = 4096;
/// A repeat so soon after the last look changes nothing.
const JUST_NOW: Duration = Duration::from_secs(1);

/// The reason to evaluate an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Opened,
    Repeat,
    Round,
}

impl<H: Host> Engine<H> {
    /// Processes alerts that arrived together.
    ///
    /// # Errors
    /// When the decisions could not be made durable. No new step was applied then, but leases may have been reverted.
    pub fn take<A: Borrow<Alert>>(&mut self, alerts: &[A], arrival: impl Into<Arrival>) -> Result<(), String> {
        let now = self.host.now().boot;
        let statements: Vec<Statement<'_>> = alerts
            .iter()
            .map(|alert| Statement::delivered(alert.borrow(), now))
            .collect();
        self.process_alerts(&statements, arrival.into())
    }

    /// Processes the statements of sources about alerts.
    ///
    /// # Errors
    /// As [`Engine::take`].
    pub(super) fn process_alerts(&mut self, statements: &[Statement<'_>], arrival: Arrival) -> Result<(), String> {
        let mut transaction = Transaction::new(self.host.now(), Some(arrival));
        let rules = self.policy.rules.rules.clone();
        self.match_rules(&rules, statements, &mut transaction);
        self.commit_and_apply_or(transaction, |engine, transaction| {
            let goes_on = |rule: &Arc<Rule>| rule.without_ledger && !engine.is_simulated(rule);
            let rules: Vec<Arc<Rule>> = rules.into_iter().filter(goes_on).collect();
            let is_firing = |statement: &&Statement<'_>| statement.alert.status == Status::Firing;
            let firing: Vec<Statement<'_>> = statements.iter().filter(is_firing).copied().collect();
            engine.match_rules(&rules, &firing, transaction);
        })
    }

    fn match_rules(&mut self, rules: &[Arc<Rule>], statements: &[Statement<'_>], transaction: &mut Transaction) {
        let index = RuleIndex::new(rules);
        for statement in statements {
            let matching = index.matching(&statement.alert.labels);
            match statement.alert.status {
                Status::Firing => matching.for_each(|rule| self.handle_firing(rule, statement, transaction)),
                Status::Resolved => self.end(statement, matching, transaction),
            }
        }
    }

    /// Processes due work: waits that are over, deadlines, rounds and retries.
    pub fn tick(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        let now = transaction.boot_now();
        if self.timers.baseline_at.is_some_and(|at| at + BASELINE <= now) {
            self.measure_cpu();
        }
        if self.timers.last_retry.is_some_and(|at| at + RETRY <= now) {
            self.recover();
        }
        self.expire(&mut transaction);
        self.bound_interrupted(&mut transaction);
        self.give_up_survivors(&mut transaction);
        let is_round = self.timers.last_round + ROUND <= now;
        if is_round {
            self.timers.last_round = now;
            let open = &self.ledger.episodes;
            self.open_episodes.retain(open);
            self.check_victims(&mut transaction);
            self.check_limits_of_units(&mut transaction);
        }
        self.run_due_jobs(&mut transaction);
        let is_due = |episode: &Episode| {
            let mut targets = episode.targets.iter();
            is_round || (!episode.evidence.is_doubted() && targets.any(|progress| progress.due <= now))
        };
        let due: Vec<EpisodeKey> = self
            .ledger
            .episodes
            .values()
            .filter(|episode| is_due(episode))
            .map(|episode| episode.key.clone())
            .collect();
        for key in &due {
            self.judge(key, Trigger::Round, &mut transaction);
        }
        self.ledger.forget(now, self.victim_age());
        if let Err(reason) = self.commit_and_apply_or(transaction, |engine, transaction| {
            engine.evaluate_without_ledger(&due, transaction)
        }) {
            tracing::warn!(reason, "ledger unavailable, due work postponed");
        }
    }

    /// Brings the next round forward, once, because the cause of the delay may be gone soon.
    pub(super) fn hasten_round(&mut self, now: Duration) {
        let last_round = (now + RETRY).saturating_sub(ROUND);
        self.timers.last_round = self.timers.last_round.min(last_round);
    }

    fn evaluate_without_ledger(&mut self, keys: &[EpisodeKey], transaction: &mut Transaction) {
        for key in keys.iter().filter(|key| !key.simulated) {
            let rule = self.ledger.episodes.get(key).and_then(|episode| self.rule_of(episode));
            if rule.is_some_and(|rule| rule.without_ledger) {
                self.judge(key, Trigger::Round, transaction);
            }
        }
    }

    /// Resumes after a restart: reverts leases without an open episode. Every open episode is unconfirmed, and gets no new steps
    /// until a source confirms that its alert fires.
    pub fn resume(&mut self) {
        let mut transaction = Transaction::new(self.host.now(), None);
        let now = transaction.boot_now();
        self.ledger.episodes.values_mut().for_each(|episode| episode.doubt(now));
        for closed in self.ledger.closed.values_mut() {
            closed.closed_at.get_or_insert(now);
        }
        self.check_victims(&mut transaction);
        self.watch_victims();
        self.release_orphans(&mut transaction);
        self.leave_changed_ladders(&mut transaction);
        self.resend_unsettled(&mut transaction);
        self.bound_interrupted(&mut transaction);
        self.revert_unsettled(&mut transaction);
        self.resume_jobs(&mut transaction);
        if let Err(reason) = self.commit_and_apply_or(transaction, |_, _| ()) {
            tracing::error!(reason, "could not resume the open episodes");
        }
    }

    /// Whether an alert is about this host, or the rule acts for any host. Alerts of own evaluation are always about this host.
    fn is_about_us(&self, rule: &Rule, statement: &Statement<'_>, transaction: &mut Transaction) -> bool {
        if statement.source == EvidenceSource::Own || rule.any_host {
            return true;
        }
        let Err(reason) = self.policy.host_identity.recognises(&statement.alert.labels) else {
            return true;
        };
        tracing::info!(
            rule = rule.name.as_str(),
            alert = statement.alert.name(),
            reason,
            "alert of another host ignored"
        );
        transaction.counted.push((rule.name.clone(), Decision::OtherHost));
        false
    }

    /// Processes a firing alert that matches a rule.
    fn handle_firing(&mut self, rule: &Arc<Rule>, statement: &Statement<'_>, transaction: &mut Transaction) {
        if !self.is_about_us(rule, statement, transaction) {
            return;
        }
        let alert = statement.alert;
        let simulated = self.is_simulated(rule);
        let key = EpisodeKey {
            rule: rule.name.clone(),
            fingerprint: alert.fingerprint.clone(),
            simulated,
        };
        if statement.is_late_firing(self.ledger.closed.get(&key), transaction.boot_now()) {
            let reason = "the alert began before the last episode ended";
            return self.pass_over(rule.name.clone(), alert, reason, transaction);
        }
        if statement.source != EvidenceSource::Own {
            self.missing_alerts.heard(&alert.fingerprint);
        }
        if self.ledger.episodes.contains_key(&key) {
            return self.repeat(rule, &key, statement, transaction);
        }
        if self.ledger.episodes.len() >= MAX_OPEN_EPISODES {
            tracing::warn!(
                rule = rule.name.as_str(),
                alert = alert.name(),
                open = MAX_OPEN_EPISODES,
                "too many open episodes, alert dropped"
            );
            return transaction.counted.push((rule.name.clone(), Decision::Budget));
        }
        let mut episode = open_episode(rule, alert, transaction.boot_now(), simulated);
        episode.evidence = evidence_of(rule, statement);
        let closed = self.ledger.closed.get(&key);
        episode.may_continue = closed.is_none_or(|closed| closed.ended_at < alert.starts_at);
        transaction.stage(&mut self.ledger, Entry::Episode(episode));
        self.open_episodes.set_rule(&key, rule);
        if self.ledger.paused {
            // The episode stays open, so that it is evaluated when the pause ends, not only at the next repeat.
            let about = AlertRef::new(&rule.name, &alert.labels, &alert.fingerprint);
            let mut record = about.record(transaction.now);
            record.decision = Some(Decision::Paused);
            transaction.stage_record(&mut self.ledger, record);
        }
        self.judge(&key, Trigger::Opened, transaction);
    }

    fn repeat(&mut self, rule: &Rule, key: &EpisodeKey, statement: &Statement<'_>, transaction: &mut Transaction) {
        let is_confirmed = self.confirm(key, rule.hold, statement, transaction);
        if is_confirmed {
            self.resume_requests(key, transaction.boot_now());
        } else if !transaction.is_unledgered && self.was_just_evaluated(key, transaction.boot_now()) {
            return transaction.counted.push((rule.name.clone(), Decision::Duplicate));
        }
        self.judge(key, Trigger::Repeat, transaction);
    }

    /// Counts a stale delivery, which changes nothing.
    fn pass_over(&self, rule: SmolStr, alert: &Alert, reason: &'static str, transaction: &mut Transaction) {
        tracing::info!(rule = rule.as_str(), alert = alert.name(), reason, "stale delivery");
        transaction.counted.push((rule, Decision::Stale));
    }

    /// Closes every open episode of a resolved alert, regardless of rules, identity and mode. Without an open episode the end is
    /// recorded for the matching rules, so that a late firing is recognised as stale.
    fn end<'r>(
        &mut self,
        statement: &Statement<'_>,
        matching: impl Iterator<Item = &'r Arc<Rule>>,
        transaction: &mut Transaction,
    ) {
        let alert = statement.alert;
        let is_its = |key: &&EpisodeKey| key.fingerprint == alert.fingerprint;
        let open: Vec<EpisodeKey> = self.ledger.episodes.keys().filter(is_its).cloned().collect();
        for key in &open {
            self.resolve_episode(key, statement, transaction);
        }
        for rule in matching {
            let simulated = self.is_simulated(rule);
            let key = EpisodeKey {
                rule: rule.name.clone(),
                fingerprint: alert.fingerprint.clone(),
                simulated,
            };
            if open.contains(&key) || !self.is_about_us(rule, statement, transaction) {
                continue;
            }
            let closed = Closed {
                ended_at: statement.ended_at(transaction.now.wall),
                closed_at: Some(transaction.boot_now()),
            };
            match self.ledger.closed.get(&key) {
                Some(known) if known.ended_at >= closed.ended_at => {
                    transaction.counted.push((rule.name.clone(), Decision::Duplicate));
                }
                // Deliveries of own evaluation are never late.
                _ if statement.source == EvidenceSource::Own => {}
                _ => transaction.close(&mut self.ledger, Entry::EpisodeClosed { key, closed }),
            }
        }
    }

    fn resolve_episode(&mut self, key: &EpisodeKey, statement: &Statement<'_>, transaction: &mut Transaction) {
        let Some(mut episode) = self.ledger.episodes.get(key).cloned() else {
            return;
        };
        if statement.is_late_resolve(&episode, transaction.boot_now()) {
            let reason = "the alert resolves an earlier episode";
            return self.pass_over(key.rule.clone(), statement.alert, reason, transaction);
        }
        episode.evidence.record_over(statement.source, statement.at);
        if self.level_of(&episode, transaction.boot_now()) == Level::Over {
            let about = AlertRef::new(&key.rule, &statement.alert.labels, &key.fingerprint);
            let ended_at = statement.ended_at(transaction.now.wall);
            return self.close(key, &about, ended_at, "the alert ended", transaction);
        }
        tracing::info!(
            rule = key.rule.as_str(),
            alert = statement.alert.name(),
            "alert resolved in one source, still firing in another"
        );
        transaction.close(&mut self.ledger, Entry::Episode(episode));
    }

    /// The unconfirmed episodes.
    pub fn unconfirmed(&self) -> Vec<EpisodeKey> {
        let now = self.host.now().boot;
        let episodes = self.ledger.episodes.values();
        let unconfirmed = episodes.filter(|episode| self.level_of(episode, now) == Level::Unconfirmed);
        unconfirmed.map(|episode| episode.key.clone()).collect()
    }

    /// The level of an open episode at `now` (CLOCK_BOOTTIME). An episode without a rule is over.
    pub(super) fn level_of(&self, episode: &Episode, now: Duration) -> Level {
        let rule = self.rule_of(episode);
        rule.map_or(Level::Over, |rule| episode.evidence.level(now, rule.hold))
    }

    /// Whether a repeat can be skipped, because its episode was evaluated a moment ago. Many repeats must not read the process
    /// table each time.
    fn was_just_evaluated(&self, key: &EpisodeKey, now: Duration) -> bool {
        let waits_for_repeat = self
            .ledger
            .episodes
            .get(key)
            .is_some_and(|episode| episode.excluded.iter().any(|excluded| excluded.until_repeat));
        !waits_for_repeat
            && self
                .open_episodes
                .evaluated_at(key)
                .is_some_and(|at| at.saturating_add(JUST_NOW) > now)
    }

    /// Records that the alert of an open episode fires, and extends the deadlines of its leases. Repeats change memory only, and
    /// the ledger only after a quarter of the time or with new content, so that repeats cost no commit. Returns whether this
    /// confirms an unconfirmed episode.
    fn confirm(
        &mut self,
        key: &EpisodeKey,
        hold: Duration,
        statement: &Statement<'_>,
        transaction: &mut Transaction,
    ) -> bool {
        let now = transaction.boot_now();
        let renewable = |lease: &&Lease| !lease.is_ending() && !lease.is_undoing;
        let renewed = Entry::Renewed {
            ids: self
                .ledger
                .leases_of(key)
                .filter(renewable)
                .map(|lease| lease.id)
                .collect(),
            deadline: now + hold,
        };
        let Some(episode) = self.ledger.episodes.get_mut(key) else {
            return false;
        };
        let was_doubted = episode.evidence.is_doubted();
        let is_new_source = episode.evidence.last_firing(statement.source).is_none();
        let fresh_for = statement.fresh_for.unwrap_or(hold);
        episode
            .evidence
            .record_firing(statement.source, statement.at, fresh_for);
        let is_confirmed = was_doubted && !episode.evidence.is_doubted();
        // Alertmanager merges the start times of two Prometheus servers into the earlier one.
        let is_earlier = statement.source != EvidenceSource::Own && statement.alert.starts_at < episode.starts_at;
        let is_old = now.saturating_sub(episode.seen_at) >= hold / 4;
        if !(is_old || is_earlier || is_confirmed || is_new_source) {
            self.ledger.record(&renewed);
            return false;
        }
        let mut seen = episode.clone();
        seen.seen_at = now;
        if is_earlier {
            seen.starts_at = statement.alert.starts_at;
        }
        transaction.stage(&mut self.ledger, Entry::Episode(seen));
        transaction.stage(&mut self.ledger, renewed);
        is_confirmed
    }

    /// Runs select, plan and guard for one open episode.
    fn judge(&mut self, key: &EpisodeKey, occasion: Trigger, transaction: &mut Transaction) {
        let Some(mut episode) = self.ledger.episodes.get(key).cloned() else {
            return;
        };
        let Some(rule) = self.rule_of(&episode) else { return };
        let about = AlertRef::new(&rule.name, &episode.labels, &key.fingerprint);
        match episode.evidence.level(transaction.boot_now(), rule.hold) {
            Level::Firing => {}
            Level::Unconfirmed => return self.wait_for_confirmation(episode, transaction),
            Level::Over => return self.close_silent(&episode, &about, transaction),
        }
        self.open_episodes.set_evaluated(key, transaction.boot_now());
        if self.ledger.paused {
            return postpone(&mut self.ledger, key, transaction.boot_now());
        }
        let is_first = occasion == Trigger::Opened;
        if let Some(denial) = self.selection_denial(&rule, transaction.boot_now()) {
            if is_first {
                self.record_denial(&about, &denial, transaction);
            }
            return postpone(&mut self.ledger, key, transaction.boot_now());
        }
        let selector = selector_for(&rule, &episode, transaction.now).map(Arc::new);
        let mut matches = match &selector {
            None => Vec::new(),
            Some(selector) => match self.find(&rule, selector, &about, is_first, transaction) {
                Ok(matches) => matches,
                Err(denial) => {
                    // Told when it begins and at each repeat: how often an open episode is looked at says nothing of it.
                    if self.open_episodes.set_crowded(key, true) {
                        self.record_denial(&about, &denial, transaction);
                    } else if occasion == Trigger::Repeat {
                        transaction.counted.push((rule.name.clone(), denial.decision));
                    }
                    return postpone(&mut self.ledger, key, transaction.boot_now());
                }
            },
        };
        self.open_episodes.set_crowded(key, false);
        self.drop_gone_targets(&mut episode, transaction);
        if rule.has_final_steps() {
            let spent = self.spent(transaction.processes());
            matches.retain(|candidate| !spent.contains(&candidate.target()));
        }
        let held = self.places(&episode, transaction);
        let due = plan(
            &rule,
            &held,
            &matches,
            transaction.boot_now(),
            occasion == Trigger::Repeat,
        );
        if occasion == Trigger::Repeat {
            episode.excluded.retain(|excluded| !excluded.until_repeat);
            if due.is_empty() {
                transaction.counted.push((rule.name.clone(), Decision::Duplicate));
            }
        }
        let before = self.ledger.episodes.get(key).cloned();
        let by_target: HashMap<Target, &Candidate> = matches
            .iter()
            .map(|candidate| (candidate.target(), candidate))
            .collect();
        for due_steps in due {
            if due_steps.target == Target::Host {
                // A request that makes a server hold something needs a durable record first.
                if !transaction.is_unledgered {
                    self.step_host(due_steps, &rule, &about, &mut episode, transaction);
                }
                continue;
            }
            let candidate = by_target.get(&due_steps.target).copied();
            let (Some(candidate), Some(selector)) = (candidate, &selector) else {
                continue;
            };
            let context = StepContext {
                rule: &rule,
                selector,
                about: &about,
                candidate,
            };
            self.plan_steps(due_steps, context, &mut episode, transaction);
        }
        let next = transaction.boot_now() + ROUND;
        for progress in episode
            .targets
            .iter_mut()
            .filter(|progress| progress.due <= transaction.now.boot)
        {
            // The process does not match the selector now; the next round checks again.
            progress.due = next;
        }
        if before.as_ref() != Some(&episode) {
            let entry = Entry::Episode(episode);
            // Only a new step or a new reason is worth a commit; a new time for the next check is not.
            if differs_durably(before.as_ref(), &entry) {
                transaction.stage(&mut self.ledger, entry);
            } else {
                self.ledger.record(&entry);
            }
        }
    }

    /// The selected processes or cgroups that the guard allows, in the order of the rule. The excluded ones are recorded once.
    ///
    /// # Errors
    /// When more than `max_matches` processes match.
    fn find(
        &mut self,
        rule: &Rule,
        selector: &Selector,
        about: &AlertRef,
        is_first: bool,
        transaction: &mut Transaction,
    ) -> Result<Vec<Candidate>, Denial> {
        transaction.near = match selector.only_pid() {
            // Rounds read all processes, and so find the children of leased ones.
            Some(pid) if is_first && transaction.table.is_none() && needs_one_only(rule) => {
                Some(read_ancestry(&mut self.host, &self.ledger.leases, pid))
            }
            _ => None,
        };
        if transaction.near.is_none() && transaction.table.is_none() {
            let (now, is_shared) = (transaction.boot_now(), transaction.arrival.is_some());
            let table = self
                .processes
                .table(&mut self.host, &self.ledger.leases, now, is_shared);
            transaction.table = Some(table);
        }
        if let TargetSelector::Cgroups(_) = rule.target_selector {
            return self.find_cgroups(rule, selector, about, is_first, transaction);
        }
        let protection = Protection {
            own_ancestors: &self.processes.own_ancestors,
            protect: &self.policy.protect,
        };
        let choice = transaction.choice().map(|tree| &**tree).unwrap_or_default();
        let Selection {
            mut matches,
            unreadable,
        } = select(&mut self.host, choice, rule, selector, &protection);
        bound_matches(rule, matches.len())?;
        let found = matches.len();
        let reused = |process: &Process| {
            let reason = selector.reused_number(process)?.to_string();
            let decision = Decision::NoTarget;
            Some((Candidate::Process(process.clone()), Denial { decision, reason }))
        };
        let mut refused: Vec<(Candidate, Denial)> = choice.iter().filter_map(reused).collect();
        refused.extend(unreadable.into_iter().filter_map(|process| {
            let denial = protection.screen(rule, &process).err()?;
            Some((Candidate::Process(process), denial))
        }));
        matches.retain(|process| match protection.screen(rule, process) {
            Ok(()) => true,
            Err(denial) => {
                refused.push((Candidate::Process(process.clone()), denial));
                false
            }
        });
        let matches: Vec<Candidate> = matches.into_iter().map(Candidate::Process).collect();
        if !is_first {
            return Ok(matches);
        }
        self.record_denials(about, refused, transaction);
        if matches.is_empty() {
            let reason = match found {
                0 => "no process matches the selector".to_owned(),
                found => format!("{found} processes match the selector, and none of them may be touched"),
            };
            let decision = Decision::NoTarget;
            self.record_denial(about, &Denial { decision, reason }, transaction);
        }
        Ok(matches)
    }

    /// The reason why no targets can be selected now.
    fn selection_denial(&self, rule: &Rule, now: Duration) -> Option<Denial> {
        // Without a measurement the oldest process would pass for the one that uses the processors most.
        (needs_cpu(rule) && self.processes.baseline(now).is_none()).then(|| Denial {
            decision: Decision::NoTarget,
            reason: "processor use not measured for long enough yet; evaluated again soon".to_owned(),
        })
    }

    /// Keeps the leases, and removes targets that exited.
    fn wait_for_confirmation(&mut self, mut episode: Episode, transaction: &mut Transaction) {
        let key = episode.key.clone();
        let held = episode.targets.len();
        self.drop_gone_targets(&mut episode, transaction);
        if episode.targets.len() != held {
            transaction.close(&mut self.ledger, Entry::Episode(episode.clone()));
        }
        // Due steps run as soon as the alert is confirmed. An unconfirmed episode expires, so another round must check it.
        if !episode.evidence.is_doubted() {
            postpone(&mut self.ledger, &key, transaction.boot_now());
        }
    }

    /// Closes an episode that stayed unconfirmed for too long.
    fn close_silent(&mut self, episode: &Episode, about: &AlertRef, transaction: &mut Transaction) {
        tracing::info!(
            rule = about.rule.as_str(),
            alert = about.alertname.as_str(),
            fingerprint = about.fingerprint.as_str(),
            "alert no longer confirmed by a source"
        );
        let why = "no source confirmed the alert";
        self.close(&episode.key, about, before(episode.starts_at), why, transaction);
    }

    /// The episode as it counts against `limit`: a target with a lease counts even if it left the episode because another of its
    /// leases ended. A target that is gone does not count, so that a restarted unit is selected again at once.
    fn places(&self, episode: &Episode, transaction: &Transaction) -> Episode {
        let of_the_gone: BTreeSet<u64> = transaction.undone_as(Outcome::Gone).collect();
        let mut held = episode.clone();
        let mut seen: BTreeSet<Target> = held.targets.iter().map(|progress| progress.target).collect();
        let leases = self.ledger.leases_of(&episode.key);
        for lease in leases.filter(|lease| !of_the_gone.contains(&lease.id)) {
            if seen.insert(lease.target) {
                held.targets.push(TargetProgress {
                    target: lease.target,
                    name: lease.name.clone(),
                    step_index: usize::MAX,
                    due: Duration::MAX,
                    refused: None,
                });
            }
        }
        held
    }

    pub(super) fn record_denial(&mut self, about: &AlertRef, denial: &Denial, transaction: &mut Transaction) {
        let mut record = about.record(transaction.now);
        (record.decision, record.reason) = (Some(denial.decision), denial.reason.clone());
        transaction.stage_record(&mut self.ledger, record);
    }

    /// Commits and applies a transaction. If its intents cannot be made durable, `again` evaluates the rules that act without a
    /// ledger.
    ///
    /// # Errors
    /// When the intents could not be made durable.
    pub(super) fn commit_and_apply_or(
        &mut self,
        transaction: Transaction,
        again: impl FnOnce(&mut Self, &mut Transaction),
    ) -> Result<(), String> {
        let (now, arrival) = (transaction.boot_now(), transaction.arrival);
        let begun = self.commit_and_apply(transaction);
        if begun.is_err() {
            let mut rest = Transaction::without_ledger(self.host.now(), arrival);
            again(self, &mut rest);
            if rest.has_something() {
                // Its intents are valid, durable or not.
                let _ = self.commit_and_apply(rest);
            }
            self.postpone_due(now);
        }
        begun
    }

    /// Makes the intents durable, applies the actions, and makes the outcomes durable.
    ///
    /// # Errors
    /// When the intent could not be made durable.
    fn commit_and_apply(&mut self, mut transaction: Transaction) -> Result<(), String> {
        let entries = transaction.entries();
        let decided: Vec<(SmolStr, Decision)> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Record(record) => Some((record.rule.as_str().into(), record.decision?)),
                _ => None,
            })
            .chain(transaction.counted.drain(..))
            .collect();
        transaction.latency.decided = Instant::now();
        let begun = if entries.is_empty() || transaction.is_unledgered {
            Ok(())
        } else {
            self.journal.begin(&entries)
        };
        transaction.latency.durable = Instant::now();
        if begun.is_err() {
            let closings = transaction.roll_back(&mut self.ledger);
            self.journal.settle(closings);
        }
        for (rule, decision) in decided {
            let decision = if begun.is_ok() { decision } else { Decision::Ledger };
            if begun.is_err() && self.policy.rules.get(&rule).is_some_and(|rule| rule.without_ledger) {
                // It is evaluated again, and counted then.
                continue;
            }
            self.telemetry.decision(&rule, decision.as_str());
        }
        // Many repeats must not each describe thousands of open episodes.
        let changes_nothing = transaction.arrival.is_some() && entries.is_empty() && transaction.work.is_empty();
        if changes_nothing && self.journal.is_writable() {
            return begun;
        }
        // Without a ledger the record follows the action.
        let mut outcomes = if transaction.is_unledgered { entries } else { Vec::new() };
        let told = outcomes.len();
        if !transaction.work.is_empty() {
            self.processes.forget_table();
        }
        for work in std::mem::take(&mut transaction.work) {
            if matches!(work, Action::Undo { .. }) && transaction.table.is_none() {
                // Undoing needs the children of targets.
                transaction.table = Some(Arc::new(read_tree(&mut self.host)));
            }
            self.perform(work, &transaction, &mut outcomes);
        }
        self.show_decisions(&transaction);
        self.sweep();
        outcomes.iter().skip(told).for_each(|entry| self.show(entry));
        self.journal.settle(outcomes);
        self.timers.last_retry = (!self.journal.is_writable()).then_some(transaction.now.boot);
        self.publish_state();
        begun
    }

    /// Postpones steps and jobs that were due while the ledger could not be written, because a full disk must not make the engine
    /// spin.
    fn postpone_due(&mut self, now: Duration) {
        let targets = self
            .ledger
            .episodes
            .values_mut()
            .flat_map(|episode| &mut episode.targets);
        for progress in targets.filter(|progress| progress.due <= now) {
            progress.due = now + RETRY;
        }
        let courses = self.ledger.leases.retries_mut();
        for retry in courses.filter(|retry| retry.next <= now) {
            retry.next = now + RETRY;
        }
    }
}

/// Whether one process can be evaluated without the others. Processor use needs the whole table, and so do rules that kill,
/// because they check for exiting processes.
fn needs_one_only(rule: &Rule) -> bool {
    matches!(rule.target_selector, TargetSelector::Processes(_)) && !needs_cpu(rule) && !rule.has_final_steps()
}

/// The episode that an alert opens for a rule. `now` is CLOCK_BOOTTIME.
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
        targets: Vec::new(),
        excluded: Vec::new(),
    }
}

fn evidence_of(rule: &Rule, statement: &Statement<'_>) -> Evidence {
    let fresh_for = statement.fresh_for.unwrap_or(rule.hold);
    Evidence::firing(statement.source, statement.at, fresh_for)
}

/// Postpones the waiting targets of an episode until the next round.
fn postpone(ledger: &mut LedgerState, key: &EpisodeKey, now: Duration) {
    let Some(episode) = ledger.episodes.get_mut(key) else {
        return;
    };
    for progress in episode.targets.iter_mut().filter(|progress| progress.due <= now) {
        progress.due = now + ROUND;
    }
}

fn differs_durably(before: Option<&Episode>, entry: &Entry) -> bool {
    let (Some(before), Entry::Episode(after)) = (before, entry) else {
        return true;
    };
    let rungs = |episode: &Episode| {
        let mut rungs: Vec<_> = episode
            .targets
            .iter()
            .map(|progress| (progress.target, progress.step_index, progress.refused))
            .collect();
        rungs.sort_unstable_by_key(|(target, ..)| *target);
        rungs
    };
    rungs(before) != rungs(after) || before.excluded != after.excluded
}
