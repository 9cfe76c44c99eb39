//! The check whether a limit can be restored without a kill. Of all limits only `memory.max` can kill when it is
//! written: below the memory in use the kernel reclaims, and then kills (cgroup-v2.rst, "memory.max"). `memory.high`
//! and `memory.swap.max` at most slow processes down, and a `pids.max` below the number of processes only makes fork
//! fail ("memory.high", "memory.swap.events", "PID Interface Files"). So those are restored at once.

use super::unit::{self, held_unit};
use crate::host::{Host, LimitState, Value};
use crate::ledger::Lease;
use crate::ledger::stacked_leases::Undo;
use crate::process::Cgroup;
use std::fmt;

/// Bytes to reclaim per attempt, because the engine has other work meanwhile.
const RECLAIM_BYTES: u64 = 128 << 20;

/// The memory in use exceeds the limit to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage {
            used_bytes,
            limit_bytes,
        } = self;
        write!(
            f,
            "{used_bytes} bytes are in use, and with a memory.max of {limit_bytes} the kernel would kill processes; memory is \
             reclaimed, and the limit is put back when there is room"
        )
    }
}

/// Reclaims memory if the limit to be restored is lower than the memory in use.
///
/// # Errors
/// When there is not enough room yet: then the limit must not be put back.
pub fn make(host: &mut impl Host, cgroup: &Cgroup, lease: &Lease, undo: &Undo) -> Result<(), Shortage> {
    let (ours, value) = match undo {
        Undo::Set { value, saved, ours } => (ours, saved.first().map_or(value, |saved| &saved.value)),
        Undo::Restore { saved, ours } => match saved.first() {
            Some(saved) => (ours, &saved.value),
            None => return Ok(()),
        },
        Undo::HandOver { .. } | Undo::Signal(_) | Undo::Nothing => return Ok(()),
    };
    if !value.may_kill() {
        return Ok(());
    }
    let is_unit = held_unit(lease).is_some();
    // Not the one that was meant, where a unit was restarted: systemd gives the limit to whichever cgroup it has now.
    let Some(now) = host.cgroup(&cgroup.path) else {
        return Ok(());
    };
    if now.identity != cgroup.identity && !is_unit {
        return Ok(());
    }
    let Ok(found) = host.read_cgroup(&now, value.knob()) else {
        return Ok(());
    };
    // A value of another program is left alone in the file, but systemd writes what it gets on record in place of ours.
    let of_record = unit::goal_of_record(host, lease, undo);
    let is_put_back = found.value == *ours || found.value == *value || Some(&found.value) == of_record.as_ref();
    let of_record = of_record.filter(|_| is_put_back || is_on_record(host, &now, lease, ours));
    let written = is_put_back.then_some(value).into_iter().chain(&of_record);
    let Some(limit_bytes) = written.filter_map(Value::kills_above).min() else {
        return Ok(());
    };
    if found.value.kills_above().is_some_and(|most| most <= limit_bytes) {
        return Ok(());
    }
    let used = |host: &mut _| Host::cgroup(host, &cgroup.path).and_then(|now| now.memory_bytes);
    let excess = used(host).unwrap_or(0).saturating_sub(limit_bytes);
    if excess == 0 {
        return Ok(());
    }
    if let Err(error) = host.reclaim(&now, excess.min(RECLAIM_BYTES)) {
        tracing::debug!(%error, "could not reclaim memory before lowering a limit");
    }
    match used(host) {
        Some(used_bytes) if used_bytes > limit_bytes => Err(Shortage {
            used_bytes,
            limit_bytes,
        }),
        _ => Ok(()),
    }
}

/// Whether the unit of a lease may still have what was set.
fn is_on_record(host: &mut impl Host, now: &Cgroup, lease: &Lease, ours: &Value) -> bool {
    let limit_state = held_unit(lease).map(|state| host.limit_state(now, ours, state));
    !matches!(limit_state, Some(Ok(LimitState::Changed | LimitState::ResetBySystemd)))
}
