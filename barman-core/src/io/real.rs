//! [`RealDisk`]: the file system of the kernel.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::model::FileTime;

use super::error::NotUtf8;
use super::{DirItem, Disk, DiskFile, FileKind, IoContext, IoError, SourceFile, Space, Stat, WriteWatch};

/// The file system of the kernel. It has no state.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

struct RealFile {
    path: Utf8PathBuf,
    file: File,
}

fn kind_of(kind: std::fs::FileType) -> FileKind {
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    }
}

fn stat_of(meta: &std::fs::Metadata) -> Stat {
    Stat {
        kind: kind_of(meta.file_type()),
        size: meta.size(),
        allocated: meta.blocks().saturating_mul(512),
        // st_mtime_nsec is 0 … 999,999,999.
        mtime: FileTime { seconds: meta.mtime(), nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0) },
        ctime: FileTime { seconds: meta.ctime(), nanos: u32::try_from(meta.ctime_nsec()).unwrap_or(0) },
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        dev: meta.dev(),
        inode: meta.ino(),
        nlink: meta.nlink(),
    }
}

fn only_mtime(mtime: FileTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}

fn mode_bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

fn wrong_kind() -> io::Error {
    io::Error::new(io::ErrorKind::IsADirectory, "it is not a regular file")
}

impl RealFile {
    fn open(path: &Utf8Path, verb: &'static str, options: &OpenOptions) -> Result<Self, IoError> {
        let file = options.open(path).context(verb, path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn stat(&self) -> Result<Stat, IoError> {
        Ok(stat_of(&self.file.metadata().context("stat", &self.path)?))
    }
}

impl Read for RealFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Write for RealFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for RealFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

impl SourceFile for RealFile {
    fn path(&self) -> &Utf8Path {
        &self.path
    }

    fn stat(&self) -> Result<Stat, IoError> {
        self.stat()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(IoError::new("read", &self.path, e)),
            }
        }
        Ok(done)
    }
}

impl DiskFile for RealFile {
    fn path(&self) -> &Utf8Path {
        &self.path
    }

    fn stat(&self) -> Result<Stat, IoError> {
        self.stat()
    }

    fn set_len(&mut self, len: u64) -> Result<(), IoError> {
        self.file.set_len(len).context("set the length of", &self.path)
    }

    fn allocate(&mut self, len: u64) -> Result<(), IoError> {
        use rustix::fs::FallocateFlags;
        use rustix::io::Errno;

        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // A file system that cannot reserve (NFS before 4.2).
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.len()? < len => self.set_len(len),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => other.context("reserve room for", &self.path),
        }
    }

    fn set_mode(&mut self, mode: u32) -> Result<(), IoError> {
        rustix::fs::fchmod(&self.file, mode_bits(mode)).context("change the mode of", &self.path)
    }

    fn set_mtime(&mut self, mtime: FileTime) -> Result<(), IoError> {
        rustix::fs::futimens(&self.file, &only_mtime(mtime)).context("set the time of", &self.path)
    }

    fn release(&self, offset: u64, len: u64) {
        // Linux begins to write dirty pages of the range and drops clean ones (mm/fadvise.c, generic_fadvise). Where the file
        // system does not know it, nothing is lost.
        if let Some(len) = NonZeroU64::new(len) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(len), Advice::DontNeed);
        }
    }

    fn sync_data(&mut self) -> Result<(), IoError> {
        self.file.sync_data().context("fsync", &self.path)
    }

    fn sync_all(&mut self) -> Result<(), IoError> {
        self.file.sync_all().context("fsync", &self.path)
    }
}

fn open_dir(path: &Utf8Path) -> Result<OwnedFd, IoError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path.as_std_path(), flags, Mode::empty()).context("open the directory", path)
}

/// Since Linux 5.8 syncfs reports errors of writeback that happened since the descriptor was opened (syncfs(2)).
pub(super) fn syncfs_tells_of_errors(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 8)
}

/// The descriptor remembers which errors were there when it was opened.
struct RealWatch {
    dir: Utf8PathBuf,
    fd: OwnedFd,
}

impl WriteWatch for RealWatch {
    fn sync(self: Box<Self>) -> Result<(), IoError> {
        rustix::fs::syncfs(&self.fd).context("sync the file system of", &self.dir)
    }
}

/// What [`Disk::rename_noreplace`] does where the file system knows no RENAME_NOREPLACE.
fn link_then_unlink(from: &Utf8Path, to: &Utf8Path) -> Result<(), Errno> {
    rustix::fs::link(from.as_std_path(), to.as_std_path())?;
    rustix::fs::unlink(from.as_std_path())
}

impl Disk for RealDisk {
    fn open_read(&self, path: &Utf8Path) -> Result<Box<dyn SourceFile>, IoError> {
        // O_NONBLOCK: opening a FIFO for reading would otherwise wait for a writer for ever.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = RealFile::open(path, "open", OpenOptions::new().read(true).custom_flags(flags))?;
        if !file.stat()?.is_file() {
            return Err(IoError::new("open", path, wrong_kind()));
        }
        Ok(Box::new(file))
    }

    fn create_new(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        Ok(Box::new(RealFile::open(path, "create", OpenOptions::new().write(true).create_new(true))?))
    }

