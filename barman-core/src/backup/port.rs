//! The seam of this room: [`BackupExecutor`] and [`BackupJournal`], their values and their error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use time::OffsetDateTime;

use crate::catalog::{BackupReader, BackupSpace, CatalogError, FileProof, Root};
use crate::cipher::Cipher;
use crate::codec::Compressor;
use crate::ctx::{Cancelled, Ctx};
use crate::model::{
    BackupId, BackupMethod, Check, Lsn, PgVersion, PyValue, SegmentSize, ServerName, SystemId, Tablespace,
    Timeline,
};
use crate::pg::ServerCompression;
use crate::transport::TransportError;

/// A way of taking a base backup.
pub trait BackupExecutor: Send + Sync {
    /// How the result is recorded.
    fn method(&self) -> BackupMethod;

    /// What must hold before a backup can be taken this way, with Barman's names.
    fn preflight(&self, ctx: &Ctx<'_>) -> Vec<Check>;

    /// Takes the backup: every file is in `space` when it returns, not yet durable (that is
    /// [`BackupSpace::seal`]).
    ///
    /// The journal makes begin and end facts durable as soon as they are known. On an error the server is no longer in
    /// backup mode on our account, and what was copied is of no use.
    fn execute(
        &self,
        job: &BackupJob,
        space: &dyn BackupSpace,
        journal: &dyn BackupJournal,
        ctx: &Ctx<'_>,
    ) -> Result<BackupReport, BackupError>;
}

/// What is asked of an executor.
#[derive(Clone)]
pub struct BackupJob {
    /// The server, for messages and the label.
    pub server: ServerName,
    /// The backup.
    pub id: BackupId,
    /// Whether the first checkpoint is made at once instead of spread.
    pub immediate_checkpoint: bool,
    /// Parallel workers, at least 1.
    pub jobs: usize,
    /// At most so many workers start within such a time, so that the host is not hit by all at once.
    pub start_batch: (usize, Duration),
    /// How often a copy that broke off is taken up again.
    pub retry_times: u32,
    /// Pause before each further attempt.
    pub retry_sleep: Duration,
    /// Most bytes a second, all workers together.
    pub bandwidth: Option<u64>,
    /// The same for single tablespaces, by name.
    pub tablespace_bandwidth: BTreeMap<String, u64>,
    /// Files that did not change since another backup are taken from it.
    pub reuse: Option<ReusePlan>,
    /// Pause between signs of life on the backup session; zero for none.
    pub keepalive: Duration,
    /// What to do with pages whose checksum is wrong.
    pub corrupt_pages: CorruptPagePolicy,
    /// Store tar archives packed like this instead of files; for the replication protocol only.
    pub packing: Option<Packing>,
    /// Let the server pack what it sends; for the replication protocol of PostgreSQL 15 and later only.
    pub server_packing: Option<ServerPacking>,
    /// Encrypt the archives while they are received; for [`Self::packing`] and [`Self::server_packing`] only.
    pub encryption: Option<Arc<dyn Cipher>>,
    /// Take only the blocks that changed since another backup; for the replication protocol of PostgreSQL 17 and later only.
    pub incremental: Option<IncrementalPlan>,
}

/// What the server packs, and what becomes of it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPacking {
    /// What the server is asked for.
    pub request: ServerCompression,
    /// The ending of the names of the archives, which are stored as they come; files are stored where it is `None`.
    pub ending: Option<&'static str>,
}

/// What an incremental backup builds on.
#[derive(Clone)]
pub struct IncrementalPlan {
    /// The backup before.
    pub parent: BackupId,
    /// Its files: PostgreSQL is told what they are by their `backup_manifest`.
    pub reader: Arc<dyn BackupReader>,
}

/// How the archives of a base backup are packed.
#[derive(Clone)]
pub struct Packing {
    /// What packs them.
    pub compressor: Arc<dyn Compressor>,
    /// How many frames are packed at a time.
    pub workers: usize,
    /// The ending of their names: `tar`, `tar.gz` …
    pub ending: &'static str,
}

/// Where unchanged files come from.
#[derive(Clone)]
pub struct ReusePlan {
    /// An available backup of the same cluster.
    pub parent: BackupId,
    /// When that backup began: what changed later is compared by content.
    pub parent_begin: OffsetDateTime,
    /// Its files, to compare with what is too young to be believed by size and time.
    pub reader: Arc<dyn BackupReader>,
    /// Hard links (`reuse_backup = link`) or copies.
    pub link: bool,
}

/// See [`BackupJob::corrupt_pages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CorruptPagePolicy {
    /// Record and report them; the backup goes on.
    #[default]
    Warn,
    /// The backup fails.
    Fail,
}

/// Makes the facts of a running backup durable. The executor calls it from the thread that it was called on.
pub trait BackupJournal {
    /// PostgreSQL is in backup mode: the facts are durable in the catalog when this returns, so that no purge can take
    /// the WAL that the backup needs.
    fn started(&self, begin: &Begin) -> Result<(), BackupError>;

    /// All files but `backup_label` are copied.
    fn copied(&self, stats: &PyValue) -> Result<(), BackupError>;

    /// PostgreSQL left backup mode.
    fn stopped(&self, end: &End) -> Result<(), BackupError>;
}

/// The session with PostgreSQL that a concurrent backup lives in: the one that starts it must stop it (I9).
pub trait BackupServer: Send {
    /// What the server knows of itself; asked before the start.
    fn facts(&mut self) -> Result<ServerFacts, BackupError>;

