//! Suggestions for a misspelt word.

/// Minimum length of a prefix for a suggestion, because many words share shorter ones.
const MIN_PREFIX_CHARS: usize = 3;

/// Names of keys in other programs: ps(1), systemd's unit files, ananicy's rules.
const CALLED_ELSEWHERE: [(&str, &str); 14] = [
    ("args", "cmdline"),
    ("cmd", "cmdline"),
    ("command", "cmdline"),
    ("comm", "name"),
    ("process", "name"),
    ("uid", "user"),
    ("service", "unit"),
    ("slice", "cgroup"),
    ("rss", "min_memory"),
    ("memory", "min_memory"),
    ("cpu", "min_cpu"),
    ("age", "min_age"),
    ("renice", "nice"),
    ("cpus", "affinity"),
];

/// The candidate that was probably meant: the one with the fewest typing errors, if they are few; else the one with
/// this name in another program; else the only one with this prefix.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    // At most a third of the letters may be wrong, because more would suggest unrelated words.
    let most = (word.chars().count() / 3).max(1);
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let close = candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, candidate)) = close {
        return Some(candidate);
    }
    let elsewhere = CALLED_ELSEWHERE.iter().find(|(name, _)| *name == word);
    if let Some(candidate) = elsewhere.and_then(|(_, own)| candidates.iter().find(|candidate| *candidate == own)) {
        return Some(candidate);
    }
    let mut longer = candidates
        .iter()
        .filter(|candidate| plain(candidate).starts_with(&word));
    match (longer.next(), longer.next()) {
        (Some(only), None) if word.chars().count() >= MIN_PREFIX_CHARS => Some(only),
        _ => None,
    }
}

/// "did you mean …?" if a similar candidate exists, else the list of all candidates.
pub fn suggest(word: &str, what: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("{what}: {}", candidates.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_tolerates_slips_but_not_noise() {
        let words = ["select", "name", "min_age", "order_by", "cmdline"];
        for (word, expected) in [
            ("selct", Some("select")),
            ("Select", Some("select")),
            ("min-age", Some("min_age")),
            ("nmae", Some("name")),
            ("orderby", Some("order_by")),
            ("min", Some("min_age")),
            ("na", None),
            ("command", Some("cmdline")),
            ("uid", None),
            ("teapot", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }
}
