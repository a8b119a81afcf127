//! `export-backup` and `import-backup`: backups that travel between homes, ours and Barman's, and what is refused on the way.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use barman_testkit::oracle::Barman;
use barman_testkit::pg::{self, Cluster, tool, verify_cluster};
use barman_testkit::world::{Run, World};
use camino::{Utf8Path, Utf8PathBuf};

use crate::scene::{Scene, names};

fn scene(method: &str) -> Scene {
    let mut scene = Scene::new(15);
    let conninfo = scene.cluster.conninfo();
    let server = scene.world.server("main").option("backup_method", method);
    server
        .option("streaming_conninfo", conninfo)
        .option("streaming_archiver", "off")
        .option("reuse_backup", "off");
    if let Some(bin) = tool(15, "pg_basebackup") {
        scene.world.server("main").option("path_prefix", bin.parent().unwrap().as_str());
    }
    scene.fill(500);
    fs::create_dir(place(&scene)).unwrap();
    scene.world.account().own(place(&scene)).unwrap();
    scene
}

/// Where exports go.
fn place(scene: &Scene) -> Utf8PathBuf {
    scene.world.path().join("exports")
}

/// Exports a backup and gives the path of the archive, which is the only new one.
fn export(scene: &Scene, who: &dyn Fn(&[&str]) -> Run, id: &str, options: &[&str]) -> Utf8PathBuf {
    let before = names(&place(scene));
    let place = place(scene);
    let run = who(&[&["export-backup"], options, &["main", id, place.as_str()]].concat());
    let new: Vec<String> = names(&place).into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(new.len(), 1, "{run}");
    let path = place.join(&new[0]);
    assert!(run.stdout.ends_with(&format!("Export completed successfully: {path}\n")), "{run}");
    path
}

/// Restores a backup alone, starts it and looks at it.
fn prove(world: &World, who: &dyn Fn(&[&str]) -> Run, id: &str) {
    let destination = world.path().join(format!("restored-{}", names(world.path()).len()));
    let place = format!("ts1:{destination}-ts1");
    who(&[
        "restore",
        "--target-immediate",
        "--target-action",
        "promote",
        "--tablespace",
        &place,
        "main",
        id,
        destination.as_str(),
    ]);
    let mut restored = Cluster::open_restored(15, &destination).unwrap();
    let sums = "SELECT (SELECT sum(n) FROM t) || '|' || (SELECT sum(n) FROM u)";
    assert_eq!(restored.psql(sums).unwrap(), "125250|125250");
    let verified = verify_cluster(&mut restored).unwrap();
    assert!(verified.pages > 0 && verified.tables > 0, "{verified:?}");
}

fn sound(world: &World, id: &str) {
    let run = world.barman(&["verify-backup", "main", id]).unwrap().ok().unwrap();
    // All of it is known, tablespaces too.
    assert_eq!(run.stderr, "", "{run}");
}

/// Takes a backup away from its home, keep and all.
fn remove(scene: &Scene, id: &str) {
    scene.ours(&["keep", "--release", "main", id]);
    scene.ours(&["delete", "main", id]);
    assert!(scene.ids().is_empty());
}

/// Every method and packing, there and back with our own commands.
#[test]
fn backups_of_every_kind_travel() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = scene("local-rsync");
    for (method, packing, options) in [
        ("local-rsync", None, &[][..]),
        ("postgres", None, &["--compression", "gzip"]),
        ("postgres", Some("zstd"), &["--compression", "bzip2", "--compression-level", "1"]),
        ("postgres", Some("gzip"), &["--compression", "xz", "--compression-level", "0"]),
    ] {
        scene.world.server("main").option("backup_method", method);
        if let Some(packing) = packing {
            scene.world.server("main").option("backup_compression", packing);
        }
        scene.ours(&["backup", "--wait", "--name", "mine", "main"]);
        let id = scene.ids().pop().unwrap();
        let shown = |scene: &Scene| {
            let shown =
                scene.ours(&["-f", "json", "show-backup", "main", &id]).json().unwrap()["main"].clone();
            ["backup_name", "begin_wal", "end_wal", "begin_xlog", "mode", "size", "status", "tablespaces"]
                .map(|key| shown[key].clone())
        };
        let before = shown(&scene);
        let archive = export(&scene, &|words| scene.ours(words), "mine", options);
        // It has a name only when it is whole, and then the sum of its bytes stands in it.
        let sum = Run::of(scene.world.command("sha256sum").arg(&archive)).unwrap().stdout;
        assert!(archive.as_str().contains(&format!("-{}.tar", &sum[..8])), "{archive}");
        remove(&scene, &id);
        let run = scene.ours(&["import-backup", "main", archive.as_str()]);
        assert!(
            run.stdout.ends_with(&format!("Successfully imported backup '{id}' into server 'main'\n")),
            "{run}"
        );
        assert_eq!(shown(&scene), before);
        let keep = scene.ours(&["keep", "--status", "main", &id]);
        assert!(keep.stdout.contains("Keep: standalone"), "{keep}");
        sound(&scene.world, &id);
        prove(&scene.world, &|words| scene.ours(words), &id);
        assert!(names(&scene.world.home().join("main/base")).iter().all(|name| !name.starts_with('.')));
        scene.ours(&["check-backup", "main", &id]);
        remove(&scene, &id);
    }
}

