//! The reader of the known keys of a mapping. Reports the errors of each key and continues.

use super::node::{Content, Entry, Node};
use super::scalar::{parse_duration, parse_size};
use crate::diagnostic::{Findings, Span, Spanned, suggest};
use crate::schema::{Kind, Object};
use std::collections::BTreeMap;
use std::time::Duration;

/// A string with the positions of its characters in the file, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub value: String,
    pub span: Span,
    inset: Option<usize>,
}

impl Text {
    /// The position of `width` characters from character `offset` of the string on; the whole string if escapes or line
    /// breaks hide it.
    pub fn part(&self, offset: usize, width: usize) -> Span {
        let Some(inset) = self.inset else { return self.span };
        Span {
            column: self.span.column + inset + offset,
            width: width.max(1),
            ..self.span
        }
    }
}

/// A mapping whose keys were checked against an object.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'n> {
    pub object: &'static Object,
    pub span: Span,
    entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    /// Opens a mapping: unknown and missing keys become findings. `None` if the node is no mapping.
    pub fn open(node: &'n Node, object: &'static Object, findings: &mut Findings) -> Option<Fields<'n>> {
        let entries: &[Entry] = match &node.content {
            Content::Mapping(entries) => entries,
            _ => {
                let message = format!("{} must be a mapping, found {}", object.title, describe(node));
                findings.error(node.span, message, format!("its keys: {}", object.names().join(", ")));
                return None;
            }
        };
        for entry in entries.iter().filter(|entry| object.key(&entry.key).is_none()) {
            let help = match entry.key.as_str() {
                "<<" => "merge keys are not in YAML 1.2; repeat the values, or use an alias for each".to_owned(),
                key => suggest(key, "known keys", &object.names()),
            };
            findings.error(
                entry.key_span,
                format!("unknown key `{}` in {}", entry.key, object.title),
                help,
            );
        }
        let missing = object
            .keys
            .iter()
            .filter(|key| key.required && !entries.iter().any(|entry| entry.key == key.name));
        for key in missing {
            let message = format!("{} lacks `{}`", object.title, key.name);
            findings.error(node.span, message, format!("`{}`: {}", key.name, key.about));
        }
        let known = entries.iter().filter(|entry| object.key(&entry.key).is_some()).count();
        if object.one_of && known != 1 && (known > 1 || entries.is_empty()) {
            let message = format!("{} has exactly one key, found {known}", object.title);
            findings.error(
                node.span,
                message,
                "write each as an entry of its own, with its own `-`",
            );
        }
        Some(Fields {
            object,
            span: node.span,
            entries,
        })
    }

    fn entry(&self, key: &str) -> Option<&'n Entry> {
        debug_assert!(
            self.object.key(key).is_some(),
            "{key} is not in the table of {}",
            self.object.title
        );
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The object under a key.
    pub fn nested(&self, key: &str, object: &'static Object, findings: &mut Findings) -> Option<Fields<'n>> {
        Fields::open(self.get(key)?, object, findings)
    }

    /// Known keys with their values in the order of the file.
    pub fn known(&self) -> impl Iterator<Item = (&'n Entry, &'static str)> + use<'n> {
        let object = self.object;
        self.entries
            .iter()
            .filter_map(move |entry| object.key(&entry.key).map(|key| (entry, key.name)))
    }

    fn read<T>(
        &self,
        key: &str,
        findings: &mut Findings,
        read: impl FnOnce(&Node, &str, &mut Findings) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        read(&entry.value, key, findings)
    }

    pub fn text(&self, key: &str, findings: &mut Findings) -> Option<Text> {
        self.read(key, findings, |node, key, findings| {
            node.text(key, &Kind::Text, findings)
        })
    }

    /// A string without its place.
    pub fn string(&self, key: &str, findings: &mut Findings) -> Option<String> {
        self.text(key, findings).map(|text| text.value)
    }

    pub fn duration(&self, key: &str, findings: &mut Findings) -> Option<Spanned<Duration>> {
        self.read(key, findings, Node::duration)
    }

    pub fn size(&self, key: &str, findings: &mut Findings) -> Option<Spanned<u64>> {
        self.read(key, findings, |node, key, findings| {
            node.parse(key, &Kind::Size, findings, |text| {
                parse_size(text).map_err(|error| Some(error.to_string()))
            })
        })
    }

    pub fn flag(&self, key: &str, findings: &mut Findings) -> Option<Spanned<bool>> {
        self.read(key, findings, Node::flag)
    }

    /// A whole number within the bounds of the key's table.
    pub fn integer(&self, key: &str, findings: &mut Findings) -> Option<Spanned<i64>> {
        let kind = &self.object.key(key)?.kind;
        self.read(key, findings, |node, key, findings| node.integer(key, kind, findings))
    }

    /// A number within the bounds of the key's table.
    pub fn number(&self, key: &str, findings: &mut Findings) -> Option<Spanned<f64>> {
        let kind = &self.object.key(key)?.kind;
        let Kind::Number(least, most) = *kind else { return None };
        self.read(key, findings, |node, key, findings| {
            node.parse(key, kind, findings, |text| match text.parse::<f64>() {
                Ok(number) if number >= least && number <= most => Ok(number),
                _ => Err(None),
            })
        })
    }

    /// One of the words of the key's table.
    pub fn choice(&self, key: &str, findings: &mut Findings) -> Option<Spanned<&'static str>> {
        let kind = &self.object.key(key)?.kind;
        self.read(key, findings, |node, key, findings| node.choice(key, kind, findings))
    }

    /// The entries of a list; none if the key is missing or its value is no list.
    pub fn list(&self, key: &str, findings: &mut Findings) -> &'n [Node] {
        let (Some(entry), Some(known)) = (self.entry(key), self.object.key(key)) else {
            return &[];
        };
        match &entry.value.content {
            Content::Sequence(items) => items,
            _ => {
                let help = match &entry.value.content {
                    Content::Scalar { text, .. } if !entry.value.is_null() => format!("write it as a list: ['{text}']"),
                    _ => "write each entry on a line of its own that begins with `-`".to_owned(),
                };
                let message = format!("`{key}` must be {}, found {}", known.kind, describe(&entry.value));
                findings.error(entry.value.span, message, help);
                &[]
            }
        }
    }

    /// The objects in a list.
    pub fn objects(&self, key: &str, object: &'static Object, findings: &mut Findings) -> Vec<Fields<'n>> {
        let items = self.list(key, findings).iter();
        items.filter_map(|item| Fields::open(item, object, findings)).collect()
    }

    /// The entries of a list that must have some.
    pub fn filled_list(&self, key: &str, findings: &mut Findings) -> &'n [Node] {
        let items = self.list(key, findings);
        if let Some(node) = self
            .get(key)
            .filter(|node| node.content == Content::Sequence(Vec::new()))
        {
            let about = self.object.key(key).map_or("", |known| known.about);
            findings.error(node.span, format!("`{key}` is empty"), about);
        }
        items
    }

    /// A list of strings.
    pub fn texts(&self, key: &str, findings: &mut Findings) -> Vec<Text> {
        let items = self.list(key, findings);
        items
            .iter()
            .filter_map(|item| item.text(key, &Kind::Text, findings))
            .collect()
    }

    /// A mapping of names to strings, such as labels.
    pub fn map_of_texts(&self, key: &str, findings: &mut Findings) -> BTreeMap<String, Text> {
        let Some(entry) = self.entry(key) else {
            return BTreeMap::new();
        };
        let Content::Mapping(entries) = &entry.value.content else {
            let message = format!("`{key}` must be {}, found {}", Kind::Texts, describe(&entry.value));
            findings.error(entry.value.span, message, "write it as {name: value}");
            return BTreeMap::new();
        };
        let text = |entry: &Entry| Some((entry.key.clone(), entry.value.text(&entry.key, &Kind::Text, findings)?));
        entries.iter().filter_map(text).collect()
    }
}

