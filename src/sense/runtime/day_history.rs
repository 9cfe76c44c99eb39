//! Three ring buffers of the core figures in coarser steps, which the timeline of the status page draws: an hour, six
//! hours and a day. Together they take 39 kB. Pure.

use super::recent_history::HistoryMetric;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Capacity of each ring in steps.
const CAPACITY: usize = 360;

/// The seconds that one step of each ring takes.
pub const STEP_SECONDS: [i64; 3] = [10, 60, 240];

/// A gap up to this long, as between two rare samples or at a restart, is filled with the value after it.
const MAX_FILLED_SECONDS: i64 = 60;

const METRICS: usize = HistoryMetric::ALL.len();

/// Mean and peak of every figure in one step, each as the upper half of an `f32`, whose 8 significant bits are finer
/// than a drawing.
type Entry = [[u16; METRICS]; 2];

const UNKNOWN: Entry = [[0x7fc0; METRICS]; 2];

fn shorten(value: f32) -> u16 {
    match value.is_nan() {
        true => 0x7fc0,
        false => (value.to_bits().saturating_add(0x8000) >> 16) as u16,
    }
}

fn lengthen(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// A figure over one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Unix time of its start in seconds.
    pub start: i64,
    /// NaN where the figure was missing.
    pub mean: f32,
    pub peak: f32,
}

/// The figures of the last day.
#[derive(Debug, Clone)]
pub struct DayHistory([Ring; 3]);

impl Default for DayHistory {
    fn default() -> Self {
        DayHistory(STEP_SECONDS.map(Ring::new))
    }
}

impl DayHistory {
    /// Adds a sample, taken at this Unix time.
    pub fn observe(&mut self, at: Duration, sample: &[f32; METRICS]) {
        let at = i64::try_from(at.as_secs()).unwrap_or_default();
        self.0.iter_mut().for_each(|ring| ring.observe(at, sample));
    }

