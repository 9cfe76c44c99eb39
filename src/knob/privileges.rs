//! The privileges of evenkeel on this host. Trials at start show them without a change: on evenkeel itself, on files
//! that are opened and not written, and with signal 0 on processes of other users. Where no trial is possible, the
//! capabilities decide (capabilities(7)).

use nix::errno::Errno;
use nix::libc;
use rustix::process::{Pid, PidfdFlags};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bits of the effective capability set.
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_KILL: u64 = 1 << 5;
const CAP_SYS_PTRACE: u64 = 1 << 19;
pub const CAP_SYS_ADMIN: Capability = Capability(21, "CAP_SYS_ADMIN");
pub const CAP_SYS_NICE: Capability = Capability(23, "CAP_SYS_NICE");
pub const CAP_SYS_RESOURCE: Capability = Capability(24, "CAP_SYS_RESOURCE");
/// Maximum number of processes of other users to probe, one for each user.
const MAX_USERS: usize = 16;

/// A capability: its bit in the effective set, and its name.
#[derive(Debug, Clone, Copy)]
pub struct Capability(u32, &'static str);

/// The result of the probe: for each privilege `Ok`, or the name of the missing capability or system call.
#[derive(Debug, Clone, Copy)]
pub struct Privileges {
    capabilities: u64,
    /// Sending a signal to exactly one process.
    pub signal: Result<(), &'static str>,
    /// Lowering a nice value again.
    pub nice: Result<(), &'static str>,
    /// Writing the files of cgroups.
    pub cgroups: Result<(), &'static str>,
    /// Sending signals to processes of other users.
    pub others_signal: Result<(), &'static str>,
    /// Their files in `/proc`, such as `oom_score_adj`.
    pub others_files: Result<(), &'static str>,
    /// Reading the executables of processes of other users.
    pub others_exe: Result<(), &'static str>,
}

impl Privileges {
    pub fn run(procfs: &Path, cgroups: Option<&Path>) -> Privileges {
        let capabilities = capabilities();
        let lacks = |bit| capabilities & bit == 0;
        let others = processes_of_others(procfs);
        // One refusal is enough. A process that exited meanwhile proves nothing.
        let try_all = |bit, missing, is_refused: &dyn Fn(i32) -> bool| {
            let refused = others.iter().any(|&pid| is_refused(pid));
            if refused || (others.is_empty() && lacks(bit)) {
                Err(missing)
            } else {
                Ok(())
            }
        };
        let open = |pid: i32| {
            OpenOptions::new()
                .write(true)
                .open(procfs.join(format!("{pid}/oom_score_adj")))
        };
        let exe = |pid: i32| fs::read_link(procfs.join(format!("{pid}/exe")));
        let is_hidden = |pid| is_denied(exe(pid).err());
        Privileges {
            capabilities,
            signal: try_pidfd(),
            nice: if can_lower_nice() { Ok(()) } else { Err("CAP_SYS_NICE") },
            cgroups: try_cgroups(cgroups),
            others_signal: try_all(CAP_KILL, "CAP_KILL", &|pid| {
                open_pidfd(pid).is_ok_and(|pidfd| is_denied(send_nothing(&pidfd).err()))
            }),
            others_files: try_all(CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", &|pid| is_denied(open(pid).err())),
            // Without the capability, root may not inspect root's processes that have more capabilities, such as pid 1.
            others_exe: try_all(CAP_SYS_PTRACE, "CAP_SYS_PTRACE", &is_hidden).and(
                if lacks(CAP_SYS_PTRACE) && is_hidden(1) {
                    Err("CAP_SYS_PTRACE")
                } else {
                    Ok(())
                },
            ),
        }
    }

    /// # Errors
    /// With its name, when it is missing.
    pub fn need(&self, Capability(bit, name): Capability) -> Result<(), &'static str> {
        if self.capabilities & (1 << bit) == 0 {
            Err(name)
        } else {
            Ok(())
        }
    }
}

fn capabilities() -> u64 {
    let own = rustix::thread::capabilities(None);
    own.map_or(0, |sets| sets.effective.bits())
}

/// Whether a process belongs to the user that evenkeel runs as. False when the process is gone.
pub fn is_own(procfs: &Path, pid: i32) -> bool {
    let owner = fs::metadata(procfs.join(pid.to_string())).map(|found| found.uid());
    owner.is_ok_and(|uid| uid == rustix::process::geteuid().as_raw())
}

/// One process of each other user. Kernel threads are skipped because they have no executable.
fn processes_of_others(procfs: &Path) -> Vec<i32> {
    let mut users = vec![rustix::process::geteuid().as_raw()];
    let mut found = Vec::new();
    for entry in fs::read_dir(procfs).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (Some(pid), Ok(owner)) = (pid, entry.metadata()) else {
            continue;
        };
        let has_memory = fs::read(entry.path().join("statm")).is_ok_and(|text| !text.starts_with(b"0 "));
        if found.len() < MAX_USERS && !users.contains(&owner.uid()) && has_memory {
            users.push(owner.uid());
            found.push(pid);
        }
    }
    found
}

fn is_denied(error: Option<io::Error>) -> bool {
    error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends signal 0: the kernel checks permissions as for any signal but delivers nothing (kill(2)).
fn send_nothing(pidfd: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor outlives the call, and a null pointer means "as kill(2)".
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Ok(Errno::result(answer).map(drop)?)
}

/// Probes evenkeel's own process. Kernels before 5.3 have no pidfd, and containers may filter its calls.
fn try_pidfd() -> Result<(), &'static str> {
    let pidfd = open_pidfd(std::process::id() as i32).map_err(|_| "pidfd_open(2)")?;
    send_nothing(&pidfd).map_err(|_| "pidfd_send_signal(2)")
}

