//! The fake host as the engine sees it.

use super::cgroup::{DEFAULT, unlimited};
use super::{FakeHost, FakeProcess, move_out};
#[cfg(test)]
use crate::host::fault;
use crate::host::unit::UnitState;
use crate::host::{
    CgroupError, Host, HostError, Job, Knob, LimitState, Moment, Reading, Reclaimed, Suspension, Thread, Value,
};
use crate::knob::limit::{CgroupFile, Device, Setting};
use crate::process::{Cgroup, Identity, Process, ProcessFields};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io;

impl Host for FakeHost {
    fn now(&self) -> Moment {
        self.now
    }

    fn processes(&mut self) -> io::Result<Vec<Process>> {
        #[cfg(test)]
        self.note_call(None);
        #[cfg(test)]
        if self.hooks.table_fails {
            return Err(io::Error::other("too many open files"));
        }
        Ok(self.processes.values().map(|found| self.current(found)).collect())
    }

    fn process(&mut self, pid: i32) -> Option<Process> {
        #[cfg(test)]
        self.note_call(Some(pid));
        #[cfg(test)]
        self.happen(|hooks| &mut hooks.meanwhile);
        self.processes.get(&pid).map(|found| self.current(found))
    }

    fn read_details(&mut self, process: &mut Process, needs: ProcessFields) -> bool {
        #[cfg(test)]
        self.happen(|hooks| &mut hooks.before_details);
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
        self.happen(|hooks| &mut hooks.before_set);
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
        fault::point();
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
            DEFAULT => Some(unlimited(file)),
            text => Setting::parse(file, text).ok(),
        }
    }

    fn restore_unit(&mut self, state: &UnitState, ours: &Value, next: Option<&Value>) -> Result<bool, CgroupError> {
        #[cfg(test)]
        fault::point();
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
        fault::point();
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
