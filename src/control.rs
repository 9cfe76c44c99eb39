//! The control socket, through which commands query and control the running daemon, with one JSON line in each
//! direction. Only root and the daemon's user have access: the socket is in the storage directory, and both sides check
//! their peer.

mod requester;

use crate::engine::run::{EngineHandle, Held, Input};
use crate::ledger::operation::MAX_REASON;
use crate::ledger::{Breaker, EpisodeKey, Lease, OperatorRequest};
use crate::permissions;
use crate::storage::{self, LOCK, Refused, SOCKET, StorageError};
use nix::libc;
use requester::Peer;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// A request is one short line. JSON may spell a character of the reason in 12 bytes.
const MAX_REQUEST_BYTES: u64 = 12 * MAX_REASON as u64 + 2048;
/// How long a client waits for the reply. The engine replies between two transactions.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the daemon keeps a connection. Longer than a client waits, so that a client always knows why it has no reply.
const MAX_CONNECTION: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Leases,
    /// What the status page shows, as `/api/v1/status`.
    Status,
    /// One lease, or all.
    Release(Option<u64>),
    /// Close the breaker of this rule.
    CloseBreaker(String),
    Pause(bool),
    /// Pause or resume one rule.
    PauseRule {
        rule: String,
        paused: bool,
    },
    /// Load the configuration again.
    Reload,
}

/// The line of a request. Without a reason it is what earlier versions understand.
#[derive(Debug, Serialize, Deserialize)]
struct RequestLine<R> {
    #[serde(flatten)]
    request: R,
    /// For the log and the history.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// Loads the configuration again. It blocks, and the error says why the last good configuration stays in force.
pub type ReloadFn = Arc<dyn Fn(OperatorRequest) -> Result<(), String> + Send + Sync>;

/// Returns what `/api/v1/status` does.
pub type StatusFn = Arc<dyn Fn() -> StatusFuture + Send + Sync>;
pub type StatusFuture = Pin<Box<dyn Future<Output = serde_json::Value> + Send>>;

/// What answers requests besides the engine.
#[derive(Clone)]
pub struct Responders {
    pub reload: ReloadFn,
    pub status: StatusFn,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The present time of CLOCK_BOOTTIME, for deadlines, and the leases.
    Leases {
        boot_now: Duration,
        leases: Vec<Lease>,
        /// The open breakers, by rule.
        breakers: BTreeMap<String, Breaker>,
        /// The unconfirmed episodes.
        #[serde(default)]
        unconfirmed: Vec<EpisodeKey>,
    },
    Status(serde_json::Value),
    /// The number of released leases.
    Released(usize),
    /// Whether a breaker was open.
    ClosedBreaker(bool),
    /// Whether there is such a rule.
    PausedRule(bool),
    Done,
    Failed(String),
}

/// Why the daemon's storage directory or socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("another evenkeel uses {}; give each its own --storage.path", .0.display())]
    InUse(PathBuf),
    #[error(
        "{}: {source}; is evenkeel running with this --storage.path, and do you have access to it?",
        path.display()
    )]
    Unreachable { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Untrusted(#[from] Refused),
    #[error(
        "{}: uid {uid} answers there, and neither root nor your own user; if that daemon is yours, run the command as that \
         user",
        path.display()
    )]
    ForeignDaemon { path: PathBuf, uid: u32 },
    #[error(
        "{}: the daemon did not reply within {} s; it is busy or stopped, and may still do what was asked: read its log, \
         then try again",
        path.display(), .waited.as_secs()
    )]
    NoReply { path: PathBuf, waited: Duration },
    #[error("{}: the daemon closed the connection without a reply; it may be shutting down: read its log", .0.display())]
    Closed(PathBuf),
    #[error(transparent)]
    Encode(serde_json::Error),
    #[error("unexpected answer of the daemon: {0}")]
    Decode(serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// The storage directory of this daemon.
pub struct ClaimedStorage {
    /// Without links.
    pub path: PathBuf,
    /// Held until the exit. `None` where the directory cannot be written.
    _lock: Option<File>,
}

/// Checks and locks the storage directory for this daemon. If the directory cannot be created or written, the daemon
/// runs without a ledger and logs that.
///
/// # Errors
/// When another user can change it, or another daemon has the lock.
pub fn claim(storage: &Path) -> Result<ClaimedStorage, ControlError> {
    let path = match storage::prepare(storage) {
        Ok(path) => path,
        Err(StorageError::Refused(refused)) => return Err(refused.into()),
        // The ledger reports it, and tries again later.
        Err(StorageError::Io { .. }) => {
            return Ok(ClaimedStorage {
                path: storage.to_owned(),
                _lock: None,
            });
        }
    };
    let opened = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path.join(LOCK));
    let lock = match opened {
        Ok(file) if file.try_lock().is_ok() => Some(file),
        Ok(_) => return Err(ControlError::InUse(path)),
        Err(_) => None,
    };
    Ok(ClaimedStorage { path, _lock: lock })
}

