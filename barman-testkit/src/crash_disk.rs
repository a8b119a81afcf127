//! [`CrashDisk`]: a small file system in memory that loses what was not fsynced. It is stricter than the kernel's: a
//! new file has no durable content and no durable name until both are synced, and a failed fsync drops the data for
//! good while the next one claims success, as Linux does.
//!
//! Deterministic: times come from a counter of steps, mixtures from a seed.

mod power;
mod state;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barman_core::io::{DirItem, Disk, DiskFile, IoContext, IoError, SourceFile, Space, Stat, WriteWatch};
use barman_core::model::FileTime;
use camino::{Utf8Path, Utf8PathBuf};

pub use power::{Aftermath, Survivors, assert_every_sync_matters, for_every_crash_point};
use state::{Body, EEXIST, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, State, errno};

/// The disk. Clones are handles of the same disk; [`CrashDisk::fork`] copies it.
#[derive(Clone)]
pub struct CrashDisk(Arc<Mutex<State>>);

impl Default for CrashDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CrashDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.tree().iter().map(|(path, what)| (path, what))).finish()
    }
}

impl CrashDisk {
    /// A disk with an empty root directory.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy which lives a life of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Lets `steps` more changing calls succeed; the next one fails half-way, and everything after it fails.
    pub fn crash_after(&self, steps: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.ops + steps);
    }

    /// Lets `steps` more changing calls succeed and the next one fail with an errno (28 full, 5 broken); what follows
    /// succeeds again. A write that fails has written its first half; an fsync that fails has dropped the data.
    pub fn fail_once_after(&self, steps: u64, errno: i32) {
        let mut state = self.state();
        state.fail_at = Some((state.ops + steps, errno));
    }

    /// Lets `syncs` more syncs (of files, directories or all) happen and the next one only claim success.
    pub fn pretend_sync(&self, syncs: u64) {
        let mut state = self.state();
        state.lie_at = Some(state.syncs + syncs);
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Whether the power is gone.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// How many changing calls were made.
    pub fn steps(&self) -> u64 {
        self.state().ops
    }

    /// The changing calls in order, for looking at what an operation does.
    pub fn steps_made(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// The last changing call.
    pub fn last_step(&self) -> String {
        self.state().log.last().cloned().unwrap_or_default()
    }

    /// The disk after a power loss now.
    #[must_use]
    pub fn survivors(&self, choice: Survivors) -> Self {
        Self(Arc::new(Mutex::new(power::after_power_loss(&self.state(), choice))))
    }

    /// Everything on it by path: content of files, `/` for directories, `-> target` for links.
    pub fn tree(&self) -> Vec<(Utf8PathBuf, String)> {
        fn walk(state: &State, dir: u64, at: &Utf8Path, out: &mut Vec<(Utf8PathBuf, String)>) {
            for (name, inode) in state.entries(dir).into_iter().flatten() {
                let path = at.join(name);
                match state.nodes.get(inode).map(|n| &n.body) {
                    Some(Body::Dir { .. }) => {
                        out.push((path.clone(), "/".into()));
                        walk(state, *inode, &path, out);
                    }
                    Some(Body::File { seen, .. }) => {
                        out.push((path, String::from_utf8_lossy(seen).into_owned()));
                    }
                    Some(Body::Symlink(target)) => out.push((path, format!("-> {target}"))),
                    None => {}
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.state(), state::ROOT, Utf8Path::new("/"), &mut out);
        out
    }

    /// Makes everything durable, without counting a step.
    pub fn settle(&self) {
        let mut state = self.state();
        let settled = power::after_power_loss(&state, Survivors::Maximum);
        let log = std::mem::take(&mut state.log);
        *state = State { log, ops: state.ops, syncs: state.syncs, ..settled };
    }

    fn look<T>(&self, f: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        let state = self.state();
        if state.crashed { Err(power_is_gone()) } else { f(&state) }
    }

    /// A changing call. `broken` is what is left behind when this very call fails.
    fn change<T>(
        &self,
        what: impl FnOnce() -> String,
        broken: impl FnOnce(&mut State),
        f: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.crashed {
            return Err(power_is_gone());
        }
        let step = state.ops;
        state.ops += 1;
        state.log.push(what());
        if state.crash_at.is_some_and(|at| at <= step) {
            state.crashed = true;
            broken(&mut state);
            return Err(power_is_gone());
        }
        match state.fail_at {
            Some((at, code)) if at == step => {
                broken(&mut state);
                errno(code)
            }
            _ => f(&mut state),
        }
    }

    fn change_name<T>(
        &self,
        what: impl FnOnce() -> String,
        f: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.change(what, |_| {}, f)
    }

    fn file(&self, path: &Utf8Path, inode: u64, append: bool) -> CrashFile {
        CrashFile { disk: self.clone(), path: path.to_owned(), inode, at: 0, append }
    }
}

fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}

/// An open file of a [`CrashDisk`].
struct CrashFile {
    disk: CrashDisk,
    path: Utf8PathBuf,
    inode: u64,
    at: u64,
    append: bool,
}

impl CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.look(|s| s.stat(self.inode))?.size)
    }

    fn fetch(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.look(|s| match &s.node(self.inode)?.body {
            Body::File { seen, .. } => {
                let rest = usize::try_from(at).ok().and_then(|at| seen.get(at..)).unwrap_or_default();
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            _ => errno(EISDIR),
        })
    }

    fn sync(&mut self, all: bool, verb: &'static str) -> Result<(), IoError> {
        let inode = self.inode;
        let dropped = |s: &mut State| {
            let crashed = s.crashed;
            if let Ok(Body::File { poisoned, .. }) = s.node_mut(inode).map(|n| &mut n.body) {
                // A power loss in the middle of an fsync may have written anything, an error none of it.
                *poisoned |= !crashed;
            }
        };
        let what = || format!("{verb} {}", self.path);
        self.disk
            .change(what, dropped, |s| if s.lies() { Ok(()) } else { s.sync_file(inode, all) })
            .context("fsync", &self.path)
    }
}

