//! [`LocalWalArchive`]: the archive of one server in directories of this host.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use camino::Utf8Path;

use super::intake::LocalIntake;
use super::{
    PartialWal, Reclaimed, Shared, WalArchive, WalEntry, WalError, WalIntake, WalPaths, WalRange, directory,
    index, stored,
};
use crate::cipher::Cipher;
use crate::codec::{Compressor, CustomFilters};
use crate::ctx::{Cancel, Clock, Ctx, Silent};
use crate::format::xlogdb::XlogLine;
use crate::io::{Disk, IoError, Locks};
use crate::model::{SegmentName, SegmentSize, SystemId, Timeline, WalFileName};

/// How new files are packed.
#[derive(Clone)]
pub struct Compression {
    /// What packs them.
    pub compressor: Arc<dyn Compressor>,
    /// The name that the index records: the configured method (`pygzip`), not the format.
    pub name: String,
}

/// The segment size of another cluster that belongs to the archive, `None` when it does not. It is asked only about
/// segments that are not from the present cluster.
pub type EarlierClusters = Arc<dyn Fn(SystemId) -> Option<SegmentSize> + Send + Sync>;

/// What an archive knows and wants.
#[derive(Clone, Default)]
pub struct WalOptions {
    /// How new files are packed; `None` keeps them plain.
    pub compression: Option<Compression>,
    /// What encrypts new files; `None` keeps them clear.
    pub encryption: Option<Arc<dyn Cipher>>,
    /// What reads files that are encrypted, whether new ones are or not.
    pub decryption: Option<Arc<dyn Cipher>>,
    /// Reads files that custom filters packed.
    pub custom_filters: Option<CustomFilters>,
    /// How files that custom filters packed begin.
    pub custom_magic: Option<Vec<u8>>,
    /// The cluster whose WAL this is, when it is known (identity.json, a backup): WAL of others is refused.
    pub system_id: Option<SystemId>,
    /// Its segment size, when it is known; else each segment says it.
    pub segment_size: Option<SegmentSize>,
    /// Other clusters whose WAL the archive may hold beside that: those of before a `pg_upgrade`, as long as backups of
    /// theirs are kept. New files are taken from [`Self::system_id`] only.
    pub earlier: Option<EarlierClusters>,
    /// How many files are worked on at a time; 0 means one.
    pub workers: usize,
}

/// The archive of one server in directories of this host, in Barman's layout.
///
/// A file is published by a rename that replaces nothing, after its content is durable; its name, then its line in the
/// index, are durable before it is acknowledged, and only then its source goes (I1, I2). The index is written under
/// Barman's own lock; nothing else is done while it is held.
#[derive(Clone)]
pub struct LocalWalArchive {
    pub(super) shared: Arc<Shared>,
}

impl LocalWalArchive {
    /// An archive in these directories, which need not exist yet.
    pub fn new(
        paths: WalPaths,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        locks: Locks,
        options: WalOptions,
    ) -> Self {
        Self { shared: Arc::new(Shared { paths, disk, clock, locks, options }) }
    }

    /// The cluster whose WAL is taken in, where it is known.
    pub fn system_id(&self) -> Option<SystemId> {
        self.shared.options.system_id
    }

    /// Where things lie.
    pub fn paths(&self) -> &WalPaths {
        &self.shared.paths
    }

    /// The newest whole segment of a timeline in the archive's directories.
    pub fn latest(&self, timeline: Timeline) -> Result<Option<SegmentName>, WalError> {
        Ok(directory::latest(&self.shared, timeline)?)
    }

