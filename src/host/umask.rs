//! The umask of the daemon, whose files are for its own user only, and that of the commands that it starts.

use nix::sys::stat::{Mode, umask};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

/// The umask with which the process started.
static FORMER: OnceLock<Mode> = OnceLock::new();

/// Makes new files of this process accessible to its own user only. Call it before any thread starts.
pub fn restrict_new_files() {
    let former = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    // A second call finds the own mask, which is not the former one.
    let _ = FORMER.set(former);
}

/// Lets a program start with the umask that evenkeel was started with.
pub(super) fn pass_on(command: &mut Command) {
    let Some(former) = FORMER.get().copied() else { return };
    // SAFETY: umask(2) is async-signal-safe and cannot fail.
    unsafe {
        command.pre_exec(move || {
            umask(former);
            Ok(())
        });
    }
}
