//! tar archives, both ways: ustar, PAX and GNU tar as far as base backups need them. Never touches files.
//!
//! [`Parser`] is fed pieces of a stream of any size and hands out headers and slices of bodies without copying them;
//! [`encode_header`] makes the header of one member. Sources: POSIX `pax` ("ustar Interchange Format", "pax Extended
//! Header") and the GNU tar manual, "Basic Tar Format". Sparse members are refused: their holes would have to be
//! rebuilt, and PostgreSQL never sends any.

use crate::model::FileTime;

mod encode;
mod header;
mod parser;

pub use encode::{END_OF_ARCHIVE, encode_header, padding};
pub use parser::{End, Event, Parser};

/// Size of the blocks an archive is made of.
pub const BLOCK: usize = 512;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The path as it stands in the archive, but for the slash at the end of a directory's. Any bytes but NUL; it may be
    /// absolute or hold `..`: judging that is the caller's work.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of body that follow; 0 for anything but files (and hard links that carry a body).
    pub size: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Time of last modification.
    pub mtime: FileTime,
}

impl Member {
    /// A member of this path and kind with no body, mode 0600 (0700 for a directory), owner 0, at the epoch.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        let mode = if kind == Kind::Directory { 0o700 } else { 0o600 };
        Self { path: path.into(), kind, size: 0, mode, uid: 0, gid: 0, mtime: FileTime::default() }
    }

    /// The path as text, or `None` when it is not UTF-8.
    pub fn utf8_path(&self) -> Option<&str> {
        std::str::from_utf8(&self.path).ok()
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(Vec<u8>),
    /// Another name of a member that came before.
    HardLink(Vec<u8>),
    /// A FIFO or a device: nothing a database holds.
    Special,
}

/// Why an archive cannot be read, or a member not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The sum over a header is wrong: damage, or no tar archive at all.
    #[error("the tar header at offset {offset} has checksum {found} where its content gives {expected}")]
    BadChecksum {
        /// Where the header begins.
        offset: u64,
        /// The sum of the content.
        expected: u64,
        /// The sum in the header.
        found: u64,
    },
    /// A number in a header cannot be read.
    #[error("the tar header at offset {offset} has an unreadable {field}")]
    BadField {
        /// Where the header begins.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// A sparse file.
    #[error("the tar member '{path}' is a sparse file, which is not supported")]
    Sparse {
        /// The member.
        path: String,
    },
    /// A kind of member that this program does not know.
    #[error("the tar member '{path}' is of the unsupported type '{kind}'")]
    UnsupportedKind {
        /// The member.
        path: String,
        /// The type letter.
        kind: char,
    },
    /// An extended header or long name of more than a megabyte.
    #[error("the tar header at offset {offset} announces {found} bytes of names, more than can be believed")]
    LongHeader {
        /// Where the header begins.
        offset: u64,
        /// The announced size.
        found: u64,
    },
    /// One block of zeros, which would be half of an end, and then more members.
    #[error("the tar archive has a lone block of zeros at offset {offset}")]
    LoneZeroBlock {
        /// Where the block begins.
        offset: u64,
    },
    /// The stream ended within a member or an extended header.
    #[error("the tar archive is cut off after {length} bytes, inside '{path}'")]
    Truncated {
        /// Bytes that came.
        length: u64,
        /// The member that is incomplete, empty when it was a header.
        path: String,
    },
    /// A path or link target that no archive can hold.
    #[error("the path '{path}' cannot be written to a tar archive: it is empty or holds a NUL byte")]
    BadPath {
        /// The path.
        path: String,
    },
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
