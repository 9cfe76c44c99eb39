//! The aliases of network devices (`ip link set DEV alias TEXT`), which change rarely and cost a file per device.

use crate::family::SharedStr;
use crate::sense::runtime::kernel_file::read_text;
use crate::sense::runtime::roots::Roots;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time for which an alias counts.
const INTERVAL: Duration = Duration::from_secs(15);

#[derive(Default)]
pub struct Aliases {
    read_at: Option<Instant>,
    by_device: BTreeMap<String, SharedStr>,
}

impl Aliases {
    /// Reads the aliases of these devices where the last ones are too old or a device is new.
    pub fn read<'a>(&mut self, roots: &Roots, devices: impl Iterator<Item = &'a String> + Clone, now: Instant) {
        let is_young = self
            .read_at
            .is_some_and(|at| now.saturating_duration_since(at) < INTERVAL);
        if is_young && devices.clone().all(|device| self.by_device.contains_key(device)) {
            return;
        }
        let alias = |device: &String| {
            let text = read_text(&roots.sys(&format!("class/net/{device}/ifalias"))).unwrap_or_default();
            (device.clone(), SharedStr::from(text.trim_end_matches('\n').to_owned()))
        };
        self.by_device = devices.map(alias).collect();
        self.read_at = Some(now);
    }

    /// The alias, empty where the device has none; `None` before any were read.
    pub fn of(&self, device: &str) -> Option<SharedStr> {
        self.by_device.get(device).cloned()
    }
}
