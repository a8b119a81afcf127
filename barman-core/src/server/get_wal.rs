//! `get-wal`: giving WAL out to a `restore_command`, and what its failure means to the server that asked (I25).

use std::io::Write;
use std::time::Duration;

use camino::Utf8Path;

use super::{Server, ServerError};
use crate::ctx::Ctx;
use crate::format::pg_conf;
use crate::io::{Disk, IoError, durable};
use crate::model::{SegmentSize, WalFileName};
use crate::wal::{Request, Served, WalError};

/// Trouble is met again after each of these pauses before it is told.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// The largest `recovery.conf` that is read.
const LONGEST: usize = 1 << 20;

/// Who asks for WAL, as far as the working directory tells: PostgreSQL runs a `restore_command` in its data directory
/// (`xlogarchive.c`). Over ssh it is another directory on another host, and nothing can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Not a server in recovery, or one that cannot be seen from here.
    Unknown,
    /// A server that ends recovery at the first file that "is not there".
    ArchiveRecovery,
    /// A standby: it asks again by itself.
    Standby,
}

impl Caller {
    /// Looks at a working directory. What cannot be read says nothing.
    pub fn of(directory: &Utf8Path, disk: &dyn Disk) -> Self {
        let has = |name: &str| disk.exists(&directory.join(name)).unwrap_or(false);
        if !has("PG_VERSION") {
            return Self::Unknown;
        }
        // Where both are, the server heeds this one.
        if has("standby.signal") {
            return Self::Standby;
        }
        match disk.read(&directory.join("recovery.conf")) {
            Ok(text) if text.len() <= LONGEST && pg_conf::asks_for_standby(&text) => Self::Standby,
            Ok(_) => Self::ArchiveRecovery,
            Err(_) if has("recovery.signal") => Self::ArchiveRecovery,
            Err(_) => Self::Unknown,
        }
    }

    /// The exit status for trouble other than "not in the archive", where `usual` is what Barman exits with.
    ///
    /// To a server in archive recovery any status up to 125 means that the WAL ends here: it would open with less than
    /// there is. Above 125 it stops, and can be started again. A standby would be shut down by that.
    pub fn trouble_status(self, usual: u8) -> u8 {
        match self {
            Self::ArchiveRecovery => 126,
            Self::Unknown | Self::Standby => usual,
        }
    }
}

impl ServerError {
    /// Whether a WAL file is not in the archive, and nothing else is wrong.
    pub fn is_absent_wal(&self) -> bool {
        matches!(self, Self::Wal(WalError::NotFound { .. }))
    }
}

impl Server {
    /// Finds a WAL file, judges it, and writes it to `out`; nothing is written before the whole of it was found sound.
    /// Trouble is met again a few times, as long as nothing was written.
    ///
    /// # Errors
    /// [`ServerError::is_absent_wal`] when the file is not there although the archive is; else trouble.
    pub fn get_wal(
        &self,
        request: &Request,
        out: &mut dyn Write,
        ctx: &Ctx<'_>,
    ) -> Result<Served, ServerError> {
        self.enabled()?;
        let mut pauses = PAUSES.into_iter();
        loop {
            let mut counted = Counted { out: &mut *out, written: 0 };
            let outcome = self.serve(request, &mut counted);
            let untouched = counted.written == 0;
            match outcome {
                Err(error) if untouched && is_worth_another_try(&error) => match pauses.next() {
                    Some(pause) => ctx.clock.pause(pause, ctx.cancel)?,
                    None => return Err(error),
                },
                other => return other,
            }
        }
    }

    /// As [`Self::get_wal`], into a file of a directory. The name is given to the complete file only.
    ///
    /// # Errors
    /// As there, and [`ServerError::Output`] when the file cannot be made.
    pub fn get_wal_into(
        &self,
        request: &Request,
        directory: &Utf8Path,
        ctx: &Ctx<'_>,
    ) -> Result<Served, ServerError> {
        let path = directory.join(request.name.to_string());
        let disk = self.host.disk.as_ref();
        let output = |source: IoError| ServerError::Output { path: path.clone(), source };
        let mut file = durable::create_tmp(disk, &path).map_err(output)?;
        let temporary = file.path().to_owned();
        let served = self.get_wal(request, &mut file, ctx);
        let done = served.and_then(|served| {
            durable::publish_replacing(disk, file, &path).map_err(output)?;
            Ok(served)
        });
        if done.is_err() {
            // Only a name of our own; the error that is told is the one above.
            let _ = disk.unlink(&temporary);
        }
        done
    }

    fn serve(&self, request: &Request, out: &mut dyn Write) -> Result<Served, ServerError> {
        match self.wal.serve(request, out) {
            Err(WalError::NotFound { name }) => {
                self.archive_is_there()?;
                Err(WalError::NotFound { name }.into())
            }
            other => Ok(other?),
        }
    }

    /// An archive that is not mounted has no files either: that must not look like the end of the WAL.
    fn archive_is_there(&self) -> Result<(), ServerError> {
        let wals = &self.wal.paths().wals_directory;
        Ok(self.host.disk.stat(wals).map(drop)?)
    }

    /// The names of at most `count` files that can be had, beginning with `name`.
    pub fn peek_wal(&self, name: &WalFileName, count: usize) -> Result<Vec<WalFileName>, ServerError> {
        self.enabled()?;
        let size = super::identity::known_cluster(&self.catalog, self.host.disk.as_ref())?.segment_size;
        let names = self.wal.peek(name, count, size.unwrap_or(SegmentSize::DEFAULT))?;
        if names.is_empty() {
            self.archive_is_there()?;
        }
        Ok(names)
    }
}

/// Damage, a bad request and a closed pipe stay what they are.
fn is_worth_another_try(error: &ServerError) -> bool {
    matches!(error, ServerError::Wal(WalError::Io(_) | WalError::Lock(_)) | ServerError::Io(_))
}

/// Counts what was written.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
