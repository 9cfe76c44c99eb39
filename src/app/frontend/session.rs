//! One frontend as the actuator sees it, from its first message to its end: questions come in, and each gets one answer.
//! Nothing here waits for the frontend but its own tasks.

use super::frame::{Frame, FrameError, encode, read_frame, write_frame};
use super::message::{
    Answer, DeliveredAlerts, InvalidMessage, Listener, MAX_ACCESS, MAX_DELIVERIES, MAX_DELIVERIES_KIB, MAX_METRICS,
    Question, Settings, TO_ACTUATOR, TO_FRONTEND, ToActuator, ToFrontend, checked_code, checked_lines,
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
use tokio::task::JoinHandle;

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
/// Memory in KiB for deliveries that wait until a large one before them is decoded: the largest one, and small ones.
/// Reading stops while there is none left.
const MAX_WAITING_KIB: usize = TO_ACTUATOR.head_bytes / 1024 + 2048;
/// Time to read the files of access rules. A file system may not answer.
const READ_TIMEOUT: Duration = Duration::from_millis(800);

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
    listener: &'static str,
    files: Access,
    /// What the files said last.
    known: Mutex<AccessVersion>,
    /// A reading that has not ended. There is one at a time, because each takes a thread.
    reading: tokio::sync::Mutex<Option<Reading>>,
}

struct Reading {
    task: JoinHandle<AccessContents>,
    is_reported: bool,
}

