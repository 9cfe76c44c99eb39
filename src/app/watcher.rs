//! The thread on which alerting rules are evaluated on own samples, and the answers to `while`. Carries samples to the
//! evaluator and its alerts to the engine.

use super::kept_alerts::KeptAlerts;
use super::policy::Orders;
use crate::alert::alert::fingerprint;
use crate::alert::{Alert, FiringSet, Labels, Status};
use crate::engine::run::{Door, Input};
use crate::engine::stages::Arrival;
use crate::engine::{Answer, Conditions};
use crate::host::standing;
use crate::sense::{Cause, Occasion, Snapshot};
use crate::tally::Tally;
use crate::watch::alerting::Change;
use crate::watch::evaluator::{self, Evaluator, Round, Settings};
use crate::watch::history::{History, Interest, Source};
use crate::watch::promql::{Query, Semantics};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use smol_str::SmolStr;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An alert that goes on firing is told again this often, which renews its leases.
const REPEAT: Duration = Duration::from_secs(15);
/// After a restart rules over a time need samples of that time, and an alert that was not active before its `for`. Until
/// this has passed, an episode that was open before is not taken for over. The longest `for` of the rules is added.
const SETTLING: Duration = Duration::from_secs(120);
/// Of the rules that there are at the start.
const FIRST_EDITION: u64 = 1;
/// Snapshots that may wait; a late one is worth less than the next.
const MAX_WAITING: usize = 4;

enum Message {
    Sample(Arc<Snapshot>, Occasion),
    Orders(Box<Orders>),
    Stop,
}

/// What `while` is asked of. Shared with the engine's thread.
#[derive(Default)]
struct Memory {
    history: History,
    conditions: BTreeMap<String, Query>,
    newest_ms: i64,
    /// CLOCK_BOOTTIME of the newest sample.
    newest_boot: Duration,
}

/// What the rules and the conditions read: the sampler asks.
#[derive(Default)]
struct Reads {
    interest: ArcSwap<Interest>,
    /// Another number with each set of rules; 0 where there are none. Asked every second, so beside the rest.
    edition: AtomicU64,
}

impl Reads {
    fn set(&self, interest: Interest, orders: &Orders, edition: u64) {
        self.interest.store(Arc::new(interest));
        self.edition
            .store(if orders.are_any() { edition } else { 0 }, Ordering::Release);
    }
}

/// The running watcher. Ends when dropped.
pub struct Watcher {
    sender: SyncSender<Message>,
    memory: Arc<Mutex<Memory>>,
    reads: Arc<Reads>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// # Errors
    /// When no thread can be started.
    pub fn start(orders: Orders, door: Door, tally: Tally, kept: KeptAlerts) -> std::io::Result<Watcher> {
        Self::start_with(orders, door, tally, kept, SETTLING)
    }