impl Read for CrashFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fetch(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for CrashFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.append {
            self.at = self.len()?;
        }
        let (inode, at) = (self.inode, usize::try_from(self.at).map_err(io::Error::other)?);
        let half = |s: &mut State| {
            let _ = s.write(inode, at, &buf[..buf.len() / 2]);
        };
        let what = || format!("write {} bytes to {}", buf.len(), self.path);
        self.disk.change(what, half, |s| s.write(inode, at, buf))?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for CrashFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let target = match pos {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len()?.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.map_or_else(|| errno(state::EINVAL), Ok)?;
        Ok(self.at)
    }
}

impl SourceFile for CrashFile {
    fn path(&self) -> &Utf8Path {
        &self.path
    }

    fn stat(&self) -> Result<Stat, IoError> {
        self.disk.look(|s| s.stat(self.inode)).context("stat", &self.path)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        self.fetch(buf, offset).context("read", &self.path)
    }
}

impl DiskFile for CrashFile {
    fn path(&self) -> &Utf8Path {
        &self.path
    }

    fn stat(&self) -> Result<Stat, IoError> {
        SourceFile::stat(self)
    }

    fn set_len(&mut self, len: u64) -> Result<(), IoError> {
        let what = || format!("set the length of {} to {len}", self.path);
        let set = |s: &mut State| match &mut s.node_mut(self.inode)?.body {
            Body::File { seen, .. } => {
                seen.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
                Ok(())
            }
            _ => errno(EISDIR),
        };
        self.disk.change_name(what, set).context("set the length of", &self.path)
    }

    fn set_mode(&mut self, mode: u32) -> Result<(), IoError> {
        self.disk
            .change_name(
                || format!("change the mode of {}", self.path),
                |s| {
                    s.node_mut(self.inode)?.meta.mode = mode & 0o7777;
                    Ok(())
                },
            )
            .context("change the mode of", &self.path)
    }

    fn set_mtime(&mut self, mtime: FileTime) -> Result<(), IoError> {
        self.disk
            .change_name(
                || format!("set the time of {}", self.path),
                |s| {
                    s.node_mut(self.inode)?.meta.mtime = mtime;
                    Ok(())
                },
            )
            .context("set the time of", &self.path)
    }

    fn sync_data(&mut self) -> Result<(), IoError> {
        self.sync(false, "fdatasync")
    }

    fn sync_all(&mut self) -> Result<(), IoError> {
        self.sync(true, "fsync")
    }
}

