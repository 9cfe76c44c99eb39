//! What must hold at every moment:
//!
//! (a) nothing irreversible is done unless some source said within its bound that the alert fires, and since the last
//!     start, fault, or reload that changed the rule;
//! (b) once no source says so for its bound, everything is undone;
//! (c) once a source says so for its bound, the rule is answered, and what is held is not given up;
//! (d) a value that nothing holds is what it was before the first holder; a signal that can be undone is sent once
//!     and undone once;
//! (e) own evaluation says that an alert fires only when its condition was true for as long as the rule demands;
//! (f) a rule never ends more processes in one episode than its `limit`, and a pid in a label means no process that was
//!     born after the alert was first reported, or began again.

use super::policies::{ALERT_NAMES, CONFIGURATIONS, OF_A_PID};
use super::simulation::Simulation;
use super::*;
use crate::host::fake::HostAction;
use crate::knob::Knob;
use crate::ledger::{Effect, EpisodeKey, Lease};
use crate::process::{Identity, Target};
use crate::rule::Rule;
use jiff::SignedDuration;
use nix::sys::signal::Signal;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet};

/// A lease that was released by hand.
pub struct Release {
    pub at: Duration,
    pub lease: Lease,
    /// False where the daemon died in it, so that it may not have come to pass.
    pub is_certain: bool,
}

/// A target of an open episode whose rule got other steps, so that it gets no further ones.
pub struct Left {
    pub at: Duration,
    pub rule: SmolStr,
    pub fingerprint: SmolStr,
    pub target: Target,
}

/// What the checks remember of a history.
#[derive(Default)]
pub struct Memory {
    pub is_paused: bool,
    pub has_crashed: bool,
    /// The last death in the middle of an action.
    pub died_at: Option<Duration>,
    /// The last start or fault.
    pub disrupted_at: Duration,
    /// The end of the last suspension.
    awake_at: Duration,
    /// The last reload that changed a rule, by its name.
    changed_at: BTreeMap<SmolStr, Duration>,
    /// The last reload that changed its steps, by its name.
    other_steps_at: BTreeMap<SmolStr, Duration>,
    /// When something that is held was still backed by evidence, by rule and fingerprint.
    backed_at: BTreeMap<(SmolStr, SmolStr), Duration>,
    /// Since when a rule is not answered, by its name and alert.
    pub unanswered_since: BTreeMap<(SmolStr, usize), Duration>,
    /// Since when a rule could end a process and has ended none.
    pub unended_since: BTreeMap<(SmolStr, usize), Duration>,
    /// Signals that were sent to end processes: when, whom, and by which rules that may have been.
    pub ended: Vec<(Duration, Identity, BTreeSet<SmolStr>)>,
    /// Signals that can be undone, less those that undo.
    balance: BTreeMap<Identity, i32>,
    pub leases: BTreeMap<u64, Lease>,
    /// Leases for the alert about a pid whose process was compared with the alert, or could not be.
    leases_of_pids: BTreeSet<(u64, Target)>,
    pub released: Vec<Release>,
    pub left: Vec<Left>,
    /// Whether the kernel refuses to set something, and until when it did.
    pub is_denied: bool,
    pub allowed_at: Duration,
    pub checked_at: Duration,
    /// What an action violated in which the daemon died.
    pub violation: Option<String>,
}

impl Memory {
    pub fn disrupted(&mut self, now: Duration) {
        self.disrupted_at = now;
        self.leases.clear();
    }

    /// The host was suspended until now: what became due meanwhile could not be done.
    pub fn awake(&mut self, now: Duration) {
        self.awake_at = now;
        self.unanswered_since.clear();
        self.unended_since.clear();
    }

    pub fn reboot(&mut self, now: Duration) {
        *self = Memory {
            is_paused: self.is_paused,
            has_crashed: self.has_crashed,
            disrupted_at: now,
            allowed_at: now,
            ..Memory::default()
        };
    }

