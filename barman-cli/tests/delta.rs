//! `restore --delta-restore`: into a cluster that went on after the backup, with every kind of backup, here and over ssh, and
//! killed on the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster, StopMode, tool, verify_cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::Run;
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::Scene;

/// A server with backups of this method.
fn scene(major: u32, method: &str, compression: &str) -> Scene {
    let mut scene = Scene::new(major);
    let conninfo = scene.cluster.conninfo();
    scene
        .world
        .server("main")
        .option("backup_method", method)
        .option("streaming_conninfo", conninfo)
        .option("streaming_archiver", "off")
        .option("reuse_backup", "off");
    if let Some(bin) = tool(major, "pg_basebackup") {
        scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    }
    if !compression.is_empty() {
        scene.world.server("main").option("backup_compression", compression);
    }
    scene.fill(3000);
    scene
}

/// A place with the restored cluster of a backup that went on since.
struct Place {
    pgdata: Utf8PathBuf,
    space: Utf8PathBuf,
    id: String,
}

impl Place {
    /// Restores the backup, lets the server write into it, stops the server, and puts some litter there.
    fn new(scene: &Scene) -> Self {
        let id = scene.ids().pop().unwrap();
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        let pgdata = scene.world.path().join("restored");
        let place = Self { space: format!("{pgdata}-ts1").into(), pgdata, id };
        scene.ours(&place.words(scene, &[]).each());
        let mut restored = Cluster::open_restored(scene.cluster.major(), &place.pgdata).unwrap();
        restored.psql("UPDATE u SET filler = 'changed' WHERE n < 100").unwrap();
        restored.psql("CREATE TABLE later AS SELECT 1 AS n").unwrap();
        restored.psql("DROP TABLE t; CHECKPOINT").unwrap();
        // The server is there: it is left alone.
        let run = scene.world.barman(&place.words(scene, &["--delta-restore"]).each()).unwrap();
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(run.stderr.contains("a PostgreSQL server runs in the destination folder"), "{run}");
        assert_eq!(restored.psql("SELECT n FROM later").unwrap(), "1");
        restored.stop(StopMode::Fast).unwrap();
        for name in [place.pgdata.join("base/litter"), place.pgdata.join("standby.signal")] {
            fs::write(&name, "litter").unwrap();
            scene.cluster.account().own(&name).unwrap();
        }
        // A place that is not this cluster's own may be that of a server that runs, as here.
        let live = format!("ts1:{}", scene.cluster.tablespace_dir("ts1"));
        let words =
            ["restore", "--delta-restore", "--tablespace", &live, "main", &place.id, place.pgdata.as_str()];
        let run = scene.world.barman(&words).unwrap();
        assert!(
            run.code() == Some(1) && run.stderr.contains("for the tablespace 'ts1' is not empty"),
            "{run}"
        );
        assert!(place.pgdata.join("global/pg_control").exists());
        // Without being asked for it nothing is overwritten.
        let run = scene.world.barman(&place.words(scene, &[]).each()).unwrap();
        assert!(run.code() == Some(1) && run.stderr.contains("is not empty"), "{run}");
        place
    }

    fn words(&self, scene: &Scene, options: &[&str]) -> Words {
        let mut words = vec!["restore".to_owned(), "--tablespace".to_owned(), scene.relocation(&self.pgdata)];
        words.extend(options.iter().map(|o| (*o).to_owned()));
        words.extend(["main".to_owned(), self.id.clone(), self.pgdata.to_string()]);
        Words(words)
    }

    /// Inode, time and content of every file of the data directory and the tablespace.
    fn files(&self) -> BTreeMap<Utf8PathBuf, (u64, i64, Vec<u8>)> {
        let mut all = BTreeMap::new();
        for root in [&self.pgdata, &self.space] {
            walk(root, &mut all);
        }
        all
    }

