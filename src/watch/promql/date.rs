//! Calendar fields of times in UTC, as far from now as Prometheus knows them: years of twelve digits.

use serde::Deserialize;

/// A calendar field of a time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DatePart {
    Minute,
    Hour,
    DayOfWeek,
    DayOfMonth,
    DayOfYear,
    DaysInMonth,
    Month,
    Year,
}

/// Go counts the seconds of a calendar in 64 bits without a sign, from this Unix time on. Times before it come out as
/// after the last one.
const FIRST_SECOND: i64 = -9_223_372_028_741_760_000;

const SECONDS_PER_DAY: i128 = 24 * 60 * 60;
/// After 400 years the calendar repeats, weekdays included.
const DAYS_PER_ERA: i128 = 400 * 365 + 97;

/// A day of the Gregorian calendar.
struct Date {
    year: i128,
    /// Both from 1.
    month: i128,
    day: i128,
}

impl Date {
    /// The date of a day, counted from 1970-01-01. Years begin in March here, so that a leap day is the last day of its
    /// year.
    fn of(day: i128) -> Date {
        // From 0000-03-01.
        let day = day + 719_468;
        let (era, day_of_era) = (day.div_euclid(DAYS_PER_ERA), day.rem_euclid(DAYS_PER_ERA));
        let leap_days = day_of_era / (4 * 365) - day_of_era / (100 * 365 + 24) + day_of_era / (DAYS_PER_ERA - 1);
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Five months have 153 days, from March and from August on.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Date {
            year: 400 * era + year_of_era + i128::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        }
    }

    fn is_in_leap_year(&self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    fn days_in_month(&self) -> i128 {
        match self.month {
            2 => 28 + i128::from(self.is_in_leap_year()),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// From 1.
    fn day_of_year(&self) -> i128 {
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][self.month as usize - 1];
        before + self.day + i128::from(self.month > 2 && self.is_in_leap_year())
    }
}

/// Seconds of a Unix time as Go on x86-64 converts them: NaN and what is out of range are the smallest number.
fn whole_seconds(seconds: f64) -> i64 {
    if seconds >= i64::MIN as f64 && seconds < i64::MAX as f64 {
        seconds as i64
    } else {
        i64::MIN
    }
}

impl DatePart {
    /// The field of a Unix time, ignoring fractions of a second.
    pub fn of(self, unix_seconds: f64) -> f64 {
        let seconds = whole_seconds(unix_seconds);
        let is_before_the_first = seconds < FIRST_SECOND;
        let seconds = i128::from(seconds) + if is_before_the_first { 1 << 64 } else { 0 };
        let (day, of_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let part = match self {
            DatePart::Minute => of_day / 60 % 60,
            DatePart::Hour => of_day / 3600,
            // 1970-01-01 was a Thursday.
            DatePart::DayOfWeek => (day + 4).rem_euclid(7),
            DatePart::DayOfMonth => Date::of(day).day,
            DatePart::DayOfYear => Date::of(day).day_of_year(),
            DatePart::DaysInMonth => Date::of(day).days_in_month(),
            DatePart::Month => Date::of(day).month,
            DatePart::Year => Date::of(day).year,
        };
        part as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_name;
    use super::*;
    use jiff::Timestamp;
    use jiff::tz::Offset;

    const PARTS: [DatePart; 8] = [
        DatePart::Minute,
        DatePart::Hour,
        DatePart::DayOfWeek,
        DatePart::DayOfMonth,
        DatePart::DayOfYear,
        DatePart::DaysInMonth,
        DatePart::Month,
        DatePart::Year,
    ];

    #[test]
    fn parts_of_a_leap_day() {
        let leap_day = 1_709_210_096.9; // Thursday 2024-02-29 12:34:56 UTC
        for (name, expected) in [
            ("minute", 34.0),
            ("hour", 12.0),
            ("day_of_week", 4.0),
            ("day_of_month", 29.0),
            ("day_of_year", 60.0),
            ("days_in_month", 29.0),
            ("month", 2.0),
            ("year", 2024.0),
        ] {
            assert_eq!(by_name::<DatePart>(name).unwrap().of(leap_day), expected, "{name}");
        }
    }

    #[test]
    fn every_day_of_two_eras_is_that_of_jiff() {
        let noon = 43_200;
        for day in -2 * 146_097..146_097_i64 {
            let seconds = day * 86_400 + noon;
            let expected = Offset::UTC.to_datetime(Timestamp::from_second(seconds).unwrap());
            let found = PARTS.map(|part| part.of(seconds as f64) as i16);
            let expected = [
                0,
                12,
                i16::from(expected.weekday().to_sunday_zero_offset()),
                i16::from(expected.day()),
                expected.day_of_year(),
                i16::from(expected.days_in_month()),
                i16::from(expected.month()),
                expected.year(),
            ];
            assert_eq!(found, expected, "day {day}");
        }
    }

    #[test]
    fn times_far_away_have_dates() {
        let last = [30.0, 15.0, 0.0, 4.0, 339.0, 31.0, 12.0, 292_277_026_596.0];
        for (seconds, expected) in [
            (-1.0, [59.0, 23.0, 3.0, 31.0, 365.0, 31.0, 12.0, 1969.0]),
            (-0.9, [0.0, 0.0, 4.0, 1.0, 1.0, 31.0, 1.0, 1970.0]),
            (1e15, [46.0, 1.0, 0.0, 5.0, 187.0, 31.0, 7.0, 31_690_708.0]),
            (-1e15, [13.0, 22.0, 0.0, 29.0, 180.0, 30.0, 6.0, -31_686_769.0]),
            (1e20, last),
            (-1e20, last),
            (f64::NAN, last),
            (f64::INFINITY, last),
            (f64::NEG_INFINITY, last),
        ] {
            assert_eq!(PARTS.map(|part| part.of(seconds)), expected, "{seconds}");
        }
    }
}
