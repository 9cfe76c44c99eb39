//! The check of one target right before a step: it must still exist, match the rule, and be unprotected.

use super::Policy;
use super::process_view::ProcessView;
use super::select::still_holds;
use super::transaction::ActionContext;
use crate::act::apply::StepResult;
use crate::act::favour;
use crate::act::guard::{Denial, Protection};
use crate::host::Host;
use crate::ledger::{Decision, Outcome};
use crate::process::selector::SelectorMatch;
use crate::process::{Candidate, Cgroup, CgroupIdentity, Members, Process, ProcessFields, Selector};
use crate::rule::Rule;
use std::collections::BTreeMap;

/// Attempts to read a member whose pid is reused meanwhile.
const MAX_LOOKS: usize = 3;

/// Checks right before a step that the process is still the planned one.
pub(super) fn verify(
    host: &mut impl Host,
    processes: &ProcessView,
    policy: &Policy,
    context: &ActionContext,
) -> Result<(), StepResult> {
    let (rule, selector) = (&context.rule, &context.selector);
    let (checked, is_alive): (Result<(), String>, bool) = match &context.candidate {
        Candidate::Process(process) => {
            let protection = processes.protection(policy);
            let checked = still_holds(host, process, rule, selector, &protection);
            let checked = checked.and_then(|()| match context.is_favour {
                true => may_favour_process(host, process),
                false => Ok(()),
            });
            let is_alive = checked.is_ok() || host.is_alive(process.identity);
            (checked, is_alive)
        }
        Candidate::Cgroup(cgroup) => {
            let checked = cgroup_still_holds(host, processes, policy, cgroup, rule, selector);
            let checked = checked.and_then(|()| match context.is_favour {
                true => may_favour(host, processes, policy, cgroup).map_err(|denial| denial.reason),
                false => Ok(()),
            });
            let is_alive = checked.is_ok() || is_cgroup_there(host, cgroup.identity, &cgroup.path);
            (checked, is_alive)
        }
    };
    let Err(why) = checked else { return Ok(()) };
    let why = if why.is_empty() { why } else { format!(": {why}") };
    let what = if context.candidate.process().is_some() {
        "process"
    } else {
        "cgroup"
    };
    let (outcome, reason) = if is_alive {
        (
            Outcome::ChangedIdentity,
            format!("the {what} no longer matches the rule{why}"),
        )
    } else {
        (Outcome::Gone, format!("the {what} was gone before the step"))
    };
    Err(StepResult {
        outcome,
        before: None,
        after: None,
        reason,
    })
}

/// Checks right before a step that favours a process that it still runs a program of the host.
///
/// # Errors
/// When it does not, or cannot be read.
fn may_favour_process(host: &mut impl Host, seen: &Process) -> Result<(), String> {
    let mut now = seen.clone();
    if !host.read_details(&mut now, ProcessFields::EXE | ProcessFields::HOST_PROGRAM) {
        return Err(String::new());
    }
    favour::screen([&now]).map_err(|denial| denial.reason)
}

/// Whether a cgroup may get more than it has. A user names the cgroups of their own manager, so each process there must
/// run a program of the host.
///
/// # Errors
/// When one does not, or they are unknown.
pub(super) fn may_favour(
    host: &mut impl Host,
    processes: &ProcessView,
    policy: &Policy,
    cgroup: &Cgroup,
) -> Result<(), Denial> {
    if !cgroup.is_managed_by_user() {
        return Ok(());
    }
    match members_of(host, processes, policy, cgroup) {
        Ok(members) => favour::screen(&members),
        Err(why) => Err(Denial {
            decision: Decision::Protected,
            reason: format!("unknown processes in the cgroup: {why}"),
        }),
    }
}

/// Checks right before a step that the cgroup is still the planned one, and that no protected process is in it.
///
/// # Errors
/// When the cgroup has changed; the text says how.
fn cgroup_still_holds(
    host: &mut impl Host,
    processes: &ProcessView,
    policy: &Policy,
    seen: &Cgroup,
    rule: &Rule,
    selector: &Selector,
) -> Result<(), String> {
    let Some(mut now) = host.cgroup(&seen.path).filter(|now| now.identity == seen.identity) else {
        return Err("the cgroup was removed or replaced".to_owned());
    };
    now.cpu_cores = seen.cpu_cores;
    let members = members_of(host, processes, policy, &now);
    let protection = processes.protection(policy);
    match selector.judge_cgroup(&now) {
        SelectorMatch::Holds => protection
            .screen_cgroup(rule, &now, &members)
            .map_err(|denial| denial.reason),
        SelectorMatch::Fails(why) | SelectorMatch::Unknown(why) => Err(why.to_string()),
    }
}

/// The members of a cgroup, read now.
pub(super) fn members_of(host: &mut impl Host, processes: &ProcessView, policy: &Policy, cgroup: &Cgroup) -> Members {
    let protection = processes.protection(policy);
    members(host, &BTreeMap::new(), cgroup, &protection)
}

pub(super) fn is_cgroup_there(host: &mut impl Host, identity: CgroupIdentity, path: &str) -> bool {
    host.cgroup(path).is_some_and(|now| now.identity == identity)
}

/// Whether a cgroup is gone or empty.
pub(super) fn is_cgroup_empty(host: &mut impl Host, identity: CgroupIdentity) -> bool {
    let listed = host.cgroups().unwrap_or_default();
    let Some(cgroup) = listed.into_iter().find(|cgroup| cgroup.identity == identity) else {
        return true;
    };
    // An unknown state does not count as empty.
    host.is_populated(&cgroup).is_ok_and(|populated| !populated)
}

/// The processes in a cgroup and below it, with the fields that the guard needs.
pub(super) fn members(
    host: &mut impl Host,
    by_pid: &BTreeMap<i32, &Process>,
    cgroup: &Cgroup,
    protection: &Protection,
) -> Result<Vec<Process>, String> {
    let mut processes = Vec::new();
    for pid in host.members(cgroup).map_err(|error| error.to_string())? {
        if pid == 0 {
            return Err("a process of another pid namespace is in it".to_owned());
        }
        let known = by_pid.get(&pid).map(|process| (*process).clone());
        processes.extend(member(host, pid, known, protection.needs())?);
    }
    Ok(processes)
}

/// The process with this pid, with its details; `None` if it exited, or is within exit(2) and cannot be identified any more.
fn member(
    host: &mut impl Host,
    pid: i32,
    known: Option<Process>,
    needs: ProcessFields,
) -> Result<Option<Process>, String> {
    let mut known = known;
    for _ in 0..MAX_LOOKS {
        let Some(mut process) = known.take().or_else(|| host.process(pid)) else {
            return Ok(None);
        };
        // Another process may have its pid.
        if host.read_details_in_time(&mut process, needs) {
            let is_over = process.details.exe.is_none() && host.is_ending(process.identity);
            return Ok((!is_over).then_some(process));
        }
    }
    match host.process(pid) {
        Some(_) => Err(format!("pid {pid} is reused while it is read")),
        None => Ok(None),
    }
}
