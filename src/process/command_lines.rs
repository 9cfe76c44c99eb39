//! Reading the command lines of many processes within a budget of time. The kernel copies a command line page by page
//! out of the memory of its process, 128 KiB take it half a millisecond, and any user can start thousands of processes.
//! So the processes of each user get a share of each second, and one that is not read in time is refused.

use super::fields::{Process, Unread};
use super::file_id::FileId;
use super::identity::Identity;
use super::owner::FIRST_USER;
use super::proc_dir::{MAX_CMDLINE_BYTES, OpenProcess, join_arguments};
use super::read::FIRST_READ_BYTES;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The time in which the shares below may be used.
const WINDOW: Duration = Duration::from_secs(1);
/// The share of one user. Root has no limit, because root need not attack.
const PER_USER: Duration = Duration::from_millis(200);
/// The share of all users from [`FIRST_USER`] on, because one person may have many user ids (subuid(5)).
const ALL_USERS: Duration = Duration::from_millis(400);
/// The part of it that only users get who have not used [`FIRST_SHARE`] yet, so that few users cannot keep out others.
const RESERVE: Duration = Duration::from_millis(100);
const FIRST_SHARE: Duration = Duration::from_millis(10);
/// Command lines in memory, for the decisions that follow on the same table.
const MAX_KNOWN_BYTES: usize = 4 << 20;
const MAX_KNOWN_BYTES_PER_USER: usize = 1 << 20;

/// A reader of command lines with a budget of time. The decisions on one process table share what it has read.
#[derive(Debug, Clone, Default)]
pub struct CommandLines {
    time: TimeBudget,
    /// By pid.
    known: HashMap<i32, KnownLine>,
    /// Bytes of the known ones by owner.
    bytes: HashMap<u32, usize>,
    /// The owner of the command line that is read or matched now, and since when.
    running: Option<(u32, Instant)>,
}

#[derive(Debug, Clone)]
struct KnownLine {
    process: Identity,
    program: Option<FileId>,
    owner: u32,
    line: String,
}

impl CommandLines {
    /// Forgets all command lines, because the process table is read again.
    pub fn forget_all(&mut self) {
        // The memory is freed, because most hosts need little of it.
        self.known = HashMap::new();
        self.bytes = HashMap::new();
    }

    /// Forgets the command line of a process, because it is read again.
    pub fn forget(&mut self, pid: i32) {
        if let Some(known) = self.known.remove(&pid)
            && let Some(bytes) = self.bytes.get_mut(&known.owner)
        {
            *bytes -= known.line.len();
        }
    }

    /// Reads the command line of a process, unless the time for those of its user is used up. The time runs until
    /// [`CommandLines::stop`], so that it includes the search in a long line. `now` is CLOCK_BOOTTIME.
    pub(super) fn read(&mut self, files: &OpenProcess, process: &mut Process, now: Duration) {
        let details = &mut process.details;
        let program = files.executable();
        let is_it = |known: &&KnownLine| known.process == process.identity && known.program == program;
        if let Some(known) = self.known.get(&process.identity.pid).filter(is_it) {
            self.running = Some((known.owner, Instant::now()));
            details.cmdline = Some(known.line.clone());
            return;
        }
        let owner = files.owner().unwrap_or(u32::MAX);
        let left = self.time.left(owner, now);
        if left.is_zero() {
            details.unread = Some(Unread::OutOfTime);
            return;
        }
        self.running = Some((owner, Instant::now()));
        let mut read = files.read_cmdline(FIRST_READ_BYTES);
        if matches!(&read, Ok(Some(bytes)) if bytes.len() >= FIRST_READ_BYTES) {
            // Half of a user's time is for command lines of a usual length.
            if self.time.spent(owner) >= PER_USER / 2 {
                details.unread = Some(Unread::OutOfTime);
                return;
            }
            read = files.read_cmdline(MAX_CMDLINE_BYTES);
        }
        match read {
            Ok(bytes) => details.cmdline = bytes.map(|bytes| join_arguments(&bytes)),
            Err(_) => details.unread = Some(Unread::Blocked),
        }
        if let Some(line) = &details.cmdline {
            self.remember(KnownLine {
                process: process.identity,
                program,
                owner,
                line: line.clone(),
            });
        }
    }

    /// Stops the time of the command line that was read last.
    pub(super) fn stop(&mut self, now: Duration) {
        if let Some((owner, since)) = self.running.take() {
            self.time.spend(owner, since.elapsed(), now);
        }
    }

    fn remember(&mut self, new: KnownLine) {
        self.forget(new.process.pid);
        let total: usize = self.bytes.values().sum();
        let of_user = self.bytes.entry(new.owner).or_default();
        let bytes = new.line.len();
        if *of_user + bytes <= MAX_KNOWN_BYTES_PER_USER && total + bytes <= MAX_KNOWN_BYTES {
            *of_user += bytes;
            self.known.insert(new.process.pid, new);
        }
    }
}

/// The time that was spent for each user. Pure.
#[derive(Debug, Clone, Default)]
struct TimeBudget {
    window_begun: Duration,
    spent: HashMap<u32, Duration>,
    spent_for_all: Duration,
}

impl TimeBudget {
    /// The time left for a user.
    fn left(&mut self, owner: u32, now: Duration) -> Duration {
        if owner == 0 {
            return Duration::MAX;
        }
        if now.saturating_sub(self.window_begun) >= WINDOW {
            *self = TimeBudget {
                window_begun: now,
                ..TimeBudget::default()
            };
        }
        let own = PER_USER.saturating_sub(self.spent(owner));
        let of_all = match self.spent(owner) < FIRST_SHARE {
            true => ALL_USERS,
            false => ALL_USERS - RESERVE,
        };
        match owner < FIRST_USER {
            true => own,
            false => own.min(of_all.saturating_sub(self.spent_for_all)),
        }
    }

