//! `{{ $labels.x }}` in texts of a rule: what is fixed, and which labels of the alert are wanted. Reads templates only;
//! who fills them in decides what a label may do there.

/// A part of a templated text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The name of a label of the alert.
    Label(String),
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TemplateError {
    /// First character of the fault, from 0, and the number of characters.
    pub offset: usize,
    pub width: usize,
    pub problem: &'static str,
}

/// Splits a text at its `{{ $labels.NAME }}`.
///
/// # Errors
/// The first `{{` that is no such reference.
pub fn parse(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let error = |problem, width| TemplateError {
            offset: text[..text.len() - rest.len() + start].chars().count(),
            width,
            problem,
        };
        let (fixed, tail) = rest.split_at(start);
        let end = tail.find("}}").ok_or_else(|| error("`{{` without `}}`", 2))?;
        let inner = &tail[2..end];
        let name = inner.trim().strip_prefix("$labels.").filter(|name| is_label_name(name));
        let name =
            name.ok_or_else(|| error("only labels of the alert can be referred to", inner.chars().count() + 4))?;
        if !fixed.is_empty() {
            pieces.push(Piece::Text(fixed.to_owned()));
        }
        pieces.push(Piece::Label(name.to_owned()));
        rest = &tail[end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Prometheus, "Data model": `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_labels_are_found() {
        let text = |text: &str| Piece::Text(text.to_owned());
        let label = |name: &str| Piece::Label(name.to_owned());
        for (template, expected) in [
            ("", vec![]),
            ("a|b{2}", vec![text("a|b{2}")]),
            ("{{ $labels.pid }}", vec![label("pid")]),
            (
                "/srv/{{$labels.a}}-{{ $labels.b_1 }}.x",
                vec![text("/srv/"), label("a"), text("-"), label("b_1"), text(".x")],
            ),
        ] {
            assert_eq!(parse(template), Ok(expected), "{template}");
        }
    }

    #[test]
    fn anything_else_is_refused_in_its_place() {
        for (template, offset, width) in [
            ("é{{ $labels.pid", 1, 2),
            ("{{ .Labels.pid }}", 0, 17),
            ("x {{ $value }}", 2, 12),
            ("{{ $labels.1 }}", 0, 15),
            ("{{ $labels.a | toUpper }}", 0, 25),
            ("{{}}", 0, 4),
        ] {
            let error = parse(template).unwrap_err();
            assert_eq!((error.offset, error.width), (offset, width), "{template}");
        }
    }
}
