//! [`ArchiveReader`]: a backup whose trees lie packed in tar archives, as `pg_basebackup --format=tar` makes them
//! (`backup_compression`): `data/base.tar.gz`, `data/<oid>.tar.gz` and, since PostgreSQL 13, `data/backup_manifest`.

use std::collections::HashMap;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex, OnceLock};

use camino::{Utf8Path, Utf8PathBuf};

use super::frames::{FrameIndex, index_name};
use super::known::BACKUP_MANIFEST;
use super::local::Shared;
use super::members::{Findings, Found, Members, lock};
use super::native_manifest::{ManifestWriter, NativeManifest};
use super::sidecar::{read_manifest_file, read_proofs};
use super::unpack::{Form, Unpacked};
use super::{
    BackupReader, BackupSpace, CatalogError, DirSpec, FileProof, MemberStream, Outline, Packed, Root,
};
use crate::cipher::{Cipher, CipherError};
use crate::codec::{Algorithm, MAGIC_LEN, detect};
use crate::format::manifest::{ChecksumAlgorithm, ManifestFile, read_manifest};
use crate::io::{IoContext, IoErrorKind};
use crate::model::{BackupInfo, Entry, EntryKind};

/// The endings of an archive's name.
const ENDINGS: [&str; 4] = ["tar", "tar.gz", "tar.lz4", "tar.zst"];
/// What the name of an encrypted archive ends with.
pub(crate) const ENCRYPTED: &str = "gpg";
/// Bytes read at once.
const READ: usize = 256 << 10;
/// The list of what the archives hold, in the sidecar, in the form of the full manifest.
const MEMBERS: &str = "members";

/// Writes the list of what the archives of a packed backup hold, so that a restore need not read them for it.
pub(crate) fn write_members(
    space: &dyn BackupSpace,
    dirs: &[DirSpec],
    files: &[FileProof],
) -> Result<(), CatalogError> {
    let at = space.location(Root::Data).with_file_name(super::layout::SIDECAR).join(MEMBERS);
    let write = || -> io::Result<_> {
        let sink = space.sidecar(MEMBERS).map_err(io::Error::other)?;
        let mut writer = ManifestWriter::new(io::BufWriter::with_capacity(READ, sink))?;
        dirs.iter().try_for_each(|dir| writer.dir(dir))?;
        files.iter().try_for_each(|file| writer.file(file))?;
        writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)
    };
    write().context("write", &at)?.finish().map(drop)
}

/// Reads one backup.
pub(super) struct ArchiveReader {
    shared: Arc<Shared>,
    info: BackupInfo,
    found: Findings,
    /// Where the archives lie, for messages about single files.
    places: Mutex<HashMap<Root, Utf8PathBuf>>,
    listed: OnceLock<Option<Arc<NativeManifest>>>,
    proofs: OnceLock<Option<Vec<FileProof>>>,
    /// An archive could be decrypted.
    proven: OnceLock<()>,
}

impl ArchiveReader {
    /// The reader for a backup whose data directory is an archive; gives the facts back for one whose is not.
    pub(super) fn open(
        shared: &Arc<Shared>,
        info: BackupInfo,
    ) -> Result<Result<Self, BackupInfo>, CatalogError> {
        let shared = Arc::clone(shared);
        let (listed, proofs) = (OnceLock::new(), OnceLock::new());
        let (found, places) = (Findings::default(), Mutex::default());
        let reader = Self { shared, info, found, places, listed, proofs, proven: OnceLock::new() };
        // An archive that lies among the files of a server is a file of it.
        let data = reader.shared.paths.tree(&reader.info.id, Root::Data);
        let plain = reader.shared.disk.exists(&data.join("PG_VERSION"))?;
        if plain || reader.archive(Root::Data)?.is_none() {
            return Ok(Err(reader.info));
        }
        Ok(Ok(reader))
    }

