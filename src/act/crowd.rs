//! The bound on matches (`max_matches`). Any user can start processes that match a rule, so a crowd keeps those of its
//! owner out of a plan, and not those of others. Pure.

use super::guard::Denial;
use crate::ledger::Decision;
use crate::process::owner::FIRST_USER;
use crate::rule::Rule;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of owners that a reason names.
const MAX_NAMED: usize = 3;

/// The owners whose matches a plan leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowd {
    owners: BTreeSet<Option<u32>>,
    pub denial: Denial,
}

impl Crowd {
    pub fn includes(&self, owner: Option<u32>) -> bool {
        self.owners.contains(&owner)
    }
}

/// Decides whose matches a plan leaves out: those of an owner with more than the rule allows. If more than that remain,
/// all matches of people are left out, because one person may have many user ids (subuid(5)). `owners` has one entry
/// for each match, and `what` says what they are.
///
/// # Errors
/// When no match remains, or those of root and of services alone are more than the rule allows.
pub fn bound_matches(rule: &Rule, owners: &[Option<u32>], what: &str) -> Result<Option<Crowd>, Denial> {
    let most = rule.max_matches;
    if owners.len() <= most {
        return Ok(None);
    }
    let mut counts: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for owner in owners {
        *counts.entry(*owner).or_default() += 1;
    }
    let alone = counts.iter().filter(|(_, count)| **count > most);
    let mut left_out: BTreeSet<Option<u32>> = alone.map(|(owner, _)| *owner).collect();
    let remaining = |left_out: &BTreeSet<Option<u32>>| -> usize {
        let others = counts.iter().filter(|(owner, _)| !left_out.contains(*owner));
        others.map(|(_, count)| count).sum()
    };
    if remaining(&left_out) > most {
        let is_person = |owner: &Option<u32>| owner.is_none_or(|uid| uid >= FIRST_USER);
        left_out.extend(counts.keys().copied().filter(is_person));
    }
    let reason = format!("{} {what} match, max_matches is {most}", owners.len());
    let remain = remaining(&left_out);
    let denial = |reason| Denial {
        decision: Decision::TooManyMatches,
        reason,
    };
    if remain == 0 || remain > most {
        return Err(denial(reason));
    }
    counts.retain(|owner, _| left_out.contains(owner));
    Ok(Some(Crowd {
        owners: left_out,
        denial: denial(format!("{reason}; left out: {}", named(counts))),
    }))
}

/// Names the owners with the most matches, and counts the others.
fn named(counts: BTreeMap<Option<u32>, usize>) -> String {
    let mut counts: Vec<(Option<u32>, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let (named, others) = counts.split_at(counts.len().min(MAX_NAMED));
    let name = |(owner, count): &(Option<u32>, usize)| match owner {
        Some(uid) => format!("{count} of uid {uid}"),
        None => format!("{count} of an unknown user"),
    };
    let mut parts: Vec<String> = named.iter().map(name).collect();
    if !others.is_empty() {
        let count: usize = others.iter().map(|(_, count)| count).sum();
        parts.push(format!("{count} of {} other users", others.len()));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::example;

    /// Bounds these numbers of matches, by owner, to ten. Returns the owners that remain, or the reason.
    fn remaining(counts: &[(u32, usize)]) -> Result<Vec<u32>, String> {
        let mut rule = example("calm", "nice 15");
        rule.max_matches = 10;
        let of_owner = |(owner, count): &(u32, usize)| vec![Some(*owner); *count];
        let owners: Vec<Option<u32>> = counts.iter().flat_map(of_owner).collect();
        let crowd = bound_matches(&rule, &owners, "processes").map_err(|denial| denial.reason)?;
        let is_free = |owner: &u32| crowd.as_ref().is_none_or(|crowd| !crowd.includes(Some(*owner)));
        Ok(counts.iter().map(|(owner, _)| *owner).filter(is_free).collect())
    }

    #[test]
    fn crowd_of_one_owner_leaves_the_others_in_the_plan() {
        assert_eq!(remaining(&[(1001, 9), (1002, 1)]), Ok(vec![1001, 1002]));
        assert_eq!(remaining(&[(0, 1), (1001, 11), (1002, 9)]), Ok(vec![0, 1002]));
        assert_eq!(remaining(&[(33, 11), (1001, 11), (1002, 1)]), Ok(vec![1002]));
    }

    #[test]
    fn many_people_leave_root_and_services_in_the_plan() {
        let subordinate = (100_000..100_010).map(|uid| (uid, 1));
        let counts: Vec<(u32, usize)> = [(0, 1), (33, 9), (1001, 1)].into_iter().chain(subordinate).collect();
        assert_eq!(remaining(&counts), Ok(vec![0, 33]));
    }

    #[test]
    fn nothing_remains_where_services_alone_are_too_many() {
        let reason = "11 processes match, max_matches is 10";
        assert_eq!(remaining(&[(0, 6), (33, 5)]), Err(reason.to_owned()));
        assert_eq!(remaining(&[(1001, 11)]), Err(reason.to_owned()));
        assert!(remaining(&[(0, 6), (33, 5), (1001, 1)]).is_err());
    }

    #[test]
    fn reason_names_the_largest_crowds() {
        let mut rule = example("calm", "nice 15");
        rule.max_matches = 1;
        let reason = |owners: &[Option<u32>]| {
            let crowd = bound_matches(&rule, owners, "cgroups").unwrap().unwrap();
            assert_eq!(crowd.denial.decision, Decision::TooManyMatches);
            crowd.denial.reason
        };
        assert_eq!(
            reason(&[Some(0), Some(1001), Some(1001), None, None, None]),
            "6 cgroups match, max_matches is 1; left out: 3 of an unknown user, 2 of uid 1001"
        );
        let many: Vec<Option<u32>> = (0..6).map(|uid| Some(1000 * uid)).collect();
        assert_eq!(
            reason(&many),
            "6 cgroups match, max_matches is 1; left out: 1 of uid 1000, 1 of uid 2000, 1 of uid 3000, 2 of 2 other users"
        );
    }
}
