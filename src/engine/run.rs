//! The engine's thread: it processes inputs of a bounded queue and sends replies. Reports that wait together are
//! processed together, and share one commit.

use super::batch::SourceReport;
use super::latency::Arrival;
use super::{Engine, Policy};
use crate::alert::alertmanager::PollResult;
use crate::alert::receiver::{Delivery, Inbox, NotAccepted, Receipt};
use crate::alert::{Alert, FiringSet};
use crate::host::linux::boot_time;
use crate::host::{Host, Report};
use crate::ledger::{Breaker, Decision, EpisodeKey, Lease, OperatorRequest};
use crate::process::Identity;
use crate::telemetry::Telemetry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Size of the input queue. When it is full, Alertmanager gets 503 and retries.
const MAX_WAITING: usize = 1024;
/// Maximum number of inputs per turn, and of alerts per transaction, so that many share a commit and none waits long.
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
    /// A checked configuration, and who asked for the reload.
    Reload(Box<Policy>, OperatorRequest),
    /// The configuration was refused for a reason.
    ReloadRefused(OperatorRequest, String),
    Leases(tokio::sync::oneshot::Sender<Held>),
    Release {
        id: Option<u64>,
        request: OperatorRequest,
        reply: tokio::sync::oneshot::Sender<usize>,
    },
    /// Closes the breaker of a rule; the reply says whether it was open.
    CloseBreaker {
        rule: String,
        request: OperatorRequest,
        reply: tokio::sync::oneshot::Sender<bool>,
    },
    Pause(bool, OperatorRequest),
    /// Pauses or resumes one rule; the reply is false where there is none.
    PauseRule {
        rule: String,
        paused: bool,
        request: OperatorRequest,
        reply: tokio::sync::oneshot::Sender<bool>,
    },
    /// A question whether the engine works.
    Ping(tokio::sync::oneshot::Sender<()>),
    ShutDown(LeasesAtExit),
}

/// What becomes of the leases when evenkeel exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeasesAtExit {
    /// As `on_exit` says.
    AsConfigured,
    /// Kept for the next evenkeel, as in an upgrade.
    Kept,
}

/// An input in the queue.
pub struct Queued {
    pub input: Input,
    /// CLOCK_BOOTTIME of its arrival, because an engine that lags must not take it for news.
    pub(super) arrived_at: Duration,
}

impl Queued {
    fn now(input: Input) -> Queued {
        let arrived_at = boot_time();
        Queued { input, arrived_at }
    }
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
pub struct EngineHandle(SyncSender<Queued>);

impl EngineHandle {
    /// A handle and its receiver, for [`run`].
    pub fn new() -> (EngineHandle, Receiver<Queued>) {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        (EngineHandle(sender), receiver)
    }

    /// Sends an input, and waits while the queue is full. False if the engine has stopped.
    pub fn send(&self, input: Input) -> bool {
        self.0.send(Queued::now(input)).is_ok()
    }

