//! The lease of a reversible step, and the arithmetic of several leases on one knob. Pure.

use super::episode::EpisodeKey;
use super::job::{Allocation, Command, RetryState};
use super::operation::OperatorRequest;
use crate::host::{Reading, Thread, UnitState, Value};
use crate::knob::limit::{IoLimit, IoLimits, Setting};
use crate::process::Target;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::fmt;
use std::time::Duration;

/// The durable record of a reversible step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// A larger number is newer.
    pub id: u64,
    pub rule: SmolStr,
    pub fingerprint: SmolStr,
    pub target: Target,
    /// `comm` of a process at the time of the step, path of a cgroup, `host`.
    pub name: String,
    pub effect: Effect,
    /// CLOCK_BOOTTIME.
    pub taken_at: Duration,
    /// CLOCK_BOOTTIME at which the lease is reverted unless it is renewed.
    pub deadline: Duration,
    /// False between the durable intent and the durable outcome: the value may be set or not.
    pub settled: bool,
    /// Whether its revert has begun, which is retried until it succeeds. Nothing renews the lease any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_undoing: bool,
    /// The operator who released it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Box<OperatorRequest>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A value on every thread, or on the process for knobs of the process.
    Value {
        value: Value,
        #[serde(rename = "prior")]
        saved: Vec<SavedValue>,
    },
    /// A signal and the one that reverts it, by number.
    Signal {
        /// `None` in rows of an earlier version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sent: Option<i32>,
        undo: i32,
    },
    /// A resource of an allocator.
    Allocation(Box<Allocation>),
    /// A command that runs, or that can be reverted.
    Command(Box<Command>),
}

/// As in `nice 0 -> 10`.
impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Value { value, saved } => match saved.first() {
                Some(saved) => write!(f, "{} {} -> {value}", value.knob(), saved.value),
                None => write!(f, "{} -> {value}", value.knob()),
            },
            Effect::Signal { undo, .. } => write!(f, "signal, undone by {undo}"),
            Effect::Allocation(allocation) => write!(f, "{allocation}"),
            Effect::Command(command) => write!(f, "{command}"),
        }
    }
}

impl Effect {
    /// Whether a server holds a resource for this host, which survives a reboot.
    pub fn outlasts_a_boot(&self) -> bool {
        matches!(self, Effect::Allocation(_) | Effect::Command(_))
    }

    /// The saved values, if the lease has some.
    pub fn saved(&self) -> &[SavedValue] {
        match self {
            Effect::Value { saved, .. } => saved,
            Effect::Signal { .. } | Effect::Allocation(_) | Effect::Command(_) => &[],
        }
    }

    /// The new value, if the lease has one.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Effect::Value { value, .. } => Some(value),
            Effect::Signal { .. } | Effect::Allocation(_) | Effect::Command(_) => None,
        }
    }
}

/// The value of a thread before the step. A knob of the process has one, of the main thread; a knob of a cgroup has
/// one, whose thread has the number 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedValue {
    pub tid: i32,
    pub start_ticks: u64,
    pub value: Value,
    /// The former properties of the unit, if a unit owns the cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitState>,
    /// Where the step favours the process: what its revert needs to take the favour from every process that got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub favour: Option<Favour>,
}

/// The circumstances in which a process got a favour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Favour {
    /// Whether evenkeel made the kernel reset the value in children, which the thread had not asked for.
    pub resets_on_fork: bool,
    /// The effective uid of the process.
    pub uid: Option<u32>,
    pub cgroup: Option<String>,
}

impl SavedValue {
    pub fn of_thread(thread: Thread, value: Value) -> SavedValue {
        SavedValue {
            tid: thread.tid,
            start_ticks: thread.start_ticks,
            value,
            unit: None,
            favour: None,
        }
    }

    pub fn of_cgroup(reading: Reading) -> SavedValue {
        SavedValue {
            tid: 0,
            start_ticks: 0,
            value: reading.value,
            unit: reading.unit,
            favour: None,
        }
    }

    pub fn thread(&self) -> Thread {
        Thread {
            tid: self.tid,
            start_ticks: self.start_ticks,
        }
    }
}

