//! The directories in which a process may still write (landlock(7)). Reading stays as it is, because a reload reads
//! configuration, secrets and text files under any path.

use landlock::{
    ABI, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus,
};
use std::path::PathBuf;

/// The newest version of the interface whose rights are restricted. A later one restricts the connection to sockets of
/// other programs, and systemd's are among those that evenkeel needs.
const VERSION: ABI = ABI::V5;

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
    match rules.restrict_self()? {
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
}
