//! A cache of the response to the newest snapshot: each format and coding is encoded once, on first request.

use super::encode_cache::EncodeCache;
use super::encoder::{Encoder, PlainEncoder};
use super::exposition::Content;
use super::gzip::Compressor;
use super::negotiation::Format;
use crate::sense::Snapshot;
use hyper::body::Bytes;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Ages and telemetry change even without a new sample, as when a collector hangs.
const MAX_RESPONSE_AGE: Duration = Duration::from_secs(1);

/// A response with its bodies in each format and coding.
pub struct CachedResponse {
    snapshot: Arc<Snapshot>,
    at: Instant,
    content: Arc<Content>,
    encoder: Arc<dyn Encoder>,
    gzip: Arc<Compressor>,
    bodies: [OnceLock<Option<Bytes>>; 4],
}

impl CachedResponse {
    /// The body in this format and coding. `None` if the encoder fails.
    pub fn body(&self, format: Format, gzip: bool) -> Option<Bytes> {
        let index = usize::from(format == Format::Text) * 2 + usize::from(gzip);
        let make = || {
            if gzip {
                return self.gzip.compress(&self.body(format, false)?);
            }
            self.encoder.encode(&self.content, format).ok()
        };
        self.bodies[index].get_or_init(make).clone()
    }
}

/// The newest response, shared by all scrapers while its snapshot is the newest.
#[derive(Default)]
pub struct ResponseCache {
    response: Mutex<Option<Arc<CachedResponse>>>,
    encode_cache: Arc<EncodeCache>,
    gzip: Arc<Compressor>,
}

impl ResponseCache {
    /// A response that is not cached, for a scrape of selected collectors.
    pub fn uncached(&self, snapshot: Arc<Snapshot>, content: Content) -> CachedResponse {
        CachedResponse {
            snapshot,
            at: Instant::now(),
            content: Arc::new(content),
            encoder: Arc::new(PlainEncoder),
            gzip: Arc::clone(&self.gzip),
            bodies: Default::default(),
        }
    }

    /// The cached response for the newest snapshot, or a new one from `content`.
    pub fn get_or_create(
        &self,
        snapshot: Arc<Snapshot>,
        content: impl FnOnce(&Snapshot) -> Content,
    ) -> Arc<CachedResponse> {
        // A response is replaced as a whole, so it is valid after a panic of another thread.
        let mut cache = self.response.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(response) = &*cache
            && Arc::ptr_eq(&response.snapshot, &snapshot)
            && response.at.elapsed() < MAX_RESPONSE_AGE
        {
            return Arc::clone(response);
        }
        let content = content(&snapshot);
        let response = Arc::new(CachedResponse {
            // The next content may differ in numbers only.
            encoder: Arc::clone(&self.encode_cache) as Arc<dyn Encoder>,
            ..self.uncached(snapshot, content)
        });
        *cache = Some(Arc::clone(&response));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::SampleTime;

    fn snapshot() -> Arc<Snapshot> {
        Arc::new(Snapshot {
            taken: SampleTime::now(),
            readings: Vec::new(),
            derived: Arc::default(),
        })
    }

    #[test]
    fn scrapers_of_a_snapshot_share_each_body() {
        let cache = ResponseCache::default();
        let snapshot = snapshot();
        let one = cache.get_or_create(Arc::clone(&snapshot), |_| Content::default());
        let other = cache.get_or_create(Arc::clone(&snapshot), |_| panic!("made twice"));
        for (format, gzip) in [
            (Format::OpenMetrics, false),
            (Format::OpenMetrics, true),
            (Format::Text, false),
            (Format::Text, true),
        ] {
            let (one, other) = (one.body(format, gzip).unwrap(), other.body(format, gzip).unwrap());
            assert_eq!(one.as_ptr(), other.as_ptr(), "{format:?} {gzip}");
        }
        assert_ne!(
            one.body(Format::OpenMetrics, true),
            one.body(Format::OpenMetrics, false)
        );
        assert_ne!(one.body(Format::OpenMetrics, false), one.body(Format::Text, false));
    }

    #[test]
    fn new_snapshot_has_a_new_response() {
        let cache = ResponseCache::default();
        let one = cache.get_or_create(snapshot(), |_| Content::default());
        let other = cache.get_or_create(snapshot(), |_| Content::default());
        assert!(!Arc::ptr_eq(&one, &other));
    }
}
