//! Taking a base backup.

mod attend;
mod copy;
mod dropped;
pub mod exclude;
mod intake;
mod pack;
mod page_check;
mod port;
pub mod reuse;
mod session;
mod stats;
mod streaming;
mod throttle;
mod tree;
pub mod vanish;
mod worker;

pub use copy::{Connect, CopyExecutor};
pub use port::{
    BackupError, BackupExecutor, BackupJob, BackupJournal, BackupReport, BackupServer, Begin, CorruptPage,
    CorruptPagePolicy, End, IncrementalPlan, Packing, ReusePlan, ServerFacts, ServerPacking, Skipped,
    Started,
};
pub use session::PgBackupServer;
pub use streaming::{ConnectStream, StreamingExecutor};
pub(crate) use throttle::Throttle;
pub(crate) use tree::top_mode;
