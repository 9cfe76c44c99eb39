//! The starter: a small process without threads that starts the frontend, and another one when it dies, because the
//! actuator gives up the right to do so. It was copied from the actuator before that read its configuration, so that
//! neither it nor a frontend has secrets in its memory that it does not need. After the sockets it reads orders of five bytes
//! at most.

use super::{FRONTEND, STARTER};
use crate::app::log::ProcessLog;
use crate::host::fork::fork;
use crate::host::program_pages;
use crate::sandbox::{CapabilitySet, capabilities};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};
use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, PipeReader};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::UnixDatagram;

/// The most sockets that the kernel passes on at once (SCM_MAX_FD), which bounds the addresses of the listeners.
pub const MAX_LISTENERS: usize = 253;
/// Maximum wait at the end for the reader of the log.
pub const LAST_LINES: Duration = Duration::from_secs(1);
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

/// The first message of the actuator, which comes with the sockets.
const SOCKETS: &[u8] = b"S";
const NO_MORE: &[u8] = b"N";
/// Followed by the number of a frontend.
const KILL: u8 = b'K';
const MAX_ORDER: usize = 5;
/// The longest report of the starter.
const MAX_REPORT: usize = 256;

/// A message to the actuator.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// Comes with the actuator's end of the channel of a frontend.
    Started {
        number: u32,
        former: Option<FormerEnd>,
    },
    /// The error number says why.
    NotStarted(i32),
    NotListening,
}

/// The actuator's end of the channel to the starter.
#[derive(Debug)]
pub struct Starter(OwnedFd);

/// A frontend that was started.
#[derive(Debug)]
pub struct Started {
    /// Names it in orders. An order may arrive when the next one runs.
    pub number: u32,
    /// The actuator's end of its channel.
    pub channel: OwnedFd,
    /// How the one before it ended.
    pub former: Option<FormerEnd>,
}

/// Why there is no next frontend.
#[derive(Debug, thiserror::Error)]
pub enum NoFrontend {
    #[error("the starter of the frontend ended")]
    StarterEnded,
    #[error("a listening socket was shut down; start evenkeel again, and its socket units if it has any")]
    NotListening,
    #[error("the kernel starts no process: {0}")]
    NotStarted(io::Error),
    #[error("its channel did not arrive, this process may have too many open files")]
    NoChannel,
}

/// How a frontend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FormerEnd {
    Exited(i32),
    /// The number of the signal.
    Killed(i32),
}

impl FormerEnd {
    fn of(status: WaitStatus) -> FormerEnd {
        match status {
            WaitStatus::Signaled(_, signal, _) => FormerEnd::Killed(signal as i32),
            WaitStatus::Exited(_, code) => FormerEnd::Exited(code),
            // waitpid(2) without options returns nothing else.
            _ => FormerEnd::Exited(0),
        }
    }

    /// The signal that killed it.
    pub fn signal(self) -> Option<Signal> {
        match self {
            FormerEnd::Exited(_) => None,
            FormerEnd::Killed(number) => Signal::try_from(number).ok(),
        }
    }
}

impl fmt::Display for FormerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.signal()) {
            (FormerEnd::Exited(code), _) => write!(f, "it exited with {code}"),
            (FormerEnd::Killed(_), Some(signal)) => write!(f, "it was killed by {signal}"),
            (FormerEnd::Killed(number), None) => write!(f, "it was killed by signal {number}"),
        }
    }
}

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
    log.flush(LAST_LINES);
    exit(ended.unwrap_or(ExitCode::FAILURE))
}

impl Starter {
    /// Passes on the listening sockets, so that the first frontend is started.
    ///
    /// # Errors
    /// When there are too many, or the starter has ended.
    pub fn pass_on(&self, metrics: &[BorrowedFd<'_>], webhook: BorrowedFd<'_>) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> = metrics.iter().copied().chain([webhook]).collect();
        if all.len() > MAX_LISTENERS {
            let most = MAX_LISTENERS - 1;
            return Err(io::Error::other(format!(
                "--web.listen-address may name {most} addresses"
            )));
        }
        send_with(&self.0, SOCKETS, &all)
    }

    /// The socket for [`Starter::next`] in a runtime, which asks only whether it is ready.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn readiness(&self) -> io::Result<UnixDatagram> {
        let socket = std::os::unix::net::UnixDatagram::from(self.0.try_clone()?);
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket)
    }

    /// The next frontend.
    ///
    /// # Errors
    /// Of kind `WouldBlock` when there is none yet.
    pub fn next(&self) -> io::Result<Result<Started, NoFrontend>> {
        let (report, sockets) = receive_with(&self.0, RecvFlags::DONTWAIT)?;
        if report.is_empty() {
            return Ok(Err(NoFrontend::StarterEnded));
        }
        Ok(match serde_json::from_slice(&report)? {
            Report::Started { number, former } => match sockets.into_iter().next() {
                Some(channel) => Ok(Started {
                    number,
                    channel,
                    former,
                }),
                None => Err(NoFrontend::NoChannel),
            },
            Report::NotStarted(errno) => Err(NoFrontend::NotStarted(io::Error::from_raw_os_error(errno))),
            Report::NotListening => Err(NoFrontend::NotListening),
        })
    }

    /// Kills this frontend, unless it has ended; another one follows.
    pub fn kill(&self, number: u32) {
        let [a, b, c, d] = number.to_be_bytes();
        self.order(&[KILL, a, b, c, d]);
    }

    /// Lets the frontend end without another one, and closes the listening sockets.
    pub fn start_no_more(&self) {
        self.order(NO_MORE);
    }

    /// A starter that has ended is noticed elsewhere.
    fn order(&self, order: &[u8]) {
        let _ = send(&self.0, order, SendFlags::NOSIGNAL);
    }
}

