//! The earlier processor times that selectors with `min_cpu` need. Pure.

use crate::process::Process;
use crate::process::cpu_baseline::{CpuBaseline, MIN_CPU_WINDOW};
use std::time::Duration;

/// Two baselines of processor time. The older one is used until the newer one is five seconds old, so that CPU is
/// measured over at least five seconds at any interval.
#[derive(Default)]
pub struct CpuBaselines {
    older: Option<CpuBaseline>,
    newer: Option<CpuBaseline>,
}

impl CpuBaselines {
    pub fn measure(&self, process: &mut Process, boot_now: Duration) {
        if let Some(baseline) = &self.older {
            baseline.measure(std::slice::from_mut(process), boot_now);
        }
    }

    pub fn update(&mut self, now: CpuBaseline) {
        let Some(newer) = self.newer.take() else {
            self.older = Some(now.clone());
            self.newer = Some(now);
            return;
        };
        let is_old_enough = now.taken_at.saturating_sub(newer.taken_at) >= MIN_CPU_WINDOW;
        if is_old_enough {
            self.older = Some(newer);
            self.newer = Some(now);
        } else {
            self.newer = Some(newer);
        }
    }
}
