//! [`Intake`]: the tar archives of a base backup become files, each summed and its pages checked on the way, and at the
//! end compared with the server's manifest.

use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use bytes::Bytes;
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::pack::Packer;
use super::page_check::{PageCheck, PageLayout, Suspect};
use super::streaming::clean;
use super::{BackupError, Begin, CorruptPage, Packing};
use crate::catalog::{
    BackupSpace, CatalogError, DirSpec, ENCRYPTED, FileProof, FileSink, FileSpec, Root, write_members,
};
use crate::cipher::Cipher;
use crate::codec::{Algorithm, Level};
use crate::ctx::{Ctx, Event};
use crate::format::incremental;
use crate::format::manifest::{ChecksumAlgorithm, ManifestFile, crc32c_checksum, read_manifest};
use crate::format::relfile::RelFile;
use crate::format::tar::{self, Member, Parser};
use crate::io::IoError;
use crate::model::{FileTime, Lsn, Oid};
use crate::pg::BaseBackupSink;

/// The name of the manifest in the data directory.
pub(super) const MANIFEST: &str = "backup_manifest";
/// The name of the label in the data directory.
const LABEL: &str = "backup_label";
/// Bytes of an archive written at once.
const GATHER: usize = 1 << 20;
/// No label is longer; it is a few lines.
const LONGEST_LABEL: usize = 64 << 10;

/// What was received.
pub(super) struct Received {
    /// Every file.
    pub(super) proofs: Vec<FileProof>,
    /// The text of `backup_label`.
    pub(super) label: String,
    /// Pages that are wrong and that replay does not write anew.
    pub(super) corrupt: Vec<CorruptPage>,
    /// Bytes of all archives.
    pub(super) bytes: u64,
}

/// Takes a base backup in.
pub(super) struct Intake<'a> {
    space: &'a dyn BackupSpace,
    begin: &'a Begin,
    layout: Option<PageLayout>,
    ctx: &'a Ctx<'a>,
    state: State,
    /// Every file that was received, packed or not.
    received: Vec<FileProof>,
    /// The archives that were stored.
    archives: Vec<FileProof>,
    keep: Keep<'a>,
    /// What encrypts the archives.
    cipher: Option<Arc<dyn Cipher>>,
    /// The directories in the archives.
    directories: Vec<DirSpec>,
    label: Vec<u8>,
    manifest: Vec<u8>,
    suspects: Vec<(Root, Utf8PathBuf, Suspect)>,
    /// The trees whose archives have come to their end.
    complete: Vec<Root>,
    bytes: u64,
}

enum State {
    Nothing,
    Archive(Box<Archive>),
    Manifest,
}

/// The archive that is coming.
struct Archive {
    root: Root,
    parser: Parser,
    file: Option<Current>,
    store: Store,
}

/// What becomes of the files.
#[derive(Clone, Copy)]
pub(super) enum Keep<'a> {
    /// They are stored.
    Files,
    /// Their archives are, packed here.
    Packed(&'a Packing),
    /// Their archives are, as the server packed them, with this ending.
    Received(&'static str),
}

impl Keep<'_> {
    fn is_files(&self) -> bool {
        matches!(self, Self::Files)
    }

    fn ending(&self) -> &'static str {
        match self {
            Self::Files => "tar",
            Self::Packed(packing) => packing.ending,
            Self::Received(ending) => ending,
        }
    }
}

/// Where the bytes of an archive go.
enum Store {
    Nothing,
    Packer(Packer),
    /// The bytes as they come.
    Sink(BufWriter<Box<dyn FileSink>>),
    /// The bytes as they come, encrypted.
    Encrypted(Packer),
}

/// The file that is coming.
struct Current {
    path: Utf8PathBuf,
    to: To,
    pages: Option<PageCheck>,
}

/// Where the bytes of a file go.
enum To {
    File(Box<dyn FileSink>),
    /// Into the archive, as they are; here they are only summed.
    Archive {
        proof: FileProof,
    },
}

impl To {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::File(sink) => sink.write_all(bytes),
            Self::Archive { proof } => {
                proof.crc32c = crc32c::crc32c_append(proof.crc32c, bytes);
                proof.size += bytes.len() as u64;
                Ok(())
            }
        }
    }
}

impl<'a> Intake<'a> {
    pub(super) fn new(
        space: &'a dyn BackupSpace,
        begin: &'a Begin,
        layout: Option<PageLayout>,
        keep: Keep<'a>,
        ctx: &'a Ctx<'a>,
    ) -> Self {
        Self {
            space,
            begin,
            layout,
            ctx,
            state: State::Nothing,
            received: Vec::new(),
            archives: Vec::new(),
            keep,
            cipher: None,
            directories: Vec::new(),
            label: Vec::new(),
            manifest: Vec::new(),
            suspects: Vec::new(),
            complete: Vec::new(),
            bytes: 0,
        }
    }

