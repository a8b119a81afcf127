//! [`Chain`]: an incremental backup with all that it builds on, read as if it were one full backup (I33), without a copy of it.
//!
//! Every file is one of the newest backup. A relation file that lies there as an incremental one is merged block by block, each
//! block from the newest backup that has it, while all sources are read once to their ends and verified where their checksums
//! are known. That is what `pg_combinebackup` does (`src/bin/pg_combinebackup/reconstruct.c`), but for visibility maps.
//!
//! Where a backup of the chain lies packed, the chain is walked from the newest to the oldest; only the incremental files met on
//! the way wait for their full file, in a nameless scratch file.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use super::verify::Verifying;
use crate::catalog::{BACKUP_MANIFEST, BackupReader, CatalogError, FileProof, MemberStream, Outline, Root};
use crate::ctx::Cancel;
use crate::format::backup_label::BackupLabel;
use crate::format::control::ControlFile;
use crate::format::incremental::{IncrementalHeader, PREFIX, incremental_path, whole_path};
use crate::format::manifest::{ChecksumAlgorithm, Form, ManifestWriter, crc32c_checksum, read_manifest};
use crate::format::relfile::{Fork, RelFile};
use crate::io::IoError;
use crate::model::{BackupInfo, Entry, Lsn, Timeline};

mod merge;
mod visibility;
mod walk;

use merge::{Merged, Source};
use visibility::{Changes, Stale};

/// The label in the data directory.
const LABEL: &str = "backup_label";
/// The file with the facts of the cluster.
const CONTROL: &str = "global/pg_control";
/// Lines of a label that only incremental backups have; PostgreSQL does not start with them.
const INCREMENTAL_LINES: &str = "INCREMENTAL FROM ";

/// A chain of backups.
pub struct Chain(Arc<Shared>);

/// What the reader and its streams share.
struct Shared {
    /// The newest first, the full one last.
    links: Vec<Link>,
    layout: OnceLock<Layout>,
    /// Where scratch files are made.
    scratch: Utf8PathBuf,
    listings: Mutex<HashMap<Root, Arc<Listing>>>,
    /// What the merged files are, for the manifest.
    sums: Mutex<HashMap<(Root, Utf8PathBuf), Sum>>,
    cancel: Cancel,
}

/// What the control file says of relation files. It may be the last file of an archive: it is looked up only when needed.
#[derive(Clone, Copy)]
struct Layout {
    block_size: u32,
    blocks_per_file: u32,
    checksums: bool,
}

/// One backup of the chain.
struct Link {
    reader: Arc<dyn BackupReader>,
    proofs: Option<HashMap<(Root, Utf8PathBuf), Sum>>,
    packed: bool,
}

/// What is known of the content of a file.
#[derive(Clone, Copy)]
struct Sum {
    size: u64,
    crc32c: u32,
}

/// What a tree will hold.
struct Listing {
    entries: Vec<Entry>,
    /// The incremental file of the newest backup of each file that is merged.
    merged: HashMap<Utf8PathBuf, Entry>,
}

impl Chain {
    /// Puts a chain together: the newest backup first, the full one last. `scratch` is a directory for what cannot be kept in
    /// memory; it is used only when a backup of the chain lies packed.
    ///
    /// # Errors
    /// Backups that do not follow each other, or that cannot be read.
    pub fn new(
        readers: Vec<Arc<dyn BackupReader>>,
        scratch: Utf8PathBuf,
        cancel: &Cancel,
    ) -> Result<Self, CatalogError> {
        judge(&readers)?;
        let mut links = Vec::with_capacity(readers.len());
        for reader in readers {
            let proofs = reader.proofs()?.map(|rows| rows.into_iter().map(sum).collect());
            let packed = reader.stream(Root::Data)?.is_some();
            links.push(Link { reader, proofs, packed });
        }
        if links.is_empty() {
            return Err(no_chain("it has no backup"));
        }
        Ok(Self(Arc::new(Shared {
            links,
            layout: OnceLock::new(),
            scratch,
            listings: Mutex::default(),
            sums: Mutex::default(),
            cancel: cancel.clone(),
        })))
    }
}

/// A label without what only incremental backups have.
fn startable(label: &str) -> Vec<u8> {
    let lines = label.split_inclusive('\n').filter(|line| !line.starts_with(INCREMENTAL_LINES));
    lines.collect::<String>().into_bytes()
}

