//! What was read of processes that have not run since, so that it need not be read again: most processes of a host
//! sleep through a second, and `status` alone costs the kernel more than all the rest of them.

use crate::process::open::{OpenProcess, Ran};
use crate::process::table::UserNames;
use crate::process::{Identity, Needs, Process, Usage};
use std::collections::HashMap;
use std::time::Duration;

/// What is known of a process that has not run is read anew after so long all the same: its limits can be set by
/// others.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// What a process used when it had run so far.
#[derive(Debug, Clone, Copy)]
struct Seen {
    ran: Ran,
    /// Memory is taken from those that sleep, too: then this differs.
    resident_bytes: u64,
    known: Needs,
    usage: Usage,
    read_at: Duration,
}

/// The processes of the last read and of the one under way.
#[derive(Debug, Default)]
pub struct Rested {
    before: HashMap<Identity, Seen>,
    now: HashMap<Identity, Seen>,
}

impl Rested {
    /// Forgets what the last read did not see.
    pub fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Fills in what the process uses, from its files only where it may have changed. Ask once per process and read.
    pub fn learn(
        &mut self,
        process: &mut Process,
        files: &OpenProcess,
        needs: Needs,
        boot_now: Duration,
        users: &mut UserNames,
    ) {
        // The thread that the kernel tells about must be the only one, and one that runs is told late. Before the
        // other files, so that whoever runs while they are read has run by the next time.
        let may_rest = is_dear(needs) && process.threads == 1 && process.state != 'R';
        let ran = if may_rest { files.ran() } else { None };
        let same = |seen: &&Seen| {
            Some(seen.ran) == ran
                && seen.resident_bytes == process.resident_bytes
                && seen.known == needs
                && boot_now.saturating_sub(seen.read_at) < KEPT_FOR
        };
        let seen = self.before.get(&process.identity).filter(same).copied();
        match seen {
            Some(seen) => process.details.usage = seen.usage,
            None => files.read_details(&mut process.details, needs, users),
        }
        let Some(ran) = ran else { return };
        let seen = seen.unwrap_or(Seen {
            ran,
            resident_bytes: process.resident_bytes,
            known: needs,
            usage: process.details.usage,
            read_at: boot_now,
        });
        self.now.insert(process.identity, seen);
    }
}

/// Whether reading it costs more than asking whether the process has run.
fn is_dear(needs: Needs) -> bool {
    [Needs::SWAP, Needs::CONTEXT_SWITCHES, Needs::OPEN_FDS]
        .into_iter()
        .any(|dear| needs.has(dear))
}