/// One of the two commands.
type Who = fn(&Scene, &[&str]) -> Run;

/// What we export Barman imports and restores, and the other way round.
#[test]
fn exports_are_read_by_both() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let mut scene = scene("local-rsync");
    for (method, options) in [("local-rsync", &[][..]), ("postgres", &["--compression", "gzip"])] {
        scene.world.server("main").option("backup_method", method);
        let turns: [(&str, Who, Who); 2] =
            [("ours", Scene::ours, Scene::theirs), ("theirs", Scene::theirs, Scene::ours)];
        for (whose, from, to) in turns {
            scene.cluster.archive_now().unwrap();
            scene.ours(&["archive-wal", "main"]);
            from(&scene, &["backup", "--wait", "main"]);
            let id = scene.ids().pop().unwrap();
            let archive = export(&scene, &|words| from(&scene, words), &id, options);
            // The same members in the same order.
            let list =
                Run::of(scene.world.command("tar").args(["-tf", archive.as_str()])).unwrap().ok().unwrap();
            let tops: Vec<&str> = list.stdout.lines().map(|line| line.split('/').next().unwrap()).collect();
            let mut order = tops.clone();
            order.dedup();
            assert_eq!(
                order,
                ["identity.json", "backup.info", "barman.json", "backup", "wals", "xlog.db"],
                "{whose}"
            );
            remove(&scene, &id);
            to(&scene, &["import-backup", "main", archive.as_str()]);
            sound_or_told(&scene, whose, &id);
            prove(&scene.world, &|words| scene.ours(words), &id);
            prove(&scene.world, &|words| scene.theirs(words), &id);
            scene.theirs(&["check-backup", "main", &id]);
            remove(&scene, &id);
        }
    }
}

/// Python reads one stream only of each packing; we read whatever it writes.
#[test]
fn every_packing_is_read_by_both() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let scene = scene("local-rsync");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    for packing in ["gzip", "bzip2", "xz"] {
        let turns: [(Who, Who); 2] = [(Scene::ours, Scene::theirs), (Scene::theirs, Scene::ours)];
        for (from, to) in turns {
            let archive = export(&scene, &|words| from(&scene, words), &id, &["--compression", packing]);
            remove(&scene, &id);
            to(&scene, &["import-backup", "main", archive.as_str()]);
            sound(&scene.world, &id);
        }
    }
    prove(&scene.world, &|words| scene.ours(words), &id);
}

/// What Barman imported has the sidecar that we exported; what we imported from Barman has one from now on.
fn sound_or_told(scene: &Scene, whose: &str, id: &str) {
    assert!(scene.base(id).join(".native/manifest").exists(), "{whose}");
    sound(&scene.world, id);
}

/// A home that knows nothing yet: the server is lost, and so is the host of its backups.
#[test]
fn a_backup_comes_into_an_empty_home() {
    if pg::require(15).is_none() {
        return;
    }
    let scene = scene("postgres");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let archive = export(&scene, &|words| scene.ours(words), &id, &["--compression", "gzip"]);
    let mut world = World::new().unwrap();
    world
        .server("main")
        .conninfo("host=/nonexistent user=postgres dbname=postgres")
        .option("streaming_conninfo", "host=/nonexistent user=postgres")
        .option("backup_method", "postgres")
        .option("archiver", "on")
        .option("compression", "zstd");
    let ours = |words: &[&str]| world.barman(words).unwrap().ok().unwrap();
    ours(&["import-backup", "main", archive.as_str()]);
    sound(&world, &id);
    prove(&world, &ours, &id);
    let identity = fs::read_to_string(world.home().join("main/identity.json")).unwrap();
    assert_eq!(
        identity.trim(),
        fs::read_to_string(scene.world.home().join("main/identity.json")).unwrap().trim()
    );
    // WAL is read whatever it is packed in, and has its line in the index.
    let index = fs::read_to_string(world.home().join("main/wals/main-xlog.db")).unwrap();
    assert_eq!(index.lines().count(), 1, "{index}");
    // Another server's backup does not come in.
    let name = archive.file_name().unwrap().replace("-main-", "-other-");
    let other = world.path().join(name);
    fs::copy(&archive, &other).unwrap();
    let run = world.barman(&["import-backup", "main", other.as_str()]).unwrap();
    assert!(run.code() == Some(1) && run.stderr.contains("Expected filename to start with"), "{run}");
}

