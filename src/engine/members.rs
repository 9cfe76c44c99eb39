//! The members of cgroups, as the guard sees them. A user can start thousands of processes, so they are read one after
//! the other until the guard refuses one, and only for a limited time.

use crate::act::guard::{Denial, Protection};
use crate::host::Host;
use crate::ledger::Decision;
use crate::process::{Cgroup, Process, ProcessFields};
use crate::rule::Rule;
use std::collections::BTreeMap;
use std::time::Duration;

/// Attempts to read a member whose pid is reused meanwhile.
const MAX_LOOKS: usize = 3;
/// The time for the members of one cgroup.
const TIME_PER_CGROUP: Duration = Duration::from_millis(200);
/// The time for those of all cgroups that a rule selects.
const TIME_FOR_ALL: Duration = Duration::from_millis(400);

/// Pids of the processes in a cgroup and below it, or the reason why they are unknown.
pub type MemberPids = Result<Vec<i32>, String>;

/// The refusal of a cgroup because of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDenial {
    pub denial: Denial,
    /// Whether the cause may be gone soon, because a process starts or exits.
    pub may_pass_soon: bool,
}

/// The cgroups of one decision, and what is known of their members.
pub(super) struct Members<'a> {
    /// The process table, where it was read for the decision.
    pub by_pid: BTreeMap<i32, &'a Process>,
    pub protection: Protection<'a>,
}

impl Members<'_> {
    /// Asks the guard about each of several cgroups. The smallest come first, so that large ones take no time from
    /// them. The results are in the order of `cgroups`.
    pub fn screen_all<'c>(
        &self,
        host: &mut impl Host,
        rule: &Rule,
        cgroups: impl IntoIterator<Item = (&'c Cgroup, &'c MemberPids)>,
    ) -> Vec<Result<(), MemberDenial>> {
        let mut cgroups: Vec<_> = cgroups.into_iter().enumerate().collect();
        cgroups.sort_by_key(|(_, (_, pids))| pids.as_ref().map_or(0, Vec::len));
        let until = host.now().boot + TIME_FOR_ALL;
        let mut results = BTreeMap::new();
        for (place, (cgroup, pids)) in cgroups {
            let until = until.min(host.now().boot + TIME_PER_CGROUP);
            results.insert(place, self.screen(host, rule, cgroup, pids, until));
        }
        results.into_values().collect()
    }

    /// Asks the guard about one cgroup, with its present members.
    pub fn screen_now(&self, host: &mut impl Host, rule: &Rule, cgroup: &Cgroup) -> Result<(), Denial> {
        let until = host.now().boot + TIME_PER_CGROUP;
        let pids = pids_of(host, cgroup);
        let screened = self.screen(host, rule, cgroup, &pids, until);
        screened.map_err(|refused| refused.denial)
    }

    /// Asks `judge` about each present member of a cgroup, with these fields.
    pub fn judge_now(
        &self,
        host: &mut impl Host,
        cgroup: &Cgroup,
        needs: ProcessFields,
        judge: impl Fn(&Process) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let until = host.now().boot + TIME_PER_CGROUP;
        let pids = pids_of(host, cgroup).map_err(|why| unknown(&why, true).denial)?;
        let judged = self.judge(host, &pids, needs, until, judge);
        judged.map_err(|refused| refused.denial)
    }

    /// `until` is CLOCK_BOOTTIME.
    fn screen(
        &self,
        host: &mut impl Host,
        rule: &Rule,
        cgroup: &Cgroup,
        pids: &MemberPids,
        until: Duration,
    ) -> Result<(), MemberDenial> {
        let lasting = |denial| MemberDenial {
            denial,
            may_pass_soon: false,
        };
        self.protection.screen_cgroup(cgroup).map_err(lasting)?;
        let pids = pids.as_ref().map_err(|why| unknown(why, true))?;
        for pid in pids {
            self.protection.screen_member_pid(*pid).map_err(lasting)?;
        }
        match self.protection.member_needs(cgroup) {
            None => Ok(()),
            Some(needs) => self.judge(host, pids, needs, until, |member| {
                self.protection.screen_member(rule, cgroup, member)
            }),
        }
    }

    fn judge(
        &self,
        host: &mut impl Host,
        pids: &[i32],
        needs: ProcessFields,
        until: Duration,
        judge: impl Fn(&Process) -> Result<(), Denial>,
    ) -> Result<(), MemberDenial> {
        for pid in pids {
            if host.now().boot >= until {
                return Err(unknown("members not read in time", false));
            }
            let known = self.by_pid.get(pid).map(|process| (*process).clone());
            let member = read(host, *pid, known, needs).map_err(|why| unknown(&why, true))?;
            let Some(member) = member else { continue };
            judge(&member).map_err(|denial| MemberDenial {
                denial,
                may_pass_soon: needs.contains(ProcessFields::EXE) && member.details.exe.is_none(),
            })?;
        }
        Ok(())
    }
}

fn unknown(why: &str, may_pass_soon: bool) -> MemberDenial {
    MemberDenial {
        denial: Denial {
            decision: Decision::Protected,
            reason: format!("unknown processes in the cgroup: {why}"),
        },
        may_pass_soon,
    }
}

/// The processes in a cgroup and below it.
pub(super) fn pids_of(host: &mut impl Host, cgroup: &Cgroup) -> MemberPids {
    let pids = host.members(cgroup).map_err(|error| error.to_string())?;
    match pids.contains(&0) {
        true => Err("a process of another pid namespace is in it".to_owned()),
        false => Ok(pids),
    }
}

/// The process with this pid, with its details; `None` if it exited, or is within exit(2) and cannot be identified any
/// more.
fn read<H: Host>(
    host: &mut H,
    pid: i32,
    known: Option<Process>,
    needs: ProcessFields,
) -> Result<Option<Process>, String> {
    let mut known = known;
    let find = |host: &mut H| {
        let found = host.find_process(pid);
        found.map_err(|error| format!("pid {pid} cannot be read: {error}"))
    };
    for _ in 0..MAX_LOOKS {
        let found = match known.take() {
            Some(process) => Some(process),
            None => find(host)?,
        };
        let Some(mut process) = found else { return Ok(None) };
        // Another process may have its pid.
        if host.read_details_in_time(&mut process, needs) {
            let is_unidentified = needs.contains(ProcessFields::EXE) && process.details.exe.is_none();
            let is_over = is_unidentified && host.is_ending(process.identity);
            return Ok((!is_over).then_some(process));
        }
    }
    match find(host)? {
        Some(_) => Err(format!("pid {pid} is reused while it is read")),
        None => Ok(None),
    }
}
