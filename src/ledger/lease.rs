//! The lease of a reversible step: its effect, and what it saved for the revert. Pure.

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
    pub(super) fn is_in_effect(&self) -> bool {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::process::{BootId, Identity};

    /// A lease on the nice value of one process. `id` is its number, `saved` the value before it.
    pub fn nice(id: u64, value: i32, saved: i32) -> Lease {
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
}
