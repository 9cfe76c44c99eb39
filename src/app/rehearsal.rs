//! Before it counts, the way from a sample to a deed is walked once: with rules that the configuration does not have, in dry-run,
//! with a ledger in memory. So what the first reaction runs through is in memory by then, and is not read from a disk that
//! everybody waits for. On any thread: pages belong to all of them.

use crate::act::guard::Ward;
use crate::alert::alert::fingerprint;
use crate::alert::{Alert, Labels, Matcher, Op, Source, Status};
use crate::engine::select::still_holds;
use crate::engine::{Answer, Engine, Policy};
use crate::family::Family;
use crate::host::{Host, LinuxHost};
use crate::ledger::{Book, Journal};
use crate::process::selector::{Condition, Pattern};
use crate::process::table::Procfs;
use crate::process::{Identity, Selector, protection};
use crate::rule::step::Send;
use crate::rule::{Aim, OrderBy, OrderKey, Rule, RuleSet, Step};
use crate::tally::Tally;
use crate::watch::evaluator::{Evaluator, Settings};
use crate::watch::history::{History, Source as Wrote};
use crate::watch::rule_file::parse;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "rehearsal";

/// Nothing is done and nothing is told. Not to be called where tokio runs tasks: the host has a runtime of its own, which ends here.
pub fn rehearse(procfs: &Procfs, policy: &Policy) {
    // A fault in it shows again where it matters.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
            rehearse_evaluation();
            let host = LinuxHost::new(procfs.clone(), Arc::new(|_| {}));
            drop(walk(host, procfs, policy));
        });
    }));
}

fn walk(mut host: LinuxHost, procfs: &Procfs, policy: &Policy) -> Option<Engine<LinuxHost>> {
    let own_line = host.own_line();
    let table = host.processes().ok()?;
    let others = table
        .iter()
        .filter(|process| !process.is_kernel_thread && !own_line.contains(&process.identity.pid));
    let somebody = others.max_by_key(|process| process.resident_bytes)?;
    let rule = Arc::new(rule(somebody.identity.pid)?);
    let policy = Policy {
        rules: RuleSet {
            rules: vec![Arc::clone(&rule)],
        },
        enforce: false,
        protect: Vec::new(),
        ..policy.clone()
    };
    let conditions = Box::new(|_: &str| {
        Some(Answer {
            holds: true,
            sample_at: Duration::MAX,
        })
    });
    let journal = Journal::in_memory(procfs.boot).ok()?;
    let mut engine = Engine::new(host, journal, Book::default(), policy, conditions, Tally::default());
    let _ = engine.take(&[alert()], Instant::now());
    let ward = Ward {
        own_line: &own_line,
        protect: &[],
    };
    still_holds(engine.host(), somebody, &rule, rule.selector()?, &ward);
    // To one who is not there: found out before anything is sent.
    let nobody = Identity {
        boot: procfs.boot,
        pid: std::process::id() as i32,
        start_ticks: u64::MAX,
    };
    let _ = engine.host().signal(nobody, Signal::SIGCONT);
    Some(engine)
}

/// Evaluates an alerting rule that fires. Returns how many alerts that made.
fn rehearse_evaluation() -> usize {
    const RULES: &str = "groups: [{name: rehearsal, rules: [{alert: rehearsal, expr: 'a / a * 100 > 0'}]}]";
    let Ok(file) = parse(NAME, RULES) else { return 0 };
    let mut evaluator = Evaluator::new(Settings::default(), vec![file]);
    let mut history = History::new(evaluator.interest());
    history.append(Wrote::default(), 1000, &[Family::gauge("a", "").value(1.0)], &[]);
    let round = evaluator.evaluate_early(&mut history, 1000, &HashSet::from(["a"]));
    round.transitions.len()
}

/// One that ends a process.
fn rule(pid: i32) -> Option<Rule> {
    let conditions = vec![
        Condition::Pid(Pattern::fixed(&pid.to_string()).ok()?),
        Condition::Cmdline(Pattern::fixed(".*").ok()?),
    ];
    Some(Rule {
        name: NAME.into(),
        matchers: vec![Matcher::new("alertname", Op::Equal, NAME).ok()?],
        aim: Aim::Processes(Selector { conditions }),
        order_by: OrderBy {
            key: OrderKey::Memory,
            reverse: false,
        },
        limit: 1,
        max_matches: 1,
        condition: None,
        actions: vec![Step::Signal(Send {
            signal: Signal::SIGTERM,
            undo: None,
        })],
        hold: Duration::from_secs(60),
        cooldown: Duration::ZERO,
        any_host: true,
        dry_run: true,
        overrides: protection::BUILT_IN.iter().map(|entry| entry.name.to_owned()).collect(),
        without_ledger: false,
    })
}

fn alert() -> Alert {
    let labels = Labels::from([("alertname".to_owned(), NAME.to_owned())]);
    Alert {
        fingerprint: fingerprint(&labels),
        labels,
        annotations: Labels::new(),
        status: Status::Firing,
        starts_at: Timestamp::now(),
        ends_at: None,
        source: Source::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::guard::Budget;
    use crate::engine::here::Here;
    use crate::ledger::Decision;
    use std::path::Path;

    #[test]
    fn the_rehearsal_reaches_a_decision_and_does_nothing() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let procfs = Procfs::open(Path::new("/proc")).unwrap();
        let host = LinuxHost::new(procfs.clone(), Arc::new(|_| unreachable!("nobody is ended")));
        let policy = Policy {
            rules: RuleSet { rules: Vec::new() },
            enforce: true,
            here: Here::new(Vec::new(), "web1", "", &[]),
            protect: Vec::new(),
            budget: Budget::default(),
            restore_on_exit: true,
            retention: Default::default(),
        };
        let engine = walk(host, &procfs, &policy).unwrap();
        let decisions: Vec<_> = engine.records().iter().filter_map(|record| record.decision).collect();
        assert_eq!(decisions, [Decision::DryRun]);
        assert_eq!(rehearse_evaluation(), 1);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
