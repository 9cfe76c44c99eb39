//! The selection of targets for an episode: the processes or cgroups that match the rule's selector and that the guard
//! allows.

use super::episodes::Trigger;
use super::members::{MemberDenial, MemberPids, Members, pids_of};
use super::open_episodes::Crowding;
use super::process_view::read_ancestry;
use super::select::{Selection, leave_out_crowds, needs_cpu, select};
use super::steps::StepPlanner;
use super::transaction::AlertRef;
use crate::act::crowd::bound_matches;
use crate::act::guard::{Denial, Protection};
use crate::act::plan;
use crate::host::Host;
use crate::ledger::{Decision, EpisodeKey};
use crate::process::selector::SelectorMatch;
use crate::process::{Candidate, Cgroup, Process, Selector, Unread};
use crate::rule::{Rule, TargetSelector};
use std::collections::BTreeMap;

/// The targets that the guard allows.
#[derive(Default)]
struct Found {
    /// In the order of the rule.
    allowed: Vec<Candidate>,
    /// Why others are left out, which are more than the rule allows.
    left_out: Option<Denial>,
}

impl<H: Host> StepPlanner<'_, H> {
    /// The targets of an episode; `None` if they cannot be selected now, so that the episode is postponed.
    pub fn select_targets(
        &mut self,
        rule: &Rule,
        selector: Option<&Selector>,
        about: &AlertRef,
        key: &EpisodeKey,
        trigger: Trigger,
    ) -> Option<Vec<Candidate>> {
        let is_first = trigger == Trigger::Opened;
        if let Some(denial) = self.selection_denial(rule) {
            if is_first {
                self.episodes.record_denial(about, &denial);
            }
            self.episodes.postpone(key);
            return None;
        }
        let found = match selector {
            None => Ok(Found::default()),
            Some(selector) => {
                let nothing = is_first.then(|| self.why_nothing(rule, selector, key));
                self.find(rule, selector, about, nothing.as_deref())
            }
        };
        // Recorded when it begins, and counted at each repeat, because the number of evaluations says nothing.
        let (allowed, denial, crowding) = match found {
            Ok(Found {
                allowed,
                left_out: None,
            }) => (Some(allowed), None, Crowding::None),
            Ok(Found { allowed, left_out }) => (Some(allowed), left_out, Crowding::Some),
            Err(denial) => (None, Some(denial), Crowding::All),
        };
        let is_news = self.episodes.open.set_crowding(key, crowding);
        if let Some(denial) = denial {
            if is_news {
                self.episodes.record_denial(about, &denial);
            } else if trigger == Trigger::Repeat {
                self.episodes.count(rule.name.clone(), denial.decision);
            }
        }
        if allowed.is_none() {
            self.episodes.postpone(key);
        }
        allowed
    }

    /// The reason in the history where the selector selects nothing.
    fn why_nothing(&self, rule: &Rule, selector: &Selector, key: &EpisodeKey) -> String {
        let episode = self.episodes.ledger.episodes.get(key);
        let missing = rule.selector().zip(episode);
        let missing = missing.map(|(selector, episode)| selector.missing_labels(&episode.labels));
        let missing: Vec<String> = missing.into_iter().flatten().map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            return format!("the alert has no label {}", missing.join(" and no label "));
        }
        match rule.target_selector {
            TargetSelector::Cgroups(_) if selector.needs_unit() => {
                "no cgroup matches the selector; a unit has one while it is active, and is named with its suffix"
                    .to_owned()
            }
            TargetSelector::Cgroups(_) => "no cgroup matches the selector".to_owned(),
            _ => "no process matches the selector".to_owned(),
        }
    }

    /// The reason why no targets can be selected now.
    fn selection_denial(&self, rule: &Rule) -> Option<Denial> {
        // Without a measurement the oldest process would pass for the one that uses the processors most.
        (needs_cpu(rule) && self.processes.baseline(self.episodes.now()).is_none()).then(|| Denial {
            decision: Decision::NoTarget,
            reason: "processor use not measured for long enough yet; evaluated again soon".to_owned(),
        })
    }

    /// The selected processes or cgroups that the guard allows. In the first evaluation of an episode the excluded ones are
    /// recorded; `nothing` is the reason then if the selector selects nothing.
    ///
    /// # Errors
    /// When the whole plan is refused, because more than `max_matches` processes match.
    fn find(
        &mut self,
        rule: &Rule,
        selector: &Selector,
        about: &AlertRef,
        nothing: Option<&str>,
    ) -> Result<Found, Denial> {
        let is_first = nothing.is_some();
        self.episodes.transaction.near = match selector.only_pid() {
            // Rounds read all processes, and so find the children of leased ones.
            Some(pid) if is_first && self.episodes.transaction.table.is_none() && needs_one_only(rule) => {
                self.processes.find_own(self.host);
                Some(read_ancestry(self.host, &self.episodes.ledger.leases, pid))
            }
            _ => None,
        };
        if self.episodes.transaction.near.is_none() && self.episodes.transaction.table.is_none() {
            let (now, is_shared) = (self.episodes.now(), self.episodes.transaction.arrival.is_some());
            let table = self
                .processes
                .table(self.host, &self.episodes.ledger.leases, now, is_shared);
            self.episodes.transaction.table = Some(table);
        }
        if let TargetSelector::Cgroups(_) = rule.target_selector {
            return self.find_cgroups(rule, selector, about, nothing);
        }
        let protection = self.processes.protection(self.episodes.policy);
        let choice = self
            .episodes
            .transaction
            .choice()
            .map(|tree| &**tree)
            .unwrap_or_default();
        let Selection {
            mut matches,
            unreadable,
        } = select(self.host, choice, rule, selector, &protection);
        let left_out = leave_out_crowds(self.host, rule, &mut matches)?;
        let found = matches.len();
        let is_out_of_time = |process: &Process| process.details.unread == Some(Unread::OutOfTime);
        let may_differ_soon = unreadable.iter().any(is_out_of_time);
        let reused = |process: &Process| {
            let reason = selector.reused_number(process)?.to_string();
            let decision = Decision::NoTarget;
            Some((Candidate::Process(process.clone()), Denial { decision, reason }))
        };
        let mut refused: Vec<(Candidate, Denial)> = choice.iter().filter_map(reused).collect();
        refused.extend(unreadable.into_iter().filter_map(|process| {
            let denial = protection.screen(rule, &process).err()?;
            Some((Candidate::Process(process), denial))
        }));
        matches.retain(|process| match protection.screen(rule, process) {
            Ok(()) => true,
            Err(denial) => {
                refused.push((Candidate::Process(process.clone()), denial));
                false
            }
        });
        let allowed: Vec<Candidate> = matches.into_iter().map(Candidate::Process).collect();
        let Some(nothing) = nothing else {
            return Ok(Found { allowed, left_out });
        };
        // The next second has time of its own for command lines.
        self.episodes.transaction.wants_early_round |= may_differ_soon;
        self.episodes.record_denials(about, refused);
        if allowed.is_empty() {
            let reason = match found {
                0 => nothing.to_owned(),
                found => format!("{found} processes match the selector, and none of them may be touched"),
            };
            let decision = Decision::NoTarget;
            self.episodes.record_denial(about, &Denial { decision, reason });
        }
        Ok(Found { allowed, left_out })
    }

    /// The selected cgroups that the guard allows. The excluded ones are recorded once.
    ///
    /// # Errors
    /// When the whole plan is refused, because more than `max_matches` cgroups match, or cgroups cannot be listed.
    fn find_cgroups(
        &mut self,
        rule: &Rule,
        selector: &Selector,
        about: &AlertRef,
        nothing: Option<&str>,
    ) -> Result<Found, Denial> {
        let table = self.episodes.transaction.processes();
        let found = select_cgroups(self.host, table, rule, selector);
        let mut found = found.map_err(|reason| Denial {
            decision: Decision::NoTarget,
            reason,
        })?;
        let owners: Vec<Option<u32>> = found.iter().map(|found| Some(found.cgroup.owner())).collect();
        let crowd = bound_matches(rule, &owners, "cgroups")?;
        if let Some(crowd) = &crowd {
            found.retain(|found| !crowd.includes(Some(found.cgroup.owner())));
        }
        let protection = self.processes.protection(self.episodes.policy);
        let screened = screen_cgroups(self.host, table, rule, protection, &found);
        let (mut allowed, mut refused, mut may_differ_soon) = (Vec::new(), Vec::new(), false);
        for (found, screened) in found.into_iter().zip(screened) {
            let candidate = Candidate::Cgroup(found.cgroup);
            match screened {
                Ok(()) => allowed.push(candidate),
                Err(MemberDenial { denial, may_pass_soon }) => {
                    may_differ_soon |= may_pass_soon;
                    refused.push((candidate, denial));
                }
            }
        }
        if let Some(nothing) = nothing {
            if may_differ_soon {
                self.episodes.transaction.wants_early_round = true;
            }
            let reason_for_none = match refused.len() {
                0 => nothing.to_owned(),
                found => format!("{found} cgroups match the selector, and none of them may be touched"),
            };
            self.episodes.record_denials(about, refused);
            if allowed.is_empty() {
                let (decision, reason) = (Decision::NoTarget, reason_for_none);
                self.episodes.record_denial(about, &Denial { decision, reason });
            }
        }
        let left_out = crowd.map(|crowd| crowd.denial);
        Ok(Found { allowed, left_out })
    }
}

