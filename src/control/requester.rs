//! The user behind a connection to the control socket: the peer's credentials, the name of the user, and the user who
//! logged in before `sudo`.

use crate::ledger::Requester;
use nix::unistd::{Uid, User};
use std::time::Duration;
use tokio::net::unix::UCred;

/// Maximum wait for names, because a directory service may not answer, and a pause must not depend on it.
const PATIENCE: Duration = Duration::from_secs(1);
/// The login uid of a process that no login started (proc_pid_loginuid(5)).
const NO_LOGIN: u32 = u32::MAX;

/// The sender of a request. Without an answer in time the user is known by number only.
pub async fn requester(peer: &UCred) -> Requester {
    let (uid, pid) = (peer.uid(), peer.pid());
    let named = tokio::task::spawn_blocking(move || {
        let login = pid.and_then(login_uid).filter(|login| *login != uid);
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

/// The user who logged in, which only a privileged process can change. `None` in a service or without audit support.
fn login_uid(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}
