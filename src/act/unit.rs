//! What undoing a limit does about the unit behind the cgroup: what was set for it at runtime outlives the cgroup, and a
//! value that somebody else wrote into the file.

use super::apply::Effected;
use super::limit::held_unit;
use crate::host::{CgroupError, Host, Knob, Reading, UnitState, Value};
use crate::ledger::lease::{Lease, Undo};
use crate::ledger::{Outcome, Prior};
use crate::process::Cgroup;

/// Takes ours out of the record of a unit whose file could not be put back. `next` is what an older lease still wants.
pub fn settle(
    host: &mut impl Host,
    cgroup: &Cgroup,
    effected: Effected,
    unit: Option<&UnitState>,
    ours: &Value,
    next: Option<&Value>,
) -> Effected {
    let Some(state) = unit else { return effected };
    let withdrawn = match effected.outcome {
        Outcome::Gone | Outcome::ChangedIdentity => host.restore_unit(state, ours, next),
        Outcome::Superseded => {
            let withdrawn = withdraw_below(host, cgroup, state, ours, next);
            return withdrawn.map_or_else(Effected::from, |()| effected);
        }
        _ => return effected,
    };
    let reason = match withdrawn {
        Ok(true) => format!("{}; {} is as it was", effected.reason, state.unit),
        Ok(false) => format!("{}; somebody else changed {}", effected.reason, state.unit),
        Err(error) => return error.into(),
    };
    Effected { reason, ..effected }
}

/// Takes ours out of the record of a unit and leaves in the file what somebody else wrote there.
fn withdraw_below(
    host: &mut impl Host,
    cgroup: &Cgroup,
    state: &UnitState,
    ours: &Value,
    next: Option<&Value>,
) -> Result<(), CgroupError> {
    let theirs = host.read_cgroup(cgroup, ours.knob());
    let is_by_hand = host.restore_unit(state, ours, next)?;
    // Else the file has what systemd was told by somebody else.
    if let (true, Ok(Reading { value: theirs, .. })) = (is_by_hand, theirs)
        && host
            .read_cgroup(cgroup, ours.knob())
            .is_ok_and(|now| now.value != theirs)
    {
        host.set_cgroup(cgroup, &theirs, None)?;
    }
    Ok(())
}

/// Puts back what somebody else had set between two leases: for the unit, or in the file past systemd. There the record is
/// the older lease's, whose value is `next`.
///
/// # Errors
/// As for setting it.
pub fn put_foreign(host: &mut impl Host, cgroup: &Cgroup, foreign: &Prior, next: &Value) -> Result<(), CgroupError> {
    let (value, unit) = (&foreign.value, foreign.unit.as_ref());
    if !is_by_hand(host, foreign) {
        return host.restore_cgroup(cgroup, value, unit);
    }
    host.set_cgroup(cgroup, next, unit)?;
    host.set_cgroup(cgroup, value, None)
}

/// Whether a value was written into the file past systemd, which has another one on record.
pub fn is_by_hand(host: &impl Host, prior: &Prior) -> bool {
    let of_unit = prior.unit.as_ref();
    let of_unit = of_unit.and_then(|state| recorded(host, prior.value.knob(), state));
    match (of_unit, &prior.value) {
        (Some(Value::Cgroup(of_unit)), Value::Cgroup(value)) => !of_unit.explains(value),
        _ => false,
    }
}

fn recorded(host: &impl Host, knob: Knob, state: &UnitState) -> Option<Value> {
    match knob {
        Knob::Cgroup(file) => host.recorded(file, state).map(Value::Cgroup),
        _ => None,
    }
}

/// What the record of a unit is made to say when a lease is undone: systemd writes that into the file, if only for a
/// moment. `None` where there is no unit.
pub fn goal_of_record(host: &impl Host, lease: &Lease, undo: &Undo) -> Option<Value> {
    let (state, knob) = (held_unit(lease)?, lease.effect.value()?.knob());
    match undo {
        Undo::Set { value: next, prior, .. } => match prior.first() {
            Some(foreign) if !is_by_hand(host, foreign) => {
                Some(recorded(host, knob, state).unwrap_or_else(|| foreign.value.clone()))
            }
            _ => Some(next.clone()),
        },
        Undo::Restore { .. } => recorded(host, knob, state),
        Undo::Bequeath { .. } | Undo::Signal(_) | Undo::Nothing => None,
    }
}
