//! The life cycle of an allocation: the state after each response, and the next request. Pure.

use super::grant_response::{self, Failure, shown};
use super::requests::begin_release;
use crate::host::job::{Report, Request};
use crate::ledger::{Allocation, GrantState, Outcome, RetryState, UnnamedGrant};
use crate::telemetry::GRANT_EXPIRES;
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
            _ => (word, GRANT_EXPIRES.to_owned(), None),
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
            AllocatorCall::Ask => match grant_response::read(self, report) {
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
        let (grant, outcome) = self.grant_after_failure(was_in_doubt, failure.is_no, now);
        let unnamed = match &self.grant {
            GrantState::Requested { .. } if failure.is_unnamed => {
                let before = self.unnamed.as_ref().map_or(0, |unnamed| unnamed.answers);
                Some(UnnamedGrant {
                    answers: before.saturating_add(1),
                    problem: failure.reason.clone(),
                    body: failure.output.clone().unwrap_or_default(),
                })
            }
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
        let end = is_ending
            .then(|| next.end_after_failure(failure.is_no && failure.is_final))
            .flatten();
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

    fn grant_after_failure(&self, was_in_doubt: bool, is_no: bool, now: Duration) -> (GrantState, Outcome) {
        let GrantState::Granted {
            resource,
            until,
            lapsed,
        } = &self.grant
        else {
            let in_doubt = was_in_doubt || !is_no;
            return (GrantState::Requested { in_doubt }, Outcome::Failed);
        };
        let is_over = until.is_some_and(|until| until <= now);
        let outcome = match is_over && !lapsed {
            true => Outcome::Expired,
            false => Outcome::Failed,
        };
        let grant = GrantState::Granted {
            resource: resource.clone(),
            until: *until,
            lapsed: *lapsed || is_over,
        };
        (grant, outcome)
    }

    /// What to say where the failed request was the last one of an allocation that ends; `None` if another one follows.
    /// `is_final`: no request with this key will be granted. A grant is over only after the response to its release.
    fn end_after_failure(&self, is_final: bool) -> Option<String> {
        let key = &self.ask.key;
        match self.grant {
            GrantState::Granted { .. } => None,
            GrantState::Requested { in_doubt: false } => Some(String::new()),
            _ if is_final => Some(format!(
                "; an earlier request may have been granted under the Idempotency-Key {key}"
            )),
            _ if self.release.is_some() && self.is_nameless() => Some(format!("; {}", self.nameless_advice())),
            _ if self.retry.failures >= MAX_RETURNS => Some(format!(
                "; no further retries after {MAX_RETURNS} attempts: find the grant under the Idempotency-Key {key} and \
                 give it back by hand"
            )),
            _ => None,
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
