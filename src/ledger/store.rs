//! The ledger on disk: SQLite in WAL mode. Every commit is durable before it returns. Writes; `reading` reads.

use super::book::Book;
use super::entry::{Entry, Record};
use super::reading::{Problem, Reading};
use super::salvage;
use crate::process::{BootId, Target};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// File name under `--storage.path`.
pub const FILE_NAME: &str = "ledger.db";
/// Raised when a change of the tables needs a migration.
const SCHEMA_VERSION: i64 = 2;
/// How long a commit waits for another process that reads or writes the file.
const BUSY_TIMEOUT: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 500 });
/// Closed episodes are remembered up to this number, the latest ones; each is some 100 bytes.
const KEEP_CLOSED: i64 = 10_000;
/// Victims that are gone are kept up to this number.
const KEEP_VICTIMS: i64 = 10_000;
/// The audit trail keeps this much.
const KEEP_RECORDS: i64 = 200_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS episode (
        rule TEXT NOT NULL, fingerprint TEXT NOT NULL, simulated INTEGER NOT NULL,
        body TEXT, ended_at TEXT, PRIMARY KEY (rule, fingerprint, simulated)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS lease (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, body TEXT NOT NULL, deadline_ms INTEGER NOT NULL, outcome TEXT);
    CREATE INDEX IF NOT EXISTS lease_live ON lease (id) WHERE outcome IS NULL;
    CREATE TABLE IF NOT EXISTS victim (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL, gone_ms INTEGER);
    CREATE TABLE IF NOT EXISTS breaker (rule TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS record (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, rule TEXT NOT NULL, pid INTEGER, body TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS record_rule ON record (rule, id);
";

/// From version 1, which knew victims by pid and start time alone, to 2, in which a target may be something else.
const FROM_1_TO_2: &str = "
    ALTER TABLE victim ADD COLUMN target TEXT NOT NULL DEFAULT '';
    UPDATE victim SET target = json_extract(body, '$.target');
    ALTER TABLE victim DROP COLUMN pid;
    ALTER TABLE victim DROP COLUMN start_ticks;
    UPDATE meta SET value = '2' WHERE key = 'schema';
";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Sql { path: PathBuf, source: rusqlite::Error },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: written by a later version (schema {found}, this one knows {SCHEMA_VERSION})")]
    Newer { path: PathBuf, found: i64 },
    #[error("{path}: its write-ahead log is damaged")]
    Damaged { path: PathBuf },
    #[error("{path}: a row of {table} cannot be read: {reason}")]
    Row {
        path: PathBuf,
        table: &'static str,
        reason: String,
    },
}

impl StoreError {
    /// Whether the file itself is broken, so that waiting helps nobody.
    pub fn is_corruption(&self) -> bool {
        match self {
            StoreError::Sql { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
            ),
            StoreError::Damaged { .. } | StoreError::Row { .. } => true,
            StoreError::Io { .. } | StoreError::Newer { .. } => false,
        }
    }
}

pub struct Store {
    path: PathBuf,
    connection: Connection,
    boot: BootId,
    records: i64,
    /// Transactions so far.
    #[cfg(test)]
    pub commits: usize,
}

