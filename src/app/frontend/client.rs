//! The actuator as the frontend sees it: questions go out, and each gets one answer.

use super::frame::{encode, read_frame, write_frame};
use super::message::{
    Answer, DeliveredAlerts, Listener, MAX_ACCESS, MAX_DELIVERIES, MAX_METRICS, Question, TO_FRONTEND, ToActuator,
    ToFrontend,
};
use crate::alert::alert::Alert;
use crate::alert::receiver::{Delivery, Inbox, NotAccepted, Receipt};
use crate::http::remote_access::AccessVersion;
use crate::publish::request::{MetricsReply, MetricsRequest, MetricsService, ReplyStatus};
use crate::telemetry::Telemetry;
use hyper::body::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Questions, and a few messages beside them.
const MAX_WAITING: usize = MAX_DELIVERIES + MAX_METRICS + 2 * MAX_ACCESS + 8;
/// Memory of alerts from which their message is made on another thread, because other requests would wait for it.
const ENCODE_INLINE_BYTES: usize = 64 * 1024;

/// Asks the actuator. Cheap to clone.
#[derive(Clone)]
pub struct ActuatorClient(Arc<Shared>);

struct Shared {
    /// Encoded messages.
    outgoing: mpsc::Sender<Vec<u8>>,
    asked: Mutex<BTreeMap<u64, Asked>>,
    next_id: AtomicU64,
    deliveries: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    /// By listener, so that no request waits for the scrapes of others before it is admitted.
    access: [Arc<Semaphore>; 2],
    responses: Arc<Responses>,
}

/// The status codes of responses of which the actuator does not know.
#[derive(Default)]
struct Responses {
    counts: Mutex<BTreeMap<u16, u32>>,
    is_counted: Notify,
}

/// A question without an answer. The permit is held until the answer, also where nothing waits for it any more.
struct Asked {
    reply: Reply,
    _permit: OwnedSemaphorePermit,
}

enum Reply {
    Metrics(oneshot::Sender<MetricsReply>),
    Receipt(oneshot::Sender<Receipt>),
    Access(oneshot::Sender<Option<AccessVersion>>),
}

