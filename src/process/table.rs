//! The process table: the fields of `/proc/PID/stat`, and processor use between two readings. `open` reads the
//! expensive files. A process that exits while being read is left out, without an error.

use super::file_id::FileId;
use super::identity::{BootId, Identity};
use super::read::{FIRST_READ_BYTES, MAX_FILE_BYTES, read_file};
use super::timed_calls::BoundedCalls;
use nix::libc;
use rustix::fs::CWD;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// PF_KTHREAD of include/linux/sched.h, in field 9 of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;
/// PF_EXITING, in the same field.
const PF_EXITING: u64 = 0x4;
/// The last field of `/proc/PID/stat` that is read: resident pages.
const LAST_STAT_FIELD: usize = 24;
/// USER_HZ, the unit of times in procfs: 100 on every architecture but alpha and ia64.
pub const TICKS_PER_SECOND: u64 = 100;
/// Minimum time over which processor use is measured.
pub const MIN_CPU_WINDOW: Duration = Duration::from_secs(5);

bitflags::bitflags! {
/// The expensive fields to read.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct ProcessFields: u16 {
        const CMDLINE = 1 << 0;
        const EXE = 1 << 1;
        /// Effective uid and its user name.
        const USER = 1 << 2;
        const CGROUP = 1 << 3;
/// The signals that the process catches.
        const SIGNALS = 1 << 4;
        const OOM_SCORE = 1 << 5;
        /// Processor use, from two readings of the table.
        const CPU = 1 << 6;
        const SWAP = 1 << 7;
        const CONTEXT_SWITCHES = 1 << 8;
        const IO = 1 << 9;
/// The number of open files and its limit. The most expensive field, because a busy server has thousands.
        const OPEN_FDS = 1 << 10;
        /// Whether the executable is the host's own, whose path `EXE` is.
        const HOST_PROGRAM = 1 << 11;
        /// Whether the process leads a login session, which depends on `CGROUP`.
        const LOGIN = 1 << 12;
        const REAL_UID = 1 << 13;
        /// The same as `HOST_PROGRAM`, of a process whose executable has the file name of a protected program.
        const PROTECTED_PROGRAM = 1 << 14;
    }
}

/// The fields of `/proc/PID/stat`, and the expensive fields that were read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub identity: Identity,
    /// `comm`, with U+FFFD in place of bytes that are not UTF-8.
    pub name: String,
    pub parent: i32,
    pub session: i32,
    pub has_terminal: bool,
    /// A live thread, where the first thread has exited. `state`, `nice` and memory are those of this thread.
    #[serde(default)]
    pub live_thread: Option<i32>,
    /// The state letter of proc(5).
    pub state: char,
    pub is_kernel_thread: bool,
    pub threads: u32,
    /// The nice value of the main thread.
    pub nice: i32,
    /// User and system time in clock ticks.
    pub cpu_ticks: u64,
    /// The system time within `cpu_ticks`.
    pub system_ticks: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub virtual_bytes: u64,
    pub resident_bytes: u64,
    /// Start on CLOCK_BOOTTIME, to one clock tick.
    pub born_at: Duration,
    pub age: Duration,
    /// Processor cores over at least [`MIN_CPU_WINDOW`]; `None` until measured.
    pub cpu_cores: Option<f64>,
    pub details: Details,
}

/// The expensive fields. `None` is "not read" or "unreadable".
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Details {
    pub cmdline: Option<String>,
    /// Why the fields are incomplete or do not belong together.
    #[serde(default)]
    pub unread: Option<Unread>,
    pub exe: Option<String>,
    /// The file of the executable. `None` although `exe` is known: evenkeel may not look at it.
    #[serde(default)]
    pub exe_file: Option<FileId>,
    /// Whether `exe` is the file at that path on this host, and only root can write it.
    #[serde(default)]
    pub is_host_program: Option<bool>,
    /// Whether the end of the process ends the login of a user.
    #[serde(default)]
    pub leads_login: Option<bool>,
    /// The effective uid.
    pub uid: Option<u32>,
    #[serde(default)]
    pub real_uid: Option<u32>,
    pub user: Option<String>,
    /// Whether the name was not looked up in time, so that `user` says nothing.
    #[serde(default)]
    pub has_unknown_user: bool,
    pub cgroup: Option<String>,
    /// Bit N-1 is set if signal N is caught (`SigCgt`).
    pub caught_signals: Option<u64>,
    pub oom_score: Option<i64>,
    #[serde(default)]
    pub usage: Usage,
}

