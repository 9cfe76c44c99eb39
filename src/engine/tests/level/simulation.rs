//! Time passes: the senders, own evaluation and the engine do what is due, and what is said is noted as evidence.

use super::evidence::Evidence;
use super::invariants::Memory;
use super::own_evaluation::{AlertsFile, OwnEvaluation, Report};
use super::policies::{BASE, BOTH, CONFIGURATIONS, Configuration, OWN, UNIT};
use super::processes::Processes;
use super::senders::{Notification, Senders};
use super::*;
use crate::alert::alert::fingerprint;
use crate::alert::alertmanager::{PollResult, View};
use crate::alert::{Alert, Labels, Source, Status};
use crate::engine::Engine;
use crate::host::fake::FakeHost;
use crate::host::fault;
use crate::knob::limit::{CgroupFile, Setting};
use crate::ledger::{Journal, LedgerState};
use crate::process::BootId;
use crate::telemetry::Telemetry;
use jiff::{SignedDuration, Timestamp};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::time::Instant;

/// Wall-clock time at which the model begins.
pub const BEGINNING: &str = "2026-01-01T00:00:00Z";
const ALERTMANAGER_NAMES: [&str; PAIR] = ["http://am1:9093/", "http://am2:9093/"];

pub struct Simulation {
    pub setup: Setup,
    /// The model's clock: runs like CLOCK_BOOTTIME, and goes on over a reboot.
    pub now: Duration,
    pub engine: Engine<FakeHost>,
    pub own: OwnEvaluation,
    pub processes: Processes,
    pub senders: Senders,
    pub evidence: [Evidence; ALERTS],
    pub conditions: [bool; ALERTS],
    /// Index of the configuration in force.
    pub variant: usize,
    pub fate: Fate,
    pub boot: u128,
    pub memory: Memory,
    telemetry: Telemetry,
    directory: Option<tempfile::TempDir>,
    pub alerts: [Labels; ALERTS],
    /// What the unit has without evenkeel.
    pub unit_settings: BTreeMap<CgroupFile, Setting>,
    /// Which cgroup of the unit it is.
    pub unit_inode: u64,
    pub fingerprints: [SmolStr; ALERTS],
    /// Notifications that are late, and when they arrive.
    on_the_way: Vec<(Duration, Notification)>,
    sample_at: Duration,
    survey_at: Duration,
    /// The daemon died at a fault point in this action.
    pub has_died: bool,
}

fn wall(second: i64) -> Timestamp {
    static BEGUN: LazyLock<Timestamp> = LazyLock::new(|| BEGINNING.parse().unwrap());
    *BEGUN + SignedDuration::from_secs(second)
}

