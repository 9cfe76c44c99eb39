//! The real host: system calls on processes, each bound to an identity.

mod exit_watch;
mod processors;
#[cfg(test)]
mod tests;
mod thread;

use super::cgroup_limits::Limits;
use super::suspension::{Freezers, Suspension};
use super::unit::UnitState;
use super::{
    CgroupError, Host, HostError, Job, Knob, LimitState, Moment, Reach, Reading, Reclaimed, RunnerClient, Thread,
    Value, own_processes, pageout,
};
use crate::knob::limit::Device;
use crate::knob::privileges::{self, CAP_SYS_ADMIN, Privileges};
use crate::knob::sched;
use crate::process::consistent_read::ProcessReader;
use crate::process::table::Procfs;
use crate::process::timed_calls::{self, BoundedCalls};
use crate::process::{Cgroup, Identity, Process, ProcessFields, Selector};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thread::LinuxThread;

/// `/proc/meminfo` is shorter, so that it is read at once.
const MEMINFO_BYTES: usize = 4096;

/// Where cgroup2 is mounted on every distribution with systemd.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Called from a thread of its own with the identity of a process that ended.
pub type OnExit = Arc<dyn Fn(Identity) + Send + Sync>;

#[derive(Clone)]
pub struct LinuxHost {
    reader: ProcessReader,
    privileges: Privileges,
    /// Whose line [`Host::own_ancestors`] is.
    own_pid: i32,
    on_exit: OnExit,
    limits: Limits,
    freezers: Freezers,
    jobs: Option<RunnerClient>,
}

impl LinuxHost {
    /// Takes over a procfs that was opened; `on_exit` hears of the processes given to [`Host::watch_exit`].
    pub fn new(procfs: Procfs, on_exit: OnExit) -> LinuxHost {
        let limits = Limits::find(&procfs.root, procfs.boot);
        let procfs = Procfs {
            calls: Some(BoundedCalls::default()),
            ..procfs
        };
        LinuxHost {
            privileges: Privileges::run(&procfs.root, limits.mount()),
            freezers: Freezers::find(&procfs.root, limits.mount()),
            limits,
            reader: ProcessReader::new(procfs),
            own_pid: std::process::id() as i32,
            on_exit,
            jobs: None,
        }
    }

    /// Adds a runner of jobs. Without one, this host is read-only.
    pub fn with_jobs(self, jobs: RunnerClient) -> LinuxHost {
        LinuxHost {
            jobs: Some(jobs),
            ..self
        }
    }

    /// Sees the host as another evenkeel does: that one and its ancestors are its own line.
    pub fn seen_by(self, daemon_pid: i32) -> LinuxHost {
        LinuxHost {
            own_pid: daemon_pid,
            ..self
        }
    }

    pub fn procfs(&self) -> &Procfs {
        &self.reader.procfs
    }

    fn cgroup_mount(&self) -> &Path {
        self.limits.mount().unwrap_or(Path::new(CGROUPS))
    }

    fn verify(&mut self, id: Identity) -> Result<Process, HostError> {
        match self.find_process(id.pid).map_err(|error| unreadable(id.pid, error))? {
            None => Err(HostError::Gone { pid: id.pid }),
            Some(now) if now.identity != id => Err(HostError::ChangedIdentity { pid: id.pid }),
            Some(now) if now.is_dead() => Err(HostError::Gone { pid: id.pid }),
            Some(now) => Ok(now),
        }
    }

    /// A thread's own start time tells whether its id was handed out again.
    fn verify_thread(&self, id: Identity, thread: Thread) -> Result<(), HostError> {
        match self.thread(id.pid, thread.tid)? {
            Some(now) if now.identity.start_ticks == thread.start_ticks => Ok(()),
            Some(_) => Err(HostError::ChangedIdentity { pid: thread.tid }),
            None => Err(HostError::Gone { pid: thread.tid }),
        }
    }

