//! The subset of Go's templates that alerting rules use in labels and annotations. Unsupported templates are refused
//! when the rule is loaded, never when it fires.

use super::labels::LabelSet;
use super::number;
use super::promql::by_name;
use super::template_function::{Datum, Function, TemplateError};

/// The template of a label or annotation.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

/// The data of a template.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub labels: &'a LabelSet,
    pub value: f64,
    pub external_labels: &'a LabelSet,
    pub external_url: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Action(Operand),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Labels,
    Label(String),
    Value,
    ExternalLabels,
    ExternalLabel(String),
    ExternalUrl,
    Literal(Datum),
    Call(Function, Vec<Operand>),
}

impl Template {
    /// # Errors
    /// Names the error or the unsupported part.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = source;
        let mut trims_next = false;
        while let Some(open) = rest.find("{{") {
            let (text, after) = (&rest[..open], &rest[open + 2..]);
            let close = find_close(after).ok_or(TemplateError::NotClosed)?;
            let mut action = &after[..close];
            let text = if trims_next { text.trim_start() } else { text };
            let text = match action.strip_prefix("- ") {
                Some(inner) => {
                    action = inner;
                    text.trim_end()
                }
                None => text,
            };
            trims_next = action.ends_with(" -");
            let action = action.strip_suffix(" -").unwrap_or(action).trim();
            if !text.is_empty() {
                pieces.push(Piece::Text(text.into()));
            }
            if !action.starts_with("/*") {
                pieces.push(Piece::Action(parse_action(action)?));
            }
            rest = &after[close + 2..];
        }
        let rest = if trims_next { rest.trim_start() } else { rest };
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Template {
            source: source.into(),
            pieces,
        })
    }

    /// The source of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Expands the template. If a function rejects its argument, the result contains the error, as in Prometheus.
    pub fn expand(&self, facts: Facts<'_>) -> String {
        let mut expanded = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => expanded.push_str(text),
                Piece::Action(operand) => match operand.value(facts) {
                    Ok(datum) => expanded.push_str(&datum.to_string()),
                    Err(message) => return format!("<error expanding template: {message}>"),
                },
            }
        }
        expanded
    }
}

impl Operand {
    fn value(&self, facts: Facts<'_>) -> Result<Datum, TemplateError> {
        Ok(match self {
            Operand::Labels => Datum::Map(facts.labels.clone()),
            Operand::Label(name) => Datum::Text(facts.labels.get(name).into()),
            Operand::Value => Datum::Number(facts.value),
            Operand::ExternalLabels => Datum::Map(facts.external_labels.clone()),
            Operand::ExternalLabel(name) => Datum::Text(facts.external_labels.get(name).into()),
            Operand::ExternalUrl => Datum::Text(facts.external_url.into()),
            Operand::Literal(datum) => datum.clone(),
            Operand::Call(function, arguments) => {
                let arguments: Vec<Datum> = arguments
                    .iter()
                    .map(|argument| argument.value(facts))
                    .collect::<Result<_, _>>()?;
                function.call(&arguments)?
            }
        })
    }
}

/// The end of an action, outside of quotes.
fn find_close(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// Bound on parentheses, because parsing and expanding recurse into them.
const MAX_PARENTHESES: usize = 50;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Open,
    Close,
    Pipe,
}

fn parse_action(text: &str) -> Result<Operand, TemplateError> {
    let tokens = tokens(text)?;
    if tokens.iter().filter(|token| **token == Token::Open).count() > MAX_PARENTHESES {
        return Err(TemplateError::TooManyParentheses(MAX_PARENTHESES));
    }
    let mut at = 0;
    let operand = line(&tokens, &mut at)?;
    if at < tokens.len() {
        Err(TemplateError::Unreadable(text.to_owned()))
    } else {
        Ok(operand)
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let unreadable = || TemplateError::Unreadable(text.to_owned());
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | '|' => {
                tokens.push(match first {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    _ => Token::Pipe,
                });
                1
            }
            '"' => {
                // JSON has the escapes of Go that are in use. Others are rejected instead of misread.
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                tokens.push(Token::Quoted(
                    stream.next().and_then(Result::ok).ok_or_else(unreadable)?,
                ));
                stream.byte_offset()
            }
            '`' => {
                let end = rest[1..].find('`').ok_or_else(unreadable)?;
                tokens.push(Token::Quoted(rest[1..=end].into()));
                end + 2
            }
            _ => {
                let is_end = |c: char| c.is_whitespace() || "()|\"`".contains(c);
                let end = rest.find(is_end).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].into()));
                end
            }
        };
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// Parses `command | command …`, where the value of each is the last argument of the next.
fn line(tokens: &[Token], at: &mut usize) -> Result<Operand, TemplateError> {
    let mut value = None;
    loop {
        value = Some(command(tokens, at, value)?);
        if tokens.get(*at) != Some(&Token::Pipe) {
            break;
        }
        *at += 1;
    }
    value.ok_or(TemplateError::Empty)
}