/// Serves the socket until `shutdown`.
pub async fn serve(storage: PathBuf, engine: EngineHandle, responders: Responders, shutdown: impl Future<Output = ()>) {
    let path = storage.join(SOCKET);
    // The socket's daemon is gone, because this process has the lock of the directory.
    drop(std::fs::remove_file(&path));
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "could not open the control socket, commands cannot reach this daemon");
            return;
        }
    };
    drop(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let peer = Peer::of(&stream).ok();
                    let answering = answer(stream, peer, engine.clone(), responders.clone());
                    tokio::spawn(tokio::time::timeout(MAX_CONNECTION, answering));
                }
            }
        }
    }
    drop(std::fs::remove_file(&path));
}

async fn answer(stream: UnixStream, peer: Option<Peer>, engine: EngineHandle, responders: Responders) {
    let friend = peer.filter(|peer| permissions::is_trusted(peer.uid));
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read).take(MAX_REQUEST_BYTES);
    let reply = match (read.read_line(&mut line).await, friend) {
        (Ok(_), None) => Reply::Failed("only root and the daemon's user have access".into()),
        (Ok(_), Some(peer)) => match parse(&line) {
            Ok(RequestLine { request, reason }) => {
                let by = requester::requester(peer).await;
                ask(request, OperatorRequest::new(by, &reason), &engine, responders).await
            }
            Err(error) => Reply::Failed(format!("not a request: {error}")),
        },
        (Err(error), _) => Reply::Failed(error.to_string()),
    };
    if let Ok(mut text) = serde_json::to_string(&reply) {
        text.push('\n');
        drop(write.write_all(text.as_bytes()).await);
    }
}

/// Earlier versions send the request alone.
fn parse(line: &str) -> Result<RequestLine<Request>, serde_json::Error> {
    serde_json::from_str(line).or_else(|error| {
        let request = serde_json::from_str(line).map_err(|_| error)?;
        let reason = String::new();
        Ok(RequestLine { request, reason })
    })
}

async fn ask(request: Request, operator: OperatorRequest, engine: &EngineHandle, responders: Responders) -> Reply {
    let busy = || Reply::Failed("the engine is busy or has stopped; try again".into());
    match request {
        Request::Leases => {
            let boot_now = crate::host::linux::boot_time();
            let held = |held: Held| Reply::Leases {
                boot_now,
                leases: held.leases,
                breakers: held.breakers,
                unconfirmed: held.unconfirmed,
            };
            ask_engine(engine, Input::Leases).await.map_or_else(busy, held)
        }
        Request::CloseBreaker(rule) => {
            let request = operator;
            let input = |reply| Input::CloseBreaker { rule, request, reply };
            ask_engine(engine, input).await.map_or_else(busy, Reply::ClosedBreaker)
        }
        Request::Release(id) => {
            let request = operator;
            let input = |reply| Input::Release { id, request, reply };
            ask_engine(engine, input).await.map_or_else(busy, Reply::Released)
        }
        Request::Status => Reply::Status((responders.status)().await),
        Request::Reload => match tokio::task::spawn_blocking(move || (responders.reload)(operator)).await {
            Ok(Ok(())) => Reply::Done,
            Ok(Err(reason)) => Reply::Failed(reason),
            Err(_) => busy(),
        },
        Request::PauseRule { rule, paused } => {
            let request = operator;
            let input = |reply| Input::PauseRule {
                rule,
                paused,
                request,
                reply,
            };
            ask_engine(engine, input).await.map_or_else(busy, Reply::PausedRule)
        }
        Request::Pause(paused) => {
            if engine.try_send(Input::Pause(paused, operator)) {
                Reply::Done
            } else {
                busy()
            }
        }
    }
}

/// The engine's reply to an input; `None` if the engine is busy or has stopped.
async fn ask_engine<T>(engine: &EngineHandle, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    match engine.try_send(input(reply)) {
        true => answer.await.ok(),
        false => None,
    }
}

/// Connects to the daemon with this storage. Another user could have put a socket in its place, so directory and peer
/// must be trusted. Returns the daemon's pid as well.
fn connect(storage: &Path, patience: Duration) -> Result<(BoundedStream, i32), ControlError> {
    let path = storage.join(SOCKET);
    let unreachable = |source| ControlError::Unreachable {
        path: path.clone(),
        source,
    };
    // A missing directory has no daemon, which the connection reports.
    storage::check_as_client(storage)?;
    let stream = BoundedStream::connect(&path, patience).map_err(|source| match source.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ControlError::NoReply {
            path: path.clone(),
            waited: patience,
        },
        _ => unreachable(source),
    })?;
    let peer = rustix::net::sockopt::socket_peercred(&stream.stream).map_err(|errno| unreachable(errno.into()))?;
    let uid = peer.uid.as_raw();
    if !permissions::is_trusted(uid) {
        return Err(ControlError::ForeignDaemon { path, uid });
    }
    Ok((stream, peer.pid.as_raw_nonzero().get()))
}

