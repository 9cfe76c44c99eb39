//! A translation of regular expressions in the dialect of Go's `regexp`, which users of Prometheus and Alertmanager
//! write, for the `regex` crate. The engines are of one family (RE2); the dialects differ in ASCII `\d \w \s \b`, in
//! the rules for classes, in octal escapes and in `\Q…\E`. The translation is more lenient than Go in two places that
//! change no meaning: names of Unicode classes, and the product of nested repetitions.

use regex::Regex;
use std::fmt::Write;

/// The reason why a pattern is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The `regex` crate accepts something that Go rejects or interprets differently.
    #[error("in the regular expression {pattern:?}: {problem}")]
    NotGo { pattern: String, problem: String },
    #[error("in the regular expression {pattern:?}: {problem}")]
    Syntax { pattern: String, problem: String },
}

/// Compiles `pattern` so that it must match the whole text, as Prometheus and Alertmanager do.
///
/// # Errors
/// When Go's `regexp` (1.19, the one of Alertmanager 0.25) would refuse the pattern, or when it is too large.
pub fn anchored(pattern: &str) -> Result<Regex, PatternError> {
    // The wrapping comes first, as in Alertmanager, where `a)|(?:b` is a valid pattern.
    compile(pattern, &format!("^(?:{pattern})$"), false)
}

/// Compiles `pattern` so that it must match the whole text, of which `.` matches every character, as PromQL does. Named
/// groups keep their names.
///
/// # Errors
/// As [`anchored`].
pub fn of_promql(pattern: &str) -> Result<Regex, PatternError> {
    compile(pattern, &format!("^(?s:{pattern})$"), true)
}

/// Compiles `pattern` so that it may match any part of the text, as node_exporter and process-exporter do. Named groups
/// keep their names.
///
/// # Errors
/// When Go's `regexp` would refuse the pattern, or when it is too large.
pub fn unanchored(pattern: &str) -> Result<Regex, PatternError> {
    compile(pattern, pattern, true)
}

fn compile(pattern: &str, wrapped: &str, keeps_names: bool) -> Result<Regex, PatternError> {
    let translated = translate(wrapped, keeps_names).map_err(|problem| PatternError::NotGo {
        pattern: pattern.to_owned(),
        problem,
    })?;
    Regex::new(&translated).map_err(|wrong| {
        let problem = match &wrong {
            // The crate's message shows the translated pattern in several lines; the last line has the reason.
            regex::Error::Syntax(text) => text
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
            other => other.to_string(),
        };
        PatternError::Syntax {
            pattern: pattern.to_owned(),
            problem,
        }
    })
}

/// RE2's maximum repeat count (`regexp/syntax`).
const MAX_REPEAT: u32 = 1000;

const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

struct Reader<'a> {
    rest: &'a str,
    out: String,
    /// Whether named groups keep their names.
    keeps_names: bool,
}

fn translate(pattern: &str, keeps_names: bool) -> Result<String, String> {
    let mut reader = Reader {
        rest: pattern,
        out: String::with_capacity(pattern.len() + 8),
        keeps_names,
    };
    // Go rejects a repetition of a repetition (`a**`), which the crate accepts.
    let mut after_repetition = false;
    while let Some(c) = reader.take() {
        let mut repetition = false;
        match c {
            '\\' => reader.escape(false)?,
            '[' => reader.class()?,
            '(' => reader.group()?,
            '*' | '+' | '?' => {
                reader.out.push(c);
                repetition = true;
            }
            '{' => {
                repetition = reader.counted_repetition()?;
                if !repetition {
                    reader.out.push_str(r"\{");
                }
            }
            '}' | ']' => reader.literal(c),
            _ => reader.out.push(c),
        }
        if repetition {
            if after_repetition {
                return Err("a repetition of a repetition".to_owned());
            }
            if reader.rest.starts_with('?') {
                reader.take();
                reader.out.push('?');
            }
        }
        after_repetition = repetition;
    }
    Ok(reader.out)
}

impl Reader<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn literal(&mut self, c: char) {
        // Escaped, these two would be word boundaries in the crate. Unescaped they are literals.
        if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    fn code_point(&mut self, code: u32) -> Result<(), String> {
        let c = char::from_u32(code).ok_or_else(|| format!("no character has the number {code:#x}"))?;
        write!(self.out, r"\x{{{:x}}}", u32::from(c)).expect("writing to a String cannot fail");
        Ok(())
    }

