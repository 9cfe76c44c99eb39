//! The journal, which writes the ledger to disk. While the disk cannot be written, it refuses intents and keeps
//! outcomes in memory.

use super::entry::{Entry, Record};
use super::files;
use super::recovery;
use super::retention::Retention;
use super::state::LedgerState;
use super::store::{Store, StoreError};
use crate::process::BootId;
use crate::storage::StorageError;
use std::path::{Path, PathBuf};

/// Why intents are not durable, so that their actions may not run.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the ledger cannot be written")]
    NotWritable,
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub struct Journal {
    directory: PathBuf,
    boot: BootId,
    store: Option<Store>,
    retention: Retention,
    /// Whether the content of the file is loaded; from then on the state in memory is newer.
    is_known: bool,
    /// Outcomes that could not be written yet, oldest first.
    unsaved: Vec<Entry>,
    /// The last commit failed.
    is_failing: bool,
    /// It failed because the file is corrupt.
    is_broken: bool,
    /// What the file beside the ledger says about it, once this journal has written that.
    noted_up_to_date: Option<bool>,
    /// Nothing is read or written, and nothing is retried.
    has_no_file: bool,
}

impl Journal {
    /// Opens the ledger in a directory and reads the open state. A corrupt ledger is set aside and replaced by its
    /// readable content. An unwritable one is only read; if that fails too, the journal starts with an empty state. In
    /// both cases nothing is durable, and [`Journal::recover`] retries.
    pub fn open(directory: &Path, boot: BootId) -> (Journal, LedgerState) {
        let mut journal = Journal::closed(directory, boot);
        let ledger = match journal.reopen() {
            Ok(ledger) => Some(ledger),
            Err(error) => {
                tracing::error!(%error, "could not open the ledger, no steps until it can be written");
                // Another user could have written what is there.
                let is_refused = matches!(error, StoreError::Directory(StorageError::Refused(_)));
                let read = (!is_refused)
                    .then(|| recovery::read_only(directory, boot).ok())
                    .flatten();
                if let Some(ledger) = &read {
                    let leases = ledger.leases.len();
                    tracing::info!(leases, "ledger read, its leases are reverted when due");
                }
                read
            }
        };
        journal.is_known = ledger.is_some();
        (journal, ledger.unwrap_or_default())
    }

    /// A journal that is never writable, for a daemon whose storage directory is refused.
    pub fn without_file(boot: BootId) -> Journal {
        Journal {
            has_no_file: true,
            ..Journal::closed(Path::new(""), boot)
        }
    }

    /// A journal in memory, for simulations.
    ///
    /// # Errors
    /// When SQLite cannot allocate memory.
    pub fn in_memory(boot: BootId) -> Result<Journal, StoreError> {
        Ok(Journal {
            store: Some(Store::in_memory(boot)?),
            is_known: true,
            ..Journal::closed(Path::new(""), boot)
        })
    }

    fn closed(directory: &Path, boot: BootId) -> Journal {
        Journal {
            directory: directory.to_owned(),
            boot,
            store: None,
            retention: Retention::default(),
            is_known: false,
            unsaved: Vec::new(),
            is_failing: false,
            is_broken: false,
            noted_up_to_date: None,
            has_no_file: false,
        }
    }

    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// The records of the history, oldest first; empty if unreadable.
    pub fn records(&self) -> Vec<Record> {
        self.store
            .as_ref()
            .and_then(|store| store.records().ok())
            .unwrap_or_default()
    }

    fn reopen(&mut self) -> Result<LedgerState, StoreError> {
        let opened = Store::open(&self.directory, self.boot).and_then(|mut store| Ok((store.load()?, store)));
        match opened {
            Ok((ledger, store)) => {
                self.store = Some(store);
                Ok(ledger)
            }
            Err(error) if error.is_corruption() => self.begin_again(&error, None),
            Err(error) => Err(error),
        }
    }

    /// Sets a corrupt ledger aside and replaces it by a new one with the content of `known`, or with the readable rows.
    fn begin_again(&mut self, error: &StoreError, known: Option<&LedgerState>) -> Result<LedgerState, StoreError> {
        self.store = None;
        let (ledger, aside) = recovery::replace(&self.directory, self.boot, known)?;
        tracing::error!(
            %error,
            set_aside = %aside.display(),
            leases = ledger.leases.len(),
            "ledger corrupt, set aside and replaced by a new one"
        );
        self.store = Some(Store::open(&self.directory, self.boot)?);
        (self.is_broken, self.is_failing) = (false, false);
        // The new file does not know of the note.
        self.noted_up_to_date = None;
        Ok(ledger)
    }

    pub fn is_writable(&self) -> bool {
        self.store.is_some() && self.unsaved.is_empty() && !self.is_failing
    }

