//! Random histories of alerts, faults of an allocator and crashes of the daemon. Every grant is released exactly
//! once, and none is granted twice under one key. Without a firing alert the engine sends requests only to learn what
//! was granted. A grant that cannot be released is in the history, and its lease does not stay forever.

use super::histories::config;
use super::jobs::rule;
use super::*;
use crate::alert::{Alert, Source, Status, alert::fingerprint};
use crate::host::fake::FakeHost;
use crate::host::fault;
use crate::host::job::{Job, Report, Request};
use crate::ledger::Outcome;
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
    /// By its number, which may drop it.
    ReleaseOne(usize),
    Reload(bool),
    Pause(bool),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Status(u16),
    /// It does what it is asked, and its answer is of no use.
    Garbled,
    /// It does what it is asked, and its answer has no resource where the rule looks for one.
    Unnamed,
    Cut,
    /// Nothing reaches it.
    Away,
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        4 => Just(Mood::Well),
        2 => prop_oneof![Just(500), Just(503), Just(302), Just(403), Just(400), Just(404)].prop_map(Mood::Status),
        2 => Just(Mood::Garbled),
        2 => Just(Mood::Unnamed),
        2 => Just(Mood::Cut),
        1 => Just(Mood::Away),
    ]
}

/// The alert resolves while a renewal is under way, which chance alone seldom brings about.
fn resolve_during_renewal() -> impl Strategy<Value = Vec<Op>> {
    let answer = |is_lost| Op::Answer {
        newest_first: false,
        is_lost,
    };
    (0..ALERTS, mood(), any::<bool>()).prop_map(move |(number, mood, is_lost)| {
        vec![
            Op::Pause(false),
            Op::Reload(true),
            Op::Mood(Mood::Well),
            Op::Fire(number),
            Op::Pass(6),
            answer(false),
            Op::Mood(mood),
            Op::Pass(81),
            Op::Resolve(number),
            answer(is_lost),
        ]
    })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        12 => op().prop_map(|op| vec![op]),
        1 => resolve_during_renewal(),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..ALERTS).prop_map(Op::Fire),
        4 => (0..ALERTS).prop_map(Op::Resolve),
        6 => (1u64..90).prop_map(Op::Pass),
        6 => mood().prop_map(Op::Mood),
        12 => any::<(bool, bool)>().prop_map(|(newest_first, is_lost)| Op::Answer { newest_first, is_lost }),
        2 => Just(Op::Restart),
        1 => Just(Op::Release),
        2 => (0..ALERTS).prop_map(Op::ReleaseOne),
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
    /// Keys under which something was granted and not named.
    unnamed: BTreeSet<String>,
}

fn is_release(request: &Request) -> bool {
    request.url.starts_with("http://broker/give/")
}

impl Broker {
    /// `is_renewal`: the daemon knows what it was granted under this key.
    fn serve(&mut self, request: &Request, is_renewal: bool, mood: Mood) -> Report {
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
                // A key that it knows it does not refuse for good, unless it is to renew: that says nothing about what
                // stands.
                let is_known = self.granted.contains_key(&request.key) || is_release(request);
                let status = if matches!(status, 400 | 404) && is_known && !is_renewal {
                    503
                } else {
                    status
                };
                return answer(status, String::new());
            }
            Mood::Well | Mood::Garbled | Mood::Unnamed | Mood::Cut => {}
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
            Mood::Unnamed => {
                self.unnamed.insert(request.key.clone());
                answer(200, "{\"status\": \"ok\"}".into())
            }
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
    /// Errands that the allocator has dealt with, and whose answers are on their way; with the key that was asked for.
    answers: Vec<(u64, Option<String>, Report)>,
    /// Requests by key of which the daemon was not told a clear no.
    in_doubt: BTreeMap<String, u32>,
    /// Keys of leases that were dropped by hand.
    dropped: BTreeSet<String>,
    /// Requests that should not have been sent.
    undue: Vec<String>,
    started: [i64; ALERTS],
}

fn allocation(lease: &Lease) -> &crate::ledger::Allocation {
    match &lease.effect {
        crate::ledger::Effect::Allocation(allocation) => allocation,
        other => panic!("{other:?}"),
    }
}

