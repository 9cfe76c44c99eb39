//! The activity of the last day that survives a restart: events, and what was open when. Data only.

use super::entry::{Event, LeaseStatus, OpenAlert};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;
use std::collections::BTreeMap;

/// An alert that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedAlert {
    pub alert: OpenAlert,
    pub ended_at: Timestamp,
}

/// A lease that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedLease {
    pub lease: LeaseStatus,
    pub ended_at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredActivity {
    pub alerts: Vec<EndedAlert>,
    pub leases: Vec<EndedLease>,
    /// Newest first.
    pub actions: Vec<Event>,
    /// Newest first.
    pub decisions: Vec<Event>,
    /// The time of the newest event of each rule that was not kept.
    pub dropped: BTreeMap<String, Timestamp>,
}

/// The form of an ended alert in the file, with what `/api/v1/status` leaves out.
#[derive(Serialize, Deserialize)]
struct AlertRow {
    alert: OpenAlert,
    ended_at: Timestamp,
    rule_text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    runbook_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generator_url: Option<SmolStr>,
}

impl Serialize for EndedAlert {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = AlertRow {
            alert: self.alert.clone(),
            ended_at: self.ended_at,
            rule_text: self.alert.rule_text.to_string(),
            runbook_url: self.alert.runbook_url.clone(),
            generator_url: self.alert.generator_url.clone(),
        };
        row.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EndedAlert {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EndedAlert, D::Error> {
        let row = AlertRow::deserialize(deserializer)?;
        let alert = OpenAlert {
            rule_text: row.rule_text.into(),
            runbook_url: row.runbook_url,
            generator_url: row.generator_url,
            ..row.alert
        };
        Ok(EndedAlert {
            alert,
            ended_at: row.ended_at,
        })
    }
}
