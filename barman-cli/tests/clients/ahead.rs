//! What the clients do ahead of time: fetching what replay will ask for next, sending what the server will send next.

use std::fs;
use std::time::{Duration, Instant};

use barman_testkit::oracle::Barman;
use barman_testkit::os::TestDir;
use barman_testkit::pg::{self, Cluster, Wait};
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

use super::{Line, ours, scene, wal, wal_of};
use crate::hand_made::{Home, segment};
use crate::scene::{Small, names};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "still no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A data directory in recovery, and the spool of its client.
struct Recovery<'a> {
    home: &'a Home,
    line: &'a Line,
    data: Utf8PathBuf,
    spool: Utf8PathBuf,
}

impl<'a> Recovery<'a> {
    fn new(home: &'a Home, line: &'a Line, name: &str) -> Self {
        let data = home.world.dir().subdir(name).unwrap();
        fs::write(data.join("PG_VERSION"), "17\n").unwrap();
        fs::write(data.join("recovery.signal"), "").unwrap();
        home.world.account().own_tree(&data).unwrap();
        Recovery { home, line, data, spool: home.world.path().join("spool") }
    }

    fn fetch(&self, options: &[&str], name: &str) -> Run {
        let config = self.home.world.config_path();
        let user = self.line.sshd.account().name.clone();
        let mut command = self.home.world.command(self.home.world.path().join("bin/barman-wal-restore"));
        command.args(["-c", config.as_str(), "-U", &user, "--spool-dir", self.spool.as_str()]).args(options);
        command.args(["127.0.0.1", "main", name, "RECOVERYXLOG"]).current_dir(&self.data);
        Run::of(&mut command).unwrap()
    }

    fn brings(&self, options: &[&str], number: u64) {
        let run = self.fetch(options, &segment(number));
        assert_eq!(run.code(), Some(0), "{number}: {run}");
        assert!(fs::read(self.data.join("RECOVERYXLOG")).unwrap() == wal(number), "{number}");
        fs::remove_file(self.data.join("RECOVERYXLOG")).unwrap();
    }

    /// The directories of the spool.
    fn spools(&self) -> Vec<Utf8PathBuf> {
        names(&self.spool).iter().map(|name| self.spool.join(name)).collect()
    }

    /// The segments that wait.
    fn waiting(&self) -> Vec<String> {
        let all = self.spools().iter().flat_map(|dir| names(dir)).collect::<Vec<_>>();
        all.into_iter().filter(|name| name.len() == 24).collect()
    }
}

fn archive(home: &Home, number: u64, bytes: Vec<u8>) {
    home.write(&format!("wals/{}/{}", &segment(number)[..16], segment(number)), bytes);
}

