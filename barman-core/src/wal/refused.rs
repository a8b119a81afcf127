//! What lies in `errors/`: why, and what can be done with it.

use std::collections::HashMap;

use camino::{Utf8Path, Utf8PathBuf};
use time::OffsetDateTime;

use super::{LocalWalArchive, WalError};
use crate::format::timestamp::parse_utc_compact;
use crate::io::{IoErrorKind, durable};

/// A file that was not taken into the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWal {
    /// Its name in `errors/`.
    pub file: String,
    /// The name under which it came.
    pub name: String,
    /// When it was put there, where its name says that.
    pub at: Option<OffsetDateTime>,
    /// `duplicate`, `unknown` …: the end of its name.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Why, where this program put it there.
    pub reason: Option<String>,
}

impl LocalWalArchive {
    /// The files in `errors/`, in the order of their names.
    pub fn refused_files(&self) -> Result<Vec<RefusedWal>, WalError> {
        let shared = &self.shared;
        let dir = &shared.paths.errors_directory;
        let names = match shared.disk.names(dir) {
            Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::NotUtf8) => Vec::new(),
            other => other?,
        };
        let noted = match shared.disk.read_text(&shared.paths.refusals()) {
            Err(e) if e.is_not_found() => String::new(),
            other => other?,
        };
        // When, name, where it lies, why.
        let mut reasons: HashMap<&str, &str> = HashMap::new();
        for line in noted.lines() {
            let mut fields = line.splitn(4, '\t').skip(2);
            if let (Some(path), Some(reason)) = (fields.next(), fields.next()) {
                reasons.insert(Utf8Path::new(path).file_name().unwrap_or(path), reason);
            }
        }
        let mut found = Vec::new();
        for file in names {
            let size = match shared.disk.lstat(&dir.join(&file)) {
                // Somebody has just taken care of it.
                Err(e) if e.is_not_found() => continue,
                other => other?.size,
            };
            let (name, at, kind) = parts(&file);
            let reason = reasons.get(file.as_str()).map(|reason| (*reason).to_owned());
            found.push(RefusedWal { name, at, kind, size, reason, file });
        }
        Ok(found)
    }

    /// Puts a file of `errors/` where files come in, under the name under which it came, durably; gives that place.
    ///
    /// # Errors
    /// When something has that name there; nothing is replaced.
    pub fn retry_refused(&self, refused: &RefusedWal, into: &Utf8Path) -> Result<Utf8PathBuf, WalError> {
        let from = self.shared.paths.errors_directory.join(&refused.file);
        let to = into.join(&refused.name);
        durable::rename_noreplace_durable(&*self.shared.disk, &from, &to)?;
        Ok(to)
    }

    /// Removes a file from `errors/` for good, durably.
    pub fn discard_refused(&self, refused: &RefusedWal) -> Result<(), WalError> {
        let path = self.shared.paths.errors_directory.join(&refused.file);
        Ok(durable::remove_durable(&*self.shared.disk, &path)?)
    }
}

/// `NAME.<UTC>.<kind>` in its parts.
fn parts(file: &str) -> (String, Option<OffsetDateTime>, String) {
    let whole = || (file.to_owned(), None, String::new());
    let Some((rest, kind)) = file.rsplit_once('.') else { return whole() };
    let Some((name, stamp)) = rest.rsplit_once('.') else { return whole() };
    match parse_utc_compact(stamp) {
        Ok(at) => (name.to_owned(), Some(at), kind.to_owned()),
        Err(_) => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_was() {
        let (name, at, kind) = parts("000000010000000000000002.00000028.backup.20261122T215606Z.duplicate");
        assert_eq!((name.as_str(), kind.as_str()), ("000000010000000000000002.00000028.backup", "duplicate"));
        assert!(at.is_some());
        assert_eq!(parts("what.ever.it is"), ("what.ever.it is".to_owned(), None, String::new()));
        assert_eq!(parts("x"), ("x".to_owned(), None, String::new()));
    }
}
