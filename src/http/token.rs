//! The bearer token that clients must send, in a file that is reread when it changes. While a token is being replaced,
//! the file has two.

use crate::permissions::own_uid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};

/// An error in a token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the token file {path} is empty; write one line with a long random secret into it")]
    Empty { path: PathBuf },
    #[error(
        "the token file {path} holds more than printable ASCII on one line, or on two during a rotation, which no \
         Authorization header can carry"
    )]
    Unfit { path: PathBuf },
}

impl TokenError {
    /// What makes it right: another file only where there is none that is valid.
    pub fn correction(&self) -> String {
        match self {
            TokenError::Unreadable { path, source } if source.kind() == ErrorKind::PermissionDenied => format!(
                "let uid {} read it, such as by a group: chgrp GROUP {file}; chmod 0640 {file}",
                own_uid(),
                file = path.display()
            ),
            TokenError::Unreadable { path, source } if source.kind() != ErrorKind::NotFound => {
                format!("see it with ls -l {}", path.display())
            }
            TokenError::Unreadable { path, .. } | TokenError::Empty { path } | TokenError::Unfit { path } => {
                format!("make one: (umask 077; openssl rand -hex 32 >{})", path.display())
            }
        }
    }
}

/// Time after a check of the file during which its token is valid without another check, because a check may block and
/// costs more than the rest of a repeated alert.
pub(super) const REMEMBERED: Duration = Duration::from_secs(1);

/// The present token and the next or the former one.
const MAX_TOKENS: usize = 2;

/// A shorter token may be found by guessing.
const MIN_STRONG: usize = 16;

/// A secret in a file.
pub struct TokenFile {
    path: PathBuf,
    read: Mutex<Read>,
}

/// The valid tokens: one, or two during a rotation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens(Vec<String>);

/// Omits the secrets.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(…)")
    }
}

impl Tokens {
    /// Compares with every token in constant time.
    pub fn has(&self, offered: &[u8]) -> bool {
        let equal = |found: Choice, token: &String| found | token.as_bytes().ct_eq(offered);
        self.0.iter().fold(Choice::from(0), equal).into()
    }
}

struct Read {
    tokens: Tokens,
    stamp: Stamp,
    /// Time of the last check of the file.
    seen_at: Option<Instant>,
}

/// Detects a changed file: a rename changes the inode, a write the time or the size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([i64; 6]);

impl Stamp {
    pub(super) fn of(path: &Path) -> std::io::Result<Stamp> {
        let meta = fs::metadata(path)?;
        let (dev, ino) = (meta.dev().cast_signed(), meta.ino().cast_signed());
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec()];
        Ok(Stamp([
            dev,
            ino,
            meta.size().cast_signed(),
            times[0],
            times[1],
            times[2],
        ]))
    }
}

impl TokenFile {
    /// Reads the token once.
    ///
    /// # Errors
    /// When the file cannot be read or has no token.
    pub fn open(path: &Path) -> Result<TokenFile, TokenError> {
        let read = read(path)?;
        Ok(TokenFile {
            path: path.to_owned(),
            read: Mutex::new(read),
        })
    }

    /// Whether `offered` is the file's present token. Touches the file system, so call it outside of async workers.
    ///
    /// # Errors
    /// When the file has changed and has no token now. The former token is invalid then.
    pub fn accepts(&self, offered: &[u8]) -> Result<bool, TokenError> {
        Ok(self.current()?.has(offered))
    }

    /// The file's present tokens. Touches the file system, so call it outside of async workers.
    ///
    /// # Errors
    /// When the file has changed and has no token now.
    pub fn current(&self) -> Result<Tokens, TokenError> {
        let mut kept = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let unreadable = |source| TokenError::Unreadable {
            path: self.path.clone(),
            source,
        };
        let looked_at = Instant::now();
        kept.seen_at = None;
        if Stamp::of(&self.path).map_err(unreadable)? != kept.stamp {
            *kept = read(&self.path)?;
        }
        kept.seen_at = Some(looked_at);
        Ok(kept.tokens.clone())
    }

    /// Whether `offered` is the recently read token. Never blocks. If false, the caller must check the file.
    pub fn remembers(&self, offered: &[u8], now: Instant) -> bool {
        let Ok(kept) = self.read.try_lock() else { return false };
        let is_fresh = |seen_at| now.saturating_duration_since(seen_at) < REMEMBERED;
        kept.seen_at.is_some_and(is_fresh) && kept.tokens.has(offered)
    }

