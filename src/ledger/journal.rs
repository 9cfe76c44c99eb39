//! The ledger's way to disk, which may be closed for a while: intents are refused then, outcomes wait in memory.

use super::entry::{Entry, Record};
use super::recovery;
use super::retention::Retention;
use super::state::LedgerState;
use super::store::{Store, StoreError};
use crate::process::BootId;
use std::path::{Path, PathBuf};

pub struct Journal {
    directory: PathBuf,
    boot: BootId,
    store: Option<Store>,
    retention: Retention,
    /// What the file holds has been taken over by the book; from then on memory is newer than the file.
    is_known: bool,
    /// Outcomes that could not be written yet, oldest first.
    unsaved: Vec<Entry>,
    /// The last commit failed.
    is_failing: bool,
    /// It failed because the file is broken.
    is_broken: bool,
    /// For tests that ask nothing of the ledger and would spend their time on writing it.
    #[cfg(test)]
    is_forgetful: bool,
}

impl Journal {
    /// Opens the ledger in a directory and reads what is open. A broken one is set aside, and a new one begun with what
    /// can be read of it. Where it cannot be written it is read only; where that fails too, the journal starts with an
    /// empty book. In both cases nothing is durable, and [`Journal::recover`] tries again.
    pub fn open(directory: &Path, boot: BootId) -> (Journal, LedgerState) {
        let mut journal = Journal::closed(directory, boot);
        let ledger = match journal.reopen() {
            Ok(ledger) => Some(ledger),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be opened: nothing is done until it can be written");
                let read = recovery::read_only(directory, boot).ok();
                if let Some(ledger) = &read {
                    let leases = ledger.leases.len();
                    tracing::info!(leases, "it can be read: what is held is undone when it is time");
                }
                read
            }
        };
        journal.is_known = ledger.is_some();
        (journal, ledger.unwrap_or_default())
    }

    /// A journal that leaves nothing on disk, for rehearsals.
    ///
    /// # Errors
    /// When there is not even memory for it.
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
            #[cfg(test)]
            is_forgetful: false,
        }
    }

    /// A journal that keeps nothing at all.
    #[cfg(test)]
    pub fn forgetful(boot: BootId) -> Journal {
        Journal {
            is_forgetful: true,
            ..Journal::in_memory(boot).expect("memory for an empty ledger")
        }
    }

    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// The audit trail, oldest first; empty where it cannot be read.
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
            Err(error) if error.is_corruption() => self.begin_anew(&error, None),
            Err(error) => Err(error),
        }
    }

    /// Sets a broken ledger aside and begins a new one, with what `known` holds or what can be read.
    fn begin_anew(&mut self, error: &StoreError, known: Option<&LedgerState>) -> Result<LedgerState, StoreError> {
        self.store = None;
        let (ledger, aside) = recovery::replace(&self.directory, self.boot, known)?;
        tracing::error!(
            %error,
            set_aside = %aside.display(),
            leases = ledger.leases.len(),
            "the ledger is broken: it was set aside, and a new one begun"
        );
        self.store = Some(Store::open(&self.directory, self.boot)?);
        (self.is_broken, self.is_failing) = (false, false);
        Ok(ledger)
    }

    pub fn is_writable(&self) -> bool {
        self.store.is_some() && self.unsaved.is_empty() && !self.is_failing
    }

    /// Makes intents durable before they are carried out.
    ///
    /// # Errors
    /// Says why not; then none of them may be carried out.
    pub fn begin(&mut self, intents: &[Entry]) -> Result<(), String> {
        // A closed ledger is not opened here: what it holds must be taken over by the book first.
        self.flush();
        if self.store.is_none() || !self.unsaved.is_empty() {
            return Err("the ledger cannot be written".to_owned());
        }
        #[cfg(test)]
        crate::host::fault::point();
        let result = self.commit(intents);
        #[cfg(test)]
        crate::host::fault::point();
        result.map_err(|error| {
            tracing::error!(%error, "the ledger cannot be written: nothing new is done");
            error.to_string()
        })
    }

    /// Makes outcomes durable, now or as soon as that is possible again.
    pub fn settle(&mut self, outcomes: Vec<Entry>) {
        #[cfg(test)]
        crate::host::fault::point();
        self.unsaved.extend(outcomes);
        self.flush();
        if self.store.as_ref().is_some_and(Store::wants_sweep) {
            self.sweep();
        }
    }

    /// Says how much history is kept from now on.
    pub fn retain(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Forgets a portion of what is beyond retention. Whether there may be more.
    pub fn sweep(&mut self) -> bool {
        let is_writable = self.is_writable();
        let Some(store) = self.store.as_mut().filter(|_| is_writable) else {
            return false;
        };
        store.retain(self.retention);
        store.sweep().unwrap_or_else(|error| {
            tracing::warn!(%error, "old history cannot be removed now; it is tried again");
            false
        })
    }

    /// Transactions so far.
    #[cfg(test)]
    pub fn commits(&self) -> usize {
        self.store.as_ref().map_or(0, |store| store.commits)
    }

    /// Whether outcomes wait to be written.
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Tries to open and to write again. `ledger` is what is known in memory. Returns what an opened ledger holds, when
    /// that was not known until now.
    pub fn recover(&mut self, ledger: &LedgerState) -> Option<LedgerState> {
        let mut opened = None;
        if self.is_broken && self.is_known {
            let error = StoreError::Damaged {
                path: self.directory.clone(),
            };
            // What waits is in the book already, but for the audit trail.
            if self.begin_anew(&error, Some(ledger)).is_ok() {
                self.unsaved.retain(|entry| matches!(entry, Entry::Record(_)));
            }
        } else if !self.is_known {
            opened = self.reopen().ok();
            if let Some(ledger) = &mut opened {
                self.is_known = true;
                // What was decided meanwhile is newer than what was read.
                self.unsaved.iter().for_each(|entry| ledger.record(entry));
            }
        } else if !self.is_writable() {
            self.probe();
        }
        self.flush();
        if self.is_writable() {
            tracing::info!("the ledger can be written again");
        }
        opened
    }

    /// Tries to write. A file that was opened on a read-only file system stays read-only, so it is opened anew.
    fn probe(&mut self) {
        let probed = self.store.as_mut().map(Store::probe);
        if let Some(Err(error)) = &probed {
            self.is_broken = error.is_corruption();
        }
        self.is_failing = !matches!(probed, Some(Ok(())));
        if self.is_failing && !self.is_broken {
            let anew = Store::open(&self.directory, self.boot);
            // Loading also notes the boot in a file that was only read until now.
            if let Ok(store) = anew.and_then(|mut store| store.load().map(|_| store)) {
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
            tracing::error!(%error, waiting = unsaved.len(), "outcomes cannot be written; they wait in memory");
            self.unsaved = unsaved;
        }
    }

    fn commit(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.is_forgetful {
            return Ok(());
        }
        let Some(store) = &mut self.store else {
            return Err(StoreError::Io {
                path: self.directory.clone(),
                source: std::io::ErrorKind::NotConnected.into(),
            });
        };
        let result = store.commit(entries);
        self.is_failing = result.is_err();
        self.is_broken = result.as_ref().is_err_and(StoreError::is_corruption);
        // Nobody is kept waiting for what fails again and again.
        store.set_patience(!self.is_failing);
        result
    }
}
