//! Removing a backup in two phases (I18): a durable mark first, then the files, then the facts, then the mark. What is
//! cut short at any point is found again by its mark and finished.

use super::facts::{self, Names};
use super::layout::SIDECAR;
use super::local::Shared;
use super::walk::{Found, empty, gone, walk};
use super::{CatalogError, Removed, SpaceReport};
use crate::ctx::Ctx;
use crate::io::durable;
use crate::model::{BackupId, BackupInfo, BackupType};

pub(super) fn is_marked(shared: &Shared, id: &BackupId) -> Result<bool, CatalogError> {
    Ok(shared.disk.exists(&shared.paths.delete_mark(id))?
        || shared.disk.exists(&shared.paths.old_delete_mark(id))?)
}

pub(super) fn pending(shared: &Shared) -> Result<Vec<BackupId>, CatalogError> {
    let names = Names::read(shared)?;
    let mut pending = names.marked;
    for id in names.bases {
        if shared.disk.exists(&shared.paths.old_delete_mark(&id))? {
            pending.insert(id);
        }
    }
    Ok(pending.into_iter().collect())
}

pub(super) fn remove(
    shared: &Shared,
    id: &BackupId,
    allowed: &dyn Fn() -> Result<(), CatalogError>,
    ctx: &Ctx<'_>,
) -> Result<Removed, CatalogError> {
    let disk = &*shared.disk;
    let paths = &shared.paths;
    let lock = shared.locks.exclusive(id, "the removal of the backup")?;
    let resumed = is_marked(shared, id)?;
    let info = match facts::read(shared, id) {
        Ok(info) => Some(info),
        // What cannot be read can still be removed, and after a crash the facts may be gone already.
        Err(CatalogError::Corrupt { .. }) => None,
        Err(CatalogError::NotFound { .. }) if resumed => None,
        Err(e) => return Err(e),
    };
    let mark = paths.delete_mark(id);
    if !disk.exists(&mark)? {
        let _lock = shared.locks.catalog()?;
        if !resumed {
            allowed()?;
        }
        durable::mkdir_all_durable(disk, &paths.meta_directory, 0o777)?;
        durable::replace_durable(disk, &mark, b"delete", None)?;
    }

    let stop = || Ok::<_, CatalogError>(ctx.cancel.check()?);
    let base = paths.base(id);
    let mut files = 0;
    match disk.lstat(&base) {
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e.into()),
        Ok(stat) if !stat.is_dir() => {
            // A link that somebody made to move the backup elsewhere: only the link is ours.
            disk.unlink(&base)?;
            ctx.warn(format!("{base} is not a directory; only that name was removed, not what it leads to."));
        }
        Ok(_) => {
            // The facts of the old layout lie among the files and go last.
            files = empty(disk, &base, &["backup.info"], &stop)?;
            disk.sync_dir(&base)?;
        }
    }
    if let Some(info) = &info {
        leave_parent(shared, info)?;
    }
    gone(disk.unlink(&paths.old_info(id)))?;
    gone(disk.rmdir(&base))?;
    if disk.exists(&paths.basebackups_directory)? {
        disk.sync_dir(&paths.basebackups_directory)?;
    }
    {
        let _lock = shared.locks.catalog()?;
        durable::remove_durable(disk, &paths.keep(id))?;
        durable::remove_durable(disk, &paths.info(id))?;
    }
    resize_next(shared, id, ctx)?;
    durable::remove_durable(disk, &mark)?;
    // As Barman does: what the lock is about is gone for good.
    lock.remove()?;
    Ok(Removed { files, resumed })
}

/// Takes a backup out of its parent's list of children.
fn leave_parent(shared: &Shared, info: &BackupInfo) -> Result<(), CatalogError> {
    let Some(parent) = info.parent_backup_id else { return Ok(()) };
    let _lock = shared.locks.catalog()?;
    match facts::read(shared, &parent) {
        Ok(mut facts) => {
            let before = facts.children_backup_ids.len();
            facts.children_backup_ids.retain(|child| *child != info.id);
            if facts.children_backup_ids.len() != before { facts::write(shared, &facts) } else { Ok(()) }
        }
        // Nothing to correct, or nothing that could be corrected.
        Err(CatalogError::NotFound { .. } | CatalogError::Corrupt { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The files that the next file-level backup shared with the removed one are its own now: as Barman does, its sizes
/// are counted anew.
fn resize_next(shared: &Shared, id: &BackupId, ctx: &Ctx<'_>) -> Result<(), CatalogError> {
    let names = Names::read(shared)?;
    for next in names.infos.union(&names.bases).filter(|next| *next > id) {
        let info = match facts::read(shared, next) {
            Ok(info) if info.status.is_available() => info,
            Ok(_) | Err(CatalogError::NotFound { .. } | CatalogError::Corrupt { .. }) => continue,
            Err(e) => return Err(e),
        };
        if info.backup_type() != BackupType::Rsync {
            return Ok(());
        }
        let report = measure(shared, next, ctx)?;
        let _lock = shared.locks.catalog()?;
        let mut info = facts::read(shared, next)?;
        if info.size != Some(report.size) || info.deduplicated_size != Some(report.deduplicated_size) {
            info.size = Some(report.size);
            info.deduplicated_size = Some(report.deduplicated_size);
            facts::write(shared, &info)?;
        }
        return Ok(());
    }
    Ok(())
}

/// The sizes of a backup as Barman counts them.
fn measure(shared: &Shared, id: &BackupId, ctx: &Ctx<'_>) -> Result<SpaceReport, CatalogError> {
    let mut report = SpaceReport::default();
    let skip = [SIDECAR, "backup.info", "annotations"];
    walk::<CatalogError>(&*shared.disk, &shared.paths.base(id), &skip, &mut |found: Found<'_>| {
        ctx.cancel.check()?;
        if found.stat.is_file() {
            report.add(&found.stat);
        }
        Ok(())
    })?;
    Ok(report)
}
