//! Looking for files to take in: what an `archive_command` delivered, what a receiver wrote.

use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use super::aside::{self, Kind};
use super::take::is_abandoned;
use super::{Incoming, LocalWalArchive, WalError};
use crate::ctx::Ctx;
use crate::io::{FileKind, IoErrorKind};
use crate::model::{Timeline, WalFileName};

/// So many seconds no delivery takes.
const ABANDONED: i64 = 3600;

/// Which directory to look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `incoming/`.
    Incoming,
    /// `streaming/`: what the receiver still works on stays.
    Streaming,
}

impl std::fmt::Display for Source {
    /// The name of the archiver, as Barman's messages have it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Incoming => "file archival",
            Self::Streaming => "streaming",
        })
    }
}

/// Which unfinished segments of a receiver's directory are its own still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiving {
    /// No receiver runs: the newest stays, for the next one to go on with.
    Nobody,
    /// A receiver runs elsewhere and knows by itself which one it writes: all stay.
    Elsewhere,
    /// The caller is the receiver, on this timeline: the newest of it stays.
    Here(Timeline),
}

/// What lay in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Files to hand to an intake, in archive order.
    pub files: Vec<Incoming>,
    /// What is no WAL: the name, and where it was moved to in `errors/`.
    pub unknown: Vec<(String, Utf8PathBuf)>,
    /// How many names the directory had, those of unfinished deliveries (`.tmp`, beginning with a dot) not counted.
    pub entries: usize,
}

impl LocalWalArchive {
    /// Looks for files to take in, at most `limit` names of them. What has a name that is none of WAL is moved to
    /// `errors/`; names that end with `.tmp` or begin with a dot are deliveries under way and are not looked at.
    ///
    /// Of a receiver's directory the unfinished segments stay that may still be written, and where there is none at all, the
    /// last segment. An empty unfinished segment that nobody writes says nothing, and goes.
    pub fn batch(
        &self,
        source: Source,
        receiving: Receiving,
        limit: Option<usize>,
        ctx: &Ctx<'_>,
    ) -> Result<Batch, WalError> {
        let shared = &self.shared;
        let dir = match source {
            Source::Incoming => &shared.paths.incoming_directory,
            Source::Streaming => &shared.paths.streaming_directory,
        };
        let (mut found, mut abandoned) = (Vec::new(), Vec::new());
        let listed = shared.disk.list(dir, &mut |item| {
            if is_abandoned(&item.name) {
                abandoned.push(item.name);
            } else if !item.name.starts_with('.') && !item.name.ends_with(".tmp") {
                found.push((item.name, item.kind));
            }
            ControlFlow::Continue(())
        });
        match listed {
            Err(e) if e.kind() == IoErrorKind::NotFound => {}
            Err(e) if e.kind() == IoErrorKind::NotUtf8 => {
                ctx.warn(format!("{dir} has a file whose name is not UTF-8; it stays where it is."));
            }
            other => other?,
        }
        for name in abandoned {
            let path = dir.join(name);
            // A delivery that was killed, which its sender repeats. Its maker may also be in a container or on another host,
            // where the number of a process means something else: but not for so long. Somebody else may be faster.
            let age = |stat: &crate::io::Stat| ctx.clock.now().unix_timestamp() - stat.ctime.seconds;
            if shared.disk.lstat(&path).is_ok_and(|stat| age(&stat) > ABANDONED) {
                let _ = shared.disk.unlink(&path);
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut batch = Batch { entries: found.len(), ..Batch::default() };
        if source == Source::Streaming {
            let busy = busy(&found, receiving);
            found.retain(|(name, _)| !busy.contains(name));
        }
        found.truncate(limit.unwrap_or(usize::MAX));
        for (name, kind) in found {
            let path = dir.join(&name);
            let wal = name.parse::<WalFileName>().ok().filter(|wal| wal.to_string() == name);
            match (wal, kind) {
                (Some(WalFileName::Partial(_)), FileKind::File)
                    if source == Source::Streaming && self.is_empty(&path)? =>
                {
                    match shared.disk.unlink(&path) {
                        Err(e) if e.is_not_found() => {}
                        other => other?,
                    }
                }
                (Some(wal), FileKind::File | FileKind::Symlink) => {
                    batch.files.push(Incoming { name: wal, path, remove_source: true });
                }
                (wal, _) => {
                    let reason = match wal {
                        Some(_) => "it is not a regular file",
                        None => "its name is not that of a WAL file",
                    };
                    match aside::keep(shared, &path, Kind::Unknown, reason, ctx.clock.now()) {
                        Ok(to) => batch.unknown.push((name, to)),
                        // Somebody else was faster.
                        Err(e) if e.is_not_found() => {}
                        Err(e) => return Err(e.into()),
                    }
                }
            }
        }
        Ok(batch)
    }

    /// Whether a file has no content; one that is not there any more has none either.
    fn is_empty(&self, path: &Utf8Path) -> Result<bool, WalError> {
        match self.shared.disk.stat(path) {
            Err(e) if e.is_not_found() => Ok(true),
            other => Ok(other?.size == 0),
        }
    }
}

/// What a receiver may still be writing, or needs to go on from.
fn busy(found: &[(String, FileKind)], receiving: Receiving) -> Vec<String> {
    let wals = || found.iter().filter_map(|(name, _)| Some((name, name.parse::<WalFileName>().ok()?)));
    let partials = |of: &dyn Fn(Timeline) -> bool| -> Vec<String> {
        let partials = wals().filter(|(_, wal)| matches!(wal, WalFileName::Partial(_)) && of(wal.timeline()));
        partials.map(|(name, _)| name.clone()).collect()
    };
    let (mut busy, newest) = match receiving {
        Receiving::Nobody => (Vec::new(), partials(&|_| true).pop()),
        Receiving::Elsewhere => (partials(&|_| true), None),
        // It may have gone on to a later one since it was asked.
        Receiving::Here(live) => {
            (partials(&|timeline| timeline > live), partials(&|timeline| timeline == live).pop())
        }
    };
    busy.extend(newest);
    if busy.is_empty() {
        // The last whole segment says where to go on.
        busy.extend(wals().rfind(|(_, wal)| wal.as_segment().is_some()).map(|(name, _)| name.clone()));
    }
    busy
}
