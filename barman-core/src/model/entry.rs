//! [`Entry`]: one thing found while walking a tree, here or on another host.

use camino::Utf8PathBuf;

/// A point in time as file systems store it: seconds and nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileTime {
    /// Whole seconds since 1970-01-01 00:00 UTC; negative before.
    pub seconds: i64,
    /// 0 … 999,999,999. Zero may also mean that the source knows no fraction.
    pub nanos: u32,
}

impl FileTime {
    /// Nanoseconds since the epoch.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }
}

/// What an [`Entry`] is, links followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that was not followed, with its target.
    Symlink(Utf8PathBuf),
    /// A socket, FIFO or device.
    Other,
}

/// A file, directory or link with the facts that decide whether it must be copied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Path relative to the root of the walk; empty for the root itself.
    pub path: Utf8PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Length in bytes; 0 for what is not a regular file.
    pub size: u64,
    /// Time of last modification.
    pub mtime: FileTime,
    /// Permission bits (`0o7777`).
    pub mode: u32,
}

impl Entry {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::File
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == EntryKind::Directory
    }
}
