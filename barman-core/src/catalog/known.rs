//! [`Known`]: what is known of the files of a backup, from PostgreSQL's `backup_manifest` (or the one that Barman makes)
//! and from the full manifest in our sidecar. Reads those two, and no file of the backup.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::BufReader;
use std::sync::atomic::AtomicBool;

use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::{BackupReader, CatalogError, Fault, FileProblem, FileProof, Root};
use crate::format::manifest::{ChecksumAlgorithm, ManifestFile, read_manifest};
use crate::format::text::with_reasons;

/// The name of PostgreSQL's manifest in the data directory.
pub(crate) const BACKUP_MANIFEST: &str = "backup_manifest";

/// Which trees a `backup_manifest` speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Covers {
    /// PostgreSQL's: all.
    Everything,
    /// Barman's: the data directory.
    Data,
}

/// What one manifest says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    size: u64,
    sum: Sum,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sum {
    None,
    Crc32c(u32),
    Sha2(ChecksumAlgorithm, Box<[u8]>),
}

/// What is known of one file.
#[derive(Debug, Default)]
pub(super) struct Row {
    listed: Option<Fact>,
    stored: Option<Fact>,
    /// It was found.
    pub(super) seen: AtomicBool,
}

impl Row {
    fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.listed.iter().chain(&self.stored)
    }

    /// The first length that is another than this one.
    pub(super) fn other_size(&self, size: u64) -> Option<u64> {
        self.facts().map(|fact| fact.size).find(|known| *known != size)
    }

    /// Whether any checksum is known.
    pub(super) fn has_sum(&self) -> bool {
        self.facts().any(|fact| fact.sum != Sum::None)
    }

    /// The sums to make of the file.
    pub(super) fn summing(&self) -> Summing {
        let mut summing = Summing { crc: None, sha: None };
        for fact in self.facts() {
            match &fact.sum {
                Sum::None => {}
                Sum::Crc32c(_) => summing.crc = Some(0),
                Sum::Sha2(algorithm, _) => summing.sha = Sha::new(*algorithm),
            }
        }
        summing
    }

    /// Whether these sums are those that are known.
    pub(super) fn agrees(&self, summing: Summing) -> bool {
        let sha = summing.sha.map(Sha::finish);
        self.facts().all(|fact| match &fact.sum {
            Sum::None => true,
            Sum::Crc32c(known) => summing.crc == Some(*known),
            Sum::Sha2(_, known) => sha.as_deref() == Some(known),
        })
    }
}

/// Sums of the bytes so far.
pub(super) struct Summing {
    crc: Option<u32>,
    sha: Option<Sha>,
}

impl Summing {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(crc) = &mut self.crc {
            *crc = crc32c::crc32c_append(*crc, bytes);
        }
        match &mut self.sha {
            None => {}
            Some(Sha::Of224(sha)) => sha.update(bytes),
            Some(Sha::Of256(sha)) => sha.update(bytes),
            Some(Sha::Of384(sha)) => sha.update(bytes),
            Some(Sha::Of512(sha)) => sha.update(bytes),
        }
    }
}

enum Sha {
    Of224(Sha224),
    Of256(Sha256),
    Of384(Sha384),
    Of512(Sha512),
}

impl Sha {
    fn new(algorithm: ChecksumAlgorithm) -> Option<Self> {
        match algorithm {
            ChecksumAlgorithm::Crc32c => None,
            ChecksumAlgorithm::Sha224 => Some(Self::Of224(Sha224::new())),
            ChecksumAlgorithm::Sha256 => Some(Self::Of256(Sha256::new())),
            ChecksumAlgorithm::Sha384 => Some(Self::Of384(Sha384::new())),
            ChecksumAlgorithm::Sha512 => Some(Self::Of512(Sha512::new())),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Of224(sha) => sha.finalize().to_vec(),
            Self::Of256(sha) => sha.finalize().to_vec(),
            Self::Of384(sha) => sha.finalize().to_vec(),
            Self::Of512(sha) => sha.finalize().to_vec(),
        }
    }
}

