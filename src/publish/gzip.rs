//! Gzips bodies with one compressor: its tables are larger than most bodies, and to make them anew takes longer than to wipe them.

use flate2::{Compress, Compression, FlushCompress, Status};
use hyper::body::Bytes;
use std::sync::{Mutex, PoisonError};

/// Level 1 takes a third of the time of the default 6 and is a tenth larger.
const LEVEL: u32 = 1;

/// The largest window that the format has (32 KiB, as a power of two). A smaller one moves more often, which costs more than it spares.
const WINDOW_BITS: u8 = 15;

/// Made when the first body wants it.
#[derive(Default)]
pub struct Compressor(Mutex<Option<Compress>>);

impl Compressor {
    /// The body as a gzip file (RFC 1952) of one member, or nothing should the compressor fail.
    pub fn compress(&self, body: &[u8]) -> Option<Bytes> {
        // Whatever state another thread left behind, it is wiped.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let compressor = kept.get_or_insert_with(|| Compress::new_gzip(Compression::new(LEVEL), WINDOW_BITS));
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
    fn what_was_compressed_before_leaves_no_trace() {
        // Noise too, of which a gzip file is larger than itself.
        let noise = |length: usize| -> Vec<u8> {
            let mut state = 1_u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..length).map(|_| next()).collect()
        };
        let kept = Compressor::default();
        let bodies = [
            b"evenkeel_rules 3\n".repeat(40_000),
            Vec::new(),
            noise(300_000),
            b"x".to_vec(),
            noise(100),
            b"node_load1 0.5\n".repeat(10),
        ];
        for body in bodies {
            let compressed = kept.compress(&body).unwrap();
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
