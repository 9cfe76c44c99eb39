//! Families that a collector fills series by series.

use crate::family::{Family, Label, MetricKind, SharedStr};
use crate::sense::runtime::kernel_file::{Attributes, parse_integer};
use std::collections::HashMap;
use std::path::Path;

/// A file with one number: its name, the metric that shows it with its help, and the factor to the metric's unit.
pub type AttributeRow = (&'static str, &'static str, &'static str, f64);

/// Families in the order of their first series.
#[derive(Default)]
pub struct FamilySet {
    families: Vec<Family>,
    index: HashMap<String, usize>,
}

impl FamilySet {
    /// Adds a series to a family, whose kind follows from its name: the names of counters end in `_total`.
    pub fn add(&mut self, name: impl Into<SharedStr>, help: impl Into<SharedStr>, labels: &[Label], value: f64) {
        let name = name.into();
        let kind = match name.ends_with("_total") {
            true => MetricKind::Counter,
            false => MetricKind::Gauge,
        };
        self.add_as(kind, name, help, labels, value);
    }

    /// The same with a kind that the name does not show.
    pub fn add_as(
        &mut self,
        kind: MetricKind,
        name: impl Into<SharedStr>,
        help: impl Into<SharedStr>,
        labels: &[Label],
        value: f64,
    ) {
        let name = name.into();
        let index = match self.index.get(&*name) {
            Some(index) => *index,
            None => {
                self.index.insert(name.to_string(), self.families.len());
                self.families.push(Family::new(name, help, kind));
                self.families.len() - 1
            }
        };
        self.families[index].push(labels.iter().cloned(), value);
    }

    /// Adds the numbers of a directory of one-value files; a file that is missing or no number has no series.
    pub fn add_attributes(&mut self, directory: &Path, table: &[AttributeRow], labels: &[Label]) {
        let Some(attributes) = Attributes::open(directory) else {
            return;
        };
        for (file, name, help, factor) in table {
            if let Some(value) = attributes.read(file).and_then(|text| parse_integer(&text)) {
                self.add(*name, *help, labels, value * factor);
            }
        }
    }

    pub fn into_families(self) -> Vec<Family> {
        self.families
    }
}

/// A part of a metric name: lower and upper case letters, digits and underscores; others become underscores.
pub fn metric_part(name: &str) -> String {
    let is_valid = |character: char| character.is_ascii_alphanumeric() || character == '_';
    name.chars()
        .map(|character| if is_valid(character) { character } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::label;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn families_are_in_the_order_of_first_series() {
        let tree = Tree::new();
        for (file, text) in [("a", "0x10\n"), ("b", "18446744073709551615\n"), ("c", "N/A\n")] {
            tree.sys(&format!("class/x/{file}"), text);
        }
        let mut set = FamilySet::default();
        let table = [
            ("b", "x_b_total", "B.", 1.0),
            ("a", "x_a", "A.", 0.5),
            ("c", "x_c", "C.", 1.0),
            ("d", "x_d", "D.", 1.0),
        ];
        for name in ["one", "two"] {
            set.add_attributes(&tree.roots.sys("class/x"), &table, &[label("name", name)]);
        }
        let families = set.into_families();
        assert_eq!(families[0].kind, MetricKind::Counter);
        assert_eq!(
            text_of(&families, ""),
            [
                "x_b_total{name=\"one\"} 18446744073709552000",
                "x_b_total{name=\"two\"} 18446744073709552000",
                "x_a{name=\"one\"} 8",
                "x_a{name=\"two\"} 8",
            ]
        );
    }

    #[test]
    fn invalid_characters_become_underscores() {
        assert_eq!(metric_part("rx-queue.0 Bytes"), "rx_queue_0_Bytes");
    }
}
