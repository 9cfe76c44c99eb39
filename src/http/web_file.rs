//! The active web configuration file. Reloads it when the file or one of its certificates changes. After an invalid
//! change, the last valid one stays active and the error is logged.

use super::tls::{self, ReadFile, TlsError};
use super::token::Stamp;
use super::web_config::{ClientAuth, RateLimit, TlsSettings, WebConfig, WebConfigError};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_rustls::rustls::ServerConfig;

/// An error in a web configuration file or in a file that it names.
#[derive(Debug, thiserror::Error)]
pub enum WebFileError {
    #[error("cannot read the web configuration file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Config { path: PathBuf, source: WebConfigError },
    #[error("{path}: tls_server_config: {source}")]
    Tls { path: PathBuf, source: Box<TlsError> },
    #[error("{path}: TLS cannot be switched on or off while evenkeel runs; restart it")]
    TlsSwitched { path: PathBuf },
    #[error("{path}: clients would no longer have to authenticate; restart evenkeel if this is intended")]
    AuthenticationDropped { path: PathBuf },
}

/// The active settings.
pub struct Active {
    pub config: WebConfig,
    pub tls: Option<Arc<ServerConfig>>,
    pub contents: WebContents,
}

/// The contents of a web configuration file and of the files that it names, for a process that cannot read them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebContents {
    path: PathBuf,
    text: String,
    named: BTreeMap<PathBuf, Vec<u8>>,
}

impl WebContents {
    /// The settings that they describe.
    ///
    /// # Errors
    /// Names the file and the invalid setting.
    pub fn activate(self) -> Result<Active, WebFileError> {
        let config = parse(&self.path, &self.text)?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let tls = server_config(&self.path, &config, &|path| {
            self.named.get(path).cloned().ok_or_else(missing)
        })?;
        Ok(Active {
            config,
            tls,
            contents: self,
        })
    }
}

impl Active {
    /// Whether the settings make clients authenticate.
    pub fn authenticates(&self) -> bool {
        let clients = self.config.tls.as_ref().map_or(ClientAuth::None, |tls| tls.clients);
        !self.config.users.is_empty() || clients == ClientAuth::RequireAndVerify
    }
}

/// A web configuration file. Each use checks it for changes.
pub struct WebFile {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    active: Arc<Active>,
    /// The stamps of all files at the last check, whether its result was valid or not.
    stamps: Stamps,
}

impl WebFile {
    /// Reads the file and the files that it names.
    ///
    /// # Errors
    /// Names the file and the invalid setting.
    pub fn open(path: &Path) -> Result<WebFile, WebFileError> {
        let (active, stamps) = load(path)?;
        let state = State {
            active: Arc::new(active),
            stamps,
        };
        Ok(WebFile {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// The present settings. Touches the file system, so call it outside of async workers.
    pub fn active(&self) -> Arc<Active> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.path, state.active.config.tls.as_ref());
        if now != state.stamps {
            state.stamps = now;
            match self.reload(&state.active) {
                Ok((active, stamps)) => {
                    tracing::info!(path = %self.path.display(), "web config file reloaded");
                    state.stamps = stamps;
                    state.active = Arc::new(active);
                }
                Err(error) => tracing::error!(%error, "web config reload failed, keeping the last good one"),
            }
        }
        Arc::clone(&state.active)
    }

    /// The file and the files that it names now.
    pub fn files(&self) -> Vec<PathBuf> {
        let active = self.active();
        files(&self.path, active.config.tls.as_ref())
            .map(Path::to_owned)
            .collect()
    }

    fn reload(&self, former: &Active) -> Result<(Active, Stamps), WebFileError> {
        let (active, stamps) = load(&self.path)?;
        if active.tls.is_some() != former.tls.is_some() {
            return Err(WebFileError::TlsSwitched {
                path: self.path.clone(),
            });
        }
        // A mistake in an editor must not open a listener that causes actions.
        if former.authenticates() && !active.authenticates() {
            return Err(WebFileError::AuthenticationDropped {
                path: self.path.clone(),
            });
        }
        Ok((active, stamps))
    }
}

/// The stamps of the file and of the files that it names, in a fixed order; `None` for a missing file.
type Stamps = Vec<Option<Stamp>>;

fn stamps(path: &Path, tls: Option<&TlsSettings>) -> Stamps {
    files(path, tls).map(|path| Stamp::of(path).ok()).collect()
}

/// The file and the files that it names.
fn files<'a>(path: &'a Path, tls: Option<&'a TlsSettings>) -> impl Iterator<Item = &'a Path> {
    let named = tls.into_iter().flat_map(|tls| {
        [Some(&tls.cert_file), Some(&tls.key_file), tls.client_ca_file.as_ref()]
            .into_iter()
            .flatten()
    });
    std::iter::once(path).chain(named.map(PathBuf::as_path))
}

/// Reads each stamp before its file, so that the next check notices a change in between.
fn load(path: &Path) -> Result<(Active, Stamps), WebFileError> {
    let own_stamp = Stamp::of(path).ok();
    let text = std::fs::read_to_string(path).map_err(|source| WebFileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let config = parse(path, &text)?;
    let mut stamps = stamps(path, config.tls.as_ref());
    stamps[0] = own_stamp;
    let named = RefCell::new(BTreeMap::new());
    let tls = server_config(path, &config, &|path| {
        let content = std::fs::read(path)?;
        named.borrow_mut().insert(path.to_owned(), content.clone());
        Ok(content)
    })?;
    let contents = WebContents {
        path: path.to_owned(),
        text,
        named: named.into_inner(),
    };
    Ok((Active { config, tls, contents }, stamps))
}

fn parse(path: &Path, text: &str) -> Result<WebConfig, WebFileError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    WebConfig::parse(text, folder).map_err(|source| WebFileError::Config {
        path: path.to_owned(),
        source,
    })
}

fn server_config(
    path: &Path,
    config: &WebConfig,
    read_file: ReadFile<'_>,
) -> Result<Option<Arc<ServerConfig>>, WebFileError> {
    let Some(settings) = &config.tls else { return Ok(None) };
    let tls = tls::server_config(settings, config.http2, read_file).map_err(|source| WebFileError::Tls {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(Some(Arc::new(tls)))
}

/// A token bucket. Pure.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Requests that had not leaked out at the last request, in units of intervals.
    taken: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Counts one more request. Returns false at the limit.
    pub(super) fn take(&mut self, limit: RateLimit, now: Instant) -> bool {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.taken = (self.taken - passed.as_secs_f64() / limit.interval.as_secs_f64()).max(0.0);
        let room = self.taken + 1.0 <= f64::from(limit.burst);
        if room {
            self.taken += 1.0;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_admits_a_burst_and_then_one_per_interval() {
        let limit = RateLimit {
            interval: Duration::from_millis(100),
            burst: 3,
        };
        let (start, mut bucket) = (Instant::now(), Bucket::default());
        let at = |millis| start + Duration::from_millis(millis);
        let taken: Vec<bool> = [0, 0, 0, 0, 50, 101, 101, 202, 1000, 1000, 1000, 1000]
            .map(|t| bucket.take(limit, at(t)))
            .to_vec();
        let (yes, no) = (true, false);
        assert_eq!(taken, [yes, yes, yes, no, no, yes, no, yes, yes, yes, yes, no]);
    }
}