/// I26: what replay asks for next is there before, over one connection; what is not sound never is.
#[test]
fn i26_wal_is_fetched_ahead() {
    let Some((home, line)) = scene(ours) else { return };
    for number in 1..=8 {
        let mut bytes = wal(number);
        if number == 7 {
            bytes[300_000] ^= 1;
        }
        archive(&home, number, bytes);
    }
    home.barman(&["list-servers"]);
    let options = ["-p", "3", "--native-idle", "4"];
    let recovery = Recovery::new(&home, &line, "data");
    recovery.brings(&options, 1);
    wait("segments 2 to 4 in the spool", || recovery.waiting() == [segment(2), segment(3), segment(4)]);
    // One login of the call, one of the process that fetches.
    assert_eq!(line.sshd.logins().unwrap(), 2);
    for number in 2..=6 {
        wait("the next segment in the spool", || recovery.waiting().contains(&segment(number)));
        recovery.brings(&options, number);
    }
    assert_eq!(line.sshd.logins().unwrap(), 2, "each was there before it was asked for");
    // The seventh is not sound: it does not wait in the spool, and the call says what is wrong.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!recovery.waiting().contains(&segment(7)));
    let run = recovery.fetch(&options, &segment(7));
    assert_eq!(run.code(), Some(126), "{run}");
    assert!(run.stderr.contains("not sound"), "{run}");

    // Another data directory has a spool of its own.
    let other = Recovery::new(&home, &line, "other");
    other.brings(&options, 1);
    wait("a second spool", || other.spools().len() == 2);
    // Nobody asks any more: it ends by itself, and a later call goes on with what is left.
    let lock = |dir: &Utf8Path| {
        let file = fs::File::open(dir.join(".lock")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    wait("the end of both processes", || recovery.spools().iter().all(|dir| lock(dir)));
    let left: Vec<String> = other.waiting();
    assert!(left.contains(&segment(2)), "{left:?}");
    let logins = line.sshd.logins().unwrap();
    other.brings(&["-p", "1", "--native-idle", "0"], 2);
    assert!(line.sshd.logins().unwrap() <= logins + 1);
}

/// I26: what is left of another timeline or of another cluster is not taken.
#[test]
fn i26_what_is_left_of_another_timeline_goes() {
    let Some((home, line)) = scene(ours) else { return };
    for number in 1..=5 {
        archive(&home, number, wal(number));
    }
    let second = segment(3).replacen("00000001", "00000002", 1);
    let forked = wal_of(2, 3);
    home.write(&format!("wals/{}/{second}", &second[..16]), forked.clone());
    home.write("wals/00000002.history", "1\t0/300000\tno recovery target specified\n");
    home.barman(&["list-servers"]);
    let options = ["-p", "2", "--native-idle", "5"];
    let recovery = Recovery::new(&home, &line, "data");
    recovery.brings(&options, 1);
    wait("segments in the spool", || recovery.waiting() == [segment(2), segment(3)]);
    let run = recovery.fetch(&options, &second);
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(fs::read(recovery.data.join("RECOVERYXLOG")).unwrap() == forked);
    wait("an empty spool", || recovery.waiting().is_empty());
    // Zeros under a name of the spool: asked for anew.
    recovery.brings(&options, 1);
    wait("segments in the spool", || recovery.waiting() == [segment(2), segment(3)]);
    let dir = &recovery.spools()[0];
    fs::write(dir.join(segment(2)), vec![0; 1 << 20]).unwrap();
    recovery.brings(&options, 2);
    // A spool that others may write to, or exchange, is not used, and that is said.
    use std::os::unix::fs::PermissionsExt;
    for (open, mode) in [(dir, 0o700), (&recovery.spool, 0o755)] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
        let run = recovery.fetch(&options, &segment(4));
        assert_eq!(run.code(), Some(0), "{run}");
        assert!(run.stderr.contains("WARNING: nothing is fetched ahead"), "{run}");
        fs::set_permissions(open, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&recovery.spool, fs::Permissions::from_mode(0o1777)).unwrap();
    let run = recovery.fetch(&options, &segment(4));
    assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
}

/// I7: no room where PostgreSQL wants the file: the call ends, says so, and leaves nothing behind.
#[test]
fn i7_a_full_disk_of_the_restored_server_is_said() {
    let Some((home, line)) = scene(ours) else { return };
    archive(&home, 1, wal(1));
    home.barman(&["list-servers"]);
    let recovery = Recovery::new(&home, &line, "data");
    let account = home.world.account();
    let owner = format!("size=256k,uid={},gid={}", account.uid, account.gid);
    let Some(_small) = Small::mount(&recovery.data, &owner) else { return };
    for file in ["PG_VERSION", "recovery.signal"] {
        fs::write(recovery.data.join(file), "").unwrap();
    }
    let run = recovery.fetch(&[], &segment(1));
    assert_eq!(run.code(), Some(126), "{run}");
    assert!(run.stderr.contains("No space left on device"), "{run}");
    assert_eq!(names(&recovery.data), ["PG_VERSION", "recovery.signal"]);
}

/// I26: Barman sends what it has, sound or not; what is not sound never waits in the spool and never reaches the server.
#[test]
fn i26_what_barman_sends_is_verified_here() {
    let Some(barman) = Barman::require() else { return };
    let bindir = barman.bindir().to_owned();
    let Some((home, line)) = scene(move |_| bindir.clone()) else { return };
    for number in 1..=4 {
        let mut bytes = wal(number);
        if number == 3 {
            bytes[300_000] ^= 1;
        }
        archive(&home, number, bytes);
    }
    home.barman(&["list-servers"]);
    let options = ["-p", "3", "--native-idle", "4"];
    let recovery = Recovery::new(&home, &line, "data");
    recovery.brings(&options, 1);
    wait("segments 2 and 4 in the spool", || recovery.waiting() == [segment(2), segment(4)]);
    recovery.brings(&options, 2);
    let run = recovery.fetch(&options, &segment(3));
    assert_eq!(run.code(), Some(126), "{run}");
    assert!(
        run.stderr.contains(&format!("The WAL file {} that Barman sent is not sound", segment(3))),
        "{run}"
    );
    assert!(!recovery.data.join("RECOVERYXLOG").exists());
}

/// A restored server replays through the spool.
#[test]
fn a_server_recovers_through_the_spool() {
    if pg::require(16).is_none() {
        return;
    }
    let mut world = World::in_memory().unwrap();
    let cluster = Cluster::builder(16)
        .wal_segment_size_mb(1)
        .archive_to(world.incoming("main"), pg::Archive::Atomic)
        .start()
        .unwrap();
    world
        .server("main")
        .conninfo(cluster.conninfo_tcp())
        .option("backup_method", "local-rsync")
        .option("archiver", "on")
        .option("compression", "zstd")
        .option("backup_options", "concurrent_backup");
    world.barman(&["list-servers"]).unwrap();
    let Some(line) = Line::to(&world, &world.path().join("bin")) else { return };
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").unwrap();
    world.barman(&["backup", "--wait", "main"]).unwrap().ok().unwrap();
    for _ in 0..6 {
        cluster.psql("INSERT INTO t SELECT generate_series(1, 20000)").unwrap();
    }
    cluster.archive_now().unwrap();
    world.barman(&["archive-wal", "main"]).unwrap().ok().unwrap();
    let place = world.path().join("restored/data");
    let (user, config) = (line.sshd.account().name.clone(), world.config_path());
    let spool = TestDir::in_memory("btk-spool-").unwrap();
    let command = format!(
        "barman-wal-restore -p 4 --native-idle 3 --spool-dir {} -U {user} -c {config} 127.0.0.1 main %f %p",
        spool.path()
    );
    let words = ["restore", "--get-wal", "--restore-command", &command, "main", "latest", place.as_str()];
    world.barman(&words).unwrap().ok().unwrap();
    let logins = line.sshd.logins().unwrap();
    let server = Cluster::restored(16, &place).env("PATH", world.search_path()).wait(Wait::Recovered);
    let server = server.start().unwrap();
    assert_eq!(server.psql("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), "121000|f");
    // Histories and what is not there are asked for by a login each; the segments were not.
    let made = line.sshd.logins().unwrap() - logins;
    let segments = names(&world.home().join("main/wals/0000000100000000")).len();
    assert!(made < segments, "{made} logins for {segments} segments");
}

/// A server's WAL directory with segments that are ready.
fn ready(home: &Home, numbers: std::ops::RangeInclusive<u64>) -> Utf8PathBuf {
    let pg_wal = home.world.path().join("pg_wal");
    let status = pg_wal.join("archive_status");
    fs::create_dir_all(&status).unwrap();
    for number in numbers {
        fs::write(pg_wal.join(segment(number)), wal(number)).unwrap();
        fs::write(status.join(format!("{}.ready", segment(number))), "").unwrap();
    }
    home.world.account().own_tree(&pg_wal).unwrap();
    pg_wal
}

fn send(home: &Home, line: &Line, options: &[&str], path: &Utf8Path) -> Run {
    let state = home.world.path().join("state");
    let words =
        [&["--native-state-dir", state.as_str()], options, &["127.0.0.1", "main", path.as_str()]].concat();
    line.run(&home.world, "barman-wal-archive", &words)
}

/// What is ready goes along, over one login, and its own call says at once that the other side has it.
#[test]
fn i2_wal_is_sent_ahead_and_never_acknowledged_before_it_is_there() {
    let Some((home, mut line)) = scene(ours) else { return };
    let pg_wal = ready(&home, 1..=12);
    fs::write(pg_wal.join("00000002.history"), "1\t0/300000\tno recovery target specified\n").unwrap();
    fs::write(pg_wal.join("archive_status/00000002.history.ready"), "").unwrap();
    let incoming = || names(&home.path("incoming"));
    let run = send(&home, &line, &[], &pg_wal.join(segment(1)));
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(line.sshd.logins().unwrap(), 1);
    let mut expected: Vec<String> = (1..=8).map(segment).collect();
    expected.push("00000002.history".to_owned());
    expected.sort();
    assert_eq!(incoming(), expected);
    // The server touched one of them, and another one is not what it was.
    fs::write(pg_wal.join(segment(3)), wal(3)).unwrap();
    let other = barman_core::format::wal_page::synthetic::switched_segment(
        barman_core::model::Timeline::FIRST,
        barman_core::model::SegmentNo::new(4),
        barman_core::model::SegmentSize::from_bytes(crate::hand_made::SEGMENT).unwrap(),
        barman_core::model::SystemId::new(crate::hand_made::SYSTEM_ID),
        barman_core::model::PgVersion::new(170_000),
        100_000,
    );
    fs::write(pg_wal.join(segment(4)), other).unwrap();
    line.sshd.stop().unwrap();
    for name in ["00000002.history".to_owned(), segment(2), segment(5), segment(6), segment(7), segment(8)] {
        let run = send(&home, &line, &[], &pg_wal.join(&name));
        assert_eq!(run.code(), Some(0), "{name}: {run}");
        // Only once: whoever asks again gets it sent again.
        assert_eq!(send(&home, &line, &[], &pg_wal.join(&name)).code(), Some(3), "{name}");
    }
    for number in [3, 4, 9] {
        assert_eq!(send(&home, &line, &[], &pg_wal.join(segment(number))).code(), Some(3), "{number}");
    }
    line.sshd.restart().unwrap();
    let run = send(&home, &line, &["--native-no-look-ahead"], &pg_wal.join(segment(3)));
    assert_eq!(run.code(), Some(0), "{run}");
    let conflict = send(&home, &line, &[], &pg_wal.join(segment(4)));
    assert_eq!(conflict.code(), Some(1), "{conflict}");
    assert_eq!(marks(&home), Vec::<String>::new(), "a delivery that failed marks nothing");
}

/// The markers that there are.
fn marks(home: &Home) -> Vec<String> {
    let state = home.world.path().join("state");
    names(&state).iter().flat_map(|dir| names(&state.join(dir))).collect()
}

/// A file that the other side does not want does not keep the one that was asked for from being stored.
#[test]
fn i7_one_unsound_file_ahead_does_not_stop_the_others() {
    let Some((home, line)) = scene(ours) else { return };
    let pg_wal = ready(&home, 1..=4);
    fs::write(pg_wal.join(segment(3)), &wal(3)[..300_000]).unwrap();
    let run = send(&home, &line, &[], &pg_wal.join(segment(1)));
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(names(&home.path("incoming")), [segment(1)]);
    assert_eq!(line.sshd.logins().unwrap(), 2);
    assert_eq!(marks(&home), Vec::<String>::new());
    // Where nothing is ready but the file itself, it goes alone.
    fs::remove_dir_all(pg_wal.join("archive_status")).unwrap();
    assert_eq!(send(&home, &line, &[], &pg_wal.join(segment(2))).code(), Some(0));
}

/// What lies in the way of the temporary file: a link, a file of another user's, another call's.
#[test]
fn a_temporary_name_that_is_taken_is_no_trouble() {
    let Some((home, line)) = scene(ours) else { return };
    archive(&home, 1, wal(1));
    home.barman(&["list-servers"]);
    let recovery = Recovery::new(&home, &line, "data");
    let taken = recovery.data.join(format!(".barman-wal-restore-{}", segment(1)));
    let victim = home.world.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    home.world.account().own(&victim).unwrap();
    std::os::unix::fs::symlink(&victim, &taken).unwrap();
    recovery.brings(&[], 1);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(&taken).unwrap();
    // Where these tests run as root this one belongs to root.
    fs::write(&taken, "left over").unwrap();
    recovery.brings(&[], 1);
    let _ = fs::remove_file(&taken);
    let other = fs::File::create(&taken).unwrap();
    home.world.account().own(&taken).unwrap();
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
    recovery.brings(&[], 1);
    assert!(taken.exists(), "it is the other call's");
    drop(other);
    recovery.brings(&[], 1);
    assert_eq!(names(&recovery.data), ["PG_VERSION", "recovery.signal"]);
}