/// Whether one process can be evaluated without the others. Processor use needs the whole table, and so do rules that kill,
/// because they check for exiting processes.
fn needs_one_only(rule: &Rule) -> bool {
    matches!(rule.target_selector, TargetSelector::Processes(_)) && !needs_cpu(rule) && !rule.has_final_steps()
}

/// A cgroup that a rule selects.
pub struct CgroupMatch {
    pub cgroup: Cgroup,
    pub pids: MemberPids,
}

/// The cgroups that match every condition, in the order of the rule.
pub fn select_cgroups(
    host: &mut impl Host,
    table: &[Process],
    rule: &Rule,
    selector: &Selector,
) -> Result<Vec<CgroupMatch>, String> {
    let listed = host.cgroups().map_err(|error| error.to_string())?;
    let by_pid = index(table);
    let mut matches = Vec::new();
    for mut cgroup in listed {
        if matches!(selector.judge_cgroup(&cgroup), SelectorMatch::Fails(_)) {
            continue;
        }
        let pids = pids_of(host, &cgroup);
        let cores = |pid| by_pid.get(pid).and_then(|process: &&Process| process.cpu_cores);
        cgroup.cpu_cores = pids.as_ref().ok().map(|pids| pids.iter().filter_map(cores).sum());
        if selector.judge_cgroup(&cgroup) == SelectorMatch::Holds {
            matches.push(CgroupMatch { cgroup, pids });
        }
    }
    matches.sort_by(|a, b| plan::order_cgroups(&a.cgroup, &b.cgroup, rule.order_by));
    Ok(matches)
}

/// Asks the guard about each selected cgroup; the results are in their order.
pub fn screen_cgroups(
    host: &mut impl Host,
    table: &[Process],
    rule: &Rule,
    protection: Protection,
    selected: &[CgroupMatch],
) -> Vec<Result<(), MemberDenial>> {
    let by_pid = index(table);
    let members = Members { by_pid, protection };
    let cgroups = selected.iter().map(|found| (&found.cgroup, &found.pids));
    members.screen_all(host, rule, cgroups)
}

fn index(table: &[Process]) -> BTreeMap<i32, &Process> {
    table.iter().map(|process| (process.identity.pid, process)).collect()
}