fn command(tokens: &[Token], at: &mut usize, piped: Option<Operand>) -> Result<Operand, TemplateError> {
    if let Some(Token::Word(word)) = tokens.get(*at)
        && word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word != "true"
        && word != "false"
    {
        let function: Function = by_name(word).ok_or_else(|| TemplateError::UnsupportedFunction(word.clone()))?;
        *at += 1;
        let mut arguments = Vec::new();
        while let Some(argument) = operand(tokens, at)? {
            arguments.push(argument);
        }
        arguments.extend(piped);
        let literals = arguments.first().and_then(|first| match first {
            Operand::Literal(datum) => Some(datum),
            _ => None,
        });
        function.check(arguments.len(), literals)?;
        let has_labels = matches!(arguments.first(), Some(Operand::Labels | Operand::ExternalLabels));
        if function == Function::Index && !has_labels {
            return Err(TemplateError::Index);
        }
        return Ok(Operand::Call(function, arguments));
    }
    if piped.is_some() {
        return Err(TemplateError::PipeIntoValue);
    }
    let value = operand(tokens, at)?.ok_or(TemplateError::Empty)?;
    match operand(tokens, at)? {
        Some(_) => Err(TemplateError::TwoValues),
        None => Ok(value),
    }
}

fn operand(tokens: &[Token], at: &mut usize) -> Result<Option<Operand>, TemplateError> {
    let operand = match tokens.get(*at) {
        Some(Token::Quoted(text)) => Operand::Literal(Datum::Text(text.clone())),
        Some(Token::Word(word)) => word_operand(word)?,
        Some(Token::Open) => {
            *at += 1;
            let inner = line(tokens, at)?;
            if tokens.get(*at) != Some(&Token::Close) {
                return Err(TemplateError::OpenParenthesis);
            }
            inner
        }
        Some(Token::Close | Token::Pipe) | None => return Ok(None),
    };
    *at += 1;
    Ok(Some(operand))
}

/// Whether a label can stand after a dot. Go reads letters and digits of any script; others need `index`.
fn is_field_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_alphabetic() || c == '_';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_numeric())
}

fn word_operand(word: &str) -> Result<Operand, TemplateError> {
    let label = |rest: &str| {
        let name = rest
            .strip_prefix('.')
            .filter(|name| is_field_name(name))
            .map(str::to_owned);
        name.ok_or_else(|| TemplateError::UnsupportedLabel(word.to_owned()))
    };
    for prefix in ["$labels", ".Labels"] {
        match word.strip_prefix(prefix) {
            Some("") => return Ok(Operand::Labels),
            Some(rest) => return label(rest).map(Operand::Label),
            None => {}
        }
    }
    for prefix in ["$externalLabels", ".ExternalLabels"] {
        match word.strip_prefix(prefix) {
            Some("") => return Ok(Operand::ExternalLabels),
            Some(rest) => return label(rest).map(Operand::ExternalLabel),
            None => {}
        }
    }
    match word {
        "$value" | ".Value" => return Ok(Operand::Value),
        "$externalURL" | ".ExternalURL" => return Ok(Operand::ExternalUrl),
        _ => {}
    }
    let number = word
        .parse()
        .map(Datum::Integer)
        .ok()
        .or_else(|| word.parse().map(Datum::Number).ok());
    match number {
        Some(number) if word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') => {
            Ok(Operand::Literal(number))
        }
        _ => Err(TemplateError::UnsupportedWord(word.to_owned())),
    }
}

