//! Base backups over the replication protocol, plain and packed, against `pg_basebackup` and Barman, and what it takes to
//! restore the packed ones.

use std::process::Command;

use barman_testkit::pg::{self, Cluster};
use barman_testkit::{Error, Result};
use camino::Utf8Path;

use super::Options;
use super::backup::{Home, archive_into, cluster};
use super::measure::{Rival, Row, compare};

pub(super) fn run(options: &Options, program: &Utf8Path) -> Result<Vec<Row>> {
    let cluster = cluster(options)?;
    let tool = pg::tool(cluster.major(), "pg_basebackup").ok_or_else(|| Error::Missing {
        what: "pg_basebackup".into(),
        hint: "install PostgreSQL's own packages".into(),
    })?;
    let ours = Home::new(program, false)?;
    let barman = if options.oracle { Some(Home::new(program, true)?) } else { None };
    let mut homes: Vec<Home> = [Some(ours), barman].into_iter().flatten().collect();
    let mut rows = Vec::new();
    for (compression, work) in [
        ("", "base backup, plain"),
        ("none", "base backup, tar"),
        ("lz4", "base backup, tar, lz4"),
        ("zstd", "base backup, tar, zstd -3"),
        ("gzip", "base backup, tar, gzip -6"),
    ] {
        for home in &mut homes {
            let server = home
                .world
                .server("main")
                .conninfo(cluster.conninfo())
                .option("streaming_conninfo", cluster.conninfo())
                .option("backup_method", "postgres")
                .option("path_prefix", tool.parent().unwrap_or(&tool).as_str())
                .option("archiver", "on")
                .option("immediate_checkpoint", "true");
            let level = match compression {
                "zstd" => Some("3"),
                "gzip" => Some("6"),
                _ => None,
            };
            let server = if compression.is_empty() {
                server
            } else {
                server.option("backup_compression", compression)
            };
            if let Some(level) = level {
                server.option("backup_compression_level", level);
            }
            home.run(&["list-servers"])?;
        }
        archive_into(&cluster, &homes)?;
        for home in &homes {
            home.run(&["backup", "main"])?;
            home.forget_newest()?;
        }
        let target = homes[0].world.path().join("pg_basebackup");
        let full = |home: &'_ Home| home.command(&["backup", "main"]);
        let peer = || Ok(pg_basebackup(&homes[0], &cluster, &tool, compression, &target));
        let mut rivals = vec![
            Rival::new("ours", || full(&homes[0])).after(|| homes[0].forget_newest()),
            Rival::new("pg_basebackup", peer).after(|| homes[0].set_aside(&target)),
        ];
        rivals.extend(
            homes.get(1).map(|h| Rival::new("barman 3.19.1", || full(h)).after(|| h.forget_newest())),
        );
        rows.extend(compare(work, options.rounds, &rivals));
        if compression.is_empty() {
            continue;
        }
        for home in &homes {
            home.run(&["backup", "main"])?;
            home.run(&["archive-wal", "main"])?;
        }
        let destination = homes[0].world.path().join("restored");
        let restore = |home: &'_ Home| home.command(&["recover", "main", "latest", destination.as_str()]);
        let remove = || homes[0].set_aside(&destination);
        let mut rivals = vec![Rival::new("ours", || restore(&homes[0])).after(remove)];
        rivals.extend(homes.get(1).map(|h| Rival::new("barman 3.19.1", || restore(h)).after(remove)));
        rows.extend(compare(&format!("restore of {work}"), options.rounds, &rivals));
    }
    Ok(rows)
}

/// The same by PostgreSQL's own program, which makes it durable, too.
fn pg_basebackup(
    home: &Home,
    cluster: &Cluster,
    tool: &Utf8Path,
    compression: &str,
    target: &Utf8Path,
) -> Command {
    let mut command = home.world.command(tool);
    let conninfo = cluster.conninfo();
    command.args(["-d", &conninfo, "-D", target.as_str(), "-X", "none", "--checkpoint=fast"]);
    let packing = match compression {
        "" => return command,
        "zstd" => "client-zstd:3",
        "gzip" => "client-gzip:6",
        "lz4" => "client-lz4",
        _ => "none",
    };
    command.args(["-F", "tar", "--compress", packing]);
    command
}
