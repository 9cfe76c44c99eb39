//! The normalization of families before encoding: merged by name, valid names only, every series once. An invalid name
//! from a text file or a kernel driver must not break the rest of a scrape.

use crate::family::{Family, MAX_LABELS, MetricKind, Point, SampleValue};
use rustc_hash::{FxBuildHasher, FxHashSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A family that can be written unchanged.
#[derive(Debug)]
pub struct NormalizedFamily<'a> {
    pub name: &'a str,
    pub help: &'a str,
    pub kind: MetricKind,
    pub points: &'a [Point<'a>],
}

/// Families by name, and the points of all of them.
pub struct NormalizedFamilies<'a> {
    families: Vec<(&'a Family, Range<usize>)>,
    points: Vec<Point<'a>>,
}

impl<'a> NormalizedFamilies<'a> {
    pub fn iter(&self) -> impl Iterator<Item = NormalizedFamily<'_>> {
        self.families.iter().map(|family| self.family(family))
    }

    /// The family of this name.
    pub fn get(&self, name: &str) -> Option<NormalizedFamily<'_>> {
        let place = self.families.binary_search_by(|(family, _)| (*family.name).cmp(name));
        place.ok().map(|index| self.family(&self.families[index]))
    }

    fn family(&self, (first, range): &(&'a Family, Range<usize>)) -> NormalizedFamily<'_> {
        NormalizedFamily {
            name: &first.name,
            help: &first.help,
            kind: first.kind,
            points: &self.points[range.clone()],
        }
    }
}

/// Bits per byte: allowed in the name of a label (1), of a metric (2).
const PARTS: [u8; 256] = {
    let mut parts = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let letter = byte as u8;
        if letter.is_ascii_alphanumeric() || letter == b'_' {
            parts[byte] = 3;
        }
        byte += 1;
    }
    parts[b':' as usize] = 2;
    parts
};

fn is_name(name: &str, part: u8) -> bool {
    name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && name.bytes().all(|byte| PARTS[usize::from(byte)] & part != 0)
}

/// Whether a point can be written in a family of this kind.
fn is_writable(point: Point, kind: MetricKind) -> bool {
    let labels = point.labels;
    is_of_kind(point, kind)
        && labels.len() <= MAX_LABELS
        && labels.iter().enumerate().all(|(index, (name, _))| {
            // Prometheus refuses a whole scrape for this label.
            is_name(name, 1)
                && name != "__name__"
                && !(kind == MetricKind::Histogram && name == "le")
                && labels[..index].iter().all(|(before, _)| before != name)
        })
}

fn is_of_kind(point: Point, kind: MetricKind) -> bool {
    matches!(point.value, SampleValue::Histogram(_)) == (kind == MetricKind::Histogram)
}

/// Whether two points share the literals of their label names, as nearly all points of a family do. Then the names need
/// not be checked again.
fn share_names(one: Point, other: Point) -> bool {
    one.labels.len() == other.labels.len()
        && one
            .labels
            .iter()
            .zip(other.labels)
            .all(|((one, _), (other, _))| std::ptr::eq::<str>(&**one, &**other))
}

/// A hash of a label set that ignores the order of labels. The standard hasher is several times as expensive on short
/// strings; a sender of labels that collide hides only its own series.
fn label_set_hash(point: Point) -> u64 {
    point
        .labels
        .iter()
        // In Prometheus an empty label equals a missing one.
        .filter(|(_, value)| !value.is_empty())
        .map(|label| FxBuildHasher.hash_one(label))
        .fold(0, u64::wrapping_add)
}

/// The hash among points that share their names.
fn value_hash(point: Point) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    point.labels.iter().for_each(|(_, value)| value.hash(&mut hasher));
    hasher.finish()
}

/// The order of the families of the last response, which is nearly always that of the next one.
#[derive(Debug, Default)]
pub struct FamilyOrder(Mutex<Vec<usize>>);

