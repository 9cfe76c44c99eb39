//! The activity that the status page shows: open alerts, rules, leases and recent events. It holds names, labels and
//! pids, never command lines or environment, and of annotations only `runbook_url`. Bounded. Data only.

use super::day::{EndedAlert, EndedLease, StoredActivity};
use super::entry::{Event, EventKind, LeaseStatus, OpenAlert, RuleStatus, UnansweredAlert};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// How many decisions, and how many actions, the lists of page and JSON have.
pub const MAX_RECENT: usize = 50;
/// How many decisions, and how many actions, timeline and episodes have.
const MAX_KEPT: usize = 256;
/// Of these, how many one rule and alert may have once the lists are full, so that a storm leaves the events of others.
const SHARE: usize = MAX_KEPT / 4;
/// How many alerts that are over, and how many leases that ended, timeline and episodes have.
pub const MAX_ENDED: usize = 128;
/// Clocks of the ledger's records and of the list of open alerts differ by less.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "ListedActivity")]
pub struct Activity {
    pub alerts: Vec<OpenAlert>,
    /// Firing alerts that no rule matches, of own evaluation and of the polled Alertmanagers.
    pub unanswered_alerts: Vec<UnansweredAlert>,
    /// In the order of the configuration.
    pub rules: Vec<RuleStatus>,
    #[serde(skip)]
    places: HashMap<String, usize>,
    pub leases: Vec<LeaseStatus>,
    /// Outcomes of actions and requests of operators, newest first.
    #[serde(serialize_with = "serialize_recent")]
    pub actions: VecDeque<Arc<Event>>,
    /// Decisions, newest first.
    #[serde(serialize_with = "serialize_recent")]
    pub decisions: VecDeque<Arc<Event>>,
    /// The request that paused evenkeel, while it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_by: Option<Event>,
    /// The time of the newest event of each rule that is not kept any more.
    #[serde(skip)]
    dropped: BTreeMap<String, Timestamp>,
    /// The alerts that are over, newest first.
    #[serde(skip)]
    pub ended_alerts: VecDeque<EndedAlert>,
    /// The leases that ended, newest first.
    #[serde(skip)]
    pub ended_leases: VecDeque<EndedLease>,
}

/// The part of an activity that its JSON has.
#[derive(Deserialize)]
struct ListedActivity {
    alerts: Vec<OpenAlert>,
    /// Left out by versions before it existed.
    #[serde(default)]
    unanswered_alerts: Vec<UnansweredAlert>,
    rules: Vec<RuleStatus>,
    leases: Vec<LeaseStatus>,
    actions: Vec<Event>,
    decisions: Vec<Event>,
    paused_by: Option<Event>,
}

impl From<ListedActivity> for Activity {
    fn from(listed: ListedActivity) -> Activity {
        // A full list may lack events of any rule from before its oldest one.
        let oldest = |events: &[Event]| {
            let is_full = events.len() >= MAX_RECENT;
            events.iter().map(|event| event.at).min().filter(|_| is_full)
        };
        let dropped_at = oldest(&listed.actions).max(oldest(&listed.decisions));
        let rules = listed.alerts.iter().map(|alert| alert.rule.clone());
        let dropped = rules.filter_map(|rule| Some((rule, dropped_at?))).collect();
        Activity {
            alerts: listed.alerts,
            unanswered_alerts: listed.unanswered_alerts,
            rules: listed.rules,
            leases: listed.leases,
            actions: listed.actions.into_iter().map(Arc::new).collect(),
            decisions: listed.decisions.into_iter().map(Arc::new).collect(),
            paused_by: listed.paused_by,
            dropped,
            ..Activity::default()
        }
    }
}

fn serialize_recent<S: Serializer>(events: &VecDeque<Arc<Event>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(events.iter().take(MAX_RECENT).map(|event| &**event))
}

