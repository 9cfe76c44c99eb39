//! The real host: system calls on processes, each bound to an identity. `unsafe` is for the calls that no crate
//! wraps.

use super::cgroup_limits::Limits;
use super::suspension::{Freezers, Suspension};
use super::unit::UnitState;
use super::{
    CgroupError, Host, HostError, Job, Knob, LimitState, Moment, Reach, Reading, Reclaimed, RunnerClient, Thread,
    Value, own_processes, pageout, self_priority,
};
use crate::knob::limit::Device;
use crate::knob::privileges::{self, CAP_SYS_ADMIN, Privileges};
use crate::knob::{Access, CpuSet, affinity, sched};
use crate::process::command_lines::CommandLines;
use crate::process::kernel_threads::KernelThreads;
use crate::process::table::Procfs;
use crate::process::timed_calls::{self, BoundedCalls};
use crate::process::user_names::UserNames;
use crate::process::{Cgroup, Identity, Process, ProcessFields, Selector};
use jiff::Timestamp;
use nix::libc;
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `/proc/meminfo` is shorter, so that it is read at once.
const MEMINFO_BYTES: usize = 4096;

/// Where cgroup2 is mounted on every distribution with systemd.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Processors that are plugged in, as a list.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Called from a thread of its own with the identity of a process that ended.
pub type OnExit = Arc<dyn Fn(Identity) + Send + Sync>;

