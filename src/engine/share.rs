//! The share of the open episodes that one rule, and one alert name of a rule, may have, so that a noisy alert starves
//! no other rule. Pure.

use crate::ledger::{Episode, EpisodeKey};
use smol_str::SmolStr;
use std::collections::HashMap;

/// Maximum number of open episodes. More are a fault of the sender, and each costs an evaluation per round.
const MAX_OPEN: usize = 4096;
const MAX_PER_RULE: usize = MAX_OPEN / 2;
/// Per rule and alert name. Below this number of open episodes no share is used up.
pub const MAX_PER_ALERT: usize = MAX_OPEN / 4;
/// The last places are for rules with few open episodes.
const RESERVED: usize = MAX_OPEN / 4;
const FEW: usize = 64;

/// Why an alert opens no episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareExceeded {
    #[error("too many open episodes of this rule and alert name ({MAX_PER_ALERT})")]
    Alert,
    #[error("too many open episodes of this rule ({MAX_PER_RULE})")]
    Rule,
    #[error("too many open episodes")]
    All,
}

/// The numbers of open episodes.
#[derive(Debug, Default)]
pub struct OpenCounts {
    all: usize,
    by_rule: HashMap<SmolStr, usize>,
    by_alert: HashMap<(SmolStr, SmolStr), usize>,
}

impl OpenCounts {
    pub fn of<'e>(episodes: impl IntoIterator<Item = (&'e EpisodeKey, &'e Episode)>) -> OpenCounts {
        let mut counts = OpenCounts::default();
        for (key, episode) in episodes {
            counts.add(&key.rule, episode.labels.get("alertname").unwrap_or_default());
        }
        counts
    }

    pub fn add(&mut self, rule: &SmolStr, alertname: &str) {
        self.all += 1;
        *self.by_rule.entry(rule.clone()).or_default() += 1;
        *self.by_alert.entry((rule.clone(), alertname.into())).or_default() += 1;
    }

    /// Whether an alert may open one more episode.
    ///
    /// # Errors
    /// With the share that is used up.
    pub fn check_share(&self, rule: &SmolStr, alertname: &str) -> Result<(), ShareExceeded> {
        let of_rule = self.by_rule.get(rule).copied().unwrap_or(0);
        let of_alert = self.by_alert.get(&(rule.clone(), alertname.into())).copied();
        if of_alert.unwrap_or(0) >= MAX_PER_ALERT {
            return Err(ShareExceeded::Alert);
        }
        if of_rule >= MAX_PER_RULE {
            return Err(ShareExceeded::Rule);
        }
        let most = if of_rule < FEW { MAX_OPEN } else { MAX_OPEN - RESERVED };
        if self.all >= most {
            Err(ShareExceeded::All)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens episodes while there is room; returns how many, and what is used up.
    fn fill(counts: &mut OpenCounts, rule: &str, alertname: &str, most: usize) -> (usize, Option<ShareExceeded>) {
        let rule = SmolStr::from(rule);
        for opened in 0..most {
            if let Err(reason) = counts.check_share(&rule, alertname) {
                return (opened, Some(reason));
            }
            counts.add(&rule, alertname);
        }
        (most, None)
    }

    #[test]
    fn noisy_alerts_leave_room_for_other_rules() {
        let mut counts = OpenCounts::default();
        assert_eq!(
            fill(&mut counts, "a", "Noisy", 9999),
            (1024, Some(ShareExceeded::Alert))
        );
        assert_eq!(fill(&mut counts, "a", "Other", 10), (10, None));
        // Invented names use up the share of their rule.
        assert_eq!(fill(&mut counts, "a", "Third", 9999), (1014, Some(ShareExceeded::Rule)));
        assert_eq!(
            fill(&mut counts, "b", "Noisy", 9999),
            (1024, Some(ShareExceeded::Alert))
        );
        // The rest is for rules with few open episodes.
        assert_eq!(fill(&mut counts, "b", "Other", 1), (0, Some(ShareExceeded::All)));
        for rule in 0..16 {
            assert_eq!(fill(&mut counts, &format!("c{rule}"), "Rare", 64), (64, None));
        }
        assert_eq!(fill(&mut counts, "d", "Rare", 1), (0, Some(ShareExceeded::All)));
    }
}
