//! [`LocalCatalog`]: the catalog of one server in directories of this host.

use std::io::Write;
use std::sync::Arc;

use camino::Utf8Path;

use super::archives::ArchiveReader;
use super::facts::{self, Names};
use super::known::BACKUP_MANIFEST;
use super::layout::CatalogPaths;
use super::locking::Locks;
use super::reader::LocalReader;
use super::space::LocalSpace;
use super::{
    BackupReader, BackupSpace, Catalog, CatalogError, Draft, Lease, Purpose, Removed, Survey, Unreadable,
    annotations, removal,
};
use crate::cipher::Cipher;
use crate::ctx::{Clock, Ctx};
use crate::io::{self, Disk, IoContext, durable};
use crate::model::{BackupId, BackupInfo, Entry, Keep, Status};

/// The catalog of one server in directories of this host, in Barman's layout.
///
/// Both layouts of Barman are read; the current one is written, byte for byte. Every change of facts is one atomic,
/// durable replacement of a `backup.info` under a lock of our own (`.<server>-native-catalog.lock`), which is held for
/// that change only.
///
/// A lease is a shared flock on Barman's own lock of the backup, `.<server>-<id>.lock`: many restores share it, and
/// neither our removal nor Barman's `delete` and retention, which ask for that lock without waiting, can take the
/// backup away meanwhile. (Barman's `check-backup` asks for it too and then does nothing.)
#[derive(Clone)]
pub struct LocalCatalog {
    shared: Arc<Shared>,
}

/// What the parts of a catalog have in common.
pub(super) struct Shared {
    pub(super) paths: CatalogPaths,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) locks: Locks,
    /// One syncfs instead of an fsync for each file.
    pub(super) sync_whole: bool,
    /// What reads encrypted backups.
    pub(super) cipher: Option<Arc<dyn Cipher>>,
}

impl LocalCatalog {
    /// A catalog on these directories, which need not exist yet. `locks` are those of the configured lock directory;
    /// the clock gives the meaning of dates without a zone.
    pub fn new(paths: CatalogPaths, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, locks: io::Locks) -> Self {
        let locks = Locks::new(locks, paths.server.clone(), Arc::clone(&clock));
        let sync_whole = syncfs_reports_errors();
        Self { shared: Arc::new(Shared { paths, disk, clock, locks, sync_whole, cipher: None }) }
    }

    /// The same catalog, with an fsync for each file in place of one syncfs when a backup is sealed. This is chosen by
    /// itself on kernels whose syncfs does not report failed writes (before 5.8).
    #[must_use]
    pub fn with_fsync_of_each_file(self) -> Self {
        let Shared { paths, disk, clock, locks, .. } = &*self.shared;
        let (paths, disk, clock) = (paths.clone(), Arc::clone(disk), Arc::clone(clock));
        let (locks, cipher) = (locks.clone(), self.shared.cipher.clone());
        Self { shared: Arc::new(Shared { paths, disk, clock, locks, sync_whole: false, cipher }) }
    }

    /// The same catalog, which can read backups that are encrypted with this.
    #[must_use]
    pub fn with_cipher(self, cipher: Arc<dyn Cipher>) -> Self {
        let Shared { paths, disk, clock, locks, sync_whole, .. } = &*self.shared;
        let (paths, disk, clock) = (paths.clone(), Arc::clone(disk), Arc::clone(clock));
        let (locks, sync_whole, cipher) = (locks.clone(), *sync_whole, Some(cipher));
        Self { shared: Arc::new(Shared { paths, disk, clock, locks, sync_whole, cipher }) }
    }

    /// Where things lie.
    pub fn paths(&self) -> &CatalogPaths {
        &self.shared.paths
    }

    /// The ids of all backups, oldest first, without reading their facts.
    pub fn ids(&self) -> Result<Vec<BackupId>, CatalogError> {
        let names = Names::read(&self.shared)?;
        Ok(names.infos.union(&names.bases).copied().collect())
    }

    /// Writes `backup_manifest` into the data directory of a backup, durably and never over one that is there. Nobody sees a
    /// part of it.
    ///
    /// # Errors
    /// [`CatalogError::Exists`], and what hinders the writing.
    pub(crate) fn add_manifest(
        &self,
        data: &Utf8Path,
        write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), CatalogError> {
        let _lock = self.shared.locks.catalog()?;
        let disk = &*self.shared.disk;
        let path = data.join(BACKUP_MANIFEST);
        if disk.exists(&path)? {
            return Err(CatalogError::Exists { path });
        }
        let mut file = durable::create_tmp(disk, &path)?;
        if let Err(error) = write(&mut file).context("write", file.path()).and_then(|()| file.set_mode(0o600))
        {
            // The first error is the one that counts.
            let _ = disk.unlink(file.path());
            return Err(error.into());
        }
        match durable::publish_noreplace(disk, file, &path) {
            Err(e) if e.is_already_exists() => Err(CatalogError::Exists { path }),
            other => Ok(other?),
        }
    }