#[derive(Clone)]
pub struct LinuxHost {
    procfs: Procfs,
    users: UserNames,
    kernel_threads: KernelThreads,
    command_lines: CommandLines,
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
            users: UserNames::with_deadline(procfs.calls.clone()),
            procfs,
            kernel_threads: KernelThreads::default(),
            command_lines: CommandLines::default(),
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
        &self.procfs
    }

    fn cgroup_mount(&self) -> &Path {
        self.limits.mount().unwrap_or(Path::new(CGROUPS))
    }

    /// The online processors of a cgroup's cpuset; that of a cgroup without the controller is the one above.
    fn online_in_cpuset(&self, path: &str) -> BTreeSet<u32> {
        let online = self.online_cpus();
        let mount = self.cgroup_mount();
        let folder = mount.join(path.trim_start_matches('/'));
        let within = folder.ancestors().take_while(|folder| folder.starts_with(mount));
        let mut sets = within.filter_map(|folder| cpu_list(fs::read_to_string(folder.join("cpuset.cpus.effective"))));
        match sets.next() {
            Some(cpuset) => cpuset.intersection(&online).copied().collect(),
            None => online,
        }
    }

    /// The child processes that the first thread of a process started and that have this name.
    fn children(&self, pid: i32, name: &str) -> Vec<i32> {
        let text = self
            .procfs
            .read(&format!("{pid}/task/{pid}/children"))
            .unwrap_or_default();
        let pids = String::from_utf8_lossy(&text)
            .split(' ')
            .flat_map(str::parse)
            .collect::<Vec<i32>>();
        let has_name = |pid: &i32| {
            let found = self.procfs.read_process(*pid, Duration::ZERO);
            found.is_some_and(|process| process.name == name)
        };
        pids.into_iter().filter(has_name).collect()
    }

    fn verify(&mut self, id: Identity) -> Result<Process, HostError> {
        match self.process(id.pid) {
            None => Err(HostError::Gone { pid: id.pid }),
            Some(now) if now.identity != id => Err(HostError::ChangedIdentity { pid: id.pid }),
            Some(now) if now.is_dead() => Err(HostError::Gone { pid: id.pid }),
            Some(now) => Ok(now),
        }
    }

    /// A thread's own start time tells whether its id was handed out again.
    fn verify_thread(&self, id: Identity, thread: Thread) -> Result<(), HostError> {
        match self.thread_start(id.pid, thread.tid) {
            Some(start) if start == thread.start_ticks => Ok(()),
            Some(_) => Err(HostError::ChangedIdentity { pid: thread.tid }),
            None => Err(HostError::Gone { pid: thread.tid }),
        }
    }

    fn thread_start(&self, pid: i32, tid: i32) -> Option<u64> {
        Some(self.thread(pid, tid)?.identity.start_ticks)
    }

    /// A thread, in the fields of a process.
    fn thread(&self, pid: i32, tid: i32) -> Option<Process> {
        let stat = self.procfs.read(&format!("{pid}/task/{tid}/stat"))?;
        self.procfs.parse_stat(&stat, Duration::ZERO)
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
        self.command_lines.forget_all();
        self.procfs.read_table(boot_time(), &mut self.kernel_threads)
    }

    fn process(&mut self, pid: i32) -> Option<Process> {
        self.command_lines.forget(pid);
        self.procfs.read_process(pid, boot_time())
    }

    fn prepare_users(&mut self, names: &[&str]) {
        self.users.prepare(names.iter().copied());
    }

    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        self.procfs.read_details(process, needs, &mut self.users)
    }

    fn read_details_in_time(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        let (users, lines) = (&mut self.users, &mut self.command_lines);
        self.procfs
            .read_details_in_time(process, needs, users, lines, boot_time())
    }

    fn satisfies(&mut self, process: &mut Process, selector: &Selector, more: ProcessFields) -> bool {
        let (users, lines) = (&mut self.users, &mut self.command_lines);
        self.procfs
            .satisfies(process, selector, more, users, lines, boot_time())
    }

    fn threads(&mut self, id: Identity) -> Result<Vec<Thread>, HostError> {
        let listing = fs::read_dir(self.procfs.root.join(format!("{}/task", id.pid)))
            .map_err(|error| HostError::of_call("listing threads", "CAP_SYS_PTRACE", id.pid, error))?;
        let mut threads = Vec::new();
        for entry in listing.flatten() {
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A thread that has ended needs nothing. The first one stays in the list as long as others run.
            let thread = self.thread(id.pid, tid);
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
        let cgroups = self.procfs.read(&format!("{}/cgroup", id.pid)).unwrap_or_default();
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
        let procfs = self.procfs.clone();
        // Both the list of its memory and the call itself wait for a process that holds the lock of its memory.
        let moving = move || {
            let maps = fs::read_to_string(procfs.root.join(format!("{}/maps", id.pid)))?;
            let now = || procfs.read_process(id.pid, Duration::ZERO);
            pageout::page_out(&pidfd, &maps, bytes, || now().map_or(0, |now| now.resident_bytes))
        };
        let calls = self.procfs.calls.clone().unwrap_or_default();
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
            Err(error) => {
                tracing::warn!(%error, "could not watch for the exit of a process, polling every 15 s");
                return;
            }
        };
        let on_exit = Arc::clone(&self.on_exit);
        // A thread per victim; victims go one at a time per rule, so there are few.
        let watcher = std::thread::Builder::new()
            .name("exit-watch".into())
            .stack_size(64 * 1024);
        let spawned = watcher.spawn(move || {
            self_priority::reset_priority();
            if let Some(pidfd) = pidfd {
                release_memory(&pidfd);
                let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
                while matches!(rustix::event::poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
            }
            // Not from the caller's thread: it may be the one that empties the queue which this fills.
            on_exit(id);
        });
        if let Err(error) = spawned {
            tracing::warn!(pid = id.pid, %error, "could not watch for the exit of a process, polling every 15 s");
        }
    }

    fn is_ending(&mut self, id: Identity) -> bool {
        self.procfs.is_ending(id)
    }

    fn begin(&mut self, ticket: u64, job: Job) {
        match &self.jobs {
            Some(jobs) => jobs.begin(ticket, job),
            None => tracing::error!(ticket, "job dropped, because this host has no job runner"),
        }
    }

    fn own_ancestors(&self) -> BTreeSet<i32> {
        let mut line = BTreeSet::new();
        let mut pid = self.own_pid;
        while pid > 0 && line.insert(pid) {
            pid = self
                .procfs
                .read_process(pid, Duration::ZERO)
                .map_or(0, |process| process.parent);
        }
        // Children of the runner are commands.
        for (starter, child) in own_processes::LINES {
            let starters = self.children(self.own_pid, starter);
            let children = starters.iter().flat_map(|&starter| self.children(starter, child));
            line.extend(children.collect::<Vec<_>>());
            line.extend(starters);
        }
        line
    }

    fn available_memory(&mut self) -> Option<u64> {
        let mut text = String::with_capacity(MEMINFO_BYTES);
        let mut file = fs::File::open(self.procfs.root.join("meminfo")).ok()?;
        file.read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kib.checked_mul(1024)
    }

    fn online_cpus(&self) -> BTreeSet<u32> {
        // Own affinity says where evenkeel may run, and nothing of others. It serves where /sys is hidden.
        let own = || {
            affinity::of_thread(0)
                .map(|cpus| cpus.iter().collect())
                .unwrap_or_default()
        };
        cpu_list(fs::read_to_string(ONLINE)).unwrap_or_else(own)
    }

    fn processors_of(&mut self, id: Identity) -> BTreeSet<u32> {
        let path = fs::read_to_string(self.procfs.root.join(format!("{}/cpuset", id.pid))).unwrap_or_default();
        self.online_in_cpuset(path.trim_end())
    }

    fn processors_of_cgroup(&mut self, cgroup: &Cgroup) -> BTreeSet<u32> {
        self.online_in_cpuset(&cgroup.path)
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
        privileges::is_own(&self.procfs.root, process.pid)
    }
}

