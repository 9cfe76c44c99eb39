//! The frames of the channel between the actuator and the frontend: the lengths of head and body, the head as JSON, and
//! the body as it is. A frame of more than the bounds is not read.

use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFIX_BYTES: usize = 8;
/// A larger buffer is reserved only as its bytes arrive.
const RESERVED_BYTES: usize = 64 * 1024;

/// The largest frames of one direction.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    pub head_bytes: usize,
    pub body_bytes: usize,
}

/// A frame as it was received.
#[derive(Debug)]
pub struct Frame {
    head: Vec<u8>,
    pub body: Bytes,
}

/// Why a frame cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a head of {head} and a body of {body} bytes are more than a frame may have")]
    TooLong { head: usize, body: usize },
    #[error("not a message: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Frame {
    pub fn head_bytes(&self) -> usize {
        self.head.len()
    }

    /// # Errors
    /// When the head is no message of this type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        Ok(serde_json::from_slice(&self.head)?)
    }
}

/// Reads the next frame; `None` at the end of the channel.
///
/// # Errors
/// When the frame is too long, or the channel breaks off within it.
pub async fn read_frame(mut input: impl AsyncRead + Unpin, limits: FrameLimits) -> Result<Option<Frame>, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    match input.read(&mut prefix[..1]).await? {
        0 => return Ok(None),
        _ => input.read_exact(&mut prefix[1..]).await?,
    };
    let length = |bytes: &[u8]| bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (head, body) = (length(&prefix[..4]), length(&prefix[4..]));
    if head > limits.head_bytes || body > limits.body_bytes {
        return Err(FrameError::TooLong { head, body });
    }
    Ok(Some(Frame {
        head: read_part(&mut input, head).await?,
        body: read_part(&mut input, body).await?.into(),
    }))
}

async fn read_part(input: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut part = Vec::with_capacity(length.min(RESERVED_BYTES));
    input.take(length as u64).read_to_end(&mut part).await?;
    if part.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(part)
}

/// A message whose body is not longer than 4 GiB, up to the end of its head.
///
/// # Errors
/// When it cannot be encoded, or its head is longer than 4 GiB.
pub fn encode(message: &impl Serialize, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let length = |length: usize| u32::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
    let head = length(bytes.len() - PREFIX_BYTES)?;
    bytes[..4].copy_from_slice(&head.to_be_bytes());
    bytes[4..PREFIX_BYTES].copy_from_slice(&length(body.len())?.to_be_bytes());
    Ok(bytes)
}

/// Writes a frame whose head was encoded with this body.
///
/// # Errors
/// When the channel is closed.
pub async fn write_frame(mut output: impl AsyncWrite + Unpin, head: &[u8], body: &[u8]) -> io::Result<()> {
    output.write_all(head).await?;
    output.write_all(body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        head_bytes: 100,
        body_bytes: 200_000,
    };

    fn frame(text: &str, body: &[u8]) -> Vec<u8> {
        [encode(&text, body).unwrap(), body.to_vec()].concat()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn frames_keep_head_and_body_apart() {
        let long = vec![7; 150_000];
        let bytes = [frame("one", &long), frame("two", b"")].concat();
        let mut input = &bytes[..];
        for (text, body) in [("one", &long[..]), ("two", b"")] {
            let frame = read_frame(&mut input, LIMITS).await.unwrap().expect("a frame");
            assert_eq!(frame.decode::<String>().unwrap(), text);
            assert_eq!(frame.body, body);
        }
        assert!(read_frame(&mut input, LIMITS).await.unwrap().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_broken_and_foreign_frames_are_errors() {
        let read = async |bytes: Vec<u8>| read_frame(&bytes[..], LIMITS).await;
        for long in [frame(&"x".repeat(101), b""), frame("x", &vec![0; 200_001])] {
            assert!(matches!(read(long).await, Err(FrameError::TooLong { .. })));
        }
        for length in [1, 7, 9, 12] {
            let mut cut = frame("x", b"body");
            cut.truncate(length);
            assert!(matches!(read(cut).await, Err(FrameError::Io(_))), "{length}");
        }
        let foreign = read(frame("x", b"")).await.unwrap().unwrap();
        assert!(matches!(foreign.decode::<u64>(), Err(FrameError::Decode(_))));
    }
}
