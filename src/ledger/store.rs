//! The ledger on disk: SQLite in WAL mode. Every commit is durable before it returns. This module writes; `reading`
//! reads.

use super::entry::{Entry, Record};
use super::files::{self, FILE_NAME};
use super::reboot;
use super::retention::{self, ENTRIES_PER_SWEEP, Retention};
use super::rows::{NOTES_OUTCOMES, PAUSED_RULE, Problem, ReadEntries};
use super::schema::{self, SCHEMA_VERSION};
use super::state::LedgerState;
use super::write_ahead_log::has_damaged_log;
use crate::process::{BootId, Target};
use crate::storage::{self, StorageError};
use jiff::Timestamp;
use rusqlite::{Connection, Params, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a commit waits for another process that reads or writes the file.
const BUSY_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 500 });
/// Size of the cache of statements: more than this module and `retention` have.
const STATEMENTS: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Sql { path: PathBuf, source: rusqlite::Error },
    #[error(transparent)]
    Directory(#[from] StorageError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: written by a later version (schema {found}, this one knows {SCHEMA_VERSION})")]
    Newer { path: PathBuf, found: i64 },
    #[error("{path}: its write-ahead log is damaged")]
    Damaged { path: PathBuf },
    #[error("{path}: a row of {table} is invalid: {reason}")]
    Row {
        path: PathBuf,
        table: &'static str,
        reason: String,
    },
}

impl StoreError {
    /// Whether the file itself is corrupt, so that waiting does not help.
    pub fn is_corruption(&self) -> bool {
        match self {
            StoreError::Sql { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
            ),
            StoreError::Damaged { .. } | StoreError::Row { .. } => true,
            StoreError::Directory(_) | StoreError::Io { .. } | StoreError::Newer { .. } => false,
        }
    }
}

pub struct Store {
    path: PathBuf,
    connection: Connection,
    boot: BootId,
    retention: Retention,
    /// Entries since the last sweep.
    unswept: usize,
    /// Whether the last sweep was complete. It stays so until the next entry, because ages count from the newest line.
    is_swept: bool,
}

impl Store {
    /// Opens or creates the ledger in a directory, which is created with mode 0700 where it is missing.
    ///
    /// # Errors
    /// When directory or file cannot be created, read or written, or were written by a later version.
    pub fn open(directory: &Path, boot: BootId) -> Result<Store, StoreError> {
        storage::create(directory)?;
        let path = directory.join(FILE_NAME);
        files::finish(directory).map_err(|source| StoreError::Io {
            path: path.clone(),
            source,
        })?;
        if has_damaged_log(directory, boot) {
            return Err(StoreError::Damaged { path });
        }
        Self::open_file(&path, boot)
    }

