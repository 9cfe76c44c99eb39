//! The life of an allocation: what is asked, what an answer means, what comes next. Pure: requests are sent elsewhere.

use crate::diagnostic::printable;
use crate::host::errand::{Report, Request};
use crate::ledger::{Allocation, Course, Episode, Outcome, Release, Stage};
use crate::rule::errand::{Allocate, Body};
use crate::template::{self, Piece};
use serde_json::{Value, json};
use std::time::Duration;

/// After the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest time between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// A server that asks for more is not waited for longer than that.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// After so many tries, which take most of a day, what cannot be given back is left to people.
const MAX_RETURNS: u32 = 300;
/// A grant is renewed when this part of its time is over, so that there is time left for failures.
const RENEW_AFTER: f64 = 2.0 / 3.0;
/// Longer than that is no name of a resource.
const MAX_RESOURCE_BYTES: usize = 1024;
/// What is kept of an answer that cannot be used.
const MAX_SHOWN_BYTES: usize = 256;
/// Answers of the 4xx class that say nothing about the grant: who asks is not known (any more), or comes too soon.
const UNDECIDED: [u16; 8] = [401, 403, 407, 408, 409, 421, 425, 429];

/// What an allocation asks its server for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// The first time, again after a failure, or to renew it.
    Ask,
    GiveBack,
}

/// What an answer leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// What is held from now on; `None` when it is over.
    pub allocation: Option<Allocation>,
    pub outcome: Outcome,
    pub reason: String,
    /// The first bytes of an answer that could not be used.
    pub output: Option<String>,
    /// False where nothing changed, as when a grant was renewed.
    pub is_news: bool,
    /// An earlier grant that the new one does not stand for, to be given back.
    pub left_over: Option<Allocation>,
}

