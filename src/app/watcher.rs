//! The thread of own evaluation: feeds samples to the state machine, sends the alerts to the engine and writes the
//! file that survives a restart. It also evaluates `while` for the engine.

use super::kept_alerts::KeptAlerts;
use super::own_evaluation::{Messages, OwnEvaluation};
use super::policy::EvaluationConfig;
use crate::alert::Source;
use crate::engine::Conditions;
use crate::engine::latency::Arrival;
use crate::engine::run::{EngineHandle, Input};
use crate::host::linux::boot_time;
use crate::host::self_priority::{self, SelfProtection};
use crate::sense::{EarlyCause, SampleKind, Sampling, Snapshot};
use crate::telemetry::Telemetry;
use crate::watch::history::ReadSet;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Revision of the rules at the start.
const FIRST_EDITION: u64 = 1;
/// Size of the queue of snapshots. A late one is worth less than the next.
const MAX_WAITING: usize = 4;

enum Message {
    Sample(Arc<Snapshot>, SampleKind),
    EvaluationConfig(Box<EvaluationConfig>),
    Stop,
}

/// The metrics that rules and conditions read, for the sampler.
#[derive(Default)]
struct Reads {
    read_set: ArcSwap<ReadSet>,
    /// Changes with each set of rules; 0 without rules. Separate from `read_set`, because it is read every second.
    rules_revision: AtomicU64,
}

impl Reads {
    fn set(&self, evaluation: &OwnEvaluation, rules_revision: u64) {
        self.read_set.store(Arc::new(evaluation.read_set()));
        self.rules_revision.store(
            if evaluation.has_rules() { rules_revision } else { 0 },
            Ordering::Release,
        );
    }
}