/// The process id of the daemon with this storage, from the credentials of its socket. `None` if no daemon runs, or if
/// this user has no access.
pub fn daemon_pid(storage: &Path) -> Option<i32> {
    connect(storage, PATIENCE).ok().map(|(_, pid)| pid)
}

/// Sends a request to the daemon with this storage, with a reason for the log and the history.
///
/// # Errors
/// When no daemon runs there, another user can replace it, it does not reply in time, or it refuses the request.
pub fn request(storage: &Path, request: &Request, reason: &str) -> Result<Reply, ControlError> {
    request_within(PATIENCE, storage, request, reason)
}

fn request_within(patience: Duration, storage: &Path, request: &Request, reason: &str) -> Result<Reply, ControlError> {
    let (mut stream, _) = connect(storage, patience)?;
    let path = storage.join(SOCKET);
    let failed = |source: std::io::Error| match source.kind() {
        // The kernel's word for a read that timed out is "Resource temporarily unavailable".
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ControlError::NoReply {
            path: path.clone(),
            waited: patience,
        },
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ControlError::Closed(path.clone()),
        _ => ControlError::Unreachable {
            path: path.clone(),
            source,
        },
    };
    let reason = reason.to_owned();
    let mut line = serde_json::to_string(&RequestLine { request, reason }).map_err(ControlError::Encode)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).map_err(failed)?;
    if reply.is_empty() {
        return Err(ControlError::Closed(path));
    }
    match serde_json::from_str(&reply) {
        Ok(Reply::Failed(reason)) => Err(ControlError::Refused(reason)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(ControlError::Decode(error)),
    }
}

/// A connection whose connecting, writing and reading end at one deadline.
struct BoundedStream {
    stream: net::UnixStream,
    deadline: Instant,
}

impl BoundedStream {
    fn connect(path: &Path, patience: Duration) -> io::Result<BoundedStream> {
        let deadline = Instant::now() + patience;
        let address = SocketAddrUnix::new(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let stream = net::UnixStream::from(socket);
        // The timeout of writes is that of the connecting, too, which waits where the daemon does not accept.
        stream.set_write_timeout(Some(patience))?;
        rustix::net::connect(&stream, &address)?;
        Ok(BoundedStream { stream, deadline })
    }

    /// The time that is left, as a timeout of the socket, which must not be zero.
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(Some(left)),
        }
    }
}

impl Read for BoundedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for BoundedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::DirBuilderExt;

    /// What a client says about a daemon that takes its request. A stream that `serve` returns stays open.
    fn error_of(serve: impl FnOnce(net::UnixStream) -> Option<net::UnixStream> + Send) -> ControlError {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        std::fs::DirBuilder::new().mode(0o700).create(&storage).unwrap();
        let listener = net::UnixListener::bind(storage.join(SOCKET)).unwrap();
        std::thread::scope(|scope| {
            let served = scope.spawn(|| serve(listener.accept().unwrap().0));
            let result = request_within(Duration::from_millis(10), &storage, &Request::Leases, "");
            drop(served.join().unwrap());
            result.unwrap_err()
        })
    }

    #[test]
    fn silent_daemon_is_named_with_the_time_and_what_to_do() {
        let error = error_of(Some);
        assert!(matches!(error, ControlError::NoReply { .. }), "{error}");
        let error = ControlError::NoReply {
            path: "/x/control.sock".into(),
            waited: PATIENCE,
        };
        let expected = "/x/control.sock: the daemon did not reply within 10 s; it is busy or stopped, and may still do \
                        what was asked: read its log, then try again";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn daemon_that_hangs_up_is_no_broken_json() {
        let error = error_of(|stream| {
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            assert!(request.contains("leases"), "{request}");
            None
        });
        assert!(matches!(error, ControlError::Closed(_)), "{error}");
    }

    #[test]
    fn patience_is_that_of_the_whole_exchange() {
        let error = error_of(|mut stream| {
            // A byte within each read, and never a line.
            for _ in 0..1000 {
                std::thread::sleep(Duration::from_millis(2));
                if stream.write_all(b" ").is_err() {
                    break;
                }
            }
            None
        });
        assert!(matches!(error, ControlError::NoReply { .. }), "{error}");
    }

    #[test]
    fn daemon_that_accepts_nothing_is_a_silent_one() {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        std::fs::DirBuilder::new().mode(0o700).create(&storage).unwrap();
        let path = storage.join(SOCKET);
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waiting = net::UnixStream::connect(&path).unwrap();
        let error = request_within(Duration::from_millis(10), &storage, &Request::Leases, "").unwrap_err();
        assert!(matches!(error, ControlError::NoReply { .. }), "{error}");
    }
}