/// One thread, as a knob reaches it.
struct LinuxThread<'h> {
    host: &'h mut LinuxHost,
    id: Identity,
    thread: Thread,
}

impl Access for LinuxThread<'_> {
    fn pid(&self) -> i32 {
        self.id.pid
    }

    fn tid(&self) -> i32 {
        self.thread.tid
    }

    fn process(&mut self) -> Result<Process, HostError> {
        self.host.verify(self.id)
    }

    fn read(&mut self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.host.procfs.root.join(format!("{}/{name}", self.id.pid)))
    }

    fn write(&mut self, name: &'static str, missing: &'static str, text: &str) -> Result<(), HostError> {
        let pid = self.id.pid;
        let failed = |error| HostError::of_call(name, missing, pid, error);
        // The open file belongs to the process it was opened for; a write after its death fails.
        let path = self.host.procfs.root.join(format!("{pid}/{name}"));
        let mut file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        self.process()?;
        file.write_all(text.as_bytes()).map_err(failed)
    }

    fn signal(&mut self, signal: Signal) -> Result<(), HostError> {
        self.host.signal(self.id, signal)
    }

    fn sysctl(&mut self, name: &str) -> Option<String> {
        sysctl(&self.host.procfs.root, name)
    }

    fn has_cgroup_file(&mut self, cgroup: &str, file: &str) -> bool {
        let folder = self.host.cgroup_mount().join(cgroup.trim_start_matches('/'));
        fs::exists(folder.join(file)).unwrap_or(false)
    }
}

/// A setting of the kernel by its path below `/proc/sys`; `None` where the kernel does not have it.
pub fn sysctl(procfs: &Path, name: &str) -> Option<String> {
    fs::read_to_string(procfs.join("sys").join(name)).ok()
}

fn cpu_list(text: io::Result<String>) -> Option<BTreeSet<u32>> {
    text.ok()?
        .trim()
        .parse::<CpuSet>()
        .ok()
        .map(|cpus| cpus.iter().collect())
}

/// CLOCK_BOOTTIME.
pub fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec as u32)
}

