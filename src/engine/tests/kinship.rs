//! Children that were born during a lease and whose parents ended, and children that are born at the last moment.

use super::*;

fn orphan(world: &mut World, pid: i32) {
    world.engine.host().processes.get_mut(&pid).unwrap().process.parent = 1;
}

#[test]
fn an_orphan_that_was_seen_below_its_parent_is_restored() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    fork(world.engine.host(), 100, 200, "worker");
    fork(world.engine.host(), 200, 300, "worker");
    world.pass(16);
    world.engine.host().processes.remove(&200);
    orphan(&mut world, 300);
    world.resolve("calm");
    assert_eq!((world.nice(100), world.nice(300)), (vec![0], vec![0]));
}

#[test]
fn an_orphan_outlives_the_target_itself() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    let target = world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    fork(world.engine.host(), 100, 200, "worker");
    world.pass(16);
    orphan(&mut world, 200);
    world.reap(target);
    assert_eq!(world.nice(200), [0]);
}

#[test]
fn unseen_orphan_in_the_session_of_the_target_is_restored() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.engine.host().processes.get_mut(&100).unwrap().process.session = 100;
    world.fire("calm");
    world.pass(1);
    for (pid, session) in [(200, 100), (300, 77)] {
        fork(world.engine.host(), 100, pid, "worker");
        world.engine.host().processes.get_mut(&pid).unwrap().process.session = session;
        orphan(&mut world, pid);
    }
    world.resolve("calm");
    assert_eq!(world.nice(200), [0]);
    assert_eq!(world.nice(300), [15], "perhaps a stranger");
    let told = world.engine.records().into_iter().last().unwrap().reason;
    assert!(told.contains("300 with the same nice value"), "{told}");
}

#[test]
fn possible_orphans_are_reported_for_every_knob() {
    let mut rule = example("calm", "nice 1");
    rule.actions = vec![crate::rule::Step::Set(crate::step::Change::To(
        crate::host::Value::OomScoreAdj(500),
    ))];
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    for pid in [200, 300] {
        fork(world.engine.host(), 100, pid, "worker");
        orphan(&mut world, pid);
    }
    let child = world.engine.host().processes.get_mut(&200).unwrap();
    child.put(crate::host::Value::OomScoreAdj(500));
    world.resolve("calm");
    let told = world.engine.records().into_iter().last().unwrap().reason;
    assert!(told.contains(": 200 with the same oom_score_adj value"), "{told}");
}

#[test]
fn process_with_the_pid_of_an_orphan_is_left_alone() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    fork(world.engine.host(), 100, 200, "worker");
    world.pass(16);
    let mut stranger = Process::example(200, "worker");
    (stranger.nice, stranger.age) = (15, Duration::ZERO);
    world.engine.host().add(stranger);
    world.resolve("calm");
    assert_eq!(world.nice(200), [15]);
}

#[test]
fn child_started_during_the_undo_is_found_by_one_more_look() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    // After the table was read for the undoing, and before the parent has its value back.
    world.engine.host().hooks.before_set.push_back(|host| {
        fork(host, 100, 200, "worker");
    });
    world.resolve("calm");
    assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]));
}

#[test]
fn children_are_restored_once_the_process_table_can_be_read() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.pass(1);
    fork(world.engine.host(), 100, 200, "worker");
    world.pass(16);
    orphan(&mut world, 200);
    world.engine.host().hooks.table_fails = true;
    // The rule is evaluated without the table in between.
    world.pass(16);
    world.resolve("calm");
    world.pass(5);
    assert_eq!((world.nice(100), world.nice(200)), (vec![15], vec![15]));
    world.engine.host().hooks.table_fails = false;
    world.pass(16);
    assert_eq!((world.nice(100), world.nice(200)), (vec![0], vec![0]));
}