    /// The same with archives that are encrypted.
    pub(super) fn encrypted(self, cipher: Option<Arc<dyn Cipher>>) -> Self {
        Self { cipher, ..self }
    }

    /// Ends the archive that was being received.
    fn close(&mut self) -> Result<(), BackupError> {
        if let State::Archive(open) = std::mem::replace(&mut self.state, State::Nothing) {
            let Archive { root, parser, store, .. } = *open;
            let end = parser.finish().map_err(|error| self.broken(root, &error.to_string()))?;
            match store {
                Store::Nothing => {}
                Store::Packer(packer) => {
                    // Servers before 15 leave the mark out.
                    if end == tar::End::Unmarked {
                        packer.push(Bytes::from_static(&tar::END_OF_ARCHIVE));
                    }
                    self.archives.push(packer.finish()?);
                }
                Store::Encrypted(packer) => self.archives.push(packer.finish()?),
                Store::Sink(sink) => {
                    let sink = sink.into_inner().map_err(|error| {
                        self.unwritable(Root::Data, Utf8Path::new("an archive"), error.into_error())
                    })?;
                    self.archives.push(sink.finish()?);
                }
            }
            self.complete.push(root);
        }
        Ok(())
    }

    fn broken(&self, root: Root, reason: &str) -> BackupError {
        BackupError::Source {
            path: self.space.location(root),
            what: format!("cannot be made of what the server sent: {reason}. Take the backup again"),
        }
    }

    /// Begins a member; gives the file whose bytes follow.
    fn begin_member(&mut self, root: Root, member: &Member) -> Result<Option<Current>, BackupError> {
        let Some(path) = member.utf8_path().map(clean) else {
            let name = String::from_utf8_lossy(&member.path);
            return Err(self.broken(root, &format!("the name '{name}' is not UTF-8")));
        };
        if !path.components().all(|part| matches!(part, Utf8Component::Normal(_) | Utf8Component::CurDir)) {
            return Err(self.broken(root, &format!("the path '{path}' does not stay in its tree")));
        }
        match &member.kind {
            tar::Kind::Directory => {
                let spec = DirSpec { root, path, mode: member.mode };
                if self.keep.is_files() {
                    self.space.dir(spec)?;
                } else {
                    self.directories.push(spec);
                }
                Ok(None)
            }
            tar::Kind::File => {
                let (mode, mtime, size) = (member.mode, member.mtime, member.size);
                let to = if !self.keep.is_files() {
                    let (path, crc32c, sha256) = (path.clone(), 0, None);
                    To::Archive { proof: FileProof { root, path, size: 0, mtime, mode, crc32c, sha256 } }
                } else {
                    To::File(self.space.file(FileSpec { root, path: path.clone(), mode, mtime, size })?)
                };
                let whole = incremental::whole_path(&path).and_then(|whole| RelFile::parse(&whole));
                let pages = match (self.layout, RelFile::parse(&path), whole) {
                    (Some(layout), Some(file), _) => Some(PageCheck::new(layout, file)),
                    (Some(layout), None, Some(whole)) => Some(PageCheck::incremental(layout, whole)),
                    (None, _, Some(whole)) => {
                        let server = &self.begin.server;
                        let (block_size, blocks_per_file) = (server.block_size, server.blocks_per_file);
                        let layout = PageLayout { block_size, blocks_per_file };
                        Some(PageCheck::incremental_without_checksums(layout, whole))
                    }
                    _ => None,
                };
                Ok(Some(Current { path, to, pages }))
            }
            tar::Kind::Symlink(_) => {
                match path.strip_prefix("pg_tblspc").ok().map(|oid| oid.as_str().parse()) {
                    Some(Ok(oid)) if root == Root::Data => {
                        if self.keep.is_files() {
                            self.space.tablespace_link(oid)?;
                        }
                        Ok(None)
                    }
                    _ => Err(self.broken(root, &format!("'{path}' is a symbolic link"))),
                }
            }
            tar::Kind::HardLink(_) | tar::Kind::Special => {
                Err(self.broken(root, &format!("'{path}' is neither a file nor a directory")))
            }
        }
    }

    fn end_member(&mut self, root: Root, current: Current) -> Result<(), BackupError> {
        let Current { path, to, pages } = current;
        if let Some(reason) = pages.as_ref().and_then(PageCheck::malformed) {
            return Err(self.broken(root, &format!("'{path}' is no incremental file, {reason}")));
        }
        let suspects = pages.map(PageCheck::finish).unwrap_or_default();
        self.suspects.extend(suspects.into_iter().map(|suspect| (root, path.clone(), suspect)));
        self.received.push(match to {
            To::File(sink) => sink.finish()?,
            To::Archive { proof } => proof,
        });
        Ok(())
    }

