//! The selection of processes for a rule: the cheap table for all, the expensive files for few.

use crate::act::crowd::bound_matches;
use crate::act::guard::{Denial, Protection};
use crate::act::plan;
use crate::host::{Host, Moment};
use crate::ledger::Episode;
use crate::process::selector::SelectorMatch;
use crate::process::{Process, ProcessFields, Selector, Unread};
use crate::rule::{OrderKey, Rule};
use jiff::Timestamp;
use std::time::Duration;

/// The result of a selection.
pub struct Selection {
    /// The matching processes, with the fields for guard and order, in the order of the rule.
    pub matches: Vec<Process>,
    /// The processes whose match is unknown, because they could not be read completely.
    pub unreadable: Vec<Process>,
}

/// Selects the processes of `table` for a rule. `selector` is the rule's, with the labels of the alert.
pub fn select(
    host: &mut impl Host,
    table: &[Process],
    rule: &Rule,
    selector: &Selector,
    protection: &Protection,
) -> Selection {
    let (mut matches, mut unreadable) = (Vec::new(), Vec::new());
    // The fields for guard and order are read last, and only for the matches.
    let more = protection.needs() | plan_needs(rule);
    let may_match =
        |process: &&Process| !process.is_dead() && !matches!(selector.judge_cheaply(process), SelectorMatch::Fails(_));
    let mut candidates: Vec<&Process> = table.iter().filter(may_match).collect();
    if (selector.needs() | more).contains(ProcessFields::CMDLINE) {
        // Time for command lines is short, so decoys that use nothing come last.
        plan::order_for_reading(&mut candidates, rule.order_by);
    }
    for process in candidates {
        let mut process = process.clone();
        if host.satisfies(&mut process, selector, more) {
            matches.push(process);
            continue;
        }
        let details = &mut process.details;
        details.unread = details
            .unread
            .or(details.has_unknown_user.then_some(Unread::UnknownUser));
        if details.unread.is_some() && !matches!(selector.judge(&process), SelectorMatch::Fails(_)) {
            unreadable.push(process);
        }
    }
    plan::order(&mut matches, rule.order_by);
    Selection { matches, unreadable }
}

/// Leaves out the matches that are too many for the rule, and returns the reason. The owners are read only if they are
/// needed.
///
/// # Errors
/// When the whole plan is refused.
pub fn leave_out_crowds(
    host: &mut impl Host,
    rule: &Rule,
    matches: &mut Vec<Process>,
) -> Result<Option<Denial>, Denial> {
    if matches.len() <= rule.max_matches {
        return Ok(None);
    }
    for process in matches.iter_mut().filter(|process| process.owner().is_none()) {
        host.read_details(process, ProcessFields::REAL_UID);
    }
    let owners: Vec<Option<u32>> = matches.iter().map(Process::owner).collect();
    let crowd = bound_matches(rule, &owners, "processes")?;
    if let Some(crowd) = &crowd {
        matches.retain(|process| !crowd.includes(process.owner()));
    }
    Ok(crowd.map(|crowd| crowd.denial))
}

/// The selector of a rule for an episode, with the labels of its alert and the time at which their pids were valid.
pub fn selector_for(rule: &Rule, episode: &Episode, now: Moment) -> Option<Selector> {
    let began_at = began_at(episode.starts_at, now).min(episode.opened_at);
    rule.selector()
        .map(|selector| selector.resolve_at(&episode.labels, began_at))
}

/// CLOCK_BOOTTIME of the start that the alert reports.
pub fn began_at(starts_at: Timestamp, now: Moment) -> Duration {
    let since = now.wall.duration_since(starts_at);
    match Duration::try_from(since) {
        Ok(since) => now.boot.saturating_sub(since),
        // The start is in the future.
        Err(_) => now.boot.saturating_add(since.unsigned_abs()),
    }
}

/// Reads and checks one process again, right before a step.
///
/// # Errors
/// When the step must not be taken; the text says more where that is no secret, as a command line would be.
pub fn still_holds(
    host: &mut impl Host,
    seen: &Process,
    rule: &Rule,
    selector: &Selector,
    protection: &Protection,
) -> Result<(), String> {
    let now = host.process(seen.identity.pid);
    let mut now = now
        .filter(|now| now.identity == seen.identity)
        .ok_or_else(String::new)?;
    now.cpu_cores = seen.cpu_cores;
    if !host.read_details(&mut now, selector.needs() | protection.needs()) {
        return Err(String::new());
    }
    if now.details.unread.is_none() && selector.judge(&now) != SelectorMatch::Holds {
        return Err(String::new());
    }
    protection.screen(rule, &now).map_err(|denial| denial.reason)
}

/// Whether a rule needs the processor use of processes.
pub fn needs_cpu(rule: &Rule) -> bool {
    let by_selector =
        |selector: &Selector| rule.order_by.key == OrderKey::Cpu || selector.needs().contains(ProcessFields::CPU);
    rule.selector().is_some_and(by_selector)
}

fn plan_needs(rule: &Rule) -> ProcessFields {
    let mut needs = if rule.order_by.key == OrderKey::OomScore {
        ProcessFields::OOM_SCORE
    } else {
        ProcessFields::empty()
    };
    for step in &rule.actions {
        needs |= step.fields();
    }
    needs
}
