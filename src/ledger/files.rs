//! The files of the ledger in its directory, and the completion of an interrupted replacement.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// File name under `--storage.path`.
pub const FILE_NAME: &str = "ledger.db";
/// An incomplete new ledger.
pub(super) const BUILDING: &str = "ledger.db.building";
/// A complete new ledger, while the corrupt one is set aside.
pub(super) const COMPLETE: &str = "ledger.db.new";
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
