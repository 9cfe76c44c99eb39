//! The functions of templates in alerting rules, with exactly the results of Prometheus.

use super::labels::LabelSet;
use super::number;
use serde::Deserialize;

/// A value within a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Datum {
    Number(f64),
    Integer(i64),
    Text(String),
    Map(LabelSet),
}

/// What is wrong with a template, or with a value that it uses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("a template's {{{{ is not closed")]
    NotClosed,
    #[error("a template's parenthesis is not closed")]
    OpenParenthesis,
    #[error("a template action has more than {0} parentheses")]
    TooManyParentheses(usize),
    #[error("the template action {0:?} cannot be read")]
    Unreadable(String),
    #[error("a template action is empty")]
    Empty,
    #[error("a template action has two values and no function")]
    TwoValues,
    #[error("a template pipes into something that is not a function")]
    PipeIntoValue,
    #[error("the template refers to {0:?}, which is not supported")]
    UnsupportedLabel(String),
    #[error(
        "the template refers to {0:?}, which is not supported; there are $labels, $value, $externalLabels and \
         $externalURL"
    )]
    UnsupportedWord(String),
    #[error("the template uses {0:?}, which is not supported")]
    UnsupportedFunction(String),
    #[error("the template's {0} takes one argument")]
    OneArgument(String),
    #[error("a function lacks its argument")]
    NoArgument,
    #[error("the template's printf needs a literal format")]
    NoFormat,
    #[error("the template's printf verb %{0} is not supported, there are {VERBS}")]
    UnsupportedVerb(char),
    #[error("the template's index takes a set of labels and the name of one, as in index $labels \"name\"")]
    Index,
    #[error("{0:?} is not a number")]
    NotANumber(String),
    #[error("a set of labels is not a number")]
    LabelsAsNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Function {
    Humanize,
    Humanize1024,
    HumanizeDuration,
    HumanizePercentage,
    Index,
    Printf,
    Title,
    ToUpper,
    ToLower,
}

const VERBS: &str = "vsqdfFeEgGt";

impl Function {
    /// Checks the arguments as far as possible before the values are known.
    pub fn check(self, arguments: usize, first_literal: Option<&Datum>) -> Result<(), TemplateError> {
        if self == Function::Index {
            return if arguments == 2 {
                Ok(())
            } else {
                Err(TemplateError::Index)
            };
        }
        if self != Function::Printf {
            let name = format!("{self:?}");
            let name = name[..1].to_lowercase() + &name[1..];
            return if arguments == 1 {
                Ok(())
            } else {
                Err(TemplateError::OneArgument(name))
            };
        }
        let Some(Datum::Text(format)) = first_literal else {
            return Err(TemplateError::NoFormat);
        };
        for piece in pieces(format) {
            if let FormatPiece::Verb { verb, .. } = piece
                && !VERBS.contains(verb)
            {
                return Err(TemplateError::UnsupportedVerb(verb));
            }
        }
        Ok(())
    }

    pub fn call(self, arguments: &[Datum]) -> Result<Datum, TemplateError> {
        let (Some(first), rest) = (arguments.first(), arguments.get(1..).unwrap_or_default()) else {
            return Err(TemplateError::NoArgument);
        };
        Ok(Datum::Text(match self {
            Function::Index => match (first, rest) {
                (Datum::Map(labels), [Datum::Text(name)]) => labels.get(name).to_owned(),
                _ => return Err(TemplateError::Index),
            },
            Function::Humanize => humanize(first.to_number()?),
            Function::Humanize1024 => humanize1024(first.to_number()?),
            Function::HumanizeDuration => humanize_duration(first.to_number()?),
            Function::HumanizePercentage => format!("{}%", number::general_precise(first.to_number()? * 100.0, 4)),
            Function::Printf => printf(&first.to_string(), rest),
            Function::Title => title(&first.to_string()),
            Function::ToUpper => first.to_string().to_uppercase(),
            Function::ToLower => first.to_string().to_lowercase(),
        }))
    }
}

impl Datum {
    fn to_number(&self) -> Result<f64, TemplateError> {
        match self {
            Datum::Number(value) => Ok(*value),
            Datum::Integer(value) => Ok(*value as f64),
            Datum::Text(text) => text.parse().map_err(|_| TemplateError::NotANumber(text.clone())),
            Datum::Map(_) => Err(TemplateError::LabelsAsNumber),
        }
    }

    /// Go's name of the type.
    fn type_name(&self) -> &'static str {
        match self {
            Datum::Number(_) => "float64",
            Datum::Integer(_) => "int",
            Datum::Text(_) => "string",
            Datum::Map(_) => "map[string]string",
        }
    }
}

fn scaled(mut value: f64, prefixes: &[&str], is_done: fn(f64) -> bool, step: fn(f64) -> f64) -> String {
    let mut prefix = "";
    for next in prefixes {
        if is_done(value.abs()) {
            break;
        }
        prefix = next;
        value = step(value);
    }
    format!("{}{prefix}", number::general_precise(value, 4))
}

/// Multiplies as often as Prometheus divides, because the rounding is visible in the result.
fn scaled_up(value: f64) -> String {
    let prefixes = ["m", "u", "n", "p", "f", "a", "z", "y"];
    scaled(value, &prefixes, |size| size >= 1.0, |value| value * 1000.0)
}

fn humanize(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        number::general_precise(value, 4)
    } else if value.abs() >= 1.0 {
        let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
        scaled(value, &prefixes, |size| size < 1000.0, |value| value / 1000.0)
    } else {
        scaled_up(value)
    }
}

