//! The straight line that every alert walks:
//!
//! decode -> match rules -> select processes -> plan -> guard -> ledger.begin (durable intent)
//!        -> apply -> ledger.settle (durable outcome)
//!
//! Decoding was done by whoever brought the alert. A round over open episodes enters at "select".

use super::Engine;
use super::agenda::{BASELINE, RETRY, ROUND};
use super::ascend::Seat;
use super::episode::{Admission, admit};
use super::select::{needs_cpu, select};
use super::stages::Arrival;
use super::turn::{About, Turn, Work};
use crate::act::guard::{Refusal, Ward, bound_matches};
use crate::act::plan::plan;
use crate::alert::{Alert, Source, Status};
use crate::host::Host;
use crate::ledger::book::REMEMBER_VICTIMS;
use crate::ledger::{Book, Climb, Decision, Entry, Episode, EpisodeKey};
use crate::process::{Candidate, Kin, Process, Selector, Target};
use crate::rule::{Aim, Rule, RuleIndex};
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
enum Occasion {
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
        let alerts: Vec<&Alert> = alerts.iter().map(Borrow::borrow).collect();
        self.walk(&alerts, arrival.into())
    }

    fn walk(&mut self, alerts: &[&Alert], arrival: Arrival) -> Result<(), String> {
        let mut turn = Turn::new(self.host.now(), Some(arrival));
        alerts.iter().for_each(|alert| self.hear(alert));
        let rules = self.policy.rules.rules.clone();
        self.meet_all(&rules, alerts, &mut turn);
        self.carry_out_or(turn, |engine, turn| {
            let goes_on = |rule: &Arc<Rule>| rule.without_ledger && !engine.is_simulated(rule);
            let rules: Vec<Arc<Rule>> = rules.into_iter().filter(goes_on).collect();
            let is_firing = |alert: &&Alert| alert.status == Status::Firing;
            let firing: Vec<&Alert> = alerts.iter().copied().filter(is_firing).collect();
            engine.meet_all(&rules, &firing, turn);
        })
    }

    fn meet_all(&mut self, rules: &[Arc<Rule>], alerts: &[&Alert], turn: &mut Turn) {
        let index = RuleIndex::new(rules);
        for alert in alerts {
            for rule in index.matching(&alert.labels) {
                self.meet(rule, alert, turn);
            }
        }
    }

    /// Does what is due: waits that are over, deadlines, rounds, retries.
    pub fn tick(&mut self) {
        let mut turn = Turn::new(self.host.now(), None);
        let now = turn.boot_now();
        if self.chores.baseline_at.is_some_and(|at| at + BASELINE <= now) {
            self.measure_cpu();
        }
        if self.chores.last_retry.is_some_and(|at| at + RETRY <= now) {
            self.recover();
        }
        self.expire(&mut turn);
        self.give_up_survivors(&mut turn);
        let is_round = self.chores.last_round + ROUND <= now;
        if is_round {
            self.chores.last_round = now;
            let open = &self.book.episodes;
            self.judged_at.retain(|key, _| open.contains_key(key));
            self.crowded.retain(|key| open.contains_key(key));
            self.look_for_the_dead(&mut turn);
        }
        self.run_errands(&mut turn);
        let is_due = |episode: &Episode| is_round || episode.climbs.iter().any(|climb| climb.due <= now);
        let due: Vec<EpisodeKey> = self
            .book
            .episodes
            .values()
            .filter(|episode| is_due(episode))
            .map(|episode| episode.key.clone())
            .collect();
        for key in &due {
            self.judge(key, Occasion::Round, &mut turn);
        }
        self.book
            .forget(now, turn.now.wall, self.policy.budget.per.max(REMEMBER_VICTIMS));
        if let Err(reason) = self.carry_out_or(turn, |engine, turn| engine.judge_without_ledger(&due, turn)) {
            tracing::warn!(reason, "what was due is put off");
        }
    }

    fn judge_without_ledger(&mut self, keys: &[EpisodeKey], turn: &mut Turn) {
        for key in keys.iter().filter(|key| !key.simulated) {
            let rule = self.book.episodes.get(key).and_then(|episode| self.rule_of(episode));
            if rule.is_some_and(|rule| rule.without_ledger) {
                self.judge(key, Occasion::Round, turn);
            }
        }
    }

    /// Goes on after a restart: undoes what no open episode stands for, finishes what was begun, judges the rest.
    pub fn resume(&mut self) {
        let mut turn = Turn::new(self.host.now(), None);
        self.look_for_the_dead(&mut turn);
        self.watch_victims();
        self.release_orphans(&mut turn);
        self.leave_changed_ladders(&mut turn);
        self.resend_unsettled(&mut turn);
        self.finish_unsettled(&mut turn);
        self.take_up_errands(&mut turn);
        let open: Vec<EpisodeKey> = self.book.episodes.keys().cloned().collect();
        for key in &open {
            self.judge(key, Occasion::Round, &mut turn);
        }
        if let Err(reason) = self.carry_out_or(turn, |engine, turn| engine.judge_without_ledger(&open, turn)) {
            tracing::error!(reason, "could not take up what was left open");
        }
    }

    /// A rule and an alert that its matchers accept.
    fn meet(&mut self, rule: &Arc<Rule>, alert: &Alert, turn: &mut Turn) {
        let about = About::new(&rule.name, &alert.labels, &alert.fingerprint);
        if alert.source == Source::Alertmanager
            && !rule.any_host
            && let Err(reason) = self.policy.here.recognises(&alert.labels)
        {
            tracing::info!(
                rule = rule.name.as_str(),
                alert = alert.name(),
                reason,
                "alert is about another host"
            );
            return turn.counted.push((rule.name.clone(), Decision::OtherHost));
        }
        let simulated = self.is_simulated(rule);
        // A resolve also ends what was opened in the other mode before a restart.
        let modes = if alert.status == Status::Resolved {
            vec![false, true]
        } else {
            vec![simulated]
        };
        for simulated in modes {
            let key = EpisodeKey {
                rule: rule.name.clone(),
                fingerprint: alert.fingerprint.clone(),
                simulated,
            };
            let (open, closed) = (self.book.episodes.get(&key), self.book.closed.get(&key).copied());
            let is_current_mode = simulated == self.is_simulated(rule);
            match admit(alert, open, closed, turn.now.wall) {
                Admission::Stale(reason) if is_current_mode => {
                    tracing::info!(
                        rule = rule.name.as_str(),
                        alert = alert.name(),
                        reason,
                        "stale delivery"
                    );
                    turn.counted.push((rule.name.clone(), Decision::Stale));
                }
                Admission::Duplicate(_) if is_current_mode => {
                    turn.counted.push((rule.name.clone(), Decision::Duplicate));
                }
                Admission::Stale(_) | Admission::Duplicate(_) => {}
                Admission::Remember { ended_at } => {
                    turn.close(&mut self.book, Entry::EpisodeClosed { key, ended_at });
                }
                Admission::Close { ended_at } => self.close(&key, &about, ended_at, "the alert ended", turn),
                Admission::Open if self.book.episodes.len() >= MAX_OPEN_EPISODES => {
                    tracing::warn!(
                        rule = rule.name.as_str(),
                        alert = alert.name(),
                        open = MAX_OPEN_EPISODES,
                        "too many alerts at once; this one is left"
                    );
                    turn.counted.push((rule.name.clone(), Decision::Budget));
                }
                Admission::Open => {
                    let episode = open_episode(rule, alert, turn.boot_now(), simulated);
                    turn.intend(&mut self.book, Entry::Episode(episode));
                    self.rules_in_use.insert(key.clone(), Arc::clone(rule));
                    if self.book.paused {
                        // It stays open, so that it is judged when the pause ends, not only at the next repeat.
                        let mut record = about.record(turn.now);
                        record.decision = Some(Decision::Paused);
                        turn.decide(&mut self.book, record);
                    }
                    self.judge(&key, Occasion::Opened, turn);
                }
                Admission::Repeat => {
                    self.renew(&key, rule.hold, turn);
                    if !turn.is_unledgered && self.is_judged_just_now(&key, turn.boot_now()) {
                        turn.counted.push((rule.name.clone(), Decision::Duplicate));
                    } else {
                        self.judge(&key, Occasion::Repeat, turn);
                    }
                }
            }
        }
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

    /// Extends the deadlines of an episode that is known to fire. In memory at every repeat; durably only when a
    /// quarter of the time is gone, so that repeats cost no commit.
    fn renew(&mut self, key: &EpisodeKey, hold: Duration, turn: &mut Turn) {
        let now = turn.boot_now();
        let held = self.book.leases_of(key).filter(|lease| !lease.is_ending());
        let ids: Vec<u64> = held.map(|lease| lease.id).collect();
        let renewed = Entry::Renewed {
            ids,
            deadline: now + hold,
        };
        let Some(episode) = self.book.episodes.get(key) else {
            return;
        };
        if now.saturating_sub(episode.seen_at) < hold / 4 {
            return self.book.record(&renewed);
        }
        let seen = Episode {
            seen_at: now,
            ..episode.clone()
        };
        turn.intend(&mut self.book, Entry::Episode(seen));
        turn.intend(&mut self.book, renewed);
    }

    /// Select, plan and guard for one open episode.
    fn judge(&mut self, key: &EpisodeKey, occasion: Occasion, turn: &mut Turn) {
        let Some(mut episode) = self.book.episodes.get(key).cloned() else {
            return;
        };
        let Some(rule) = self.rule_of(&episode) else { return };
        let about = About::new(&rule.name, &episode.labels, &key.fingerprint);
        self.judged_at.insert(key.clone(), turn.boot_now());
        if self.book.paused {
            return postpone(&mut self.book, key, turn.boot_now());
        }
        let is_first = occasion == Occasion::Opened;
        if let Some(refusal) = self.cannot_choose(&rule, &episode, turn.boot_now()) {
            if is_first {
                self.refuse_all(&about, &refusal, turn);
            }
            return postpone(&mut self.book, key, turn.boot_now());
        }
        let selector = rule
            .selector()
            .map(|selector| Arc::new(selector.resolve(&episode.labels)));
        let mut matches = match &selector {
            None => Vec::new(),
            Some(selector) => match self.find(&rule, selector, &about, is_first, turn) {
                Ok(matches) => matches,
                Err(refusal) => {
                    // Told when it begins and at each repeat: how often an open episode is looked at says nothing of it.
                    if self.crowded.insert(key.clone()) {
                        self.refuse_all(&about, &refusal, turn);
                    } else if occasion == Occasion::Repeat {
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
        let held = self.places(&episode);
        let ascents = plan(&rule, &held, &matches, turn.boot_now(), occasion == Occasion::Repeat);
        if occasion == Occasion::Repeat {
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
            let seat = Seat {
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
        about: &About,
        is_first: bool,
        turn: &mut Turn,
    ) -> Result<Vec<Candidate>, Refusal> {
        turn.near = match selector.only_pid() {
            // Rounds read everything, and so see the children of those that are held.
            Some(pid) if is_first && turn.table.is_none() && needs_one_only(rule) => Some(self.read_line_of(pid)),
            _ => None,
        };
        if turn.near.is_none() && turn.table.is_none() {
            turn.table = Some(self.recent_table(turn));
        }
        if let Aim::Cgroups(_) = rule.aim {
            return self.find_cgroups(rule, selector, about, is_first, turn);
        }
        let ward = Ward {
            own_line: &self.own_line,
            protect: &self.policy.protect,
        };
        let choice = turn.choice().map(|kin| &**kin).unwrap_or_default();
        let mut matches = select(&mut self.host, choice, rule, selector, &ward);
        bound_matches(rule, matches.len())?;
        let found = matches.len();
        let mut refused = Vec::new();
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
            self.refuse_all(about, &Refusal { decision, reason }, turn);
        }
        Ok(matches)
    }

    /// Why targets cannot be chosen at this time at all.
    fn cannot_choose(&self, rule: &Rule, episode: &Episode, now: Duration) -> Option<Refusal> {
        // Whoever is oldest must not be taken for whoever uses the processors most.
        let unmeasured = (needs_cpu(rule) && self.baseline(now).is_none()).then(|| Refusal {
            decision: Decision::NoTarget,
            reason: "processor use has not been measured for long enough yet; it is looked at again".to_owned(),
        });
        // `seen_at` lags behind the last repeat by up to a quarter of `hold`.
        let is_silent = now.saturating_sub(episode.seen_at) >= rule.hold.saturating_add(rule.hold / 4);
        unmeasured.or_else(|| {
            is_silent.then(|| Refusal {
                decision: Decision::NoTarget,
                reason: "the alert is not known to fire any more: no repeat came within `hold`".to_owned(),
            })
        })
    }

    /// The episode as it counts against `limit`: who still holds a lease keeps a place, though it was taken out of the
    /// episode when another of its leases ended.
    fn places(&self, episode: &Episode) -> Episode {
        let mut held = episode.clone();
        let mut seen: BTreeSet<Target> = held.climbs.iter().map(|climb| climb.target).collect();
        for lease in self.book.leases_of(&episode.key) {
            if seen.insert(lease.target) {
                held.climbs.push(Climb {
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

    pub(super) fn refuse_all(&mut self, about: &About, refusal: &Refusal, turn: &mut Turn) {
        let mut record = about.record(turn.now);
        (record.decision, record.reason) = (Some(refusal.decision), refusal.reason.clone());
        turn.decide(&mut self.book, record);
    }

    /// Carries out a turn. Where its intents cannot be made durable, `again` judges once more for the rules that go on
    /// without a ledger.
    ///
    /// # Errors
    /// When the intents could not be made durable.
    pub(super) fn carry_out_or(&mut self, turn: Turn, again: impl FnOnce(&mut Self, &mut Turn)) -> Result<(), String> {
        let (now, arrival) = (turn.boot_now(), turn.arrival);
        let begun = self.carry_out(turn);
        if begun.is_err() {
            let mut rest = Turn::without_ledger(self.host.now(), arrival);
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
    fn carry_out(&mut self, mut turn: Turn) -> Result<(), String> {
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
            if matches!(work, Work::Undo { .. }) && turn.table.is_none() {
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
    pub(super) fn read_kin(&mut self) -> Kin {
        Kin::from(self.host.processes().unwrap_or_default())
    }

    /// For alerts that come in quick succession one reading serves several: whom it names is read anew before it is
    /// touched. Nothing was done since then.
    fn recent_table(&mut self, turn: &Turn) -> Arc<Kin> {
        let now = turn.boot_now();
        let recent = self.last_table.take().filter(|_| turn.arrival.is_some());
        let recent = recent.filter(|(read_at, _)| now.saturating_sub(*read_at) < JUST_READ);
        let (read_at, table) = recent.unwrap_or_else(|| (now, Arc::new(self.read_table(now))));
        self.last_table = Some((read_at, Arc::clone(&table)));
        table
    }

    /// A process and its ancestors, which matter where one may hold what was inherited: who names it by number need not wait
    /// until all others are read.
    fn read_line_of(&mut self, pid: i32) -> Kin {
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
        Kin::from(line)
    }

    fn read_table(&mut self, now: Duration) -> Kin {
        let mut table = self.host.processes().unwrap_or_else(|error| {
            tracing::error!(%error, "the process table cannot be read");
            Vec::new()
        });
        if let Some(baseline) = self.baseline(now) {
            baseline.measure(&mut table, now);
        }
        let kin = Kin::from(table);
        self.broods.note(&kin, &self.book.leases);
        kin
    }
}

/// Whether one process can be judged without the others: its use of processors is measured from the whole table, and who
/// ends processes looks at all that are ending.
fn needs_one_only(rule: &Rule) -> bool {
    matches!(rule.aim, Aim::Processes(_)) && !needs_cpu(rule) && !rule.has_final_steps()
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
        seen_at: now,
        climbs: Vec::new(),
        barred: Vec::new(),
    }
}

/// Looks at the waiting targets of an episode again in a round, not before.
fn postpone(book: &mut Book, key: &EpisodeKey, now: Duration) {
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
