//! The warm-up at start: one run of the code from a sample to an action, in dry-run, with rules that are not in the
//! configuration and a ledger in memory. The pages of that code are in memory afterwards, so that the first reaction
//! need not read them from a busy disk. Any thread can run it, because all threads share the pages.

use crate::act::guard::Protection;
use crate::alert::alert::fingerprint;
use crate::alert::{Alert, Labels, Matcher, Op, Source, Status};
use crate::engine::select::still_holds;
use crate::engine::{Answer, Engine, Policy};
use crate::family::Family;
use crate::host::{Host, LinuxHost, program_pages};
use crate::ledger::{Journal, LedgerState};
use crate::process::selector::{Condition, Pattern};
use crate::process::table::Procfs;
use crate::process::{BootId, Identity, Process, Selector, protection};
use crate::rule::{OrderBy, OrderKey, Rule, RuleSet, Step, TargetSelector};
use crate::step::Send;
use crate::telemetry::Telemetry;
use crate::watch::evaluator::{Evaluator, EvaluatorSettings};
use crate::watch::history::{History, SnapshotSource};
use crate::watch::rule_file::parse;
use jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

const NAME: &str = "rehearsal";
/// Maximum wait for the ledger at the start.
const FIRST_LEDGER: Duration = Duration::from_secs(2);
/// Maximum wait for the warm-up, because a process that is blocked in the kernel may block the warm-up as well.
const MAX_WARM_UP: Duration = Duration::from_secs(5);

/// Releases the pages that the start has used, and warms up. Without an engine `engine_began` has no sender.
pub async fn settle(procfs: Option<Procfs>, policy: Policy, engine_began: oneshot::Receiver<()>) {
    // The ledger must be open before the daemon logs that it is ready, and the memory that opening it took must be freed.
    let _ = timeout(FIRST_LEDGER, engine_began).await;
    let (done, warmed_up) = oneshot::channel::<()>();
    // On its own thread, because it blocks, and drops runtimes, which panics inside another runtime.
    let thread = thread::Builder::new().name("warm-up".into()).spawn(move || {
        let warm_up = procfs.map(|procfs| WarmUp::prepare(&procfs, &policy));
        program_pages::release();
        if let Some(warm_up) = warm_up {
            warm_up.process_alerts();
        }
        drop(done);
    });
    if thread.is_ok() {
        let _ = timeout(MAX_WARM_UP, warmed_up).await;
    }
}

/// A prepared warm-up.
#[derive(Default)]
struct WarmUp {
    reaction: Option<Reaction>,
    evaluation: Option<Evaluation>,
}

impl WarmUp {
    /// Prepares parsers, patterns and a database, with code that the daemon does not need again. Do not call or drop it
    /// on a tokio worker, because the host has a runtime of its own.
    fn prepare(procfs: &Procfs, policy: &Policy) -> WarmUp {
        silently(|| {
            let host = LinuxHost::new(procfs.clone(), Arc::new(|_| {}));
            WarmUp {
                reaction: Reaction::prepare(host, procfs, policy),
                evaluation: Evaluation::prepare(),
            }
        })
        .unwrap_or_default()
    }

    /// Runs the code, without effects and log lines.
    fn process_alerts(self) {
        silently(|| {
            self.evaluation.map(Evaluation::process_alerts);
            if let Some(mut reaction) = self.reaction {
                reaction.process_alerts();
            }
        });
    }
}

/// Runs `work` without logging. Ignores panics, because the daemon itself reports its errors.
fn silently<T>(work: impl FnOnce() -> T) -> Option<T> {
    let silent = || tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), work);
    catch_unwind(AssertUnwindSafe(silent)).ok()
}

/// The code from an alert to an action.
struct Reaction {
    engine: Engine<LinuxHost>,
    bystander: Process,
    rule: Arc<Rule>,
    boot: BootId,
}

