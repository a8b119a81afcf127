//! `data/backup_manifest`, written when `autogenerate_manifest` asks for it and by `generate-manifest`: size and SHA-256 of
//! every file of the data directory, in Barman's form, which `pg_verifybackup -n` of every version since 13 accepts.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Server, ServerError};
use crate::catalog::{
    BACKUP_MANIFEST as NAME, BackupReader, BackupSpace, Catalog, CatalogError, FileProof, FileSpec, Purpose,
    Root,
};
use crate::ctx::{Cancel, Ctx, Event, Unit};
use crate::format::manifest::{ChecksumAlgorithm, Form, ManifestFile, ManifestWriter};
use crate::io::digest::{DigestSet, Digests, Wanted};
use crate::io::durable::tmp_of;
use crate::io::{Disk, IoContext};
use crate::model::{BackupId, Entry, FileTime};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

impl Server {
    /// Writes the manifest into the space and adds its own proof to `proofs`.
    ///
    /// Files without a known SHA-256 are read once, several at a time; what is read is compared with the CRC-32C that
    /// was made while the file was copied, so that a repository that gives back other bytes is noticed here. The
    /// SHA-256 stay in the proofs: a later backup that takes the same files again need not read them.
    ///
    /// # Errors
    /// A file that is not what was stored, or that cannot be read; trouble with writing.
    pub(super) fn write_manifest(
        &self,
        space: &dyn BackupSpace,
        proofs: &mut Vec<FileProof>,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        self.hash_files(space, proofs, ctx)?;
        let mut text = Vec::new();
        let mut writer = ManifestWriter::new(Form::Barman, &mut text);
        for proof in proofs.iter().filter(|p| p.root == Root::Data && p.path != NAME) {
            writer.file(&row(proof), &mut text);
        }
        writer.finish(&[], &mut text);
        let spec = FileSpec {
            root: Root::Data,
            path: NAME.into(),
            mode: 0o600,
            mtime: FileTime { seconds: ctx.clock.now().unix_timestamp(), nanos: 0 },
            size: text.len() as u64,
        };
        let mut sink = space.file(spec)?;
        sink.write_all(&text).context("write", &space.location(Root::Data).join(NAME))?;
        // A manifest that the source directory happened to hold was that of another backup.
        proofs.retain(|p| !(p.root == Root::Data && p.path == NAME));
        proofs.push(sink.finish()?);
        Ok(())
    }

    /// `generate-manifest`: writes the manifest of a backup that has none.
    ///
    /// Every file of the data directory is read, several at a time, and compared with what our full manifest knows of it: a
    /// list of what lies there now must not make damage look like what was stored.
    ///
    /// # Errors
    /// [`CatalogError::Exists`] when there is one; a file that is not what was stored, is missing, or cannot be read;
    /// [`ServerError::Unsupported`] for a packed backup.
    pub fn generate_manifest(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        self.enabled()?;
        let _lease = self.catalog.lease(id, Purpose::Verification)?;
        let reader = self.catalog.open(id)?;
        if reader.manifest()?.is_some() {
            let path = self.catalog.paths().tree(id, Root::Data).join(NAME);
            return Err(CatalogError::Exists { path }.into());
        }
        if reader.packed()?.is_some() {
            return Err(ServerError::Unsupported { what: "A manifest of a packed backup".to_owned() });
        }
        let mut files = stored_files(reader.as_ref())?;
        let total = files.iter().map(|file| file.proof.size).sum();
        let stage = "Reading files";
        ctx.progress.event(&Event::StageStarted { stage, total: Some(total), unit: Unit::Bytes });
        let tree = reader.location(Root::Data);
        let disk = self.host.disk.as_ref();
        in_parallel(self.host.workers, files.iter_mut(), &|file: &mut Found| {
            file.proof.sha256 = hash(disk, &tree.join(&file.proof.path), &file.proof, file.known, ctx)?;
            ctx.progress.event(&Event::Advanced { by: file.proof.size });
            Ok(())
        })?;
        ctx.progress.event(&Event::StageFinished);
        self.catalog.add_manifest(&tree, &mut |out| {
            let mut text = Vec::new();
            let mut writer = ManifestWriter::new(Form::Barman, &mut text);
            for file in &files {
                writer.file(&row(&file.proof), &mut text);
                if text.len() >= CHUNK {
                    out.write_all(&text)?;
                    text.clear();
                }
            }
            writer.finish(&[], &mut text);
            out.write_all(&text)
        })?;
        Ok(())
    }

