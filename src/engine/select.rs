//! The selection of processes for a rule: the cheap table for all, the expensive files for few.

use crate::act::guard::Protection;
use crate::act::plan;
use crate::host::{Host, Moment};
use crate::ledger::Episode;
use crate::process::selector::Judgement;
use crate::process::{Process, ProcessFields, Selector};
use crate::rule::step::SignalKind;
use crate::rule::{OrderKey, Rule, Step};
use jiff::Timestamp;
use std::time::Duration;

/// What was found for a selector.
pub struct Selection {
    /// Those for which every condition holds, with what guard and order need, in the rule's order.
    pub matches: Vec<Process>,
    /// Those of which that cannot be told, because they keep readers of their command line waiting.
    pub unreadable: Vec<Process>,
}

/// The processes of `table` that a rule means. `selector` is the rule's, with the labels of the alert filled in.
pub fn select(
    host: &mut impl Host,
    table: &[Process],
    rule: &Rule,
    selector: &Selector,
    protection: &Protection,
) -> Selection {
    let (mut matches, mut unreadable) = (Vec::new(), Vec::new());
    for process in table.iter().filter(|process| !process.is_dead()) {
        if matches!(selector.judge_cheaply(process), Judgement::Fails(_)) {
            continue;
        }
        let mut process = process.clone();
        if host.satisfies(&mut process, selector) {
            matches.push(process);
        } else if process.details.is_unreadable && !matches!(selector.judge(&process), Judgement::Fails(_)) {
            unreadable.push(process);
        }
    }
    // Only now the files that no condition asked for, and only for those that match.
    let more = protection.needs() | plan_needs(rule);
    matches.retain_mut(|process| host.read_details(process, more));
    plan::order(&mut matches, rule.order_by);
    Selection { matches, unreadable }
}

/// The selector of a rule for an episode: with the labels of its alert filled in, and the time from which numbers of
/// processes in them count.
pub fn selector_for(rule: &Rule, episode: &Episode, now: Moment) -> Option<Selector> {
    let began_at = began_at(episode.starts_at, now).min(episode.opened_at);
    rule.selector()
        .map(|selector| selector.resolve_at(&episode.labels, began_at))
}

/// CLOCK_BOOTTIME at which an alert began, by its own account.
pub fn began_at(starts_at: Timestamp, now: Moment) -> Duration {
    let since = now.wall.duration_since(starts_at);
    match Duration::try_from(since) {
        Ok(since) => now.boot.saturating_sub(since),
        // It will begin.
        Err(_) => now.boot.saturating_add(since.unsigned_abs()),
    }
}

/// Reads one process again and judges it again, for the moment before it is touched.
pub fn still_holds(
    host: &mut impl Host,
    seen: &Process,
    rule: &Rule,
    selector: &Selector,
    protection: &Protection,
) -> bool {
    let Some(mut now) = host.process(seen.identity.pid) else {
        return false;
    };
    now.cpu_cores = seen.cpu_cores;
    now.identity == seen.identity
        && host.read_details(&mut now, selector.needs() | protection.needs())
        && selector.judge(&now) == Judgement::Holds
        && protection.screen(rule, &now).is_ok()
}

/// Whether a rule wants processor use measured.
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
    let is_notice = |step: &Step| matches!(step, Step::Signal(send) if send.kind() != SignalKind::Final);
    if rule.actions.iter().any(is_notice) {
        needs |= ProcessFields::SIGNALS;
    }
    needs
}
