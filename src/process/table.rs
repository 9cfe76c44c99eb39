//! A procfs: the processes of its table from `/proc/PID/stat`, and what it hides. A process that exits while being read
//! is left out, without an error.

use super::fields::{Details, Process};
use super::identity::{BootId, Identity};
use super::read::{FIRST_READ_BYTES, MAX_FILE_BYTES, is_gone, read_file, unless_unreadable};
use super::timed_calls::BoundedCalls;
use rustix::fs::CWD;
use rustix::io::Errno;
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
    ///
    /// # Errors
    /// Those of open(2) and read(2).
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::with_capacity(FIRST_READ_BYTES);
        read_file(CWD, self.root.join(path), MAX_FILE_BYTES, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads one process again; `None` if it is gone.
    ///
    /// # Errors
    /// When it cannot be read for another reason, and may run.
    pub fn find_process(&self, pid: i32, boot_now: Duration) -> Result<Option<Process>, Errno> {
        let process = self.find_stat(&format!("{pid}/stat"), boot_now)?;
        Ok(process.map(|process| self.with_live_thread(process)))
    }

    /// Reads one process again; `None` if it is gone, or evenkeel may not read it (`hidepid` of proc(5)).
    ///
    /// # Errors
    /// When evenkeel can read no process.
    pub fn readable_process(&self, pid: i32) -> Result<Option<Process>, Errno> {
        Ok(unless_unreadable(self.find_process(pid, Duration::ZERO))?.flatten())
    }

    /// Reads a thread, in the fields of a process; `None` if it is gone.
    ///
    /// # Errors
    /// As for [`Procfs::find_process`].
    pub fn find_thread(&self, pid: i32, tid: i32) -> Result<Option<Process>, Errno> {
        self.find_stat(&format!("{pid}/task/{tid}/stat"), Duration::ZERO)
    }

    fn find_stat(&self, path: &str, boot_now: Duration) -> Result<Option<Process>, Errno> {
        match self.read(path) {
            Ok(stat) => Ok(self.parse_stat(&stat, boot_now)),
            Err(error) if is_gone(error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The children of the first thread of a process (`CONFIG_PROC_CHILDREN`); none where evenkeel may not read them.
    ///
    /// # Errors
    /// When evenkeel can read no process.
    pub fn children(&self, pid: i32) -> Result<Vec<i32>, Errno> {
        let text = unless_unreadable(self.read(&format!("{pid}/task/{pid}/children")))?;
        let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
        Ok(text.split(' ').flat_map(str::parse).collect())
    }

    /// Reads one process again; `None` if it is gone or cannot be read.
    pub fn read_process(&self, pid: i32, boot_now: Duration) -> Option<Process> {
        self.find_process(pid, boot_now).ok().flatten()
    }

    /// Whether a process has exited, or all its threads are in exit(2). Its memory may be gone then although its state
    /// does not show that yet.
    pub fn is_ending(&self, id: Identity) -> bool {
        let is_it = |process: &Process| process.identity == id;
        match self.find_process(id.pid, Duration::ZERO) {
            Ok(found) if found.as_ref().is_some_and(is_it) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
        // A process that is unreadable for another reason may run.
        let is_gone = |error: &io::Error| Errno::from_io_error(error).is_some_and(is_gone);
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
    use crate::process::consistent_read::ProcessReader;
    use crate::process::{FileId, ProcessFields};

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
        assert!(ProcessReader::new(procfs).read_details(&mut me, needs));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(me.details.exe.as_deref(), exe.to_str());
        assert_eq!(me.details.exe_file, FileId::of(&exe));
        assert_eq!(me.details.uid, Some(nix::unistd::geteuid().as_raw()));
        assert!(me.details.cmdline.is_some() && me.details.caught_signals.is_some());
    }
}
