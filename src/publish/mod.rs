//! Samples and own counters as Prometheus reads them, and the listener that serves them. Knows nothing of rules or of
//! what the engine does, except what `telemetry` carries.

pub mod exposition;
pub mod server;
pub mod metrics_handler;
mod normalize;
mod gzip;
mod negotiation;
mod page;
mod response_cache;
mod repack;
mod encode_cache;
mod status;

pub use encode_cache::EncodeCache;
pub use exposition::Content;
pub use metrics_handler::{FamilySource, HandlerOptions, MetricsHandler, ReloadFn};
pub use negotiation::Format;
pub use server::serve;
