//! The runner as evenkeel sees it: jobs go out, and each gets exactly one report. A job whose runner died has an outcome
//! in doubt.

use super::channel::{self, Answer, Order, StartedRunner};
use crate::host::job::{Job, Report};
use crate::host::job_runner::OnReport;
use crate::host::self_priority;
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The thread decodes messages, whose buffers are on the heap.
const STACK_BYTES: usize = 128 * 1024;
const ENDED: &str = "the process for commands and requests ended; restart evenkeel";
const LOST: &str = "the process that ran it ended; unknown whether it finished";

/// Hands jobs to the runner. Cheap to clone.
#[derive(Clone)]
pub struct RunnerClient(Arc<Shared>);

struct Shared {
    /// `None` where no runner was started.
    started: Option<StartedRunner>,
    jobs: Mutex<Jobs>,
    on_report: OnReport,
    runtime: tokio::runtime::Handle,
}

#[derive(Default)]
struct Jobs {
    /// The process id of the runner that takes orders.
    runner: Option<u32>,
    /// Jobs from before the runner took orders. The engine starts twelve at once at most.
    waiting: Vec<(u64, Job)>,
    /// What was ordered and has no report, with what its loss means.
    in_flight: BTreeMap<u64, Report>,
    /// Runner and starter ended, so that no job can be run any more.
    is_closed: bool,
}

