//! The plan of a rule for one episode: the steps that are due now. Pure; whether a step is allowed is decided in
//! `guard`.

use crate::ledger::{Episode, TargetProgress};
use crate::process::{Candidate, Cgroup, Process, Target};
use crate::rule::{OrderBy, OrderKey, Rule, Step};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The name of the host as a target.
pub const HOST_NAME: &str = "host";

/// The due steps of one target, up to the next `wait`.
#[derive(Debug, Clone, PartialEq)]
pub struct DueSteps {
    pub target: Target,
    pub name: String,
    /// Index and step.
    pub steps: Vec<(usize, Step)>,
    /// The next index after all these steps, and the wait before it.
    pub next_step_index: usize,
    pub wait: Duration,
    /// Whether the target is new in this episode.
    pub is_new: bool,
}

/// The due steps of all targets. `matches` are the allowed ones in the order of the rule. The host is one more target if the rule
/// has steps for it, and does not count against `limit`.
pub fn plan(rule: &Rule, episode: &Episode, matches: &[Candidate], now: Duration, is_repeat: bool) -> Vec<DueSteps> {
    let mut all = Vec::new();
    let held = episode
        .targets
        .iter()
        .filter(|progress| progress.target != Target::Host);
    let mut free = rule.limit.saturating_sub(held.count());
    let host = rule.has_steps_for(Target::Host).then_some((Target::Host, HOST_NAME));
    let found = matches.iter().map(|candidate| (candidate.target(), candidate.name()));
    let targets: HashMap<Target, &TargetProgress> = episode
        .targets
        .iter()
        .map(|progress| (progress.target, progress))
        .collect();
    for (target, name) in host.into_iter().chain(found) {
        let progress = targets.get(&target).copied();
        match progress {
            Some(TargetProgress { step_index, due, .. }) if *step_index < rule.actions.len() && *due <= now => {
                all.push(due_steps_of(rule, target, name, *step_index, false));
            }
            Some(_) => {}
            None if (free > 0 || target == Target::Host) && !is_barred(episode, target, is_repeat) => {
                free -= usize::from(target != Target::Host);
                all.push(due_steps_of(rule, target, name, 0, true));
            }
            None => {}
        }
    }
    all
}

/// The matches that get no steps, because the targets of the episode and those of `due` reach the rule's `limit`.
pub fn beyond_limit<'a>(episode: &Episode, matches: &'a [Candidate], due: &[DueSteps]) -> Vec<&'a Candidate> {
    let targets = episode.targets.iter().map(|progress| progress.target);
    let excluded = episode.excluded.iter().map(|excluded| excluded.target);
    let others: HashSet<Target> = targets
        .chain(excluded)
        .chain(due.iter().map(|due| due.target))
        .collect();
    matches
        .iter()
        .filter(|candidate| !others.contains(&candidate.target()))
        .collect()
}

/// Drops the targets that the rule does not select now, and to which nothing was done. Another one may have their place.
pub fn drop_unselected(episode: &mut Episode, matches: &[Candidate], is_touched: impl Fn(Target) -> bool) {
    let is_selected = |target: Target| matches.iter().any(|candidate| candidate.target() == target);
    episode.targets.retain(|TargetProgress { target, step_index, .. }| {
        *target == Target::Host || *step_index > 0 || is_touched(*target) || is_selected(*target)
    });
}

fn is_barred(episode: &Episode, target: Target, is_repeat: bool) -> bool {
    episode
        .excluded
        .iter()
        .any(|excluded| excluded.target == target && !(excluded.until_repeat && is_repeat))
}

fn due_steps_of(rule: &Rule, target: Target, name: &str, step_index: usize, is_new: bool) -> DueSteps {
    let mut steps = Vec::new();
    let mut next_step_index = rule.actions.len();
    let mut wait = Duration::ZERO;
    for (index, step) in rule.actions.iter().enumerate().skip(step_index) {
        if let Step::Wait(time) = step {
            (next_step_index, wait) = (index + 1, time.0);
            break;
        }
        if step.is_for(target) {
            steps.push((index, step.clone()));
        }
    }
    DueSteps {
        target,
        name: name.to_owned(),
        steps,
        next_step_index,
        wait,
        is_new,
    }
}