/// The number of an episode in its address, the same after a restart: FNV-1a of what identifies the episode.
pub fn episode_id(rule: &str, fingerprint: &str, is_simulated: bool, since: Timestamp) -> String {
    let since = since.as_millisecond().to_le_bytes();
    let parts: [&[u8]; 4] = [
        rule.as_bytes(),
        fingerprint.as_bytes(),
        &[u8::from(is_simulated)],
        &since,
    ];
    let bytes = parts.into_iter().flat_map(|part| part.iter().chain(&[0xff]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

impl Activity {
    /// Replaces the rules in force. A rule that stays keeps its last decision.
    pub(super) fn set_rules(&mut self, mut rules: Vec<RuleStatus>) {
        for rule_status in &mut rules {
            let before = self.places.get(&rule_status.rule);
            let last = before.and_then(|place| self.rules[*place].last_decision.take());
            let earlier = || {
                let of_rule = self.decisions.iter().find(|event| event.rule == rule_status.rule);
                of_rule.map(|event| Event::clone(event))
            };
            rule_status.last_decision = last.or_else(earlier);
        }
        let names: Vec<String> = rules.iter().map(|rule_status| rule_status.rule.clone()).collect();
        self.dropped.retain(|rule, _| names.contains(rule));
        self.places = names
            .into_iter()
            .enumerate()
            .map(|(place, name)| (name, place))
            .collect();
        self.rules = rules;
    }

    /// Replaces the open alerts and leases. Those that were open are over, unless a list is incomplete.
    pub(super) fn set_open(&mut self, open: OpenLists, now: Timestamp) {
        let OpenLists {
            mut alerts,
            leases,
            is_complete,
        } = open;
        {
            let ended = self.ended_alerts.iter().map(|ended| &ended.alert);
            let known = ended.chain(&self.alerts);
            let known: HashMap<&str, &OpenAlert> = known.map(|alert| (alert.episode.as_str(), alert)).collect();
            for alert in &mut alerts {
                let current = || Some(&self.rules[*self.places.get(&alert.rule)?].text);
                let before = known.get(alert.episode.as_str());
                let text = before.map(|before| &before.rule_text).or_else(current);
                alert.rule_text = text.map(Arc::clone).unwrap_or_default();
                // The time is computed from that since the boot, so a step of the wall clock moves it, but not those of
                // the events before.
                if let Some(before) = before {
                    alert.opened_at = alert.opened_at.min(before.opened_at);
                }
            }
        }
        let open: HashSet<&str> = alerts.iter().map(|alert| alert.episode.as_str()).collect();
        self.ended_alerts
            .retain(|ended| !open.contains(ended.alert.episode.as_str()));
        let held: HashSet<u64> = leases.iter().map(|lease| lease.id).collect();
        self.ended_leases.retain(|ended| !held.contains(&ended.lease.id));
        if is_complete {
            let over = self
                .alerts
                .drain(..)
                .filter(|alert| !open.contains(alert.episode.as_str()));
            over.for_each(|alert| self.ended_alerts.push_front(EndedAlert { alert, ended_at: now }));
            let over = self.leases.drain(..).filter(|lease| !held.contains(&lease.id));
            over.for_each(|lease| self.ended_leases.push_front(EndedLease { lease, ended_at: now }));
            self.ended_alerts.truncate(MAX_ENDED);
            self.ended_leases.truncate(MAX_ENDED);
        }
        (self.alerts, self.leases) = (alerts, leases);
    }

    /// Replaces the firing alerts of one source that no rule matches.
    pub(super) fn set_unanswered(&mut self, source: &str, alerts: Vec<UnansweredAlert>) {
        self.unanswered_alerts.retain(|alert| alert.source != source);
        self.unanswered_alerts.extend(alerts);
        self.unanswered_alerts
            .sort_by_key(|alert| std::cmp::Reverse(alert.since));
    }

    /// The part that survives a restart. What is open now counts as over if it is not open after the restart.
    pub fn to_stored(&self, now: Timestamp) -> StoredActivity {
        let alerts = self.alerts.iter().map(|alert| EndedAlert {
            alert: alert.clone(),
            ended_at: now,
        });
        let leases = self.leases.iter().map(|lease| EndedLease {
            lease: lease.clone(),
            ended_at: now,
        });
        let events = |events: &VecDeque<Arc<Event>>| events.iter().map(|event| Event::clone(event)).collect();
        StoredActivity {
            alerts: alerts
                .take(MAX_ENDED)
                .chain(self.ended_alerts.iter().cloned())
                .collect(),
            leases: leases
                .take(MAX_ENDED)
                .chain(self.ended_leases.iter().cloned())
                .collect(),
            actions: events(&self.actions),
            decisions: events(&self.decisions),
            dropped: self.dropped.clone(),
        }
    }

    /// Loads what [`Activity::to_stored`] returned before a restart, at the start.
    pub(super) fn restore(&mut self, stored: StoredActivity) {
        let events = stored
            .decisions
            .into_iter()
            .rev()
            .chain(stored.actions.into_iter().rev());
        events.for_each(|event| self.record_event(event));
        self.dropped = stored.dropped;
        self.ended_alerts = stored.alerts.into_iter().take(2 * MAX_ENDED).collect();
        self.ended_leases = stored.leases.into_iter().take(2 * MAX_ENDED).collect();
    }

    /// The open alert or the one that is over with this number.
    pub fn episode(&self, id: &str) -> Option<Episode<'_>> {
        self.episodes().find(|episode| episode.alert.episode == id)
    }

    /// All episodes, open ones first, then those that are over, newest first.
    pub fn episodes(&self) -> impl Iterator<Item = Episode<'_>> {
        let open = self.alerts.iter().map(|alert| Episode { alert, ended_at: None });
        let ended = self.ended_alerts.iter().map(|ended| Episode {
            alert: &ended.alert,
            ended_at: Some(ended.ended_at),
        });
        open.chain(ended)
    }

    /// The episode of an event, as far as it is known.
    pub fn episode_of(&self, event: &Event) -> Option<Episode<'_>> {
        self.episode_at(&event.rule, &event.fingerprint, event.at)
    }

    /// The episode of a lease, as far as it is known.
    pub fn episode_of_lease(&self, lease: &LeaseStatus) -> Option<Episode<'_>> {
        self.episode_at(&lease.rule, &lease.fingerprint, lease.since)
    }

    /// The newest episode of a rule and an alert that had begun at a time.
    fn episode_at(&self, rule: &str, fingerprint: &str, at: Timestamp) -> Option<Episode<'_>> {
        if fingerprint.is_empty() {
            return None;
        }
        let is_its = |episode: &Episode| episode.alert.rule == rule && episode.alert.fingerprint == fingerprint;
        newest_at(self.episodes().filter(is_its), at)
    }

    /// The request that paused this rule, as far as it is kept.
    pub fn rule_paused_by(&self, rule: &str) -> Option<&Event> {
        let is_pause = |event: &&Arc<Event>| event.rule == rule && event.kind == EventKind::operation("pause");
        self.actions.iter().find(is_pause).map(|event| &**event)
    }

    /// The events of an episode, newest first.
    pub fn events_of(&self, id: &str) -> Vec<&Event> {
        let Some(Episode { alert, .. }) = self.episode(id) else {
            return Vec::new();
        };
        let (rule, fingerprint) = (alert.rule.as_str(), alert.fingerprint.as_str());
        // Few of all episodes have this rule and alert, and there may be a thousand.
        let is_of_same = |episode: &Episode| (&*episode.alert.rule, &*episode.alert.fingerprint) == (rule, fingerprint);
        let episodes: Vec<Episode<'_>> = self.episodes().filter(is_of_same).collect();
        let is_its = |event: &&Arc<Event>| {
            let is_of_same = event.rule == rule && event.fingerprint == fingerprint && !fingerprint.is_empty();
            is_of_same
                && newest_at(episodes.iter().copied(), event.at).is_some_and(|episode| episode.alert.episode == id)
        };
        let events = self.actions.iter().chain(&self.decisions);
        let mut events: Vec<&Event> = events.filter(is_its).map(|event| &**event).collect();
        // Stable, so that an outcome stays before the decision of the same moment.
        events.sort_by_key(|event| std::cmp::Reverse(event.at));
        events
    }

    pub(super) fn record_event(&mut self, event: Event) {
        if let EventKind::Operation(word) = &event.kind
            && event.rule.is_empty()
        {
            match word.as_str() {
                "pause" => self.paused_by = Some(event.clone()),
                "resume" => self.paused_by = None,
                _ => {}
            }
        }
        let lines = match event.kind {
            EventKind::Decision(_) => &mut self.decisions,
            EventKind::Outcome(_) | EventKind::Operation(_) => &mut self.actions,
        };
        if let EventKind::Decision(_) = event.kind
            && let Some(place) = self.places.get(&event.rule)
        {
            self.rules[*place].last_decision = Some(event.clone());
        }
        let is_of_same = |other: &Arc<Event>| (&other.rule, &other.fingerprint) == (&event.rule, &event.fingerprint);
        if lines.len() >= MAX_KEPT {
            let has_share = lines.iter().filter(|other| is_of_same(other)).count() >= SHARE;
            let oldest = lines.iter().rposition(|other| !has_share || is_of_same(other));
            if let Some(dropped) = oldest.and_then(|place| lines.remove(place)) {
                let newest = self.dropped.entry(dropped.rule.clone()).or_insert(dropped.at);
                *newest = dropped.at.max(*newest);
            }
        }
        lines.push_front(Arc::new(event));
    }

    /// Whether events of an episode are not kept any more; the ledger has them.
    pub fn is_incomplete(&self, episode: &OpenAlert) -> bool {
        let dropped_at = self.dropped.get(&episode.rule);
        dropped_at.is_some_and(|at| *at >= episode.opened_at - CLOCK_TOLERANCE)
    }
}

/// The newest of these episodes that had begun at a time.
fn newest_at<'a>(episodes: impl Iterator<Item = Episode<'a>>, at: Timestamp) -> Option<Episode<'a>> {
    let had_begun = |episode: &Episode| episode.alert.opened_at - CLOCK_TOLERANCE <= at;
    episodes.filter(had_begun).max_by_key(|episode| episode.alert.opened_at)
}

/// An open episode, or one that is over.
#[derive(Debug, Clone, Copy)]
pub struct Episode<'a> {
    pub alert: &'a OpenAlert,
    /// `None` while the alert fires.
    pub ended_at: Option<Timestamp>,
}

/// The open alerts and the leases, as far as they are shown.
#[derive(Debug, Default)]
pub struct OpenLists {
    pub alerts: Vec<OpenAlert>,
    pub leases: Vec<LeaseStatus>,
    /// Whether the lists contain all.
    pub is_complete: bool,
}

#[cfg(test)]
mod tests;
