//! Who is let in: what a listener demands of a request before it reads more of it than its head.

use super::answer::{self, Answer};
use super::token::{TokenError, TokenFile};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use std::path::Path;
use std::sync::Arc;

/// After a failure of our own to read a secret; it may be in the midst of being changed.
const RETRY_AFTER_SECONDS: u32 = 5;

/// What a listener demands of those who call it.
#[derive(Clone, Default)]
pub struct Access {
    token: Option<Arc<TokenFile>>,
}

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("no credentials were sent")]
    Missing,
    #[error("the credentials are wrong")]
    Wrong,
    #[error("{0}")]
    Token(#[from] TokenError),
}

impl Denied {
    /// What the caller is told: 401 with what to send, or 503 where the fault is on this side.
    pub fn answer(&self) -> Answer {
        match self {
            Denied::Missing | Denied::Wrong => {
                let mut answer = answer::text(StatusCode::UNAUTHORIZED, &self.to_string());
                let challenge = HeaderValue::from_static("Bearer realm=\"evenkeel\"");
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
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

    /// Whether a stranger is kept out.
    pub fn authenticates(&self) -> bool {
        self.token.is_some()
    }

    /// Judges the head of a request.
    ///
    /// # Errors
    /// Says why it is not let in.
    pub async fn admit(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let Some(token) = &self.token else { return Ok(()) };
        let offered = bearer(headers).ok_or(Denied::Missing)?.to_vec();
        let token = Arc::clone(token);
        // The look at the file may block, and an async worker must not.
        let accepted = tokio::task::spawn_blocking(move || token.accepts(&offered)).await;
        match accepted {
            Ok(accepted) => accepted?.then_some(()).ok_or(Denied::Wrong),
            // Only a runtime that shuts down gives no verdict.
            Err(_) => Err(Denied::Wrong),
        }
    }
}

/// The token of `Authorization: Bearer …`; the scheme's case does not count (RFC 9110, 11.1). Two such headers are none.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?.as_bytes(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
