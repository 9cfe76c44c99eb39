//! The webhook listener: decodes an HTTP request, passes the alerts to the engine, and responds with a status code.
//! Alertmanager retries only on 5xx and on transport errors. So 200 means that every decision is durable, and 503 that
//! the sender may retry the request.

use super::alert::{Alert, Source, Status};
use super::body_memory::{ArrivingBody, BodyMemory, BodyReservation};
use super::decode::{DecodeError, Envelope, decode};
use crate::http::log_limit::{LogLimit, Permit};
use crate::http::response::{self, HttpResponse};
use crate::http::{Access, BodyError, Denied, Peer, ServerLimits, discard, read_body, serve};
use crate::telemetry::Telemetry;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, ORIGIN};
use hyper::{Method, Request, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Maximum size of a body in bytes. An alert is about 500 bytes, so this is a group of about 8,000.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Memory for bodies in KiB, from the first byte to the receipt, which bounds the memory under an attack.
const MAX_BODIES_KIB: usize = 32 * 1024;

/// Timeout of a body. Alertmanager sends from memory.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of the engine's receipt. Alertmanager gives up after its group interval, in practice at least 10 s.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a refused body that are read and dropped, so that its sender sees the response.
const MAX_DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Number of alerts that are freed on the async worker.
const FEW_ALERTS: usize = 64;

/// Size above which bodies are decoded off the async worker, because 4 MiB take about ten milliseconds.
const DECODE_INLINE_BYTES: usize = 64 * 1024;

const RETRY_AFTER_SECONDS: u32 = 5;

/// The alerts of one request on their way to the engine.
#[derive(Debug)]
pub struct Delivery {
    /// Shared with the receiver until it has responded, if they are few.
    pub alerts: Arc<Vec<Alert>>,
    /// Number of entries that are no alerts. The receiver has logged them.
    pub invalid: usize,
    /// Number of alerts that Alertmanager left out.
    pub truncated: u64,
    /// The time at which the head of the request was complete.
    pub received_at: Instant,
    /// The reply to the request. Dropping it unused responds with 503.
    pub reply: oneshot::Sender<Receipt>,
}

/// The engine's receipt for a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receipt {
    /// Every decision about every alert is durable.
    Durable,
    /// The sender should retry. The string is the reason.
    Unavailable(String),
}

/// Why an inbox does not accept a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    #[error("the inbox is full")]
    Full,
    #[error("the actuator is off or has stopped")]
    Stopped,
}

/// The consumer of deliveries. It must not block, because it runs on an async worker.
pub trait Inbox: Send + Sync + 'static {
    /// Accepts a delivery.
    ///
    /// # Errors
    /// When the consumer refuses the delivery as a whole.
    fn deliver(&self, delivery: Delivery) -> Result<(), NotAccepted>;
}

/// A function that tries to send into a bounded queue.
impl<F: Fn(Delivery) -> Result<(), NotAccepted> + Send + Sync + 'static> Inbox for F {
    fn deliver(&self, delivery: Delivery) -> Result<(), NotAccepted> {
        self(delivery)
    }
}

/// An inbox that counts what the one behind it accepts, and passes nothing on that has no entries.
pub struct CountingInbox<I> {
    inbox: I,
    telemetry: Telemetry,
}

impl<I> CountingInbox<I> {
    pub fn new(inbox: I, telemetry: Telemetry) -> CountingInbox<I> {
        CountingInbox { inbox, telemetry }
    }
}

impl<I: Inbox> Inbox for CountingInbox<I> {
    fn deliver(&self, delivery: Delivery) -> Result<(), NotAccepted> {
        let truncated = delivery.truncated;
        if delivery.alerts.is_empty() && delivery.invalid == 0 {
            // There is no receiver when the request ended meanwhile.
            let _ = delivery.reply.send(Receipt::Durable);
            self.telemetry.alerts_truncated(truncated);
            return Ok(());
        }
        let firing = count_firing(&delivery.alerts);
        let resolved = delivery.alerts.len() - firing;
        self.inbox.deliver(delivery)?;
        // Counted once accepted, so that a retry of Alertmanager after a 503 is not counted twice.
        for (status, count) in [(Status::Firing, firing), (Status::Resolved, resolved)] {
            (0..count).for_each(|_| {
                self.telemetry
                    .alert_received(Source::Alertmanager.as_str(), status.as_str())
            });
        }
        self.telemetry.alerts_truncated(truncated);
        Ok(())
    }
}

fn count_firing(alerts: &[Alert]) -> usize {
    alerts.iter().filter(|alert| alert.status == Status::Firing).count()
}

/// Counts a response by its status code.
pub type CountResponse = Box<dyn Fn(u16) + Send + Sync>;

