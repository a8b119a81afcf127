//! [`BackupInfo`]: everything a catalog knows of one backup.

use std::collections::BTreeMap;
use std::fmt;

use camino::Utf8PathBuf;
use time::OffsetDateTime;

use super::{
    BackupId, Lsn, PgVersion, SegmentName, SegmentSize, ServerName, Status, SystemId, Tablespace, Timeline,
};

/// A value of Python's literal syntax, in which Barman keeps structured facts (`copy_stats`, `snapshots_info`).
/// Dictionaries keep their order, numbers their text.
#[derive(Debug, Clone, PartialEq)]
pub enum PyValue {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float, kept with the digits it was read with (`1.492944`).
    Float(f64),
    /// A string.
    Str(String),
    /// `[…]`
    List(Vec<PyValue>),
    /// `(…)`
    Tuple(Vec<PyValue>),
    /// `{…}`, in order.
    Dict(Vec<(PyValue, PyValue)>),
}

/// How a backup was taken: the `mode` of `backup.info`. Unknown words are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackupMethod {
    /// `rsync-concurrent`: file copy inside a concurrent backup.
    RsyncConcurrent,
    /// `rsync-exclusive`: written only by old versions.
    RsyncExclusive,
    /// `postgres`: the replication protocol's BASE_BACKUP.
    Postgres,
    /// `passive`: copied from another catalog.
    Passive,
    /// Anything else.
    Other(String),
}