    /// Opens or creates a ledger under any name.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_file(path: &Path, boot: BootId) -> Result<Store, StoreError> {
        let connection = files::open(path).map_err(|source| StoreError::Sql {
            path: path.to_owned(),
            source,
        })?;
        Self::with(path.to_owned(), connection, boot)
    }

    /// Closes the file, with all commits in it and an empty write-ahead log.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn close(self) -> Result<(), StoreError> {
        let Store { path, connection, .. } = self;
        connection
            .close()
            .map_err(|(_, source)| StoreError::Sql { path, source })
    }

    /// Sets how long a commit waits for another process that locks the file.
    pub fn set_patience(&self, is_patient: bool) {
        let patience = if is_patient { BUSY_TIMEOUT } else { Duration::ZERO };
        // On failure the former timeout stays.
        let _ = self.connection.busy_timeout(patience);
    }

    /// A ledger in memory, for simulations.
    ///
    /// # Errors
    /// When SQLite cannot allocate memory.
    pub fn in_memory(boot: BootId) -> Result<Store, StoreError> {
        let path = PathBuf::from(":memory:");
        let connection = Connection::open_in_memory().map_err(|source| StoreError::Sql {
            path: path.clone(),
            source,
        })?;
        Self::with(path, connection, boot)
    }

    fn with(path: PathBuf, connection: Connection, boot: BootId) -> Result<Store, StoreError> {
        let mut store = Store {
            path,
            connection,
            boot,
            retention: Retention::default(),
            unswept: 0,
            is_swept: false,
        };
        store.connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let prepared = store
            .connection
            .busy_timeout(BUSY_TIMEOUT)
            .and_then(|()| schema::prepare(&mut store.connection));
        match prepared.map_err(|source| store.sql(source))? {
            Ok(()) => Ok(store),
            Err(found) => Err(StoreError::Newer {
                path: store.path,
                found,
            }),
        }
    }

    fn sql(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sql {
            path: self.path.clone(),
            source,
        }
    }

    /// Records the number of the last lease if its row is not kept, because a reused number would make a new request to
    /// an allocator look like the repeat of an old one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn go_on_after(&mut self, last_lease: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT OR REPLACE INTO meta VALUES ('last_lease', ?1)",
            [last_lease.to_string()],
        )
    }

    /// Records that a file beside the ledger tells from now on whether the ledger is up to date.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_to_note_outcomes(&mut self) -> Result<(), StoreError> {
        self.execute("INSERT OR IGNORE INTO meta VALUES (?1, 'true')", [NOTES_OUTCOMES])
    }

    fn execute(&self, statement: &str, values: impl Params) -> Result<(), StoreError> {
        let written = self.connection.execute(statement, values);
        written.map(drop).map_err(|source| self.sql(source))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The records of the history, oldest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        records(&self.connection, &self.path, "ASC", usize::MAX)
    }

    /// Checks by a write that the file can be written.
    ///
    /// # Errors
    /// When it cannot.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        self.execute("INSERT OR REPLACE INTO meta VALUES ('probe', datetime('now'))", [])
    }

    /// Makes entries durable, all or none.
    ///
    /// # Errors
    /// When the file cannot be written; then no entry is durable.
    pub fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.try_commit(entries).map_err(|source| self.sql(source))
    }

    fn try_commit(&mut self, entries: &[Entry]) -> rusqlite::Result<()> {
        let boot = self.boot.to_string();
        if !self.connection.is_autocommit() {
            // A rollback failed before. The next commit must not include the entries of that transaction.
            self.connection.execute_batch("ROLLBACK")?;
        }
        // Cached statements, unlike those of rusqlite's own transactions, are parsed at the first use only.
        let run = |statement| self.connection.prepare_cached(statement)?.execute([]);
        run("BEGIN")?;
        let written = entries
            .iter()
            .try_for_each(|entry| write(&self.connection, &boot, entry))
            .and_then(|()| run("COMMIT"));
        if let Err(error) = written {
            // After some errors SQLite has rolled back by itself. The first error is the one to report.
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            return Err(error);
        }
        self.unswept += entries.len();
        self.is_swept = false;
        Ok(())
    }

    pub fn retain(&mut self, retention: Retention) {
        self.is_swept &= retention == self.retention;
        self.retention = retention;
    }

    /// Whether the next sweep must not wait for an idle moment, because many entries were written since the last one.
    pub fn wants_sweep(&self) -> bool {
        self.unswept >= ENTRIES_PER_SWEEP
    }

    /// Deletes a portion of what is beyond retention, and empties the write-ahead log. Returns whether there may be
    /// more.
    ///
    /// # Errors
    /// When the file cannot be written, or another program writes it at this moment; the sweep does not wait.
    pub fn sweep(&mut self) -> Result<bool, StoreError> {
        if self.is_swept {
            return Ok(false);
        }
        self.unswept = 0;
        self.set_patience(false);
        let swept = retention::sweep(&mut self.connection, self.retention).and_then(|is_more| {
            // A checkpoint lets the log restart on blocks that it already has.
            let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
            self.connection.query_row(checkpoint, [], |_| Ok(is_more))
        });
        self.set_patience(true);
        self.is_swept = matches!(swept, Ok(false));
        swept.map_err(|source| self.sql(source))
    }

    /// Reads the open state. Leases and victims of another boot are ended, because their processes are gone;
    /// allocations and commands are not.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a row is not what this version writes.
    pub fn load(&mut self) -> Result<LedgerState, StoreError> {
        self.drop_other_boots().map_err(|source| self.sql(source))?;
        while retention::forget_ended(&self.connection).map_err(|source| self.sql(source))? {}
        let read = ReadEntries::take(&self.connection, self.boot);
        match read.problems.into_iter().next() {
            None => Ok(read.ledger),
            Some(Problem::Sql { source, .. }) => Err(self.sql(source)),
            Some(Problem::Row { table, reason }) => Err(StoreError::Row {
                path: self.path.clone(),
                table,
                reason,
            }),
        }
    }

    fn drop_other_boots(&mut self) -> rusqlite::Result<()> {
        let boot = self.boot.to_string();
        let transaction = self.connection.transaction()?;
        // Jobs survive a reboot, and are released at once because they are past their deadline.
        transaction.execute(
            "UPDATE lease SET boot = ?1, deadline_ms = 0 WHERE outcome IS NULL AND boot <> ?1
                AND (json_type(body, '$.effect.allocation') IS NOT NULL OR json_type(body, '$.effect.command') IS NOT NULL)",
            [&boot],
        )?;
        for record in reboot::closing_records(&transaction, &boot, Timestamp::now())? {
            write(&transaction, &boot, &Entry::Record(record))?;
        }
        transaction.execute(
            "UPDATE lease SET outcome = 'gone' WHERE outcome IS NULL AND boot <> ?1",
            [&boot],
        )?;
        transaction.execute("DELETE FROM victim WHERE boot <> ?1", [&boot])?;
        // Times in an episode count from boot; after a reboot the next repeat opens it again.
        let other = "DELETE FROM episode WHERE body IS NOT NULL AND coalesce((SELECT value FROM meta WHERE key = 'boot'), '') <> ?1";
        transaction.execute(other, [&boot])?;
        transaction.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?1)", [&boot])?;
        transaction.commit()
    }
}

