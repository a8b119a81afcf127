//! A streaming standby, made from a running primary with the backup functions of SQL and a plain copy. No backup code is under
//! test here, hence also none is used.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use camino::Utf8Path;

use super::cluster::{Cluster, write_file};
use crate::error::{Error, IoContext, Result};
use crate::os::{Account, TestDir, output};

impl Cluster {
    /// A hot standby of a running primary, streaming from it, tablespaces copied to its own temporary directory.
    ///
    /// The primary need not archive; it must not recycle WAL while this call runs.
    ///
    /// # Errors
    /// When the copy fails or the standby does not come up.
    pub fn standby_of(primary: &Cluster) -> Result<Cluster> {
        let account = primary.account().clone();
        let dir = TestDir::in_memory("btk-sb-")?;
        let pgdata = dir.path().join("data");
        let modern = primary.major() >= 15;

        let mut session = primary.connect()?;
        session.query(if modern {
            "SELECT pg_backup_start('barman-testkit', true)"
        } else {
            "SELECT pg_start_backup('barman-testkit', true, false)"
        })?;
        copy(&account, primary.pgdata(), &pgdata)?;
        relocate_tablespaces(&account, &dir, &pgdata)?;
        let label = session.psql(if modern {
            "SELECT labelfile FROM pg_backup_stop(false)"
        } else {
            "SELECT labelfile FROM pg_stop_backup(false, false)"
        })?;

        for name in ["postmaster.pid", "postmaster.opts"] {
            let path = pgdata.join(name);
            if path.exists() {
                fs::remove_file(&path).context("remove", &path)?;
            }
        }
        // The last line end was eaten by the form of psql's output.
        write_file(&account, &pgdata.join("backup_label"), format!("{label}\n").as_bytes(), 0o600)?;
        let source = format!(
            "primary_conninfo = 'host={} port={} user=postgres application_name=standby'\n",
            primary.socket_dir(),
            primary.port()
        );
        if primary.major() >= 12 {
            let path = pgdata.join("postgresql.auto.conf");
            let own = fs::read_to_string(&path).context("read", &path)?;
            write_file(&account, &path, format!("{own}{source}").as_bytes(), 0o600)?;
            write_file(&account, &pgdata.join("standby.signal"), b"", 0o600)?;
        } else {
            let text = format!("standby_mode = 'on'\nrecovery_target_timeline = 'latest'\n{source}");
            write_file(&account, &pgdata.join("recovery.conf"), text.as_bytes(), 0o600)?;
        }
        let mut standby =
            Cluster::assemble(primary.install().clone(), account, dir, pgdata, Vec::new(), Vec::new())?;
        standby.first_start()?;
        Ok(standby)
    }

    /// Waits until this standby has replayed all that the primary has written up to now.
    ///
    /// # Errors
    /// When it has not within a minute.
    pub fn catch_up(&self, primary: &Cluster) -> Result<()> {
        let lsn = primary.psql("SELECT pg_current_wal_lsn()")?;
        self.poll(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t")
    }
}

fn copy(account: &Account, from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let mut command: Command = account.command("cp");
    command.args(["-a", "--reflink=auto", from.as_str(), to.as_str()]);
    let output = output(&mut command)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // A running server drops files under the copy; replay does not miss them.
    let harmless = stderr.lines().all(|line| line.contains("No such file or directory"));
    if output.status.success() || (harmless && !stderr.is_empty()) {
        return Ok(());
    }
    Err(Error::Program {
        program: format!("cp -a {from} {to}"),
        status: output.status,
        output: stderr.into_owned(),
    })
}

fn relocate_tablespaces(account: &Account, dir: &TestDir, pgdata: &Utf8Path) -> Result<()> {
    let links = pgdata.join("pg_tblspc");
    for entry in links.read_dir_utf8().context("list", &links)? {
        let link = entry.context("list", &links)?.into_path();
        let Ok(target) = link.read_link_utf8() else { continue };
        let name = target.file_name().unwrap_or("tablespace");
        let own = dir.subdir("tblspc")?.join(name);
        copy(account, &target, &own)?;
        fs::remove_file(&link).context("remove", &link)?;
        symlink(&own, &link).context("create", &link)?;
        account.own(&link)?;
    }
    Ok(())
}
