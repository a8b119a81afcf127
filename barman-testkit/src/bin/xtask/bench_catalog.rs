//! Commands that only look, on a large catalog made by hand: 200 backups and 100,000 archived WAL segments.

use std::fmt::Write as _;
use std::fs;

use barman_core::model::{SegmentName, SegmentNo, SegmentSize, Timeline};
use barman_testkit::{Error, Result};
use camino::Utf8Path;
use time::{Duration, OffsetDateTime};

use super::Options;
use super::backup::Home;
use super::measure::{Rival, Row, compare};

const BACKUPS: u64 = 200;
const SEGMENTS: u64 = 100_000;
/// 2026-01-01 00:00 UTC: the first backup.
const BEGIN: i64 = 1_767_225_600;

pub(super) fn run(options: &Options, program: &Utf8Path) -> Result<Vec<Row>> {
    println!("making a catalog of {BACKUPS} backups and {SEGMENTS} segments");
    let mut homes = vec![Home::new(program, false)?];
    if options.oracle {
        homes.push(Home::new(program, true)?);
    }
    for home in &mut homes {
        let server =
            home.world.server("main").conninfo("host=/nowhere user=postgres").option("archiver", "on");
        server.option("backup_method", "local-rsync").option("retention_policy", "RECOVERY WINDOW OF 7 days");
        make(home)?;
    }
    let mut rows = Vec::new();
    for (work, arguments) in [
        ("--version", vec!["--version"]),
        ("show-backup latest", vec!["show-backup", "main", "latest"]),
        // Minutes for Barman.
        ("list-backups", vec!["list-backups", "main"]),
    ] {
        let mut rivals = vec![Rival::new("ours", || homes[0].command(&arguments))];
        if let Some(barman) = homes.get(1) {
            rivals.push(Rival::new("barman 3.19.1", || barman.command(&arguments)));
        }
        rows.extend(compare(&format!("{work}, {BACKUPS} backups, {SEGMENTS} WAL"), options.rounds, &rivals));
    }
    Ok(rows)
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(Timeline::FIRST, SegmentNo::new(number), SegmentSize::DEFAULT)
}

fn make(home: &Home) -> Result<()> {
    let server = home.world.home().join("main");
    let failed = |source| Error::Io { verb: "make a catalog in", path: server.clone(), source };
    for dir in ["base", "meta", "wals", "incoming", "errors", "streaming"] {
        fs::create_dir_all(server.join(dir)).map_err(failed)?;
    }
    let mut index = String::new();
    for number in 1..=SEGMENTS {
        let text = name(number).to_string();
        let dir = server.join("wals").join(text.get(..16).unwrap_or_default());
        if number == 1 || number % 256 == 0 {
            fs::create_dir_all(&dir).map_err(failed)?;
        }
        fs::write(dir.join(&text), b"").map_err(failed)?;
        let _ = writeln!(
            index,
            "{text}\t{}\t{}.25\tgzip\tNone",
            3_000_000 + number % 997,
            BEGIN + 300 * number as i64
        );
    }
    fs::write(server.join("wals/main-xlog.db"), &index).map_err(failed)?;
    for backup in 0..BACKUPS {
        let first = 1 + backup * (SEGMENTS / BACKUPS);
        let at = OffsetDateTime::UNIX_EPOCH + Duration::seconds(BEGIN + 300 * first as i64);
        let (date, clock) = (at.date(), at.time());
        let id = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}",
            date.year(),
            u8::from(date.month()),
            date.day(),
            clock.hour(),
            clock.minute(),
            clock.second()
        );
        fs::create_dir_all(server.join("base").join(&id).join("data")).map_err(failed)?;
        fs::write(server.join(format!("meta/{id}-backup.info")), info(first, at)).map_err(failed)?;
    }
    home.world.account().own_tree(&server)
}

/// A `backup.info` as Barman 3.19.1 writes it.
fn info(first: u64, at: OffsetDateTime) -> String {
    let moment = |plus: i64| {
        let at = at + Duration::seconds(plus);
        format!("{} {:02}:{:02}:{:02}.250000+00:00", at.date(), at.hour(), at.minute(), at.second())
    };
    let lsn = |offset: u32| {
        let bytes = first * SegmentSize::DEFAULT.bytes() + u64::from(offset);
        format!("{:X}/{:X}", bytes >> 32, bytes & 0xFFFF_FFFF)
    };
    let wal = name(first);
    format!(
        "backup_label=None\nbegin_offset=40\nbegin_time={}\nbegin_wal={wal}\nbegin_xlog={}\n\
         children_backup_ids=None\ncluster_size=26300105\ncompression=None\nconfig_file=/srv/pg/data/postgresql.conf\n\
         copy_stats={{'total_time': 4.27, 'number_of_workers': 1}}\ndata_checksums=on\ndeduplicated_size=26142000\n\
         encryption=None\nend_offset=368\nend_time={}\nend_wal={wal}\nend_xlog={}\nerror=None\n\
         hba_file=/srv/pg/data/pg_hba.conf\nident_file=/srv/pg/data/pg_ident.conf\nincluded_files=None\n\
         mode=rsync-concurrent\nparent_backup_id=None\npgdata=/srv/pg/data\nserver_name=main\nsize=26142000\nstatus=DONE\n\
         summarize_wal=None\nsystemid=7711114132867599874\ntablespaces=None\ntimeline=1\nversion=150020\n\
         xlog_segment_size=16777216\n",
        moment(0),
        lsn(40),
        moment(60),
        lsn(368),
    )
}
