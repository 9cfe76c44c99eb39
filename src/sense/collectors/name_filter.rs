//! A filter by name for the devices, mounts or units that a collector shows.

use regex::Regex;

/// An include and an exclude pattern. An empty filter allows all names.
#[derive(Debug, Clone, Default)]
pub struct NameFilter {
    pub include: Option<Regex>,
    pub exclude: Option<Regex>,
}

impl NameFilter {
    /// A filter with an exclude pattern only.
    pub fn exclude(pattern: Regex) -> Self {
        NameFilter {
            include: None,
            exclude: Some(pattern),
        }
    }

    /// A filter with an include pattern only.
    pub fn include(pattern: Option<Regex>) -> Self {
        NameFilter {
            include: pattern,
            exclude: None,
        }
    }

    pub fn allows(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(name))
            && self.exclude.as_ref().is_none_or(|exclude| !exclude.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn include_and_exclude_are_not_anchored() {
        assert!(NameFilter::include(Regex::new("th").ok()).allows("eth0"));
        assert!(!NameFilter::exclude(Regex::new("th").unwrap()).allows("eth0"));
    }
}
