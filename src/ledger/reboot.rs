//! The history lines for leases that ended with a reboot of the host, because no revert is left that would record
//! them.

use super::entry::Record;
use super::episode::Episode;
use super::lease::Lease;
use super::outcome::Outcome;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

const REASON: &str = "the host was rebooted";

/// The records for the open leases of other boots. Call this before their episodes are deleted.
///
/// # Errors
/// When the ledger cannot be read.
pub fn closing_records(connection: &Connection, boot: &str, now: Timestamp) -> rusqlite::Result<Vec<Record>> {
    let query = "SELECT body FROM lease WHERE outcome IS NULL AND boot <> ?1 ORDER BY id";
    let mut statement = connection.prepare(query)?;
    let bodies: Vec<String> = statement
        .query_map([boot], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // An unreadable body has no data for a record.
    let leases = bodies
        .iter()
        .filter_map(|body| serde_json::from_str::<Lease>(body).ok());
    leases.map(|lease| closing_record(connection, lease, now)).collect()
}

fn closing_record(connection: &Connection, lease: Lease, now: Timestamp) -> rusqlite::Result<Record> {
    let query = "SELECT body FROM episode WHERE rule = ?1 AND fingerprint = ?2 AND NOT simulated AND body IS NOT NULL";
    let key = params![lease.rule.as_str(), lease.fingerprint.as_str()];
    let body: Option<String> = connection.query_row(query, key, |row| row.get(0)).optional()?;
    let episode = body.and_then(|body| serde_json::from_str::<Episode>(&body).ok());
    let alertname = episode.and_then(|episode| episode.labels.get("alertname").map(str::to_owned));
    Ok(Record {
        at: now,
        rule: lease.rule.to_string(),
        alertname: alertname.unwrap_or_default(),
        fingerprint: lease.fingerprint.to_string(),
        step: Some(format!("undo {}", lease.knob())),
        before: lease.effect.value().map(ToString::to_string),
        target: Some((lease.target, lease.name)),
        decision: None,
        outcome: Some(Outcome::Gone),
        after: None,
        output: None,
        reason: REASON.to_owned(),
        operation: None,
        by: None,
        is_effect: false,
    })
}
