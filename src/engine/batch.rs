//! The reports that wait together for the engine. It records all of them before it evaluates an episode, so that it does
//! nothing for an alert whose end waits in its queue.

use super::episode::Statement;
use super::episodes::Trigger;
use crate::alert::alertmanager::PollResult;
use crate::alert::{Alert, FiringSet};
use crate::ledger::{EpisodeKey, EvidenceSource, LedgerState};
use crate::rule::Rule;
use smol_str::SmolStr;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A report of a source. Its time is CLOCK_BOOTTIME of its arrival.
pub enum SourceReport<'a> {
    /// The alerts of a delivery, or of own evaluation.
    Alerts(&'a [Alert], Duration),
    /// The firing alerts of own evaluation, complete.
    FiringSet(&'a FiringSet, Duration),
    /// The lists of the polled Alertmanagers, as old as the request.
    PollResult(&'a PollResult),
}

impl<'a> SourceReport<'a> {
    /// What it says of single alerts. `listed` are the alerts to process of a poll.
    pub(super) fn statements(&self, listed: &'a [Alert]) -> Vec<Statement<'a>> {
        let delivered = |alerts: &'a [Alert], at: Duration| {
            let statements = alerts.iter().map(move |alert| Statement::delivered(alert, at));
            statements.collect()
        };
        match self {
            SourceReport::Alerts(alerts, at) => delivered(alerts, *at),
            SourceReport::FiringSet(set, at) => delivered(&set.firing, *at),
            SourceReport::PollResult(poll) => {
                let statements = listed.iter().map(|alert| Statement {
                    alert,
                    source: EvidenceSource::Asked,
                    at: poll.asked_at,
                    fresh_for: Some(poll.fresh_for),
                });
                statements.collect()
            }
        }
    }
}

/// An episode to evaluate once all reports are recorded.
pub(super) struct DueEpisode<'a> {
    pub key: EpisodeKey,
    pub trigger: Trigger,
    pub rule: Arc<Rule>,
    /// The last report that its alert fires.
    pub statement: Statement<'a>,
}

/// The episodes that the reports of one batch open or repeat, in their order.
#[derive(Default)]
pub(super) struct DueEpisodes<'a> {
    /// `None` where a later report closed the episode.
    episodes: Vec<Option<DueEpisode<'a>>>,
    by_fingerprint: HashMap<SmolStr, Vec<usize>>,
}

impl<'a> DueEpisodes<'a> {
    /// Adds an episode. Returns whether it was due already.
    pub fn add(&mut self, new: DueEpisode<'a>) -> bool {
        let places = self.by_fingerprint.entry(new.key.fingerprint.clone()).or_default();
        for place in places.iter() {
            if let Some(known) = self.episodes[*place].as_mut().filter(|known| known.key == new.key) {
                known.statement = new.statement;
                if new.trigger == Trigger::Opened {
                    known.trigger = Trigger::Opened;
                }
                return true;
            }
        }
        places.push(self.episodes.len());
        self.episodes.push(Some(new));
        false
    }

    /// Drops the episodes of an alert that are no longer open.
    pub fn drop_closed_of(&mut self, fingerprint: &str, ledger: &LedgerState) {
        for place in self.by_fingerprint.get(fingerprint).into_iter().flatten() {
            self.episodes[*place].take_if(|due| !ledger.episodes.contains_key(&due.key));
        }
    }

    /// Drops all episodes that are no longer open.
    pub fn drop_closed(&mut self, ledger: &LedgerState) {
        for place in &mut self.episodes {
            place.take_if(|due| !ledger.episodes.contains_key(&due.key));
        }
    }

    pub fn into_open(self) -> Vec<DueEpisode<'a>> {
        self.episodes.into_iter().flatten().collect()
    }
}
