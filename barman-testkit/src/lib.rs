//! Real PostgreSQL and SSH servers, hermetic worlds and scripted fakes for testing what is built on `barman-core`.
//!
//! Nothing here belongs into a program: these are the tools of its tests, its examples and its benches.
//!
//! | module | gives |
//! |---|---|
//! | [`pg`] | [`pg::Cluster`]: a throw-away PostgreSQL of majors 10 to 18, its restored twin, a standby, checks of its pages and indexes |
//! | [`ssh`] | [`ssh::Sshd`]: a real OpenSSH server on loopback, with keys of its own |
//! | [`crash_disk`] | [`crash_disk::CrashDisk`]: a disk in memory that loses what was not fsynced, and the loop over every moment of a crash |
//! | [`conformance`] | what every implementation of the library's traits must do, to run against your own |
//! | [`world`] | [`world::World`]: a temporary home and configuration, and the `barman` command in it |
//! | [`oracle`] | the original Barman as a black box |
//! | [`clock`] | [`clock::StepClock`]: time that moves only when told |
//! | [`fake_pg`] | [`fake_pg::FakePg`]: a scripted PostgreSQL that cuts, delays, refuses, and fails on what it does not expect |
//! | [`fake_ssh`] | [`fake_ssh::FakeSsh`]: a scripted SSH server with faults |
//! | [`proxy`] | [`proxy::Proxy`]: a TCP proxy whose wire can be cut, stalled and slowed down |
//! | [`os`] | the account the servers run as, temporary directories it can read, reserved TCP ports |
//! | [`fetch`] | the cache of server binaries and its downloads (`cargo xtask setup`) |
//!
//! # One operating system account
//!
//! PostgreSQL refuses to run as root, and so does `initdb`. When the tests run as root (as in most containers), every server
//! of this crate, the PostgreSQL clusters and sshd alike, runs as one unprivileged account ([`os::Account::for_servers`]),
//! and so do the programs started by the harness. Files that PostgreSQL wrote, files that Barman restored and logins over SSH
//! therefore all belong to the same account, as on a machine where Barman and PostgreSQL share the user `postgres`. Code under test that
//! runs *inside* the test process stays root, may read everything, and writes files that belong to root;
//! [`pg::Cluster::open_restored`] hands a restored directory over to the account before it starts a server there.
//! When the tests run as an ordinary user, everything is that user's.
//!
//! # Environment variables
//!
//! | variable | effect |
//! |---|---|
//! | `BARMAN_TESTKIT_CACHE` | where binaries, templates and oracles are kept (default: `/var/cache/barman-testkit` for root, else `~/.cache/barman-testkit`) |
//! | `BARMAN_TESTKIT_TMP` | parent of all temporary directories (default: the system's) |
//! | `BARMAN_TESTKIT_USER` | the account for servers when the tests run as root (default: `postgres`, else `barman-testkit`, created when missing) |
//! | `BARMAN_TESTKIT_KEEP` | set: temporary directories stay and their path is printed |
//! | `BARMAN_TESTKIT_REQUIRE_ALL` | `1`: a missing server binary or tool fails the test instead of skipping it |

#![allow(
    clippy::disallowed_methods,
    reason = "this crate drives real processes for tests: it is the outside world, with its clock, its environment and its files"
)]

pub mod clock;
pub mod conformance;
pub mod crash_disk;
mod daemon;
pub mod error;
pub mod fake_pg;
pub mod fake_ssh;
pub mod fetch;
pub mod oracle;
pub mod os;
mod pattern;
pub mod pg;
pub mod proxy;
pub mod ssh;
pub mod world;

pub use error::{Error, Result};

/// Whether a missing prerequisite must fail the test (`BARMAN_TESTKIT_REQUIRE_ALL=1`, set by `cargo xtask test`).
pub fn require_all() -> bool {
    std::env::var("BARMAN_TESTKIT_REQUIRE_ALL").is_ok_and(|v| v == "1")
}

/// Says in the test's output that something was not tested, or fails the test under [`require_all`].
///
/// # Panics
/// Under `BARMAN_TESTKIT_REQUIRE_ALL=1`: a run that promises to test everything must not skip silently.
#[allow(clippy::panic, clippy::print_stderr, reason = "this is the skip message of a test")]
pub fn skip(what: &str) {
    if require_all() {
        panic!(
            "{what}, and BARMAN_TESTKIT_REQUIRE_ALL=1 forbids to skip it; `cargo xtask setup` installs what is missing"
        );
    }
    eprintln!("SKIPPED: {what} (`cargo xtask setup` installs what is missing)");
}
