//! The file system and everything that must not lose data on it: the door ([`Disk`]), the only functions that create,
//! rename and fsync ([`durable`]), locks, digests, free space and walks. Nothing in here knows what a backup is.

mod behind;
pub mod digest;
mod disk;
pub mod durable;
mod error;
mod lock;
mod real;
mod walk;

pub use behind::WriteBehind;
pub use disk::{DirItem, Disk, DiskFile, FileKind, SourceFile, Space, Stat, WriteWatch};
pub use error::{IoContext, IoError, IoErrorKind};
pub use lock::{Holder, LockError, LockGuard, LockName, Locks};
pub use real::RealDisk;
pub use walk::{
    FollowLink, Step, TreeSize, WalkOptions, remove_tree, require_space, sync_tree, tree_size, walk,
};

/// Reads until the buffer is full or the end is reached; gives how many bytes there are.
pub fn fill(from: &mut impl std::io::Read, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match from.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
