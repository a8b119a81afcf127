//! The original Barman, from PyPI, as a black box: what it writes and how it answers is the reference of compatibility tests.

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{Error, Result};
use crate::fetch;
use crate::os::{self, Account};
use crate::world::Run;

/// Barman in a virtual environment of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barman {
    bindir: Utf8PathBuf,
}

impl Barman {
    /// The oracle, if it is on this machine.
    pub fn find() -> Option<Barman> {
        let name = fetch::barman_venv_name();
        fetch::cached(&format!("{name}/.complete"))?;
        fetch::cached(&name).map(|venv| Barman { bindir: venv.join("bin") })
    }

    pub(crate) fn installed() -> Result<Barman> {
        Barman::find().ok_or_else(|| Error::Missing {
            what: format!("Barman {}", fetch::BARMAN_VERSION),
            hint: "run `cargo xtask setup`".into(),
        })
    }

    /// The oracle for a test: `None`, with a visible `SKIPPED:` line, when it is not on this machine.
    ///
    /// # Panics
    /// Instead of skipping, under `BARMAN_TESTKIT_REQUIRE_ALL=1`.
    pub fn require() -> Option<Barman> {
        let barman = Barman::find();
        if barman.is_none() {
            crate::skip(&format!("Barman {} is not on this machine", fetch::BARMAN_VERSION));
        }
        barman
    }

    /// The path of its `barman` command.
    pub fn program(&self) -> Utf8PathBuf {
        self.bindir.join("barman")
    }

    /// The directory of `barman`, `barman-wal-archive`, `barman-wal-restore` and Python.
    pub fn bindir(&self) -> &Utf8Path {
        &self.bindir
    }

    /// Runs `barman -c CONFIG ARGUMENTS` as the account of the servers.
    /// [`World::oracle`](crate::world::World::oracle) does so in a world's environment.
    ///
    /// # Errors
    /// When it cannot be started. Its failure is in the [`Run`].
    pub fn run(&self, config: &Utf8Path, arguments: &[&str]) -> Result<Run> {
        let mut command = Account::for_servers()?.command(self.program());
        command
            .env("PATH", format!("{}:{}", self.bindir, os::PATH))
            .args(["-c", config.as_str()])
            .args(arguments);
        Run::of(&mut command)
    }
}
