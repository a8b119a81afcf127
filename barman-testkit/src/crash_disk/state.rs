//! What a [`super::CrashDisk`] holds: for every file and directory what programs see and what a power loss leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use camino::{Utf8Component, Utf8Path};

use barman_core::io::{FileKind, Stat};
use barman_core::model::FileTime;

pub(super) const ROOT: u64 = 1;

pub(super) const ENOENT: i32 = 2;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EISDIR: i32 = 21;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOTEMPTY: i32 = 39;
pub(super) const ELOOP: i32 = 40;
pub(super) const EPERM: i32 = 1;

pub(super) fn errno<T>(code: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(code))
}

#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) mtime: FileTime,
}

#[derive(Clone)]
pub(super) enum Body {
    File {
        /// What programs read.
        seen: Vec<u8>,
        /// What was on the platter at the last good fsync.
        durable: Vec<u8>,
        /// An fsync failed: the kernel dropped the dirty pages, and later fsyncs succeed without writing them.
        poisoned: bool,
    },
    Dir {
        seen: BTreeMap<String, u64>,
        durable: BTreeMap<String, u64>,
    },
    Symlink(String),
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) meta: Meta,
    pub(super) durable_meta: Meta,
}

/// A change of a directory that was not fsynced yet.
#[derive(Clone)]
pub(super) struct Half {
    pub(super) dir: u64,
    pub(super) name: String,
    /// The inode that gets the name, or the one that loses it.
    pub(super) inode: u64,
    pub(super) add: bool,
    /// The halves of one rename share the number.
    pub(super) step: u64,
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) pending: Vec<Half>,
    pub(super) ops: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) fail_at: Option<(u64, i32)>,
    pub(super) syncs: u64,
    pub(super) lie_at: Option<u64>,
    pub(super) crashed: bool,
    pub(super) log: Vec<String>,
}

/// Where a path leads: the directory, the name in it, and what has it.
pub(super) struct Place {
    pub(super) dir: u64,
    pub(super) name: String,
    pub(super) inode: Option<u64>,
}

impl State {
    pub(super) fn new() -> Self {
        let root = Node {
            body: Body::Dir { seen: BTreeMap::new(), durable: BTreeMap::new() },
            meta: Meta { mode: 0o755, mtime: FileTime::default() },
            durable_meta: Meta { mode: 0o755, mtime: FileTime::default() },
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            pending: Vec::new(),
            ops: 0,
            crash_at: None,
            fail_at: None,
            syncs: 0,
            lie_at: None,
            crashed: false,
            log: Vec::new(),
        }
    }

    fn now(&self) -> FileTime {
        FileTime { seconds: 1_700_000_000 + self.ops.cast_signed(), nanos: 0 }
    }

    pub(super) fn node(&self, inode: u64) -> io::Result<&Node> {
        self.nodes.get(&inode).map_or_else(|| errno(ENOENT), Ok)
    }

