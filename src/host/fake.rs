//! A host in memory with its own clock, for rule tests and for the property tests of the engine. It behaves like
//! Linux wherever the engine can tell the difference. `process` and `cgroup` have its parts, `host` is its interface.

mod cgroup;
#[cfg(test)]
mod hooks;
mod host;
mod process;

pub use cgroup::{DeviceLimits, FakeCgroup};
#[cfg(test)]
pub use hooks::{Hooks, HostAction};
pub use process::{FakeProcess, FakeThread};

use super::unit::UnitState;
use super::{CgroupError, Host, HostError, Job, Knob, Moment, Reclaimed, Thread, Value};
use crate::knob::limit::Setting;
use crate::process::cgroup::unit_of;
use crate::process::table::TICKS_PER_SECOND;
use crate::process::{BootId, Cgroup, CgroupIdentity, Details, Identity, Process};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    pub now: Moment,
    pub processes: BTreeMap<i32, FakeProcess>,
    /// The cgroups by path.
    pub cgroups: BTreeMap<String, FakeCgroup>,
    /// The inode of the next cgroup.
    next_inode: u64,
    /// Every signal that reached a process, in order.
    pub signals: Vec<(i32, Signal)>,
    pub cpus: u32,
    /// Installed memory in bytes, if it matters. Memory that no process has resident is available.
    pub memory_bytes: Option<u64>,
    /// Pids of evenkeel and its ancestors.
    pub own_ancestors: BTreeSet<i32>,
    /// Jobs that the engine has started and the test has not taken.
    pub jobs: Vec<(u64, Job)>,
    /// Knobs that the kernel refuses to set.
    pub denied: BTreeSet<Knob>,
    /// Threads on which the kernel refuses to set anything.
    pub denied_threads: BTreeSet<i32>,
    #[cfg(test)]
    pub hooks: Hooks,
}

impl FakeHost {
    /// An empty host of `cpus` processors that was booted an hour before `wall`.
    pub fn new(cpus: u32, wall: Timestamp) -> FakeHost {
        FakeHost {
            now: Moment {
                boot: Duration::from_secs(3600),
                wall,
            },
            cgroups: BTreeMap::from([("/".to_owned(), FakeCgroup::new(1, false))]),
            next_inode: 2,
            cpus,
            own_ancestors: BTreeSet::from([1]),
            ..FakeHost::default()
        }
    }

    /// Changes the state of a process (proc(5)). Pending signals take effect when it leaves the state D.
    pub fn set_state(&mut self, pid: i32, state: char) {
        let Some(found) = self.processes.get_mut(&pid) else {
            return;
        };
        found.process.state = state;
        if state == 'D' {
            return;
        }
        if std::mem::take(&mut found.is_stop_pending) {
            found.process.state = 'T';
        }
        self.deliver_pending(pid);
    }

    /// Freezes or thaws a cgroup and all below it, as another program would.
    pub fn set_frozen(&mut self, path: &str, frozen: bool) {
        if let Some(found) = self.cgroups.get_mut(path) {
            found.is_frozen = frozen;
        }
        for pid in self.processes.keys().copied().collect::<Vec<_>>() {
            self.deliver_pending(pid);
        }
    }

    /// The frozen cgroup that contains a process, directly or below.
    fn frozen_above(&self, found: &FakeProcess) -> Option<&str> {
        let within = found.process.details.cgroup.as_deref()?;
        let is_above = |path: &str| within == path || within.starts_with(&format!("{}/", path.trim_end_matches('/')));
        let mut frozen = self.cgroups.iter().filter(|(_, cgroup)| cgroup.is_frozen);
        frozen.find_map(|(path, _)| is_above(path).then_some(path.as_str()))
    }

    /// Whether a signal to a process stays pending. The fake processes handle all signals but SIGKILL.
    fn holds_back(&self, found: &FakeProcess, signal: Signal) -> bool {
        let is_stopped = matches!(found.process.state, 'T' | 't') || self.frozen_above(found).is_some();
        found.process.state == 'D' || found.is_in_freezer || (is_stopped && signal != Signal::SIGKILL)
    }

