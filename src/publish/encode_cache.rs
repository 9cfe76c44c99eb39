//! An incremental encoder with a cache of the last body: it writes only the numbers that differ. From scrape to scrape
//! a host keeps its families and series, and writing their names is nearly all that a scrape costs beyond reading.

use super::encoder::{Encoder, PlainEncoder};
use super::exposition::{self, Content};
use super::negotiation::Format;
use crate::family::{Family, Point, SampleValue};
use hyper::body::Bytes;
use rustc_hash::FxHashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A cache of the last text, from which the next one may be made.
#[derive(Default)]
pub struct EncodeCache(Mutex<Option<CachedBody>>);

/// A text with its content.
struct CachedBody {
    format: Format,
    content: Arc<Content>,
    /// In UTF-8; shared with the responses.
    text: Bytes,
    layout: Option<NumberLayout>,
}

/// The positions of the numbers of a text.
struct NumberLayout {
    /// In the order of the text: the index of a family in the content and of a point in the family.
    points: Vec<[u32; 2]>,
    /// The byte ranges of all numbers in the text.
    numbers: Vec<Range<u32>>,
}

impl Encoder for EncodeCache {
    fn encode(&self, content: &Arc<Content>, format: Format) -> Result<Bytes, fmt::Error> {
        // After a panic the cache is empty or valid.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reusable = last.take().filter(|body| body.format == format);
        let body = match reusable.and_then(|body| body.with_numbers_of(content)) {
            Some(body) => body,
            None => CachedBody {
                format,
                content: Arc::clone(content),
                text: PlainEncoder.encode(content, format)?,
                layout: None,
            },
        };
        let text = body.text.clone();
        *last = Some(body);
        Ok(text)
    }
}

impl CachedBody {
    /// The body with the numbers of another content, if nothing else differs.
    fn with_numbers_of(self, content: &Arc<Content>) -> Option<CachedBody> {
        let former = &self.content;
        if !is_same_but_for_numbers(former, content) {
            return None;
        }
        // The layout is built on first use, because it is wasted where contents never match.
        let mut layout = match self.layout {
            Some(layout) => layout,
            None => NumberLayout::find(former, str::from_utf8(&self.text).ok()?, self.format)?,
        };
        let [before, now] = [former, content].map(|content| content.families().collect::<Vec<_>>());
        let mut text = Vec::with_capacity(self.text.len() + 1024);
        let (mut places, mut taken, mut number) = (layout.numbers.iter_mut(), 0, String::new());
        for &[family, point] in &layout.points {
            let [before, now] = [&before, &now].map(|families| &families[family as usize]);
            let [was, is] = [before, now].map(|family| family.point(point as usize));
            let is_new = !is_same_number(was.value, is.value);
            if is_new && exposition::is_withheld(is, now.kind, self.format) {
                return None;
            }
            for index in 0..exposition::numbers_of(is.value) {
                let place = places.next()?;
                let Range { start, end } = place.start as usize..place.end as usize;
                let begin = text.len() + (start - taken);
                let mut length = end - start;
                // The text between two changed numbers is copied at once.
                if is_new {
                    number.clear();
                    exposition::write_number_of(&mut number, is.value, index, self.format).ok()?;
                    length = number.len();
                    text.extend_from_slice(&self.text[taken..start]);
                    text.extend_from_slice(number.as_bytes());
                    taken = end;
                }
                *place = u32::try_from(begin).ok()?..u32::try_from(begin + length).ok()?;
            }
        }
        text.extend_from_slice(&self.text[taken..]);
        Some(CachedBody {
            format: self.format,
            content: Arc::clone(content),
            text: text.into(),
            layout: Some(layout),
        })
    }
}

impl NumberLayout {
    /// The layout of a text with its content. `None` where a value withheld a point, because the next value may show
    /// it.
    fn find(content: &Content, text: &str, format: Format) -> Option<NumberLayout> {
        let mut places = FxHashMap::default();
        for (family, index) in content.families().zip(0..) {
            for (point, position) in family.points().zip(0..) {
                places.insert(std::ptr::from_ref(point.value), [index, position]);
            }
        }
        let written = exposition::written(content, format)?;
        let points = written.iter().map(|value| places.get(value).copied());
        let numbers = lines_with_numbers(text)
            .map(|number| Some(u32::try_from(number.start).ok()?..u32::try_from(number.end).ok()?));
        let layout = NumberLayout {
            points: points.collect::<Option<_>>()?,
            numbers: numbers.collect::<Option<_>>()?,
        };
        let families: Vec<&Family> = content.families().collect();
        let value = |&[family, point]: &[u32; 2]| families[family as usize].point(point as usize).value;
        let expected: usize = layout
            .points
            .iter()
            .map(|place| exposition::numbers_of(value(place)))
            .sum();
        (expected == layout.numbers.len()).then_some(layout)
    }
}

