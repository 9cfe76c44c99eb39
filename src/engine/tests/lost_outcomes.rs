//! A daemon that is killed before it could write its outcomes, because the disk was full: the next one must not take
//! what was reverted for held.

use super::*;

/// Resolves the alert while the ledger cannot be written, and kills the daemon before it can be.
fn resolve_without_a_record(world: &mut World, name: &str) {
    let lock = world.lock_ledger();
    // The reply is an error, so that the sender retries, but the revert does not wait.
    let alert = alert(name, Status::Resolved);
    let _ = world.engine.take(std::slice::from_ref(&alert), Instant::now());
    drop(lock);
    world.crash_and_restart();
}

#[test]
fn alert_that_fires_again_after_lost_outcomes_is_answered() {
    for starts in [0, 500] {
        let mut world = world(policy(vec![example("calm", "nice 15")]));
        world.add(100, 1);
        world.fire("calm");
        assert_eq!(world.nice(100), [15]);
        resolve_without_a_record(&mut world, "calm");
        assert_eq!(world.nice(100), [0]);
        assert!(world.engine.ledger().leases.is_empty() && world.engine.ledger().episodes.is_empty());
        let before = world.decided("calm", Decision::Planned);
        world.send("calm", Status::Firing, starts, Source::Alertmanager);
        assert_eq!(world.nice(100), [15]);
        assert_eq!(world.decided("calm", Decision::Planned), before + 1.0);
        world.send("calm", Status::Resolved, starts, Source::Alertmanager);
        assert_eq!(world.nice(100), [0]);
    }
}

#[test]
fn everything_is_reverted_after_lost_outcomes() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("other", "nice 10")]));
    world.add(100, 1);
    world.fire("calm");
    world.fire("other");
    resolve_without_a_record(&mut world, "calm");
    assert!(world.engine.ledger().leases.is_empty(), "the other may be over as well");
    let reverted = world
        .engine
        .records()
        .into_iter()
        .filter(|record| record.outcome == Some(Outcome::Restored));
    assert_eq!(reverted.count(), 2);
    world.fire("other");
    assert_eq!(world.engine.ledger().leases.len(), 1);
}

#[test]
fn signal_is_sent_again_for_an_alert_after_lost_outcomes() {
    let signal = Signal::SIGUSR1;
    let step = crate::rule::Step::Signal(crate::step::Send { signal, undo: None });
    let rule = Rule {
        actions: vec![step],
        ..example("tell", "nice 1")
    };
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    let details = &mut world.engine.host().processes.get_mut(&100).unwrap().process.details;
    details.caught_signals = Some(u64::MAX);
    world.fire("tell");
    resolve_without_a_record(&mut world, "tell");
    world.send("tell", Status::Firing, 500, Source::Alertmanager);
    assert_eq!(world.signals(), [(100, signal), (100, signal)]);
}

#[test]
fn leases_stay_after_a_crash_once_the_outcomes_are_written() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("other", "nice 10")]));
    world.add(100, 1);
    world.fire("other");
    world.fire("calm");
    let lock = world.lock_ledger();
    let resolved = alert("calm", Status::Resolved);
    let _ = world.engine.take(std::slice::from_ref(&resolved), Instant::now());
    assert_eq!(world.nice(100), [10]);
    drop(lock);
    world.pass(5);
    world.crash_and_restart();
    assert_eq!(world.nice(100), [10]);
    assert_eq!(world.engine.ledger().leases.len(), 1);
}

#[test]
fn refused_steps_are_no_lost_outcomes() {
    let mut world = world(policy(vec![example("calm", "nice 15"), example("other", "nice 10")]));
    world.add(100, 1);
    world.fire("other");
    let lock = world.lock_ledger();
    let fired = alert("calm", Status::Firing);
    assert!(world.engine.take(std::slice::from_ref(&fired), Instant::now()).is_err());
    drop(lock);
    world.crash_and_restart();
    assert_eq!(world.nice(100), [10]);
    assert_eq!(world.engine.ledger().leases.len(), 1);
}
