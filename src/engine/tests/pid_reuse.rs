//! A pid that is handed out again between any two calls of the host: whoever got it is never touched.

use super::*;
use crate::host::Value;
use crate::rule::Step;
use crate::rule::step::{Change, Send};

const RACES: usize = 100_000;
const PROCESSES: i32 = 60;
/// What is remembered of former rounds would make later ones dear.
const ROUNDS_PER_BOOK: usize = 16;

fn racing() -> Engine<FakeHost> {
    let set = |value| Step::Set(Change::To(value));
    let mut calm = example("calm", "nice 15");
    calm.actions.extend([
        set(Value::OomScoreAdj(500)),
        set(Value::Affinity("0-1".parse().unwrap())),
        set(Value::Freeze(true)),
        Step::Signal(Send {
            signal: Signal::SIGUSR1,
            undo: Some(Signal::SIGUSR2),
        }),
    ]);
    calm.limit = PROCESSES as usize;
    let mut end = along("end", TERM_THEN_KILL);
    end.limit = PROCESSES as usize;
    let host = FakeHost::new(4, "2026-01-01T00:00:00Z".parse().unwrap());
    let journal = Journal::forgetful(crate::process::BootId(1));
    let policy = Policy {
        budget: Budget {
            final_steps: u32::MAX,
            per: Duration::from_secs(1),
        },
        ..policy(vec![calm, end])
    };
    let book = Book::default();
    Engine::new(host, journal, book, policy, Box::new(|_| None), Tally::default())
}

#[test]
fn in_a_hundred_thousand_races_nothing_reaches_whoever_got_the_pid() {
    let (mut reached, mut races) = (0, 0);
    let mut engine = racing();
    for round in 0.. {
        if round % ROUNDS_PER_BOOK == 0 {
            races += engine.host().strangers;
            if races >= RACES {
                break;
            }
            engine = racing();
        }
        let host = engine.host();
        host.reused_every = 0;
        host.advance(Duration::from_secs(60));
        host.processes.clear();
        for pid in 0..PROCESSES {
            let mut process = Process::example(1000 + pid, "burner");
            process.details.exe = Some("/usr/bin/burner".into());
            process.details.caught_signals = Some(u64::MAX);
            process.threads = 1 + pid as u32 % 2;
            host.add(process);
        }
        // Mostly early in the life of a step, now and then late.
        host.reused_every = if round % 16 == 0 { 25 } else { 2 + round % 5 };
        for status in [Status::Firing, Status::Resolved] {
            let mut alert = alert("calm", status);
            let later = jiff::SignedDuration::from_secs(1000 * round as i64);
            alert.starts_at += later;
            alert.ends_at = alert.ends_at.map(|at| at + later);
            alert.source = Source::Local;
            engine.take(&[alert], Instant::now()).unwrap();
            engine.host().advance(Duration::from_secs(11));
            engine.tick();
        }
        for deed in engine.host().deeds.drain(..) {
            assert_eq!(deed.process.name, "burner", "round {round}: {deed:?}");
            reached += 1;
        }
    }
    // Most deeds find that the pid was handed on, but not all: else nothing would have been tried.
    assert!(reached > RACES / 100, "hardly anything was done: {reached}");
}
