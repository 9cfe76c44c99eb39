//! The HTTP client: one connection to one server, with bounds of time and size. Each request reads credentials and
//! certificates from their files, so that a renewed one applies at once. The client follows no redirect, because a
//! server must not pass the credentials on to another one.

mod trust;

use super::body::{BodyError, read_body};
use super::tls::TlsError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::http::uri::{Scheme, Uri};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
pub use trust::Trust;

/// Maximum size of a response head, which a server can make evenkeel buffer.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Maximum size of a file with a secret, which is one line.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The connection settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    pub credentials: Option<Credentials>,
    /// Used for https only.
    pub trust: Trust,
    /// Timeout of connecting, and of each request.
    pub timeout: Duration,
    /// Maximum size of a response body.
    pub max_body_bytes: usize,
}

/// The credentials of evenkeel for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: Secret,
    },
    Authorization {
        /// Such as `Bearer`.
        kind: String,
        credentials: Secret,
    },
}

#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Text(String),
    /// The content of this file, trimmed at both ends as Prometheus does.
    File(PathBuf),
}

/// Omits the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("Text(…)"),
            Secret::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// The reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0} is not a server address; write http://HOST:PORT or https://HOST:PORT")]
    Address(Uri),
    #[error("cannot read {path}: {source}")]
    Secret { path: PathBuf, source: std::io::Error },
    #[error("the credentials do not fit into a header; use printable ASCII on one line")]
    Unfit,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{name:?} is not a valid name of a certificate")]
    ServerName { name: String },
    #[error("cannot connect to {peer}: {source}")]
    Connect { peer: String, source: std::io::Error },
    #[error("no TLS with {peer}: {source}")]
    Handshake { peer: String, source: std::io::Error },
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("the answer: {0}")]
    Body(#[from] BodyError),
    #[error("evenkeel is stopping")]
    Stopping,
}

/// The response of a server. A redirect is not followed.
#[derive(Debug, Clone)]
pub struct ClientResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl ClientSettings {
    /// Reads the files that the settings name: credentials, and for https the certificates. Touches the file system, so
    /// call it outside of async workers.
    ///
    /// # Errors
    /// Names the invalid file.
    pub fn prepare(&self, is_https: bool) -> Result<PreparedSettings, ClientError> {
        Ok(PreparedSettings {
            authorization: self.credentials.as_ref().map(Credentials::header).transpose()?,
            tls: is_https.then(|| self.trust.client_config().map(Arc::new)).transpose()?,
        })
    }
}

/// Settings with the contents of their files.
pub struct PreparedSettings {
    authorization: Option<HeaderValue>,
    tls: Option<Arc<ClientConfig>>,
}

impl Credentials {
    fn header(&self) -> Result<HeaderValue, ClientError> {
        let text = match self {
            Credentials::Basic { username, password } => {
                let pair = format!("{username}:{}", password.read()?);
                format!("Basic {}", STANDARD.encode(pair))
            }
            Credentials::Authorization { kind, credentials } => format!("{kind} {}", credentials.read()?),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| ClientError::Unfit)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Secret {
    fn read(&self) -> Result<String, ClientError> {
        let path = match self {
            Secret::Text(text) => return Ok(text.clone()),
            Secret::File(path) => path,
        };
        let read = || {
            let mut text = String::new();
            std::io::Read::read_to_string(
                &mut std::io::Read::take(std::fs::File::open(path)?, MAX_SECRET_BYTES),
                &mut text,
            )?;
            Ok(text)
        };
        let text = read().map_err(|source| ClientError::Secret {
            path: path.clone(),
            source,
        })?;
        Ok(text.trim().to_owned())
    }
}

/// An open connection. Dropping it closes it.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    max_body_bytes: usize,
    /// The task that drives the connection. Dropping the set aborts it.
    _carrier: JoinSet<()>,
}

impl Connection {
    /// Connects to the server of `address`, ignoring its path.
    ///
    /// # Errors
    /// When there is no connection within the timeout, or a file that the settings name is invalid.
    pub async fn open(address: &Uri, settings: &ClientSettings) -> Result<Connection, ClientError> {
        let is_https = address.scheme() == Some(&Scheme::HTTPS);
        let (Some(authority), true) = (address.authority(), is_https || address.scheme() == Some(&Scheme::HTTP)) else {
            return Err(ClientError::Address(address.clone()));
        };
        let reading = settings.clone();
        let prepared = tokio::task::spawn_blocking(move || reading.prepare(is_https))
            .await
            .map_err(|_| ClientError::Stopping)??;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let connect = async {
            let stream = TcpStream::connect((name, port))
                .await
                .map_err(|source| ClientError::Connect {
                    peer: authority.to_string(),
                    source,
                })?;
            // Nagle's algorithm would delay a request, which is written at once.
            let _ = stream.set_nodelay(true);
            let Some(tls) = prepared.tls else {
                return carry(stream).await;
            };
            let name = settings.trust.server_name.as_deref().unwrap_or(name);
            let server_name =
                ServerName::try_from(name.to_owned()).map_err(|_| ClientError::ServerName { name: name.to_owned() })?;
            let stream = TlsConnector::from(tls)
                .connect(server_name, stream)
                .await
                .map_err(|source| ClientError::Handshake {
                    peer: authority.to_string(),
                    source,
                })?;
            carry(stream).await
        };
        let (sender, carrier) = tokio::time::timeout(settings.timeout, connect)
            .await
            .map_err(|_| ClientError::TimedOut(settings.timeout))??;
        Ok(Connection {
            sender,
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| ClientError::Address(address.clone()))?,
            authorization: prepared.authorization,
            timeout: settings.timeout,
            max_body_bytes: settings.max_body_bytes,
            _carrier: carrier,
        })
    }

    /// Sends one request and reads its response. `target` is path and query; `headers` are added to those of every
    /// request.
    ///
    /// # Errors
    /// When there is no complete response within the bounds. The connection is unusable then.
    pub async fn send(
        &mut self,
        method: Method,
        target: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<ClientResponse, ClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        let own = request.headers_mut();
        own.insert(HOST, self.host.clone());
        own.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!(
            "evenkeel/",
            env!("CARGO_PKG_VERSION")
        )));
        if let Some(authorization) = &self.authorization {
            own.insert(AUTHORIZATION, authorization.clone());
        }
        let exchange = async {
            self.sender.ready().await?;
            let (head, mut body): (_, Incoming) = self.sender.send_request(request).await?.into_parts();
            let body = read_body(&mut body, self.max_body_bytes, self.timeout).await?;
            Ok(ClientResponse {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or(Err(ClientError::TimedOut(self.timeout)))
    }
}

async fn carry<S>(stream: S) -> Result<(http1::SendRequest<Full<Bytes>>, JoinSet<()>), ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut carrier = JoinSet::new();
    carrier.spawn(async move {
        // The pending request fails with the same error.
        drop(connection.await);
    });
    Ok((sender, carrier))
}

#[cfg(test)]
mod tests;