    fn deliver_pending(&mut self, pid: i32) {
        let ends = self
            .processes
            .get(&pid)
            .is_some_and(|found| found.is_end_pending && !self.holds_back(found, Signal::SIGTERM));
        if ends {
            self.processes.remove(&pid);
        }
    }

    /// Advances both clocks.
    pub fn advance(&mut self, by: Duration) {
        self.now.boot += by;
        self.now.wall += by;
    }

    /// Adds a process. Unless its details say otherwise, its program is the host's own, and it leads a login if it leads a
    /// session with a terminal. Its `age` counts from now; every thread starts with nice `process.nice`.
    pub fn add(&mut self, mut process: Process) -> Identity {
        let started = self.now.boot.saturating_sub(process.age);
        process.identity.start_ticks = started.as_millis() as u64 * TICKS_PER_SECOND / 1000;
        process.born_at = started;
        let pid = process.identity.pid;
        let threads = (0..process.threads.max(1) as i32)
            .map(|index| {
                let start_ticks = process.identity.start_ticks + index as u64;
                let values = self.initial_values(&process, Knob::is_per_thread);
                let thread = FakeThread {
                    start_ticks,
                    values,
                    resets_on_fork: false,
                };
                (pid + index, thread)
            })
            .collect();
        let identity = process.identity;
        let (leads, details) = (process.session == pid && process.has_terminal, &mut process.details);
        details.is_host_program.get_or_insert(true);
        details.real_uid = details.real_uid.or(details.uid);
        details.leads_login.get_or_insert(leads);
        self.processes.insert(
            pid,
            FakeProcess {
                values: self.initial_values(&process, |knob| !knob.is_per_thread()),
                process,
                threads,
                ignores: BTreeSet::new(),
                movable_bytes: 0,
                is_stop_pending: false,
                is_end_pending: false,
                is_in_freezer: false,
                is_exiting: false,
            },
        );
        identity
    }

