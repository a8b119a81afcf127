//! Workers on a scripted lane: what breaks off in the middle is in the backup afterwards, or the backup fails.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use time::{OffsetDateTime, UtcOffset};

use super::*;
use crate::backup::CorruptPagePolicy;
use crate::catalog::{CatalogError, DirSpec, Reused, Root, SpaceReport};
use crate::ctx::{Cancelled, Clock, Silent};
use crate::model::{BackupId, Entry, EntryKind};
use crate::transport::{
    Exchange, ExitStatus, FileOp, Probe, RemoteCommand, StoreItem, StoreReport, TransportError,
};

struct Still;

impl Clock for Still {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH
    }
    fn offset_at(&self, _: OffsetDateTime) -> UtcOffset {
        UtcOffset::UTC
    }
    fn pause(&self, _: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
        cancel.check()
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A page of block 0 with a right checksum, and one with a wrong one.
fn page(good: bool) -> Vec<u8> {
    let mut bytes = vec![7u8; 8192];
    bytes[..8].fill(0);
    for (at, value) in [(12, 28u16), (14, 8000), (16, 8192), (18, 8192 | 4)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let sum = crate::format::page::checksum(&bytes, 0);
    bytes[8..10].copy_from_slice(&sum.to_le_bytes());
    if !good {
        bytes[5000] ^= 1;
    }
    bytes
}

/// What the next stream of files, or the next reading of a page, does.
#[derive(Clone, Copy)]
enum Act {
    /// Every file comes, its page torn or not.
    Files { torn: bool },
    /// The same, and then the connection breaks.
    FilesThenLost { torn: bool },
    /// Reading a page again gives a good one.
    Page,
    /// Reading a page again breaks the connection.
    PageLost,
    /// The file is gone when its page is to be read again.
    PageGone,
}

#[derive(Clone)]
struct Script(Arc<Mutex<VecDeque<Act>>>);

impl Script {
    fn next(&self) -> Act {
        self.0.lock().unwrap().pop_front().expect("the script has ended")
    }
}

fn lost() -> TransportError {
    TransportError::Lost { target: "t".into(), doing: "testing".into(), reason: "it broke".into() }
}

impl Transport for Script {
    fn target(&self) -> &str {
        "t"
    }
    fn is_local(&self) -> bool {
        false
    }
    fn lane(&self) -> Result<Box<dyn Lane>, TransportError> {
        Ok(Box::new(self.clone()))
    }
}

impl Lane for Script {
    fn exec(&mut self, _: &RemoteCommand, _: &mut dyn Exchange) -> Result<ExitStatus, TransportError> {
        unreachable!()
    }
    fn list(
        &mut self,
        _: &Utf8Path,
        _: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        unreachable!()
    }
    fn read<'a>(
        &'a mut self,
        path: &Utf8Path,
        _: u64,
        _: Option<u64>,
    ) -> Result<Box<dyn Read + Send + 'a>, TransportError> {
        match self.next() {
            Act::Page => Ok(Box::new(io::Cursor::new(page(true)))),
            Act::PageLost => Err(lost()),
            Act::PageGone => Err(TransportError::File {
                target: "t".into(),
                verb: "read",
                path: path.to_owned(),
                reason: "no such file".into(),
                kind: io::ErrorKind::NotFound,
            }),
            Act::Files { .. } | Act::FilesThenLost { .. } => panic!("a page was read, files were expected"),
        }
    }
    fn fetch(
        &mut self,
        _: &Utf8Path,
        wanted: &mut dyn Iterator<Item = FetchItem>,
        sink: &mut dyn FetchSink,
    ) -> Result<(), TransportError> {
        let (torn, breaks) = match self.next() {
            Act::Files { torn } => (torn, false),
            Act::FilesThenLost { torn } => (torn, true),
            _ => panic!("files were fetched, a page was expected"),
        };
        for item in wanted {
            let facts = FileFacts { size: 8192, mtime: FileTime::default(), mode: 0o600 };
            sink.begin(&item.path, facts).unwrap();
            sink.data(&page(!torn)).unwrap();
            sink.end(&item.path, Fetched::Whole).unwrap();
        }
        if breaks { Err(lost()) } else { Ok(()) }
    }
    fn store(
        &mut self,
        _: &Utf8Path,
        _: &mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
    ) -> Result<StoreReport, TransportError> {
        unreachable!()
    }
    fn probe(&mut self, _: &[Utf8PathBuf]) -> Result<Vec<Probe>, TransportError> {
        unreachable!()
    }
    fn apply(&mut self, _: &[FileOp]) -> Result<(), TransportError> {
        unreachable!()
    }
    fn sync(&mut self, _: &Utf8Path) -> Result<(), TransportError> {
        unreachable!()
    }
}

/// Takes files and keeps nothing but their checksums.
struct Counting;

struct CountingSink(FileSpec, u64, u32);