impl RunnerClient {
    /// Without a runner every job is refused.
    pub fn new(started: Option<StartedRunner>, runtime: tokio::runtime::Handle, on_report: OnReport) -> RunnerClient {
        RunnerClient(Arc::new(Shared {
            started,
            jobs: Mutex::default(),
            on_report,
            runtime,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns at once; the report comes later.
    pub fn begin(&self, ticket: u64, job: Job) {
        let mut jobs = self.lock();
        if self.0.started.is_none() {
            let reason = "no process for commands and requests was started; restart evenkeel".to_owned();
            return self.report(ticket, refused(&job, reason));
        }
        if jobs.is_closed {
            return self.report(ticket, refused(&job, ENDED.to_owned()));
        }
        match jobs.runner {
            Some(runner) => self.order(&mut jobs, runner, ticket, job),
            None => jobs.waiting.push((ticket, job)),
        }
    }

    fn order(&self, jobs: &mut Jobs, runner: u32, ticket: u64, job: Job) {
        let Some(StartedRunner(socket)) = &self.0.started else {
            return;
        };
        let lost = lost(&job);
        let order = Order { runner, ticket, job };
        match channel::send_message(socket, &order) {
            Ok(()) => drop(jobs.in_flight.insert(ticket, lost)),
            Err(error) => self.report(ticket, refused(&order.job, error.to_string())),
        }
    }

    /// Reports from another thread, because the callback may block.
    fn report(&self, ticket: u64, report: Report) {
        let on_report = Arc::clone(&self.0.on_report);
        self.0.runtime.spawn_blocking(move || on_report(ticket, report));
    }

    /// Receives what the runner sends, until the channel is closed, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_listening(&self) -> io::Result<()> {
        if self.0.started.is_none() {
            return Ok(());
        }
        let client = self.clone();
        let thread = std::thread::Builder::new()
            .name("runner".into())
            .stack_size(STACK_BYTES);
        thread.spawn(move || {
            self_priority::reset_priority();
            client.listen();
        })?;
        Ok(())
    }

    fn listen(&self) {
        let Some(StartedRunner(socket)) = &self.0.started else {
            return;
        };
        loop {
            match channel::receive_message(socket) {
                Ok(Some(answer)) => self.take(answer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => channel::wait_for(socket, PollFlags::IN),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%error, "message of the process for commands and requests ignored");
                }
                Ok(None) | Err(_) => break,
            }
        }
        tracing::error!("the process for commands and requests and its starter ended, all of them are refused");
        let mut jobs = self.lock();
        jobs.is_closed = true;
        for (ticket, job) in mem::take(&mut jobs.waiting) {
            self.report(ticket, refused(&job, ENDED.to_owned()));
        }
        self.lose(&mut jobs);
    }

    /// Reports all jobs in flight as lost.
    fn lose(&self, jobs: &mut Jobs) {
        for (ticket, report) in mem::take(&mut jobs.in_flight) {
            self.report(ticket, report);
        }
    }

    fn take(&self, answer: Answer) {
        let mut jobs = self.lock();
        match answer {
            Answer::Started { runner } => {
                if jobs.runner.replace(runner).is_some() {
                    tracing::warn!(
                        jobs = jobs.in_flight.len(),
                        "process for commands and requests restarted, its jobs are in doubt"
                    );
                    self.lose(&mut jobs);
                }
                for (ticket, job) in mem::take(&mut jobs.waiting) {
                    self.order(&mut jobs, runner, ticket, job);
                }
            }
            Answer::Reported { ticket, report } => {
                // A runner reports once, and not after evenkeel has given the job up.
                if jobs.in_flight.remove(&ticket).is_some() {
                    self.report(ticket, report);
                }
            }
        }
    }
}

/// The report of a job that was not started.
pub(super) fn refused(job: &Job, reason: String) -> Report {
    match job {
        Job::Request(..) => Report::Unanswered {
            reason,
            was_sent: false,
        },
        Job::Command(_) => Report::NotStarted { reason },
    }
}

/// The report of a job whose runner died.
fn lost(job: &Job) -> Report {
    let reason = LOST.to_owned();
    match job {
        Job::Request(..) => Report::Unanswered { reason, was_sent: true },
        Job::Command(_) => Report::Lost { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::{pair, receive_message, send_message};
    use super::*;
    use crate::host::job::{End, Run};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::{self, Receiver};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Fixture {
        client: RunnerClient,
        /// The runner's end.
        runner: OwnedFd,
        reports: Receiver<(u64, Report)>,
        _runtime: tokio::runtime::Runtime,
    }

    fn fixture() -> Fixture {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let (socket, runner) = pair().unwrap();
        let (sender, reports) = mpsc::channel();
        let on_report = Arc::new(move |ticket, report| drop(sender.send((ticket, report))));
        let client = RunnerClient::new(Some(StartedRunner(socket)), runtime.handle().clone(), on_report);
        client.start_listening().unwrap();
        Fixture {
            client,
            runner,
            reports,
            _runtime: runtime,
        }
    }

    impl Fixture {
        fn answer(&self, answer: &Answer) {
            send_message(&self.runner, answer).unwrap();
        }

        /// The runner and the ticket of the next order.
        fn order(&self) -> (u32, u64) {
            loop {
                match receive_message::<Order>(&self.runner) {
                    Ok(order) => return order.map(|order| (order.runner, order.ticket)).unwrap(),
                    Err(_) => channel::wait_for(&self.runner, PollFlags::IN),
                }
            }
        }

        fn report(&self) -> (u64, Report) {
            self.reports.recv_timeout(PATIENCE).unwrap()
        }
    }

    fn command() -> Job {
        Job::Command(Run {
            argv: vec!["/bin/true".to_owned()],
            env: BTreeMap::new(),
            user: None,
            timeout: PATIENCE,
        })
    }

    fn ended() -> Report {
        Report::Ended {
            end: End::Status(0),
            output: String::new(),
        }
    }

    fn lost_command() -> Report {
        Report::Lost {
            reason: LOST.to_owned(),
        }
    }

    #[test]
    fn job_waits_for_a_runner_and_is_reported_once() {
        let fixture = fixture();
        fixture.client.begin(1, command());
        fixture.answer(&Answer::Started { runner: 70 });
        assert_eq!(fixture.order(), (70, 1));
        for ticket in [1, 1, 9] {
            let report = ended();
            fixture.answer(&Answer::Reported { ticket, report });
        }
        fixture.client.begin(2, command());
        assert_eq!(fixture.order(), (70, 2));
        fixture.answer(&Answer::Reported {
            ticket: 2,
            report: ended(),
        });
        // In any order, because each report has its thread.
        let tickets = [fixture.report().0, fixture.report().0];
        assert!(tickets == [1, 2] || tickets == [2, 1], "{tickets:?}");
        assert!(fixture.reports.try_recv().is_err());
    }

    #[test]
    fn jobs_of_a_runner_that_died_are_lost() {
        let fixture = fixture();
        fixture.answer(&Answer::Started { runner: 70 });
        fixture.client.begin(1, command());
        assert_eq!(fixture.order(), (70, 1));
        fixture.answer(&Answer::Started { runner: 71 });
        assert_eq!(fixture.report(), (1, lost_command()));
        fixture.client.begin(2, command());
        assert_eq!(fixture.order(), (71, 2));
        drop(fixture.runner);
        assert_eq!(fixture.reports.recv_timeout(PATIENCE).unwrap(), (2, lost_command()));
    }

    #[test]
    fn runner_that_never_started_leaves_no_job_without_a_report() {
        let fixture = fixture();
        fixture.client.begin(1, command());
        drop(fixture.runner);
        let refused = Report::NotStarted { reason: ENDED.into() };
        assert_eq!(fixture.reports.recv_timeout(PATIENCE).unwrap(), (1, refused.clone()));
        fixture.client.begin(2, command());
        assert_eq!(fixture.reports.recv_timeout(PATIENCE).unwrap(), (2, refused));
    }

    #[test]
    fn without_a_runner_every_job_is_refused() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let (sender, reports) = mpsc::channel();
        let on_report = Arc::new(move |ticket, report| drop(sender.send((ticket, report))));
        let client = RunnerClient::new(None, runtime.handle().clone(), on_report);
        client.start_listening().unwrap();
        client.begin(1, command());
        let (ticket, report) = reports.recv_timeout(PATIENCE).unwrap();
        assert!(matches!((ticket, report), (1, Report::NotStarted { reason }) if reason.contains("restart evenkeel")));
    }

    #[test]
    fn job_that_is_too_long_is_refused() {
        let fixture = fixture();
        fixture.answer(&Answer::Started { runner: 70 });
        let Job::Command(mut run) = command() else {
            unreachable!()
        };
        run.argv.push("x".repeat(channel::MAX_MESSAGE_BYTES));
        fixture.client.begin(1, Job::Command(run));
        let (ticket, report) = fixture.report();
        assert!(matches!((ticket, report), (1, Report::NotStarted { reason }) if reason.contains("bytes")));
    }
}