/// The reason why a process was not read completely. Such a process is never a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unread {
    #[error("reading the command line timed out")]
    Blocked,
    #[error("its command line was not read in time")]
    OutOfTime,
    #[error("it runs another program each time it is read")]
    Changing,
    #[error("looking up the path of its executable timed out")]
    LookupBlocked,
    #[error("the name of its user was not looked up in time")]
    UnknownUser,
}

/// The resource use of a process beyond `/proc/PID/stat`. `None` is "not read" or "unreadable".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub swap_bytes: Option<u64>,
    /// Context switches of the main thread only, as in `/proc/PID/status`.
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
    /// Bytes from and to storage (`/proc/PID/io`, proc(5)).
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    /// The soft limit; `None` also if there is no limit.
    pub max_fds: Option<u64>,
}

impl Usage {
    /// Whether all needed fields were read.
    pub fn is_complete(&self, needs: ProcessFields) -> bool {
        let is_there = |need, values: &[Option<u64>]| !needs.contains(need) || values.iter().all(Option::is_some);
        is_there(ProcessFields::SWAP, &[self.swap_bytes])
            && is_there(
                ProcessFields::CONTEXT_SWITCHES,
                &[self.voluntary_switches, self.involuntary_switches],
            )
            && is_there(ProcessFields::IO, &[self.read_bytes, self.write_bytes])
            && is_there(ProcessFields::OPEN_FDS, &[self.open_fds])
    }
}

impl Process {
    /// Whether the process is a zombie without running threads.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }

    /// Whether only the first thread has exited.
    pub(super) fn is_leader_gone(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads > 1
    }

    /// A plain process of a simulated host: one thread, nice 0, an hour old, no details.
    pub fn example(pid: i32, name: &str) -> Process {
        Process {
            identity: Identity {
                boot: BootId(1),
                pid,
                start_ticks: 1000 + pid as u64,
            },
            name: name.to_owned(),
            parent: 1,
            session: 0,
            has_terminal: false,
            live_thread: None,
            state: 'S',
            is_kernel_thread: false,
            threads: 1,
            nice: 0,
            cpu_ticks: 0,
            system_ticks: 0,
            minor_faults: 0,
            major_faults: 0,
            virtual_bytes: 0,
            resident_bytes: 0,
            born_at: Duration::from_millis((1000 + pid as u64) * 10),
            age: Duration::from_secs(3600),
            cpu_cores: None,
            details: Details::default(),
        }
    }
}

/// The procfs to read, and the kernel's units.
#[derive(Debug, Clone)]
pub struct Procfs {
    pub root: PathBuf,
    pub boot: BootId,
    pub page_bytes: u64,
    /// The runner of calls that may block, for readers that must not.
    pub calls: Option<BoundedCalls>,
}

