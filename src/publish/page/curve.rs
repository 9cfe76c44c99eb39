//! Curves of the timeline as SVG paths. Pure.

use std::fmt::{self, Write};

/// Width and height of a curve's own coordinates.
pub const WIDTH: f64 = 1000.0;
pub const HEIGHT: f32 = 100.0;

/// A point of a curve: a place on the axis from 0 to 1, and a value, NaN where it is unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub place: f64,
    pub value: f32,
}

/// Writes the line through the points, broken where a value is unknown. `top` is the value at the upper edge. Points
/// on a level stretch are left out.
pub fn line(out: &mut String, points: impl Iterator<Item = Point>, top: f32) -> fmt::Result {
    write_stretches(out, points, top, false)
}

/// Writes the outline of the area below the points.
pub fn area(out: &mut String, points: impl Iterator<Item = Point>, top: f32) -> fmt::Result {
    write_stretches(out, points, top, true)
}

fn write_stretches(out: &mut String, points: impl Iterator<Item = Point>, top: f32, is_closed: bool) -> fmt::Result {
    let mut stretch = Stretch::default();
    for point in points {
        if point.value.is_nan() {
            std::mem::take(&mut stretch).end(out, is_closed)?;
            continue;
        }
        let x = (point.place * WIDTH).round() as i32;
        let y = HEIGHT as i32 - ((point.value / top).clamp(0.0, 1.0) * HEIGHT).round() as i32;
        stretch.add(out, x, y, is_closed)?;
    }
    stretch.end(out, is_closed)
}

/// A part of a line without gaps.
#[derive(Default)]
struct Stretch {
    last: Option<(i32, i32)>,
    /// Whether the last point is written.
    is_written: bool,
}

impl Stretch {
    fn add(&mut self, out: &mut String, x: i32, y: i32, is_closed: bool) -> fmt::Result {
        match self.last {
            None if is_closed => write!(out, "M{x} {HEIGHT} {x} {y}")?,
            None => write!(out, "M{x} {y}")?,
            Some((_, last_y)) if last_y == y => {
                (self.last, self.is_written) = (Some((x, y)), false);
                return Ok(());
            }
            Some((last_x, last_y)) => {
                if !self.is_written {
                    write!(out, " {last_x} {last_y}")?;
                }
                write!(out, " {x} {y}")?;
            }
        }
        (self.last, self.is_written) = (Some((x, y)), true);
        Ok(())
    }

    fn end(self, out: &mut String, is_closed: bool) -> fmt::Result {
        let Some((x, y)) = self.last else { return Ok(()) };
        if !self.is_written {
            write!(out, " {x} {y}")?;
        }
        if is_closed {
            write!(out, " {x} {HEIGHT}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_stretches_need_two_points_and_gaps_break_lines() {
        for (values, expected_line, expected_area) in [
            (&[][..], "", ""),
            (&[f32::NAN], "", ""),
            (&[0.5], "M0 50", "M0 100 0 50 0 100"),
            (&[0.5, 0.5, 0.5], "M0 50 20 50", "M0 100 0 50 20 50 20 100"),
            (
                &[0.5, 0.5, 1.0, 2.0],
                "M0 50 10 50 20 0 30 0",
                "M0 100 0 50 10 50 20 0 30 0 30 100",
            ),
            (
                &[0.0, f32::NAN, 1.0, 0.0],
                "M0 100M20 0 30 100",
                "M0 100 0 100 0 100M20 100 20 0 30 100 30 100",
            ),
        ] {
            let points = values.iter().enumerate().map(|(place, value)| Point {
                place: place as f64 / 100.0,
                value: *value,
            });
            let (mut line_text, mut area_text) = (String::new(), String::new());
            line(&mut line_text, points.clone(), 1.0).unwrap();
            area(&mut area_text, points, 1.0).unwrap();
            assert_eq!((line_text.as_str(), area_text.as_str()), (expected_line, expected_area));
        }
    }
}