    fn prove(&self, scene: &Scene) {
        assert!(!self.pgdata.join("base/litter").exists() && !self.pgdata.join("standby.signal").exists());
        let mut restored = Cluster::open_restored(scene.cluster.major(), &self.pgdata).unwrap();
        let sums = "SELECT (SELECT sum(n) FROM t) || '|' || (SELECT sum(n) FROM u WHERE filler <> 'changed')";
        assert_eq!(restored.psql(sums).unwrap(), scene.cluster.psql(sums).unwrap());
        let verified = verify_cluster(&mut restored).unwrap();
        assert!(verified.pages > 0, "{verified:?}");
        restored.stop(StopMode::Fast).unwrap();
    }
}

struct Words(Vec<String>);

impl Words {
    fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

fn walk(dir: &Utf8Path, all: &mut BTreeMap<Utf8PathBuf, (u64, i64, Vec<u8>)>) {
    for entry in dir.read_dir_utf8().unwrap().map(Result::unwrap) {
        let facts = entry.path().symlink_metadata().unwrap();
        if facts.is_dir() {
            walk(entry.path(), all);
        } else if facts.is_file() {
            let content = fs::read(entry.path()).unwrap();
            all.insert(entry.path().to_owned(), (facts.ino(), facts.mtime(), content));
        }
    }
}

/// A delta restore; gives how many files it says that it kept, and how many there are.
fn delta(scene: &Scene, place: &Place, options: &[&str]) -> (usize, usize) {
    // Other names of a file that stays equal and of one that may have changed: neither is written through (I34).
    let twins = ["PG_VERSION", "global/1262"].map(|name| {
        let twin = scene.world.path().join(format!("twin-{}", name.replace('/', "-")));
        fs::hard_link(place.pgdata.join(name), &twin).unwrap();
        (fs::read(&twin).unwrap(), twin)
    });
    let before = place.files();
    let run = scene.ours(&place.words(scene, &[&["--delta-restore"], options].concat()).each());
    assert!(run.stderr.contains("is kept in"), "the WAL of the old cluster: {run}");
    for (content, twin) in twins {
        assert!(fs::read(&twin).unwrap() == content, "{twin} was written through its other name");
        assert_eq!(fs::metadata(&twin).unwrap().nlink(), 1, "{twin}");
    }
    let after = place.files();
    let said = run.stdout.lines().find_map(|line| line.strip_prefix("Delta restore: ")).unwrap();
    let kept: usize = said.split(' ').next().unwrap().parse().unwrap();
    let same = after.iter().filter(|(path, now)| before.get(*path).is_some_and(|then| then == *now)).count();
    assert!(same >= kept, "{kept} are said to have stayed, {same} have");
    place.prove(scene);
    (kept, after.len())
}

fn every_kind(major: u32, method: &str, compression: &str, who: &dyn Fn(&Scene, &[&str]) -> Run) {
    if pg::require(major).is_none() {
        return;
    }
    let scene = scene(major, method, compression);
    who(&scene, &["backup", "--wait", "main"]);
    let place = Place::new(&scene);
    let (kept, all) = delta(&scene, &place, &["--jobs", "2"]);
    assert!(kept > all / 2, "{method} {compression}: {kept} of {all} files stayed");
}

fn ours(scene: &Scene, words: &[&str]) -> Run {
    scene.ours(words)
}

fn theirs(scene: &Scene, words: &[&str]) -> Run {
    scene.theirs(words)
}

#[test]
fn delta_of_copied_backups() {
    every_kind(12, "local-rsync", "", &ours);
}

#[test]
fn delta_of_streamed_backups() {
    every_kind(17, "postgres", "", &ours);
}

#[test]
fn delta_of_packed_backups() {
    every_kind(11, "postgres", "zstd", &ours);
}

/// Of Barman's backups there are no checksums, or only PostgreSQL's.
#[test]
fn delta_of_backups_that_barman_took() {
    if Barman::require().is_some() {
        every_kind(15, "local-rsync", "", &theirs);
        every_kind(15, "postgres", "gzip", &theirs);
    }
}

/// An incremental backup: the place is compared with what its chain gives.
#[test]
fn delta_of_chains() {
    if pg::require(17).is_none() {
        return;
    }
    for compression in ["", "lz4"] {
        let scene = scene(17, "postgres", compression);
        scene.cluster.psql("ALTER SYSTEM SET summarize_wal = on").unwrap();
        scene.cluster.psql("SELECT pg_reload_conf()").unwrap();
        scene.cluster.poll("SHOW summarize_wal", "on").unwrap();
        scene.ours(&["backup", "--wait", "main"]);
        scene.cluster.psql("UPDATE t SET filler = 'new' WHERE n % 300 = 0").unwrap();
        scene.ours(&["backup", "--wait", "--incremental", "latest", "main"]);
        let place = Place::new(&scene);
        let (kept, all) = delta(&scene, &place, &["--jobs", "2"]);
        if !compression.is_empty() {
            // The blocks that wait are put where it is said.
            let fresh = scene.world.path().join("fresh");
            let space = scene.relocation(&fresh);
            let staging = ["--staging-path", "/nowhere/at/all", "--tablespace", &space];
            let words = [&["restore"], &staging[..], &["main", "latest", fresh.as_str()]].concat();
            let run = scene.world.barman(&words).unwrap();
            assert!(run.code() == Some(1) && run.stderr.contains("/nowhere/at/all"), "{run}");
        }
        // Of files that are put together from archives there is no checksum before that is done: they are written.
        let least = if compression.is_empty() { all / 2 } else { all / 10 };
        assert!(kept > least, "{compression}: {kept} of {all} files stayed");
    }
}

/// The other host is asked for sums; of packed backups everything is written there.
#[test]
fn delta_over_ssh() {
    if pg::require(15).is_none() || Sshd::require().is_none() {
        return;
    }
    for (method, compression) in [("local-rsync", ""), ("postgres", "zstd")] {
        let scene = scene(15, method, compression);
        scene.ours(&["backup", "--wait", "main"]);
        let place = Place::new(&scene);
        let sshd = Sshd::start().unwrap();
        let ssh = sshd.ssh_command();
        let (kept, all) = delta(&scene, &place, &["--remote-ssh-command", &ssh]);
        if compression.is_empty() {
            assert!(kept > all / 2, "{kept} of {all} files stayed");
        } else {
            assert_eq!(kept, 0);
        }
    }
}

/// I23, I27: killed at any moment, the destination does not start, and the same command completes it. A point in time, so that
/// WAL is put somewhere else, too.
#[test]
fn i23_a_killed_delta_restore_is_completed_by_the_same_command() {
    if pg::require(15).is_none() {
        return;
    }
    for (method, compression) in [("local-rsync", ""), ("postgres", "zstd")] {
        let scene = scene(15, method, compression);
        scene.ours(&["backup", "--wait", "main"]);
        let target = scene.cluster.psql("SELECT pg_current_wal_insert_lsn()").unwrap();
        scene.cluster.psql("CREATE TABLE after_the_target AS SELECT 1 AS n").unwrap();
        let place = Place::new(&scene);
        let options = ["--delta-restore", "--target-lsn", &target, "--target-action", "promote"];
        let words = place.words(&scene, &options);
        let began = Instant::now();
        scene.ours(&words.each());
        let usual = began.elapsed();
        let mut killed = 0;
        for part in 1..=12 {
            let mut command = scene.world.barman_command(&words.each()).unwrap();
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(usual.as_secs_f64() * f64::from(part) / 14.0));
            child.kill().unwrap();
            killed += u32::from(child.wait().unwrap().code().is_none());
            if place.pgdata.join(".barman-native-restore").exists() {
                assert!(!place.pgdata.join("global/pg_control").exists(), "it could be started");
            }
        }
        assert!(killed > 0, "it was always faster");
        scene.ours(&words.each());
        let mut restored = Cluster::open_restored(15, &place.pgdata).unwrap();
        assert_eq!(restored.psql("SELECT sum(n) FROM t").unwrap(), "4501500");
        assert_eq!(
            restored.psql("SELECT count(*) FROM pg_class WHERE relname = 'after_the_target'").unwrap(),
            "0"
        );
        verify_cluster(&mut restored).unwrap();
    }
}