impl Procfs {
    /// Opens a procfs.
    ///
    /// # Errors
    /// When `sys/kernel/random/boot_id` under `root` is unreadable. Without it no process has an identity.
    pub fn open(root: &Path) -> io::Result<Procfs> {
        let path = root.join("sys/kernel/random/boot_id");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let boot = text
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))?;
        Ok(Procfs {
            boot,
            ..Procfs::for_metrics(root)
        })
    }

    /// A procfs for metrics alone, which need no boot id: their identities do not outlast this run.
    pub fn for_metrics(root: &Path) -> Procfs {
        let sysconf = |variable| nix::unistd::sysconf(variable).ok().flatten().map(|value| value as u64);
        Procfs {
            root: root.to_owned(),
            boot: BootId(0),
            page_bytes: sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap_or(4096),
            calls: None,
        }
    }

    /// Whether this procfs hides processes from all that may not inspect them, evenkeel possibly among them.
    pub fn hides_from_others(&self) -> bool {
        let mounts = std::fs::read_to_string(self.root.join("self/mountinfo")).unwrap_or_default();
        hidepid(&mounts, &self.root).is_some()
    }

    /// The reason why this procfs hides other users' processes, which rules then cannot find. Checks pid 1, which
    /// always exists and belongs to root.
    pub fn hides_processes(&self) -> Option<String> {
        let error = File::open(self.root.join("1/stat")).err()?;
        let mounts = std::fs::read_to_string(self.root.join("self/mountinfo")).unwrap_or_default();
        let root = self.root.display();
        Some(match hidepid(&mounts, &self.root) {
            Some(option) => format!(
                "{root} is mounted with {option}: processes of other users cannot be seen, and no rule finds them; run \
                 evenkeel as root, or in the group that the mount option gid= names"
            ),
            None => format!("{root}/1/stat cannot be read ({error}): no rule finds what cannot be seen"),
        })
    }

    /// Reads one small file by its path in the procfs, with fewer system calls than a reader of regular files.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(FIRST_READ_BYTES);
        read_file(CWD, self.root.join(path), MAX_FILE_BYTES, &mut bytes)?;
        Some(bytes)
    }

    /// Reads one process again; `None` if it is gone.
    pub fn read_process(&self, pid: i32, boot_now: Duration) -> Option<Process> {
        let process = self.parse_stat(&self.read(&format!("{pid}/stat"))?, boot_now)?;
        Some(self.with_live_thread(process))
    }

    /// Whether a process has exited, or all its threads are in exit(2). Its memory may be gone then although its state
    /// does not show that yet.
    pub fn is_ending(&self, id: Identity) -> bool {
        let is_it = |process: &Process| process.identity == id;
        if !self.read_process(id.pid, Duration::ZERO).as_ref().is_some_and(is_it) {
            return true;
        }
        // A process that is unreadable for another reason may run.
        let is_gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
        let tasks = match std::fs::read_dir(self.root.join(format!("{}/task", id.pid))) {
            Ok(tasks) => tasks,
            Err(error) => return is_gone(&error),
        };
        let mut left = tasks.map(
            |task| match task.and_then(|task| std::fs::read(task.path().join("stat"))) {
                Ok(stat) => has_left(&stat).unwrap_or(false),
                Err(error) => is_gone(&error),
            },
        );
        left.all(|left| left)
    }

    /// Parses `/proc/PID/stat` (proc(5)).
    pub fn parse_stat(&self, stat: &[u8], boot_now: Duration) -> Option<Process> {
        // The name may contain parentheses and blanks; the last parenthesis ends it.
        let open = stat.iter().position(|&byte| byte == b'(')?;
        let close = stat.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(stat.get(..open)?).ok()?.trim().parse().ok()?;
        let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let mut fields = [""; LAST_STAT_FIELD - 2];
        for (slot, field) in fields.iter_mut().zip(rest.split_ascii_whitespace()) {
            *slot = field;
        }
        // Field numbers as in proc(5), where the state is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |at: usize| field(at)?.parse::<i64>().ok();
        let start_ticks = field(22)?.parse().ok()?;
        let started = Duration::from_millis(u64::saturating_mul(start_ticks, 1000 / TICKS_PER_SECOND));
        let system_ticks: u64 = field(15)?.parse().ok()?;
        Some(Process {
            identity: Identity {
                boot: self.boot,
                pid,
                start_ticks,
            },
            name,
            parent: number(4)? as i32,
            session: number(6)? as i32,
            has_terminal: number(7)? != 0,
            live_thread: None,
            state: field(3)?.chars().next()?,
            is_kernel_thread: field(9)?.parse::<u64>().ok()? & PF_KTHREAD != 0,
            threads: number(20)? as u32,
            nice: number(19)? as i32,
            cpu_ticks: field(14)?.parse::<u64>().ok()?.saturating_add(system_ticks),
            system_ticks,
            minor_faults: field(10)?.parse().ok()?,
            major_faults: field(12)?.parse().ok()?,
            virtual_bytes: field(23)?.parse().ok()?,
            resident_bytes: (number(24)?.max(0) as u64).saturating_mul(self.page_bytes),
            born_at: started,
            age: boot_now.saturating_sub(started),
            cpu_cores: None,
            details: Details::default(),
        })
    }
}

/// Whether the thread of a `/proc/PID/task/TID/stat` is dead or in exit(2).
pub(super) fn has_left(stat: &[u8]) -> Option<bool> {
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(close + 1..)?)
        .ok()?
        .split_ascii_whitespace();
    // Fields 3 and 9 of proc(5).
    let state = fields.next()?;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    Some(matches!(state, "Z" | "X" | "x") || flags & PF_EXITING != 0)
}

