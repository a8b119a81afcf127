//! The testkit's own tests: a file a thing.

#![allow(clippy::disallowed_methods, reason = "tests of the outside world")]

mod cluster;
mod fake_pg;
mod ssh;
mod world;