    /// Translates `{n}`, `{n,}` or `{n,m}`. Returns false for other text after a brace, which is literal in Go.
    fn counted_repetition(&mut self) -> Result<bool, String> {
        let Some(end) = self.rest.find('}') else {
            return Ok(false);
        };
        let inside = &self.rest[..end];
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let is_number = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
        };
        if !is_number(least) || !(is_number(most) || (most.is_empty() && inside.ends_with(','))) {
            return Ok(false);
        }
        for count in [least, most].into_iter().filter(|count| !count.is_empty()) {
            if count.parse::<u32>().is_ok_and(|count| count <= MAX_REPEAT) {
                continue;
            }
            return Err(format!("{{{inside}}} repeats more than {MAX_REPEAT} times"));
        }
        write!(self.out, "{{{inside}}}").expect("writing to a String cannot fail");
        self.rest = &self.rest[end + 1..];
        Ok(true)
    }

    /// Translates a group after `(`, as far as Go 1.19 supports it.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        let Some(extension) = self.rest.strip_prefix('?') else {
            return Ok(());
        };
        // Go has `(?<name>…)` since 1.22, with which Alertmanager 0.25 was not built.
        let newer = extension.strip_prefix('<').filter(|_| self.keeps_names);
        if let Some(named) = extension.strip_prefix("P<").or(newer) {
            let (name, rest) = named
                .split_once('>')
                .ok_or("the name of a group is not closed with >")?;
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(format!("{name:?} cannot name a group: letters, digits and _ can"));
            }
            match self.keeps_names {
                true if name.starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(format!(
                        "the name {name:?} of a group begins with a digit: begin it with a letter"
                    ));
                }
                true => write!(self.out, "?P<{name}>").expect("writing to a String cannot fail"),
                // Go's rules for names (digits first, one name twice) are wider than those of the crate.
                false => self.out.push_str("?:"),
            }
            self.rest = rest;
            return Ok(());
        }
        let flags_end = extension.find([':', ')']).unwrap_or(extension.len());
        let flags = &extension[..flags_end];
        if flags.is_empty() && extension.starts_with(')') {
            // Go ignores an empty list of flags.
            self.out.push_str("?:");
            self.rest = extension;
            return Ok(());
        }
        if flags.chars().all(|c| "imsU-".contains(c)) {
            self.out.push_str(&self.rest[..=flags_end]);
            self.rest = &self.rest[1 + flags_end..];
            return Ok(());
        }
        let shown: String = extension.chars().take(2).collect();
        Err(format!(
            "Go knows no group that begins with (?{shown}; it has (?:…), (?P<name>…) and the flags i, m, s, U"
        ))
    }

    /// Translates an escape after a backslash. Inside a class the ASCII sets are nested classes.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(c) = self.take() else {
            return Err("a backslash at the end".to_owned());
        };
        let ascii = match c {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            's' => r"[\t\n\x0c\r ]",
            'S' => r"[^\t\n\x0c\r ]",
            'b' if !in_class => r"(?-u:\b)",
            'B' if !in_class => r"(?-u:\B)",
            _ => "",
        };
        if !ascii.is_empty() {
            self.out.push_str(ascii);
            return Ok(());
        }
        match c {
            'Q' if !in_class => {
                let (text, rest) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
                for c in text.chars() {
                    self.literal(c);
                }
                self.rest = rest;
                Ok(())
            }
            'A' | 'z' if !in_class => self.pass(c),
            'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'p' | 'P' => self.pass(c),
            '0'..='7' => self.octal(c),
            _ if c.is_ascii_punctuation() || c == ' ' => {
                self.literal(c);
                Ok(())
            }
            _ => Err(format!(r"Go knows no escape \{c}")),
        }
    }

    fn pass(&mut self, c: char) -> Result<(), String> {
        self.out.extend(['\\', c]);
        if matches!(c, 'x' | 'p' | 'P') && self.rest.starts_with('{') {
            // These braces belong to the escape and are no repetition.
            let end = self.rest.find('}').ok_or_else(|| format!(r"\{c}{{ is not closed"))?;
            self.out.push_str(&self.rest[..=end]);
            self.rest = &self.rest[end + 1..];
        } else if matches!(c, 'p' | 'P')
            && let Some(category) = self.take()
        {
            self.out.push(category);
        }
        Ok(())
    }

    /// Translates `\0`, `\012`, `\12`. A single digit other than 0 would be a back reference, which RE2 lacks.
    fn octal(&mut self, first: char) -> Result<(), String> {
        let more: String = self
            .rest
            .chars()
            .take(2)
            .take_while(|c| ('0'..='7').contains(c))
            .collect();
        if first != '0' && more.is_empty() {
            return Err(format!(
                r"\{first} refers back to a group, which this engine does not do"
            ));
        }
        self.rest = &self.rest[more.len()..];
        let code = u32::from_str_radix(&format!("{first}{more}"), 8).expect("at most three octal digits");
        self.code_point(code)
    }

    /// Translates a class after `[`. Go has no nested classes and no set operations, so their characters are literal.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.starts_with('^') {
            self.take();
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.rest.starts_with("[:")
                && let Some(end) = self.rest.find(":]")
            {
                let name = &self.rest[2..end];
                if !POSIX_CLASSES.contains(&name.trim_start_matches('^')) {
                    return Err(format!(
                        "there is no class [:{name}:]; there are {}",
                        POSIX_CLASSES.join(", ")
                    ));
                }
                self.out.push_str(&self.rest[..end + 2]);
                self.rest = &self.rest[end + 2..];
                first = false;
                continue;
            }
            match self.take() {
                None => return Err("a class is not closed with ]".to_owned()),
                Some(']') if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                Some('\\') => self.escape(true)?,
                // A dash between two characters is a range, and a literal elsewhere.
                Some(c) => self.literal(c),
            }
            first = false;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.take();
                self.out.push('-');
                match self.take() {
                    None => return Err("a class is not closed with ]".to_owned()),
                    Some('\\') => self.escape(true)?,
                    Some(c) => self.literal(c),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let regex = anchored(pattern).unwrap_or_else(|wrong| panic!("{wrong}"));
        for text in yes {
            assert!(regex.is_match(text), "{pattern:?} should match {text:?}");
        }
        for text in no {
            assert!(!regex.is_match(text), "{pattern:?} should not match {text:?}");
        }
    }

    #[test]
    fn patterns_match_as_in_go() {
        check(r"\d+", &["12"], &["١٢", "12a"]);
        check(r"\w+", &["a_1"], &["é"]);
        check(r"[\d.]+", &["1.2"], &["١"]);
        check(r"[^\s]+", &["a\u{a0}b"], &["a b"]);
        check(r"a\<b", &["a<b"], &["ab"]);
        check(r"\Qa.b\E+", &["a.b", "a.bb"], &["axb"]);
        check(r"[[a]+", &["[a"], &["]"]);
        check(r"[a&&b]+", &["a&b"], &["c"]);
        check(r"[+--]", &["+", ",", "-"], &["."]);
        check(r"[a-]", &["a", "-"], &["b"]);
        check(r"[]a]", &["]", "a"], &["b"]);
        check(r"[^]a]", &["b"], &["]"]);
        check(r"[[:alpha:]_]+", &["a_"], &["1"]);
        check(r"a{,5}", &["a{,5}"], &["aaa"]);
        check(r"a{2,3}", &["aa", "aaa"], &["a", "aaaa"]);
        check(r"{x}", &["{x}"], &["x"]);
        check(r"\x41\x{e9}\101", &["AéA"], &[]);
        check(r"\pL+\p{Lu}", &["éÉ"], &["1É"]);
        check(r"(?i)straße", &["STRAßE"], &[]);
        check(r"(?P<n>a)(?s:.)", &["a\n"], &["ab\n"]);
        check(r"a.b", &["axb"], &["a\nb"]);
        check(r"a|b", &["a", "b"], &["ab"]);
        check(r"a+?b??", &["aab"], &[]);
        check("", &[""], &["a"]);
        check(r"a)(?:b", &["ab"], &["a"]);
    }

    #[test]
    fn unanchored_pattern_keeps_names_of_groups() {
        let regex = unanchored(r"-config\s+(?P<File>[^\s/]+)(?<more>\d)?").unwrap();
        let found = regex.captures("x -config a.yml 1").unwrap();
        assert_eq!(&found["File"], "a.yml");
        assert!(found.name("more").is_none());
        for pattern in ["(?P<1a>x)", "(?<=a)b", "(?P<a>x)(?P<a>y)", "a)|(b"] {
            assert!(unanchored(pattern).is_err(), "{pattern:?} should be refused");
        }
    }

    #[test]
    fn patterns_that_go_refuses_are_refused() {
        for pattern in [
            "(", ")", "a**", "a+*", "a{2}{3}", "*a", "(?=a)", "(?<n>a)", "(?x)a", r"\1", r"\u0041", r"\y", "[a", r"\",
            "a{1001}", r"\C", "[b-a]", r"\8", r"[\b]", "(?P<n", r"\x{zz}",
        ] {
            assert!(anchored(pattern).is_err(), "{pattern:?} should be refused");
        }
    }

    proptest::proptest! {
        #[test]
        fn quoted_text_matches_itself_only(text in "[^\\\\]*", other in "[^\\\\]*") {
            let regex = anchored(&format!(r"\Q{text}\E")).unwrap();
            proptest::prop_assert!(regex.is_match(&text));
            proptest::prop_assert_eq!(regex.is_match(&other), other == text);
        }

        #[test]
        fn no_pattern_makes_translating_panic(pattern in r"[\\\[\](){}*+?|^$.:=<>&~,0-9A-Zabdefinpqrstwxzé\-]{0,24}") {
            let _ = anchored(&pattern);
        }
    }
}
