//! The access rules of a listener whose files another process reads. They are asked for again after a second, so that a
//! changed file applies as soon as in one process.

use super::token::{REMEMBERED, Tokens};
use super::web_file::{Active, WebContents, WebFileError};
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Time for the other process to answer. Until then requests wait, and afterwards the last known contents count.
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);

/// What the files of a listener say.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessContents {
    /// The bearer tokens, or why they cannot be read.
    pub tokens: Option<Result<Tokens, String>>,
    pub web: Option<WebContents>,
}

/// The contents with their number, which changes with them.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccessVersion {
    pub version: u64,
    pub contents: AccessContents,
}

/// Fetches the contents if their number is not this one.
pub type FetchAccess = Box<dyn Fn(u64) -> Pin<Box<dyn Future<Output = Option<AccessVersion>> + Send>> + Send + Sync>;

/// The contents of files that another process reads.
pub struct RemoteAccess {
    fetch: FetchAccess,
    state: Mutex<State>,
}

struct State {
    version: u64,
    /// `None` before the first answer, because the first contents may be old.
    checked_at: Option<Instant>,
    current: Arc<RemoteSettings>,
}

/// The settings that follow from the contents.
pub(super) struct RemoteSettings {
    pub tokens: Option<Result<Tokens, String>>,
    pub web: Option<Arc<Active>>,
}

impl RemoteSettings {
    fn new(contents: &AccessContents) -> Result<RemoteSettings, WebFileError> {
        let web = contents.web.clone().map(WebContents::activate).transpose()?;
        Ok(RemoteSettings {
            tokens: contents.tokens.clone(),
            web: web.map(Arc::new),
        })
    }
}

impl RemoteAccess {
    /// # Errors
    /// When the contents of the web configuration are invalid.
    pub fn new(first: &AccessVersion, fetch: FetchAccess) -> Result<RemoteAccess, WebFileError> {
        let state = State {
            version: first.version,
            checked_at: None,
            current: Arc::new(RemoteSettings::new(&first.contents)?),
        };
        Ok(RemoteAccess {
            fetch,
            state: Mutex::new(state),
        })
    }

    pub(super) async fn current(&self) -> Arc<RemoteSettings> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let age = state
            .checked_at
            .map(|checked_at| now.saturating_duration_since(checked_at));
        if age.is_some_and(|age| age < REMEMBERED) {
            return Arc::clone(&state.current);
        }
        let fetched = tokio::time::timeout(FETCH_TIMEOUT, (self.fetch)(state.version)).await;
        // After a timeout other requests must not wait at once again.
        state.checked_at = Some(if fetched.is_ok() { now } else { Instant::now() });
        let newer = fetched.unwrap_or_default();
        if let Some(AccessVersion { version, contents }) = newer {
            state.version = version;
            match RemoteSettings::new(&contents) {
                Ok(settings) => state.current = Arc::new(settings),
                // The other process has read them as valid.
                Err(error) => tracing::error!(%error, "access rules refused, keeping the last good ones"),
            }
        }
        Arc::clone(&state.current)
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::{Access, Denied};
    use super::*;
    use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
    use std::fs;
    use std::time::Duration;

    fn bearer(token: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        [(AUTHORIZATION, value)].into_iter().collect()
    }

    /// The access rules of another process, which reads them from these files.
    fn remote(files: Access) -> Access {
        let first = AccessVersion {
            version: 0,
            contents: files.contents(),
        };
        let fetch: FetchAccess = Box::new(move |known| {
            let newer = AccessVersion {
                version: known + 1,
                contents: files.contents(),
            };
            Box::pin(async { Some(newer) })
        });
        Access::remote(RemoteAccess::new(&first, fetch).unwrap())
    }

    #[tokio::test]
    async fn changed_token_counts_after_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "former").unwrap();
        let access = remote(Access::open().with_token_file(&path).unwrap());
        access.admit(&bearer("former")).await.unwrap();
        assert!(matches!(access.admit(&bearer("next")).await, Err(Denied::Wrong(_))));
        assert!(matches!(access.admit(&HeaderMap::new()).await, Err(Denied::Missing(_))));
        fs::write(&path, "next").unwrap();
        tokio::time::sleep(REMEMBERED + Duration::from_millis(10)).await;
        access.admit(&bearer("next")).await.unwrap();
        assert!(matches!(access.admit(&bearer("former")).await, Err(Denied::Wrong(_))));
        fs::remove_file(&path).unwrap();
        tokio::time::sleep(REMEMBERED + Duration::from_millis(10)).await;
        let Err(denied) = access.admit(&bearer("next")).await else {
            panic!("admitted without a token file")
        };
        assert!(denied.to_string().contains("cannot read the token file"), "{denied}");
    }

    #[tokio::test]
    async fn contents_stay_while_the_other_process_does_not_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "known").unwrap();
        let contents = Access::open().with_token_file(&path).unwrap().contents();
        let first = AccessVersion { version: 1, contents };
        let silent: FetchAccess = Box::new(|_| Box::pin(std::future::pending()));
        let access = Access::remote(RemoteAccess::new(&first, silent).unwrap());
        let begun = Instant::now();
        access.admit(&bearer("known")).await.unwrap();
        assert!(begun.elapsed() < 5 * FETCH_TIMEOUT, "{:?}", begun.elapsed());
        assert!(matches!(access.admit(&bearer("other")).await, Err(Denied::Wrong(_))));
    }

    #[tokio::test]
    async fn web_configuration_is_used_without_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.yml");
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(dir.path().join("cert.pem"), key.cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.signing_key.serialize_pem()).unwrap();
        fs::write(&path, "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n").unwrap();
        let contents = Access::open().with_web_config(&path).unwrap().contents();
        let text = serde_json::to_string(&contents).unwrap();
        drop(dir);
        let contents: AccessContents = serde_json::from_str(&text).unwrap();
        let first = AccessVersion { version: 0, contents };
        let access = Access::remote(RemoteAccess::new(&first, Box::new(|_| Box::pin(async { None }))).unwrap());
        let active = access.web().await.expect("a web configuration");
        assert!(active.tls.is_some() && active.config.http2);
        access.admit(&HeaderMap::new()).await.unwrap();
    }
}
