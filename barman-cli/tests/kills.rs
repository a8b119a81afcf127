//! Twenty times SIGKILL at random moments of backup, archive-wal and restore: nothing is lost, nothing is stuck, nothing
//! half done passes for done (I2, I8, I23).

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use barman_testkit::pg::{self, Cluster, Wait};
use barman_testkit::world::Run;
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Scene, names};

const MAJOR: u32 = 15;

/// The moments are the same in every run; the machine's own timing is not.
const SEED: u64 = 20_261_123;

/// SplitMix64.
struct Random(u64);

impl Random {
    /// A fraction of 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A command that is killed.
struct Victim<'a> {
    scene: &'a Scene,
    random: Random,
    /// How long the command takes when nobody kills it.
    usual: Duration,
    kills: u32,
}

impl Victim<'_> {
    /// Runs a command and kills it at a random moment. Gives whether it was killed (else it was faster).
    fn kill(&mut self, arguments: &[&str]) -> bool {
        let mut command = self.scene.world.barman_command(arguments).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(self.usual.mul_f64(self.random.fraction()));
        child.kill().unwrap();
        let killed = child.wait().unwrap().code().is_none();
        self.kills += u32::from(killed);
        if !killed {
            self.usual = self.usual.mul_f64(0.8);
        }
        killed
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let began = Instant::now();
    run();
    began.elapsed()
}

fn scene() -> Scene {
    let mut scene = Scene::new(MAJOR);
    // A segment was archived: checks need not wait for one.
    scene.world.server("main").option("minimum_redundancy", "0");
    scene.fill(20_000);
    scene
}

#[test]
fn i8_a_killed_backup_is_never_done_and_never_in_the_way() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = scene();
    let usual = timed(|| drop(scene.ours(&["backup", "--wait", "main"])));
    let mut victim = Victim { scene: &scene, random: Random(SEED), usual, kills: 0 };
    for round in 0..24 {
        if victim.kills == 8 {
            break;
        }
        let before = scene.infos();
        victim.kill(&["backup", "--wait", "--reuse-backup", ["link", "off"][round % 2], "main"]);
        for (id, info) in scene.infos() {
            match (before.get(&id).map(|b| b.get("status")), info.get("status")) {
                // What a killed run left is FAILED as soon as the next one has begun.
                (Some("EMPTY" | "STARTED"), "EMPTY" | "STARTED" | "FAILED") => {}
                (Some(old), new) => assert!(old == new || new == "DONE", "{id}: {old} became {new}"),
                (None, "EMPTY" | "STARTED" | "WAITING_FOR_WALS") => {}
                (None, "DONE") => assert!(scene.base(&id).join("data/global/pg_control").exists()),
                (None, other) => panic!("{id} is {other}"),
            }
        }
    }
    assert_eq!(victim.kills, 8);
    scene.ours(&["backup", "--wait", "main"]);
    scene.cluster.psql("INSERT INTO t VALUES (0)").unwrap();
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let infos = scene.infos();
    let (mut failed, mut done) = (0, 0);
    for (id, info) in infos.iter().rev() {
        match info.get("status") {
            "FAILED" => {
                failed += 1;
                assert!(info.get("error").contains("killed"), "{id}: {}", info.get("error"));
            }
            "DONE" => {
                done += 1;
                // What says that it is complete can be restored; a few show it.
                if done <= 3 {
                    restored(&scene, id);
                }
            }
            status => assert_eq!(status, "WAITING_FOR_WALS", "{id}"),
        }
    }
    assert!(failed > 0, "no kill came in the middle: {infos:?}");
}

#[test]
fn i18_a_deletion_cut_short_does_not_stop_the_next_backup() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = scene();
    scene.ours(&["backup", "--wait", "main"]);
    let half = scene.ids()[0].clone();
    // As a killed deletion leaves it: marked, and some files gone.
    let mark = scene.meta().join(format!("{half}-delete_this"));
    fs::write(&mark, "delete").unwrap();
    scene.world.account().own(&mark).unwrap();
    fs::remove_dir_all(scene.base(&half).join("data/base")).unwrap();
    scene.ours(&["backup", "--wait", "main"]);
    let ids = scene.ids();
    let next = ids.iter().find(|id| **id != half).unwrap();
    scene.cluster.psql("INSERT INTO t VALUES (0)").unwrap();
    scene.cluster.archive_now().unwrap();
    restored(&scene, next);
    let destination = scene.world.path().join("half");
    let place = scene.relocation(&destination);
    let run = scene.world.barman(&["restore", "--tablespace", &place, "main", &half, destination.as_str()]);
    let run = run.unwrap();
    assert!(refused(&run, "removal was begun"), "{run}");
}

/// Restores to the end and looks at the rows.
fn restored(scene: &Scene, id: &str) {
    let destination = scene.world.path().join(format!("restored-{id}"));
    let place = scene.relocation(&destination);
    scene.ours(&["restore", "--tablespace", &place, "main", id, destination.as_str()]);
    let cluster = Cluster::open_restored(MAJOR, &destination).unwrap();
    let rows = cluster.psql("SELECT (SELECT count(*) FROM t) || '|' || (SELECT count(*) FROM u)").unwrap();
    assert_eq!(rows, "20001|20000", "{id}");
}

