//! The tables of the ledger, and what becomes of a file with those of another version.

use rusqlite::{Connection, OptionalExtension};

/// Raised when a change of the tables needs a migration.
pub const SCHEMA_VERSION: i64 = 2;
/// Of the write-ahead log when all of it is in the database; one large commit makes it larger for a while.
const LOG_BYTES: i64 = 8 << 20;
/// `PRAGMA auto_vacuum`: pages that nothing uses are given back when asked for.
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

/// From version 1, which knew victims by pid and start time alone, to 2, in which a target may be something else.
const FROM_1_TO_2: &str = "
    ALTER TABLE victim ADD COLUMN target TEXT NOT NULL DEFAULT '';
    UPDATE victim SET target = json_extract(body, '$.target');
    ALTER TABLE victim DROP COLUMN pid;
    ALTER TABLE victim DROP COLUMN start_ticks;
    UPDATE meta SET value = '2' WHERE key = 'schema';
";

/// Makes a file a ledger of this version. Otherwise returns the later version that has written it.
///
/// # Errors
/// When it cannot be read or written.
pub fn prepare(connection: &mut Connection) -> rusqlite::Result<Result<(), i64>> {
    let_pages_be_freed(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: with WAL and NORMAL a commit can be lost at power failure, and an intent must not be.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    // The sweep does it: a deed must not wait until what is older is copied into the database.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.execute_batch(SCHEMA)?;
    let version: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0))
        .optional()?;
    match version.and_then(|text| text.parse::<i64>().ok()) {
        Some(found) if found > SCHEMA_VERSION => return Ok(Err(found)),
        Some(1) => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(FROM_1_TO_2)?;
            transaction.commit()?;
        }
        Some(_) => {}
        None => {
            let insert = "INSERT OR REPLACE INTO meta VALUES ('schema', ?1)";
            connection.execute(insert, [SCHEMA_VERSION.to_string()])?;
        }
    }
    Ok(Ok(()))
}

/// A new file can be told before its first table; one from before retention is written anew once.
fn let_pages_be_freed(connection: &Connection) -> rusqlite::Result<()> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("auto_vacuum")? == INCREMENTAL {
        return Ok(());
    }
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
    if number("page_count")? > 0
        && let Err(error) = connection.execute_batch("VACUUM")
    {
        tracing::warn!(%error, "the ledger cannot be written anew: it stays bounded, but its file does not shrink");
    }
    Ok(())
}