    /// Where the archive of a tree lies.
    fn archive(&self, root: Root) -> Result<Option<Utf8PathBuf>, CatalogError> {
        let data = self.shared.paths.tree(&self.info.id, Root::Data);
        let stem = match root {
            Root::Data => "base".to_owned(),
            Root::Tablespace(oid) => oid.to_string(),
        };
        for ending in ENDINGS {
            let path = data.join(format!("{stem}.{ending}"));
            if self.shared.disk.exists(&path)? {
                return Ok(Some(path));
            }
            let encrypted = Utf8PathBuf::from(format!("{path}.{ENCRYPTED}"));
            if self.shared.disk.exists(&encrypted)? {
                return Ok(Some(encrypted));
            }
        }
        Ok(None)
    }

    fn damaged(&self, root: Root, found: impl std::fmt::Display) -> CatalogError {
        CatalogError::Damaged {
            path: self.location(root),
            expected: "a whole tar archive".to_owned(),
            found: found.to_string(),
        }
    }

    /// The archive of a tree, its length, and what was stored of it where that is known. Another length is damage.
    fn stored(&self, root: Root) -> Result<(Utf8PathBuf, u64, Option<FileProof>), CatalogError> {
        let path = self.archive(root)?.ok_or_else(|| self.damaged(root, "none"))?;
        let length = self.shared.disk.stat(&path)?.size;
        let stored = read_proofs(&*self.shared.disk, &self.shared.paths.sidecar(&self.info.id))?;
        let row = stored.and_then(|rows| {
            rows.into_iter().find(|row| row.root == Root::Data && path.file_name() == Some(row.path.as_str()))
        });
        if let Some(row) = row.as_ref().filter(|row| row.size != length) {
            return Err(CatalogError::Damaged {
                path,
                expected: format!("{} bytes, as stored", row.size),
                found: length.to_string(),
            });
        }
        Ok((path, length, row))
    }

    /// What decrypts an archive, if it is encrypted.
    fn cipher(&self, path: &Utf8Path) -> Result<Option<Arc<dyn Cipher>>, CatalogError> {
        if path.extension() != Some(ENCRYPTED) {
            return Ok(None);
        }
        let cipher = self.shared.cipher.clone();
        let cipher = cipher.ok_or(CipherError::NoPassphraseCommand);
        let ready = cipher.and_then(|cipher| cipher.can_decrypt().map(|()| cipher));
        ready.map(Some).map_err(|source| CatalogError::Encrypted { path: path.to_owned(), source })
    }

    /// Begins to read an encrypted archive, so that what keeps it from being decrypted is known before anything is written.
    fn prove(&self, path: &Utf8Path) -> Result<(), CatalogError> {
        let Some(cipher) = self.cipher(path)?.filter(|_| self.proven.get().is_none()) else { return Ok(()) };
        let file = self.shared.disk.open_read(path)?;
        match cipher.decrypt(Box::new(BufReader::new(file))) {
            Ok(_) => {}
            Err(CipherError::Cancelled(cancelled)) => return Err(cancelled.into()),
            Err(source) => return Err(CatalogError::Encrypted { path: path.to_owned(), source }),
        }
        // One key is that of all archives.
        self.proven.get_or_init(|| ());
        Ok(())
    }

    /// The members of an archive, from its beginning.
    fn members(&self, root: Root) -> Result<Members, CatalogError> {
        let (path, length, row) = self.stored(root)?;
        let file = self.shared.disk.open_read(&path)?;
        let cipher = self.cipher(&path)?;
        let algorithm = if cipher.is_some() {
            // Its bytes do not say it.
            packed_as(&path)
        } else {
            let mut start = vec![0; MAGIC_LEN];
            let n = file.read_at(&mut start, 0)?;
            start.truncate(n);
            detect(&start, None).unwrap_or(Algorithm::None)
        };
        let index = match algorithm {
            Algorithm::None => None,
            _ => self.index(path.file_name().unwrap_or_default())?,
        };
        let archive = Unpacked::new(file, length, row, Form { cipher, algorithm, index });
        Ok(Members::new(archive, root, &self.found))
    }

