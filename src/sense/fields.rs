//! Which of the kernel's hundreds of counters a collector shows, as `--collector.NAME.fields` says. Pure.

use regex::Regex;
use rustc_hash::FxHashMap;

/// A pattern that remembers its answers: the kernel's names are the same every second, and there are many.
#[derive(Debug, Clone)]
pub struct Fields {
    pattern: Regex,
    answers: FxHashMap<String, bool>,
    name: String,
}

impl Fields {
    pub fn new(pattern: Regex) -> Self {
        Fields {
            pattern,
            answers: FxHashMap::default(),
            name: String::new(),
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

    /// `protocol_counter`, where that is wanted. Allocates for the wanted only, which are few.
    pub fn wanted_name(&mut self, protocol: &str, counter: &str) -> Option<String> {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        name.extend([protocol, "_", counter]);
        let wanted = self.allows(&name).then(|| name.clone());
        self.name = name;
        wanted
    }
}
