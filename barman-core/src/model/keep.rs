//! [`Keep`]: an archival backup that retention leaves alone.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// What a keep annotation protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The backup and all WAL after it, so that any later point can be reached.
    Full,
    /// The backup and only the WAL that makes it consistent.
    Standalone,
}

impl Keep {
    /// The word in the annotation file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Standalone => "standalone",
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Keep {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        [Self::Full, Self::Standalone]
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or_else(|| ParseError::new("keep target", text))
    }
}
