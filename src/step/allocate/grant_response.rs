//! The response to a request for a grant: the resource and its time to live, or why nothing was granted. Pure.

use super::requests::begin_release;
use crate::diagnostic::printable;
use crate::host::job::Report;
use crate::ledger::Allocation;
use serde_json::Value;
use std::time::Duration;

/// Longest name of a resource.
const MAX_RESOURCE_BYTES: usize = 1024;
/// Length up to which an unusable response is recorded.
const MAX_SHOWN_BYTES: usize = 256;
/// 4xx codes that say nothing about the grant: failed authentication, or too many requests.
const UNDECIDED: [u16; 8] = [401, 403, 407, 408, 409, 421, 425, 429];

/// The reason why nothing was granted.
pub struct Failure {
    pub reason: String,
    pub output: Option<String>,
    /// Whether this request was certainly not granted.
    pub is_no: bool,
    /// Whether no other request with this key will be granted.
    pub is_final: bool,
    /// Whether a resource without a usable name was granted.
    pub is_unnamed: bool,
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

/// Resource and time to live of a response.
pub fn read(allocation: &Allocation, report: &Report) -> Result<(String, Option<Duration>), Failure> {
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
    let resource = match answer.pointer(&allocation.resource_at) {
        None => return unnamed(&format!("the response has no value at {:?}", allocation.resource_at)),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => {
            return unnamed(&format!(
                "the value at {:?} is neither a string nor a number",
                allocation.resource_at
            ));
        }
    };
    if resource.is_empty() || resource.len() > MAX_RESOURCE_BYTES || resource.chars().any(char::is_control) {
        return unnamed(&format!(
            "the value at {:?} is not a name of a resource",
            allocation.resource_at
        ));
    }
    if let Some(release) = &allocation.release
        && let Err(problem) = begin_release(release, &resource, "")
    {
        return unnamed(&format!(
            "the resource at {:?} cannot be released: {problem}",
            allocation.resource_at
        ));
    }
    let seconds = allocation.ttl_at.as_ref().and_then(|at| match answer.pointer(at)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    });
    let ttl = seconds.filter(|seconds| *seconds > 0.0);
    Ok((resource, ttl.and_then(|ttl| Duration::try_from_secs_f64(ttl).ok())))
}

/// The first bytes of a string from outside, safe for a terminal.
pub fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(MAX_SHOWN_BYTES)];
    let dots = if bytes.len() > start.len() { "…" } else { "" };
    printable(&String::from_utf8_lossy(start)) + dots
}
