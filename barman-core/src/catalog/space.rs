//! [`LocalSpace`]: the files of a backup in the making, in `base/<id>` of this host.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use super::layout::{SIDECAR, stays_below};
use super::local::Shared;
use super::native_manifest::{MANIFEST, ManifestWriter};
use super::sidecar::read_proofs;
use super::walk::{Found, empty, walk};
use super::{BackupSpace, CatalogError, DirSpec, FileProof, FileSink, FileSpec, Reused, Root, SpaceReport};
use crate::ctx::Ctx;
use crate::io::{Disk, DiskFile, IoContext, IoError, WriteBehind, durable};
use crate::model::{BackupId, Oid};

/// Small writes are gathered up to this; what is larger goes straight to the file.
const GATHER: usize = 256 << 10;
/// Bytes read at once when a file is copied from another backup.
const COPY_CHUNK: usize = 1 << 20;

/// Where one backup is written.
pub(super) struct LocalSpace {
    shared: Arc<Shared>,
    id: BackupId,
    /// Who owns what is written here: a file of another owner is copied, not linked.
    owner: u32,
}

impl LocalSpace {
    /// Opens the space; the directory of the backup is made durably when it is not there.
    pub(super) fn open(shared: Arc<Shared>, id: BackupId) -> Result<Self, CatalogError> {
        let base = shared.paths.base(&id);
        durable::mkdir_all_durable(&*shared.disk, &base, 0o777)?;
        let owner = shared.disk.stat(&base)?.uid;
        Ok(Self { shared, id, owner })
    }

    fn disk(&self) -> &dyn Disk {
        &*self.shared.disk
    }

    fn path(&self, id: &BackupId, root: Root, path: &Utf8Path) -> Result<Utf8PathBuf, CatalogError> {
        let tree = self.shared.paths.tree(id, root);
        if path.as_str().is_empty() {
            return Ok(tree);
        }
        if stays_below(path) { Ok(tree.join(path)) } else { Err(leaves(&tree, path).into()) }
    }

    fn sink(&self, spec: FileSpec, full: Utf8PathBuf) -> Result<LocalSink, CatalogError> {
        let mut file = self.new_inode(&full)?;
        file.set_mode(spec.mode)?;
        let disk = Arc::clone(&self.shared.disk);
        let sync = !self.shared.sync_whole;
        let behind = WriteBehind::new();
        Ok(LocalSink { disk, spec, file: Some(file), gathered: Vec::new(), behind, size: 0, crc: 0, sync })
    }

    /// A file of that name left by an earlier attempt may be linked to another backup: it loses this name and keeps
    /// its content.
    fn new_inode(&self, full: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        match self.disk().create_new(full) {
            Err(e) if e.is_already_exists() => {
                self.disk().unlink(full)?;
                self.disk().create_new(full)
            }
            other => other,
        }
    }

    fn copy(
        &self,
        spec: FileSpec,
        proof: &FileProof,
        source: &Utf8Path,
        full: Utf8PathBuf,
    ) -> Result<(), CatalogError> {
        let mut from = self.disk().open_read(source)?;
        let mut sink = self.sink(spec, full)?;
        let mut chunk = vec![0; COPY_CHUNK.min(usize::try_from(proof.size).unwrap_or(COPY_CHUNK).max(1))];
        loop {
            let n = from.read(&mut chunk).context("read", source)?;
            if n == 0 {
                break;
            }
            let target = sink.target();
            sink.write_all(chunk.get(..n).unwrap_or_default()).context("write", &target)?;
        }
        if sink.crc != proof.crc32c {
            let (expected, found) = (proof.crc32c, sink.crc);
            return Err(corrupt(source, format!("CRC-32C {expected:08x}"), format!("{found:08x}")));
        }
        Box::new(sink).finish().map(|_| ())
    }

