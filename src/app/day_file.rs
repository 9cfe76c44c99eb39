//! The file `day.json`, in which the timeline of the status page survives a restart: the figures of the host, and what
//! was open, decided and done. Its loss loses a drawing only.

use super::kept_alerts::{read_file, replace_file};
use crate::ledger::Record;
use crate::sense::day_history::StoredHistory;
use crate::sense::{DayHistory, Sampler};
use crate::storage::DAY;
use crate::telemetry::{StoredActivity, Telemetry};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Interval at which the file is written; it has some 60 kB. A crash loses this much of the timeline.
const INTERVAL: Duration = Duration::from_secs(600);

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredDay {
    history: StoredHistory,
    activity: StoredActivity,
}

impl StoredDay {
    /// Loads the part about evenkeel, except events that the ledger has, whose newest records come first.
    pub fn restore_activity(&mut self, telemetry: &Telemetry, newest_records: &[Record]) {
        let mut activity = std::mem::take(&mut self.activity);
        if let Some(oldest) = newest_records.last() {
            let is_older = |at: Timestamp| at < oldest.at;
            activity.actions.retain(|event| is_older(event.at));
            activity.decisions.retain(|event| is_older(event.at));
        }
        telemetry.restore(activity);
    }

    pub fn history(&self) -> DayHistory {
        DayHistory::from_stored(&self.history)
    }
}

/// Access to the file.
#[derive(Clone)]
pub struct DayFile {
    path: PathBuf,
}

impl DayFile {
    pub fn new(directory: &Path) -> DayFile {
        DayFile {
            path: directory.join(DAY),
        }
    }

    /// The content, empty if there is none that can be read.
    pub fn read(&self) -> StoredDay {
        match read_file(&self.path) {
            Ok(day) => day,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => StoredDay::default(),
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "could not read day.json, the timeline starts over");
                StoredDay::default()
            }
        }
    }

    pub fn write(&self, sampler: &Sampler, telemetry: &Telemetry) {
        let day = StoredDay {
            history: sampler.day_history().to_stored(),
            activity: telemetry.activity().to_stored(Timestamp::now()),
        };
        if let Err(error) = replace_file(&self.path, &day) {
            tracing::warn!(file = %self.path.display(), %error, "could not write day.json, a restart loses the timeline");
        }
    }

    /// Writes the file at each interval until `shutdown`.
    pub async fn keep(self, sampler: Arc<Sampler>, telemetry: Telemetry, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let (file, sampler, telemetry) = (self.clone(), Arc::clone(&sampler), telemetry.clone());
            // A disk may block.
            drop(tokio::task::spawn_blocking(move || file.write(&sampler, &telemetry)).await);
        }
    }
}
