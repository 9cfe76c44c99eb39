//! Random histories of alerts, faults of an allocator and deaths of the daemon: what is granted is given back, one for
//! one, and nothing is granted twice under one key.

use super::histories::config;
use super::tests::errands::rule;
use super::*;
use crate::alert::{Alert, Source, Status, alert::fingerprint};
use crate::host::errand::{Errand, Report, Request};
use crate::host::fake::FakeHost;
use crate::host::fault;
use crate::process::BootId;
use proptest::prelude::*;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

const ALERTS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Fire(usize),
    Resolve(usize),
    Pass(u64),
    /// What the allocator does from now on.
    Mood(Mood),
    /// Answers to what is under way; `newest_first` and some of them lost.
    Answer {
        newest_first: bool,
        is_lost: bool,
    },
    Restart,
    Release,
    Reload(bool),
    Pause(bool),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Status(u16),
    /// It does what it is asked, and its answer is of no use.
    Garbled,
    Cut,
    /// Nothing reaches it.
    Away,
}

fn op() -> impl Strategy<Value = Op> {
    let mood = prop_oneof![
        4 => Just(Mood::Well),
        2 => prop_oneof![Just(500), Just(503), Just(302), Just(403), Just(400)].prop_map(Mood::Status),
        2 => Just(Mood::Garbled),
        2 => Just(Mood::Cut),
        1 => Just(Mood::Away),
    ];
    prop_oneof![
        6 => (0..ALERTS).prop_map(Op::Fire),
        4 => (0..ALERTS).prop_map(Op::Resolve),
        6 => (1u64..90).prop_map(Op::Pass),
        6 => mood.prop_map(Op::Mood),
        12 => any::<(bool, bool)>().prop_map(|(newest_first, is_lost)| Op::Answer { newest_first, is_lost }),
        2 => Just(Op::Restart),
        1 => Just(Op::Release),
        2 => any::<bool>().prop_map(Op::Reload),
        1 => any::<bool>().prop_map(Op::Pause),
    ]
}

/// What an allocator that honours idempotency keys remembers.
#[derive(Default)]
struct Broker {
    granted: BTreeMap<String, String>,
    live: BTreeSet<String>,
    given_back: BTreeMap<String, u32>,
    refused: BTreeSet<String>,
}

impl Broker {
    fn serve(&mut self, request: &Request, mood: Mood) -> Report {
        let cut = |was_sent| Report::Unanswered {
            reason: "cut".into(),
            was_sent,
        };
        let answer = |status, body: String| Report::Answered {
            status,
            body: body.into_bytes(),
            retry_after: None,
        };
        match mood {
            Mood::Away => return cut(false),
            Mood::Status(status) => {
                // A key that it knows it does not refuse for good.
                if status == 400 && !self.granted.contains_key(&request.key) {
                    self.refused.insert(request.key.clone());
                }
                let status = if status == 400 && self.granted.contains_key(&request.key) {
                    503
                } else {
                    status
                };
                return answer(status, String::new());
            }
            Mood::Well | Mood::Garbled | Mood::Cut => {}
        }
        let body = if let Some(resource) = request.url.strip_prefix("http://broker/give/") {
            if !self.live.remove(resource) {
                return answer(404, String::new());
            }
            *self.given_back.entry(resource.to_owned()).or_default() += 1;
            String::new()
        } else {
            let next = format!("r-{}", self.granted.len());
            let live = &mut self.live;
            let resource = self.granted.entry(request.key.clone()).or_insert_with(|| {
                live.insert(next.clone());
                next
            });
            format!("{{\"id\": \"{resource}\", \"ttl\": 120}}")
        };
        match mood {
            Mood::Garbled => answer(200, "<html>".into()),
            Mood::Cut => cut(true),
            _ => answer(200, body),
        }
    }
}

struct World {
    engine: Option<Engine<FakeHost>>,
    host: FakeHost,
    directory: tempfile::TempDir,
    rules: Vec<Rule>,
    broker: Broker,
    mood: Mood,
    /// Errands that the allocator has dealt with, and whose answers are on their way.
    answers: Vec<(u64, Report)>,
    started: [i64; ALERTS],
}

fn policy(rules: &[Rule]) -> Policy {
    Policy {
        rules: RuleSet {
            rules: rules.iter().cloned().map(Arc::new).collect(),
        },
        enforce: true,
        here: Here::new(vec!["instance".into()], "web1", "", &[]),
        protect: vec![],
        budget: Budget::default(),
        restore_on_exit: true,
        retention: Default::default(),
    }
}

impl World {
    fn new() -> World {
        let step = "allocate: {url: 'http://broker/take', resource: /id, ttl: /ttl, \
                    release: {url: 'http://broker/give/{{ $resource }}'}}";
        let mut world = World {
            engine: None,
            host: FakeHost::new(2, "2026-01-01T00:00:00Z".parse().unwrap()),
            directory: tempfile::tempdir().unwrap(),
            rules: vec![rule(&["wait: 5s", step], "hold: 10m")],
            broker: Broker::default(),
            mood: Mood::Well,
            answers: Vec::new(),
            started: [0; ALERTS],
        };
        world.start();
        world
    }

