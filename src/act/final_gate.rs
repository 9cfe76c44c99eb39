//! The gate of irreversible actions: whether an episode may kill another victim or run another command now. Pure.

use super::budget::Budget;
use super::guard::{Denial, refuse};
use crate::alert::Source;
use crate::ledger::breaker::TRIPS_AT;
use crate::ledger::{Decision, Episode, Victim};
use crate::process::Target;
use crate::rule::Rule;
use crate::terminal::shell_word;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// The reason of a refusal by the rule's `while`.
pub const WHILE_IS_FALSE: &str = "`while` is false";

/// The victims that the ledger knows.
#[derive(Clone, Copy)]
pub struct KnownVictims<'a> {
    pub all: &'a [Victim],
    /// Victims that no step waits for, because they are blocked in the kernel or outlived their time.
    pub stuck: &'a BTreeSet<Target>,
    /// Victims whose steps no episode continues.
    pub orphaned: &'a BTreeSet<Target>,
}

/// The state for the choice of the next victim.
pub struct FinalGate<'a> {
    pub rule: &'a Rule,
    pub episode: &'a Episode,
    pub victims: KnownVictims<'a>,
    pub budget: Budget,
    /// CLOCK_BOOTTIME.
    pub now: Duration,
    /// CLOCK_BOOTTIME of the oldest sample on which `while` rests, or of the process table.
    pub sample_at: Duration,
    /// The result of `while`; `None` if the rule has none.
    pub condition: Option<bool>,
    /// Whether the breaker of the rule is open.
    pub is_broken: bool,
}

/// The way in which an irreversible action counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillClass {
    /// One unit of budget.
    NewVictim,
    /// A later irreversible action on a victim that is counted already.
    Escalation,
    /// The victim received this signal already.
    Done,
}

impl FinalGate<'_> {
    /// # Errors
    /// When the process must not be killed yet; the reason says what must happen first.
    pub fn kill_class(&self, target: Target, signal: Signal) -> Result<KillClass, Denial> {
        let key = &self.episode.key;
        let counted = || {
            self.victims
                .all
                .iter()
                .filter(|victim| victim.simulated == key.simulated)
        };
        let lives_as = |victim: &&Victim| victim.target == target && victim.gone_at.is_none();
        if let Some(victim) = counted().find(|victim| lives_as(victim) && !victim.is_free_again()) {
            let is_ours = victim.rule == key.rule && victim.fingerprint == key.fingerprint;
            if is_ours || self.victims.orphaned.contains(&target) {
                if !victim.counts_for(self.episode) {
                    self.may_have_another()?;
                    self.afford(self.processes_of_rule(), Some(target))?;
                }
                if victim.signals.contains(&(signal as i32)) {
                    return Ok(KillClass::Done);
                }
                self.ask_breaker()?;
                return self.ask_condition().map(|()| KillClass::Escalation);
            }
            return refuse(
                Decision::AwaitingEffect,
                format!("rule {:?} is already killing it", victim.rule),
            );
        }
        self.ask_breaker()?;
        self.may_have_another()?;
        let ours = || self.processes_of_rule();
        if let Some(victim) =
            ours().find(|victim| victim.gone_at.is_none() && !self.victims.stuck.contains(&victim.target))
        {
            return refuse(
                Decision::AwaitingEffect,
                format!("{} has not exited yet", named(victim.target)),
            );
        }
        if ours()
            .filter_map(|victim| victim.gone_at)
            .any(|gone_at| gone_at >= self.sample_at)
        {
            return refuse(Decision::AwaitingEffect, "no sample since the exit of the last victim");
        }
        self.afford(ours(), None)?;
        self.ask_condition().map(|()| KillClass::NewVictim)
    }

    /// The processes and cgroups that this rule has killed, for any alert.
    fn processes_of_rule(&self) -> impl Iterator<Item = &Victim> {
        let key = &self.episode.key;
        let is_its = |victim: &&Victim| {
            victim.simulated == key.simulated && victim.rule == key.rule && victim.target != Target::Host
        };
        self.victims.all.iter().filter(is_its)
    }

    /// Checks whether the episode may have one more victim besides those that count for it.
    fn may_have_another(&self) -> Result<(), Denial> {
        let counting = self.processes_of_rule();
        let in_episode = counting.filter(|victim| victim.counts_for(self.episode)).count();
        if in_episode >= self.rule.limit {
            return refuse(
                Decision::Budget,
                format!("the limit of {} victims per episode is reached", self.rule.limit),
            );
        }
        let is_from_alertmanager = self.episode.source == Source::Alertmanager;
        if in_episode >= 1 && self.rule.condition.is_none() && is_from_alertmanager {
            let reason = "without `while`, an alert from Alertmanager allows one victim per episode";
            return refuse(Decision::Condition, reason);
        }
        Ok(())
    }

    /// Checks an irreversible command. All commands of one episode count as one, like the signals to one process; killed
    /// processes are counted separately. The budget does not count a failed command, but the cooldown does, so that an
    /// alert that flaps does not run it again and again.
    ///
    /// # Errors
    /// When the command must not run yet; the reason says what must happen first.
    pub fn run(&self) -> Result<KillClass, Denial> {
        self.ask_breaker()?;
        let key = &self.episode.key;
        let is_ours = |victim: &&Victim| {
            victim.target == Target::Host && victim.simulated == key.simulated && victim.rule == key.rule
        };
        let ours = || self.victims.all.iter().filter(is_ours);
        let of_alert = || ours().filter(|victim| victim.counts_for(self.episode) && !victim.is_uncounted);
        if of_alert().any(|victim| victim.struck_at >= self.episode.opened_at) {
            return self.ask_condition().map(|()| KillClass::Escalation);
        }
        if of_alert().next().is_some() {
            let reason = "already run for this alert, in an episode that closed before";
            return refuse(Decision::Budget, reason);
        }
        self.await_cooldown(ours())?;
        let Budget { commands, per, .. } = self.budget;
        if self
            .budget
            .remaining_commands(self.victims.all, key.simulated, self.now)
            == 0
        {
            return self.refuse_spent(&format!("{commands} commands"), per);
        }
        self.ask_condition().map(|()| KillClass::NewVictim)
    }

    /// Checks the cooldown since the last victim `of_rule`, and the budget. A victim that the episode adopts is known to both
    /// already.
    fn afford<'v>(&self, of_rule: impl Iterator<Item = &'v Victim>, adopted: Option<Target>) -> Result<(), Denial> {
        let is_other = |victim: &&Victim| Some(victim.target) != adopted;
        self.await_cooldown(of_rule.filter(is_other))?;
        let others = self.victims.all.iter().filter(is_other);
        let Budget { final_steps, per, .. } = self.budget;
        if self.budget.remaining(others, self.episode.key.simulated, self.now) == 0 {
            return self.refuse_spent(&format!("{final_steps} irreversible actions"), per);
        }
        Ok(())
    }

    fn refuse_spent<T>(&self, what: &str, per: Duration) -> Result<T, Denial> {
        let seconds = per.as_secs();
        refuse(
            Decision::Budget,
            format!("the host's budget of {what} per {seconds} s is spent"),
        )
    }

    fn await_cooldown<'v>(&self, of_rule: impl Iterator<Item = &'v Victim>) -> Result<(), Denial> {
        if let Some(last) = of_rule.map(|victim| victim.struck_at).max()
            && last + self.rule.cooldown > self.now
        {
            let left = (last + self.rule.cooldown).saturating_sub(self.now).as_secs();
            return refuse(Decision::Cooldown, format!("cooldown of the rule: {left} s left"));
        }
        Ok(())
    }

    fn ask_breaker(&self) -> Result<(), Denial> {
        if !self.is_broken {
            return Ok(());
        }
        let name = shell_word(&self.rule.name);
        let reason = format!(
            "the breaker is open after {TRIPS_AT} irreversible actions without effect; `evenkeel release --breaker {name}` closes it"
        );
        refuse(Decision::Breaker, reason)
    }

    fn ask_condition(&self) -> Result<(), Denial> {
        if self.condition == Some(false) {
            return refuse(Decision::Condition, WHILE_IS_FALSE);
        }
        Ok(())
    }
}

