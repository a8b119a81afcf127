//! [`Disk`]: the door to the file system under every durable operation. Only the trait and its values live here; what
//! an order of calls guarantees after a crash is said in [`super::durable`].

use std::io::{Read, Seek, Write};
use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use crate::model::FileTime;

use super::{IoContext, IoError};

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, FIFO or device.
    Other,
}

/// The facts that the file system keeps about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes as `stat` gives it (directories have one too).
    pub size: u64,
    /// Bytes that it occupies (512 × st_blocks); less than `size` where the file has holes.
    pub allocated: u64,
    /// Time of the last modification.
    pub mtime: FileTime,
    /// Time of the last change of content, name count or attributes; nobody can set it.
    pub ctime: FileTime,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device of the file system.
    pub dev: u64,
    /// The number of the inode: two names with equal `dev` and `inode` are one file.
    pub inode: u64,
    /// How many names the inode has.
    pub nlink: u64,
}

impl Stat {
    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether both describe the same inode.
    pub fn same_inode(&self, other: &Stat) -> bool {
        self.dev == other.dev && self.inode == other.inode
    }
}

/// A name found by [`Disk::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirItem {
    /// The name within the directory.
    pub name: String,
    /// What it stands for; symbolic links are not followed.
    pub kind: FileKind,
    /// The number of the inode.
    pub inode: u64,
}

/// A `backup.info` and other facts take less.
const SMALL: usize = 8 << 10;

/// Room on a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The size of the file system.
    pub total: u64,
    /// What an ordinary user may still write.
    pub available: u64,
}

/// A regular file opened for reading.
pub trait SourceFile: Read + Seek + Send + Sync {
    /// The path under which it was opened.
    fn path(&self) -> &Utf8Path;

    /// The facts of the open file, whatever has its name now.
    fn stat(&self) -> Result<Stat, IoError>;

    /// Fills `buf` from `offset` and gives the number of bytes read, which is less than asked only at the end of the
    /// file. The position of `Read` does not move.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, IoError>;
}

/// A regular file opened for writing. `Write` is not buffered. Nothing is durable before `sync_data` or `sync_all`
/// returned success, and after either of them failed the file must be given up: the kernel forgets the lost pages, and
/// a second fsync would lie (I29).
pub trait DiskFile: Write + Seek + Send {
    /// The path under which it was opened.
    fn path(&self) -> &Utf8Path;

    /// `write_all` with an error that names the path.
    fn put(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        let written = self.write_all(bytes);
        written.context("write", self.path())
    }

    /// The facts of the open file.
    fn stat(&self) -> Result<Stat, IoError>;

    /// Its length in bytes.
    fn len(&self) -> Result<u64, IoError> {
        Ok(self.stat()?.size)
    }

    /// Whether it has no bytes.
    fn is_empty(&self) -> Result<bool, IoError> {
        Ok(self.len()? == 0)
    }

    /// Cuts it, or extends it with zeros that take no space.
    fn set_len(&mut self, len: u64) -> Result<(), IoError>;

    /// Extends it with zeros for which the room is reserved, where the file system can do that: writing there meets no full
    /// disk any more. It is never cut.
    fn allocate(&mut self, len: u64) -> Result<(), IoError> {
        if self.len()? < len { self.set_len(len) } else { Ok(()) }
    }

    /// Sets the permission bits (`0o7777`).
    fn set_mode(&mut self, mode: u32) -> Result<(), IoError>;

    /// Sets the time of modification; the time of access stays.
    fn set_mtime(&mut self, mtime: FileTime) -> Result<(), IoError>;

    /// Says that these bytes, which are written, will not be read soon: the system may begin to write them to the disk
    /// and drop those from its cache that are there already. A hint: it fails never, and makes nothing durable.
    fn release(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// fdatasync: content and length are durable afterwards, mode and times need not be.
    fn sync_data(&mut self) -> Result<(), IoError>;

    /// fsync: content, length, mode and times are durable afterwards; the name is only after [`Disk::sync_dir`].
    fn sync_all(&mut self) -> Result<(), IoError>;
}

/// A watch on a file system since before the writes that it is to make durable.
pub trait WriteWatch: Send {
    /// Makes everything durable that was written and named on the file system since the watch began, whoever wrote it.
    /// Fails when any write since then was lost; then all files written meanwhile must be given up.
    fn sync(self: Box<Self>) -> Result<(), IoError>;
}

/// The file system. Each method is one system call or nearly so, retried on EINTR only; none of them makes anything
/// durable except the `sync` ones. Paths go to the kernel as they are.
pub trait Disk: Send + Sync {
    /// Opens a regular file for reading, links followed. Anything else (a FIFO would block) is refused with
    /// [`super::IoErrorKind::WrongKind`].
    fn open_read(&self, path: &Utf8Path) -> Result<Box<dyn SourceFile>, IoError>;

