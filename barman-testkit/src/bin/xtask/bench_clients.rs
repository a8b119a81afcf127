//! What runs on the PostgreSQL host, over a real sshd on loopback: sending and fetching WAL, against Barman's own clients
//! with Barman behind them; and the receiver, which must keep up.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentName, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::{Error, Result, os};
use camino::{Utf8Path, Utf8PathBuf};

use super::backup::Home;
use super::measure::{Rival, Row, compare};
use super::{Options, shell};

/// Segments that are sent or fetched in one measured loop.
const SEGMENTS: u64 = 18;

fn name(number: u64) -> String {
    SegmentName::new(Timeline::FIRST, SegmentNo::new(number), SegmentSize::DEFAULT).to_string()
}

/// A program on both sides: ours with ours, or Barman's with Barman's.
struct Side {
    home: Home,
    sshd: Sshd,
    client: Utf8PathBuf,
}

impl Side {
    fn new(program: &Utf8Path, original: bool) -> Result<Self> {
        let mut home = Home::new(program, original)?;
        let server =
            home.world.server("main").conninfo("host=/nowhere user=postgres").option("archiver", "on");
        server.option("backup_method", "local-rsync").option("backup_options", "concurrent_backup");
        home.run(&["list-servers"])?;
        let bin = home.world.path().join("bin");
        let theirs = if original { Barman::find().map(|barman| barman.bindir().to_owned()) } else { None };
        let client = theirs.unwrap_or_else(|| bin.clone());
        let sshd = Sshd::builder().env("PATH", format!("{client}:{}", os::PATH)).start()?;
        let own = sshd.ssh_command();
        let options = own.rsplit_once(' ').map_or("", |(options, _)| options);
        let wrapper = bin.join("ssh");
        let text = format!("#!/bin/sh\nexec /usr/bin/{options} \"$@\"\n");
        let io = |source| Error::Io { verb: "write", path: wrapper.clone(), source };
        std::fs::write(&wrapper, text).map_err(io)?;
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).map_err(io)?;
        Ok(Self { home, sshd, client })
    }

    /// A loop over segments, run as the world's account.
    fn each(
        &self,
        client: &str,
        options: &str,
        numbers: std::ops::RangeInclusive<u64>,
        last: &str,
    ) -> Result<Command> {
        let config = self.home.world.write_config()?;
        let (client, user) = (self.client.join(client), &self.sshd.account().name);
        let names: Vec<String> = numbers.map(name).collect();
        let line = format!(
            "for wal in {}; do {client} -c {config} -U {user} {options} 127.0.0.1 main {last} || exit 1; done",
            names.join(" ")
        );
        let mut command = self.home.world.command("/bin/sh");
        command.args(["-c", &line]).current_dir(self.home.world.path().join("data"));
        Ok(command)
    }

    /// Everything as before the first call.
    fn empty(&self) -> Result<()> {
        let (path, server) = (self.home.world.path(), self.home.world.home().join("main"));
        shell(&format!(
            "rm -rf {server}/incoming/* {server}/wals {server}/*xlog.db {path}/state {path}/spool"
        ))
    }

    /// The segments in the archive, plain.
    fn archived(&self) -> Result<()> {
        let (path, server) = (self.home.world.path(), self.home.world.home().join("main"));
        shell(&format!("mkdir -p {server}/incoming && cp {path}/data/pg_wal/0* {server}/incoming/"))?;
        self.home.world.account().own_tree(&server)?;
        self.home.run(&["archive-wal", "main"])
    }
}