    /// Sends an input without waiting. False if the queue is full or the engine has stopped.
    pub fn try_send(&self, input: Input) -> bool {
        self.0.try_send(Queued::now(input)).is_ok()
    }
}

impl Inbox for EngineHandle {
    fn deliver(&self, delivery: Delivery) -> Result<(), NotAccepted> {
        let queued = Queued::now(Input::Delivery(delivery));
        self.0.try_send(queued).map_err(|error| match error {
            TrySendError::Full(_) => NotAccepted::Full,
            TrySendError::Disconnected(_) => NotAccepted::Stopped,
        })
    }
}

/// Runs until told to shut down. Call it on a thread of its own.
pub fn run<H: Host>(mut engine: Engine<H>, inputs: &Receiver<Queued>, telemetry: &Telemetry) {
    engine.resume();
    let mut intake = Intake {
        telemetry: telemetry.clone(),
        restarted_at: engine.boot_now(),
    };
    let mut longest = MAX_SLEEP;
    loop {
        let sleep = engine.time_until_due().unwrap_or(longest).min(longest);
        let waiting = receive(inputs, sleep);
        let is_quiet = waiting.is_empty();
        match intake.take_all(&mut engine, waiting) {
            Turn::More => {}
            Turn::Last(LeasesAtExit::AsConfigured) => {
                engine.shut_down();
                return await_answers(&mut engine, inputs);
            }
            Turn::Last(LeasesAtExit::Kept) => return engine.hand_over(),
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
fn receive(inputs: &Receiver<Queued>, patience: Duration) -> Vec<Queued> {
    match inputs.recv_timeout(patience) {
        Ok(first) => std::iter::once(first)
            .chain(inputs.try_iter())
            .take(MAX_PER_TURN)
            .collect(),
        Err(RecvTimeoutError::Timeout) => Vec::new(),
        Err(RecvTimeoutError::Disconnected) => vec![Queued::now(Input::ShutDown(LeasesAtExit::AsConfigured))],
    }
}

/// Waits for releases in flight, within bounds. Those without a response in time are repeated after the next start.
fn await_answers<H: Host>(engine: &mut Engine<H>, inputs: &Receiver<Queued>) {
    let end = Instant::now() + LAST_ANSWERS;
    while engine.is_giving_back() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return tracing::warn!("leases not reverted in time, retrying after the next start");
        }
        let patience = left.min(engine.time_until_due().unwrap_or(left).max(LOOK_AGAIN));
        match inputs.recv_timeout(patience).map(|queued| queued.input) {
            Ok(Input::Reported { ticket, report }) => engine.reported(ticket, &report),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => engine.go_on_giving_back(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Whether the engine goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    More,
    Last(LeasesAtExit),
}

/// The processing of the waiting inputs.
pub(super) struct Intake {
    pub telemetry: Telemetry,
    /// CLOCK_BOOTTIME of the last start or reload of the engine, which makes open episodes unconfirmed. An input that
    /// arrived meanwhile reports what is so after it.
    pub restarted_at: Duration,
}

impl Intake {
    /// Processes the inputs of one turn. Requests of an operator come first, because none applies a step. Then come all
    /// reports of sources, in the order of their arrival, and last what may lead to further steps. So nothing is done for
    /// an alert whose end waits.
    pub fn take_all<H: Host>(&mut self, engine: &mut Engine<H>, waiting: Vec<Queued>) -> Turn {
        let mut batch = Batch::default();
        let mut last = Vec::new();
        let mut turn = Turn::More;
        // Both clocks are read once, so that the order of arrival stays also where this thread is delayed.
        let (now, engine_now) = (boot_time(), engine.boot_now());
        for Queued { input, arrived_at } in waiting {
            let age = now.saturating_sub(arrived_at);
            let at = engine_now.saturating_sub(age).max(self.restarted_at);
            match input {
                Input::Delivery(delivery) => {
                    // The receiver has logged them already.
                    (0..delivery.invalid).for_each(|_| self.telemetry.decision("", Decision::Invalid.as_str()));
                    batch.arrival.get_or_insert(delivery.received_at.into());
                    batch.reports.push(SourceReport::Alerts(delivery.alerts, at));
                    batch.replies.push(delivery.reply);
                }
                Input::Alerts(alerts, arrival) => {
                    batch.arrival.get_or_insert(arrival);
                    batch.reports.push(SourceReport::Alerts(Arc::new(alerts), at));
                }
                Input::Firing(set) => batch.push_newest(SourceReport::FiringSet(set, at)),
                Input::PollResult(poll) => batch.push_newest(SourceReport::PollResult(poll)),
                Input::Reload(policy, request) => {
                    engine.record_reload(&request, None);
                    engine.reload(*policy);
                    self.restarted_at = engine.boot_now();
                }
                Input::ReloadRefused(request, reason) => engine.record_reload(&request, Some(&reason)),
                Input::CloseBreaker { rule, request, reply } => {
                    let _ = reply.send(engine.close_breaker(&rule, &request));
                }
                Input::Release { id, request, reply } => drop(reply.send(engine.release(id, &request))),
                Input::Pause(paused, request) => engine.pause(paused, &request),
                Input::PauseRule {
                    rule,
                    paused,
                    request,
                    reply,
                } => drop(reply.send(engine.pause_rule(&rule, paused, &request))),
                Input::Exited(_) | Input::Reported { .. } | Input::Leases(_) | Input::Ping(_) => last.push(input),
                Input::ShutDown(leases) => {
                    turn = Turn::Last(leases);
                    break;
                }
            }
        }
        batch.take(engine);
        for input in last {
            match input {
                Input::Exited(target) => {
                    engine.exited(target);
                    engine.tick();
                }
                Input::Reported { ticket, report } => engine.reported(ticket, &report),
                Input::Leases(reply) => drop(reply.send(held(engine))),
                Input::Ping(reply) => drop(reply.send(())),
                _ => {}
            }
        }
        turn
    }
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

/// Reports that wait together.
#[derive(Default)]
struct Batch {
    reports: Vec<SourceReport>,
    arrival: Option<Arrival>,
    replies: Vec<tokio::sync::oneshot::Sender<Receipt>>,
}

impl Batch {
    /// Adds a complete report, and drops an earlier one of the same source.
    fn push_newest(&mut self, new: SourceReport) {
        let kind = std::mem::discriminant(&new);
        self.reports.retain(|report| std::mem::discriminant(report) != kind);
        self.reports.push(new);
    }

    fn take<H: Host>(self, engine: &mut Engine<H>) {
        if self.reports.is_empty() {
            return;
        }
        let arrival = self.arrival.unwrap_or_else(|| Instant::now().into());
        let result = engine.process_reports(&self.reports, arrival, MAX_PER_TURN);
        // Before the replies, so that this thread frees the alerts.
        drop(self.reports);
        if let Err(reason) = &result {
            tracing::warn!(reason, "could not process all alerts, waiting for the next reports");
        }
        for reply in self.replies {
            let receipt = match &result {
                Ok(()) => Receipt::Durable,
                Err(reason) => Receipt::Unavailable(reason.clone()),
            };
            // The sender may have hung up; the decisions are valid anyway.
            drop(reply.send(receipt));
        }
    }
}
