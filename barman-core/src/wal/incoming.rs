//! Looking for files to take in: what an `archive_command` delivered, what a receiver wrote.

use std::ops::ControlFlow;

use camino::Utf8PathBuf;

use super::aside::{self, Kind};
use super::{Incoming, LocalWalArchive, WalError};
use crate::ctx::Ctx;
use crate::io::{FileKind, IoErrorKind};
use crate::model::WalFileName;

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
    /// Of a receiver's directory the newest `.partial` stays, and where there is none, the last segment.
    pub fn batch(&self, source: Source, limit: Option<usize>, ctx: &Ctx<'_>) -> Result<Batch, WalError> {
        let shared = &self.shared;
        let dir = match source {
            Source::Incoming => &shared.paths.incoming_directory,
            Source::Streaming => &shared.paths.streaming_directory,
        };
        let mut found = Vec::new();
        let listed = shared.disk.list(dir, &mut |item| {
            if !item.name.starts_with('.') && !item.name.ends_with(".tmp") {
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
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut batch = Batch { entries: found.len(), ..Batch::default() };
        let busy = if source == Source::Streaming { busy(&found) } else { None };
        found.retain(|(name, _)| Some(name) != busy.as_ref());
        found.truncate(limit.unwrap_or(usize::MAX));
        for (name, kind) in found {
            let path = dir.join(&name);
            let wal = name.parse::<WalFileName>().ok().filter(|wal| wal.to_string() == name);
            match (wal, kind) {
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
}

/// What a receiver may still be writing.
fn busy(found: &[(String, FileKind)]) -> Option<String> {
    let newest = |want: fn(&WalFileName) -> bool| {
        found
            .iter()
            .rev()
            .map(|(name, _)| name)
            .find(|name| name.parse().is_ok_and(|wal| want(&wal)))
            .cloned()
    };
    newest(|wal| matches!(wal, WalFileName::Partial(_)))
        .or_else(|| newest(|wal| matches!(wal, WalFileName::Segment(_))))
}
