//! The HTTP server, with bounds on the number of connections, on slow peers and on the shutdown. `Access` provides
//! TLS; HTTP/2 is used if TLS negotiated it, otherwise HTTP/1.

use super::access::Access;
use super::log_limit::{LogLimit, Permit};
use super::response::HttpResponse;
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
use std::io;
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
pub struct ServerLimits {
    /// Maximum number of connections; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Time from the start of a connection, or the end of the last response, to the end of the next request's head.
    /// Closes connections that idle longer. The TLS handshake has the same timeout.
    pub header_timeout: Duration,
    /// Time after which a connection is closed whose peer reads nothing of the response.
    pub write_timeout: Duration,
    /// Time for pending requests after the shutdown has begun.
    pub drain_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            // Two listeners stay below the 1024 open files that a process has by default.
            max_connections: 256,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
}

/// Pause after a failed accept(2), which is mostly due to a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum size of a request head, and of the buffer for a body. Each of `max_connections` can use this much memory.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Interval between attempts to close an idle connection while all slots are in use.
const FULL_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Concurrent requests on one HTTP/2 connection. Prometheus and Alertmanager send one.
const MAX_STREAMS: u32 = 16;

/// Serves `service` on `listener` until `shutdown` is done or the socket was shut down, then waits for pending requests. `access` provides TLS and
/// headers. The service itself calls [`Access::admit`], because the requirements differ by path.
pub async fn serve<S, F>(
    listener: TcpListener,
    limits: ServerLimits,
    access: Access,
    service: S,
    shutdown: impl Future<Output = ()>,
) where
    S: Fn(Request<Incoming>, Peer) -> F + Send + Sync + 'static,
    F: Future<Output = HttpResponse> + Send + 'static,
{
    let service = Arc::new(service);
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let mut open = Open::default();
    let log_limit = Arc::new(LogLimit::default());
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            // The set keeps the results of closed connections until they are joined.
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            // The socket does not listen any more, and never will again.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::error!(%error, "listening socket shut down");
                break;
            }
            Err(error) => {
                if let Some(Permit { left_out }) = log_limit.permit("accept") {
                    tracing::warn!(%error, left_out, "could not accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // At the limit, peers wait in the kernel's queue, and an idle connection loses its slot.
        let slot = async {
            loop {
                if slots.available_permits() == 0 {
                    open.close_the_oldest_idle();
                }
                if let Ok(slot) = tokio::time::timeout(FULL_POLL_INTERVAL, Arc::clone(&slots).acquire_owned()).await {
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
    // Sending fails if there is no connection.
    let _ = stop.send(());
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
        tracing::warn!("connections open at the end of the shutdown cut");
    }
}

/// The number of requests on a connection, and the signal to close it when idle.
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

/// A pending request. Dropping it ends the request, also when its stream is reset.
struct PendingRequest(Arc<Requests>);

impl PendingRequest {
    fn begin(requests: &Arc<Requests>) -> PendingRequest {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        PendingRequest(Arc::clone(requests))
    }
}

impl Drop for PendingRequest {
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

    /// Closes the connection that has been idle longest, because real clients send their request at once. Otherwise a
    /// thousand silent connections would block Alertmanager for many times `header_timeout`.
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
    limits: ServerLimits,
    requests: Arc<Requests>,
    /// Any peer can cause lines of the log.
    log_limit: Arc<LogLimit<&'static str>>,
    stopped: watch::Receiver<()>,
}

impl Connection {
    async fn open<S, F>(self, stream: TcpStream, access: Access, service: Arc<S>)
    where
        S: Fn(Request<Incoming>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = HttpResponse> + Send + 'static,
    {
        // Nagle's algorithm would delay responses, which are written at once.
        let _ = stream.set_nodelay(true);
        // hyper has no write timeout. The kernel's covers a closed receive window as well (tcp(7), TCP_USER_TIMEOUT).
        let write_timeout_ms = u32::try_from(self.limits.write_timeout.as_millis()).unwrap_or(u32::MAX);
        let _ = setsockopt(&stream, TcpUserTimeout, &write_timeout_ms);
        let active = access.web().await;
        match active.as_ref().and_then(|active| active.tls.clone()) {
            None => self.http1(TokioIo::new(stream), active, service).await,
            // Boxed, because the TLS future is many times larger than the plain one, which would reserve the same size.
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
        F: Future<Output = HttpResponse> + Send + 'static,
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
        F: Future<Output = HttpResponse>,
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
        F: Future<Output = HttpResponse> + Send + 'static,
    {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .serve_connection(io, self.counted(active, service));
        self.converse(connection, |connection| connection.graceful_shutdown())
            .await;
    }

    /// Wraps the service for hyper: counts requests, and adds the headers of the web configuration.
    fn counted<S, F>(
        &self,
        active: Option<Arc<Active>>,
        service: Arc<S>,
    ) -> impl Service<
        Request<Incoming>,
        Response = HttpResponse,
        Error = Infallible,
        Future = impl Future<Output = Result<HttpResponse, Infallible>> + use<S, F>,
    > + use<S, F>
    where
        S: Fn(Request<Incoming>, Peer) -> F,
        F: Future<Output = HttpResponse>,
    {
        let (peer, requests) = (self.peer, Arc::clone(&self.requests));
        service_fn(move |request| {
            with_headers(service(request, peer), active.clone(), PendingRequest::begin(&requests))
        })
    }

    /// Drives a connection until it ends, the shutdown times out, or its slot is needed.
    async fn converse<C>(mut self, connection: C, graceful_shutdown: impl Fn(Pin<&mut C>))
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = pin!(connection);
        let mut begun_before = 0;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return self.log_end(ended),
                _ = self.stopped.changed() => {
                    graceful_shutdown(connection.as_mut());
                    return self.log_end(connection.await);
                }
                () = self.requests.make_room.notified() => {
                    // A request may have arrived meanwhile.
                    if self.requests.is_idle() {
                        let peer = self.peer.address;
                        return tracing::debug!(%peer, "idle connection closed, because the connection limit is reached");
                    }
                }
                // hyper has no timeout for idle HTTP/2 connections, nor for connections without a first request.
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

    fn log_end(&self, ended: Result<(), hyper::Error>) {
        match ended {
            Ok(()) => {}
            Err(error) if error.is_parse() => {
                if let Some(Permit { left_out }) = self.log_limit.permit("invalid HTTP/1") {
                    tracing::warn!(peer = %self.peer.address, left_out, %error, "invalid HTTP/1 request refused");
                }
            }
            // Peers disconnect and time out often, hence debug.
            Err(error) => tracing::debug!(peer = %self.peer.address, %error, "connection ended"),
        }
    }
}

/// The response of the service, with the headers of the connection's web configuration.
async fn with_headers(
    answer: impl Future<Output = HttpResponse>,
    active: Option<Arc<Active>>,
    _pending: PendingRequest,
) -> Result<HttpResponse, Infallible> {
    let mut answer = answer.await;
    for (name, value) in active.iter().flat_map(|active| &active.config.headers) {
        answer.headers_mut().insert(name, value.clone());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
