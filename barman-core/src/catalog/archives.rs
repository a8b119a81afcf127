//! [`ArchiveReader`]: a backup whose trees lie packed in tar archives, as `pg_basebackup --format=tar` makes them
//! (`backup_compression`): `data/base.tar.gz`, `data/<oid>.tar.gz` and, since PostgreSQL 13, `data/backup_manifest`.

use std::collections::HashMap;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use super::known::BACKUP_MANIFEST;
use super::local::Shared;
use super::sidecar::read_proofs;
use super::{BackupReader, CatalogError, FileProof, MemberStream, Packed, Root};
use crate::codec::{Algorithm, MAGIC_LEN, decompressor, detect};
use crate::format::manifest::{ChecksumAlgorithm, ManifestFile, read_manifest};
use crate::format::tar::{self, Event, Member, Parser};
use crate::io::{IoContext, IoErrorKind};
use crate::model::{BackupInfo, Entry, EntryKind};

/// The endings of an archive's name.
const ENDINGS: [&str; 4] = ["tar", "tar.gz", "tar.lz4", "tar.zst"];
/// Bytes read at once.
const READ: usize = 256 << 10;
/// What is asked for by name is small: configuration files, the label, `pg_control`. It is kept from the first reading.
const SMALL: u64 = 1 << 20;

/// Reads one backup.
pub(super) struct ArchiveReader {
    shared: Arc<Shared>,
    info: BackupInfo,
    found: Mutex<HashMap<Root, Arc<Found>>>,
    proofs: OnceLock<Option<Vec<FileProof>>>,
}

