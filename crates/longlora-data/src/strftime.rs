use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// A time written as C's `strftime` does, in UTC; `None` for a directive that is not known here.
///
/// Times before 1970 are 1970: a clock that is not set.
pub(crate) fn strftime(format: &str, time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second_of_day) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = civil_date(days);
    let (hour, minute) = (second_of_day / 3600, second_of_day / 60 % 60);
    let hour_of_12 = (hour + 11) % 12 + 1;
    let weekday = DAYS[((days + 4) % 7) as usize]; // 1970 began on a Thursday
    let month_name = MONTHS[month as usize - 1];
    let two = |number: u64, padded: bool| match padded {
        true => format!("{number:02}"),
        false => number.to_string(),
    };

    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = characters.next()?;
        let padded = directive != '-'; // `%-d`, as the C library of Linux has it
        if !padded {
            directive = characters.next()?;
        }
        text += &match directive {
            'Y' => year.to_string(),
            'y' => two(year % 100, padded),
            'm' => two(month, padded),
            'd' => two(day, padded),
            'H' => two(hour, padded),
            'I' => two(hour_of_12, padded),
            'M' => two(minute, padded),
            'S' => two(second_of_day % 60, padded),
            'B' => month_name.into(),
            'b' | 'h' => month_name[..3].into(),
            'A' => weekday.into(),
            'a' => weekday[..3].into(),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{:02}", second_of_day % 60),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            _ => return None,
        };
    }
    Some(text)
}

/// Year, month and day, both from 1, of a day counted from 1970-01-01 in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last one of a year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let era = days / 146_097; // of 400 years
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, format: &str, expected: Option<&str>) {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(strftime(format, time).as_deref(), expected);
    }

    /// Against `date -u -d @… +…` of GNU coreutils.
    #[test]
    fn dates_are_those_of_the_calendar() {
        check(0, "%Y-%m-%d %H:%M:%S %A", Some("1970-01-01 00:00:00 Thursday"));
        check(951_782_400, "%d %b %Y, %a", Some("29 Feb 2000, Tue"));
        check(1_709_251_199, "%d %B %Y %T", Some("29 February 2024 23:59:59"));
        check(1_733_011_200, "%-d/%-m/%y %I %p", Some("1/12/24 12 AM"));
        check(4_107_542_400, "%F", Some("2100-03-01"));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        check(0, "100%%", Some("100%"));
        check(0, "%Q", None);
        check(0, "%", None);
    }
}