/// Processor time of every process at an earlier moment.
#[derive(Debug, Clone, Default)]
pub struct CpuBaseline {
    pub taken_at: Duration,
    ticks: HashMap<Identity, u64>,
}

impl CpuBaseline {
    /// The processor times of a table read at `boot_now`.
    pub fn take(processes: &[Process], boot_now: Duration) -> CpuBaseline {
        let mut baseline = CpuBaseline {
            taken_at: boot_now,
            ticks: HashMap::with_capacity(processes.len()),
        };
        processes.iter().for_each(|process| baseline.add(process));
        baseline
    }

    /// Adds one more process of the same reading.
    pub fn add(&mut self, process: &Process) {
        self.ticks.insert(process.identity, process.cpu_ticks);
    }

    /// Sets `cpu_cores` if at least [`MIN_CPU_WINDOW`] lies between the two readings, or if the process started in
    /// between and is at least that old.
    pub fn measure(&self, processes: &mut [Process], boot_now: Duration) {
        let window = boot_now.saturating_sub(self.taken_at);
        for process in processes {
            let (before, span) = match self.ticks.get(&process.identity) {
                Some(before) => (*before, window),
                None => (0, process.age),
            };
            if span >= MIN_CPU_WINDOW {
                let seconds = process.cpu_ticks.saturating_sub(before) as f64 / TICKS_PER_SECOND as f64;
                process.cpu_cores = Some(seconds / span.as_secs_f64());
            }
        }
    }
}

