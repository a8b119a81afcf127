//! `barman-wal-archive` and `barman-wal-restore` over a real sshd: with our `barman` behind it, and with the original.

mod ahead;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

use crate::hand_made::{Home, SEGMENT, SYSTEM_ID, done, segment};

/// The other side, and an `ssh` in PATH that logs in there as the configuration of a user would.
pub(crate) struct Line {
    pub(crate) sshd: Sshd,
}

impl Line {
    pub(crate) fn to(world: &World, bindir: &Utf8Path) -> Option<Line> {
        Sshd::require()?;
        let path = format!("{bindir}:{}", barman_testkit::os::PATH);
        let sshd = Sshd::builder().env("PATH", path).start().unwrap();
        let own = sshd.ssh_command();
        let (options, _) = own.rsplit_once(' ').unwrap();
        let (program, options) = options.split_once(' ').unwrap();
        assert_eq!(program, "ssh");
        let wrapper = world.path().join("bin/ssh");
        fs::write(&wrapper, format!("#!/bin/sh\nexec /usr/bin/ssh {options} \"$@\"\n")).unwrap();
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Line { sshd })
    }

    fn run(&self, world: &World, program: &str, words: &[&str]) -> Run {
        let config = world.write_config().unwrap();
        let user = self.sshd.account().name.clone();
        let mut command = world.command(world.path().join("bin").join(program));
        Run::of(command.args(["-c", config.as_str(), "-U", &user]).args(words)).unwrap()
    }
}

fn wal(number: u64) -> Vec<u8> {
    wal_of(1, number)
}

fn wal_of(timeline: u32, number: u64) -> Vec<u8> {
    synthetic::segment(
        Timeline::new(timeline).unwrap(),
        SegmentNo::new(number),
        SegmentSize::from_bytes(SEGMENT).unwrap(),
        SystemId::new(SYSTEM_ID),
        PgVersion::new(170_000),
    )
}

/// A catalog, the line to it, and segment files as a server has them.
fn scene(bindir: impl Fn(&World) -> Utf8PathBuf) -> Option<(Home, Line)> {
    let home = Home::new(100..=100).backups(&[done("20260101T000001", 1, 2)]);
    home.barman(&["list-servers"]);
    let line = Line::to(&home.world, &bindir(&home.world))?;
    fs::create_dir_all(home.world.path().join("pg_wal")).unwrap();
    for number in 1..=9 {
        fs::write(home.world.path().join("pg_wal").join(segment(number)), wal(number)).unwrap();
    }
    Some((home, line))
}

fn ours(world: &World) -> Utf8PathBuf {
    world.path().join("bin")
}

