//! The facts of backups on disk: which ids there are, reading and writing `backup.info`, new ids.

use std::collections::BTreeSet;

use time::Duration;

use super::CatalogError;
use super::layout::{MetaFile, meta_name};
use super::local::Shared;
use super::walk::items;
use crate::format::backup_info;
use crate::format::text::with_reasons;
use crate::io::{DirItem, FileKind, IoError, durable};
use crate::model::{BackupId, BackupInfo};
use camino::Utf8Path;

/// What the directories of a catalog hold, by name only.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Ids with facts in `meta/`.
    pub(super) infos: BTreeSet<BackupId>,
    /// Ids with a directory in `base/`; each may hold facts in the old layout.
    pub(super) bases: BTreeSet<BackupId>,
    /// Ids whose removal was begun.
    pub(super) marked: BTreeSet<BackupId>,
    /// Ids in any other name.
    others: BTreeSet<BackupId>,
}

impl Names {
    pub(super) fn read(shared: &Shared) -> Result<Self, IoError> {
        let mut names = Self::default();
        for item in list(shared, &shared.paths.meta_directory)? {
            if let Some((id, file)) = meta_name(&item.name) {
                match file {
                    MetaFile::Info => names.infos.insert(id),
                    MetaFile::DeleteMark => names.marked.insert(id),
                    MetaFile::Other => names.others.insert(id),
                };
            }
        }
        for item in list(shared, &shared.paths.basebackups_directory)? {
            if matches!(item.kind, FileKind::Directory | FileKind::Symlink)
                && let Ok(id) = item.name.parse()
            {
                names.bases.insert(id);
            }
        }
        Ok(names)
    }

    /// The highest id in use. An id whose digits are no date was not given by a clock and says nothing about the next.
    fn highest(&self) -> Option<BackupId> {
        let all = [&self.infos, &self.bases, &self.marked, &self.others];
        all.into_iter().filter_map(|set| set.iter().rfind(|id| id.local_time().is_some())).max().copied()
    }
}

fn list(shared: &Shared, dir: &Utf8Path) -> Result<Vec<DirItem>, IoError> {
    match items(&*shared.disk, dir) {
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

/// Reads the facts of a backup, wherever they lie.
pub(super) fn read(shared: &Shared, id: &BackupId) -> Result<BackupInfo, CatalogError> {
    for path in [shared.paths.info(id), shared.paths.old_info(id)] {
        match shared.disk.read_text(&path) {
            Ok(text) => {
                let local = |at| shared.clock.resolve_local(at);
                return backup_info::parse(*id, &text, &local)
                    .map_err(|e| CatalogError::Corrupt { path, reason: with_reasons(&e) });
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(CatalogError::NotFound { id: *id })
}

/// Writes the facts durably in the current layout; the caller holds the lock of the catalog.
pub(super) fn write(shared: &Shared, info: &BackupInfo) -> Result<(), CatalogError> {
    durable::mkdir_all_durable(&*shared.disk, &shared.paths.meta_directory, 0o777)?;
    let text = backup_info::print(info);
    Ok(durable::replace_durable(&*shared.disk, &shared.paths.info(&info.id), text.as_bytes(), None)?)
}

/// The id for a backup created now: the one of its second, or the next free one after every id that was ever given.
/// It is remembered durably, so that it is not given again when its backup is gone.
pub(super) fn allocate(shared: &Shared, wanted: BackupId) -> Result<BackupId, CatalogError> {
    let path = shared.paths.last_id();
    let remembered = match shared.disk.read_text(&path) {
        Ok(text) => text.trim().parse::<BackupId>().ok().filter(|id| id.local_time().is_some()),
        Err(e) if e.is_not_found() => None,
        // A damaged file only forgets backups that are gone.
        Err(e) if e.kind() == crate::io::IoErrorKind::InvalidData => None,
        Err(e) => return Err(e.into()),
    };
    let id = next_id(wanted, Names::read(shared)?.highest().max(remembered));
    durable::mkdir_all_durable(&*shared.disk, durable::parent_of(&path), 0o777)?;
    durable::replace_durable(&*shared.disk, &path, format!("{id}\n").as_bytes(), None)?;
    Ok(id)
}

/// `wanted`, or one second after `highest` when it is not later than that.
fn next_id(wanted: BackupId, highest: Option<BackupId>) -> BackupId {
    match highest.filter(|highest| *highest >= wanted) {
        None => wanted,
        Some(highest) => highest
            .local_time()
            .and_then(|time| time.checked_add(Duration::SECOND))
            .map_or(wanted, |time| BackupId::from_time(time.assume_utc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_across_seconds_and_clock_changes() {
        let id = |text: &str| text.parse::<BackupId>().unwrap();
        for (wanted, highest, expected) in [
            ("20261122T214528", None, "20261122T214528"),
            ("20261122T214528", Some("20261122T214527"), "20261122T214528"),
            ("20261122T214528", Some("20261122T214528"), "20261122T214529"),
            ("20261025T020000", Some("20261025T025959"), "20261025T030000"),
            ("20261122T214528", Some("20261231T235959"), "20270101T000000"),
        ] {
            assert_eq!(next_id(id(wanted), highest.map(id)), id(expected), "{wanted} after {highest:?}");
        }
    }
}
