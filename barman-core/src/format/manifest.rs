//! `backup_manifest`: the list of a base backup's files with sizes and checksums, sealed by a checksum of its own.
//!
//! Two forms are read and written: PostgreSQL's (`src/backend/backup/backup_manifest.c`, read there by
//! `src/common/parse_manifest.c`; version 2 since 17 names the system) and the one that Barman makes for backups copied
//! file by file. Both are JSON with one file a line; the seal is the SHA-256 of everything before the last line. Files
//! are handed out one at a time, so a manifest of a million files needs no memory.

use crate::model::{Lsn, SystemId, Timeline};

mod reader;
mod writer;

pub use reader::read_manifest;
pub(crate) use writer::ascii_json;
pub use writer::{Form, ManifestWriter};

/// How the content of a file was summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names of `--manifest-checksums`
pub enum ChecksumAlgorithm {
    Crc32c,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl ChecksumAlgorithm {
    /// The name in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Reads such a name, in any case, as PostgreSQL does.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|a| a.as_str().eq_ignore_ascii_case(name))
    }

    /// Bytes in a checksum.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Path relative to the data directory (files of tablespaces as `pg_tblspc/<oid>/…`), any bytes.
    pub path: Vec<u8>,
    /// Bytes in it.
    pub size: u64,
    /// `Last-Modified` as it stands there: `2026-11-22 21:41:06 GMT`; Barman leaves the zone out and means UTC.
    pub last_modified: String,
    /// Algorithm and checksum of its content; `None` when the backup was taken without. A CRC-32C stands as its four
    /// bytes in little-endian order ([`crc32c_checksum`]).
    pub checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

/// The four bytes under which a manifest keeps a CRC-32C (`pg_checksum_final` copies them from memory, and PostgreSQL's
/// common platforms are little-endian).
pub fn crc32c_checksum(crc: u32) -> Vec<u8> {
    crc.to_le_bytes().to_vec()
}

/// WAL that is needed to use a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline it is of.
    pub timeline: Timeline,
    /// Its first byte.
    pub start: Lsn,
    /// The byte after its last.
    pub end: Lsn,
}

/// What a manifest says beside its files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestSummary {
    /// 1, or 2 since PostgreSQL 17.
    pub version: u32,
    /// The cluster; only in version 2.
    pub system_id: Option<SystemId>,
    /// The WAL needed; empty in Barman's form.
    pub wal_ranges: Vec<WalRange>,
    /// How many files were listed.
    pub files: u64,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not the JSON that it should be, or reading it failed.
    #[error("the backup manifest cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// Its content is not what was sealed.
    #[error("the backup manifest has checksum {expected} but its content gives {found}")]
    BadChecksum {
        /// `Manifest-Checksum`.
        expected: String,
        /// The SHA-256 of the content.
        found: String,
    },
    /// A version that this program does not know.
    #[error("the backup manifest has version {found}, which is neither 1 nor 2")]
    UnknownVersion {
        /// `PostgreSQL-Backup-Manifest-Version`.
        found: u64,
    },
    /// A part that must be there is not.
    #[error("the backup manifest has no {part}")]
    Missing {
        /// Its key.
        part: &'static str,
    },
    /// A value is no value of its kind.
    #[error("the backup manifest has an invalid {what}: '{value}'")]
    BadValue {
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
    },
}

#[cfg(test)]
mod tests;
