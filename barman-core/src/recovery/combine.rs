//! [`Chain`]: an incremental backup with all that it builds on, read as if it were one full backup (I33), without a staging copy.
//!
//! Every file is one of the newest backup. A relation file that lies there as an incremental one is merged block by block, each
//! block from the newest backup that has it, while all sources are read once and verified to their ends. That is what
//! `pg_combinebackup` does (`src/bin/pg_combinebackup/reconstruct.c`).
//!
//! Where a backup of the chain lies packed, the chain is walked from the newest to the oldest; only the incremental files met on
//! the way wait for their full file, in a nameless scratch file.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use super::verify::Verifying;
use crate::catalog::{BackupReader, CatalogError, FileProof, MemberStream, Outline, Root};
use crate::format::backup_label::BackupLabel;
use crate::format::control::ControlFile;
use crate::format::incremental::{IncrementalHeader, incremental_path, whole_path};
use crate::format::relfile::RelFile;
use crate::io::IoError;
use crate::model::{BackupInfo, Entry, Lsn, Timeline};

mod merge;
mod walk;

use merge::Source;

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
}

/// What the control file says of relation files. It may be the last file of an archive: it is looked up only when needed.
#[derive(Clone, Copy)]
struct Layout {
    block_size: u32,
    blocks_per_file: u32,
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
    pub fn new(readers: Vec<Arc<dyn BackupReader>>, scratch: Utf8PathBuf) -> Result<Self, CatalogError> {
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
        Ok(Self(Arc::new(Shared { links, layout: OnceLock::new(), scratch, listings: Mutex::default() })))
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
        let layout = Layout { block_size: control.block_size, blocks_per_file: control.blocks_per_file };
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
    fn merged(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        let layout = self.layout()?;
        let mut sources = Vec::new();
        for (at, link) in self.links.iter().enumerate() {
            // The newest was listed with an incremental file.
            if at > 0
                && let Some(bytes) = link.open(root, path)?
            {
                sources.push(Source::whole(bytes, layout.block_size));
                return self.merge(root, path, sources);
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

    fn merge(
        &self,
        root: Root,
        path: &Utf8Path,
        sources: Vec<Source>,
    ) -> Result<Box<dyn Read + Send>, CatalogError> {
        let location = self.links.first().map(|link| link.reader.location(root).join(path));
        let merged = merge::Merged::new(sources, self.layout()?.block_size, location.unwrap_or_default());
        Ok(Box::new(merged.map_err(|error| IoError::new("read", path, error))?))
    }
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
            whole_path(&row.path).is_none() && !(row.root == Root::Data && row.path == LABEL)
        };
        Ok(rows.map(|rows| rows.into_iter().filter(own).collect()))
    }

    fn open(&self, root: Root, path: &Utf8Path) -> Result<Box<dyn Read + Send>, CatalogError> {
        if root == Root::Data && path == LABEL {
            return Ok(Box::new(Cursor::new(self.0.label()?)));
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