fn write(connection: &Connection, boot: &str, entry: &Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::Episode(episode) => connection
            .prepare_cached("INSERT OR REPLACE INTO episode VALUES (?1, ?2, ?3, ?4, NULL)")?
            .execute(params![
                episode.key.rule.as_str(),
                episode.key.fingerprint.as_str(),
                episode.key.simulated,
                json(episode)
            ]),
        Entry::EpisodeClosed { key, closed } => connection
            .prepare_cached("INSERT OR REPLACE INTO episode VALUES (?1, ?2, ?3, NULL, ?4)")?
            .execute(params![
                key.rule.as_str(),
                key.fingerprint.as_str(),
                key.simulated,
                closed.ended_at.to_string()
            ]),
        Entry::Lease(lease) => connection
            .prepare_cached("INSERT OR REPLACE INTO lease VALUES (?1, ?2, ?3, ?4, NULL)")?
            .execute(params![
                lease.id as i64,
                boot,
                json(lease),
                lease.deadline.as_millis() as i64
            ]),
        Entry::LeasePrior { id, saved } => connection
            .prepare_cached("UPDATE lease SET body = json_set(body, '$.effect.value.prior', json(?2)) WHERE id = ?1")?
            .execute(params![*id as i64, json(saved)]),
        Entry::Renewed { ids, deadline } => {
            let mut update = connection.prepare_cached("UPDATE lease SET deadline_ms = ?2 WHERE id = ?1")?;
            for id in ids {
                update.execute(params![*id as i64, deadline.as_millis() as i64])?;
            }
            Ok(ids.len())
        }
        Entry::LeaseEnded { id, outcome } => connection
            .prepare_cached("UPDATE lease SET outcome = ?2 WHERE id = ?1")?
            .execute(params![*id as i64, outcome.as_str()]),
        Entry::VictimSpared { target } => forget_living(connection, *target, false),
        Entry::Victim(victim) => forget_living(connection, victim.target, victim.simulated).and_then(|_| {
            connection
                .prepare_cached("INSERT INTO victim (boot, target, body, gone_ms) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![
                    boot,
                    json(&victim.target),
                    json(victim),
                    victim.gone_at.map(|at| at.as_millis() as i64)
                ])
        }),
        Entry::VictimGone { target, at, simulated } => connection
            .prepare_cached(
                "UPDATE victim SET gone_ms = ?2 WHERE target = ?1 AND gone_ms IS NULL
                    AND (json_extract(body, '$.simulated') OR NOT ?3)",
            )?
            .execute(params![json(target), at.as_millis() as i64, simulated]),
        Entry::CommandUncounted { key, struck_at } => connection
            .prepare_cached(
                "UPDATE victim SET body = json_set(body, '$.is_uncounted', json('true'))
                    WHERE target = ?1 AND json_extract(body, '$.rule') = ?2
                    AND json_extract(body, '$.fingerprint') = ?3 AND json_extract(body, '$.simulated') = ?4
                    AND json_extract(body, '$.struck_at') = json(?5)",
            )?
            .execute(params![
                json(&Target::Host),
                key.rule.as_str(),
                key.fingerprint.as_str(),
                key.simulated,
                json(struck_at)
            ]),
        Entry::Breaker { rule, breaker } => connection
            .prepare_cached("INSERT OR REPLACE INTO breaker VALUES (?1, ?2)")?
            .execute(params![rule, json(breaker)]),
        Entry::Record(record) => connection
            .prepare_cached("INSERT INTO record (at, rule, pid, body) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                record.at.to_string(),
                record.rule,
                record.target.as_ref().and_then(|(target, _)| target.pid()),
                json(record)
            ]),
        Entry::Paused(paused) => connection
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('paused', ?1)")?
            .execute([paused.to_string()]),
        Entry::RulePaused { rule, paused: true } => connection
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, 'true')")?
            .execute([PAUSED_RULE.to_owned() + rule]),
        Entry::RulePaused { rule, paused: false } => connection
            .prepare_cached("DELETE FROM meta WHERE key = ?1")?
            .execute([PAUSED_RULE.to_owned() + rule]),
    }
    .map(|_| ())
}

