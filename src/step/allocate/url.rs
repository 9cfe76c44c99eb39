//! The addresses and JSON pointers of an allocation, checked.

use crate::diagnostic::Findings;
use crate::step::read::read_template;
use crate::template::Segment;
use crate::yaml::{Fields, Text};
use hyper::Uri;

/// A URL with a fixed scheme and server, so that no label chooses the server.
pub(super) fn read_url(text: &Text, findings: &mut Findings) -> Option<Vec<Segment>> {
    let pieces = read_template(text, findings)?;
    let fixed = match pieces.first() {
        Some(Segment::Text(fixed)) => fixed.as_str(),
        _ => "",
    };
    let rest = fixed.strip_prefix("http://").or(fixed.strip_prefix("https://"));
    let Some(rest) = rest else {
        let help = "write https://HOST/PATH; a label can stand in path and query only";
        findings.error(text.span, "a URL must begin with http:// or https://", help);
        return None;
    };
    let authority = rest.find(['/', '?', '#']).map(|end| &rest[..end]);
    if authority.is_none() && pieces.len() > 1 {
        let help =
            "write the host, and use labels only after the next `/`, because an alert must not choose the server";
        findings.error(text.span, "a template in the host of a URL", help);
        return None;
    }
    if authority.unwrap_or(rest).contains('@') {
        findings.error(
            text.span,
            "a user in a URL",
            "use `basic_auth`, because URLs are shown and logged",
        );
        return None;
    }
    // The placeholder for a template is valid everywhere.
    let example: String = pieces
        .iter()
        .map(|piece| if let Segment::Text(text) = piece { text } else { "x" })
        .collect();
    let climbs = example.split('?').next().is_some_and(|path| {
        let decoded = path.to_lowercase().replace("%2e", ".");
        decoded.split('/').any(|segment| matches!(segment, "." | ".."))
    });
    let problem = match example.parse::<Uri>() {
        Err(error) => Some(error.to_string()),
        Ok(uri) if uri.host().is_none_or(str::is_empty) => Some("it names no host".to_owned()),
        Ok(_) if example.contains('#') => Some("`#` is never sent to a server".to_owned()),
        Ok(_) if climbs => Some("write the path without `.` and `..`".to_owned()),
        Ok(_) => None,
    };
    if let Some(problem) = problem {
        findings.error(text.span, format!("`{}` is no URL", text.value), problem);
        return None;
    }
    Some(pieces)
}

/// A JSON pointer (RFC 6901).
pub(super) fn read_pointer(fields: &Fields, key: &str, findings: &mut Findings) -> Option<String> {
    let text = fields.text(key, findings)?;
    let is_escaped = |rest: &str| rest.starts_with('0') || rest.starts_with('1');
    let is_pointer = text.value.starts_with('/') && text.value.split('~').skip(1).all(is_escaped);
    if !is_pointer {
        let help = match text.value.trim_start_matches(['$', '.']) {
            "" => "such as /resource, or /items/0/id".to_owned(),
            path => format!(
                "it begins with `/`: /{}",
                path.trim_start_matches('/').replace('.', "/")
            ),
        };
        findings.error(text.span, format!("`{}` is no JSON pointer", text.value), help);
        return None;
    }
    Some(text.value)
}