    fn spent(&self, owner: u32) -> Duration {
        match owner {
            0 => Duration::ZERO,
            _ => self.spent.get(&owner).copied().unwrap_or_default(),
        }
    }

    fn spend(&mut self, owner: u32, time: Duration, now: Duration) {
        // Begins a new window where the time has come.
        self.left(owner, now);
        let spent = self.spent.entry(owner).or_default();
        let before = *spent;
        *spent += time;
        if owner >= FIRST_USER {
            // A call that takes long leaves the shares of others alone.
            self.spent_for_all += (*spent).min(PER_USER) - before.min(PER_USER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::table::Procfs;
    use crate::process::{BootId, Details};
    use std::fs;

    const NOW: Duration = Duration::from_secs(100);
    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn time_is_shared_among_users_and_renewed_each_second() {
        let mut time = TimeBudget::default();
        time.spend(1001, PER_USER - MILLI, NOW);
        assert_eq!((time.left(1001, NOW), time.left(1002, NOW)), (MILLI, PER_USER));
        time.spend(1001, PER_USER * 10, NOW);
        assert_eq!(time.left(1001, NOW), Duration::ZERO);
        // Two users leave the reserve to the others, and many user ids of one person take no time from services.
        time.spend(100_001, PER_USER / 2, NOW);
        assert_eq!(
            (time.left(100_001, NOW), time.left(1002, NOW)),
            (Duration::ZERO, RESERVE)
        );
        for owner in 100_002..100_012 {
            time.spend(owner, FIRST_SHARE, NOW);
        }
        for (owner, expected) in [(1002, 0), (33, 200), (999, 200)] {
            assert_eq!(time.left(owner, NOW), MILLI * expected, "{owner}");
        }
        time.spend(0, PER_USER * 10, NOW);
        assert_eq!(time.left(0, NOW), Duration::MAX);
        assert_eq!(time.left(1001, NOW + WINDOW - MILLI), Duration::ZERO);
        assert_eq!(time.left(1001, NOW + WINDOW), PER_USER);
    }

    /// A procfs whose processes have command lines of these lengths. Their pids begin with 7, and their owner is `uid`.
    fn procfs_of(root: &std::path::Path, uid: u32, lengths: &[usize]) -> Procfs {
        for (index, length) in lengths.iter().enumerate() {
            let folder = root.join((7 + index).to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("cmdline"), "x".repeat(*length)).unwrap();
            fs::write(folder.join("status"), format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\n")).unwrap();
        }
        Procfs {
            root: root.to_owned(),
            boot: BootId(1),
            page_bytes: 4096,
            calls: None,
        }
    }

    /// Reads without counting the time, which depends on the machine.
    fn read(lines: &mut CommandLines, procfs: &Procfs, pid: i32) -> Details {
        let mut process = Process::example(pid, "x");
        lines.read(&OpenProcess::open(procfs, pid).unwrap(), &mut process, NOW);
        process.details
    }

    #[test]
    fn command_line_that_is_not_read_in_time_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let procfs = procfs_of(folder.path(), 1001, &[10, 4095, 4096, 120_000]);
        let lengths = |lines: &mut CommandLines| {
            [7, 8, 9, 10].map(|pid| {
                let details = read(lines, &procfs, pid);
                assert_eq!(details.cmdline.is_none(), details.unread == Some(Unread::OutOfTime));
                details.cmdline.map(|line| line.len())
            })
        };
        let whole = [Some(10), Some(4095), Some(4096), Some(120_000)];
        let mut lines = CommandLines::default();
        assert_eq!(lengths(&mut lines), whole);
        lines = CommandLines::default();
        lines.time.spend(1001, PER_USER / 2, NOW);
        assert_eq!(lengths(&mut lines), [Some(10), Some(4095), None, None]);
        lines = CommandLines::default();
        lines.time.spend(1001, PER_USER, NOW);
        assert_eq!(lengths(&mut lines), [None; 4]);
    }

    #[test]
    fn setuid_program_is_charged_to_the_user_who_runs_it() {
        let folder = tempfile::tempdir().unwrap();
        let procfs = procfs_of(folder.path(), 1001, &[10]);
        // The folder belongs to the tests' user, as that of a process with a setuid program belongs to root.
        let files = OpenProcess::open(&procfs, 7).unwrap();
        assert_eq!(files.owner(), Some(1001));
    }

    #[test]
    fn decisions_on_one_table_read_a_command_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let lengths = [10].into_iter().chain([MAX_CMDLINE_BYTES; 8]).collect::<Vec<_>>();
        let procfs = procfs_of(folder.path(), 1001, &lengths);
        let mut lines = CommandLines::default();
        for pid in 7..16 {
            read(&mut lines, &procfs, pid);
            fs::write(folder.path().join(format!("{pid}/cmdline")), "other").unwrap();
        }
        let again = |lines: &mut CommandLines, pid: i32| read(lines, &procfs, pid).cmdline.unwrap().len();
        let all: Vec<usize> = (7..16).map(|pid| again(&mut lines, pid)).collect();
        assert_eq!(all[..8], lengths[..8]);
        assert_eq!(all[8], "other".len(), "there is no space for it");
        lines.forget(7);
        assert_eq!(read(&mut lines, &procfs, 7).cmdline.as_deref(), Some("other"));
        fs::write(folder.path().join("7/cmdline"), "third").unwrap();
        lines.forget_all();
        assert_eq!(read(&mut lines, &procfs, 7).cmdline.as_deref(), Some("third"));
    }
}
