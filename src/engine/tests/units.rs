//! Units of systemd that restart, are reloaded or are changed by a person while something is held on them.

use super::*;
use crate::host::Value;
use crate::host::limit::{CgroupFile, Setting};
use crate::process::selector::{Condition, Pattern};
use crate::rule::Step;
use crate::rule::step::Change;

const UNIT: &str = "/work.slice/shop.service";

fn weight(value: &str) -> Setting {
    Setting::parse(CgroupFile::CpuWeight, value).unwrap()
}

fn rule(name: &str, step: Value) -> Rule {
    Rule {
        aim: Aim::Cgroups(Selector {
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
        world.engine.host().after_unit_set.push_back(restart);
        world.fire("calm");
        assert!(
            world.engine.book().leases.is_empty(),
            "{:?}",
            world.engine.book().leases
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