fn stdout_of(home: &Home, words: &[&str]) -> Vec<u8> {
    let done = home.world.barman_command(words).unwrap().output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

#[test]
fn what_wal_archive_sends_is_stored_by_either_barman() {
    let Some(barman) = Barman::require() else { return };
    let oracle = barman.bindir().to_owned();
    for (who, bindir) in [("ours", None), ("theirs", Some(oracle))] {
        let there = |world: &World| bindir.clone().unwrap_or_else(|| ours(world));
        let Some((home, line)) = scene(there) else { return };
        let options: [&[&str]; 8] = [
            &[],
            &["--md5"],
            &["-z", "--compression-level", "low"],
            &["--bzip2"],
            &["--xz"],
            &["--snappy"],
            &["-z", "--zstd", "--compression-level", "3"],
            &["--lz4"],
        ];
        for (number, options) in (1..).zip(options) {
            let path = home.world.path().join("pg_wal").join(segment(number));
            let logins = line.sshd.logins().unwrap();
            let words = [options, &["127.0.0.1", "main", path.as_str()]].concat();
            let run = line.run(&home.world, "barman-wal-archive", &words);
            assert_eq!((run.code(), run.stdout.as_str()), (Some(0), ""), "{who} {options:?}: {run}");
            assert_eq!(line.sshd.logins().unwrap() - logins, 1);
            let stored = fs::read(home.path(&format!("incoming/{}", segment(number)))).unwrap();
            let packed = number > 2;
            assert_eq!(stored != wal(number), packed, "{who} {options:?}");
            // Once more is no error: PostgreSQL asks again when it did not hear of success.
            assert_eq!(
                line.run(&home.world, "barman-wal-archive", &words).code(),
                Some(0),
                "{who} {options:?}"
            );
        }
        home.barman(&["archive-wal", "main"]).ok().unwrap();
        for number in 1..=8 {
            assert!(
                stdout_of(&home, &["get-wal", "main", &segment(number)]) == wal(number),
                "{who} {number}"
            );
        }
        let test = line.run(&home.world, "barman-wal-archive", &["-t", "127.0.0.1", "main", "x"]);
        assert_eq!(test.code(), Some(0), "{test}");
        assert_eq!(test.stdout, "Ready to accept WAL files for the server main\n\n", "{who}");
        let version = line.run(&home.world, "barman-wal-archive", &["-V"]);
        assert!(version.stdout.starts_with("barman-wal-archive 3.19.1 "), "{version}");
    }
}

#[test]
fn their_wal_archive_delivers_to_our_put_wal() {
    let Some(barman) = Barman::require() else { return };
    let Some((home, line)) = scene(ours) else { return };
    let client = barman.bindir().join("barman-wal-archive");
    let path = home.world.path().join("pg_wal").join(segment(1));
    let config = home.world.write_config().unwrap();
    let user = line.sshd.account().name.clone();
    let words = ["-c", config.as_str(), "-U", &user, "127.0.0.1", "main", path.as_str()];
    let run = Run::of(home.world.command(client).args(words)).unwrap();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(fs::read(home.path(&format!("incoming/{}", segment(1)))).unwrap() == wal(1));
}

#[test]
fn wal_archive_never_says_that_it_is_done_when_it_is_not() {
    let Some((home, line)) = scene(ours) else { return };
    let pg_wal = home.world.path().join("pg_wal");
    let (good, torn) = (pg_wal.join(segment(1)), pg_wal.join(segment(2)));
    fs::write(&torn, &wal(2)[..500_000]).unwrap();
    let run = |words: &[&str]| line.run(&home.world, "barman-wal-archive", words);
    for (words, status, said) in [
        (&["127.0.0.1", "main", pg_wal.as_str()][..], 2, "WAL_PATH cannot be a directory"),
        (&["127.0.0.1", "main", "/nowhere/000000010000000000000001"], 2, "Cannot read /nowhere/"),
        (&["--port", "1", "127.0.0.1", "main", good.as_str()], 3, "Connection problem with ssh"),
        (&["127.0.0.1", "nope", good.as_str()], 1, "Remote 'barman put-wal' command has failed!"),
        (&["127.0.0.1", "main", torn.as_str()], 1, "Remote 'barman put-wal' command has failed!"),
        (&["127.0.0.1", "main"], 2, "WAL_PATH"),
    ] {
        // The options of the wrapper have a port, too; the first one holds.
        let run = if words.contains(&"--port") { refused_port(&home, words) } else { run(words) };
        assert_eq!(run.code(), Some(status), "{words:?}: {run}");
        assert!(run.stderr.contains(said), "{words:?}: {run}");
    }
    assert_eq!(home.path("incoming").read_dir_utf8().unwrap().count(), 0, "nothing of it is kept");
    // Another sound content under the same name (I3).
    assert_eq!(run(&["127.0.0.1", "main", good.as_str()]).code(), Some(0));
    let other = synthetic::switched_segment(
        Timeline::FIRST,
        SegmentNo::new(1),
        SegmentSize::from_bytes(SEGMENT).unwrap(),
        SystemId::new(SYSTEM_ID),
        PgVersion::new(170_000),
        100_000,
    );
    fs::write(&good, other).unwrap();
    assert_eq!(run(&["127.0.0.1", "main", good.as_str()]).code(), Some(1));
    assert!(fs::read(home.path(&format!("incoming/{}", segment(1)))).unwrap() == wal(1), "the first stays");
}

/// Without the wrapper, to a port where nobody listens.
fn refused_port(home: &Home, words: &[&str]) -> Run {
    let mut command = home.world.command(home.world.path().join("bin/barman-wal-archive"));
    Run::of(command.env("PATH", barman_testkit::os::PATH).args(words)).unwrap()
}

#[test]
fn wal_restore_brings_the_file_whole_or_leaves_the_destination_alone() {
    let Some((home, line)) = scene(ours) else { return };
    for number in 1..=2 {
        home.write(&format!("wals/{}/{}", &segment(number)[..16], segment(number)), wal(number));
    }
    let packed = home.path(&format!("wals/{}/{}", &segment(2)[..16], segment(2)));
    assert!(std::process::Command::new("gzip").args(["-n", packed.as_str()]).status().unwrap().success());
    fs::rename(format!("{packed}.gz"), &packed).unwrap();
    home.write("streaming/000000010000000000000003.partial", {
        let mut bytes = wal(3);
        bytes[600_000..].fill(0);
        bytes
    });
    home.barman(&["list-servers"]);
    let data = home.world.dir().subdir("pgdata").unwrap();
    let dest = data.join("RECOVERYXLOG");
    let fetch = |options: &[&str], wal: &str| {
        fs::write(&dest, "what was there before").unwrap();
        home.world.account().own_tree(&data).unwrap();
        let words = [options, &["127.0.0.1", "main", wal, dest.as_str()]].concat();
        let logins = line.sshd.logins().unwrap();
        let run = line.run(&home.world, "barman-wal-restore", &words);
        assert_eq!(data.read_dir_utf8().unwrap().count(), 1, "a temporary file stays");
        (run, line.sshd.logins().unwrap() - logins)
    };
    for (options, number) in [(&[][..], 1), (&["-P"], 1), (&[], 2), (&["--keep-compression"], 2)] {
        let (run, logins) = fetch(options, &segment(number));
        assert_eq!((run.code(), logins), (Some(0), 1), "{options:?}: {run}");
        assert!(fs::read(&dest).unwrap() == wal(number), "{options:?} {number}");
    }
    let (run, _) = fetch(&["-P"], &segment(3));
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(fs::read(&dest).unwrap()[..600_000] == wal(3)[..600_000]);
    for (options, wal, status, logins) in [
        (&[][..], segment(3), 1, 1),
        (&[], segment(9), 1, 1),
        (&[], "00000002.history".to_owned(), 1, 1),
        (&[], "x".to_owned(), 3, 1),
    ] {
        let (run, made) = fetch(options, &wal);
        assert_eq!((run.code(), made), (Some(status), logins), "{wal}: {run}");
        assert_eq!(fs::read_to_string(&dest).unwrap(), "what was there before", "{wal}");
    }
    let run = line.run(&home.world, "barman-wal-restore", &["127.0.0.1", "main", &segment(1), data.as_str()]);
    assert_eq!(run.code(), Some(3), "{run}");
    let test = line.run(&home.world, "barman-wal-restore", &["-t", "127.0.0.1", "main", &segment(1), "x"]);
    assert_eq!(
        (test.code(), test.stdout.as_str()),
        (Some(0), "Ready to retrieve WAL files from the server main\n\n")
    );
}

/// I25: a host that cannot be reached is not the end of the WAL.
#[test]
fn i25_wal_restore_tells_trouble_from_the_end_of_the_wal() {
    let Some((home, mut line)) = scene(ours) else { return };
    let user = line.sshd.account().name.clone();
    line.sshd.stop().unwrap();
    for (files, status) in [
        (&[("PG_VERSION", "17"), ("recovery.signal", "")][..], 126),
        (&[("PG_VERSION", "17"), ("standby.signal", "")], 2),
        (&[("PG_VERSION", "11"), ("recovery.conf", "restore_command = 'x'\n")], 126),
        (&[], 2),
    ] {
        let data = tempfile::tempdir_in(home.world.path()).unwrap();
        let data = Utf8Path::from_path(data.path()).unwrap();
        for (name, content) in files {
            fs::write(data.join(name), content).unwrap();
        }
        home.world.account().own_tree(data).unwrap();
        let mut command = home.world.command(home.world.path().join("bin/barman-wal-restore"));
        let words = ["-U", &user, "127.0.0.1", "main", &segment(1), "RECOVERYXLOG"];
        let run = Run::of(command.args(words).current_dir(data)).unwrap();
        assert_eq!(run.code(), Some(status), "{files:?}: {run}");
        assert!(run.stderr.contains("Connection problem with ssh"), "{run}");
        assert!(!data.join("RECOVERYXLOG").exists());
    }
}

/// A server that ships its WAL with one, and its restored copy that fetches it with the other.
#[test]
fn a_server_archives_and_recovers_through_both() {
    if pg::require(17).is_none() {
        return;
    }
    let mut world = World::in_memory().unwrap();
    world.server("main").conninfo("host=/nowhere").option("backup_method", "local-rsync");
    world.barman(&["list-servers"]).unwrap();
    let Some(line) = Line::to(&world, &world.path().join("bin")) else { return };
    let (user, bin) = (line.sshd.account().name.clone(), world.path().join("bin"));
    let remote = format!("-U {user} -c {} 127.0.0.1 main", world.config_path());
    let state = world.path().join("state");
    let archive = format!(
        "PATH={} {bin}/barman-wal-archive --zstd --native-state-dir {state} {remote} %p",
        world.search_path()
    );
    let cluster = Cluster::builder(17)
        .wal_segment_size_mb(1)
        .conf("archive_mode", "on")
        .conf("archive_command", archive)
        .start()
        .unwrap();
    world
        .server("main")
        .conninfo(cluster.conninfo_tcp())
        .option("archiver", "on")
        .option("backup_options", "concurrent_backup");
    world.write_config().unwrap();
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").unwrap();
    world.barman(&["backup", "--wait", "main"]).unwrap().ok().unwrap();
    cluster.psql("INSERT INTO t SELECT generate_series(1001, 20000)").unwrap();
    cluster.archive_now().unwrap();
    world.barman(&["archive-wal", "main"]).unwrap().ok().unwrap();
    let place = world.path().join("restored/data");
    let command = format!("barman-wal-restore {remote} %f %p");
    let words = ["restore", "--get-wal", "--restore-command", &command, "main", "latest", place.as_str()];
    world.barman(&words).unwrap().ok().unwrap();
    let server = Cluster::restored(17, &place).env("PATH", world.search_path()).start().unwrap();
    assert_eq!(server.psql("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), "20000|f");
}