impl Store {
    /// Opens or creates the ledger in a directory, which is created with mode 0700 where it is missing.
    ///
    /// # Errors
    /// When directory or file cannot be created, read or written, or were written by a later version.
    pub fn open(directory: &Path, boot: BootId) -> Result<Store, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| StoreError::Io {
                path: directory.to_owned(),
                source,
            })?;
        let path = directory.join(FILE_NAME);
        salvage::finish(directory).map_err(|source| StoreError::Io {
            path: path.clone(),
            source,
        })?;
        if salvage::has_damaged_log(directory, boot) {
            return Err(StoreError::Damaged { path });
        }
        Self::open_file(&path, boot)
    }

    /// Opens or creates a ledger under any name.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_file(path: &Path, boot: BootId) -> Result<Store, StoreError> {
        let connection = Connection::open(path).map_err(|source| StoreError::Sql {
            path: path.to_owned(),
            source,
        })?;
        Self::with(path.to_owned(), connection, boot)
    }

    /// Closes the file, with all that was committed in it and nothing in a log beside it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn close(self) -> Result<(), StoreError> {
        let Store { path, connection, .. } = self;
        connection
            .close()
            .map_err(|(_, source)| StoreError::Sql { path, source })
    }

    /// How long a commit waits for another process that holds the file. None of it while commits fail anyway.
    pub fn set_patience(&self, is_patient: bool) {
        let patience = if is_patient { BUSY_TIMEOUT } else { Duration::ZERO };
        // Where it cannot be set, the old one holds.
        let _ = self.connection.busy_timeout(patience);
    }

    /// A ledger that leaves nothing on disk, for rehearsals.
    ///
    /// # Errors
    /// When there is not even memory for it.
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
            records: 0,
            #[cfg(test)]
            commits: 0,
        };
        store.prepare().map_err(|source| store.sql(source))?;
        let version: Option<String> = store
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0))
            .optional()
            .map_err(|source| store.sql(source))?;
        match version.and_then(|text| text.parse::<i64>().ok()) {
            Some(found) if found > SCHEMA_VERSION => {
                return Err(StoreError::Newer {
                    path: store.path,
                    found,
                });
            }
            Some(1) => store.migrate(FROM_1_TO_2).map_err(|source| store.sql(source))?,
            Some(_) => {}
            None => {
                let insert = "INSERT OR REPLACE INTO meta VALUES ('schema', ?1)";
                store
                    .connection
                    .execute(insert, [SCHEMA_VERSION.to_string()])
                    .map_err(|source| store.sql(source))?;
            }
        }
        Ok(store)
    }

    fn prepare(&mut self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        // FULL: with WAL and NORMAL a commit can be lost at power failure, and an intent must not be.
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.execute_batch(SCHEMA)?;
        self.records = self
            .connection
            .query_row("SELECT count(*) FROM record", [], |row| row.get(0))?;
        Ok(())
    }

    fn migrate(&mut self, statements: &str) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute_batch(statements)?;
        transaction.commit()
    }

    fn sql(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sql {
            path: self.path.clone(),
            source,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The audit trail, oldest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        records(&self.connection, &self.path, "ASC", usize::MAX)
    }

    /// Finds out whether the file can be written, by writing.
    ///
    /// # Errors
    /// When it cannot.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        let note = "INSERT OR REPLACE INTO meta VALUES ('probe', datetime('now'))";
        let written = self.connection.execute(note, []);
        written.map(|_| ()).map_err(|source| self.sql(source))
    }

    /// Makes entries durable, all or none.
    ///
    /// # Errors
    /// When the file cannot be written; nothing was then.
    pub fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.try_commit(entries).map_err(|source| self.sql(source))
    }

    fn try_commit(&mut self, entries: &[Entry]) -> rusqlite::Result<()> {
        let boot = self.boot.to_string();
        let transaction = self.connection.transaction()?;
        let mut added = 0;
        for entry in entries {
            added += i64::from(matches!(entry, Entry::Record(_)));
            write(&transaction, &boot, entry)?;
        }
        let surplus = self.records + added - KEEP_RECORDS;
        // Deleted in larger pieces, so that not every commit pays for it.
        let deleted = if surplus > KEEP_RECORDS / 20 {
            prune(&transaction)?;
            transaction.execute(
                "DELETE FROM record WHERE id IN (SELECT id FROM record ORDER BY id LIMIT ?1)",
                [surplus],
            )? as i64
        } else {
            0
        };
        transaction.commit()?;
        #[cfg(test)]
        {
            self.commits += 1;
        }
        self.records += added - deleted;
        Ok(())
    }

    /// Reads what is open. Leases and victims of another boot are ended, for their processes are gone with it; allocations
    /// and commands are not.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a row is not what this version writes.
    pub fn load(&mut self) -> Result<Book, StoreError> {
        self.drop_other_boots().map_err(|source| self.sql(source))?;
        prune(&self.connection).map_err(|source| self.sql(source))?;
        let read = Reading::take(&self.connection, self.boot);
        match read.problems.into_iter().next() {
            None => Ok(read.book),
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
        // What was asked of others does not end with a boot, and is given back at once: its time is over.
        transaction.execute(
            "UPDATE lease SET boot = ?1, deadline_ms = 0 WHERE outcome IS NULL AND boot <> ?1
                AND (json_type(body, '$.effect.allocation') IS NOT NULL OR json_type(body, '$.effect.command') IS NOT NULL)",
            [&boot],
        )?;
        transaction.execute(
            "UPDATE lease SET outcome = 'gone' WHERE outcome IS NULL AND boot <> ?1",
            [&boot],
        )?;
        transaction.execute("DELETE FROM victim WHERE boot <> ?1", [&boot])?;
        // Times in an episode count from boot; after another boot the next repeat opens it anew.
        let other = "DELETE FROM episode WHERE body IS NOT NULL AND coalesce((SELECT value FROM meta WHERE key = 'boot'), '') <> ?1";
        transaction.execute(other, [&boot])?;
        transaction.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?1)", [&boot])?;
        transaction.commit()
    }
}

