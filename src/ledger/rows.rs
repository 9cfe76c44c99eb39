//! The conversion of rows into the ledger's state. Every row is parsed by itself, and a table with damage in the
//! middle is read from both ends, so that as much as possible of a corrupt file is recovered.

use super::entry::Entry;
use super::episode::{Closed, EpisodeKey};
use super::files;
use super::lease::Lease;
use super::state::LedgerState;
use super::victim::Victim;
use crate::process::BootId;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// The row of `meta` which says that a file beside the ledger tells whether the ledger is up to date.
pub(super) const NOTES_OUTCOMES: &str = "notes_outcomes";
/// What stands before the name of a paused rule in the keys of `meta`.
pub(super) const PAUSED_RULE: &str = "paused_rule:";

fn is_up_to_date(connection: &Connection) -> bool {
    let directory = connection.path().and_then(|path| Path::new(path).parent());
    directory.is_some_and(files::is_up_to_date)
}

/// The readable entries, and the errors of the others.
pub struct ReadEntries {
    pub ledger: LedgerState,
    pub problems: Vec<Problem>,
}

pub enum Problem {
    Sql {
        table: &'static str,
        source: rusqlite::Error,
    },
    /// A row in an unknown format.
    Row { table: &'static str, reason: String },
}

/// The entries of one row, or the error in it.
type Parsed = rusqlite::Result<Result<Entry, String>>;

impl ReadEntries {
    /// Reads the open state of a boot. Leases, victims and open episodes of another boot ended with it.
    pub fn take(connection: &Connection, boot: BootId) -> ReadEntries {
        let mut reading = ReadEntries {
            ledger: LedgerState::default(),
            problems: Vec::new(),
        };
        let boot = boot.to_string();
        let is_same_boot = reading.meta(connection, "boot").as_deref() == Some(&*boot);
        reading.table(
            connection,
            "episode",
            [
                "rule, fingerprint, simulated, body, ended_at",
                "rule, fingerprint, simulated",
            ],
            &|row| episode(row, is_same_boot),
        );
        reading.table(
            connection,
            "lease",
            ["body, deadline_ms, outcome, boot", "id"],
            &|row| lease(row, &boot),
        );
        reading.table(connection, "victim", ["body, gone_ms, boot", "id"], &|row| {
            victim(row, &boot)
        });
        reading.table(connection, "breaker", ["rule, body", "rule"], &breaker);
        let newest = connection.query_row("SELECT coalesce(max(id), 0) FROM lease", [], |row| row.get::<_, i64>(0));
        match newest {
            Ok(newest) => reading.ledger.last_lease_id = reading.ledger.last_lease_id.max(newest as u64),
            Err(source) => reading.problems.push(Problem::Sql { table: "lease", source }),
        }
        let noted = reading
            .meta(connection, "last_lease")
            .and_then(|text| text.parse().ok());
        reading.ledger.last_lease_id = reading.ledger.last_lease_id.max(noted.unwrap_or(0));
        reading.ledger.paused = reading.meta(connection, "paused").as_deref() == Some("true");
        reading.ledger.paused_rules = reading.paused_rules(connection);
        let notes_outcomes = reading.meta(connection, NOTES_OUTCOMES).is_some();
        reading.ledger.is_behind = notes_outcomes && !is_up_to_date(connection);
        reading
    }

    fn paused_rules(&mut self, connection: &Connection) -> BTreeSet<String> {
        let prefix = PAUSED_RULE;
        let read = || -> rusqlite::Result<BTreeSet<String>> {
            let query = "SELECT substr(key, length(?1) + 1) FROM meta WHERE substr(key, 1, length(?1)) = ?1";
            let mut statement = connection.prepare(query)?;
            statement.query_map([prefix], |row| row.get(0))?.collect()
        };
        read().unwrap_or_else(|source| {
            self.problems.push(Problem::Sql { table: "meta", source });
            BTreeSet::new()
        })
    }

    fn meta(&mut self, connection: &Connection, key: &str) -> Option<String> {
        let query = "SELECT value FROM meta WHERE key = ?1";
        let found = connection.query_row(query, [key], |row| row.get(0)).optional();
        found.unwrap_or_else(|source| {
            self.problems.push(Problem::Sql { table: "meta", source });
            None
        })
    }