/// The action on the host at the end of a lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Undo {
    /// A newer lease holds the knob and inherits the saved value. Children that started before the newer lease still
    /// have this lease's value, and get the saved one.
    HandOver {
        heir: u64,
        inherited: Vec<SavedValue>,
        saved: Vec<SavedValue>,
        ours: Value,
        /// Whether no newer lease has the same value. A thread that still has this lease's value then comes from a
        /// newer lease that was reverted without a record, because of a crash.
        is_last_of_value: bool,
    },
    /// An older lease holds the knob as well. Its value applies again on threads that still have this lease's value,
    /// except threads that another program had changed in between, which are in `saved`.
    Set {
        value: Value,
        saved: Vec<SavedValue>,
        ours: Value,
    },
    /// The last lease: threads that still have its value get the first saved value.
    Restore { saved: Vec<SavedValue>, ours: Value },
    /// The last lease of a reversible signal.
    Signal(i32),
    /// Another lease needs the effect of the signal.
    Nothing,
}

impl Lease {
    /// The episode that took the lease. Dry-run episodes have none.
    pub fn episode(&self) -> EpisodeKey {
        EpisodeKey::new(&self.rule, &self.fingerprint, false)
    }

    /// Whether two leases have the same knob and target.
    pub fn shares_knob(&self, other: &Lease) -> bool {
        self.target == other.target
            && match (&self.effect, &other.effect) {
                (Effect::Value { value: a, .. }, Effect::Value { value: b, .. }) => a.knob() == b.knob(),
                (Effect::Signal { sent: a, undo: x }, Effect::Signal { sent: b, undo: y }) => {
                    x == y && (a.is_none() || b.is_none() || a == b)
                }
                _ => false,
            }
    }

    /// Whether the lease counts for others on its knob. Values count from the intent on, because the next lease reads
    /// them from it; a signal counts once it was sent.
    fn is_in_effect(&self) -> bool {
        self.settled || !matches!(self.effect, Effect::Signal { .. })
    }

    /// The lease on this boot. A lease of another boot ended with its process, but a resource of a server did not, and
    /// is released at once.
    pub fn on_boot(self, is_of_this: bool) -> Option<Lease> {
        match is_of_this {
            true => Some(self.of_one_limit()),
            false => self.effect.outlasts_a_boot().then_some(Lease {
                deadline: Duration::ZERO,
                ..self
            }),
        }
    }

    /// Converts a lease of versions up to 0.1, which covered all of `io.max`, to one on the limit that it changed.
    fn of_one_limit(mut self) -> Lease {
        let Effect::Value { value, saved } = &mut self.effect else {
            return self;
        };
        let (Value::Cgroup(Setting::IoMax(ours)), [before]) = (&*value, saved.as_mut_slice()) else {
            return self;
        };
        let Value::Cgroup(Setting::IoMax(theirs)) = &before.value else {
            return self;
        };
        let Some((device, kind)) = ours.only_difference(theirs) else {
            return self;
        };
        let of = |limits: &IoLimits| {
            let limit = limits.get(device, kind);
            Value::Cgroup(Setting::IoLimit(IoLimit { device, kind, limit }))
        };
        (*value, before.value) = (of(ours), of(theirs));
        self
    }

    /// The retry state of a lease with jobs.
    pub fn retry(&self) -> Option<&RetryState> {
        match &self.effect {
            Effect::Allocation(allocation) => Some(&allocation.retry),
            Effect::Command(command) => Some(&command.retry),
            Effect::Value { .. } | Effect::Signal { .. } => None,
        }
    }

    pub fn retry_mut(&mut self) -> Option<&mut RetryState> {
        match &mut self.effect {
            Effect::Allocation(allocation) => Some(&mut allocation.retry),
            Effect::Command(command) => Some(&mut command.retry),
            Effect::Value { .. } | Effect::Signal { .. } => None,
        }
    }

    /// The reason in a record about its revert. A release by hand comes first.
    pub fn reason_of_revert(&self, reason: String) -> String {
        match (&self.released, reason.as_str()) {
            (None, _) => reason,
            (Some(request), "") => format!("released {request}"),
            (Some(request), reason) => format!("released {request}; {reason}"),
        }
    }

    /// Whether it is a command without `undo`.
    pub fn is_irreversible_command(&self) -> bool {
        matches!(&self.effect, Effect::Command(command) if command.undo.is_none())
    }

    /// Whether its revert has begun.
    pub fn is_ending(&self) -> bool {
        self.retry().is_some_and(|retry| retry.ending.is_some())
    }

    /// CLOCK_BOOTTIME at which it must be reverted unless it is renewed; `None` if that has begun.
    pub fn runs_out_at(&self) -> Option<Duration> {
        (!self.is_ending()).then_some(self.deadline)
    }

