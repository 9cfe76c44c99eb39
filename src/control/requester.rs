//! The user behind a connection to the control socket: the peer's credentials, the name of the user, and the user who
//! logged in before `sudo`.

use crate::ledger::Requester;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, User};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::UnixStream;

/// Maximum wait for names, because a directory service may not answer, and a pause must not depend on it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The login uid of a process that no login started (proc_pid_loginuid(5)).
const NO_LOGIN: u32 = u32::MAX;

/// The user at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub uid: u32,
    /// The user who logged in.
    login: Option<u32>,
}

impl Peer {
    /// Reads who is at the other end. Call it as soon as the connection is accepted, because the process may set its
    /// login later, or exit.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn of(stream: &UnixStream) -> std::io::Result<Peer> {
        let peer = stream.peer_cred()?;
        let login = peer.pid().and_then(login_uid).filter(|_| is_running(stream));
        let uid = peer.uid();
        Ok(Peer { uid, login })
    }
}

/// Whether the process that connected still runs, so that its number is not one of another process. Taken for granted
/// before Linux 6.5, which cannot say.
fn is_running(stream: &UnixStream) -> bool {
    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(pidfd) => {
            let mut has_exited = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut has_exited, PollTimeout::ZERO) == Ok(0)
        }
        Err(error) => error == Errno::ENOPROTOOPT,
    }
}

/// The sender of a request. Without an answer in time the user is known by number only.
pub async fn requester(Peer { uid, login }: Peer) -> Requester {
    let named = tokio::task::spawn_blocking(move || {
        let login = login.filter(|login| *login != uid);
        Requester {
            name: name_of(uid),
            uid: Some(uid),
            login: login.map(name_of),
        }
    });
    match tokio::time::timeout(PATIENCE, named).await {
        Ok(Ok(requester)) => requester,
        _ => Requester {
            name: format!("user {uid}"),
            uid: Some(uid),
            login: None,
        },
    }
}

fn name_of(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("user {uid}"), |user| user.name)
}

/// The user who logged in. Only a privileged process can change it, but a process without one can set it once to any
/// value. `None` in a service or without audit support.
fn login_uid(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}