    /// The steps of a figure in the ring with this step, oldest first; the last one is not over.
    pub fn steps(&self, metric: HistoryMetric, step_seconds: i64) -> impl Iterator<Item = Step> + '_ {
        let ring = self.0.iter().find(|ring| ring.step_seconds == step_seconds);
        ring.into_iter().flat_map(move |ring| ring.steps(metric as usize))
    }

    /// The form in which it survives a restart.
    pub fn to_stored(&self) -> StoredHistory {
        StoredHistory(self.0.iter().map(Ring::to_stored).collect())
    }

    /// The history of a file, without the rings that this version does not know.
    pub fn from_stored(stored: &StoredHistory) -> DayHistory {
        let ring = |step_seconds| {
            let mut its = stored.0.iter().filter(|ring| ring.step_seconds == step_seconds);
            its.find_map(Ring::from_stored).unwrap_or(Ring::new(step_seconds))
        };
        DayHistory(STEP_SECONDS.map(ring))
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StoredHistory(Vec<StoredRing>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredRing {
    step_seconds: i64,
    /// Number of the newest step since 1970.
    newest: i64,
    /// The entries, oldest first, as little-endian numbers in base64.
    entries: String,
}

#[derive(Debug, Clone)]
struct Ring {
    step_seconds: i64,
    entries: Vec<Entry>,
    /// Index of the oldest entry.
    start: usize,
    /// The step that is not over.
    current: Current,
}

#[derive(Debug, Clone, Copy, Default)]
struct Current {
    /// Its number since 1970; 0 before the first sample.
    number: i64,
    sum: [f32; METRICS],
    count: [f32; METRICS],
    peak: [f32; METRICS],
}

impl Current {
    fn begin(number: i64) -> Current {
        Current {
            number,
            peak: [f32::NAN; METRICS],
            ..Current::default()
        }
    }

    fn add(&mut self, sample: &[f32; METRICS]) {
        for (place, value) in sample.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
            self.sum[place] += value;
            self.count[place] += 1.0;
            self.peak[place] = self.peak[place].max(*value);
        }
    }

    /// NaN where there was no value, as 0 / 0 is.
    fn mean(&self, place: usize) -> f32 {
        self.sum[place] / self.count[place]
    }

    fn entry(&self) -> Entry {
        let mean = std::array::from_fn(|place| shorten(self.mean(place)));
        [mean, self.peak.map(shorten)]
    }
}

impl Ring {
    fn new(step_seconds: i64) -> Ring {
        Ring {
            step_seconds,
            entries: Vec::new(),
            start: 0,
            current: Current::begin(0),
        }
    }

    fn observe(&mut self, at: i64, sample: &[f32; METRICS]) {
        let number = at / self.step_seconds;
        let passed = number - self.current.number;
        if self.current.number == 0 {
            self.current = Current::begin(number);
        } else if passed < -1 {
            // The clock was set back, and times of the entries would be wrong. One step may be a correction of it.
            *self = Ring::new(self.step_seconds);
            self.current = Current::begin(number);
        } else if passed > 0 {
            self.push(self.current.entry());
            let missing = passed - 1;
            self.current = Current::begin(number);
            self.current.add(sample);
            let is_filled = missing * self.step_seconds <= MAX_FILLED_SECONDS;
            let entry = if is_filled { self.current.entry() } else { UNKNOWN };
            for _ in 0..missing.min(CAPACITY as i64) {
                self.push(entry);
            }
            return;
        }
        self.current.add(sample);
    }

    fn push(&mut self, entry: Entry) {
        if self.entries.len() < CAPACITY {
            self.entries.push(entry);
        } else {
            self.entries[self.start] = entry;
            self.start = (self.start + 1) % CAPACITY;
        }
    }

    fn ordered(&self) -> impl ExactSizeIterator<Item = &Entry> {
        let len = self.entries.len();
        (0..len).map(move |place| &self.entries[(self.start + place) % len])
    }

    fn steps(&self, metric: usize) -> impl Iterator<Item = Step> + '_ {
        let oldest = self.current.number - self.entries.len() as i64;
        let of_entry = move |(place, [mean, peak]): (usize, &Entry)| Step {
            start: (oldest + place as i64) * self.step_seconds,
            mean: lengthen(mean[metric]),
            peak: lengthen(peak[metric]),
        };
        let current = Step {
            start: self.current.number * self.step_seconds,
            mean: self.current.mean(metric),
            peak: self.current.peak[metric],
        };
        let has_current = self.current.number > 0;
        self.ordered()
            .enumerate()
            .map(of_entry)
            .chain(has_current.then_some(current))
    }

    fn to_stored(&self) -> StoredRing {
        let current = self.current.entry();
        let entries = self.ordered().chain([&current]);
        let bytes: Vec<u8> = entries
            .flat_map(|entry| entry.as_flattened().iter().flat_map(|value| value.to_le_bytes()))
            .collect();
        StoredRing {
            step_seconds: self.step_seconds,
            newest: self.current.number,
            entries: BASE64.encode(bytes),
        }
    }

    /// `None` if the content is not what [`Ring::to_stored`] writes.
    fn from_stored(stored: &StoredRing) -> Option<Ring> {
        let bytes = BASE64.decode(&stored.entries).ok()?;
        let entries = bytes.chunks_exact(size_of::<Entry>());
        if !entries.remainder().is_empty() || stored.newest <= 0 || entries.len() > CAPACITY + 1 {
            return None;
        }
        let mut ring = Ring::new(stored.step_seconds);
        let mut entries: Vec<Entry> = entries
            .map(|bytes| {
                let value = |place: usize| u16::from_le_bytes([bytes[2 * place], bytes[2 * place + 1]]);
                [0, METRICS].map(|first| std::array::from_fn(|place| value(first + place)))
            })
            .collect();
        // The step that was not over may go on.
        ring.current = Current::begin(stored.newest);
        if let Some([mean, peak]) = entries.pop() {
            ring.current.add(&mean.map(lengthen));
            ring.current.peak = peak.map(lengthen);
        }
        entries.into_iter().for_each(|entry| ring.push(entry));
        Some(ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f32) -> [f32; METRICS] {
        let mut sample = [f32::NAN; METRICS];
        sample[HistoryMetric::CpuBusy as usize] = value;
        sample
    }

    fn means(history: &DayHistory, step: i64) -> Vec<(i64, f32)> {
        let steps = history.steps(HistoryMetric::CpuBusy, step);
        steps.map(|step| (step.start, step.mean)).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn steps_have_mean_and_peak_of_their_samples() {
        let mut history = DayHistory::default();
        for second in 1000..1020 {
            history.observe(at(second), &sample(if second == 1003 { 1.0 } else { 0.5 }));
        }
        let steps: Vec<Step> = history.steps(HistoryMetric::CpuBusy, 10).collect();
        assert_eq!((steps[0].start, steps[0].peak), (1000, 1.0));
        assert!((steps[0].mean - 0.55).abs() < 0.003, "{steps:?}");
        assert_eq!((steps[1].start, steps[1].mean, steps[1].peak), (1010, 0.5, 0.5));
        assert!(
            history
                .steps(HistoryMetric::IoWaiting, 10)
                .all(|step| step.mean.is_nan())
        );
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let mut history = DayHistory::default();
        for step in 0..2000 {
            history.observe(at(10_000 + 10 * step), &sample(step as f32));
        }
        let ten = means(&history, 10);
        assert_eq!(ten.len(), CAPACITY + 1);
        assert_eq!(ten.last(), Some(&(29_990, 1999.0)));
        assert!(ten.windows(2).all(|pair| pair[1].0 - pair[0].0 == 10));
        let bytes = 3 * CAPACITY * size_of::<Entry>();
        assert!(bytes < 40_000, "{bytes}");
    }

    #[test]
    fn short_gaps_are_filled_and_long_ones_are_unknown() {
        let mut history = DayHistory::default();
        history.observe(at(1000), &sample(0.0));
        history.observe(at(1040), &sample(1.0));
        history.observe(at(2000), &sample(0.0));
        let ten = means(&history, 10);
        assert_eq!(ten[1..5].iter().map(|step| step.1).collect::<Vec<_>>(), [1.0; 4]);
        assert!(ten[5..100].iter().all(|step| step.1.is_nan()));
        assert_eq!(ten[100], (2000, 0.0));
    }

    #[test]
    fn clock_that_is_set_back_begins_again() {
        let mut history = DayHistory::default();
        history.observe(at(5000), &sample(1.0));
        history.observe(at(6000), &sample(1.0));
        history.observe(at(3000), &sample(0.5));
        assert_eq!(means(&history, 10), [(3000, 0.5)]);
    }

    #[test]
    fn history_survives_a_restart_and_a_broken_file_is_ignored() {
        let mut history = DayHistory::default();
        for second in 100_000..104_321 {
            history.observe(at(second), &sample((second % 7) as f32));
        }
        let text = serde_json::to_string(&history.to_stored()).unwrap();
        assert!(text.len() < 60_000, "{}", text.len());
        let stored: StoredHistory = serde_json::from_str(&text).unwrap();
        let mut after = DayHistory::from_stored(&stored);
        // Within the steps that were not over, and after them.
        after.observe(at(104_321), &sample(3.0));
        after.observe(at(104_400), &sample(3.0));
        for step in STEP_SECONDS {
            let (before, after) = (means(&history, step), means(&after, step));
            let known = |start: i64| after.iter().find(|(its, _)| *its == start);
            let still_kept = before.iter().filter(|(start, _)| *start >= after[0].0);
            let mut compared = 0;
            for (start, mean) in still_kept.take_while(|(start, _)| start + step <= 104_320) {
                let found = known(*start).unwrap_or_else(|| panic!("{start} of {step}"));
                assert!((found.1 - mean).abs() <= mean / 100.0, "{found:?} {mean}");
                compared += 1;
            }
            assert!(
                compared + 12 >= before.len(),
                "{compared} of {} steps of {step} s",
                before.len()
            );
        }
        for wrong in ["", "AAAA", "!", &"A".repeat(100_000)] {
            let ring = StoredRing {
                step_seconds: 10,
                newest: 7,
                entries: wrong.to_owned(),
            };
            let history = DayHistory::from_stored(&StoredHistory(vec![ring]));
            assert!(means(&history, 10).len() <= 1, "{wrong:?}");
        }
    }
}