pub(super) fn run(options: &Options, program: &Utf8Path) -> Result<Vec<Row>> {
    let ours = Side::new(program, false)?;
    let barman = if options.oracle { Some(Side::new(program, true)?) } else { None };
    for side in [Some(&ours), barman.as_ref()].into_iter().flatten() {
        let data = side.home.world.dir().subdir("data")?;
        let (wal, status) = (data.join("pg_wal"), data.join("pg_wal/archive_status"));
        shell(&format!("mkdir -p {status}"))?;
        for number in 1..=SEGMENTS {
            let bytes = synthetic::segment(
                Timeline::FIRST,
                SegmentNo::new(number),
                SegmentSize::DEFAULT,
                SystemId::new(7_711_114_132_867_599_874),
                PgVersion::new(150_000),
            );
            for (path, bytes) in [
                (wal.join(name(number)), bytes),
                (status.join(format!("{}.ready", name(number))), Vec::new()),
            ] {
                std::fs::write(&path, bytes).map_err(|source| Error::Io { verb: "write", path, source })?;
            }
        }
        side.home.world.account().own_tree(&data)?;
    }
    let mut rows = Vec::new();
    let state = format!("--native-state-dir {}/state", ours.home.world.path());
    let alone = format!("{state} --native-no-look-ahead");
    let send = |options: &str| ours.each("barman-wal-archive", options, 1..=SEGMENTS, "pg_wal/$wal");
    let theirs = |client: &str, options: &str, numbers, last: &str| match &barman {
        Some(side) => side.each(client, options, numbers, last),
        None => Err(Error::Unsupported("without the original Barman".to_owned())),
    };
    let barman_empty = || barman.as_ref().map_or(Ok(()), Side::empty);
    let barman_archived =
        || barman.as_ref().map_or(Ok(()), |side| side.empty().and_then(|()| side.archived()));
    let work = format!("barman-wal-archive, {SEGMENTS} calls over ssh");
    for (what, first) in [("look-ahead", &state), ("one by one", &alone)] {
        let mut rivals = vec![Rival::new(format!("ours, {what}"), || send(first)).before(|| ours.empty())];
        if barman.is_some() {
            let command = || theirs("barman-wal-archive", "", 1..=SEGMENTS, "pg_wal/$wal");
            rivals.push(Rival::new("barman 3.19.1", command).before(barman_empty));
        }
        rows.extend(compare(&work, options.rounds, &rivals));
    }

    let all = || ours.empty().and_then(|()| ours.archived());
    let spool = format!("--spool-dir {}/spool", ours.home.world.path());
    let ahead = format!("{spool} -p 4 --native-idle 3");
    let fetch =
        |options: &str, numbers| ours.each("barman-wal-restore", options, numbers, "$wal RECOVERYXLOG");
    let work = format!("barman-wal-restore, {SEGMENTS} calls over ssh");
    for (what, first, second) in [("-p 4", &ahead, "-p 4"), ("one by one", &spool, "")] {
        let mut rivals = vec![Rival::new(format!("ours, {what}"), || fetch(first, 1..=SEGMENTS)).before(all)];
        if let Some(side) = &barman {
            let options = format!("--spool-dir {}/spool {second}", side.home.world.path());
            let command =
                move || side.each("barman-wal-restore", &options, 1..=SEGMENTS, "$wal RECOVERYXLOG");
            rivals.push(Rival::new(format!("barman 3.19.1, {what}"), command).before(barman_archived));
        }
        rows.extend(compare(&work, options.rounds, &rivals));
    }
    // What replay waits for when the next segment is there already.
    let warm = || -> Result<()> {
        all()?;
        os::run(&mut fetch(&ahead, 1..=1)?).map(drop)?;
        let waiting = format!("{}/spool/native-*", ours.home.world.path());
        shell(&format!(
            "n=0; until ls {waiting}/{} >/dev/null 2>&1 || [ $n -gt 500 ]; do sleep 0.02; n=$((n+1)); done",
            name(5)
        ))
    };
    let rivals = [
        Rival::new("ours, in the spool", || fetch(&ahead, 2..=5)).before(warm),
        Rival::new("fork and exec of /bin/true", || {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "for n in 1 2 3 4; do /bin/true; done"]);
            Ok(command)
        }),
    ];
    rows.extend(compare("barman-wal-restore, 4 calls, fetched ahead", options.rounds, &rivals));

    let get = |side: &Side| side.home.command(&["get-wal", "main", &name(7)]);
    let mut rivals = vec![Rival::new("ours", || get(&ours)).before(all)];
    if let Some(side) = &barman {
        rivals.push(Rival::new("barman 3.19.1", || get(side)).before(barman_archived));
    }
    rows.extend(compare("get-wal, one plain segment", options.rounds, &rivals));
    Ok(rows)
}

