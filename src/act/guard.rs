//! The guard: it allows or refuses each planned step. Pure. Each refusal has a decision from the closed list and a
//! reason. Reverts do not pass the guard, because evenkeel never refuses them.

use crate::alert::Source;
use crate::host::Value;
use crate::ledger::breaker::TRIPS_AT;
use crate::ledger::{Decision, Episode, Victim};
use crate::process::selector::SelectorMatch;
use crate::process::{Cgroup, Process, ProcessFields, Selector, Target, protection};
use crate::rule::Rule;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// The reason of a refusal by the rule's `while`.
pub const WHILE_IS_FALSE: &str = "`while` is false";

/// The refusal of a step, a process or a whole plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub decision: Decision,
    pub reason: String,
}

fn refuse<T>(decision: Decision, reason: impl Into<String>) -> Result<T, Denial> {
    Err(Denial {
        decision,
        reason: reason.into(),
    })
}

/// The host-wide limits of irreversible actions within a period. Commands have a limit of their own, so that
/// notifications do not prevent a kill, and kills do not prevent a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Processes, cgroups and units.
    pub final_steps: u32,
    /// Episodes whose commands without `undo` run.
    pub commands: u32,
    pub per: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            final_steps: 3,
            commands: 10,
            per: Duration::from_secs(300),
        }
    }
}

impl Budget {
    /// Number of victims that are still allowed; dry-run and real ones are counted separately.
    pub fn remaining<'a>(&self, victims: impl IntoIterator<Item = &'a Victim>, simulated: bool, now: Duration) -> u32 {
        let recent = self.recent(victims, simulated, now);
        let targets = recent
            .map(|victim| victim.target)
            .filter(|target| *target != Target::Host);
        left_of(self.final_steps, targets.collect::<BTreeSet<_>>().len())
    }

    /// Number of episodes that may still run commands. A command that failed does not count.
    pub fn remaining_commands<'a>(
        &self,
        victims: impl IntoIterator<Item = &'a Victim>,
        simulated: bool,
        now: Duration,
    ) -> u32 {
        let recent = self.recent(victims, simulated, now);
        let spent = recent.filter(|victim| victim.target == Target::Host && !victim.is_uncounted);
        left_of(self.commands, spent.count())
    }

    fn recent<'a>(
        &self,
        victims: impl IntoIterator<Item = &'a Victim>,
        simulated: bool,
        now: Duration,
    ) -> impl Iterator<Item = &'a Victim> {
        let per = self.per;
        let victims = victims.into_iter();
        victims.filter(move |victim| victim.simulated == simulated && victim.struck_at + per > now)
    }
}

fn left_of(limit: u32, spent: usize) -> u32 {
    limit.saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
}

/// The processes that are never touched on this host.
pub struct Protection<'a> {
    /// evenkeel and its ancestors.
    pub own_ancestors: &'a BTreeSet<i32>,
    /// `protect:` of the configuration.
    pub protect: &'a [Selector],
}