    fn archive_data(&mut self, bytes: &Bytes) -> Result<(), BackupError> {
        let mut input = bytes.as_ref();
        self.bytes += input.len() as u64;
        self.ctx.progress.event(&Event::Advanced { by: input.len() as u64 });
        let State::Archive(mut open) = std::mem::replace(&mut self.state, State::Nothing) else {
            return Err(self.broken(Root::Data, "data came that belongs to no archive"));
        };
        if let Store::Packer(packer) = &open.store
            && !packer.push(bytes.clone())
        {
            // It has failed, and says why.
            return match std::mem::replace(&mut open.store, Store::Nothing) {
                Store::Packer(packer) => packer.finish().map(drop),
                _ => Ok(()),
            };
        }
        let Archive { root, parser, file, .. } = &mut *open;
        let root = *root;
        while let Some(event) = parser.next(&mut input).map_err(|e| self.broken(root, &e.to_string()))? {
            match event {
                tar::Event::Member(member) => *file = self.begin_member(root, &member)?,
                tar::Event::Data(bytes) => {
                    let Some(current) = file else { continue };
                    if root == Root::Data && current.path == LABEL && self.label.len() < LONGEST_LABEL {
                        self.label.extend_from_slice(bytes);
                    }
                    if let Some(pages) = &mut current.pages {
                        pages.push(bytes);
                    }
                    current.to.write(bytes).map_err(|e| self.unwritable(root, &current.path, e))?;
                }
                tar::Event::MemberEnd => {
                    if let Some(current) = file.take() {
                        self.end_member(root, current)?;
                    }
                }
                tar::Event::End => {}
            }
        }
        self.state = State::Archive(open);
        Ok(())
    }

    fn unwritable(&self, root: Root, path: &Utf8Path, error: std::io::Error) -> BackupError {
        CatalogError::from(IoError::new("write", self.space.location(root).join(path), error)).into()
    }

    /// Judges what came as a whole; `end` is where the backup ended.
    pub(super) fn finish(mut self, end: Lsn) -> Result<Received, BackupError> {
        self.close()?;
        let server = &self.begin.server;
        let wanted = server.tablespaces.iter().map(|space| Root::Tablespace(space.oid)).chain([Root::Data]);
        for root in wanted {
            if !self.complete.contains(&root) {
                return Err(self.broken(root, "its archive did not come"));
            }
        }
        let has = |path: &str| self.received.iter().any(|p| p.root == Root::Data && p.path == path);
        // The last file of the data directory: archives before 15 have no mark at their end.
        for file in ["global/pg_control", LABEL] {
            if !has(file) {
                return Err(self.broken(Root::Data, &format!("'{file}' did not come")));
            }
        }
        if server.version.num() >= 130_000 {
            self.compare()?;
            let spec = FileSpec {
                root: Root::Data,
                path: MANIFEST.into(),
                mode: 0o600,
                mtime: FileTime { seconds: self.ctx.clock.now().unix_timestamp(), nanos: 0 },
                size: self.manifest.len() as u64,
            };
            let mut sink = self.space.file(spec)?;
            sink.write_all(&self.manifest)
                .map_err(|e| self.unwritable(Root::Data, Utf8Path::new(MANIFEST), e))?;
            self.archives.push(sink.finish()?);
        }
        let start = self.begin.started.lsn;
        // Replay of the backup's own WAL writes the pages anew that changed since the start.
        let stays = |lsn: Lsn| lsn < start || lsn > end;
        let corrupt = self.suspects.into_iter().filter(|(.., suspect)| stays(suspect.lsn));
        let corrupt = corrupt.map(|(root, path, s)| CorruptPage {
            root,
            path,
            block: s.block,
            found: s.found,
            expected: s.expected,
        });
        let corrupt: Vec<CorruptPage> = corrupt.collect();
        let label = String::from_utf8_lossy(&self.label).into_owned();
        let mut proofs = self.archives;
        if self.keep.is_files() {
            proofs.extend(self.received);
        } else {
            write_members(self.space, &self.directories, &self.received)?;
        }
        Ok(Received { proofs, label, corrupt, bytes: self.bytes })
    }

