//! Labels and annotations of an alert in compact form, because thousands of alerts may be open at once.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;
use std::fmt;

/// Labels, sorted by name, so that equal sets print and hash equally. One allocation, and none for names and values of
/// up to 23 bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Box<[(SmolStr, SmolStr)]>);

impl Labels {
    /// No labels.
    pub fn new() -> Labels {
        Labels::default()
    }

    /// Labels with unique names.
    ///
    /// # Errors
    /// When a name occurs twice; returns the name.
    pub fn try_new(mut labels: Vec<(SmolStr, SmolStr)>) -> Result<Labels, SmolStr> {
        labels.sort_unstable();
        match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(pair[0].0.clone()),
            None => Ok(Labels(labels.into())),
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let place = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name));
        place.ok().map(|place| self.0[place].1.as_str())
    }

    /// The labels by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Memory beside the value itself.
    pub fn heap_bytes(&self) -> usize {
        let of_text = |text: &SmolStr| if text.is_heap_allocated() { text.len() } else { 0 };
        let texts = self.0.iter().map(|(name, value)| of_text(name) + of_text(value));
        texts.sum::<usize>() + size_of_val(&*self.0)
    }

    /// The labels for which `keep` is true.
    #[must_use]
    pub fn filtered(self, keep: impl Fn(&str, &str) -> bool) -> Labels {
        if self.iter().all(|(name, value)| keep(name, value)) {
            return self;
        }
        let kept = self.0.into_iter().filter(|(name, value)| keep(name, value));
        Labels(kept.collect())
    }

    /// Adds a label or replaces its value. Each call allocates; collect an iterator for many labels.
    pub fn insert(&mut self, name: impl Into<SmolStr>, value: impl Into<SmolStr>) {
        let more = (name.into(), value.into());
        *self = std::mem::take(&mut self.0).into_iter().chain([more]).collect();
    }
}

/// Of two labels with one name the later one stays.
impl<N: Into<SmolStr>, V: Into<SmolStr>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(labels: I) -> Labels {
        let labels = labels.into_iter().map(|(name, value)| (name.into(), value.into()));
        let mut labels: Vec<(SmolStr, SmolStr)> = labels.collect();
        labels.reverse();
        // Stable, so that the later one comes first.
        labels.sort_by(|one, other| one.0.cmp(&other.0));
        labels.dedup_by(|one, other| one.0 == other.0);
        Labels(labels.into())
    }
}

impl<N: Into<SmolStr>, V: Into<SmolStr>, const COUNT: usize> From<[(N, V); COUNT]> for Labels {
    fn from(labels: [(N, V); COUNT]) -> Labels {
        labels.into_iter().collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Reads an object of strings. A duplicate name is an error, because readers differ in which of the two they use, and a
/// proxy may have checked the other one.
impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Labels;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Vec::new();
                while let Some(label) = map.next_entry()? {
                    labels.push(label);
                }
                let twice = |name| serde::de::Error::custom(format_args!("{name:?} is given twice"));
                Labels::try_new(labels).map_err(twice)
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn labels_are_an_object_of_strings() {
        let labels = Labels::from([("b", "2"), ("a", "1 \"\u{e9}\"")]);
        let text = serde_json::to_string(&labels).unwrap();
        assert_eq!(text, r#"{"a":"1 \"é\"","b":"2"}"#);
        assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels);
        assert_eq!(format!("{labels:?}"), r#"{"a": "1 \"é\"", "b": "2"}"#);
        for wrong in [r#"{"a":"1","b":"2","a":"1"}"#, r#"{"a":1}"#, r#"["a"]"#, "null"] {
            assert!(serde_json::from_str::<Labels>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn heap_holds_pairs_and_long_strings() {
        let short = Labels::from([("a", "1"), ("b", "2")]);
        let pair = size_of::<(SmolStr, SmolStr)>();
        assert_eq!(short.heap_bytes(), 2 * pair);
        let long = Labels::from([("a", "x".repeat(100))]);
        assert_eq!(long.heap_bytes(), pair + 100);
    }

    proptest! {
        #[test]
        fn labels_behave_like_a_map_of_strings(pairs in prop::collection::vec(("[a-d]{0,2}", "[x-z]{0,30}"), 0..8)) {
            let labels: Labels = pairs.clone().into_iter().collect();
            let map: BTreeMap<String, String> = pairs.clone().into_iter().collect();
            let same = |labels: &Labels, map: &BTreeMap<String, String>| {
                labels.iter().eq(map.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            };
            prop_assert!(same(&labels, &map));
            prop_assert_eq!(labels.is_empty(), map.is_empty());
            for name in ["", "a", "b", "cd", "dd"] {
                prop_assert_eq!(labels.get(name), map.get(name).map(String::as_str));
                let mut more = map.clone();
                more.insert(name.to_owned(), "new".to_owned());
                let mut longer = labels.clone();
                longer.insert(name, "new");
                prop_assert!(same(&longer, &more));
                let mut fewer = map.clone();
                fewer.retain(|known, value| known != name && !value.is_empty());
                prop_assert!(same(&labels.clone().filtered(|known, value| known != name && !value.is_empty()), &fewer));
            }
            let given: Vec<(SmolStr, SmolStr)> = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
            prop_assert_eq!(Labels::try_new(given).ok(), (map.len() == pairs.len()).then_some(labels));
        }
    }
}