/// The name of a target in a reason.
fn named(target: Target) -> String {
    match target.pid() {
        Some(pid) => format!("process {pid}"),
        None => target.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::EpisodeKey;
    use crate::process::Process;
    use crate::rule::example;

    struct Case {
        victims: Vec<Victim>,
        has_while: bool,
        source: Source,
        limit: usize,
        condition: Option<bool>,
        sample_at: u64,
        target: i32,
        signal: Signal,
        is_broken: bool,
    }

    impl Default for Case {
        fn default() -> Self {
            let source = Source::Local;
            Case {
                victims: vec![],
                has_while: false,
                source,
                limit: 9,
                condition: None,
                sample_at: 1000,
                target: 7,
                signal: Signal::SIGKILL,
                is_broken: false,
            }
        }
    }

    fn victim(pid: i32, struck_at: u64, gone_at: Option<u64>) -> Victim {
        let target = Process::example(pid, "x").identity.into();
        Victim {
            rule: "end".into(),
            fingerprint: "f".into(),
            gone_at: gone_at.map(Duration::from_secs),
            signals: vec![Signal::SIGTERM as i32],
            ..Victim::new(target, false, Duration::from_secs(struck_at))
        }
    }

    fn kill_class_of(case: Case) -> Result<KillClass, Decision> {
        let (target, signal) = (Process::example(case.target, "x").identity.into(), case.signal);
        at_the_gate(case, |gate| gate.kill_class(target, signal))
    }

    fn at_the_gate(
        case: Case,
        ask: impl FnOnce(&FinalGate<'_>) -> Result<KillClass, Denial>,
    ) -> Result<KillClass, Decision> {
        let mut rule = example("end", "signal TERM; wait 10; signal KILL");
        rule.limit = case.limit;
        rule.condition = case.has_while.then(|| "up > 0".to_owned());
        let episode = Episode {
            key: EpisodeKey {
                rule: "end".into(),
                fingerprint: "f".into(),
                simulated: false,
            },
            steps_text: String::new(),
            source: case.source,
            labels: Default::default(),
            annotations: Default::default(),
            generator_url: None,
            starts_at: jiff::Timestamp::UNIX_EPOCH,
            opened_at: Duration::from_secs(100),
            seen_at: Duration::ZERO,
            evidence: Default::default(),
            targets: vec![],
            excluded: vec![],
        };
        let stuck = BTreeSet::from([Process::example(66, "x").identity.into()]);
        let gate = FinalGate {
            rule: &rule,
            episode: &episode,
            victims: KnownVictims {
                all: &case.victims,
                stuck: &stuck,
                orphaned: &BTreeSet::from([Process::example(8, "x").identity.into()]),
            },
            budget: Budget::default(),
            now: Duration::from_secs(1000),
            sample_at: Duration::from_secs(case.sample_at),
            condition: case.condition,
            is_broken: case.is_broken,
        };
        ask(&gate).map_err(|denial| denial.decision)
    }

    #[test]
    fn final_steps_go_one_at_a_time() {
        let case = Case::default;
        assert_eq!(kill_class_of(case()), Ok(KillClass::NewVictim));
        assert_eq!(
            kill_class_of(Case {
                victims: vec![victim(7, 990, None)],
                ..case()
            }),
            Ok(KillClass::Escalation)
        );
        assert_eq!(
            kill_class_of(Case {
                victims: vec![victim(8, 200, None)],
                ..case()
            }),
            Err(Decision::AwaitingEffect)
        );
        assert_eq!(
            kill_class_of(Case {
                victims: vec![victim(66, 200, None)],
                ..case()
            }),
            Ok(KillClass::NewVictim)
        );
        assert_eq!(
            kill_class_of(Case {
                victims: vec![victim(8, 200, Some(300))],
                ..case()
            }),
            Ok(KillClass::NewVictim)
        );
        let unseen = Case {
            victims: vec![victim(8, 200, Some(300))],
            sample_at: 300,
            ..case()
        };
        assert_eq!(kill_class_of(unseen), Err(Decision::AwaitingEffect));
        assert_eq!(
            kill_class_of(Case {
                victims: vec![victim(8, 800, Some(801))],
                ..case()
            }),
            Err(Decision::Cooldown)
        );
        let full = vec![victim(8, 200, Some(201))];
        assert_eq!(
            kill_class_of(Case {
                victims: full,
                limit: 1,
                ..case()
            }),
            Err(Decision::Budget)
        );
        assert_eq!(
            kill_class_of(Case {
                condition: Some(false),
                ..case()
            }),
            Err(Decision::Condition)
        );
    }

    #[test]
    fn no_signal_is_sent_twice_and_while_is_asked_before_each() {
        let (victims, condition) = (vec![victim(7, 990, None)], Some(false));
        let case = |signal, condition| Case {
            victims: victims.clone(),
            signal,
            condition,
            ..Case::default()
        };
        assert_eq!(kill_class_of(case(Signal::SIGTERM, None)), Ok(KillClass::Done));
        assert_eq!(
            kill_class_of(case(Signal::SIGKILL, condition)),
            Err(Decision::Condition)
        );
        let left_behind = Victim {
            rule: "other".into(),
            ..victim(8, 990, None)
        };
        for (signal, expected) in [
            (Signal::SIGTERM, KillClass::Done),
            (Signal::SIGKILL, KillClass::Escalation),
        ] {
            let (victims, target) = (vec![left_behind.clone()], 8);
            let case = Case {
                victims,
                target,
                signal,
                ..Case::default()
            };
            assert_eq!(kill_class_of(case), Ok(expected), "its own episode is closed");
        }
    }

    #[test]
    fn an_open_breaker_refuses_new_victims_and_escalations() {
        for victims in [vec![], vec![victim(7, 990, None)]] {
            let case = Case {
                victims,
                is_broken: true,
                ..Case::default()
            };
            assert_eq!(kill_class_of(case), Err(Decision::Breaker));
        }
        for (is_broken, expected) in [(true, Err(Decision::Breaker)), (false, Ok(KillClass::NewVictim))] {
            let case = Case {
                is_broken,
                ..Case::default()
            };
            assert_eq!(at_the_gate(case, |gate| gate.run()), expected, "a command");
        }
    }

    #[test]
    fn alertmanager_without_while_is_worth_one_victim() {
        for (has_while, expected) in [(false, Err(Decision::Condition)), (true, Ok(KillClass::NewVictim))] {
            let victims = vec![victim(8, 200, Some(300))];
            let source = Source::Alertmanager;
            let condition = has_while.then_some(true);
            assert_eq!(
                kill_class_of(Case {
                    victims,
                    source,
                    has_while,
                    condition,
                    ..Case::default()
                }),
                expected
            );
        }
    }

    #[test]
    fn victims_of_all_rules_spend_the_budget() {
        let victims = [1, 2, 3].map(|pid| Victim {
            rule: "other".into(),
            ..victim(pid, 990, Some(995))
        });
        assert_eq!(
            kill_class_of(Case {
                victims: victims.to_vec(),
                ..Case::default()
            }),
            Err(Decision::Budget)
        );
    }
}
