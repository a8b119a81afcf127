//! One home, two commands: the original Barman goes on with what we wrote, and we with what it wrote, on PostgreSQL 15.

use std::fs;
use std::os::unix::fs::MetadataExt;

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster, verify_cluster};
use barman_testkit::ssh::Sshd;
use barman_testkit::world::Run;
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Info, Scene, names};

const MAJOR: u32 = 15;

fn ready() -> bool {
    pg::require(MAJOR).is_some() && Barman::require().is_some()
}

/// The rows after a restore to [`Damage::before`].
const GOOD: &str = "1200|1000";

/// Rows that a restore must bring back, then damage, then rows that it must not bring.
struct Damage {
    before: String,
}

impl Damage {
    fn of(scene: &Scene) -> Damage {
        scene.cluster.psql("INSERT INTO t SELECT n FROM generate_series(1001, 1200) AS n").unwrap();
        scene.cluster.archive_now().unwrap();
        let before = scene.moment();
        scene.cluster.psql("DROP TABLE t").unwrap();
        scene.cluster.psql("INSERT INTO u SELECT n FROM generate_series(1, 5) AS n").unwrap();
        scene.cluster.archive_now().unwrap();
        Damage { before }
    }
}

/// Starts what was restored and looks at it.
fn prove(destination: &Utf8Path) {
    let mut restored = Cluster::open_restored(MAJOR, destination).unwrap();
    let rows = restored.psql("SELECT (SELECT count(*) FROM t) || '|' || (SELECT count(*) FROM u)").unwrap();
    assert_eq!(rows, GOOD);
    let verified = verify_cluster(&mut restored).unwrap();
    assert!(verified.pages > 0 && verified.tables > 0, "{verified:?}");
}

/// Restores to before the damage with one of the two commands, and proves the result.
fn restore(scene: &Scene, who: &dyn Fn(&[&str]) -> Run, id: &str, damage: &Damage) -> Utf8PathBuf {
    let destination = scene.world.path().join(format!("restored-{}", names(scene.world.path()).len()));
    let place = scene.relocation(&destination);
    let arguments = ["restore", "--target-time", &damage.before, "--target-action", "promote"];
    who(&[&arguments[..], &["--tablespace", &place, "main", id, destination.as_str()]].concat());
    prove(&destination);
    destination
}

/// The JSON of a command.
fn json(run: Run) -> serde_json::Value {
    run.json().unwrap()
}

/// Bytes as Barman counts them: everything below `base/<id>` but our sidecar.
fn size_of(dir: &Utf8Path) -> u64 {
    let mut size = 0;
    for entry in dir.read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        match () {
            () if entry.file_name() == ".native" => {}
            () if metadata.is_dir() => size += size_of(entry.path()),
            () => size += metadata.len(),
        }
    }
    size
}

#[test]
fn barman_goes_on_with_local_backups_of_ours() {
    if !ready() {
        return;
    }
    let scene = Scene::new(MAJOR);
    ours_then_theirs(&scene);
}

#[test]
fn barman_goes_on_with_backups_of_ours_over_ssh() {
    if !ready() || Sshd::require().is_none() {
        return;
    }
    let mut scene = Scene::new(MAJOR);
    let sshd = Sshd::start().unwrap();
    scene.over_ssh(&sshd);
    ours_then_theirs(&scene);
}