fn write(transaction: &Transaction<'_>, boot: &str, entry: &Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::Episode(episode) => transaction
            .prepare_cached("INSERT OR REPLACE INTO episode VALUES (?1, ?2, ?3, ?4, NULL)")?
            .execute(params![
                episode.key.rule,
                episode.key.fingerprint,
                episode.key.simulated,
                json(episode)
            ]),
        Entry::EpisodeClosed { key, ended_at } => transaction
            .prepare_cached("INSERT OR REPLACE INTO episode VALUES (?1, ?2, ?3, NULL, ?4)")?
            .execute(params![key.rule, key.fingerprint, key.simulated, ended_at.to_string()]),
        Entry::Lease(lease) => transaction
            .prepare_cached("INSERT OR REPLACE INTO lease VALUES (?1, ?2, ?3, ?4, NULL)")?
            .execute(params![
                lease.id as i64,
                boot,
                json(lease),
                lease.deadline.as_millis() as i64
            ]),
        Entry::LeasePrior { id, prior } => transaction
            .prepare_cached("UPDATE lease SET body = json_set(body, '$.effect.value.prior', json(?2)) WHERE id = ?1")?
            .execute(params![*id as i64, json(prior)]),
        Entry::Renewed { ids, deadline } => {
            let mut update = transaction.prepare_cached("UPDATE lease SET deadline_ms = ?2 WHERE id = ?1")?;
            for id in ids {
                update.execute(params![*id as i64, deadline.as_millis() as i64])?;
            }
            Ok(ids.len())
        }
        Entry::LeaseEnded { id, outcome } => transaction
            .prepare_cached("UPDATE lease SET outcome = ?2 WHERE id = ?1")?
            .execute(params![*id as i64, outcome.as_str()]),
        Entry::VictimSpared { target } => forget_living(transaction, *target, false),
        Entry::Victim(victim) => forget_living(transaction, victim.target, victim.simulated).and_then(|_| {
            transaction
                .prepare_cached("INSERT INTO victim (boot, target, body) VALUES (?1, ?2, ?3)")?
                .execute(params![boot, json(&victim.target), json(victim)])
        }),
        Entry::VictimGone { target, at, simulated } => transaction
            .prepare_cached(
                "UPDATE victim SET gone_ms = ?2 WHERE target = ?1 AND gone_ms IS NULL
                    AND (json_extract(body, '$.simulated') OR NOT ?3)",
            )?
            .execute(params![json(target), at.as_millis() as i64, simulated]),
        Entry::Breaker { rule, breaker } => transaction
            .prepare_cached("INSERT OR REPLACE INTO breaker VALUES (?1, ?2)")?
            .execute(params![rule, json(breaker)]),
        Entry::Record(record) => transaction
            .prepare_cached("INSERT INTO record (at, rule, pid, body) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                record.at.to_string(),
                record.rule,
                record.target.as_ref().and_then(|(target, _)| target.pid()),
                json(record)
            ]),
        Entry::Paused(paused) => transaction
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('paused', ?1)")?
            .execute([paused.to_string()]),
    }
    .map(|_| ())
}

/// Drops what no one asks for again. Ended leases tell nothing that the records do not; the newest stays, because its
/// number must not be given again.
fn prune(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM lease WHERE outcome IS NOT NULL AND id < (SELECT max(id) FROM lease)",
        [],
    )?;
    connection.execute(
        "DELETE FROM episode WHERE body IS NULL AND (rule, fingerprint, simulated) NOT IN (
            SELECT rule, fingerprint, simulated FROM episode WHERE body IS NULL
            ORDER BY julianday(ended_at) DESC LIMIT ?1)",
        [KEEP_CLOSED],
    )?;
    // Times of victims count from boot; the newest rows are more than any budget or cooldown asks for.
    connection.execute(
        "DELETE FROM victim WHERE gone_ms IS NOT NULL AND id <= (SELECT max(id) FROM victim) - ?1",
        [KEEP_VICTIMS],
    )?;
    Ok(())
}

