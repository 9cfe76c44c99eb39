//! The engine's thread: it processes inputs of a bounded queue and sends replies. Deliveries that wait together are
//! processed together, and share one commit.

use super::latency::Arrival;
use super::{Engine, Policy};
use crate::alert::alertmanager::PollResult;
use crate::alert::receiver::{Delivery, Full, Inbox, Receipt};
use crate::alert::{Alert, FiringSet};
use crate::host::{Host, Report};
use crate::ledger::{Breaker, Decision, EpisodeKey, Lease};
use crate::process::Identity;
use crate::telemetry::Telemetry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Size of the input queue. When it is full, Alertmanager gets 503 and retries.
const MAX_WAITING: usize = 1024;
/// Maximum number of inputs per transaction, so that many share a commit and none waits long.
const MAX_PER_TURN: usize = 256;
/// Longest sleep of the engine, so that a suspended clock cannot make it oversleep.
const MAX_SLEEP: Duration = Duration::from_secs(15);

/// Pause between two portions of deleted history, so that most of the time is left for inputs.
const BETWEEN_SWEEPS: Duration = Duration::from_millis(20);

/// Longest wait for results of jobs at exit: systemd allows 90 s by default (systemd.service(5),
/// TimeoutStopSec=).
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Interval of retries meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An input of the engine.
pub enum Input {
    /// Alerts from the webhook listener.
    Delivery(Delivery),
    /// Alerts from own evaluation.
    Alerts(Vec<Alert>, Arrival),
    /// The firing alerts of own evaluation, complete.
    Firing(FiringSet),
    /// The lists of the polled Alertmanagers.
    PollResult(PollResult),
    Exited(Identity),
    /// The result of a job.
    Reported {
        ticket: u64,
        report: Report,
    },
    Reload(Box<Policy>),
    Leases(tokio::sync::oneshot::Sender<Held>),
    Release {
        id: Option<u64>,
        reply: tokio::sync::oneshot::Sender<usize>,
    },
    /// Closes the breaker of a rule; the reply says whether it was open.
    CloseBreaker {
        rule: String,
        reply: tokio::sync::oneshot::Sender<bool>,
    },
    Pause(bool),
    ShutDown,
}

/// The leases and the open breakers.
#[derive(Debug)]
pub struct Held {
    pub leases: Vec<Lease>,
    /// Open breakers, by rule.
    pub breakers: BTreeMap<String, Breaker>,
    /// Open episodes that get no new steps until a source confirms that the alert fires.
    pub unconfirmed: Vec<EpisodeKey>,
}

/// A handle that sends inputs to the engine's thread. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle(SyncSender<Input>);

impl EngineHandle {
    /// A handle and its receiver, for [`run`].
    pub fn new() -> (EngineHandle, Receiver<Input>) {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        (EngineHandle(sender), receiver)
    }

    /// Sends an input, and waits while the queue is full. False if the engine has stopped.
    pub fn send(&self, input: Input) -> bool {
        self.0.send(input).is_ok()
    }

    /// Sends an input without waiting. False if the queue is full or the engine has stopped.
    pub fn try_send(&self, input: Input) -> bool {
        self.0.try_send(input).is_ok()
    }
}

impl Inbox for EngineHandle {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        self.0.try_send(Input::Delivery(delivery)).map_err(|_| Full)
    }
}

/// Runs until told to shut down. Call it on a thread of its own.
pub fn run<H: Host>(mut engine: Engine<H>, inputs: &Receiver<Input>, telemetry: &Telemetry) {
    engine.resume();
    let mut longest = MAX_SLEEP;
    loop {
        let sleep = engine.time_until_due().unwrap_or(longest).min(longest);
        let waiting = receive(inputs, sleep);
        let is_quiet = waiting.is_empty();
        if !take_all(&mut engine, waiting, telemetry) {
            engine.shut_down();
            return await_answers(&mut engine, inputs);
        }
        if engine.time_until_due().is_some_and(|left| left.is_zero()) {
            engine.tick();
        }
        if is_quiet {
            longest = if engine.sweep_ledger() {
                BETWEEN_SWEEPS
            } else {
                MAX_SLEEP
            };
        }
    }
}

