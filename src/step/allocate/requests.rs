//! The requests of an allocation: for a grant, and to give it back. Pure: `host` sends them.

use super::{Allocate, Body};
use crate::host::job::Request;
use crate::ledger::{Allocation, Episode, GrantState, Release, RetryState};
use crate::template::{self, Segment};
use serde_json::{Value, json};

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
pub(super) fn begin_release(release: &Release, resource: &str, key: &str) -> Result<Request, String> {
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
