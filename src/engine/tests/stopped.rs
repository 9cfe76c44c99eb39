//! Tests of fatal signals to stopped processes: none stays pending until after its alert.

use super::*;
use crate::process::selector::{Condition, Pattern};

const BATCH: &str = "/batch.slice/job.service";

fn two_rules(steps: &str) -> World {
    let mut world = world(policy(vec![example("rest", "freeze true"), example("end", steps)]));
    add(&mut world);
    world
}

fn add(world: &mut World) {
    let mut process = Process::example(100, "burner");
    process.details.exe = Some("/usr/bin/burner".into());
    process.details.cgroup = Some(BATCH.into());
    world.engine.host().add_cgroup(BATCH);
    world.engine.host().add(process);
}

impl World {
    fn has_ended(&mut self, pid: i32) -> bool {
        !self.engine.host().processes.contains_key(&pid)
    }

    fn reasons(&self, rule: &str, decision: Decision) -> Vec<String> {
        let records = self.engine.records();
        let told = records
            .into_iter()
            .filter(|record| record.rule == rule && record.decision == Some(decision));
        told.map(|record| record.reason).collect()
    }
}

/// No signal stays pending until a thaw after the alert.
fn assert_nothing_pending(world: &mut World) {
    world.resolve("end");
    world.resolve("rest");
    let host = world.engine.host();
    for path in host.cgroups.keys().cloned().collect::<Vec<_>>() {
        host.set_frozen(&path, false);
    }
    host.set_state(100, 'S');
    assert!(
        !world.has_ended(100),
        "it was ended after its alert: {:?}",
        world.signals()
    );
}

#[test]
fn process_we_stopped_continues_before_its_final_signal() {
    let mut world = two_rules("signal TERM");
    world.fire("rest");
    world.fire("end");
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    assert!(world.has_ended(100), "the signal is delivered at once");
    assert!(world.engine.ledger().leases.is_empty());
}

#[test]
fn stop_and_end_in_one_delivery_leave_no_signal_pending() {
    for names in [["rest", "end"], ["end", "rest"]] {
        let mut world = two_rules("signal TERM");
        let both = names.map(|name| alert(name, Status::Firing));
        world.engine.take(&both, Instant::now()).unwrap();
        assert!(world.has_ended(100), "{names:?}");
    }
}

#[test]
fn sigkill_needs_no_thaw() {
    for state in ['T', 't', 'S'] {
        let mut world = two_rules("signal KILL");
        world.engine.host().processes.get_mut(&100).unwrap().process.state = state;
        world.engine.host().set_frozen(BATCH, state == 'S');
        world.fire("end");
        assert!(world.has_ended(100), "{state}");
    }
}

#[test]
fn process_stopped_by_others_gets_no_final_signal_until_it_runs() {
    for state in ['T', 't'] {
        let mut world = two_rules("signal TERM; wait 10; signal KILL");
        world.engine.host().processes.get_mut(&100).unwrap().process.state = state;
        world.fire("end");
        world.pass(40);
        assert_eq!(world.signals(), [], "nor to SIGKILL without SIGTERM");
        let reasons = world.reasons("end", Decision::Protected);
        assert!(reasons.len() == 1 && reasons[0].contains("SIGTERM"), "{reasons:?}");
        world.engine.host().set_state(100, 'S');
        world.pass(20);
        assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
    }
}

/// evenkeel's own stop came after another one: to end it would not let the process continue.
#[test]
fn stop_from_before_ours_is_left_alone() {
    let mut world = two_rules("signal TERM");
    world.engine.host().set_state(100, 'T');
    world.fire("rest");
    world.fire("end");
    assert_eq!(world.signals(), []);
    assert_nothing_pending(&mut world);
}

#[test]
fn members_of_a_frozen_cgroup_are_not_asked_to_end() {
    for frozen in [BATCH, "/batch.slice"] {
        let mut world = two_rules("signal TERM");
        world.engine.host().set_frozen(frozen, true);
        world.fire("end");
        world.pass(40);
        assert_eq!(world.signals(), []);
        let reasons = world.reasons("end", Decision::Protected);
        assert!(reasons.len() == 1 && reasons[0].contains(frozen), "{reasons:?}");
        assert_nothing_pending(&mut world);
    }
}

fn freezing(name: &str) -> Rule {
    let mut rule = example(name, "freeze true");
    rule.target_selector = TargetSelector::Cgroups(Selector {
        conditions: vec![Condition::Cgroup(Pattern::fixed(BATCH).unwrap())],
    });
    rule
}

#[test]
fn cgroup_we_froze_is_thawed_before_a_final_signal() {
    let mut world = world(policy(vec![freezing("rest"), example("end", "signal TERM")]));
    add(&mut world);
    world.fire("rest");
    assert!(world.engine.host().cgroups[BATCH].is_frozen);
    world.fire("end");
    assert!(world.has_ended(100));
    assert!(!world.engine.host().cgroups[BATCH].is_frozen);
}

#[test]
fn process_with_a_final_signal_is_not_stopped() {
    for rest in [example("rest", "freeze true"), freezing("rest")] {
        let mut world = world(policy(vec![rest, example("end", "signal TERM; freeze true")]));
        add(&mut world);
        world.ignores_sigterm(100);
        world.fire("end");
        world.fire("rest");
        assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
        assert_eq!(world.engine.host().processes[&100].process.state, 'S');
        assert!(!world.engine.host().cgroups[BATCH].is_frozen);
        assert!(world.decided("rest", Decision::AwaitingEffect) >= 1.0);
    }
}

#[test]
fn stop_at_the_last_moment_sends_nothing_and_retries() {
    let mut world = two_rules("signal TERM; wait 10; signal KILL");
    world
        .engine
        .host()
        .hooks
        .meanwhile
        .push_back(|host| host.set_state(100, 'T'));
    world.fire("end");
    assert_eq!(world.signals(), []);
    world.engine.host().set_state(100, 'S');
    world.pass(16);
    assert_eq!(world.signals(), [(100, Signal::SIGTERM)]);
}

#[test]
fn a_freezer_of_cgroup_v1_holds_even_sigkill() {
    let mut world = two_rules("signal KILL");
    world.engine.host().processes.get_mut(&100).unwrap().is_in_freezer = true;
    world.fire("end");
    assert_eq!(world.signals(), []);
    assert_eq!(world.reasons("end", Decision::Protected).len(), 1);
}