    /// The closed label value of `evenkeel_leases{knob}`.
    pub fn knob(&self) -> &'static str {
        match &self.effect {
            Effect::Value { value, .. } => value.knob().as_str(),
            Effect::Signal { .. } => "signal",
            Effect::Allocation(_) => "allocate",
            Effect::Command(_) => "exec",
        }
    }
}

/// The revert of `lease`, given all open leases (in any order, with or without `lease`).
pub fn undo<'a>(lease: &Lease, live: impl Iterator<Item = &'a Lease>) -> Undo {
    let mut above: Option<&Lease> = None;
    let mut below: Option<&Lease> = None;
    let mut is_last_of_value = true;
    let is_holder = |other: &&Lease| other.id != lease.id && other.shares_knob(lease) && other.is_in_effect();
    for other in live.filter(is_holder) {
        is_last_of_value &= other.id < lease.id || other.effect.value() != lease.effect.value();
        // The next lease above inherits; the value of the next one below applies again.
        if other.id > lease.id && above.is_none_or(|nearest| other.id < nearest.id) {
            above = Some(other);
        } else if other.id < lease.id && below.is_none_or(|nearest| other.id > nearest.id) {
            below = Some(other);
        }
    }
    match (
        &lease.effect,
        above.map(|heir| (heir.id, &heir.effect)),
        below.map(|next| &next.effect),
    ) {
        (Effect::Signal { undo, .. }, None, None) => Undo::Signal(*undo),
        (Effect::Signal { .. }, _, _) => Undo::Nothing,
        (Effect::Value { value, saved }, Some((heir, Effect::Value { saved: theirs, .. })), _) => Undo::HandOver {
            heir,
            inherited: inherit(value, saved, theirs),
            saved: saved.clone(),
            ours: value.clone(),
            is_last_of_value,
        },
        (
            Effect::Value { value, saved },
            _,
            Some(Effect::Value {
                value: next,
                saved: older,
            }),
        ) => Undo::Set {
            value: next.clone(),
            saved: changed_between(saved, next, older),
            ours: value.clone(),
        },
        (Effect::Value { saved, value }, _, _) => Undo::Restore {
            saved: saved.clone(),
            ours: value.clone(),
        },
        // Each has its own release, by a job.
        (Effect::Allocation(_) | Effect::Command(_), _, _) => Undo::Nothing,
    }
}

/// The value after the revert of a stack of leases, given oldest first.
pub fn beneath<'a>(stack: impl Iterator<Item = &'a Lease>) -> Option<SavedValue> {
    let (_, saved) = top(stack)?;
    saved.into_iter().next()
}

/// The underlying value, to which relative changes refer: the one without a stack of leases, given oldest first. `found` is
/// the present value. Otherwise several alerts would amplify each other's changes, and the changes would outlast the alerts.
pub fn underlying(stack: &[&Lease], found: &[SavedValue]) -> Vec<SavedValue> {
    let mut found = found.to_vec();
    let Some((value, saved)) = top(stack.iter().copied()) else {
        return found;
    };
    for found in &mut found {
        // The newest lease may have had no effect, and the value of an older lease is not foreign either.
        if stack.iter().any(|lease| lease.effect.value() == Some(&found.value)) {
            found.value.clone_from(value);
        }
    }
    inherit(value, &saved, &found)
}

/// The value of the newest lease in a stack, and what the whole stack would leave behind.
fn top<'a>(stack: impl Iterator<Item = &'a Lease>) -> Option<(&'a Value, Vec<SavedValue>)> {
    let mut below: Option<(&Value, Vec<SavedValue>)> = None;
    for lease in stack {
        if let Effect::Value { value, saved } = &lease.effect {
            let saved = match &below {
                Some((lower, known)) => inherit(lower, known, saved),
                None => saved.clone(),
            };
            below = Some((value, saved));
        }
    }
    below
}