impl Reaction {
    fn prepare(mut host: LinuxHost, procfs: &Procfs, policy: &Policy) -> Option<Reaction> {
        let own_ancestors = host.own_ancestors();
        let table = host.processes().ok()?;
        let others = table
            .iter()
            .filter(|process| !process.is_kernel_thread && !own_ancestors.contains(&process.identity.pid));
        let bystander = others.max_by_key(|process| process.resident_bytes)?.clone();
        let rule = Arc::new(rule(bystander.identity.pid)?);
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
        Some(Reaction {
            engine: Engine::new(
                host,
                journal,
                LedgerState::default(),
                policy,
                conditions,
                Telemetry::default(),
            ),
            bystander,
            rule,
            boot: procfs.boot,
        })
    }

    fn process_alerts(&mut self) {
        let _ = self.engine.take(&[alert()], Instant::now());
        let own_ancestors = self.engine.host().own_ancestors();
        let protection = Protection {
            own_ancestors: &own_ancestors,
            protect: &[],
        };
        if let Some(selector) = self.rule.selector() {
            let _ = still_holds(self.engine.host(), &self.bystander, &self.rule, selector, &protection);
        }
        // A pid that does not exist, so that no signal is sent.
        let absent = Identity {
            boot: self.boot,
            pid: std::process::id() as i32,
            start_ticks: u64::MAX,
        };
        let _ = self.engine.host().signal(absent, Signal::SIGCONT);
    }
}

/// The code from a sample to an alert.
struct Evaluation {
    evaluator: Evaluator,
    history: History,
}

impl Evaluation {
    fn prepare() -> Option<Evaluation> {
        const RULES: &str = "groups: [{name: rehearsal, rules: [{alert: rehearsal, expr: 'a / a * 100 > 0'}]}]";
        let evaluator = Evaluator::new(EvaluatorSettings::default(), vec![parse(NAME, RULES).ok()?]);
        let history = History::new(evaluator.read_set());
        Some(Evaluation { evaluator, history })
    }

    /// Returns the number of alerts.
    fn process_alerts(mut self) -> usize {
        let family = Family::gauge("a", "").value(1.0);
        self.history.append(SnapshotSource::default(), 1000, &[family], &[]);
        let round = self
            .evaluator
            .evaluate_early(&mut self.history, 1000, &HashSet::from(["a"]));
        round.transitions.len()
    }
}

/// A rule that kills a process.
fn rule(pid: i32) -> Option<Rule> {
    let conditions = vec![
        Condition::Pid(Pattern::fixed(&pid.to_string()).ok()?),
        Condition::Cmdline(Pattern::fixed(".*").ok()?),
    ];
    Some(Rule {
        name: NAME.into(),
        matchers: vec![Matcher::new("alertname", Op::Equal, NAME).ok()?],
        target_selector: TargetSelector::Processes(Selector { conditions }),
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
        generator_url: None,
        status: Status::Firing,
        starts_at: Timestamp::now(),
        ends_at: None,
        source: Source::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::budget::Budget;
    use crate::engine::host_identity::HostIdentity;
    use crate::ledger::Decision;
    use std::path::Path;

    #[test]
    fn warm_up_reaches_a_decision_without_effect() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let procfs = Procfs::open(Path::new("/proc")).unwrap();
        let host = LinuxHost::new(
            procfs.clone(),
            Arc::new(|_| unreachable!("the warm-up kills no process")),
        );
        let policy = Policy {
            rules: RuleSet { rules: Vec::new() },
            enforce: true,
            host_identity: HostIdentity::new(Vec::new(), "web1", "", &[]),
            protect: Vec::new(),
            budget: Budget::default(),
            restore_on_exit: true,
            retention: Default::default(),
        };
        let mut reaction = Reaction::prepare(host, &procfs, &policy).unwrap();
        reaction.process_alerts();
        let records = reaction.engine.records();
        let decisions: Vec<_> = records.iter().filter_map(|record| record.decision).collect();
        assert_eq!(decisions, [Decision::DryRun]);
        assert_eq!(Evaluation::prepare().unwrap().process_alerts(), 1);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
