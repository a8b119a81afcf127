//! Lanes to this host and to others: one conformance suite for all of them, and what only ssh can do wrong.

// clippy knows only functions with #[test] as tests; these files hold their helpers too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

mod local;
mod library;
mod program;