    /// Creates a cgroup and its missing parents. A cgroup with the name of a unit belongs to that unit.
    pub fn add_cgroup(&mut self, path: &str) -> &mut FakeCgroup {
        let mut above = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            above = format!("{above}/{part}");
            if !self.cgroups.contains_key(&above) {
                let made = FakeCgroup::new(self.next_inode, unit_of(&above).is_some());
                self.next_inode += 1;
                self.cgroups.insert(above.clone(), made);
            }
        }
        self.cgroups
            .entry(if above.is_empty() { "/".to_owned() } else { above })
            .or_insert_with(|| FakeCgroup::new(1, false))
    }

    /// Restarts a unit: it gets a new cgroup with its runtime properties.
    pub fn restart_cgroup(&mut self, path: &str) {
        let Some(former) = self.cgroups.remove(path) else {
            return;
        };
        let made = self.add_cgroup(path);
        made.memory_bytes = former.memory_bytes;
        if former.runtime.is_some() {
            (made.runtime, made.persistent, made.live) = (former.runtime, former.persistent, former.live);
            (made.runtime_io, made.persistent_io) = (former.runtime_io, former.persistent_io);
            made.live_io = former.live_io;
            made.write_live();
        }
    }

    /// Does to limits what `systemctl daemon-reload` does.
    #[cfg(test)]
    pub fn reload_systemd(&mut self) {
        for unit in self.cgroups.values_mut().filter(|found| found.runtime.is_some()) {
            unit.live = unit.runtime.clone().unwrap_or_default();
            unit.live.extend(unit.persistent.clone());
            unit.live_io.clone_from(&unit.runtime_io);
            unit.live_io.extend(unit.persistent_io.clone());
            unit.live_io.retain(|_, devices| !devices.is_empty());
            unit.write_live();
        }
    }

    fn verify_cgroup(&mut self, cgroup: &Cgroup) -> Result<&mut FakeCgroup, CgroupError> {
        #[cfg(test)]
        super::fault::point();
        let path = || cgroup.path.clone();
        match self.cgroups.get_mut(&cgroup.path) {
            None => Err(CgroupError::Gone { path: path() }),
            Some(found) if found.inode != cgroup.identity.inode => Err(CgroupError::ChangedIdentity { path: path() }),
            Some(found) => Ok(found),
        }
    }

    fn write_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        let knob = value.knob();
        if self.denied.contains(&knob) {
            return Err(CgroupError::Denied {
                path: cgroup.path.clone(),
                file: knob.as_str(),
            });
        }
        let found = self.verify_cgroup(cgroup)?;
        match value {
            Value::Cgroup(setting) => found.set(setting, unit.is_some()),
            Value::Freeze(frozen) => self.set_frozen(&cgroup.path, *frozen),
            _ => {}
        }
        self.enforce_memory_max(&cgroup.path);
        Ok(())
    }

    /// Verifies the cgroup as the real host does, because systemd takes a name.
    fn check_again(&mut self, cgroup: &Cgroup, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        if unit.is_none() {
            return Ok(());
        }
        #[cfg(test)]
        self.happen(|hooks| &mut hooks.after_unit_set);
        self.verify_cgroup(cgroup).map(drop)
    }

    fn seen(&self, path: &str) -> Option<Cgroup> {
        let found = self.cgroups.get(path)?;
        let identity = CgroupIdentity {
            boot: BootId(1),
            inode: found.inode,
        };
        let mut cgroup = Cgroup::at(identity, path.to_owned());
        cgroup.memory_bytes = Some(found.memory_bytes);
        Some(cgroup)
    }

    fn online_in_cpuset(&self, path: &str) -> BTreeSet<u32> {
        let is_in = |cpu: &u32| {
            let above = std::path::Path::new(path).ancestors();
            let mut sets = above.filter_map(|folder| self.cgroups.get(folder.to_str()?)?.cpus.as_ref());
            sets.next().is_none_or(|cpuset| cpuset.contains(*cpu))
        };
        (0..self.cpus).filter(is_in).collect()
    }

    /// Reclaims and then kills, as the kernel does when `memory.max` is set below the memory in use.
    fn enforce_memory_max(&mut self, path: &str) {
        let Some(found) = self.cgroups.get_mut(path) else {
            return;
        };
        let Some(most) = found.settings.values().filter_map(Setting::kills_above).min() else {
            return;
        };
        let excess = found.memory_bytes.saturating_sub(most);
        move_out(excess, &mut found.reclaimable_bytes, &mut found.memory_bytes);
        if found.memory_bytes > most
            && let Some(cgroup) = self.seen(path)
        {
            self.kill_cgroup(&cgroup).expect("it is there");
        }
    }

    fn initial_values(&self, process: &Process, is_meant: impl Fn(Knob) -> bool) -> BTreeMap<Knob, Value> {
        let value = |knob: Knob| {
            let value = knob.in_table(process).or(knob.initial())?;
            Some((knob, value.kept(&mut || self.online_cpus())))
        };
        Knob::ALL
            .into_iter()
            .filter(|knob| is_meant(*knob))
            .filter_map(value)
            .collect()
    }

    fn verify(&mut self, id: Identity) -> Result<&mut FakeProcess, HostError> {
        match self.processes.get_mut(&id.pid) {
            None => Err(HostError::Gone { pid: id.pid }),
            Some(found) if found.process.identity != id => Err(HostError::ChangedIdentity { pid: id.pid }),
            Some(found) => Ok(found),
        }
    }

    fn verify_thread(&mut self, id: Identity, thread: Thread) -> Result<&mut FakeThread, HostError> {
        let found = self.verify(id)?.threads.get_mut(&thread.tid);
        let found = found.filter(|found| found.start_ticks == thread.start_ticks);
        found.ok_or(HostError::Gone { pid: thread.tid })
    }

    fn current(&self, found: &FakeProcess) -> Process {
        let mut process = found.process.clone();
        let started = Duration::from_millis(process.identity.start_ticks * 1000 / TICKS_PER_SECOND);
        process.age = self.now.boot.saturating_sub(started);
        process.nice = found
            .threads
            .get(&process.identity.pid)
            .map_or(process.nice, FakeThread::nice);
        process.threads = found.threads.len() as u32;
        process.details = Details::default();
        process
    }
}

/// Moves memory out, as far as the kernel can.
fn move_out(bytes: u64, movable: &mut u64, resident: &mut u64) -> Reclaimed {
    let before = *resident;
    let moved = bytes.min(*movable).min(before);
    *movable -= moved;
    *resident -= moved;
    Reclaimed {
        before,
        after: *resident,
    }
}
