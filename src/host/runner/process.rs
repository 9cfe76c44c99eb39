//! The processes of the runner. Only they run commands and send requests, with all privileges that evenkeel was started
//! with. The `starter` starts a `runner` and replaces one that dies, because evenkeel itself gives up the right to start
//! programs. The starter reads nothing, so that nothing can tell it what to start.

use super::channel::{self, Answer, Order, SendError, StartedRunner};
use super::client::refused;
use crate::host::job::Report;
use crate::host::job_runner::JobRunner;
use crate::host::own_processes::{RUNNER, RUNNER_STARTER};
use crate::host::{self_priority, umask};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::PidfdFlags;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

/// The program itself, also after an upgrade has replaced its file.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Pause before a runner that died is replaced.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// A process of the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Starter,
    Runner,
}

impl Role {
    const ALL: [Role; 2] = [Role::Starter, Role::Runner];

    /// Its first argument, which is no command for users, and its name in the process table.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Role::Starter => ("--as-starter", RUNNER_STARTER),
            Role::Runner => ("--as-runner", RUNNER),
        }
    }

    /// The role of this process, if it has one.
    pub fn of_arguments(mut arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> Option<Role> {
        let first = arguments.nth(1)?;
        Role::ALL.into_iter().find(|role| first.as_ref() == role.words().0)
    }

    /// Runs it to its end.
    pub fn run(self) -> ExitCode {
        if let Ok(name) = CString::new(self.words().1) {
            let _ = rustix::thread::set_name(&name);
        }
        stay_until_the_channel_closes();
        match self {
            Role::Starter => keep_running(),
            Role::Runner => run_orders(),
        }
    }

    /// The command of this process. The channel is its standard input.
    fn command(self, channel: Stdio) -> Command {
        let mut command = Command::new(OWN_PROGRAM);
        command.arg0("evenkeel").arg(self.words().0).stdin(channel);
        command
    }
}

/// Starts the processes of the runner. Call it before evenkeel gives up privileges, and before any thread starts.
///
/// # Errors
/// When the kernel refuses.
pub fn start() -> io::Result<StartedRunner> {
    let (socket, channel) = channel::pair()?;
    let mut command = Role::Starter.command(Stdio::from(channel));
    umask::pass_on(&mut command);
    // Not waited for: it ends after evenkeel.
    command.spawn()?;
    Ok(StartedRunner(socket))
}

/// A signal to the whole group of processes, as from a terminal or systemd, must not end the processes before evenkeel
/// has reverted its leases. The handlers stay when their receivers are gone; commands do not inherit them, as they would
/// inherit that a signal is ignored.
fn stay_until_the_channel_closes() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let _entered = runtime.enter();
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ] {
        let _ = signal(kind);
    }
}

/// Starts a runner, and another one when it dies, until evenkeel closes the channel.
fn keep_running() -> ExitCode {
    let stdin = io::stdin();
    loop {
        let mut runner = match Role::Runner.command(Stdio::inherit()).spawn() {
            Ok(runner) => runner,
            Err(error) => {
                eprintln!("error: no process for commands: {error}");
                return ExitCode::FAILURE;
            }
        };
        let is_over = wait(&runner, stdin.as_fd()).unwrap_or(true);
        if is_over {
            // The runner sees the end of the channel, too.
            let _ = runner.wait();
            return ExitCode::SUCCESS;
        }
        let _ = runner.wait();
        std::thread::sleep(RESTART_PAUSE);
    }
}

/// Waits until the channel is closed (true), or the runner has died.
fn wait(runner: &Child, channel: BorrowedFd<'_>) -> io::Result<bool> {
    let pidfd = rustix::process::pidfd_open(rustix::process::Pid::from_child(runner), PidfdFlags::empty())?;
    loop {
        // No event asks for the end of the channel alone.
        let mut watched = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(channel, PollFlags::empty()),
        ];
        match poll(&mut watched, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => {
                let is_closed = watched[1].revents().intersects(PollFlags::HUP | PollFlags::ERR);
                if is_closed || watched[0].revents().contains(PollFlags::IN) {
                    return Ok(is_closed);
                }
            }
        }
    }
}

/// Runs the jobs that arrive, until evenkeel closes the channel. Commands that run then go on, as after a crash of
/// evenkeel.
fn run_orders() -> ExitCode {
    self_priority::limit_heaps_to_one();
    let runtime = match start_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no thread for commands: {error}");
            return ExitCode::FAILURE;
        }
    };
    let jobs = JobRunner::new(runtime, Arc::new(answer));
    let own = std::process::id();
    let stdin = io::stdin();
    let mut has_started = false;
    loop {
        match channel::receive_message::<Order>(&stdin) {
            Ok(Some(order)) if order.runner == own => jobs.begin(order.ticket, order.job),
            // Of a runner that died before it read the order.
            Ok(Some(order)) => {
                let reason = "the process that should have run it ended".to_owned();
                answer(order.ticket, refused(&order.job, reason));
            }
            Ok(None) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // All orders for the runner before this one are answered.
                if !has_started {
                    has_started = true;
                    let _ = send(&Answer::Started { runner: own });
                }
                channel::wait_for(&stdin, PollFlags::IN);
            }
            // Only evenkeel writes to the channel, so this is a fault of evenkeel.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => eprintln!("error: no order: {error}"),
            Err(_) => break,
        }
    }
    // Without waiting for threads that wait for commands.
    std::process::exit(0)
}

/// Starts the thread that waits for the network.
fn start_runtime() -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name("requests".into());
    thread.spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Sends a report; one that is too long is replaced.
fn answer(ticket: u64, report: Report) {
    if let Err(SendError::TooLong(bytes)) = send(&Answer::Reported { ticket, report }) {
        let reason = format!("its report was too long ({bytes} bytes)");
        let _ = send(&Answer::Reported {
            ticket,
            report: Report::Lost { reason },
        });
    }
}

/// Sends an answer once evenkeel reads.
fn send(answer: &Answer) -> Result<(), SendError> {
    loop {
        match channel::send_message(io::stdin(), answer) {
            Err(SendError::Busy) => channel::wait_for(io::stdin(), PollFlags::OUT),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_is_the_first_argument() {
        let role = |arguments: &[&str]| Role::of_arguments(arguments.iter());
        assert_eq!(role(&["evenkeel", "--as-runner"]), Some(Role::Runner));
        assert_eq!(role(&["evenkeel", "--as-starter"]), Some(Role::Starter));
        assert_eq!(role(&["evenkeel", "run", "--as-runner"]), None);
        assert_eq!(role(&["evenkeel"]), None);
    }
}
