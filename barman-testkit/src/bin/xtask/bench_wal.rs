//! `archive-wal` of many segments, by codec, against the codec's own program on every core and against Barman.

use std::process::Command;

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentName, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::os::TestDir;
use barman_testkit::{Error, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::backup::Home;
use super::measure::{Rival, Row, compare};
use super::{Options, shell};

/// Method, level as configured, and the program with the same level.
const CODECS: [(&str, &str, &str); 7] = [
    ("none", "low", "cat"),
    ("lz4", "low", "lz4 -1 -q -c"),
    ("zstd", "low", "zstd -1 -q -c"),
    ("zstd", "medium", "zstd -4 -q -c"),
    ("gzip", "medium", "gzip -6 -c"),
    ("bzip2", "medium", "bzip2 -5 -c"),
    ("xz", "medium", "xz -3 -c"),
];

pub(super) fn run(options: &Options, program: &Utf8Path) -> Result<Vec<Row>> {
    let material = TestDir::new("xtask-wal-")?;
    println!("making {} segments", options.segments);
    for number in 1..=options.segments {
        let number = SegmentNo::new(number);
        let bytes = synthetic::segment(
            Timeline::FIRST,
            number,
            SegmentSize::DEFAULT,
            SystemId::new(7_711_114_132_867_599_874),
            PgVersion::new(150_000),
        );
        let name = SegmentName::new(Timeline::FIRST, number, SegmentSize::DEFAULT).to_string();
        let path = material.path().join(name);
        std::fs::write(&path, bytes).map_err(|source| Error::Io { verb: "write", path, source })?;
    }
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut rows = Vec::new();
    for (method, level, filter) in CODECS {
        let mut homes = vec![Home::new(program, false)?];
        if options.oracle {
            homes.push(Home::new(program, true)?);
        }
        for home in &mut homes {
            let server =
                home.world.server("main").conninfo("host=/nowhere user=postgres").option("archiver", "on");
            let server = server.option("backup_method", "local-rsync");
            if method != "none" {
                server.option("compression", method).option("compression_level", level);
            }
            home.world.account().own_tree(material.path())?;
        }
        // The slowest codecs take as long with a fifth of them.
        let slow = matches!(method, "bzip2" | "xz");
        let count = if slow { options.segments.div_ceil(5) } else { options.segments };
        let from = material.path().to_owned();
        let bare = || {
            // As many processes as cores, each given many segments.
            let line = format!(
                "ls {from} | head -n {count} | xargs -P {cores} -I X sh -c '{filter} <{from}/X >/dev/null'"
            );
            let mut command = Command::new("sh");
            command.args(["-c", &line]);
            Ok(command)
        };
        let archive = |home: &'_ Home| home.command(&["archive-wal", "main"]);
        let deliver = |home: &'_ Home| deliver(home, material.path(), count);
        let mut rivals = vec![
            Rival::new("ours", || archive(&homes[0])).before(|| deliver(&homes[0])),
            Rival::new(
                format!("{} on {cores} cores, no file written", filter.split(" -q").next().unwrap_or(filter)),
                bare,
            ),
        ];
        if let Some(barman) = homes.get(1) {
            rivals.push(Rival::new("barman 3.19.1", || archive(barman)).before(|| deliver(barman)));
        }
        let work = format!("archive-wal of {count} segments, {method} {level}");
        rows.extend(compare(&work, options.rounds, &rivals));
    }
    Ok(rows)
}

/// Puts the first segments into incoming, as links, and empties the archive.
fn deliver(home: &Home, material: &Utf8Path, count: u64) -> Result<()> {
    let incoming: Utf8PathBuf = home.world.incoming("main");
    let server = home.world.home().join("main");
    shell(&format!(
        "rm -rf {server}/wals {server}/*xlog.db {incoming}; mkdir -p {incoming} && cd {material} && \
         cp -l $(ls | head -n {count}) {incoming}/"
    ))?;
    for path in [server.clone(), incoming] {
        home.world.account().own(&path)?;
    }
    Ok(())
}
