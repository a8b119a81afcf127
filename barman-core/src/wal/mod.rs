//! The WAL archive: taking segments in, keeping them sound, giving them out.

mod aside;
mod commits;
mod directory;
mod get;
mod incoming;
mod index;
mod intake;
mod layout;
mod local;
mod parcel;
mod partial;
mod port;
mod put;
mod receiver;
mod refused;
mod seal;
mod stored;
mod take;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use commits::{Commits, SegmentTimes};
pub use get::{Packing, Request, Served};
pub use incoming::{Batch, Receiving, Source};
pub use layout::WalPaths;
pub use local::{Compression, EarlierClusters, LocalWalArchive, Rebuilt, WalOptions};
pub use parcel::{Parcel, ParcelSums};
pub use port::{
    Incoming, IntakeReport, PartialWal, Reclaimed, Taken, TakenHow, WalArchive, WalEntry, WalError,
    WalIntake, WalRange,
};
pub use put::Delivery;
pub use receiver::{OnSegment, Receiver};
pub use refused::RefusedWal;

use crate::ctx::Clock;
use crate::io::{Disk, IoErrorKind, Locks, durable};

/// What the parts of a local archive have in common.
struct Shared {
    paths: WalPaths,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    locks: Locks,
    options: WalOptions,
}

impl Shared {
    /// Makes the content of a file durable that somebody else wrote.
    fn sync_content(&self, path: &camino::Utf8Path) -> Result<(), WalError> {
        match self.disk.open_write(path) {
            Ok(mut file) => Ok(file.sync_all()?),
            // A file that is not ours to write.
            Err(e) if e.kind() == IoErrorKind::Denied => Ok(self.disk.syncfs(durable::parent_of(path))?),
            Err(e) => Err(e.into()),
        }
    }
}

/// A name that nobody else in this process uses; one of an earlier process may be there.
fn temporary(name: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    layout::temporary(name, std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}
