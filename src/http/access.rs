//! The access control of a listener: the checks of a connection and of a request's head before the body is read.

use super::answer::{self, Answer};
use super::password::Passwords;
use super::token::{TokenError, TokenFile};
use super::web_file::{Active, WebFile, WebFileError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// After a failure of our own to read a secret; it may be in the midst of being changed.
const RETRY_AFTER_SECONDS: u32 = 5;

/// What a listener demands of those who call it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Access {
    token: Option<Arc<TokenFile>>,
    web: Option<Arc<WebFile>>,
    passwords: Arc<Passwords>,
}

/// The ways in which a caller may authenticate; any one is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    basic: bool,
    bearer: bool,
}

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("no credentials were sent")]
    Missing(Challenge),
    #[error("the credentials are wrong")]
    Wrong(Challenge),
    #[error("more requests than rate_limit of the web configuration file allows")]
    TooMany,
    #[error("{0}")]
    Token(#[from] TokenError),
}

impl Denied {
    /// What the caller is told: 401 with what to send, 429, or 503 where the fault is on this side.
    pub fn answer(&self) -> Answer {
        match self {
            Denied::Missing(challenge) | Denied::Wrong(challenge) => {
                let mut answer = answer::text(StatusCode::UNAUTHORIZED, &self.to_string());
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
                let mut answer = answer::text(StatusCode::TOO_MANY_REQUESTS, "too many requests");
                answer::set(&mut answer, RETRY_AFTER, "1");
                answer
            }
            // The path of the file is for the log, not for a stranger.
            Denied::Token(_) => answer::unavailable("credentials cannot be checked now", RETRY_AFTER_SECONDS),
        }
    }
}

impl Access {
    /// Demands nothing.
    pub fn open() -> Access {
        Access::default()
    }

    /// Demands the bearer token in this file.
    ///
    /// # Errors
    /// When the file holds no token.
    pub fn with_token_file(mut self, path: &Path) -> Result<Access, TokenError> {
        self.token = Some(Arc::new(TokenFile::open(path)?));
        Ok(self)
    }

    /// Demands what this web configuration file of the exporter-toolkit says. Where there is a token file too, the token
    /// and a password of `basic_auth_users` serve alike.
    ///
    /// # Errors
    /// Says what is wrong in the file or in a file that it names.
    pub fn with_web_config(mut self, path: &Path) -> Result<Access, WebFileError> {
        self.web = Some(Arc::new(WebFile::open(path)?));
        Ok(self)
    }

    /// Whether a stranger is kept out: by the token, a password or a client certificate. It stays so for good: a change of
    /// the files cannot take that away. Touches the file system.
    pub fn authenticates(&self) -> bool {
        self.token.is_some() || self.web.as_ref().is_some_and(|web| web.active().authenticates())
    }

    /// The web configuration in force, if there is a file.
    pub(super) async fn web(&self) -> Option<Arc<Active>> {
        let web = Arc::clone(self.web.as_ref()?);
        // The look at the files may block, and an async worker must not. Only a runtime that ends gives no result.
        tokio::task::spawn_blocking(move || web.active()).await.ok()
    }

    /// Judges the head of a request; what TLS demands was settled before.
    ///
    /// # Errors
    /// Says why it is not let in.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let active = self.web().await;
        let config = active.as_ref().map(|active| &active.config);
        if let (Some(web), Some(config)) = (&self.web, config)
            && !web.takes_one_more(config.rate_limit, Instant::now())
        {
            return Err(Denied::TooMany);
        }
        let users = config.map(|config| &config.users).filter(|users| !users.is_empty());
        let challenge = Challenge {
            basic: users.is_some(),
            bearer: self.token.is_some(),
        };
        if !challenge.basic && !challenge.bearer {
            return Ok(());
        }
        let accepted = match (credentials(headers), users, &self.token) {
            (Some(Credentials::Basic { user, password }), Some(users), _) => {
                self.passwords.accepts(users, &user, &password).await
            }
            (Some(Credentials::Bearer(offered)), _, Some(token)) if token.remembers(&offered, Instant::now()) => true,
            (Some(Credentials::Bearer(offered)), _, Some(token)) => {
                let token = Arc::clone(token);
                tokio::task::spawn_blocking(move || token.accepts(&offered))
                    .await
                    .unwrap_or(Ok(false))?
            }
            _ => return Err(Denied::Missing(challenge)),
        };
        accepted.then_some(()).ok_or(Denied::Wrong(challenge))
    }
}

enum Credentials {
    Basic { user: String, password: Vec<u8> },
    Bearer(Vec<u8>),
}

/// Reads `Authorization`; the scheme's case does not count (RFC 9110, 11.1). Two such headers are none.
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
