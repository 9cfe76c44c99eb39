//! Webhook payloads as Alertmanager writes them (version 4), for tests without an Alertmanager.

use serde_json::{Value, json};

/// A firing entry of `alerts`.
pub fn firing(labels: Value) -> Value {
    json!({
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": "a test"},
        "startsAt": "2024-01-02T03:04:05.678Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph",
        "fingerprint": "0123456789abcdef",
    })
}

pub fn envelope(alerts: &[Value]) -> Value {
    json!({
        "version": "4",
        "groupKey": "{}:{alertname=\"Test\"}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "evenkeel",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example",
        "alerts": alerts,
    })
}

/// The payload with one alert of this name about the host `instance`.
pub fn about(alertname: &str, instance: &str) -> String {
    envelope(&[firing(json!({"alertname": alertname, "instance": instance}))]).to_string()
}
