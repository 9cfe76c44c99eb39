//! Signals that are undone, asked for by several alerts: sent once, undone once.

use super::*;
use crate::rule::Step;
use crate::step::Send;

fn louder(name: &str) -> Rule {
    sending(name, Signal::SIGUSR1)
}

fn sending(name: &str, signal: Signal) -> Rule {
    let undo = Some(Signal::SIGUSR2);
    Rule {
        actions: vec![Step::Signal(Send { signal, undo })],
        ..example(name, "nice 1")
    }
}

fn world_of(rules: Vec<Rule>) -> World {
    let mut world = world(policy(rules));
    world.add(100, 1);
    let details = &mut world.engine.host().processes.get_mut(&100).unwrap().process.details;
    details.caught_signals = Some(u64::MAX);
    world
}

const SENT: (i32, Signal) = (100, Signal::SIGUSR1);
const UNDONE: (i32, Signal) = (100, Signal::SIGUSR2);

#[test]
fn two_alerts_send_a_reversible_signal_once_and_undo_it_once() {
    for order in [["one", "two"], ["two", "one"]] {
        let mut world = world_of(vec![louder("one"), louder("two")]);
        world.fire("one");
        world.fire("two");
        assert_eq!(world.signals(), [SENT]);
        assert_eq!(world.engine.ledger().leases.values().count(), 2);
        world.crash_and_restart();
        world.resolve(order[0]);
        assert_eq!(world.signals(), [SENT], "the other still wants it");
        world.resolve(order[1]);
        assert_eq!(world.signals(), [SENT, UNDONE]);
    }
}

#[test]
fn alerts_of_one_delivery_send_a_reversible_signal_once() {
    let mut world = world_of(vec![louder("one"), louder("two")]);
    let both = ["one", "two"].map(|name| alert(name, Status::Firing));
    world.engine.take(&both, Instant::now()).unwrap();
    assert_eq!(world.signals(), [SENT]);
    let both = ["one", "two"].map(|name| alert(name, Status::Resolved));
    world.engine.take(&both, Instant::now()).unwrap();
    assert_eq!(world.signals(), [SENT, UNDONE]);
}

#[test]
fn the_second_holder_sends_what_the_first_could_not() {
    fn forget_handlers(host: &mut FakeHost) {
        host.processes.get_mut(&100).unwrap().process.details.caught_signals = Some(0);
    }
    fn remember_handlers(host: &mut FakeHost) {
        host.processes.get_mut(&100).unwrap().process.details.caught_signals = Some(u64::MAX);
    }
    let mut world = world_of(vec![louder("one"), louder("two")]);
    // The first look of each step is the check of its selector, the second that of its handlers.
    let happenings: [fn(&mut FakeHost); 3] = [|_| (), forget_handlers, remember_handlers];
    world.engine.host().hooks.meanwhile.extend(happenings);
    let both = ["one", "two"].map(|name| alert(name, Status::Firing));
    world.engine.take(&both, Instant::now()).unwrap();
    assert_eq!(world.signals(), [SENT]);
    assert_eq!(world.engine.ledger().leases.values().count(), 1);
    world.resolve("one");
    world.resolve("two");
    assert_eq!(world.signals(), [SENT, UNDONE]);
}

#[test]
fn resolve_beside_a_firing_keeps_sent_and_undone_in_balance() {
    for resolve_first in [true, false] {
        let mut world = world_of(vec![louder("one"), louder("two")]);
        world.fire("one");
        let mut both = [alert("one", Status::Resolved), alert("two", Status::Firing)];
        if !resolve_first {
            both.reverse();
        }
        world.engine.take(&both, Instant::now()).unwrap();
        world.resolve("two");
        let signals = world.signals();
        let count = |wanted: (i32, Signal)| signals.iter().filter(|sent| **sent == wanted).count();
        assert_eq!(count(SENT), count(UNDONE), "{signals:?}");
        assert_eq!(signals.last(), Some(&UNDONE));
    }
}

#[test]
fn signals_with_the_same_undo_are_undone_by_themselves() {
    let mut world = world_of(vec![louder("one"), sending("two", Signal::SIGHUP)]);
    world.fire("one");
    world.fire("two");
    assert_eq!(world.signals(), [SENT, (100, Signal::SIGHUP)]);
    world.resolve("one");
    world.resolve("two");
    assert_eq!(world.signals()[2..], [UNDONE, UNDONE]);
}
