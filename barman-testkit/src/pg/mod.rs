//! Throw-away PostgreSQL servers of majors 10 to 18, as real as they get.
//!
//! ```no_run
//! use barman_testkit::pg::Cluster;
//!
//! # fn main() -> barman_testkit::Result<()> {
//! let mut cluster = Cluster::builder(17).wal_segment_size_mb(1).tablespace("fast").start()?;
//! cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")?;
//! assert_eq!(cluster.psql("SELECT count(*) FROM t")?, "1000");
//! cluster.kill9()?;
//! cluster.start()?;
//! # Ok(()) }
//! ```
//!
//! A test that needs a certain major asks [`require`] first:
//!
//! ```no_run
//! # fn test() -> barman_testkit::Result<()> {
//! let Some(_) = barman_testkit::pg::require(12) else { return Ok(()) };
//! # Ok(()) }
//! ```

mod builder;
mod cluster;
mod session;
mod source;
mod standby;
mod template;
mod verify;

pub use builder::{Archive, Builder, Restored, Wait};
pub use cluster::{Cluster, StopMode};
pub use session::{Answer, Session};
pub use source::{Install, MAJORS, Origin, available, ensure, find, require, tool, tools};
pub use verify::{Verified, verify_cluster};
