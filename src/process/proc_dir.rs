//! An open directory of a process in procfs. Reads through it belong to that process or fail, even if the kernel
//! reuses the pid.

mod group_files;

pub use group_files::ProportionalMemory;

use super::fields::{Details, Process, ProcessFields, Unread};
use super::file_id::FileId;
use super::kernel_threads::KernelThreads;
use super::program;
use super::read::{FIRST_READ_BYTES, MAX_FILE_BYTES, read_file, unless_unreadable};
use super::table::{Procfs, has_left};
use super::timed_calls::{Blocked, BoundedCalls, PATIENCE};
use super::user_names::UserNames;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat, readlinkat, statat};
use rustix::io::Errno;
use std::cell::OnceCell;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Maximum size of a command line; longer ones are cut. The kernel has the same bound for one argument
/// (MAX_ARG_STRLEN).
pub(super) const MAX_CMDLINE_BYTES: usize = 128 * 1024;

/// The files of one process.
pub struct OpenProcess {
    directory: OwnedFd,
    /// The directory of a live thread, where the first thread has exited: that one has no memory and no files.
    live_thread: Option<OwnedFd>,
    /// The runner for files that may block their reader, and the pid.
    calls: Option<(BoundedCalls, i32)>,
    /// The content of `status`, which is expensive, serves several fields and is read once.
    status: OnceCell<Option<Vec<u8>>>,
}

/// The run time of the first thread of a process. Equal values mean that the thread has not run in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    nanoseconds: u64,
    times: u64,
}

impl Procfs {
    /// Calls `visit` for every process, with its directory open; threads are not listed. `boot_now` is
    /// CLOCK_BOOTTIME.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn for_each_process(&self, boot_now: Duration, mut visit: impl FnMut(Process, &OpenProcess)) -> io::Result<()> {
        let root = self.open_root()?;
        let mut stat = Vec::with_capacity(FIRST_READ_BYTES);
        for entry in Dir::read_from(&root)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_pid(name) {
                continue;
            }
            let opened = OpenProcess::open_at(&root, name).and_then(|files| {
                files.read_into("stat", MAX_FILE_BYTES, &mut stat)?;
                Ok(files)
            });
            let Some(files) = unless_unreadable(opened)? else {
                continue;
            };
            let Some(process) = self.parse_stat(&stat, boot_now) else {
                continue;
            };
            let process = self.with_live_thread(process);
            let files = files.of_thread(process.live_thread);
            visit(process, &files);
        }
        Ok(())
    }

    /// Reads every process, except kernel threads that are `known`; threads are not listed. `boot_now` is
    /// CLOCK_BOOTTIME.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn read_table(&self, boot_now: Duration, known: &mut KernelThreads) -> io::Result<Vec<Process>> {
        let root = self.open_root()?;
        let (mut path, mut stat) = (String::new(), Vec::with_capacity(FIRST_READ_BYTES));
        let mut processes = Vec::new();
        known.refresh(root.as_fd(), &mut stat);
        for entry in Dir::read_from(&root)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(pid) = name.to_str().ok().filter(|_| is_pid(name)) else {
                continue;
            };
            if let Some(thread) = known.find(pid, boot_now) {
                processes.push(thread);
                continue;
            }
            path.clear();
            path.extend([pid, "/stat"]);
            let read = unless_unreadable(read_file(root.as_fd(), &path, MAX_FILE_BYTES, &mut stat))?;
            let process = read.and_then(|()| self.parse_stat(&stat, boot_now));
            let process = process.map(|process| self.with_live_thread(process));
            processes.extend(process.inspect(|process| known.note(process)));
        }
        Ok(processes)
    }

    fn open_root(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &self.root, flags, Mode::empty())
    }
}

fn is_pid(name: &CStr) -> bool {
    name.to_bytes().iter().all(u8::is_ascii_digit)
}