    /// Starts the daemon on what the ledger holds, as often as it takes.
    fn start(&mut self) {
        loop {
            let (host, path) = (self.host.clone(), self.directory.path().to_owned());
            let policy = policy(&self.rules);
            let started = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let (journal, book) = Journal::open(&path, BootId(1));
                let mut engine = Engine::new(host, journal, book, policy, Box::new(|_| None), Tally::default());
                engine.resume();
                engine
            }));
            // What was asked before it died was asked all the same, but nobody waits for an answer.
            if let Ok(engine) = started {
                self.engine = Some(engine);
                return;
            }
        }
    }

    /// Does something with the engine, which may die of it and is started anew then.
    fn with(&mut self, deed: impl FnOnce(&mut Engine<FakeHost>)) {
        let mut engine = self.engine.take().unwrap();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            deed(&mut engine);
            if engine.time_until_due().is_some_and(|left| left.is_zero()) {
                engine.tick();
            }
        }));
        fault::arm(None);
        self.serve(engine.host());
        self.host = engine.host().clone();
        match result {
            Ok(()) => self.engine = Some(engine),
            Err(_) => {
                drop(engine);
                self.answers.clear();
                self.start();
                let mut engine = self.engine.take().unwrap();
                self.serve(engine.host());
                self.engine = Some(engine);
            }
        }
    }

    /// The allocator deals with what reached it.
    fn serve(&mut self, host: &mut FakeHost) {
        for (ticket, errand) in std::mem::take(&mut host.errands) {
            let Errand::Request(request, _) = errand else { panic!() };
            let report = self.broker.serve(&request, self.mood);
            self.answers.push((ticket, report));
        }
    }

    /// From one thing that is due to the next.
    fn pass(&mut self, seconds: u64) {
        let mut left = Duration::from_secs(seconds);
        while !left.is_zero() {
            let due = self.engine.as_ref().unwrap().time_until_due().unwrap_or(left);
            let step = due.clamp(Duration::from_millis(500), left.max(Duration::from_millis(500)));
            self.with(|engine| engine.host().advance(step));
            left = left.saturating_sub(step);
        }
    }

    fn alert(&self, number: usize, status: Status) -> Alert {
        let labels: crate::alert::Labels = [
            ("alertname".to_owned(), "more".to_owned()),
            ("instance".to_owned(), "web1".to_owned()),
            ("number".to_owned(), number.to_string()),
        ]
        .into();
        let starts_at = jiff::Timestamp::from_second(1_700_000_000 + self.started[number]).unwrap();
        Alert {
            fingerprint: fingerprint(&labels),
            labels,
            annotations: Default::default(),
            status,
            starts_at,
            ends_at: (status == Status::Resolved).then_some(starts_at),
            source: Source::Alertmanager,
        }
    }

    fn answer(&mut self, newest_first: bool, is_lost: bool) {
        let mut answers = std::mem::take(&mut self.answers);
        if newest_first {
            answers.reverse();
        }
        for (ticket, report) in answers {
            let report = if is_lost {
                Report::Unanswered {
                    reason: "no answer within 10 s".into(),
                    was_sent: true,
                }
            } else {
                report
            };
            self.with(|engine| engine.reported(ticket, &report));
        }
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Fire(number) => {
                let alert = self.alert(number, Status::Firing);
                self.with(|engine| drop(engine.take(&[alert], Instant::now())));
            }
            Op::Resolve(number) => {
                let alert = self.alert(number, Status::Resolved);
                self.started[number] += 10;
                self.with(|engine| drop(engine.take(&[alert], Instant::now())));
            }
            Op::Pass(seconds) => self.pass(seconds),
            Op::Mood(mood) => self.mood = mood,
            Op::Answer { newest_first, is_lost } => self.answer(newest_first, is_lost),
            Op::Restart => {
                self.with(Engine::shut_down);
                self.answer(false, false);
                self.answers.clear();
                self.start();
                self.with(|_| {});
            }
            Op::Release => self.with(|engine| {
                engine.release(None);
            }),
            Op::Reload(has_rule) => {
                let all = policy(&self.rules);
                let none = policy(&[]);
                self.with(|engine| engine.reload(if has_rule { all } else { none }));
            }
            Op::Pause(paused) => self.with(|engine| engine.pause(paused)),
        }
    }

    /// Everything is over, and the allocator well again: how many leases are left.
    fn end(&mut self) -> usize {
        self.mood = Mood::Well;
        for number in 0..ALERTS {
            self.act(&Op::Resolve(number));
        }
        for _ in 0..30 {
            self.answer(false, false);
            self.pass(30);
        }
        self.engine.as_ref().unwrap().book().leases.len()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..config(200) })]

    #[test]
    fn grants_and_releases_match_one_to_one(
        history in proptest::collection::vec((op(), proptest::option::weighted(0.2, 0u32..12)), 1..40),
    ) {
        let mut world = World::new();
        for (op, death) in &history {
            fault::arm(*death);
            world.act(op);
            fault::arm(None);
        }
        let left = world.end();
        let broker = &world.broker;
        prop_assert_eq!(left, 0, "leases are left");
        prop_assert!(broker.live.is_empty(), "leaked: {:?}", broker.live);
        prop_assert_eq!(broker.granted.len(), broker.given_back.len());
        prop_assert!(broker.given_back.values().all(|count| *count == 1));
    }
}
