//! The life cycle of an allocation: its requests, the meaning of each response, and the next step. Pure: `host` sends
//! the requests.

use super::{Allocate, Body};
use crate::diagnostic::printable;
use crate::host::job::{Report, Request};
use crate::ledger::{Allocation, Episode, GrantState, Outcome, Release, RetryState, UnnamedGrant};
use crate::template::{self, Segment};
use serde_json::{Value, json};
use std::time::Duration;

/// Delay after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest delay between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Longest delay that a server can ask for with Retry-After.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Attempts, which take most of a day, after which a failing release is left to an operator, and so is a possible grant whose
/// response was lost.
const MAX_RETURNS: u32 = 300;
/// Responses without a name after which evenkeel stops asking once the alert is over, because an allocator that ignores the key
/// would grant a resource with each request. Five take a quarter of a minute.
const MAX_UNNAMED: u32 = 5;
/// Part of its time after which a grant is renewed, so that time is left for failures.
const RENEW_AFTER: f64 = 2.0 / 3.0;
/// Longest name of a resource.
const MAX_RESOURCE_BYTES: usize = 1024;
/// Length up to which an unusable response is recorded.
const MAX_SHOWN_BYTES: usize = 256;
/// 4xx codes that say nothing about the grant: failed authentication, or too many requests.
const UNDECIDED: [u16; 8] = [401, 403, 407, 408, 409, 421, 425, 429];

/// A request of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocatorCall {
    /// For a new grant, after a failure, or to renew it.
    Ask,
    GiveBack,
}

/// The effect of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct JobUpdate {
    /// The new state of the lease; `None` if it is over.
    pub allocation: Option<Allocation>,
    pub outcome: Outcome,
    pub reason: String,
    /// The first bytes of an unusable response.
    pub output: Option<String>,
    /// False if nothing changed, as with a renewal.
    pub is_news: bool,
    /// An earlier grant that the new one does not replace, to be released.
    pub left_over: Option<Allocation>,
}

/// The allocation of a step in an episode. `resource` is the grant of an earlier step.
///
/// # Errors
/// When a label is missing, or is invalid at its place.
pub fn plan(step: &Allocate, episode: &Episode, resource: Option<&str>, key: String) -> Result<Allocation, String> {
    let labels = &episode.labels;
    let url = template::fill(&step.url, labels, resource, encode_segment).map_err(|missing| missing.to_string())?;
    let body = match &step.body {
        Body::None => None,
        Body::Alert => Some(alert(episode)),
        Body::JsonTemplate(shape) => {
            let filled = shape.fill(labels, resource).and_then(|shape| shape.value());
            Some(filled.map_err(|missing| missing.to_string())?)
        }
    };
    let release = match &step.release {
        None => None,
        Some(release) => {
            let url = template::fill(&release.url, labels, None, encode_segment);
            let body = release.body.as_ref().map(|shape| shape.fill(labels, None)).transpose();
            let release = Release {
                method: release.method.clone(),
                url: url.map_err(|missing| missing.to_string())?,
                body: body.map_err(|missing| missing.to_string())?,
            };
            // Checked before the first request, not at the release.
            begin_release(&release, "x", "")?;
            Some(release)
        }
    };
    Ok(Allocation {
        step: step.to_string(),
        ask: Request {
            method: step.method.clone(),
            url: address(&url)?,
            body: body.map(|body| body.to_string()),
            key,
        },
        server: step.server.clone(),
        resource_at: step.resource_at.clone(),
        ttl_at: step.ttl_at.clone(),
        release,
        grant: GrantState::Requested { in_doubt: true },
        unnamed: None,
        retry: RetryState::default(),
    })
}

/// The alert as a body, in the words of Alertmanager's webhook.
fn alert(episode: &Episode) -> Value {
    json!({
        "status": "firing",
        "labels": episode.labels,
        "annotations": episode.annotations,
        "startsAt": episode.starts_at,
        "fingerprint": episode.key.fingerprint,
    })
}

/// The request that gives a resource back.
///
/// # Errors
/// When the resource does not fit into the URL.
fn begin_release(release: &Release, resource: &str, key: &str) -> Result<Request, String> {
    let labels = Default::default();
    let url = template::fill(&release.url, &labels, Some(resource), encode_segment);
    let body = release.body.as_ref().map(|shape| {
        let filled = shape.fill(&labels, Some(resource)).and_then(|shape| shape.value());
        filled.map(|value| value.to_string())
    });
    Ok(Request {
        method: release.method.clone(),
        url: address(&url.map_err(|missing| missing.to_string())?)?,
        body: body.transpose().map_err(|missing| missing.to_string())?,
        // A separate request, and the same at each attempt.
        key: format!("{key}-release"),
    })
}

