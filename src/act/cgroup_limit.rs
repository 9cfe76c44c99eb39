//! Limits of cgroups: the arithmetic of changes (pure), and their application and revert. Policy is in `plan` and
//! `guard`. Every outcome is read back from the host.

use super::apply::{Prepared, StepResult};
use super::{guard, unit};
use crate::host::{CgroupError, Host, Knob, Reading, Value};
use crate::knob::limit::Capacity;
use crate::knob::{Change, IoChange};
use crate::ledger::stacked_leases::Undo;
use crate::ledger::{Lease, Outcome, SavedValue};
use crate::process::Cgroup;
use crate::telemetry::LEFT_AS_IT_IS;

/// What there is for a cgroup without a limit.
pub fn capacity(host: &mut impl Host, cgroup: &Cgroup) -> Capacity {
    Capacity {
        processors: host.processors_of_cgroup(cgroup).len(),
        memory_bytes: host.memory_bytes(),
    }
}

/// The knob of a change.
///
/// # Errors
/// When it names a device that this host does not have.
pub fn knob(host: &impl Host, change: &Change) -> Result<Knob, StepResult> {
    let Change::Io(IoChange { device, kind, .. }) = change else {
        return Ok(change.knob());
    };
    let number = device.parse().ok().or_else(|| host.device(device));
    let number = number.ok_or_else(|| StepResult::only(Outcome::Failed, format!("no block device {device}")))?;
    Ok(Knob::Io(number, *kind))
}

/// `reading` is the present value without earlier ones of evenkeel under the same path; `underlying` is the value to which
/// the change refers.
///
/// # Errors
/// With the outcome, when the change cannot be computed.
pub fn prepare(
    host: &mut impl Host,
    cgroup: &Cgroup,
    change: &Change,
    underlying: &Value,
    reading: Reading,
) -> Result<Prepared, StepResult> {
    let value = change.of_cgroup(underlying, capacity(host, cgroup)).ok_or_else(|| {
        let reason = format!("{} has no relative form", underlying.knob());
        StepResult::only(Outcome::Failed, reason)
    })?;
    Ok(Prepared {
        is_set_already: value == reading.value,
        value,
        saved: vec![SavedValue::of_cgroup(reading)],
        hint: String::new(),
    })
}

/// Sets a limit; `value` becomes the one that the kernel kept.
pub fn set(host: &mut impl Host, cgroup: &Cgroup, value: &mut Value, saved: &[SavedValue]) -> StepResult {
    let unit = saved.first().and_then(|saved| saved.unit.as_ref());
    // The memory in use may have grown since the guard allowed the step, especially over a restart.
    let now = host.cgroup(&cgroup.path).filter(|now| now.identity == cgroup.identity);
    if let Some(Err(denial)) = now.map(|now| guard::limit(&now, value)) {
        return StepResult::only(Outcome::Failed, denial.reason);
    }
    let done = host
        .set_cgroup(cgroup, value, unit)
        .and_then(|()| host.read_cgroup(cgroup, value.knob()));
    let mut result = match done {
        Ok(found) if value.explains(&found.value) => {
            *value = found.value;
            StepResult::only(Outcome::Applied, "")
        }
        Ok(found) => StepResult::only(
            Outcome::NoEffect,
            format!("the kernel did not keep the value: it is {}", found.value),
        ),
        Err(error) => error.into(),
    };
    result.before = saved.first().map(|saved| saved.value.to_string());
    result.after = Some(value.to_string());
    result
}

/// Reverts a lease as the arithmetic of leases demands.
pub fn undo(host: &mut impl Host, cgroup: &Cgroup, lease: &Lease, undo: &Undo) -> StepResult {
    let of_record = unit::goal_of_record(host, lease, undo);
    match undo {
        Undo::HandOver { heir, .. } => StepResult::only(
            Outcome::Restored,
            format!("lease {heir} holds the knob and restores it"),
        ),
        Undo::Set { value, saved, ours } => {
            // A value that another program set between the two leases wins over the value of the older one.
            let (next, foreign) = (value, saved.first());
            let value = foreign.map_or(next, |saved| &saved.value);
            let unit = unit::held_unit(lease);
            let put = |host: &mut _| match foreign {
                None => Host::set_cgroup(host, cgroup, next, unit),
                Some(foreign) => unit::put_foreign(host, cgroup, foreign, next),
            };
            let result = put_back(host, cgroup, ours, value, of_record.as_ref(), put);
            let is_set_by_other = foreign.is_some_and(|foreign| {
                !unit::is_by_hand(host, foreign) || unit::foreign_record(host, foreign, next).is_some()
            });
            let next = (!is_set_by_other).then_some(next);
            unit::settle(host, cgroup, result, unit, ours, next)
        }
        Undo::Restore { saved, ours } => {
            let Some(first) = saved.first() else {
                return StepResult::only(Outcome::Failed, "the value before is unknown");
            };
            let unit = first.unit.as_ref();
            let restore = |host: &mut _| Host::restore_cgroup(host, cgroup, &first.value, unit);
            let result = put_back(host, cgroup, ours, &first.value, of_record.as_ref(), restore);
            unit::settle(host, cgroup, result, unit, ours, None)
        }
        Undo::Signal(_) | Undo::Nothing => StepResult::only(Outcome::Failed, "not a lease of a cgroup"),
    }
}

