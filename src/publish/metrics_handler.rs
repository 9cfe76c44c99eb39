//! The request handler of the metrics listener: metrics, status page and status as JSON, readiness and reload. It knows
//! nothing of HTTP, sockets and TLS.

use super::exposition::Content;
use super::normalize::FamilyOrder;
use super::page::{self, PageOptions, Range};
use super::request::{CollectorFilter, ContentType, MetricsReply, MetricsRequest, MetricsService, ReplyStatus, Scrape};
use super::response_cache::ResponseCache;
use super::status::{Status, status};
use crate::family::{DescriptorCache, DescriptorPool, Family, label};
use crate::sense::{MaxAge, Sampler, Snapshot};
use crate::telemetry::Telemetry;
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A scrape reads samples again that are older than this.
const MAX_SAMPLE_AGE: Duration = Duration::from_millis(100);

/// A scrape with a short timeout reads samples again that are older than this share of its patience, so 40 ms where the
/// timeout is 1 s. The age of the samples is an error of `rate()`, and the timeout is no longer than the interval.
const MAX_AGE_SHARE: u32 = 20;

/// The longest that a scrape, or the page, waits for fresh samples before it uses the newest.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Reloads the configuration for a requester such as `POST /-/reload from 10.0.0.7`; may block. The error is the reason
/// of a failure.
pub type ReloadFn = Arc<dyn Fn(String) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

/// A source of further families, called for each scrape; it must be quick.
pub type FamilySource = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

pub struct HandlerOptions {
    /// `--web.telemetry-path`.
    pub telemetry_path: String,
    /// `--web.max-requests`: scrapes at once; 0 for no limit.
    pub max_requests: usize,
    /// Present with `--web.enable-lifecycle`.
    pub reload: Option<ReloadFn>,
    /// Families of modules that this one does not know.
    pub sources: Vec<FamilySource>,
    /// The option that leads commands to this daemon, with a blank before it; empty for the default directory.
    pub storage_option: String,
    /// Whether clients authenticate, so that they may follow the links of an alert. Asked for each page.
    pub authenticates: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        HandlerOptions {
            telemetry_path: "/metrics".to_owned(),
            max_requests: 40,
            reload: None,
            sources: Vec::new(),
            storage_option: String::new(),
            authenticates: Box::new(|| false),
        }
    }
}

/// The status as JSON, with what the page computes from it.
#[derive(Serialize)]
struct StatusJson<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// Whether the steps of an open alert helped, by the number of its episode.
    effects: BTreeMap<&'a str, String>,
}

impl<'a> StatusJson<'a> {
    fn of(status: &'a Status) -> StatusJson<'a> {
        StatusJson {
            status,
            effects: page::effects(status),
        }
    }
}

/// Descriptors that the families of successive scrapes share.
#[derive(Default)]
struct Descriptors {
    collector_descriptors: DescriptorCache<&'static str>,
    own: DescriptorPool,
}

/// The handler of all requests to the metrics listener.
pub struct MetricsHandler {
    sampler: Arc<Sampler>,
    telemetry: Telemetry,
    options: HandlerOptions,
    scrapes: Option<Semaphore>,
    response_cache: ResponseCache,
    family_order: Arc<FamilyOrder>,
    descriptors: Mutex<Descriptors>,
    ready: AtomicBool,
}

impl MetricsHandler {
    /// A handler is ready from the start, because a running sampler has its first sample.
    pub fn new(sampler: Arc<Sampler>, telemetry: Telemetry, options: HandlerOptions) -> Self {
        let scrapes = (options.max_requests > 0).then(|| Semaphore::new(options.max_requests));
        MetricsHandler {
            sampler,
            telemetry,
            options,
            scrapes,
            response_cache: ResponseCache::default(),
            family_order: Arc::default(),
            descriptors: Mutex::default(),
            ready: AtomicBool::new(true),
        }
    }

