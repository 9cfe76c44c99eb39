//! The access control of a listener: the checks of a connection and of a request's head before the body is read.

use super::password::Passwords;
use super::remote_access::{AccessContents, RemoteAccess};
use super::response::{self, HttpResponse};
use super::token::{TokenError, TokenFile};
use super::web_file::{Active, Bucket, WebFile, WebFileError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// `Retry-After` when evenkeel cannot read a secret, whose file may be changing.
const RETRY_AFTER_SECONDS: u32 = 5;

/// Pause before wrong credentials are refused.
const WRONG_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSED: usize = 32;

/// The access rules of a listener. Cheap to clone.
#[derive(Clone, Default)]
pub struct Access {
    token: Option<Arc<TokenFile>>,
    web: Option<Arc<WebFile>>,
    /// In place of the files, in a process that cannot read them.
    remote: Option<Arc<RemoteAccess>>,
    rate: Arc<Mutex<Bucket>>,
    passwords: Arc<Passwords>,
    guesses: Guesses,
}

/// The pause after wrong credentials. A wrong guess must not delay a right one, so no request waits for another.
#[derive(Clone)]
struct Guesses(Arc<Semaphore>);

impl Default for Guesses {
    fn default() -> Guesses {
        Guesses(Arc::new(Semaphore::new(MAX_PAUSED)))
    }
}

impl Guesses {
    async fn pause(&self) {
        // Paused requests must not use up the connections of the listener.
        if let Ok(_slot) = self.0.try_acquire() {
            tokio::time::sleep(WRONG_PAUSE).await;
        }
    }
}

/// The authentication schemes of a listener, any of which is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    basic: bool,
    bearer: bool,
}

/// The reason why a request is denied.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("no credentials were sent")]
    Missing(Challenge),
    #[error("the credentials are wrong")]
    Wrong(Challenge),
    #[error("more requests than rate_limit of the web configuration file allows")]
    TooMany,
    /// The tokens cannot be read.
    #[error("{0}")]
    Tokens(String),
}

impl Denied {
    /// The response: 401 with the challenges, 429, or 503 for a fault of evenkeel's own.
    pub fn to_response(&self) -> HttpResponse {
        match self {
            Denied::Missing(challenge) | Denied::Wrong(challenge) => {
                let mut answer = response::text(StatusCode::UNAUTHORIZED, &self.to_string());
                let schemes = [
                    (challenge.bearer, "Bearer realm=\"evenkeel\""),
                    (challenge.basic, "Basic realm=\"evenkeel\", charset=\"UTF-8\""),
                ];
                for (_, scheme) in schemes.into_iter().filter(|(offered, _)| *offered) {
                    answer
                        .headers_mut()
                        .append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
                }
                answer
            }
            Denied::TooMany => {
                let mut answer = response::text(StatusCode::TOO_MANY_REQUESTS, "too many requests");
                response::set(&mut answer, RETRY_AFTER, "1");
                answer
            }
            // The response omits the path of the file, which the log has.
            Denied::Tokens(_) => response::unavailable("credentials cannot be checked now", RETRY_AFTER_SECONDS),
        }
    }
}

impl Access {
    /// Admits every request.
    pub fn open() -> Access {
        Access::default()
    }

    /// The rules of another process, which reads the files.
    pub fn remote(remote: RemoteAccess) -> Access {
        Access {
            remote: Some(Arc::new(remote)),
            ..Access::default()
        }
    }

    /// The present contents of the files, for another process. Touches the file system.
    pub fn contents(&self) -> AccessContents {
        let tokens = self.token.as_ref().map(|token| token.current());
        AccessContents {
            tokens: tokens.map(|tokens| tokens.map_err(|error| error.to_string())),
            web: self.web.as_ref().map(|web| web.active().contents.clone()),
        }
    }

    /// Requires the bearer token in this file.
    ///
    /// # Errors
    /// When the file has no token.
    pub fn with_token_file(mut self, path: &Path) -> Result<Access, TokenError> {
        self.token = Some(Arc::new(TokenFile::open(path)?));
        Ok(self)
    }