/// The waiting inputs, oldest first. It sleeps until one arrives or work is due, and so may return none. Without a sender the engine
/// shuts down.
fn receive(inputs: &Receiver<Input>, patience: Duration) -> Vec<Input> {
    match inputs.recv_timeout(patience) {
        Ok(first) => std::iter::once(first)
            .chain(inputs.try_iter())
            .take(MAX_PER_TURN)
            .collect(),
        Err(RecvTimeoutError::Timeout) => Vec::new(),
        Err(RecvTimeoutError::Disconnected) => vec![Input::ShutDown],
    }
}

/// Waits for releases in flight, within bounds. Those without a response in time are repeated after the next start.
fn await_answers<H: Host>(engine: &mut Engine<H>, inputs: &Receiver<Input>) {
    let end = Instant::now() + LAST_ANSWERS;
    while engine.is_giving_back() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return tracing::warn!("leases not reverted in time, retrying after the next start");
        }
        let patience = left.min(engine.time_until_due().unwrap_or(left).max(LOOK_AGAIN));
        match inputs.recv_timeout(patience) {
            Ok(Input::Reported { ticket, report }) => engine.reported(ticket, &report),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => engine.go_on_giving_back(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Takes inputs in their order; neighbours that bring alerts share a turn. False at the end.
fn take_all<H: Host>(engine: &mut Engine<H>, waiting: Vec<Input>, telemetry: &Telemetry) -> bool {
    let mut batch = Batch::default();
    for input in waiting {
        match input {
            Input::Delivery(delivery) => {
                // The receiver has logged them already.
                delivery
                    .invalid
                    .iter()
                    .for_each(|_| telemetry.decision("", Decision::Invalid.as_str()));
                batch.arrival.get_or_insert(delivery.received_at.into());
                batch.alerts.push(delivery.alerts);
                batch.replies.push(delivery.reply);
            }
            Input::Alerts(alerts, arrival) => {
                batch.arrival.get_or_insert(arrival);
                batch.alerts.push(Arc::new(alerts));
            }
            other => {
                batch.take(engine);
                match other {
                    Input::Exited(target) => {
                        engine.exited(target);
                        engine.tick();
                    }
                    Input::Reported { ticket, report } => engine.reported(ticket, &report),
                    Input::PollResult(poll) => engine.reconcile(&poll),
                    Input::Firing(set) => engine.take_firing_set(&set),
                    Input::Reload(policy) => engine.reload(*policy),
                    Input::Leases(reply) => drop(reply.send(held(engine))),
                    Input::CloseBreaker { rule, reply } => drop(reply.send(engine.close_breaker(&rule))),
                    Input::Release { id, reply } => drop(reply.send(engine.release(id))),
                    Input::Pause(paused) => engine.pause(paused),
                    Input::ShutDown => return false,
                    Input::Delivery(_) | Input::Alerts(..) => {}
                }
            }
        }
    }
    batch.take(engine);
    true
}

fn held<H: Host>(engine: &Engine<H>) -> Held {
    let ledger = engine.ledger();
    let open = ledger.breakers.iter().filter(|(_, breaker)| breaker.is_open());
    Held {
        leases: ledger.leases.values().cloned().collect(),
        breakers: open.map(|(rule, breaker)| (rule.clone(), *breaker)).collect(),
        unconfirmed: engine.unconfirmed(),
    }
}

/// Alerts that arrived together.
#[derive(Default)]
struct Batch {
    alerts: Vec<Arc<Vec<Alert>>>,
    arrival: Option<Arrival>,
    replies: Vec<tokio::sync::oneshot::Sender<Receipt>>,
}

impl Batch {
    fn take<H: Host>(&mut self, engine: &mut Engine<H>) {
        let Batch {
            alerts,
            arrival,
            replies,
        } = std::mem::take(self);
        let all: Vec<&Alert> = alerts.iter().flat_map(|alerts| alerts.iter()).collect();
        if all.is_empty() && replies.is_empty() {
            return;
        }
        let arrival = arrival.unwrap_or_else(|| Instant::now().into());
        // In portions, so that memory and commit of a transaction stay bounded.
        let results: Vec<Result<(), String>> = all
            .chunks(MAX_PER_TURN)
            .map(|portion| engine.take(portion, arrival))
            .collect();
        let result = results.into_iter().find(Result::is_err).unwrap_or(Ok(()));
        // Before the replies, so that this thread frees the alerts.
        drop(alerts);
        for reply in replies {
            let receipt = match &result {
                Ok(()) => Receipt::Durable,
                Err(reason) => Receipt::Unavailable(reason.clone()),
            };
            // The sender may have hung up; the decisions are valid anyway.
            drop(reply.send(receipt));
        }
    }
}
