//! The ledger on real files: damage, recovery, retention, and what a commit makes durable.

mod damage;
mod recovery;
mod retention;
mod store;