impl Simulation {
    pub fn new(setup: Setup) -> Simulation {
        let directory = setup
            .has_ledger
            .then(|| tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap()));
        let (boot, now) = (1, Duration::from_secs(3600));
        let mut host = FakeHost::new(4, wall(now.as_secs() as i64));
        let mut processes = Processes::default();
        processes.populate(&mut host, BootId(boot), now);
        let unit = host.add_cgroup(UNIT);
        let (unit_settings, unit_inode) = (unit.settings.clone(), unit.inode);
        let telemetry = Telemetry::default();
        let own = OwnEvaluation::start(BASE, AlertsFile::default(), host.now);
        let path = directory.as_ref().map(tempfile::TempDir::path);
        let (journal, ledger) = open(path, BootId(boot), LedgerState::default());
        let policy = CONFIGURATIONS[BASE].policy.clone();
        let mut engine = Engine::new(host, journal, ledger, policy, Box::new(|_| None), telemetry.clone());
        engine.resume();
        let alerts = std::array::from_fn(policies::labels);
        Simulation {
            setup,
            now,
            engine,
            own,
            processes,
            senders: Senders::new(setup),
            evidence: Default::default(),
            conditions: [false; ALERTS],
            variant: BASE,
            fate: Fate::Arrives,
            boot,
            memory: Memory::default(),
            telemetry,
            directory,
            fingerprints: alerts.each_ref().map(fingerprint),
            alerts,
            unit_settings,
            unit_inode,
            on_the_way: Vec::new(),
            sample_at: now,
            survey_at: now,
            has_died: false,
        }
    }

    pub fn configuration(&self) -> &'static Configuration {
        &CONFIGURATIONS[self.variant]
    }

    pub fn host(&mut self) -> &mut FakeHost {
        self.engine.host()
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.now + time;
        loop {
            let has_sampled = self.now >= self.sample_at;
            self.do_what_is_due();
            if has_sampled || !self.host().hooks.host_actions.is_empty() {
                self.check()?;
            }
            if self.now >= until {
                return Ok(());
            }
            let step = self.next().clamp(self.now, until) - self.now;
            self.advance(step);
        }
    }

    /// Time passes, and evenkeel does not run.
    pub fn pass_without_evenkeel(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            let next = self.senders.next().clamp(self.now, until);
            self.advance(next - self.now);
            self.run_senders(false);
        }
        self.on_the_way.retain(|(at, _)| *at > until);
        (self.sample_at, self.survey_at) = (until, until);
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.host().advance(time);
    }

    fn next(&mut self) -> Duration {
        let engine = self.engine.time_until_due().map(|left| self.now + left);
        let late = self.on_the_way.iter().map(|(at, _)| *at);
        let poll = self.setup.has_surveys.then_some(self.survey_at);
        let times = [Some(self.senders.next()), Some(self.sample_at), poll, engine];
        let next = times.into_iter().flatten().chain(late).min().unwrap_or_default();
        next.max(self.now)
    }

    fn do_what_is_due(&mut self) {
        self.run_senders(true);
        if self.now >= self.sample_at {
            self.sample_at = self.now + SAMPLE_INTERVAL;
            self.sample();
        }
        if self.setup.has_surveys && self.now >= self.survey_at {
            self.survey_at = self.now + SURVEY_INTERVAL;
            self.poll();
        }
        self.tick();
    }

    pub fn tick(&mut self) {
        self.bury();
        if self.engine.time_until_due().is_some_and(|left| left.is_zero()) {
            let had_died = std::mem::take(&mut self.has_died);
            self.with_engine(Engine::tick);
            if self.has_died {
                // What was due still is after the start.
                self.with_engine(Engine::tick);
            }
            self.has_died |= had_died;
            self.bury();
            let left = self.engine.time_until_due();
            assert!(left.is_none_or(|left| !left.is_zero()), "the engine would spin");
        }
    }

    /// Tells the engine who ended, as the real host does.
    pub fn bury(&mut self) {
        while let Some(dead) = self.processes.next_dead(self.engine.host()) {
            self.with_engine(|engine| engine.exited(dead));
            self.with_engine(Engine::tick);
        }
    }

    fn run_senders(&mut self, is_running: bool) {
        self.senders.evaluate(self.now, self.conditions);
        for which in 0..PAIR {
            for notification in self.senders.flush(which, self.now) {
                let is_lost = self.fate == Fate::IsLost;
                let is_reachable = is_running && self.senders.is_reachable[which];
                if !is_lost && !is_reachable {
                    continue;
                }
                self.senders.arrived(which, notification, self.now);
                match std::mem::replace(&mut self.fate, Fate::Arrives) {
                    Fate::Arrives => self.deliver(notification),
                    Fate::IsLost => {}
                    Fate::ComesTwice => {
                        self.deliver(notification);
                        self.on_the_way.push((self.now + DELIVERY_DELAY, notification));
                    }
                    Fate::IsLate => self.on_the_way.push((self.now + DELIVERY_DELAY, notification)),
                }
            }
        }
        let is_here = |(at, _): &mut (Duration, Notification)| *at <= self.now;
        let host_identity: Vec<_> = self.on_the_way.extract_if(.., is_here).collect();
        for (_, notification) in host_identity {
            if is_running {
                self.deliver(notification);
            }
        }
    }

    fn deliver(&mut self, notification: Notification) {
        let Notification {
            alert,
            is_firing,
            starts,
            ends,
            ..
        } = notification;
        self.evidence[alert].webhook(&notification, self.now);
        let status = if is_firing { Status::Firing } else { Status::Resolved };
        let ends_at = (!is_firing).then(|| wall(ends));
        let alert = Alert {
            ends_at,
            ..self.alert(alert, status, starts)
        };
        self.take(vec![alert]);
    }

    fn alert(&self, alert: usize, status: Status, starts: i64) -> Alert {
        Alert {
            labels: self.alerts[alert].clone(),
            annotations: Labels::default(),
            generator_url: None,
            status,
            starts_at: wall(starts),
            ends_at: None,
            fingerprint: self.fingerprints[alert].clone(),
            source: Source::Alertmanager,
        }
    }

    /// The clock of those who send alerts.
    pub fn senders_time(&self) -> Timestamp {
        wall(self.now.as_secs() as i64)
    }

    fn poll(&mut self) {
        let mut views = Vec::new();
        for (which, alertmanager) in ALERTMANAGER_NAMES.into_iter().enumerate() {
            if !self.senders.is_reachable[which] {
                self.evidence.iter_mut().for_each(|evidence| evidence.no_view(which));
                continue;
            }
            let (started, listed) = self.senders.listed(which, self.now);
            for (evidence, listed) in self.evidence.iter_mut().zip(listed) {
                evidence.view(which, listed, self.now);
            }
            let listed = listed.into_iter().enumerate();
            let firing = listed.filter_map(|(alert, starts)| Some(self.alert(alert, Status::Firing, starts?)));
            views.push(View {
                alertmanager: alertmanager.into(),
                started_at: wall(started),
                firing: firing.collect(),
            });
        }
        let asked_at = self.engine.host().now.boot;
        let poll = PollResult {
            views,
            asked_at,
            fresh_for: PATIENCE,
            patience: PATIENCE,
        };
        self.with_engine(|engine| engine.reconcile(&poll));
    }

    fn sample(&mut self) {
        let moment = self.engine.host().now;
        let conditions = [OWN, BOTH].map(|alert| self.conditions[alert]);
        let reports = self.own.sample(moment, conditions);
        let firing = self.own.firing();
        let is_settled = self.now >= self.memory.disrupted_at + OWN_SETTLING;
        for (name, is_true) in self.configuration().own_names.into_iter().zip(conditions) {
            let is_firing = firing.contains(name);
            self.evidence[policies::alert(name)].own(is_true, is_firing, is_settled, self.now);
        }
        self.report(reports);
    }

    pub fn report(&mut self, reports: Vec<Report>) {
        for report in reports {
            match report {
                Report::Alerts(alerts) => self.take(alerts),
                Report::Firing(set) => self.with_engine(|engine| engine.take_firing_set(&set)),
            }
        }
    }

    fn take(&mut self, alerts: Vec<Alert>) {
        let mut taken = Ok(());
        self.with_engine(|engine| taken = engine.take(&alerts, Instant::now()));
        assert_eq!(taken, Ok(()));
        if std::mem::take(&mut self.has_died) {
            // Alertmanager got no answer and comes again.
            self.with_engine(|engine| taken = engine.take(&alerts, Instant::now()));
            assert_eq!(taken, Ok(()));
        }
    }

    /// Lets the engine do something in which the daemon may die.
    pub fn with_engine(&mut self, act: impl FnOnce(&mut Engine<FakeHost>)) {
        let result = catch_unwind(AssertUnwindSafe(|| act(&mut self.engine)));
        let Err(why) = result else { return };
        if why.downcast_ref::<&str>() != Some(&fault::KILLED) {
            resume_unwind(why);
        }
        self.has_died = true;
        self.memory.died_at = Some(self.now);
        self.memory.has_crashed = true;
        // What was done before the death rests on what was said before it.
        self.memory.violation = self.check_host_actions().err();
        self.disrupt();
        let file = self.own.crash();
        self.start(file);
    }

    /// From now on, what was said so far confirms nothing.
    pub fn disrupt(&mut self) {
        for evidence in &mut self.evidence {
            evidence.disrupted(self.now);
        }
    }

    /// Starts the engine with what the ledger holds.
    pub fn start_engine(&mut self) {
        self.memory.disrupted(self.now);
        self.evidence.iter_mut().for_each(|evidence| evidence.started(self.now));
        let (host, ledger) = (self.engine.host().clone(), self.engine.ledger().clone());
        let path = self.directory.as_ref().map(tempfile::TempDir::path);
        let (journal, ledger) = open(path, BootId(self.boot), ledger);
        let policy = self.configuration().policy.clone();
        let conditions = Box::new(|_: &str| None);
        self.engine = Engine::new(host, journal, ledger, policy, conditions, self.telemetry.clone());
        self.with_engine(Engine::resume);
    }

    /// Starts the daemon.
    pub fn start(&mut self, file: AlertsFile) {
        self.own = OwnEvaluation::start(self.variant, file, self.engine.host().now);
        self.evidence.iter_mut().for_each(Evidence::own_evaluation_begins);
        self.sample_at = self.now;
        self.start_engine();
    }
}

/// The ledger on disk, or an empty one in memory: then `ledger` is what it would hold.
fn open(path: Option<&std::path::Path>, boot: BootId, ledger: LedgerState) -> (Journal, LedgerState) {
    match path {
        Some(path) => Journal::open(path, boot),
        None => (Journal::in_memory(boot).expect("memory for an empty ledger"), ledger),
    }
}