    /// Everything in the directory of a backup, itself first.
    pub(crate) fn everything(&self, id: &BackupId) -> Result<Vec<Entry>, CatalogError> {
        super::reader::listed(&*self.shared.disk, &self.shared.paths.base(id))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn info_of(&self, id: &BackupId) -> Result<BackupInfo, CatalogError> {
        facts::read(&self.shared, id)
    }
}

/// Linux reports failed writeback by syncfs since 5.8.
fn syncfs_reports_errors() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    name.sysname().to_bytes() == b"Linux" && version >= (5, 8)
}

impl Catalog for LocalCatalog {
    fn survey(&self) -> Result<Survey, CatalogError> {
        let names = Names::read(&self.shared)?;
        let mut survey = Survey { backups: Vec::with_capacity(names.infos.len()), unreadable: Vec::new() };
        for id in names.infos.union(&names.bases) {
            match self.info_of(id) {
                Ok(info) => survey.backups.push(info),
                // A directory without facts, or a backup that was removed meanwhile.
                Err(CatalogError::NotFound { .. }) => {}
                Err(error) => survey.unreadable.push(Unreadable { id: *id, error }),
            }
        }
        Ok(survey)
    }

    fn get(&self, id: &BackupId) -> Result<BackupInfo, CatalogError> {
        self.info_of(id)
    }

    fn create(&self, draft: Draft) -> Result<(BackupInfo, Box<dyn BackupSpace>), CatalogError> {
        let wanted = BackupId::from_time(draft.created_at);
        let mut info = draft.info;
        {
            let _lock = self.shared.locks.catalog()?;
            info.id = facts::allocate(&self.shared, wanted)?;
            info.status = Status::Empty;
            info.server_name.get_or_insert_with(|| self.shared.paths.server.clone());
            facts::write(&self.shared, &info)?;
        }
        match LocalSpace::open(Arc::clone(&self.shared), info.id) {
            Ok(space) => Ok((info, Box::new(space))),
            Err(error) => {
                // Nobody else will ever know why it stayed empty. The error that counts is the first one.
                let _ = self.update(&info.id, &mut |info| {
                    info.status = Status::Failed;
                    info.error = Some(format!("failure starting backup ({error})"));
                });
                Err(error)
            }
        }
    }

    fn reopen(&self, id: &BackupId) -> Result<Box<dyn BackupSpace>, CatalogError> {
        let info = self.info_of(id)?;
        if info.status.is_available() {
            return Err(CatalogError::WrongStatus { id: *id, action: "written to", status: info.status });
        }
        Ok(Box::new(LocalSpace::open(Arc::clone(&self.shared), *id)?))
    }

    fn update(
        &self,
        id: &BackupId,
        change: &mut dyn FnMut(&mut BackupInfo),
    ) -> Result<BackupInfo, CatalogError> {
        let _lock = self.shared.locks.catalog()?;
        let before = self.info_of(id)?;
        let mut after = before.clone();
        change(&mut after);
        after.id = *id;
        if !before.status.can_become(after.status) {
            return Err(CatalogError::IllegalStatus { id: *id, from: before.status, to: after.status });
        }
        if after != before {
            facts::write(&self.shared, &after)?;
        }
        Ok(after)
    }

    fn open(&self, id: &BackupId) -> Result<Box<dyn BackupReader>, CatalogError> {
        let info = self.info_of(id)?;
        if !info.status.is_available() {
            return Err(CatalogError::WrongStatus { id: *id, action: "read", status: info.status });
        }
        match ArchiveReader::open(&self.shared, info)? {
            Ok(reader) => Ok(Box::new(reader)),
            Err(info) => Ok(Box::new(LocalReader::open(Arc::clone(&self.shared), info)?)),
        }
    }

    fn lease(&self, id: &BackupId, purpose: Purpose) -> Result<Lease, CatalogError> {
        let guard = self.shared.locks.share(id, purpose)?;
        // Only now: a removal that came first has left its mark, and one that comes later finds the lock taken.
        self.info_of(id)?;
        if removal::is_marked(&self.shared, id)? {
            return Err(CatalogError::Busy { id: *id, holder: "its removal was begun".to_owned() });
        }
        Ok(Lease::new(guard))
    }

    fn kept(&self, id: &BackupId) -> Result<Option<Keep>, CatalogError> {
        annotations::read(&self.shared, id)
    }

    fn keep(&self, id: &BackupId, keep: Option<Keep>) -> Result<(), CatalogError> {
        let _lock = self.shared.locks.catalog()?;
        if keep.is_some() {
            self.info_of(id)?;
        }
        Ok(annotations::write(&self.shared, id, keep)?)
    }

    fn removals_pending(&self) -> Result<Vec<BackupId>, CatalogError> {
        removal::pending(&self.shared)
    }

    fn remove(
        &self,
        id: &BackupId,
        allowed: &dyn Fn() -> Result<(), CatalogError>,
        ctx: &Ctx<'_>,
    ) -> Result<Removed, CatalogError> {
        removal::remove(&self.shared, id, allowed, ctx)
    }
}
