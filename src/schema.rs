//! Which keys a file may have, and what each takes: one table for reading, for error messages and for JSON Schema.
//! Knows nothing of any file in particular.

use std::fmt;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text; a bare number or truth value counts as its text.
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
    /// Names and texts, such as labels.
    Texts,
    /// A text, or the object for those who need more.
    TextOr(&'static Object),
}

/// A key of an object.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// One sentence for the reference and for editors.
    pub about: &'static str,
}

/// A mapping with known keys.
#[derive(Debug)]
pub struct Object {
    /// With its article, as messages name it: "a rule".
    pub title: &'static str,
    pub keys: &'static [Key],
    /// Exactly one key, as each rung of a ladder has.
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

impl Object {
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// What would be right, as messages say it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a text"),
            Kind::Duration => f.write_str("a duration such as 30s or 1m30s"),
            Kind::Size => f.write_str("a size such as 200MiB, or a number of bytes"),
            Kind::Integer(least, most) => write!(f, "a whole number from {least} to {most}"),
            Kind::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Kind::Flag => f.write_str("true or false"),
            Kind::Choice([word]) => f.write_str(word),
            Kind::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Kind::List(kind) => match kind {
                Kind::Text => f.write_str("a list of texts"),
                _ => f.write_str("a list"),
            },
            Kind::Object(object) => write!(f, "a mapping with the keys of {}", object.title),
            Kind::Texts => f.write_str("a mapping of names to texts"),
            Kind::TextOr(object) => write!(f, "a text, or a mapping with the keys of {}", object.title),
        }
    }
}
