//! The alert type, the same for alerts from Alertmanager and from own evaluation.

use crate::labels::Labels;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Firing,
    Resolved,
}

impl Status {
    /// The closed label value of `evenkeel_alerts_received_total{status}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Firing => "firing",
            Status::Resolved => "resolved",
        }
    }
}

/// The source of the alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Alertmanager,
    /// Own evaluation of alerting rule files.
    Local,
}

impl Source {
    /// The closed label value of `evenkeel_alerts_received_total{source}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Alertmanager => "alertmanager",
            Source::Local => "local",
        }
    }
}

/// An alert as reported at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub labels: Labels,
    pub annotations: Labels,
    /// The page of the expression that fires, as [`web_address`](crate::http::web_address) permits it.
    pub generator_url: Option<SmolStr>,
    pub status: Status,
    pub starts_at: Timestamp,
    /// Set when resolved; Alertmanager sends year 1 for "not yet", which is decoded to `None`.
    pub ends_at: Option<Timestamp>,
    /// 16 hexadecimal digits, Alertmanager's fingerprint of the label set.
    pub fingerprint: SmolStr,
    pub source: Source,
}

impl Alert {
    /// The label `alertname`, or an empty string if it is missing.
    pub fn name(&self) -> &str {
        self.labels.get("alertname").unwrap_or_default()
    }

    /// Memory of the alert.
    pub fn bytes(&self) -> usize {
        size_of::<Alert>() + self.labels.heap_bytes() + self.annotations.heap_bytes()
    }
}

/// Interval at which own evaluation reports its firing alerts, which renews their leases.
pub const FIRING_SET_INTERVAL: Duration = Duration::from_secs(15);

/// The firing alerts of own evaluation at this moment, complete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FiringSet {
    pub firing: Vec<Alert>,
    /// False after a start while rules still lack samples, so that absence proves nothing.
    pub is_complete: bool,
    /// Names of the alerts whose rule fails or was not evaluated lately, so that their absence proves nothing.
    pub unevaluated: BTreeSet<SmolStr>,
}

/// Alertmanager's fingerprint of a label set: FNV-1a over `name \xff value \xff` in the order of names
/// (prometheus/common, `model.LabelSet.Fingerprint`), as 16 hexadecimal digits.
pub fn fingerprint(labels: &Labels) -> SmolStr {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = OFFSET_BASIS;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    };
    for (name, value) in labels.iter() {
        add(name.as_bytes());
        add(&[0xff]);
        add(value.as_bytes());
        add(&[0xff]);
    }
    smol_str::format_smolstr!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures are those of Alertmanager 0.25 for these alerts.
    #[test]
    fn fingerprints_are_those_of_alertmanager() {
        let check = |labels: &[(&str, &str)], expected: &str| {
            let labels = labels.iter().copied().collect();
            assert_eq!(fingerprint(&labels), expected, "{labels:?}");
        };
        check(&[], "cbf29ce484222325");
        check(&[("a", "b")], "d2b371819297f98a");
        check(
            &[("alertname", "UTF"), ("path", "/a\"b\\c\nd é 日本 😀")],
            "4c1dac57c54b10ee",
        );
        check(
            &[("alertname", "Sort"), ("a", "2"), ("B", "1"), ("_c", "3")],
            "d82eefe8008777db",
        );
        check(
            &[
                ("alertname", "HostCpuSaturated"),
                ("instance", "web-1:9100"),
                ("severity", "warning"),
            ],
            "ecc9df46b1d028c1",
        );
    }
}
