//! Tests of cgroups with many members, which a user can start: they are read for a limited time, and no further than the
//! decision needs.

use super::*;
use crate::process::selector::{Condition, Pattern};

const SLOW: &str = "/user.slice/user-1000.slice/session-1.scope";
const SMALL: &str = "/user.slice/user-1001.slice/session-2.scope";
const OF_USER: &str = "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope";
/// More reads of members than any of these tests makes.
const READS: usize = 1000;

fn world_with(cgroups: &[(&str, usize)], protect: Vec<Selector>) -> World {
    let mut rule = example("calm", "freeze true");
    rule.limit = 9;
    rule.target_selector = TargetSelector::Cgroups(Selector {
        conditions: vec![Condition::Cgroup(Pattern::fixed(".*scope").unwrap())],
    });
    let mut world = world(Policy {
        protect,
        ..policy(vec![rule])
    });
    let mut pid = 100;
    for (cgroup, members) in cgroups {
        world.engine.host().add_cgroup(cgroup);
        for _ in 0..*members {
            let mut process = Process::example(pid, "worker");
            process.details.exe = Some("/usr/bin/worker".into());
            process.details.cgroup = Some((*cgroup).into());
            world.engine.host().add(process);
            pid += 1;
        }
    }
    world
}

/// Lets each reading of a member take 5 ms.
fn slow_down(world: &mut World) {
    let happening: fn(&mut FakeHost) = |host| host.now.boot += Duration::from_millis(5);
    let happenings = std::iter::repeat_n(happening, READS);
    world.engine.host().hooks.before_details.extend(happenings);
}

fn reads(world: &mut World) -> usize {
    READS - world.engine.host().hooks.before_details.len()
}

impl World {
    fn frozen(&mut self, cgroup: &str) -> bool {
        self.engine.host().cgroups[cgroup].is_frozen
    }

    fn protected_because(&self) -> Vec<String> {
        let records = self.engine.records().into_iter();
        let refused = records.filter(|record| record.decision == Some(Decision::Protected));
        refused.map(|record| record.reason).collect()
    }
}

#[test]
fn members_that_take_too_long_refuse_their_cgroup_only() {
    let mut world = world_with(&[(SLOW, 200), (SMALL, 2)], vec![]);
    slow_down(&mut world);
    world.fire("calm");
    assert_eq!((world.frozen(SLOW), world.frozen(SMALL)), (false, true));
    let reason = "unknown processes in the cgroup: members not read in time";
    assert_eq!(world.protected_because(), [reason]);
    // Those of the small one are read once more before the step.
    assert_eq!(reads(&mut world), 40 + 2 + 2);
}

#[test]
fn members_are_read_up_to_the_first_protected_one() {
    let mut world = world_with(&[(SLOW, 30)], vec![]);
    let first = world.engine.host().processes.get_mut(&100).unwrap();
    first.process.details.exe = Some("/usr/sbin/sshd".into());
    slow_down(&mut world);
    world.fire("calm");
    assert!(!world.frozen(SLOW));
    assert_eq!(reads(&mut world), 1);
    assert!(world.protected_because()[0].starts_with("process 100 (worker) is in it: built-in"));
}

#[test]
fn cgroup_that_a_user_manages_needs_no_member_read() {
    let mut world = world_with(&[(OF_USER, 200)], vec![]);
    slow_down(&mut world);
    world.fire("calm");
    assert!(world.frozen(OF_USER));
    assert_eq!(reads(&mut world), 0);
}

#[test]
fn protect_reads_the_members_of_a_cgroup_that_a_user_manages() {
    let protect = Selector {
        conditions: vec![Condition::Exe(Pattern::fixed("/usr/bin/worker").unwrap())],
    };
    let mut world = world_with(&[(OF_USER, 3)], vec![protect]);
    world.fire("calm");
    assert!(!world.frozen(OF_USER));
}

#[test]
fn own_process_shields_the_cgroup_that_a_user_manages() {
    let mut world = world_with(&[(OF_USER, 3)], vec![]);
    world.engine.host().own_ancestors = [102].into();
    world.fire("calm");
    assert!(!world.frozen(OF_USER));
    assert_eq!(
        world.protected_because(),
        ["process 102 is in it: evenkeel and its ancestors are never touched"]
    );
}
