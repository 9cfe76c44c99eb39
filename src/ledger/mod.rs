//! The ledger: what was decided, what was done, what is held and must be put back. Durable in `store`, mirrored in
//! memory by `book`; both take the same entries.

pub mod book;
pub mod breaker;
pub mod entry;
pub mod errand;
pub mod evidence;
pub mod journal;
pub mod lease;
pub mod leases;
mod reading;
mod reboot;
pub mod retention;
mod salvage;
mod schema;
pub mod store;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod salvage_tests;
#[cfg(test)]
mod store_tests;

pub use book::{Closed, Episode, EpisodeKey, LedgerState, TargetProgress, Victim};
pub use breaker::Breaker;
pub use entry::{Decision, Entry, Outcome, Record};
pub use errand::{Allocation, Command, Release, RetryState, Stage, UnnamedGrant};
pub use evidence::{Evidence, EvidenceSource, Level};
pub use journal::Journal;
pub use lease::{Effect, Lease, SavedValue};
pub use retention::Retention;
pub use store::{Store, StoreError};
