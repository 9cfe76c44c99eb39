//! The reader of YAML that libyaml accepts and YAML 1.2 does not, such as `]` without indentation, because Go's YAML
//! library is a port of libyaml. The tree has no positions.

use super::node::{Content, Entry, Node};
use crate::diagnostic::Span;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value;
use std::fmt;

/// The span of a value without a position.
const NOWHERE: Span = Span {
    line: 0,
    column: 0,
    width: 0,
};

/// The documents of a text; `None` if libyaml refuses it. The crate keeps the text of a scalar only where a string is
/// wanted, so the first pass finds the shape, and the second one reads the text of every scalar.
pub(super) fn parse_all(text: &str) -> Option<Vec<Node>> {
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
            entries.push(Entry {
                key: text,
                key_span: NOWHERE,
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
            ("1.0:\t[&x 1.10]\nc: [*x,\n]\n", r#"{"1.0": ["1.10"], "c": ["1.10"]}"#),
        ] {
            let source = SourceText::new("x.yml", text);
            let read: BTreeMap<String, Vec<String>> = from_str(&source).unwrap();
            let expected: BTreeMap<String, Vec<String>> = serde_json::from_str(expected).unwrap();
            assert_eq!(read, expected, "{text}");
            assert_eq!(document(&source).unwrap().place(), None, "{text}");
        }
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
            (None, "invalid type: string \"c\", expected a sequence")
        );
    }
}
