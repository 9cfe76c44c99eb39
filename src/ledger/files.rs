//! The files of the ledger in its directory, and the completion of an interrupted replacement.

use crate::permissions::create_private;
pub use crate::storage::LEDGER as FILE_NAME;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// An incomplete new ledger.
pub(super) const BUILDING: &str = "ledger.db.building";
/// A complete new ledger, while the corrupt one is set aside.
pub(super) const COMPLETE: &str = "ledger.db.new";
/// A file without content that exists while the ledger has the outcome of all that evenkeel did. Where the disk is full,
/// nothing can be written, but a file can be removed.
const UP_TO_DATE: &str = "ledger.db.up-to-date";
/// SQLite's companions of a database: the write-ahead log and its index.
pub(super) const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Completes an interrupted replacement.
///
/// # Errors
/// When the directory cannot be written.
pub(super) fn finish(directory: &Path) -> io::Result<()> {
    let complete = directory.join(COMPLETE);
    if !complete.exists() {
        return Ok(());
    }
    let broken = directory.join(FILE_NAME);
    // SQLite must not read the old log as the new ledger's.
    for companion in COMPANIONS {
        remove_file(&companion_of(&broken, companion))?;
    }
    fs::rename(complete, broken)
}

pub(super) fn is_up_to_date(directory: &Path) -> bool {
    directory.join(UP_TO_DATE).exists()
}

/// # Errors
/// When the directory cannot be written.
pub(super) fn set_up_to_date(directory: &Path, is_up_to_date: bool) -> io::Result<()> {
    let path = directory.join(UP_TO_DATE);
    if !is_up_to_date {
        return remove_file(&path);
    }
    match create_private(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Opens a database for writing. SQLite gives its companions the mode of the database, so a new one is created here.
///
/// # Errors
/// When the file cannot be created or opened, or is a link.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    if let Err(error) = create_private(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(cannot_open(path, &error));
    }
    connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a database for reading.
///
/// # Errors
/// When the file cannot be opened, or is a link.
pub(super) fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let first_look = connection.pragma_query_value(None, "schema_version", |_| Ok(()));
    // A crash may have left a transaction that must be rolled back in the file first.
    let is_interrupted = first_look.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly));
    match is_interrupted {
        true => connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE),
        false => Ok(connection),
    }
}

/// Opens a database for reading without its log and without a lock.
///
/// # Errors
/// As [`open_read_only`].
pub(super) fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let path = PathBuf::from(format!("file:{}?immutable=1", without_links(path).display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(
        path,
        flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW,
    )
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    Connection::open_with_flags(without_links(path), flags)
}

/// SQLite's flag refuses a link anywhere in the path, but a link on the way to the directory is none of its business.
fn without_links(path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

fn cannot_open(path: &Path, error: &io::Error) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    rusqlite::Error::SqliteFailure(code, Some(format!("cannot create {}: {error}", path.display())))
}

pub(super) fn companion_of(path: &Path, companion: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(companion);
    PathBuf::from(name)
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