impl OpenProcess {
    /// Opens the directory of a process.
    ///
    /// # Errors
    /// When the process does not exist.
    pub fn open(procfs: &Procfs, pid: i32) -> io::Result<OpenProcess> {
        let opened = Self::open_at(CWD, procfs.root.join(pid.to_string()))?;
        let calls = procfs.calls.clone().map(|calls| (calls, pid));
        Ok(OpenProcess { calls, ..opened })
    }

    fn open_at(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OpenProcess, Errno> {
        let directory = openat(
            at,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(OpenProcess {
            directory,
            live_thread: None,
            calls: None,
            status: OnceCell::new(),
        })
    }

    /// The files of the process as this thread has them; `None` is the first thread.
    pub(super) fn of_thread(self, tid: Option<i32>) -> OpenProcess {
        let open = |tid: i32| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(&self.directory, format!("task/{tid}"), flags, Mode::empty()).ok()
        };
        OpenProcess {
            live_thread: tid.and_then(open),
            ..self
        }
    }

    /// Whether the live thread whose files these are has exited.
    pub(super) fn has_thread_left(&self) -> bool {
        let read = |thread: &OwnedFd| {
            let mut stat = Vec::with_capacity(1024);
            read_file(thread.as_fd(), "stat", MAX_FILE_BYTES, &mut stat).ok()?;
            has_left(&stat)
        };
        self.live_thread.as_ref().and_then(read).unwrap_or(true)
    }

    /// The directory with the files that an exited thread does not have.
    fn living(&self) -> &OwnedFd {
        self.live_thread.as_ref().unwrap_or(&self.directory)
    }

    /// Reads the needed fields; an unreadable one becomes `None`.
    pub fn read_details(&self, details: &mut Details, needs: ProcessFields, users: &mut UserNames) {
        if needs.contains(ProcessFields::EXE) {
            details.exe = self.exe_path();
            details.exe_file = self.executable();
        }
        if needs.contains(ProcessFields::CGROUP) {
            details.cgroup = self.text("cgroup").and_then(|text| unified_cgroup(&text));
        }
        if needs.contains(ProcessFields::USER) {
            details.uid = self.status("Uid:").and_then(effective_uid);
            let name = details.uid.map_or(Ok(None), |uid| users.name(uid));
            details.has_unknown_user = name.is_err();
            details.user = name.unwrap_or(None);
        }
        if needs.contains(ProcessFields::SIGNALS) {
            details.caught_signals = self
                .status("SigCgt:")
                .and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
        }
        if needs.contains(ProcessFields::REAL_UID) {
            details.real_uid = self.owner();
        }
        if needs.contains(ProcessFields::OOM_SCORE) {
            details.oom_score = self.text("oom_score").and_then(|text| text.trim().parse().ok());
        }
        let usage = &mut details.usage;
        if needs.contains(ProcessFields::SWAP) {
            usage.swap_bytes = self
                .status("VmSwap:")
                .and_then(first_number)
                .map(|kibibytes| kibibytes.saturating_mul(1024));
        }
        if needs.contains(ProcessFields::CONTEXT_SWITCHES) {
            usage.voluntary_switches = self.status("voluntary_ctxt_switches:").and_then(first_number);
            usage.involuntary_switches = self.status("nonvoluntary_ctxt_switches:").and_then(first_number);
        }
        if needs.contains(ProcessFields::IO) {
            let io = self.text("io").unwrap_or_default();
            usage.read_bytes = line_after(&io, "read_bytes:").and_then(first_number);
            usage.write_bytes = line_after(&io, "write_bytes:").and_then(first_number);
        }
        if needs.contains(ProcessFields::OPEN_FDS) {
            usage.open_fds = self.count_fds();
            let limits = self.text("limits").unwrap_or_default();
            usage.max_fds = line_after(&limits, "Max open files").and_then(first_number);
        }
        // Last, because it may take longest.
        if needs.contains(ProcessFields::CMDLINE) {
            let read = self.read_cmdline(MAX_CMDLINE_BYTES);
            details.unread = read.as_ref().err().map(|Blocked| Unread::Blocked);
            details.cmdline = read.ok().flatten().map(|bytes| join_arguments(&bytes));
        }
    }

    /// Reads the command line up to a bound, with a deadline.
    ///
    /// # Errors
    /// When the process blocks its readers.
    pub(super) fn read_cmdline(&self, limit: usize) -> Result<Option<Vec<u8>>, Blocked> {
        self.read_patiently("cmdline", limit)
    }

    /// The user who runs the process: the real uid, which a setuid program keeps.
    pub(super) fn owner(&self) -> Option<u32> {
        // The directory belongs to the effective user, or to root where the process is not dumpable (proc(5)).
        match statat(&self.directory, "", AtFlags::EMPTY_PATH) {
            Ok(found) if found.st_uid != 0 => Some(found.st_uid),
            _ => self.status("Uid:").and_then(first_number)?.try_into().ok(),
        }
    }

    /// The file of the executable.
    pub fn executable(&self) -> Option<FileId> {
        FileId::at(self.living(), "exe")
    }

    /// Reads `stat` again.
    pub fn read_stat(&self, procfs: &Procfs, boot_now: Duration) -> Option<Process> {
        let mut stat = Vec::with_capacity(1024);
        self.read_into("stat", MAX_FILE_BYTES, &mut stat).ok()?;
        procfs.parse_stat(&stat, boot_now)
    }

    /// The path of the executable, without the kernel's ` (deleted)`.
    pub(super) fn exe_path(&self) -> Option<String> {
        let path = readlinkat(self.living(), "exe", Vec::new()).ok()?;
        let path = path.to_string_lossy();
        Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
    }

    /// Whether the executable is the host's own program at `path`.
    ///
    /// # Errors
    /// When the file system at the path does not answer in time.
    pub(super) fn is_host_program(&self, procfs: &Path, path: &str) -> Result<bool, Blocked> {
        program::is_of_host(procfs, self.living().as_fd(), path, self.calls.as_ref())
    }

    pub(super) fn real_uid(&self) -> Option<u32> {
        self.status("Uid:")?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Whether `status` has been read.
    pub fn has_read_status(&self) -> bool {
        self.status.get().is_some()
    }

    /// Reads `/proc/PID/schedstat` (sched-stats.rst): run time, wait time and number of time slices. `None` also where
    /// the kernel does not count them, which shows as zeros.
    pub fn ran(&self) -> Option<Ran> {
        let text = self.text("schedstat")?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
        let nanoseconds = numbers.next()?.ok()?;
        let times = numbers.nth(1)?.ok()?;
        (times > 0).then_some(Ran { nanoseconds, times })
    }

    /// The number of open file descriptors.
    pub fn count_fds(&self) -> Option<u64> {
        // Since Linux 6.2 the size is the number of entries, so no listing is needed.
        let size = statat(self.living(), "fd", AtFlags::empty()).ok()?.st_size;
        let is_procfs = fstatfs(&self.directory).is_ok_and(|statfs| statfs.f_type == PROC_SUPER_MAGIC);
        if is_procfs && size > 0 {
            return u64::try_from(size).ok();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(self.living(), "fd", flags, Mode::empty()).ok()?;
        let names = Dir::read_from(&directory).ok()?.flatten();
        Some(
            names
                .filter(|entry| !entry.file_name().to_bytes().starts_with(b"."))
                .count() as u64,
        )
    }

    /// The value of the line of `status` that begins with `key`.
    fn status(&self, key: &str) -> Option<&str> {
        let status = self.status.get_or_init(|| {
            let mut bytes = Vec::with_capacity(FIRST_READ_BYTES);
            let read = read_file(self.living().as_fd(), "status", MAX_FILE_BYTES, &mut bytes);
            read.ok().map(|()| bytes)
        });
        // The name in the first line may have any bytes. All other lines are ASCII.
        let lines = status.as_deref()?.split(|byte| *byte == b'\n');
        lines
            .filter_map(|line| line.strip_prefix(key.as_bytes()))
            .find_map(|rest| str::from_utf8(rest).ok())
    }

    fn text(&self, file: &str) -> Option<String> {
        self.read(file, MAX_FILE_BYTES)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn read(&self, file: &str, limit: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(FIRST_READ_BYTES);
        self.read_into(file, limit, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Reads a file that may block its reader, with a deadline.
    fn read_patiently(&self, file: &'static str, limit: usize) -> Result<Option<Vec<u8>>, Blocked> {
        let read = move |directory: BorrowedFd<'_>| {
            let mut bytes = Vec::with_capacity(FIRST_READ_BYTES);
            let read = read_file(directory, file, limit, &mut bytes);
            read.ok().map(|()| bytes)
        };
        let Some((calls, pid)) = &self.calls else {
            return Ok(read(self.living().as_fd()));
        };
        let Ok(directory) = self.living().try_clone() else {
            return Ok(None);
        };
        calls.run(*pid, PATIENCE, move || read(directory.as_fd()))
    }

    pub(super) fn read_into(&self, file: &str, limit: usize, bytes: &mut Vec<u8>) -> Result<(), Errno> {
        read_file(self.directory.as_fd(), file, limit, bytes)
    }
}

/// Joins arguments, which end with NUL, by one space.
pub(super) fn join_arguments(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).replace('\0', " ")
}

/// The path of the line `0::` of `/proc/PID/cgroup` (cgroups(7)).
fn unified_cgroup(text: &str) -> Option<String> {
    line_after(text, "0::").map(str::to_owned)
}

/// Second number of `Uid:` in `/proc/PID/status`.
fn effective_uid(line: &str) -> Option<u32> {
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn line_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))
}

fn first_number(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::BootId;

    #[test]
    fn arguments_are_joined_by_one_space() {
        assert_eq!(join_arguments(b"ffmpeg\0-i\0a b\0"), "ffmpeg -i a b");
        assert_eq!(join_arguments(b""), "");
    }

    #[test]
    fn long_command_line_is_read_up_to_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("7")).unwrap();
        let procfs = Procfs {
            root: directory.path().to_owned(),
            boot: BootId(1),
            page_bytes: 4096,
            calls: None,
        };
        for (length, expected) in [
            (0, 0),
            (4096, 4096),
            (4097, 4097),
            (50_000, 50_000),
            (200_000, MAX_CMDLINE_BYTES),
        ] {
            std::fs::write(directory.path().join("7/cmdline"), "x".repeat(length)).unwrap();
            let mut details = Details::default();
            let files = OpenProcess::open(&procfs, 7).unwrap();
            files.read_details(&mut details, ProcessFields::CMDLINE, &mut UserNames::default());
            assert_eq!(details.cmdline.unwrap().len(), expected, "{length}");
        }
    }

    #[test]
    fn exited_process_has_no_details() {
        let procfs = Procfs::open(Path::new("/proc")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let files = OpenProcess::open(&procfs, child.id() as i32).unwrap();
        let needs = ProcessFields::IO | ProcessFields::CONTEXT_SWITCHES | ProcessFields::OPEN_FDS;
        let read = || {
            let mut details = Details::default();
            OpenProcess::open_at(&files.directory, ".")
                .map(|again| again.read_details(&mut details, needs, &mut UserNames::default()))
                .ok()
                .map(|()| details.usage)
        };
        let usage = read().unwrap();
        assert!(
            usage.voluntary_switches.is_some() && usage.read_bytes.is_some(),
            "{usage:?}"
        );
        assert!(
            usage.open_fds >= Some(3) && usage.max_fds >= usage.open_fds,
            "{usage:?}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(read().unwrap_or_default(), Default::default());
    }
}
