//! Units of systemd that restart, are reloaded or are changed by a person while something is held on them.

use super::*;
use crate::host::Value;
use crate::host::fake::DeviceLimits;
use crate::knob::limit::{CgroupFile, IoKind, IoLimit, Limit, Setting};
use crate::process::selector::{Condition, Pattern};
use crate::rule::Step;
use crate::step::Change;

const UNIT: &str = "/work.slice/shop.service";

fn weight(value: &str) -> Setting {
    Setting::parse(CgroupFile::CpuWeight, value).unwrap()
}

fn rule(name: &str, step: Value) -> Rule {
    Rule {
        target_selector: TargetSelector::Cgroups(Selector {
            conditions: vec![Condition::Cgroup(Pattern::fixed(UNIT).unwrap())],
        }),
        limit: 1,
        actions: vec![Step::Set(Change::To(step))],
        ..example(name, "nice 1")
    }
}

fn shop(rules: Vec<Rule>) -> World {
    let mut world = world(policy(rules));
    world.engine.host().add_cgroup(UNIT);
    let mut process = Process::example(100, "worker");
    process.details.exe = Some("/usr/bin/worker".into());
    process.details.cgroup = Some(UNIT.into());
    world.engine.host().add(process);
    world
}

/// What the file holds, and what systemd would give to the next cgroup.
fn found(world: &mut World) -> (Setting, Option<Setting>) {
    let found = &world.engine.host().cgroups[UNIT];
    let runtime = found.runtime.as_ref().unwrap().get(&CgroupFile::CpuWeight);
    (found.settings[&CgroupFile::CpuWeight].clone(), runtime.cloned())
}

fn restart(host: &mut FakeHost) {
    host.restart_cgroup(UNIT);
}

#[test]
fn a_restart_between_setting_and_checking_leaves_nothing() {
    for rules in [1, 2] {
        let light = |name: &str, value: &str| rule(name, Value::Cgroup(weight(value)));
        let mut rules = [light("calm", "20"), light("calm-more", "10")][..rules].to_vec();
        rules
            .iter_mut()
            .for_each(|rule| rule.matchers = example("calm", "nice 1").matchers);
        let mut world = shop(rules);
        world.engine.host().hooks.after_unit_set.push_back(restart);
        world.fire("calm");
        assert!(
            world.engine.ledger().leases.is_empty(),
            "{:?}",
            world.engine.ledger().leases
        );
        assert_eq!(found(&mut world), (weight("100"), None));
        // The new cgroup is taken like any other.
        world.pass(31);
        assert_ne!(found(&mut world).1, None);
        world.resolve("calm");
        assert_eq!(found(&mut world), (weight("100"), None));
    }
}

#[test]
fn a_value_by_hand_stays_and_ours_does_not_come_back() {
    let mut world = shop(vec![rule("calm", Value::Cgroup(weight("20")))]);
    world.fire("calm");
    assert_eq!(found(&mut world), (weight("20"), Some(weight("20"))));
    let cgroup = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    cgroup.settings.insert(CgroupFile::CpuWeight, weight("55"));
    world.resolve("calm");
    assert_eq!(found(&mut world), (weight("55"), None));
    assert_eq!(
        world.count("evenkeel_actions_total", &["calm", "cpu.weight", "superseded"]),
        1.0
    );
}

/// A unit for which a person has set a weight persistently.
fn with_persistent(world: &mut World, value: &str) {
    let cgroup = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    cgroup.persistent.insert(CgroupFile::CpuWeight, weight(value));
    cgroup.live.insert(CgroupFile::CpuWeight, weight(value));
    cgroup.settings.insert(CgroupFile::CpuWeight, weight(value));
}

fn weight_outcomes(world: &World, outcome: &str) -> f64 {
    world.count("evenkeel_actions_total", &["calm", "cpu.weight", outcome])
}

