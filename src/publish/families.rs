//! Makes any heap of families fit to be written: merged by name, valid names only, every series once. What a text file
//! or a kernel driver names oddly must never cost the rest of a scrape.

use crate::family::{Family, Kind, Point, Value};
use rustc_hash::{FxBuildHasher, FxHashSet};
use std::hash::BuildHasher;

/// A family that can be written as it stands.
#[derive(Debug)]
pub struct Clean<'a> {
    pub name: &'a str,
    pub help: &'a str,
    pub kind: Kind,
    pub points: Vec<&'a Point>,
}

/// What a byte may be part of: a label's name (1), a metric's name too (2).
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
fn is_writable(point: &Point, kind: Kind) -> bool {
    let labels = &point.labels;
    matches!(point.value, Value::Histogram(_)) == (kind == Kind::Histogram)
        && labels.iter().enumerate().all(|(index, (name, _))| {
            is_name(name, 1)
                && !(kind == Kind::Histogram && name == "le")
                && labels[..index].iter().all(|(before, _)| before != name)
        })
}

/// A label set whatever the order of its labels. Not the standard hasher, which is several times dearer on short texts: who
/// can choose labels so that they collide hides nothing but their own series.
fn identity(point: &Point) -> u64 {
    point
        .labels
        .iter()
        // To Prometheus an empty label is none.
        .filter(|(_, value)| !value.is_empty())
        .map(|label| FxBuildHasher.hash_one(label))
        .fold(0, u64::wrapping_add)
}

/// Families by name. Of two of one name the first gives help and kind, and one of another kind is left out; of two
/// equal series the first stays.
pub fn clean<'a>(families: impl Iterator<Item = &'a Family>) -> Vec<Clean<'a>> {
    let mut families: Vec<&Family> = families.filter(|family| is_name(&family.name, 2)).collect();
    // Stable: the first of a name stays the first.
    families.sort_by(|one, other| one.name.cmp(&other.name));
    let mut seen = FxHashSet::default();
    let of_one_name = families.chunk_by(|one, other| one.name == other.name);
    let cleaned = of_one_name.map(|families| {
        let first = families[0];
        let same_kind = families.iter().filter(|family| family.kind == first.kind);
        let mut points: Vec<&Point> = Vec::with_capacity(first.points.len());
        for family in same_kind {
            points.extend(family.points.iter().filter(|point| is_writable(point, first.kind)));
        }
        if points.len() > 1 {
            seen.clear();
            points.retain(|point| seen.insert(identity(point)));
        }
        Clean {
            name: &first.name,
            help: &first.help,
            kind: first.kind,
            points,
        }
    });
    cleaned.filter(|clean| !clean.points.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::label;

    fn names(families: &[Family]) -> Vec<(String, usize)> {
        clean(families.iter())
            .iter()
            .map(|clean| (clean.name.to_owned(), clean.points.len()))
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
        assert_eq!(clean(families.iter())[1].points[0].value, Value::Number(1.0));
    }

    #[test]
    fn what_has_no_valid_name_is_left_out() {
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
        assert_eq!(names(&[Family::new("h", "", Kind::Histogram).value(1.0)]), []);
    }
}