/// Sorts processes in the order of the rule.
pub fn order(processes: &mut [Process], by: OrderBy) {
    processes.sort_by(|a, b| order_processes(a, b, by));
}

/// Sorts processes for reading what takes long, of which some may stay unread: in the order of the rule. Age shows
/// nothing of what a process uses, so such a rule has the largest read first.
pub fn order_for_reading(processes: &mut [&Process], by: OrderBy) {
    let by = match by.key {
        OrderKey::Cpu | OrderKey::Memory => by,
        // The score of most processes is their memory, and has not been read yet.
        OrderKey::OomScore => OrderBy {
            key: OrderKey::Memory,
            ..by
        },
        OrderKey::Age => OrderBy {
            key: OrderKey::Memory,
            reverse: false,
        },
    };
    processes.sort_by(|a, b| order_processes(a, b, by));
}

/// Compares two processes in the order of the rule; ties by age, the oldest first, then by pid.
fn order_processes(a: &Process, b: &Process, by: OrderBy) -> Ordering {
    let largest_first = match by.key {
        OrderKey::Cpu => b.cpu_cores.unwrap_or(0.0).total_cmp(&a.cpu_cores.unwrap_or(0.0)),
        OrderKey::Memory => b.resident_bytes.cmp(&a.resident_bytes),
        OrderKey::OomScore => b.details.oom_score.cmp(&a.details.oom_score),
        OrderKey::Age => Ordering::Equal,
    };
    let oldest_first = a.identity.start_ticks.cmp(&b.identity.start_ticks);
    let first = if by.key == OrderKey::Age {
        oldest_first
    } else {
        largest_first
    };
    let first = if by.reverse { first.reverse() } else { first };
    first.then(oldest_first).then(a.identity.pid.cmp(&b.identity.pid))
}

