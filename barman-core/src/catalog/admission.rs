//! [`Admission`]: a backup that comes from elsewhere with an id of its own. It is written beside the others, and gets its place
//! among them only when it is whole and durable.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::facts::{self, Names};
use super::layout::{CatalogPaths, SIDECAR};
use super::local::Shared;
use super::native_manifest::{self, MANIFEST};
use super::space::LocalSpace;
use super::{
    BackupSpace, CatalogError, DirSpec, FileProof, FileSpec, LocalCatalog, Root, SpaceReport, annotations,
};
use crate::ctx::Ctx;
use crate::io::{IoContext, LockGuard, durable, remove_tree};
use crate::model::{BackupId, BackupInfo, Entry, EntryKind, Keep, Oid, Status};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Lies in the sidecar of a backup from before it has its place until its facts are written: one that has no facts and has
/// this is what a killed import left.
const UNFINISHED: &str = "importing";

/// A backup on its way in. Dropped unpublished, nothing is left of it.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    id: BackupId,
    staging: Utf8PathBuf,
    space: LocalSpace,
    proofs: Vec<FileProof>,
    /// What the sidecar that came along says.
    rows: Option<Vec<FileProof>>,
    buffer: Vec<u8>,
    _lock: LockGuard,
}

impl LocalCatalog {
    /// Begins to let a backup in. Until the end nobody else can do anything with that id.
    ///
    /// # Errors
    /// [`CatalogError::Taken`] when there is a backup of that id, in whatever state.
    pub(crate) fn admit(&self, id: BackupId) -> Result<Admission, CatalogError> {
        let shared = self.shared();
        let lock = shared.locks.exclusive(&id, "its import")?;
        free(shared, &id)?;
        let disk = &*shared.disk;
        durable::mkdir_all_durable(disk, &shared.paths.basebackups_directory, 0o777)?;
        let staging = shared.paths.basebackups_directory.join(format!(".import-{id}"));
        // What a killed import left: nobody else has this lock.
        remove_tree(disk, &staging)?;
        disk.mkdir(&staging, 0o700)?;
        let paths = CatalogPaths { basebackups_directory: staging.clone(), ..shared.paths.clone() };
        let staged = Shared {
            paths,
            disk: Arc::clone(&shared.disk),
            clock: Arc::clone(&shared.clock),
            locks: shared.locks.clone(),
            sync_whole: shared.sync_whole,
            cipher: shared.cipher.clone(),
        };
        let space = LocalSpace::open(Arc::new(staged), id)?;
        Ok(Admission {
            shared: Arc::clone(shared),
            id,
            staging,
            space,
            proofs: Vec::new(),
            rows: None,
            buffer: vec![0; CHUNK],
            _lock: lock,
        })
    }
}

/// An error when there is a backup of that id. What a killed import left is removed.
fn free(shared: &Shared, id: &BackupId) -> Result<(), CatalogError> {
    let taken = || Err(CatalogError::Taken { id: *id, server: shared.paths.server.clone() });
    let names = Names::read(shared)?;
    if names.infos.contains(id) || names.marked.contains(id) {
        return taken();
    }
    if !names.bases.contains(id) {
        return Ok(());
    }
    let unfinished = shared.paths.sidecar(id).join(UNFINISHED);
    match facts::read(shared, id) {
        Err(CatalogError::NotFound { .. }) if shared.disk.exists(&unfinished)? => {
            Ok(remove_tree(&*shared.disk, &shared.paths.base(id))?)
        }
        _ => taken(),
    }
}

impl Admission {
    /// The directory for what comes along and is no part of the backup; it is gone in the end.
    pub(crate) fn staging(&self) -> &Utf8Path {
        &self.staging
    }

    /// Takes one member of the backup, named relative to its directory.
    ///
    /// # Errors
    /// [`CatalogError::Foreign`] for what has no place in a backup.
    pub(crate) fn take(
        &mut self,
        entry: &Entry,
        bytes: &mut dyn Read,
        ctx: &Ctx<'_>,
    ) -> Result<(), CatalogError> {
        let path = entry.path.as_path();
        let mut parts = path.components().map(|part| part.as_str());
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let root = match first {
            // The facts come beside the files, and what annotations say holds elsewhere.
            "" | "backup.info" | "annotations" => return Ok(()),
            SIDECAR => return self.side_file(entry, bytes, ctx),
            "data" => Root::Data,
            oid => Root::Tablespace(oid.parse::<Oid>().map_err(|_| foreign(path, "belongs to no tree"))?),
        };
        let below = path.strip_prefix(first).unwrap_or(path).to_owned();
        match &entry.kind {
            EntryKind::Directory => self.space.dir(DirSpec { root, path: below, mode: entry.mode & 0o777 }),
            EntryKind::File => {
                let spec = FileSpec {
                    root,
                    path: below,
                    mode: entry.mode & 0o777,
                    mtime: entry.mtime,
                    size: entry.size,
                };
                let full = self.space.location(root).join(&spec.path);
                let mut sink = self.space.file(spec)?;
                pour(bytes, &mut *sink, &full, &mut self.buffer, ctx)?;
                self.proofs.push(sink.finish()?);
                Ok(())
            }
            EntryKind::Symlink(_) if root == Root::Data && second == Some("pg_tblspc") => {
                let oid =
                    below.strip_prefix("pg_tblspc").ok().and_then(|oid| oid.as_str().parse::<Oid>().ok());
                let oid = oid.ok_or_else(|| foreign(path, "is a link that leads to no tablespace"))?;
                // To where the tablespace will lie, not to where it lay.
                let target = self.shared.paths.tree(&self.id, Root::Tablespace(oid));
                let link = self.space.location(Root::Data).join(&below);
                Ok(self.shared.disk.symlink(&target, &link)?)
            }
            EntryKind::Symlink(_) | EntryKind::Other => {
                Err(foreign(path, "is neither a file nor a directory"))
            }
        }
    }

