//! Requests of operators: the history says who asked, when and why.

use super::*;
use crate::ledger::{Operation, Requester};
use crate::telemetry::EventKind;

/// The newest record of an operation.
fn operation(world: &World, operation: Operation) -> Record {
    let mut records = world.engine.records();
    records.retain(|record| record.operation == Some(operation));
    records.pop().expect("the operation is on record")
}

#[test]
fn each_request_is_recorded_with_who_and_why() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    let request = OperatorRequest::example();
    world.engine.pause(true, &request);
    world.engine.pause(false, &request);
    world.engine.record_reload(&request, None);
    let id = *world.engine.ledger().leases.keys().next().unwrap();
    assert_eq!(world.engine.release(Some(id), &request), 1);
    for kind in [
        Operation::Pause,
        Operation::Resume,
        Operation::Reload,
        Operation::Release,
    ] {
        let record = operation(&world, kind);
        assert_eq!(record.by.as_ref(), Some(&request.by), "{kind}");
        assert_eq!((record.reason.as_str(), record.outcome), ("a test", None), "{kind}");
        assert!(record.at > jiff::Timestamp::UNIX_EPOCH, "{kind}");
    }
    let released = operation(&world, Operation::Release);
    assert_eq!((released.rule.as_str(), released.alertname.as_str()), ("calm", "calm"));
    assert_eq!(released.step, Some(format!("lease {id}")));
    assert_eq!(released.target.unwrap().0.pid(), Some(100));

    world.engine.record_reload(&request, Some("rules.yml:3:1: no"));
    let refused = operation(&world, Operation::Reload);
    assert_eq!(refused.outcome, Some(Outcome::Failed));
    assert!(refused.reason.ends_with("rules.yml:3:1: no"), "{}", refused.reason);
}

#[test]
fn pause_of_one_rule_leaves_the_others() {
    let rules = || policy(vec![example("calm", "nice 15"), example("later", "nice 10")]);
    let mut world = world(rules());
    world.add(100, 1);
    let request = OperatorRequest::example();
    assert!(
        !world.engine.pause_rule("gone", true, &request),
        "there is no such rule"
    );
    assert!(world.engine.pause_rule("calm", true, &request));
    let paused = operation(&world, Operation::Pause);
    assert_eq!((paused.rule.as_str(), paused.by.as_ref()), ("calm", Some(&request.by)));
    assert_eq!(world.telemetry.activity().paused_by, None, "not all rules are paused");
    world.restart();
    world.fire("calm");
    world.fire("later");
    assert_eq!(world.nice(100), [10], "a pause survives the restart");
    assert_eq!(world.decided("calm", Decision::Paused), 1.0);
    assert_eq!(world.decided("later", Decision::Paused), 0.0);
    assert_eq!(world.count("evenkeel_rule_paused", &["calm"]), 1.0);
    world.engine.pause(true, &request);
    world.engine.pause(false, &request);
    world.pass(16);
    assert_eq!(
        world.nice(100),
        [10],
        "the end of the pause of all rules does not end that of one"
    );
    assert!(world.engine.pause_rule("calm", false, &request));
    world.pass(16);
    assert_eq!(world.nice(100), [15], "the open alert is answered");
    assert!(world.engine.pause_rule("calm", true, &request));
    world.resolve("calm");
    world.resolve("later");
    assert_eq!(world.nice(100), [0], "leases are reverted");
    world.engine.reload(policy(vec![example("later", "nice 10")]));
    assert!(
        world.engine.pause_rule("calm", false, &request),
        "the pause of a rule that is gone"
    );
    assert!(!world.engine.pause_rule("calm", false, &request));
}

#[test]
fn equal_reloads_are_one_record_a_minute_with_a_count() {
    let mut world = world(policy(vec![]));
    let from = |address: u32| {
        let by = Requester::by_way_of(format!("POST /-/reload from 10.0.0.{address}"));
        OperatorRequest::new(by, "")
    };
    let refused = Some("rules.yml:3:1: no");
    for _ in 0..500 {
        world.engine.record_reload(&from(7), refused);
    }
    assert_eq!(world.engine.records().len(), 1);
    world.engine.record_reload(&from(7), None);
    world.engine.record_reload(&from(8), None);
    assert_eq!(world.engine.records().len(), 3, "another result, another client");
    world.pass(61);
    let counted = operation(&world, Operation::Reload);
    assert_eq!(world.engine.records().len(), 4);
    assert_eq!(
        (&counted.by, counted.outcome),
        (&Some(from(7).by), Some(Outcome::Failed))
    );
    assert_eq!(
        counted.reason,
        "499 more like this, the last at 2026-01-01T00:00:00Z; the last good configuration stays: rules.yml:3:1: no"
    );
    world.pass(120);
    assert_eq!(world.engine.records().len(), 4);
    for number in 0..1000 {
        world.engine.record_reload(&from(number), refused);
    }
    world.engine.shut_down();
    assert!(world.engine.records().len() < 20, "clients with many addresses");
    assert_eq!(operation(&world, Operation::Reload).by, Some(from(999).by));
    let before = world.engine.records().len();
    for _ in 0..10 {
        world.engine.record_reload(&OperatorRequest::example(), None);
    }
    assert_eq!(world.engine.records().len(), before + 10, "users with access may");
}

#[test]
fn release_of_nothing_is_no_operation() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    assert_eq!(world.engine.release(Some(7), &OperatorRequest::example()), 0);
    assert_eq!(world.engine.release(None, &OperatorRequest::example()), 0);
    assert!(world.engine.records().is_empty());
}

#[test]
fn lease_released_by_hand_says_so_in_history_and_on_the_page() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.release(None, &OperatorRequest::example());
    let undo = world.last_record();
    assert_eq!(
        (undo.step.as_deref(), undo.outcome),
        (Some("undo nice"), Some(Outcome::Restored))
    );
    assert_eq!(undo.reason, "released by root (uid 0): a test");
    let activity = world.telemetry.activity();
    let shown: Vec<&str> = activity.actions.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(shown, ["restored", "release", "applied"]);
    assert_eq!(activity.actions[1].kind, EventKind::operation("release"));
    assert_eq!(activity.actions[1].reason, "by root (uid 0): a test");
}

/// The revert is denied, so that the lease stays, across a restart.
#[test]
fn lease_that_cannot_be_reverted_yet_names_who_released_it() {
    let mut world = world(policy(vec![example("calm", "nice 15")]));
    world.add(100, 1);
    world.fire("calm");
    world.engine.host().denied.insert(Knob::Nice);
    world.engine.release(None, &OperatorRequest::example());
    world.crash_and_restart();
    let ledger = world.engine.ledger();
    let lease = ledger.leases.values().next().expect("still held");
    assert_eq!(lease.released.as_deref(), Some(&OperatorRequest::example()));
    world.pass(1);
    let leases = world.telemetry.activity().leases;
    assert_eq!(leases[0].released.as_deref(), Some("by root (uid 0): a test"));
}
