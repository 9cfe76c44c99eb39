//! A serde deserializer that reads a tree as Go's YAML library does, because the formats of other programs are defined
//! by it: a string is the text of the file whatever its YAML type, and null is the zero value.

use super::node::{Content, Entry, Node};
use crate::diagnostic::Span;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use std::fmt::Display;

/// A mistake in a format that others define.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PartError {
    pub message: String,
    /// `None` until the innermost value around the mistake adds its place, and where values have none.
    pub span: Option<Span>,
}

/// What a wrong value is. A string is not quoted, because it may be a secret that stands in the wrong place.
fn unquoted(found: Unexpected) -> Unexpected {
    match found {
        Unexpected::Str(_) => Unexpected::Other("a string"),
        other => other,
    }
}

impl serde::de::Error for PartError {
    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        PartError::custom(format_args!("invalid type: {}, expected {expected}", unquoted(found)))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        PartError::custom(format_args!("invalid value: {}, expected {expected}", unquoted(found)))
    }

    fn custom<T: Display>(message: T) -> Self {
        PartError {
            message: message.to_string(),
            span: None,
        }
    }
}

/// Reads a value of a foreign format.
///
/// # Errors
/// The first error, with its place.
pub fn from_node<T: DeserializeOwned>(node: &Node) -> Result<T, PartError> {
    T::deserialize(Reader(node)).map_err(|error| error.within(node.span))
}

impl PartError {
    fn within(self, span: Span) -> Self {
        PartError {
            span: self.span.or(Some(span)).filter(|span| span.line > 0),
            ..self
        }
    }
}

/// What a plain scalar is where no string is wanted.
#[derive(Debug, PartialEq)]
enum Scalar {
    Null,
    Bool(bool),
    Integer(i64),
    Large(u64),
    Float(f64),
    Text,
}

/// The type of a plain scalar in YAML 1.2, with the integers of Go: `0x1f`, `0o17`, `017`, `0b1` and `1_000`.
fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Scalar::Text;
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let (digits_in_base, base) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0o" | "0O") => (&digits[2..], 8),
        Some("0b" | "0B") => (&digits[2..], 2),
        Some(start) if start.starts_with('0') => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if digits_in_base.starts_with(|c: char| c.is_ascii_hexdigit()) {
        if let Ok(number) = i64::from_str_radix(&format!("{sign}{digits_in_base}"), base) {
            return Scalar::Integer(number);
        }
        if let (true, Ok(number)) = (sign.is_empty(), u64::from_str_radix(digits_in_base, base)) {
            return Scalar::Large(number);
        }
    }
    let is_float = digits
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    match plain.parse() {
        Ok(number) if is_float => Scalar::Float(number),
        _ => Scalar::Text,
    }
}

struct Reader<'n>(&'n Node);