/// What is known of the files of a backup. Memory grows with their number, by about 150 bytes each.
#[derive(Debug, Default)]
pub(super) struct Known {
    trees: HashMap<Root, HashMap<Utf8PathBuf, Row>>,
    listed: Option<Covers>,
    stored: bool,
}

impl Known {
    /// Reads both manifests. One that is damaged is a problem, and the other one counts alone. `stored` are the rows of the
    /// sidecar that speak of plain files.
    pub(super) fn read(
        reader: &dyn BackupReader,
        stored: Result<Option<Vec<FileProof>>, CatalogError>,
        problems: &mut Vec<FileProblem>,
    ) -> Result<Self, CatalogError> {
        let mut known = Self::default();
        if let Some(source) = reader.manifest()? {
            known.list(source, problems);
        }
        match stored {
            Ok(None) => {}
            Ok(Some(rows)) => {
                known.stored = true;
                for row in rows {
                    let fact = Fact { size: row.size, sum: Sum::Crc32c(row.crc32c) };
                    known.trees.entry(row.root).or_default().entry(row.path).or_default().stored = Some(fact);
                }
            }
            Err(CatalogError::Manifest { path, reason }) => {
                let fault = Fault::Manifest(reason);
                problems.push(FileProblem { name: path.to_string(), fault });
            }
            Err(other) => return Err(other),
        }
        Ok(known)
    }

    fn list(&mut self, source: impl std::io::Read, problems: &mut Vec<FileProblem>) {
        let mut trees: HashMap<Root, HashMap<Utf8PathBuf, Row>> = HashMap::new();
        let mut own = Vec::new();
        let read = read_manifest(BufReader::with_capacity(1 << 18, source), &mut |file: ManifestFile| {
            let name = String::from_utf8_lossy(&file.path).into_owned();
            let Ok(path) = std::str::from_utf8(&file.path) else {
                own.push(FileProblem { name, fault: Fault::NotUtf8 });
                return;
            };
            let (root, path) = Root::of_manifest(path);
            let sum = match file.checksum {
                None => Sum::None,
                Some((ChecksumAlgorithm::Crc32c, sum)) => match sum.as_slice().try_into() {
                    Ok(bytes) => Sum::Crc32c(u32::from_le_bytes(bytes)),
                    Err(_) => Sum::None,
                },
                Some((algorithm, sum)) => Sum::Sha2(algorithm, sum.into()),
            };
            let row = Row { listed: Some(Fact { size: file.size, sum }), ..Row::default() };
            match trees.entry(root).or_default().entry(path) {
                Entry::Vacant(free) => drop(free.insert(row)),
                Entry::Occupied(_) => own.push(FileProblem { name, fault: Fault::Twice }),
            }
        });
        match read {
            Ok(summary) => {
                // PostgreSQL always names the WAL that a backup needs, Barman never.
                let barman = summary.wal_ranges.is_empty();
                self.listed = Some(if barman { Covers::Data } else { Covers::Everything });
                self.trees = trees;
                problems.extend(own);
            }
            Err(error) => {
                let fault = Fault::Manifest(with_reasons(&error));
                problems.push(FileProblem { name: BACKUP_MANIFEST.to_owned(), fault });
            }
        }
    }

    /// What is known of a file.
    pub(super) fn row(&self, root: Root, path: &Utf8Path) -> Option<&Row> {
        self.trees.get(&root)?.get(path)
    }

    /// Whether all files of a tree are known, so that any other does not belong there.
    pub(super) fn covers(&self, root: Root) -> bool {
        self.stored || self.listed == Some(Covers::Everything) || self.listed.is_some() && root == Root::Data
    }

    /// The trees of which files are known, with their rows.
    pub(super) fn trees(&self) -> impl Iterator<Item = (Root, &HashMap<Utf8PathBuf, Row>)> {
        self.trees.iter().map(|(root, rows)| (*root, rows))
    }
}
