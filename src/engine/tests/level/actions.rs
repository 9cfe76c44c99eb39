//! What happens to evenkeel and its host in one action of a history.

use super::evidence::Evidence;
use super::invariants::{Left, Release};
use super::policies::{CONFIGURATIONS, UNIT};
use super::simulation::Simulation;
use super::*;
use crate::engine::Engine;
use crate::host::fake::FakeHost;
use crate::host::fault;
use crate::knob::Knob;
use crate::ledger::OperatorRequest;
use crate::ledger::leases::Leases;
use crate::process::BootId;
use jiff::SignedDuration;
use std::collections::BTreeMap;

impl Simulation {
    /// Does one action, in which the daemon may die, and checks what must hold.
    pub fn act(&mut self, action: Action, death: Option<u32>) -> Result<(), String> {
        fault::arm(death.filter(|_| self.setup.has_ledger));
        self.has_died = false;
        let result = self.do_action(action);
        fault::arm(None);
        result?;
        self.bury();
        self.check()
    }

    fn do_action(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Condition(alert, is_true) => self.conditions[alert] = is_true,
            Action::Pass(seconds) => return self.pass(Duration::from_secs(seconds)),
            Action::PrometheusLink(from, to, is_up) => self.senders.links[from][to] = is_up,
            Action::AlertmanagerLink(which, is_up) => self.senders.is_reachable[which] = is_up,
            Action::RestartAlertmanager(which) => {
                self.senders.restart_alertmanager(which, self.now);
                self.evidence.iter_mut().for_each(|evidence| evidence.restarted(which));
            }
            Action::Network(fate) => self.fate = fate,
            Action::Restart(seconds) => {
                self.disrupt();
                let file = self.own.stop();
                self.with_engine(Engine::shut_down);
                self.pass_without_evenkeel(Duration::from_secs(seconds));
                self.start(file);
            }
            Action::Crash(seconds) => {
                self.disrupt();
                let file = self.own.crash();
                self.pass_without_evenkeel(Duration::from_secs(seconds));
                self.start(file);
            }
            Action::EngineFault => {
                self.disrupt();
                self.start_engine();
            }
            Action::Reboot(seconds) => self.reboot(seconds),
            Action::Suspend(seconds) => {
                self.pass_without_evenkeel(Duration::from_secs(seconds));
                self.memory.awake(self.now);
                for evidence in &mut self.evidence {
                    evidence.awake(self.now);
                }
                // The engine's thread may wake before own evaluation does.
                self.tick();
            }
            Action::SetClock(minutes) => {
                self.host().now.wall += SignedDuration::from_mins(minutes);
                // The evaluation begins again where the clock was set back.
                self.evidence.iter_mut().for_each(Evidence::own_evaluation_begins);
            }
            Action::Reload(variant) => self.reload(variant),
            Action::Release(which) => self.release(which),
            Action::Pause(is_paused) => {
                self.with_engine(|engine| engine.pause(is_paused, &OperatorRequest::example()));
                // Where the daemon died in it, it may not have come to pass.
                self.memory.is_paused = if self.has_died {
                    self.engine.ledger().paused
                } else {
                    is_paused
                };
            }
            Action::Rename(slot, name) => self.processes.rename(self.engine.host(), slot, name, self.now),
            Action::ReusePid(slot, name) => {
                self.host().processes.remove(&processes::SLOTS[slot]);
                let boot = BootId(self.boot);
                // Processes are told apart by ticks of the clock.
                self.host().now.boot += Duration::from_millis(10);
                self.processes.spawn(self.engine.host(), boot, slot, name, self.now);
            }
            Action::Dies(slot) => drop(self.host().processes.remove(&processes::SLOTS[slot])),
            Action::ThreadBorn(slot) => self.processes.bear_thread(self.engine.host(), slot),
            Action::DenyNice(true) => {
                self.host().denied.insert(Knob::Nice);
                self.memory.deny(None);
            }
            Action::DenyNice(false) => {
                if self.host().denied.remove(&Knob::Nice) {
                    self.memory.deny(Some(self.now));
                }
            }
            Action::RestartUnit => {
                self.host().restart_cgroup(UNIT);
                self.unit_inode = self.host().cgroups[UNIT].inode;
            }
        }
        Ok(())
    }

    /// The host starts again: its processes and all that was set are gone.
    fn reboot(&mut self, seconds: u64) {
        let file = self.own.crash();
        self.pass_without_evenkeel(Duration::from_secs(seconds));
        self.boot += 1;
        let mut host = FakeHost::new(4, self.host().now.wall);
        host.now.boot = Duration::from_secs(30);
        self.unit_inode = host.add_cgroup(UNIT).inode;
        self.processes.forget_all();
        self.processes.populate(&mut host, BootId(self.boot), self.now);
        *self.engine.host() = host;
        self.memory.reboot(self.now);
        for evidence in &mut self.evidence {
            evidence.reboot(self.now);
        }
        // The ledger does this when it is opened after another boot.
        let ledger = &mut self.engine.ledger;
        (ledger.leases, ledger.episodes, ledger.victims) = (Leases::default(), BTreeMap::new(), Vec::new());
        ledger.closed.values_mut().for_each(|closed| closed.closed_at = None);
        self.start(file);
    }

    fn reload(&mut self, variant: usize) {
        self.disrupt();
        let before = std::mem::replace(&mut self.variant, variant);
        self.memory.reload(before, variant, self.now);
        self.leave_changed_steps(before);
        let names = &self.configuration().own_names;
        for name in CONFIGURATIONS[before]
            .own_names
            .iter()
            .filter(|name| !names.contains(name))
        {
            // Its rule is gone, and so it is over.
            self.evidence[policies::alert(name)].own(false, false, true, self.now);
        }
        let policy = self.configuration().policy.clone();
        self.with_engine(|engine| engine.reload(policy));
        // On a thread of its own, which may come later.
        let now = self.engine.host().now.boot;
        let reports = self.own.reload(variant, now);
        for name in self.own.firing() {
            self.evidence[policies::alert(&name)].own_set(self.now);
        }
        self.report(reports);
    }

    /// Notes the targets of rules that have other steps from now on.
    fn leave_changed_steps(&mut self, before: usize) {
        let [before, after] = [before, self.variant].map(|variant| &CONFIGURATIONS[variant].policy.rules);
        let is_other = |name: &str| match (before.get(name), after.get(name)) {
            (Some(before), Some(after)) => before.steps_text() != after.steps_text(),
            _ => false,
        };
        let episodes = self.engine.ledger.episodes.values();
        for episode in episodes.filter(|episode| is_other(&episode.key.rule)) {
            self.memory.left.extend(episode.targets.iter().map(|progress| Left {
                at: self.now,
                rule: episode.key.rule.clone(),
                fingerprint: episode.key.fingerprint.clone(),
                target: progress.target,
            }));
        }
    }

    fn release(&mut self, which: Option<usize>) {
        let leases = &self.engine.ledger().leases;
        let id = which.map(|index| leases.keys().nth(index).copied().unwrap_or(u64::MAX));
        let chosen = leases.values().filter(|lease| id.is_none_or(|id| lease.id == id));
        let chosen: Vec<_> = chosen.cloned().collect();
        self.with_engine(|engine| {
            engine.release(id, &OperatorRequest::example());
        });
        let (at, is_certain) = (self.now, !self.has_died);
        let releases = chosen.into_iter().map(|lease| Release { at, lease, is_certain });
        self.memory.released.extend(releases);
    }

    /// Everything ends: conditions, cut links and what was refused. The invariants say what must come of it.
    pub fn end(mut self) -> Result<(), String> {
        self.conditions = [false; ALERTS];
        self.senders.links = [[true; PAIR]; PAIR];
        self.senders.is_reachable = [true; PAIR];
        self.act(Action::DenyNice(false), None)?;
        self.act(Action::Pause(false), None)?;
        self.pass(END)
    }
}
