//! The metrics listener: expositions of samples and telemetry for Prometheus, and the status page. It knows nothing of
//! rules or of the engine, except what `telemetry` holds.

pub mod exposition;
pub mod server;
pub mod request;
pub mod metrics_handler;
mod normalize;
mod gzip;
mod negotiation;
mod page;
mod response_cache;
mod encoder;
mod encode_cache;
mod status;

pub use encode_cache::EncodeCache;
pub use encoder::{Encoder, PlainEncoder};
pub use exposition::Content;
pub use gzip::Compressor;
pub use metrics_handler::{FamilySource, HandlerOptions, MetricsHandler, ReloadFn};
pub use negotiation::Format;
pub use page::{
    Health, HeldLeases, Meaning, active_rules, answers, last_act, lease_numbers, nothing_done, open_alerts, state,
};
pub use request::{MetricsReply, MetricsRequest, MetricsService};
pub use server::{MAX_CONNECTIONS, MetricsServer};
