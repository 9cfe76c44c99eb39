//! The file `alerts.json`, in which active alerts of own evaluation survive a restart. It is a separate file beside
//! the ledger, because the evaluating thread writes it, and because its loss only makes alerts wait for their `for`
//! again.

use crate::permissions::{create_private, open_no_link};
use crate::storage::ALERTS as NAME;
use crate::watch::restart::ActiveAlerts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Interval at which the file is written while alerts are active, because it also contains the time of their last
/// evaluation.
const REFRESH: Duration = Duration::from_secs(15);

/// Access to the file. By default there is none.
#[derive(Default)]
pub struct KeptAlerts {
    path: Option<PathBuf>,
    written: ActiveAlerts,
    written_at: Option<Instant>,
    is_failing: bool,
}

impl KeptAlerts {
    /// The file of a storage directory.
    pub fn new(directory: &Path) -> KeptAlerts {
        KeptAlerts {
            path: Some(directory.join(NAME)),
            ..KeptAlerts::default()
        }
    }

    /// The active alerts of the file.
    pub fn read(&mut self) -> ActiveAlerts {
        let Some(path) = &self.path else {
            return ActiveAlerts::default();
        };
        match read_file(path) {
            Ok(before) => self.written = before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "could not read alerts.json, own alerts start over");
            }
        }
        self.written.clone()
    }

    /// Writes the active alerts, if they have changed or the interval has passed.
    pub fn keep(&mut self, active: ActiveAlerts) {
        let is_due = !active.alerts.is_empty() && self.written_at.is_none_or(|at| at.elapsed() >= REFRESH);
        if is_due || active.alerts != self.written.alerts {
            self.write(active);
        }
    }

    /// Writes the active alerts unconditionally, at the exit.
    pub fn keep_last(&mut self, active: ActiveAlerts) {
        if !(active.alerts.is_empty() && self.written.alerts.is_empty()) {
            self.write(active);
        }
    }

    fn write(&mut self, active: ActiveAlerts) {
        let Some(path) = &self.path else { return };
        let result = replace_file(path, &active);
        if let Err(error) = &result
            && !self.is_failing
        {
            tracing::warn!(file = %path.display(), %error, "could not write alerts.json, own alerts start over after a restart");
        }
        self.is_failing = result.is_err();
        (self.written, self.written_at) = (active, Some(Instant::now()));
    }
}

pub(super) fn read_file<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut bytes = Vec::new();
    open_no_link(path)?.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// A reader finds the old file or the new one. It is not synced to disk, because a crash of the host ends the processes
/// behind the alerts as well.
pub(super) fn replace_file(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("json.new");
    // Left over from a crash.
    if let Err(error) = fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    create_private(&new)?.write_all(&serde_json::to_vec(content)?)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::evaluator::{Evaluator, EvaluatorSettings};
    use crate::watch::history::History;
    use crate::watch::rule_file::parse;

    fn evaluator() -> Evaluator {
        let text = "groups: [{name: g, rules: [{alert: A, expr: vector(1), for: 1m}]}]";
        Evaluator::new(EvaluatorSettings::default(), vec![parse("x.yml", text).unwrap()])
    }

    #[test]
    fn active_alerts_are_found_again_and_broken_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let active_since = |now_ms| {
            let mut evaluator = evaluator();
            let mut kept = KeptAlerts::new(directory.path());
            kept.read().restore(&mut evaluator);
            evaluator.evaluate_all(&mut History::default(), now_ms);
            kept.keep(ActiveAlerts::of(&evaluator, now_ms));
            evaluator.active().map(|alert| alert.active_at_ms).collect::<Vec<_>>()
        };
        assert_eq!(active_since(1000), [1000]);
        assert_eq!(active_since(1500), [1500], "active for no time yet");
        assert_eq!(active_since(2_000_000), [2_000_000], "that is long ago");
        fs::write(directory.path().join(NAME), "{").unwrap();
        assert_eq!(active_since(2_001_000), [2_001_000]);
    }

    #[test]
    fn file_is_written_on_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let (mut evaluator, mut kept) = (evaluator(), KeptAlerts::new(directory.path()));
        kept.keep(ActiveAlerts::of(&evaluator, 1000));
        kept.keep_last(ActiveAlerts::of(&evaluator, 1000));
        assert!(!path.exists(), "there is nothing to say");
        evaluator.evaluate_all(&mut History::default(), 2000);
        kept.keep(ActiveAlerts::of(&evaluator, 2000));
        let written = fs::read(&path).unwrap();
        kept.keep(ActiveAlerts::of(&evaluator, 3000));
        assert_eq!(fs::read(&path).unwrap(), written);
        kept.keep_last(ActiveAlerts::of(&evaluator, 3000));
        assert_ne!(fs::read(&path).unwrap(), written, "until when it was seen");
    }
}