/// Compares two cgroups in the order of the rule. The age of a cgroup is its order of creation.
pub fn order_cgroups(a: &Cgroup, b: &Cgroup, by: OrderBy) -> Ordering {
    let largest_first = match by.key {
        OrderKey::Cpu => b.cpu_cores.unwrap_or(0.0).total_cmp(&a.cpu_cores.unwrap_or(0.0)),
        OrderKey::Memory | OrderKey::OomScore => b.memory_bytes.cmp(&a.memory_bytes),
        OrderKey::Age => a.identity.inode.cmp(&b.identity.inode),
    };
    let first = if by.reverse {
        largest_first.reverse()
    } else {
        largest_first
    };
    first.then(a.identity.inode.cmp(&b.identity.inode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Source;
    use crate::ledger::episode::Excluded;
    use crate::ledger::{Decision, EpisodeKey};
    use crate::rule::example;

    fn episode(targets: Vec<TargetProgress>) -> Episode {
        Episode {
            key: EpisodeKey {
                rule: "calm".into(),
                fingerprint: "f".into(),
                simulated: false,
            },
            steps_text: String::new(),
            source: Source::Local,
            labels: Default::default(),
            annotations: Default::default(),
            generator_url: None,
            starts_at: jiff::Timestamp::UNIX_EPOCH,
            opened_at: Duration::ZERO,
            seen_at: Duration::ZERO,
            evidence: Default::default(),
            targets,
            excluded: Vec::new(),
        }
    }

    fn candidates(pids: &[i32]) -> Vec<Candidate> {
        processes(pids).into_iter().map(Candidate::Process).collect()
    }

    fn processes(pids: &[i32]) -> Vec<Process> {
        pids.iter().map(|pid| Process::example(*pid, "burner")).collect()
    }

    fn progress(pid: i32, step_index: usize, due: u64) -> TargetProgress {
        let process = Process::example(pid, "burner");
        TargetProgress {
            target: process.identity.into(),
            name: process.name,
            step_index,
            due: Duration::from_secs(due),
            refused: None::<Decision>,
        }
    }

    fn summary(due: &[DueSteps]) -> Vec<(i32, Vec<usize>, usize)> {
        due.iter()
            .map(|due_steps| {
                (
                    due_steps.target.pid().unwrap(),
                    due_steps.steps.iter().map(|(step_index, _)| *step_index).collect(),
                    due_steps.next_step_index,
                )
            })
            .collect()
    }

    #[test]
    fn limit_counts_targets_that_are_held() {
        let mut rule = example("calm", "nice 5; wait 10; signal TERM; wait 10; signal KILL");
        rule.limit = 2;
        let now = Duration::from_secs(100);
        let plan_for = |targets| summary(&plan(&rule, &episode(targets), &candidates(&[7, 8, 9]), now, false));
        assert_eq!(plan_for(vec![]), [(7, vec![0], 2), (8, vec![0], 2)]);
        assert_eq!(plan_for(vec![progress(9, 2, 101)]), [(7, vec![0], 2)]);
        assert_eq!(plan_for(vec![progress(9, 2, 100)]), [(7, vec![0], 2), (9, vec![2], 4)]);
        assert_eq!(plan_for(vec![progress(8, 5, 0), progress(9, 4, 0)]), [(9, vec![4], 5)]);
    }

    #[test]
    fn target_that_is_not_selected_keeps_its_place_where_something_was_done() {
        let mut episode = episode(vec![
            progress(1, 0, 0),
            progress(2, 0, 0),
            progress(3, 1, 0),
            progress(4, 0, 0),
        ]);
        let touched = Process::example(2, "burner").identity.into();
        drop_unselected(&mut episode, &candidates(&[4]), |target| target == touched);
        let kept: Vec<&Target> = episode.targets.iter().map(|progress| &progress.target).collect();
        let expected = [2, 3, 4].map(|pid| Target::from(Process::example(pid, "burner").identity));
        assert_eq!(kept, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn released_targets_stay_alone_and_expired_ones_await_a_repeat() {
        let rule = example("calm", "nice 5");
        let mut episode = episode(vec![]);
        let target = processes(&[7])[0].identity.into();
        for (until_repeat, is_repeat, expected) in [(false, true, 0), (true, false, 0), (true, true, 1)] {
            episode.excluded = vec![Excluded { target, until_repeat }];
            assert_eq!(
                plan(&rule, &episode, &candidates(&[7]), Duration::ZERO, is_repeat).len(),
                expected
            );
        }
    }

    #[test]
    fn reading_begins_with_the_processes_that_use_most() {
        let mut list = processes(&[7, 8, 9]);
        for (process, (memory, cores)) in list.iter_mut().zip([(1, 0.3), (3, 0.1), (2, 0.2)]) {
            (process.resident_bytes, process.cpu_cores) = (memory, Some(cores));
        }
        let pids = |key, reverse| {
            let mut list: Vec<&Process> = list.iter().collect();
            order_for_reading(&mut list, OrderBy { key, reverse });
            list.iter().map(|process| process.identity.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(OrderKey::Cpu, false), [7, 9, 8]);
        assert_eq!(pids(OrderKey::Memory, true), [7, 9, 8]);
        for (key, reverse) in [
            (OrderKey::Age, false),
            (OrderKey::Age, true),
            (OrderKey::OomScore, false),
        ] {
            assert_eq!(pids(key, reverse), [8, 9, 7], "{key:?}");
        }
    }

    #[test]
    fn order_is_largest_first_and_ties_are_by_age() {
        let mut list = processes(&[9, 7, 8]);
        list[0].resident_bytes = 5;
        list[1].resident_bytes = 9;
        list[2].resident_bytes = 5;
        let mut pids = |key, reverse| {
            order(&mut list, OrderBy { key, reverse });
            list.iter().map(|process| process.identity.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(OrderKey::Memory, false), [7, 8, 9]);
        assert_eq!(pids(OrderKey::Memory, true), [8, 9, 7]);
        assert_eq!(pids(OrderKey::Age, false), [7, 8, 9]);
        assert_eq!(pids(OrderKey::Age, true), [9, 8, 7]);
    }
}