    fn append(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        Ok(Box::new(RealFile::open(
            path,
            "open for appending",
            OpenOptions::new().append(true).create(true),
        )?))
    }

    fn open_write(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let options = OpenOptions::new().write(true).custom_flags(flags).to_owned();
        let file = RealFile::open(path, "open for writing", &options)?;
        if !file.stat()?.is_file() {
            return Err(IoError::new("open for writing", path, wrong_kind()));
        }
        Ok(Box::new(file))
    }

    fn rename_noreplace(&self, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError> {
        let (old, new) = (from.as_std_path(), to.as_std_path());
        let renamed = match rustix::fs::renameat_with(CWD, old, CWD, new, RenameFlags::NOREPLACE) {
            Err(refused @ (Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => {
                // Directories cannot be linked: then the first answer is the one that explains.
                link_then_unlink(from, to).map_err(|e| if e == Errno::PERM { refused } else { e })
            }
            other => other,
        };
        renamed.context_to("rename", from, to)
    }

    fn replace(&self, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::rename(from.as_std_path(), to.as_std_path()).context_to("rename", from, to)
    }

    fn link(&self, existing: &Utf8Path, new: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::linkat(CWD, existing.as_std_path(), CWD, new.as_std_path(), AtFlags::empty())
            .context_to("link", existing, new)
    }

    fn symlink(&self, target: &Utf8Path, link: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::symlink(target.as_std_path(), link.as_std_path()).context("make the symbolic link", link)
    }

    fn unlink(&self, path: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::unlink(path.as_std_path()).context("remove", path)
    }

    fn mkdir(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
        rustix::fs::mkdir(path.as_std_path(), mode_bits(mode)).context("create the directory", path)
    }

    fn rmdir(&self, path: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::rmdir(path.as_std_path()).context("remove the directory", path)
    }

    fn sync_dir(&self, path: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::fsync(open_dir(path)?).context("fsync the directory", path)
    }

    fn syncfs(&self, dir: &Utf8Path) -> Result<(), IoError> {
        rustix::fs::syncfs(open_dir(dir)?).context("sync the file system of", dir)
    }

    fn sync_file(&self, path: &Utf8Path) -> Result<(), IoError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path.as_std_path(), flags, Mode::empty()).context("open", path)?;
        rustix::fs::fsync(file).context("fsync", path)
    }

    fn watch_writes<'d>(&'d self, dir: &Utf8Path) -> Result<Option<Box<dyn WriteWatch + 'd>>, IoError> {
        if !syncfs_tells_of_errors(&rustix::system::uname().release().to_string_lossy()) {
            return Ok(None);
        }
        Ok(Some(Box::new(RealWatch { dir: dir.to_owned(), fd: open_dir(dir)? })))
    }

    fn stat(&self, path: &Utf8Path) -> Result<Stat, IoError> {
        Ok(stat_of(&std::fs::metadata(path).context("stat", path)?))
    }

    fn lstat(&self, path: &Utf8Path) -> Result<Stat, IoError> {
        Ok(stat_of(&std::fs::symlink_metadata(path).context("stat", path)?))
    }

    fn list(&self, dir: &Utf8Path, each: &mut dyn FnMut(DirItem) -> ControlFlow<()>) -> Result<(), IoError> {
        let mut odd = None;
        for found in std::fs::read_dir(dir).context("list", dir)? {
            let found = found.context("list", dir)?;
            let kind = match found.file_type() {
                Ok(kind) => kind_of(kind),
                // Gone between the listing and the look at its type, on file systems without d_type.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(IoError::new("list", dir, e)),
            };
            match found.file_name().into_string() {
                Ok(name) => {
                    if each(DirItem { name, kind, inode: found.ino() }).is_break() {
                        return Ok(());
                    }
                }
                Err(name) => odd = Some(name),
            }
        }
        match odd {
            None => Ok(()),
            Some(name) => {
                let reason = io::Error::new(io::ErrorKind::InvalidFilename, NotUtf8(name));
                Err(IoError::new("read every name in", dir, reason))
            }
        }
    }

    fn read_link(&self, path: &Utf8Path) -> Result<Utf8PathBuf, IoError> {
        let target = std::fs::read_link(path).context("read the link", path)?;
        Utf8PathBuf::from_path_buf(target).map_err(|target| {
            let reason = io::Error::new(io::ErrorKind::InvalidFilename, NotUtf8(target.into_os_string()));
            IoError::new("read the link", path, reason)
        })
    }

    fn space(&self, path: &Utf8Path) -> Result<Space, IoError> {
        let fs = rustix::fs::statvfs(path.as_std_path()).context("read the free space of", path)?;
        Ok(Space {
            total: fs.f_blocks.saturating_mul(fs.f_frsize),
            available: fs.f_bavail.saturating_mul(fs.f_frsize),
        })
    }

    fn set_mode(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
        rustix::fs::chmod(path.as_std_path(), mode_bits(mode)).context("change the mode of", path)
    }

    fn set_mtime(&self, path: &Utf8Path, mtime: FileTime) -> Result<(), IoError> {
        let times = only_mtime(mtime);
        rustix::fs::utimensat(CWD, path.as_std_path(), &times, AtFlags::SYMLINK_NOFOLLOW)
            .context("set the time of", path)
    }
}
