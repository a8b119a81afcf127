//! Lengths of time in the configuration: `7 days`, `1 month`, `12 hours`.

use time::Duration;

use crate::model::ParseError;

/// Reads `N hour|day|week|month`, singular or plural, in any case; a month is 31 days.
///
/// # Errors
/// Any other text, and what exceeds a million years. Barman's words for it are `Invalid value for a time interval X`.
pub fn parse(text: &str) -> Result<Duration, ParseError> {
    let fail = || ParseError::new("time interval", text);
    let mut words = text.split_ascii_whitespace();
    let (Some(number), Some(unit), None) = (words.next(), words.next(), words.next()) else {
        return Err(fail());
    };
    let unit = unit.to_ascii_lowercase();
    let hours: i64 = match unit.strip_suffix('s').unwrap_or(&unit) {
        "hour" => 1,
        "day" => 24,
        "week" => 7 * 24,
        "month" => 31 * 24,
        _ => return Err(fail()),
    };
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    let count = digits.then(|| number.parse::<i64>().ok()).flatten().ok_or_else(fail)?;
    let hours = count.checked_mul(hours).filter(|h| *h <= 24 * 366 * 1_000_000).ok_or_else(fail)?;
    Ok(Duration::hours(hours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for (text, hours) in [
            ("1 hour", 1),
            ("12 HOURS", 12),
            ("1 DAYS", 24),
            ("  7   days ", 168),
            ("2 Week", 336),
            ("1 month", 744),
            ("0 days", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::hours(hours)), "{text}");
        }
        for bad in [
            "",
            "7",
            "days",
            "7days",
            "-7 days",
            "+7 days",
            "7.5 days",
            "3 fortnights",
            "7 days ago",
            "7 dayss",
            "7 s",
            "1 year",
            "9223372036854775807 months",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