/// The messages that go out.
pub struct Outgoing {
    messages: mpsc::Receiver<Vec<u8>>,
    responses: Arc<Responses>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ActuatorClient {
    pub fn new() -> (ActuatorClient, Outgoing) {
        let (outgoing, messages) = mpsc::channel(MAX_WAITING);
        let responses = Arc::<Responses>::default();
        let shared = Arc::new(Shared {
            outgoing,
            asked: Mutex::default(),
            next_id: AtomicU64::default(),
            deliveries: Arc::new(Semaphore::new(MAX_DELIVERIES)),
            metrics: Arc::new(Semaphore::new(MAX_METRICS)),
            access: [(); 2].map(|()| Arc::new(Semaphore::new(MAX_ACCESS))),
            responses: Arc::clone(&responses),
        });
        let outgoing = Outgoing { messages, responses };
        (ActuatorClient(shared), outgoing)
    }

    /// Sends a message that is no question. False if the channel is closed.
    pub async fn send(&self, message: &ToActuator) -> bool {
        match encode(message, &[]) {
            Ok(bytes) => self.0.outgoing.send(bytes).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Counts a response of the webhook listener. The actuator learns it with the next message.
    pub fn count_response(&self, code: u16) {
        *lock(&self.0.responses.counts).entry(code).or_default() += 1;
        self.0.responses.is_counted.notify_one();
    }

    /// The access rules of a listener, if their number is not this one.
    pub async fn access(&self, listener: Listener, known: u64) -> Option<AccessVersion> {
        let permits = &self.0.access[listener as usize];
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        let (sender, answer) = oneshot::channel();
        let question = Question::Access { listener, known };
        self.ask(question, Reply::Access(sender), permit)?;
        answer.await.ok().flatten()
    }

    /// `None` if the channel is closed or takes no more.
    fn ask(&self, question: Question, reply: Reply, permit: OwnedSemaphorePermit) -> Option<()> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let bytes = encode(&ToActuator::Ask { id, question }, &[]).ok()?;
        let asked = Asked { reply, _permit: permit };
        lock(&self.0.asked).insert(id, asked);
        if self.0.outgoing.try_send(bytes).is_err() {
            lock(&self.0.asked).remove(&id);
            return None;
        }
        Some(())
    }

    fn take_answer(&self, id: u64, answer: Answer, body: Bytes) {
        let Some(asked) = lock(&self.0.asked).remove(&id) else {
            return;
        };
        // The request may have ended meanwhile, so that nothing receives.
        match (asked.reply, answer) {
            (Reply::Metrics(reply), Answer::Metrics(head)) => drop(reply.send(MetricsReply { head, body })),
            (Reply::Receipt(reply), Answer::Receipt(receipt)) => drop(reply.send(receipt)),
            (Reply::Access(reply), Answer::Access(access)) => drop(reply.send(access)),
            _ => tracing::error!(id, "answer of another kind than its question ignored"),
        }
    }

    /// Receives answers until the actuator says that the frontend must stop (true), or the channel ends.
    ///
    /// # Errors
    /// When the channel breaks, or a message is none.
    pub async fn receive(&self, input: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<bool> {
        while let Some(frame) = read_frame(&mut *input, TO_FRONTEND).await.map_err(io::Error::other)? {
            match frame.decode().map_err(io::Error::other)? {
                ToFrontend::Answer { id, answer } => self.take_answer(id, answer, frame.body),
                // Where the queue is full, other messages are on their way.
                ToFrontend::Ping => drop(self.0.outgoing.try_send(encode(&ToActuator::Pong, &[])?)),
                ToFrontend::Stop => return Ok(true),
                // The settings are those of the start; what changes is asked for.
                ToFrontend::Configure(_) => {}
            }
        }
        Ok(false)
    }
}

impl Outgoing {
    /// Writes messages until the channel breaks.
    ///
    /// # Errors
    /// Why it broke.
    pub async fn write(mut self, mut output: impl AsyncWrite + Unpin, telemetry: &Telemetry) -> io::Result<()> {
        let mut reported_lines = 0;
        loop {
            let message = tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => message,
                    None => return Ok(()),
                },
                () = self.responses.is_counted.notified() => Vec::new(),
            };
            // Counts come first, so that they are there for the scrape of a client that has its response.
            let counts = mem::take(&mut *lock(&self.responses.counts));
            for (code, count) in counts {
                let counted = encode(&ToActuator::Responded { code, count }, &[])?;
                write_frame(&mut output, &counted, &[]).await?;
            }
            let lines = telemetry.log_lines_dropped() - reported_lines;
            if lines > 0 {
                reported_lines += lines;
                let lost = encode(&ToActuator::LogLinesDropped(lines), &[])?;
                write_frame(&mut output, &lost, &[]).await?;
            }
            write_frame(&mut output, &message, &[]).await?;
        }
    }
}

impl MetricsService for ActuatorClient {
    async fn answer(&self, request: MetricsRequest) -> MetricsReply {
        let unavailable = || {
            let text = "The process that has the metrics does not answer, try again later.\n";
            MetricsReply::plain(ReplyStatus::Unavailable, text)
        };
        let Ok(permit) = Arc::clone(&self.0.metrics).acquire_owned().await else {
            return unavailable();
        };
        let (sender, answer) = oneshot::channel();
        if self
            .ask(Question::Metrics(request), Reply::Metrics(sender), permit)
            .is_none()
        {
            return unavailable();
        }
        answer.await.unwrap_or_else(|_| unavailable())
    }
}

impl Inbox for ActuatorClient {
    fn deliver(&self, delivery: Delivery) -> Result<(), NotAccepted> {
        let permit = Arc::clone(&self.0.deliveries).try_acquire_owned();
        let permit = permit.map_err(|_| NotAccepted::Full)?;
        let bytes: usize = delivery.alerts.iter().map(Alert::bytes).sum();
        let client = self.clone();
        let ask = move || {
            let question = Question::Deliver(DeliveredAlerts::of(&delivery));
            client.ask(question, Reply::Receipt(delivery.reply), permit)
        };
        if bytes <= ENCODE_INLINE_BYTES {
            return ask().ok_or(NotAccepted::Stopped);
        }
        // A request whose reply is dropped is answered with 503.
        drop(tokio::task::spawn_blocking(ask));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::alert::{Source, Status};
    use crate::labels::Labels;
    use jiff::Timestamp;
    use std::time::Instant;

    fn asked(message: &[u8]) -> String {
        String::from_utf8_lossy(&message[..message.len().min(100)]).into_owned()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn access_rules_do_not_wait_for_scrapes() {
        let (client, mut outgoing) = ActuatorClient::new();
        for _ in 0..=MAX_METRICS {
            let client = client.clone();
            drop(tokio::spawn(
                async move { client.answer(MetricsRequest::Readiness).await },
            ));
        }
        for _ in 0..MAX_METRICS {
            assert!(asked(&outgoing.messages.recv().await.unwrap()).contains("Readiness"));
        }
        let webhook = client.clone();
        drop(tokio::spawn(async move { webhook.access(Listener::Webhook, 0).await }));
        drop(tokio::spawn(async move { client.access(Listener::Metrics, 0).await }));
        for listener in ["Webhook", "Metrics"] {
            assert!(asked(&outgoing.messages.recv().await.unwrap()).contains(listener));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn large_delivery_is_encoded_on_another_thread() {
        let (client, mut outgoing) = ActuatorClient::new();
        let delivery = |bytes: usize| Delivery {
            alerts: Arc::new(vec![Alert {
                labels: Labels::from([("a", "x".repeat(bytes))]),
                annotations: Labels::new(),
                status: Status::Firing,
                starts_at: Timestamp::UNIX_EPOCH,
                ends_at: None,
                fingerprint: "0123456789abcdef".into(),
                source: Source::Alertmanager,
                generator_url: None,
            }]),
            invalid: 0,
            truncated: 0,
            received_at: Instant::now(),
            reply: oneshot::channel().0,
        };
        client.deliver(delivery(10)).unwrap();
        assert!(outgoing.messages.try_recv().is_ok());
        client.deliver(delivery(64 * ENCODE_INLINE_BYTES)).unwrap();
        assert!(outgoing.messages.try_recv().is_err());
        let message = outgoing.messages.recv().await.unwrap();
        assert!(message.len() > 64 * ENCODE_INLINE_BYTES && asked(&message).contains("Deliver"));
    }
}
