//! The ledger: decisions, outcomes, open episodes, and the leases to revert. `store` makes them durable, and `state`
//! mirrors them in memory; both apply the same entries.

pub mod state;
pub mod breaker;
pub mod entry;
pub mod job;
pub mod episode;
pub mod evidence;
pub mod files;
pub mod journal;
pub mod lease;
pub mod leases;
pub mod operation;
mod outcome;
mod rows;
mod reboot;
pub mod retention;
mod recovery;
mod schema;
pub mod stacked_leases;
pub mod store;
pub mod victim;
mod write_ahead_log;

#[cfg(test)]
mod tests;

pub use breaker::Breaker;
pub use entry::{Entry, Record};
pub use episode::{Closed, Episode, EpisodeKey, TargetProgress};
pub use evidence::{Evidence, EvidenceSource, Level};
pub use job::{Allocation, Command, GrantState, Release, RetryState, UnnamedGrant};
pub use journal::Journal;
pub use lease::{Effect, Lease, SavedValue};
pub use operation::{OperatorRequest, Requester};
pub use outcome::{Decision, Operation, Outcome};
pub use recovery::{read_only, stored_leases};
pub use retention::Retention;
pub use state::LedgerState;
pub use store::{Store, StoreError};
pub use victim::Victim;
