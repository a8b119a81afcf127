//! [`Timeline`]: which history of a cluster a piece of WAL belongs to.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::ParseError;

/// A timeline id. It starts at 1 and grows by promotion. In file names it is eight **hexadecimal** digits
/// ([`Timeline::hex`]); PostgreSQL settings and messages write it in decimal ([`fmt::Display`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(NonZeroU32);

impl Timeline {
    /// The timeline of a cluster that was never promoted.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The timeline with this id, or `None` for 0, which does not exist.
    pub fn new(id: u32) -> Option<Self> {
        NonZeroU32::new(id).map(Self)
    }

    /// The id as a number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The eight upper-case hexadecimal digits used in file names.
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }

    /// Reads exactly eight hexadecimal digits, as in file names.
    pub fn from_hex(text: &str) -> Result<Self, ParseError> {
        let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        digits
            .then(|| u32::from_str_radix(text, 16).ok().and_then(Self::new))
            .flatten()
            .ok_or_else(|| ParseError::new("timeline", text))
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timeline {
    type Err = ParseError;

    /// Reads a decimal id, as settings and `backup.info` hold it.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| ParseError::new("timeline", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hexadecimal_and_settings_decimal() {
        let timeline = Timeline::from_hex("0000001A").unwrap();
        assert_eq!(timeline.get(), 26);
        assert_eq!(timeline.to_string(), "26");
        assert_eq!(timeline.hex(), "0000001A");
        assert!(Timeline::from_hex("00000000").is_err());
        assert!("0".parse::<Timeline>().is_err());
        assert!(Timeline::from_hex("1A").is_err());
    }
}