    /// Sets what `/-/ready` reports: not ready while shutting down, for instance.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    async fn scrape(&self, scrape: Scrape) -> MetricsReply {
        let _permit = match &self.scrapes {
            None => None,
            Some(scrapes) => match scrapes.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let limit = self.options.max_requests;
                    let text = format!("Limit of concurrent requests reached ({limit}), try again later.\n");
                    return MetricsReply::plain(ReplyStatus::Unavailable, text);
                }
            },
        };
        let filter = scrape.collectors;
        let patience = scrape.patience.min(PATIENCE);
        let max_age = MAX_SAMPLE_AGE.min(patience / MAX_AGE_SHARE);
        let max_age = MaxAge {
            fast: max_age,
            scraped: if filter.includes_scraped() {
                max_age
            } else {
                self.sampler.slow_interval()
            },
        };
        let snapshot = self.sampler.fresh(max_age, patience).await;
        let response = if let CollectorFilter::All = filter {
            self.response_cache
                .get_or_create(snapshot, |snapshot| self.content(snapshot, &filter))
        } else {
            let missing = filter.missing(&self.sampler.readings(&snapshot));
            if !missing.is_empty() {
                let text = format!("disabled collector: {}\n", missing.join(", "));
                return MetricsReply::plain(ReplyStatus::BadRequest, text);
            }
            let content = self.content(&snapshot, &filter);
            Arc::new(self.response_cache.uncached(snapshot, content))
        };
        let (format, gzip) = (scrape.format, scrape.gzip);
        match response.body(format, gzip) {
            Some(body) => MetricsReply::new(ReplyStatus::Ok, ContentType::Exposition { format, gzip }, body),
            None => failed("The metrics could not be encoded.\n".to_owned()),
        }
    }

    fn content(&self, snapshot: &Snapshot, filter: &CollectorFilter) -> Content {
        let mut own = self.telemetry.families();
        own.push(NODE_EXPORTER_BUILD_INFO.clone());
        own.extend(self.options.sources.iter().flat_map(|source| source()));
        let mut readings = self.sampler.readings(snapshot);
        readings.retain(|reading| filter.includes(reading.collector));
        let chosen = Snapshot {
            readings,
            ..snapshot.clone()
        };
        // Descriptors are compared before they are used, so a panic leaves no wrong ones.
        let mut descriptors = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(chosen.collector_families(Instant::now(), &mut descriptors.collector_descriptors));
        descriptors.own.share(&mut own);
        Content {
            readings: chosen.readings,
            derived: chosen.derived,
            own,
            order: match filter {
                CollectorFilter::All => Arc::clone(&self.family_order),
                CollectorFilter::Only(_) | CollectorFilter::Without(_) => Arc::default(),
            },
        }
    }

    async fn status(&self) -> Status {
        // All viewers within one interval share a sample. The page shows only ages of what other threads read.
        let max_age = MaxAge {
            fast: self.sampler.interval(),
            scraped: self.sampler.slow_interval(),
        };
        let snapshot = self.sampler.fresh(max_age, PATIENCE).await;
        status(&self.sampler, &snapshot, &self.telemetry, Instant::now())
    }

    /// Renders on another thread, because a page with a thousand alerts would delay webhooks on this one.
    async fn render(
        &self,
        render: impl FnOnce(&Status, PageOptions<'_>) -> MetricsReply + Send + 'static,
    ) -> MetricsReply {
        let status = self.status().await;
        let telemetry_path = self.options.telemetry_path.clone();
        let storage_option = self.options.storage_option.clone();
        let is_authenticated = (self.options.authenticates)();
        let rendered = tokio::task::spawn_blocking(move || {
            let options = PageOptions {
                telemetry_path: &telemetry_path,
                storage_option: &storage_option,
                is_authenticated,
            };
            render(&status, options)
        });
        let panicked = |_| failed("The page could not be rendered.\n".to_owned());
        rendered.await.unwrap_or_else(panicked)
    }

    async fn page(&self, range: Option<Range>) -> MetricsReply {
        let render = move |status: &Status, options: PageOptions<'_>| {
            MetricsReply::new(ReplyStatus::Ok, ContentType::Html, page::page(status, options, range))
        };
        self.render(render).await
    }

    async fn episode(&self, id: String) -> MetricsReply {
        let render = move |status: &Status, options: PageOptions<'_>| match page::episode(status, &id, options) {
            Some(html) => MetricsReply::new(ReplyStatus::Ok, ContentType::Html, html),
            None => MetricsReply::new(
                ReplyStatus::NotFound,
                ContentType::Html,
                page::unknown_episode(status, options),
            ),
        };
        self.render(render).await
    }

    /// The content of `/api/v1/status`.
    pub async fn status_value(&self) -> serde_json::Value {
        // Its keys are strings, and it has numbers, strings and lists only.
        serde_json::to_value(StatusJson::of(&self.status().await)).unwrap_or_default()
    }

    async fn status_json(&self) -> MetricsReply {
        let render = |status: &Status, _: PageOptions<'_>| match serde_json::to_vec(&StatusJson::of(status)) {
            Ok(json) => MetricsReply::new(ReplyStatus::Ok, ContentType::Json, json),
            Err(error) => failed(format!("{error}\n")),
        };
        self.render(render).await
    }

    fn readiness(&self) -> MetricsReply {
        match self.ready.load(Ordering::Relaxed) {
            true => MetricsReply::plain(ReplyStatus::Ok, "evenkeel is ready.\n"),
            false => MetricsReply::plain(ReplyStatus::Unavailable, "evenkeel is not ready.\n"),
        }
    }

    async fn reload(&self, peer: IpAddr) -> MetricsReply {
        let Some(reload) = &self.options.reload else {
            let hint = "Lifecycle API is not enabled: start with --web.enable-lifecycle, or send SIGHUP.\n";
            return MetricsReply::plain(ReplyStatus::Forbidden, hint);
        };
        let reload = Arc::clone(reload);
        let by = format!("POST /-/reload from {}", peer.to_canonical());
        // A reload reads files, which may block.
        match tokio::task::spawn_blocking(move || reload(by)).await {
            Ok(Ok(())) => MetricsReply::plain(ReplyStatus::Ok, "Configuration reloaded.\n"),
            Ok(Err(why)) => failed(format!("failed to reload config: {why}\n")),
            Err(_) => failed("failed to reload config: it panicked\n".to_owned()),
        }
    }
}

impl MetricsService for MetricsHandler {
    async fn answer(&self, request: MetricsRequest) -> MetricsReply {
        match request {
            MetricsRequest::Scrape(scrape) => self.scrape(scrape).await,
            MetricsRequest::Page(range) => self.page(range).await,
            MetricsRequest::Episode(id) => self.episode(id).await,
            MetricsRequest::StatusJson => self.status_json().await,
            MetricsRequest::Readiness => self.readiness(),
            MetricsRequest::Reload(peer) => self.reload(peer).await,
        }
    }
}

fn failed(text: String) -> MetricsReply {
    MetricsReply::plain(ReplyStatus::Failed, text)
}

/// The cluster dashboard of node-mixin divides by the number of these series.
static NODE_EXPORTER_BUILD_INFO: LazyLock<Family> = LazyLock::new(|| {
    let mut info = Family::gauge(
        "node_exporter_build_info",
        "The version of evenkeel, under the name that dashboards for node_exporter ask for; the value is always 1.",
    );
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    info.push(
        [
            label("branch", ""),
            label("goarch", architecture),
            label("goos", "linux"),
            label("goversion", ""),
            label("revision", ""),
            label("version", env!("CARGO_PKG_VERSION")),
        ],
        1.0,
    );
    info
});