struct CrashWatch<'d> {
    disk: &'d CrashDisk,
    dir: Utf8PathBuf,
}

impl WriteWatch for CrashWatch<'_> {
    fn sync(self: Box<Self>) -> Result<(), IoError> {
        self.disk.syncfs(&self.dir)
    }
}

fn empty_file() -> Body {
    Body::File { seen: Vec::new(), durable: Vec::new(), poisoned: false }
}

fn only_files(state: &State, inode: u64) -> io::Result<()> {
    if state.stat(inode)?.is_file() { Ok(()) } else { errno(EISDIR) }
}

impl Disk for CrashDisk {
    fn open_read(&self, path: &Utf8Path) -> Result<Box<dyn SourceFile>, IoError> {
        let opened = self.look(|s| {
            let inode = s.existing(path, true)?;
            only_files(s, inode).map(|()| inode)
        });
        Ok(Box::new(self.file(path, opened.context("open", path)?, false)))
    }

    fn create_new(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        let made = self.change_name(|| format!("create {path}"), |s| s.make(path, empty_file(), 0o644));
        Ok(Box::new(self.file(path, made.context("create", path)?, false)))
    }

    fn append(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        let opened = match self.look(|s| Ok(s.resolve(path, true)?.inode)) {
            Ok(Some(inode)) => self.look(|s| only_files(s, inode).map(|()| inode)),
            // The target of a dangling link is created, as open(2) does.
            Ok(None) => self.change_name(
                || format!("create {path}"),
                |s| s.make_at(s.resolve(path, true)?, empty_file(), 0o644),
            ),
            Err(e) => Err(e),
        };
        Ok(Box::new(self.file(path, opened.context("open for appending", path)?, true)))
    }

    fn open_write(&self, path: &Utf8Path) -> Result<Box<dyn DiskFile>, IoError> {
        let opened = self.look(|s| {
            let inode = s.existing(path, true)?;
            only_files(s, inode).map(|()| inode)
        });
        Ok(Box::new(self.file(path, opened.context("open for writing", path)?, false)))
    }