#[test]
fn i2_a_killed_archiver_loses_no_wal() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = scene();
    let incoming = scene.world.incoming("main");
    let mut truth = BTreeMap::new();
    batch(&scene, &mut truth);
    let usual = timed(|| drop(scene.ours(&["archive-wal", "main"])));
    let mut victim = Victim { scene: &scene, random: Random(SEED + 1), usual, kills: 0 };
    for round in 0..24 {
        if victim.kills == 8 {
            break;
        }
        batch(&scene, &mut truth);
        // A sender that saw no answer sends again.
        let again = truth.iter().nth(round).unwrap();
        fs::write(incoming.join(again.0), again.1).unwrap();
        scene.world.account().own(incoming.join(again.0)).unwrap();
        victim.kill(&["archive-wal", "main"]);
        for (name, content) in &truth {
            let waits = fs::read(incoming.join(name)).is_ok_and(|waiting| waiting == *content);
            assert!(waits || archived(&scene, name).as_ref() == Some(content), "{name} is lost");
        }
    }
    assert_eq!(victim.kills, 8);
    scene.ours(&["archive-wal", "main"]);
    assert_eq!(names(&incoming), Vec::<String>::new());
    assert_eq!(names(&scene.world.home().join("main/errors")), Vec::<String>::new());
    for (name, content) in &truth {
        assert_eq!(archived(&scene, name).as_ref(), Some(content), "{name}");
    }
    // One line for each file, and nothing of the killed runs lies about.
    let index = fs::read_to_string(scene.world.home().join("main/wals/main-xlog.db")).unwrap();
    let mut lines: Vec<&str> = index.lines().filter_map(|line| line.split('\t').next()).collect();
    lines.sort_unstable();
    let dirs = names(&scene.world.home().join("main/wals")).into_iter().filter(|name| !name.ends_with(".db"));
    let mut there: Vec<String> =
        dirs.flat_map(|dir| names(&scene.world.home().join("main/wals").join(dir))).collect();
    there.sort();
    assert_eq!(lines, there);
}

/// Lets the server close some segments; remembers everything that waits in incoming.
fn batch(scene: &Scene, truth: &mut BTreeMap<String, Vec<u8>>) {
    for _ in 0..6 {
        scene.cluster.switch_wal().unwrap();
    }
    scene.cluster.archive_now().unwrap();
    let incoming = scene.world.incoming("main");
    for name in names(&incoming) {
        truth.entry(name.clone()).or_insert_with(|| fs::read(incoming.join(name)).unwrap());
    }
}

/// The plain content of an archived segment.
fn archived(scene: &Scene, name: &str) -> Option<Vec<u8>> {
    let path = scene.world.home().join("main/wals").join(name.get(..16)?).join(name);
    path.exists().then(|| {
        let unpacked = scene.world.command("gzip").arg("-dc").stdin(fs::File::open(&path).unwrap()).output();
        unpacked.unwrap().stdout
    })
}

#[test]
fn i23_a_killed_restore_cannot_be_started() {
    if pg::require(MAJOR).is_none() {
        return;
    }
    let scene = scene();
    scene.ours(&["backup", "--wait", "main"]);
    scene.cluster.psql("INSERT INTO t VALUES (0)").unwrap();
    scene.cluster.archive_now().unwrap();
    let destination = scene.world.path().join("restored");
    let place = scene.relocation(&destination);
    let arguments = ["restore", "--tablespace", &place, "main", "latest", destination.as_str()];
    let usual = timed(|| drop(scene.ours(&arguments)));
    wipe(&destination);
    let mut victim = Victim { scene: &scene, random: Random(SEED + 2), usual, kills: 0 };
    let mut partly = 0;
    for _ in 0..24 {
        if victim.kills == 4 && partly > 0 {
            break;
        }
        let killed = victim.kill(&arguments);
        let begun = !names(&destination).is_empty();
        if killed && begun && !destination.join("global/pg_control").exists() {
            if partly == 0 {
                let start = Cluster::restored(MAJOR, &destination).wait(Wait::Recovered).start();
                assert!(start.is_err(), "half a restore was started");
            }
            partly += 1;
            let again = scene.world.barman(&arguments).unwrap();
            assert!(refused(&again, "is not empty"), "{again}");
        }
        wipe(&destination);
    }
    assert!(victim.kills >= 4 && partly > 0, "{} kills, {partly} in the middle", victim.kills);
    scene.ours(&arguments);
    let cluster = Cluster::open_restored(MAJOR, &destination).unwrap();
    assert_eq!(cluster.psql("SELECT count(*) FROM t").unwrap(), "20001");
}

fn refused(run: &Run, why: &str) -> bool {
    run.code() == Some(1) && run.stderr.contains(why)
}

/// Empties the places of a restore, as a user would before the next attempt.
fn wipe(destination: &Utf8Path) {
    for path in [destination.to_owned(), Utf8PathBuf::from(format!("{destination}-ts1"))] {
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
    }
}