impl ServedAccess {
    /// The access rules that these files describe. Touches the file system.
    pub fn new(listener: &'static str, files: Access) -> ServedAccess {
        let first = AccessVersion {
            version: 1,
            contents: files.contents(),
        };
        ServedAccess {
            listener,
            files,
            known: Mutex::new(first),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// The last known rules. Touches no file.
    fn known(&self) -> AccessVersion {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The present rules, or the last known ones while the files cannot be read in time.
    async fn current(&self) -> AccessVersion {
        let mut reading = self.reading.lock().await;
        let begun = reading.get_or_insert_with(|| {
            let files = self.files.clone();
            Reading {
                task: tokio::task::spawn_blocking(move || files.contents()),
                is_reported: false,
            }
        });
        match tokio::time::timeout(READ_TIMEOUT, &mut begun.task).await {
            Ok(read) => {
                *reading = None;
                // The join fails only while the runtime shuts down.
                if let Ok(contents) = read {
                    self.update(contents);
                }
            }
            Err(_) if begun.is_reported => {}
            Err(_) => {
                begun.is_reported = true;
                tracing::error!(
                    listener = self.listener,
                    "token or web config file does not answer, keeping the last known access rules"
                );
            }
        }
        self.known()
    }

    fn update(&self, contents: AccessContents) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contents != contents {
            let version = known.version + 1;
            *known = AccessVersion { version, contents };
        }
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

/// A message that waits for the large ones before it, so that deliveries keep their order.
struct Waiting {
    content: WaitingContent,
    _memory: OwnedSemaphorePermit,
}

enum WaitingContent {
    Frame(Frame),
    Message(ToActuator),
}

struct Session<S, I> {
    services: Arc<Services<S, I>>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    deliveries: Arc<Semaphore>,
    deliveries_kib: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    access: [Arc<Semaphore>; 2],
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
        metrics_access: services.metrics_access.known(),
        webhook_access: services.webhook_access.known(),
        metrics_connections: services.metrics_connections,
        webhook_connections: services.webhook_connections,
    };
    let was_heard = Arc::new(AtomicBool::new(true));
    let session = Session {
        services,
        outgoing: outgoing.clone(),
        deliveries: Arc::new(Semaphore::new(MAX_DELIVERIES)),
        deliveries_kib: Arc::new(Semaphore::new(MAX_DELIVERIES_KIB as usize)),
        metrics: Arc::new(Semaphore::new(MAX_METRICS)),
        access: [(); 2].map(|()| Arc::new(Semaphore::new(MAX_ACCESS))),
        was_heard: Arc::clone(&was_heard),
    };
    send(
        &outgoing,
        &ToFrontend::Configure(Box::new(settings)),
        Bytes::new(),
        None,
    );
    let (waiting, deliveries) = mpsc::unbounded_channel();
    let stop = async {
        // The sender is dropped only after the session.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
        send(&outgoing, &ToFrontend::Stop, Bytes::new(), None);
        std::future::pending().await
    };
    tokio::select! {
        received = session.receive(input, waiting) => received.err().unwrap_or(SessionEnd::Closed),
        end = session.handle_waiting(deliveries) => end,
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
    /// Reads messages until the channel ends, and handles those that are no deliveries.
    async fn receive(
        &self,
        input: impl AsyncRead + Unpin,
        waiting: mpsc::UnboundedSender<Waiting>,
    ) -> Result<(), SessionEnd> {
        let mut input = BufReader::new(input);
        let memory = Arc::new(Semaphore::new(MAX_WAITING_KIB));
        let mut has_started = false;
        while let Some(frame) = read_frame(&mut input, TO_ACTUATOR).await? {
            self.was_heard.store(true, Ordering::Relaxed);
            let bytes = frame.head_bytes();
            let content = match bytes {
                0..=DECODE_INLINE_BYTES => match frame.decode()? {
                    ToActuator::Started(report) if !has_started => {
                        has_started = true;
                        log_sandbox(&report, &self.services.telemetry)?;
                        continue;
                    }
                    message @ ToActuator::Ask {
                        question: Question::Deliver(_),
                        ..
                    } => WaitingContent::Message(message),
                    message if has_started => {
                        self.handle(message)?;
                        continue;
                    }
                    message => WaitingContent::Message(message),
                },
                _ => WaitingContent::Frame(frame),
            };
            if !has_started {
                return Err(SessionEnd::Protocol("another message before the first one".to_owned()));
            }
            let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
            // Neither fails before the end of the session.
            if let Ok(memory) = Arc::clone(&memory).acquire_many_owned(kib).await {
                let _ = waiting.send(Waiting {
                    content,
                    _memory: memory,
                });
            }
        }
        Ok(())
    }

    /// Handles the messages that wait, in their order. Large ones are decoded on another thread, and others are read
    /// meanwhile.
    async fn handle_waiting(&self, mut waiting: mpsc::UnboundedReceiver<Waiting>) -> SessionEnd {
        while let Some(Waiting { content, _memory }) = waiting.recv().await {
            let message = match content {
                WaitingContent::Message(message) => Ok(message),
                WaitingContent::Frame(frame) => decode_aside(frame).await,
            };
            if let Err(end) = message.and_then(|message| self.handle(message)) {
                return end;
            }
        }
        // The receiver of messages has ended, and says why.
        std::future::pending().await
    }

    fn handle(&self, message: ToActuator) -> Result<(), SessionEnd> {
        let telemetry = &self.services.telemetry;
        match message {
            ToActuator::Started(_) => Err(SessionEnd::Protocol("a second first message".to_owned())),
            ToActuator::Ask { id, question } => self.answer(id, question),
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
    fn answer(&self, id: u64, question: Question) -> Result<(), SessionEnd> {
        let permits = match question {
            Question::Deliver(_) => &self.deliveries,
            Question::Metrics(_) => &self.metrics,
            Question::Access { listener, .. } => &self.access[listener as usize],
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
                let kib = u32::try_from(alerts.bytes().div_ceil(1024)).unwrap_or(u32::MAX);
                let kib = kib.min(MAX_DELIVERIES_KIB);
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

async fn decode_aside(frame: Frame) -> Result<ToActuator, SessionEnd> {
    let decoded = tokio::task::spawn_blocking(move || frame.decode()).await;
    // The join fails only while the runtime shuts down.
    Ok(decoded.map_err(|_| SessionEnd::Closed)??)
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
    let is_whole = report.measures.iter().all(|(measure, result)| {
        // It needs a user that not every host has.
        result.is_ok() || *measure == Measure::User
    });
    let (in_force, missing) = (report.in_force(), report.missing());
    let capabilities = crate::sandbox::capabilities::names(report.capabilities);
    match is_whole {
        true => tracing::info!(part = PART, in_force, missing, capabilities, "sandbox"),
        false => tracing::warn!(part = PART, in_force, missing, capabilities, "sandbox incomplete"),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
