//! The last minutes of a few figures at the pace of the samples, for the status page to draw. Bounded. Pure.

use super::vitals::Vitals;

/// Samples that are kept: five minutes at one second.
pub const MAX_SAMPLES: usize = 300;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    CpuBusy,
    MemoryUsed,
    /// Share of the time in which some task waited for a processor (PSI).
    CpuWaiting,
    IoWaiting,
    MemoryWaiting,
    /// Of the busiest device, for traffic through a bridge passes several.
    Received,
    Sent,
    /// Of the busiest device, for one disk may lie on another.
    DiskRead,
    DiskWritten,
}

impl Figure {
    pub const ALL: [Figure; 9] = [
        Figure::CpuBusy,
        Figure::MemoryUsed,
        Figure::CpuWaiting,
        Figure::IoWaiting,
        Figure::MemoryWaiting,
        Figure::Received,
        Figure::Sent,
        Figure::DiskRead,
        Figure::DiskWritten,
    ];

    fn of(self, vitals: &Vitals) -> Option<f64> {
        let [cpu_waiting, io_waiting, memory_waiting] = vitals.waiting_ratios;
        match self {
            Figure::CpuBusy => vitals.cpu_busy_ratio,
            Figure::MemoryUsed => vitals.memory_used_ratio,
            Figure::CpuWaiting => cpu_waiting,
            Figure::IoWaiting => io_waiting,
            Figure::MemoryWaiting => memory_waiting,
            Figure::Received => vitals.traffic.busiest()[0],
            Figure::Sent => vitals.traffic.busiest()[1],
            Figure::DiskRead => vitals.disks.busiest()[0],
            Figure::DiskWritten => vitals.disks.busiest()[1],
        }
    }

    /// Whether it is a share of 1. The others are bytes per second.
    pub fn is_ratio(self) -> bool {
        !matches!(
            self,
            Figure::Received | Figure::Sent | Figure::DiskRead | Figure::DiskWritten
        )
    }
}

/// The newest values of every figure.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    /// A ring, one turn per look; NaN where it told nothing.
    looks: Vec<[f32; Figure::ALL.len()]>,
    /// Where the ring begins.
    start: usize,
}

impl Trail {
    /// Takes one more look in.
    pub fn observe(&mut self, vitals: &Vitals) {
        let look = Figure::ALL.map(|figure| figure.of(vitals).map_or(f32::NAN, |value| value as f32));
        if self.looks.len() < MAX_SAMPLES {
            self.looks.push(look);
        } else {
            self.looks[self.start] = look;
            self.start = (self.start + 1) % MAX_SAMPLES;
        }
    }

    /// The values of a figure, oldest first; NaN where a sample has none.
    pub fn values(&self, figure: Figure) -> impl Iterator<Item = f32> + Clone + '_ {
        let (newer, older) = self.looks.split_at(self.start);
        older.iter().chain(newer).map(move |look| look[figure as usize])
    }

    /// Samples so far, at most [`MAX_SAMPLES`].
    pub fn len(&self) -> usize {
        self.looks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_in_their_order() {
        let mut trail = Trail::default();
        for second in 0..MAX_SAMPLES + 7 {
            trail.observe(&Vitals {
                waiting_ratios: [None, Some(second as f64), None],
                ..Vitals::default()
            });
        }
        let expected: Vec<f32> = (7..MAX_SAMPLES + 7).map(|second| second as f32).collect();
        assert_eq!(trail.values(Figure::IoWaiting).collect::<Vec<_>>(), expected);
        assert!(trail.values(Figure::CpuWaiting).all(f32::is_nan));
        assert_eq!(trail.len(), MAX_SAMPLES);
    }
}
