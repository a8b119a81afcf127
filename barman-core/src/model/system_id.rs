//! [`SystemId`]: which cluster something belongs to.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// The system identifier that `initdb` gave a cluster; it stands in `pg_control` and in the first page of each WAL
/// segment. Two clusters never share it unless one is a physical copy of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(u64);

impl SystemId {
    /// The identifier as `pg_control` stores it.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The identifier as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|_| ParseError::new("system identifier", text))
    }
}
