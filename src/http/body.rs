//! Request bodies with bounds of size and time.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use std::time::Duration;

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the body did not arrive within {} s", timeout.as_secs_f64())]
    TooSlow { timeout: Duration },
    #[error("the body broke off: {0}")]
    BrokenOff(#[source] hyper::Error),
}

/// Reads a whole body of at most `max_bytes`, announced or chunked, that arrives within `timeout`. What is too large
/// is left unread, see [`discard`].
///
/// # Errors
/// When the body is larger, slower, or ends before its end.
pub async fn read_body(body: &mut Incoming, max_bytes: usize, timeout: Duration) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(BodyError::TooLarge { max_bytes });
    }
    let all = async {
        let mut read = Vec::with_capacity(body.size_hint().exact().unwrap_or(0) as usize);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(BodyError::BrokenOff)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > max_bytes {
                return Err(BodyError::TooLarge { max_bytes });
            }
            read.extend_from_slice(&data);
        }
        Ok(Bytes::from(read))
    };
    tokio::time::timeout(timeout, all)
        .await
        .unwrap_or(Err(BodyError::TooSlow { timeout }))
}

/// Reads and drops what is left of a body, up to these bounds. A connection that is closed while the peer still writes
/// is reset, and most clients then never see the answer that says why.
pub async fn discard(body: &mut Incoming, max_bytes: usize, timeout: Duration) {
    let rest = async {
        let mut read_bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read_bytes += frame.data_ref().map_or(0, Bytes::len);
            if read_bytes > max_bytes {
                break;
            }
        }
    };
    // Late is as good as done: the connection is closed either way.
    let _ = tokio::time::timeout(timeout, rest).await;
}