    /// Enters backup mode. `fast` asks for the checkpoint at once.
    fn start(&mut self, label: &str, fast: bool) -> Result<Started, BackupError>;

    /// The server's time.
    fn now(&mut self) -> Result<OffsetDateTime, BackupError>;

    /// A sign of life; fails with [`BackupError::SessionLost`] when the session is gone.
    fn ping(&mut self) -> Result<(), BackupError>;

    /// Leaves backup mode, without waiting for the server's own archiving.
    fn stop(&mut self) -> Result<End, BackupError>;

    /// Leaves backup mode after a failure; nothing of the result is used. It must not wait long: a server that does not
    /// answer leaves backup mode when the session ends.
    fn abandon(&mut self) -> Result<(), BackupError> {
        self.stop().map(drop)
    }

    /// After the stop, on a primary: closes the current segment, so that the WAL of the backup can be archived, and makes
    /// the restore point `barman_<id>`. The backup is complete without it; a failure only delays it.
    fn settle(&mut self, id: &BackupId) -> Result<(), BackupError>;
}

/// What a server knows of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerFacts {
    /// The cluster.
    pub system_id: SystemId,
    /// The server's version.
    pub version: PgVersion,
    /// Size of its WAL segments.
    pub segment_size: SegmentSize,
    /// Its data directory.
    pub pgdata: Utf8PathBuf,
    /// Its tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Sum of the sizes of all tablespaces, where it may be asked.
    pub cluster_size: Option<u64>,
    /// The main configuration file.
    pub config_file: Option<Utf8PathBuf>,
    /// The file of host-based authentication.
    pub hba_file: Option<Utf8PathBuf>,
    /// The file of user name maps.
    pub ident_file: Option<Utf8PathBuf>,
    /// Files included by the main configuration file.
    pub included_files: Vec<Utf8PathBuf>,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Bytes of a page.
    pub block_size: u32,
    /// Pages of a file of a relation.
    pub blocks_per_file: u32,
    /// The setting `summarize_wal`, 17 and later.
    pub summarize_wal: Option<bool>,
}

/// What the start call returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Start position.
    pub lsn: Lsn,
    /// Timeline of the server.
    pub timeline: Timeline,
    /// `now()` of the statement that started the backup.
    pub time: OffsetDateTime,
}

/// What is known when PostgreSQL entered backup mode.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// What the start call returned.
    pub started: Started,
    /// What the server knows of itself.
    pub server: ServerFacts,
}

/// What is known when PostgreSQL left backup mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Stop position: one past the last byte that recovery needs.
    pub lsn: Lsn,
    /// Timeline of the server.
    pub timeline: Timeline,
    /// `now()` after the stop.
    pub time: OffsetDateTime,
    /// Text of `backup_label`.
    pub label: String,
    /// Text of `tablespace_map`, empty without tablespaces.
    pub tablespace_map: String,
}

/// What a successful execution did.
#[derive(Debug, Clone, Default)]
pub struct BackupReport {
    /// Every file of the backup.
    pub proofs: Vec<FileProof>,
    /// Bytes read from the source.
    pub copied_bytes: u64,
    /// Files taken from another backup.
    pub reused_files: u64,
    /// Files that legally vanished or shrank while they were read.
    pub skipped: Vec<Skipped>,
    /// Pages whose checksum is wrong.
    pub corrupt_pages: Vec<CorruptPage>,
}

/// A file that is not, or not whole, in the backup, legally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Which tree.
    pub root: Root,
    /// Path below it.
    pub path: Utf8PathBuf,
    /// Why that is right.
    pub why: &'static str,
}

/// A page that was wrong twice and is older than the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorruptPage {
    /// Which tree.
    pub root: Root,
    /// Path below it.
    pub path: Utf8PathBuf,
    /// Block number in the relation fork (segments counted in).
    pub block: u32,
    /// Checksum in the page.
    pub found: u16,
    /// Checksum of its content.
    pub expected: u16,
}

/// Why a backup could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// PostgreSQL refused or the session broke.
    #[error("{action} failed")]
    Server {
        /// What was going on, in Barman's words ("issuing start backup command").
        action: &'static str,
        /// Why.
        #[source]
        source: crate::pg::PgError,
    },
    /// The session that started the backup is gone, so the backup is void.
    #[error("Connection to the Postgres server was lost during the backup.")]
    SessionLost,
    /// Files could not be read from the source.
    #[error("data transfer failure")]
    Transfer {
        /// Why.
        #[source]
        source: TransportError,
    },
    /// A file that must not vanish is not there, or changed in a way that no server would.
    #[error("{path} {what}")]
    Source {
        /// The file, at the source.
        path: Utf8PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The cluster is another one than before, was promoted, or is not what the configuration says.
    #[error("{0}")]
    Identity(String),
    /// Pages are corrupt and the policy is to fail.
    #[error(
        "{count} pages have a wrong checksum, the first is block {block} of {path}; the backup was not kept"
    )]
    CorruptPages {
        /// How many.
        count: usize,
        /// The first.
        path: Utf8PathBuf,
        /// Its block.
        block: u32,
    },
    /// What has to be done around the copy failed, in the caller's own room.
    #[error("The backup was stopped by what had to be done around it")]
    Housekeeping {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The catalog could not take what was copied.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The operation was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What stopped a transfer; a cancellation stays one.
pub(crate) fn transfer(source: TransportError) -> BackupError {
    match source {
        TransportError::Cancelled(cancelled) => BackupError::Cancelled(cancelled),
        source => BackupError::Transfer { source },
    }
}
