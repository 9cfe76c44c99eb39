//! Tests of cgroups with members that come and go: an exiting member does not prevent a step on the cgroup.

use super::*;
use crate::process::selector::{Condition, Pattern};

const SHOP: &str = "/system.slice/shop.service";

fn shop() -> World {
    let mut rule = example("calm", "freeze true");
    rule.target_selector = TargetSelector::Cgroups(Selector {
        conditions: vec![Condition::Unit(Pattern::fixed("shop.service").unwrap())],
    });
    let mut world = world(policy(vec![rule]));
    world.engine.host().add_cgroup(SHOP);
    member(world.engine.host(), 100, Some("/usr/bin/shop"));
    world
}

fn member(host: &mut FakeHost, pid: i32, exe: Option<&str>) {
    let mut process = Process::example(pid, "worker");
    process.details.exe = exe.map(str::to_owned);
    process.details.cgroup = Some(SHOP.into());
    host.add(process);
}

impl World {
    fn is_frozen(&mut self) -> bool {
        self.engine.host().cgroups[SHOP].is_frozen
    }
}

#[test]
fn a_member_that_is_a_zombie_counts_as_ended() {
    let mut world = shop();
    member(world.engine.host(), 101, None);
    world.engine.host().processes.get_mut(&101).unwrap().process.state = 'Z';
    world.fire("calm");
    assert!(world.is_frozen());
}

/// Its state says that it runs, but its memory and with it the executable are gone: so it is for a moment within exit(2).
#[test]
fn a_member_within_exit_counts_as_ended() {
    let mut world = shop();
    member(world.engine.host(), 101, None);
    world.engine.host().processes.get_mut(&101).unwrap().is_exiting = true;
    world.fire("calm");
    assert!(world.is_frozen());
}

#[test]
fn unidentified_living_member_protects_its_cgroup() {
    let mut world = shop();
    member(world.engine.host(), 101, None);
    world.fire("calm");
    world.pass(20);
    assert!(!world.is_frozen());
    assert_eq!(world.decided("calm", Decision::Protected), 1.0);
}

#[test]
fn member_that_runs_another_program_is_checked_again() {
    let mut world = shop();
    member(world.engine.host(), 101, Some("/usr/bin/shop"));
    // Between the state of the second member and its other files, at the check before the step.
    for _ in 0..3 {
        world.engine.host().hooks.before_details.push_back(|_| ());
    }
    world.engine.host().hooks.before_details.push_back(|host| {
        let found = host.processes.get_mut(&101).unwrap();
        found.process.name = "sshd".into();
        found.process.details.exe = Some("/usr/sbin/sshd".into());
    });
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::Planned), 1.0);
    assert!(!world.is_frozen(), "what it runs now is protected");
}

#[test]
fn cgroup_whose_last_check_fails_is_retried_in_a_second() {
    let mut world = shop();
    // The second reading is that of the check before the step.
    let happenings: [fn(&mut FakeHost); 2] = [|_| (), |host| member(host, 100, None)];
    world.engine.host().hooks.before_details.extend(happenings);
    world.fire("calm");
    assert_eq!(world.decided("calm", Decision::Planned), 1.0);
    assert!(!world.is_frozen());
    member(world.engine.host(), 100, Some("/usr/bin/shop"));
    world.pass(1);
    assert!(world.is_frozen());
}

#[test]
fn cgroup_with_unidentified_member_is_rechecked_in_a_second() {
    let mut world = shop();
    member(world.engine.host(), 101, None);
    world.fire("calm");
    assert!(!world.is_frozen());
    world.engine.host().processes.remove(&101);
    world.pass(1);
    assert!(world.is_frozen());
}