impl FamilyOrder {
    /// Sorts by name; families of one name keep their order.
    fn sort<'a>(&self, families: &[&'a Family]) -> Vec<&'a Family> {
        // The last order is checked before it is used.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |index: &usize| (&*families[*index].name, *index);
        if last.len() != families.len() || !last.is_sorted_by_key(key) {
            last.clear();
            last.extend(0..families.len());
            last.sort_unstable_by(|one, other| key(one).cmp(&key(other)));
        }
        last.iter().map(|index| families[*index]).collect()
    }
}

/// Normalizes families. Of several with one name the first gives help and kind, and those of another kind are left out;
/// of equal series the first one stays.
pub fn normalize<'a>(families: impl Iterator<Item = &'a Family>, order: &FamilyOrder) -> NormalizedFamilies<'a> {
    let families: Vec<&Family> = families.filter(|family| is_name(&family.name, 2)).collect();
    let mut normalized = NormalizedFamilies {
        families: Vec::with_capacity(families.len()),
        points: Vec::with_capacity(families.iter().map(|family| family.len()).sum()),
    };
    let mut seen = FxHashSet::default();
    for families in order.sort(&families).chunk_by(|one, other| one.name == other.name) {
        let (first, begin) = (families[0], normalized.points.len());
        let same_kind = families.iter().filter(|family| family.kind == first.kind);
        let mut are_alike = true;
        for point in same_kind.flat_map(|family| family.points()) {
            let last = normalized.points[begin..].last().copied();
            let is_alike = last.is_some_and(|last| share_names(last, point));
            let is_written = if is_alike {
                is_of_kind(point, first.kind)
            } else {
                is_writable(point, first.kind)
            };
            if is_written {
                are_alike &= is_alike || last.is_none();
                normalized.points.push(point);
            }
        }
        if normalized.points.len() > begin + 1 {
            seen.clear();
            let label_set_hash = if are_alike { value_hash } else { label_set_hash };
            let mut kept = begin;
            for index in begin..normalized.points.len() {
                if seen.insert(label_set_hash(normalized.points[index])) {
                    normalized.points[kept] = normalized.points[index];
                    kept += 1;
                }
            }
            normalized.points.truncate(kept);
        }
        if normalized.points.len() > begin {
            normalized.families.push((first, begin..normalized.points.len()));
        }
    }
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Histogram, label};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn names(families: &[Family]) -> Vec<(String, usize)> {
        normalize(families.iter(), &FamilyOrder::default())
            .iter()
            .map(|normalize| (normalize.name.to_owned(), normalize.points.len()))
            .collect()
    }

    #[test]
    fn families_of_one_name_are_merged_and_series_are_unique() {
        let mut first = Family::gauge("b", "");
        first.push([label("x", "1"), label("y", "2")], 1.0);
        let mut second = Family::gauge("b", "");
        second.push([label("y", "2"), label("x", "1"), label("z", "")], 2.0);
        second.push([label("x", "2"), label("y", "1")], 2.0);
        let other_kind = Family::counter("b", "").value(3.0);
        let families = [first, Family::gauge("a", "").value(1.0), second, other_kind];
        assert_eq!(names(&families), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        let normalized = normalize(families.iter(), &FamilyOrder::default());
        assert_eq!(
            normalized.iter().nth(1).unwrap().points[0].value,
            &SampleValue::Number(1.0)
        );
    }

    #[test]
    fn invalid_names_are_left_out() {
        for name in ["", "1a", "a-b", "a b", "é", "a\n"] {
            assert_eq!(names(&[Family::gauge(name, "").value(1.0)]), [], "{name:?}");
            let mut family = Family::gauge("fine", "");
            family.push(vec![(name.to_owned().into(), "v".into())], 1.0);
            family.push([label("ok", "v")], 1.0);
            assert_eq!(names(&[family]), [("fine".to_owned(), 1)], "{name:?}");
        }
        let mut twice = Family::gauge("fine", "");
        twice.push([label("l", "1"), label("l", "2")], 1.0);
        assert_eq!(
            names(&[twice, Family::gauge("a:b", "").value(1.0)]),
            [("a:b".to_owned(), 1)]
        );
        assert_eq!(names(&[Family::new("h", "", MetricKind::Histogram).value(1.0)]), []);
    }

    #[test]
    fn labels_that_prometheus_refuses_are_left_out() {
        let label = |name: String| -> crate::family::Label { (name.into(), "v".into()) };
        let mut family = Family::gauge("fine", "");
        family.push([label("__name__".to_owned())], 1.0);
        family.push((0..=MAX_LABELS).map(|index| label(format!("l{index}"))), 2.0);
        family.push([label("ok".to_owned())], 3.0);
        assert_eq!(names(&[family]), [("fine".to_owned(), 1)]);
    }

    #[test]
    fn histogram_holds_only_histograms() {
        let mut family = Family::new("h", "", MetricKind::Histogram);
        family.push_histogram([label("x", "1")], Histogram::default());
        family.push([label("x", "2")], 1.0);
        family.push_histogram([label("x", "1")], Histogram::default());
        family.push_histogram([label("le", "1")], Histogram::default());
        family.push_histogram([label("le", "2")], Histogram::default());
        family.push_histogram([label("x", "3")], Histogram::default());
        assert_eq!(names(&[family]), [("h".to_owned(), 2)]);
    }

    /// A plain implementation of `normalize`.
    fn plainly(families: &[Family]) -> Vec<(String, Vec<f64>)> {
        type Labels = BTreeMap<String, String>;
        let mut plain: BTreeMap<String, (MetricKind, Vec<f64>, Vec<Labels>)> = BTreeMap::new();
        for family in families.iter().filter(|family| is_name(&family.name, 2)) {
            let empty = (family.kind, Vec::new(), Vec::new());
            let (kind, values, before) = plain.entry(family.name.to_string()).or_insert(empty);
            for point in family.points().filter(|_| family.kind == *kind) {
                let labels = point.labels.iter().filter(|(_, value)| !value.is_empty());
                let labels = labels
                    .map(|(name, value)| (name.to_string(), value.to_string()))
                    .collect();
                if let SampleValue::Number(value) = *point.value
                    && is_writable(point, *kind)
                    && !before.contains(&labels)
                {
                    values.push(value);
                    before.push(labels);
                }
            }
        }
        let written = plain.into_iter().filter(|(_, (_, values, _))| !values.is_empty());
        written.map(|(name, (_, values, _))| (name, values)).collect()
    }

    proptest! {
        /// For literal and owned names, and any earlier order.
        #[test]
        fn normalization_equals_plain_implementation(
            rounds in prop::collection::vec(
                prop::collection::vec((0..5_usize, any::<bool>(), prop::collection::vec((any::<bool>(), prop::collection::vec((0..4_usize, 0..3_usize), 0..3)), 0..5)), 0..6),
                1..4,
            )
        ) {
            const NAMES: [&str; 5] = ["a", "b", "c", "1", "b_total"];
            const LABELS: [&str; 4] = ["x", "y", "z", "no-name"];
            const VALUES: [&str; 3] = ["", "1", "2"];
            let order = FamilyOrder::default();
            for families in rounds {
                let mut value = 0.0;
                let families: Vec<Family> = families.into_iter().map(|(name, is_counter, points)| {
                    let kind = if is_counter { MetricKind::Counter } else { MetricKind::Gauge };
                    let mut family = Family::new(NAMES[name], "", kind);
                    for (is_literal, labels) in points {
                        value += 1.0;
                        family.push(labels.into_iter().map(|(name, value)| {
                            let name = LABELS[name];
                            (if is_literal { name.into() } else { name.to_owned().into() }, VALUES[value].into())
                        }), value);
                    }
                    family
                }).collect();
                let normalized = normalize(families.iter(), &order);
                let found: Vec<(String, Vec<f64>)> = normalized.iter().map(|normalize| {
                    let numbers = normalize.points.iter().filter_map(|point| match point.value {
                        SampleValue::Number(value) => Some(*value),
                        SampleValue::Histogram(_) => None,
                    });
                    (normalize.name.to_owned(), numbers.collect())
                }).collect();
                prop_assert_eq!(found, plainly(&families));
            }
        }
    }
}
