//! [`RetentionPolicy`]: how long backups are needed. The grammar is Barman's.

use std::fmt;
use std::str::FromStr;

use time::Duration;

use super::ParseError;

/// The unit of a recovery window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanUnit {
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
    /// 31 days, as Barman counts.
    Months,
}

/// A length of time as written in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// How many units.
    pub count: u32,
    /// The unit.
    pub unit: SpanUnit,
}

impl Span {
    /// The length, with a month of 31 days.
    pub fn duration(self) -> Duration {
        let days = match self.unit {
            SpanUnit::Days => 1,
            SpanUnit::Weeks => 7,
            SpanUnit::Months => 31,
        };
        Duration::days(i64::from(self.count) * days)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            SpanUnit::Days => "DAYS",
            SpanUnit::Weeks => "WEEKS",
            SpanUnit::Months => "MONTHS",
        };
        write!(f, "{} {unit}", self.count)
    }
}

/// Which backups are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetentionPolicy {
    /// The newest N.
    Redundancy(u32),
    /// Those from which any point of the window can be reached.
    RecoveryWindow(Span),
}

impl fmt::Display for RetentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redundancy(count) => write!(f, "REDUNDANCY {count}"),
            Self::RecoveryWindow(span) => write!(f, "RECOVERY WINDOW OF {span}"),
        }
    }
}

impl FromStr for RetentionPolicy {
    type Err = ParseError;

    /// `REDUNDANCY n` or `RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS`, in any case, with any blanks.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = || ParseError::new("retention policy", text);
        let upper = text.to_ascii_uppercase();
        let words: Vec<&str> = upper.split_ascii_whitespace().collect();
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| word.parse().ok()).flatten().ok_or_else(fail)
        };
        match words.as_slice() {
            ["REDUNDANCY", count] => Ok(Self::Redundancy(number(count)?)),
            ["RECOVERY", "WINDOW", "OF", count, unit] => {
                let unit = match *unit {
                    "DAY" | "DAYS" => SpanUnit::Days,
                    "WEEK" | "WEEKS" => SpanUnit::Weeks,
                    "MONTH" | "MONTHS" => SpanUnit::Months,
                    _ => return Err(fail()),
                };
                Ok(Self::RecoveryWindow(Span { count: number(count)?, unit }))
            }
            _ => Err(fail()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_and_canonical_text() {
        for (text, canonical) in [
            ("REDUNDANCY 2", "REDUNDANCY 2"),
            ("  redundancy   12 ", "REDUNDANCY 12"),
            ("recovery window of 1 day", "RECOVERY WINDOW OF 1 DAYS"),
            ("RECOVERY WINDOW OF 4 Weeks", "RECOVERY WINDOW OF 4 WEEKS"),
            ("Recovery Window Of 3 MONTH", "RECOVERY WINDOW OF 3 MONTHS"),
        ] {
            let policy: RetentionPolicy = text.parse().unwrap();
            assert_eq!(policy.to_string(), canonical);
            assert_eq!(canonical.parse::<RetentionPolicy>().unwrap(), policy);
        }
        for bad in [
            "",
            "REDUNDANCY",
            "REDUNDANCY -1",
            "REDUNDANCY +1",
            "WINDOW OF 3 DAYS",
            "RECOVERY WINDOW OF 3 YEARS",
        ] {
            assert!(bad.parse::<RetentionPolicy>().is_err(), "{bad}");
        }
    }
}
