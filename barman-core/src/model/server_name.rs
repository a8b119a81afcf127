//! [`ServerName`]: a section of the configuration, a directory of the home.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// The name of a protected PostgreSQL server. It is a directory name under `barman_home` and part of file names, so
/// it is not empty, has no `/`, no line end and no NUL, and is neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(String);

impl ServerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = text.is_empty() || text == "." || text == ".." || text.contains(['/', '\n', '\r', '\0']);
        if bad { Err(ParseError::new("server name", text)) } else { Ok(Self(text.to_owned())) }
    }
}
