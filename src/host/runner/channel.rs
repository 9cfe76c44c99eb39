//! The channel between evenkeel and its runner: a pair of Unix sockets that keep the bounds of messages, so that a runner
//! that dies leaves no half of one. A message is JSON of a bounded size; a larger one is never sent.

use crate::host::job::{Job, Report};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The size of the longest message. The kernel takes 208 KiB in one message by default, with its own data.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// evenkeel's end of the channel to a runner that was started.
#[derive(Debug)]
pub struct StartedRunner(pub OwnedFd);

/// A job for the runner with this process id. Another runner does not run it, because evenkeel has reported it as lost.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub runner: u32,
    pub ticket: u64,
    pub job: Job,
}

/// What the runner sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// A runner with this process id takes orders. The jobs of the one before it are lost.
    Started {
        runner: u32,
    },
    Reported {
        ticket: u64,
        report: Report,
    },
}

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("{0} bytes are more than a job may have ({MAX_MESSAGE_BYTES})")]
    TooLong(usize),
    #[error("the job cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
    #[error("the runner takes no job now")]
    Busy,
    #[error("the runner cannot be reached: {0}")]
    Io(#[from] Errno),
}

/// The two ends.
///
/// # Errors
/// When the kernel has no more descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends a message without waiting.
///
/// # Errors
/// When it is too long, or the other end does not read.
pub fn send_message(socket: impl AsFd, message: &impl Serialize) -> Result<(), SendError> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(SendError::TooLong(bytes.len()));
    }
    match send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN) => Err(SendError::Busy),
        Err(errno) => Err(errno.into()),
    }
}

/// The next message; `None` when the other end is closed. A message that is no `T` is an error of kind `InvalidData`.
///
/// # Errors
/// Of kind `WouldBlock` when there is none yet.
pub fn receive_message<T: for<'d> Deserialize<'d>>(socket: impl AsFd) -> io::Result<Option<T>> {
    // One byte more shows that a message is too long.
    let mut buffer = vec![0; MAX_MESSAGE_BYTES + 1];
    let (length, _) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
    match length {
        0 => Ok(None),
        _ => decode(&buffer[..length]).map(Some),
    }
}

/// A message of these bytes.
///
/// # Errors
/// Of kind `InvalidData` when it is too long or no `T`.
pub fn decode<T: for<'d> Deserialize<'d>>(bytes: &[u8]) -> io::Result<T> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// Waits for an event. An error ends the wait, and the next call on the socket finds it.
pub fn wait_for(socket: impl AsFd, event: PollFlags) {
    let _ = poll(&mut [PollFd::new(&socket, event)], None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(reason: String) -> Answer {
        Answer::Reported {
            ticket: 7,
            report: Report::NotStarted { reason },
        }
    }

    #[test]
    fn messages_keep_their_bounds() {
        let (here, there) = pair().unwrap();
        let body = vec![0xff; 64 * 1024];
        let report = Report::Answered {
            status: 200,
            body,
            retry_after: None,
        };
        let answer = Answer::Reported {
            ticket: 1,
            report: report.clone(),
        };
        send_message(&here, &Answer::Started { runner: 4711 }).unwrap();
        send_message(&here, &answer).unwrap();
        let first = receive_message(&there).unwrap();
        assert!(matches!(first, Some(Answer::Started { runner: 4711 })));
        let second = receive_message(&there).unwrap();
        assert!(matches!(second, Some(Answer::Reported { ticket: 1, report: found }) if found == report));
        let none = receive_message::<Answer>(&there).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert!(receive_message::<Answer>(&there).unwrap().is_none());
    }

    #[test]
    fn long_and_foreign_messages_are_refused() {
        let (here, there) = pair().unwrap();
        let long = send_message(&here, &reported("x".repeat(MAX_MESSAGE_BYTES)));
        assert!(matches!(long, Err(SendError::TooLong(_))));
        for bytes in [b"{}".to_vec(), vec![b' '; MAX_MESSAGE_BYTES + 2]] {
            send(&here, &bytes, SendFlags::empty()).unwrap();
            let error = receive_message::<Answer>(&there).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn full_channel_is_busy() {
        let (here, _there) = pair().unwrap();
        let fill = || send_message(&here, &reported("x".repeat(100_000)));
        let error = std::iter::repeat_with(fill).find_map(Result::err);
        assert!(matches!(error, Some(SendError::Busy)));
    }
}