/// The tree of a home as far as a refused import may not change it.
fn state(scene: &Scene) -> Vec<String> {
    let home = scene.world.home().join("main");
    let mut state = Vec::new();
    for dir in ["base", "meta", "wals", "errors", "incoming"] {
        let tree = walk(&home.join(dir));
        state.extend(tree);
    }
    state.push(fs::read_to_string(home.join("wals/main-xlog.db")).unwrap_or_default());
    state
}

fn walk(dir: &Utf8Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        found.push(path.to_string());
        if path.is_dir() {
            found.extend(walk(&path));
        }
    }
    found
}

/// Unpacks an archive, lets a shell change it, and packs it again under its right name.
fn remade(scene: &Scene, archive: &Utf8Path, change: &str) -> Utf8PathBuf {
    let dir = scene.world.path().join("remade");
    let _ = fs::remove_dir_all(&dir);
    let script = format!(
        "set -e; mkdir {dir}; cd {dir}; tar xf {archive}; {change}; \
         tar cf ../new.tar identity.json backup.info barman.json backup $(ls -d more* 2>/dev/null || true) wals xlog.db; \
         sum=$(sha256sum ../new.tar | cut -c1-8); \
         to=$(echo {archive} | sed \"s/-[0-9a-f]*[.]tar$/-$sum.tar/\"); mv ../new.tar $to; printf %s $to"
    );
    let made = Run::of(std::process::Command::new("sh").args(["-c", &script])).unwrap().ok().unwrap();
    scene.world.account().own_tree(scene.world.path()).unwrap();
    Utf8PathBuf::from(made.stdout)
}

