//! One frontend as the actuator sees it, from its first message to its end: questions come in, and each gets one answer.
//! Nothing here waits for the frontend but its own tasks.

use super::frame::{Frame, FrameError, encode, read_frame, write_frame};
use super::message::{
    Answer, DeliveredAlerts, InvalidMessage, Listener, MAX_DELIVERIES, MAX_DELIVERIES_KIB, MAX_OTHERS, Question,
    Settings, TO_ACTUATOR, TO_FRONTEND, ToActuator, ToFrontend, checked_code, checked_lines,
};
use crate::alert::receiver::{Inbox, Receipt};
use crate::http::Access;
use crate::http::remote_access::{AccessContents, AccessVersion};
use crate::publish::request::{MetricsReply, MetricsService, ReplyStatus};
use crate::sandbox::{Measure, Report};
use crate::telemetry::Telemetry;
use hyper::body::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// The label value of `evenkeel_sandbox{part}`.
pub const PART: &str = "frontend";
/// Time in which the frontend must have read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of pings to a frontend that sends nothing by itself.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// So many intervals in a row without a message end a session. They are counted one by one, because evenkeel as a whole
/// may have been frozen, and then the frontend could not reply.
const MAX_SILENT_INTERVALS: u32 = 5;
/// Time for a receipt. The frontend itself waits for a shorter one.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Size from which messages are decoded on another thread.
const DECODE_INLINE_BYTES: usize = 64 * 1024;

/// What the actuator does for a frontend.
pub struct Services<S, I> {
    pub metrics: Arc<S>,
    pub inbox: I,
    pub telemetry: Telemetry,
    pub telemetry_path: String,
    pub metrics_access: ServedAccess,
    pub webhook_access: ServedAccess,
    pub metrics_connections: usize,
    pub webhook_connections: usize,
    /// Notified once the webhook listener of a frontend that stops has drained.
    pub webhook_drained: Arc<Notify>,
}

/// The access rules of a listener, with the number of their present contents.
pub struct ServedAccess {
    files: Access,
    served: Arc<Mutex<AccessVersion>>,
}

impl From<Access> for ServedAccess {
    fn from(files: Access) -> ServedAccess {
        let first = AccessVersion {
            version: 0,
            contents: AccessContents::default(),
        };
        ServedAccess {
            files,
            served: Arc::new(Mutex::new(first)),
        }
    }
}