fn policy(rules: &[Rule]) -> Policy {
    Policy {
        rules: RuleSet {
            rules: rules.iter().cloned().map(Arc::new).collect(),
        },
        enforce: true,
        host_identity: HostIdentity::new(vec!["instance".into()], "web1", "", &[]),
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
            in_doubt: BTreeMap::new(),
            dropped: BTreeSet::new(),
            undue: Vec::new(),
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
                let (journal, ledger) = Journal::open(&path, BootId(1));
                let mut engine = Engine::new(host, journal, ledger, policy, Box::new(|_| None), Telemetry::default());
                engine.resume();
                engine
            }));
            // What was asked before it died was asked all the same, but no daemon waits for an answer.
            if let Ok(engine) = started {
                self.engine = Some(engine);
                return;
            }
        }
    }

    /// Does something with the engine, which may die of it and is restarted then.
    fn with(&mut self, host_action: impl FnOnce(&mut Engine<FakeHost>)) {
        let mut engine = self.engine.take().unwrap();
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
            host_action(&mut engine);
            if engine.time_until_due().is_some_and(|left| left.is_zero()) {
                engine.tick();
            }
        }));
        fault::arm(None);
        self.serve(&mut engine);
        self.host = engine.host().clone();
        match result {
            Ok(()) => self.engine = Some(engine),
            Err(_) => {
                drop(engine);
                self.answers.clear();
                // What it was told it may not have written down.
                self.in_doubt.values_mut().for_each(|count| *count += 1);
                self.start();
                let mut engine = self.engine.take().unwrap();
                self.serve(&mut engine);
                self.engine = Some(engine);
            }
        }
    }

    /// The allocator deals with what reached it.
    fn serve(&mut self, engine: &mut Engine<FakeHost>) {
        for (ticket, job) in std::mem::take(&mut engine.host().jobs) {
            let Job::Request(request, _) = job else { panic!() };
            let mut leases = engine.ledger().leases.values();
            let lease = leases.find(|lease| allocation(lease).ask.key == request.key);
            let is_renewal = lease.is_some_and(|lease| allocation(lease).resource().is_some());
            let mut asked_for = None;
            if !is_release(&request) {
                let doubt = self.in_doubt.entry(request.key.clone()).or_default();
                if lease.is_some_and(Lease::is_ending) && *doubt == 0 {
                    self.undue.push(request.key.clone());
                }
                *doubt += 1;
                asked_for = Some(request.key.clone());
            }
            let report = self.broker.serve(&request, is_renewal, self.mood);
            self.answers.push((ticket, asked_for, report));
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
            generator_url: None,
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
        for (ticket, asked_for, report) in answers {
            let report = if is_lost {
                Report::Unanswered {
                    reason: "no answer within 10 s".into(),
                    was_sent: true,
                }
            } else {
                report
            };
            let is_clear_no = matches!(
                report,
                Report::Answered { status: 300..500, .. } | Report::Unanswered { was_sent: false, .. }
            );
            if let Some(key) = asked_for.filter(|_| is_clear_no) {
                let doubt = self.in_doubt.get_mut(&key).unwrap();
                *doubt = doubt.saturating_sub(1);
            }
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
                engine.release(None, &OperatorRequest::example());
            }),
            Op::ReleaseOne(place) => {
                let held = self
                    .engine
                    .as_ref()
                    .unwrap()
                    .ledger()
                    .leases
                    .values()
                    .nth(place)
                    .cloned();
                let Some(lease) = held else { return };
                self.with(|engine| {
                    engine.release(Some(lease.id), &OperatorRequest::example());
                });
                if !self.engine.as_ref().unwrap().ledger().leases.contains_key(&lease.id) {
                    self.dropped.insert(allocation(&lease).ask.key.clone());
                }
            }
            Op::Reload(has_rule) => {
                let all = policy(&self.rules);
                let none = policy(&[]);
                self.with(|engine| engine.reload(if has_rule { all } else { none }));
            }
            Op::Pause(paused) => self.with(|engine| engine.pause(paused, &OperatorRequest::example())),
        }
    }

    /// Everything is over, and the allocator in this mood: how many leases are left.
    fn end(&mut self, mood: Mood) -> usize {
        self.mood = mood;
        for number in 0..ALERTS {
            self.act(&Op::Resolve(number));
        }
        // After many failures the five responses without a name, after which it stops, are five minutes apart.
        for _ in 0..60 {
            self.answer(false, false);
            self.pass(30);
        }
        self.engine.as_ref().unwrap().ledger().leases.len()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..config(200) })]

    #[test]
    fn grants_and_releases_match_one_to_one(
        history in proptest::collection::vec((ops(), proptest::option::weighted(0.2, 0u32..12)), 1..40),
        last_mood in prop_oneof![3 => Just(Mood::Well), 1 => Just(Mood::Unnamed)],
    ) {
        let mut world = World::new();
        for (ops, death) in &history {
            for (place, op) in ops.iter().enumerate() {
                fault::arm(death.filter(|_| place + 1 == ops.len()));
                world.act(op);
                fault::arm(None);
            }
        }
        let left = world.end(last_mood);
        let broker = &world.broker;
        prop_assert_eq!(left, 0, "leases are left");
        prop_assert!(world.undue.is_empty(), "asked for after the end: {:?}", world.undue);
        prop_assert!(broker.given_back.values().all(|count| *count == 1));
        prop_assert_eq!(broker.granted.len(), broker.given_back.len() + broker.live.len());
        // What stands was never named or was dropped by hand, and the history says which it is.
        let records = world.engine.as_ref().unwrap().records();
        let failed: Vec<_> = records.iter().filter(|record| record.outcome == Some(Outcome::Failed)).collect();
        for (key, resource) in broker.granted.iter().filter(|(_, resource)| broker.live.contains(*resource)) {
            prop_assert!(broker.unnamed.contains(key) || world.dropped.contains(key), "leaked: {}", key);
            let names = [key.clone(), format!("{resource:?}")];
            let is_told = failed.iter().any(|record| names.iter().any(|name| record.reason.contains(name)));
            prop_assert!(is_told, "not told: {}", key);
        }
    }
}