    fn rename_noreplace(&self, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError> {
        let what = || format!("rename {from} to {to}, replacing nothing");
        self.change_name(what, |s| s.rename(from, to, false)).context_to("rename", from, to)
    }

    fn replace(&self, from: &Utf8Path, to: &Utf8Path) -> Result<(), IoError> {
        let what = || format!("rename {from} to {to}");
        self.change_name(what, |s| s.rename(from, to, true)).context_to("rename", from, to)
    }

    fn link(&self, existing: &Utf8Path, new: &Utf8Path) -> Result<(), IoError> {
        let linked = self.change_name(
            || format!("link {existing} to {new}"),
            |s| {
                let inode = s.existing(existing, false)?;
                let place = s.resolve(new, false)?;
                if place.inode.is_some() {
                    return errno(EEXIST);
                }
                if s.stat(inode)?.is_dir() {
                    return errno(EPERM);
                }
                let step = s.ops;
                s.half(place.dir, &place.name, inode, true, step)
            },
        );
        linked.context_to("link", existing, new)
    }

    fn symlink(&self, target: &Utf8Path, link: &Utf8Path) -> Result<(), IoError> {
        let body = Body::Symlink(target.as_str().to_owned());
        self.change_name(|| format!("symlink {link}"), |s| s.make(link, body, 0o777))
            .context("make the symbolic link", link)?;
        Ok(())
    }

    fn unlink(&self, path: &Utf8Path) -> Result<(), IoError> {
        let removed = self.change_name(
            || format!("unlink {path}"),
            |s| {
                let place = s.resolve(path, false)?;
                let Some(inode) = place.inode else { return errno(ENOENT) };
                if s.stat(inode)?.is_dir() {
                    return errno(EISDIR);
                }
                let step = s.ops;
                s.half(place.dir, &place.name, inode, false, step)
            },
        );
        removed.context("remove", path)
    }

    fn mkdir(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
        let body = Body::Dir { seen: Default::default(), durable: Default::default() };
        self.change_name(|| format!("mkdir {path}"), |s| s.make(path, body, mode & !0o022))
            .context("create the directory", path)?;
        Ok(())
    }

    fn rmdir(&self, path: &Utf8Path) -> Result<(), IoError> {
        let removed = self.change_name(
            || format!("rmdir {path}"),
            |s| {
                let place = s.resolve(path, false)?;
                let Some(inode) = place.inode else { return errno(ENOENT) };
                if !s.entries(inode)?.is_empty() {
                    return errno(ENOTEMPTY);
                }
                let step = s.ops;
                s.half(place.dir, &place.name, inode, false, step)
            },
        );
        removed.context("remove the directory", path)
    }

    fn sync_dir(&self, path: &Utf8Path) -> Result<(), IoError> {
        self.change_name(
            || format!("fsync the directory {path}"),
            |s| {
                let inode = s.existing(path, true)?;
                if s.lies() { Ok(()) } else { s.sync_dir(inode) }
            },
        )
        .context("fsync the directory", path)
    }

    fn syncfs(&self, dir: &Utf8Path) -> Result<(), IoError> {
        self.change_name(
            || format!("syncfs {dir}"),
            |s| {
                let inode = s.existing(dir, true)?;
                if !s.stat(inode)?.is_dir() {
                    return errno(ENOTDIR);
                }
                if s.lies() {
                    return Ok(());
                }
                let all: Vec<(u64, bool)> = s
                    .nodes
                    .iter()
                    .map(|(inode, node)| (*inode, matches!(node.body, Body::Dir { .. })))
                    .collect();
                for (inode, is_dir) in all {
                    s.sync_file(inode, true)?;
                    if is_dir {
                        s.sync_dir(inode)?;
                    }
                }
                Ok(())
            },
        )
        .context("sync the file system of", dir)
    }

    fn sync_file(&self, path: &Utf8Path) -> Result<(), IoError> {
        let inode = self.look(|s| s.existing(path, false)).context("open", path)?;
        self.file(path, inode, false).sync_all()
    }

    fn watch_writes<'d>(&'d self, dir: &Utf8Path) -> Result<Option<Box<dyn WriteWatch + 'd>>, IoError> {
        Disk::stat(self, dir)?;
        Ok(Some(Box::new(CrashWatch { disk: self, dir: dir.to_owned() })))
    }

    fn stat(&self, path: &Utf8Path) -> Result<Stat, IoError> {
        self.look(|s| s.stat(s.existing(path, true)?)).context("stat", path)
    }

    fn lstat(&self, path: &Utf8Path) -> Result<Stat, IoError> {
        self.look(|s| s.stat(s.existing(path, false)?)).context("stat", path)
    }

    fn list(&self, dir: &Utf8Path, each: &mut dyn FnMut(DirItem) -> ControlFlow<()>) -> Result<(), IoError> {
        let items = self.look(|s| {
            let entries = s.entries(s.existing(dir, true)?)?;
            let item = |(name, inode): (&String, &u64)| {
                Ok(DirItem { name: name.clone(), kind: s.stat(*inode)?.kind, inode: *inode })
            };
            entries.iter().map(item).collect::<io::Result<Vec<_>>>()
        });
        // Backwards, so that nobody relies on an order which the kernel does not promise.
        for item in items.context("list", dir)?.into_iter().rev() {
            if each(item).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, path: &Utf8Path) -> Result<Utf8PathBuf, IoError> {
        self.look(|s| match &s.node(s.existing(path, false)?)?.body {
            Body::Symlink(target) => Ok(target.into()),
            _ => errno(state::EINVAL),
        })
        .context("read the link", path)
    }

    fn space(&self, _path: &Utf8Path) -> Result<Space, IoError> {
        Ok(Space { total: 1 << 40, available: 1 << 39 })
    }

    fn set_mode(&self, path: &Utf8Path, mode: u32) -> Result<(), IoError> {
        self.change_name(
            || format!("change the mode of {path}"),
            |s| {
                let inode = s.existing(path, true)?;
                s.node_mut(inode)?.meta.mode = mode & 0o7777;
                Ok(())
            },
        )
        .context("change the mode of", path)
    }

    fn set_mtime(&self, path: &Utf8Path, mtime: FileTime) -> Result<(), IoError> {
        self.change_name(
            || format!("set the time of {path}"),
            |s| {
                let inode = s.existing(path, false)?;
                s.node_mut(inode)?.meta.mtime = mtime;
                Ok(())
            },
        )
        .context("set the time of", path)
    }
}
