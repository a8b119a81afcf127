//! Everything at once, at random: pgbench writes while the receiver, the wire and the server are killed.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use barman_testkit::os::TestDir;
use barman_testkit::pg::{self, Cluster, StopMode};
use barman_testkit::proxy::Proxy;
use barman_testkit::world::World;

use super::rig::{Receiver, Rig, server, wait};
use crate::clients::Line;
use crate::scene::names;

const MAJOR: u32 = 15;

/// The events are the same in every run; the machine's own timing is not.
const SEED: u64 = 20_261_127;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// pgbench in the background; it ends by itself when the server does.
struct Load(Child);

impl Load {
    fn on(cluster: &Cluster) -> Load {
        Self::with(cluster, &[])
    }

    /// At most so many transactions a second.
    fn paced(cluster: &Cluster, rate: u32) -> Load {
        Self::with(cluster, &["-R", &rate.to_string()])
    }

    fn with(cluster: &Cluster, options: &[&str]) -> Load {
        let pgbench = cluster.tool("pgbench").unwrap();
        let mut command: Command = cluster.account().command(&pgbench);
        let (host, port) = (cluster.socket_dir().as_str(), cluster.port().to_string());
        command.args(["-h", host, "-p", &port, "-U", "postgres", "-n", "-c", "4", "-T", "600"]);
        command.args(options).arg("postgres");
        Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// I2, I6, I7: whatever happens, in the end the archive is the server's WAL, byte for byte and without a hole.
#[test]
fn i6_nothing_is_lost_whoever_is_killed() {
    chaos(10);
}

#[test]
#[ignore = "takes minutes; `cargo xtask test --all` runs it"]
fn i6_nothing_is_lost_in_fifty_events() {
    chaos(50);
}

fn chaos(rounds: usize) {
    let Some(_) = pg::require(MAJOR) else { return };
    let cluster = server(MAJOR).start().unwrap();
    let Some(pgbench) = cluster.tool("pgbench") else {
        barman_testkit::skip("pgbench of PostgreSQL 15 is not there");
        return;
    };
    let (host, port) = (cluster.socket_dir().as_str(), cluster.port().to_string());
    let mut fill = cluster.account().command(&pgbench);
    let filled =
        fill.args(["-h", host, "-p", &port, "-U", "postgres", "-i", "-q", "-s", "1", "postgres"]).output();
    assert!(filled.unwrap().status.success());
    let proxy = Proxy::before(cluster.port()).unwrap();
    let mut rig = Rig::over(cluster, &proxy.conninfo());
    let mut receiver = rig.receive();
    receiver.wait_log("starting log streaming at");
    let first = protected_from(&rig);
    let mut load = Load::on(&rig.cluster);
    let mut random = Random(SEED);
    let mut events = Vec::new();
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(100 + random.below(700)));
        let event = random.below(8);
        events.push(event);
        match event {
            0 | 1 => {
                receiver.kill9();
                std::thread::sleep(Duration::from_millis(random.below(300)));
                receiver = rig.receive();
            }
            2 => proxy.cut(),
            3 => proxy.cut_after(random.below(400_000)),
            4 => {
                proxy.stall(true);
                std::thread::sleep(Duration::from_millis(500 + random.below(1000)));
                proxy.stall(false);
            }
            5 => proxy.delay(Duration::from_micros(random.below(3000))),
            6 => {
                rig.cluster.kill9().unwrap();
                rig.cluster.start().unwrap();
                load = Load::on(&rig.cluster);
            }
            _ => {
                rig.cluster.stop(StopMode::Fast).unwrap();
                rig.cluster.start().unwrap();
                load = Load::on(&rig.cluster);
            }
        }
        revive(&rig, &mut receiver);
    }
    drop(load);
    proxy.delay(Duration::ZERO);
    let last = rig.cluster.switch_wal().unwrap();
    rig.wait_archived(&last);
    revive(&rig, &mut receiver);

    rig.assert_no_hole("00000001");
    let archived = rig.archived();
    let segments: Vec<&String> = archived.keys().filter(|name| name.len() == 24).collect();
    assert!(segments.first().is_some_and(|name| **name <= first), "{first} {segments:?}");
    // All that it ever wrote is kept by the server.
    assert_eq!(rig.compare(), segments.len(), "{events:?}");
    assert!(segments.len() > rounds / 2, "{segments:?}");
    assert_eq!(names(&rig.world.home().join("main/errors")), Vec::<String>::new(), "{events:?}");
    let left = names(&rig.streaming_dir());
    assert!(left.len() == 1 && left[0].ends_with(".partial"), "{left:?}");
}

