//! The task that polls the Alertmanagers for firing alerts and passes their lists to the engine.

use crate::alert::alertmanager::{
    AnswerError, PollResult, RECEIVERS_PATH, STATUS_PATH, View, alerts_path, decode_alerts, decode_receivers,
    decode_start,
};
use crate::config::{Alertmanagers, Config, LastGood, Reconcile};
use crate::engine::run::{EngineHandle, Input};
use crate::http::client::{ClientError, Connection};
use crate::telemetry::Telemetry;
use hyper::body::Bytes;
use hyper::{HeaderMap, Method, StatusCode, Uri};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The Alertmanagers to poll, and the interval.
#[derive(Clone)]
struct PollSettings {
    alertmanagers: Vec<Arc<Alertmanagers>>,
    reconcile: Reconcile,
}

/// A handle that reconfigures a running reconciler.
#[derive(Clone)]
pub struct Handle(Arc<watch::Sender<PollSettings>>);

/// The receiving end of a [`Handle`], for [`run`].
pub struct Wanted(watch::Receiver<PollSettings>);

impl Handle {
    pub fn new(config: &Config) -> (Handle, Wanted) {
        let (sender, receiver) = watch::channel(PollSettings::of(config));
        (Handle(Arc::new(sender)), Wanted(receiver))
    }

    /// Applies another configuration at once.
    pub fn replace(&self, config: &Config) {
        self.0.send_replace(PollSettings::of(config));
    }
}

impl PollSettings {
    fn of(config: &Config) -> PollSettings {
        PollSettings {
            alertmanagers: config.alertmanagers.iter().cloned().map(Arc::new).collect(),
            reconcile: config.reconcile,
        }
    }
}

/// The reason why an Alertmanager counts as unreachable.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{path}: status {status}")]
    Status { path: String, status: StatusCode },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("it has no receiver {wanted:?}, only {known}; set `receiver` of this entry of alertmanagers")]
    Receiver { wanted: String, known: String },
}

/// Polls at an interval until `stopped`.
pub async fn run(
    Wanted(mut wanted): Wanted,
    engine_handle: EngineHandle,
    telemetry: Telemetry,
    stopped: impl Future<Output = ()>,
) {
    let rounds = async {
        let mut last_good = LastGood::default();
        let mut silent = BTreeSet::new();
        loop {
            let settings = wanted.borrow_and_update().clone();
            if settings.alertmanagers.is_empty() {
                telemetry.alertmanagers_asked(0, 0);
            } else {
                let poll = poll(&settings, &mut last_good, &mut silent).await;
                telemetry.alertmanagers_asked(poll.views.len(), silent.len());
                // A full queue means that the engine is busy. The next poll has the same result.
                engine_handle.try_send(Input::PollResult(poll));
            }
            tokio::select! {
                () = tokio::time::sleep(settings.reconcile.interval) => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = rounds => {}
        () = stopped => {}
    }
}

/// Polls all concurrently. `silent` are those that did not respond to the last poll, so that only changes are logged.
async fn poll(settings: &PollSettings, last_good: &mut LastGood, silent: &mut BTreeSet<String>) -> PollResult {
    let asked_at = crate::host::linux::boot_time();
    let mut asked = JoinSet::new();
    for group in &settings.alertmanagers {
        let (reading, mut files) = (Arc::clone(group), std::mem::take(last_good));
        let read = tokio::task::spawn_blocking(move || {
            let addresses = reading.addresses(&mut files);
            (addresses, files)
        });
        let Ok(((addresses, problems), files)) = read.await else {
            break;
        };
        *last_good = files;
        for problem in problems {
            tracing::warn!(
                problem,
                "could not load Alertmanager addresses, keeping the last good ones"
            );
        }
        for address in addresses {
            let group = Arc::clone(group);
            asked.spawn(async move {
                let answer = ask(&address, &group).await;
                (address.to_string(), answer)
            });
        }
    }
    let mut views = Vec::new();
    let mut now_silent = BTreeSet::new();
    while let Some(joined) = asked.join_next().await {
        let Ok((alertmanager, answer)) = joined else { continue };
        match answer {
            Ok(view) => {
                tracing::debug!(alertmanager, firing = view.firing.len(), "Alertmanager polled");
                if silent.contains(&alertmanager) {
                    tracing::info!(alertmanager, "Alertmanager reachable again");
                }
                views.push(view);
            }
            Err(reason) => {
                if !silent.contains(&alertmanager) {
                    tracing::warn!(alertmanager, %reason, "Alertmanager poll failed, its alerts stay as they are");
                }
                now_silent.insert(alertmanager);
            }
        }
    }
    *silent = now_silent;
    let reconcile = &settings.reconcile;
    PollResult {
        views,
        asked_at,
        // The next response may be late, or fail once.
        fresh_for: reconcile.patience.max(reconcile.interval * 3),
        patience: reconcile.patience,
    }
}

/// Polls one Alertmanager. Its start time is requested first, so that the next poll notices a restart in between.
async fn ask(address: &Uri, group: &Alertmanagers) -> Result<View, Silence> {
    let mut connection = Connection::open(address, &group.client).await?;
    let mut get = async |path: &str| -> Result<Bytes, Silence> {
        let path = format!("{}{path}", group.path_prefix);
        // The configuration has checked prefix and path together.
        let target: Uri = path.parse().map_err(|_| ClientError::Address(address.clone()))?;
        let reply = connection
            .send(Method::GET, target, HeaderMap::new(), Bytes::new())
            .await?;
        match reply.status {
            StatusCode::OK => Ok(reply.body),
            status => Err(Silence::Status { path, status }),
        }
    };
    let started_at = decode_start(&get(STATUS_PATH).await?)?;
    let receivers = decode_receivers(&get(RECEIVERS_PATH).await?)?;
    if !receivers.contains(&group.receiver) {
        // Alertmanager would return an empty list, and every episode would close.
        return Err(Silence::Receiver {
            wanted: group.receiver.clone(),
            known: receivers.join(", "),
        });
    }
    let firing = decode_alerts(&get(&alerts_path(&group.receiver)).await?)?;
    Ok(View {
        alertmanager: address.to_string(),
        started_at,
        firing,
    })
}
