//! What every implementation of the traits of `barman-core` must do, whoever wrote it.
//!
//! Each function runs a whole suite against one implementation and panics where it breaks a promise of the trait's
//! documentation; call it from a test. The implementations of `barman-core` itself are held to the same suites.
//!
//! ```
//! use barman_core::codec::{Level, Method, compressor};
//! use barman_testkit::conformance;
//!
//! conformance::compressor(&*compressor(Method::Zstd, Level::Medium, None).unwrap());
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a suite fails where it stands, like a test"
)]

mod catalog;
mod clock;
mod compressor;
pub mod transport;
mod wal_archive;

pub use catalog::catalog;
pub use clock::clock;
pub use compressor::compressor;
pub use transport::transport;
pub use wal_archive::{SYSTEM, wal_archive};
