//! The starter: a small process without threads that starts the frontend, and another one when it dies, because the
//! actuator gives up the right to do so. It was copied from the actuator before that read its configuration, so that
//! neither it nor a frontend has secrets in its memory that it does not need.

use super::starter_channel::{FormerEnd, MAX_ORDER, Order, Report, SOCKETS, Starter, receive_with, send_with};
use super::{FRONTEND, STARTER};
use crate::app::log::ProcessLog;
use crate::host::fork::fork;
use crate::host::program_pages;
use crate::sandbox::{CapabilitySet, capabilities};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair, sockopt};
use std::ffi::CStr;
use std::fs;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Pauses before another frontend is started. They double while frontends die at once.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A frontend that lived so long did not die at once.
const LONG_LIFE: Duration = Duration::from_secs(10);
/// What starting and killing processes of another user takes.
const NEEDED: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

/// What a frontend has from its start.
pub struct FrontendSockets {
    pub channel: OwnedFd,
    pub metrics: Vec<OwnedFd>,
    pub webhook: OwnedFd,
    /// Its parent, with which it ends.
    pub starter: rustix::process::Pid,
}

/// Starts the starter, in which `frontend` runs each frontend. Call it before any thread starts, and before the
/// configuration is read.
///
/// # Errors
/// When the kernel refuses.
pub fn start(
    log: &mut ProcessLog,
    frontend: impl FnMut(FrontendSockets, &mut ProcessLog) -> ExitCode,
) -> io::Result<Starter> {
    let (own, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    if fork()?.is_some() {
        return Ok(Starter(own));
    }
    drop(own);
    // A panic must not unwind into what the actuator does. Its hook has logged it.
    let ended = catch_unwind(AssertUnwindSafe(|| run(&others, log, frontend)));
    log.flush();
    exit(ended.unwrap_or(ExitCode::FAILURE))
}

/// Ends the process without a return into what the actuator does.
fn exit(code: ExitCode) -> ! {
    std::process::exit(i32::from(code != ExitCode::SUCCESS))
}

/// Names the process as it is called in the process table.
fn set_name(name: &str) {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    if let Ok(name) = CStr::from_bytes_with_nul(&bytes) {
        let _ = rustix::thread::set_name(name);
    }
}

fn run(
    control: &OwnedFd,
    log: &mut ProcessLog,
    frontend: impl FnMut(FrontendSockets, &mut ProcessLog) -> ExitCode,
) -> ExitCode {
    set_name(STARTER);
    ignore_signals();
    close_others(control.as_raw_fd());
    // Best effort, as each measure of the sandbox.
    let _ = capabilities::keep_only(NEEDED);
    let _ = rustix::thread::set_no_new_privs(true);
    // At the end of the channel before any socket, the actuator has refused to start.
    let mut metrics = match receive_with(control, RecvFlags::empty()) {
        Ok((first, sockets)) if first == SOCKETS => sockets,
        _ => return ExitCode::SUCCESS,
    };
    let Some(webhook) = metrics.pop() else {
        return ExitCode::FAILURE;
    };
    let mut frontends = Frontends {
        control,
        log,
        sockets: Some((metrics, webhook)),
        frontend,
        started: 0,
    };
    frontends.keep_running();
    ExitCode::SUCCESS
}

/// A signal to the whole group of processes, as from a terminal or systemd, must not end the frontend before the actuator
/// lets it drain.
fn ignore_signals() {
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ];
    let _ = signals.into_iter().collect::<SigSet>().thread_block();
}

/// Closes what the actuator has inherited, except for the standard streams, of which it leaves the log only.
fn close_others(kept: RawFd) {
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|&fd| fd > 2 && fd != kept) {
        // The descriptor of the directory itself is closed by now.
        let _ = nix::unistd::close(fd);
    }
}

/// The pauses between frontends, which are all that a starter waits for on purpose between two of them.
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: FIRST_PAUSE }
    }
}

impl Backoff {
    /// The pause after a frontend that lived so long.
    fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived >= LONG_LIFE {
            self.next = FIRST_PAUSE;
        }
        let pause = self.next;
        self.next = (2 * pause).min(MAX_PAUSE);
        pause
    }
}

/// The frontends of a starter, one after the other.
struct Frontends<'c, F> {
    control: &'c OwnedFd,
    log: &'c mut ProcessLog,
    /// `None` once no frontend may be started any more.
    sockets: Option<(Vec<OwnedFd>, OwnedFd)>,
    frontend: F,
    /// The number of the last one.
    started: u32,
}

/// A running frontend.
struct Running {
    number: u32,
    pid: Pid,
    /// Closed when the process ends.
    alive: PipeReader,
    since: Instant,
}

/// What a starter waits for.
enum Event {
    /// The frontend has ended.
    Ended,
    Ordered(Order),
    /// Nothing that this process has to act on.
    Nothing,
    /// The actuator has ended.
    Closed,
    Timeout,
}

