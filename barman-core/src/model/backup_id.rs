//! [`BackupId`]: the name of a backup in a catalog.

use std::fmt;
use std::str::FromStr;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use super::ParseError;

/// A backup id, `YYYYMMDDTHHMMSS`: the local time at which the backup was created.
///
/// Ids of one catalog are unique and increase, also across a change of the clock. Their order is that of the text;
/// where safety matters order by LSN, never by id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId([u8; 15]);

impl BackupId {
    /// The id for a backup created at this instant, in the offset that the value carries.
    pub fn from_time(local: OffsetDateTime) -> Self {
        let text = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}",
            local.year().clamp(0, 9999),
            u8::from(local.month()),
            local.day(),
            local.hour(),
            local.minute(),
            local.second()
        );
        let mut bytes = *b"00000000T000000";
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self(bytes)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The local date and time in the id, or `None` when its digits are no date (a hand-made id).
    pub fn local_time(&self) -> Option<PrimitiveDateTime> {
        let text = self.as_str();
        let part = |range: std::ops::Range<usize>| text.get(range).and_then(|t| t.parse::<u16>().ok());
        let date = Date::from_calendar_date(
            i32::from(part(0..4)?),
            Month::try_from(part(4..6)? as u8).ok()?,
            part(6..8)? as u8,
        )
        .ok()?;
        let time = Time::from_hms(part(9..11)? as u8, part(11..13)? as u8, part(13..15)? as u8).ok()?;
        Some(PrimitiveDateTime::new(date, time))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for BackupId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bytes: [u8; 15] = text.as_bytes().try_into().map_err(|_| ParseError::new("backup id", text))?;
        let valid =
            bytes.iter().enumerate().all(|(at, b)| if at == 8 { *b == b'T' } else { b.is_ascii_digit() });
        if valid { Ok(Self(bytes)) } else { Err(ParseError::new("backup id", text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn from_local_time_and_back() {
        let id = BackupId::from_time(datetime!(2026-11-22 21:45:28.359 +02:00));
        assert_eq!(id.as_str(), "20261122T214528");
        assert_eq!(id.local_time(), Some(datetime!(2026-11-22 21:45:28)));
        assert_eq!("20261122T214528".parse::<BackupId>().unwrap(), id);
    }

    #[test]
    fn grammar() {
        for bad in [
            "",
            "20261122",
            "20261122t214528",
            "20261122T21452",
            "20261122T2145281",
            "2026112xT214528",
            "../261122T214528",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
        assert_eq!("99999999T999999".parse::<BackupId>().unwrap().local_time(), None);
    }
}