impl BackupMethod {
    /// The word in `backup.info`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::RsyncConcurrent => "rsync-concurrent",
            Self::RsyncExclusive => "rsync-exclusive",
            Self::Postgres => "postgres",
            Self::Passive => "passive",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for BackupMethod {
    fn from(word: &str) -> Self {
        match word {
            "rsync-concurrent" => Self::RsyncConcurrent,
            "rsync-exclusive" => Self::RsyncExclusive,
            "postgres" => Self::Postgres,
            "passive" => Self::Passive,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for BackupMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a listing calls a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackupType {
    /// A file-level copy.
    Rsync,
    /// A full base backup of the replication protocol.
    Full,
    /// A block-level incremental one.
    Incremental,
    /// Disk snapshots.
    Snapshot,
}

impl BackupType {
    /// `rsync`, `full`, `incremental`, `snapshot`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsync => "rsync",
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Snapshot => "snapshot",
        }
    }
}

/// The facts of one backup, one field for each key of `backup.info`; `None` is Barman's `None` or a missing line.
///
/// Keys that this version does not know stand in [`BackupInfo::extra`] and survive a rewrite.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the fields are the keys of the file, documented where they need it
pub struct BackupInfo {
    /// The id: not a line of the file but its name.
    pub id: BackupId,
    /// The text of `backup_label` as `pg_backup_stop` returned it.
    pub backup_label: Option<String>,
    /// The user's own name for the backup.
    pub backup_name: Option<String>,
    /// Byte offset of `begin_xlog` in `begin_wal`.
    pub begin_offset: Option<u64>,
    pub begin_time: Option<OffsetDateTime>,
    /// First segment that recovery needs.
    pub begin_wal: Option<SegmentName>,
    /// Start position of the backup.
    pub begin_xlog: Option<Lsn>,
    /// Direct children only, in order of creation, duplicates kept.
    pub children_backup_ids: Vec<BackupId>,
    /// Bytes in all tablespaces of the source when the backup started. Some writers print a float.
    pub cluster_size: Option<u64>,
    /// Compression of a BASE_BACKUP in tar format.
    pub compression: Option<String>,
    pub config_file: Option<Utf8PathBuf>,
    pub copy_stats: Option<PyValue>,
    /// `on` or `off`.
    pub data_checksums: Option<String>,
    /// Bytes in files that share no inode with another backup.
    pub deduplicated_size: Option<u64>,
    pub encryption: Option<String>,
    pub end_offset: Option<u64>,
    pub end_time: Option<OffsetDateTime>,
    /// Last segment that recovery needs to be consistent.
    pub end_wal: Option<SegmentName>,
    /// Stop position of the backup.
    pub end_xlog: Option<Lsn>,
    /// Why the backup failed, one line.
    pub error: Option<String>,
    pub hba_file: Option<Utf8PathBuf>,
    pub ident_file: Option<Utf8PathBuf>,
    /// Configuration files that the main one includes.
    pub included_files: Vec<Utf8PathBuf>,
    pub mode: Option<BackupMethod>,
    pub parent_backup_id: Option<BackupId>,
    /// Data directory on the source server.
    pub pgdata: Option<Utf8PathBuf>,
    pub server_name: Option<ServerName>,
    /// Bytes in all files under `base/<id>`.
    pub size: Option<u64>,
    pub snapshots_info: Option<PyValue>,
    pub status: Status,
    /// `on` or `off` (PostgreSQL 17 and later).
    pub summarize_wal: Option<String>,
    pub systemid: Option<SystemId>,
    pub tablespaces: Vec<Tablespace>,
    pub timeline: Option<Timeline>,
    pub version: Option<PgVersion>,
    pub xlog_segment_size: SegmentSize,
    /// Keys this version does not know, with their text.
    pub extra: BTreeMap<String, String>,
}

impl BackupInfo {
    /// A backup of which nothing is known but its id: status EMPTY, segments of 16 MiB.
    pub fn empty(id: BackupId) -> Self {
        Self {
            id,
            backup_label: None,
            backup_name: None,
            begin_offset: None,
            begin_time: None,
            begin_wal: None,
            begin_xlog: None,
            children_backup_ids: Vec::new(),
            cluster_size: None,
            compression: None,
            config_file: None,
            copy_stats: None,
            data_checksums: None,
            deduplicated_size: None,
            encryption: None,
            end_offset: None,
            end_time: None,
            end_wal: None,
            end_xlog: None,
            error: None,
            hba_file: None,
            ident_file: None,
            included_files: Vec::new(),
            mode: None,
            parent_backup_id: None,
            pgdata: None,
            server_name: None,
            size: None,
            snapshots_info: None,
            status: Status::Empty,
            summarize_wal: None,
            systemid: None,
            tablespaces: Vec::new(),
            timeline: None,
            version: None,
            xlog_segment_size: SegmentSize::DEFAULT,
            extra: BTreeMap::new(),
        }
    }

    /// What a listing calls this backup. A passive copy of a file-level backup shows as `full`, as in Barman.
    pub fn backup_type(&self) -> BackupType {
        let mode = self.mode.as_ref().map_or("", BackupMethod::as_str);
        if mode.starts_with("snapshot") {
            BackupType::Snapshot
        } else if mode.starts_with("rsync") {
            BackupType::Rsync
        } else if self.parent_backup_id.is_some() {
            BackupType::Incremental
        } else {
            BackupType::Full
        }
    }

    /// Whether this backup needs another one to be restored.
    pub fn is_incremental(&self) -> bool {
        self.backup_type() == BackupType::Incremental
    }

    /// Every segment from `begin_wal` to `end_wal`, both included, on the backup's timeline; empty while either is
    /// unknown or when they contradict each other.
    pub fn required_wals(&self) -> impl Iterator<Item = SegmentName> + use<> {
        let size = self.xlog_segment_size;
        let range = match (self.begin_wal, self.end_wal) {
            (Some(begin), Some(end)) => {
                begin.number(size).zip(end.number(size)).map(|(b, e)| (begin.timeline, b, e))
            }
            _ => None,
        };
        range.into_iter().flat_map(move |(timeline, begin, end)| {
            (begin.get()..=end.get())
                .map(move |number| SegmentName::new(timeline, super::SegmentNo::new(number), size))
        })
    }

    /// 1 − deduplicated/total, 0 when unknown. The total is `size` for file-level copies, else `cluster_size`.
    pub fn deduplication_ratio(&self) -> f64 {
        let total = if self.backup_type() == BackupType::Rsync { self.size } else { self.cluster_size };
        match (self.deduplicated_size, total) {
            (Some(own), Some(total)) if total > 0 => 1.0 - own as f64 / total as f64,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_wals_cross_the_log_boundary() {
        let mut info = BackupInfo::empty("20261122T214528".parse().unwrap());
        assert_eq!(info.required_wals().count(), 0);
        info.begin_wal = Some("0000000100000000000000FE".parse().unwrap());
        info.end_wal = Some("000000010000000100000001".parse().unwrap());
        let names: Vec<String> = info.required_wals().map(|n| n.to_string()).collect();
        assert_eq!(
            names,
            [
                "0000000100000000000000FE",
                "0000000100000000000000FF",
                "000000010000000100000000",
                "000000010000000100000001"
            ]
        );
    }

    #[test]
    fn types_by_mode_and_parent() {
        let mut info = BackupInfo::empty("20261122T214528".parse().unwrap());
        assert_eq!(info.backup_type(), BackupType::Full);
        info.parent_backup_id = Some("20261122T214527".parse().unwrap());
        assert_eq!(info.backup_type(), BackupType::Incremental);
        info.mode = Some(BackupMethod::from("rsync-exclusive"));
        assert_eq!(info.backup_type(), BackupType::Rsync);
        info.mode = Some(BackupMethod::from("snapshot-concurrent"));
        assert_eq!(info.backup_type(), BackupType::Snapshot);
    }
}
