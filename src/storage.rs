//! The storage directory (`--storage.path`): the check at the start that no other user can change it, and the modes of
//! its files.

use crate::permissions::{self, Fault, OTHERS_MAY_WRITE, Purpose, STICKY, Untrusted, own_uid};
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
/// The timeline of the status page.
pub const DAY: &str = "day.json";
/// All files of the ledger begin with this name.
pub const LEDGER: &str = "ledger.db";
/// What may follow the name of a database: SQLite's own files.
const COMPANIONS: [&str; 4] = ["", "-wal", "-shm", "-journal"];
/// What may follow the name of the ledger: itself, the stages of its replacement, and the note that it has all outcomes.
const LEDGERS: [&str; 4] = ["", ".building", ".new", ".up-to-date"];
/// Followed by a time, a ledger that was set aside.
const SET_ASIDE: &str = ".corrupt-";

/// Why the storage directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A storage directory that another user can change.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{found}; {correction}")]
pub struct Refused {
    pub found: Untrusted,
    correction: String,
}

impl Refused {
    /// For the daemon, which writes to the directory.
    fn to_daemon(found: Untrusted) -> Refused {
        let is_directory = found.path.is_dir();
        Refused {
            correction: daemon_correction(&found, is_directory, own_uid()),
            found,
        }
    }

    /// For a command, which asks the daemon or reads what the daemon wrote.
    fn to_client(found: Untrusted) -> Refused {
        Refused {
            correction: client_correction(&found, own_uid()),
            found,
        }
    }
}

/// No advice takes the directory from a daemon that runs as another user, or changes a directory that is made for all
/// users.
fn daemon_correction(found: &Untrusted, is_directory: bool, own: u32) -> String {
    let path = found.path.display();
    match found.fault {
        Fault::Owner(uid) if is_directory => format!("start evenkeel as uid {uid}, or set another --storage.path"),
        Fault::Owner(_) => format!("run chown {} {path}", permissions::user(own)),
        Fault::OwnerAbove(_) => "set another --storage.path, below directories of root only".to_owned(),
        Fault::Writable { mode, .. } if mode & STICKY != 0 => {
            format!("set another --storage.path, such as {path}/evenkeel")
        }
        Fault::Writable { mode, owner } => {
            let chmod = format!("chmod {} {path}", permissions::without_writers(mode));
            match owner == own {
                true => format!("run {chmod}"),
                false => format!("run chown {} {path} && {chmod}", permissions::user(own)),
            }
        }
        Fault::WritableAbove(mode) => format!(
            "set another --storage.path, or run chmod {} {path} if no other user has to write there",
            permissions::without_writers(mode)
        ),
        Fault::Kind(..) => "move it away".to_owned(),
        Fault::Unreadable(_) => format!("see it with ls -ld {path}"),
    }
}

fn client_correction(found: &Untrusted, own: u32) -> String {
    let path = found.path.display();
    match found.fault {
        Fault::Owner(uid) | Fault::OwnerAbove(uid) => {
            format!("if evenkeel runs as uid {uid}, run the command as that user")
        }
        Fault::Writable { mode, .. } | Fault::WritableAbove(mode) if mode & STICKY != 0 => {
            "evenkeel refuses it too, so set the --storage.path of a running daemon".to_owned()
        }
        Fault::Writable { mode, .. } | Fault::WritableAbove(mode) if mode & OTHERS_MAY_WRITE != 0 => {
            format!("run chmod o-w {path}")
        }
        Fault::Writable { .. } | Fault::WritableAbove(_) => format!(
            "run the command as the user of evenkeel; if that is {}, run chmod g-w {path}",
            permissions::user(own)
        ),
        Fault::Kind(..) => "move it away".to_owned(),
        Fault::Unreadable(_) => format!("see it with ls -ld {path}"),
    }
}

/// Creates the directory with mode 0700 where it is missing, below directories that no other user can change. Returns
/// its path without links, for all later uses.
///
/// # Errors
/// When another user can change the path, or as `mkdir(2)`. If another user can change the path, nothing is created.
pub fn create(directory: &Path) -> Result<PathBuf, StorageError> {
    let (existing, missing) = permissions::check_existing(directory, Purpose::Storage).map_err(failure)?;
    if missing.as_os_str().is_empty() {
        return permissions::check(&existing, Purpose::Storage).map_err(failure);
    }
    let path = existing.join(missing);
    let created = DirBuilder::new().recursive(true).mode(0o700).create(&path);
    created.map_err(|source| {
        let path = path.clone();
        StorageError::Io { path, source }
    })?;
    permissions::check(&path, Purpose::Storage).map_err(failure)
}

/// A path that cannot be read cannot be written either, so evenkeel runs without it.
fn failure(found: Untrusted) -> StorageError {
    match found.fault {
        Fault::Unreadable(kind) => StorageError::Io {
            path: found.path,
            source: kind.into(),
        },
        _ => StorageError::Refused(Refused::to_daemon(found)),
    }
}

/// Checks the directory, which it creates where it is missing, and evenkeel's files in it. Makes these files readable
/// by their owner only. Returns the path without links.
///
/// # Errors
/// As [`create`].
pub fn prepare(directory: &Path) -> Result<PathBuf, StorageError> {
    let directory = create(directory)?;
    check_files(&directory).map_err(failure)?;
    Ok(directory)
}