#[test]
fn a_limit_that_a_reload_took_away_is_set_again() {
    let mut world = shop(vec![rule("calm", Value::Cgroup(weight("20")))]);
    with_persistent(&mut world, "60");
    world.fire("calm");
    world.engine.host().reload_systemd();
    assert_eq!(found(&mut world).0, weight("60"));
    world.pass(16);
    assert_eq!(found(&mut world), (weight("20"), Some(weight("20"))));
    let told = world.engine.records().into_iter().last().unwrap();
    assert!(told.reason.starts_with("reapplied"), "{told:?}");
    world.engine.host().reload_systemd();
    world.resolve("calm");
    assert_eq!(found(&mut world), (weight("60"), None));
    assert_eq!(weight_outcomes(&world, "restored"), 1.0);
}

#[test]
fn a_limit_is_not_set_again_before_the_alert_is_confirmed() {
    let mut world = shop(vec![rule("calm", Value::Cgroup(weight("20")))]);
    with_persistent(&mut world, "60");
    world.fire("calm");
    world.crash_and_restart();
    world.engine.host().reload_systemd();
    world.pass(16);
    assert_eq!(found(&mut world).0, weight("60"));
    assert_eq!(world.engine.ledger().leases.len(), 1);
    world.fire("calm");
    world.pass(16);
    assert_eq!(found(&mut world).0, weight("20"));
    world.resolve("calm");
    assert_eq!(found(&mut world), (weight("60"), None));
}

/// A rule limits reads of one device, and a person limits them of another one persistently.
fn shop_with_two_devices() -> (World, DeviceLimits) {
    let limit = |device: &str| IoLimit {
        device: device.parse().unwrap(),
        kind: IoKind::Reads,
        limit: Limit(Some(400)),
    };
    let mut world = shop(vec![rule("calm", Value::Cgroup(Setting::IoLimit(limit("8:0"))))]);
    let others = BTreeMap::from([(limit("9:0").device, 9)]);
    let persistent = DeviceLimits::from([(IoKind::Reads, others)]);
    let cgroup = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    cgroup.persistent_io.clone_from(&persistent);
    world.engine.host().reload_systemd();
    world.fire("calm");
    (world, persistent)
}

fn io_max(world: &mut World) -> String {
    world.engine.host().cgroups[UNIT].settings[&CgroupFile::IoMax].to_string()
}

const OF_OTHER: &str = "9:0 rbps=max wbps=max riops=9 wiops=max";
const OF_BOTH: &str = "8:0 rbps=max wbps=max riops=400 wiops=max; 9:0 rbps=max wbps=max riops=9 wiops=max";

#[test]
fn a_limit_of_one_device_is_set_again_beside_the_others() {
    let (mut world, persistent) = shop_with_two_devices();
    assert_eq!(io_max(&mut world), OF_BOTH);
    world.engine.host().reload_systemd();
    assert_eq!(io_max(&mut world), OF_OTHER);
    world.pass(16);
    assert_eq!(io_max(&mut world), OF_BOTH);
    world.resolve("calm");
    let unit = &world.engine.host().cgroups[UNIT];
    assert_eq!((&unit.live_io, unit.runtime_io.is_empty()), (&persistent, true));
    assert_eq!(io_max(&mut world), OF_OTHER);
}

#[test]
fn a_limit_of_one_device_that_was_overwritten_leaves_the_record() {
    let (mut world, persistent) = shop_with_two_devices();
    let by_hand = OF_BOTH.replace("400", "50");
    let cgroup = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    let written = Setting::parse(CgroupFile::IoMax, &by_hand).unwrap();
    cgroup.settings.insert(CgroupFile::IoMax, written);
    world.pass(16);
    assert!(world.engine.ledger().leases.is_empty());
    let unit = &world.engine.host().cgroups[UNIT];
    assert_eq!((&unit.live_io, unit.runtime_io.is_empty()), (&persistent, true));
    assert_eq!(io_max(&mut world), by_hand);
}

#[test]
fn limit_is_not_set_again_when_protected_or_paused() {
    let mut world = shop(vec![rule("calm", Value::Cgroup(weight("20")))]);
    with_persistent(&mut world, "60");
    world.fire("calm");
    world.engine.pause(true, &OperatorRequest::example());
    world.engine.host().reload_systemd();
    world.pass(16);
    assert_eq!(found(&mut world).0, weight("60"), "in a pause");
    let mut guard = Process::example(101, "sshd");
    guard.details.exe = Some("/usr/sbin/sshd".into());
    guard.details.cgroup = Some(UNIT.into());
    world.engine.host().add(guard);
    world.engine.pause(false, &OperatorRequest::example());
    world.pass(16);
    assert_eq!(found(&mut world), (weight("60"), None));
    assert!(
        world.engine.ledger().leases.is_empty(),
        "{:?}",
        world.engine.ledger().leases
    );
}