impl std::fmt::Display for Datum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Datum::Number(value) => f.write_str(&number::general(*value)),
            Datum::Integer(value) => write!(f, "{value}"),
            Datum::Text(text) => f.write_str(text),
            Datum::Map(labels) => {
                let pairs: Vec<String> = labels
                    .pairs()
                    .iter()
                    .map(|(name, value)| format!("{name}:{value}"))
                    .collect();
                write!(f, "map[{}]", pairs.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, value: f64) -> String {
        let labels = LabelSet::from_pairs([("instance", "web-1"), ("job", "node")]);
        let external_labels = LabelSet::from_pairs([("site", "here")]);
        let facts = Facts {
            labels: &labels,
            value,
            external_labels: &external_labels,
            external_url: "http://x",
        };
        Template::parse(text).unwrap().expand(facts)
    }

    #[test]
    fn templates_expand_as_in_prometheus() {
        for (text, value, expected) in [
            ("plain", 0.0, "plain"),
            ("{{ $labels.instance }}: {{$value}}", 0.25, "web-1: 0.25"),
            (
                "{{ .Labels.job }} {{ .Value }} {{ $labels.none }}|",
                1e21,
                "node 1e+21 |",
            ),
            ("{{ $labels }}", 0.0, "map[instance:web-1 job:node]"),
            ("{{ $externalLabels.site }} {{ $externalURL }}", 0.0, "here http://x"),
            ("{{ $value | humanize }}", 1_234_567.0, "1.235M"),
            ("{{ humanize 0.00012 }}", 0.0, "120u"),
            ("{{ $value | humanize1024 }}B", 3_221_225_472.0, "3GiB"),
            ("{{ $value | humanizePercentage }}", 0.12345, "12.35%"),
            ("{{ $value | humanizeDuration }}", 93_784.0, "1d 2h 3m 4s"),
            ("{{ $value | humanizeDuration }}", 0.0034, "3.4ms"),
            ("{{ $value | humanizeDuration }}", 59.5, "59.5s"),
            (
                "{{ printf \"%.2f%% of %s\" $value $labels.job }}",
                12.345,
                "12.35% of node",
            ),
            ("{{ $value | printf \"%5.1f|%%\" }}", 2.0, "  2.0|%"),
            (
                "{{ printf \"%d\" $value }} {{ printf \"%03d %v\" 7 }}",
                1.5,
                "%!d(float64=1.5) 007 %!v(MISSING)",
            ),
            (
                "{{ $labels.job | toUpper }} {{ title \"a b-c d_e\" }} {{ toLower \"X\" }}",
                0.0,
                "NODE A B-C D_e x",
            ),
            (
                "{{ printf \"%.1f\" (humanizePercentage $value) }}",
                1.0,
                "%!f(string=100%)",
            ),
            (
                "{{ index $labels \"job\" | toUpper }} {{ index .Labels `a.b` }}|{{ index $externalLabels \"site\" }}",
                0.0,
                "NODE |here",
            ),
            ("{{ index $labels (index $labels \"instance\") }}|", 0.0, "|"),
            ("a  {{- $value -}}  b{{/* nothing */}}", 1.0, "a1b"),
            ("a  {{- $value }}  b", 1.0, "a1  b"),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }

    #[test]
    fn unsupported_parts_are_rejected_by_name() {
        for (text, named) in [
            ("{{ query \"up\" }}", "query"),
            ("{{ range $i := . }}", "range"),
            ("{{ if $value }}x{{ end }}", "if"),
            ("{{ $x := 1 }}", "$x"),
            ("{{ .Foo }}", ".Foo"),
            ("{{ $labels.a-b }}", "$labels.a-b"),
            ("{{ printf \"%z\" 1 }}", "%z"),
            ("{{ humanize }}", "humanize"),
            ("{{ index $labels }}", "index"),
            ("{{ index $value \"a\" }}", "index"),
            ("{{ $value", "{{"),
            ("{{ }}", "empty"),
            ("{{ humanize (1 }}", "parenthesis"),
            (&format!("{{{{ {} }}}}", "(".repeat(9999)), "more than 50"),
        ] {
            let message = Template::parse(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}
