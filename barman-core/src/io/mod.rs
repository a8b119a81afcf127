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

#[cfg(test)]
mod tests;