fn forget_living(transaction: &Transaction<'_>, target: Target, simulated: bool) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "DELETE FROM victim WHERE target = ?1 AND gone_ms IS NULL AND json_extract(body, '$.simulated') = ?2",
        )?
        .execute(params![json(&target), simulated])
}

/// Serialises what this crate defined; such types have no value that JSON cannot hold.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data with text keys is JSON")
}

/// Reads the newest records, newest first, from a ledger that a daemon may be writing.
///
/// # Errors
/// When the file is missing or cannot be read.
pub fn read_records(directory: &Path, limit: usize) -> Result<Vec<Record>, StoreError> {
    let path = directory.join(FILE_NAME);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A daemon that starts makes the file before its tables.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Value;
    use crate::host::errand::{Request, Server};
    use crate::ledger::EpisodeKey;
    use crate::ledger::book::WireSource;
    use crate::ledger::{Allocation, Climb, Course, Effect, Episode, Lease, Outcome, Prior, Release, Stage, Victim};
    use crate::process::Identity;
    use crate::template::Piece;
    use jiff::Timestamp;

    fn target() -> Target {
        Target::Process(Identity {
            boot: BootId(1),
            pid: 7,
            start_ticks: 70,
        })
    }

    fn lease(id: u64) -> Lease {
        Lease {
            id,
            rule: "calm".into(),
            fingerprint: "f".into(),
            target: target(),
            name: "a\n\"b".into(),
            effect: Effect::Value {
                value: Value::Nice(15),
                prior: vec![Prior {
                    tid: 7,
                    start_ticks: 70,
                    value: Value::Nice(0),
                    unit: None,
                }],
            },
            taken_at: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
            settled: false,
        }
    }

    fn episode() -> Episode {
        Episode {
            key: EpisodeKey {
                rule: "calm".into(),
                fingerprint: "f".into(),
                simulated: false,
            },
            ladder: String::new(),
            source: WireSource::Local,
            labels: [("alertname".to_owned(), "X".to_owned())].into(),
            annotations: Default::default(),
            starts_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            opened_at: Duration::from_secs(1),
            seen_at: Duration::from_secs(2),
            climbs: vec![Climb {
                target: target(),
                name: "x".into(),
                rung: 2,
                due: Duration::from_secs(9),
                refused: Some(crate::ledger::Decision::Cooldown),
            }],
            barred: Vec::new(),
        }
    }

    fn breaker(failures: u32, opened_at: Option<Timestamp>) -> Entry {
        Entry::Breaker {
            rule: "calm".into(),
            breaker: crate::ledger::Breaker { failures, opened_at },
        }
    }

    #[test]
    fn what_was_committed_is_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = Book::default();
        let closed = EpisodeKey {
            rule: "old".into(),
            fingerprint: "g".into(),
            simulated: true,
        };
        let entries = [
            Entry::Episode(episode()),
            Entry::EpisodeClosed {
                key: closed,
                ended_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            },
            Entry::Lease(lease(1)),
            Entry::Lease(lease(2)),
            Entry::LeasePrior {
                id: 2,
                prior: vec![Prior {
                    tid: 7,
                    start_ticks: 70,
                    value: Value::Nice(-5),
                    unit: None,
                }],
            },
            Entry::LeaseEnded {
                id: 1,
                outcome: Outcome::Restored,
            },
            Entry::Renewed {
                ids: vec![2],
                deadline: Duration::from_secs(600),
            },
            Entry::Victim(Victim {
                rule: "calm".into(),
                fingerprint: "f".into(),
                signals: vec![15],
                unsent: Some(15),
                ..Victim::new(target(), false, Duration::from_secs(3))
            }),
            Entry::VictimGone {
                target: target(),
                at: Duration::from_secs(3),
                simulated: true,
            },
            Entry::Victim(Victim {
                rule: "calm".into(),
                fingerprint: "f".into(),
                signals: vec![15, 9],
                gone_by: Some(Duration::from_secs(33)),
                memory: Some(crate::ledger::book::MemoryBefore {
                    resident_bytes: 5,
                    available_bytes: 6,
                }),
                ..Victim::new(target(), false, Duration::from_secs(3))
            }),
            Entry::VictimGone {
                target: target(),
                at: Duration::from_secs(4),
                simulated: false,
            },
            breaker(2, None),
            breaker(0, None),
            breaker(3, Some("2026-01-01T00:00:00Z".parse().unwrap())),
            Entry::Paused(true),
        ];
        for entry in &entries {
            let (before, former) = (expected.clone(), expected.former(entry));
            expected.record(entry);
            let mut back = expected.clone();
            back.take_back(former);
            assert_eq!(back, before, "{entry:?} taken back");
        }
        Store::open(directory.path(), BootId(1)).unwrap().load().unwrap();
        Store::open(directory.path(), BootId(1))
            .unwrap()
            .commit(&entries)
            .unwrap();
        assert_eq!(
            Store::open(directory.path(), BootId(1)).unwrap().load().unwrap(),
            expected
        );
    }

    #[test]
    fn another_boot_ends_leases_and_forgets_open_episodes() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), BootId(1)).unwrap();
        store.load().unwrap();
        store
            .commit(&[Entry::Episode(episode()), Entry::Lease(lease(1))])
            .unwrap();
        let book = Store::open(directory.path(), BootId(2)).unwrap().load().unwrap();
        assert!(book.leases.is_empty() && book.episodes.is_empty());
        assert_eq!(book.last_lease_id, 1);
    }

    #[test]
    fn what_ended_is_pruned_and_numbers_are_not_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), BootId(1)).unwrap();
        let ended = |id, outcome| Entry::LeaseEnded { id, outcome };
        let closed = |second: i64| Entry::EpisodeClosed {
            key: EpisodeKey {
                fingerprint: second.to_string(),
                ..episode().key
            },
            ended_at: Timestamp::from_second(second).unwrap(),
        };
        let entries = [
            Entry::Lease(lease(1)),
            Entry::Lease(lease(2)),
            Entry::Lease(lease(3)),
            ended(2, Outcome::Restored),
            ended(3, Outcome::Restored),
        ];
        store.load().unwrap();
        store.commit(&entries).unwrap();
        store
            .commit(&(0..=KEEP_CLOSED).map(closed).collect::<Vec<_>>())
            .unwrap();
        let book = store.load().unwrap();
        assert_eq!(book.leases.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!((book.last_lease_id, book.closed.len()), (3, KEEP_CLOSED as usize));
        assert!(book.closed.keys().all(|key| key.fingerprint != "0"));
        let left: i64 = store
            .connection
            .query_row("SELECT count(*) FROM lease", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, 2);
    }

    /// What version 1 wrote, word for word.
    #[test]
    fn a_ledger_of_the_previous_version_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        connection
            .execute_batch(
                r#"
            CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE episode (rule TEXT NOT NULL, fingerprint TEXT NOT NULL, simulated INTEGER NOT NULL,
                body TEXT, ended_at TEXT, PRIMARY KEY (rule, fingerprint, simulated)) WITHOUT ROWID;
            CREATE TABLE lease (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, body TEXT NOT NULL,
                deadline_ms INTEGER NOT NULL, outcome TEXT);
            CREATE TABLE victim (id INTEGER PRIMARY KEY, boot TEXT NOT NULL, pid INTEGER NOT NULL,
                start_ticks INTEGER NOT NULL, body TEXT NOT NULL, gone_ms INTEGER);
            CREATE TABLE record (id INTEGER PRIMARY KEY, at TEXT NOT NULL, rule TEXT NOT NULL, pid INTEGER, body TEXT NOT NULL);
            INSERT INTO meta VALUES ('schema', '1'), ('boot', '00000000-0000-0000-0000-000000000001');
            INSERT INTO episode VALUES ('calm', 'f', 0, '{"key":{"rule":"calm","fingerprint":"f","simulated":false},
                "ladder":"","source":"local","labels":{"alertname":"X"},"starts_at":"2026-01-01T00:00:00Z",
                "opened_at":{"secs":1,"nanos":0},"seen_at":{"secs":2,"nanos":0},
                "climbs":[{"target":{"boot":"00000000-0000-0000-0000-000000000001","pid":7,"start_ticks":70},
                    "name":"x","rung":2,"due":{"secs":9,"nanos":0},"refused":"cooldown"}],"barred":[]}', NULL);
            INSERT INTO lease VALUES (1, '00000000-0000-0000-0000-000000000001', '{"id":1,"rule":"calm","fingerprint":"f",
                "target":{"boot":"00000000-0000-0000-0000-000000000001","pid":7,"start_ticks":70},"name":"a\n\"b",
                "effect":{"value":{"value":{"nice":15},"prior":[{"tid":7,"start_ticks":70,"value":{"nice":0}}]}},
                "taken_at":{"secs":5,"nanos":0},"deadline":{"secs":60,"nanos":0},"settled":false}', 60000, NULL);
            INSERT INTO victim VALUES (1, '00000000-0000-0000-0000-000000000001', 7, 70, '{"rule":"calm","fingerprint":"f",
                "target":{"boot":"00000000-0000-0000-0000-000000000001","pid":7,"start_ticks":70},"simulated":false,
                "struck_at":{"secs":3,"nanos":0},"gone_at":null,"signals":[15]}', NULL);
            INSERT INTO record VALUES (1, '2026-01-01T00:00:00Z', 'calm', 7, '{"at":"2026-01-01T00:00:00Z","rule":"calm",
                "alertname":"X","fingerprint":"f","target":[{"boot":"00000000-0000-0000-0000-000000000001","pid":7,
                "start_ticks":70},"x"],"step":"nice 15","outcome":"applied"}');
        "#,
            )
            .unwrap();
        drop(connection);
        let mut store = Store::open(directory.path(), BootId(1)).unwrap();
        let book = store.load().unwrap();
        assert_eq!(book.leases[&1], lease(1));
        assert_eq!(book.episodes.values().collect::<Vec<_>>(), [&episode()]);
        assert_eq!(store.records().unwrap()[0].target, Some((target(), "x".to_owned())));
        let gone = Entry::VictimGone {
            target: target(),
            at: Duration::from_secs(4),
            simulated: false,
        };
        store.commit(&[gone]).unwrap();
        let book = Store::open(directory.path(), BootId(1)).unwrap().load().unwrap();
        assert_eq!(book.victims[0].gone_at, Some(Duration::from_secs(4)));
    }

    #[test]
    fn what_others_gave_outlasts_a_boot_and_is_given_back_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), BootId(1)).unwrap();
        store.load().unwrap();
        let mut asked = lease(2);
        asked.target = Target::Host;
        asked.effect = Effect::Allocation(Box::new(Allocation {
            step: "allocate".into(),
            ask: Request {
                method: "POST".into(),
                url: "https://broker.example/allocate".into(),
                body: Some("{}".into()),
                key: "k".into(),
            },
            server: Server {
                authorization: None,
                tls: Default::default(),
                timeout: Duration::from_secs(10),
            },
            resource_at: "/resource".into(),
            ttl_at: None,
            release: Some(Release {
                method: "DELETE".into(),
                url: vec![Piece::Text("https://broker.example/".into()), Piece::Resource],
                body: None,
            }),
            stage: Stage::Requested { in_doubt: true },
            course: Course::default(),
        }));
        store
            .commit(&[Entry::Lease(lease(1)), Entry::Lease(asked.clone())])
            .unwrap();
        let book = Store::open(directory.path(), BootId(2)).unwrap().load().unwrap();
        asked.deadline = Duration::ZERO;
        assert_eq!(book.leases.into_values().collect::<Vec<_>>(), [asked]);
    }

    #[test]
    fn a_later_schema_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), BootId(1)).unwrap();
        store
            .connection
            .execute("UPDATE meta SET value = '99' WHERE key = 'schema'", [])
            .unwrap();
        drop(store);
        assert!(matches!(
            Store::open(directory.path(), BootId(1)),
            Err(StoreError::Newer { found: 99, .. })
        ));
    }

    #[test]
    fn a_ledger_in_the_making_has_no_records() {
        let directory = tempfile::tempdir().unwrap();
        Connection::open(directory.path().join(FILE_NAME))
            .unwrap()
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        assert!(read_records(directory.path(), 10).unwrap().is_empty());
        assert!(read_records(&directory.path().join("missing"), 10).is_err());
    }
}
