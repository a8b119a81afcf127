//! The testkit's own tests: a file a thing.

mod cluster;
mod ssh;
