//! Tests of processes that block readers of their command line: evenkeel refuses steps on them and reverts their
//! leases.

use super::*;
use crate::process::selector::{Condition, Pattern};

fn by_cmdline(ladder: &str) -> World {
    let mut rule = example("calm", ladder);
    rule.target_selector = TargetSelector::Processes(Selector {
        conditions: vec![Condition::Cmdline(Pattern::fixed("burner --all").unwrap())],
    });
    let mut world = world(policy(vec![rule]));
    world.add(100, 1);
    set_readable(&mut world, true);
    world
}

fn set_readable(world: &mut World, is_readable: bool) {
    let details = &mut world.engine.host().processes.get_mut(&100).unwrap().process.details;
    details.cmdline = is_readable.then(|| "burner --all".to_owned());
    details.is_unreadable = !is_readable;
}

#[test]
fn unreadable_command_line_is_refused_and_reported() {
    let mut world = by_cmdline("nice 15");
    set_readable(&mut world, false);
    world.fire("calm");
    assert_eq!(world.nice(100), [0]);
    let records = world.engine.records();
    let is_told = |record: &Record| {
        record.decision == Some(Decision::Protected) && record.reason.contains("reading the command line timed out")
    };
    assert!(records.iter().any(is_told), "{records:#?}");
    set_readable(&mut world, true);
    world.pass(16);
    assert_eq!(world.nice(100), [15]);
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