#[test]
fn what_cannot_be_trusted_is_refused_and_leaves_nothing() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let scene = scene("local-rsync");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let archive = export(&scene, &|words| scene.ours(words), &id, &[]);
    // In Barman's words.
    let both = |path: &Utf8Path| {
        let before = state(&scene);
        let words = ["import-backup", "main", path.as_str()];
        let (ours, theirs) = (scene.world.barman(&words).unwrap(), scene.world.oracle(&words).unwrap());
        let said = |run: &Run| (run.code(), run.stdout.clone(), run.stderr.clone());
        assert_eq!(said(&ours), said(&theirs));
        assert_eq!(ours.code(), Some(1), "{ours}");
        assert_eq!(state(&scene), before, "{ours}");
    };
    both(&archive);
    both("/nonexistent/backup-export-main-20260101T000000-20260101T000000-00000000.tar".into());
    let odd = scene.world.path().join("odd.tar");
    fs::copy(&archive, &odd).unwrap();
    both(&odd);
    let begin = scene.infos()[&id].get("begin_wal").to_owned();
    let wal = scene.world.home().join("main/wals").join(&begin[..16]).join(&begin);
    let bytes = fs::read(&wal).unwrap();
    remove(&scene, &id);
    let wrong = Utf8PathBuf::from(archive.as_str().rsplit_once('-').unwrap().0.to_owned() + "-00000000.tar");
    fs::copy(&archive, &wrong).unwrap();
    both(&wrong);
    let identity = scene.world.home().join("main/identity.json");
    let text = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, text.replace('7', "8")).unwrap();
    both(&archive);
    fs::write(&identity, text).unwrap();
    // Another content of a segment: sound itself, so that it is not replaced.
    scene.cluster.archive_now().unwrap();
    scene.ours(&["archive-wal", "main"]);
    let others = scene.world.home().join("main/wals").join(&begin[..16]);
    let other = others.join(names(&others).into_iter().find(|name| name.len() == 24).unwrap());
    fs::create_dir_all(wal.parent().unwrap()).unwrap();
    fs::copy(&other, &wal).unwrap();
    scene.world.account().own(&wal).unwrap();
    scene.ours(&["rebuild-xlogdb", "main"]);
    both(&archive);
    fs::remove_file(&wal).unwrap();
    scene.ours(&["rebuild-xlogdb", "main"]);

    // In our own.
    let refused = |path: &Utf8Path, words: &str| {
        let before = state(&scene);
        let run = scene.world.barman(&["import-backup", "main", path.as_str()]).unwrap();
        assert!(run.code() == Some(1) && run.stderr.contains(words), "{words}: {run}");
        assert_eq!(state(&scene), before, "{run}");
    };
    let flipped = scene.world.path().join(archive.file_name().unwrap());
    let mut changed = fs::read(&archive).unwrap();
    let at = changed.windows(20).rposition(|piece| piece == [b'x'; 20]).unwrap();
    changed[at] = b'y';
    fs::write(&flipped, &changed).unwrap();
    refused(&flipped, "Tarball checksum mismatch: filename contains");
    fs::write(&flipped, &changed[..changed.len() / 2]).unwrap();
    refused(&flipped, "cannot be read: ");
    let remake = |change: &str, words: &str| refused(&remade(&scene, &archive, change), words);
    remake("echo x > more.txt", "'more.txt' is not part of an export");
    remake("ln -s /etc/passwd backup/data/evil", "'data/evil' is neither a file nor a directory");
    remake(
        "ln -s /etc backup/data/pg_tblspc/evil",
        "'data/pg_tblspc/evil' is a link that leads to no tablespace",
    );
    remake("mkdir backup/evil", "'evil' belongs to no tree");
    remake("rm backup/data/PG_VERSION", "data/PG_VERSION is damaged");
    remake("echo 16 > backup/data/PG_VERSION", "data/PG_VERSION is damaged");
    remake("echo x > backup/.native/manifest", "cannot be used");
    remake("rm -r wals/*", "WAL file required for backup consistency not found in the export");
    remake("f=$(ls wals/*/*); head -c 20000 /dev/zero > $f", "of the export is not sound");
    remake("sed -i s/^status=.*/status=FAILED/ backup.info", "cannot be restored alone");
    remake("echo begin_xlog=nowhere >> backup.info", "backup.info of the export");
    // What it was before all that still comes in; its segment is there already.
    fs::write(&wal, bytes).unwrap();
    scene.world.account().own(&wal).unwrap();
    scene.ours(&["rebuild-xlogdb", "main"]);
    scene.ours(&["import-backup", "main", archive.as_str()]);
    sound(&scene.world, &id);
}

/// What is damaged is not exported, and no archive is left that somebody might take for one.
#[test]
fn damage_is_not_exported() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = scene("local-rsync");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let refused = |scene: &Scene, options: &[&str], words: &[&str]| {
        let place = place(scene);
        let run = scene
            .world
            .barman(&[&["export-backup"], options, &["main", &id, place.as_str()]].concat())
            .unwrap();
        assert!(
            run.code() == Some(1) && words.iter().all(|word| run.stderr.contains(word)),
            "{words:?}: {run}"
        );
        assert!(names(&place).is_empty(), "{:?}", names(&place));
    };
    let table = scene.cluster.psql("SELECT pg_relation_filepath('t')").unwrap();
    let path = scene.base(&id).join("data").join(&table);
    let whole = fs::read(&path).unwrap();
    let mut changed = whole.clone();
    changed[5000] ^= 1;
    for options in [&[][..], &["--compression", "gzip"]] {
        fs::write(&path, &changed).unwrap();
        refused(&scene, options, &[path.as_str(), "is damaged"]);
        fs::write(&path, &whole[8192..]).unwrap();
        refused(&scene, options, &[path.as_str(), "is damaged"]);
        fs::remove_file(&path).unwrap();
        refused(&scene, options, &[path.as_str(), "is damaged"]);
        fs::write(&path, &whole).unwrap();
        scene.world.account().own(&path).unwrap();
    }
    let begin = scene.infos()[&id].get("begin_wal").to_owned();
    let wal = scene.world.home().join("main/wals").join(&begin[..16]).join(&begin);
    let bytes = fs::read(&wal).unwrap();
    fs::remove_file(&wal).unwrap();
    let missing =
        format!("EXCEPTION: WAL file required for backup consistency not found for backup '{id}': {begin}");
    refused(&scene, &[], &[&missing]);
    fs::write(&wal, &bytes[..bytes.len() / 2]).unwrap();
    refused(&scene, &[], &[&format!("WAL file {begin} is not sound")]);
    fs::write(&wal, &bytes).unwrap();
    scene.world.account().own(&wal).unwrap();
    refused(&scene, &["--compression-level", "3"], &["--compression-level requires --compression to be set"]);
    let level =
        "Invalid compression level '77' for algorithm 'gzip'. Valid levels are: 1, 2, 3, 4, 5, 6, 7, 8, 9";
    refused(&scene, &["--compression", "gzip", "--compression-level", "77"], &[level]);
    let nowhere = scene.world.barman(&["export-backup", "main", &id, "/nonexistent"]).unwrap();
    assert_eq!(nowhere.stderr, "ERROR: Output directory '/nonexistent' does not exist\n");
    scene.world.server("main").option("backup_method", "postgres").option("backup_compression", "none");
    scene.ours(&["backup", "--wait", "main"]);
    let packed = scene.ids().pop().unwrap();
    let tar = scene.base(&packed).join("data/base.tar");
    let mut bytes = fs::read(&tar).unwrap();
    let at = bytes.windows(20).rposition(|piece| piece == [b'x'; 20]).unwrap();
    bytes[at] = b'y';
    fs::write(&tar, bytes).unwrap();
    let run = scene.world.barman(&["export-backup", "main", &packed, place(&scene).as_str()]).unwrap();
    assert!(run.code() == Some(1) && run.stderr.contains(tar.as_str()), "{run}");
    assert!(names(&place(&scene)).is_empty());
}

