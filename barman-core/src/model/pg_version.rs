//! [`PgVersion`]: a server version, asked for capabilities by name.

use std::fmt;
use std::str::FromStr;

use super::ParseError;

/// A PostgreSQL version as `server_version_num` reports it: 150020 is 15.20, 90603 is 9.6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgVersion(u32);

impl PgVersion {
    /// The version with this `server_version_num`.
    pub const fn new(num: u32) -> Self {
        Self(num)
    }

    /// The `server_version_num`.
    pub const fn num(self) -> u32 {
        self.0
    }

    /// The major version as a sortable number: 15 for 15.x, 9 for every 9.x.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The major version as users write it, and as directories are named: `15`, `9.6`.
    pub fn major_text(self) -> String {
        if self.0 >= 100_000 {
            self.major().to_string()
        } else {
            format!("{}.{}", self.0 / 10_000, self.0 / 100 % 100)
        }
    }

    /// `pg_wal` since 10, `pg_xlog` before.
    pub const fn wal_directory(self) -> &'static str {
        if self.0 >= 100_000 { "pg_wal" } else { "pg_xlog" }
    }

    /// Recovery is configured by settings and `recovery.signal` / `standby.signal` (12 and later) instead of
    /// `recovery.conf`.
    pub const fn has_recovery_signal(self) -> bool {
        self.0 >= 120_000
    }

    /// Functions are named `pg_backup_start` / `pg_backup_stop` and are always non-exclusive (15 and later).
    pub const fn has_nonexclusive_only(self) -> bool {
        self.0 >= 150_000
    }

    /// `idle_session_timeout` exists (14 and later).
    pub const fn has_idle_session_timeout(self) -> bool {
        self.0 >= 140_000
    }

    /// The role `pg_checkpoint` exists (15 and later).
    pub const fn has_checkpoint_role(self) -> bool {
        self.0 >= 150_000
    }

    /// WAL functions and views say `wal` and `lsn` (10 and later) instead of `xlog` and `location`.
    pub const fn has_wal_names(self) -> bool {
        self.0 >= 100_000
    }

    /// The WAL segment size is chosen at `initdb` and `pg_settings` gives it in bytes (11 and later).
    pub const fn has_variable_segment_size(self) -> bool {
        self.0 >= 110_000
    }

    /// `recovery_target_action` exists (9.5 and later).
    pub const fn has_target_action(self) -> bool {
        self.0 >= 90_500
    }

    /// `base_backup` writes a manifest and `pg_verifybackup` reads it (13 and later).
    pub const fn has_backup_manifest(self) -> bool {
        self.0 >= 130_000
    }

    /// The WAL summarizer and incremental base backups exist (17 and later).
    pub const fn has_wal_summaries(self) -> bool {
        self.0 >= 170_000
    }

    /// `wal_keep_size` (13 and later) replaced `wal_keep_segments`.
    pub const fn has_wal_keep_size(self) -> bool {
        self.0 >= 130_000
    }
}

impl fmt::Display for PgVersion {
    /// The version as users write it: `15.20`, `9.6.3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 100_000 {
            write!(f, "{}.{}", self.0 / 10_000, self.0 % 10_000)
        } else {
            write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
        }
    }
}

impl FromStr for PgVersion {
    type Err = ParseError;

    /// Reads a `server_version_num`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse().map(Self).map_err(|_| ParseError::new("PostgreSQL version number", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (num, major, full) in
            [(150_020, "15", "15.20"), (90_603, "9.6", "9.6.3"), (100_023, "10", "10.23")]
        {
            let version = PgVersion::new(num);
            assert_eq!((version.major_text().as_str(), version.to_string().as_str()), (major, full));
        }
    }
}
