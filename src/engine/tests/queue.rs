//! An engine that lags: what its queue holds when it comes to it.

use super::*;
use crate::alert::receiver::{Delivery, Inbox, Receipt};
use crate::engine::run::{EngineHandle, Input, Intake, Queued, Turn};
use crate::host::linux::boot_time;
use tokio::sync::oneshot;

/// A queue that fills up while the engine is busy.
struct Queue {
    engine_handle: EngineHandle,
    inputs: std::sync::mpsc::Receiver<Queued>,
}

fn queue() -> Queue {
    let (engine_handle, inputs) = EngineHandle::new();
    Queue { engine_handle, inputs }
}

impl Queue {
    fn deliver(&self, alerts: Vec<Alert>) -> oneshot::Receiver<Receipt> {
        let (reply, receipt) = oneshot::channel();
        let delivery = Delivery {
            alerts: Arc::new(alerts),
            invalid: 0,
            truncated: 0,
            received_at: Instant::now(),
            reply,
        };
        self.engine_handle.deliver(delivery).unwrap();
        receipt
    }

    fn send(&self, input: Input) {
        assert!(self.engine_handle.try_send(input));
    }

    fn process(&self, world: &mut World) {
        let waiting = self.inputs.try_iter().collect();
        assert_eq!(intake(world).take_all(&mut world.engine, waiting), Turn::More);
        world.engine.tick();
    }
}

fn intake(world: &World) -> Intake {
    Intake {
        telemetry: world.telemetry.clone(),
        restarted_at: Duration::ZERO,
    }
}

fn own(name: &str, status: Status) -> Alert {
    let source = Source::Local;
    Alert {
        source,
        ..alert(name, status)
    }
}

fn set(firing: &[Alert]) -> Input {
    Input::Firing(FiringSet {
        firing: firing.to_vec(),
        is_complete: true,
        ..FiringSet::default()
    })
}

/// A world with a process that the alert `end` kills.
fn deadly() -> World {
    let mut world = world(policy(vec![example("end", "signal KILL")]));
    world.add(100, 1);
    world
}

#[test]
fn firing_whose_end_waits_behind_a_set_does_nothing() {
    let mut world = deadly();
    let queue = queue();
    let firing = queue.deliver(vec![alert("end", Status::Firing)]);
    queue.send(set(&[]));
    let resolved = queue.deliver(vec![alert("end", Status::Resolved)]);
    queue.process(&mut world);
    assert_eq!(world.signals(), []);
    for mut receipt in [firing, resolved] {
        assert_eq!(receipt.try_recv(), Ok(Receipt::Durable));
    }
}

#[test]
fn end_stays_behind_its_firing_where_the_engine_is_slow() {
    let mut world = deadly();
    let queue = queue();
    queue.deliver(vec![alert("end", Status::Firing)]);
    // Each takes the engine longer than the queue.
    for _ in 0..200 {
        let request = OperatorRequest::example();
        queue.send(Input::ReloadRefused(request, "no such file".to_owned()));
    }
    queue.deliver(vec![alert("end", Status::Resolved)]);
    queue.process(&mut world);
    assert_eq!(world.signals(), []);
}

#[test]
fn exit_takes_no_next_victim_where_the_end_waits() {
    for (has_end, victims) in [(false, 2), (true, 1)] {
        let mut rule = example("end", "signal KILL");
        (rule.limit, rule.cooldown, rule.condition) = (9, Duration::ZERO, Some("vector(1)".to_owned()));
        let mut world = world(policy(vec![rule]));
        world.engine.conditions = Box::new(|_| {
            let (holds, sample_at) = (true, Duration::MAX);
            Some(Answer { holds, sample_at })
        });
        let both = [100, 200].map(|pid| world.add(pid, 1));
        world.send("end", Status::Firing, 0, Source::Local);
        let (pid, _) = world.signals()[0];
        world.engine.host().processes.remove(&pid);
        let first = both.into_iter().find(|target| target.pid == pid).unwrap();
        // The engine lags, and a round is due.
        world.engine.host().advance(Duration::from_secs(20));
        let queue = queue();
        queue.send(Input::Exited(first));
        if has_end {
            let alerts = vec![own("end", Status::Resolved)];
            queue.send(Input::Alerts(alerts, Instant::now().into()));
        }
        queue.process(&mut world);
        assert_eq!(world.signals().len(), victims, "an end waits: {has_end}");
    }
}