    /// Creates a file which must not exist (O_EXCL), for writing; permissions are 0666 less the umask.
    fn create_new(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError>;

    /// Opens a file for appending, which is created when absent; every write goes to its end.
    fn append(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError>;

    /// Opens an existing file for writing in place, at its beginning and without truncating it. Never for a file under
    /// `base/` (I34).
    fn open_write(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError>;

    /// Gives a file another name, atomically, and fails with [`super::IoErrorKind::AlreadyExists`] where that name is
    /// taken (I1). On file systems without RENAME_NOREPLACE it links and unlinks, so that a crash may leave a regular
    /// file under both names; a directory cannot be renamed there.
    fn rename_noreplace(&self, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError>;

    /// Gives a file or directory another name, atomically; a file that had that name is gone.
    fn replace(&self, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError>;

    /// Makes a second name for a file (links are not followed).
    fn link(&self, existing: &Utf8Path, new: &Utf8Path) -> Result<(), IoError>;

    /// Makes a symbolic link at `link` that holds the text `target`.
    fn symlink(&self, target: &Utf8Path, link: &Utf8Path) -> Result<(), IoError>;

    /// Removes a name of a file or a symbolic link.
    fn unlink(&self, path: &Utf8Path) -> Result<(), IoError>;

    /// Makes a directory with this mode, less the umask.
    fn mkdir(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError>;

    /// Removes an empty directory.
    fn rmdir(&self, path: &Utf8Path) -> Result<(), IoError>;

    /// Makes the names in a directory durable: created, renamed and removed ones.
    fn sync_dir(&self, path: &Utf8Path) -> Result<(), IoError>;

    /// Makes all of the file system that holds this directory durable. What it says about writes made before it was
    /// called is not reliable, see [`Disk::watch_writes`].
    fn syncfs(&self, dir: &Utf8Path) -> Result<(), IoError>;

    /// Fsyncs a file that nobody has open for writing any more; links are not followed.
    fn sync_file(&self, path: &Utf8Path) -> Result<(), IoError>;

    /// Begins to watch the file system that holds this directory, for one [`WriteWatch::sync`] instead of an fsync for
    /// each file. None where the kernel would not tell of lost writes (before Linux 5.8): sync file by file there.
    ///
    /// It must be called *before* the first write: an error of writeback that somebody else's sync was told of meanwhile
    /// is not told again to those who come later.
    fn watch_writes<'d>(&'d self, dir: &Utf8Path) -> Result<Option<Box<dyn WriteWatch + 'd>>, IoError>;

    /// The facts of what a path leads to, links followed.
    fn stat(&self, path: &Utf8Path) -> Result<Stat, IoError>;

    /// The facts of what has this name, a link itself included.
    fn lstat(&self, path: &Utf8Path) -> Result<Stat, IoError>;

    /// Delivers the names in a directory, without `.` and `..`, in no order, until `each` breaks. Names that are not
    /// UTF-8 are left out; where there were any, the answer is [`super::IoErrorKind::NotUtf8`] after all the others
    /// were delivered.
    fn list(&self, dir: &Utf8Path, each: &mut dyn FnMut(DirItem) -> ControlFlow<()>) -> Result<(), IoError>;

    /// The text that a symbolic link holds.
    fn read_link(&self, path: &Utf8Path) -> Result<Utf8PathBuf, IoError>;

    /// Room on the file system of a path.
    fn space(&self, path: &Utf8Path) -> Result<Space, IoError>;

    /// Sets permission bits, links followed. Never for a file under `base/` (I34).
    fn set_mode(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError>;

    /// Sets the time of modification, links not followed; the time of access stays. Never for a file under `base/`.
    fn set_mtime(&self, path: &Utf8Path, mtime: FileTime) -> Result<(), IoError>;

    /// The whole content of a file. For small files; large ones are read from [`Disk::open_read`].
    fn read(&self, path: &Utf8Path) -> Result<Vec<u8>, IoError> {
        let mut file = self.open_read(path)?;
        // Most such files fit at once.
        let mut bytes = Vec::with_capacity(SMALL);
        file.read_to_end(&mut bytes).context("read", path)?;
        Ok(bytes)
    }

    /// The whole content of a text file.
    fn read_text(&self, path: &Utf8Path) -> Result<String, IoError> {
        let text = String::from_utf8(self.read(path)?);
        text.map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
            .context("read as text", path)
    }

    /// Whether something has this name (a dangling link has one). Trouble other than absence is an error.
    fn exists(&self, path: &Utf8Path) -> Result<bool, IoError> {
        match self.lstat(path) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The names in a directory in byte order. Only where a directory is known to be small.
    fn names(&self, dir: &Utf8Path) -> Result<Vec<String>, IoError> {
        let mut names = Vec::new();
        self.list(dir, &mut |item| {
            names.push(item.name);
            ControlFlow::Continue(())
        })?;
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a directory and those above it which are missing; one that exists already is success. Nothing is durable
    /// yet, see [`super::durable::mkdir_all_durable`].
    fn mkdir_all(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
        match self.mkdir(path, mode) {
            Ok(()) => return Ok(()),
            Err(e) if e.is_already_exists() && self.stat(path)?.is_dir() => return Ok(()),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        match path.parent() {
            Some(parent) if !parent.as_str().is_empty() => self.mkdir_all(parent, mode)?,
            _ => {}
        }
        match self.mkdir(path, mode) {
            Err(e) if e.is_already_exists() && self.stat(path)?.is_dir() => Ok(()),
            other => other,
        }
    }
}
