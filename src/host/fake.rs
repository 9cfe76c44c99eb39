//! A host in memory with its own clock, for rule tests and for the property tests of the engine. It behaves like
//! Linux wherever the engine can tell the difference. `process` and `cgroup` have its parts.

mod cgroup;
mod process;

pub use cgroup::{DeviceLimits, FakeCgroup};
pub use process::{FakeProcess, FakeThread};

use super::unit::UnitState;
use super::{
    CgroupError, Host, HostError, Job, Knob, LimitState, Moment, Reading, Reclaimed, Suspension, Thread, Value,
};
use crate::knob::limit::{CgroupFile, Device, Setting};
use crate::process::cgroup::unit_of;
use crate::process::table::TICKS_PER_SECOND;
use crate::process::{BootId, Cgroup, CgroupIdentity, Details, Identity, Process, ProcessFields};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

/// A change or a signal that reached a process.
#[cfg(test)]
#[derive(Debug, Clone)]
pub struct HostAction {
    pub at: Duration,
    pub process: Process,
    /// `None` where a value was set.
    pub signal: Option<Signal>,
}

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
    /// Every change and signal, with the process at that moment.
    #[cfg(test)]
    pub host_actions: Vec<HostAction>,
    /// Events on the host just before a knob is set, one for each call.
    #[cfg(test)]
    pub before_set: std::collections::VecDeque<fn(&mut FakeHost)>,
    /// Events on the host just after a change of a cgroup through systemd, one for each change.
    #[cfg(test)]
    pub after_unit_set: std::collections::VecDeque<fn(&mut FakeHost)>,
    /// Reuses the pid for a stranger just before each such number of calls about a process; 0 is never.
    #[cfg(test)]
    pub reused_every: usize,
    #[cfg(test)]
    looks: usize,
    /// Number of strangers that got a reused pid.
    #[cfg(test)]
    pub strangers: usize,
    /// Events on the host just before the details of a process are read, one for each call.
    #[cfg(test)]
    pub before_details: std::collections::VecDeque<fn(&mut FakeHost)>,
    /// Number of calls.
    #[cfg(test)]
    pub calls: std::cell::Cell<usize>,
    /// Events on the host just before the next calls about single processes, one for each call.
    #[cfg(test)]
    pub meanwhile: std::collections::VecDeque<fn(&mut FakeHost)>,
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
        if let Some(happening) = self.after_unit_set.pop_front() {
            happening(self);
        }
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

    /// Counts a call, and the process that it is about.
    #[cfg(test)]
    fn note_call(&mut self, pid: Option<i32>) {
        super::fault::point();
        self.calls.set(self.calls.get() + 1);
        let Some(found) = pid.and_then(|pid| self.processes.get(&pid)) else {
            return;
        };
        self.looks += 1;
        // No number but 0 is a multiple of 0.
        if !self.looks.is_multiple_of(self.reused_every) || found.process.name == "stranger" {
            return;
        }
        // The stranger equals the former process except for its name, and starts a tick later.
        self.now.boot += Duration::from_millis(10);
        let mut stranger = found.process.clone();
        stranger.name = "stranger".into();
        stranger.age = Duration::ZERO;
        self.strangers += 1;
        self.add(stranger);
    }

    #[cfg(test)]
    fn record_action(&mut self, pid: i32, signal: Option<Signal>) {
        let (at, process) = (self.now.boot, self.processes[&pid].process.clone());
        self.host_actions.push(HostAction { at, process, signal });
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

impl Host for FakeHost {
    fn now(&self) -> Moment {
        self.now
    }

    fn processes(&mut self) -> io::Result<Vec<Process>> {
        #[cfg(test)]
        self.note_call(None);
        Ok(self.processes.values().map(|found| self.current(found)).collect())
    }

    fn process(&mut self, pid: i32) -> Option<Process> {
        #[cfg(test)]
        self.note_call(Some(pid));
        #[cfg(test)]
        if let Some(happening) = self.meanwhile.pop_front() {
            happening(self);
        }
        self.processes.get(&pid).map(|found| self.current(found))
    }

    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        #[cfg(test)]
        if let Some(happening) = self.before_details.pop_front() {
            happening(self);
        }
        let Some(found) = self.processes.get(&process.identity.pid) else {
            return false;
        };
        let known = &found.process.details;
        let details = &mut process.details;
        if needs.contains(ProcessFields::CMDLINE) {
            details.cmdline.clone_from(&known.cmdline);
            details.unread = known.unread;
        }
        if needs.contains(ProcessFields::EXE) {
            details.exe.clone_from(&known.exe);
            details.exe_file = known.exe_file;
        }
        if needs.intersects(ProcessFields::HOST_PROGRAM | ProcessFields::PROTECTED_PROGRAM) {
            details.is_host_program = known.is_host_program;
        }
        if needs.contains(ProcessFields::LOGIN) {
            details.leads_login = known.leads_login;
        }
        if needs.contains(ProcessFields::USER) {
            details.uid = known.uid;
            details.user.clone_from(&known.user);
        }
        if needs.contains(ProcessFields::REAL_UID) {
            details.real_uid = known.real_uid;
        }
        if needs.contains(ProcessFields::CGROUP) {
            details.cgroup.clone_from(&known.cgroup);
        }
        if needs.contains(ProcessFields::SIGNALS) {
            details.caught_signals = known.caught_signals;
        }
        if needs.contains(ProcessFields::OOM_SCORE) {
            details.oom_score = known.oom_score;
        }
        process.name.clone_from(&found.process.name);
        found.process.identity == process.identity
    }

    fn threads(&mut self, id: Identity) -> Result<Vec<Thread>, HostError> {
        #[cfg(test)]
        self.note_call(Some(id.pid));
        let found = self.verify(id)?;
        Ok(found
            .threads
            .iter()
            .map(|(&tid, thread)| Thread {
                tid,
                start_ticks: thread.start_ticks,
            })
            .collect())
    }

    fn get(&mut self, id: Identity, thread: Thread, knob: Knob) -> Result<Value, HostError> {
        #[cfg(test)]
        self.note_call(Some(id.pid));
        let of_thread = self.verify_thread(id, thread)?.values.get(&knob).cloned();
        let found = self.verify(id)?;
        let value = match knob {
            Knob::Freeze => Some(Value::Freeze(found.process.state == 'T')),
            knob if knob.is_per_thread() => of_thread,
            knob => found.values.get(&knob).cloned(),
        };
        value.ok_or(HostError::Gone { pid: id.pid })
    }

    fn set(&mut self, id: Identity, thread: Thread, value: &Value) -> Result<(), HostError> {
        #[cfg(test)]
        self.note_call(Some(id.pid));
        if self.denied.contains(&value.knob()) || self.denied_threads.contains(&thread.tid) {
            return Err(HostError::Denied {
                what: "set",
                pid: id.pid,
                missing: "CAP_SYS_NICE",
            });
        }
        #[cfg(test)]
        if let Some(happening) = self.before_set.pop_front() {
            happening(self);
        }
        self.verify_thread(id, thread)?;
        #[cfg(test)]
        self.record_action(id.pid, None);
        let most = self.processors_of(id);
        let found = self.verify(id)?;
        // The kernel drops processors outside the cpuset.
        match value.kept(&mut || most.clone()) {
            Value::Freeze(true) if found.process.state == 'D' => found.is_stop_pending = true,
            Value::Freeze(true) => found.process.state = 'T',
            Value::Freeze(false) => {
                found.is_stop_pending = false;
                if found.process.state == 'T' {
                    found.process.state = 'S';
                }
                self.deliver_pending(id.pid);
            }
            Value::Cgroup(_) => return Err(HostError::Gone { pid: id.pid }),
            value if value.knob().is_per_thread() => self.verify_thread(id, thread)?.put(value),
            value => found.put(value),
        }
        Ok(())
    }

    fn resets_on_fork(&mut self, id: Identity, thread: Thread) -> Result<bool, HostError> {
        self.verify_thread(id, thread).map(|at| at.resets_on_fork)
    }

    fn set_reset_on_fork(&mut self, id: Identity, thread: Thread, resets: bool) -> Result<(), HostError> {
        self.verify_thread(id, thread)?.resets_on_fork = resets;
        Ok(())
    }

    fn signal(&mut self, id: Identity, signal: Signal) -> Result<(), HostError> {
        #[cfg(test)]
        self.note_call(Some(id.pid));
        let found = self.verify(id)?;
        let ends = match signal {
            Signal::SIGKILL => true,
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGABRT => {
                !found.ignores.contains(&(signal as i32))
            }
            _ => false,
        };
        #[cfg(test)]
        self.record_action(id.pid, Some(signal));
        self.signals.push((id.pid, signal));
        let is_held_back = self
            .processes
            .get(&id.pid)
            .is_some_and(|found| self.holds_back(found, signal));
        match self.processes.get_mut(&id.pid) {
            Some(found) if ends && is_held_back => found.is_end_pending = true,
            _ if ends => drop(self.processes.remove(&id.pid)),
            _ => {}
        }
        Ok(())
    }

    fn suspensions(&mut self, id: Identity) -> Vec<Suspension> {
        let Ok(found) = self.verify(id).cloned() else {
            return Vec::new();
        };
        let freezer = found.is_in_freezer.then(|| Suspension::Freezer("/jobs".to_owned()));
        let frozen = self.frozen_above(&found).map(str::to_owned).map(Suspension::Cgroup);
        let stopped = Suspension::of_state(&found.process);
        stopped.into_iter().chain(frozen).chain(freezer).collect()
    }

    fn page_out(&mut self, id: Identity, bytes: u64) -> Result<Reclaimed, HostError> {
        #[cfg(test)]
        super::fault::point();
        let found = self.verify(id)?;
        Ok(move_out(
            bytes,
            &mut found.movable_bytes,
            &mut found.process.resident_bytes,
        ))
    }

    fn cgroups(&mut self) -> Result<Vec<Cgroup>, CgroupError> {
        Ok(self.cgroups.keys().filter_map(|path| self.seen(path)).collect())
    }

    fn cgroup(&mut self, path: &str) -> Option<Cgroup> {
        self.seen(path)
    }

    fn members(&mut self, cgroup: &Cgroup) -> Result<Vec<i32>, CgroupError> {
        self.verify_cgroup(cgroup)?;
        let is_in = |found: &&FakeProcess| {
            found
                .process
                .details
                .cgroup
                .as_deref()
                .is_some_and(|path| cgroup.holds(path))
        };
        let inside = self.processes.values().filter(is_in);
        Ok(inside.map(|found| found.process.identity.pid).collect())
    }

    fn read_cgroup(&mut self, cgroup: &Cgroup, knob: Knob) -> Result<Reading, CgroupError> {
        let reading = self.verify_cgroup(cgroup)?.read(knob, cgroup.unit());
        reading.ok_or_else(|| CgroupError::Missing {
            path: cgroup.path.clone(),
            file: knob.as_str(),
            why: "the controller is not enabled".to_owned(),
        })
    }

    fn set_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        self.write_cgroup(cgroup, value, unit)?;
        self.check_again(cgroup, unit)
    }

    fn restore_cgroup(&mut self, cgroup: &Cgroup, value: &Value, unit: Option<&UnitState>) -> Result<(), CgroupError> {
        let (Some(state), Value::Cgroup(setting), false) = (unit, value, self.denied.contains(&value.knob())) else {
            return self.set_cgroup(cgroup, value, unit);
        };
        self.verify_cgroup(cgroup)?.restore(state, setting);
        self.enforce_memory_max(&cgroup.path);
        self.check_again(cgroup, unit)?;
        // The former value of the file may come from a program that bypassed systemd.
        if self.read_cgroup(cgroup, value.knob())?.value != *value {
            self.write_cgroup(cgroup, value, None)?;
        }
        Ok(())
    }

    fn limit_state(&mut self, cgroup: &Cgroup, value: &Value, state: &UnitState) -> Result<LimitState, CgroupError> {
        let found = self.verify_cgroup(cgroup)?;
        Ok(match value {
            Value::Cgroup(ours) => found.limit_state(ours, state),
            _ => LimitState::Holds,
        })
    }

    fn recorded(&self, file: CgroupFile, unit: &UnitState) -> Option<Setting> {
        let (text, _) = unit.properties.first()?;
        match text.as_str() {
            cgroup::DEFAULT => Some(cgroup::unlimited(file)),
            text => Setting::parse(file, text).ok(),
        }
    }

    fn restore_unit(&mut self, state: &UnitState, ours: &Value, next: Option<&Value>) -> Result<bool, CgroupError> {
        #[cfg(test)]
        super::fault::point();
        let is_its = |path: &&String| path.ends_with(&format!("/{}", state.unit));
        let path = self.cgroups.keys().find(is_its).cloned();
        let found = path.as_ref().and_then(|path| self.cgroups.get_mut(path));
        let (Some(path), Some(found), Value::Cgroup(setting)) = (&path, found, ours) else {
            return Ok(true);
        };
        let next = next.and_then(|next| match next {
            Value::Cgroup(next) => Some(next),
            _ => None,
        });
        let is_withdrawn = found.withdraw(state, setting, next);
        if is_withdrawn {
            self.enforce_memory_max(path);
        }
        Ok(is_withdrawn)
    }

    fn reclaim(&mut self, cgroup: &Cgroup, bytes: u64) -> Result<Reclaimed, CgroupError> {
        let found = self.verify_cgroup(cgroup)?;
        Ok(move_out(bytes, &mut found.reclaimable_bytes, &mut found.memory_bytes))
    }

    fn kill_cgroup(&mut self, cgroup: &Cgroup) -> Result<(), CgroupError> {
        for pid in self.members(cgroup)? {
            #[cfg(test)]
            self.record_action(pid, Some(Signal::SIGKILL));
            self.signals.push((pid, Signal::SIGKILL));
            self.processes.remove(&pid);
        }
        Ok(())
    }

    fn is_populated(&mut self, cgroup: &Cgroup) -> Result<bool, CgroupError> {
        self.members(cgroup).map(|pids| !pids.is_empty())
    }

    fn may_change_cgroups(&self) -> Result<(), &'static str> {
        Ok(())
    }

    fn device(&self, path: &str) -> Option<Device> {
        // The name and number of the first disk on many machines.
        (path == "/dev/sda").then_some(Device { major: 8, minor: 0 })
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes.unwrap_or(8 << 30)
    }

    fn is_ending(&mut self, process: Identity) -> bool {
        let is_exiting = self.processes.get(&process.pid).is_some_and(|found| found.is_exiting);
        is_exiting || !self.is_alive(process)
    }

    fn watch_exit(&mut self, _process: Identity) {
        // The test advances the clock, and reports exits to the engine.
    }

    fn begin(&mut self, ticket: u64, job: Job) {
        #[cfg(test)]
        super::fault::point();
        self.jobs.push((ticket, job));
    }

    fn own_ancestors(&self) -> BTreeSet<i32> {
        self.own_ancestors.clone()
    }

    fn available_memory(&mut self) -> Option<u64> {
        let resident = self.processes.values().map(|found| found.process.resident_bytes);
        self.memory_bytes.map(|bytes| bytes.saturating_sub(resident.sum()))
    }

    fn online_cpus(&self) -> BTreeSet<u32> {
        (0..self.cpus).collect()
    }

    fn processors_of(&mut self, process: Identity) -> BTreeSet<u32> {
        let found = self.processes.get(&process.pid);
        let path = found.and_then(|found| found.process.details.cgroup.clone());
        self.online_in_cpuset(path.as_deref().unwrap_or("/"))
    }

    fn processors_of_cgroup(&mut self, cgroup: &Cgroup) -> BTreeSet<u32> {
        self.online_in_cpuset(&cgroup.path)
    }

    fn may_undo(&self, knob: Knob) -> Result<(), &'static str> {
        if self.denied.contains(&knob) {
            Err("CAP_SYS_NICE")
        } else {
            Ok(())
        }
    }
}
