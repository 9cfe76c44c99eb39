//! The parts that all HTTP servers and clients share: connections and their bounds, access control, bodies and
//! responses. This layer knows no routes and no alerts; a listener passes `serve` a function from request to
//! response.

pub mod access;
pub mod body;
pub mod client;
pub mod listen;
pub mod log_limit;
pub mod password;
pub mod remote_access;
pub mod response;
pub mod server;
mod subject_names;
pub mod tls;
pub mod token;
mod web_address;
pub mod web_config;
pub mod web_file;

pub use access::{Access, Denied};
pub use body::{BodyError, discard, read_body};
pub use listen::may_listen;
pub use response::HttpResponse;
pub use server::{Peer, ServerLimits, serve};
pub use token::{TokenError, TokenFile};
pub use web_address::web_address;
pub use web_file::WebFileError;