/// Checks a file or directory of a daemon for a command that uses it. A missing one is none of another user.
///
/// # Errors
/// When another user can change it.
pub fn check_as_client(path: &Path) -> Result<(), Refused> {
    match permissions::check_existing(path, Purpose::Storage) {
        Ok(_) => Ok(()),
        Err(found) => Err(Refused::to_client(found)),
    }
}

fn check_files(directory: &Path) -> Result<(), Untrusted> {
    let Ok(entries) = fs::read_dir(directory) else {
        // The ledger reports a directory that cannot be read.
        return Ok(());
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    for name in names.filter_map(|name| name.into_string().ok()) {
        let path = directory.join(&name);
        if name == SOCKET {
            check_kind(&path, FileTypeExt::is_socket, "a socket")?;
        } else if is_own_file(&name) {
            check_kind(&path, fs::FileType::is_file, "a regular file")?;
            restrict(&path)?;
        }
    }
    Ok(())
}

/// Whether evenkeel gives files this name. Others in the directory, such as backups of the ledger, do not concern it.
fn is_own_file(name: &str) -> bool {
    let is_or_replaces = |file| {
        let rest = name.strip_prefix(file);
        rest.is_some_and(|rest| rest.is_empty() || rest == ".new")
    };
    if name == LOCK || is_or_replaces(ALERTS) || is_or_replaces(DAY) {
        return true;
    }
    let Some(rest) = name.strip_prefix(LEDGER) else {
        return false;
    };
    let file = COMPANIONS
        .iter()
        .rev()
        .find_map(|companion| rest.strip_suffix(companion));
    let file = file.unwrap_or(rest);
    let is_time = |time: &str| {
        time.chars()
            .all(|letter| letter.is_ascii_digit() || "TZ-".contains(letter))
    };
    LEDGERS.contains(&file) || file.strip_prefix(SET_ASIDE).is_some_and(is_time)
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
    Err(Untrusted {
        path: path.to_owned(),
        fault: Fault::Kind(found, expected),
    })
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
    match permissions::check(path, Purpose::Storage) {
        Err(untrusted) if path.exists() => Err(untrusted),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 999;

    fn found(fault: Fault) -> Untrusted {
        let path = PathBuf::from("/x/y");
        Untrusted { path, fault }
    }

    #[test]
    fn advice_to_the_daemon_harms_neither_it_nor_others() {
        let check = |fault: Fault, own: u32, expected: &str| {
            assert_eq!(daemon_correction(&found(fault), true, own), expected);
        };
        let writable = |mode, owner| Fault::Writable { mode, owner };
        check(
            Fault::Owner(OWN),
            0,
            "start evenkeel as uid 999, or set another --storage.path",
        );
        assert_eq!(
            daemon_correction(&found(Fault::Owner(7)), false, OWN),
            "run chown 999 /x/y"
        );
        check(
            Fault::OwnerAbove(7),
            0,
            "set another --storage.path, below directories of root only",
        );
        check(writable(0o40_777, OWN), OWN, "run chmod go-w /x/y");
        // Without the group, evenkeel could not write there.
        check(writable(0o40_775, 0), OWN, "run chown 999 /x/y && chmod go-w /x/y");
        check(
            writable(0o41_777, 0),
            0,
            "set another --storage.path, such as /x/y/evenkeel",
        );
        check(
            Fault::WritableAbove(0o40_775),
            0,
            "set another --storage.path, or run chmod go-w /x/y if no other user has to write there",
        );
        check(Fault::Kind("a symbolic link", "a regular file"), 0, "move it away");
    }

    #[test]
    fn advice_to_a_command_leaves_the_daemon_its_directory() {
        let check = |fault: Fault, expected: &str| assert_eq!(client_correction(&found(fault), 0), expected);
        let writable = |mode| Fault::Writable { mode, owner: 0 };
        check(
            Fault::Owner(OWN),
            "if evenkeel runs as uid 999, run the command as that user",
        );
        check(
            writable(0o40_775),
            "run the command as the user of evenkeel; if that is root, run chmod g-w /x/y",
        );
        check(writable(0o40_777), "run chmod o-w /x/y");
        check(
            writable(0o41_777),
            "evenkeel refuses it too, so set the --storage.path of a running daemon",
        );
    }

    #[test]
    fn only_evenkeels_own_names_concern_it() {
        let own = [
            "lock",
            "alerts.json",
            "alerts.json.new",
            "ledger.db",
            "ledger.db-wal",
            "ledger.db-shm",
            "ledger.db-journal",
            "ledger.db.building",
            "ledger.db.building-wal",
            "ledger.db.new",
            "ledger.db.up-to-date",
            "ledger.db.corrupt-20260101T000000Z",
            "ledger.db.corrupt-20260101T000000Z-1-wal",
        ];
        assert_eq!(own.map(is_own_file), [true; 13]);
        let others = [
            "ledger.db-backups",
            "ledger.db.latest",
            "ledger.db.gz",
            "ledger.db.corrupt-20260101T000000Z.gz",
            "alerts.json.bak",
            "locks",
        ];
        assert_eq!(others.map(is_own_file), [false; 6]);
    }
}
