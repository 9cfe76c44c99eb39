//! The samples of one series, in compact form.

use std::collections::VecDeque;

/// Number of samples by which the buffer grows, because doubling would waste up to half of a full window's memory.
const GROWTH_SAMPLES: usize = 32;

/// The samples of one series, 12 bytes each: milliseconds since the first one, and the value.
#[derive(Debug, Default)]
pub(super) struct Samples {
    base_ms: i64,
    offsets_ms: VecDeque<u32>,
    values: VecDeque<f64>,
}

impl Samples {
    pub fn at(&self, index: usize) -> (i64, f64) {
        (self.base_ms + i64::from(self.offsets_ms[index]), self.values[index])
    }

    pub fn last(&self) -> Option<(i64, f64)> {
        self.values.len().checked_sub(1).map(|index| self.at(index))
    }

    pub fn push(&mut self, at_ms: i64, value: f64) {
        if self.values.is_empty() {
            self.base_ms = at_ms;
        }
        let offset_ms = u32::try_from(at_ms - self.base_ms).unwrap_or_else(|_| {
            // 49 days after the base or after as long a gap, offsets overflow and the oldest samples are dropped.
            let shift_ms = self.offsets_ms.front().copied().unwrap_or(0);
            self.base_ms += i64::from(shift_ms);
            self.offsets_ms.iter_mut().for_each(|offset| *offset -= shift_ms);
            u32::try_from(at_ms - self.base_ms).unwrap_or_else(|_| {
                self.offsets_ms.clear();
                self.values.clear();
                self.base_ms = at_ms;
                0
            })
        });
        if self.values.len() == self.values.capacity() {
            let more = if self.values.len() < 2 { 2 } else { GROWTH_SAMPLES };
            self.offsets_ms.reserve_exact(more);
            self.values.reserve_exact(more);
        }
        self.offsets_ms.push_back(offset_ms);
        self.values.push_back(value);
    }

    /// Shifts all samples in time.
    pub fn shift(&mut self, by_ms: i64) {
        self.base_ms += by_ms;
    }

    /// Drops the newest sample.
    pub fn pop(&mut self) {
        self.offsets_ms.pop_back();
        self.values.pop_back();
    }

    /// Drops samples before the horizon, except the newest of them, which an instant lookup at the horizon needs.
    pub fn forget_before(&mut self, horizon_ms: i64) {
        while self.values.len() >= 2 && self.at(1).0 <= horizon_ms {
            self.offsets_ms.pop_front();
            self.values.pop_front();
        }
    }

    /// Number of samples not later than `at_ms`.
    pub fn count_until(&self, at_ms: i64) -> usize {
        match u32::try_from(at_ms - self.base_ms) {
            Ok(offset_ms) => self.offsets_ms.partition_point(|known| *known <= offset_ms),
            Err(_) if at_ms < self.base_ms => 0,
            Err(_) => self.values.len(),
        }
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The samples with these indexes, in the order of time.
    pub fn between(&self, from: usize, to: usize) -> impl Iterator<Item = (i64, f64)> {
        let offsets = self.offsets_ms.range(from..to.max(from));
        let values = self.values.range(from..to.max(from));
        offsets
            .zip(values)
            .map(|(offset, value)| (self.base_ms + i64::from(*offset), *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_rebased_before_they_overflow() {
        let mut samples = Samples::default();
        let day_ms = 86_400_000;
        for day in 0..120 {
            samples.push(day * day_ms, day as f64);
            samples.forget_before((day - 2) * day_ms);
        }
        let held: Vec<(i64, f64)> = samples.between(0, samples.len()).collect();
        assert_eq!(
            held,
            [(117 * day_ms, 117.0), (118 * day_ms, 118.0), (119 * day_ms, 119.0)]
        );
    }
}