    /// Applies this web configuration file of the exporter-toolkit. With a token file as well, the token and a password
    /// of `basic_auth_users` are equally valid.
    ///
    /// # Errors
    /// When the file or a file that it names is invalid.
    pub fn with_web_config(mut self, path: &Path) -> Result<Access, WebFileError> {
        self.web = Some(Arc::new(WebFile::open(path)?));
        Ok(self)
    }

    /// The web configuration file, and the files that it names. Touches the file system.
    pub fn web_files(&self) -> Vec<PathBuf> {
        self.web.as_ref().map(|web| web.files()).unwrap_or_default()
    }

    /// Whether clients must authenticate: by the token, a password or a client certificate. A later change of the files
    /// cannot switch that off. Touches the file system.
    pub fn authenticates(&self) -> bool {
        self.token.is_some() || self.web.as_ref().is_some_and(|web| web.active().authenticates())
    }

    /// Whether the web configuration limits the rate of requests. Touches the file system.
    pub fn limits_rate(&self) -> bool {
        self.web
            .as_ref()
            .is_some_and(|web| web.active().config.rate_limit.is_some())
    }

    /// The active web configuration, if there is a file.
    pub(super) async fn web(&self) -> Option<Arc<Active>> {
        if let Some(remote) = &self.remote {
            return remote.current().await.web.clone();
        }
        let web = Arc::clone(self.web.as_ref()?);
        // Reading the files may block, which an async worker must not. The join fails only while the runtime shuts
        // down.
        tokio::task::spawn_blocking(move || web.active()).await.ok()
    }

    /// Checks the head of a request. The TLS handshake has checked client certificates before.
    ///
    /// # Errors
    /// The reason of the denial.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let active = self.web().await;
        let config = active.as_ref().map(|active| &active.config);
        if let Some(limit) = config.and_then(|config| config.rate_limit)
            && !self.lock_rate().take(limit, Instant::now())
        {
            return Err(Denied::TooMany);
        }
        let users = config.map(|config| &config.users).filter(|users| !users.is_empty());
        let challenge = Challenge {
            basic: users.is_some(),
            bearer: self.has_token().await,
        };
        if !challenge.basic && !challenge.bearer {
            return Ok(());
        }
        let accepted = match (credentials(headers), users) {
            (Some(Credentials::Basic { user, password }), Some(users)) => {
                self.passwords.accepts(users, &user, &password).await
            }
            (Some(Credentials::Bearer(offered)), _) if challenge.bearer => self.accepts_token(offered).await?,
            _ => return Err(Denied::Missing(challenge)),
        };
        if !accepted {
            self.guesses.pause().await;
            return Err(Denied::Wrong(challenge));
        }
        Ok(())
    }
}

impl Access {
    fn lock_rate(&self) -> MutexGuard<'_, Bucket> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn has_token(&self) -> bool {
        match &self.remote {
            None => self.token.is_some(),
            Some(remote) => remote.current().await.tokens.is_some(),
        }
    }

    async fn accepts_token(&self, offered: Vec<u8>) -> Result<bool, Denied> {
        if let Some(remote) = &self.remote {
            return match &remote.current().await.tokens {
                None => Ok(false),
                Some(Ok(tokens)) => Ok(tokens.has(&offered)),
                Some(Err(reason)) => Err(Denied::Tokens(reason.clone())),
            };
        }
        let Some(token) = &self.token else { return Ok(false) };
        if token.remembers(&offered, Instant::now()) {
            return Ok(true);
        }
        let token = Arc::clone(token);
        let checked = tokio::task::spawn_blocking(move || token.accepts(&offered)).await;
        checked
            .unwrap_or(Ok(false))
            .map_err(|error| Denied::Tokens(error.to_string()))
    }
}

enum Credentials {
    Basic { user: String, password: Vec<u8> },
    Bearer(Vec<u8>),
}

/// Parses `Authorization`, ignoring the case of the scheme (RFC 9110, 11.1). Two such headers count as none.
fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else {
        return None;
    };
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Credentials::Bearer(rest.to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(pair[..colon].to_vec()).ok()?;
    Some(Credentials::Basic {
        user,
        password: pair[colon + 1..].to_vec(),
    })
}