    /// Reads a table in its order, and after an error from the other end as well.
    fn table(
        &mut self,
        connection: &Connection,
        table: &'static str,
        [columns, order]: [&str; 2],
        parse: &dyn Fn(&Row<'_>) -> Parsed,
    ) {
        let Err(source) = self.rows(connection, table, columns, order, parse) else {
            return;
        };
        self.problems.push(Problem::Sql { table, source });
        let backwards = order.replace(", ", " DESC, ") + " DESC";
        let mut other_half = ReadEntries {
            ledger: LedgerState::default(),
            problems: Vec::new(),
        };
        // This direction stops at the damage, too.
        let _ = other_half.rows(connection, table, columns, &backwards, parse);
        self.ledger.adopt(other_half.ledger);
        self.problems.append(&mut other_half.problems);
    }

    fn rows(
        &mut self,
        connection: &Connection,
        table: &'static str,
        columns: &str,
        order: &str,
        parse: &dyn Fn(&Row<'_>) -> Parsed,
    ) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&format!("SELECT {columns} FROM {table} ORDER BY {order}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match parse(row) {
                Ok(Ok(entry)) => self.ledger.record(&entry),
                Ok(Err(reason)) if reason.is_empty() => {}
                Ok(Err(reason)) => self.problems.push(Problem::Row { table, reason }),
                Err(error) => {
                    let reason = error.to_string();
                    self.problems.push(Problem::Row { table, reason });
                }
            }
        }
        Ok(())
    }
}

/// The entries of a closed row: none.
fn ended() -> Parsed {
    Ok(Err(String::new()))
}

fn parse<T: serde::de::DeserializeOwned>(body: &str, make: impl FnOnce(T) -> Entry) -> Parsed {
    Ok(serde_json::from_str(body).map(make).map_err(|error| error.to_string()))
}

fn episode(row: &Row<'_>, is_same_boot: bool) -> Parsed {
    let (body, ended_at): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
    match body {
        // Times in an episode count from boot; after a reboot the next repeat opens it again.
        Some(_) if !is_same_boot => ended(),
        Some(body) => parse(&body, Entry::Episode),
        None => match ended_at.and_then(|text| text.parse::<Timestamp>().ok()) {
            None => ended(),
            Some(ended_at) => {
                let (rule, fingerprint): (String, String) = (row.get(0)?, row.get(1)?);
                let key = EpisodeKey {
                    rule: rule.into(),
                    fingerprint: fingerprint.into(),
                    simulated: row.get(2)?,
                };
                let closed = Closed {
                    ended_at,
                    closed_at: None,
                };
                Ok(Ok(Entry::EpisodeClosed { key, closed }))
            }
        },
    }
}

fn lease(row: &Row<'_>, boot: &str) -> Parsed {
    let (body, deadline_ms): (String, i64) = (row.get(0)?, row.get(1)?);
    let (outcome, of_boot): (Option<String>, String) = (row.get(2)?, row.get(3)?);
    if outcome.is_some() {
        return ended();
    }
    let parsed = serde_json::from_str::<Lease>(&body).map_err(|error| error.to_string());
    Ok(parsed.and_then(|lease| {
        let lease = Lease {
            deadline: milliseconds(deadline_ms),
            ..lease
        };
        lease.on_boot(of_boot == boot).map(Entry::Lease).ok_or(String::new())
    }))
}

fn victim(row: &Row<'_>, boot: &str) -> Parsed {
    let (body, gone_ms, of_boot): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    if of_boot != boot {
        return ended();
    }
    parse(&body, |victim: Victim| {
        // The end of a command is in the body; up to 0.1 it was there only.
        let gone_at = victim.gone_at.or(gone_ms.map(milliseconds));
        Entry::Victim(Victim { gone_at, ..victim })
    })
}

fn breaker(row: &Row<'_>) -> Parsed {
    let (rule, body): (String, String) = (row.get(0)?, row.get(1)?);
    parse(&body, |breaker| Entry::Breaker { rule, breaker })
}

fn milliseconds(number: i64) -> Duration {
    Duration::from_millis(number.max(0) as u64)
}