#[test]
fn only_the_newest_of_several_sets_counts() {
    let mut world = deadly();
    let queue = queue();
    queue.send(set(&[own("end", Status::Firing)]));
    queue.send(set(&[]));
    queue.process(&mut world);
    assert_eq!(world.signals(), []);
}

#[test]
fn firing_after_an_end_in_the_queue_opens() {
    let mut world = deadly();
    let queue = queue();
    let later = jiff::SignedDuration::from_secs(90);
    let mut again = alert("end", Status::Firing);
    again.starts_at += later;
    queue.deliver(vec![alert("end", Status::Resolved)]);
    queue.send(set(&[]));
    queue.deliver(vec![again]);
    queue.process(&mut world);
    assert_eq!(world.signals(), [(100, Signal::SIGKILL)]);
}

#[test]
fn pause_in_the_queue_holds_for_what_waits_before_it() {
    let mut world = deadly();
    let queue = queue();
    queue.deliver(vec![alert("end", Status::Firing)]);
    queue.send(Input::Pause(true, OperatorRequest::example()));
    queue.process(&mut world);
    assert_eq!(world.signals(), []);
}

/// More than one transaction holds: the first ones commit, and nothing is done before all ends are known.
#[test]
fn end_in_a_later_portion_of_the_queue_counts() {
    let mut world = deadly();
    let queue = queue();
    let others = (0..600).map(|number| {
        let mut other = alert("other", Status::Firing);
        other.labels.insert("number", number.to_string());
        other.fingerprint = fingerprint(&other.labels);
        other
    });
    queue.deliver(vec![alert("end", Status::Firing)]);
    queue.deliver(others.collect());
    queue.deliver(vec![alert("end", Status::Resolved)]);
    queue.process(&mut world);
    assert_eq!(world.signals(), []);
}

/// A set counts for a minute from its arrival. Two minutes later it says nothing about now.
#[test]
fn report_counts_from_its_arrival() {
    for (age, signals) in [(50, 1), (120, 0)] {
        let mut world = deadly();
        let arrived_at = boot_time().saturating_sub(Duration::from_secs(age));
        let waiting = vec![Queued {
            input: set(&[own("end", Status::Firing)]),
            arrived_at,
        }];
        assert_eq!(intake(&world).take_all(&mut world.engine, waiting), Turn::More);
        assert_eq!(world.signals().len(), signals, "{age} s old");
    }
}

/// An engine that starts or reloads makes open episodes unconfirmed. A report that arrived meanwhile confirms them.
#[test]
fn report_that_waits_behind_a_reload_confirms() {
    for is_behind in [false, true] {
        let mut world = world(policy(vec![example("calm", "nice 15")]));
        world.add(100, 1);
        let queue = queue();
        world.fire("calm");
        world.pass(1);
        let reload = || {
            Input::Reload(
                Box::new(policy(vec![example("calm", "nice 10")])),
                OperatorRequest::example(),
            )
        };
        if is_behind {
            queue.send(reload());
        }
        queue.deliver(vec![alert("calm", Status::Firing)]);
        if !is_behind {
            queue.send(reload());
        }
        let waiting: Vec<Queued> = queue.inputs.try_iter().collect();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(intake(&world).take_all(&mut world.engine, waiting), Turn::More);
        assert_eq!(world.engine.unconfirmed().is_empty(), is_behind);
    }
}
