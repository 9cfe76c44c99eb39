//! The schema of a file: its keys and the type of each. The readers, the error messages and the JSON Schema use these
//! tables.

use serde_json::{Map, Value, json};
use std::fmt;

/// The type of a key.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any string; an unquoted number or boolean counts as a string.
    Text,
    /// A duration as Prometheus writes it.
    Duration,
    /// Bytes, with an optional binary suffix.
    Size,
    /// A whole number within these bounds.
    Integer(i64, i64),
    /// A number within these bounds.
    Number(f64, f64),
    Flag,
    /// One of a closed list of words.
    Choice(&'static [&'static str]),
    List(&'static Kind),
    Object(&'static Object),
    /// Names with strings, such as labels.
    Texts,
    /// A string, or an object with more keys.
    TextOr(&'static Object),
    /// A list of strings, or an object with more keys.
    ListOr(&'static Object),
    /// Any JSON value.
    Json,
}

/// A key of an object.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// A description for the reference and for editors.
    pub about: &'static str,
}

/// A mapping with known keys.
#[derive(Debug)]
pub struct Object {
    /// The name with its article for messages: "a rule".
    pub title: &'static str,
    pub keys: &'static [Key],
    /// Exactly one key, as in each step of a rule.
    pub one_of: bool,
}

pub const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key {
        name,
        kind,
        required: false,
        about,
    }
}

pub const fn required(name: &'static str, kind: Kind, about: &'static str) -> Key {
    Key {
        name,
        kind,
        required: true,
        about,
    }
}

/// The keys of several tables as one table; `N` is their number.
pub const fn join<const N: usize>(tables: &[&[Key]]) -> [Key; N] {
    let mut keys = [optional("", Kind::Text, ""); N];
    let (mut count, mut table) = (0, 0);
    while table < tables.len() {
        let mut index = 0;
        while index < tables[table].len() {
            keys[count] = tables[table][index];
            count += 1;
            index += 1;
        }
        table += 1;
    }
    assert!(count == N, "N is the number of keys");
    keys
}

impl Object {
    pub const fn new(title: &'static str, keys: &'static [Key]) -> Object {
        Object {
            title,
            keys,
            one_of: false,
        }
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// Writes the type for messages.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a string"),
            Kind::Duration => f.write_str("a duration such as 30s or 1m30s"),
            Kind::Size => f.write_str("a size such as 200MiB, or a number of bytes"),
            Kind::Integer(least, most) => write!(f, "a whole number from {least} to {most}"),
            Kind::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Kind::Flag => f.write_str("true or false"),
            Kind::Choice([word]) => f.write_str(word),
            Kind::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Kind::List(kind) => match kind {
                Kind::Text => f.write_str("a list of strings"),
                _ => f.write_str("a list"),
            },
            Kind::Object(object) => write!(f, "a mapping with the keys of {}", object.title),
            Kind::Texts => f.write_str("a mapping of names to strings"),
            Kind::TextOr(object) => write!(f, "a string, or a mapping with the keys of {}", object.title),
            Kind::ListOr(object) => write!(f, "a list of strings, or a mapping with the keys of {}", object.title),
            Kind::Json => f.write_str("any value"),
        }
    }
}

/// A JSON Schema (draft 2020-12) for files whose root is this object, so that editors complete and check them.
pub fn json_schema(root: &'static Object) -> Value {
    let mut definitions = Map::new();
    define(root, &mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": reference(root),
        "$defs": definitions,
    })
}

fn reference(object: &Object) -> String {
    format!("#/$defs/{}", slug(object))
}

fn slug(object: &Object) -> String {
    let title = object.title;
    let bare = title.strip_prefix("a ").or(title.strip_prefix("the ")).unwrap_or(title);
    bare.replace(' ', "-")
}

fn define(object: &'static Object, definitions: &mut Map<String, Value>) {
    let slug = slug(object);
    if definitions.contains_key(&slug) {
        return;
    }
    // Inserted before its keys, because a selector may contain selectors.
    definitions.insert(slug.clone(), Value::Null);
    let mut properties = Map::new();
    for key in object.keys {
        let mut schema = schema_of(&key.kind, definitions);
        schema["description"] = json!(key.about);
        properties.insert(key.name.to_owned(), schema);
    }
    let required: Vec<&str> = object
        .keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    if object.one_of {
        schema["minProperties"] = json!(1);
        schema["maxProperties"] = json!(1);
    }
    definitions.insert(slug, schema);
}

fn schema_of(kind: &Kind, definitions: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Text => json!({"type": ["string", "number", "boolean"]}),
        Kind::Duration => json!({
            "type": ["string", "integer"],
            "pattern": r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$",
            "maximum": 0,
        }),
        Kind::Size => {
            json!({"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)? ?(KiB|MiB|GiB|TiB)$|^\d+$", "minimum": 0})
        }
        Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Number(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::List(kind) => json!({"type": "array", "items": schema_of(kind, definitions)}),
        Kind::Texts => json!({"type": "object", "additionalProperties": schema_of(&Kind::Text, definitions)}),
        Kind::Object(object) => {
            define(object, definitions);
            json!({"$ref": reference(object)})
        }
        Kind::TextOr(object) => {
            define(object, definitions);
            json!({"anyOf": [{"type": "string"}, {"$ref": reference(object)}]})
        }
        Kind::ListOr(object) => {
            define(object, definitions);
            let list = schema_of(&Kind::List(&Kind::Text), definitions);
            json!({"anyOf": [list, {"$ref": reference(object)}]})
        }
        Kind::Json => json!({}),
    }
}

#[cfg(test)]
pub mod tests;