/// The highest nice value (setpriority(2)).
const HIGHEST_NICE: i32 = 19;

/// Whether a nice value can be lowered again: raises that of a thread of evenkeel and lowers it.
fn can_lower_nice() -> bool {
    let trial = || {
        let own = Some(rustix::thread::gettid());
        let Ok(now) = rustix::process::getpriority_process(own) else {
            return false;
        };
        // Of the highest value there is none to raise.
        let lower = now.min(HIGHEST_NICE - 1);
        rustix::process::setpriority_process(own, lower + 1).is_ok()
            && rustix::process::setpriority_process(own, lower).is_ok()
    };
    let thread = std::thread::Builder::new().name("trial".into()).spawn(trial);
    // A separate thread: if lowering fails, the raised value affects only this thread, which exits.
    thread.is_ok_and(|thread| thread.join().unwrap_or(false))
}

/// Opens `cgroup.procs` of the root cgroup for writing, and writes nothing.
fn try_cgroups(mount: Option<&Path>) -> Result<(), &'static str> {
    let path = mount.ok_or("cgroup v2")?.join("cgroup.procs");
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Err("a writable /sys/fs/cgroup"),
        Err(_) => Err("root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::CapabilitySet;
    use std::process::{Child, Command};

    /// Runs an action in a thread without a capability, because the kernel checks capabilities per thread.
    fn without<T: Send>(capability: CapabilitySet, host_action: impl FnOnce() -> T + Send) -> T {
        let lessened = || {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            assert!(sets.effective.contains(capability), "run as root");
            sets.effective.remove(capability);
            rustix::thread::set_capabilities(None, sets).unwrap();
            host_action()
        };
        std::thread::scope(|threads| threads.spawn(lessened).join().unwrap())
    }

    /// Runs an action in a thread for which a system call is filtered, as in many containers (seccomp(2)).
    fn filtered<T: Send>(call: i64, host_action: impl FnOnce() -> T + Send) -> T {
        let instruction = |code: u32, jump_false: u8, k: u32| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: jump_false,
            k,
        };
        // The system call number is the first word of the filter's input.
        let mut filter = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
            instruction(
                libc::BPF_RET | libc::BPF_K,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            ),
            instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        let address = &raw const program as usize;
        let confined = move || {
            // SAFETY: the program outlives the call, and the filter applies to this thread only.
            let answers = unsafe {
                [
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                    libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, address),
                ]
            };
            assert_eq!(answers, [0, 0]);
            host_action()
        };
        std::thread::scope(|threads| threads.spawn(confined).join().unwrap())
    }

    struct OtherUser(Child);

    impl Drop for OtherUser {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Starts a process of another user for the probe.
    fn spawn_as_other_user() -> OtherUser {
        use std::os::unix::process::CommandExt;
        let mut sleep = Command::new("sleep");
        OtherUser(sleep.arg("600").uid(65_534).gid(65_534).spawn().unwrap())
    }

    fn run() -> Privileges {
        Privileges::run(Path::new("/proc"), None)
    }

    #[test]
    fn with_every_capability_nothing_is_missing() {
        let _other = spawn_as_other_user();
        let found = run();
        let answers = [found.signal, found.nice, found.others_signal, found.others_files];
        assert_eq!(answers, [Ok(()); 4]);
        assert_eq!(found.others_exe, Ok(()));
        assert_eq!(found.need(CAP_SYS_NICE), Ok(()));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let other = spawn_as_other_user();
        assert!(!is_own(Path::new("/proc"), other.0.id() as i32));
        assert!(is_own(Path::new("/proc"), std::process::id() as i32));
        let found = without(CapabilitySet::KILL, run);
        assert_eq!((found.others_signal, found.signal), (Err("CAP_KILL"), Ok(())));
        let found = without(CapabilitySet::SYS_PTRACE, run);
        assert_eq!(found.others_exe, Err("CAP_SYS_PTRACE"));
        let found = without(CapabilitySet::DAC_OVERRIDE, run);
        assert_eq!(found.others_files, Err("CAP_DAC_OVERRIDE"));
        let found = without(CapabilitySet::SYS_NICE, run);
        assert_eq!(found.nice, Err("CAP_SYS_NICE"), "as tried");
        assert_eq!(found.need(CAP_SYS_NICE), Err("CAP_SYS_NICE"), "as told");
        let found = without(CapabilitySet::SYS_NICE, || {
            rustix::process::setpriority_process(Some(rustix::thread::gettid()), HIGHEST_NICE).unwrap();
            run()
        });
        assert_eq!(found.nice, Err("CAP_SYS_NICE"), "at the highest value");
    }

    #[test]
    fn filtered_system_calls_are_named() {
        assert_eq!(filtered(libc::SYS_pidfd_open, try_pidfd), Err("pidfd_open(2)"));
        assert_eq!(
            filtered(libc::SYS_pidfd_send_signal, try_pidfd),
            Err("pidfd_send_signal(2)")
        );
        // This fails although the thread has all capabilities.
        assert_eq!(filtered(libc::SYS_setpriority, run).nice, Err("CAP_SYS_NICE"));
        assert_eq!(filtered(libc::SYS_getpgid, try_pidfd), Ok(()));
    }

    #[test]
    fn cgroup_steps_need_a_writable_file() {
        assert_eq!(try_cgroups(None), Err("cgroup v2"));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(try_cgroups(Some(folder.path())), Err("root"));
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        assert_eq!(try_cgroups(Some(folder.path())), Ok(()));
    }
}