    pub fn reload(&mut self, before: usize, after: usize, now: Duration) {
        let [before, after] = [before, after].map(|variant| &CONFIGURATIONS[variant].policy);
        let is_elsewhere = before.host_identity != after.host_identity || before.enforce != after.enforce;
        for rule in before.rules.rules.iter().chain(&after.rules.rules) {
            let [one, other] = [before, after].map(|policy| policy.rules.get(&rule.name));
            if is_elsewhere || format!("{one:?}") != format!("{other:?}") {
                self.changed_at.insert(rule.name.clone(), now);
            }
            if matches!((one, other), (Some(one), Some(other)) if one.steps_text() != other.steps_text()) {
                self.other_steps_at.insert(rule.name.clone(), now);
            }
        }
    }

    /// The kernel refuses from now on, or until this time.
    pub fn deny(&mut self, until: Option<Duration>) {
        self.is_denied = until.is_none();
        self.allowed_at = until.unwrap_or(self.allowed_at);
    }

    /// Since when evidence counts for a rule.
    pub fn since(&self, rule: &str) -> Duration {
        let changed = self.changed_at.get(rule).copied().unwrap_or_default();
        self.disrupted_at.max(changed)
    }

    /// Whether a rule has ended a process for an alert with this start, and was changed afterwards. Its episode closed without
    /// a resolve then, and the same alert gets no other victim.
    pub fn has_answered_before_change(&self, rule: &str, starts: Option<i64>) -> bool {
        let began_at = starts.map(|starts| Duration::from_secs(starts.unsigned_abs()));
        let changed_at = self.changed_at.get(rule);
        let mut ended = self.ended.iter().filter(|(_, _, by)| by.contains(rule));
        ended.any(|(at, ..)| began_at.is_some_and(|began_at| began_at <= *at) && changed_at >= Some(at))
    }

    /// Whether the steps of a rule were others in an episode that has been open since `began_at`, and a start came after: its
    /// targets then get no more steps.
    pub fn has_left_steps(&self, rule: &str, began_at: Option<Duration>) -> bool {
        let changed = self.other_steps_at.get(rule).copied();
        let is_since = |at: Duration| began_at.is_some_and(|began_at| began_at <= at);
        changed.is_some_and(|at| is_since(at) && at <= self.disrupted_at)
    }

    fn may_undo(&self, now: Duration) -> bool {
        !self.is_denied && now >= self.allowed_at.max(self.awake_at) + UNDO_MARGIN
    }
}

pub type Checked = Result<(), String>;

impl Simulation {
    pub fn check(&mut self) -> Checked {
        let now = self.now;
        let disrupted_at = self.memory.disrupted_at;
        for evidence in &mut self.evidence {
            evidence.note_silence(now, disrupted_at);
        }
        self.memory.violation.take().map_or(Ok(()), Err)?;
        self.check_host_actions()?;
        self.check_limits()?;
        self.check_undone()?;
        self.check_values()?;
        self.check_own_evaluation()?;
        self.check_pids()?;
        self.check_given_up()?;
        self.check_answers()?;
        self.memory.checked_at = now;
        Ok(())
    }

    pub fn selects(&self, rule: &Rule, alert: usize, process: &crate::process::Process) -> bool {
        let selector = rule.selector().map(|selector| selector.resolve(&self.alerts[alert]));
        selector.is_some_and(|selector| selector.judge(process) == crate::process::selector::SelectorMatch::Holds)
    }

    pub fn check_host_actions(&mut self) -> Checked {
        let host_actions = std::mem::take(&mut self.host().hooks.host_actions);
        host_actions
            .iter()
            .try_for_each(|host_action| self.check_host_action(host_action))
    }

    fn check_host_action(&mut self, host_action: &HostAction) -> Checked {
        let identity = host_action.process.identity;
        match host_action.signal {
            Some(Signal::SIGUSR1) => *self.memory.balance.entry(identity).or_default() += 1,
            Some(Signal::SIGUSR2) => *self.memory.balance.entry(identity).or_default() -= 1,
            Some(signal) => return self.check_end(host_action, signal),
            None => {}
        }
        Ok(())
    }

