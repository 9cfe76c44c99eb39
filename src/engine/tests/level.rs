//! A model-based property test. Simulated Prometheus servers, Alertmanagers and the real own evaluation report alerts to
//! the real engine on a fake host. After every action the state of engine and host is compared with what the sources
//! have said: see `invariants.rs` for what must hold.

mod actions;
mod answers;
mod evidence;
mod findings;
mod generator;
mod invariants;
mod own_evaluation;
mod policies;
mod processes;
mod senders;
mod simulation;

use super::histories::config;
use generator::history;
use proptest::prelude::*;
use simulation::Simulation;
use std::time::Duration;

/// `hold` of every rule: a firing that a webhook reported counts for this long.
const HOLD: Duration = Duration::from_secs(40 * 60);
/// `repeat_interval` of the Alertmanagers: shorter than `hold`, so that a repeat comes in time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// How often the Alertmanagers are asked.
const SURVEY_INTERVAL: Duration = Duration::from_secs(30);
/// `patience` of a survey: an alert that an Alertmanager listed counts for this long.
const PATIENCE: Duration = Duration::from_secs(300);
/// Own evaluation that was silent for longer confirms nothing.
const OWN_BOUND: Duration = Duration::from_secs(60);
/// The daemon samples the host, and evaluates its own rules, this often.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);
/// `for` of the own alerting rules.
const FOR: Duration = Duration::from_secs(30);
/// After a start own evaluation need not know before this that an alert is over: it lacks samples.
const OWN_SETTLING: Duration = Duration::from_secs(150);
/// An episode that nothing has confirmed since a start, fault or reload ends after this.
const UNCONFIRMED_BOUND: Duration = Duration::from_secs(36 * 60);
/// Duplicates of one notification come within this; a firing that comes longer after an end is news.
const DUPLICATE_SPREAD: Duration = Duration::from_secs(300);
/// A delivery is late by this: less than the spread, so that it is a duplicate.
const DELIVERY_DELAY: Duration = Duration::from_secs(200);
/// Surveys and own evaluation that say the same for this long must be answered.
const STEADY: Duration = Duration::from_secs(60);
/// From the moment at which the rule must be answered until it is: two rounds of the engine.
const ANSWER_MARGIN: Duration = Duration::from_secs(45);
/// The same for a rule that ends processes: its waits, its cooldown and a margin.
const KILL_MARGIN: Duration = Duration::from_secs(300);
/// From the moment at which everything must be undone until it is: two rounds and a retry.
const UNDO_MARGIN: Duration = Duration::from_secs(45);
/// A process that was born or renamed less than this ago need not be noticed yet.
const NOTICE_MARGIN: Duration = Duration::from_secs(45);

/// By which a process may be younger than the alert that names its pid: clocks are compared.
const START_TOLERANCE: Duration = Duration::from_secs(3);

/// After the end of all conditions: long enough for the resolves to arrive, and the margins.
const END: Duration = Duration::from_secs(600);

/// Alerts by index; see `policies.rs` for their names and who raises them.
const ALERTS: usize = 5;
/// Alertmanagers, and Prometheus servers that each send to both.
const PAIR: usize = 2;

/// What may happen to the next notification of an Alertmanager on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    /// The sender believes that it arrived.
    IsLost,
    ComesTwice,
    IsLate,
}

#[derive(Debug, Clone)]
enum Action {
    /// The condition of an alert becomes true or false.
    Condition(usize, bool),
    /// Seconds.
    Pass(u64),
    /// A Prometheus server (first) is cut off from an Alertmanager, or connected again.
    PrometheusLink(usize, usize, bool),
    /// An Alertmanager cannot be asked and cannot send, or can again.
    AlertmanagerLink(usize, bool),
    /// It forgets everything.
    RestartAlertmanager(usize),
    Network(Fate),
    /// An orderly stop, and a start after seconds.
    Restart(u64),
    /// The daemon is killed and starts after seconds.
    Crash(u64),
    /// The engine's thread panics; the rest of the daemon goes on.
    EngineFault,
    /// Seconds until evenkeel runs again.
    Reboot(u64),
    /// Seconds.
    Suspend(u64),
    /// Minutes by which the host's wall clock is set.
    SetClock(i64),
    /// Index of a policy.
    Reload(usize),
    Release(Option<usize>),
    Pause(bool),
    Rename(usize, usize),
    /// Another process gets the pid of a slot.
    ReusePid(usize, usize),
    Dies(usize),
    ThreadBorn(usize),
    /// The kernel refuses to set the nice value, or allows it again.
    DenyNice(bool),
    /// The unit is started again, so that it has another cgroup.
    RestartUnit,
}

/// What stays the same in one history.
#[derive(Debug, Clone, Copy)]
struct Setup {
    /// Whether the Alertmanagers are asked.
    has_surveys: bool,
    /// Whether the Alertmanagers tell each other what they have sent.
    has_gossip: bool,
    /// Seconds by which the clock of each Alertmanager is wrong.
    skews: [i64; PAIR],
    /// Whether the ledger is on disk. The daemon then dies in some actions at a fault point.
    has_ledger: bool,
}

const PLAIN: Setup = Setup {
    has_surveys: false,
    has_gossip: true,
    skews: [0; PAIR],
    has_ledger: false,
};

/// An action, and after how many fault points the daemon dies in it.
type Move = (Action, Option<u32>);

/// Runs a history and returns what it violated.
fn violation(setup: Setup, moves: Vec<Move>) -> Option<String> {
    let mut simulation = Simulation::new(setup);
    for (action, death) in moves {
        if let Err(violation) = simulation.act(action, death) {
            return Some(violation);
        }
    }
    simulation.end().err()
}

proptest! {
    #![proptest_config(config(192))]

    #[test]
    fn engine_answers_exactly_what_the_sources_say((setup, moves) in history()) {
        if let Some(violation) = violation(setup, moves) {
            prop_assert!(false, "{violation}");
        }
    }
}
