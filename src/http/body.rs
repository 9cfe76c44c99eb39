//! Request bodies with bounds of size and time.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use std::time::Duration;

/// The reason why a body was not read completely.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error("the body did not arrive within {} s", timeout.as_secs_f64())]
    TooSlow { timeout: Duration },
    #[error("the body broke off: {0}")]
    BrokenOff(#[source] hyper::Error),
}

/// Reads a complete body of at most `max_bytes`, with `Content-Length` or chunked, that arrives within `timeout`. The
/// rest of a larger body stays unread, see [`discard`].
///
/// # Errors
/// When the body is larger, slower, or incomplete.
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

/// Reads and drops the rest of a body, up to these bounds. Closing a connection while the peer still writes resets it,
/// and most clients then never see the response.
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
    // After the timeout the connection is closed anyway.
    let _ = tokio::time::timeout(timeout, rest).await;
}
