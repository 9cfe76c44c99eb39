//! Tests of processes that cannot be read completely, as one that blocks readers of its command line: evenkeel refuses
//! steps on them, names them, and reverts their leases.

use super::*;
use crate::process::Unread;
use crate::process::selector::{Condition, Pattern};

fn by_cmdline(steps: &str) -> World {
    let mut rule = example("calm", steps);
    rule.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![Condition::Cmdline(Pattern::fixed("burner --all").unwrap())],
    });
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    set_readable(&mut world, true);
    world
}

fn set_readable(world: &mut World, is_readable: bool) {
    set_unread(world, (!is_readable).then_some(Unread::Blocked));
}

fn set_unread(world: &mut World, unread: Option<Unread>) {
    let details = &mut world.engine.host().processes.get_mut(&100).unwrap().process.details;
    details.cmdline = unread.is_none().then(|| "burner --all".to_owned());
    details.unread = unread;
}

#[test]
fn process_that_cannot_be_read_is_refused_and_reported() {
    for unread in [Unread::Blocked, Unread::OutOfTime, Unread::Changing] {
        let mut world = by_cmdline("nice 15");
        set_unread(&mut world, Some(unread));
        world.fire("calm");
        assert_eq!(world.nice(100), [0]);
        let records = world.engine.records();
        let is_told = |record: &Record| {
            let is_it = record.target.as_ref().and_then(|(target, _)| target.pid()) == Some(100);
            is_it && record.decision == Some(Decision::Protected) && record.reason.contains(&unread.to_string())
        };
        assert!(records.iter().any(is_told), "{records:#?}");
        set_readable(&mut world, true);
        world.pass(16);
        assert_eq!(world.nice(100), [15]);
    }
}

#[test]
fn the_reason_of_a_refused_step_is_in_the_history() {
    let mut world = by_cmdline("nice 15");
    world.engine.host().hooks.meanwhile.push_back(|host| {
        let details = &mut host.processes.get_mut(&100).unwrap().process.details;
        details.unread = Some(Unread::Changing);
    });
    world.fire("calm");
    assert_eq!(world.nice(100), [0]);
    let records = world.engine.records();
    let is_told = |record: &Record| {
        record.outcome == Some(Outcome::ChangedIdentity) && record.reason.contains(&Unread::Changing.to_string())
    };
    assert!(records.iter().any(is_told), "{records:#?}");
}

#[test]
fn target_that_becomes_unreadable_is_restored() {
    let mut world = by_cmdline("nice 15; wait 10; signal TERM");
    world.fire("calm");
    set_readable(&mut world, false);
    world.pass(40);
    assert_eq!((world.nice(100), world.signals()), (vec![15], vec![]));
    world.resolve("calm");
    assert_eq!(world.nice(100), [0]);
}

#[test]
fn history_names_some_of_many_processes_and_counts_the_others() {
    let mut world = by_cmdline("nice 15");
    for pid in 101..140 {
        world.add(pid, 1);
        let details = &mut world.engine.host().processes.get_mut(&pid).unwrap().process.details;
        details.unread = Some(Unread::OutOfTime);
    }
    world.fire("calm");
    assert_eq!(world.nice(100), [15]);
    let records = world.engine.records();
    let refused = records
        .iter()
        .filter(|record| record.decision == Some(Decision::Protected));
    let (named, counted): (Vec<&Record>, Vec<&Record>) = refused.partition(|record| record.target.is_some());
    assert_eq!((named.len(), counted.len()), (32, 1));
    assert!(
        counted[0].reason.starts_with("7 more: unidentified: its command line"),
        "{counted:?}"
    );
    assert_eq!(world.decided("calm", Decision::Protected), 39.0);
}