fn ours_then_theirs(scene: &Scene) {
    scene.fill(1000);
    scene.ours(&["backup", "--wait", "--name", "first-of-ours", "main"]);
    scene.ours(&["backup", "--wait", "main"]);
    let damage = Damage::of(scene);
    scene.ours(&["archive-wal", "main"]);
    let ids = scene.ids();
    let [first, second] = ids.as_slice() else { panic!("{ids:?}") };

    // Lists and shows.
    let listed = scene.theirs(&["list-backups", "--minimal", "main"]).stdout;
    assert_eq!(listed.lines().collect::<Vec<_>>(), [second.as_str(), first]);
    let listed = json(scene.theirs(&["-f", "json", "list-backups", "main"]));
    for backup in listed["main"].as_array().unwrap() {
        assert_eq!(backup["status"], "DONE", "{listed}");
    }
    let shown = json(scene.theirs(&["-f", "json", "show-backup", "main", "first-of-ours"]));
    let shown = &shown["main"];
    assert_eq!((shown["backup_id"].as_str(), shown["status"].as_str()), (Some(first.as_str()), Some("DONE")));
    assert_eq!(shown["tablespaces"][0]["name"], "ts1", "{shown}");
    for (id, info) in scene.infos() {
        assert_eq!(info.get("size"), size_of(&scene.base(&id)).to_string(), "{id}");
    }
    for target in ["data", "wal", "full", "standalone"] {
        let listed = scene.theirs(&["list-files", "--target", target, "main", first]).stdout;
        assert!(!listed.is_empty(), "{target}");
        let missing: Vec<&str> = listed.lines().filter(|path| !Utf8Path::new(path).exists()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(target == "wal", !listed.contains("/data/PG_VERSION"), "{target}: {listed}");
    }
    scene.theirs(&["check-backup", "main", first]);
    let check = scene.world.oracle(&["check", "main"]).unwrap();
    assert_eq!(check.code(), Some(0), "{check}");

    // The form: the same keys in the same order as in a backup of Barman's own.
    let theirs = {
        let before = scene.ids();
        scene.theirs(&["backup", "--wait", "--name", "theirs", "main"]);
        let infos = scene.infos();
        let (id, info) = infos.into_iter().find(|(id, _)| !before.contains(id)).unwrap();
        assert_eq!(info.get("size"), size_of(&scene.base(&id)).to_string());
        info
    };
    let infos = scene.infos();
    assert_same_form(&infos[first], &theirs);

    restore(scene, &|a| scene.theirs(a), first, &damage);

    // Deletes: the whole backup goes, sidecar and all, and the other one, which shares its files, stays whole.
    assert!(scene.base(first).join(".native").is_dir());
    scene.theirs(&["delete", "main", first]);
    assert!(!scene.base(first).exists());
    assert!(!names(&scene.meta()).iter().any(|name| name.starts_with(first.as_str())));
    restore(scene, &|a| scene.theirs(a), second, &damage);
    restore(scene, &|a| scene.ours(a), second, &damage);
}

/// Equal keys in the same order, and values of the same shape.
fn assert_same_form(ours: &Info, theirs: &Info) {
    assert_eq!(ours.keys(), theirs.keys());
    for (key, value) in theirs.0.iter().filter(|(key, _)| key != "backup_name") {
        let mine = ours.get(key);
        assert_eq!(shape(mine), shape(value), "{key}: ours {mine}, theirs {value}");
    }
}

/// A value with every number, and every hexadecimal word of a WAL name, made the same.
fn shape(value: &str) -> String {
    let mut shape = String::new();
    for c in value.chars() {
        let c = if c.is_ascii_digit() || matches!(c, 'A'..='F') { '0' } else { c };
        if c != '0' || !shape.ends_with('0') {
            shape.push(c);
        }
    }
    // Python prints small floats as 9.3e-05.
    shape.replace("0.0", "0").replace("0e-0", "0")
}

#[test]
fn we_go_on_with_what_barman_wrote() {
    if !ready() || Sshd::require().is_none() {
        return;
    }
    let mut scene = Scene::new(MAJOR);
    let sshd = Sshd::start().unwrap();
    scene.over_ssh(&sshd);
    scene.fill(1000);
    // Barman does not ask for a segment by itself when its check comes first.
    scene.cluster.archive_now().unwrap();
    scene.theirs(&["archive-wal", "main"]);
    scene.theirs(&["backup", "--wait", "--name", "theirs", "main"]);
    let theirs = scene.ids()[0].clone();

    // A backup of ours on top: Barman's has no proofs, so every file is copied; the next one links.
    scene.ours(&["backup", "--wait", "--reuse-backup", "link", "main"]);
    scene.ours(&["backup", "--wait", "--reuse-backup", "link", "main"]);
    let ids = scene.ids();
    let [_, second, third] = ids.as_slice() else { panic!("{ids:?}") };
    let inode = |id: &str, file: &str| fs::metadata(scene.base(id).join("data").join(file)).unwrap().ino();
    assert_ne!(inode(&theirs, "PG_VERSION"), inode(second, "PG_VERSION"));
    assert_eq!(inode(second, "PG_VERSION"), inode(third, "PG_VERSION"));

    // A mixed archive: some WAL by each.
    let damage = Damage::of(&scene);
    scene.theirs(&["archive-wal", "main"]);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    scene.cluster.archive_now().unwrap();
    scene.theirs(&["archive-wal", "main"]);
    index_names_what_lies_there(&scene);
    for id in [&theirs, third] {
        restore(&scene, &|a| scene.ours(a), id, &damage);
    }
    restore(&scene, &|a| scene.theirs(a), third, &damage);

    // Both say the same of the same catalog.
    let both = |arguments: &[&str]| {
        let pick = |run: Run| json(run)["main"].clone();
        let arguments = [&["-f", "json"], arguments].concat();
        let (ours, theirs) = (pick(scene.ours(&arguments)), pick(scene.theirs(&arguments)));
        assert_eq!(ours, theirs, "{arguments:?}");
        assert!(!ours.is_null(), "{arguments:?}");
    };
    both(&["list-backups", "main"]);
    for id in [&theirs, second, third] {
        both(&["show-backup", "main", id]);
        for target in ["data", "wal", "full", "standalone"] {
            let listed = |run: Run| {
                let mut lines: Vec<String> = run.stdout.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let list = ["list-files", "--target", target, "main", id];
            let (ours, theirs) = (listed(scene.ours(&list)), listed(scene.theirs(&list)));
            assert!(ours == theirs && !ours.is_empty(), "{target} {id}: {ours:#?} {theirs:#?}");
        }
        scene.ours(&["check-backup", "main", id]);
    }

    // Deleting Barman's backup leaves nothing of it; what remains is whole, for both.
    scene.ours(&["delete", "main", &theirs]);
    assert!(!scene.base(&theirs).exists());
    assert!(!names(&scene.meta()).iter().any(|name| name.starts_with(theirs.as_str())));
    index_names_what_lies_there(&scene);
    both(&["list-backups", "main"]);
    scene.theirs(&["check-backup", "main", second]);
    restore(&scene, &|a| scene.ours(a), second, &damage);
}

/// The index has one line for each file of the archive, in order, and nothing else.
fn index_names_what_lies_there(scene: &Scene) {
    let wals = scene.world.home().join("main/wals");
    let mut there: Vec<String> = names(&wals)
        .iter()
        .filter(|name| !name.ends_with("xlog.db"))
        .flat_map(|dir| match wals.join(dir) {
            path if path.is_dir() => names(&path),
            _ => vec![dir.clone()],
        })
        .collect();
    there.sort();
    let index = fs::read_to_string(wals.join("main-xlog.db")).unwrap();
    let mut said: Vec<&str> = index.lines().filter_map(|line| line.split('\t').next()).collect();
    said.sort_unstable();
    assert_eq!(said, there);
}

#[test]
fn a_manifest_in_barmans_form_that_postgresql_accepts() {
    if !ready() {
        return;
    }
    let mut scene = Scene::new(MAJOR);
    scene.world.server("main").option("autogenerate_manifest", "true");
    scene.fill(1000);
    scene.ours(&["backup", "--wait", "main"]);
    scene.ours(&["backup", "--wait", "main"]);
    let ids = scene.ids();
    for id in &ids {
        assert_eq!(scene.infos()[id].get("size"), size_of(&scene.base(id)).to_string());
        let data = scene.base(id).join("data");
        for major in [15, 17] {
            let Some(tool) = pg::tool(major, "pg_verifybackup") else {
                barman_testkit::skip(&format!("pg_verifybackup of {major} is not on this machine"));
                continue;
            };
            let verify = || Run::of(scene.world.command(&tool).args(["-n", data.as_str()])).unwrap();
            let said = verify();
            assert!(said.status.success(), "{said}");
            // It can fail.
            let victim = data.join("PG_VERSION");
            fs::rename(&victim, data.join("aside")).unwrap();
            assert!(!verify().status.success());
            fs::rename(data.join("aside"), &victim).unwrap();
        }
    }

    // The same backup, a manifest by each: equal but for the order of files.
    let path = scene.base(&ids[1]).join("data/backup_manifest");
    let ours = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    scene.theirs(&["generate-manifest", "main", &ids[1]]);
    let theirs = fs::read_to_string(&path).unwrap();
    assert_eq!(rows(&ours), rows(&theirs));
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), theirs.lines().collect());
    assert_eq!(ours[..2], theirs[..2]);
}

/// The lines of files, sorted, without the commas between them.
fn rows(manifest: &str) -> Vec<&str> {
    let files = manifest.lines().filter(|line| line.starts_with("{\"Checksum\""));
    let mut rows: Vec<&str> = files.map(|line| line.trim_end_matches([',', ']'])).collect();
    rows.sort_unstable();
    rows
}
