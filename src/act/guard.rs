//! The guard: it allows or refuses the target of each planned step. Pure. Each refusal has a decision from the closed
//! list and a reason. Reverts do not pass the guard, because evenkeel never refuses them.

use crate::host::Value;
use crate::ledger::Decision;
use crate::process::selector::SelectorMatch;
use crate::process::{Cgroup, Process, ProcessFields, Selector, protection};
use crate::rule::Rule;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;

/// The refusal of a step, a process or a whole plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub decision: Decision,
    pub reason: String,
}

pub(super) fn refuse<T>(decision: Decision, reason: impl Into<String>) -> Result<T, Denial> {
    Err(Denial {
        decision,
        reason: reason.into(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