fn forget_living(connection: &Connection, target: Target, simulated: bool) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM victim WHERE target = ?1 AND gone_ms IS NULL AND json_extract(body, '$.simulated') = ?2",
        )?
        .execute(params![json(&target), simulated])
}

/// Serialises types of this crate, all of whose values are valid in JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys is JSON")
}

/// Reads the newest records, newest first, from a ledger that a daemon may write meanwhile.
///
/// # Errors
/// When the file is missing or cannot be read.
pub fn read_records(directory: &Path, limit: usize) -> Result<Vec<Record>, StoreError> {
    let path = directory.join(FILE_NAME);
    let opened = files::open_read_only(&path).and_then(|connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A starting daemon creates the file before its tables.
        let is_empty = !connection.table_exists(None, "record")?;
        Ok((connection, is_empty))
    });
    match opened {
        Ok((_, true)) => Ok(Vec::new()),
        Ok((connection, false)) => records(&connection, &path, "DESC", limit),
        Err(source) => Err(StoreError::Sql { path, source }),
    }
}

fn records(connection: &Connection, path: &Path, order: &str, limit: usize) -> Result<Vec<Record>, StoreError> {
    let read = || -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(&format!("SELECT body FROM record ORDER BY id {order} LIMIT ?1"))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statement.query_map([limit], |row| row.get(0))?.collect()
    };
    let bodies = read().map_err(|source| StoreError::Sql {
        path: path.to_owned(),
        source,
    })?;
    let parse = |body: &String| {
        serde_json::from_str(body).map_err(|error| StoreError::Row {
            path: path.to_owned(),
            table: "record",
            reason: error.to_string(),
        })
    };
    bodies.iter().map(parse).collect()
}
