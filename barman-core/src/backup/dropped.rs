//! Whether the database of a file that vanished was really dropped (I15).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::port::transfer;
use super::tree::Tree;
use super::worker::Orphan;
use super::{BackupError, Skipped};
use crate::ctx::{Cancel, Ctx};
use crate::transport::{Lane, ProbeKind, Transport};

/// `DROP DATABASE` removes file by file and the directory last, so that it may be seen half way. After so many looks without
/// any progress it is none.
const LOOKS: u32 = 6;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// How many files lie in directories that may go meanwhile.
fn count(lane: &mut dyn Lane, directories: &[Utf8PathBuf]) -> usize {
    let mut files = 0;
    for directory in directories {
        let counted = lane.list(directory, &mut |_| {
            files += 1;
            ControlFlow::Continue(())
        });
        // One that went after it was seen has none any more; other trouble meets the next look.
        drop(counted);
    }
    files
}

/// Proves for each file that the directory of its database is gone as well.
///
/// # Errors
/// [`BackupError::Source`] for the first file whose database is still there: the server cannot have removed it, and a
/// restored database without it does not start.
pub(crate) fn prove_dropped(
    orphans: Vec<Orphan>,
    tree: &Tree,
    transport: &dyn Transport,
    stop: &Cancel,
    ctx: &Ctx<'_>,
) -> Result<Vec<Skipped>, BackupError> {
    let databases: BTreeSet<&Utf8Path> = orphans.iter().map(|o| o.database.as_path()).collect();
    let mut there: Vec<Utf8PathBuf> = databases.into_iter().map(|d| tree.source.join(d)).collect();
    let mut still = 0;
    let mut files = None;
    while !there.is_empty() && still < LOOKS {
        if files.is_some() {
            ctx.clock.pause(PAUSE, stop)?;
        }
        let mut lane = transport.lane().map_err(transfer)?;
        let probes = lane.probe(&there).map_err(transfer)?;
        there = probes.into_iter().filter(|p| p.kind != ProbeKind::Missing).map(|p| p.path).collect();
        let left = count(&mut *lane, &there);
        // A database in use loses and gets files, too.
        still = if files.is_some_and(|fewest| left < fewest) { 1 } else { still + 1 };
        files = Some(files.map_or(left, |fewest: usize| fewest.min(left)));
    }
    let left = orphans.iter().find(|o| there.contains(&tree.source.join(&o.database)));
    if let Some(orphan) = left {
        return Err(BackupError::Source {
            path: tree.source.join(&orphan.path),
            what: format!(
                "was there and is gone, and its database was not dropped: the directory {} is still there. No running \
                 server removes such a file alone; see whether the database can be used, then take the backup again",
                tree.source.join(&orphan.database)
            ),
        });
    }
    let skipped =
        |orphan: Orphan| Skipped { root: tree.root, path: orphan.path, why: "the database was dropped" };
    Ok(orphans.into_iter().map(skipped).collect())
}
