//! The check of one target right before a step: it must still exist, match the rule, and be unprotected.

use super::Policy;
use super::process_view::ProcessView;
use super::select::still_holds;
use super::transaction::ActionContext;
use crate::act::apply::StepResult;
use crate::act::favour;
use crate::act::guard::Denial;
use crate::host::Host;
use crate::ledger::{Decision, Outcome};
use crate::process::selector::SelectorMatch;
use crate::process::{Candidate, Cgroup, CgroupIdentity, Process, ProcessFields, Selector};
use crate::rule::Rule;

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
                true => may_favour_process(host, process).map_err(|denial| denial.reason),
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

/// Whether a process may get a value that favours it: it must run a program of the host now.
///
/// # Errors
/// When it does not, or cannot be read.
pub(super) fn may_favour_process(host: &mut impl Host, seen: &Process) -> Result<(), Denial> {
    let mut now = seen.clone();
    if !host.read_details(&mut now, ProcessFields::EXE | ProcessFields::HOST_PROGRAM) {
        let (decision, reason) = (Decision::Protected, "it cannot be read".to_owned());
        return Err(Denial { decision, reason });
    }
    favour::screen([&now])
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
    let needs = ProcessFields::EXE | ProcessFields::HOST_PROGRAM;
    processes
        .members(policy)
        .judge_now(host, cgroup, needs, |member| favour::screen([member]))
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
    match selector.judge_cgroup(&now) {
        SelectorMatch::Holds => {
            let screened = processes.members(policy).screen_now(host, rule, &now);
            screened.map_err(|denial| denial.reason)
        }
        SelectorMatch::Fails(why) | SelectorMatch::Unknown(why) => Err(why.to_string()),
    }
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
