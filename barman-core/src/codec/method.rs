//! [`Algorithm`]: what lies in a file. [`Method`]: the name under which the configuration and the index know it.

use std::fmt;
use std::str::FromStr;

/// A compressed format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// Plain bytes.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The LZ4 frame format.
    Lz4,
    /// The .xz format.
    Xz,
    /// bzip2.
    Bzip2,
    /// The Snappy framing format.
    Snappy,
    /// Whatever a pair of configured filters makes.
    Custom,
}

impl Algorithm {
    /// What ends the names of files in this format, without the dot; None for plain and custom ones.
    pub fn extension(self) -> Option<&'static str> {
        Some(match self {
            Self::None | Self::Custom => return None,
            Self::Gzip => "gz",
            Self::Zstd => "zst",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Bzip2 => "bz2",
            Self::Snappy => "snappy",
        })
    }
}

/// Barman's name of the algorithm; plain is `none`.
impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Snappy => "snappy",
            Self::Custom => "custom",
        })
    }
}

/// A value of the option `compression`. Barman has several implementations of two formats; the index records the name
/// that was configured, so the name is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Method {
    /// `bzip2`
    Bzip2,
    /// `custom`
    Custom,
    /// `gzip`
    Gzip,
    /// `lz4`
    Lz4,
    /// `pigz`: gzip by the parallel program; here the same as `gzip`.
    Pigz,
    /// `pybzip2`: bzip2 inside Barman; here the same as `bzip2`.
    PyBzip2,
    /// `pygzip`: gzip inside Barman; here the same as `gzip`.
    PyGzip,
    /// `snappy`
    Snappy,
    /// `xz`
    Xz,
    /// `zstd`
    Zstd,
}

impl Method {
    /// All of them, by name.
    pub const ALL: [Self; 10] = [
        Self::Bzip2,
        Self::Custom,
        Self::Gzip,
        Self::Lz4,
        Self::Pigz,
        Self::PyBzip2,
        Self::PyGzip,
        Self::Snappy,
        Self::Xz,
        Self::Zstd,
    ];

    /// The name in the configuration and in the index.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bzip2 => "bzip2",
            Self::Custom => "custom",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Pigz => "pigz",
            Self::PyBzip2 => "pybzip2",
            Self::PyGzip => "pygzip",
            Self::Snappy => "snappy",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// The format that it writes.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Gzip | Self::Pigz | Self::PyGzip => Algorithm::Gzip,
            Self::Bzip2 | Self::PyBzip2 => Algorithm::Bzip2,
            Self::Custom => Algorithm::Custom,
            Self::Lz4 => Algorithm::Lz4,
            Self::Snappy => Algorithm::Snappy,
            Self::Xz => Algorithm::Xz,
            Self::Zstd => Algorithm::Zstd,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is none of the names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a compression method")]
pub struct UnknownMethod(pub String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        let found = Self::ALL.into_iter().find(|method| method.name() == text);
        found.ok_or_else(|| UnknownMethod(text.to_owned()))
    }
}
