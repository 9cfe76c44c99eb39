//! The arithmetic of several leases on one knob of one target: what the revert of one does while others hold the knob, and
//! the value beneath all of them. Pure.

use super::lease::{Effect, Lease, SavedValue};
use crate::host::Value;

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
    use crate::ledger::lease::tests::nice;
    use crate::process::Target;

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
    fn value_beneath_a_stack_is_the_first_or_one_set_by_others() {
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

    #[test]
    fn underlying_value_is_the_one_beneath_or_one_set_by_others() {
        let underlying = |stack: &[&Lease], found: i32| {
            let found = [SavedValue {
                value: Value::Nice(found),
                ..stack[0].effect.saved()[0].clone()
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
