//! The channel between the actuator and the starter of the frontend: sockets and orders of five bytes at most go to the
//! starter, and reports come back, each with the channel of a new frontend.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, send, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::net::UnixDatagram;

/// The most sockets that the kernel passes on at once (SCM_MAX_FD), which bounds the addresses of the listeners.
pub const MAX_LISTENERS: usize = 253;
/// The first message of the actuator, which comes with the sockets.
pub(super) const SOCKETS: &[u8] = b"S";
const NO_MORE: &[u8] = b"N";
/// Followed by the number of a frontend.
const KILL: u8 = b'K';
pub(super) const MAX_ORDER: usize = 5;
/// The longest report of the starter.
const MAX_REPORT: usize = 256;

/// An order of the actuator.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Kill the frontend of this number.
    Kill(u32),
    /// Start no other frontend.
    NoMore,
}

impl Order {
    pub fn read(message: &[u8]) -> Option<Order> {
        match *message {
            [KILL, a, b, c, d] => Some(Order::Kill(u32::from_be_bytes([a, b, c, d]))),
            _ => (message == NO_MORE).then_some(Order::NoMore),
        }
    }
}

/// A message to the actuator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
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
pub struct Starter(pub(super) OwnedFd);

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
    pub(super) fn of(status: WaitStatus) -> FormerEnd {
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

pub(super) fn send_with(socket: impl AsFd, message: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(Errno::NOSPC.into());
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message, which is empty at the end of the channel, and the sockets that came with it.
pub(super) fn receive_with(socket: impl AsFd, flags: RecvFlags) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, recv, socketpair};

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
            Order::read(&order[..length])
        });
        assert_eq!(orders, [Some(Order::Kill(0x0102_0304)), Some(Order::NoMore)]);
        assert_eq!(Order::read(b"K"), None);
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