#[test]
fn a_memory_limit_is_not_set_again_below_what_is_used() {
    let memory = |text: &str| Setting::parse(CgroupFile::MemoryMax, text).unwrap();
    let mut world = shop(vec![rule("calm", Value::Cgroup(memory("1073741824")))]);
    let unit = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    unit.persistent.insert(CgroupFile::MemoryMax, memory("max"));
    unit.live.insert(CgroupFile::MemoryMax, memory("max"));
    world.fire("calm");
    world.engine.host().reload_systemd();
    world.engine.host().cgroups.get_mut(UNIT).unwrap().memory_bytes = 2 << 30;
    world.pass(16);
    let unit = &world.engine.host().cgroups[UNIT];
    assert_eq!(unit.settings[&CgroupFile::MemoryMax], memory("max"));
    assert!(
        world.engine.ledger().leases.is_empty(),
        "{:?}",
        world.engine.ledger().leases
    );
}

#[test]
fn manual_change_ends_the_lease_within_a_round() {
    for is_by_hand in [false, true] {
        let mut world = shop(vec![rule("calm", Value::Cgroup(weight("20")))]);
        world.fire("calm");
        if is_by_hand {
            let cgroup = world.engine.host().cgroups.get_mut(UNIT).unwrap();
            cgroup.settings.insert(CgroupFile::CpuWeight, weight("50"));
        } else {
            with_persistent(&mut world, "50");
        }
        world.pass(16);
        assert_eq!(found(&mut world), (weight("50"), None));
        assert_eq!(weight_outcomes(&world, "superseded"), 1.0);
        assert!(
            world.engine.ledger().leases.is_empty(),
            "{:?}",
            world.engine.ledger().leases
        );
        world.pass(31);
        world.resolve("calm");
        assert_eq!(found(&mut world), (weight("50"), None));
    }
}

#[test]
fn restarted_unit_is_limited_again_within_a_round() {
    let mut world = shop(vec![rule("calm", Value::Freeze(true))]);
    world.fire("calm");
    let is_frozen = |world: &mut World| world.engine.host().cgroups[UNIT].is_frozen;
    assert!(is_frozen(&mut world));
    restart(world.engine.host());
    assert!(!is_frozen(&mut world));
    world.pass(15);
    assert!(is_frozen(&mut world));
    assert_eq!(world.engine.ledger().leases.len(), 1);
    world.resolve("calm");
    assert!(!is_frozen(&mut world));
}

#[test]
fn a_memory_limit_is_not_passed_through_below_what_is_used() {
    let memory = |text: &str| Setting::parse(CgroupFile::MemoryMax, text).unwrap();
    let (own, raised, by_hand) = (memory("1073741824"), memory("2147483648"), memory("4294967296"));
    let mut world = shop(vec![rule("calm", Value::Cgroup(raised.clone()))]);
    let unit = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    for values in [&mut unit.persistent, &mut unit.live, &mut unit.settings] {
        values.insert(CgroupFile::MemoryMax, own.clone());
    }
    world.fire("calm");
    let unit = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    assert_eq!(unit.settings[&CgroupFile::MemoryMax], raised);
    unit.settings.insert(CgroupFile::MemoryMax, by_hand.clone());
    unit.memory_bytes = 3 << 30;
    world.resolve("calm");
    world.pass(16);
    let unit = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    assert_eq!(
        unit.live[&CgroupFile::MemoryMax],
        raised,
        "systemd would write the file"
    );
    // It is undone as soon as that ends nothing.
    unit.memory_bytes = 1 << 20;
    world.pass(16);
    let unit = &world.engine.host().cgroups[UNIT];
    assert_eq!(unit.live[&CgroupFile::MemoryMax], own);
    assert_eq!(unit.settings[&CgroupFile::MemoryMax], by_hand);
    assert!(world.engine.ledger().leases.is_empty());
}
