//! The samples of one series, in compact form.

use std::collections::VecDeque;

/// Number of samples by which the buffer grows, because doubling would waste up to half of a full window's memory.
const GROWTH_SAMPLES: usize = 32;

/// The samples of one series, 12 bytes each: milliseconds since the first one, and the value.
#[derive(Debug, Default)]
pub(super) struct Samples {
    base_ms: i64,
    offsets_ms: Offsets,
    values: VecDeque<f64>,
}

/// Milliseconds since the base.
#[derive(Debug)]
enum Offsets {
    Narrow(VecDeque<u32>),
    /// For samples that are more than 49 days apart, which only unit tests have.
    Wide(VecDeque<i64>),
}

impl Default for Offsets {
    fn default() -> Self {
        Offsets::Narrow(VecDeque::new())
    }
}

impl Samples {
    pub fn at(&self, index: usize) -> (i64, f64) {
        let offset_ms = match &self.offsets_ms {
            Offsets::Narrow(offsets) => i64::from(offsets[index]),
            Offsets::Wide(offsets) => offsets[index],
        };
        (self.base_ms + offset_ms, self.values[index])
    }

    pub fn last(&self) -> Option<(i64, f64)> {
        self.values.len().checked_sub(1).map(|index| self.at(index))
    }

    pub fn push(&mut self, at_ms: i64, value: f64) {
        if self.values.is_empty() {
            self.base_ms = at_ms;
        }
        let grow = self.values.len() == self.values.capacity();
        let more = if self.values.len() < 2 { 2 } else { GROWTH_SAMPLES };
        if grow {
            self.values.reserve_exact(more);
        }
        self.make_room_for(at_ms);
        match &mut self.offsets_ms {
            Offsets::Narrow(offsets) => {
                if grow {
                    offsets.reserve_exact(more);
                }
                offsets.push_back((at_ms - self.base_ms) as u32);
            }
            Offsets::Wide(offsets) => offsets.push_back(at_ms - self.base_ms),
        }
        self.values.push_back(value);
    }

    /// Makes the offset of `at_ms` fit: 49 days after the base, the oldest sample becomes the base, and where that does not
    /// suffice, offsets become wide.
    fn make_room_for(&mut self, at_ms: i64) {
        let Offsets::Narrow(offsets) = &mut self.offsets_ms else {
            return;
        };
        let fits = |base_ms: i64| u32::try_from(at_ms - base_ms).is_ok();
        if fits(self.base_ms) {
            return;
        }
        let shift_ms = offsets.front().copied().unwrap_or(0);
        self.base_ms += i64::from(shift_ms);
        offsets.iter_mut().for_each(|offset| *offset -= shift_ms);
        if !fits(self.base_ms) {
            self.offsets_ms = Offsets::Wide(offsets.iter().map(|offset| i64::from(*offset)).collect());
        }
    }

    /// Shifts all samples in time.
    pub fn shift(&mut self, by_ms: i64) {
        self.base_ms += by_ms;
    }

    /// Drops the newest sample.
    pub fn pop(&mut self) {
        match &mut self.offsets_ms {
            Offsets::Narrow(offsets) => drop(offsets.pop_back()),
            Offsets::Wide(offsets) => drop(offsets.pop_back()),
        }
        self.values.pop_back();
    }

    /// Drops samples before the horizon, except the newest of them, which an instant lookup at the horizon needs.
    pub fn forget_before(&mut self, horizon_ms: i64) {
        while self.values.len() >= 2 && self.at(1).0 <= horizon_ms {
            match &mut self.offsets_ms {
                Offsets::Narrow(offsets) => drop(offsets.pop_front()),
                Offsets::Wide(offsets) => drop(offsets.pop_front()),
            }
            self.values.pop_front();
        }
    }

    /// Number of samples not later than `at_ms`.
    pub fn count_until(&self, at_ms: i64) -> usize {
        let offset_ms = at_ms - self.base_ms;
        match &self.offsets_ms {
            Offsets::Wide(offsets) => offsets.partition_point(|known| *known <= offset_ms),
            Offsets::Narrow(offsets) => match u32::try_from(offset_ms) {
                Ok(offset_ms) => offsets.partition_point(|known| *known <= offset_ms),
                Err(_) if offset_ms < 0 => 0,
                Err(_) => self.values.len(),
            },
        }
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Calls `visit` with the samples with these indexes, in the order of time.
    pub fn visit(&self, from: usize, to: usize, mut visit: impl FnMut(i64, f64)) {
        let range = from..to.max(from);
        let values = self.values.range(range.clone());
        match &self.offsets_ms {
            Offsets::Narrow(offsets) => offsets
                .range(range)
                .zip(values)
                .for_each(|(offset, value)| visit(self.base_ms + i64::from(*offset), *value)),
            Offsets::Wide(offsets) => offsets
                .range(range)
                .zip(values)
                .for_each(|(offset, value)| visit(self.base_ms + offset, *value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(samples: &Samples) -> Vec<(i64, f64)> {
        let mut all = Vec::new();
        samples.visit(0, samples.len(), |at_ms, value| all.push((at_ms, value)));
        all
    }

    #[test]
    fn offsets_are_rebased_before_they_overflow() {
        let mut samples = Samples::default();
        let day_ms = 86_400_000;
        for day in 0..120 {
            samples.push(day * day_ms, day as f64);
            samples.forget_before((day - 2) * day_ms);
        }
        let held = all(&samples);
        assert_eq!(
            held,
            [(117 * day_ms, 117.0), (118 * day_ms, 118.0), (119 * day_ms, 119.0)]
        );
    }

    #[test]
    fn samples_may_be_a_century_apart() {
        let century_ms = 36_525 * 86_400_000;
        let mut samples = Samples::default();
        samples.push(5, 0.0);
        samples.push(century_ms, 1.0);
        samples.push(2 * century_ms, 2.0);
        let held = all(&samples);
        assert_eq!(held, [(5, 0.0), (century_ms, 1.0), (2 * century_ms, 2.0)]);
        assert_eq!(samples.count_until(century_ms), 2);
        samples.forget_before(century_ms);
        samples.pop();
        assert_eq!((samples.len(), samples.last()), (1, Some((century_ms, 1.0))));
    }
}
