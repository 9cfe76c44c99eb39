//! The processes of the model, and what each would have without evenkeel.

use super::*;
use crate::host::Thread;
use crate::host::Value;
use crate::host::fake::{FakeHost, FakeThread};
use crate::knob::Knob;
use crate::process::{BootId, Identity, Process, Target};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};

/// Pids.
pub const SLOTS: [i32; 7] = [100, 110, policies::PID, 130, 140, 150, 160];
/// Names by which rules choose, one that no rule means, and with which name each slot begins.
pub const NAMES: [&str; 5] = ["burner", "victim", "worker", "daemon", "other"];
const FIRST: [usize; 7] = [0, 0, 4, 2, 3, 1, 1];

/// A knob of a thread, or of the process where there is no thread.
type Place = (Identity, Option<Thread>, Knob);

#[derive(Default)]
pub struct Processes {
    own: BTreeMap<Place, Value>,
    pub alive: BTreeSet<Identity>,
    /// When each was born or renamed, by the model's clock.
    noticed: BTreeMap<i32, Duration>,
    /// When each was born.
    pub born: BTreeMap<Identity, Duration>,
}

pub fn value_at(host: &FakeHost, (identity, thread, knob): &Place) -> Option<Value> {
    let found = host.processes.get(&identity.pid)?;
    if found.process.identity != *identity {
        return None;
    }
    let Some(thread) = thread else {
        return found.values.get(knob).cloned();
    };
    let at = found.threads.get(&thread.tid)?;
    at.values
        .get(knob)
        .filter(|_| at.start_ticks == thread.start_ticks)
        .cloned()
}

/// What a target has of a knob now: a process on its main thread. Nothing of other targets.
pub fn first_value(host: &FakeHost, target: Target, knob: Knob) -> Option<Value> {
    let identity = target.process()?;
    let start_ticks = host
        .processes
        .get(&identity.pid)?
        .threads
        .get(&identity.pid)?
        .start_ticks;
    let main = Thread {
        tid: identity.pid,
        start_ticks,
    };
    let thread = (knob != Knob::OomScoreAdj).then_some(main);
    value_at(host, &(identity, thread, knob))
}

fn places(host: &FakeHost, pid: i32) -> Vec<Place> {
    let Some(found) = host.processes.get(&pid) else {
        return Vec::new();
    };
    let identity = found.process.identity;
    let mut places = vec![(identity, None, Knob::OomScoreAdj)];
    for (&tid, thread) in &found.threads {
        let start_ticks = thread.start_ticks;
        let thread = Thread { tid, start_ticks };
        places.extend([Knob::Nice, Knob::Affinity, Knob::Ionice].map(|knob| (identity, Some(thread), knob)));
    }
    places
}

impl Processes {
    pub fn populate(&mut self, host: &mut FakeHost, boot: BootId, now: Duration) {
        for (slot, name) in FIRST.into_iter().enumerate() {
            self.spawn(host, boot, slot, name, now);
        }
    }

    pub fn spawn(&mut self, host: &mut FakeHost, boot: BootId, slot: usize, name: usize, now: Duration) {
        let mut process = Process::example(SLOTS[slot], NAMES[name]);
        process.identity.boot = boot;
        process.age = Duration::ZERO;
        process.threads = 1 + slot as u32 % 2;
        process.details.exe = Some("/usr/bin/x".into());
        process.details.caught_signals = Some(u64::MAX);
        let identity = host.add(process);
        let found = host.processes.get_mut(&identity.pid).unwrap();
        if slot.is_multiple_of(2) {
            found.ignores.extend([Signal::SIGTERM as i32, Signal::SIGINT as i32]);
        }
        found
            .threads
            .values_mut()
            .skip(1)
            .for_each(|thread| thread.put(Value::Nice(-1)));
        for place in places(host, identity.pid) {
            let value = value_at(host, &place).unwrap();
            self.own.insert(place, value);
        }
        self.alive.insert(identity);
        self.born.insert(identity, now);
        self.noticed.insert(identity.pid, now);
    }

    pub fn rename(&mut self, host: &mut FakeHost, slot: usize, name: usize, now: Duration) {
        if let Some(found) = host.processes.get_mut(&SLOTS[slot]) {
            found.process.name = NAMES[name].into();
            self.noticed.insert(SLOTS[slot], now);
        }
    }

    pub fn bear_thread(&mut self, host: &mut FakeHost, slot: usize) {
        let pid = SLOTS[slot];
        let start_ticks = host.now.boot.as_millis() as u64 / 10;
        let Some(found) = host.processes.get_mut(&pid) else {
            return;
        };
        let Some(tid) = (pid + 1..pid + 6).find(|tid| !found.threads.contains_key(tid)) else {
            return;
        };
        let main = found.threads[&pid].clone();
        let of_main = Thread {
            tid: pid,
            start_ticks: main.start_ticks,
        };
        found.threads.insert(tid, FakeThread { start_ticks, ..main });
        let identity = found.process.identity;
        for knob in [Knob::Nice, Knob::Affinity, Knob::Ionice] {
            let value = self.own[&(identity, Some(of_main), knob)].clone();
            self.own
                .insert((identity, Some(Thread { tid, start_ticks }), knob), value);
        }
    }

    /// One that has ended and was not told of yet.
    pub fn next_dead(&mut self, host: &FakeHost) -> Option<Identity> {
        let is_alive = |identity: &Identity| {
            let found = host.processes.get(&identity.pid);
            found.is_some_and(|found| found.process.identity == *identity)
        };
        let dead = self.alive.iter().find(|identity| !is_alive(identity)).copied()?;
        self.alive.remove(&dead);
        self.own.retain(|(identity, ..), _| *identity != dead);
        Some(dead)
    }

    /// Whether the process of a pid has been what it is for at least `margin`.
    pub fn is_settled(&self, pid: i32, now: Duration, margin: Duration) -> bool {
        self.noticed.get(&pid).is_some_and(|at| now >= *at + margin)
    }

    /// The first value that is another than it would be without evenkeel, where nothing `is_held`.
    pub fn changed(&self, host: &FakeHost, is_held: impl Fn(Identity, Knob) -> bool) -> Option<String> {
        for (place, own) in &self.own {
            let (identity, _, knob) = place;
            let Some(found) = value_at(host, place) else { continue };
            if found != *own && !is_held(*identity, *knob) {
                return Some(format!("{identity} has {found}, and had {own} of its own"));
            }
        }
        None
    }

    /// All processes end with the host.
    pub fn forget_all(&mut self) {
        *self = Processes::default();
    }
}
