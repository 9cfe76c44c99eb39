//! The storage directory (`--storage.path`): the check at the start that no other user can change it, and the modes of
//! its files.

use crate::permissions::{self, Untrusted};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// File name of the control socket.
pub const SOCKET: &str = "control.sock";
/// File name of the lock that a daemon holds on its storage.
pub const LOCK: &str = "lock";
/// The active alerts of own evaluation.
pub const ALERTS: &str = "alerts.json";
/// All files of the ledger begin with this name.
pub const LEDGER: &str = "ledger.db";

/// Creates the directory with mode 0700 where it is missing.
///
/// # Errors
/// As `mkdir(2)`.
pub fn create(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Checks the directory and evenkeel's files in it, and makes these files readable by their owner only. Returns its
/// path without links, for all later uses.
///
/// # Errors
/// A path that another user can change.
pub fn check(directory: &Path) -> Result<PathBuf, Untrusted> {
    let directory = permissions::check(directory)?;
    let Ok(entries) = fs::read_dir(&directory) else {
        // The ledger reports a directory that cannot be read.
        return Ok(directory);
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    for name in names.filter_map(|name| name.into_string().ok()) {
        let path = directory.join(&name);
        if name == SOCKET {
            check_kind(&path, FileTypeExt::is_socket, "a socket")?;
        } else if name == LOCK || name.starts_with(ALERTS) || name.starts_with(LEDGER) {
            check_kind(&path, fs::FileType::is_file, "a regular file")?;
            restrict(&path)?;
        }
    }
    Ok(directory)
}

fn check_kind(path: &Path, is_right: fn(&fs::FileType) -> bool, expected: &'static str) -> Result<(), Untrusted> {
    let Ok(meta) = path.symlink_metadata() else {
        // A file that is gone does no harm, because other users cannot create another one.
        return Ok(());
    };
    let found = meta.file_type();
    if is_right(&found) {
        return Ok(());
    }
    let found = match found {
        _ if found.is_symlink() => "a symbolic link",
        _ if found.is_dir() => "a directory",
        _ if found.is_file() => "a regular file",
        _ => "a special file",
    };
    Err(Untrusted::of_kind(path, found, expected))
}

/// Earlier versions created files that every user could read and lock.
fn restrict(path: &Path) -> Result<(), Untrusted> {
    let Ok(meta) = path.symlink_metadata() else {
        return Ok(());
    };
    if meta.permissions().mode() & 0o077 != 0 {
        match permissions::open_no_link(path).and_then(|file| file.set_permissions(Permissions::from_mode(0o600))) {
            Ok(()) => tracing::info!(path = %path.display(), "mode set to 0600"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "could not set the mode to 0600, other users may read the file and lock it");
            }
        }
    }
    match permissions::check(path) {
        Err(untrusted) if path.exists() => Err(untrusted),
        _ => Ok(()),
    }
}