    fn check_end(&mut self, host_action: &HostAction, signal: Signal) -> Checked {
        let now = self.now;
        let mut by = BTreeSet::new();
        for (rule, meant) in self
            .configuration()
            .enforced()
            .filter(|(rule, _)| rule.has_final_steps())
        {
            let since = self.memory.since(&rule.name);
            let is_backed = |alert: &usize| {
                self.selects(rule, *alert, &host_action.process) && self.evidence[*alert].supports(now, since)
            };
            if meant.iter().any(is_backed) {
                by.insert(rule.name.clone());
            }
        }
        if by.is_empty() {
            let process = &host_action.process;
            return Err(format!(
                "(a) {signal} to {} ({}) although no source says that its alert fires",
                process.identity, process.name
            ));
        }
        self.memory.ended.push((now, host_action.process.identity, by));
        Ok(())
    }

    fn check_limits(&self) -> Checked {
        for (rule, meant) in self
            .configuration()
            .enforced()
            .filter(|(rule, _)| rule.has_final_steps())
        {
            // All of its alerts have one episode each since then.
            let overs = meant.iter().filter_map(|alert| self.evidence[*alert].last_over);
            let since = overs.max().max(self.memory.changed_at.get(&rule.name).copied());
            let evidence = meant.iter().map(|alert| &self.evidence[*alert]);
            let is_of_now = |at: Duration| Some(at) > since && !evidence.clone().any(|one| one.began_again_after(at));
            let by = self
                .memory
                .ended
                .iter()
                .filter(|(at, _, by)| is_of_now(*at) && by.contains(&rule.name));
            let victims: BTreeSet<Identity> = by.map(|(_, identity, _)| *identity).collect();
            if victims.len() > rule.limit * meant.len() {
                return Err(format!("(f) {} has ended {victims:?} in one episode", rule.name));
            }
        }
        Ok(())
    }

    /// Whether evidence says that a rule may hold something for an alert.
    pub fn is_backed(&self, rule: &str, fingerprint: &str) -> bool {
        let mut known = self.fingerprints.iter();
        let alert = known
            .position(|known| known == fingerprint)
            .expect("an alert of the model");
        let (evidence, since) = (&self.evidence[alert], self.memory.since(rule));
        let mut in_force = self.configuration().rules();
        let is_meant = in_force.any(|(known, meant)| known.name == rule && meant.contains(&alert));
        evidence.is_unconfirmed(self.now, since) || (is_meant && evidence.supports(self.now, since))
    }

    /// Whether a rule may hold something for an alert although no source says any more that it fires.
    fn may_be_held(&self, rule: &str, fingerprint: &str) -> bool {
        let alert = self.fingerprints.iter().position(|known| known == fingerprint);
        self.is_backed(rule, fingerprint) || alert.is_some_and(|alert| self.evidence[alert].awaits_absence(self.now))
    }

    fn check_undone(&mut self) -> Checked {
        let now = self.now;
        let ledger = self.engine.ledger();
        let of_lease = |lease: &Lease| (lease.rule.clone(), lease.fingerprint.clone());
        let of_episode = |key: &EpisodeKey| (key.rule.clone(), key.fingerprint.clone());
        let mut open: BTreeSet<(SmolStr, SmolStr)> = ledger.leases.values().map(of_lease).collect();
        open.extend(ledger.episodes.keys().map(of_episode));
        self.memory.backed_at.retain(|key, _| open.contains(key));
        let may_undo = self.memory.may_undo(now);
        let began_at = self.memory.disrupted_at.max(self.memory.awake_at);
        for key in open {
            let is_backed = self.may_be_held(&key.0, &key.1);
            let backed_at = self.memory.backed_at.entry(key.clone()).or_insert(now);
            if is_backed || now < began_at + UNDO_MARGIN {
                *backed_at = now;
            } else if now > *backed_at + UNDO_MARGIN && may_undo {
                let (rule, fingerprint) = key;
                let alert = self.fingerprints.iter().position(|known| *known == fingerprint);
                let alert = alert.map_or("another alert", |alert| ALERT_NAMES[alert]);
                return Err(format!(
                    "(b) {rule} still holds something for {alert}, which no source says fires"
                ));
            }
        }
        let (released, leases) = (&self.memory.released, &self.engine.ledger().leases);
        let is_held = |release: &&Release| {
            release.is_certain && now > release.at + UNDO_MARGIN && leases.contains_key(&release.lease.id)
        };
        match released.iter().find(is_held) {
            Some(Release { lease, .. }) if may_undo => Err(format!("(b) {lease:?} was released by hand")),
            _ => Ok(()),
        }
    }

