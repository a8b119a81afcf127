//! Backup and point-in-time recovery for PostgreSQL.
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
