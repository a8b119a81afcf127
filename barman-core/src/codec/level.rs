//! [`Level`]: the option `compression_level`.

use std::fmt;
use std::str::FromStr;

use super::Algorithm;

/// How hard to compress: by name, or by the algorithm's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Level {
    /// The quick one.
    Low,
    /// The default.
    #[default]
    Medium,
    /// The thorough one.
    High,
    /// A number, brought into the range of the algorithm.
    Number(i32),
}

impl Level {
    /// The number for an algorithm, as Barman maps and clamps it; 0 where there are no levels.
    pub fn number(self, algorithm: Algorithm) -> i32 {
        let (names, range) = match algorithm {
            Algorithm::Gzip => ([1, 6, 9], 1..=9),
            Algorithm::Bzip2 => ([1, 5, 9], 1..=9),
            Algorithm::Xz => ([1, 3, 5], 1..=9),
            Algorithm::Zstd => ([1, 4, 9], -22..=22),
            Algorithm::Lz4 => ([0, 6, 10], 0..=16),
            Algorithm::None | Algorithm::Snappy | Algorithm::Custom => ([0, 0, 0], 0..=0),
        };
        match self {
            Self::Low => names[0],
            Self::Medium => names[1],
            Self::High => names[2],
            Self::Number(number) => number.clamp(*range.start(), *range.end()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Low => f.pad("low"),
            Self::Medium => f.pad("medium"),
            Self::High => f.pad("high"),
            Self::Number(number) => fmt::Display::fmt(number, f),
        }
    }
}

/// The text is neither a name nor a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a compression level; use low, medium, high or a number")]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        match text {
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            other => other.parse().map(Self::Number).map_err(|_| UnknownLevel(other.to_owned())),
        }
    }
}
