//! The ledger's way to disk, which may be closed for a while: intents are refused then, outcomes wait in memory.

use super::book::Book;
use super::entry::{Entry, Record};
use super::store::{Store, StoreError};
use crate::process::BootId;
use std::path::{Path, PathBuf};

pub struct Journal {
    directory: PathBuf,
    boot: BootId,
    store: Option<Store>,
    /// Outcomes that could not be written yet, oldest first.
    unsaved: Vec<Entry>,
    /// The last commit failed.
    failing: bool,
}

impl Journal {
    /// Opens the ledger in a directory and reads what is open. Where that fails, the journal starts with an empty
    /// book, is not writable, and tries again at every [`Journal::recover`].
    pub fn open(directory: &Path, boot: BootId) -> (Journal, Book) {
        let mut journal = Journal {
            directory: directory.to_owned(),
            boot,
            store: None,
            unsaved: Vec::new(),
            failing: false,
        };
        match journal.reopen() {
            Ok(book) => (journal, book),
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be opened: nothing is done until it can be written");
                (journal, Book::default())
            }
        }
    }

    /// A journal that leaves nothing on disk, for rehearsals.
    ///
    /// # Errors
    /// When there is not even memory for it.
    pub fn in_memory(boot: BootId) -> Result<Journal, StoreError> {
        let store = Some(Store::in_memory(boot)?);
        Ok(Journal {
            directory: PathBuf::new(),
            boot,
            store,
            unsaved: Vec::new(),
            failing: false,
        })
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

    fn reopen(&mut self) -> Result<Book, StoreError> {
        let mut store = Store::open(&self.directory, self.boot)?;
        let book = store.load()?;
        self.store = Some(store);
        Ok(book)
    }

    pub fn is_writable(&self) -> bool {
        self.store.is_some() && self.unsaved.is_empty() && !self.failing
    }

    /// Makes intents durable before they are carried out.
    ///
    /// # Errors
    /// Says why not; then none of them may be carried out.
    pub fn begin(&mut self, intents: &[Entry]) -> Result<(), String> {
        // A closed ledger is not opened here: what it holds must be taken over by the book first.
        self.flush();
        let Some(store) = self.store.as_mut().filter(|_| self.unsaved.is_empty()) else {
            return Err("the ledger cannot be written".to_owned());
        };
        #[cfg(test)]
        crate::host::fault::point();
        let result = store.commit(intents);
        #[cfg(test)]
        crate::host::fault::point();
        self.failing = result.is_err();
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
    }

    /// Whether outcomes wait to be written.
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Tries to open and to write again. Returns what an opened ledger holds, when it was closed until now.
    pub fn recover(&mut self) -> Option<Book> {
        let mut opened = None;
        if self.store.is_none() {
            opened = self.reopen().ok();
            if let Some(book) = &mut opened {
                tracing::info!("the ledger can be written again");
                // What was decided meanwhile is newer than what was read.
                self.unsaved.iter().for_each(|entry| book.record(entry));
            }
        }
        self.flush();
        if self.failing
            && let Some(store) = &mut self.store
        {
            self.failing = store.probe().is_err();
        }
        opened
    }

    fn flush(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        let Some(store) = &mut self.store else { return };
        match store.commit(&self.unsaved) {
            Ok(()) => {
                self.unsaved.clear();
                self.failing = false;
            }
            Err(error) => {
                tracing::error!(%error, waiting = self.unsaved.len(), "outcomes cannot be written; they wait in memory");
            }
        }
    }
}