fn sum(row: FileProof) -> ((Root, Utf8PathBuf), Sum) {
    ((row.root, row.path), Sum { size: row.size, crc32c: row.crc32c })
}

fn damaged(path: &Utf8Path, expected: &str, found: &dyn std::fmt::Display) -> CatalogError {
    CatalogError::Damaged { path: path.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

fn no_chain(found: &str) -> CatalogError {
    damaged(Utf8Path::new("The chain of incremental backups"), "each backup made on the one before", &found)
}

/// Each backup must be made on the next one of the list, and the last one on none.
fn judge(readers: &[Arc<dyn BackupReader>]) -> Result<(), CatalogError> {
    let mut wanted: Option<(BackupInfo, (Lsn, Timeline))> = None;
    for reader in readers {
        let info = reader.info();
        let text = match &info.backup_label {
            Some(text) => text.clone(),
            None => {
                let mut text = String::new();
                let path = reader.location(Root::Data).join(LABEL);
                let read = reader.open(Root::Data, Utf8Path::new(LABEL))?.read_to_string(&mut text);
                read.map_err(|error| IoError::new("read", path, error))?;
                text
            }
        };
        let label = BackupLabel::parse(&text)
            .map_err(|error| no_chain(&format!("the label of backup {}: {error}", info.id)))?;
        let start = (label.start, label.start_segment.timeline);
        if let Some((child, from)) = &wanted {
            if *from != start {
                return Err(no_chain(&format!(
                    "backup {} was made on one that began at {} on timeline {}, and backup {} began at {} on timeline {}",
                    child.id, from.0, from.1, info.id, start.0, start.1
                )));
            }
            if child.systemid.is_some() && info.systemid.is_some() && child.systemid != info.systemid {
                return Err(no_chain(&format!("backups {} and {} are of two clusters", child.id, info.id)));
            }
        }
        wanted = label.incremental_from.map(|from| (info.clone(), from));
        if wanted.is_none() {
            break;
        }
    }
    match wanted {
        None => Ok(()),
        Some((child, _)) => Err(no_chain(&format!("the backup that {} was made on is missing", child.id))),
    }
}

impl Link {
    fn sum(&self, root: Root, path: &Utf8Path) -> Option<Sum> {
        self.proofs.as_ref()?.get(&(root, path.to_owned())).copied()
    }

    /// Whether it has the tree at all: a tablespace may have been made later.
    fn has(&self, root: Root) -> bool {
        let spaces = &self.reader.info().tablespaces;
        match root {
            Root::Data => true,
            Root::Tablespace(oid) => spaces.iter().any(|space| space.oid == oid),
        }
    }

    /// The bytes of a file, verified where its checksum is known.
    fn verified(&self, root: Root, path: &Utf8Path, bytes: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
        match self.sum(root, path) {
            Some(sum) => {
                let name = self.reader.location(root).join(path);
                Box::new(Verifying::new(bytes, name, sum.size, sum.crc32c))
            }
            None => bytes,
        }
    }

    /// A file that is not packed, or small; `None` when it is not there.
    fn open(&self, root: Root, path: &Utf8Path) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        match self.reader.open(root, path) {
            Ok(bytes) => Ok(Some(self.verified(root, path, bytes))),
            Err(CatalogError::Io(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small file, whole.
    fn read(&self, root: Root, path: &Utf8Path) -> Result<Vec<u8>, CatalogError> {
        let name = self.reader.location(root).join(path);
        let mut content = Vec::new();
        let missing = || damaged(&name, "a file", &"none");
        let mut bytes = self.open(root, path)?.ok_or_else(missing)?;
        bytes.read_to_end(&mut content).map_err(|error| IoError::new("read", name, error))?;
        Ok(content)
    }
}

impl Shared {
    fn newest(&self) -> Result<&Link, CatalogError> {
        self.links.first().ok_or_else(|| no_chain("it has no backup"))
    }

    fn layout(&self) -> Result<Layout, CatalogError> {
        if let Some(known) = self.layout.get() {
            return Ok(*known);
        }
        // All are of one cluster, and it is cheaper where it is not packed.
        let link = self.links.iter().find(|link| !link.packed);
        let link = link.map_or_else(|| self.newest(), Ok)?;
        let control = link.read(Root::Data, Utf8Path::new(CONTROL))?;
        let control = ControlFile::parse(&control).map_err(|error| {
            damaged(&link.reader.location(Root::Data).join(CONTROL), "a control file", &error)
        })?;
        let layout = Layout {
            block_size: control.block_size,
            blocks_per_file: control.blocks_per_file,
            // They may have been switched on later than the file says that was read here.
            checksums: self.newest()?.reader.info().data_checksums.as_deref() == Some("on"),
        };
        Ok(*self.layout.get_or_init(|| layout))
    }

    /// The label as a server can start with it.
    fn label(&self) -> Result<Vec<u8>, CatalogError> {
        let label = self.newest()?.read(Root::Data, Utf8Path::new(LABEL))?;
        Ok(startable(&String::from_utf8_lossy(&label)))
    }

    /// The tree as it will be, from the newest backup.
    fn listing(&self, root: Root) -> Result<Arc<Listing>, CatalogError> {
        let known = |listings: &Mutex<HashMap<Root, Arc<Listing>>>| {
            listings.lock().unwrap_or_else(PoisonError::into_inner).get(&root).cloned()
        };
        if let Some(listing) = known(&self.listings) {
            return Ok(listing);
        }
        let listing = Arc::new(self.list(self.newest()?, root)?);
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(listings.entry(root).or_insert(listing)))
    }

    fn list(&self, newest: &Link, root: Root) -> Result<Listing, CatalogError> {
        let mut entries = newest.reader.files(root)?;
        let mut merged = HashMap::new();
        for entry in &mut entries {
            if root == Root::Data && entry.path == LABEL && !newest.packed {
                entry.size = self.label()?.len() as u64;
            }
            let Some(whole) = whole_path(&entry.path).filter(|_| entry.is_file()) else { continue };
            self.whole_size(newest, root, entry)?;
            let packed = entry.clone();
            // Only what comes out of an archive tells how long the file will be.
            if !newest.packed {
                let blocks = self.header(newest, root, &entry.path)?.whole_length();
                entry.size = u64::from(blocks) * u64::from(self.layout()?.block_size);
            }
            entry.path.clone_from(&whole);
            merged.insert(whole, packed);
        }
        self.complete(newest, root, &merged)?;
        Ok(Listing { entries, merged })
    }

    /// The incremental file must have the length that was stored.
    fn whole_size(&self, newest: &Link, root: Root, entry: &Entry) -> Result<(), CatalogError> {
        match newest.sum(root, &entry.path) {
            Some(sum) if sum.size != entry.size => Err(damaged(
                &newest.reader.location(root).join(&entry.path),
                &format!("{} bytes", sum.size),
                &format!("{} bytes", entry.size),
            )),
            _ => Ok(()),
        }
    }

    /// Every incremental file that was stored must be there (I24): the caller looks after the others.
    fn complete<T>(
        &self,
        newest: &Link,
        root: Root,
        merged: &HashMap<Utf8PathBuf, T>,
    ) -> Result<(), CatalogError> {
        let Some(proofs) = &newest.proofs else { return Ok(()) };
        for (tree, path) in proofs.keys().filter(|(tree, _)| *tree == root) {
            if let Some(whole) = whole_path(path)
                && !merged.contains_key(&whole)
            {
                return Err(damaged(&newest.reader.location(*tree).join(path), "a file", &"none"));
            }
        }
        Ok(())
    }

    fn header(&self, link: &Link, root: Root, path: &Utf8Path) -> Result<IncrementalHeader, CatalogError> {
        let name = link.reader.location(root).join(path);
        let layout = self.layout()?;
        let mut bytes = link.reader.open(root, path)?;
        let header = IncrementalHeader::read(&mut bytes, layout.block_size, layout.blocks_per_file);
        header.map_err(|error| IoError::new("read", name, error).into())
    }

    /// A merged file of a chain whose trees all lie unpacked.
    fn merged(self: &Arc<Self>, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        let layout = self.layout()?;
        let mut sources = Vec::new();
        for (at, link) in self.links.iter().enumerate() {
            // The newest was listed with an incremental file.
            if at > 0
                && let Some(bytes) = link.open(root, path)?
            {
                sources.push(Source::whole(bytes, layout.block_size));
                let location = self.newest()?.reader.location(root).join(path);
                let merged = Merged::new(sources, layout.block_size, location, self.tell(root, path));
                let merged = merged.map_err(|error| IoError::new("read", path, error))?;
                return Ok(Box::new(match self.map_of(path) {
                    Some(map) => merged.without(self.stale(&map, self.changes(root, path, map, at)?)?),
                    None => merged,
                }));
            }
            let incremental = incremental_path(path);
            let Some(bytes) = link.open(root, &incremental)? else { break };
            let source = Source::incremental(bytes, layout.block_size, layout.blocks_per_file);
            let name = link.reader.location(root).join(&incremental);
            sources.push(source.map_err(|error| IoError::new("read", name, error))?);
        }
        Err(self.no_full(root, path))
    }

    fn no_full(&self, root: Root, path: &Utf8Path) -> CatalogError {
        let oldest = self.links.last().map(|link| link.reader.location(root).join(path));
        damaged(&oldest.unwrap_or_default(), "a full file that the incremental ones build on", &"none")
    }

    /// Whom a merged file tells what it was.
    fn tell(self: &Arc<Self>, root: Root, path: &Utf8Path) -> merge::Tell {
        let (shared, path) = (Arc::clone(self), path.to_owned());
        Box::new(move |size, crc32c| {
            let mut sums = shared.sums.lock().unwrap_or_else(PoisonError::into_inner);
            sums.insert((root, path.clone()), Sum { size, crc32c });
        })
    }

    /// PostgreSQL's manifest of the combined backup; `None` when the newest backup has none, or not all files were merged yet.
    fn manifest(&self) -> Result<Option<Vec<u8>>, CatalogError> {
        let newest = self.newest()?;
        let path = Utf8Path::new(BACKUP_MANIFEST);
        let name = newest.reader.location(Root::Data).join(path);
        let Some(system) = newest.reader.info().systemid else { return Ok(None) };
        let manifest = match newest.reader.open(Root::Data, path) {
            Ok(manifest) => manifest,
            Err(CatalogError::Io(error)) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let label = self.label()?;
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        let mut writer = ManifestWriter::new(Form::PostgreSql2(system), &mut text);
        let mut missing = false;
        let read = read_manifest(manifest, &mut |mut file| {
            let listed = std::str::from_utf8(&file.path).unwrap_or_default().to_owned();
            let (root, path) = Root::of_manifest(&listed);
            let changed = if let Some(whole) = whole_path(&path) {
                let sum = sums.get(&(root, whole)).copied();
                missing |= sum.is_none();
                sum
            } else {
                let sum = || Sum { size: label.len() as u64, crc32c: crc32c::crc32c(&label) };
                (listed == LABEL).then(sum)
            };
            if let Some(sum) = changed {
                file.path = listed.replacen(PREFIX, "", 1).into_bytes();
                file.size = sum.size;
                file.checksum = Some((ChecksumAlgorithm::Crc32c, crc32c_checksum(sum.crc32c)));
            }
            writer.file(&file, &mut text);
        });
        let summary =
            read.map_err(|error| damaged(&name, "a manifest", &crate::format::text::with_reasons(&error)))?;
        writer.finish(&summary.wal_ranges, &mut text);
        Ok((!missing).then_some(text))
    }

    /// What a visibility map belongs to, when it is one.
    fn map_of(&self, path: &Utf8Path) -> Option<RelFile> {
        RelFile::parse(path).filter(|file| file.fork == Fork::Vm)
    }

    fn stale(&self, map: &RelFile, changes: Vec<Changes>) -> Result<Stale, CatalogError> {
        let layout = self.layout()?;
        Ok(Stale::new(changes, map.segment, layout.blocks_per_file, layout.checksums))
    }

    /// What changed in the table of a visibility map, up to each of the backups newer than `oldest`.
    fn changes(
        &self,
        root: Root,
        path: &Utf8Path,
        map: RelFile,
        oldest: usize,
    ) -> Result<Vec<Changes>, CatalogError> {
        let layout = self.layout()?;
        let mut all = Vec::new();
        for link in self.links.iter().take(oldest) {
            let mut changes = Changes::default();
            for segment in 0.. {
                let file = table_file(path, map, segment);
                if let Some(mut bytes) = link.open(root, &incremental_path(&file))? {
                    let name = link.reader.location(root).join(incremental_path(&file));
                    let header =
                        IncrementalHeader::read(&mut bytes, layout.block_size, layout.blocks_per_file);
                    let header = header.map_err(|error| IoError::new("read", name, error))?;
                    changes.add(segment, &header, layout.blocks_per_file);
                } else if link.open(root, &file)?.is_some() {
                    changes.add_whole(segment, layout.blocks_per_file);
                } else {
                    changes.add_from(segment, layout.blocks_per_file);
                    break;
                }
            }
            all.push(changes);
        }
        Ok(all)
    }
}

/// A segment of the table that a visibility map belongs to.
fn table_file(map: &Utf8Path, of: RelFile, segment: u32) -> Utf8PathBuf {
    map.with_file_name(match segment {
        0 => of.filenode.to_string(),
        _ => format!("{}.{segment}", of.filenode),
    })
}

impl BackupReader for Chain {
    fn info(&self) -> &BackupInfo {
        // A chain has at least one link.
        self.0.links[0].reader.info()
    }

    fn location(&self, root: Root) -> Utf8PathBuf {
        self.0.links.first().map(|link| link.reader.location(root)).unwrap_or_default()
    }

    fn files(&self, root: Root) -> Result<Vec<Entry>, CatalogError> {
        Ok(self.0.listing(root)?.entries.clone())
    }

    fn outline(&self, root: Root) -> Result<Outline, CatalogError> {
        let newest = self.0.newest()?;
        if !newest.packed {
            return Ok(Outline::of(self.files(root)?));
        }
        // At most as long as the full backup and what came later.
        let own = newest.reader.outline(root)?;
        let entries = own.entries.is_some().then(|| self.files(root)).transpose()?;
        let full = self.0.links.iter().skip(1).rfind(|link| link.has(root));
        let full = full.map(|link| link.reader.outline(root)).transpose()?.map_or(0, |full| full.bytes);
        Ok(Outline { entries, bytes: own.bytes.saturating_add(full) })
    }

    /// The rows of the files that are taken as they are; the others are verified where they are merged.
    fn proofs(&self) -> Result<Option<Vec<FileProof>>, CatalogError> {
        let Some(newest) = self.0.links.first() else { return Ok(None) };
        let rows = newest.reader.proofs()?;
        let own = |row: &FileProof| {
            let made = row.root == Root::Data && (row.path == LABEL || row.path == BACKUP_MANIFEST);
            whole_path(&row.path).is_none() && !made
        };
        Ok(rows.map(|rows| rows.into_iter().filter(own).collect()))
    }

    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        if root == Root::Data && path == LABEL {
            return Ok(Box::new(Cursor::new(self.0.label()?)));
        }
        if root == Root::Data && path == BACKUP_MANIFEST {
            let location = self.location(root).join(path);
            let none = || IoError::new("open", location, std::io::Error::from(std::io::ErrorKind::NotFound));
            let text = self.0.manifest()?.ok_or_else(none)?;
            return Ok(Box::new(Cursor::new(text)));
        }
        if RelFile::parse(path).is_some() && self.0.listing(root)?.merged.contains_key(path) {
            return self.0.merged(root, path);
        }
        self.0.newest()?.reader.open(root, path)
    }

    fn stream(&self, root: Root) -> Result<Option<Box<dyn MemberStream>>, CatalogError> {
        if !self.0.links.iter().any(|link| link.packed) {
            return Ok(None);
        }
        Ok(Some(Box::new(walk::Walk::new(Arc::clone(&self.0), root)?)))
    }

    fn verifies(&self, root: Root, path: &Utf8Path) -> bool {
        let shared = &self.0;
        let incremental = incremental_path(path);
        let merged = shared.links.first().is_some_and(|newest| newest.sum(root, &incremental).is_some());
        (merged || root == Root::Data && path == LABEL)
            && shared.links.iter().all(|link| link.proofs.is_some())
    }

    fn sidecar(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, CatalogError> {
        match self.0.links.first() {
            Some(newest) => newest.reader.sidecar(name),
            None => Ok(None),
        }
    }
}