    /// Which of these segments are not in the archive's directories, in their order.
    pub fn missing(
        &self,
        names: impl IntoIterator<Item = SegmentName>,
    ) -> Result<Vec<SegmentName>, WalError> {
        let mut missing = Vec::new();
        for name in names {
            if !self.shared.disk.exists(&self.shared.paths.file(&WalFileName::Segment(name)))? {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// The plain bytes of a WAL file that lies elsewhere, whatever it is packed in.
    pub(crate) fn open_file(&self, path: &Utf8Path) -> Result<Box<dyn Read + Send>, WalError> {
        Ok(stored::open(&self.shared, path)?.plain)
    }

    /// Visits the lines of the index in their order, without a look at the files: what listings go by, as Barman's do.
    /// Lines that cannot be read, and one that was cut by a crash, are left out.
    pub fn each_indexed(&self, each: &mut dyn FnMut(XlogLine<'_>)) -> Result<(), WalError> {
        Ok(index::each_line(&self.shared, None, each)?)
    }

    /// The same without the lines of segments before `from` in archive order, which is much less work.
    pub fn each_indexed_from(
        &self,
        from: Option<SegmentName>,
        each: &mut dyn FnMut(XlogLine<'_>),
    ) -> Result<(), WalError> {
        Ok(index::each_line(&self.shared, from, each)?)
    }

    /// Makes the index anew from the files of the archive (I19), and says how many lines it has of each kind.
    /// `.partial` files keep their lines. Files that are no WAL are left out.
    pub fn rebuild_index(&self, ctx: &Ctx<'_>) -> Result<Rebuilt, WalError> {
        let lock = index::lock(&self.shared, "the rebuilding of the index", ctx)?;
        directory::rebuild_index(&self.shared, &lock)
    }
}

/// What [`LocalWalArchive::rebuild_index`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Timeline history files.
    pub history: u64,
    /// Backup history files.
    pub backup_labels: u64,
    /// Segments.
    pub segments: u64,
    /// Unfinished segments.
    pub partial: u64,
}

impl WalArchive for LocalWalArchive {
    fn intake<'a>(&'a self, ctx: Ctx<'a>) -> Result<Box<dyn WalIntake + 'a>, WalError> {
        Ok(Box::new(LocalIntake::begin(&self.shared, ctx)))
    }

    fn find(&self, name: &WalFileName) -> Result<Option<WalEntry>, WalError> {
        let path = self.shared.paths.file(name);
        match self.shared.disk.stat(&path) {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        match index::read(&self.shared)?.get(name) {
            Some(entry) => Ok(Some(entry)),
            None => absent_is_none(directory::describe(&self.shared, name)),
        }
    }

    fn open(&self, name: &WalFileName) -> Result<Box<dyn Read + Send>, WalError> {
        match stored::open(&self.shared, &self.shared.paths.file(name)) {
            Err(WalError::Io(e)) if e.is_not_found() => Err(WalError::NotFound { name: *name }),
            other => Ok(other?.plain),
        }
    }

    fn open_stored(&self, name: &WalFileName) -> Result<Box<dyn Read + Send>, WalError> {
        match self.shared.disk.open_read(&self.shared.paths.file(name)) {
            Err(e) if e.is_not_found() => Err(WalError::NotFound { name: *name }),
            other => Ok(Box::new(other?)),
        }
    }

    fn scan(
        &self,
        range: &WalRange,
        each: &mut dyn FnMut(WalEntry) -> ControlFlow<()>,
    ) -> Result<(), WalError> {
        let index = index::read(&self.shared)?;
        directory::each_name(&self.shared, range, &mut |name| {
            let entry = match index.get(&name) {
                Some(entry) => Some(entry),
                None => absent_is_none(directory::describe(&self.shared, &name))?,
            };
            Ok(entry.map_or(ControlFlow::Continue(()), &mut *each))
        })
    }

    fn unfinished(&self, name: SegmentName, size: SegmentSize) -> Result<Option<PartialWal>, WalError> {
        self.find_unfinished(name, size)
    }

    fn open_unfinished(
        &self,
        partial: &PartialWal,
        size: SegmentSize,
    ) -> Result<Box<dyn Read + Send>, WalError> {
        self.read_unfinished(partial, size)
    }

    fn remove(&self, names: &[WalFileName]) -> Result<Reclaimed, WalError> {
        let cancel = Cancel::new();
        let ctx = Ctx { clock: &*self.shared.clock, progress: &Silent, cancel: &cancel };
        directory::forget(&self.shared, names, &ctx)
    }
}

/// A file that vanished while it was looked at is not there.
fn absent_is_none(found: Result<WalEntry, WalError>) -> Result<Option<WalEntry>, WalError> {
    match found {
        Err(WalError::Io(e)) if IoError::is_not_found(&e) => Ok(None),
        other => other.map(Some),
    }
}
