//! The testkit's own tests: a file a thing.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests of the outside world; their helpers fail as they do"
)]

mod cluster;
mod fake_pg;
mod fake_ssh;
mod ssh;
mod world;