/// A server with segments of 1 MiB that makes a hundred of them a second.
pub(super) fn receive(seconds: u64, program: &Utf8Path) -> Result<()> {
    let cluster = Cluster::builder(16)
        .wal_segment_size_mb(1)
        .conf("max_wal_senders", "5")
        .conf("max_wal_size", "4GB")
        .conf("wal_buffers", "64MB")
        .start()?;
    if pg::require(16).is_none() {
        return Ok(());
    }
    let mut home = Home::new(program, false)?;
    home.world
        .server("main")
        .conninfo(cluster.conninfo())
        .option("streaming_conninfo", cluster.conninfo())
        .option("backup_method", "local-rsync")
        .option("archiver", "off")
        .option("streaming_archiver", "on")
        .option("slot_name", "barman")
        .option("create_slot", "auto")
        .option("compression", "lz4")
        .option("backup_options", "concurrent_backup");
    let mut command = home.command(&["receive-wal", "main"])?;
    let spawned = |source| Error::Spawn { program: "receive-wal".to_owned(), source };
    let mut receiver = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(spawned)?;
    cluster.poll("SELECT count(*) FROM pg_stat_replication", "1")?;
    let mut session = cluster.connect()?;
    let before = session.psql("SELECT pg_current_wal_lsn()")?;
    let (began, pace) = (Instant::now(), Duration::from_millis(10));
    let (mut made, mut samples, mut behind) = (0u32, Vec::new(), 0i64);
    while began.elapsed() < Duration::from_secs(seconds) {
        session
            .query("SELECT pg_logical_emit_message(false, 'bench', repeat(md5(random()::text), 32700))")?;
        made += 1;
        if made % 500 == 0 {
            samples.push(resident_kib(receiver.id()).unwrap_or(0));
            let sql =
                "SELECT coalesce(max(pg_current_wal_lsn() - flush_lsn), 0)::bigint FROM pg_stat_replication";
            behind = behind.max(session.psql(sql)?.parse().unwrap_or(0));
        }
        let due = pace * made;
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
    }
    let wrote = session.psql(&format!("SELECT pg_current_wal_lsn() - '{before}'::pg_lsn"))?;
    let took = began.elapsed();
    let last = cluster.switch_wal()?;
    let path = home.world.home().join("main/wals").join(&last[..16]).join(&last);
    let waited = Instant::now();
    while !path.exists() && waited.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mib = wrote.parse::<f64>().unwrap_or(0.0) / f64::from(1 << 20);
    println!(
        "receive-wal: {mib:.0} segments of 1 MiB in {:.0} s ({:.0} a second), lz4; at most {:.1} MiB behind; the last one \
         archived {:.2} s after it was closed: {}",
        took.as_secs_f64(),
        mib / took.as_secs_f64(),
        behind as f64 / f64::from(1 << 20),
        waited.elapsed().as_secs_f64(),
        path.exists()
    );
    let quarter = samples.len() / 4;
    let most = |part: &[u64]| part.iter().max().copied().unwrap_or(0) as f64 / 1024.0;
    println!(
        "receive-wal: resident memory at most {:.0} MiB in the first quarter, {:.0} MiB in the last",
        most(samples.get(..quarter).unwrap_or_default()),
        most(samples.get(samples.len() - quarter..).unwrap_or_default())
    );
    let _ = (receiver.kill(), receiver.wait());
    Ok(())
}

fn resident_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}