/// Percent-encodes all but the unreserved characters of RFC 3986, so that a value stays one segment.
fn encode_segment(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The URL of a template with its labels. Dots cannot be encoded away: servers and proxies take `%2e%2e` for `..` too (WHATWG URL,
/// "double-dot path segment").
fn address(pieces: &[Segment]) -> Result<String, String> {
    let url = template::text(pieces).map_err(|missing| missing.to_string())?;
    let path = url.split('?').next().unwrap_or_default();
    let targets = |segment: &str| matches!(segment.to_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split('/').any(targets) {
        return Err(format!("{:?} points outside the path of the rule", url));
    }
    Ok(url)
}

impl Allocation {
    /// The next request; `None` if there is none.
    pub fn next_job(&self) -> Option<(AllocatorCall, Request)> {
        let ask = (AllocatorCall::Ask, self.ask.clone());
        match (&self.grant, self.retry.ending) {
            (_, None) => Some(ask),
            // To learn the resource that must be released.
            (GrantState::Requested { in_doubt: true }, Some(_)) if self.release.is_some() && !self.is_nameless() => {
                Some(ask)
            }
            (GrantState::Requested { .. }, Some(_)) => None,
            (GrantState::Granted { resource, .. }, Some(_)) => {
                let release = begin_release(self.release.as_ref()?, resource, &self.ask.key).ok()?;
                Some((AllocatorCall::GiveBack, release))
            }
        }
    }

    /// Whether no further response is expected to name the grant.
    fn is_nameless(&self) -> bool {
        let unnamed = self.unnamed.as_ref();
        unnamed.is_some_and(|unnamed| unnamed.answers >= MAX_UNNAMED)
    }

    /// The end without a further request: the outcome, the reason, and the last response. `word` is the outcome if no release is
    /// needed.
    pub fn end_unasked(&self, word: Outcome) -> (Outcome, String, Option<String>) {
        match (&self.grant, &self.unnamed) {
            (GrantState::Requested { in_doubt: false }, _) => {
                (Outcome::Cancelled, "nothing was granted".to_owned(), None)
            }
            (GrantState::Requested { in_doubt: true }, Some(unnamed)) if self.release.is_some() => {
                let reason = format!("{}; {}", unnamed.problem, self.nameless_advice());
                (Outcome::Failed, reason, Some(unnamed.body.clone()))
            }
            _ => (word, "no release; the grant expires".to_owned(), None),
        }
    }

    /// The reason for a lease that an operator drops.
    pub fn dropped(&self) -> String {
        match self.resource() {
            Some(resource) => format!("{resource:?} was not released"),
            None => format!(
                "a possible grant under the Idempotency-Key {} was not released",
                self.ask.key
            ),
        }
    }

    fn nameless_advice(&self) -> String {
        format!(
            "the granted resource is unknown and not requested again: find the grant under the \
             Idempotency-Key {} and give it back by hand",
            self.ask.key
        )
    }

    /// The effect of a response. `was_in_doubt`: an earlier request may have been granted.
    pub fn after_report(&self, job: AllocatorCall, was_in_doubt: bool, report: &Report, now: Duration) -> JobUpdate {
        let mut update = match job {
            AllocatorCall::Ask => match self.read(report) {
                Ok((resource, ttl)) => self.granted(resource, ttl, now),
                Err(failure) => self.not_granted(was_in_doubt, failure, now),
            },
            AllocatorCall::GiveBack => self.given_back(report, now),
        };
        if let Report::Answered {
            retry_after: Some(wait),
            ..
        } = report
            && let Some(Allocation { retry, .. }) = &mut update.allocation
            && retry.failures > self.retry.failures
        {
            retry.next = retry.next.max(now.saturating_add(*wait.min(&MAX_RETRY_AFTER)));
        }
        update
    }

    /// Resource and time to live of a response.
    fn read(&self, report: &Report) -> Result<(String, Option<Duration>), Failure> {
        let (status, body) = match report {
            Report::Answered { status, body, .. } => (*status, body),
            Report::Unanswered { reason, was_sent } => return Err(Failure::new(reason.clone(), !was_sent)),
            Report::Ended { .. } | Report::NotStarted { .. } | Report::Lost { .. } => {
                return Err(Failure::new("no answer", true));
            }
        };
        let fail = |problem: &str, is_no: bool| {
            Err(Failure {
                reason: format!("status {status}: {problem}"),
                output: Some(shown(body)),
                is_no,
                is_final: (400..500).contains(&status) && !UNDECIDED.contains(&status),
                is_unnamed: false,
            })
        };
        let unnamed = |problem: &str| {
            fail(problem, false).map_err(|failure| Failure {
                is_unnamed: true,
                ..failure
            })
        };
        match status {
            200..300 => {}
            300..400 => return fail("a redirect, which evenkeel does not follow", true),
            400..500 => return fail("refused", true),
            _ => return fail("the server failed", false),
        }
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return fail("the response is not JSON", false);
        };
        let resource = match answer.pointer(&self.resource_at) {
            None => return unnamed(&format!("the response has no value at {:?}", self.resource_at)),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => {
                return unnamed(&format!(
                    "the value at {:?} is neither a string nor a number",
                    self.resource_at
                ));
            }
        };
        if resource.is_empty() || resource.len() > MAX_RESOURCE_BYTES || resource.chars().any(char::is_control) {
            return unnamed(&format!(
                "the value at {:?} is not a name of a resource",
                self.resource_at
            ));
        }
        if let Some(release) = &self.release
            && let Err(problem) = begin_release(release, &resource, "")
        {
            return unnamed(&format!(
                "the resource at {:?} cannot be released: {problem}",
                self.resource_at
            ));
        }
        let seconds = self.ttl_at.as_ref().and_then(|at| match answer.pointer(at)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        });
        let ttl = seconds.filter(|seconds| *seconds > 0.0);
        Ok((resource, ttl.and_then(|ttl| Duration::try_from_secs_f64(ttl).ok())))
    }

    fn granted(&self, resource: String, ttl: Option<Duration>, now: Duration) -> JobUpdate {
        let left_over = match &self.grant {
            GrantState::Granted { resource: former, .. } if *former != resource => Some(Allocation {
                // Each release needs a key of its own, or the allocator may take the second for a repeat of the first.
                ask: Request {
                    key: format!("{}-{:x}", self.ask.key, now.as_nanos()),
                    ..self.ask.clone()
                },
                retry: RetryState {
                    next: now,
                    failures: 0,
                    ending: Some(Outcome::Released),
                    is_by_hand: false,
                },
                ..self.clone()
            }),
            _ => None,
        };
        let is_renewed = matches!(self.grant, GrantState::Granted { lapsed: false, .. }) && left_over.is_none();
        let reason = match (&self.ttl_at, ttl) {
            (Some(at), None) => format!("no number of seconds at {at:?}; assuming that the grant does not expire"),
            (_, Some(ttl)) => format!("for {} s", ttl.as_secs_f64()),
            (None, None) => String::new(),
        };
        let renewal = ttl.map_or(Duration::MAX, |ttl| {
            now.saturating_add(ttl.mul_f64(RENEW_AFTER).max(FIRST_PAUSE))
        });
        let allocation = Allocation {
            grant: GrantState::Granted {
                resource,
                until: ttl.map(|ttl| now.saturating_add(ttl)),
                lapsed: false,
            },
            unnamed: None,
            retry: RetryState {
                next: if self.retry.ending.is_some() { now } else { renewal },
                failures: 0,
                ..self.retry
            },
            ..self.clone()
        };
        JobUpdate {
            allocation: Some(allocation),
            outcome: Outcome::Granted,
            reason,
            output: None,
            is_news: !is_renewed,
            left_over,
        }
    }

    fn not_granted(&self, was_in_doubt: bool, failure: Failure, now: Duration) -> JobUpdate {
        let is_ending = self.retry.ending.is_some();
        let retry = match &self.grant {
            // A renewal was in flight, and the resource must be released now. Without a release the name is not needed.
            GrantState::Granted { .. } if is_ending => self.retry.at(now),
            GrantState::Requested { .. } if is_ending && self.release.is_none() => self.retry.at(now),
            _ => self.failed(now),
        };
        let is_over_now = |until: &Option<Duration>| until.is_some_and(|until| until <= now);
        let (grant, outcome) = match &self.grant {
            GrantState::Requested { .. } => {
                let in_doubt = was_in_doubt || !failure.is_no;
                (GrantState::Requested { in_doubt }, Outcome::Failed)
            }
            GrantState::Granted {
                resource,
                until,
                lapsed,
            } => {
                let outcome = if is_over_now(until) && !lapsed {
                    Outcome::Expired
                } else {
                    Outcome::Failed
                };
                let grant = GrantState::Granted {
                    resource: resource.clone(),
                    until: *until,
                    lapsed: *lapsed || is_over_now(until),
                };
                (grant, outcome)
            }
        };
        let unnamed = match &self.grant {
            GrantState::Requested { .. } if failure.is_unnamed => Some(UnnamedGrant {
                answers: self
                    .unnamed
                    .as_ref()
                    .map_or(0, |unnamed| unnamed.answers)
                    .saturating_add(1),
                problem: failure.reason.clone(),
                body: failure.output.clone().unwrap_or_default(),
            }),
            _ => self.unnamed.clone(),
        };
        let next = Allocation {
            grant,
            unnamed,
            retry,
            ..self.clone()
        };
        let mut reason = failure.reason;
        if outcome == Outcome::Expired {
            reason = format!("the grant expired and was not renewed: {reason}");
        }
        // A grant is over only after the response to its release.
        let end = match next.grant {
            _ if !is_ending => None,
            GrantState::Granted { .. } => None,
            GrantState::Requested { in_doubt: false } => Some(String::new()),
            GrantState::Requested { in_doubt: true } if failure.is_no && failure.is_final => Some(format!(
                "; an earlier request may have been granted under the Idempotency-Key {}",
                self.ask.key
            )),
            GrantState::Requested { in_doubt: true } if next.release.is_some() && next.is_nameless() => {
                Some(format!("; {}", next.nameless_advice()))
            }
            GrantState::Requested { in_doubt: true } if retry.failures >= MAX_RETURNS => Some(format!(
                "; no further retries after {MAX_RETURNS} attempts: find the grant under the Idempotency-Key {} and \
                 give it back by hand",
                self.ask.key
            )),
            GrantState::Requested { in_doubt: true } => None,
        };
        reason.push_str(end.as_deref().unwrap_or_default());
        JobUpdate {
            allocation: end.is_none().then_some(next),
            outcome,
            reason,
            output: failure.output,
            is_news: true,
            left_over: None,
        }
    }

    fn given_back(&self, report: &Report, now: Duration) -> JobUpdate {
        let (is_back, mut reason, output) = match report {
            Report::Answered { status: 200..300, .. } => (true, String::new(), None),
            Report::Answered {
                status: status @ (404 | 410),
                ..
            } => (true, format!("status {status}: already released"), None),
            Report::Answered { status, body, .. } => {
                (false, format!("status {status}: not released"), Some(shown(body)))
            }
            Report::Unanswered { reason, .. } => (false, reason.clone(), None),
            Report::Ended { .. } | Report::NotStarted { .. } | Report::Lost { .. } => {
                (false, "no answer".to_owned(), None)
            }
        };
        let is_given_up = self.retry.failures + 1 >= MAX_RETURNS;
        let ending = self.retry.ending.unwrap_or(Outcome::Released);
        if !is_back && is_given_up {
            let resource = self.resource().unwrap_or_default();
            reason.push_str(&format!(
                "; no further retries after {MAX_RETURNS} attempts: release {resource:?} by hand"
            ));
        }
        JobUpdate {
            allocation: (!is_back && !is_given_up).then(|| Allocation {
                retry: self.failed(now),
                ..self.clone()
            }),
            outcome: if is_back { ending } else { Outcome::Failed },
            reason,
            output,
            is_news: true,
            left_over: None,
        }
    }

    /// The next attempt after a failed one.
    fn failed(&self, now: Duration) -> RetryState {
        RetryState {
            next: now.saturating_add(pause(self.retry.failures, &self.ask.key)),
            failures: self.retry.failures.saturating_add(1),
            ..self.retry
        }
    }
}

/// The reason why nothing was granted.
struct Failure {
    reason: String,
    output: Option<String>,
    /// Whether this request was certainly not granted.
    is_no: bool,
    /// Whether no other request with this key will be granted.
    is_final: bool,
    /// Whether a resource without a usable name was granted.
    is_unnamed: bool,
}

impl Failure {
    fn new(reason: impl Into<String>, is_no: bool) -> Failure {
        Failure {
            reason: reason.into(),
            output: None,
            is_no,
            is_final: false,
            is_unnamed: false,
        }
    }
}

/// How long to wait after so many failures before this one. Jittered by the key, so that many hosts whose server fails
/// do not come back all at once, and yet the same at every replay.
pub fn pause(failures: u32, key: &str) -> Duration {
    let whole = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures.min(16)))
        .min(MAX_PAUSE);
    // FNV-1a.
    let hash = key
        .bytes()
        .chain(failures.to_be_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    whole.mul_f64(0.75 + 0.25 * f64::from(hash % 1024) / 1024.0)
}

/// The first bytes of a string from outside, safe for a terminal.
pub fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(MAX_SHOWN_BYTES)];
    let dots = if bytes.len() > start.len() { "…" } else { "" };
    printable(&String::from_utf8_lossy(start)) + dots
}