    /// Makes intents durable before their actions.
    ///
    /// # Errors
    /// With the reason; then none of the actions may run.
    pub fn begin(&mut self, intents: &[Entry]) -> Result<(), JournalError> {
        // A closed ledger is not opened here, because its content must be loaded first.
        self.flush();
        if self.store.is_none() || !self.unsaved.is_empty() {
            return Err(JournalError::NotWritable);
        }
        #[cfg(test)]
        crate::host::fault::point();
        let result = self.commit(intents);
        #[cfg(test)]
        crate::host::fault::point();
        result.map_err(|error| {
            tracing::error!(%error, "could not write the ledger, no new steps");
            JournalError::Store(error)
        })
    }

    /// Makes outcomes durable, now or as soon as possible.
    pub fn settle(&mut self, outcomes: Vec<Entry>) {
        #[cfg(test)]
        crate::host::fault::point();
        if self.has_no_file {
            return;
        }
        self.unsaved.extend(outcomes);
        self.flush();
        self.note_outcomes();
        if self.store.as_ref().is_some_and(Store::wants_sweep) {
            self.sweep();
        }
    }

    /// Sets the limits of the history.
    pub fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Deletes a portion of what is beyond retention. Returns whether there may be more.
    pub fn sweep(&mut self) -> bool {
        let is_writable = self.is_writable();
        let Some(store) = self.store.as_mut().filter(|_| is_writable) else {
            return false;
        };
        store.retain(self.retention);
        store.sweep().unwrap_or_else(|error| {
            tracing::warn!(%error, "could not delete old history, retrying");
            false
        })
    }

    /// Tries to open and to write again. `ledger` is the state in memory. Returns the content of an opened ledger that
    /// was unknown until now.
    pub fn recover(&mut self, ledger: &LedgerState) -> Option<LedgerState> {
        if self.has_no_file {
            return None;
        }
        let mut opened = None;
        if self.is_broken && self.is_known {
            let error = StoreError::Damaged {
                path: self.directory.clone(),
            };
            // The unsaved entries are in the state already, except the records.
            if self.begin_again(&error, Some(ledger)).is_ok() {
                self.unsaved.retain(|entry| matches!(entry, Entry::Record(_)));
            }
        } else if !self.is_known {
            opened = self.reopen().ok();
            if let Some(ledger) = &mut opened {
                self.is_known = true;
                // Decisions meanwhile are newer than the file.
                self.unsaved.iter().for_each(|entry| ledger.record(entry));
            }
        } else if !self.is_writable() {
            self.probe();
        }
        self.flush();
        if self.is_writable() {
            tracing::info!("ledger writable again");
        }
        // A state that was unknown until now may be behind.
        if opened.is_none() {
            self.note_outcomes();
        }
        opened
    }

    /// Notes beside the ledger whether it has all outcomes, because a daemon that is killed before it could write them
    /// leaves a ledger that says otherwise. It comes before the action that a missing entry is about.
    fn note_outcomes(&mut self) {
        let is_up_to_date = self.unsaved.is_empty();
        let is_in_memory = self.directory.as_os_str().is_empty();
        let may_note = !is_up_to_date || self.is_writable();
        if is_in_memory || !self.is_known || !may_note || self.noted_up_to_date == Some(is_up_to_date) {
            return;
        }
        if let Err(error) = files::set_up_to_date(&self.directory, is_up_to_date) {
            tracing::debug!(%error, is_up_to_date, "could not note whether the ledger is up to date");
            return;
        }
        let store = self.store.as_mut().filter(|_| is_up_to_date);
        if store.is_none_or(|store| store.begin_to_note_outcomes().is_ok()) {
            self.noted_up_to_date = Some(is_up_to_date);
        }
    }

    /// Tries to write. A file that was opened on a read-only file system stays read-only, so it is reopened.
    fn probe(&mut self) {
        let probed = self.store.as_mut().map(Store::probe);
        if let Some(Err(error)) = &probed {
            self.is_broken = error.is_corruption();
        }
        self.is_failing = !matches!(probed, Some(Ok(())));
        if self.is_failing && !self.is_broken {
            let reopened = Store::open(&self.directory, self.boot);
            // Loading also records the boot in a file that was only read until now.
            if let Ok(store) = reopened.and_then(|mut store| store.load().map(|_| store)) {
                (self.store, self.is_failing) = (Some(store), false);
            }
        }
        if let Some(store) = &self.store {
            store.set_patience(!self.is_failing);
        }
    }

    fn flush(&mut self) {
        if self.unsaved.is_empty() || self.store.is_none() {
            return;
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        if let Err(error) = self.commit(&unsaved) {
            tracing::error!(%error, waiting = unsaved.len(), "could not write outcomes, kept in memory");
            self.unsaved = unsaved;
        }
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else {
            return Err(StoreError::Io {
                path: self.directory.clone(),
                source: std::io::ErrorKind::NotConnected.into(),
            });
        };
        let result = store.commit(entries);
        self.is_failing = result.is_err();
        self.is_broken = result.as_ref().is_err_and(StoreError::is_corruption);
        // A repeated failure must not delay the engine.
        store.set_patience(!self.is_failing);
        result
    }
}