impl Node {
    /// A string as written, ignoring YAML types: `no`, `0x10` and `1_000` are strings.
    pub fn text(&self, key: &str, kind: &Kind, findings: &mut Findings) -> Option<Text> {
        match &self.content {
            Content::Scalar { text, inset, .. } if !self.is_null() => Some(Text {
                value: text.clone(),
                span: self.span,
                inset: *inset,
            }),
            _ => {
                let help = match self.content {
                    Content::Mapping(_) if matches!(kind, Kind::Text) => "quote a string that begins with `{`",
                    Content::Scalar { .. } => "give it a value, or remove the key",
                    _ => "",
                };
                findings.error(
                    self.span,
                    format!("`{key}` must be {kind}, found {}", describe(self)),
                    help,
                );
                None
            }
        }
    }

    pub fn duration(&self, key: &str, findings: &mut Findings) -> Option<Spanned<Duration>> {
        self.parse(key, &Kind::Duration, findings, |text| {
            parse_duration(text).map_err(|error| Some(error.to_string()))
        })
    }

    pub fn flag(&self, key: &str, findings: &mut Findings) -> Option<Spanned<bool>> {
        self.parse(key, &Kind::Flag, findings, |text| match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            "yes" | "Yes" | "on" | "On" => Err(Some("YAML 1.2 has only true and false: write true".to_owned())),
            "no" | "No" | "off" | "Off" => Err(Some("YAML 1.2 has only true and false: write false".to_owned())),
            _ => Err(None),
        })
    }

    pub fn integer(&self, key: &str, kind: &Kind, findings: &mut Findings) -> Option<Spanned<i64>> {
        let Kind::Integer(least, most) = *kind else { return None };
        self.parse(key, kind, findings, |text| match text.parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            Ok(number) => Err(Some(format!(
                "the nearest allowed value is {}",
                number.clamp(least, most)
            ))),
            Err(_) => Err(Some("write plain decimal digits".to_owned())),
        })
    }

    pub fn choice(&self, key: &str, kind: &Kind, findings: &mut Findings) -> Option<Spanned<&'static str>> {
        let Kind::Choice(words) = *kind else { return None };
        self.parse(key, kind, findings, |text| {
            let word = words.iter().find(|word| **word == text);
            word.copied().ok_or_else(|| Some(suggest(text, "known", words)))
        })
    }

    /// Parses a string with `read`, whose error is the correction.
    fn parse<T>(
        &self,
        key: &str,
        kind: &Kind,
        findings: &mut Findings,
        read: impl FnOnce(&str) -> Result<T, Option<String>>,
    ) -> Option<Spanned<T>> {
        let text = self.text(key, kind, findings)?;
        match read(&text.value) {
            Ok(value) => Some(Spanned::new(value, self.span)),
            Err(help) => {
                findings.error(
                    self.span,
                    format!("`{key}` must be {kind}, found `{}`", text.value),
                    help.unwrap_or_default(),
                );
                None
            }
        }
    }
}

fn describe(node: &Node) -> String {
    match &node.content {
        Content::Scalar { .. } if node.is_null() => "nothing".to_owned(),
        Content::Scalar { text, .. } => format!("`{text}`"),
        Content::Sequence(_) => "a list".to_owned(),
        Content::Mapping(_) => "a mapping".to_owned(),
    }
}
