//! The starter: a small process without threads that starts the frontend, and another one when it dies, because the
//! actuator gives up the right to do so. It was copied from the actuator before that read its configuration, so that
//! neither it nor a frontend has secrets in its memory that it does not need. After the sockets it reads single bytes.

use super::{FRONTEND, STARTER};
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
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use std::ffi::CStr;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, PipeReader};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::UnixDatagram;

/// The listening sockets of both listeners; more addresses are not served.
pub const MAX_LISTENERS: usize = 64;
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

const SOCKETS: u8 = b'S';
const KILL: u8 = b'K';
const NO_MORE: u8 = b'N';
/// To the actuator, without a socket.
const NOT_STARTED: u8 = b'F';

/// The actuator's end of the channel to the starter.
#[derive(Debug)]
pub struct Starter(OwnedFd);

/// A frontend that was started.
#[derive(Debug)]
pub struct Started {
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
    #[error("the kernel starts no process")]
    NotStarted,
}

/// How a frontend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormerEnd {
    Exited,
    /// Killed for a system call that no part of it makes.
    DeniedCall,
}

impl FormerEnd {
    fn byte(former: Option<FormerEnd>) -> u8 {
        match former {
            None => b'0',
            Some(FormerEnd::Exited) => b'1',
            Some(FormerEnd::DeniedCall) => b'2',
        }
    }