impl Protection<'_> {
    /// The fields of a process that [`Protection::screen`] needs.
    pub fn needs(&self) -> ProcessFields {
        protection::NEEDS | self.needs_configured()
    }

    fn needs_configured(&self) -> ProcessFields {
        let needs = self.protect.iter().map(Selector::needs);
        needs.fold(ProcessFields::empty(), |all, needs| all | needs)
    }

    /// # Errors
    /// When the process is excluded from this rule although its selector matches.
    pub fn screen(&self, rule: &Rule, process: &Process) -> Result<(), Denial> {
        self.screen_host(process)?;
        let protected = |why: &str| refuse(Decision::Protected, why);
        if let Some(why) = process.details.unread {
            return protected(&format!("unidentified: {why}"));
        }
        if process.details.exe.is_none() {
            return protected("unidentified: the executable is not readable");
        }
        if let Some(entry) = protection::recognise(process)
            && !rule.overrides.contains(entry.name)
        {
            let name = entry.name;
            return protected(&format!(
                "built-in protection {name:?} (override_protection: [{name}] lifts it)"
            ));
        }
        self.screen_configured(process)
    }

    /// Refuses the processes that no rule and no user can expose.
    fn screen_host(&self, process: &Process) -> Result<(), Denial> {
        self.screen_pid(process.identity.pid)?;
        match process.is_kernel_thread {
            true => refuse(Decision::Protected, "kernel threads are never touched"),
            false => Ok(()),
        }
    }

    fn screen_pid(&self, pid: i32) -> Result<(), Denial> {
        match pid {
            1 => refuse(Decision::Protected, "pid 1 is never touched"),
            _ if self.own_ancestors.contains(&pid) => {
                refuse(Decision::Protected, "evenkeel and its ancestors are never touched")
            }
            _ => Ok(()),
        }
    }

    /// Refuses the processes that `protect` of the configuration selects.
    fn screen_configured(&self, process: &Process) -> Result<(), Denial> {
        let protected = |why: &str| refuse(Decision::Protected, why);
        for selector in self.protect {
            match selector.judge(process) {
                SelectorMatch::Fails(_) => {}
                SelectorMatch::Holds => return protected("an entry of `protect` in the configuration selects it"),
                SelectorMatch::Unknown(why) => {
                    return protected(&format!("unknown whether `protect` selects it: {why}"));
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// When no rule may touch the cgroup, whatever is in it.
    pub fn screen_cgroup(&self, cgroup: &Cgroup) -> Result<(), Denial> {
        match cgroup.path.as_str() {
            "/" => refuse(Decision::Protected, "the root cgroup is never touched"),
            _ => Ok(()),
        }
    }

    /// The fields of a process in a cgroup that [`Protection::screen_member`] needs; `None` if its pid is enough. A user
    /// can put any program of the host into a cgroup of their own, so that does not shield the cgroup.
    pub fn member_needs(&self, cgroup: &Cgroup) -> Option<ProcessFields> {
        match cgroup.is_managed_by_user() {
            true if self.protect.is_empty() => None,
            true => Some(self.needs_configured()),
            false => Some(self.needs()),
        }
    }

    /// # Errors
    /// When the cgroup of the process with this pid is excluded from every rule.
    pub fn screen_member_pid(&self, pid: i32) -> Result<(), Denial> {
        self.screen_pid(pid).map_err(|denial| Denial {
            reason: format!("process {pid} is in it: {}", denial.reason),
            ..denial
        })
    }

    /// # Errors
    /// When the cgroup of a process is excluded from this rule although its selector matches.
    pub fn screen_member(&self, rule: &Rule, cgroup: &Cgroup, process: &Process) -> Result<(), Denial> {
        let screened = match cgroup.is_managed_by_user() {
            true => self.screen_host(process).and_then(|()| self.screen_configured(process)),
            false => self.screen(rule, process),
        };
        screened.map_err(|denial| {
            let (pid, name) = (process.identity.pid, &process.name);
            let reason = format!("process {pid} ({name}) is in it: {}", denial.reason);
            Denial { reason, ..denial }
        })
    }
}

/// # Errors
/// When a limit would kill processes in the cgroup instead of slowing them down.
pub fn limit(cgroup: &Cgroup, value: &Value) -> Result<(), Denial> {
    if let Some(most) = value.kills_above()
        && let Some(used) = cgroup.memory_bytes.filter(|used| *used > most)
    {
        let reason = format!(
            "{used} bytes are in use, and with a lower limit the kernel would kill processes; memory.high slows them down instead"
        );
        return refuse(Decision::Protected, reason);
    }
    Ok(())
}

/// # Errors
/// When the process has no handler for the signal, which would then kill or stop it.
pub fn notice(process: &Process, signal: Signal) -> Result<(), Denial> {
    match process.details.caught_signals {
        Some(caught) if caught & (1 << (signal as u32 - 1)) != 0 => Ok(()),
        Some(_) => refuse(
            Decision::Protected,
            format!("no handler for {signal}, so the signal would kill the process"),
        ),
        None => refuse(
            Decision::Protected,
            format!("unknown whether the process handles {signal}"),
        ),
    }
}

/// The state for the choice of the next victim.
pub struct FinalGate<'a> {
    pub rule: &'a Rule,
    pub episode: &'a Episode,
    pub victims: &'a [Victim],
    pub budget: Budget,
    /// CLOCK_BOOTTIME.
    pub now: Duration,
    /// CLOCK_BOOTTIME of the oldest sample on which `while` rests, or of the process table.
    pub sample_at: Duration,
    /// The result of `while`; `None` if the rule has none.
    pub condition: Option<bool>,
    /// Victims that no step waits for, because they are blocked in the kernel or outlived their time.
    pub stuck: &'a BTreeSet<Target>,
    /// Victims whose steps no episode continues.
    pub orphaned: &'a BTreeSet<Target>,
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
        let counted = || self.victims.iter().filter(|victim| victim.simulated == key.simulated);
        let lives_as = |victim: &&Victim| victim.target == target && victim.gone_at.is_none();
        if let Some(victim) = counted().find(|victim| lives_as(victim) && !victim.is_free_again()) {
            let is_ours = victim.rule == key.rule && victim.fingerprint == key.fingerprint;
            if is_ours || self.orphaned.contains(&target) {
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
        if let Some(victim) = ours().find(|victim| victim.gone_at.is_none() && !self.stuck.contains(&victim.target)) {
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
        self.victims.iter().filter(is_its)
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
        let ours = || self.victims.iter().filter(is_ours);
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
        if self.budget.remaining_commands(self.victims, key.simulated, self.now) == 0 {
            return self.refuse_spent(&format!("{commands} commands"), per);
        }
        self.ask_condition().map(|()| KillClass::NewVictim)
    }

    /// Checks the cooldown since the last victim `of_rule`, and the budget. A victim that the episode adopts is known to both
    /// already.
    fn afford<'v>(&self, of_rule: impl Iterator<Item = &'v Victim>, adopted: Option<Target>) -> Result<(), Denial> {
        let is_other = |victim: &&Victim| Some(victim.target) != adopted;
        self.await_cooldown(of_rule.filter(is_other))?;
        let others = self.victims.iter().filter(is_other);
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
        let name = &self.rule.name;
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
    use crate::process::{BootId, CgroupIdentity, Unread};
    use crate::rule::example;

    fn named(pid: i32, exe: &str) -> Process {
        let mut process = Process::example(pid, "burner");
        process.details.exe = Some(exe.into());
        process.details.is_host_program = Some(true);
        process
    }

    fn screen(process: &Process, overrides: &[&str]) -> Option<String> {
        let mut rule = example("calm", "nice 5");
        rule.overrides = overrides.iter().map(|name| (*name).to_owned()).collect();
        let protect = [Selector {
            conditions: vec![crate::process::selector::Condition::Exe(
                crate::process::selector::Pattern::fixed("/usr/lib/postgresql/.*").unwrap(),
            )],
        }];
        let protection = Protection {
            own_ancestors: &BTreeSet::from([50, 40]),
            protect: &protect,
        };
        protection.screen(&rule, process).err().map(|denial| {
            assert_eq!(denial.decision, Decision::Protected);
            denial.reason
        })
    }

    #[test]
    fn the_protected_are_never_targets() {
        let mut kernel = named(9, "/x");
        kernel.is_kernel_thread = true;
        let unknown = Process::example(9, "burner");
        let mut unreadable = named(9, "/usr/bin/burner");
        unreadable.details.unread = Some(Unread::Blocked);
        let protected = [
            named(1, "/usr/bin/burner"),
            named(40, "/usr/bin/burner"),
            kernel,
            unknown,
            unreadable,
            named(9, "/usr/lib/postgresql/15/bin/postgres"),
        ];
        for process in &protected {
            assert!(screen(process, &["sshd"]).is_some(), "{process:?}");
        }
        assert!(screen(&named(9, "/usr/sbin/sshd"), &[]).unwrap().contains("sshd"));
        assert_eq!(screen(&named(9, "/usr/sbin/sshd"), &["sshd"]), None);
        assert_eq!(screen(&named(9, "/usr/bin/burner"), &[]), None);
    }

    #[test]
    fn protected_program_shields_its_cgroup_unless_a_user_manages_it() {
        let of_user = "/user.slice/user-1000.slice/user@1000.service";
        for (path, is_shielded) in [
            ("/system.slice/job.service".to_owned(), true),
            ("/user.slice/user-1000.slice/session-3.scope".to_owned(), true),
            ("/user.slice/user-1000.slice".to_owned(), true),
            (of_user.to_owned(), true),
            (format!("{of_user}/init.scope"), true),
            (format!("{of_user}/app.slice/hog.scope"), false),
            (format!("{of_user}/app.slice"), false),
            ("/system.slice/job.service/user@1000.service/hog.scope".to_owned(), true),
        ] {
            let protection = Protection {
                own_ancestors: &BTreeSet::from([50]),
                protect: &[],
            };
            let rule = example("calm", "nice 5");
            let identity = CgroupIdentity {
                boot: BootId(1),
                inode: 9,
            };
            let cgroup = Cgroup::at(identity, path.clone());
            for member in [named(9, "/usr/sbin/sshd"), Process::example(9, "unidentified")] {
                let screened = protection.screen_member(&rule, &cgroup, &member);
                assert_eq!(screened.is_err(), is_shielded, "{path}");
            }
            assert!(protection.screen_member_pid(50).is_err(), "{path}");
            assert_eq!(protection.member_needs(&cgroup).is_some(), is_shielded, "{path}");
        }
    }

    #[test]
    fn a_signal_without_handler_is_refused() {
        let mut process = named(9, "/usr/bin/d");
        assert!(notice(&process, Signal::SIGUSR1).is_err());
        process.details.caught_signals = Some(1 << (Signal::SIGUSR1 as u32 - 1));
        assert!(notice(&process, Signal::SIGUSR1).is_ok());
        assert!(notice(&process, Signal::SIGUSR2).is_err());
    }

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
            victims: &case.victims,
            budget: Budget::default(),
            now: Duration::from_secs(1000),
            sample_at: Duration::from_secs(case.sample_at),
            condition: case.condition,
            stuck: &stuck,
            orphaned: &BTreeSet::from([Process::example(8, "x").identity.into()]),
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
    fn commands_and_kills_have_budgets_of_their_own() {
        let run = |struck_at: u64, is_uncounted| Victim {
            target: Target::Host,
            is_uncounted,
            ..victim(1, struck_at, Some(struck_at))
        };
        let now = Duration::from_secs(1000);
        let budget = Budget {
            commands: 2,
            ..Budget::default()
        };
        let victims = [run(990, false), run(990, true), victim(2, 991, None)];
        let left = |simulated| {
            let of_processes = budget.remaining(&victims, simulated, now);
            (of_processes, budget.remaining_commands(&victims, simulated, now))
        };
        assert_eq!(left(false), (2, 1));
        assert_eq!(left(true), (3, 2));
        let later = Duration::from_secs(2000);
        assert_eq!(budget.remaining_commands(&victims, false, later), 2);
    }

    #[test]
    fn budget_counts_victims_of_all_rules_once_each() {
        let mut victims = vec![victim(1, 990, None), victim(1, 991, None), victim(2, 992, None)];
        let now = Duration::from_secs(1000);
        assert_eq!(Budget::default().remaining(&victims, false, now), 1);
        assert_eq!(Budget::default().remaining(&victims, true, now), 3);
        for victim in &mut victims {
            victim.rule = "other".into();
            victim.gone_at = Some(Duration::from_secs(995));
        }
        victims.push(Victim {
            rule: "other".into(),
            ..victim(3, 993, Some(994))
        });
        assert_eq!(
            kill_class_of(Case {
                victims,
                ..Case::default()
            }),
            Err(Decision::Budget)
        );
    }
}