/// What an archive holds.
struct Found {
    entries: Vec<Entry>,
    small: HashMap<Utf8PathBuf, Arc<[u8]>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ArchiveReader {
    /// The reader for a backup whose data directory is an archive; gives the facts back for one whose is not.
    pub(super) fn open(
        shared: &Arc<Shared>,
        info: BackupInfo,
    ) -> Result<Result<Self, BackupInfo>, CatalogError> {
        let reader =
            Self { shared: Arc::clone(shared), info, found: Mutex::default(), proofs: OnceLock::new() };
        // An archive that lies among the files of a server is a file of it.
        let data = shared.paths.tree(&reader.info.id, Root::Data);
        let plain = shared.disk.exists(&data.join("PG_VERSION"))?;
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
            let encrypted = Utf8PathBuf::from(format!("{path}.gpg"));
            if self.shared.disk.exists(&encrypted)? {
                let reason = "it is encrypted, and this version cannot decrypt it".to_owned();
                return Err(CatalogError::Manifest { path: encrypted, reason });
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

    /// The members of an archive, from its beginning.
    fn members(&self, root: Root) -> Result<Members, CatalogError> {
        let path = self.archive(root)?.ok_or_else(|| self.damaged(root, "none"))?;
        let file = self.shared.disk.open_read(&path)?;
        let mut start = vec![0; MAGIC_LEN];
        let n = file.read_at(&mut start, 0)?;
        start.truncate(n);
        let stored = read_proofs(&*self.shared.disk, &self.shared.paths.sidecar(&self.info.id))?;
        let row = stored.and_then(|rows| {
            rows.into_iter().find(|row| row.root == Root::Data && path.file_name() == Some(row.path.as_str()))
        });
        let reader = BufReader::with_capacity(READ, Stored { file, row, crc: 0, length: 0 });
        let plain: Box<dyn Read + Send> = match detect(&start, None) {
            None | Some(Algorithm::None) => Box::new(reader),
            Some(algorithm) => decompressor(algorithm, None)
                .and_then(|packing| packing.decoder(Box::new(reader)))
                .map_err(|error| self.damaged(root, error))?,
        };
        Ok(Members(Arc::new(Mutex::new(Walk::new(plain)))))
    }

    /// Reads an archive once for what it holds.
    fn found(&self, root: Root) -> Result<Arc<Found>, CatalogError> {
        if let Some(found) = lock(&self.found).get(&root) {
            return Ok(Arc::clone(found));
        }
        let mut members = self.members(root)?;
        let (mut entries, mut small) = (Vec::new(), HashMap::new());
        let unreadable = |error: io::Error| self.damaged(root, error);
        while let Some((entry, mut bytes)) = members.next().map_err(unreadable)? {
            let wanted = root == Root::Data
                && (!entry.path.as_str().contains('/') || entry.path == "global/pg_control");
            if wanted && entry.is_file() && entry.size <= SMALL {
                let mut content = Vec::new();
                bytes.read_to_end(&mut content).map_err(unreadable)?;
                small.insert(entry.path.clone(), content.into());
            }
            entries.push(entry);
        }
        let found = Arc::new(Found { entries, small });
        lock(&self.found).insert(root, Arc::clone(&found));
        Ok(found)
    }

    /// The rows of PostgreSQL's manifest as far as they bear a CRC-32C.
    fn manifest(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        let path = self.shared.paths.tree(&self.info.id, Root::Data).join(BACKUP_MANIFEST);
        let file = match self.shared.disk.open_read(&path) {
            Err(e) if e.kind() == IoErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut rows = Vec::new();
        let mut odd = None;
        read_manifest(BufReader::with_capacity(READ, file), &mut |file| match self.row(&file) {
            Some(row) => rows.push(row),
            None => odd = Some(String::from_utf8_lossy(&file.path).into_owned()),
        })
        .map_err(|error| {
            let reason = crate::format::text::with_reasons(&error);
            CatalogError::Manifest { path: path.clone(), reason }
        })?;
        // Other algorithms are not verified here.
        if odd.is_some() {
            return Ok(None);
        }
        let mut known = HashMap::new();
        let roots: Vec<Root> = rows.iter().map(|row: &FileProof| row.root).collect();
        for root in roots {
            if let std::collections::hash_map::Entry::Vacant(free) = known.entry(root) {
                let entries = &self.found(root)?.entries;
                free.insert(
                    entries.iter().map(|e| (e.path.clone(), (e.mtime, e.mode))).collect::<HashMap<_, _>>(),
                );
            }
        }
        for row in &mut rows {
            if let Some((mtime, mode)) = known.get(&row.root).and_then(|tree| tree.get(&row.path)) {
                (row.mtime, row.mode) = (*mtime, *mode);
            }
        }
        Ok(Some(rows))
    }

    fn row(&self, file: &ManifestFile) -> Option<FileProof> {
        let (root, path) = Root::of_manifest(std::str::from_utf8(&file.path).ok()?);
        let crc32c = match &file.checksum {
            Some((ChecksumAlgorithm::Crc32c, sum)) => u32::from_le_bytes(sum.as_slice().try_into().ok()?),
            _ => return None,
        };
        Some(FileProof {
            root,
            path,
            size: file.size,
            mtime: Default::default(),
            mode: 0o600,
            crc32c,
            sha256: None,
        })
    }
}

impl BackupReader for ArchiveReader {
    fn info(&self) -> &BackupInfo {
        &self.info
    }

    fn location(&self, root: Root) -> Utf8PathBuf {
        let archive = self.archive(root).ok().flatten();
        archive.unwrap_or_else(|| self.shared.paths.tree(&self.info.id, root))
    }

    fn files(&self, root: Root) -> Result<Vec<Entry>, CatalogError> {
        Ok(self.found(root)?.entries.clone())
    }

    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        if let Some(known) = self.proofs.get() {
            return Ok(known.clone());
        }
        let proofs = self.manifest()?;
        Ok(self.proofs.get_or_init(|| proofs).clone())
    }

    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        if let Some(small) = self.found(root)?.small.get(path) {
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

/// A stored archive that fails at its end when it is not what was stored, where that is known (I24).
struct Stored<R> {
    file: R,
    row: Option<FileProof>,
    crc: u32,
    length: u64,
}

impl<R: Read> Read for Stored<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(out)?;
        let Some(row) = &self.row else { return Ok(n) };
        self.crc = crc32c::crc32c_append(self.crc, out.get(..n).unwrap_or_default());
        self.length += n as u64;
        if n == 0 && !out.is_empty() && (self.crc != row.crc32c || self.length != row.size) {
            let text = "its bytes are not those that were stored";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(n)
    }
}

/// The members of any tar archive, to its very end. Paths that do not stay below are errors.
pub(crate) fn members_of(plain: Box<dyn Read + Send>) -> Box<dyn MemberStream> {
    Box::new(Members(Arc::new(Mutex::new(Walk::new(plain)))))
}

/// The members of an archive, one after the other.
struct Members(Arc<Mutex<Walk>>);

impl MemberStream for Members {
    fn next(&mut self) -> io::Result<Option<(Entry, Box<dyn Read + Send>)>> {
        let Some(member) = lock(&self.0).next_member()? else { return Ok(None) };
        let entry = entry_of(&member)?;
        Ok(Some((entry, Box::new(Body(Arc::clone(&self.0))))))
    }
}

/// The bytes of the member that began last.
struct Body(Arc<Mutex<Walk>>);

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read_body(out)
    }
}

fn entry_of(member: &Member) -> io::Result<Entry> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let name = member.utf8_path().ok_or_else(|| {
        invalid(format!("the name '{}' is not UTF-8", String::from_utf8_lossy(&member.path)))
    })?;
    let path = Utf8PathBuf::from(name.strip_prefix("./").unwrap_or(name));
    if !super::layout::stays_below(&path) && !path.as_str().is_empty() {
        return Err(invalid(format!("the path '{path}' does not stay in its tree")));
    }
    let kind = match &member.kind {
        tar::Kind::File => EntryKind::File,
        tar::Kind::Directory => EntryKind::Directory,
        tar::Kind::Symlink(target) => EntryKind::Symlink(String::from_utf8_lossy(target).into_owned().into()),
        tar::Kind::HardLink(_) | tar::Kind::Special => EntryKind::Other,
    };
    let size = if kind == EntryKind::File { member.size } else { 0 };
    Ok(Entry { path, kind, size, mtime: member.mtime, mode: member.mode })
}

/// A tar stream that is walked through once.
struct Walk {
    plain: Box<dyn Read + Send>,
    /// Taken at the end.
    parser: Option<Parser>,
    buffer: Vec<u8>,
    /// What of the buffer is not parsed yet.
    from: usize,
    to: usize,
    /// Bytes of the current member that were parsed and not taken yet.
    body: (usize, usize),
    inside: bool,
}

/// What the next piece of an archive is.
enum Next {
    Member(Member),
    Data,
    MemberEnd,
    End,
}

impl Walk {
    fn new(plain: Box<dyn Read + Send>) -> Self {
        let parser = Some(Parser::new());
        Self { plain, parser, buffer: vec![0; READ], from: 0, to: 0, body: (0, 0), inside: false }
    }