    fn of_byte(byte: u8) -> Option<FormerEnd> {
        [FormerEnd::Exited, FormerEnd::DeniedCall]
            .into_iter()
            .find(|end| FormerEnd::byte(Some(*end)) == byte)
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
pub fn start(frontend: impl FnMut(FrontendSockets) -> ExitCode) -> io::Result<Starter> {
    let (own, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    if fork()?.is_some() {
        return Ok(Starter(own));
    }
    drop(own);
    // A panic must not unwind into what the actuator does. Its hook has logged it.
    let ended = catch_unwind(AssertUnwindSafe(|| run(&others, frontend)));
    exit(ended.unwrap_or(ExitCode::FAILURE))
}

impl Starter {
    /// Passes on the listening sockets, so that the first frontend is started.
    ///
    /// # Errors
    /// When there are too many, or the starter has ended.
    pub fn pass_on(&self, metrics: &[BorrowedFd<'_>], webhook: BorrowedFd<'_>) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> = metrics.iter().copied().chain([webhook]).collect();
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
        let (byte, sockets) = receive_with(&self.0, RecvFlags::DONTWAIT)?;
        let Some(byte) = byte else {
            return Ok(Err(NoFrontend::StarterEnded));
        };
        let started = sockets.into_iter().next().map(|channel| Started {
            channel,
            former: FormerEnd::of_byte(byte),
        });
        Ok(started.ok_or(NoFrontend::NotStarted))
    }

    /// Kills the frontend; another one follows.
    pub fn kill(&self) {
        self.order(KILL);
    }

    /// Lets the frontend end without another one, and closes the listening sockets.
    pub fn start_no_more(&self) {
        self.order(NO_MORE);
    }

    /// A starter that has ended is noticed elsewhere.
    fn order(&self, byte: u8) {
        let _ = send(&self.0, &[byte], SendFlags::NOSIGNAL);
    }
}

fn send_with(socket: impl AsFd, byte: u8, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other(format!("more than {MAX_LISTENERS} sockets")));
    }
    sendmsg(socket, &[IoSlice::new(&[byte])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A byte, `None` at the end of the channel, and the sockets that came with it.
fn receive_with(socket: impl AsFd, flags: RecvFlags) -> io::Result<(Option<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let sockets = rights.flatten().collect();
    Ok(((received.bytes == 1).then_some(byte[0]), sockets))
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

fn run(control: &OwnedFd, frontend: impl FnMut(FrontendSockets) -> ExitCode) -> ExitCode {
    set_name(STARTER);
    ignore_signals();
    close_others(control.as_raw_fd());
    // Best effort, as each measure of the sandbox.
    let _ = capabilities::keep_only(NEEDED);
    let _ = rustix::thread::set_no_new_privs(true);
    // At the end of the channel before any socket, the actuator has refused to start.
    let Ok((Some(SOCKETS), mut metrics)) = receive_with(control, RecvFlags::empty()) else {
        return ExitCode::SUCCESS;
    };
    let Some(webhook) = metrics.pop() else {
        return ExitCode::FAILURE;
    };
    let mut frontends = Frontends {
        control,
        sockets: Some((metrics, webhook)),
        frontend,
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
    /// `None` once no frontend may be started any more.
    sockets: Option<(Vec<OwnedFd>, OwnedFd)>,
    frontend: F,
}

/// A running frontend.
struct Running {
    pid: Pid,
    /// Closed when the process ends.
    alive: PipeReader,
    since: Instant,
}

/// What a starter waits for.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Ended,
    Order(u8),
    /// The actuator has ended.
    Closed,
    Timeout,
}

impl<F: FnMut(FrontendSockets) -> ExitCode> Frontends<'_, F> {
    /// Starts frontends until the actuator ends.
    fn keep_running(&mut self) {
        let (mut former, mut pause) = (None, FIRST_PAUSE);
        while self.sockets.is_some() {
            match self.start(former) {
                Ok(running) => {
                    program_pages::release();
                    former = Some(self.wait(&running));
                    if running.since.elapsed() >= LONG_LIFE {
                        pause = FIRST_PAUSE;
                    }
                }
                // The actuator logs it, because this process must not wait for the reader of the log.
                Err(_) => drop(send(self.control, &[NOT_STARTED], SendFlags::NOSIGNAL)),
            }
            if !self.rest(pause) {
                return;
            }
            pause = (2 * pause).min(MAX_PAUSE);
        }
    }

    fn start(&mut self, former: Option<FormerEnd>) -> io::Result<Running> {
        let (own, channel) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let (alive, holder) = io::pipe()?;
        let starter = rustix::process::getpid();
        let Some(pid) = fork()? else {
            set_name(FRONTEND);
            drop((own, alive));
            // The frontend must not give orders to the starter.
            let _ = nix::unistd::close(self.control.as_raw_fd());
            let Some((metrics, webhook)) = self.sockets.take() else {
                exit(ExitCode::FAILURE)
            };
            let code = (self.frontend)(FrontendSockets {
                channel,
                metrics,
                webhook,
                starter,
            });
            drop(holder);
            exit(code)
        };
        let running = Running {
            pid,
            alive,
            since: Instant::now(),
        };
        // An actuator that has ended is noticed while waiting.
        let _ = send_with(self.control, FormerEnd::byte(former), &[own.as_fd()]);
        Ok(running)
    }

    /// Waits until the frontend has ended, and kills it if the actuator wants that or has ended.
    fn wait(&mut self, running: &Running) -> FormerEnd {
        loop {
            match self.next_event(Some(&running.alive), None) {
                Event::Order(NO_MORE) => self.sockets = None,
                Event::Order(KILL) | Event::Closed | Event::Ended => break,
                Event::Order(_) | Event::Timeout => {}
            }
        }
        // It may have closed the pipe only.
        let _ = kill(running.pid, Signal::SIGKILL);
        loop {
            return match waitpid(running.pid, None) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => FormerEnd::DeniedCall,
                _ => FormerEnd::Exited,
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
                Event::Order(NO_MORE) => self.sockets = None,
                Event::Order(_) | Event::Ended => {}
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
            Err(Errno::INTR) => return Event::Order(0),
            Err(_) => return Event::Closed,
        }
        if !watched[0].revents().is_empty() {
            let mut byte = [0];
            return match recv(self.control, &mut byte[..], RecvFlags::DONTWAIT) {
                Ok((1, _)) => Event::Order(byte[0]),
                Err(Errno::AGAIN | Errno::INTR) => Event::Order(0),
                _ => Event::Closed,
            };
        }
        Event::Ended
    }
}