    /// A thread, in the fields of a process.
    fn thread(&self, pid: i32, tid: i32) -> Result<Option<Process>, HostError> {
        let found = self.procfs().find_thread(pid, tid);
        found.map_err(|errno| unreadable(tid, errno.into()))
    }

    fn open_pidfd(&mut self, id: Identity) -> Result<OwnedFd, HostError> {
        let pid = Pid::from_raw(id.pid).ok_or(HostError::Gone { pid: id.pid })?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| HostError::of_call("pidfd_open", "CAP_SYS_NICE", id.pid, errno.into()))?;
        // The descriptor holds the process that had the pid when it was opened; only now is it known who that was.
        self.verify(id)?;
        Ok(pidfd)
    }
}

impl Host for LinuxHost {
    fn now(&self) -> Moment {
        Moment {
            boot: boot_time(),
            wall: Timestamp::now(),
        }
    }

    fn processes(&mut self) -> io::Result<Vec<Process>> {
        self.reader.read_table(boot_time())
    }

    fn process(&mut self, pid: i32) -> Option<Process> {
        self.find_process(pid).ok().flatten()
    }

    fn find_process(&mut self, pid: i32) -> io::Result<Option<Process>> {
        self.reader.find_process(pid, boot_time())
    }

    fn prepare_users(&mut self, names: &[&str]) {
        self.reader.prepare_users(names);
    }

    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        self.reader.read_details(process, needs)
    }

    fn read_details_in_time(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        self.reader.read_details_in_time(process, needs, boot_time())
    }

    fn satisfies(&mut self, process: &mut Process, selector: &Selector, more: ProcessFields) -> bool {
        self.reader.satisfies(process, selector, more, boot_time())
    }

    fn threads(&mut self, id: Identity) -> Result<Vec<Thread>, HostError> {
        let listing = fs::read_dir(self.procfs().root.join(format!("{}/task", id.pid)))
            .map_err(|error| HostError::of_call("listing threads", "CAP_SYS_PTRACE", id.pid, error))?;
        let mut threads = Vec::new();
        for entry in listing.flatten() {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A thread that has ended needs nothing. The first one stays in the list as long as others run.
            let thread = self.thread(id.pid, tid)?;
            if let Some(thread) = thread.filter(|thread| !matches!(thread.state, 'Z' | 'X' | 'x')) {
                let start_ticks = thread.identity.start_ticks;
                threads.push(Thread { tid, start_ticks });
            }
        }
        // Whose they were: a process that ended does not come back, so that it was the same before.
        self.verify(id)?;
        threads.sort_unstable();
        Ok(threads)
    }

    fn get(&mut self, id: Identity, thread: Thread, knob: Knob) -> Result<Value, HostError> {
        let value = knob.get(&mut LinuxThread { host: self, id, thread })?;
        self.verify_thread(id, thread)?;
        Ok(value)
    }

    fn set(&mut self, id: Identity, thread: Thread, value: &Value) -> Result<(), HostError> {
        self.verify_thread(id, thread)?;
        value.set(&mut LinuxThread { host: self, id, thread })?;
        // setpriority and its kin take a number, not a descriptor: look again whether it was the right one.
        self.verify_thread(id, thread)
    }

    fn resets_on_fork(&mut self, id: Identity, thread: Thread) -> Result<bool, HostError> {
        let resets = sched::resets_on_fork(thread.tid)?;
        self.verify_thread(id, thread)?;
        Ok(resets)
    }

    fn set_reset_on_fork(&mut self, id: Identity, thread: Thread, resets: bool) -> Result<(), HostError> {
        self.verify_thread(id, thread)?;
        sched::set_reset_on_fork(thread.tid, resets)?;
        self.verify_thread(id, thread)
    }

    fn signal(&mut self, id: Identity, signal: Signal) -> Result<(), HostError> {
        let pidfd = self.open_pidfd(id)?;
        let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(HostError::Failed {
            what: "signal",
            pid: id.pid,
            source: io::ErrorKind::InvalidInput.into(),
        })?;
        rustix::process::pidfd_send_signal(&pidfd, signal)
            .map_err(|errno| HostError::of_call("pidfd_send_signal", "CAP_KILL", id.pid, errno.into()))
    }

    fn suspensions(&mut self, id: Identity) -> Vec<Suspension> {
        let Ok(now) = self.verify(id) else { return Vec::new() };
        let cgroups = self.procfs().read(&format!("{}/cgroup", id.pid)).unwrap_or_default();
        let frozen = self.freezers.frozen(&String::from_utf8_lossy(&cgroups));
        Suspension::of_state(&now).into_iter().chain(frozen).collect()
    }

    fn page_out(&mut self, id: Identity, bytes: u64) -> Result<Reclaimed, HostError> {
        let pidfd = self.open_pidfd(id)?;
        let failed = |error| HostError::of_call("process_madvise", "CAP_SYS_NICE", id.pid, error);
        let now = self.verify(id)?;
        if now.live_thread.is_some() {
            // process_madvise(2) reaches the memory through the first thread.
            let source = io::Error::other("its first thread has exited; reclaim memory of its cgroup instead");
            return Err(failed(source));
        }
        let before = now.resident_bytes;
        let procfs = self.procfs().clone();
        // Both the list of its memory and the call itself wait for a process that holds the lock of its memory.
        let moving = move || {
            let maps = fs::read_to_string(procfs.root.join(format!("{}/maps", id.pid)))?;
            let now = || procfs.read_process(id.pid, Duration::ZERO);
            pageout::page_out(&pidfd, &maps, bytes, || now().map_or(0, |now| now.resident_bytes))
        };
        let calls = self.procfs().calls.clone().unwrap_or_default();
        let moved = calls.run(id.pid, pageout::PAGE_OUT_TIME + timed_calls::PATIENCE, moving);
        let moved = moved.unwrap_or_else(|blocked| Err(io::Error::new(io::ErrorKind::TimedOut, blocked)));
        moved.map_err(failed)?;
        let after = self.verify(id)?.resident_bytes;
        Ok(Reclaimed { before, after })
    }

    fn cgroups(&mut self) -> Result<Vec<Cgroup>, CgroupError> {
        self.limits.list()
    }

    fn cgroup(&mut self, path: &str) -> Option<Cgroup> {
        self.limits.files().ok()?.find_cgroup(path)
    }

    fn members(&mut self, cgroup: &Cgroup) -> Result<Vec<i32>, CgroupError> {
        self.limits.files()?.members(cgroup)
    }

    fn read_cgroup(&mut self, cgroup: &Cgroup, knob: Knob) -> Result<Reading, CgroupError> {
        self.limits.read(cgroup, knob)
    }

    fn set_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        self.limits.set(cgroup, value, unit)
    }

    fn restore_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        self.limits.restore(cgroup, value, unit)
    }

    fn limit_state(&mut self, cgroup: &Cgroup, value: &Value, unit: &UnitState) -> Result<LimitState, CgroupError> {
        self.limits.limit_state(cgroup, value, unit)
    }

    fn restore_unit(&mut self, unit: &UnitState, ours: &Value, next: Option<&Value>) -> Result<bool, CgroupError> {
        self.limits.restore_unit(unit, ours, next)
    }

    fn reclaim(&mut self, cgroup: &Cgroup, bytes: u64) -> Result<Reclaimed, CgroupError> {
        self.limits.reclaim(cgroup, bytes)
    }

    fn kill_cgroup(&mut self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        self.limits.files()?.kill(cgroup)
    }

    fn is_populated(&mut self, cgroup: &Cgroup) -> Result<bool, CgroupError> {
        self.limits.files()?.is_populated(cgroup)
    }

    fn may_change_cgroups(&self) -> Result<(), &'static str> {
        self.privileges.cgroups?;
        // Only root may change the units of systemd (sd_bus_query_sender_privilege(3)).
        if self.limits.has_systemd() {
            self.privileges.need(CAP_SYS_ADMIN)?;
        }
        self.limits.reach_systemd()
    }

    fn device(&self, path: &str) -> Option<Device> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let found = fs::metadata(path)
            .ok()
            .filter(|found| found.file_type().is_block_device())?;
        let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        Some(Device { major, minor })
    }

    fn memory_bytes(&self) -> u64 {
        let info = rustix::system::sysinfo();
        info.totalram as u64 * u64::from(info.mem_unit)
    }

    fn watch_exit(&mut self, id: Identity) {
        let pidfd = match self.open_pidfd(id) {
            Ok(pidfd) => Some(pidfd),
            Err(HostError::Gone { .. } | HostError::ChangedIdentity { .. }) => None,
            Err(error) => return exit_watch::warn(id, &error),
        };
        if let Err(error) = exit_watch::start(id, pidfd, Arc::clone(&self.on_exit)) {
            exit_watch::warn(id, &error);
        }
    }

    fn is_ending(&mut self, id: Identity) -> bool {
        self.procfs().is_ending(id)
    }

    fn begin(&mut self, ticket: u64, job: Job) {
        match &self.jobs {
            Some(jobs) => jobs.begin(ticket, job),
            None => tracing::error!(ticket, "job dropped, because this host has no job runner"),
        }
    }

    fn own_ancestors(&self) -> BTreeSet<i32> {
        self.find_own_ancestors()
            .unwrap_or_else(|_| BTreeSet::from([self.own_pid]))
    }

    fn find_own_ancestors(&self) -> io::Result<BTreeSet<i32>> {
        own_processes::line_of(&self.reader.procfs, self.own_pid)
    }

    fn available_memory(&mut self) -> Option<u64> {
        let mut text = String::with_capacity(MEMINFO_BYTES);
        let mut file = fs::File::open(self.procfs().root.join("meminfo")).ok()?;
        file.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kib.checked_mul(1024)
    }

    fn online_cpus(&self) -> BTreeSet<u32> {
        processors::online()
    }

    fn processors_of(&mut self, id: Identity) -> BTreeSet<u32> {
        let path = fs::read_to_string(self.procfs().root.join(format!("{}/cpuset", id.pid))).unwrap_or_default();
        processors::online_in_cpuset(self.cgroup_mount(), path.trim_end())
    }

    fn processors_of_cgroup(&mut self, cgroup: &Cgroup) -> BTreeSet<u32> {
        processors::online_in_cpuset(self.cgroup_mount(), &cgroup.path)
    }

    fn reach(&mut self, id: Identity, knob: Knob) -> Reach {
        let thread = id.main_thread();
        knob.reach(&mut LinuxThread { host: self, id, thread })
    }

    fn may_signal(&self) -> Result<(), &'static str> {
        self.privileges.signal
    }

    fn may_undo(&self, knob: Knob) -> Result<(), &'static str> {
        match knob {
            Knob::Cgroup(_) | Knob::Io(..) => self.may_change_cgroups(),
            knob => knob.may_undo(&self.privileges),
        }
    }

    fn may_reach_others(&self, knob: Option<Knob>) -> Result<(), &'static str> {
        match knob {
            Some(knob) => knob.may_reach_others(&self.privileges),
            None => self.privileges.others_signal,
        }
    }

    fn may_identify_others(&self) -> Result<(), &'static str> {
        self.privileges.others_exe
    }

    fn is_own(&self, process: Identity) -> bool {
        privileges::is_own(&self.procfs().root, process.pid)
    }
}

/// The error of a process that cannot be read although it may run, as where evenkeel lacks a descriptor.
fn unreadable(pid: i32, error: io::Error) -> HostError {
    HostError::of_call("reading stat", "CAP_SYS_PTRACE", pid, error)
}

/// A setting of the kernel by its path below `/proc/sys`; `None` where the kernel does not have it.
pub fn sysctl(procfs: &Path, name: &str) -> Option<String> {
    fs::read_to_string(procfs.join("sys").join(name)).ok()
}

/// CLOCK_BOOTTIME.
pub fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}