    fn check_values(&self) -> Checked {
        let (leases, host) = (&self.engine.ledger.leases, &self.engine.host);
        let is_held = |identity: Identity, knob: Knob| {
            let mut on = leases.on(identity.into()).filter_map(|lease| lease.effect.value());
            on.any(|value| value.knob() == knob)
        };
        if let Some(changed) = self.processes.changed(host, is_held) {
            return Err(format!("(d) {changed}"));
        }
        let is_signalled = |identity: Identity| {
            let mut on = leases.on(identity.into());
            on.any(|lease| matches!(lease.effect, Effect::Signal { .. }))
        };
        let alive = &self.processes.alive;
        let balance = self
            .memory
            .balance
            .iter()
            .filter(|(identity, _)| alive.contains(identity));
        for (identity, balance) in balance {
            let expected = i32::from(is_signalled(*identity));
            if *balance != expected && !self.memory.has_crashed {
                return Err(format!(
                    "(d) {identity} has {balance} signals that were not undone, not {expected}"
                ));
            }
        }
        self.check_cgroup()
    }

    fn check_cgroup(&self) -> Checked {
        let is_held = self
            .engine
            .ledger
            .leases
            .values()
            .any(|lease| lease.target.cgroup().is_some());
        let unit = &self.engine.host.cgroups[policies::UNIT];
        let is_own = unit.settings == self.unit_settings && unit.runtime.as_ref().is_none_or(BTreeMap::is_empty);
        if is_held || is_own {
            return Ok(());
        }
        Err("(d) the unit has a limit that nothing holds".to_owned())
    }

    fn check_own_evaluation(&self) -> Checked {
        let firing = self.own.firing();
        let names = self.configuration().own_names;
        for name in names {
            let evidence = &self.evidence[policies::alert(name)];
            if firing.contains(name) && !evidence.may_fire(self.now) {
                return Err(format!("(e) own evaluation skips `for` of {name}"));
            }
        }
        Ok(())
    }

    fn check_pids(&mut self) -> Checked {
        let fingerprint = &self.fingerprints[OF_A_PID];
        let leases = self.engine.ledger().leases.values();
        let leases: Vec<Lease> = leases
            .filter(|lease| lease.fingerprint == *fingerprint)
            .cloned()
            .collect();
        let held = leases.iter().map(|lease| (lease.id, lease.target)).collect();
        let known = std::mem::replace(&mut self.memory.leases_of_pids, held);
        // A clock that is behind the sender's makes an alert that outlasts a reboot look younger than the boot.
        if self.engine.host.now.wall < self.senders_time() - SignedDuration::from_secs(2) {
            return Ok(());
        }
        for lease in leases.iter().filter(|lease| !known.contains(&(lease.id, lease.target))) {
            let born = lease
                .target
                .process()
                .and_then(|identity| self.processes.born.get(&identity));
            let evidence = &self.evidence[OF_A_PID];
            let began_at = evidence.latest_start.unwrap_or_default();
            let began_at = Duration::from_secs(began_at.unsigned_abs());
            // The alert may have ended and begun since an earlier lease was taken.
            if let (Some(born), Some(said)) = (born, evidence.first_said)
                && *born > said.max(began_at) + START_TOLERANCE
            {
                return Err(format!("(f) {lease:?} is on a process that is younger than the alert"));
            }
        }
        Ok(())
    }
}
