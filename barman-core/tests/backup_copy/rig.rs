//! A stopped cluster as the source, a transport that lets a test meddle with what is read, and a scripted backup session.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use barman_core::backup::{
    BackupError, BackupExecutor, BackupJob, BackupJournal, BackupReport, BackupServer, Begin, CopyExecutor,
    CorruptPagePolicy, End, ServerFacts, Started,
};
use barman_core::catalog::{Catalog, CatalogPaths, Draft, LocalCatalog, Root};
use barman_core::ctx::{Cancel, Ctx, Silent};
use barman_core::io::{Locks, RealDisk};
use barman_core::model::{
    BackupId, BackupInfo, Entry, Lsn, PgVersion, PyValue, SegmentSize, SystemId, Timeline,
};
use barman_core::transport::{
    Exchange, ExitStatus, FetchItem, FetchSink, Fetched, FileFacts, FileOp, Lane, LocalTransport, Probe,
    RemoteCommand, StoreItem, StoreReport, Transport, TransportError,
};
use barman_testkit::clock::StepClock;
use barman_testkit::pg::{self, Cluster, StopMode};
use camino::{Utf8Path, Utf8PathBuf};
use time::macros::datetime;

/// What happens to a file, in order; bytes may be changed on their way.
pub(super) enum Moment<'a> {
    /// It was listed.
    Listed,
    /// It is asked for.
    Asked,
    /// It is open, its size is known, nothing was read.
    Began,
    /// Some of its bytes, in the stream of many files.
    Bytes(&'a mut [u8]),
    /// It was read by itself.
    Read(&'a mut Vec<u8>),
}

pub(super) type Meddler = Arc<dyn Fn(&Utf8Path, Moment<'_>) + Send + Sync>;

/// A cluster that was stopped after a table of some pages was written, and a catalog for its backups.
pub(super) struct Rig {
    pub(super) pgdata: Utf8PathBuf,
    /// The table's file, below the data directory.
    pub(super) table: Utf8PathBuf,
    pub(super) facts: ServerFacts,
    pub(super) begin: Lsn,
    pub(super) job: BackupJob,
    pub(super) catalog: LocalCatalog,
    home: tempfile::TempDir,
    clock: Arc<StepClock>,
    cancel: Cancel,
    _cluster: Cluster,
}

impl Rig {
    pub(super) fn new() -> Option<Rig> {
        pg::require(15)?;
        let mut cluster = Cluster::builder(15).start().unwrap();
        cluster
            .psql("CREATE TABLE t AS SELECT n, md5(n::text) AS m FROM generate_series(1, 5000) AS n")
            .unwrap();
        let table = cluster.psql("SELECT pg_relation_filepath('t')").unwrap().into();
        let system_id: SystemId = cluster.system_id().unwrap().parse().unwrap();
        cluster.stop(StopMode::Fast).unwrap();
        let pgdata = cluster.pgdata().to_owned();
        let facts = ServerFacts {
            system_id,
            version: PgVersion::new(150_004),
            segment_size: SegmentSize::DEFAULT,
            pgdata: pgdata.clone(),
            tablespaces: Vec::new(),
            cluster_size: None,
            config_file: Some(pgdata.join("postgresql.conf")),
            hba_file: None,
            ident_file: None,
            included_files: Vec::new(),
            block_size: 8192,
            blocks_per_file: 131_072,
            data_checksums: true,
            summarize_wal: None,
        };
        let home = tempfile::tempdir().unwrap();
        let at = Utf8Path::from_path(home.path()).unwrap();
        let clock = Arc::new(StepClock::at(datetime!(2026-11-22 21:45:28 UTC)));
        let server: barman_core::model::ServerName = "main".parse().unwrap();
        let paths = CatalogPaths::under(&at.join("main"), server.clone());
        let locks = Locks::new(at, "barman test");
        let catalog = LocalCatalog::new(paths, Arc::new(RealDisk), clock.clone(), locks);
        let job = BackupJob {
            server,
            id: BackupId::from_time(datetime!(2026-11-22 21:45:28 UTC)),
            immediate_checkpoint: true,
            jobs: 1,
            start_batch: Default::default(),
            retry_times: 0,
            retry_sleep: Duration::ZERO,
            bandwidth: None,
            tablespace_bandwidth: Default::default(),
            reuse: None,
            keepalive: Duration::ZERO,
            corrupt_pages: CorruptPagePolicy::Fail,
            packing: None,
            incremental: None,
            server_packing: None,
            encryption: None,
        };
        let begin = "1/0".parse().unwrap();
        let cancel = Cancel::new();
        Some(Rig { pgdata, table, facts, begin, job, catalog, home, clock, cancel, _cluster: cluster })
    }

    /// The session that goes well.
    pub(super) fn session(&self) -> Session {
        Session {
            facts: self.facts.clone(),
            begin: self.begin,
            end_timeline: Timeline::FIRST,
            lost: false,
            pings: Arc::default(),
            stops: Arc::default(),
        }
    }

    /// A backup whose files pass the meddler; gives the directory that holds the data and what was done.
    pub(super) fn backup(
        &self,
        session: &Session,
        meddler: impl Fn(&Utf8Path, Moment<'_>) + Send + Sync + 'static,
    ) -> (Utf8PathBuf, Result<BackupReport, BackupError>) {
        let local = LocalTransport::new(Arc::new(RealDisk), self.cancel.clone());
        let transport = Meddling { inner: local, root: self.pgdata.clone(), meddler: Arc::new(meddler) };
        let connect = |_: &Ctx<'_>| Ok(Box::new(session.clone()) as Box<dyn BackupServer>);
        let executor = CopyExecutor::new(&transport, &connect);
        let created_at = datetime!(2026-11-22 21:45:28 UTC);
        let draft = Draft { created_at, info: BackupInfo::empty(BackupId::from_time(created_at)) };
        let (info, space) = self.catalog.create(draft).unwrap();
        let job = BackupJob { id: info.id, ..self.job.clone() };
        let ctx = Ctx { clock: &*self.clock, progress: &Silent, cancel: &self.cancel };
        let report = executor.execute(&job, space.as_ref(), &Forgetful, &ctx);
        assert!(Utf8Path::from_path(self.home.path()).unwrap().is_dir());
        (space.location(Root::Data), report)
    }
}

/// A session with a server that is not there.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) facts: ServerFacts,
    pub(super) begin: Lsn,
    pub(super) end_timeline: Timeline,
    pub(super) lost: bool,
    pub(super) pings: Arc<AtomicUsize>,
    pub(super) stops: Arc<AtomicUsize>,
}

impl BackupServer for Session {
    fn facts(&mut self) -> Result<ServerFacts, BackupError> {
        Ok(self.facts.clone())
    }

    fn start(&mut self, _label: &str, _fast: bool) -> Result<Started, BackupError> {
        let time = datetime!(2026-11-22 21:45:28 UTC);
        Ok(Started { lsn: self.begin, timeline: Timeline::FIRST, time })
    }

    fn now(&mut self) -> Result<time::OffsetDateTime, BackupError> {
        Ok(datetime!(2026-11-22 21:45:28 UTC))
    }

    fn ping(&mut self) -> Result<(), BackupError> {
        self.pings.fetch_add(1, Ordering::SeqCst);
        if self.lost { Err(BackupError::SessionLost) } else { Ok(()) }
    }

    fn stop(&mut self) -> Result<End, BackupError> {
        self.stops.fetch_add(1, Ordering::SeqCst);
        Ok(End {
            lsn: "1/100".parse().unwrap(),
            timeline: self.end_timeline,
            time: datetime!(2026-11-22 21:46:28 UTC),
            label: "START WAL LOCATION: 1/0 (file 000000010000000100000000)\n".into(),
            tablespace_map: String::new(),
        })
    }

    fn settle(&mut self, _id: &BackupId) -> Result<(), BackupError> {
        Ok(())
    }
}

/// These tests look at files, not at the catalog.
struct Forgetful;

impl BackupJournal for Forgetful {
    fn started(&self, _begin: &Begin) -> Result<(), BackupError> {
        Ok(())
    }
    fn copied(&self, _stats: &PyValue) -> Result<(), BackupError> {
        Ok(())
    }
    fn stopped(&self, _end: &End) -> Result<(), BackupError> {
        Ok(())
    }
}

/// Counts how often each thing was seen.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(super) fn add(&self, what: impl Into<String>) -> usize {
        let what = what.into();
        let mut all = self.0.lock().unwrap();
        all.push(what.clone());
        all.iter().filter(|seen| **seen == what).count()
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Meddling {
    inner: LocalTransport,
    root: Utf8PathBuf,
    meddler: Meddler,
}

impl Transport for Meddling {
    fn target(&self) -> &str {
        self.inner.target()
    }
    fn is_local(&self) -> bool {
        true
    }
    fn lane(&self) -> Result<Box<dyn Lane>, TransportError> {
        let inner = self.inner.lane()?;
        Ok(Box::new(MeddlingLane { inner, root: self.root.clone(), meddler: self.meddler.clone() }))
    }
}

struct MeddlingLane {
    inner: Box<dyn Lane>,
    root: Utf8PathBuf,
    meddler: Meddler,
}

impl Lane for MeddlingLane {
    fn exec(&mut self, command: &RemoteCommand, io: &mut dyn Exchange) -> Result<ExitStatus, TransportError> {
        self.inner.exec(command, io)
    }

    fn list(
        &mut self,
        root: &Utf8Path,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), TransportError> {
        let below = root.strip_prefix(&self.root).unwrap_or(root).to_owned();
        self.inner.list(root, &mut |entry| {
            (self.meddler)(&below.join(&entry.path), Moment::Listed);
            each(entry)
        })
    }

    fn read<'a>(
        &'a mut self,
        path: &Utf8Path,
        from: u64,
        len: Option<u64>,
    ) -> Result<Box<dyn Read + Send + 'a>, TransportError> {
        let mut bytes = Vec::new();
        self.inner.read(path, from, len)?.read_to_end(&mut bytes).unwrap();
        (self.meddler)(path.strip_prefix(&self.root).unwrap_or(path), Moment::Read(&mut bytes));
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn fetch(
        &mut self,
        root: &Utf8Path,
        wanted: &mut dyn Iterator<Item = FetchItem>,
        sink: &mut dyn FetchSink,
    ) -> Result<(), TransportError> {
        let meddler = self.meddler.clone();
        let mut wanted = wanted.inspect(|item| meddler(&item.path, Moment::Asked));
        let mut sink = MeddlingSink { inner: sink, meddler: self.meddler.clone(), current: "".into() };
        self.inner.fetch(root, &mut wanted, &mut sink)
    }

    fn store(
        &mut self,
        root: &Utf8Path,
        items: &mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
    ) -> Result<StoreReport, TransportError> {
        self.inner.store(root, items)
    }

    fn probe(&mut self, paths: &[Utf8PathBuf]) -> Result<Vec<Probe>, TransportError> {
        self.inner.probe(paths)
    }

    fn apply(&mut self, ops: &[FileOp]) -> Result<(), TransportError> {
        self.inner.apply(ops)
    }

    fn sync(&mut self, root: &Utf8Path) -> Result<(), TransportError> {
        self.inner.sync(root)
    }
}

struct MeddlingSink<'a> {
    inner: &'a mut dyn FetchSink,
    meddler: Meddler,
    current: Utf8PathBuf,
}

impl FetchSink for MeddlingSink<'_> {
    fn begin(&mut self, path: &Utf8Path, facts: FileFacts) -> io::Result<()> {
        self.current = path.to_owned();
        self.inner.begin(path, facts)?;
        (self.meddler)(path, Moment::Began);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        (self.meddler)(&self.current, Moment::Bytes(&mut bytes));
        self.inner.data(&bytes)
    }

    fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
        self.inner.end(path, how)
    }
}
