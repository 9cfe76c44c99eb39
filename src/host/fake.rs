//! A host in memory with its own clock: for rule tests and for the property tests of the engine. Behaves like Linux
//! where the engine can tell the difference.

use super::knob::{CpuSet, IoPriority, Knob, Policy, Value};
use super::{Errand, Host, HostError, Moment, Thread};
use crate::process::table::TICKS_PER_SECOND;
use crate::process::{Details, Identity, Needs, Process};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct FakeProcess {
    pub process: Process,
    pub threads: BTreeMap<i32, FakeThread>,
    /// Signals that end other processes, but not this one (SIGKILL and SIGSTOP cannot be ignored).
    pub ignores: BTreeSet<i32>,
    pub oom_score_adj: i32,
    /// A stop was sent while it hung in the kernel (state D), and takes effect when it comes out.
    pub is_stop_pending: bool,
    /// A signal that ends it was sent while it hung in the kernel.
    pub is_end_pending: bool,
}

#[derive(Debug, Clone)]
pub struct FakeThread {
    pub start_ticks: u64,
    pub nice: i32,
    pub affinity: CpuSet,
    pub ionice: IoPriority,
    pub policy: Policy,
}

/// One thing that reached a process.
#[cfg(test)]
#[derive(Debug, Clone)]
pub struct Deed {
    pub at: Duration,
    pub process: Process,
    /// `None` where a value was set.
    pub signal: Option<Signal>,
}

