//! What all who serve HTTP share: connections and their bounds, who is let in, bodies and answers.
//! Knows no route and no alert; a listener gives `serve` a function from request to answer.

pub mod access;
pub mod answer;
pub mod body;
pub mod listen;
pub mod server;
pub mod token;

pub use access::{Access, Denied};
pub use answer::Answer;
pub use body::{BodyError, discard, read_body};
pub use listen::may_listen;
pub use server::{Limits, Peer, serve};
pub use token::{TokenError, TokenFile};
