//! [`LocalReader`]: the files of a backup on this host, in whichever layout they lie.

use std::io::Read;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::known::BACKUP_MANIFEST;
use super::layout::stays_below;
use super::local::Shared;
use super::sidecar::read_proofs;
use super::walk::{Found, walk};
use super::{BackupReader, CatalogError, FileProof, Root};
use crate::io::{Disk, FileKind, IoError};
use crate::model::{BackupId, BackupInfo, Entry, EntryKind};

/// Reads one backup.
pub(super) struct LocalReader {
    shared: Arc<Shared>,
    info: BackupInfo,
    /// `pgdata/` with the tablespaces below `pg_tblspc/`, as the first versions of Barman wrote it.
    first_layout: bool,
}

impl LocalReader {
    pub(super) fn open(shared: Arc<Shared>, info: BackupInfo) -> Result<Self, CatalogError> {
        let data = shared.paths.tree(&info.id, Root::Data);
        let first_layout =
            !shared.disk.exists(&data)? && shared.disk.exists(&shared.paths.base(&info.id).join("pgdata"))?;
        Ok(Self { shared, info, first_layout })
    }

    fn path(&self, root: Root, path: &Utf8Path) -> Result<Utf8PathBuf, CatalogError> {
        let tree = self.location(root);
        if stays_below(path) {
            return Ok(tree.join(path));
        }
        let reason =
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path does not stay in its tree");
        Err(IoError::new("open", tree.join(path), reason).into())
    }
}

impl BackupReader for LocalReader {
    fn info(&self) -> &BackupInfo {
        &self.info
    }

    fn location(&self, root: Root) -> Utf8PathBuf {
        if !self.first_layout {
            return self.shared.paths.tree(&self.info.id, root);
        }
        let data = self.shared.paths.base(&self.info.id).join("pgdata");
        match root {
            Root::Data => data,
            Root::Tablespace(oid) => data.join("pg_tblspc").join(oid.to_string()),
        }
    }

    fn files(&self, root: Root) -> Result<Vec<Entry>, CatalogError> {
        listed(&*self.shared.disk, &self.location(root))
    }

    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        read_proofs(&*self.shared.disk, &self.shared.paths.sidecar(&self.info.id))
    }

    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        Ok(Box::new(self.shared.disk.open_read(&self.path(root, path)?)?))
    }

    fn manifest(&self) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        opened(&self.shared, &self.location(Root::Data).join(BACKUP_MANIFEST))
    }

    fn sidecar(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        sidecar(&self.shared, &self.info.id, name)
    }
}

/// A file of the sidecar of a backup.
pub(super) fn sidecar(
    shared: &Shared,
    id: &BackupId,
    name: &str,
) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
    opened(shared, &shared.paths.sidecar(id).join(name))
}

/// A file that need not be there.
pub(super) fn opened(shared: &Shared, path: &Utf8Path) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
    match shared.disk.open_read(path) {
        Ok(file) => Ok(Some(Box::new(file))),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Everything in a directory, itself first.
pub(super) fn listed(disk: &dyn Disk, top: &Utf8Path) -> Result<Vec<Entry>, CatalogError> {
    let mut entries = Vec::new();
    walk::<CatalogError>(disk, top, &[], &mut |found: Found<'_>| {
        let stat = found.stat;
        let kind = match stat.kind {
            FileKind::File => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink(disk.read_link(found.full)?),
            FileKind::Other => EntryKind::Other,
        };
        let size = if stat.is_file() { stat.size } else { 0 };
        entries.push(Entry { path: found.path.to_owned(), kind, size, mtime: stat.mtime, mode: stat.mode });
        Ok(())
    })?;
    Ok(entries)
}