    /// Where the frames of an archive lie, when its maker left word of it.
    fn index(&self, archive: &str) -> Result<Option<FrameIndex>, CatalogError> {
        let Some(mut file) = self.sidecar(&index_name(archive))? else { return Ok(None) };
        let mut text = Vec::new();
        let read = file.read_to_end(&mut text);
        read.context("read", &self.shared.paths.sidecar(&self.info.id).join(index_name(archive)))?;
        Ok(String::from_utf8(text).ok().and_then(|text| FrameIndex::parse(&text)))
    }

    /// What the maker of the backup wrote down of its content.
    fn listed(&self) -> Result<Option<Arc<NativeManifest>>, CatalogError> {
        if let Some(known) = self.listed.get() {
            return Ok(known.clone());
        }
        let path = self.shared.paths.sidecar(&self.info.id).join(MEMBERS);
        let listed = read_manifest_file(&*self.shared.disk, &path)?.map(Arc::new);
        Ok(self.listed.get_or_init(|| listed).clone())
    }

    /// What is known of the content of a tree without reading its archive.
    fn known(&self, root: Root) -> Result<Option<Vec<Entry>>, CatalogError> {
        if let Some(found) = lock(&self.found).get(&root) {
            return Ok(Some(found.entries.clone()));
        }
        let Some(listed) = self.listed()? else { return Ok(None) };
        let dirs = listed.dirs.iter().filter(|dir| dir.root == root).map(|dir| Entry {
            path: dir.path.clone(),
            kind: EntryKind::Directory,
            size: 0,
            mtime: Default::default(),
            mode: dir.mode,
        });
        let files = listed.files.iter().filter(|file| file.root == root).map(|file| Entry {
            path: file.path.clone(),
            kind: EntryKind::File,
            size: file.size,
            mtime: file.mtime,
            mode: file.mode,
        });
        Ok(Some(dirs.chain(files).collect()))
    }

    /// Reads an archive once for what it holds.
    fn found(&self, root: Root) -> Result<Arc<Found>, CatalogError> {
        if let Some(found) = lock(&self.found).get(&root) {
            return Ok(Arc::clone(found));
        }
        let mut members = self.members(root)?;
        while members.next().map_err(|error| self.damaged(root, error))?.is_some() {}
        let found = lock(&self.found).get(&root).map(Arc::clone);
        found.ok_or_else(|| self.damaged(root, "none"))
    }

    /// The rows of PostgreSQL's manifest as far as they bear a CRC-32C. Times and modes stand only in the archives.
    fn manifest(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        let path = self.shared.paths.tree(&self.info.id, Root::Data).join(BACKUP_MANIFEST);
        let file = match self.shared.disk.open_read(&path) {
            Err(e) if e.kind() == IoErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut rows = Vec::new();
        let mut odd = false;
        read_manifest(BufReader::with_capacity(READ, file), &mut |file| match row(&file) {
            Some(row) => rows.push(row),
            None => odd = true,
        })
        .map_err(|error| {
            let reason = crate::format::text::with_reasons(&error);
            CatalogError::Manifest { path: path.clone(), reason }
        })?;
        // Other algorithms are not verified here.
        Ok((!odd).then_some(rows))
    }
}

/// What an encrypted archive is packed in, by its name.
fn packed_as(path: &Utf8Path) -> Algorithm {
    match path.file_stem().and_then(|name| name.rsplit_once('.')) {
        Some((_, "gz")) => Algorithm::Gzip,
        Some((_, "lz4")) => Algorithm::Lz4,
        Some((_, "zst")) => Algorithm::Zstd,
        _ => Algorithm::None,
    }
}

fn row(file: &ManifestFile) -> Option<FileProof> {
    let (root, path) = Root::of_manifest(std::str::from_utf8(&file.path).ok()?);
    let crc32c = match &file.checksum {
        Some((ChecksumAlgorithm::Crc32c, sum)) => u32::from_le_bytes(sum.as_slice().try_into().ok()?),
        _ => return None,
    };
    let (mtime, mode, sha256) = (Default::default(), 0o600, None);
    Some(FileProof { root, path, size: file.size, mtime, mode, crc32c, sha256 })
}

impl BackupReader for ArchiveReader {
    fn info(&self) -> &BackupInfo {
        &self.info
    }