/// The running watcher. Dropping it stops it.
pub struct Watcher {
    sender: SyncSender<Message>,
    evaluation: Arc<Mutex<OwnEvaluation>>,
    reads: Arc<Reads>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        orders: EvaluationConfig,
        sampling: Sampling,
        protection: SelfProtection,
        engine_handle: EngineHandle,
        telemetry: Telemetry,
        mut kept: KeptAlerts,
        settling: Duration,
    ) -> std::io::Result<Watcher> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        telemetry.expect_early_samples(EarlyCause::ALL.map(EarlyCause::as_str));
        let evaluation = OwnEvaluation::new(orders, sampling, &kept.read(), boot_time(), settling);
        if !evaluation.has_rules() {
            // Alerts of former rules, in a daemon that gets no samples.
            kept.keep(evaluation.active_alerts());
        }
        let reads = Arc::new(Reads::default());
        reads.set(&evaluation, FIRST_EDITION);
        let evaluation = Arc::new(Mutex::new(evaluation));
        let mut watch = Watch {
            evaluation: Arc::clone(&evaluation),
            reads: Arc::clone(&reads),
            engine_handle,
            telemetry,
            kept,
            rules_revision: FIRST_EDITION,
        };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || {
            self_priority::raise_priority(protection);
            watch.run(&receiver);
        })?;
        Ok(Watcher {
            sender,
            evaluation,
            reads,
            thread: Some(thread),
        })
    }

    /// The subscriber that passes samples to this thread.
    pub fn subscriber(&self) -> Box<dyn crate::sense::Subscriber> {
        Box::new(Subscriber {
            sender: self.sender.clone(),
            reads: Arc::clone(&self.reads),
        })
    }

    /// Replaces the rules.
    pub fn replace(&self, orders: EvaluationConfig) {
        drop(self.sender.send(Message::EvaluationConfig(Box::new(orders))));
    }

    /// The evaluation of `while` for the engine.
    pub fn conditions(&self) -> Conditions {
        let evaluation = Arc::clone(&self.evaluation);
        Box::new(move |text| lock(&evaluation).answer(text, boot_time()))
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

/// The sampler's side of the watcher. Never blocks.
struct Subscriber {
    sender: SyncSender<Message>,
    reads: Arc<Reads>,
}

impl crate::sense::Subscriber for Subscriber {
    fn rules_revision(&self) -> Option<u64> {
        Some(self.reads.rules_revision.load(Ordering::Acquire)).filter(|rules_revision| *rules_revision > 0)
    }

    fn reads(&self, metric: &str) -> bool {
        self.reads.read_set.load().keep_ms(metric).is_some()
    }

    fn on_sample(&mut self, snapshot: &Arc<Snapshot>, kind: SampleKind) {
        // A full queue means that the evaluation is behind; it catches up with the next sample.
        drop(self.sender.try_send(Message::Sample(Arc::clone(snapshot), kind)));
    }
}

fn lock(evaluation: &Mutex<OwnEvaluation>) -> MutexGuard<'_, OwnEvaluation> {
    // After a panic the state lacks at most one sample.
    evaluation.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of the watcher's thread.
struct Watch {
    /// Shared with the engine's thread, so it is never locked during I/O or a send.
    evaluation: Arc<Mutex<OwnEvaluation>>,
    reads: Arc<Reads>,
    engine_handle: EngineHandle,
    telemetry: Telemetry,
    kept: KeptAlerts,
    /// Counts sets of rules.
    rules_revision: u64,
}

impl Watch {
    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let due = lock(&self.evaluation).next_due();
            let message = match due.map(|at| at.saturating_sub(boot_time())) {
                Some(left) => messages.recv_timeout(left),
                None => messages.recv().map_err(RecvTimeoutError::from),
            };
            match message {
                Ok(Message::Sample(snapshot, SampleKind::Regular)) => self.evaluate(&snapshot),
                Ok(Message::Sample(snapshot, SampleKind::Early(cause))) => {
                    self.telemetry.early_sample(cause.as_str());
                    let said = lock(&self.evaluation).take_early_sample(&snapshot);
                    self.send(said, Some(snapshot.taken.instant));
                    let age_ms = snapshot.taken.instant.elapsed().as_micros() as f64 / 1e3;
                    tracing::debug!(cause = cause.as_str(), age_ms, "early sample evaluated");
                }
                Ok(Message::EvaluationConfig(orders)) => self.replace(*orders),
                Ok(Message::Stop) => {
                    let active = lock(&self.evaluation).active_alerts();
                    return self.kept.keep_last(active);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let said = lock(&self.evaluation).settle(boot_time());
                    self.send(said, None);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn evaluate(&mut self, snapshot: &Snapshot) {
        let mut evaluation = lock(&self.evaluation);
        let said = evaluation.take_sample(snapshot);
        let active = evaluation.active_alerts();
        drop(evaluation);
        self.send(said, Some(snapshot.taken.instant));
        self.kept.keep(active);
    }

    fn replace(&mut self, orders: EvaluationConfig) {
        self.rules_revision += 1;
        let mut evaluation = lock(&self.evaluation);
        let said = evaluation.replace(orders, boot_time());
        self.reads.set(&evaluation, self.rules_revision);
        let active = evaluation.active_alerts();
        drop(evaluation);
        // An alert whose rule is gone must not come back with its start after a crash.
        self.kept.keep(active);
        self.send(said, None);
    }

    fn send(&self, messages: Messages, sampled_at: Option<Instant>) {
        let arrival = Arrival {
            sampled_at,
            received_at: Instant::now(),
        };
        let Messages { alerts, firing } = messages;
        let repeated = firing.iter().flat_map(|set| &set.firing);
        for alert in alerts.iter().chain(repeated) {
            let (source, status) = (Source::Local.as_str(), alert.status.as_str());
            self.telemetry.alert_received(source, status);
        }
        let alerts = (!alerts.is_empty()).then(|| Input::Alerts(alerts, arrival));
        for input in alerts.into_iter().chain(firing.map(Input::Firing)) {
            if !self.engine_handle.send(input) {
                tracing::debug!("engine stopped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Status;
    use crate::engine::run::Queued;
    use crate::family::Point;
    use crate::sense::SampleTime;
    use crate::watch::LabelSet;
    use crate::watch::rule_file::parse;
    use std::collections::BTreeMap;
    use std::sync::mpsc::Receiver;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn orders(rules: &str) -> EvaluationConfig {
        EvaluationConfig {
            files: vec![parse("x.yml", &format!("groups: [{{name: g, rules: [{rules}]}}]")).unwrap()],
            conditions: BTreeMap::new(),
            interval: Duration::from_secs(1),
            target: LabelSet::default(),
        }
    }

    fn snapshot() -> Arc<Snapshot> {
        Arc::new(Snapshot {
            taken: SampleTime::now(),
            readings: Vec::new(),
            derived: Arc::default(),
        })
    }

    fn next(inputs: &Receiver<Queued>) -> Input {
        let queued = inputs.recv_timeout(PATIENCE).expect("something within the patience");
        queued.input
    }

    /// The next started and resolved alerts, skipping firing sets.
    fn next_alerts(inputs: &Receiver<Queued>) -> Vec<crate::alert::Alert> {
        loop {
            match next(inputs) {
                Input::Alerts(alerts, _) => return alerts,
                Input::Firing(_) => {}
                _ => panic!("something else"),
            }
        }
    }

    #[test]
    fn without_rules_no_metric_is_asked_for_and_alerts_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("alerts.json");
        let start = |rules: &str| {
            let (engine_handle, inputs) = EngineHandle::new();
            let kept = KeptAlerts::new(directory.path());
            let settling = Duration::from_millis(10);
            let watcher = Watcher::start(
                orders(rules),
                Sampling::default(),
                SelfProtection::Off,
                engine_handle,
                Telemetry::default(),
                kept,
                settling,
            )
            .unwrap();
            (watcher, inputs)
        };
        let (watcher, inputs) = start("");
        let mut subscriber = watcher.subscriber();
        assert_eq!(subscriber.rules_revision(), None);
        let Input::Firing(set) = next(&inputs) else {
            panic!("something else")
        };
        assert!(set.firing.is_empty() && set.is_complete);

        // Rules, even those that read nothing.
        watcher.replace(orders("{alert: A, expr: vector(1)}"));
        let until = Instant::now() + PATIENCE;
        while subscriber.rules_revision().is_none() && Instant::now() < until {
            std::thread::yield_now();
        }
        let first = subscriber.rules_revision();
        assert!(first.is_some() && !subscriber.reads("up"));
        subscriber.on_sample(&snapshot(), SampleKind::Regular);
        let alerts = next_alerts(&inputs);
        assert_eq!(alerts[0].status, Status::Firing);
        watcher.replace(orders("{alert: A, expr: vector(1)}, {alert: B, expr: up > 1}"));
        while subscriber.rules_revision() == first && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(subscriber.rules_revision() > first && subscriber.reads("up"));

        watcher.replace(orders(""));
        let alerts = next_alerts(&inputs);
        assert_eq!((alerts.len(), alerts[0].status), (1, Status::Resolved));
        assert_eq!(subscriber.rules_revision(), None);
        let keeps_it = || std::fs::read_to_string(&file).unwrap().contains("\"A\"");
        assert!(!keeps_it());
        drop(watcher);

        // A daemon without rules finds the alerts of one with rules.
        let (watcher, inputs) = start("{alert: A, expr: vector(1)}");
        watcher.subscriber().on_sample(&snapshot(), SampleKind::Regular);
        next_alerts(&inputs);
        drop(watcher);
        assert!(keeps_it());
        let _without_rules = start("");
        assert!(!keeps_it());
    }

    #[test]
    fn own_alerts_and_their_repeats_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (engine_handle, inputs) = EngineHandle::new();
        let telemetry = Telemetry::default();
        let watcher = Watcher::start(
            orders("{alert: A, expr: vector(1)}"),
            Sampling::default(),
            SelfProtection::Off,
            engine_handle,
            telemetry.clone(),
            KeptAlerts::new(directory.path()),
            Duration::from_secs(60),
        )
        .unwrap();
        let counted = || {
            let families = telemetry.families();
            let family = families
                .iter()
                .find(|family| family.name == "evenkeel_alerts_received_total");
            let count = |point: Point| {
                let values: Vec<String> = point.labels.iter().map(|label| label.1.to_string()).collect();
                format!("{} {:?}", values.join(" "), point.value)
            };
            family.unwrap().points().map(count).collect::<Vec<_>>()
        };
        // The start, and the set of firing alerts.
        watcher.subscriber().on_sample(&snapshot(), SampleKind::Regular);
        next_alerts(&inputs);
        assert!(matches!(next(&inputs), Input::Firing(set) if set.firing.len() == 1));
        assert_eq!(counted(), ["local firing Number(2.0)"]);
        watcher.replace(orders("{alert: B, expr: vector(0) > 1}"));
        next_alerts(&inputs);
        assert_eq!(counted(), ["local firing Number(2.0)", "local resolved Number(1.0)"]);
    }
}
