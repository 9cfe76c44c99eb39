//! The HTTP server, with bounds on the number of connections, on slow peers and on the shutdown. `Access` provides
//! TLS; HTTP/2 is used if TLS negotiated it, otherwise HTTP/1.

use super::access::Access;
use super::answer::Answer;
use super::log_limit::{LogLimit, Permit};
use super::web_file::Active;
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// From the start of a connection, or the end of the last answer, to the end of the next request's head. A
    /// connection that idles longer is closed. The TLS handshake has the same time.
    pub header_timeout: Duration,
    /// A peer that takes nothing of an answer for this long is given up.
    pub write_timeout: Duration,
    /// How long requests under way may go on after the shutdown has begun.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            // Two listeners stay below the 1024 open files that a process has by default.
            max_connections: 256,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
}

/// How long to wait when no connection can be accepted, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Head of a request, and what is buffered of a body: times `max_connections`, this is what strangers can make us hold.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// How often room is looked for while all slots are taken.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

/// Requests at once on one HTTP/2 connection. Prometheus and Alertmanager send one.
const MAX_STREAMS: u32 = 16;

/// Serves `service` on `listener` until `shutdown` is done, then lets requests under way finish. Connections take the TLS
/// and the answers take the headers that `access` says; to call [`Access::admit`] is left to the service, which knows
/// what its paths need.
pub async fn serve<S, F>(
    listener: TcpListener,
    limits: Limits,
    access: Access,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    S: Fn(Request<Incoming>, Peer) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = Arc::new(service);
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let mut open = Open::default();
    let log_limit = Arc::new(LogLimit::new());
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            // Ended connections are taken off the set, which would keep their results for ever.
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // At the bound peers wait in the kernel's queue, and a connection without a request loses its slot.
        let slot = async {
            loop {
                if slots.available_permits() == 0 {
                    open.close_the_oldest_idle();
                }
                if let Ok(slot) = tokio::time::timeout(ROOM_PAUSE, Arc::clone(&slots).acquire_owned()).await {
                    return slot.expect("the semaphore is never closed");
                }
            }
        };
        let slot = tokio::select! {
            () = &mut shutdown => break,
            slot = slot => slot,
        };
        let requests = open.add(limits.max_connections);
        let connection = Connection {
            peer: Peer { address },
            limits,
            requests,
            log_limit: Arc::clone(&log_limit),
            stopped: stopped.clone(),
        };
        let (access, service) = (access.clone(), Arc::clone(&service));
        connections.spawn(async move {
            connection.open(stream, access, service).await;
            drop(slot);
        });
    }
    drop(listener);
    // No receiver is left when there is no connection.
    let _ = stop.send(());
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
        tracing::warn!("connections open at the end of the shutdown cut");
    }
}

/// How many requests a connection has seen, and the word the request to make room.
#[derive(Default)]
struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    make_room: Notify,
}

impl Requests {
    fn is_idle(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed)
    }
}

/// A request counts as ended too when its stream is reset and its future dropped.
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn begin(requests: &Arc<Requests>) -> UnderWay {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(requests))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The connections of a listener, oldest first.
#[derive(Default)]
struct Open(VecDeque<Weak<Requests>>);

impl Open {
    fn add(&mut self, max_connections: usize) -> Arc<Requests> {
        if self.0.len() > 2 * max_connections {
            self.0.retain(|requests| requests.strong_count() > 0);
        }
        let requests = Arc::new(Requests::default());
        self.0.push_back(Arc::downgrade(&requests));
        requests
    }

    /// A real client sends its request at once, so the one that has been silent longest is the least loss. Without this a
    /// thousand silent connections would keep Alertmanager out for many times `header_timeout`.
    fn close_the_oldest_idle(&mut self) {
        let oldest = self
            .0
            .iter()
            .position(|open| open.upgrade().is_some_and(|requests| requests.is_idle()));
        if let Some(requests) = oldest.and_then(|at| self.0.remove(at)).and_then(|open| open.upgrade()) {
            requests.make_room.notify_one();
        }
    }
}

struct Connection {
    peer: Peer,
    limits: Limits,
    requests: Arc<Requests>,
    /// Any peer can cause lines of the log.
    log_limit: Arc<LogLimit<&'static str>>,
    stopped: watch::Receiver<()>,
}

impl Connection {
    async fn open<S, F>(self, stream: TcpStream, access: Access, service: Arc<S>)
    where
        S: Fn(Request<Incoming>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        // Answers are written at once; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        // hyper bounds no writes. The kernel does, a closed receive window included (tcp(7), TCP_USER_TIMEOUT).
        let write_timeout_ms = u32::try_from(self.limits.write_timeout.as_millis()).unwrap_or(u32::MAX);
        let _ = setsockopt(&stream, TcpUserTimeout, &write_timeout_ms);
        let active = access.web().await;
        match active.as_ref().and_then(|active| active.tls.clone()) {
            None => self.http1(TokioIo::new(stream), active, service).await,
            // Apart: what it needs is many times what the others do, and would be set aside for each of them.
            Some(tls) => Box::pin(self.tls(tls, stream, active, service)).await,
        }
    }

