//! `data/backup_manifest`, written when `autogenerate_manifest` asks for it: size and SHA-256 of every file of the data
//! directory, in Barman's form, which `pg_verifybackup -n` of every version since 13 accepts.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::Utf8Path;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Server, ServerError};
use crate::catalog::{BackupSpace, CatalogError, FileProof, FileSpec, Root};
use crate::ctx::{Cancel, Ctx};
use crate::format::manifest::{ChecksumAlgorithm, Form, ManifestFile, ManifestWriter};
use crate::io::digest::{DigestSet, Digests, Wanted};
use crate::io::{Disk, IoContext};
use crate::model::FileTime;

/// The name in the data directory.
const NAME: &str = "backup_manifest";
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

    /// Fills in the SHA-256 of every file of the data directory that has none yet.
    fn hash_files(
        &self,
        space: &dyn BackupSpace,
        proofs: &mut [FileProof],
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let wanted: Vec<&mut FileProof> =
            proofs.iter_mut().filter(|p| p.root == Root::Data && p.sha256.is_none()).collect();
        let workers = self.host.workers.clamp(1, wanted.len().max(1));
        let next = AtomicUsize::new(0);
        let stop = Cancel::new();
        let trouble = Mutex::new(None);
        let slots: Vec<Mutex<&mut FileProof>> = wanted.into_iter().map(Mutex::new).collect();
        let disk = self.host.disk.as_ref();
        let tree = space.location(Root::Data);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut proof = lock(slot);
                        let hashed = stop
                            .check()
                            .map_err(ServerError::from)
                            .and_then(|()| hash(disk, &tree.join(&proof.path), &proof, ctx));
                        match hashed {
                            Ok(sha256) => proof.sha256 = sha256,
                            Err(error) => {
                                stop.cancel();
                                // The first one counts; the others were only told to stop.
                                lock(&trouble).get_or_insert(error);
                                return;
                            }
                        }
                    }
                });
            }
        });
        lock(&trouble).take().map_or(Ok(()), Err)
    }
}

/// Reads one file and gives its SHA-256.
fn hash(
    disk: &dyn Disk,
    path: &Utf8Path,
    proof: &FileProof,
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
    if (len, crc32c) != (proof.size, proof.crc32c) {
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
