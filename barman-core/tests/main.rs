//! Behaviour of the library, a module each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests and their helpers: a failure is a failing test, and they are the outside world"
)]

mod backup_copy;
mod catalog;
mod conformance;
mod config_barman;
mod config_ini;
mod crash;
mod floor_plan;
mod import_crash;
mod pg;
mod restore_delta;
mod restore_packed;
mod transport;
mod wal_archive;
mod wal_commits;
mod wal_encryption;
mod wal_faults;
mod wal_incoming;
mod wal_page;
mod wal_receiver;
