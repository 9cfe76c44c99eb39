//! Samples and own counters as Prometheus reads them, and the listener that serves them. Knows nothing of rules or of
//! what the engine does, except what `telemetry` carries.

pub mod exposition;
pub mod server;
pub mod site;
mod families;
mod gzip;
mod negotiation;
mod page;
mod rendered;
mod repack;
mod reprint;
mod status;

pub use exposition::Content;
pub use negotiation::Format;
pub use reprint::Press;
pub use server::serve;
pub use site::{Options, Reload, Site, Source};