impl Write for CountingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 += bytes.len() as u64;
        self.2 = crc32c::crc32c_append(self.2, bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileSink for CountingSink {
    fn finish(self: Box<Self>) -> Result<FileProof, CatalogError> {
        let Self(spec, size, crc32c) = *self;
        let FileSpec { root, path, mode, mtime, .. } = spec;
        Ok(FileProof { root, path, size, mtime, mode, crc32c, sha256: None })
    }
}

impl BackupSpace for Counting {
    fn id(&self) -> BackupId {
        "20261122T115900".parse().unwrap()
    }
    fn location(&self, _: Root) -> Utf8PathBuf {
        "/space".into()
    }
    fn dir(&self, _: DirSpec) -> Result<(), CatalogError> {
        Ok(())
    }
    fn file(&self, spec: FileSpec) -> Result<Box<dyn FileSink>, CatalogError> {
        Ok(Box::new(CountingSink(spec, 0, 0)))
    }
    fn tablespace_link(&self, _oid: crate::model::Oid) -> Result<(), CatalogError> {
        Ok(())
    }
    fn reuse(&self, _: FileSpec, _: &FileProof, _: &BackupId, _: bool) -> Result<Reused, CatalogError> {
        unreachable!()
    }
    fn proofs_of(&self, _: &BackupId) -> Result<Option<Vec<FileProof>>, CatalogError> {
        unreachable!()
    }
    fn sidecar(&self, _: &str) -> Result<Box<dyn FileSink>, CatalogError> {
        unreachable!()
    }
    fn discard(self: Box<Self>) -> Result<(), CatalogError> {
        unreachable!()
    }
    fn seal(&self, _: &[FileProof], _: &Ctx<'_>) -> Result<SpaceReport, CatalogError> {
        unreachable!()
    }
}

/// Lets one worker copy two relations by this script.
fn run(script: &[Act]) -> Result<Harvest, BackupError> {
    let script = Script(Arc::new(Mutex::new(script.iter().copied().collect())));
    let file = |path: &str| {
        let path = path.into();
        let (kind, mtime) = (EntryKind::File, FileTime::default());
        Wanted::copy(Entry { path, kind, size: 8192, mtime, mode: 0o600 })
    };
    let job = BackupJob {
        server: "main".parse().unwrap(),
        id: Counting.id(),
        immediate_checkpoint: true,
        jobs: 1,
        start_batch: (1, Duration::ZERO),
        retry_times: 1,
        retry_sleep: Duration::ZERO,
        bandwidth: None,
        tablespace_bandwidth: BTreeMap::new(),
        reuse: None,
        keepalive: Duration::ZERO,
        corrupt_pages: CorruptPagePolicy::Warn,
        packing: None,
        incremental: None,
        server_packing: None,
        encryption: None,
    };
    let tree =
        Tree { root: Root::Data, source: "/pg".into(), label: "pgdata".to_owned(), foreign: Vec::new() };
    let (cancel, stop, throttle) = (Cancel::new(), Cancel::new(), Throttle::new(None));
    let ctx = Ctx { clock: &Still, progress: &Silent, cancel: &cancel };
    work(&Shared {
        tree: &tree,
        queue: Mutex::new(VecDeque::from([file("base/5/1"), file("base/5/2")])),
        transport: &script,
        space: &Counting,
        parent: None,
        job: &job,
        layout: PageLayout { block_size: 8192, blocks_per_file: 131_072 },
        start_lsn: Some("0/3000028".parse().unwrap()),
        throttle: &throttle,
        stop: &stop,
        ctx: &ctx,
    })
}

/// The files of the harvest, each once, and whether each is the good page.
fn files(harvest: &Harvest) -> Vec<(&str, bool)> {
    let good = crc32c::crc32c(&page(true));
    let mut files: Vec<_> = harvest.proofs.iter().map(|p| (p.path.as_str(), p.crc32c == good)).collect();
    files.sort_unstable();
    files
}

#[test]
fn i12_a_doubtful_file_outlives_a_broken_connection() {
    let both = [("base/5/1", true), ("base/5/2", true)];
    for script in [
        // The stream breaks after files whose pages were torn.
        &[Act::FilesThenLost { torn: true }, Act::Files { torn: false }][..],
        // It breaks while the first of two doubtful files is looked at again.
        &[Act::Files { torn: true }, Act::PageLost, Act::Files { torn: false }],
        // The second one.
        &[Act::Files { torn: true }, Act::Page, Act::PageLost, Act::Files { torn: false }],
    ] {
        let harvest = run(script).unwrap();
        assert_eq!(files(&harvest), both);
        assert!(harvest.corrupt.is_empty());
    }
}

#[test]
fn i15_a_doubtful_relation_that_is_dropped_stays_as_it_was_read() {
    let harvest = run(&[Act::Files { torn: true }, Act::PageGone, Act::PageGone]).unwrap();
    assert_eq!(files(&harvest), [("base/5/1", false), ("base/5/2", false)]);
}

#[test]
fn i12_a_page_that_is_torn_each_time_is_reported() {
    let mut script = Vec::new();
    for _ in 0..=MOST_TRIES {
        script.extend([Act::Files { torn: true }, Act::Page, Act::Page]);
    }
    let harvest = run(&script).unwrap();
    assert_eq!((harvest.proofs.len(), harvest.corrupt.len()), (2, 2));
}
