//! An encoder of contents: the trait, and the plain implementation. [`EncodeCache`](super::EncodeCache) is the one that
//! reuses the last text.

use super::exposition::{self, Content};
use super::negotiation::Format;
use hyper::body::Bytes;
use std::fmt;
use std::sync::Arc;

pub trait Encoder: Send + Sync {
    /// The text of a content.
    ///
    /// # Errors
    ///
    /// When the encoder of `prometheus-client` fails, for which there is no known case.
    fn encode(&self, content: &Arc<Content>, format: Format) -> Result<Bytes, fmt::Error>;
}

/// Writes every name, label and number.
pub struct PlainEncoder;

impl Encoder for PlainEncoder {
    fn encode(&self, content: &Arc<Content>, format: Format) -> Result<Bytes, fmt::Error> {
        exposition::write(content, format).map(Bytes::from)
    }
}
