//! [`Instant`]: a `timestamp with time zone` as the server prints it with `DateStyle = ISO`.

use std::str::FromStr;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// A moment, with the offset of the session's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instant(pub(super) OffsetDateTime);

impl FromStr for Instant {
    type Err = ();

    /// Reads `2026-11-22 21:45:01.079316+00`, with `+05:30` or `-00:44:30` as further forms of the offset.
    fn from_str(text: &str) -> Result<Self, ()> {
        read(text).map(Self).ok_or(())
    }
}

fn read(text: &str) -> Option<OffsetDateTime> {
    let (date, rest) = text.split_once(' ')?;
    let mut parts = date.splitn(3, '-');
    let year = parts.next()?.parse().ok()?;
    let month = Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, parts.next()?.parse().ok()?).ok()?;

    let sign_at = rest.find(['+', '-'])?;
    let (clock, offset) = rest.split_at(sign_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [hour, minute, second] = three(clock)?;
    let digits = fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
    let nanoseconds: u32 = digits.then(|| format!("{fraction:0<9}").parse().ok()).flatten()?;
    let clock = Time::from_hms_nano(hour, minute, second, nanoseconds).ok()?;

    let sign: i8 = if offset.starts_with('-') { -1 } else { 1 };
    let [hours, minutes, seconds] = three(offset.get(1..)?)?;
    let signed = |part: u8| i8::try_from(part).ok().map(|part| part * sign);
    let offset = UtcOffset::from_hms(signed(hours)?, signed(minutes)?, signed(seconds)?).ok()?;
    Some(PrimitiveDateTime::new(date, clock).assume_offset(offset))
}

/// Up to three numbers with colons between them; those left out are 0.
fn three(text: &str) -> Option<[u8; 3]> {
    let mut numbers = [0; 3];
    let mut parts = text.split(':');
    for (index, number) in numbers.iter_mut().enumerate() {
        match parts.next() {
            Some(part) => *number = part.parse().ok()?,
            None if index > 0 => {}
            None => return None,
        }
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn forms() {
        for (text, expected) in [
            ("2026-11-22 21:45:01.079316+00", datetime!(2026-11-22 21:45:01.079316 UTC)),
            ("2026-11-22 21:45:01+00", datetime!(2026-11-22 21:45:01 UTC)),
            ("2026-11-22 21:45:01.5+05:30", datetime!(2026-11-22 21:45:01.5 +05:30)),
            ("1890-01-01 00:00:00-00:44:30", datetime!(1890-01-01 00:00:00 -00:44:30)),
        ] {
            let read: Instant = text.parse().unwrap();
            assert_eq!((read.0, read.0.offset()), (expected, expected.offset()), "{text}");
        }
        for bad in ["", "infinity", "2026-11-22", "2026-11-22 21:45:01", "2026-13-22 21:45:01+00", "x y+z"] {
            assert!(bad.parse::<Instant>().is_err(), "{bad}");
        }
    }
}