/// The option of the mount at `root` that hides processes (proc(5), "Mount options"), from a mountinfo.
fn hidepid<'m>(mountinfo: &'m str, root: &Path) -> Option<&'m str> {
    // The last mount at a path covers the others.
    let at_root = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4).map(Path::new) == Some(root))?;
    let (_, filesystem) = at_root.split_once(" - ")?;
    let options = filesystem.split(' ').nth(2)?;
    let hides = |option: &&str| {
        option
            .strip_prefix("hidepid=")
            .is_some_and(|how| !matches!(how, "0" | "off"))
    };
    options.split(',').find(hides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn procfs() -> Procfs {
        Procfs {
            root: "/proc".into(),
            boot: BootId(1),
            page_bytes: 4096,
            calls: None,
        }
    }

    fn stat_of(name: &[u8]) -> Vec<u8> {
        let mut stat = b"42 (".to_vec();
        stat.extend_from_slice(name);
        stat.extend_from_slice(
            b") R 1 42 42 34816 42 4194304 100 0 0 0 500 250 0 0 25 5 3 0 1000 1000000 25 18446744073709551615 1 1 0 0",
        );
        stat
    }

    #[test]
    fn stat_with_hostile_names_is_read() {
        for name in [&b") Z 1 ("[..], b"", b"a b", b"new\nline", b"\xff\xfe", b"((("] {
            let process = procfs().parse_stat(&stat_of(name), Duration::from_secs(60)).unwrap();
            assert_eq!(process.name, String::from_utf8_lossy(name));
            assert_eq!(process.identity.pid, 42);
            assert_eq!(process.identity.start_ticks, 1000);
            assert_eq!((process.state, process.parent, process.session), ('R', 1, 42));
            assert_eq!((process.threads, process.nice, process.cpu_ticks), (3, 5, 750));
            assert_eq!(process.resident_bytes, 25 * 4096);
            assert_eq!(process.age, Duration::from_secs(50));
            assert!(process.has_terminal && !process.is_kernel_thread);
        }
    }

    #[test]
    fn numbers_out_of_range_saturate() {
        let most = u64::MAX.to_string();
        let stat = format!(
            "42 (x) R 1 42 42 0 -1 0 0 0 0 0 {most} {most} 0 0 20 0 1 0 {most} 0 {} 0",
            i64::MAX
        );
        let process = procfs().parse_stat(stat.as_bytes(), Duration::ZERO).unwrap();
        assert_eq!((process.cpu_ticks, process.resident_bytes), (u64::MAX, u64::MAX));
        assert_eq!(process.age, Duration::ZERO);
    }

    #[test]
    fn broken_stat_is_no_process() {
        for stat in [&b""[..], b"42", b"42 (x", b"42 (x) R", b"x (y) R 1 2 3"] {
            assert_eq!(procfs().parse_stat(stat, Duration::ZERO), None);
        }
    }

    #[test]
    fn cpu_is_measured_over_five_seconds_at_least() {
        let mut process = Process::example(7, "burner");
        process.cpu_ticks = 1000;
        let baseline = CpuBaseline::take(&[process.clone()], Duration::from_secs(100));
        process.cpu_ticks = 2500;
        let mut now = [process];
        baseline.measure(&mut now, Duration::from_secs(104));
        assert_eq!(now[0].cpu_cores, None);
        baseline.measure(&mut now, Duration::from_secs(110));
        assert_eq!(now[0].cpu_cores, Some(1.5));
    }

    #[test]
    fn mount_option_hidepid_is_found() {
        let mounts = "22 1 0:20 / / rw - ext4 /dev/sda rw\n\
                      23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
                      24 23 0:22 / /proc rw,nosuid - proc proc rw,gid=4,hidepid=invisible\n";
        assert_eq!(hidepid(mounts, Path::new("/proc")), Some("hidepid=invisible"));
        assert_eq!(hidepid(mounts, Path::new("/host/proc")), None);
        let off = mounts.replace("invisible", "off");
        assert_eq!(hidepid(&off, Path::new("/proc")), None);
        let open = mounts.lines().take(2).collect::<Vec<_>>().join("\n");
        assert_eq!(hidepid(&open, Path::new("/proc")), None);
        assert_eq!(Procfs::open(Path::new("/proc")).unwrap().hides_processes(), None);
    }

    #[test]
    fn process_without_running_threads_is_ending() {
        let folder = tempfile::tempdir().unwrap();
        let procfs = Procfs {
            root: folder.path().to_owned(),
            ..procfs()
        };
        let write = |path: &str, state: char, flags: u64| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let stat = format!("42 (x) {state} 1 42 42 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 2 0 1000 0 0 0");
            std::fs::write(path, stat).unwrap();
        };
        let (running, exiting) = (0x40_0000, 0x40_0004);
        for (main, other, expected) in [
            (('S', running), ('S', running), false),
            (('Z', exiting), ('S', running), false),
            (('R', exiting), ('S', running), false),
            (('R', exiting), ('D', exiting), true),
            (('Z', exiting), ('X', running), true),
        ] {
            write("42/stat", main.0, main.1);
            write("42/task/42/stat", main.0, main.1);
            write("42/task/43/stat", other.0, other.1);
            let id = procfs.read_process(42, Duration::ZERO).unwrap().identity;
            assert_eq!(procfs.is_ending(id), expected, "{main:?} {other:?}");
            assert!(procfs.is_ending(Identity { start_ticks: 1, ..id }), "another process");
        }
    }

    #[test]
    fn zombie_child_is_ending() {
        let procfs = Procfs::open(Path::new("/proc")).unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let id = procfs.read_process(child.id() as i32, Duration::ZERO).unwrap().identity;
        assert!(!procfs.is_ending(id));
        drop(child.stdin.take());
        let ended = || {
            procfs
                .read_process(id.pid, Duration::ZERO)
                .is_some_and(|now| now.is_dead())
        };
        while !ended() {
            std::thread::yield_now();
        }
        assert!(procfs.is_ending(id));
        child.wait().unwrap();
        assert!(procfs.is_ending(id));
    }

    #[test]
    fn own_process_is_in_the_table_with_its_details() {
        let procfs = Procfs::open(Path::new("/proc")).unwrap();
        let mut me = procfs
            .read_process(std::process::id() as i32, Duration::from_secs(1))
            .unwrap();
        let needs = ProcessFields::CMDLINE
            | ProcessFields::EXE
            | ProcessFields::USER
            | ProcessFields::CGROUP
            | ProcessFields::SIGNALS
            | ProcessFields::OOM_SCORE;
        assert!(procfs.read_details(&mut me, needs, &mut crate::process::user_names::UserNames::default()));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(me.details.exe.as_deref(), exe.to_str());
        assert_eq!(me.details.exe_file, FileId::of(&exe));
        assert_eq!(me.details.uid, Some(nix::unistd::geteuid().as_raw()));
        assert!(me.details.cmdline.is_some() && me.details.caught_signals.is_some());
    }
}