/// The allocation that a step asks for in an episode. `resource` is what an earlier step was granted.
///
/// # Errors
/// When a label is missing, or does not fit where it would be put.
pub fn plan(step: &Allocate, episode: &Episode, resource: Option<&str>, key: String) -> Result<Allocation, String> {
    let labels = &episode.labels;
    let url = template::fill(&step.url, labels, resource, encode_segment).map_err(|missing| missing.to_string())?;
    let body = match &step.body {
        Body::None => None,
        Body::Alert => Some(alert(episode)),
        Body::Shape(shape) => {
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
            // Found out before anything is asked for, not when it must be given back.
            give_back(&release, "x", "")?;
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
        stage: Stage::Requested { in_doubt: true },
        course: Course::default(),
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
fn give_back(release: &Release, resource: &str, key: &str) -> Result<Request, String> {
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
        // A request of its own, and the same at each try.
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

/// A URL of filled pieces. Dots cannot be encoded away: servers and proxies take `%2e%2e` for `..` too (WHATWG URL,
/// "double-dot path segment").
fn address(pieces: &[Piece]) -> Result<String, String> {
    let url = template::text(pieces).map_err(|missing| missing.to_string())?;
    let path = url.split('?').next().unwrap_or_default();
    let climbs = |segment: &str| matches!(segment.to_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split('/').any(climbs) {
        return Err(format!("{:?} would lead to another place of the server", url));
    }
    Ok(url)
}

impl Allocation {
    /// What is to be asked of the server next, and the request; `None` where there is nothing to ask for.
    pub fn next_errand(&self) -> Option<(Errand, Request)> {
        let ask = Some((Errand::Ask, self.ask.clone()));
        match (&self.stage, self.course.ending) {
            (_, None) => ask,
            (Stage::Requested { in_doubt: true }, Some(_)) => ask,
            (Stage::Requested { in_doubt: false }, Some(_)) => None,
            (Stage::Granted { resource, .. }, Some(_)) => {
                let release = give_back(self.release.as_ref()?, resource, &self.ask.key).ok()?;
                Some((Errand::GiveBack, release))
            }
        }
    }

    /// What an answer leads to. `was_in_doubt`: an earlier request for it may have been granted without our knowing.
    pub fn hear(&self, errand: Errand, was_in_doubt: bool, report: &Report, now: Duration) -> Heard {
        let mut heard = match errand {
            Errand::Ask => match self.read(report) {
                Ok((resource, ttl)) => self.granted(resource, ttl, now),
                Err(failure) => self.not_granted(was_in_doubt, failure, now),
            },
            Errand::GiveBack => self.given_back(report, now),
        };
        if let Report::Answered {
            retry_after: Some(wait),
            ..
        } = report
            && let Some(Allocation { course, .. }) = &mut heard.allocation
            && course.failures > self.course.failures
        {
            course.next = course.next.max(now.saturating_add(*wait.min(&MAX_RETRY_AFTER)));
        }
        heard
    }

    /// Resource and time to live in an answer.
    fn read(&self, report: &Report) -> Result<(String, Option<Duration>), Failure> {
        let (status, body) = match report {
            Report::Answered { status, body, .. } => (*status, body),
            Report::Unanswered { reason, was_sent } => return Err(Failure::new(reason.clone(), !was_sent)),
            Report::Ended { .. } | Report::NotStarted { .. } => return Err(Failure::new("no answer", true)),
        };
        let fail = |problem: &str, is_no: bool| {
            Err(Failure {
                reason: format!("status {status}: {problem}"),
                output: Some(shown(body)),
                is_no,
                is_final: (400..500).contains(&status) && !UNDECIDED.contains(&status),
            })
        };
        match status {
            200..300 => {}
            300..400 => return fail("a redirect, which is not followed", true),
            400..500 => return fail("refused", true),
            _ => return fail("the server failed", false),
        }
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return fail("the answer is not JSON", false);
        };
        let resource = match answer.pointer(&self.resource_at) {
            None => return fail(&format!("the answer has nothing at {:?}", self.resource_at), false),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => {
                return fail(
                    &format!("what is at {:?} is no text and no number", self.resource_at),
                    false,
                );
            }
        };
        if resource.is_empty() || resource.len() > MAX_RESOURCE_BYTES || resource.chars().any(char::is_control) {
            return fail("what it names is no name of a resource", false);
        }
        if let Some(release) = &self.release
            && let Err(problem) = give_back(release, &resource, "")
        {
            return fail(&problem, false);
        }
        let seconds = self.ttl_at.as_ref().and_then(|at| match answer.pointer(at)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        });
        let ttl = seconds.filter(|seconds| *seconds > 0.0);
        Ok((resource, ttl.and_then(|ttl| Duration::try_from_secs_f64(ttl).ok())))
    }

    fn granted(&self, resource: String, ttl: Option<Duration>, now: Duration) -> Heard {
        let left_over = match &self.stage {
            Stage::Granted { resource: former, .. } if *former != resource => Some(Allocation {
                course: Course {
                    next: now,
                    failures: 0,
                    ending: Some(Outcome::Released),
                },
                ..self.clone()
            }),
            _ => None,
        };
        let is_renewed = matches!(self.stage, Stage::Granted { lapsed: false, .. }) && left_over.is_none();
        let reason = match (&self.ttl_at, ttl) {
            (Some(at), None) => format!("no number of seconds at {at:?}: it is taken to last"),
            (_, Some(ttl)) => format!("for {} s", ttl.as_secs_f64()),
            (None, None) => String::new(),
        };
        let renewal = ttl.map_or(Duration::MAX, |ttl| {
            now.saturating_add(ttl.mul_f64(RENEW_AFTER).max(FIRST_PAUSE))
        });
        let allocation = Allocation {
            stage: Stage::Granted {
                resource,
                until: ttl.map(|ttl| now.saturating_add(ttl)),
                lapsed: false,
            },
            course: Course {
                next: if self.course.ending.is_some() { now } else { renewal },
                failures: 0,
                ..self.course
            },
            ..self.clone()
        };
        Heard {
            allocation: Some(allocation),
            outcome: Outcome::Granted,
            reason,
            output: None,
            is_news: !is_renewed,
            left_over,
        }
    }

    fn not_granted(&self, was_in_doubt: bool, failure: Failure, now: Duration) -> Heard {
        let course = match (&self.stage, self.course.ending) {
            // It was only to be renewed, and now is to be given back.
            (Stage::Granted { .. }, Some(_)) => Course {
                next: now,
                ..self.course
            },
            _ => self.failed(now),
        };
        let is_over_now = |until: &Option<Duration>| until.is_some_and(|until| until <= now);
        let (stage, outcome) = match &self.stage {
            Stage::Requested { .. } => {
                let in_doubt = was_in_doubt || !failure.is_no;
                (Stage::Requested { in_doubt }, Outcome::Failed)
            }
            Stage::Granted {
                resource,
                until,
                lapsed,
            } => {
                let outcome = if is_over_now(until) && !lapsed {
                    Outcome::Expired
                } else {
                    Outcome::Failed
                };
                let stage = Stage::Granted {
                    resource: resource.clone(),
                    until: *until,
                    lapsed: *lapsed || is_over_now(until),
                };
                (stage, outcome)
            }
        };
        let is_ungranted = matches!(stage, Stage::Requested { in_doubt: false });
        // The answer to a renewal says nothing about the grant that stands: that is over when its release was answered.
        let is_requested = matches!(stage, Stage::Requested { .. });
        let is_over =
            self.course.ending.is_some() && is_requested && (is_ungranted || (failure.is_no && failure.is_final));
        let mut reason = failure.reason;
        if outcome == Outcome::Expired {
            reason = format!("the grant has run out and was not renewed: {reason}");
        }
        if is_over && !is_ungranted {
            reason.push_str(&format!(
                "; if an earlier request was granted, it was so under the Idempotency-Key {}",
                self.ask.key
            ));
        }
        Heard {
            allocation: (!is_over).then(|| Allocation {
                stage,
                course,
                ..self.clone()
            }),
            outcome,
            reason,
            output: failure.output,
            is_news: true,
            left_over: None,
        }
    }

    fn given_back(&self, report: &Report, now: Duration) -> Heard {
        let (is_back, mut reason, output) = match report {
            Report::Answered { status: 200..300, .. } => (true, String::new(), None),
            Report::Answered {
                status: status @ (404 | 410),
                ..
            } => (true, format!("status {status}: it is gone already"), None),
            Report::Answered { status, body, .. } => (
                false,
                format!("status {status}: it could not be given back"),
                Some(shown(body)),
            ),
            Report::Unanswered { reason, .. } => (false, reason.clone(), None),
            Report::Ended { .. } | Report::NotStarted { .. } => (false, "no answer".to_owned(), None),
        };
        let is_given_up = self.course.failures + 1 >= MAX_RETURNS;
        let ending = self.course.ending.unwrap_or(Outcome::Released);
        if !is_back && is_given_up {
            let resource = self.resource().unwrap_or_default();
            reason.push_str(&format!(
                "; it is not tried again after {MAX_RETURNS} times: give {resource:?} back by hand"
            ));
        }
        Heard {
            allocation: (!is_back && !is_given_up).then(|| Allocation {
                course: self.failed(now),
                ..self.clone()
            }),
            outcome: if is_back { ending } else { Outcome::Failed },
            reason,
            output,
            is_news: true,
            left_over: None,
        }
    }

    /// The next try, after one that failed.
    fn failed(&self, now: Duration) -> Course {
        Course {
            next: now.saturating_add(pause(self.course.failures, &self.ask.key)),
            failures: self.course.failures.saturating_add(1),
            ..self.course
        }
    }
}

/// Why nothing was granted.
struct Failure {
    reason: String,
    output: Option<String>,
    /// This request was surely not granted.
    is_no: bool,
    /// And no other one with its key will be.
    is_final: bool,
}

impl Failure {
    fn new(reason: impl Into<String>, is_no: bool) -> Failure {
        Failure {
            reason: reason.into(),
            output: None,
            is_no,
            is_final: false,
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

/// The first bytes of what came from outside, fit for a terminal.
pub fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(MAX_SHOWN_BYTES)];
    let dots = if bytes.len() > start.len() { "…" } else { "" };
    printable(&String::from_utf8_lossy(start)) + dots
}