impl<'n> Reader<'n> {
    fn entries(&self) -> Option<&'n [Entry]> {
        match &self.0.content {
            Content::Mapping(entries) => Some(entries),
            _ => self.0.is_null().then_some(&[]),
        }
    }

    fn items(&self) -> Option<&'n [Node]> {
        match &self.0.content {
            Content::Sequence(items) => Some(items),
            _ => self.0.is_null().then_some(&[]),
        }
    }

    fn wrong<'de, V: Visitor<'de>>(&self, visitor: &V) -> PartError {
        let found = match &self.0.content {
            Content::Scalar { text, .. } => Unexpected::Str(text),
            Content::Sequence(_) => Unexpected::Seq,
            Content::Mapping(_) => Unexpected::Map,
        };
        PartError::invalid_type(found, visitor)
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = PartError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        let result = match &self.0.content {
            Content::Sequence(_) => return self.deserialize_seq(visitor),
            Content::Mapping(_) => return self.deserialize_map(visitor),
            Content::Scalar { text, plain: false, .. } => visitor.visit_str(text),
            Content::Scalar { text, .. } => match resolve(text) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(value) => visitor.visit_bool(value),
                Scalar::Integer(number) => visitor.visit_i64(number),
                Scalar::Large(number) => visitor.visit_u64(number),
                Scalar::Float(number) => visitor.visit_f64(number),
                Scalar::Text => visitor.visit_str(text),
            },
        };
        result.map_err(|error: PartError| error.within(self.0.span))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        let result = match &self.0.content {
            _ if self.0.is_null() => visitor.visit_str(""),
            Content::Scalar { text, .. } => visitor.visit_str(text),
            _ => Err(self.wrong(&visitor)),
        };
        result.map_err(|error: PartError| error.within(self.0.span))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        match &self.0.content {
            _ if self.0.is_null() => visitor.visit_bool(false),
            // Booleans of YAML 1.1.
            Content::Scalar { text, plain: true, .. } if matches!(text.as_str(), "y" | "Y" | "yes" | "on") => {
                visitor.visit_bool(true)
            }
            Content::Scalar { text, plain: true, .. } if matches!(text.as_str(), "n" | "N" | "no" | "off") => {
                visitor.visit_bool(false)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        if self.0.is_null() {
            return visitor.visit_i64(0);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        if self.0.is_null() {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        let result = match self.items() {
            Some(items) => visitor.visit_seq(Items(items)),
            None => Err(self.wrong(&visitor)),
        };
        result.map_err(|error: PartError| error.within(self.0.span))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PartError> {
        let result = match self.entries() {
            Some(entries) => visitor.visit_map(Entries { entries, value: None }),
            None => Err(self.wrong(&visitor)),
        };
        result.map_err(|error: PartError| error.within(self.0.span))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PartError> {
        self.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 u8 u16 u32 u64 f32 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct enum
        identifier ignored_any
    }
}

struct Items<'n>(&'n [Node]);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = PartError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, PartError> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        self.0 = rest;
        let value = seed.deserialize(Reader(first));
        value.map(Some).map_err(|error| error.within(first.span))
    }
}

struct Entries<'n> {
    entries: &'n [Entry],
    /// The value of the key that was read last.
    value: Option<&'n Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = PartError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, PartError> {
        let Some((first, rest)) = self.entries.split_first() else {
            return Ok(None);
        };
        self.entries = rest;
        self.value = Some(&first.value);
        let key = seed.deserialize(StrDeserializer::<PartError>::new(&first.key));
        key.map(Some).map_err(|error| error.within(first.key_span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, PartError> {
        let node = self
            .value
            .take()
            .ok_or_else(|| PartError::custom("a value without its key"))?;
        seed.deserialize(Reader(node)).map_err(|error| error.within(node.span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Findings, SourceText};
    use crate::yaml::parse;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    fn read<T: DeserializeOwned>(text: &str) -> Result<T, PartError> {
        let source = SourceText::new("x.yml", text);
        let mut findings = Findings::new(&source);
        let node = parse(&mut findings).expect("a document");
        from_node(&node)
    }

    #[test]
    fn strings_are_the_text_of_the_file() {
        for text in [
            "1.10",
            "yes",
            "0x1f",
            "1e3",
            "1_000",
            "017",
            "+1",
            "2026-01-02",
            "2026-01-02T03:04:05Z",
            ".inf",
            ".nan",
            "True",
            "-0",
            "99999999999999999999",
            "1:30",
        ] {
            let expected = BTreeMap::from([(text.to_owned(), text.to_owned())]);
            // The key keeps its text as well.
            let read: BTreeMap<String, String> = read(&format!("{text}: {text}\n")).unwrap();
            assert_eq!(read, expected);
        }
        for null in ["", "~", "null", "Null", "NULL", "''"] {
            let read: BTreeMap<String, String> = read(&format!("a: {null}\n")).unwrap();
            assert_eq!(read["a"], "", "{null}");
        }
        let quoted: Vec<String> = read("['null', \"~\", !!str null, !!int 7]").unwrap();
        assert_eq!(quoted, ["null", "~", "null", "7"]);
    }

    #[test]
    fn numbers_are_those_of_go() {
        for (text, expected) in [
            ("10", Scalar::Integer(10)),
            ("-0x1F", Scalar::Integer(-31)),
            ("017", Scalar::Integer(15)),
            ("0o17", Scalar::Integer(15)),
            ("0b11", Scalar::Integer(3)),
            ("+1_000", Scalar::Integer(1000)),
            ("0", Scalar::Integer(0)),
            ("18446744073709551615", Scalar::Large(u64::MAX)),
            ("18446744073709551616", Scalar::Float(18_446_744_073_709_551_616.0)),
            ("1e3", Scalar::Float(1000.0)),
            ("08", Scalar::Float(8.0)),
            (".5", Scalar::Float(0.5)),
            ("-.inf", Scalar::Float(f64::NEG_INFINITY)),
            ("TRUE", Scalar::Bool(true)),
            ("~", Scalar::Null),
            ("NaN", Scalar::Text),
            ("inf", Scalar::Text),
            ("+inf", Scalar::Text),
            ("0x", Scalar::Text),
            ("1.2.3", Scalar::Text),
            ("-", Scalar::Text),
            ("yes", Scalar::Text),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }

    #[derive(Debug, Deserialize, Default, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        count: Option<i64>,
        #[serde(default)]
        value: f64,
        #[serde(default)]
        is_on: bool,
        #[serde(default)]
        items: Vec<String>,
    }

    #[test]
    fn null_is_the_zero_value() {
        let sample: Sample = read("{name: , count: ~, value: null, is_on: , items: }").unwrap();
        assert_eq!(sample, Sample::default());
        assert!(read::<Sample>("{name: a, is_on: yes}").unwrap().is_on);
        assert!(!read::<Sample>("{name: a, is_on: off}").unwrap().is_on);
    }

    #[test]
    fn errors_have_the_place_of_the_innermost_value() {
        for (text, expected) in [
            ("name: a\nvalue: b\n", "2:8 invalid type: a string, expected f64"),
            (
                "name: a\nis_on: 'true'\n",
                "2:8 invalid type: a string, expected a boolean",
            ),
            (
                "name: a\nitems:\n- b\n- {}\n",
                "4:3 invalid type: map, expected a string",
            ),
            ("name: a\nitems: b\n", "2:8 invalid type: a string, expected a sequence"),
            (
                "name: a\nother: b\n",
                "2:1 unknown field `other`, expected one of `name`, `count`, `value`, `is_on`, `items`",
            ),
            ("\nvalue: 1\n", "2:1 missing field `name`"),
            ("[]\n", "1:1 invalid type: sequence, expected struct Sample"),
        ] {
            let error = read::<Sample>(text).unwrap_err();
            let span = error.span.unwrap();
            assert_eq!(format!("{}:{} {error}", span.line, span.column), expected, "{text:?}");
        }
    }
}