    /// Sizes and directories of what lies here; files that no proof names are removed.
    fn survey(&self, proofs: &[FileProof], ctx: &Ctx<'_>) -> Result<Survey, CatalogError> {
        let mut expected: HashMap<Root, HashMap<&Utf8Path, u64>> = HashMap::new();
        for proof in proofs {
            expected.entry(proof.root).or_default().insert(&proof.path, proof.size);
        }
        let mut survey = Survey::default();
        let base = self.shared.paths.base(&self.id);
        walk::<CatalogError>(self.disk(), &base, &[SIDECAR], &mut |found: Found<'_>| {
            ctx.cancel.check()?;
            let place = place_of(found.path);
            if found.stat.is_dir() {
                survey.all_dirs.push(found.full.to_owned());
                if let Some((root, path)) = place {
                    survey.dirs.push(DirSpec { root, path: path.to_owned(), mode: found.stat.mode });
                }
                return Ok(());
            }
            if !found.stat.is_file() {
                return Ok(());
            }
            if let Some((root, path)) = place.filter(|_| !proofs.is_empty()) {
                match expected.get_mut(&root).and_then(|tree| tree.remove(path)) {
                    None => {
                        ctx.debug(format!("Removing {}, which an earlier attempt left", found.full));
                        return Ok(self.disk().unlink(found.full)?);
                    }
                    Some(size) if size != found.stat.size => {
                        return Err(corrupt(
                            found.full,
                            format!("{size} bytes"),
                            format!("{}", found.stat.size),
                        ));
                    }
                    Some(_) => {}
                }
            }
            survey.report.add(&found.stat);
            Ok(())
        })?;
        let missing = expected.iter().find_map(|(root, tree)| tree.keys().next().map(|path| (*root, *path)));
        match missing {
            None => Ok(survey),
            Some((root, path)) => {
                let path = self.shared.paths.tree(&self.id, root).join(path);
                Err(corrupt(&path, "a file that was written", "none"))
            }
        }
    }
}

/// What [`LocalSpace::survey`] found.
#[derive(Default)]
struct Survey {
    report: SpaceReport,
    dirs: Vec<DirSpec>,
    all_dirs: Vec<Utf8PathBuf>,
}

impl SpaceReport {
    /// Counts one file as Barman does: its length, and again when no other backup shares it.
    pub(super) fn add(&mut self, stat: &crate::io::Stat) {
        self.files += 1;
        self.size += stat.size;
        if stat.nlink == 1 {
            self.deduplicated_size += stat.size;
        }
    }
}

/// The tree and the path in it of something below `base/<id>`, or `None` for what belongs to no tree.
fn place_of(path: &Utf8Path) -> Option<(Root, &Utf8Path)> {
    let first = path.components().next()?.as_str();
    let root = match first {
        "data" => Root::Data,
        oid => Root::Tablespace(oid.parse().ok()?),
    };
    path.strip_prefix(first).ok().map(|rest| (root, rest))
}

fn leaves(tree: &Utf8Path, path: &Utf8Path) -> IoError {
    let reason = io::Error::new(io::ErrorKind::InvalidInput, "the path does not stay in its tree");
    IoError { to: Some(path.to_owned()), ..IoError::new("write below", tree, reason) }
}