/// Merges saved values. The older one wins for a thread that both have, unless another program changed the value
/// between the two leases; then that value must be restored.
fn inherit(value: &Value, older: &[SavedValue], newer: &[SavedValue]) -> Vec<SavedValue> {
    let changed = changed_between(newer, value, older);
    let is_changed = |saved: &&SavedValue| changed.iter().any(|other| other.thread() == saved.thread());
    let mut saved: Vec<SavedValue> = older.iter().filter(|saved| !is_changed(saved)).cloned().collect();
    for ours in saved.iter_mut().filter(|ours| ours.favour.is_none()) {
        // The newer lease takes back what it gave.
        let same = newer.iter().find(|theirs| theirs.thread() == ours.thread());
        ours.favour = same.and_then(|theirs| theirs.favour.clone());
    }
    for theirs in newer {
        if !saved.iter().any(|ours| ours.thread() == theirs.thread()) {
            // A thread that started during the older lease inherited its value.
            let by_birth = older.first().filter(|_| theirs.value == *value);
            let value = by_birth.unwrap_or(theirs).value.clone();
            saved.push(SavedValue {
                value,
                ..theirs.clone()
            });
        }
    }
    saved
}

/// The foreign values that `newer` found: neither the older lease's value nor its saved one.
fn changed_between(newer: &[SavedValue], value: &Value, older: &[SavedValue]) -> Vec<SavedValue> {
    let is_changed = |theirs: &&SavedValue| {
        let known = older.iter().find(|ours| ours.thread() == theirs.thread());
        theirs.value != *value && known.is_none_or(|ours| theirs.value != ours.value)
    };
    newer.iter().filter(is_changed).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{BootId, Identity};

    fn nice(id: u64, value: i32, saved: i32) -> Lease {
        let target = Target::Process(Identity {
            boot: BootId(1),
            pid: 7,
            start_ticks: 70,
        });
        let saved = vec![SavedValue {
            tid: 7,
            start_ticks: 70,
            value: Value::Nice(saved),
            unit: None,
            favour: None,
        }];
        Lease {
            id,
            rule: format!("rule-{id}").into(),
            fingerprint: "f".into(),
            target,
            name: "burner".into(),
            effect: Effect::Value {
                value: Value::Nice(value),
                saved,
            },
            taken_at: Duration::ZERO,
            deadline: Duration::from_secs(60),
            settled: true,
            is_undoing: false,
            released: None,
        }
    }

    #[test]
    fn last_lease_restores_the_first_saved_value() {
        let (first, mut second) = (nice(1, 10, 0), nice(2, 15, 10));
        let Undo::HandOver {
            heir: 2,
            inherited: saved,
            ..
        } = undo(&first, [&first, &second].into_iter())
        else {
            panic!()
        };
        assert_eq!(saved[0].value, Value::Nice(0));
        second.effect = Effect::Value {
            value: Value::Nice(15),
            saved,
        };
        let Undo::Restore { saved, ours } = undo(&second, [&second].into_iter()) else {
            panic!()
        };
        assert_eq!((&saved[0].value, ours), (&Value::Nice(0), Value::Nice(15)));
    }

    #[test]
    fn lease_is_last_of_its_value_unless_a_newer_one_has_it() {
        let (first, second, third) = (nice(1, 15, 0), nice(2, 10, 15), nice(3, 15, 10));
        for (live, expected) in [(vec![&second], true), (vec![&second, &third], false)] {
            let Undo::HandOver { is_last_of_value, .. } = undo(&first, live.into_iter()) else {
                panic!()
            };
            assert_eq!(is_last_of_value, expected);
        }
    }

    #[test]
    fn next_newest_lease_applies_again() {
        let (first, second, third) = (nice(1, 5, 0), nice(2, 10, 5), nice(3, 15, 10));
        let expected = Undo::Set {
            value: Value::Nice(10),
            saved: vec![],
            ours: Value::Nice(15),
        };
        assert_eq!(undo(&third, [&third, &first, &second].into_iter()), expected);
    }

    #[test]
    fn base_of_a_stack_is_the_first_value_or_one_set_by_others() {
        let beneath = |leases: &[&Lease]| beneath(leases.iter().copied()).map(|saved| saved.value);
        let (first, over, after) = (nice(1, 10, 0), nice(2, 15, 10), nice(2, 15, 7));
        assert_eq!(beneath(&[&first, &over]), Some(Value::Nice(0)));
        assert_eq!(beneath(&[&first, &after]), Some(Value::Nice(7)));
        assert_eq!(beneath(&[]), None);
    }

    #[test]
    fn value_set_by_others_between_two_leases_comes_back() {
        let (first, second) = (nice(1, 10, 0), nice(2, 15, 7));
        let Undo::HandOver { inherited, .. } = undo(&first, [&first, &second].into_iter()) else {
            panic!()
        };
        assert_eq!(inherited[0].value, Value::Nice(7));
        let Undo::Set { saved, .. } = undo(&second, [&first, &second].into_iter()) else {
            panic!()
        };
        assert_eq!(saved[0].value, Value::Nice(7));
    }

    /// Found by the random histories.
    #[test]
    fn thread_from_the_lower_lease_gets_the_value_of_its_process() {
        let (first, mut second) = (nice(1, 10, 0), nice(2, 15, 10));
        if let Effect::Value { saved, .. } = &mut second.effect {
            saved.push(SavedValue {
                tid: 8,
                ..saved[0].clone()
            });
        }
        let Undo::HandOver { inherited, .. } = undo(&first, [&first, &second].into_iter()) else {
            panic!()
        };
        assert!(inherited.iter().all(|saved| saved.value == Value::Nice(0)));
    }

    /// A lease on `io.max` as version 0.1 wrote it.
    fn of_whole_file(value: &str, saved: &str) -> Lease {
        let lease = serde_json::to_value(nice(1, 5, 0)).unwrap();
        let mut lease: serde_json::Value = lease;
        lease["effect"]["value"] = serde_json::json!({
            "value": {"cgroup": {"io.max": value}},
            "prior": [{"tid": 0, "start_ticks": 0, "value": {"cgroup": {"io.max": saved}}}],
        });
        serde_json::from_value(lease).unwrap()
    }

    #[test]
    fn older_rows_on_io_max_become_leases_on_one_limit() {
        let lease = of_whole_file("8:0 rbps=5 wbps=7; 9:0 rbps=1", "8:0 rbps=5; 9:0 rbps=1");
        let lease = lease.on_boot(true).unwrap();
        assert_eq!(lease.effect.to_string(), "io.max 8:0 wbps=max -> 8:0 wbps=7");
        let several = of_whole_file("8:0 rbps=5 wbps=7", "max");
        assert_eq!(several.clone().on_boot(true).unwrap(), several);
        // The current form survives a round trip.
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
    }

    #[test]
    fn base_is_the_value_beneath_or_one_set_by_others() {
        let underlying = |stack: &[&Lease], found: i32| {
            let found = [SavedValue {
                value: Value::Nice(found),
                ..priors(stack[0])[0].clone()
            }];
            super::underlying(stack, &found)[0].value.clone()
        };
        let (first, second) = (nice(1, 10, 0), nice(2, 15, 10));
        assert_eq!(underlying(&[&first], 10), Value::Nice(0));
        assert_eq!(underlying(&[&first, &second], 15), Value::Nice(0));
        assert_eq!(
            underlying(&[&first, &second], 10),
            Value::Nice(0),
            "the newest had no effect"
        );
        assert_eq!(underlying(&[&first, &second], 0), Value::Nice(0));
        assert_eq!(underlying(&[&first, &second], 7), Value::Nice(7));
    }

    fn priors(lease: &Lease) -> &[SavedValue] {
        match &lease.effect {
            Effect::Value { saved, .. } => saved,
            _ => &[],
        }
    }

    #[test]
    fn leases_of_other_knobs_and_processes_do_not_count() {
        let lease = nice(1, 5, 0);
        let mut other = nice(2, 5, 0);
        other.target = Target::Host;
        let mut signal = nice(3, 5, 0);
        signal.effect = Effect::Signal {
            sent: Some(10),
            undo: 12,
        };
        let live = [&lease, &other, &signal];
        assert!(matches!(undo(&lease, live.into_iter()), Undo::Restore { .. }));
        assert_eq!(undo(&signal, live.into_iter()), Undo::Signal(12));
    }

    #[test]
    fn a_signal_lease_of_an_earlier_version_shares_its_opposite() {
        let former = Lease {
            effect: serde_json::from_str(r#"{"signal":{"undo":12}}"#).unwrap(),
            ..nice(1, 5, 0)
        };
        let with = |id, sent, settled| Lease {
            effect: Effect::Signal {
                sent: Some(sent),
                undo: 12,
            },
            settled,
            ..nice(id, 5, 0)
        };
        let (newer, other, unsent) = (with(2, 10, true), with(3, 1, true), with(4, 10, false));
        assert_eq!(undo(&former, [&former, &newer].into_iter()), Undo::Nothing);
        assert_eq!(undo(&newer, [&newer, &other].into_iter()), Undo::Signal(12));
        assert_eq!(undo(&newer, [&newer, &unsent].into_iter()), Undo::Signal(12));
    }
}