impl ServedAccess {
    async fn current(&self) -> AccessVersion {
        let (files, served) = (self.files.clone(), Arc::clone(&self.served));
        let read = move || {
            let contents = files.contents();
            let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
            if served.contents != contents {
                let version = served.version + 1;
                *served = AccessVersion { version, contents };
            }
            served.clone()
        };
        // Reading files may block. The join fails only while the runtime shuts down.
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| self.served.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    #[error("it closed the channel")]
    Closed,
    #[error("it sent a message that is not allowed: {0}")]
    Protocol(String),
    #[error("it did not read its answers for {} s", WRITE_TIMEOUT.as_secs())]
    Stalled,
    #[error("it did not reply for {} s", (PING_INTERVAL * MAX_SILENT_INTERVALS).as_secs())]
    Silent,
}

impl From<InvalidMessage> for SessionEnd {
    fn from(invalid: InvalidMessage) -> SessionEnd {
        SessionEnd::Protocol(invalid.to_string())
    }
}

impl From<FrameError> for SessionEnd {
    fn from(error: FrameError) -> SessionEnd {
        match error {
            FrameError::Io(_) => SessionEnd::Closed,
            FrameError::TooLong { .. } | FrameError::Decode(_) => SessionEnd::Protocol(error.to_string()),
        }
    }
}

/// An encoded message and its body.
struct Outgoing {
    head: Vec<u8>,
    body: Bytes,
    /// Held until the frontend has read the message.
    _permit: Option<OwnedSemaphorePermit>,
}

struct Session<S, I> {
    services: Arc<Services<S, I>>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    deliveries: Arc<Semaphore>,
    deliveries_kib: Arc<Semaphore>,
    others: Arc<Semaphore>,
    has_started: bool,
    /// Whether a message came in this interval of pings.
    was_heard: Arc<AtomicBool>,
}

/// Serves a frontend until its end. `stopping` asks it to stop once it becomes true.
pub async fn serve<S: MetricsService, I: Inbox>(
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    services: Arc<Services<S, I>>,
    mut stopping: watch::Receiver<bool>,
) -> SessionEnd {
    // Every answer needs a permit, and pings end with the silence, so the queue is bounded.
    let (outgoing, messages) = mpsc::unbounded_channel();
    let settings = Settings {
        telemetry_path: services.telemetry_path.clone(),
        metrics_access: services.metrics_access.current().await,
        webhook_access: services.webhook_access.current().await,
        metrics_connections: services.metrics_connections,
        webhook_connections: services.webhook_connections,
    };
    let was_heard = Arc::new(AtomicBool::new(true));
    let mut session = Session {
        services,
        outgoing: outgoing.clone(),
        deliveries: Arc::new(Semaphore::new(MAX_DELIVERIES)),
        deliveries_kib: Arc::new(Semaphore::new(MAX_DELIVERIES_KIB)),
        others: Arc::new(Semaphore::new(MAX_OTHERS)),
        has_started: false,
        was_heard: Arc::clone(&was_heard),
    };
    send(
        &outgoing,
        &ToFrontend::Configure(Box::new(settings)),
        Bytes::new(),
        None,
    );
    let stop = async {
        // The sender is dropped only after the session.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
        send(&outgoing, &ToFrontend::Stop, Bytes::new(), None);
        std::future::pending().await
    };
    tokio::select! {
        end = session.receive(input) => end,
        end = write(messages, output) => end,
        end = stop => end,
        end = silence(&was_heard, &outgoing) => end,
    }
}

/// Ends once the frontend has sent nothing for several intervals, although it was asked to.
async fn silence(was_heard: &AtomicBool, outgoing: &mpsc::UnboundedSender<Outgoing>) -> SessionEnd {
    let mut silent = 0;
    while silent < MAX_SILENT_INTERVALS {
        tokio::time::sleep(PING_INTERVAL).await;
        if was_heard.swap(false, Ordering::Relaxed) {
            silent = 0;
        } else {
            silent += 1;
        }
        send(outgoing, &ToFrontend::Ping, Bytes::new(), None);
    }
    SessionEnd::Silent
}

async fn write(mut messages: mpsc::UnboundedReceiver<Outgoing>, mut output: impl AsyncWrite + Unpin) -> SessionEnd {
    while let Some(message) = messages.recv().await {
        let written = write_frame(&mut output, &message.head, &message.body);
        match tokio::time::timeout(WRITE_TIMEOUT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return SessionEnd::Closed,
            Err(_) => return SessionEnd::Stalled,
        }
    }
    SessionEnd::Closed
}

/// Queues a message. Nothing receives once the session has ended.
fn send(
    outgoing: &mpsc::UnboundedSender<Outgoing>,
    message: &ToFrontend,
    body: Bytes,
    permit: Option<OwnedSemaphorePermit>,
) {
    match encode(message, &body) {
        Ok(head) => {
            let message = Outgoing {
                head,
                body,
                _permit: permit,
            };
            let _ = outgoing.send(message);
        }
        Err(error) => tracing::error!(%error, "message to the frontend lost"),
    }
}

impl<S: MetricsService, I: Inbox> Session<S, I> {
    async fn receive(&mut self, input: impl AsyncRead + Unpin) -> SessionEnd {
        let mut input = BufReader::new(input);
        loop {
            let handled = match read_frame(&mut input, TO_ACTUATOR).await {
                Ok(Some(frame)) => {
                    self.was_heard.store(true, Ordering::Relaxed);
                    self.handle(frame).await
                }
                Ok(None) => return SessionEnd::Closed,
                Err(error) => return error.into(),
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        let bytes = frame.head_bytes();
        let message = match bytes {
            0..=DECODE_INLINE_BYTES => frame.decode()?,
            // The join fails only while the runtime shuts down.
            _ => tokio::task::spawn_blocking(move || frame.decode())
                .await
                .map_err(|_| SessionEnd::Closed)??,
        };
        let telemetry = &self.services.telemetry;
        match message {
            ToActuator::Started(report) if !self.has_started => {
                self.has_started = true;
                log_sandbox(&report, telemetry)
            }
            _ if !self.has_started => Err(SessionEnd::Protocol("another message before the first one".to_owned())),
            ToActuator::Started(_) => Err(SessionEnd::Protocol("a second first message".to_owned())),
            ToActuator::Ask { id, question } => self.answer(id, question, bytes),
            ToActuator::Responded { code, count } => {
                telemetry.webhook_requests(checked_code(code)?, count);
                Ok(())
            }
            ToActuator::LogLinesDropped(lines) => {
                telemetry.log_lines_dropped_elsewhere(checked_lines(lines)?);
                Ok(())
            }
            ToActuator::WebhookDrained => {
                self.services.webhook_drained.notify_one();
                Ok(())
            }
            ToActuator::Pong => Ok(()),
        }
    }

    /// Answers on a task of its own.
    fn answer(&self, id: u64, question: Question, bytes: usize) -> Result<(), SessionEnd> {
        let permits = match question {
            Question::Deliver(_) => &self.deliveries,
            Question::Metrics(_) | Question::Access { .. } => &self.others,
        };
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            return Err(SessionEnd::Protocol("more questions at once than allowed".to_owned()));
        };
        let (services, outgoing) = (Arc::clone(&self.services), self.outgoing.clone());
        let reply = move |answer, body| send(&outgoing, &ToFrontend::Answer { id, answer }, body, Some(permit));
        match question {
            Question::Metrics(request) => {
                let metrics = Arc::clone(&services.metrics);
                let answering = tokio::spawn(async move { metrics.answer(request).await });
                drop(tokio::spawn(async move {
                    // A question gets its answer also where answering panics.
                    let panicked = |_| MetricsReply::plain(ReplyStatus::Failed, "The request failed.\n");
                    let MetricsReply { head, body } = bounded(answering.await.unwrap_or_else(panicked));
                    reply(Answer::Metrics(head), body);
                }));
            }
            Question::Deliver(alerts) => {
                let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
                let Ok(memory) = Arc::clone(&self.deliveries_kib).try_acquire_many_owned(kib) else {
                    let reason = "too many requests at once".to_owned();
                    reply(Answer::Receipt(Receipt::Unavailable(reason)), Bytes::new());
                    return Ok(());
                };
                let receipt = self.deliver(alerts)?;
                drop(tokio::spawn(async move {
                    let receipt = receipt_of(receipt).await;
                    drop(memory);
                    reply(Answer::Receipt(receipt), Bytes::new());
                }));
            }
            Question::Access { listener, known } => drop(tokio::spawn(async move {
                let access = match listener {
                    Listener::Metrics => &services.metrics_access,
                    Listener::Webhook => &services.webhook_access,
                };
                let current = Some(access.current().await).filter(|current| current.version != known);
                reply(Answer::Access(current), Bytes::new());
            })),
        }
        Ok(())
    }

    /// Passes alerts on, in the order in which they came.
    fn deliver(&self, alerts: DeliveredAlerts) -> Result<oneshot::Receiver<Receipt>, SessionEnd> {
        let (reply, receipt) = oneshot::channel();
        let delivery = alerts.into_delivery(Instant::now(), reply)?;
        if let Err(reason) = self.services.inbox.deliver(delivery) {
            let (reply, refused) = oneshot::channel();
            let _ = reply.send(Receipt::Unavailable(reason.to_string()));
            return Ok(refused);
        }
        Ok(receipt)
    }
}

async fn receipt_of(receipt: oneshot::Receiver<Receipt>) -> Receipt {
    match tokio::time::timeout(RECEIPT_TIMEOUT, receipt).await {
        Ok(Ok(receipt)) => receipt,
        Ok(Err(_)) => Receipt::Unavailable("the engine gave no answer".to_owned()),
        Err(_) => Receipt::Unavailable("the engine is too slow".to_owned()),
    }
}

fn bounded(reply: MetricsReply) -> MetricsReply {
    if reply.body.len() <= TO_FRONTEND.body_bytes {
        return reply;
    }
    MetricsReply::plain(ReplyStatus::Failed, "The response is too large.\n")
}

/// Reports the measures that a frontend has in force.
fn log_sandbox(report: &Report, telemetry: &Telemetry) -> Result<(), SessionEnd> {
    let named = report.measures.iter().map(|(measure, _)| *measure);
    if !named.eq(Measure::OF_SERVER) {
        return Err(SessionEnd::Protocol("measures of another process".to_owned()));
    }
    for (measure, result) in &report.measures {
        telemetry.set_sandbox(PART, measure.as_str(), result.is_ok());
    }
    tracing::info!(
        part = PART,
        in_force = report.in_force(),
        missing = report.missing(),
        capabilities = crate::sandbox::capabilities::names(report.capabilities),
        "sandbox"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