/// The range of the number of each sample line: behind the last space.
fn lines_with_numbers(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let start = begin;
        begin += line.len();
        let number = line.rfind(' ')? + 1..line.trim_end_matches('\n').len();
        (!line.starts_with('#')).then(|| start + number.start..start + number.end)
    })
}

fn is_same_but_for_numbers(one: &Content, other: &Content) -> bool {
    let same = |one: &[Family], other: &[Family]| {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same_family(one, other))
    };
    one.readings.len() == other.readings.len()
        && one
            .readings
            .iter()
            .zip(&other.readings)
            .all(|(one, other)| Arc::ptr_eq(one, other) || same(&one.families, &other.families))
        && (Arc::ptr_eq(&one.derived, &other.derived) || same(&one.derived, &other.derived))
        && same(&one.own, &other.own)
}

fn is_same_family(one: &Family, other: &Family) -> bool {
    let same = |one: Point, other: Point| is_same_value(one.value, other.value);
    // Nearly always they share the descriptor.
    (Arc::ptr_eq(one.descriptor(), other.descriptor()) || one.descriptor() == other.descriptor())
        && one.points().zip(other.points()).all(|(one, other)| same(one, other))
}

fn is_same_value(one: &SampleValue, other: &SampleValue) -> bool {
    match (one, other) {
        (SampleValue::Number(_), SampleValue::Number(_)) => true,
        (SampleValue::Histogram(one), SampleValue::Histogram(other)) => {
            let bounds = one.buckets.iter().map(|(bound, _)| bound.to_bits());
            bounds.eq(other.buckets.iter().map(|(bound, _)| bound.to_bits()))
        }
        _ => false,
    }
}