fn humanize1024(value: f64) -> String {
    if value.abs() <= 1.0 || !value.is_finite() {
        return number::general_precise(value, 4);
    }
    let prefixes = ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"];
    scaled(value, &prefixes, |size| size < 1024.0, |value| value / 1024.0)
}

fn humanize_duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return number::general_precise(seconds, 4);
    }
    if seconds == 0.0 {
        return "0s".into();
    }
    if seconds.abs() < 1.0 {
        return format!("{}s", scaled_up(seconds));
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let whole = seconds.abs() as i64;
    let (s, m, h, d) = (whole % 60, whole / 60 % 60, whole / 3600 % 24, whole / 86_400);
    if d != 0 {
        format!("{sign}{d}d {h}h {m}m {s}s")
    } else if h != 0 {
        format!("{sign}{h}h {m}m {s}s")
    } else if m != 0 {
        format!("{sign}{m}m {s}s")
    } else {
        format!("{sign}{}s", number::general_precise(seconds.abs(), 4))
    }
}

/// Go's `strings.Title`: capitalises a letter after a character that is no letter, digit or underscore.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            titled.push(c)
        } else {
            titled.extend(c.to_uppercase())
        }
        in_word = c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace());
    }
    titled
}

#[derive(Debug, PartialEq)]
enum FormatPiece<'a> {
    Text(&'a str),
    Verb {
        flags: &'a str,
        width: usize,
        precision: Option<usize>,
        verb: char,
    },
}

fn pieces(format: &str) -> Vec<FormatPiece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        if at > 0 {
            pieces.push(FormatPiece::Text(&rest[..at]));
        }
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            pieces.push(FormatPiece::Text("%"));
            rest = after;
            continue;
        }
        let take = |rest: &mut &'_ str, accepts: fn(char) -> bool| {
            let end = rest.find(|c| !accepts(c)).unwrap_or(rest.len());
            let (taken, after) = rest.split_at(end);
            *rest = after;
            taken.len()
        };
        let start = rest;
        let flags = &start[..take(&mut rest, |c| "+-0 ".contains(c))];
        let start = rest;
        let width = start[..take(&mut rest, |c| c.is_ascii_digit())].parse().unwrap_or(0);
        let precision = rest.strip_prefix('.').map(|after| {
            rest = after;
            after[..take(&mut rest, |c| c.is_ascii_digit())].parse().unwrap_or(0)
        });
        let verb = rest.chars().next().unwrap_or('!');
        rest = rest.get(verb.len_utf8()..).unwrap_or_default();
        pieces.push(FormatPiece::Verb {
            flags,
            width,
            precision,
            verb,
        });
    }
    if !rest.is_empty() {
        pieces.push(FormatPiece::Text(rest));
    }
    pieces
}

/// Maximum padding of a number, because a typing error must not use up the memory.
const MAX_WIDTH: usize = 1000;

fn printf(format: &str, arguments: &[Datum]) -> String {
    let mut text = String::new();
    let mut arguments = arguments.iter();
    for piece in pieces(format) {
        match piece {
            FormatPiece::Text(literal) => text.push_str(literal),
            FormatPiece::Verb {
                flags,
                width,
                precision,
                verb,
            } => match arguments.next() {
                None => text.push_str(&format!("%!{verb}(MISSING)")),
                Some(argument) => {
                    let precision = precision.map(|precision| precision.min(MAX_WIDTH));
                    let formatted = argument.formatted(verb, precision);
                    let formatted =
                        formatted.unwrap_or_else(|| format!("%!{verb}({}={argument})", argument.type_name()));
                    text.push_str(&padded(formatted, flags, width.min(MAX_WIDTH), argument));
                }
            },
        }
    }
    let extra: Vec<String> = arguments
        .map(|extra| format!("{}={extra}", extra.type_name()))
        .collect();
    if !extra.is_empty() {
        text.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text
}

impl Datum {
    fn formatted(&self, verb: char, precision: Option<usize>) -> Option<String> {
        Some(match (verb, self) {
            ('v' | 'g' | 'G', Datum::Number(value)) => match precision {
                Some(digits) => number::general_precise(*value, digits),
                None => number::general(*value),
            },
            ('f' | 'F', Datum::Number(value)) => number::fixed(*value, precision.unwrap_or(6)),
            ('e' | 'E', Datum::Number(value)) => number::exponential(*value, Some(precision.unwrap_or(6))),
            ('v' | 'd', Datum::Integer(value)) => value.to_string(),
            ('v' | 's', Datum::Text(text)) => match precision {
                Some(most) => text.chars().take(most).collect(),
                None => text.clone(),
            },
            ('q', Datum::Text(text)) => format!("{text:?}"),
            ('v' | 's', Datum::Map(_)) => self.to_string(),
            _ => return None,
        })
        .map(|text| {
            if matches!(verb, 'E' | 'G') {
                text.replace('e', "E")
            } else {
                text
            }
        })
    }
}

fn padded(mut text: String, flags: &str, width: usize, argument: &Datum) -> String {
    let is_number = matches!(argument, Datum::Number(_) | Datum::Integer(_));
    if is_number && !text.starts_with(['-', '+', '%', 'N']) {
        if flags.contains('+') {
            text.insert(0, '+');
        } else if flags.contains(' ') {
            text.insert(0, ' ');
        }
    }
    let missing = width.saturating_sub(text.chars().count());
    if missing == 0 {
        text
    } else if flags.contains('-') {
        text + &" ".repeat(missing)
    } else if flags.contains('0') && is_number {
        let signs = usize::from(text.starts_with(['-', '+', ' ']));
        text.insert_str(signs, &"0".repeat(missing));
        text
    } else {
        " ".repeat(missing) + &text
    }
}
