//! The tables of the ledger, and the migration of files of other versions.

use rusqlite::{Connection, OptionalExtension};

/// Version of the tables and of what their rows contain. It rises with each migration, and with rows that an earlier
/// version would misread.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64 + 1;
/// Size of the write-ahead log after a checkpoint; a large commit exceeds it for a while.
const LOG_BYTES: i64 = 8 << 20;
/// `PRAGMA auto_vacuum`: unused pages are freed on request.
const INCREMENTAL: i64 = 2;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS episode (
        rule TEXT NOT NULL, fingerprint TEXT NOT NULL, simulated INTEGER NOT NULL,
        body TEXT, ended_at TEXT, PRIMARY KEY (rule, fingerprint, simulated)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS lease (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, body TEXT NOT NULL, deadline_ms INTEGER NOT NULL, outcome TEXT);
    CREATE TABLE IF NOT EXISTS victim (
        id INTEGER PRIMARY KEY, boot TEXT NOT NULL, target TEXT NOT NULL, body TEXT NOT NULL, gone_ms INTEGER);
    CREATE TABLE IF NOT EXISTS breaker (rule TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS record (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, rule TEXT NOT NULL, pid INTEGER, body TEXT NOT NULL);
    DROP INDEX IF EXISTS record_rule;
    DROP INDEX IF EXISTS lease_live;
";

/// The migrations, each to the next version, from version 1 on.
const MIGRATIONS: [&str; 2] = [
    // Version 1 identified victims by pid and start time. Since version 2 a target may be something else.
    "ALTER TABLE victim ADD COLUMN target TEXT NOT NULL DEFAULT '';
    UPDATE victim SET target = json_extract(body, '$.target');
    ALTER TABLE victim DROP COLUMN pid;
    ALTER TABLE victim DROP COLUMN start_ticks;",
    // evenkeel 0.1.0, which wrote version 2, takes a lease with a newer knob for a damaged row.
    "",
];

/// Makes a file a ledger of this version, or returns the later version that wrote it and leaves the file alone.
///
/// # Errors
/// When it cannot be read or written.
pub fn prepare(connection: &mut Connection) -> rusqlite::Result<Result<(), i64>> {
    let found = version(connection)?;
    if let Some(found) = found.filter(|found| *found > SCHEMA_VERSION) {
        return Ok(Err(found));
    }
    let_pages_be_freed(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: with WAL and NORMAL a commit can be lost at power failure, and an intent must not be.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    // The sweep runs checkpoints, because an action must not wait for one.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.execute_batch(SCHEMA)?;
    if found == Some(SCHEMA_VERSION) {
        return Ok(Ok(()));
    }
    let transaction = connection.transaction()?;
    for version in found.unwrap_or(SCHEMA_VERSION).max(1)..SCHEMA_VERSION {
        transaction.execute_batch(MIGRATIONS[version as usize - 1])?;
    }
    let insert = "INSERT OR REPLACE INTO meta VALUES ('schema', ?1)";
    transaction.execute(insert, [SCHEMA_VERSION.to_string()])?;
    transaction.commit()?;
    Ok(Ok(()))
}

/// The version of the tables; `None` for a new file.
fn version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    if !connection.table_exists(None, "meta")? {
        return Ok(None);
    }
    let query = "SELECT value FROM meta WHERE key = 'schema'";
    let text: Option<String> = connection.query_row(query, [], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// A new file accepts the setting before its first table; a file from before retention is rewritten once.
fn let_pages_be_freed(connection: &Connection) -> rusqlite::Result<()> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("auto_vacuum")? == INCREMENTAL {
        return Ok(());
    }
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    if number("page_count")? > 0
        && let Err(error) = connection.execute_batch("VACUUM")
    {
        tracing::warn!(%error, "could not compact the ledger, its file stays bounded but does not shrink");
    }
    Ok(())
}