    async fn tls<S, F>(
        mut self,
        tls: Arc<ServerConfig>,
        stream: TcpStream,
        active: Option<Arc<Active>>,
        service: Arc<S>,
    ) where
        S: Fn(Request<Incoming>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let accept = tokio::time::timeout(self.limits.header_timeout, TlsAcceptor::from(tls).accept(stream));
        let handshake = tokio::select! {
            handshake = accept => handshake,
            () = self.requests.make_room.notified() => return,
            _ = self.stopped.changed() => return,
        };
        match handshake {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.http2(TokioIo::new(stream), active, service).await;
            }
            Ok(Ok(stream)) => self.http1(TokioIo::new(stream), active, service).await,
            Ok(Err(error)) => {
                if let Some(Permit { left_out }) = self.log_limit.permit("TLS handshake failed") {
                    tracing::warn!(peer = %self.peer.address, left_out, %error, "TLS handshake failed");
                }
            }
            Err(_) => {
                if let Some(Permit { left_out }) = self.log_limit.permit("TLS handshake timed out") {
                    tracing::warn!(peer = %self.peer.address, left_out, "TLS handshake timed out");
                }
            }
        }
    }

    async fn http1<I, S, F>(self, io: I, active: Option<Arc<Active>>, service: Arc<S>)
    where
        I: Read + Write + Unpin + 'static,
        S: Fn(Request<Incoming>, Peer) -> F,
        F: Future<Output = Answer>,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(io, self.counted(active, service));
        self.converse(connection, |connection| connection.graceful_shutdown())
            .await;
    }

    async fn http2<I, S, F>(self, io: I, active: Option<Arc<Active>>, service: Arc<S>)
    where
        I: Read + Write + Unpin + 'static,
        S: Fn(Request<Incoming>, Peer) -> F + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .serve_connection(io, self.counted(active, service));
        self.converse(connection, |connection| connection.graceful_shutdown())
            .await;
    }

    /// The service as hyper calls it: requests counted, answers with the headers of the web configuration.
    fn counted<S, F>(
        &self,
        active: Option<Arc<Active>>,
        service: Arc<S>,
    ) -> impl Service<
        Request<Incoming>,
        Response = Answer,
        Error = Infallible,
        Future = impl Future<Output = Result<Answer, Infallible>> + use<S, F>,
    > + use<S, F>
    where
        S: Fn(Request<Incoming>, Peer) -> F,
        F: Future<Output = Answer>,
    {
        let (peer, requests) = (self.peer, Arc::clone(&self.requests));
        service_fn(move |request| dressed(service(request, peer), active.clone(), UnderWay::begin(&requests)))
    }

    /// Carries a connection on until its end, the shutdown's, or the end of its welcome.
    async fn converse<C>(mut self, connection: C, graceful_shutdown: impl Fn(Pin<&mut C>))
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = pin!(connection);
        let mut begun_before = 0;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return self.tell(ended),
                _ = self.stopped.changed() => {
                    graceful_shutdown(connection.as_mut());
                    return self.tell(connection.await);
                }
                () = self.requests.make_room.notified() => {
                    // A request may have come in between.
                    if self.requests.is_idle() {
                        return tracing::debug!(peer = %self.peer.address, "idle connection closed, because the connection limit is reached");
                    }
                }
                // hyper has no bound for an idle HTTP/2 connection, nor for one that never begins.
                () = tokio::time::sleep(self.limits.header_timeout) => {
                    let begun = self.requests.begun.load(Ordering::Relaxed);
                    if begun == begun_before && self.requests.is_idle() {
                        return;
                    }
                    begun_before = begun;
                }
            }
        }
    }

    fn tell(&self, ended: Result<(), hyper::Error>) {
        match ended {
            Ok(()) => {}
            Err(error) if error.is_parse() => {
                if let Some(Permit { left_out }) = self.log_limit.permit("invalid HTTP/1") {
                    tracing::warn!(peer = %self.peer.address, left_out, %error, "invalid HTTP/1 request refused");
                }
            }
            // Peers disconnect and time out all the time, hence debug.
            Err(error) => tracing::debug!(peer = %self.peer.address, %error, "connection ended"),
        }
    }
}

/// An answer with the headers of the web configuration that is in force on the connection.
async fn dressed(
    answer: impl Future<Output = Answer>,
    active: Option<Arc<Active>>,
    _under_way: UnderWay,
) -> Result<Answer, Infallible> {
    let mut answer = answer.await;
    for (name, value) in active.iter().flat_map(|active| &active.config.headers) {
        answer.headers_mut().insert(name, value.clone());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