    /// Fills in the SHA-256 of every file of the data directory that has none yet.
    fn hash_files(
        &self,
        space: &dyn BackupSpace,
        proofs: &mut [FileProof],
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let disk = self.host.disk.as_ref();
        let tree = space.location(Root::Data);
        let wanted = proofs.iter_mut().filter(|p| p.root == Root::Data && p.sha256.is_none());
        in_parallel(self.host.workers, wanted, &|proof: &mut FileProof| {
            proof.sha256 = hash(disk, &tree.join(&proof.path), proof, true, ctx)?;
            Ok(())
        })
    }
}

/// A file for which a row is made.
struct Found {
    proof: FileProof,
    /// What was stored is known, not only what is there.
    known: bool,
}

/// The files of the data directory, with what was stored of them. One that is missing or has another length is an error.
fn stored_files(reader: &dyn BackupReader) -> Result<Vec<Found>, ServerError> {
    let rows = reader.proofs()?.unwrap_or_default();
    let mut rows: HashMap<Utf8PathBuf, FileProof> =
        rows.into_iter().filter(|p| p.root == Root::Data).map(|p| (p.path.clone(), p)).collect();
    let tree = reader.location(Root::Data);
    let damaged = |path: &Utf8Path, expected: String, found: String| {
        ServerError::from(CatalogError::Damaged { path: tree.join(path), expected, found })
    };
    let mut files = Vec::new();
    for entry in reader.files(Root::Data)?.into_iter().filter(Entry::is_file) {
        if entry.path == NAME || entry.path.as_str() == tmp_of(NAME.into()) {
            continue;
        }
        let found = match rows.remove(&entry.path) {
            Some(row) if row.size != entry.size => {
                let bytes = |size: u64| format!("{size} bytes");
                return Err(damaged(&entry.path, bytes(row.size), bytes(entry.size)));
            }
            Some(row) => Found { proof: row, known: true },
            None => {
                let Entry { path, size, mtime, mode, .. } = entry;
                let proof = FileProof { root: Root::Data, path, size, mtime, mode, crc32c: 0, sha256: None };
                Found { proof, known: false }
            }
        };
        files.push(found);
    }
    match rows.keys().next() {
        Some(path) => Err(damaged(path, "a file that was stored".to_owned(), "none".to_owned())),
        None => Ok(files),
    }
}

/// Does something with each item, several at a time. The first error ends the work and is returned.
fn in_parallel<'a, T: Send + 'a>(
    workers: usize,
    items: impl Iterator<Item = &'a mut T>,
    work: &(dyn Fn(&mut T) -> Result<(), ServerError> + Sync),
) -> Result<(), ServerError> {
    let slots: Vec<Mutex<&mut T>> = items.map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let stop = Cancel::new();
    let trouble = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, slots.len().max(1)) {
            scope.spawn(|| {
                while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = stop.check().map_err(ServerError::from).and_then(|()| work(&mut lock(slot)));
                    if let Err(error) = done {
                        stop.cancel();
                        // The first one counts; the others were only told to stop.
                        lock(&trouble).get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    lock(&trouble).take().map_or(Ok(()), Err)
}

/// Reads one file and gives its SHA-256. Where it is `known`, its CRC-32C must be that of the proof.
fn hash(
    disk: &dyn Disk,
    path: &Utf8Path,
    proof: &FileProof,
    known: bool,
    ctx: &Ctx<'_>,
) -> Result<Option<[u8; 32]>, ServerError> {
    let mut file = disk.open_read(path)?;
    let mut digests = Digests::new(Wanted { sha256: true, md5: false });
    let mut chunk = vec![0; CHUNK.min(usize::try_from(proof.size).unwrap_or(CHUNK).max(1))];
    loop {
        ctx.cancel.check()?;
        let count = file.read(&mut chunk).context("read", path)?;
        if count == 0 {
            break;
        }
        digests.update(chunk.get(..count).unwrap_or_default());
    }
    let DigestSet { len, crc32c, sha256, .. } = digests.finish();
    if len != proof.size || known && crc32c != proof.crc32c {
        let describe = |size: u64, crc: u32| format!("{size} bytes with the CRC-32C {crc:08x}");
        return Err(CatalogError::Damaged {
            path: path.to_owned(),
            expected: describe(proof.size, proof.crc32c),
            found: describe(len, crc32c),
        }
        .into());
    }
    Ok(sha256)
}

fn row(proof: &FileProof) -> ManifestFile {
    ManifestFile {
        path: proof.path.as_str().as_bytes().to_vec(),
        size: proof.size,
        last_modified: modified(proof.mtime),
        checksum: proof.sha256.map(|sum| (ChecksumAlgorithm::Sha256, sum.to_vec())),
    }
}

/// As Barman writes it: UTC, whole seconds, no zone.
fn modified(time: FileTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    OffsetDateTime::from_unix_timestamp(time.seconds)
        .ok()
        .and_then(|t| t.format(&format).ok())
        .unwrap_or_else(|| "1970-01-01 00:00:00".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
