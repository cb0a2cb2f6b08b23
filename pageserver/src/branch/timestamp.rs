//! PostgreSQL's commit times, and RFC 3339.

use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

/// Microseconds since 2000-01-01 UTC, without leap seconds (`TimestampTz`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a time: write it as 2026-11-21T10:59:00.123456Z or with an offset such as +01:00")]
pub struct TimestampError {
    text: String,
}

const SECOND_US: i64 = 1_000_000;
const DAY_S: i64 = 86_400;
/// 2000-01-01 in Unix time.
const EPOCH_S: i64 = 946_684_800;

impl Timestamp {
    /// What this machine's clock says.
    pub fn now() -> Timestamp {
        Timestamp::from_unix(SystemTime::now())
    }

    /// A clock's time; 1970 if it is before that.
    pub fn from_unix(time: SystemTime) -> Timestamp {
        let unix_us = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        Timestamp(i64::try_from(unix_us).unwrap_or(i64::MAX).saturating_sub(EPOCH_S * SECOND_US))
    }
}

/// Days from 2000-01-01 to the date in the Gregorian calendar; `month` 1 to 12.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that a leap day is the last day of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 730_425
}

/// Year, month and day that many days after 2000-01-01.
fn date(days_since: i64) -> (i64, i64, i64) {
    // At most the right one: 400 years have 146,097 days.
    let mut year = 1999 + (days_since * 400).div_euclid(146_097);
    while days(year + 1, 1, 1) <= days_since {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= days_since).unwrap_or(1);
    (year, month, days_since - days(year, month, 1) + 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.div_euclid(SECOND_US), self.0.rem_euclid(SECOND_US));
        let (year, month, day) = date(seconds.div_euclid(DAY_S));
        let second = seconds.rem_euclid(DAY_S);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is taken apart from the left.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn number(&mut self, digits: usize) -> Option<i64> {
        let (head, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        head.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))
    }

    fn one_of(&mut self, characters: &[u8]) -> Option<u8> {
        let (head, rest) = self.0.split_first()?;
        self.0 = rest;
        characters.contains(head).then_some(*head)
    }

    /// Digits behind a point, as microseconds; more than six must be zeros.
    fn fraction_us(&mut self) -> Option<i64> {
        if self.0.first() != Some(&b'.') {
            return Some(0);
        }
        self.0 = &self.0[1..];
        let count = self.0.iter().take_while(|digit| digit.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        if count == 0 || digits.iter().skip(6).any(|digit| *digit != b'0') {
            return None;
        }
        (0..6).try_fold(0, |value, at| Some(value * 10 + i64::from(digits.get(at).map_or(0, |digit| digit - b'0'))))
    }

    /// `Z`, `+01:00`, `+0100` or `+01`, in seconds.
    fn offset_s(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.number(2)?;
        if self.0.first() == Some(&b':') {
            self.0 = &self.0[1..];
        }
        let minutes = if self.0.is_empty() { 0 } else { self.number(2)? };
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }

    fn timestamp(mut self) -> Option<Timestamp> {
        let year = self.number(4)?;
        self.one_of(b"-")?;
        let month = self.number(2)?;
        self.one_of(b"-")?;
        let day = self.number(2)?;
        self.one_of(b"Tt ")?;
        let hour = self.number(2)?;
        self.one_of(b":")?;
        let minute = self.number(2)?;
        self.one_of(b":")?;
        let second = self.number(2)?;
        let micros = self.fraction_us()?;
        let offset = self.offset_s()?;
        let day_number = (1..=12).contains(&month).then(|| days(year, month, day))?;
        if date(day_number) != (year, month, day) || hour > 23 || minute > 59 || second > 60 || !self.0.is_empty() {
            return None;
        }
        let seconds = day_number * DAY_S + hour * 3600 + minute * 60 + second - offset;
        Some(Timestamp(seconds * SECOND_US + micros))
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let error = || TimestampError { text: text.chars().take(60).collect() };
        Cursor(text.as_bytes()).timestamp().ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_usual_form() {
        let read = |text: &str| text.parse::<Timestamp>().map(|time| time.0);
        assert_eq!(read("2000-01-01T00:00:00Z"), Ok(0));
        assert_eq!(read("1999-12-31 23:59:59.5+00"), Ok(-500_000));
        assert_eq!(read("2026-11-21T10:59:00.123456Z"), Ok(848_573_940_123_456));
        assert_eq!(read("2026-11-21T11:59:00.123456+01:00"), read("2026-11-21T10:59:00.123456Z"));
        assert_eq!(read("2026-11-21 05:29:00.1234560000-0530"), read("2026-11-21T10:59:00.123456Z"));
        assert_eq!(read("2024-02-29t00:00:00z"), Ok(762_480_000_000_000));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21T10:59:00",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:59:00.Z",
            "2026-11-21T10:59:00.1234567Z",
            "2026-11-21T10:59:00Zx",
            "2026-11-21T10:59:00+1",
            "0/16B3740",
            "２０２６-11-21T10:59:00Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_is_written_and_read_back() {
        for day in -200_000..100_000 {
            let time = Timestamp(day * DAY_S * SECOND_US + 3_723_000_004);
            assert_eq!(time.to_string().parse(), Ok(time), "{time}");
        }
    }
}
