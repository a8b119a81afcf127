//! [`Tablespace`]: a directory outside the data directory that belongs to the cluster.

use std::fmt;
use std::str::FromStr;

use camino::Utf8PathBuf;

use super::ParseError;

/// A PostgreSQL object identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(pub u32);

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Oid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|_| ParseError::new("object identifier", text))
    }
}

/// One row of `pg_tablespace` that has a location.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tablespace {
    /// `spcname`.
    pub name: String,
    /// `oid`, also the name of the link in `pg_tblspc` and of the directory in a backup.
    pub oid: Oid,
    /// `pg_tablespace_location(oid)` on the source server.
    pub location: Utf8PathBuf,
}
