//! Relative changes of several alerts, and limits of several devices, on the fake host.

use super::*;
use crate::host::{Knob, Value};
use crate::knob::limit::{CgroupFile, Setting};

const UNIT: &str = "/work.slice/one.service";
const OF_UNIT: &str = r"select: {cgroup: '/work\.slice/one\.service'}";
const ALERTS: [&str; 3] = ["a", "b", "c"];

/// A rule that answers the alert of its name with these steps.
fn rule(name: &str, select: &str, steps: &[&str]) -> Rule {
    let example = example(name, "nice 1");
    Rule {
        name: example.name,
        matchers: example.matchers,
        ..jobs::rule(steps, select)
    }
}

fn world_of(rules: Vec<Rule>) -> World {
    let mut world = world(policy(rules));
    world.add(100, 1);
    let host = world.engine.host();
    host.add_cgroup(UNIT);
    host.processes.get_mut(&100).unwrap().process.details.cgroup = Some(UNIT.into());
    world
}

impl World {
    fn limit(&mut self, file: CgroupFile) -> String {
        self.engine.host().cgroups[UNIT].settings[&file].to_string()
    }

    fn write(&mut self, file: CgroupFile, text: &str) {
        let setting = Setting::parse(file, text).unwrap();
        let found = self.engine.host().cgroups.get_mut(UNIT).unwrap();
        found.settings.insert(file, setting);
    }

    fn affinity(&mut self) -> String {
        self.engine.host().processes[&100].threads[&100].values[&Knob::Affinity].to_string()
    }
}

/// Every order in which three alerts can end.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn relative_limits_of_several_alerts_do_not_compound() {
    for order in ORDERS {
        let rules = ALERTS.map(|name| rule(name, OF_UNIT, &["cgroup: {cpu.max: -50%}"]));
        let mut world = world_of(rules.into());
        world.write(CgroupFile::CpuMax, "200000");
        for name in ALERTS {
            world.fire(name);
            assert_eq!(world.limit(CgroupFile::CpuMax), "100000 100000", "{name} fires");
        }
        for (over, expected) in order.into_iter().zip(["100000", "100000", "200000"]) {
            world.resolve(ALERTS[over]);
            assert_eq!(
                world.limit(CgroupFile::CpuMax),
                format!("{expected} 100000"),
                "{order:?}"
            );
        }
    }
}

#[test]
fn the_newest_holder_of_a_limit_applies_and_the_next_after_it() {
    let steps = [
        "cgroup: {cpu.max: -50%}",
        "cgroup: {cpu.max: 30%}",
        "cgroup: {cpu.max: +100%}",
    ];
    let rules = ALERTS
        .into_iter()
        .zip(steps)
        .map(|(name, step)| rule(name, OF_UNIT, &[step]));
    let mut world = world_of(rules.collect());
    world.write(CgroupFile::CpuMax, "100000");
    for (name, expected) in ALERTS.into_iter().zip(["50000", "30000", "200000"]) {
        world.fire(name);
        assert_eq!(
            world.limit(CgroupFile::CpuMax),
            format!("{expected} 100000"),
            "{name} fires"
        );
    }
    for (name, expected) in ["c", "a", "b"].into_iter().zip(["30000", "30000", "100000"]) {
        world.resolve(name);
        assert_eq!(
            world.limit(CgroupFile::CpuMax),
            format!("{expected} 100000"),
            "{name} ends"
        );
    }
}

#[test]
fn value_set_by_others_between_two_holders_is_the_new_base() {
    let rules = ["a", "b"].map(|name| rule(name, OF_UNIT, &["cgroup: {cpu.max: -50%}"]));
    let mut world = world_of(rules.into());
    world.write(CgroupFile::CpuMax, "200000");
    world.fire("a");
    world.write(CgroupFile::CpuMax, "300000");
    world.fire("b");
    assert_eq!(world.limit(CgroupFile::CpuMax), "150000 100000");
    world.resolve("a");
    world.resolve("b");
    assert_eq!(world.limit(CgroupFile::CpuMax), "300000 100000");
}

#[test]
fn steps_of_one_rule_build_on_each_other() {
    let steps = ["cgroup: {cpu.max: -50%}", "wait: 5s", "cgroup: {cpu.max: -50%}"];
    let rules = ["a", "b"].map(|name| rule(name, OF_UNIT, &steps));
    let mut world = world_of(rules.into());
    world.write(CgroupFile::CpuMax, "200000");
    for name in ["a", "b"] {
        world.fire(name);
        assert_eq!(world.limit(CgroupFile::CpuMax), "100000 100000", "{name} fires");
        world.pass(10);
        assert_eq!(world.limit(CgroupFile::CpuMax), "50000 100000", "{name} goes on");
    }
    world.resolve("b");
    assert_eq!(world.limit(CgroupFile::CpuMax), "50000 100000");
    world.resolve("a");
    assert_eq!(world.limit(CgroupFile::CpuMax), "200000 100000");
}