#[derive(Debug, Clone)]
pub struct FakeHost {
    pub now: Moment,
    pub processes: BTreeMap<i32, FakeProcess>,
    /// Every signal that reached a process, in order.
    pub signals: Vec<(i32, Signal)>,
    pub cpus: u32,
    /// Installed memory in bytes, where it matters: what no process has resident is available.
    pub memory_bytes: Option<u64>,
    /// evenkeel's own processes on it.
    pub own_line: BTreeSet<i32>,
    /// Errands that were begun and not taken up by whoever drives this host.
    pub errands: Vec<(u64, Errand)>,
    /// Calls from now on that the kernel refuses, for each knob.
    pub denied: BTreeSet<Knob>,
    /// Threads on which the kernel refuses to set anything.
    pub denied_threads: BTreeSet<i32>,
    /// Everything that reached a process, with what it was at that moment.
    #[cfg(test)]
    pub deeds: Vec<Deed>,
    /// What happens on the host just before something is set, one for each setting.
    #[cfg(test)]
    pub before_set: std::collections::VecDeque<fn(&mut FakeHost)>,
    /// Every so many looks at a process, its pid is handed to a stranger the moment before; 0 is never.
    #[cfg(test)]
    pub reused_every: usize,
    #[cfg(test)]
    looks: usize,
    /// Strangers that got a pid so.
    #[cfg(test)]
    pub strangers: usize,
    /// How often the host was asked or told something.
    #[cfg(test)]
    pub calls: std::cell::Cell<usize>,
    /// What happens on the host just before the next looks at single processes, one for each look.
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
            processes: BTreeMap::new(),
            signals: Vec::new(),
            cpus,
            memory_bytes: None,
            own_line: BTreeSet::from([1]),
            errands: Vec::new(),
            denied: BTreeSet::new(),
            denied_threads: BTreeSet::new(),
            #[cfg(test)]
            deeds: Vec::new(),
            #[cfg(test)]
            before_set: Default::default(),
            #[cfg(test)]
            reused_every: 0,
            #[cfg(test)]
            strangers: 0,
            #[cfg(test)]
            looks: 0,
            #[cfg(test)]
            calls: Default::default(),
            #[cfg(test)]
            meanwhile: Default::default(),
        }
    }

    /// Puts a process into another state of proc(5). When it comes out of D, what was pending takes effect.
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
        if found.is_end_pending {
            self.processes.remove(&pid);
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now.boot += by;
        self.now.wall += by;
    }

    /// Adds a process whose age counts from its `age` now; every thread starts with nice `process.nice`.
    pub fn add(&mut self, mut process: Process) -> Identity {
        let started = self.now.boot.saturating_sub(process.age);
        process.identity.start_ticks = started.as_millis() as u64 * TICKS_PER_SECOND / 1000;
        process.born_at = started;
        let pid = process.identity.pid;
        let threads = (0..process.threads.max(1) as i32)
            .map(|index| {
                (
                    pid + index,
                    self.thread(process.identity.start_ticks + index as u64, process.nice),
                )
            })
            .collect();
        let identity = process.identity;
        self.processes.insert(
            pid,
            FakeProcess {
                process,
                threads,
                ignores: BTreeSet::new(),
                oom_score_adj: 0,
                is_stop_pending: false,
                is_end_pending: false,
            },
        );
        identity
    }

    fn thread(&self, start_ticks: u64, nice: i32) -> FakeThread {
        FakeThread {
            start_ticks,
            nice,
            affinity: CpuSet((0..self.cpus).collect()),
            ionice: IoPriority::None,
            policy: Policy::Other,
        }
    }

    fn verify(&mut self, id: Identity) -> Result<&mut FakeProcess, HostError> {
        match self.processes.get_mut(&id.pid) {
            None => Err(HostError::Gone { pid: id.pid }),
            Some(found) if found.process.identity != id => Err(HostError::ChangedIdentity { pid: id.pid }),
            Some(found) => Ok(found),
        }
    }

    /// A call, about this process if about one.
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
        // Like the one before in everything but its name, and born a tick later.
        self.now.boot += Duration::from_millis(10);
        let mut stranger = found.process.clone();
        stranger.name = "stranger".into();
        stranger.age = Duration::ZERO;
        self.strangers += 1;
        self.add(stranger);
    }

    #[cfg(test)]
    fn note_deed(&mut self, id: Identity, signal: Option<Signal>) -> Result<(), HostError> {
        let (at, process) = (self.now.boot, self.verify(id)?.process.clone());
        self.deeds.push(Deed { at, process, signal });
        Ok(())
    }

    fn current(&self, found: &FakeProcess) -> Process {
        let mut process = found.process.clone();
        let started = Duration::from_millis(process.identity.start_ticks * 1000 / TICKS_PER_SECOND);
        process.age = self.now.boot.saturating_sub(started);
        process.nice = found
            .threads
            .get(&process.identity.pid)
            .map_or(process.nice, |thread| thread.nice);
        process.threads = found.threads.len() as u32;
        process.details = Details::default();
        process
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

    fn read_details(&mut self, process: &mut Process, needs: Needs) -> bool {
        let Some(found) = self.processes.get(&process.identity.pid) else {
            return false;
        };
        let known = &found.process.details;
        let details = &mut process.details;
        if needs.has(Needs::CMDLINE) {
            details.cmdline.clone_from(&known.cmdline);
        }
        if needs.has(Needs::EXE) {
            details.exe.clone_from(&known.exe);
        }
        if needs.has(Needs::USER) {
            details.uid = known.uid;
            details.user.clone_from(&known.user);
        }
        if needs.has(Needs::CGROUP) {
            details.cgroup.clone_from(&known.cgroup);
        }
        if needs.has(Needs::SIGNALS) {
            details.caught_signals = known.caught_signals;
        }
        if needs.has(Needs::OOM_SCORE) {
            details.oom_score = known.oom_score;
        }
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
        let found = self.verify(id)?;
        let frozen = found.process.state == 'T';
        let oom_score_adj = found.oom_score_adj;
        let at = found
            .threads
            .get(&thread.tid)
            .filter(|at| at.start_ticks == thread.start_ticks)
            .ok_or(HostError::Gone { pid: thread.tid })?;
        Ok(match knob {
            Knob::Nice => Value::Nice(at.nice),
            Knob::Affinity => Value::Affinity(at.affinity.clone()),
            Knob::Ionice => Value::Ionice(at.ionice),
            Knob::Sched => Value::Sched(at.policy),
            Knob::OomScoreAdj => Value::OomScoreAdj(oom_score_adj),
            Knob::Freeze => Value::Freeze(frozen),
        })
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
        #[cfg(test)]
        self.note_deed(id, None)?;
        let online = self.cpus;
        let found = self.verify(id)?;
        let at = found
            .threads
            .get_mut(&thread.tid)
            .filter(|at| at.start_ticks == thread.start_ticks)
            .ok_or(HostError::Gone { pid: thread.tid })?;
        match value {
            Value::Nice(nice) => at.nice = *nice,
            Value::Affinity(cpus) => {
                // The kernel drops what is not there.
                at.affinity = CpuSet(cpus.0.iter().filter(|cpu| **cpu < online).copied().collect());
            }
            Value::Ionice(priority) => at.ionice = *priority,
            Value::Sched(policy) => at.policy = *policy,
            Value::OomScoreAdj(score) => found.oom_score_adj = *score,
            Value::Freeze(true) if found.process.state == 'D' => found.is_stop_pending = true,
            Value::Freeze(true) => found.process.state = 'T',
            Value::Freeze(false) => {
                found.is_stop_pending = false;
                if found.process.state == 'T' {
                    found.process.state = 'S';
                }
            }
        }
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
        self.note_deed(id, Some(signal))?;
        self.signals.push((id.pid, signal));
        if ends {
            match self.processes.get_mut(&id.pid) {
                Some(found) if found.process.state == 'D' => found.is_end_pending = true,
                _ => drop(self.processes.remove(&id.pid)),
            }
        }
        Ok(())
    }

    fn watch_exit(&mut self, _process: Identity) {
        // Whoever drives this host also moves its clock, and tells the engine what ended.
    }

    fn begin(&mut self, ticket: u64, errand: Errand) {
        #[cfg(test)]
        super::fault::point();
        self.errands.push((ticket, errand));
    }

    fn own_line(&self) -> BTreeSet<i32> {
        self.own_line.clone()
    }

    fn available_memory(&mut self) -> Option<u64> {
        let resident = self.processes.values().map(|found| found.process.resident_bytes);
        self.memory_bytes.map(|bytes| bytes.saturating_sub(resident.sum()))
    }

    fn online_cpus(&self) -> BTreeSet<u32> {
        (0..self.cpus).collect()
    }

    fn may_undo(&self, knob: Knob) -> Result<(), &'static str> {
        if self.denied.contains(&knob) {
            Err("CAP_SYS_NICE")
        } else {
            Ok(())
        }
    }
}