/// The webhook listener.
pub struct WebhookReceiver<I> {
    inbox: I,
    access: Access,
    count_response: CountResponse,
    bodies: BodyMemory,
    /// Log lines by status code: any peer can cause them.
    refusals: LogLimit<u16>,
}

/// The reason to refuse a request.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it has an Origin header; browsers are not allowed")]
    Origin,
    #[error("there is no such path; alerts go to POST /webhook")]
    Path,
    #[error("the method is not allowed here; use {allow}")]
    Method { allow: &'static str },
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("{0}; send application/json in UTF-8")]
    MediaType(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    fn to_response(&self) -> HttpResponse {
        let code = match self {
            Refusal::Origin => StatusCode::FORBIDDEN,
            Refusal::Path => StatusCode::NOT_FOUND,
            Refusal::Method { allow } => return response::method_not_allowed(allow),
            // Alertmanager drops a notification at 429, and sends it again at 503.
            Refusal::Denied(denied @ Denied::TooMany) => return response::unavailable(&denied.to_string(), 1),
            Refusal::Denied(denied) => return denied.to_response(),
            Refusal::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::Body(BodyError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Body(BodyError::TooSlow { .. }) => StatusCode::REQUEST_TIMEOUT,
            Refusal::Body(BodyError::BrokenOff(_)) | Refusal::Decode(_) => StatusCode::BAD_REQUEST,
            Refusal::Unavailable(reason) => return response::unavailable(reason, RETRY_AFTER_SECONDS),
        };
        response::text(code, &self.to_string())
    }
}

impl<I: Inbox> WebhookReceiver<I> {
    pub fn new(inbox: I, access: Access, count_response: CountResponse) -> WebhookReceiver<I> {
        WebhookReceiver {
            inbox,
            access,
            count_response,
            bodies: BodyMemory::new(MAX_BODIES_KIB),
            refusals: LogLimit::default(),
        }
    }

    /// Serves until `shutdown` is done and pending requests have their responses.
    pub async fn run(self, listener: TcpListener, limits: ServerLimits, shutdown: impl Future<Output = ()>) {
        let access = self.access.clone();
        let receiver = Arc::new(self);
        let service = move |request, peer| {
            let receiver = Arc::clone(&receiver);
            async move { receiver.answer(request, peer).await }
        };
        serve(listener, limits, access, service, shutdown).await;
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: Peer) -> HttpResponse {
        let answer = match self.take(&mut request).await {
            Ok(answer) => answer,
            Err(refusal) => {
                let answer = refusal.to_response();
                if let Some(Permit { left_out }) = self.refusals.permit(answer.status().as_u16()) {
                    tracing::warn!(
                        peer = %peer.address,
                        code = answer.status().as_u16(),
                        method = %request.method(),
                        path = shortened(request.uri().path()),
                        reason = %refusal,
                        left_out,
                        "webhook request refused"
                    );
                }
                // A client that expects 100 Continue waits for this response; reading on would request the body first.
                if !request.headers().contains_key(EXPECT) || request.body().size_hint().exact().is_none() {
                    discard(request.body_mut(), MAX_DISCARD_BYTES, DISCARD_TIMEOUT).await;
                }
                answer
            }
        };
        (self.count_response)(answer.status().as_u16());
        answer
    }

    async fn take(&self, request: &mut Request<Incoming>) -> Result<HttpResponse, Refusal> {
        let received_at = Instant::now();
        if request.headers().contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        match (request.uri().path(), request.method()) {
            ("/webhook" | "/", &Method::POST) => {}
            ("/webhook" | "/", _) => return Err(Refusal::Method { allow: "POST" }),
            // Health checks need no secret, because the answer says only that the daemon runs.
            ("/-/healthy", &Method::GET | &Method::HEAD) => {
                return Ok(response::text(StatusCode::OK, "evenkeel is healthy."));
            }
            ("/-/healthy", _) => return Err(Refusal::Method { allow: "GET, HEAD" }),
            _ => return Err(Refusal::Path),
        }
        self.access.admit(request.headers()).await?;
        is_json(request.headers()).map_err(Refusal::MediaType)?;
        let (memory, mut arriving) = self.reserve_memory(request.body()).await?;
        let body = tokio::select! {
            body = read_body(request.body_mut(), MAX_BODY_BYTES, BODY_TIMEOUT) => body?,
            () = arriving.must_give_way() => return Err(too_many_bodies()),
        };
        drop(arriving);
        let envelope = decode_aside(body).await?;
        self.hand_over(envelope, received_at, memory).await
    }

    /// Reserves memory for a body: its announced length, or for a chunked one the most that it may have.
    async fn reserve_memory(&self, body: &Incoming) -> Result<(BodyReservation, ArrivingBody), Refusal> {
        let bytes = body
            .size_hint()
            .exact()
            .map_or(MAX_BODY_BYTES, |exact| exact.min(MAX_BODY_BYTES as u64) as usize);
        let kib = bytes.div_ceil(1024) as u32; // at most MAX_BODY_BYTES / 1024
        self.bodies.reserve(kib).await.ok_or_else(too_many_bodies)
    }

    async fn hand_over(
        &self,
        envelope: Envelope,
        received_at: Instant,
        _room: BodyReservation,
    ) -> Result<HttpResponse, Refusal> {
        if envelope.truncated > 0 {
            tracing::warn!(
                truncated = envelope.truncated,
                group_key = shortened(&envelope.group_key),
                receiver = shortened(&envelope.receiver),
                "notification truncated by its sender, raise max_alerts of the receiver or group by more labels"
            );
        }
        let (mut alerts, mut invalid) = (Vec::with_capacity(envelope.alerts.len()), Vec::new());
        for entry in envelope.alerts {
            match entry {
                Ok(alert) => alerts.push(alert),
                Err(entry) => invalid.push(entry),
            }
        }
        if let Some(first) = invalid.first() {
            // One log line for all entries, because a request may contain thousands.
            tracing::warn!(
                invalid = invalid.len(),
                valid = alerts.len(),
                group_key = shortened(&envelope.group_key),
                first = %first,
                "webhook request with invalid alerts"
            );
        }
        tracing::debug!(
            alerts = alerts.len(),
            firing = count_firing(&alerts),
            group_key = shortened(&envelope.group_key),
            "webhook request"
        );
        let said = match (alerts.is_empty(), invalid.first()) {
            (true, None) => "ok: no alerts".to_owned(),
            // The reason is for people who send a request by hand; Alertmanager ignores it.
            (_, Some(first)) => format!("ok: {} alerts, {} invalid: {first}", alerts.len(), invalid.len()),
            (false, None) => format!("ok: {} alerts, 0 invalid", alerts.len()),
        };
        let (reply, receipt) = oneshot::channel();
        let alerts = Arc::new(alerts);
        // The allocating thread frees the alerts, because two threads would contend for the heap, except if freeing
        // takes long.
        let _kept = (alerts.len() <= FEW_ALERTS).then(|| Arc::clone(&alerts));
        self.inbox
            .deliver(Delivery {
                alerts,
                invalid: invalid.len(),
                truncated: envelope.truncated,
                received_at,
                reply,
            })
            .map_err(|reason| Refusal::Unavailable(reason.to_string()))?;
        match tokio::time::timeout(RECEIPT_TIMEOUT, receipt).await {
            Ok(Ok(Receipt::Durable)) => Ok(response::text(StatusCode::OK, &said)),
            Ok(Ok(Receipt::Unavailable(reason))) => Err(Refusal::Unavailable(reason)),
            Ok(Err(_)) => Err(Refusal::Unavailable("the engine gave no answer".to_owned())),
            Err(_) => Err(Refusal::Unavailable("the engine is too slow".to_owned())),
        }
    }
}

fn too_many_bodies() -> Refusal {
    Refusal::Unavailable("too many requests at once".to_owned())
}

async fn decode_aside(body: Bytes) -> Result<Envelope, Refusal> {
    if body.len() <= DECODE_INLINE_BYTES {
        return Ok(decode(&body, Timestamp::now())?);
    }
    match tokio::task::spawn_blocking(move || decode(&body, Timestamp::now())).await {
        Ok(decoded) => Ok(decoded?),
        // Only a runtime in shutdown refuses tasks.
        Err(_) => Err(Refusal::Unavailable("evenkeel is stopping".to_owned())),
    }
}

/// Whether the head announces plain JSON in UTF-8. The error says what it announces instead.
fn is_json(headers: &HeaderMap) -> Result<(), String> {
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err("the body has a Content-Encoding".to_owned());
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| "the Content-Type is not ASCII".to_owned())?,
        (None, _) => return Err("there is no Content-Type".to_owned()),
        (Some(_), Some(_)) => return Err("there is more than one Content-Type".to_owned()),
    };
    let mut parts = value.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(format!("the Content-Type is {:?}", shortened(media_type)));
    }
    for parameter in parts {
        let (name, charset) = parameter.split_once('=').unwrap_or((parameter, ""));
        let charset = charset.trim().trim_matches('"');
        if name.trim().eq_ignore_ascii_case("charset") && !["utf-8", "utf8"].contains(&&*charset.to_ascii_lowercase()) {
            return Err(format!("the charset is {:?}", shortened(charset)));
        }
    }
    Ok(())
}

/// The first hundred characters of a string from outside, for a log line.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(100).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests;
