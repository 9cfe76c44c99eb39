//! The underlying value, to which relative changes refer: the one that a knob would have without the leases of other
//! alerts. Several alerts then do not amplify each other's changes, and the value returns step by step as they resolve.

use super::steps::StepContext;
use crate::host::unit::number_in;
use crate::host::{Knob, UnitState, Value};
use crate::knob::limit::Device;
use crate::ledger::{Effect, EpisodeKey, Lease, LedgerState, SavedValue, stacked_leases};
use crate::process::{Cgroup, Target};
use std::collections::BTreeMap;

/// The value of a knob without the leases of other alerts. `found` is the present value, and never empty. Steps of one rule build
/// on each other.
pub(super) fn underlying_value(
    ledger: &LedgerState,
    context: &StepContext<'_>,
    knob: Knob,
    found: &[SavedValue],
) -> Value {
    let of_knob = |lease: &&Lease| lease.effect.value().is_some_and(|value| value.knob() == knob);
    let held = ledger.leases.on(context.candidate.target());
    let stack: Vec<&Lease> = held.filter(of_knob).collect();
    let underlying = stacked_leases::underlying(&stack, found);
    let first = found[0].thread();
    let mut of_first = underlying.iter().filter(|saved| saved.thread() == first);
    let underlying = of_first.next().unwrap_or(&found[0]).value.clone();
    let is_ours = stack.iter().any(|lease| lease.effect.value() == Some(&found[0].value));
    let own = newest_of_episode(ledger, context, &stack);
    own.filter(|_| is_ours).unwrap_or(underlying)
}

/// The values without any lease: those of the process itself. `found` are the present ones.
pub(super) fn own_values(ledger: &LedgerState, target: Target, knob: Knob, found: &[SavedValue]) -> Vec<SavedValue> {
    let of_knob = |lease: &&Lease| lease.effect.value().is_some_and(|value| value.knob() == knob);
    let stack: Vec<&Lease> = ledger.leases.on(target).filter(of_knob).collect();
    stacked_leases::underlying(&stack, found)
}

/// The value of an earlier step of the same rule. Leases of an earlier firing are to be reverted, and do not count.
fn newest_of_episode(ledger: &LedgerState, context: &StepContext<'_>, stack: &[&Lease]) -> Option<Value> {
    let key = EpisodeKey::new(&context.rule.name, &context.about.fingerprint, false);
    let opened_at = ledger.episodes.get(&key)?.opened_at;
    let is_own =
        |lease: &&&Lease| lease.rule == key.rule && lease.fingerprint == key.fingerprint && lease.taken_at >= opened_at;
    stack.iter().rev().find(is_own)?.effect.value().cloned()
}

/// The value of a lease that is staged and not applied yet.
pub(super) fn awaited_value(ledger: &LedgerState, target: Target, knob: Knob) -> Option<Value> {
    let mut newest = ledger.leases.on(target).rev();
    let value_of = |lease: &Lease| match &lease.effect {
        Effect::Value { value, .. } if value.knob() == knob => Some((value.clone(), lease.settled)),
        _ => None,
    };
    let (value, settled) = newest.find_map(value_of)?;
    (!settled).then_some(value)
}

/// Removes the limits of other devices from the saved record, because systemd has those of all devices in one property.
pub(super) fn forget_other_devices(ledger: &LedgerState, cgroup: &Cgroup, knob: Knob, unit: &mut UnitState) {
    let Knob::Io(own, kind) = knob else { return };
    let mut others: BTreeMap<Device, &UnitState> = BTreeMap::new();
    for lease in ledger.leases.values() {
        let (Effect::Value { value, saved }, true) = (&lease.effect, lease.name == cgroup.path) else {
            continue;
        };
        if let Knob::Io(device, of) = value.knob()
            && (device != own && of == kind)
            && let Some(former) = saved.first().and_then(|saved| saved.unit.as_ref())
        {
            // The oldest lease on a device has the original value.
            others.entry(device).or_insert(former);
        }
    }
    unit.forget_devices(&others.into_iter().collect::<Vec<_>>(), number_in);
}
