//! A server that is streamed from, a home, and a receiver in the background.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use barman_testkit::pg::{Builder, Cluster};
use barman_testkit::world::{Run, World};
use camino::Utf8PathBuf;

use crate::scene::names;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Rig {
    pub(super) world: World,
    pub(super) cluster: Cluster,
}

/// A server with segments of 1 MiB (where its major has them) that keeps all its WAL.
pub(super) fn server(major: u32) -> Builder {
    let keep = if major >= 13 { ("wal_keep_size", "20GB") } else { ("wal_keep_segments", "4000") };
    let builder = Cluster::builder(major).conf("max_wal_senders", "10").conf(keep.0, keep.1);
    if major >= 11 { builder.wal_segment_size_mb(1) } else { builder }
}

impl Rig {
    /// A server whose only way to the archive is streaming, with a slot that is made when it is needed.
    pub(super) fn new(major: u32) -> Rig {
        let cluster = server(major).start().unwrap();
        let conninfo = cluster.conninfo();
        Rig::over(cluster, &conninfo)
    }

    /// The same by another connection string.
    pub(super) fn over(cluster: Cluster, conninfo: &str) -> Rig {
        let mut world = World::new().unwrap();
        world
            .server("main")
            .conninfo(conninfo)
            .option("streaming_conninfo", conninfo)
            .option("backup_method", "local-rsync")
            .option("archiver", "off")
            .option("streaming_archiver", "on")
            .option("slot_name", "barman")
            .option("create_slot", "auto")
            .option("backup_options", "concurrent_backup")
            .option("immediate_checkpoint", "true");
        Rig { world, cluster }
    }

    pub(super) fn ours(&self, arguments: &[&str]) -> Run {
        self.world.barman(arguments).unwrap().ok().unwrap()
    }

    /// Starts a receiver.
    pub(super) fn receive(&self) -> Receiver {
        self.receive_by(self.world.barman_command(&["receive-wal", "main"]).unwrap())
    }

    pub(super) fn receive_by(&self, mut command: Command) -> Receiver {
        let log = self.world.path().join(format!("receiver-{}.log", names(self.world.path()).len()));
        let file = File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null());
        Receiver { child: command.spawn().unwrap(), log }
    }

    pub(super) fn streaming_dir(&self) -> Utf8PathBuf {
        self.world.home().join("main/streaming")
    }

    pub(super) fn wals(&self) -> Utf8PathBuf {
        self.world.home().join("main/wals")
    }

    /// The files of the archive by name, as they lie there.
    pub(super) fn archived(&self) -> BTreeMap<String, Utf8PathBuf> {
        let wals = self.wals();
        let mut found = BTreeMap::new();
        for name in names(&wals) {
            let path = wals.join(&name);
            if path.is_dir() {
                found.extend(
                    names(&path)
                        .into_iter()
                        .filter(|n| !n.starts_with('.'))
                        .map(|n| (n.clone(), path.join(n))),
                );
            } else if name.ends_with(".history") {
                found.insert(name, path);
            }
        }
        found
    }

    /// Waits until a file is in the archive.
    pub(super) fn wait_archived(&self, name: &str) {
        let seen = || format!("{:?}\n{}", names(&self.streaming_dir()), self.world.log());
        wait(&format!("{name} in the archive"), seen, || self.archived().contains_key(name));
    }

    /// Writes some WAL, closes its segment and gives the name of that.
    pub(super) fn write(&self, rows: u32) -> String {
        let sql = format!("INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, {rows}) AS n");
        self.cluster.psql("CREATE TABLE IF NOT EXISTS t (n int, filler text)").unwrap();
        self.cluster.psql(&sql).unwrap();
        self.cluster.switch_wal().unwrap()
    }

    /// Every segment that the server still has and the archive has too is the same in both; gives how many there were.
    pub(super) fn compare(&self) -> usize {
        let pg_wal = self.cluster.pgdata().join("pg_wal");
        let mut compared = 0;
        for (name, path) in self.archived() {
            let own = pg_wal.join(&name);
            if name.len() == 24 && own.exists() {
                assert!(fs::read(&own).unwrap() == fs::read(&path).unwrap(), "{name} differs");
                compared += 1;
            }
        }
        compared
    }

    /// The names of the segments of a timeline in the archive follow one another without a hole.
    pub(super) fn assert_no_hole(&self, timeline: &str) {
        let mib = self.segment_mib();
        let numbers: Vec<u64> = self
            .archived()
            .keys()
            .filter(|name| name.len() == 24 && name.starts_with(timeline))
            .map(|name| {
                let (log, seg) = (&name[8..16], &name[16..24]);
                u64::from_str_radix(log, 16).unwrap() * (4096 / mib) + u64::from_str_radix(seg, 16).unwrap()
            })
            .collect();
        assert!(!numbers.is_empty());
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{:?}", self.archived().keys());
    }

    fn segment_mib(&self) -> u64 {
        if self.cluster.major() >= 11 { 1 } else { 16 }
    }

    /// Writes a little and waits until the receiver has all of it, its last segment being unfinished.
    pub(super) fn catch_up(&self) {
        self.cluster.psql("INSERT INTO t VALUES (1, 'x')").unwrap();
        let lag = "SELECT pg_current_wal_flush_lsn() - flush_lsn FROM pg_stat_replication";
        let seen = || self.cluster.psql(lag).unwrap();
        wait("all of it received", seen, || self.cluster.psql(lag).unwrap() == "0");
    }

    /// A replication role's view of our receiver, `state|sync_state`.
    pub(super) fn receiver_state(&self) -> String {
        let sql = "SELECT state || '|' || sync_state FROM pg_stat_replication WHERE application_name = 'barman_receive_wal'";
        self.cluster.psql(sql).unwrap_or_default()
    }
}

/// A receiver in the background; killed when it is dropped.
pub(super) struct Receiver {
    child: Child,
    log: Utf8PathBuf,
}

impl Receiver {
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(super) fn wait_log(&self, text: &str) {
        wait(&format!("'{text}' from the receiver"), || self.log(), || self.log().contains(text));
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; gives its exit status.
    pub(super) fn wait(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "the receiver goes on: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn interrupt(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub(super) fn wait(what: &str, seen: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "still no {what}: {}", seen());
        std::thread::sleep(Duration::from_millis(20));
    }
}
