//! [`IoError`]: an error of the file system that says which path it met and what was being done to it.

use std::fmt;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// What kind of trouble an [`IoError`] is, as far as callers act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoErrorKind {
    /// There is no such file or directory.
    NotFound,
    /// The name is already taken.
    AlreadyExists,
    /// The process may not do this (EACCES, EPERM, EROFS).
    Denied,
    /// The file system or the quota is full.
    NoSpace,
    /// The path is not what the operation needs: a directory for a file, a file for a directory, a FIFO.
    WrongKind,
    /// A directory to be removed has entries.
    NotEmpty,
    /// A name that is not UTF-8; everything else in the directory was delivered.
    NotUtf8,
    /// A hard link or rename cannot be made: other file system, or too many links.
    CannotLink,
    /// The file system or the kernel does not know the operation.
    Unsupported,
    /// Less was there than should be.
    UnexpectedEof,
    /// The file cannot mean what it should.
    InvalidData,
    /// Anything else.
    Other,
}

/// An I/O error with the verb and the path. Display is one sentence without the operating system's reason, which is
/// the `source()`.
#[derive(Debug)]
pub struct IoError {
    /// What was being done, as it stands after "could not": `open`, `fsync the directory`.
    pub verb: &'static str,
    /// To what.
    pub path: Utf8PathBuf,
    /// The second path of a rename or a link.
    pub to: Option<Utf8PathBuf>,
    /// What the operating system said.
    pub source: io::Error,
}

impl IoError {
    /// An error with one path.
    pub fn new(verb: &'static str, path: impl Into<Utf8PathBuf>, source: impl Into<io::Error>) -> Self {
        Self { verb, path: path.into(), to: None, source: source.into() }
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> IoErrorKind {
        if self.source.get_ref().is_some_and(|inner| inner.is::<NotUtf8>()) {
            return IoErrorKind::NotUtf8;
        }
        match self.source.kind() {
            io::ErrorKind::NotFound => IoErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => IoErrorKind::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => IoErrorKind::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoErrorKind::NoSpace,
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => IoErrorKind::WrongKind,
            io::ErrorKind::DirectoryNotEmpty => IoErrorKind::NotEmpty,
            io::ErrorKind::CrossesDevices | io::ErrorKind::TooManyLinks => IoErrorKind::CannotLink,
            io::ErrorKind::Unsupported => IoErrorKind::Unsupported,
            io::ErrorKind::UnexpectedEof => IoErrorKind::UnexpectedEof,
            io::ErrorKind::InvalidData => IoErrorKind::InvalidData,
            _ => IoErrorKind::Other,
        }
    }

    /// Whether a hard link failed for a reason that a copy does not have: another file system, too many links, another
    /// owner, or no hard links at all (I34).
    pub fn copy_instead_of_link(&self) -> bool {
        use IoErrorKind::{CannotLink, Denied, Unsupported};
        self.verb == "link" && matches!(self.kind(), CannotLink | Denied | Unsupported)
    }

    /// Whether there is no such file or directory.
    pub fn is_not_found(&self) -> bool {
        self.kind() == IoErrorKind::NotFound
    }

    /// Whether the name was already taken.
    pub fn is_already_exists(&self) -> bool {
        self.kind() == IoErrorKind::AlreadyExists
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} {}", self.verb, self.path)?;
        match &self.to {
            Some(to) => write!(f, " to {to}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// For interfaces of std that speak `io::Error`: keeps the kind, and the whole sentence with its reason as text.
impl From<IoError> for io::Error {
    fn from(error: IoError) -> Self {
        io::Error::new(error.source.kind(), error)
    }
}

/// A directory has a name that is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("the name {0:?} is not UTF-8")]
pub(super) struct NotUtf8(pub(super) std::ffi::OsString);

/// Adds the verb and the path to an I/O error.
pub trait IoContext<T> {
    /// `verb` stands after "could not".
    fn context(self, verb: &'static str, path: &Utf8Path) -> Result<T, IoError>;
    /// The same for operations on two paths.
    fn context_to(self, verb: &'static str, path: &Utf8Path, to: &Utf8Path) -> Result<T, IoError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, verb: &'static str, path: &Utf8Path) -> Result<T, IoError> {
        self.map_err(|source| IoError::new(verb, path, source))
    }

    fn context_to(self, verb: &'static str, path: &Utf8Path, to: &Utf8Path) -> Result<T, IoError> {
        self.map_err(|source| IoError { to: Some(to.to_owned()), ..IoError::new(verb, path, source) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_has_verb_and_paths_but_not_the_reason() {
        let error = IoError::new("open", "/a/b", io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.to_string(), "could not open /a/b");
        let failed: Result<(), io::Error> = Err(io::Error::from_raw_os_error(28));
        let error = failed.context_to("rename", "/a".into(), "/b".into()).unwrap_err();
        assert_eq!(error.to_string(), "could not rename /a to /b");
        assert_eq!(error.kind(), IoErrorKind::NoSpace);
    }

    #[test]
    fn kinds() {
        for (errno, kind) in [
            (2, IoErrorKind::NotFound),
            (17, IoErrorKind::AlreadyExists),
            (13, IoErrorKind::Denied),
            (1, IoErrorKind::Denied),
            (30, IoErrorKind::Denied),
            (28, IoErrorKind::NoSpace),
            (122, IoErrorKind::NoSpace),
            (20, IoErrorKind::WrongKind),
            (21, IoErrorKind::WrongKind),
            (39, IoErrorKind::NotEmpty),
            (18, IoErrorKind::CannotLink),
            (31, IoErrorKind::CannotLink),
            (5, IoErrorKind::Other),
        ] {
            let error = IoError::new("x", "/p", io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), kind, "errno {errno}");
            assert_eq!(io::Error::from(error).kind(), io::Error::from_raw_os_error(errno).kind());
        }
    }
}