    fn step(&mut self) -> io::Result<Next> {
        let invalid = |error: tar::TarError| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            let Some(parser) = &mut self.parser else { return Ok(Next::End) };
            let mut input = self.buffer.get(self.from..self.to).unwrap_or_default();
            let event = parser.next(&mut input).map_err(invalid)?;
            let parsed = self.to - input.len();
            let next = match event {
                Some(Event::Member(member)) => Some(Next::Member(member)),
                Some(Event::Data(bytes)) => {
                    self.body = (parsed - bytes.len(), parsed);
                    Some(Next::Data)
                }
                Some(Event::MemberEnd) => Some(Next::MemberEnd),
                Some(Event::End) | None => None,
            };
            self.from = parsed;
            if let Some(next) = next {
                return Ok(next);
            }
            if self.from < self.to {
                continue;
            }
            // To the very end, so that a checksum of the packing is looked at, too.
            let n = self.plain.read(&mut self.buffer)?;
            (self.from, self.to) = (0, n);
            if n == 0
                && let Some(parser) = self.parser.take()
            {
                // Archives on disk always have it; without it nobody knows whether all is there.
                if parser.finish().map_err(invalid)? == tar::End::Unmarked {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the end of the archive is missing",
                    ));
                }
            }
        }
    }

    /// Passes what is left of the current member.
    fn next_member(&mut self) -> io::Result<Option<Member>> {
        self.body = (0, 0);
        loop {
            match self.step()? {
                Next::Member(member) => {
                    self.inside = true;
                    return Ok(Some(member));
                }
                Next::Data => self.body = (0, 0),
                Next::MemberEnd => self.inside = false,
                Next::End => return Ok(None),
            }
        }
    }

    fn read_body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.inside && self.body.0 == self.body.1 {
            match self.step()? {
                Next::Data => {}
                Next::MemberEnd | Next::End => self.inside = false,
                Next::Member(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a member begins inside of another",
                    ));
                }
            }
        }
        let (from, to) = self.body;
        let n = out.len().min(to - from);
        if let (Some(target), Some(source)) = (out.get_mut(..n), self.buffer.get(from..from + n)) {
            target.copy_from_slice(source);
        }
        self.body.0 += n;
        Ok(n)
    }
}
