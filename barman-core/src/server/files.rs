//! `list-files`: the paths of everything that belongs to a backup, for those who copy it elsewhere.

use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};

use super::{Overview, Server, ServerError};
use crate::io::{FileKind, Stat};
use crate::model::{BackupInfo, ParseError, WalFileName};

/// Which files of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileTarget {
    /// The backup's files, without WAL.
    Data,
    /// The WAL from the backup's begin to the end of the next one, and timeline histories.
    Wal,
    /// Both.
    Full,
    /// The backup's files and the WAL that makes them consistent.
    #[default]
    Standalone,
}

impl FromStr for FileTarget {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "data" => Ok(Self::Data),
            "wal" => Ok(Self::Wal),
            "full" => Ok(Self::Full),
            "standalone" => Ok(Self::Standalone),
            other => Err(ParseError::new("target (data, wal, full or standalone)", other)),
        }
    }
}

impl Server {
    /// The files of a backup, absolute, in a stable order: data, then WAL. What this program keeps beside Barman's
    /// files (`.native`) is part of the backup and is listed too. WAL of a standalone listing is computed, not looked
    /// up, as Barman does.
    ///
    /// # Errors
    /// A backup of which nobody knows yet what WAL it needs, where WAL is asked for.
    pub fn backup_files(
        &self,
        overview: &Overview,
        backup: &BackupInfo,
        target: FileTarget,
        empty_directories: bool,
    ) -> Result<Vec<Utf8PathBuf>, ServerError> {
        let mut files = Vec::new();
        if target != FileTarget::Wal {
            let base = self.catalog().paths().base(&backup.id);
            if self.host().disk.exists(&base)? {
                self.walk(&base, empty_directories, &mut files)?;
            }
        }
        if target == FileTarget::Data {
            return Ok(files);
        }
        if backup.begin_wal.is_none() || backup.end_wal.is_none() {
            return Err(ServerError::Usage(format!(
                "Backup '{}' of server '{}' has status {}: which WAL it needs is not known",
                backup.id,
                self.name(),
                backup.status
            )));
        }
        let paths = self.wal().paths();
        match target {
            FileTarget::Standalone => {
                files.extend(backup.required_wals().map(|name| paths.file(&WalFileName::Segment(name))));
            }
            _ => files.extend(wal_names(overview, backup).iter().map(|name| paths.file(name))),
        }
        Ok(files)
    }

    /// The files of a directory by name, then its directories, each in the same way.
    fn walk(&self, dir: &Utf8Path, empty: bool, files: &mut Vec<Utf8PathBuf>) -> Result<(), ServerError> {
        let disk = self.host().disk.as_ref();
        let mut below = Vec::new();
        for name in disk.names(dir)? {
            let path = dir.join(name);
            let stat: Stat = match disk.lstat(&path) {
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            let listed = stat.kind != FileKind::Directory || (empty && disk.names(&path)?.is_empty());
            if listed {
                files.push(path);
            } else {
                below.push(path);
            }
        }
        below.iter().try_for_each(|path| self.walk(path, empty, files))
    }
}

/// Segments of the backup's timeline until the end of the next backup; and, as Barman has it, the histories that
/// stand before the first segment beyond that.
fn wal_names(overview: &Overview, backup: &BackupInfo) -> Vec<WalFileName> {
    let Some(begin) = backup.begin_wal else { return Vec::new() };
    let limit = overview.next(backup.id).and_then(|next| next.end_wal);
    let beyond = limit.and_then(|limit| overview.wal().first_beyond(limit)).map(WalFileName::Segment);
    let histories = overview.wal().histories().iter().map(|t| WalFileName::History(*t));
    let mut names: Vec<WalFileName> = overview
        .wal()
        .names(begin, limit)
        .map(WalFileName::Segment)
        .chain(histories.filter(|history| beyond.is_none_or(|beyond| *history < beyond)))
        .collect();
    names.sort();
    names
}
