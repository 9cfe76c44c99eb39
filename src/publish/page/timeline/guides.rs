//! Lines through the curves where evenkeel changed something, with words for the time before and after. Pure.

use crate::publish::page::story::Meaning;
use std::fmt::{self, Write};

/// The height of the words in pixels.
const HEIGHT: u32 = 15;

/// What the legend says about the lines.
pub const LEGEND: &str = "Dashed lines: before and after a step was <span class=\"applied\">┊ applied</span>, \
                          <span class=\"reverted\">┊ reverted</span> or <span class=\"failed\">┊ failed</span>.";

/// The share of the axis that words take, with their distance to the line and to other words.
#[derive(Debug, Clone, Copy)]
struct Room {
    character: f64,
    distance: f64,
}

/// On a phone of 320 pixels, whose axis has 279 pixels, and on the narrowest screen with tables, where it has 670.
const NARROW: Room = Room {
    character: 0.023,
    distance: 0.03,
};
const MEDIUM: Room = Room {
    character: 0.0096,
    distance: 0.0125,
};

/// The words before and after a change.
fn words(meaning: Meaning) -> [&'static str; 2] {
    match meaning {
        Meaning::Reverted => ["held", "reverted"],
        Meaning::Failed => ["before", "failed"],
        _ => ["before", "after"],
    }
}

/// The height of the words above the curves.
pub fn height(changes: &[(f64, Meaning)]) -> u32 {
    if changes.is_empty() { 0 } else { HEIGHT }
}

/// Writes a line for each change, and its words where there is room. Words that only wide screens have room for have a
/// class of their own.
pub fn write(out: &mut String, changes: &[(f64, Meaning)], top: u32, bottom: u32) -> fmt::Result {
    let (mut narrow_end, mut medium_end) = (0.0, 0.0);
    for (place, meaning) in changes {
        let (x, class) = (place * 100.0, meaning.class());
        write!(
            out,
            "<line class=\"guide {class}\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"{top}\" y2=\"{bottom}\"/>"
        )?;
        for (word, side) in words(*meaning).into_iter().zip([" end", ""]) {
            let extent = |room: Room| {
                let width = word.len() as f64 * room.character + room.distance;
                if side.is_empty() {
                    (*place, place + width)
                } else {
                    (place - width, *place)
                }
            };
            let fits = |room: Room, end: f64| extent(room).0 >= end && extent(room).1 <= 1.0;
            let wide = match (fits(MEDIUM, medium_end), fits(NARROW, narrow_end)) {
                (false, _) => continue,
                (true, true) => "",
                (true, false) => " wide",
            };
            medium_end = extent(MEDIUM).1;
            if wide.is_empty() {
                narrow_end = extent(NARROW).1;
            }
            write!(
                out,
                "<text class=\"word {class}{side}{wide}\" aria-hidden=\"true\" x=\"{x:.2}%\" y=\"{}\">{word}</text>",
                top + 11
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words that are written, with their classes.
    fn written(places: &[f64]) -> Vec<String> {
        let changes: Vec<(f64, Meaning)> = places.iter().map(|place| (*place, Meaning::Applied)).collect();
        let mut out = String::new();
        write(&mut out, &changes, 20, 100).unwrap();
        assert_eq!(out.matches("class=\"guide applied\"").count(), places.len());
        let texts = out.split("<text class=\"word applied").skip(1);
        texts
            .map(|text| {
                let class = text.split('"').next().unwrap();
                let word = text.split(['>', '<']).nth(1).unwrap();
                format!("{word}{class}")
            })
            .collect()
    }

    #[test]
    fn words_stand_on_both_sides_where_there_is_room() {
        assert_eq!(written(&[0.5]), ["before end", "after"]);
        // At the edges there is room on one side.
        assert_eq!(written(&[0.99]), ["before end"]);
        assert_eq!(written(&[0.01]), ["after"]);
    }

    #[test]
    fn words_of_close_lines_do_not_overlap() {
        // Only a wide screen has room for the second pair, and none for a third between them.
        assert_eq!(
            written(&[0.3, 0.31, 0.45]),
            ["before end", "after", "before end wide", "after"]
        );
        assert_eq!(height(&[]), 0);
    }

    #[test]
    fn reverts_and_failures_have_words_of_their_own() {
        for (meaning, expected) in [
            (Meaning::Reverted, ["held", "reverted"]),
            (Meaning::Failed, ["before", "failed"]),
        ] {
            let mut out = String::new();
            write(&mut out, &[(0.5, meaning)], 20, 100).unwrap();
            assert!(
                expected.iter().all(|word| out.contains(&format!(">{word}</text>"))),
                "{out}"
            );
            assert!(LEGEND.contains(&format!("┊ {}", meaning.class())), "{LEGEND}");
        }
    }
}
