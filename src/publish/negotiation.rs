//! Content negotiation: the format and coding of a response, from `Accept` and `Accept-Encoding` (RFC 9110, section
//! 12.5). Pure.

use serde::{Deserialize, Serialize};

/// A format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    OpenMetrics,
    Text,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    fn versions(self) -> &'static [&'static str] {
        match self {
            // A reader of 0.0.1 understands 1.0.0.
            Format::OpenMetrics => &["1.0.0", "0.0.1"],
            Format::Text => &["0.0.4"],
        }
    }

    fn media_type(self) -> (&'static str, &'static str) {
        match self {
            Format::OpenMetrics => ("application", "openmetrics-text"),
            Format::Text => ("text", "plain"),
        }
    }
}

/// One element of an `Accept…` header: its name, its parameters, its quality from 0 to 1.
struct Element<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn elements(header: &str) -> impl Iterator<Item = Element<'_>> {
    header.split(',').filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("q") {
                // An invalid quality counts as 0.
                quality = value.parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
            } else {
                parameters.push((key, value));
            }
        }
        Some(Element {
            name,
            parameters,
            quality,
        })
    })
}

/// How specifically a media range matches a format: 3 by name and version, 2 by name, 1 by type, 0 as `*/*`.
fn specificity(element: &Element, format: Format) -> Option<u8> {
    let (kind, subtype) = element.name.split_once('/')?;
    let (own_kind, own_subtype) = format.media_type();
    if kind == "*" {
        return Some(0);
    }
    if !kind.eq_ignore_ascii_case(own_kind) {
        return None;
    }
    if subtype == "*" {
        return Some(1);
    }
    if !subtype.eq_ignore_ascii_case(own_subtype) {
        return None;
    }
    match element
        .parameters
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("version"))
    {
        None => Some(2),
        Some((_, version)) => format.versions().contains(version).then_some(3),
    }
}

/// The format that a client prefers; OpenMetrics without a preference. A browser accepts anything but shows only plain
/// text, so it gets the text format, as does a client that accepts neither.
pub fn format(accept: Option<&str>) -> Format {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return Format::OpenMetrics;
    };
    let ranges: Vec<_> = elements(accept).collect();
    let liking = |format| {
        let fitting = ranges
            .iter()
            .filter_map(|range| Some((specificity(range, format)?, range.quality)));
        // Of several matching ranges the most specific one counts; of equally specific ones that of higher quality.
        let best = fitting.max_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
        best.filter(|(_, quality)| *quality > 0.0)
            .map(|(specificity, quality)| (quality, specificity))
    };
    let browser = ranges.iter().any(|range| range.name.eq_ignore_ascii_case("text/html"));
    match (liking(Format::OpenMetrics), liking(Format::Text)) {
        (Some(openmetrics), Some(text)) if openmetrics == text && browser => Format::Text,
        (Some(openmetrics), text) if text.is_none_or(|text| openmetrics >= text) => Format::OpenMetrics,
        _ => Format::Text,
    }
}

/// Whether the response is gzipped.
pub fn gzip(accept_encoding: Option<&str>) -> bool {
    let Some(header) = accept_encoding else { return false };
    let quality = |coding: &str| {
        elements(header)
            .filter(|element| element.name.eq_ignore_ascii_case(coding))
            .map(|element| element.quality)
            .next()
    };
    let wanted = quality("gzip").or_else(|| quality("*")).unwrap_or(0.0);
    wanted > 0.0 && wanted >= quality("identity").unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_format_wins() {
        const PROMETHEUS_2_42: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            (None, Format::OpenMetrics),
            (Some(""), Format::OpenMetrics),
            (Some("*/*"), Format::OpenMetrics),
            (Some(PROMETHEUS_2_42), Format::OpenMetrics),
            (Some(BROWSER), Format::Text),
            (Some("text/plain"), Format::Text),
            (Some("text/plain;version=0.0.4;q=1,*/*;q=0.1"), Format::Text),
            (Some("text/*, */*;q=0.1"), Format::Text),
            (Some("text/plain, */*"), Format::Text),
            (
                Some("application/openmetrics-text; version=1.0.0; q=0.3, text/plain; q=0.4"),
                Format::Text,
            ),
            (Some("application/openmetrics-text;q=0, */*"), Format::Text),
            (
                Some("application/openmetrics-text;version=2.0.0,text/plain;q=0.1"),
                Format::Text,
            ),
            (
                Some("APPLICATION/OpenMetrics-Text;Version=\"0.0.1\""),
                Format::OpenMetrics,
            ),
            (
                Some("application/vnd.google.protobuf;q=1,text/plain;version=1.0.0;q=0.9,*/*;q=0.2"),
                Format::OpenMetrics,
            ),
            (
                Some("text/plain;q=nonsense,application/openmetrics-text;q=0.1"),
                Format::OpenMetrics,
            ),
            (Some("image/png"), Format::Text),
            (Some(",;=,q=1"), Format::Text),
        ] {
            assert_eq!(format(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn gzip_is_sent_only_where_accepted() {
        for (header, expected) in [
            (None, false),
            (Some("gzip"), true),
            (Some("deflate, GZIP;q=0.5"), true),
            (Some("*"), true),
            (Some("*;q=0"), false),
            (Some("gzip;q=0, *"), false),
            (Some("identity;q=1, gzip;q=0.5"), false),
            (Some("br"), false),
        ] {
            assert_eq!(gzip(header), expected, "{header:?}");
        }
    }
}
