//! Keeping files aside in `errors/`, with the reason in the sidecar. Nothing is ever thrown away here.

use camino::{Utf8Path, Utf8PathBuf};
use time::OffsetDateTime;

use super::Shared;
use crate::format::timestamp::utc_compact;
use crate::io::{IoContext, IoError, IoErrorKind, durable};
use std::io::Read;

/// Why a file is kept aside, as the end of its name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Another content of that name is archived.
    Duplicate,
    /// It is not what its name says, or its name says nothing.
    Unknown,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Unknown => "unknown",
        }
    }
}

/// Moves a file or directory into `errors/` as `NAME.<UTC>.<kind>`, durably, and records the reason. Gives its new
/// place.
pub(super) fn keep(
    shared: &Shared,
    path: &Utf8Path,
    kind: Kind,
    reason: &str,
    now: OffsetDateTime,
) -> Result<Utf8PathBuf, IoError> {
    keep_as(shared, path, path.file_name().unwrap_or("file"), kind, reason, now)
}

/// As [`keep`], for a file that does not lie under the name by which it is known.
pub(super) fn keep_as(
    shared: &Shared,
    path: &Utf8Path,
    name: &str,
    kind: Kind,
    reason: &str,
    now: OffsetDateTime,
) -> Result<Utf8PathBuf, IoError> {
    let disk = &*shared.disk;
    let errors = &shared.paths.errors_directory;
    durable::mkdir_all_durable(disk, errors, 0o777)?;
    // A second of one name within a second gets the next second; nothing is replaced.
    for later in 0i64.. {
        let stamp = utc_compact(now + time::Duration::seconds(later));
        let to = errors.join(format!("{name}.{stamp}.{}", kind.suffix()));
        match durable::rename_noreplace_durable(disk, path, &to) {
            Err(e) if e.is_already_exists() => continue,
            Err(e) if e.kind() == IoErrorKind::CannotLink && disk.lstat(path)?.is_file() => {
                copy(shared, path, &to)?;
                durable::remove_durable(disk, path)?;
            }
            other => other?,
        }
        record(shared, name, &to, reason, &stamp)?;
        return Ok(to);
    }
    Err(IoError::new("keep aside", path, std::io::Error::from(std::io::ErrorKind::AlreadyExists)))
}

/// `errors/` lies on another file system.
fn copy(shared: &Shared, path: &Utf8Path, to: &Utf8Path) -> Result<(), IoError> {
    let disk = &*shared.disk;
    let mut from = disk.open_read(path)?;
    let stat = from.stat()?;
    let mut file = durable::create_tmp(disk, to)?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match from.read(&mut chunk).context("read", path)? {
            0 => break,
            n => file.put(chunk.get(..n).unwrap_or_default())?,
        }
    }
    file.set_mode(stat.mode)?;
    file.set_mtime(stat.mtime)?;
    durable::publish_noreplace(disk, file, to)
}

/// One line: when, name, where it lies, why.
fn record(shared: &Shared, name: &str, to: &Utf8Path, reason: &str, stamp: &str) -> Result<(), IoError> {
    let clean = |text: &str| text.replace(['\t', '\n', '\r'], " ");
    let line = format!("{stamp}\t{}\t{}\t{}\n", clean(name), clean(to.as_str()), clean(reason));
    durable::mkdir_all_durable(&*shared.disk, &shared.paths.sidecar_directory, 0o777)?;
    durable::append_durable(&*shared.disk, &shared.paths.refusals(), line.as_bytes())
}