/// `of_record` is what systemd writes into the file first, where that is a value by hand.
fn put_back<H: Host>(
    host: &mut H,
    cgroup: &Cgroup,
    ours: &Value,
    value: &Value,
    of_record: Option<&Value>,
    put: impl FnOnce(&mut H) -> Result<(), CgroupError>,
) -> StepResult {
    let is_known = |found: &Value| found == ours || found == value || Some(found) == of_record;
    let mut result = match host.read_cgroup(cgroup, ours.knob()) {
        Err(error) => error.into(),
        // After a crash between intent and outcome the value may be restored already, or never have been set.
        Ok(found) if !is_known(&found.value) => StepResult::only(Outcome::Superseded, LEFT_AS_IT_IS),
        Ok(_) => match put(host) {
            Ok(()) => StepResult::only(Outcome::Restored, ""),
            Err(error) => error.into(),
        },
    };
    result.before = Some(ours.to_string());
    result.after = Some(value.to_string());
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::knob::Relative;
    use crate::knob::limit::{CgroupFile, IoKind, Limit, Setting};
    use crate::process::Process;

    const HOST: Capacity = Capacity {
        processors: 4,
        memory_bytes: 8 << 30,
    };

    fn check(file: CgroupFile, found: &str, by: Relative, expected: &str) {
        let found = Value::Cgroup(Setting::parse(file, found).unwrap());
        let value = Change::Limit { file, by }.of_cgroup(&found, HOST).unwrap();
        assert_eq!(value.to_string(), expected, "{file} {found} {by}");
    }

    #[test]
    fn cpu_limit_changes_relative_to_the_present_one() {
        use Relative::{Percent, Processors};
        for (found, by, expected) in [
            ("20000 100000", Percent(100), "40000 100000"),
            ("20000 100000", Percent(-50), "10000 100000"),
            ("20000 100000", Processors(2), "220000 100000"),
            ("150000 50000", Processors(-2), "50000 50000"),
            ("150000 100000", Processors(-2), "1000 100000"),
            ("1500 100000", Percent(-50), "1000 100000"),
            ("300000 100000", Percent(100), "400000 100000"),
            ("800000 100000", Percent(100), "800000 100000"),
            ("max 100000", Percent(100), "max 100000"),
            ("max 100000", Percent(-50), "200000 100000"),
            ("max 100000", Processors(-1), "300000 100000"),
        ] {
            check(CgroupFile::CpuMax, found, by, expected);
        }
    }

    #[test]
    fn processors_are_those_of_the_cpuset() {
        let mut host = FakeHost::new(8, "2026-01-01T00:00:00Z".parse().unwrap());
        host.add_cgroup("/pinned.slice").cpus = Some("0-1".parse().unwrap());
        host.add_cgroup("/pinned.slice/one.service");
        let change = Change::Limit {
            file: CgroupFile::CpuMax,
            by: Relative::Percent(-50),
        };
        let mut value = |path: &str| {
            let cgroup = host.cgroup(path).unwrap();
            let reading = host.read_cgroup(&cgroup, change.knob()).unwrap();
            let underlying = reading.value.clone();
            let prepared = prepare(&mut host, &cgroup, &change, &underlying, reading);
            prepared.unwrap().value.to_string()
        };
        assert_eq!(value("/pinned.slice/one.service"), "100000 100000");
        assert_eq!(value("/"), "400000 100000");
    }

    #[test]
    fn memory_max_is_never_set_below_usage() {
        let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
        host.add_cgroup("/one").memory_bytes = 2 << 30;
        let mut process = Process::example(100, "burner");
        process.details.cgroup = Some("/one".into());
        host.add(process);
        let mut cgroup = host.cgroup("/one").unwrap();
        // As it was when the step was planned.
        cgroup.memory_bytes = Some(0);
        let mut value = Value::Cgroup(Setting::parse(CgroupFile::MemoryMax, "1073741824").unwrap());
        assert_eq!(set(&mut host, &cgroup, &mut value, &[]).outcome, Outcome::Failed);
        assert_eq!(host.signals, []);
    }

    #[test]
    fn memory_limit_changes_relative_to_the_present_one() {
        use Relative::{Bytes, OfHost, Percent};
        for (found, by, expected) in [
            ("1073741824", Percent(100), "2147483648"),
            ("1073741824", Percent(-50), "536870912"),
            ("1073741824", Bytes(-(512 << 20)), "536870912"),
            ("1073741824", Bytes(-(2 << 30)), "1048576"),
            ("6442450944", Percent(100), "8589934592"),
            ("max", Percent(10), "max"),
            ("max", Percent(-50), "4294967296"),
            ("4096", OfHost(25), "2147483648"),
        ] {
            check(CgroupFile::MemoryHigh, found, by, expected);
        }
    }

    #[test]
    fn a_limit_of_a_device_is_a_knob_of_its_own() {
        let mut host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
        let found = Setting::parse(CgroupFile::IoMax, "8:0 rbps=5").unwrap();
        let group = host.add_cgroup("/one");
        group.settings.insert(CgroupFile::IoMax, found);
        let cgroup = host.cgroup("/one").unwrap();
        let mut value = |device: &str| {
            let change = Change::Io(IoChange {
                device: device.to_owned(),
                kind: IoKind::ReadBytes,
                limit: Limit(Some(7)),
            });
            let knob = knob(&host, &change).map_err(|result| result.reason)?;
            let reading = host.read_cgroup(&cgroup, knob).unwrap();
            let value = change.of_cgroup(&reading.value, HOST).unwrap();
            Ok::<_, String>(format!("{} -> {value}", reading.value))
        };
        assert_eq!(value("/dev/sda").unwrap(), "8:0 rbps=5 -> 8:0 rbps=7");
        assert_eq!(value("9:1").unwrap(), "9:1 rbps=max -> 9:1 rbps=7");
        assert_eq!(value("/dev/none").unwrap_err(), "no block device /dev/none");
    }
}
