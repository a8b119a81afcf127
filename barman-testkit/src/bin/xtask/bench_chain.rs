//! Restores of chains of incremental backups, against a restore of one full backup, `pg_combinebackup` and Barman.

use barman_testkit::{Error, Result, pg};
use camino::Utf8Path;

use super::backup::{Home, archive_into, cluster_of};
use super::measure::{Rival, Row, compare};
use super::{Options, shell};

/// Backups of a chain.
const LINKS: u32 = 10;

pub(super) fn run(options: &Options, program: &Utf8Path) -> Result<Vec<Row>> {
    let cluster = cluster_of(options, &[17])?;
    let missing = |what: &str| Error::Missing { what: what.into(), hint: "run `cargo xtask setup`".into() };
    let tool = pg::tool(17, "pg_combinebackup").ok_or_else(|| missing("pg_combinebackup of 17"))?;
    cluster.psql("ALTER SYSTEM SET summarize_wal = on")?;
    cluster.psql("SELECT pg_reload_conf()")?;
    cluster.poll("SHOW summarize_wal", "on")?;
    let mut rows = Vec::new();
    for compression in ["", "zstd"] {
        let mut home = Home::new(program, false)?;
        let server = home
            .world
            .server("main")
            .conninfo(cluster.conninfo())
            .option("streaming_conninfo", cluster.conninfo())
            .option("backup_method", "postgres")
            .option("path_prefix", tool.parent().unwrap_or(&tool).as_str())
            .option("archiver", "on")
            .option("immediate_checkpoint", "true");
        if !compression.is_empty() {
            server.option("backup_compression", compression);
        }
        home.run(&["list-servers"])?;
        archive_into(&cluster, std::slice::from_ref(&home))?;
        home.run(&["backup", "--name", "full", "main"])?;
        for link in 1..LINKS {
            // About one page of a hundred: a page has seven rows.
            for table in 0..4 {
                let update = format!("UPDATE big_{table} SET id = id WHERE id % 700 = {link}");
                cluster.psql(&update)?;
            }
            shell("sleep 1.1")?;
            home.run(&["backup", "--incremental", "latest", "main"])?;
        }
        home.run(&["archive-wal", "main"])?;
        let place = home.world.path().join("restored");
        let base = home.world.home().join("main/base");
        let restore = |what: &'static str| {
            let (home, place) = (&home, &place);
            move || home.command(&["recover", "main", what, place.as_str()])
        };
        let remove = || home.set_aside(&place);
        let mut rivals = vec![
            Rival::new("ours", restore("latest")).after(remove),
            Rival::new("ours, the full one alone", restore("full")).after(remove),
        ];
        if compression.is_empty() {
            rivals.push(
                Rival::new("pg_combinebackup", || {
                    let mut command = home.world.command("sh");
                    let line = format!("{tool} -o {place} $(ls -d {base}/2*/data)");
                    command.args(["-c", &line]);
                    Ok(command)
                })
                .after(remove),
            );
        }
        if options.oracle {
            let theirs = || home.world.oracle_command(&["recover", "main", "latest", place.as_str()]);
            rivals.push(Rival::new("barman 3.19.1", theirs).after(remove));
        }
        let packing = if compression.is_empty() { "plain" } else { compression };
        rows.extend(compare(&format!("restore of a chain of {LINKS}, {packing}"), options.rounds, &rivals));
    }
    Ok(rows)
}
