//! The processor use of processes between two readings of the table.

use super::fields::Process;
use super::identity::Identity;
use super::table::TICKS_PER_SECOND;
use std::collections::HashMap;
use std::time::Duration;

/// Minimum time over which processor use is measured.
pub const MIN_CPU_WINDOW: Duration = Duration::from_secs(5);

/// Processor time of every process at an earlier moment.
#[derive(Debug, Clone, Default)]
pub struct CpuBaseline {
    pub taken_at: Duration,
    ticks: HashMap<Identity, u64>,
}

impl CpuBaseline {
    /// The processor times of a table read at `boot_now`.
    pub fn take(processes: &[Process], boot_now: Duration) -> CpuBaseline {
        let mut baseline = CpuBaseline {
            taken_at: boot_now,
            ticks: HashMap::with_capacity(processes.len()),
        };
        processes.iter().for_each(|process| baseline.add(process));
        baseline
    }

    /// Adds one more process of the same reading.
    pub fn add(&mut self, process: &Process) {
        self.ticks.insert(process.identity, process.cpu_ticks);
    }

    /// Sets `cpu_cores` if at least [`MIN_CPU_WINDOW`] lies between the two readings, or if the process started in
    /// between and is at least that old.
    pub fn measure(&self, processes: &mut [Process], boot_now: Duration) {
        let window = boot_now.saturating_sub(self.taken_at);
        for process in processes {
            let (before, span) = match self.ticks.get(&process.identity) {
                Some(before) => (*before, window),
                None => (0, process.age),
            };
            if span >= MIN_CPU_WINDOW {
                let seconds = process.cpu_ticks.saturating_sub(before) as f64 / TICKS_PER_SECOND as f64;
                process.cpu_cores = Some(seconds / span.as_secs_f64());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_measured_over_five_seconds_at_least() {
        let mut process = Process::example(7, "burner");
        process.cpu_ticks = 1000;
        let baseline = CpuBaseline::take(&[process.clone()], Duration::from_secs(100));
        process.cpu_ticks = 2500;
        let mut now = [process];
        baseline.measure(&mut now, Duration::from_secs(104));
        assert_eq!(now[0].cpu_cores, None);
        baseline.measure(&mut now, Duration::from_secs(110));
        assert_eq!(now[0].cpu_cores, Some(1.5));
    }
}
