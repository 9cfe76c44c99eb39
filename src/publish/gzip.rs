//! A reusable gzip compressor. Its tables are larger than most bodies, and allocating them takes longer than resetting
//! them.

use flate2::{Compress, Compression, FlushCompress, Status};
use hyper::body::Bytes;
use std::sync::{Mutex, PoisonError};

/// Level 1 takes a third of the time of the default 6 and is a tenth larger.
const LEVEL: u32 = 1;

/// The largest window of the format (32 KiB, as a power of two). A smaller one moves more often, which costs more than
/// it saves.
const WINDOW_BITS: u8 = 15;

/// A compressor that is created for the first body.
#[derive(Default)]
pub struct Compressor(Mutex<Option<Compress>>);

impl Compressor {
    /// Compresses a body to a gzip file (RFC 1952) of one member. `None` if the compressor fails.
    pub fn compress(&self, body: &[u8]) -> Option<Bytes> {
        // The reset below clears the state that a panic may have left.
        let mut compressor = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let compressor = compressor.get_or_insert_with(|| Compress::new_gzip(Compression::new(LEVEL), WINDOW_BITS));
        compressor.reset();
        let mut compressed = Vec::with_capacity(body.len() / 4 + 64);
        loop {
            let taken = usize::try_from(compressor.total_in()).ok()?;
            match compressor.compress_vec(&body[taken..], &mut compressed, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => return Some(compressed.into()),
                Ok(Status::Ok | Status::BufError) => compressed.reserve(compressed.capacity()),
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn earlier_bodies_leave_no_trace() {
        // Noise, whose gzip file is larger than itself.
        let noise = |length: usize| -> Vec<u8> {
            let mut state = 1_u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..length).map(|_| next()).collect()
        };
        let compressor = Compressor::default();
        let bodies = [
            b"evenkeel_rules 3\n".repeat(40_000),
            Vec::new(),
            noise(300_000),
            b"x".to_vec(),
            noise(100),
            b"node_load1 0.5\n".repeat(10),
        ];
        for body in bodies {
            let compressed = compressor.compress(&body).unwrap();
            let mut again = Vec::new();
            GzDecoder::new(&*compressed).read_to_end(&mut again).unwrap();
            assert!(again == body, "{} bytes", body.len());
            assert_eq!(
                compressed,
                Compressor::default().compress(&body).unwrap(),
                "{} bytes",
                body.len()
            );
        }
    }
}
