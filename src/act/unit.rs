//! The revert of a limit in the systemd unit of a cgroup. It is needed because a property that is set at runtime
//! outlives the cgroup, and because another program may have written into the file of the cgroup.

use super::apply::StepResult;
use crate::host::{CgroupError, Host, Knob, UnitState, Value};
use crate::ledger::stacked_leases::Undo;
use crate::ledger::{Lease, Outcome, SavedValue};
use crate::process::Cgroup;

/// What systemd had on record for the unit of a lease, where there is one.
pub fn held_unit(lease: &Lease) -> Option<&UnitState> {
    lease.effect.saved().first()?.unit.as_ref()
}

/// Takes ours out of the record of a unit whose file could not be put back. `next` is what an older lease still wants.
pub fn settle(
    host: &mut impl Host,
    cgroup: &Cgroup,
    result: StepResult,
    unit: Option<&UnitState>,
    ours: &Value,
    next: Option<&Value>,
) -> StepResult {
    let Some(state) = unit else { return result };
    let is_replaced = matches!(result.outcome, Outcome::Gone | Outcome::ChangedIdentity);
    if !is_replaced && result.outcome != Outcome::Superseded {
        return result;
    }
    let reason = match withdraw_below(host, &cgroup.path, state, ours, next) {
        Err(error) => return error.into(),
        Ok(_) if !is_replaced => return result,
        Ok(true) => format!("{}; {} is restored", result.reason, state.unit),
        Ok(false) => format!("{}; another program changed {}", result.reason, state.unit),
    };
    StepResult { reason, ..result }
}

/// Takes ours out of the record of a unit and leaves in the file of the cgroup that it has now what another program wrote
/// there. False where another program has changed the record.
fn withdraw_below(
    host: &mut impl Host,
    path: &str,
    state: &UnitState,
    ours: &Value,
    next: Option<&Value>,
) -> Result<bool, CgroupError> {
    let now = host.cgroup(path);
    let read = |host: &mut _, now: &Cgroup| Host::read_cgroup(host, now, ours.knob()).map(|reading| reading.value);
    let theirs = now.as_ref().and_then(|now| read(host, now).ok());
    let is_withdrawn = host.restore_unit(state, ours, next)?;
    // Else the file has what systemd was told by another program.
    if let (true, Some(now), Some(theirs)) = (is_withdrawn, now, theirs.filter(|theirs| theirs != ours))
        && read(host, &now).is_ok_and(|found| found != theirs)
    {
        host.set_cgroup(&now, &theirs, None)?;
    }
    Ok(is_withdrawn)
}

/// Puts back what another program had set between two leases: for the unit, in the file past systemd, or both. `next` is the
/// value of the older lease, which stays on record unless another program had set the property.
///
/// # Errors
/// As for setting it.
pub fn put_foreign(
    host: &mut impl Host,
    cgroup: &Cgroup,
    foreign: &SavedValue,
    next: &Value,
) -> Result<(), CgroupError> {
    let (value, unit) = (&foreign.value, foreign.unit.as_ref());
    if !is_by_hand(host, foreign) {
        return host.restore_cgroup(cgroup, value, unit);
    }
    match foreign_record(host, foreign, next) {
        Some(recorded) => host.restore_cgroup(cgroup, &recorded, unit)?,
        None => host.set_cgroup(cgroup, next, unit)?,
    }
    host.set_cgroup(cgroup, value, None)
}

/// What a unit had on record between two leases, where that was not `next`, the value of the older one.
pub fn foreign_record(host: &impl Host, foreign: &SavedValue, next: &Value) -> Option<Value> {
    let recorded = recorded(host, foreign.value.knob(), foreign.unit.as_ref()?)?;
    (!recorded.explains(next)).then_some(recorded)
}

/// Whether a value was written into the file past systemd, which has another one on record.
pub fn is_by_hand(host: &impl Host, saved: &SavedValue) -> bool {
    let of_unit = saved.unit.as_ref();
    let of_unit = of_unit.and_then(|state| recorded(host, saved.value.knob(), state));
    of_unit.is_some_and(|of_unit| !of_unit.explains(&saved.value))
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
        Undo::Set { value: next, saved, .. } => match saved.first() {
            Some(foreign) if !is_by_hand(host, foreign) => {
                Some(recorded(host, knob, state).unwrap_or_else(|| foreign.value.clone()))
            }
            Some(foreign) => Some(foreign_record(host, foreign, next).unwrap_or_else(|| next.clone())),
            None => Some(next.clone()),
        },
        Undo::Restore { .. } => recorded(host, knob, state),
        Undo::HandOver { .. } | Undo::Signal(_) | Undo::Nothing => None,
    }
}