#[test]
fn relative_affinities_of_several_alerts_do_not_compound() {
    for order in ORDERS {
        let rules = ALERTS.map(|name| rule(name, "select: {name: burner}", &["affinity: -50%"]));
        let mut world = world_of(rules.into());
        for name in ALERTS {
            world.fire(name);
            assert_eq!(world.affinity(), "0-1", "{name} fires");
        }
        for (over, expected) in order.into_iter().zip(["0-1", "0-1", "0-3"]) {
            world.resolve(ALERTS[over]);
            assert_eq!(world.affinity(), expected, "{order:?}");
        }
    }
}

#[test]
fn a_child_counts_from_what_it_had_without_its_parents_lease() {
    let select = |name| format!("select: {{name: {name}}}");
    let rules = vec![
        rule("a", &select("burner"), &["affinity: -50%"]),
        rule("b", &select("child"), &["affinity: -50%"]),
    ];
    let mut world = world_of(rules);
    world.fire("a");
    world.engine.host().advance(Duration::from_secs(5));
    let mut child = Process::example(200, "child");
    (child.parent, child.age) = (100, Duration::ZERO);
    child.details.exe = Some("/usr/bin/child".into());
    let child = world.engine.host().add(child);
    let main = world.engine.host().threads(child).unwrap()[0];
    let inherited = Value::Affinity("0-1".parse().unwrap());
    world.engine.host().set(child, main, &inherited).unwrap();
    world.fire("b");
    assert_eq!(world.engine.host().get(child, main, Knob::Affinity).unwrap(), inherited);
    world.resolve("a");
    world.resolve("b");
    assert_eq!(world.affinity(), "0-3");
    let own = Value::Affinity("0-3".parse().unwrap());
    assert_eq!(world.engine.host().get(child, main, Knob::Affinity).unwrap(), own);
}

#[test]
fn io_limits_of_devices_and_kinds_are_independent() {
    let before = "8:0 rbps=max wbps=max riops=9 wiops=max; 9:0 rbps=7 wbps=max riops=max wiops=max";
    let steps = [
        "cgroup: {io.max: '8:0 wbps=100'}",
        "cgroup: {io.max: '8:16 rbps=200 wbps=300'}",
        "cgroup: {io.max: '8:0 riops=400'}",
    ];
    for order in ORDERS {
        let rules = ALERTS
            .into_iter()
            .zip(steps)
            .map(|(name, step)| rule(name, OF_UNIT, &[step]));
        let mut world = world_of(rules.collect());
        world.write(CgroupFile::IoMax, before);
        ALERTS.into_iter().for_each(|name| world.fire(name));
        let mut fires = [true; 3];
        for next in order.map(Some).into_iter().chain([None]) {
            let limit =
                |alert: usize, limited: &str, free: &str| (if fires[alert] { limited } else { free }).to_owned();
            let mut expected = vec![format!(
                "8:0 rbps=max wbps={} riops={} wiops=max",
                limit(0, "100", "max"),
                limit(2, "400", "9")
            )];
            if fires[1] {
                expected.push("8:16 rbps=200 wbps=300 riops=max wiops=max".to_owned());
            }
            expected.push("9:0 rbps=7 wbps=max riops=max wiops=max".to_owned());
            assert_eq!(
                world.limit(CgroupFile::IoMax),
                expected.join("; "),
                "{order:?} {fires:?}"
            );
            let Some(next) = next else { break };
            world.resolve(ALERTS[next]);
            fires[next] = false;
        }
        assert_eq!(world.limit(CgroupFile::IoMax), before);
    }
}

#[test]
fn another_device_is_nobodys_business() {
    let mut world = world_of(vec![rule("a", OF_UNIT, &["cgroup: {io.max: '8:0 wbps=100'}"])]);
    world.fire("a");
    let meanwhile = "8:0 rbps=max wbps=100 riops=max wiops=max; 9:0 rbps=5 wbps=max riops=max wiops=max";
    world.write(CgroupFile::IoMax, meanwhile);
    world.resolve("a");
    assert_eq!(
        world.limit(CgroupFile::IoMax),
        "9:0 rbps=5 wbps=max riops=max wiops=max"
    );
}

const MIB: u64 = 1 << 20;
const RAISED: &[&str] = &["cgroup: {memory.max: +100%}"];

impl World {
    fn use_memory(&mut self, bytes: u64, reclaimable_bytes: u64) {
        let found = self.engine.host().cgroups.get_mut(UNIT).unwrap();
        (found.memory_bytes, found.reclaimable_bytes) = (bytes, reclaimable_bytes);
    }