/// Whether both are written the same, including the sign of zero.
fn is_same_number(one: &SampleValue, other: &SampleValue) -> bool {
    match (one, other) {
        (SampleValue::Number(one), SampleValue::Number(other)) => one.to_bits() == other.to_bits(),
        (SampleValue::Histogram(one), SampleValue::Histogram(other)) => {
            one == other && one.sum.to_bits() == other.sum.to_bits()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Histogram, MetricKind, label};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    const FORMATS: [Format; 2] = [Format::OpenMetrics, Format::Text];

    fn content(families: Vec<Family>) -> Arc<Content> {
        Arc::new(Content {
            own: families,
            ..Content::default()
        })
    }

    fn body(content: &Arc<Content>, format: Format) -> CachedBody {
        CachedBody {
            format,
            content: Arc::clone(content),
            text: PlainEncoder.encode(content, format).unwrap(),
            layout: None,
        }
    }

    fn gauges(numbers: [f64; 3]) -> Arc<Content> {
        let mut family = Family::gauge("b", "In the middle, with a # 1\nand more.");
        family.push([label("x", "a b\n# c 7")], numbers[0]);
        family.push([label("x", "")], numbers[1]);
        let last = Family::counter("c_total", "").value(numbers[2]);
        content(vec![last, family, Family::gauge("a", "").value(1.0)])
    }

    #[test]
    fn content_with_other_numbers_reuses_the_text() {
        for format in FORMATS {
            let mut last = body(&gauges([0.0; 3]), format);
            for numbers in [
                [1.0, 2.5, 3.0],
                [-1e300, f64::NAN, 12345678.0],
                [0.0, f64::INFINITY, 0.5],
            ] {
                let next = gauges(numbers);
                last = last.with_numbers_of(&next).expect("the same families");
                assert_eq!(last.text, PlainEncoder.encode(&next, format).unwrap());
            }
        }
    }

    #[test]
    fn content_with_other_names_is_encoded_again() {
        let [first, second] = [1.0, 2.0].map(|value| Family::gauge("a", "A.").value(value));
        let one = content(vec![first]);
        let labelled = |name: &'static str| {
            let mut family = Family::gauge("a", "A.");
            family.push([label(name, "v")], 2.0);
            family
        };
        let histogram = |bound: f64| {
            let mut family = Family::new("a", "A.", MetricKind::Histogram);
            let histogram = Histogram {
                buckets: vec![(bound, 1)],
                sum: 1.0,
                count: 1,
            };
            family.push_histogram([], histogram);
            family
        };
        let others = [
            vec![],
            vec![second.clone(), Family::gauge("b", "").value(1.0)],
            vec![Family::gauge("b", "A.").value(2.0)],
            vec![Family::gauge("a", "B.").value(2.0)],
            vec![Family::counter("a", "A.").value(2.0)],
            vec![second.clone().value(3.0)],
            vec![labelled("x")],
            vec![histogram(1.0)],
        ];
        for other in others {
            assert!(
                body(&one, Format::Text)
                    .with_numbers_of(&content(other.clone()))
                    .is_none(),
                "{other:?}"
            );
        }
        assert!(
            body(&one, Format::Text)
                .with_numbers_of(&content(vec![second]))
                .is_some()
        );
        let [one, other] = [1.0, 2.0].map(|bound| content(vec![histogram(bound)]));
        assert!(body(&one, Format::Text).with_numbers_of(&other).is_none());
        assert!(body(&one, Format::Text).with_numbers_of(&one).is_some());
    }

    #[test]
    fn withheld_counter_comes_back() {
        let counter = |value: f64| content(vec![Family::counter("a_total", "").value(value)]);
        for (before, now) in [(1.0, -1.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::NAN)] {
            for format in FORMATS {
                let encode_cache = EncodeCache::default();
                for value in [before, before, now, now] {
                    let content = counter(value);
                    let encoded = encode_cache.encode(&content, format).unwrap();
                    assert_eq!(
                        encoded,
                        PlainEncoder.encode(&content, format).unwrap(),
                        "{before} {now}"
                    );
                }
            }
        }
    }

    #[test]
    fn alternating_formats_are_encoded_right() {
        let encode_cache = EncodeCache::default();
        for (format, value) in FORMATS.into_iter().cycle().zip(0..6) {
            let content = gauges([f64::from(value); 3]);
            let encoded = encode_cache.encode(&content, format).unwrap();
            assert_eq!(encoded, PlainEncoder.encode(&content, format).unwrap());
        }
    }

    /// Names, labels and kinds that clash in every way, with values of all kinds.
    fn family() -> impl Strategy<Value = Family> {
        let name = prop_oneof![
            Just("a"),
            Just("a_total"),
            Just("a_sum"),
            Just("a_count"),
            Just("b_bucket"),
            Just("b"),
            Just("1")
        ];
        let number = prop_oneof![
            any::<f64>(),
            (-5i32..5).prop_map(f64::from),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
        ];
        let histogram = (
            vec((0u64..4, prop_oneof![Just(0.5), Just(1.0), Just(f64::INFINITY)]), 0..3),
            0u64..9,
            any::<f64>(),
        );
        let value = (number, histogram, any::<bool>());
        let point = (vec(prop_oneof![Just("x"), Just("y z\n"), Just("")], 0..3), value);
        (name, 0..5, vec(point, 0..4)).prop_map(|(name, kind, points)| {
            let kinds = [
                MetricKind::Counter,
                MetricKind::Gauge,
                MetricKind::Untyped,
                MetricKind::Histogram,
                MetricKind::Summary,
            ];
            let mut family = Family::new(name, "Help # 1.", kinds[kind as usize]);
            for (labels, (number, (buckets, count, sum), is_odd)) in points {
                let labels = ["l", "quantile"]
                    .into_iter()
                    .zip(labels)
                    .map(|(name, value)| label(name, value));
                if (kinds[kind as usize] == MetricKind::Histogram) != (is_odd && number > 1e300) {
                    let buckets = buckets.into_iter().map(|(count, bound)| (bound, count)).collect();
                    family.push_histogram(labels, Histogram { buckets, sum, count });
                } else {
                    family.push(labels, number);
                }
            }
            family
        })
    }

    /// The same families with other numbers; a point without a new number keeps its own.
    fn renumbered(families: &[Family], numbers: &[Option<f64>]) -> Vec<Family> {
        let mut numbers = numbers.iter().copied().cycle();
        let mut renumber = |family: &Family| {
            let mut new = Family::new(family.name.clone(), family.help.clone(), family.kind);
            for point in family.points() {
                let (labels, number) = (point.labels.clone(), numbers.next().flatten());
                match (point.value, number) {
                    (SampleValue::Number(value), number) => new.push(labels, number.unwrap_or(*value)),
                    (SampleValue::Histogram(histogram), None) => {
                        new.push_histogram(labels, Histogram::clone(histogram))
                    }
                    (SampleValue::Histogram(histogram), Some(number)) => {
                        let buckets = histogram.buckets.iter().map(|(bound, count)| (*bound, count + 2));
                        let histogram = Histogram {
                            buckets: buckets.collect(),
                            sum: number,
                            count: histogram.count + 1,
                        };
                        new.push_histogram(labels, histogram);
                    }
                }
            }
            new
        };
        families.iter().map(&mut renumber).collect()
    }

    proptest! {
        #[test]
        fn cached_encoding_equals_plain_encoding(
            families in vec(family(), 0..6),
            rounds in vec(vec(option::of(prop_oneof![any::<f64>(), (-3i32..9).prop_map(f64::from)]), 1..8), 1..4),
        ) {
            for format in FORMATS {
                let encode_cache = EncodeCache::default();
                encode_cache.encode(&content(families.clone()), format).unwrap();
                let mut families = families.clone();
                for numbers in &rounds {
                    families = renumbered(&families, numbers);
                    let content = content(families.clone());
                    let encoded = encode_cache.encode(&content, format).unwrap();
                    let plain = PlainEncoder.encode(&content, format).unwrap();
                    prop_assert_eq!(str::from_utf8(&encoded).unwrap(), str::from_utf8(&plain).unwrap());
                }
            }
        }
    }
}