fn corrupt(path: &Utf8Path, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> CatalogError {
    CatalogError::Damaged { path: path.to_owned(), expected: expected.to_string(), found: found.to_string() }
}

impl BackupSpace for LocalSpace {
    fn id(&self) -> BackupId {
        self.id
    }

    fn location(&self, root: Root) -> Utf8PathBuf {
        self.shared.paths.tree(&self.id, root)
    }

    fn dir(&self, spec: DirSpec) -> Result<(), CatalogError> {
        let full = self.path(&self.id, spec.root, &spec.path)?;
        match self.disk().mkdir(&full, spec.mode) {
            Err(e) if e.is_already_exists() && self.disk().lstat(&full)?.is_dir() => {}
            other => other?,
        }
        // mkdir takes the umask away from the mode.
        Ok(self.disk().set_mode(&full, spec.mode)?)
    }

    fn file(&self, spec: FileSpec) -> Result<Box<dyn FileSink>, CatalogError> {
        let full = self.path(&self.id, spec.root, &spec.path)?;
        Ok(Box::new(self.sink(spec, full)?))
    }

    fn tablespace_link(&self, oid: Oid) -> Result<(), CatalogError> {
        let name = Utf8PathBuf::from("pg_tblspc").join(oid.to_string());
        let full = self.path(&self.id, Root::Data, &name)?;
        let target = self.location(Root::Tablespace(oid));
        match self.disk().symlink(&target, &full) {
            Err(e) if e.is_already_exists() && !self.disk().lstat(&full)?.is_dir() => {
                self.disk().unlink(&full)?;
                Ok(self.disk().symlink(&target, &full)?)
            }
            other => Ok(other?),
        }
    }

    fn reuse(
        &self,
        spec: FileSpec,
        proof: &FileProof,
        from: &BackupId,
        link: bool,
    ) -> Result<Reused, CatalogError> {
        let full = self.path(&self.id, spec.root, &spec.path)?;
        let source = self.path(from, proof.root, &proof.path)?;
        let stat = self.disk().lstat(&source)?;
        if !stat.is_file() || stat.size != proof.size {
            let found = if stat.is_file() { format!("{}", stat.size) } else { "no file".to_owned() };
            return Err(corrupt(&source, format!("a file of {} bytes", proof.size), found));
        }
        let same = stat.mode == spec.mode && stat.mtime == spec.mtime && stat.uid == self.owner;
        if link && same {
            match self.link(&source, &full) {
                Ok(()) => return Ok(Reused::Linked),
                Err(e) if e.copy_instead_of_link() => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.copy(spec, proof, &source, full)?;
        Ok(Reused::Copied)
    }

    fn proofs_of(&self, id: &BackupId) -> Result<Option<Vec<FileProof>>, CatalogError> {
        read_proofs(self.disk(), &self.shared.paths.sidecar(id))
    }

    fn sidecar(&self, name: &str) -> Result<Box<dyn FileSink>, CatalogError> {
        let dir = self.shared.paths.sidecar(&self.id);
        let path = Utf8Path::new(name);
        if !stays_below(path) || path.components().count() != 1 {
            return Err(leaves(&dir, path).into());
        }
        self.disk().mkdir_all(&dir, 0o777)?;
        let spec = FileSpec {
            root: Root::Data,
            path: path.to_owned(),
            mode: 0o644,
            mtime: Default::default(),
            size: 0,
        };
        let full = dir.join(name);
        Ok(Box::new(SidecarSink(self.sink(spec, full)?)))
    }

    fn discard(self: Box<Self>) -> Result<(), CatalogError> {
        // The facts of a catalog in the old layout lie among the files.
        let base = self.shared.paths.base(&self.id);
        empty::<CatalogError>(self.disk(), &base, &["backup.info", "annotations"], &|| Ok(()))?;
        Ok(self.disk().sync_dir(&base)?)
    }

    fn seal(&self, proofs: &[FileProof], ctx: &Ctx<'_>) -> Result<SpaceReport, CatalogError> {
        let base = self.shared.paths.base(&self.id);
        let survey = self.survey(proofs, ctx)?;
        let sidecar = self.shared.paths.sidecar(&self.id);
        if !proofs.is_empty() || self.disk().exists(&sidecar)? {
            self.disk().mkdir_all(&sidecar, 0o777)?;
        }
        if self.shared.sync_whole {
            self.disk().syncfs(&base)?;
        } else {
            // The files were synced one by one as they were finished.
            for dir in &survey.all_dirs {
                self.disk().sync_dir(dir)?;
            }
            if self.disk().exists(&sidecar)? {
                self.disk().sync_dir(&sidecar)?;
            }
        }
        if !proofs.is_empty() {
            // Only now: a manifest that is there speaks of files that survive a crash.
            write_manifest(self.disk(), &sidecar.join(MANIFEST), &survey.dirs, proofs)?;
        }
        self.disk().sync_dir(&base)?;
        self.disk().sync_dir(&self.shared.paths.basebackups_directory)?;
        Ok(survey.report)
    }
}

impl LocalSpace {
    fn link(&self, source: &Utf8Path, full: &Utf8Path) -> Result<(), IoError> {
        match self.disk().link(source, full) {
            Err(e) if e.is_already_exists() => {
                self.disk().unlink(full)?;
                self.disk().link(source, full)
            }
            other => other,
        }
    }
}

fn write_manifest(
    disk: &dyn Disk,
    path: &Utf8Path,
    dirs: &[DirSpec],
    proofs: &[FileProof],
) -> Result<(), CatalogError> {
    let file = durable::create_tmp(disk, path)?;
    let mut writer =
        ManifestWriter::new(io::BufWriter::with_capacity(GATHER, file)).context("write", path)?;
    for dir in dirs {
        writer.dir(dir).context("write", path)?;
    }
    for proof in proofs {
        writer.file(proof).context("write", path)?;
    }
    let buffer = writer.finish().context("write", path)?;
    let file = buffer.into_inner().map_err(io::IntoInnerError::into_error).context("write", path)?;
    Ok(durable::publish_replacing(disk, file, path)?)
}

/// A file of the backup being written. When it is dropped unfinished, its name is removed again.
struct LocalSink {
    disk: Arc<dyn Disk>,
    spec: FileSpec,
    /// `None` once finished.
    file: Option<Box<dyn DiskFile>>,
    gathered: Vec<u8>,
    behind: WriteBehind,
    size: u64,
    crc: u32,
    sync: bool,
}

impl LocalSink {
    fn target(&self) -> Utf8PathBuf {
        self.file.as_ref().map_or_else(|| self.spec.path.clone(), |file| file.path().to_owned())
    }

    fn out(&mut self) -> io::Result<&mut Box<dyn DiskFile>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is finished"))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the file is finished"))?;
        file.write_all(bytes)?;
        self.behind.advanced(file.as_ref(), bytes.len() as u64);
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            self.put(&gathered)?;
            self.gathered = gathered;
            self.gathered.clear();
        }
        Ok(())
    }

    fn close(mut self, mtime: bool) -> Result<FileProof, CatalogError> {
        let path = self.target();
        self.drain().context("write", &path)?;
        let (sync, spec_mtime) = (self.sync, self.spec.mtime);
        let file = self.out().context("write", &path)?;
        if mtime {
            file.set_mtime(spec_mtime)?;
        }
        if sync {
            file.sync_all()?;
        }
        self.file = None;
        let path = std::mem::take(&mut self.spec.path);
        let FileSpec { root, mode, mtime, .. } = self.spec;
        Ok(FileProof { root, path, size: self.size, mtime, mode, crc32c: self.crc, sha256: None })
    }
}

impl Write for LocalSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.gathered.len() + buf.len() > GATHER {
            self.drain()?;
        }
        if buf.len() >= GATHER / 4 {
            self.drain()?;
            self.put(buf)?;
        } else {
            self.gathered.extend_from_slice(buf);
        }
        self.crc = crc32c::crc32c_append(self.crc, buf);
        self.size += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()
    }
}

impl FileSink for LocalSink {
    fn finish(self: Box<Self>) -> Result<FileProof, CatalogError> {
        self.close(true)
    }
}

impl Drop for LocalSink {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Nobody waits for this: what remains is removed when the backup is sealed.
            let _ = self.disk.unlink(file.path());
        }
    }
}

/// A file of the sidecar: its time is that of its making.
struct SidecarSink(LocalSink);

impl Write for SidecarSink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl FileSink for SidecarSink {
    fn finish(self: Box<Self>) -> Result<FileProof, CatalogError> {
        self.0.close(false)
    }
}
