//! The reader of YAML that libyaml accepts and YAML 1.2 does not, such as `]` without indentation, because Go's YAML
//! library is a port of libyaml. The tree has no positions. The crate bounds the depth and not the size, and binds an
//! alias to another anchor where two have one name, so that a text with an alias is refused: without one a tree is no
//! larger than its text.

use super::merge::MERGE;
use super::node::{Content, Entry, Node};
use crate::diagnostic::Span;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;
use std::collections::HashSet;
use std::fmt;

/// The span of a value without a position.
const NOWHERE: Span = Span {
    line: 0,
    column: 0,
    width: 0,
};

/// The documents of a text.
///
/// # Errors
/// What this reader refuses in it; nothing if libyaml refuses it.
pub(super) fn parse_all(text: &str) -> Result<Vec<Node>, String> {
    match refused(text) {
        None => read(text).ok_or_else(String::new),
        Some((at, what)) => {
            let line = text[..at].matches('\n').count() + 1;
            Err(format!(
                "evenkeel reads what only Go's YAML library accepts, but not with {what}, as in line {line}"
            ))
        }
    }
}

/// The offset and name of what may be an alias, or a tag that the crate ignores. Only a parser knows whether it is in a
/// string, so that some strings are refused as well.
fn refused(text: &str) -> Option<(usize, &'static str)> {
    let anchors: HashSet<&str> = names(text, '&').map(|(_, name)| name).collect();
    let alias = names(text, '*').find(|(_, name)| anchors.contains(name));
    let mut tags = ["!!binary", "2002:binary"].iter().filter_map(|tag| text.find(tag));
    let alias = alias.map(|(at, _)| (at, "an alias"));
    alias.or_else(|| Some((tags.next()?, "the tag `!!binary`")))
}

/// The names behind a sign, as libyaml reads those of anchors and aliases, with the offset of the sign.
fn names(text: &str, sign: char) -> impl Iterator<Item = (usize, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(sign).filter_map(move |(at, _)| {
        let rest = &text[at + 1..];
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        (!name.is_empty()).then_some((at, name))
    })
}

/// The crate keeps the text of a scalar only where a string is wanted, so the first pass finds the shape, and the second
/// one reads the text of every scalar.
fn read(text: &str) -> Option<Vec<Node>> {
    let documents = || serde_yaml::Deserializer::from_str(text);
    let shapes: Vec<Value> = documents().map(Value::deserialize).collect::<Result<_, _>>().ok()?;
    let texts = documents().zip(&shapes);
    let texts = texts.map(|(document, shape)| Shape(shape).deserialize(document));
    texts.collect::<Result<_, _>>().ok()
}

/// The value at a place in the first pass, which says what to read there in the second.
struct Shape<'s>(&'s Value);

impl<'de> DeserializeSeed<'de> for Shape<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Value::Sequence(_) => deserializer.deserialize_seq(self),
            Value::Mapping(_) => deserializer.deserialize_map(self),
            Value::Tagged(_) => Err(D::Error::custom("YAML tags are not supported")),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => deserializer.deserialize_str(self),
        }
    }
}

impl<'de> Visitor<'de> for Shape<'_> {
    type Value = Node;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the value of the first pass")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        let content = Content::Scalar {
            text: text.to_owned(),
            plain: !self.0.is_string(),
            inset: None,
        };
        Ok(Node { span: NOWHERE, content })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        for shape in self.0.as_sequence().into_iter().flatten() {
            items.extend(sequence.next_element_seed(Shape(shape))?);
        }
        let content = Content::Sequence(items);
        Ok(Node { span: NOWHERE, content })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        for (key, value) in self.0.as_mapping().into_iter().flatten() {
            let Some(Node {
                content: Content::Scalar { text, .. },
                ..
            }) = mapping.next_key_seed(Shape(key))?
            else {
                return Err(A::Error::custom("a key must be a string"));
            };
            if text == MERGE {
                return Err(A::Error::custom("a merge key, or a string like one"));
            }
            entries.push(Entry {
                key: text,
                key_span: NOWHERE,
                has_plain_key: false,
                value: mapping.next_value_seed(Shape(value))?,
            });
        }
        let content = Content::Mapping(entries);
        Ok(Node { span: NOWHERE, content })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{document, from_str};
    use crate::diagnostic::SourceText;
    use std::collections::BTreeMap;

    #[test]
    fn what_only_libyaml_accepts_is_read_as_text() {
        for (text, expected) in [
            ("a: [\n1.10,\nyes\n]\n", r#"{"a": ["1.10", "yes"]}"#),
            ("a: [\n~, 'null', 0x1f, b\n]\n", r#"{"a": ["", "null", "0x1f", "b"]}"#),
            ("a: [\"b\nc\", 'd'#e\n]\n", r#"{"a": ["b c", "d"]}"#),
            (
                "1.0:\t[&x 1.10]\nc: ['a *b', '*',\n]\n",
                r#"{"1.0": ["1.10"], "c": ["a *b", "*"]}"#,
            ),
        ] {
            let source = SourceText::new("x.yml", text);
            let read: BTreeMap<String, Vec<String>> = from_str(&source).unwrap();
            let expected: BTreeMap<String, Vec<String>> = serde_json::from_str(expected).unwrap();
            assert_eq!(read, expected, "{text}");
            assert_eq!(document(&source).unwrap().place(), None, "{text}");
        }
    }

    #[test]
    fn what_may_be_an_alias_is_refused() {
        for (text, what, line) in [
            ("a: [\n&x 1\n]\nb: [*x]\n", "an alias", 4),
            // The crate would bind it to the list.
            ("a: [\n&x 1, &y [2], &x 3, *x\n]\n", "an alias", 2),
            ("a: [\n!!binary YQ==\n]\n", "the tag `!!binary`", 2),
        ] {
            let error = document(&SourceText::new("x.yml", text)).unwrap_err();
            assert!(error.message.starts_with("this is not YAML"), "{error:?}");
            let expected = format!("not with {what}, as in line {line}");
            assert!(error.help.as_ref().unwrap().ends_with(&expected), "{error:?}");
        }
        let error = document(&SourceText::new("x.yml", "a: [\n1\n]\nb: {'<<': {c: 1}}\n")).unwrap_err();
        assert!(error.message.starts_with("this is not YAML"), "{error:?}");
    }

    #[test]
    fn error_of_both_parsers_is_that_with_a_place() {
        let source = SourceText::new("x.yml", "a: [\n]\nb: [\n");
        let error = from_str::<BTreeMap<String, Vec<String>>>(&source).unwrap_err();
        assert!(
            error.span.is_some() && error.message.starts_with("this is not YAML"),
            "{error:?}"
        );
        let source = SourceText::new("x.yml", "a: [\n]\nb: c\n");
        let error = from_str::<BTreeMap<String, Vec<String>>>(&source).unwrap_err();
        assert_eq!(
            (error.span, error.message.as_str()),
            (None, "invalid type: a string, expected a sequence")
        );
    }
}