/// An interruption ends both, and nothing is left of what was begun.
#[test]
fn an_interrupted_transfer_cleans_up() {
    if pg::require(15).is_none() {
        return;
    }
    let scene = scene("local-rsync");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let begun = |words: &[&str], there: &dyn Fn() -> bool| {
        let mut command = scene.world.barman_command(words).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !there() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        child.wait().unwrap().code()
    };
    let place = place(&scene);
    let code = begun(&["export-backup", "--compression", "xz", "main", &id, place.as_str()], &|| {
        !names(&place).is_empty()
    });
    // One that was at its end may be whole.
    let left = names(&place);
    assert!(left.is_empty() && code == Some(1) || left.len() == 1 && code == Some(0), "{code:?} {left:?}");
    left.iter().for_each(|name| fs::remove_file(place.join(name)).unwrap());
    let archive = export(&scene, &|words| scene.ours(words), &id, &[]);
    remove(&scene, &id);
    let base = scene.world.home().join("main/base");
    let code = begun(&["import-backup", "main", archive.as_str()], &|| !names(&base).is_empty());
    let left = names(&base);
    assert!(
        left.is_empty() && code == Some(1) || left == [id.as_str()] && code == Some(0),
        "{code:?} {left:?}"
    );
}

/// Killed at any moment, an export is no archive and an import no backup; both can be done again.
#[test]
fn a_killed_transfer_leaves_nothing_half() {
    if pg::require(15).is_none() {
        return;
    }
    let scene = scene("local-rsync");
    scene.ours(&["backup", "--wait", "main"]);
    let id = scene.ids().pop().unwrap();
    let kill = |words: &[&str], delay: u64| {
        let mut command = scene.world.barman_command(words).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        child.wait().unwrap().success()
    };
    for delay in [20, 60, 120, 250, 400] {
        let done = kill(&["export-backup", "main", &id, place(&scene).as_str()], delay);
        let whole = names(&place(&scene)).iter().filter(|name| !name.ends_with(".tmp")).count();
        assert!(whole <= usize::from(done) + 1);
        for name in names(&place(&scene)) {
            fs::remove_file(place(&scene).join(name)).unwrap();
        }
    }
    let archive = export(&scene, &|words| scene.ours(words), &id, &[]);
    remove(&scene, &id);
    let mut killed = 0;
    for delay in [10, 30, 60, 90, 120, 150, 180, 220, 260, 300, 350, 400, 500, 700] {
        let done = kill(&["import-backup", "main", archive.as_str()], delay);
        killed += u32::from(!done);
        scene.ours(&["list-backups", "main"]);
        if !scene.ids().is_empty() {
            // Its facts were written: all of it is there.
            sound(&scene.world, &id);
            remove(&scene, &id);
        }
        assert!(!done || scene.ids().is_empty());
    }
    assert!(killed > 2, "{killed}");
    scene.ours(&["import-backup", "main", archive.as_str()]);
    sound(&scene.world, &id);
    prove(&scene.world, &|words| scene.ours(words), &id);
    assert_eq!(names(&scene.world.home().join("main/base")), [id]);
}
