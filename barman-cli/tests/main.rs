//! Behaviour of the commands, a module each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests and their helpers: a failure is a failing test, and they are the outside world"
)]

mod options;
mod transfer;
mod user;
mod verifying;
mod base_backup;
mod clients;
mod delta;
mod cron;
mod encryption;
mod deleting;
mod hand_made;
mod hooks;
mod incremental;
mod kills;
mod knowing;
mod listing;
mod matrix;
mod one_home;
mod readme;
mod recovering;
mod restore_options;
mod scene;
mod streaming;
mod wal_commands;
mod walk;
mod wrong_input;
