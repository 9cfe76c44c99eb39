//! The configuration file of an Alertmanager on this host, from which evenkeel reads only the repeat interval.

use crate::diagnostic::SourceText;
use crate::yaml::{from_str, parse_duration};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::time::Duration;

/// Alertmanager's default of `repeat_interval`.
const DEFAULT_REPEAT_INTERVAL: Duration = Duration::from_secs(4 * 3600);

#[derive(Deserialize)]
struct Alertmanager {
    route: Route,
    #[serde(default)]
    receivers: Vec<Receiver>,
}

#[derive(Deserialize)]
struct Route {
    receiver: Option<String>,
    repeat_interval: Option<String>,
    #[serde(default)]
    routes: Vec<Route>,
}

#[derive(Deserialize)]
struct Receiver {
    name: String,
    #[serde(default)]
    webhook_configs: Vec<IgnoredAny>,
}

/// The longest interval at which an Alertmanager with this configuration repeats a firing alert to a webhook. `None` if
/// it has no webhook, or is unreadable, which is not an error of evenkeel's configuration.
pub(super) fn repeat_interval(source: &SourceText) -> Option<Duration> {
    let file: Alertmanager = from_str(source).ok()?;
    let has_webhook = |name: &str| {
        file.receivers
            .iter()
            .any(|receiver| receiver.name == name && !receiver.webhook_configs.is_empty())
    };
    longest(&file.route, "", DEFAULT_REPEAT_INTERVAL, &has_webhook)
}

/// Routes inherit receiver and interval from the one above.
fn longest(route: &Route, receiver: &str, interval: Duration, counts: &dyn Fn(&str) -> bool) -> Option<Duration> {
    let receiver = route.receiver.as_deref().unwrap_or(receiver);
    let own = route
        .repeat_interval
        .as_deref()
        .and_then(|text| parse_duration(text).ok())
        .unwrap_or(interval);
    let below = route
        .routes
        .iter()
        .filter_map(|below| longest(below, receiver, own, counts));
    below.chain(counts(receiver).then_some(own)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeat_interval_is_that_of_the_routes_to_webhooks() {
        for (text, seconds) in [
            (
                "route: {receiver: w, repeat_interval: 5m}\nreceivers: [{name: w, webhook_configs: [{url: x}]}]",
                Some(300),
            ),
            (
                "route: {receiver: w}\nreceivers: [{name: w, webhook_configs: [{url: x}]}]",
                Some(14_400),
            ),
            (
                "route: {receiver: w, repeat_interval: 5m}\nreceivers: [{name: w}]",
                None,
            ),
            (
                "route: {receiver: m, repeat_interval: 1d, routes: [{receiver: w, repeat_interval: 5m, routes: [{match: {}}]}]}\n\
                 receivers: [{name: w, webhook_configs: [{url: x}]}, {name: m}]",
                Some(300),
            ),
            ("route: [", None),
        ] {
            let found = repeat_interval(&SourceText::new("alertmanager.yml", text));
            assert_eq!(found, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