    fn location(&self, root: Root) -> Utf8PathBuf {
        if let Some(known) = lock(&self.places).get(&root) {
            return known.clone();
        }
        let archive = self.archive(root).ok().flatten();
        let place = archive.unwrap_or_else(|| self.shared.paths.tree(&self.info.id, root));
        lock(&self.places).insert(root, place.clone());
        place
    }

    fn files(&self, root: Root) -> Result<Vec<Entry>, CatalogError> {
        match self.known(root)? {
            Some(entries) => Ok(entries),
            None => Ok(self.found(root)?.entries.clone()),
        }
    }

    fn outline(&self, root: Root) -> Result<Outline, CatalogError> {
        let (path, length, _) = self.stored(root)?;
        self.prove(&path)?;
        if let Some(entries) = self.known(root)? {
            return Ok(Outline::of(entries));
        }
        let rows = self.proofs()?;
        let sum = |rows: Vec<FileProof>| rows.iter().filter(|row| row.root == root).map(|row| row.size).sum();
        // Unpacked it is not less.
        Ok(Outline { entries: None, bytes: rows.map_or(length, sum) })
    }

    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        if let Some(listed) = self.listed()? {
            return Ok(Some(listed.files.clone()));
        }
        if let Some(known) = self.proofs.get() {
            return Ok(known.clone());
        }
        let proofs = self.manifest()?;
        Ok(self.proofs.get_or_init(|| proofs).clone())
    }

    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        // It lies beside the archives.
        if root == Root::Data && path == BACKUP_MANIFEST {
            let data = self.shared.paths.tree(&self.info.id, Root::Data);
            return Ok(Box::new(self.shared.disk.open_read(&data.join(BACKUP_MANIFEST))?));
        }
        if let Some(small) = lock(&self.found).get(&root).and_then(|found| found.small.get(path)) {
            return Ok(Box::new(Cursor::new(Arc::clone(small))));
        }
        let mut members = self.members(root)?;
        while let Some((entry, bytes)) = members.next().map_err(|error| self.damaged(root, error))? {
            if entry.is_file() && entry.path == path {
                return Ok(bytes);
            }
        }
        let missing = io::Error::new(io::ErrorKind::NotFound, "the archive has no such file");
        let missing: Result<Box<dyn Read + Send>, io::Error> = Err(missing);
        Ok(missing.context("open", &self.location(root).join(path))?)
    }

    fn stream(&self, root: Root) -> Result<Option<Box<dyn MemberStream>>, CatalogError> {
        Ok(Some(Box::new(self.members(root)?)))
    }

    fn manifest(&self) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        let data = self.shared.paths.tree(&self.info.id, Root::Data);
        super::reader::opened(&self.shared, &data.join(BACKUP_MANIFEST))
    }

    fn packed(&self) -> Result<Option<Packed>, CatalogError> {
        let disk = &*self.shared.disk;
        let entries = super::reader::listed(disk, &self.shared.paths.tree(&self.info.id, Root::Data))?;
        let proofs = read_proofs(disk, &self.shared.paths.sidecar(&self.info.id))?;
        Ok(Some(Packed { entries, proofs }))
    }

    fn sidecar(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        super::reader::sidecar(&self.shared, &self.info.id, name)
    }
}