/// The first segment that the slot keeps; it keeps none before the receiver has reported.
fn protected_from(rig: &Rig) -> String {
    let mut first = String::new();
    let sql =
        "SELECT pg_walfile_name(restart_lsn + 1) FROM pg_replication_slots WHERE restart_lsn IS NOT NULL";
    wait(
        "the slot to keep WAL",
        || format!("{:?}", rig.cluster.psql(sql)),
        || {
            first = rig.cluster.psql(sql).unwrap();
            first.len() == 24
        },
    );
    first
}

/// A receiver that gave up is started anew, as cron does every minute; why it gave up must be a reason that goes away.
fn revive(rig: &Rig, receiver: &mut Receiver) {
    if !receiver.is_running() {
        let log = receiver.log();
        assert!(!log.contains("differs") && !log.contains("no longer"), "{log}");
        *receiver = rig.receive();
    }
}

/// I1, I2: `barman-wal-archive` with its look-ahead under load, while it and what it talks to are killed: what the server
/// takes for archived is there, byte for byte.
#[test]
fn i2_an_archive_command_that_is_killed_loses_nothing() {
    let Some(_) = pg::require(MAJOR) else { return };
    let mut world = World::new().unwrap();
    world
        .server("main")
        .conninfo("host=/nowhere user=postgres")
        .option("backup_method", "local-rsync")
        .option("archiver", "on")
        .option("backup_options", "concurrent_backup");
    world.barman(&["list-servers"]).unwrap();
    let Some(line) = Line::to(&world, &world.path().join("bin")) else { return };
    let state = TestDir::new("btk-state-").unwrap();
    let command = format!(
        "barman-wal-archive -c {} -U {} --native-state-dir {} 127.0.0.1 main %p",
        world.config_path(),
        line.sshd.account().name,
        state.path()
    );
    let cluster = server(MAJOR)
        .conf("archive_mode", "on")
        .conf("archive_command", command)
        .env("PATH", world.search_path())
        .start()
        .unwrap();
    let Some(pgbench) = cluster.tool("pgbench") else {
        barman_testkit::skip("pgbench of PostgreSQL 15 is not there");
        return;
    };
    let (host, port) = (cluster.socket_dir().to_string(), cluster.port().to_string());
    let mut bench = cluster.account().command(&pgbench);
    bench.args(["-h", &host, "-p", &port, "-U", "postgres", "-q", "-i", "-s", "1", "postgres"]);
    assert!(bench.output().unwrap().status.success());
    // Filling it has made a backlog, at which the look-ahead works; more than can be sent in time would prove nothing.
    let load = Load::paced(&cluster, 200);
    let mut random = Random(SEED);
    let home = world.path();
    for round in 0..10 {
        std::thread::sleep(Duration::from_millis(100 + random.below(400)));
        // PostgreSQL waits ten seconds after its command was killed, so that is done less often.
        let victim = match round {
            4 => format!("barman-wal-archive -c {home}"),
            _ => format!("{home}.*put-wal"),
        };
        Command::new("pkill").args(["-9", "-f", &victim]).status().unwrap();
    }
    drop(load);
    let last = cluster.switch_wal().unwrap();
    let status = cluster.pgdata().join("pg_wal/archive_status");
    wait(
        "the last segment archived",
        || format!("{:?}", names(&status)),
        || status.join(format!("{last}.done")).exists(),
    );
    world.barman(&["archive-wal", "main"]).unwrap().ok().unwrap();
    let rig = Rig { world, cluster };
    let archived = rig.archived();
    let done = names(&status);
    for name in done.iter().filter_map(|name| name.strip_suffix(".done")) {
        assert!(archived.contains_key(name), "{name} is lost");
    }
    rig.assert_no_hole("00000001");
    assert_eq!(rig.compare(), archived.keys().filter(|name| name.len() == 24).count());
    assert_eq!(names(&rig.world.home().join("main/errors")), Vec::<String>::new());
}