    fn start_with(
        orders: Orders,
        door: Door,
        tally: Tally,
        kept: KeptAlerts,
        settling: Duration,
    ) -> std::io::Result<Watcher> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let memory = Arc::new(Mutex::new(Memory::default()));
        let reads = Arc::new(Reads::default());
        tally.expect_early_samples(Cause::ALL.map(Cause::as_str));
        let mut watch = Watch::new(
            orders,
            Arc::clone(&memory),
            Arc::clone(&reads),
            door,
            tally,
            kept,
            settling,
        );
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || {
            standing::go_first();
            watch.run(&receiver);
        })?;
        Ok(Watcher {
            sender,
            memory,
            reads,
            thread: Some(thread),
        })
    }

    /// Who tells this thread of samples.
    pub fn follower(&self) -> Box<dyn crate::sense::Follower> {
        Box::new(Follower {
            sender: self.sender.clone(),
            reads: Arc::clone(&self.reads),
        })
    }

    /// Goes on with other rules.
    pub fn replace(&self, orders: Orders) {
        drop(self.sender.send(Message::Orders(Box::new(orders))));
    }

    /// What the engine asks for `while`.
    pub fn conditions(&self) -> Conditions {
        let memory = Arc::clone(&self.memory);
        Box::new(move |text| {
            let memory = lock(&memory);
            let query = memory.conditions.get(text)?;
            let holds = evaluator::holds(query, &memory.history, memory.newest_ms, Semantics::default());
            Some(Answer {
                holds,
                sample_at: memory.newest_boot,
            })
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.sender.send(Message::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The sampler's side of the watcher. Never waits.
struct Follower {
    sender: SyncSender<Message>,
    reads: Arc<Reads>,
}

impl crate::sense::Follower for Follower {
    fn edition(&self) -> Option<u64> {
        Some(self.reads.edition.load(Ordering::Acquire)).filter(|edition| *edition > 0)
    }

    fn reads(&self, metric: &str) -> bool {
        self.reads.interest.load().keep_ms(metric).is_some()
    }

    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, occasion: Occasion) {
        // A full queue means that the evaluation is behind; it catches up with the next sample.
        drop(self.sender.try_send(Message::Sample(Arc::clone(snapshot), occasion)));
    }
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    // A history that a panic interrupted is at worst one sample short.
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of the watcher's thread.
struct Watch {
    orders: Orders,
    evaluator: Evaluator,
    memory: Arc<Mutex<Memory>>,
    reads: Arc<Reads>,
    door: Door,
    tally: Tally,
    kept: KeptAlerts,
    /// When each firing alert was told last, by fingerprint.
    told: HashMap<SmolStr, Instant>,
    /// When each collector was read that is in the history.
    remembered: HashMap<&'static str, Instant>,
    sources: HashMap<&'static str, Source>,
    /// When episodes that were open before the start may be taken for over.
    settled_at: Option<Instant>,
    /// Counts sets of rules.
    edition: u64,
}

impl Watch {
    fn new(
        orders: Orders,
        memory: Arc<Mutex<Memory>>,
        reads: Arc<Reads>,
        door: Door,
        tally: Tally,
        mut kept: KeptAlerts,
        settling: Duration,
    ) -> Watch {
        let mut evaluator = Evaluator::new(settings(&orders), orders.files.clone());
        kept.restore(&mut evaluator);
        keep_none(&mut kept, &evaluator, &orders);
        remember(&memory, &reads, &evaluator, &orders);
        let longest_for = longest_for(&orders);
        Watch {
            orders,
            evaluator,
            memory,
            reads,
            door,
            tally,
            kept,
            told: HashMap::new(),
            remembered: HashMap::new(),
            sources: HashMap::new(),
            settled_at: Some(Instant::now() + settling + longest_for),
            edition: FIRST_EDITION,
        }
    }

    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            // Without rules there are no samples, and yet what was open before is over some day.
            let until = self.settled_at.filter(|_| !self.orders.are_any());
            let message = match until.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(left) => messages.recv_timeout(left),
                None => messages.recv().map_err(RecvTimeoutError::from),
            };
            match message {
                Ok(Message::Sample(snapshot, Occasion::Beat)) => self.evaluate(&snapshot),
                Ok(Message::Sample(snapshot, Occasion::Early(cause))) => {
                    self.tally.early_sample(cause.as_str());
                    self.evaluate_early(&snapshot);
                    let age_ms = snapshot.taken_instant.elapsed().as_micros() as f64 / 1e3;
                    tracing::debug!(cause = cause.as_str(), age_ms, "rules have seen an early sample");
                }
                Ok(Message::Orders(orders)) => self.replace(*orders),
                Ok(Message::Stop) => return self.kept.keep_last(&self.evaluator, lock(&self.memory).newest_ms),
                Err(RecvTimeoutError::Timeout) => self.settle(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn evaluate(&mut self, snapshot: &Snapshot) {
        let now_ms = snapshot.taken_at.as_millisecond();
        let shared = Arc::clone(&self.memory);
        let mut memory = lock(&shared);
        // The calendar may be set back; the history only goes on from where it is.
        if now_ms <= memory.newest_ms {
            let back_ms = memory.newest_ms - now_ms;
            if back_ms > 1000 {
                tracing::warn!(back_ms, "the clock was set back; the history of samples starts anew");
                memory.history = History::new(interest(&self.evaluator, &self.orders));
                self.evaluator = Evaluator::new(settings(&self.orders), self.orders.files.clone());
                self.remembered.clear();
            } else {
                return;
            }
        }
        self.remember(&mut memory, snapshot, now_ms);
        memory.newest_boot = crate::host::linux::boot_time().saturating_sub(snapshot.taken_instant.elapsed());
        let round = self.evaluator.evaluate(&mut memory.history, now_ms);
        drop(memory);
        self.tell_round(round, snapshot.taken_instant);
        self.kept.keep(&self.evaluator, now_ms);
        self.settle();
    }

    /// Says which alerts are active now that rules have had time to see it; other episodes are over.
    fn settle(&mut self) {
        if self.settled_at.is_some_and(|at| at <= Instant::now()) {
            self.settled_at = None;
            let firing = self.evaluator.active().filter_map(|active| {
                let labels = labels(active.labels);
                Some(Alert {
                    fingerprint: fingerprint(&labels),
                    labels,
                    annotations: active.annotations.iter().cloned().collect(),
                    status: Status::Firing,
                    starts_at: Timestamp::from_millisecond(active.fired_at_ms?).ok()?,
                    ends_at: None,
                    source: crate::alert::Source::Local,
                })
            });
            let firing = firing.collect();
            self.door.send(Input::Firing(FiringSet {
                firing,
                is_complete: true,
            }));
        }
    }

    /// What was read between two beats is seen by the rules that read it. It does not count as a newer sample for `while`
    /// after a final step: only a part of the host was looked at.
    fn evaluate_early(&mut self, snapshot: &Snapshot) {
        let now_ms = snapshot.taken_at.as_millisecond();
        let shared = Arc::clone(&self.memory);
        let mut memory = lock(&shared);
        if now_ms <= memory.newest_ms {
            return;
        }
        memory.history.set_early(true);
        self.remember(&mut memory, snapshot, now_ms);
        let seen: HashSet<&str> = snapshot.families().map(|family| family.name.as_ref()).collect();
        let round = self.evaluator.evaluate_early(&mut memory.history, now_ms, &seen);
        drop(memory);
        self.tell_round(round, snapshot.taken_instant);
    }

    fn remember(&mut self, memory: &mut Memory, snapshot: &Snapshot, now_ms: i64) {
        for reading in &snapshot.readings {
            let before = self.remembered.insert(reading.collector, reading.read_instant);
            if before != Some(reading.read_instant) {
                // By name, for what is slow at the start takes its place in the snapshot later.
                let next = Source(self.sources.len() as u16 + 1);
                let source = *self.sources.entry(reading.collector).or_insert(next);
                memory
                    .history
                    .append(source, now_ms, &reading.families, self.orders.target.pairs());
            }
        }
        memory
            .history
            .append(Source(0), now_ms, &snapshot.ready_made, self.orders.target.pairs());
        memory.newest_ms = now_ms;
    }

    fn tell_round(&mut self, round: Round, sampled_at: Instant) {
        for failure in &round.failures {
            tracing::debug!(%failure, "a rule could not be evaluated");
        }
        let told = &mut self.told;
        let alerts: Vec<Alert> = round
            .transitions
            .into_iter()
            .filter(|transition| is_news(told, &transition.alert, transition.change))
            .map(|transition| transition.alert)
            .collect();
        self.tell(alerts, Some(sampled_at));
    }

    fn replace(&mut self, orders: Orders) {
        let shared = Arc::clone(&self.memory);
        let mut memory = lock(&shared);
        let now_ms = memory.newest_ms;
        let ended = self
            .evaluator
            .replace(settings(&orders), orders.files.clone(), &mut memory.history, now_ms);
        let interest = interest(&self.evaluator, &orders);
        self.edition += 1;
        self.reads.set(interest.clone(), &orders, self.edition);
        memory.history.set_interest(interest);
        memory.conditions.clone_from(&orders.conditions);
        drop(memory);
        self.remembered.clear();
        self.orders = orders;
        keep_none(&mut self.kept, &self.evaluator, &self.orders);
        self.tell(ended.into_iter().map(|transition| transition.alert).collect(), None);
    }

    fn tell(&self, alerts: Vec<Alert>, sampled_at: Option<Instant>) {
        if alerts.is_empty() {
            return;
        }
        let arrival = Arrival {
            sampled_at,
            received_at: Instant::now(),
        };
        if !self.door.send(Input::Alerts(alerts, arrival)) {
            tracing::debug!("the engine has ended");
        }
    }
}

/// Whether the engine should hear of it: beginnings and ends at once, what goes on from time to time.
fn is_news(told: &mut HashMap<SmolStr, Instant>, alert: &Alert, change: Change) -> bool {
    if change == Change::Ended || alert.status == Status::Resolved {
        told.remove(&alert.fingerprint);
        return true;
    }
    let now = Instant::now();
    let is_due = told
        .get(&alert.fingerprint)
        .is_none_or(|last| now.duration_since(*last) >= REPEAT);
    if is_due {
        told.insert(alert.fingerprint.clone(), now);
    }
    is_due
}

/// Takes out of the file what was active under other rules, where there are none now and so no sample comes after which it would be
/// written.
fn keep_none(kept: &mut KeptAlerts, evaluator: &Evaluator, orders: &Orders) {
    if !orders.are_any() {
        kept.keep(evaluator, Timestamp::now().as_millisecond());
    }
}

fn settings(orders: &Orders) -> Settings {
    Settings {
        interval_ms: orders.interval.as_millis() as i64,
        ..Settings::default()
    }
}

fn interest(evaluator: &Evaluator, orders: &Orders) -> Interest {
    let mut interest = evaluator.interest();
    orders
        .conditions
        .values()
        .for_each(|query| query.add_interest(&mut interest));
    interest
}

fn remember(memory: &Mutex<Memory>, reads: &Reads, evaluator: &Evaluator, orders: &Orders) {
    let interest = interest(evaluator, orders);
    reads.set(interest.clone(), orders, FIRST_EDITION);
    let mut memory = lock(memory);
    memory.history = History::new(interest);
    memory.conditions.clone_from(&orders.conditions);
}

fn longest_for(orders: &Orders) -> Duration {
    let longest = orders
        .files
        .iter()
        .map(crate::watch::RuleFile::longest_for_ms)
        .max()
        .unwrap_or(0);
    Duration::from_millis(longest.max(0) as u64)
}

fn labels(set: &crate::watch::LabelSet) -> Labels {
    let pairs = set.pairs().iter();
    pairs.map(|(name, value)| (&**name, &**value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::queue::Taker;
    use crate::watch::LabelSet;
    use crate::watch::rule_file::parse;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn orders(rules: &str) -> Orders {
        Orders {
            files: vec![parse("x.yml", &format!("groups: [{{name: g, rules: [{rules}]}}]")).unwrap()],
            conditions: BTreeMap::new(),
            interval: Duration::from_secs(1),
            target: LabelSet::default(),
        }
    }

    fn snapshot() -> Arc<Snapshot> {
        Arc::new(Snapshot {
            taken_at: Timestamp::now(),
            taken_instant: Instant::now(),
            fresh_since: Instant::now(),
            readings: Vec::new(),
            ready_made: Arc::default(),
        })
    }

    fn next(inputs: &Taker<Input>) -> Input {
        inputs
            .take(1, PATIENCE)
            .ok()
            .unwrap()
            .pop()
            .expect("something within the patience")
    }

    #[test]
    fn without_rules_nothing_is_asked_for_and_what_was_before_is_over_nevertheless() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("alerts.json");
        let start = |rules: &str| {
            let (door, inputs) = Door::new();
            let kept = KeptAlerts::new(directory.path());
            let settling = Duration::from_millis(10);
            let watcher = Watcher::start_with(orders(rules), door, Tally::default(), kept, settling).unwrap();
            (watcher, inputs)
        };
        let (watcher, inputs) = start("");
        let mut follower = watcher.follower();
        assert_eq!(follower.edition(), None);
        let Input::Firing(set) = next(&inputs) else {
            panic!("something else")
        };
        assert!(set.firing.is_empty() && set.is_complete);

        // Rules, even those that read nothing.
        watcher.replace(orders("{alert: A, expr: vector(1)}"));
        let until = Instant::now() + PATIENCE;
        while follower.edition().is_none() && Instant::now() < until {
            std::thread::yield_now();
        }
        let first = follower.edition();
        assert!(first.is_some() && !follower.reads("up"));
        follower.on_sample(&snapshot(), Occasion::Beat);
        let Input::Alerts(alerts, _) = next(&inputs) else {
            panic!("something else")
        };
        assert_eq!(alerts[0].status, Status::Firing);
        watcher.replace(orders("{alert: A, expr: vector(1)}, {alert: B, expr: up > 1}"));
        while follower.edition() == first && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(follower.edition() > first && follower.reads("up"));

        watcher.replace(orders(""));
        let Input::Alerts(alerts, _) = next(&inputs) else {
            panic!("something else")
        };
        assert_eq!((alerts.len(), alerts[0].status), (1, Status::Resolved));
        assert_eq!(follower.edition(), None);
        let keeps_it = || std::fs::read_to_string(&file).unwrap().contains("\"A\"");
        assert!(!keeps_it());
        drop(watcher);

        // Left behind by a daemon that had rules, found by one that has none.
        let (watcher, inputs) = start("{alert: A, expr: vector(1)}");
        watcher.follower().on_sample(&snapshot(), Occasion::Beat);
        next(&inputs);
        drop(watcher);
        assert!(keeps_it());
        let _without_rules = start("");
        assert!(!keeps_it());
    }
}
