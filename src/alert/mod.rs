//! Alerts as data, matchers for them, and the webhook that receives them from Alertmanager.

#[allow(
    clippy::module_inception,
    reason = "the room and its central type share the word of the domain"
)]
pub mod alert;
pub mod alertmanager;
mod body_memory;
pub mod decode;
pub mod go_regex;
pub mod matcher;
pub mod receiver;
mod webhook_entry;

pub use crate::labels::Labels;
pub use alert::{Alert, FiringSet, Source, Status};
pub use decode::{DecodeError, Envelope, InvalidEntry, decode};
pub use matcher::{Matcher, MatcherError, Op};
pub use receiver::{CountingInbox, Delivery, Inbox, NotAccepted, Receipt, WebhookReceiver};