/// Frees the memory of a process that SIGKILL is on its way to, from this thread, for its own may hang in the kernel.
/// For any other process the kernel refuses; older kernels than 5.15 do not know the call, and need no help.
fn release_memory(pidfd: &OwnedFd) {
    use std::os::fd::AsRawFd;
    // SAFETY: takes a descriptor that lives through the call and a number, touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knob::{IoPriority, Policy};
    use crate::process::Unread;
    use std::process::{Child, Command};
    use std::sync::mpsc;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper() -> (Sleeper, LinuxHost, Identity, mpsc::Receiver<Identity>) {
        let child = Sleeper(Command::new("sleep").arg("600").spawn().unwrap());
        let (sender, receiver) = mpsc::channel();
        let on_exit: OnExit = Arc::new(move |id| sender.send(id).unwrap());
        let mut host = LinuxHost::new(Procfs::open(Path::new("/proc")).unwrap(), on_exit);
        let id = host.process(child.0.id() as i32).unwrap().identity;
        (child, host, id, receiver)
    }

    #[test]
    fn knobs_read_back_what_was_set() {
        let (_child, mut host, id, _exits) = sleeper();
        let main = host.threads(id).unwrap()[0];
        let wanted = [
            Value::Nice(7),
            Value::Ionice(IoPriority::Idle),
            Value::Sched(Policy::Batch),
            Value::Affinity("0".parse().unwrap()),
            Value::OomScoreAdj(500),
            Value::Freeze(true),
        ];
        for value in wanted {
            host.set(id, main, &value).unwrap();
            assert_eq!(host.get(id, main, value.knob()).unwrap(), value);
        }
    }

    #[test]
    fn reset_on_fork_changes_nothing_else() {
        let (_child, mut host, id, _exits) = sleeper();
        let main = host.threads(id).unwrap()[0];
        let values = [Value::Sched(Policy::Batch), Value::Nice(7)];
        for value in &values {
            host.set(id, main, value).unwrap();
        }
        for resets in [true, false] {
            host.set_reset_on_fork(id, main, resets).unwrap();
            assert_eq!(host.resets_on_fork(id, main).unwrap(), resets);
            for value in &values {
                assert_eq!(host.get(id, main, value.knob()).unwrap(), *value);
            }
        }
    }

    /// A procfs of one process, with what the kernel says of its scheduling.
    fn reach_of_nice(autogroup: &str, cgroup: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000001");
        write("sys/kernel/sched_autogroup_enabled", autogroup);
        let mount = root.join("cgroups");
        let mountinfo = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", mount.display());
        write("self/mountinfo", &mountinfo);
        write("cgroups/batch.slice/cpu.weight", "100");
        write("cgroups/plain.slice/cgroup.procs", "");
        write("7/cgroup", &format!("0::{cgroup}\n"));
        write("7/autogroup", "/autogroup-42 nice 0\n");
        write("7/stat", "7 (x) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n");
        let mut host = LinuxHost::new(Procfs::open(root).unwrap(), Arc::new(|_| ()));
        let id = host.process(7).unwrap().identity;
        match host.reach(id, Knob::Nice) {
            Reach::Limited(why) => Some(why),
            _ => None,
        }
    }

    #[test]
    fn it_is_said_among_whom_nice_counts() {
        let within = |cgroup| reach_of_nice("0\n", cgroup);
        let said = within("/batch.slice").unwrap();
        assert!(said.contains("/batch.slice") && said.contains("cpu.weight"), "{said}");
        assert_eq!((within("/plain.slice"), within("/")), (None, None));
        let said = reach_of_nice("1\n", "/plain.slice").unwrap();
        assert!(
            said.contains("sched_autogroup_enabled") && said.contains("session 42"),
            "{said}"
        );
        // A share of the cgroup counts before that of the session.
        assert!(reach_of_nice("1\n", "/batch.slice").unwrap().contains("cpu.weight"));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let (_child, mut host, id, _exits) = sleeper();
        let other = Identity {
            start_ticks: id.start_ticks + 1,
            ..id
        };
        assert!(matches!(
            host.signal(other, Signal::SIGKILL),
            Err(HostError::ChangedIdentity { .. })
        ));
        assert!(matches!(host.threads(other), Err(HostError::ChangedIdentity { .. })));
        let thread = Thread {
            tid: id.pid,
            start_ticks: id.start_ticks + 1,
        };
        assert!(matches!(
            host.set(id, thread, &Value::Nice(3)),
            Err(HostError::ChangedIdentity { .. })
        ));
        assert!(host.is_alive(id));
    }

    #[test]
    fn a_stopped_process_is_seen_to_be_and_sigkill_reaches_it() {
        let (_child, mut host, id, exits) = sleeper();
        assert_eq!(host.suspensions(id), []);
        let main = host.threads(id).unwrap()[0];
        host.set(id, main, &Value::Freeze(true)).unwrap();
        assert_eq!(host.suspensions(id), [Suspension::Stopped]);
        host.watch_exit(id);
        host.signal(id, Signal::SIGTERM).unwrap();
        assert!(
            exits.recv_timeout(Duration::from_millis(200)).is_err(),
            "it stays pending"
        );
        host.signal(id, Signal::SIGKILL).unwrap();
        assert_eq!(exits.recv_timeout(Duration::from_secs(10)).unwrap(), id);
    }

    /// A procfs of one process, whose command line makes every reader wait: a pipe that has no writer.
    fn host_with_a_blocking_cmdline(root: &Path) -> LinuxHost {
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/kernel/random/boot_id", "00000000-0000-0000-0000-000000000001");
        write("7/stat", "7 (x) S 1 7 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 70 0 0\n");
        std::os::unix::fs::symlink("/usr/bin/x", root.join("7/exe")).unwrap();
        nix::unistd::mkfifo(&root.join("7/cmdline"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        LinuxHost::new(Procfs::open(root).unwrap(), Arc::new(|_| ()))
    }

    #[test]
    fn unreadable_command_line_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = host_with_a_blocking_cmdline(folder.path());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut process = host.process(7).unwrap();
            let is_it = host.read_details(&mut process, ProcessFields::CMDLINE | ProcessFields::EXE);
            let _ = sender.send((is_it, process.details));
        });
        let (is_it, details) = receiver
            .recv_timeout(Duration::from_secs(10))
            .expect("an answer in time");
        assert!(is_it);
        assert_eq!((details.cmdline, details.exe.as_deref()), (None, Some("/usr/bin/x")));
        assert_eq!(details.unread, Some(Unread::Blocked));
    }

    #[test]
    fn a_command_line_that_can_be_read_again_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = host_with_a_blocking_cmdline(folder.path());
        let read = |host: &mut LinuxHost| {
            let mut process = host.process(7).unwrap();
            assert!(host.read_details(&mut process, ProcessFields::CMDLINE));
            process.details
        };
        assert_eq!(read(&mut host).unread, Some(Unread::Blocked));
        let begun = std::time::Instant::now();
        assert_eq!(read(&mut host).unread, Some(Unread::Blocked));
        assert!(begun.elapsed() < timed_calls::PATIENCE, "it is waited for once");
        let pipe = folder.path().join("7/cmdline");
        let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, "x\0--all\0").unwrap();
        drop(writer);
        while host.procfs().calls.as_ref().unwrap().blocked() > 0 {
            std::thread::yield_now();
        }
        let details = read(&mut host);
        assert_eq!((details.cmdline.as_deref(), details.unread), (Some("x --all"), None));
    }

    #[test]
    fn process_that_blocks_readers_is_reported_not_selected() {
        use crate::act::guard::Protection;
        use crate::engine::select::select;
        use crate::process::selector::{Condition, Pattern};
        let folder = tempfile::tempdir().unwrap();
        let mut host = host_with_a_blocking_cmdline(folder.path());
        let mut rule = crate::rule::example("end", "signal TERM");
        let selector = Selector {
            conditions: vec![Condition::Cmdline(Pattern::fixed(".*").unwrap())],
        };
        rule.target_selector = crate::rule::TargetSelector::Processes(selector.clone());
        let ward = Protection {
            own_ancestors: &BTreeSet::new(),
            protect: &[],
        };
        let table = [host.process(7).unwrap()];
        let selection = select(&mut host, &table, &rule, &selector, &ward);
        assert!(selection.matches.is_empty());
        let told = ward.screen(&rule, &selection.unreadable[0]).unwrap_err();
        assert!(told.reason.contains("timed out"), "{told:?}");
    }

    #[test]
    fn exit_of_a_watched_process_is_reported() {
        let (_child, mut host, id, exits) = sleeper();
        host.watch_exit(id);
        host.signal(id, Signal::SIGKILL).unwrap();
        assert_eq!(exits.recv_timeout(Duration::from_secs(10)).unwrap(), id);
    }
}