    fn side_file(&mut self, entry: &Entry, bytes: &mut dyn Read, ctx: &Ctx<'_>) -> Result<(), CatalogError> {
        let path = entry.path.as_path();
        match (&entry.kind, path.file_name().unwrap_or_default()) {
            (EntryKind::Directory, _) => Ok(()),
            (EntryKind::File, UNFINISHED) => Ok(()),
            (EntryKind::File, MANIFEST) => {
                let read = native_manifest::read(std::io::BufReader::new(bytes));
                let manifest = read.map_err(|error| CatalogError::Manifest {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
                self.rows = Some(manifest.files);
                Ok(())
            }
            (EntryKind::File, name) if path.components().count() == 2 => {
                let mut sink = self.space.sidecar(name)?;
                pour(bytes, &mut *sink, path, &mut self.buffer, ctx)?;
                sink.finish().map(drop)
            }
            _ => Err(foreign(path, "belongs to no tree")),
        }
    }

    /// Compares what has come with the sidecar that came along, and makes all of it durable with a manifest of its own.
    pub(crate) fn seal(&mut self, ctx: &Ctx<'_>) -> Result<SpaceReport, CatalogError> {
        if let Some(rows) = self.rows.take() {
            let mut known: HashMap<(Root, Utf8PathBuf), FileProof> =
                rows.into_iter().map(|row| ((row.root, row.path.clone()), row)).collect();
            let mut proofs = std::mem::take(&mut self.proofs);
            for proof in &mut proofs {
                let Some(row) = known.remove(&(proof.root, proof.path.clone())) else { continue };
                if (row.size, row.crc32c) != (proof.size, proof.crc32c) {
                    return Err(self.damaged(row.root, &row.path, "another"));
                }
                proof.sha256 = row.sha256;
            }
            self.proofs = proofs;
            if let Some((root, path)) = known.into_keys().next() {
                return Err(self.damaged(root, &path, "none"));
            }
        }
        self.space.seal(&self.proofs, ctx)
    }

    fn damaged(&self, root: Root, path: &Utf8Path, found: &str) -> CatalogError {
        CatalogError::Damaged {
            path: self.shared.paths.tree(&self.id, root).join(path),
            expected: "the file that was stored".to_owned(),
            found: found.to_owned(),
        }
    }

    /// Gives the sealed backup its place. Its facts are the last thing that is written; after that nobody lets go of what it
    /// needs, and `settle` may look whether all of that is there.
    pub(crate) fn publish<E: From<CatalogError>>(
        mut self,
        info: BackupInfo,
        keep: Keep,
        settle: &dyn Fn() -> Result<(), E>,
    ) -> Result<BackupInfo, E> {
        // Until its WAL is known to be there it is not said to be complete: when this ends early, a check of the backup tells.
        let status = info.status;
        let mut waiting = info;
        if status == Status::Done {
            waiting.status = Status::WaitingForWals;
        }
        let mut info = self.place(waiting, keep)?;
        settle()?;
        if info.status != status {
            info.status = status;
            let _lock = self.shared.locks.catalog()?;
            facts::write(&self.shared, &info)?;
        }
        Ok(info)
    }

    fn place(&mut self, mut info: BackupInfo, keep: Keep) -> Result<BackupInfo, CatalogError> {
        let disk = &*self.shared.disk;
        let paths = &self.shared.paths;
        info.id = self.id;
        let sidecar = self.staging.join(self.id.as_str()).join(SIDECAR);
        disk.mkdir_all(&sidecar, 0o777)?;
        durable::write_new_durable(disk, &sidecar.join(UNFINISHED), b"")?;
        {
            let _lock = self.shared.locks.catalog()?;
            free(&self.shared, &self.id)?;
            // First: it must not be obsolete for a moment.
            annotations::write(&self.shared, &self.id, Some(keep))?;
            durable::rename_noreplace_durable(
                disk,
                &self.staging.join(self.id.as_str()),
                &paths.base(&self.id),
            )?;
            facts::write(&self.shared, &info)?;
        }
        durable::remove_durable(disk, &paths.sidecar(&self.id).join(UNFINISHED))?;
        Ok(info)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // What remains is removed by the next import of the same backup.
        let _ = remove_tree(&*self.shared.disk, &self.staging);
    }
}

fn pour(
    from: &mut dyn Read,
    to: &mut dyn std::io::Write,
    path: &Utf8Path,
    buffer: &mut [u8],
    ctx: &Ctx<'_>,
) -> Result<(), CatalogError> {
    loop {
        ctx.cancel.check()?;
        match from.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(buffer.get(..count).unwrap_or_default()).context("write", path)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CatalogError::Io(crate::io::IoError::new("import", path, error))),
        }
    }
}

fn foreign(path: &Utf8Path, why: &'static str) -> CatalogError {
    CatalogError::Foreign { path: path.to_owned(), why }
}