impl<F: FnMut(FrontendSockets, &mut ProcessLog) -> ExitCode> Frontends<'_, F> {
    /// Starts frontends until the actuator ends.
    fn keep_running(&mut self) {
        let (mut former, mut backoff) = (None, Backoff::default());
        while self.sockets.is_some() {
            if !self.are_listening() {
                self.report(&Report::NotListening, &[]);
                return;
            }
            let lived = match self.start(former) {
                Ok(running) => {
                    program_pages::release();
                    former = Some(self.wait(&running));
                    running.since.elapsed()
                }
                // The actuator logs it, because this process must not wait for the reader of the log.
                Err(error) => {
                    self.report(&Report::NotStarted(error.raw_os_error().unwrap_or_default()), &[]);
                    Duration::ZERO
                }
            };
            if !self.rest(backoff.pause_after(lived)) {
                return;
            }
        }
    }

    /// False once code in a frontend, or another holder of a listening socket, has shut it down for all.
    fn are_listening(&self) -> bool {
        let sockets = self
            .sockets
            .iter()
            .flat_map(|(metrics, webhook)| metrics.iter().chain([webhook]));
        sockets
            .into_iter()
            .all(|socket| sockopt::socket_acceptconn(socket) != Ok(false))
    }

    /// An actuator that has ended is noticed while waiting.
    fn report(&self, report: &Report, sockets: &[BorrowedFd<'_>]) {
        if let Ok(message) = serde_json::to_vec(report) {
            let _ = send_with(self.control, &message, sockets);
        }
    }

    fn start(&mut self, former: Option<FormerEnd>) -> io::Result<Running> {
        let (own, channel) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // The other end stays open as long as the process lives.
        let (alive, _holder) = io::pipe()?;
        let starter = rustix::process::getpid();
        let Some(pid) = fork()? else {
            set_name(FRONTEND);
            drop((own, alive));
            // The frontend must not give orders to the starter.
            let _ = nix::unistd::close(self.control.as_raw_fd());
            let Some((metrics, webhook)) = self.sockets.take() else {
                exit(ExitCode::FAILURE)
            };
            let sockets = FrontendSockets {
                channel,
                metrics,
                webhook,
                starter,
            };
            // A panic, whose line is written first, must not close the pipe before the process has ended.
            let ended = catch_unwind(AssertUnwindSafe(|| (self.frontend)(sockets, self.log)));
            self.log.flush();
            exit(ended.unwrap_or(ExitCode::FAILURE))
        };
        self.started = self.started.wrapping_add(1);
        let number = self.started;
        self.report(&Report::Started { number, former }, &[own.as_fd()]);
        Ok(Running {
            number,
            pid,
            alive,
            since: Instant::now(),
        })
    }

    /// Waits until the frontend has ended, and kills it if the actuator wants that or has ended.
    fn wait(&mut self, running: &Running) -> FormerEnd {
        loop {
            match self.next_event(Some(&running.alive), None) {
                Event::Ordered(Order::NoMore) => self.sockets = None,
                Event::Ordered(Order::Kill(number)) if number != running.number => {}
                Event::Ordered(Order::Kill(_)) | Event::Closed | Event::Ended => break,
                Event::Nothing | Event::Timeout => {}
            }
        }
        // It may have closed the pipe only.
        let _ = kill(running.pid, Signal::SIGKILL);
        loop {
            return match waitpid(running.pid, None) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => FormerEnd::Exited(0),
                Ok(status) => FormerEnd::of(status),
            };
        }
    }

    /// Waits before the next start. False if there must be none.
    fn rest(&mut self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        while self.sockets.is_some() {
            match self.next_event(None, Some(end.saturating_duration_since(Instant::now()))) {
                Event::Timeout => return true,
                Event::Closed => return false,
                Event::Ordered(Order::NoMore) => self.sockets = None,
                Event::Ordered(Order::Kill(_)) | Event::Nothing | Event::Ended => {}
            }
        }
        false
    }

    fn next_event(&self, alive: Option<&PipeReader>, timeout: Option<Duration>) -> Event {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut watched = vec![PollFd::new(self.control, PollFlags::IN)];
        // The end of the pipe needs no flag.
        watched.extend(alive.map(|alive| PollFd::new(alive, PollFlags::empty())));
        match poll(&mut watched, timeout.as_ref()) {
            Ok(0) => return Event::Timeout,
            Ok(_) => {}
            Err(Errno::INTR) => return Event::Nothing,
            Err(_) => return Event::Closed,
        }
        if !watched[0].revents().is_empty() {
            let mut order = [0; MAX_ORDER];
            return match recv(self.control, &mut order[..], RecvFlags::DONTWAIT) {
                Ok((length @ 1.., _)) => {
                    Order::read(&order[..length.min(MAX_ORDER)]).map_or(Event::Nothing, Event::Ordered)
                }
                Err(Errno::AGAIN | Errno::INTR) => Event::Nothing,
                _ => Event::Closed,
            };
        }
        Event::Ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With starting one, which takes a few hundredths of a second, a dead frontend is replaced within a second.
    #[test]
    fn dead_frontend_is_replaced_after_a_tenth_of_a_second() {
        let a_tenth = Duration::from_millis(100);
        for lived in [Duration::ZERO, LONG_LIFE, Duration::from_secs(86_400)] {
            assert!(Backoff::default().pause_after(lived) <= a_tenth);
        }
        // One that dies at once, twice after another, is still replaced within a second.
        let mut backoff = Backoff::default();
        let pauses: Duration = (0..3).map(|_| backoff.pause_after(Duration::ZERO)).sum();
        assert!(pauses < Duration::from_secs(1), "{pauses:?}");
    }

    #[test]
    fn pauses_grow_up_to_a_bound_until_a_frontend_lives_long() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.pause_after(Duration::from_secs(1))).collect();
        assert!(pauses.is_sorted() && pauses[0] < pauses[1], "{pauses:?}");
        assert_eq!(pauses.last(), Some(&MAX_PAUSE));
        assert_eq!(backoff.pause_after(LONG_LIFE), FIRST_PAUSE);
    }
}