fn send_with(socket: impl AsFd, message: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(Errno::NOSPC.into());
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message, which is empty at the end of the channel, and the sockets that came with it.
fn receive_with(socket: impl AsFd, flags: RecvFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = vec![0; MAX_REPORT];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let sockets = rights.flatten().collect();
    message.truncate(received.bytes);
    Ok((message, sockets))
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
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Ended,
    Kill(u32),
    NoMore,
    /// Nothing that this process has to act on.
    Nothing,
    /// The actuator has ended.
    Closed,
    Timeout,
}

impl Event {
    fn of_order(order: &[u8]) -> Event {
        match *order {
            [KILL, a, b, c, d] => Event::Kill(u32::from_be_bytes([a, b, c, d])),
            _ if order == NO_MORE => Event::NoMore,
            _ => Event::Nothing,
        }
    }
}

impl<F: FnMut(FrontendSockets, &mut ProcessLog) -> ExitCode> Frontends<'_, F> {
    /// Starts frontends until the actuator ends.
    fn keep_running(&mut self) {
        let (mut former, mut pause) = (None, FIRST_PAUSE);
        while self.sockets.is_some() {
            if !self.are_listening() {
                self.report(&Report::NotListening, &[]);
                return;
            }
            match self.start(former) {
                Ok(running) => {
                    program_pages::release();
                    former = Some(self.wait(&running));
                    if running.since.elapsed() >= LONG_LIFE {
                        pause = FIRST_PAUSE;
                    }
                }
                // The actuator logs it, because this process must not wait for the reader of the log.
                Err(error) => self.report(&Report::NotStarted(error.raw_os_error().unwrap_or_default()), &[]),
            }
            if !self.rest(pause) {
                return;
            }
            pause = (2 * pause).min(MAX_PAUSE);
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
            self.log.flush(LAST_LINES);
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
                Event::NoMore => self.sockets = None,
                Event::Kill(number) if number != running.number => {}
                Event::Kill(_) | Event::Closed | Event::Ended => break,
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
                Event::NoMore => self.sockets = None,
                Event::Kill(_) | Event::Nothing | Event::Ended => {}
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
                Ok((length @ 1.., _)) => Event::of_order(&order[..length.min(MAX_ORDER)]),
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

    fn starter() -> (Starter, OwnedFd) {
        let (own, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Starter(own), others)
    }

    #[test]
    fn order_names_one_frontend() {
        let (starter, control) = starter();
        starter.kill(0x0102_0304);
        starter.start_no_more();
        let orders = [(); 2].map(|()| {
            let mut order = [0; MAX_ORDER];
            let (length, _) = recv(&control, &mut order[..], RecvFlags::empty()).unwrap();
            Event::of_order(&order[..length])
        });
        assert_eq!(orders, [Event::Kill(0x0102_0304), Event::NoMore]);
        assert_eq!(Event::of_order(b"K"), Event::Nothing);
    }

    #[test]
    fn reports_say_why_there_is_no_frontend() {
        let (starter, control) = starter();
        let report = |report: &Report, sockets: &[BorrowedFd<'_>]| {
            send_with(&control, &serde_json::to_vec(report).unwrap(), sockets).unwrap();
            starter.next().unwrap()
        };
        let started = Report::Started {
            number: u32::MAX,
            former: Some(FormerEnd::Killed(i32::MIN)),
        };
        let channel = report(&started, &[control.as_fd()]).unwrap();
        assert_eq!(
            (channel.number, channel.former),
            (u32::MAX, Some(FormerEnd::Killed(i32::MIN)))
        );
        let without = report(&started, &[]).unwrap_err().to_string();
        assert!(without.contains("did not arrive"), "{without}");
        let refused = report(&Report::NotStarted(nix::libc::EMFILE), &[])
            .unwrap_err()
            .to_string();
        assert!(refused.contains("Too many open files"), "{refused}");
        let silent = report(&Report::NotListening, &[]).unwrap_err().to_string();
        assert!(silent.contains("shut down"), "{silent}");
        drop((control, channel));
        assert!(matches!(starter.next().unwrap(), Err(NoFrontend::StarterEnded)));
    }

    #[test]
    fn sockets_are_as_many_as_the_kernel_passes_on() {
        let (starter, control) = starter();
        let one = control.as_fd();
        starter.pass_on(&[one; MAX_LISTENERS - 1], one).unwrap();
        let (first, sockets) = receive_with(&control, RecvFlags::empty()).unwrap();
        assert_eq!((&*first, sockets.len()), (SOCKETS, MAX_LISTENERS));
        let refused = starter.pass_on(&[one; MAX_LISTENERS], one).unwrap_err();
        assert!(refused.to_string().contains("252"), "{refused}");
    }
}
