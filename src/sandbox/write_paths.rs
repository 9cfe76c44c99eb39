//! What a process may still do with files (landlock(7)): write in some directories only, or nothing at all. In the first
//! case reading stays as it is, because a reload reads configuration, secrets and text files under any path.

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::PathBuf;

/// The newest version of the interface whose rights are restricted. A later one restricts the connection to sockets of
/// other programs, and systemd's are among those that evenkeel needs.
const VERSION: ABI = ABI::V5;
/// The same for a process that needs no files and no other sockets.
const VERSION_OF_ALL: ABI = ABI::V6;

/// Why writes are not restricted.
#[derive(Debug, thiserror::Error)]
pub enum WritePathsError {
    #[error("the kernel has no landlock (Linux 5.13 or later, with landlock in the lsm= list)")]
    Unsupported,
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
}

/// Denies writes outside of these directories to the calling thread and those that it starts. Those that do not exist
/// are left out. On an older kernel some kinds of writes stay, such as truncating a file.
///
/// # Errors
/// When the kernel has no landlock, or refuses.
pub fn allow_only(paths: &[PathBuf]) -> Result<(), WritePathsError> {
    let writes = AccessFs::from_write(VERSION);
    let mut rules = Ruleset::default().handle_access(writes)?.create()?;
    for path in paths {
        if let Ok(directory) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(directory, writes))?;
        }
    }
    check(&rules.restrict_self()?)
}

/// Denies all files, new TCP sockets, and signals to other processes to the calling thread and those that it starts. Open
/// files stay usable. On an older kernel some of it stays.
///
/// # Errors
/// When the kernel has no landlock, or refuses.
pub fn deny_all() -> Result<(), WritePathsError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION_OF_ALL))?
        .handle_access(AccessNet::from_all(VERSION_OF_ALL))?
        .scope(Scope::from_all(VERSION_OF_ALL))?
        .create()?;
    check(&rules.restrict_self()?)
}

fn check(status: &RestrictionStatus) -> Result<(), WritePathsError> {
    match status {
        RestrictionStatus {
            ruleset: RulesetStatus::NotEnforced,
            ..
        }
        | RestrictionStatus {
            landlock: LandlockStatus::NotEnabled | LandlockStatus::NotImplemented,
            ..
        } => Err(WritePathsError::Unsupported),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn writes_elsewhere_are_denied_and_reads_are_not() {
        let inside = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let (kept, file) = (inside.path().join("kept"), outside.path().join("file"));
        fs::write(&file, "text").unwrap();
        let paths = [inside.path().to_owned(), PathBuf::from("/nonexistent/evenkeel")];
        // Landlock restricts single threads, so other tests go on.
        let restricted = std::thread::spawn(move || {
            allow_only(&paths).unwrap();
            let written = fs::write(&kept, "text").is_ok() && fs::rename(&kept, kept.with_extension("new")).is_ok();
            let denied = [
                fs::write(&file, "other").is_err(),
                fs::remove_file(&file).is_err(),
                fs::write(file.with_extension("new"), "").is_err(),
            ];
            (written, denied, fs::read_to_string(&file).ok())
        });
        let found = restricted.join().unwrap();
        assert_eq!(found, (true, [true; 3], Some("text".to_owned())));
    }

    #[test]
    fn no_file_and_no_directory_can_be_read_without_any() {
        let restricted = std::thread::spawn(|| {
            deny_all().unwrap();
            [fs::read("/etc/passwd").is_err(), fs::read_dir("/").is_err()]
        });
        assert_eq!(restricted.join().unwrap(), [true; 2]);
    }
}