    /// Whether a token is so short that guesses may find it.
    pub fn is_weak(&self) -> bool {
        let kept = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        kept.tokens.0.iter().any(|token| token.len() < MIN_STRONG)
    }
}

fn read(path: &Path) -> Result<Read, TokenError> {
    let unreadable = |source| TokenError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // The stamp is read first, so that the next check notices a change in between.
    let stamp = Stamp::of(path).map_err(unreadable)?;
    let bytes = fs::read(path).map_err(unreadable)?;
    // Prometheus and Alertmanager trim a credentials file at both ends before they send it.
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let tokens: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() {
        return Err(TokenError::Empty { path: path.to_owned() });
    }
    let is_fit = |token: &&[u8]| token.iter().all(|byte| byte.is_ascii_graphic());
    if tokens.len() > MAX_TOKENS || !tokens.iter().all(is_fit) {
        return Err(TokenError::Unfit { path: path.to_owned() });
    }
    let text = |token: &[u8]| String::from_utf8_lossy(token).into_owned();
    Ok(Read {
        tokens: Tokens(tokens.into_iter().map(text).collect()),
        stamp,
        seen_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_token_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "s3cret\n").unwrap();
        let token = TokenFile::open(&path).unwrap();
        let check = |offered: &str, expected: bool| assert_eq!(token.accepts(offered.as_bytes()).unwrap(), expected);
        check("s3cret", true);
        for wrong in ["", "s3cre", "s3cret\n", "S3cret", "s3cret2"] {
            check(wrong, false);
        }
        fs::write(&path, "another\r\n").unwrap();
        check("s3cret", false);
        check("another", true);
        // Rotates the secret atomically.
        fs::write(dir.path().join("new"), "renamed").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        check("another", false);
        check("renamed", true);
        fs::write(&path, "").unwrap();
        assert!(matches!(token.accepts(b"renamed"), Err(TokenError::Empty { .. })));
        assert!(matches!(token.accepts(b""), Err(TokenError::Empty { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(token.accepts(b"renamed"), Err(TokenError::Unreadable { .. })));
        fs::write(&path, "back").unwrap();
        check("back", true);
    }

    #[test]
    fn former_token_is_remembered_for_a_moment_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "s3cret").unwrap();
        let token = TokenFile::open(&path).unwrap();
        assert!(!token.remembers(b"s3cret", Instant::now()), "not asked yet");
        let before = Instant::now();
        assert!(!token.accepts(b"other").unwrap());
        assert!(token.remembers(b"s3cret", before) && !token.remembers(b"other", before));
        // docs/security-model.md documents this time.
        assert!(!token.remembers(b"s3cret", Instant::now() + Duration::from_secs(1)));
        fs::write(&path, "another").unwrap();
        assert!(token.accepts(b"another").unwrap());
        assert!(!token.remembers(b"s3cret", before) && token.remembers(b"another", before));
        fs::remove_file(&path).unwrap();
        token.accepts(b"another").unwrap_err();
        assert!(!token.remembers(b"another", before));
        fs::write(&path, "another").unwrap();
        assert!(token.accepts(b"another").unwrap());
        let _busy = token.read.lock().unwrap();
        assert!(!token.remembers(b"another", before), "a connection waits for the file");
    }

    #[test]
    fn two_tokens_count_during_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let check = |content: &str, expected: [bool; 2]| {
            fs::write(&path, content).unwrap();
            let token = TokenFile::open(&path).unwrap();
            assert_eq!(
                [&b"former"[..], b"next"].map(|offered| token.accepts(offered).unwrap()),
                expected
            );
            for wrong in ["", "former\nnext", "formernext"] {
                assert!(!token.accepts(wrong.as_bytes()).unwrap(), "{wrong:?}");
            }
            assert!(token.is_weak());
        };
        check("former\n", [true, false]);
        check("next\r\n\nformer\n", [true, true]);
        check("next\n", [false, true]);
        fs::write(&path, "0123456789abcdef").unwrap();
        assert!(!TokenFile::open(&path).unwrap().is_weak());
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let check = |content: &[u8], says: &str| {
            fs::write(&path, content).unwrap();
            let wrong = TokenFile::open(&path).err().expect(says).to_string();
            assert!(wrong.contains(says) && wrong.contains("token"), "{wrong}");
        };
        check(b"", "is empty");
        check(b" \r\n\n", "is empty");
        check(b"more\nthan\ntwo", "one line");
        check(b"two words", "one line");
        check("größe".as_bytes(), "ASCII");
        assert!(matches!(
            TokenFile::open(dir.path()),
            Err(TokenError::Unreadable { .. })
        ));
    }
}
