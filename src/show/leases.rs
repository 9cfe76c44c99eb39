//! `leases`: what evenkeel will revert, from the running daemon, or from the ledger where none answers.

use super::{finish, json, listing, report, style, unexpected};
use crate::cli::{Output, Query};
use crate::control::{self, ControlError, Reply, Request};
use crate::host::linux::boot_time;
use crate::ledger::{Breaker, Effect, Lease, read_only};
use crate::process::table::Procfs;
use crate::show::progress;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The leases and the open breakers at `boot_now` (CLOCK_BOOTTIME).
struct Held {
    boot_now: Duration,
    leases: Vec<Lease>,
    breakers: BTreeMap<String, Breaker>,
}

/// Prints the leases and the open breakers.
pub fn leases(query: &Query) -> ExitCode {
    finish(held(&query.storage.path).map(|held| match query.output {
        Output::Json => format!("{}\n", rows(&held, Timestamp::now())),
        Output::Text => {
            let storage = query.storage.option();
            listing::leases(&held.leases, &held.breakers, held.boot_now, &storage, style())
        }
    }))
}

fn held(storage: &Path) -> Result<Held, String> {
    let reply = progress::during("asking the daemon", || control::request(storage, &Request::Leases, ""));
    match reply {
        Ok(Reply::Leases {
            boot_now,
            leases,
            breakers,
            ..
        }) => Ok(Held {
            boot_now,
            leases,
            breakers,
        }),
        Ok(other) => Err(unexpected(&other)),
        Err(error @ (ControlError::Unreachable { .. } | ControlError::NoReply { .. })) => match from_ledger(storage) {
            Ok(held) => {
                report(&format!(
                    "note: no daemon answers; this is what the ledger holds: {error}"
                ));
                Ok(held)
            }
            // Without a ledger the reason is that of the socket, which names the flag to correct.
            Err(_) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    }
}

fn from_ledger(storage: &Path) -> Result<Held, String> {
    let boot = Procfs::open(Path::new("/proc"))
        .map_err(|error| error.to_string())?
        .boot;
    let ledger = read_only(storage, boot).map_err(|error| error.to_string())?;
    let breakers = ledger.breakers.into_iter().filter(|(_, breaker)| breaker.is_open());
    Ok(Held {
        boot_now: boot_time(),
        breakers: breakers.collect(),
        leases: ledger.leases.into_values().collect(),
    })
}

/// A lease as one flat object, with times of the wall clock.
#[derive(Serialize)]
struct LeaseRow<'a> {
    id: u64,
    rule: &'a str,
    fingerprint: &'a str,
    /// `process`, `cgroup` or `host`.
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    name: &'a str,
    knob: &'static str,
    /// As in `nice 0 -> 10`.
    change: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// The grant of an allocator.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_at: Option<Timestamp>,
    /// Left out once the revert has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    settled: bool,
    is_undoing: bool,
    /// As in `root (uid 0)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    released_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    release_reason: Option<&'a str>,
}

fn row(lease: &Lease, boot_now: Duration, now: Timestamp) -> LeaseRow<'_> {
    let at = |boot: Duration| {
        let ago = SignedDuration::try_from(boot_now).ok()? - SignedDuration::try_from(boot).ok()?;
        now.checked_sub(ago).ok()
    };
    let (before, after) = match &lease.effect {
        Effect::Value { value, saved } => (
            saved.first().map(|saved| saved.value.to_string()),
            Some(value.to_string()),
        ),
        _ => (None, None),
    };
    let is_undoing = lease.is_undoing || lease.is_ending();
    let released = lease.released.as_deref();
    LeaseRow {
        id: lease.id,
        rule: &lease.rule,
        fingerprint: &lease.fingerprint,
        target: match (lease.target.process(), lease.target.cgroup()) {
            (Some(_), _) => "process",
            (None, Some(_)) => "cgroup",
            (None, None) => "host",
        },
        pid: lease.target.pid(),
        name: &lease.name,
        knob: lease.knob(),
        change: lease.effect.to_string(),
        before,
        after,
        resource: match &lease.effect {
            Effect::Allocation(allocation) => allocation.resource(),
            _ => None,
        },
        // A lease from before a reboot is due at 0, and its times count from another boot.
        taken_at: at(lease.taken_at).filter(|_| !lease.deadline.is_zero()),
        deadline: lease.runs_out_at().filter(|_| !is_undoing).and_then(at),
        settled: lease.settled,
        is_undoing,
        released_by: released.map(|request| request.by.to_string()),
        release_reason: released
            .map(|request| &*request.reason)
            .filter(|reason| !reason.is_empty()),
    }
}

/// The leases, then the open breakers.
fn rows(held: &Held, now: Timestamp) -> String {
    let leases = held
        .leases
        .iter()
        .map(|lease| serde_json::json!(row(lease, held.boot_now, now)));
    let breakers = held.breakers.iter().map(|(rule, breaker)| {
        let Breaker { failures, opened_at } = breaker;
        serde_json::json!({"breaker": rule, "failures": failures, "opened_at": opened_at})
    });
    json(&leases.chain(breakers).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Value;
    use crate::ledger::{OperatorRequest, SavedValue};
    use crate::process::{BootId, Identity, Target};

    fn lease() -> Lease {
        let saved = SavedValue {
            tid: 7,
            start_ticks: 70,
            value: Value::Nice(0),
            unit: None,
            favour: None,
        };
        Lease {
            id: 3,
            rule: "calm".into(),
            fingerprint: "f".into(),
            target: Target::Process(Identity {
                boot: BootId(1),
                pid: 7,
                start_ticks: 70,
            }),
            name: "ffmpeg".to_owned(),
            effect: Effect::Value {
                value: Value::Nice(10),
                saved: vec![saved],
            },
            taken_at: Duration::from_secs(90),
            deadline: Duration::from_secs(160),
            settled: true,
            is_undoing: false,
            released: None,
        }
    }

    fn as_json(lease: Lease) -> serde_json::Value {
        let held = Held {
            boot_now: Duration::from_secs(100),
            leases: vec![lease],
            breakers: BTreeMap::new(),
        };
        let text = rows(&held, "2026-01-01T00:00:00Z".parse().unwrap());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].take()
    }

    #[test]
    fn row_is_flat_with_times_of_the_wall_clock() {
        let row = as_json(lease());
        let object = row.as_object().unwrap();
        assert!(
            object.values().all(|value| !value.is_object() && !value.is_array()),
            "{row}"
        );
        let expected = serde_json::json!({
            "id": 3, "rule": "calm", "fingerprint": "f", "target": "process", "pid": 7, "name": "ffmpeg", "knob": "nice",
            "change": "nice 0 -> 10", "before": "0", "after": "10", "taken_at": "2025-12-31T23:59:50Z",
            "deadline": "2026-01-01T00:01:00Z", "settled": true, "is_undoing": false,
        });
        assert_eq!(row, expected);
    }

    #[test]
    fn row_of_a_released_lease_names_the_operator() {
        let released = Some(Box::new(OperatorRequest::example()));
        let row = as_json(Lease {
            is_undoing: true,
            released,
            ..lease()
        });
        assert_eq!(
            (&row["released_by"], &row["release_reason"]),
            (&"root (uid 0)".into(), &"a test".into())
        );
        assert_eq!(row.get("deadline"), None);
    }
}
