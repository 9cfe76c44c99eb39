//! Which of the kernel's hundreds of counters a collector shows, as `--collector.NAME.fields` says. Pure.

use regex::Regex;
use std::collections::HashMap;

/// A pattern that remembers its answers: the kernel's names are the same every second, and there are many.
#[derive(Debug, Clone)]
pub struct Fields {
    pattern: Regex,
    answers: HashMap<String, bool>,
}

impl Fields {
    pub fn new(pattern: Regex) -> Self {
        Fields {
            pattern,
            answers: HashMap::new(),
        }
    }

    pub fn allows(&mut self, name: &str) -> bool {
        if let Some(answer) = self.answers.get(name) {
            return *answer;
        }
        let answer = self.pattern.is_match(name);
        self.answers.insert(name.to_owned(), answer);
        answer
    }
}