    pub(super) fn node_mut(&mut self, inode: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&inode).map_or_else(|| errno(ENOENT), Ok)
    }

    pub(super) fn entries(&self, dir: u64) -> io::Result<&BTreeMap<String, u64>> {
        match &self.node(dir)?.body {
            Body::Dir { seen, .. } => Ok(seen),
            _ => errno(ENOTDIR),
        }
    }

    /// Follows a path. The last component need not exist; a link there is followed only when asked.
    pub(super) fn resolve(&self, path: &Utf8Path, follow: bool) -> io::Result<Place> {
        self.resolve_from(vec![ROOT], path, follow, 0)
    }

    fn resolve_from(
        &self,
        mut way: Vec<u64>,
        path: &Utf8Path,
        follow: bool,
        depth: u32,
    ) -> io::Result<Place> {
        if depth > 40 {
            return errno(ELOOP);
        }
        if path.is_absolute() {
            way.truncate(1);
        }
        let parts: Vec<_> = path
            .components()
            .filter(|c| matches!(c, Utf8Component::Normal(_) | Utf8Component::ParentDir))
            .collect();
        for (at, part) in parts.iter().enumerate() {
            let dir = way.last().copied().unwrap_or(ROOT);
            let last = at + 1 == parts.len();
            let Utf8Component::Normal(name) = part else {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            };
            let inode = self.entries(dir)?.get(*name).copied();
            let link = match inode.map(|i| self.node(i)).transpose()?.map(|n| &n.body) {
                Some(Body::Symlink(target)) if !last || follow => Some(target),
                None if !last => return errno(ENOENT),
                _ => None,
            };
            if let Some(target) = link {
                let rest: camino::Utf8PathBuf = parts[at + 1..].iter().map(|c| c.as_str()).collect();
                return self.resolve_from(way, &Utf8Path::new(target).join(rest), follow, depth + 1);
            }
            if last {
                return Ok(Place { dir, name: (*name).to_owned(), inode });
            }
            way.extend(inode);
        }
        let here = way.last().copied().unwrap_or(ROOT);
        Ok(Place { dir: here, name: String::new(), inode: Some(here) })
    }

    pub(super) fn existing(&self, path: &Utf8Path, follow: bool) -> io::Result<u64> {
        self.resolve(path, follow)?.inode.map_or_else(|| errno(ENOENT), Ok)
    }

    pub(super) fn stat(&self, inode: u64) -> io::Result<Stat> {
        let node = self.node(inode)?;
        let (kind, size) = match &node.body {
            Body::File { seen, .. } => (FileKind::File, seen.len() as u64),
            Body::Dir { .. } => (FileKind::Directory, 4096),
            Body::Symlink(target) => (FileKind::Symlink, target.len() as u64),
        };
        let names = self.nodes.values().filter_map(|n| match &n.body {
            Body::Dir { seen, .. } => Some(seen.values().filter(|i| **i == inode).count() as u64),
            _ => None,
        });
        Ok(Stat {
            kind,
            size,
            allocated: size.next_multiple_of(512),
            mtime: node.meta.mtime,
            ctime: node.meta.mtime,
            mode: node.meta.mode,
            uid: 0,
            gid: 0,
            dev: 1,
            inode,
            nlink: names.sum(),
        })
    }

    /// Puts a new node under a free name.
    pub(super) fn make(&mut self, path: &Utf8Path, body: Body, mode: u32) -> io::Result<u64> {
        self.make_at(self.resolve(path, false)?, body, mode)
    }

    pub(super) fn make_at(&mut self, place: Place, body: Body, mode: u32) -> io::Result<u64> {
        if place.inode.is_some() {
            return errno(EEXIST);
        }
        let inode = self.nodes.keys().next_back().map_or(ROOT, |last| last + 1);
        let meta = Meta { mode, mtime: self.now() };
        self.nodes.insert(inode, Node { body, durable_meta: meta.clone(), meta });
        let step = self.ops;
        self.half(place.dir, &place.name, inode, true, step)?;
        Ok(inode)
    }

    /// Changes what programs see of a directory, and remembers that it is not durable.
    pub(super) fn half(&mut self, dir: u64, name: &str, inode: u64, add: bool, step: u64) -> io::Result<()> {
        let Body::Dir { seen, .. } = &mut self.node_mut(dir)?.body else { return errno(ENOTDIR) };
        if add {
            seen.insert(name.to_owned(), inode);
        } else {
            seen.remove(name);
        }
        self.pending.push(Half { dir, name: name.to_owned(), inode, add, step });
        Ok(())
    }

    /// Whether a directory is another one, or lies somewhere below it.
    fn lies_within(&self, dir: u64, above: u64) -> bool {
        let inside = |inode: &u64| self.lies_within(dir, *inode);
        dir == above || self.entries(above).is_ok_and(|entries| entries.values().any(inside))
    }

    pub(super) fn rename(&mut self, from: &Utf8Path, to: &Utf8Path, replace: bool) -> io::Result<()> {
        let (old, new) = (self.resolve(from, false)?, self.resolve(to, false)?);
        let Some(inode) = old.inode else { return errno(ENOENT) };
        if new.inode.is_some() && !replace {
            return errno(EEXIST);
        }
        if self.lies_within(new.dir, inode) {
            return errno(EINVAL);
        }
        if let Some(there) = new.inode {
            if self.lies_within(old.dir, there) {
                return errno(ENOTEMPTY);
            }
            if there == inode {
                return Ok(());
            }
            match (&self.node(inode)?.body, &self.node(there)?.body) {
                (Body::Dir { .. }, Body::Dir { seen, .. }) if !seen.is_empty() => return errno(ENOTEMPTY),
                (Body::Dir { .. }, Body::Dir { .. }) => {}
                (Body::Dir { .. }, _) => return errno(ENOTDIR),
                (_, Body::Dir { .. }) => return errno(EISDIR),
                _ => {}
            }
        }
        let step = self.ops;
        self.half(new.dir, &new.name, inode, true, step)?;
        self.half(old.dir, &old.name, inode, false, step)
    }

    /// Whether this fsync is the one that only claims to have been done.
    pub(super) fn lies(&mut self) -> bool {
        self.syncs += 1;
        self.lie_at == Some(self.syncs - 1)
    }

    /// What a good fsync of a file does.
    pub(super) fn sync_file(&mut self, inode: u64, all: bool) -> io::Result<()> {
        let node = self.node_mut(inode)?;
        if let Body::File { seen, durable, poisoned: false } = &mut node.body {
            durable.clone_from(seen);
        }
        if all {
            node.durable_meta = node.meta.clone();
        }
        Ok(())
    }

    /// What a good fsync of a directory does. No file system loses a file in a rename, so making the removal of the old
    /// name durable makes the new name durable too.
    pub(super) fn sync_dir(&mut self, dir: u64) -> io::Result<()> {
        let Body::Dir { seen, durable } = &mut self.node_mut(dir)?.body else { return errno(ENOTDIR) };
        durable.clone_from(seen);
        let removed: BTreeSet<u64> =
            self.pending.iter().filter(|h| h.dir == dir && !h.add).map(|h| h.step).collect();
        self.pending.retain(|h| h.dir != dir);
        while let Some(at) = self.pending.iter().position(|h| h.add && removed.contains(&h.step)) {
            let half = self.pending[at].clone();
            if let Body::Dir { durable, .. } = &mut self.node_mut(half.dir)?.body {
                durable.insert(half.name.clone(), half.inode);
            }
            let mut seen = 0;
            self.pending.retain(|h| {
                let earlier = seen <= at && h.dir == half.dir && h.name == half.name;
                seen += 1;
                !earlier
            });
        }
        Ok(())
    }

    pub(super) fn write(&mut self, inode: u64, at: usize, bytes: &[u8]) -> io::Result<()> {
        let now = self.now();
        let node = self.node_mut(inode)?;
        let Body::File { seen, .. } = &mut node.body else { return errno(EINVAL) };
        if seen.len() < at + bytes.len() {
            seen.resize(at + bytes.len(), 0);
        }
        seen[at..at + bytes.len()].copy_from_slice(bytes);
        node.meta.mtime = now;
        Ok(())
    }
}
