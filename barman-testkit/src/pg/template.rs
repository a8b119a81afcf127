//! Data directories fresh from initdb, made once and copied: initdb takes a second or more, a copy some milliseconds.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use super::source::Install;
use crate::error::{Error, IoContext, Result};
use crate::fetch;
use crate::os::{Account, run};

/// What is fixed when a data directory is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) segment_mb: u32,
    pub(super) checksums: bool,
    pub(super) arguments: Vec<String>,
    /// Not a copy: a system identifier of its own.
    pub(super) fresh: bool,
}

/// Makes a data directory of that shape at `pgdata`, which must not exist.
pub(super) fn make(install: &Install, account: &Account, shape: &Shape, pgdata: &Utf8Path) -> Result<()> {
    if shape.segment_mb != 16 && install.major < 11 {
        return Err(Error::Unsupported(format!(
            "PostgreSQL {} has WAL segments of 16 MiB only, another size is chosen when it is compiled",
            install.major
        )));
    }
    if shape.fresh || !shape.arguments.is_empty() {
        return initdb(install, account, shape, pgdata);
    }
    let template = template(install, account, shape)?;
    run(account.command("cp").args(["-a", "--reflink=auto", template.as_str(), pgdata.as_str()]))?;
    Ok(())
}

fn template(install: &Install, account: &Account, shape: &Shape) -> Result<Utf8PathBuf> {
    // A directory that belongs to the account, since PostgreSQL's files must.
    let dir = fetch::cache()?.join(format!("templates-{}", account.uid));
    if !dir.is_dir() {
        fs::create_dir_all(&dir).context("create", &dir)?;
        account.own(&dir)?;
    }
    let checksums = if shape.checksums { "checksums" } else { "plain" };
    let origin = format!("{:?}", install.origin).to_lowercase();
    let name = format!("{}-{origin}-{}mb-{checksums}", install.version, shape.segment_mb);
    let whole = dir.join(&name);
    if whole.is_dir() {
        return Ok(whole);
    }
    let _lock = fetch::lock(&dir, &name)?;
    if !whole.is_dir() {
        let tmp = dir.join(format!("{name}.tmp"));
        if tmp.exists() {
            fs::remove_dir_all(&tmp).context("remove", &tmp)?;
        }
        initdb(install, account, shape, &tmp)?;
        fs::rename(&tmp, &whole).context("rename", &whole)?;
    }
    Ok(whole)
}

fn initdb(install: &Install, account: &Account, shape: &Shape, pgdata: &Utf8Path) -> Result<()> {
    let mut command = account.command(install.program("initdb"));
    command.args(["--pgdata", pgdata.as_str(), "--username", "postgres", "--auth", "trust"]);
    command.args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]);
    if install.major >= 11 {
        command.arg(format!("--wal-segsize={}", shape.segment_mb));
    }
    match (shape.checksums, install.major) {
        (true, _) => command.arg("--data-checksums"),
        // Checksums are the default since 18.
        (false, 18..) => command.arg("--no-data-checksums"),
        (false, _) => &mut command,
    };
    run(command.args(&shape.arguments)).map(|_| ())
}
