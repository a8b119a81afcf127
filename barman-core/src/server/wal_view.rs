//! What the archive holds, as a whole.

use std::collections::HashSet;

use super::{Server, ServerError};
use crate::model::WalFileName;
use crate::wal::WalArchive as _;

impl Server {
    /// Whether the archive is fit for a new server: empty, or, where a timeline is given, without anything of it or of a
    /// later one. A server that archives into WAL of another one breaks both.
    ///
    /// # Errors
    /// [`ServerError::ArchiveInUse`] when it is not.
    pub fn check_wal_archive(&self, timeline: Option<u32>) -> Result<(), ServerError> {
        self.enabled()?;
        // Lines without files count as with Barman, and files without lines are in the way just as well.
        let mut names: HashSet<WalFileName> = HashSet::new();
        self.wal.each_indexed(&mut |line| {
            names.insert(line.name);
        })?;
        self.wal.scan(&crate::wal::WalRange::default(), &mut |entry| {
            names.insert(entry.name);
            std::ops::ControlFlow::Continue(())
        })?;
        let server = self.name().clone();
        let Some(timeline) = timeline else {
            return match names.len() {
                0 => Ok(()),
                _ => Err(ServerError::ArchiveInUse { server, what: "Expected empty archive".to_owned() }),
            };
        };
        let found = names.iter().filter(|name| name.timeline().get() >= timeline).count();
        if found == 0 {
            return Ok(());
        }
        let files = if found == 1 { "file" } else { "files" };
        let what = format!("Found {found} {files} in WAL archive equal to or newer than timeline {timeline}");
        Err(ServerError::ArchiveInUse { server, what })
    }
}
