//! Backup and point-in-time recovery for PostgreSQL, compatible with the catalogs, configuration files and
//! behaviour of Barman.
//!
//! The crate is a house of rooms; a room uses only the rooms named before it in this file, which a test enforces.
//! Programs that embed it usually start at [`server`], the room that knows all the others; the seams where other
//! implementations can be plugged in are the traits [`catalog::Catalog`], [`wal::WalArchive`],
//! [`backup::BackupExecutor`], [`recovery::RecoveryPlanner`], [`transport::Transport`], [`codec::Compressor`],
//! [`cipher::Cipher`], [`ctx::Clock`], [`ctx::ProgressSink`] and [`io::Disk`].
//!
//! The library never prints, never reads the environment and never reads the wall clock by itself: time comes
//! from a [`ctx::Clock`], what libpq would read from the process comes in values filled by the caller.

pub mod model;
pub mod ctx;
pub mod format;
pub mod policy;
pub mod io;
pub mod config;
pub mod codec;
pub mod cipher;
pub mod pipe;
pub mod transport;
pub mod pg;
pub mod hooks;
pub mod catalog;
pub mod wal;
pub mod backup;
pub mod recovery;
pub mod server;

pub use server::{ErrorKind, ServerError as Error};