    fn memory_max(&mut self) -> u64 {
        self.limit(CgroupFile::MemoryMax).parse().unwrap()
    }

    fn undo_records(&self) -> Vec<Outcome> {
        let records = self.engine.records();
        let undone = records
            .iter()
            .filter(|record| record.step.as_deref() == Some("undo memory.max"));
        undone.filter_map(|record| record.outcome).collect()
    }
}

/// One alert has raised `memory.max` of 1 GiB to 2 GiB, and the cgroup uses 1.5 GiB by now.
fn above_its_own_limit(reclaimable_bytes: u64) -> World {
    let mut world = world_of(vec![rule("a", OF_UNIT, RAISED)]);
    let own = Setting::parse(CgroupFile::MemoryMax, &(1024 * MIB).to_string()).unwrap();
    let found = world.engine.host().cgroups.get_mut(UNIT).unwrap();
    for values in [&mut found.settings, &mut found.live, found.runtime.as_mut().unwrap()] {
        values.insert(CgroupFile::MemoryMax, own.clone());
    }
    world.fire("a");
    assert_eq!(world.memory_max(), 2048 * MIB);
    world.use_memory(1536 * MIB, reclaimable_bytes);
    world
}

#[test]
fn memory_max_is_not_restored_below_usage() {
    let mut world = above_its_own_limit(0);
    world.resolve("a");
    world.pass(60);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 2048 * MIB));
    assert_eq!(world.engine.ledger().leases.len(), 1);
    assert_eq!(world.undo_records(), [Outcome::Failed], "told once");
    let told = world.engine.records().pop().unwrap().reason;
    assert!(told.contains("1610612736") && told.contains("1073741824"), "{told}");
    world.crash_and_restart();
    world.pass(60);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 2048 * MIB));
    world.use_memory(1000 * MIB, 0);
    world.pass(15);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 1024 * MIB));
    assert!(world.engine.ledger().leases.is_empty());
    assert_eq!(world.undo_records().pop(), Some(Outcome::Restored));
}

#[test]
fn memory_above_the_former_limit_is_reclaimed_first() {
    let mut world = above_its_own_limit(1024 * MIB);
    world.resolve("a");
    world.pass(10);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 1024 * MIB));
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn an_alert_that_fires_again_counts_from_below_what_waits() {
    let mut world = above_its_own_limit(0);
    world.resolve("a");
    world.engine.host().advance(Duration::from_secs(1));
    world.send("a", Status::Firing, 10, Source::Alertmanager);
    world.pass(20);
    assert_eq!(world.memory_max(), 2048 * MIB, "not doubled once more");
    world.send("a", Status::Resolved, 10, Source::Alertmanager);
    world.pass(5);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 2048 * MIB));
    world.use_memory(0, 0);
    world.pass(15);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 1024 * MIB));
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn next_episode_has_a_lease_of_its_own_beside_one_that_waits() {
    for is_restarted in [false, true] {
        let mut world = above_its_own_limit(0);
        world.resolve("a");
        world.engine.host().advance(Duration::from_secs(1));
        world.send("a", Status::Firing, 1000, Source::Alertmanager);
        let ids = |world: &World| world.engine.ledger().leases.keys().copied().collect::<Vec<_>>();
        assert_eq!(ids(&world), [1, 2]);
        if is_restarted {
            world.crash_and_restart();
        }
        // A repeat, which does not renew the first.
        world.send("a", Status::Firing, 1000, Source::Alertmanager);
        world.pass(20);
        let told = "the first is handed over";
        assert_eq!((ids(&world), world.memory_max()), (vec![2], 2048 * MIB), "{told}");
        world.send("a", Status::Resolved, 1000, Source::Alertmanager);
        world.use_memory(0, 0);
        world.pass(20);
        assert_eq!((ids(&world), world.memory_max()), (vec![], 1024 * MIB));
    }
}

#[test]
fn restarted_unit_is_not_killed_by_its_former_limit() {
    let mut world = above_its_own_limit(0);
    world.engine.host().restart_cgroup(UNIT);
    world.resolve("a");
    world.pass(30);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 2048 * MIB));
    world.use_memory(0, 0);
    world.pass(15);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 1024 * MIB));
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn waiting_undo_is_tried_at_release_and_exit_and_kept() {
    let mut world = above_its_own_limit(0);
    world.engine.release(None, &OperatorRequest::example());
    world.fire("a");
    world.pass(20);
    assert_eq!(world.engine.ledger().leases.len(), 1, "no repeat takes it again");
    world.restart();
    world.pass(5);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 2048 * MIB));
    world.use_memory(0, 0);
    world.pass(15);
    assert_eq!((world.signals(), world.memory_max()), (vec![], 1024 * MIB));
}
