//! A filter by name for the devices, mounts or units that a collector shows.

use regex::Regex;

/// An include and an exclude pattern. An empty filter allows all names.
#[derive(Debug, Clone, Default)]
pub struct NameFilter {
    pub include: Option<Regex>,
    pub exclude: Option<Regex>,
}

impl NameFilter {
    /// A filter with an unanchored exclude pattern, as node_exporter's `…-exclude` flags have it.
    ///
    /// # Errors
    ///
    /// When the pattern is not a regular expression.
    pub fn exclude(pattern: &str) -> Result<Self, regex::Error> {
        Ok(NameFilter {
            include: None,
            exclude: Some(Regex::new(pattern)?),
        })
    }

    /// A filter with an unanchored include pattern, as node_exporter's `…-include` flags have it.
    ///
    /// # Errors
    ///
    /// When the pattern is not a regular expression.
    pub fn include(pattern: &str) -> Result<Self, regex::Error> {
        Ok(NameFilter {
            include: Some(Regex::new(pattern)?),
            exclude: None,
        })
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
        assert!(NameFilter::include("th").unwrap().allows("eth0"));
        assert!(!NameFilter::exclude("th").unwrap().allows("eth0"));
    }
}
