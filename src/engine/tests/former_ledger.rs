//! A ledger that version 0.1 wrote (`tests/fixtures/ledger/schema-2.sql`): its leases, episodes and history are found, and
//! what it holds is restored.

use super::*;
use crate::host::job::{End, Job, Report};
use crate::knob::limit::{CgroupFile, Setting};
use crate::ledger::files::FILE_NAME;
use crate::ledger::{EpisodeKey, EvidenceSource, LedgerState};

const UNIT: &str = "/work.slice/one.service";
const ALERTS: [&str; 6] = ["calm", "limit", "loud", "end", "more", "run"];

/// A rule that answers the alert of its name with these steps.
fn rule(name: &str, more: &str, steps: &[&str]) -> Rule {
    let example = example(name, "nice 1");
    Rule {
        name: example.name,
        matchers: example.matchers,
        ..jobs::rule(steps, more)
    }
}

/// The history that wrote the file: each kind of lease, a victim that waits for SIGKILL, a target that was released by
/// hand, an episode that ended, and one in dry-run.
fn history() -> World {
    let processes = |name: &str| format!("select: {{name: {name}}}");
    let unit = r"select: {cgroup: '/work\.slice/one\.service'}";
    let allocate = "allocate: {url: 'http://broker/take', resource: /id, ttl: /ttl, release: {url: 'http://broker/give/{{ $resource }}'}}";
    let steps = ["nice: 15", "oom_score_adj: 500", "affinity: 0-1", "ionice: idle"];
    let mut dry = rule("dry", &processes("burner"), &["signal: SIGTERM"]);
    (dry.matchers, dry.dry_run) = (example("calm", "nice 1").matchers, true);
    let rules = vec![
        rule("calm", &processes("burner"), &steps),
        rule("limit", unit, &["cgroup: {cpu.max: -50%, memory.high: 100000000}"]),
        rule(
            "loud",
            &processes("daemon"),
            &["signal: {send: SIGUSR1, undo: SIGUSR2}"],
        ),
        rule(
            "end",
            &processes("victim"),
            &["signal: SIGTERM", "wait: 10m", "signal: SIGKILL"],
        ),
        rule("more", "hold: 1h", &[allocate]),
        rule(
            "run",
            "hold: 1h",
            &["exec: {argv: [/bin/do, it], undo: [/bin/undo, it]}"],
        ),
        rule("past", &processes("daemon"), &["nice: 5"]),
        dry,
    ];
    let mut world = world(policy(rules));
    let host = world.engine.host();
    for (pid, name) in [(100, "burner"), (101, "burner"), (110, "daemon"), (120, "victim")] {
        let mut process = Process::example(pid, name);
        process.details.exe = Some(format!("/usr/bin/{name}"));
        process.details.caught_signals = Some(u64::MAX);
        process.details.cgroup = Some(UNIT.into());
        host.add(process);
    }
    let unit = host.add_cgroup(UNIT);
    let quota = Setting::parse(CgroupFile::CpuMax, "200000").unwrap();
    unit.settings.insert(CgroupFile::CpuMax, quota);
    world.ignores_sigterm(120);
    for name in ALERTS {
        world.fire(name);
    }
    for (ticket, job) in std::mem::take(&mut world.engine.host().jobs) {
        let report = match job {
            Job::Request(..) => Report::Answered {
                status: 200,
                body: br#"{"id": "a", "ttl": 3000}"#.to_vec(),
                retry_after: None,
            },
            Job::Command(_) => Report::Ended {
                end: End::Status(0),
                output: "done\n".into(),
            },
        };
        world.engine.reported(ticket, &report);
    }
    world.fire("past");
    world.resolve("past");
    world.resolve("loud");
    world.send("loud", Status::Firing, 400, Source::Alertmanager);
    world.pass(20);
    let id = world.engine.ledger().leases.keys().next().copied();
    world.engine.release(id, &OperatorRequest::example());
    world.pass(1);
    world
}

/// What a ledger holds, in words that do not depend on the names of types.
fn summary(ledger: &LedgerState) -> Vec<String> {
    let leases = ledger.leases.values().map(|lease| {
        format!(
            "lease {} of {} on {}: {} {:?}, until {:?}, {}, {}",
            lease.id,
            lease.rule,
            lease.target,
            lease.knob(),
            lease.effect.value().map(ToString::to_string),
            lease.runs_out_at(),
            lease.settled,
            lease.is_undoing,
        )
    });
    let episodes = ledger.episodes.values().map(|episode| {
        let targets = episode
            .targets
            .iter()
            .map(|progress| format!("{} {}", progress.target, progress.step_index));
        format!(
            "episode of {} since {}, {}: {:?}, without {}, {:?}",
            episode.key.rule,
            episode.starts_at,
            episode.key.simulated,
            targets.collect::<Vec<_>>(),
            episode.excluded.len(),
            episode.evidence.last_firing(EvidenceSource::Webhook),
        )
    });
    let victims = ledger.victims.iter().map(|victim| {
        format!(
            "victim {} of {}: {:?}, {:?}",
            victim.target, victim.rule, victim.signals, victim.gone_at
        )
    });
    let is_over = |key: &&EpisodeKey| !ledger.episodes.contains_key(*key);
    let closed = ledger.closed.keys().filter(is_over);
    let closed = closed.map(|key| format!("closed {} {}", key.rule, ledger.closed[key].ended_at));
    leases.chain(episodes).chain(victims).chain(closed).collect()
}

#[test]
fn ledger_of_the_former_version_is_read_and_undone() {
    let mut world = history();
    let expected = summary(world.engine.ledger());
    // That version recorded neither requests of operators nor matches beyond the limit.
    let records = world
        .engine
        .journal
        .records()
        .iter()
        .filter(|record| record.operation.is_none() && record.decision != Some(Decision::BeyondLimit))
        .count();
    let host = world.engine.host().clone();
    world.engine = super::world(policy(vec![])).engine;
    let path = world.directory.path().join(FILE_NAME);
    std::fs::remove_file(&path).unwrap();
    let former = include_str!("../../../tests/fixtures/ledger/schema-2.sql");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch(former)
        .unwrap();
    world.engine = engine(host, world.directory.path(), world.policy.clone(), &world.telemetry);
    assert_eq!(summary(world.engine.ledger()), expected);
    assert_eq!(world.engine.journal.records().len(), records);
    for name in ALERTS {
        world.send(name, Status::Resolved, 500, Source::Alertmanager);
    }
    assert_eq!((world.nice(100), world.nice(101)), (vec![0], vec![0]));
    let quota = world.engine.host().cgroups[UNIT].settings[&CgroupFile::CpuMax].to_string();
    assert_eq!(quota, "200000 100000");
    assert_eq!(world.signals().last(), Some(&(110, Signal::SIGUSR2)));
    let asked = world.engine.host().jobs.len();
    assert_eq!(
        (asked, world.engine.ledger().leases.values().count()),
        (2, 2),
        "both are asked to be given back"
    );
}