    /// Every file is what the manifest says, and the manifest names every file.
    fn compare(&self) -> Result<(), BackupError> {
        let mut files: HashMap<Root, HashMap<&Utf8Path, &FileProof>> = HashMap::new();
        for proof in &self.received {
            files.entry(proof.root).or_default().insert(&proof.path, proof);
        }
        let mut wrong = None;
        let summary = read_manifest(self.manifest.as_slice(), &mut |listed| {
            let found = std::str::from_utf8(&listed.path).ok().map(Root::of_manifest);
            let proof = found.and_then(|(root, path)| files.get_mut(&root)?.remove(path.as_path()));
            if let Some(what) = difference(&listed, proof) {
                wrong.get_or_insert((String::from_utf8_lossy(&listed.path).into_owned(), what));
            }
        });
        let summary = summary.map_err(|error| {
            let reason = crate::format::text::with_reasons(&error);
            self.broken(Root::Data, &reason)
        })?;
        let server = self.begin.server.system_id;
        if summary.system_id.is_some_and(|system| system != server) {
            return Err(self.broken(Root::Data, "the manifest is of another cluster"));
        }
        let unlisted = files.values().find_map(|tree| tree.keys().next());
        let unlisted = unlisted.map(|path| (path.to_string(), "is not in the manifest".to_owned()));
        match wrong.or(unlisted) {
            Some((path, what)) => Err(BackupError::Source {
                path: self.begin.server.pgdata.join(path),
                what: format!("{what}: it was changed on its way. Take the backup again"),
            }),
            None => Ok(()),
        }
    }
}

fn difference(listed: &ManifestFile, proof: Option<&FileProof>) -> Option<String> {
    let Some(proof) = proof else { return Some("is in the manifest and was not sent".to_owned()) };
    if proof.size != listed.size {
        return Some(format!("has {} bytes where the manifest says {}", proof.size, listed.size));
    }
    match &listed.checksum {
        Some((ChecksumAlgorithm::Crc32c, sum)) if *sum != crc32c_checksum(proof.crc32c) => {
            Some("does not have the checksum that the manifest says".to_owned())
        }
        _ => None,
    }
}

impl BaseBackupSink for Intake<'_> {
    type Error = BackupError;

    fn archive(&mut self, tablespace: Option<Oid>) -> Result<(), BackupError> {
        self.close()?;
        let root = tablespace.map_or(Root::Data, Root::Tablespace);
        let known = |oid| self.begin.server.tablespaces.iter().any(|space| space.oid == oid);
        if tablespace.is_some_and(|oid| !known(oid)) || self.complete.contains(&root) {
            return Err(self.broken(root, "an archive came that was not announced"));
        }
        self.space.dir(DirSpec { root, path: Utf8PathBuf::new(), mode: 0o700 })?;
        let store = match self.keep {
            Keep::Files => Store::Nothing,
            Keep::Packed(_) | Keep::Received(_) => {
                let stem = tablespace.map_or_else(|| "base".to_owned(), |oid| oid.to_string());
                if tablespace.is_some() {
                    // The archives of tablespaces lie beside that of the data directory.
                    self.space.dir(DirSpec { root: Root::Data, path: Utf8PathBuf::new(), mode: 0o700 })?;
                }
                let cipher = self.cipher.clone();
                let ending = if cipher.is_some() { format!(".{ENCRYPTED}") } else { String::new() };
                let spec = FileSpec {
                    root: Root::Data,
                    path: format!("{stem}.{}{ending}", self.keep.ending()).into(),
                    mode: 0o600,
                    mtime: FileTime { seconds: self.ctx.clock.now().unix_timestamp(), nanos: 0 },
                    size: 0,
                };
                match self.keep {
                    Keep::Packed(packing) => Store::Packer(Packer::begin(self.space, spec, packing, cipher)?),
                    Keep::Received(ending) if cipher.is_some() => {
                        let compressor: Arc<_> = crate::codec::packing(Algorithm::None, Level::Medium)
                            .map_err(|error| {
                                self.unwritable(Root::Data, &spec.path, std::io::Error::other(error))
                            })?
                            .into();
                        let as_it_comes = Packing { compressor, workers: 1, ending };
                        Store::Encrypted(Packer::begin(self.space, spec, &as_it_comes, cipher)?)
                    }
                    _ => Store::Sink(BufWriter::with_capacity(GATHER, self.space.file(spec)?)),
                }
            }
        };
        let parser = Parser::new();
        self.state = State::Archive(Box::new(Archive { root, parser, file: None, store }));
        Ok(())
    }

    fn manifest(&mut self) -> Result<(), BackupError> {
        self.close()?;
        self.state = State::Manifest;
        Ok(())
    }

    fn data(&mut self, bytes: Bytes) -> Result<(), BackupError> {
        if let State::Manifest = self.state {
            self.manifest.extend_from_slice(&bytes);
            return Ok(());
        }
        self.archive_data(&bytes)
    }

    fn packed(&mut self, bytes: Bytes) -> Result<(), BackupError> {
        let State::Archive(open) = &mut self.state else { return Ok(()) };
        match &mut open.store {
            Store::Sink(sink) => {
                let written = sink.write_all(&bytes);
                written.map_err(|error| self.unwritable(Root::Data, Utf8Path::new("an archive"), error))
            }
            Store::Encrypted(packer) if !packer.push(bytes) => {
                // It has failed, and says why.
                match std::mem::replace(&mut open.store, Store::Nothing) {
                    Store::Encrypted(packer) => packer.finish().map(drop),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
