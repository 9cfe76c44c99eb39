//! A scanner of an expression's text, for checks before parsing and for the positions of the parser's messages.

use std::borrow::Cow;

/// Bound on operators, calls and parentheses, because walks over nested expressions recurse. This depth fits a stack of
/// 2 MiB several times even in an unoptimised build, and readable rules stay far below it.
pub(super) const MAX_NESTING: usize = 400;

/// The position of a word in an expression, outside of quotes, because the parser keeps no positions.
pub(super) fn position(text: &str, word: &str) -> Option<usize> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut previous = ' ';
    unquoted(text).find_map(|(at, c)| {
        let next = text[at..]
            .strip_prefix(word)
            .map(|rest| rest.chars().next().unwrap_or(' '));
        let starts = !word.starts_with(is_name) || !is_name(previous);
        previous = c;
        (!word.is_empty() && starts && next.is_some_and(|next| !word.ends_with(is_name) || !is_name(next)))
            .then_some(at)
    })
}

/// An upper bound of the nesting depth of an expression.
pub(super) fn nesting(text: &str) -> usize {
    let signs = unquoted(text).filter(|(_, c)| "+-*/%^<>=!([".contains(*c)).count();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    signs
        + words
            .filter(|word| ["and", "or", "unless", "atan2"].contains(&word.to_ascii_lowercase().as_str()))
            .count()
}

/// The expression with blanks in place of its comments, which changes no position. The parser knows no comments in
/// ranges.
pub(super) fn without_comments(text: &str) -> Cow<'_, str> {
    let mut code = String::new();
    // A quote in a comment opens no string, so the search starts again after each comment.
    while let Some((start, _)) = unquoted(&text[code.len()..]).find(|(_, c)| *c == COMMENT) {
        let start = code.len() + start;
        let length = text[start..].find(['\n', '\r']).unwrap_or(text.len() - start);
        code += &text[code.len()..start];
        code.extend(std::iter::repeat_n(' ', length));
    }
    if code.is_empty() {
        return Cow::Borrowed(text);
    }
    code += &text[code.len()..];
    Cow::Owned(code)
}

/// The characters of an expression outside of quotes.
pub(super) fn unquoted(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    let mut escaped = false;
    text.char_indices().filter(move |(_, c)| match quote {
        Some(_) if escaped => {
            escaped = false;
            false
        }
        Some(open) => {
            escaped = *c == '\\' && open != '`';
            if *c == open {
                quote = None;
            }
            false
        }
        None => {
            quote = matches!(c, '"' | '\'' | '`').then_some(*c);
            quote.is_none()
        }
    })
}

/// Begins a comment, which ends with the line.
const COMMENT: char = '#';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_blanks_of_the_same_length() {
        for (text, expected) in [
            ("a # b\n+ c", "a    \n+ c"),
            ("a[5m # it's\n * 2] # end", "a[5m       \n * 2]      "),
            ("a # é\r\n# b", "a     \r\n   "),
            ("{l=\"#\", m='#', n=`#`} # '", "{l=\"#\", m='#', n=`#`}    "),
            ("# \"\na # \"", "   \na    "),
            ("a", "a"),
            ("#", " "),
        ] {
            assert_eq!(without_comments(text), expected, "{text:?}");
            assert_eq!(without_comments(text).len(), text.len(), "{text:?}");
        }
    }
}
