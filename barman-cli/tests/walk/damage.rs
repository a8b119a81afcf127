//! Damage in the source, damage in the repository, restores that break off, and clusters that are not what they should be.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use barman_testkit::pg::{Cluster, StopMode};
use camino::Utf8Path;

use super::scene::{SERVER, Scene, log_of};

fn flip(path: &Utf8Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn i12_a_corrupt_page_of_the_source_is_named() {
    let Some(mut scene) = Scene::local(17, |b| b.wal_segment_size_mb(1)) else { return };
    scene.fill();
    let table = scene.sql("SELECT pg_relation_filepath('orders')");
    scene.cluster.stop(StopMode::Fast).unwrap();
    flip(&scene.cluster.pgdata().join(&table), 8192 * 3 + 5000);
    scene.cluster.start().unwrap();
    let run = scene.barman(&["backup", "--wait", SERVER]);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains(&format!("Corrupt page: block 3 of {table} ")), "{said}");
    assert!(said.contains("1 corrupt pages were found in the source"), "{said}");
    let id = scene.backups().pop().unwrap();
    assert!(scene.info(&id).contains("status=DONE\n"));
    let list = fs::read_to_string(scene.base(&id).join(".native/corrupt_pages.tsv")).unwrap();
    assert!(list.contains(&format!("{table}\t3\t")), "{list}");
}

#[test]
fn i24_a_damaged_repository_is_named_and_i23_its_restore_cannot_start() {
    let Some(scene) = Scene::local(17, |b| b.wal_segment_size_mb(1)) else { return };
    scene.fill();
    scene.note("a");
    let id = scene.backup();
    scene.archive();
    let table = scene.sql("SELECT pg_relation_filepath('orders')");
    let stored = scene.base(&id).join("data").join(&table);
    flip(&stored, 9000);

    let place = scene.place("damaged");
    let arguments = scene.restore_arguments(&place, &id, &[]);
    let said = scene.refused(&arguments.each());
    assert!(said.contains(stored.as_str()) && said.contains("damaged"), "{said}");
    assert!(!place.has("global/pg_control"));
    // Even with what had not been written yet, but for that one file.
    for name in ["PG_VERSION", "postgresql.conf"] {
        fs::copy(scene.base(&id).join("data").join(name), place.pgdata.join(name)).unwrap();
    }
    let error = Cluster::restored(17, &place.pgdata).start().unwrap_err();
    assert!(error.to_string().contains("pg_control"), "{error}");

    // The half-made directory is in the way, until it is emptied.
    flip(&stored, 9000);
    let said = scene.refused(&arguments.each());
    assert!(said.contains("is not empty"), "{said}");
    fs::remove_dir_all(place.pgdata.parent().unwrap()).unwrap();
    scene.barman(&arguments.each());
    assert_eq!(log_of(&scene.open(&place)), "a");

    // A file that lost its end, one that is gone, a damaged configuration.
    let refused = |name: &str, path: &Utf8Path| {
        let place = scene.place(name);
        let said = scene.refused(&scene.restore_arguments(&place, &id, &[]).each());
        assert!(said.contains(path.as_str()) && said.contains("damaged"), "{said}");
        assert!(!place.has("global/pg_control"));
        place
    };
    let whole = fs::read(&stored).unwrap();
    fs::write(&stored, &whole[..whole.len() - 8192]).unwrap();
    assert!(!refused("short", &stored).pgdata.exists());
    fs::remove_file(&stored).unwrap();
    assert!(!refused("gone", &stored).pgdata.exists());
    fs::write(&stored, whole).unwrap();
    let conf = scene.base(&id).join("data/postgresql.conf");
    flip(&conf, 100);
    refused("conf", &conf);
    flip(&conf, 100);
    scene.restore("whole again", &id, &[]);
}

/// What is plain in the archive has no checksum of its own: it is judged page by page and record by record.
#[test]
fn i24_a_damaged_wal_segment_is_named_while_it_is_restored() {
    let Some(scene) = Scene::local(17, |b| b.wal_segment_size_mb(1)) else { return };
    scene.fill();
    let id = scene.backup();
    scene.note("a");
    scene.archive();
    scene.archive();
    let wals = scene.world.home().join(SERVER).join("wals");
    let find = |keep: &dyn Fn(&str) -> bool| {
        let directories = wals.read_dir_utf8().unwrap().map(|d| d.unwrap()).filter(|d| d.path().is_dir());
        let mut found: Vec<_> = directories
            .flat_map(|d| d.path().read_dir_utf8().unwrap().map(|f| f.unwrap().path().to_owned()))
            .filter(|f| keep(f.file_name().unwrap()))
            .collect();
        found.sort();
        found
    };
    let last = find(&|name| name.len() == 24).pop().unwrap();
    let plain = scene.world.barman(&[
        "get-wal",
        "--output-directory",
        scene.world.path().as_str(),
        SERVER,
        last.file_name().unwrap(),
    ]);
    plain.unwrap().ok().unwrap();
    fs::rename(scene.world.path().join(last.file_name().unwrap()), &last).unwrap();
    scene.world.account().own_tree(&last).unwrap();
    scene.restore("sound", &id, &[]);
    // The position that the first page claims.
    flip(&last, 9);
    let place = scene.place("damaged");
    let said = scene.refused(&scene.restore_arguments(&place, &id, &[]).each());
    assert!(said.contains(&format!("{} is not sound", last.file_name().unwrap())), "{said}");
    assert!(said.contains("--get-wal"), "{said}");
    assert!(!place.has("global/pg_control"));
}

/// What happened to an old backup's facts must not keep a new backup from being taken; what the old one may need stays.
#[test]
fn i17_a_backup_is_taken_beside_one_that_cannot_be_read() {
    let Some(scene) = Scene::local(17, |b| b.wal_segment_size_mb(1)) else { return };
    let old = scene.backup();
    let wal = |name: &str| scene.world.barman(&["get-wal", SERVER, name]).unwrap().code();
    let begin =
        scene.info(&old).lines().find_map(|l| l.strip_prefix("begin_wal=").map(str::to_owned)).unwrap();
    let path = scene.world.home().join(SERVER).join("meta").join(format!("{old}-backup.info"));
    let facts = fs::read_to_string(&path).unwrap();
    fs::write(&path, &facts[..facts.len() / 2]).unwrap();
    let run = scene.barman(&["backup", "--wait", SERVER]);
    assert!(run.stderr.contains(&format!("Backup {old} of server main is left out")), "{run}");
    let new = scene.world.home().join(SERVER).join("meta");
    let new: Vec<_> = new.read_dir_utf8().unwrap().map(|f| f.unwrap().file_name().to_owned()).collect();
    let new = new.iter().filter_map(|name| name.strip_suffix("-backup.info")).max().unwrap();
    assert!(new > old.as_str() && scene.info(new).contains("status=DONE\n"), "{}", scene.info(new));
    assert_eq!(wal(&begin), Some(0), "the WAL of the old backup stays");
    fs::write(&path, facts).unwrap();
    scene.restore("old", &old, &[]);
}

/// The server believes that it archived the segment and will not send it again: nobody must wait for it for ever, and the
/// backup must not be called DONE.
#[test]
fn i11_a_backup_whose_last_wal_came_in_unsound_stops_waiting_and_is_not_done() {
    let Some(scene) = Scene::local(17, |b| b.wal_segment_size_mb(1)) else { return };
    scene.backup();
    let incoming = scene.world.path().join("incoming");
    scene.sql(&format!(
        "ALTER SYSTEM SET archive_command = '(head -c 8192 /dev/zero; tail -c +8193 %p) > {incoming}/%f'"
    ));
    scene.sql("SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let said = scene.refused(&["backup", "--wait", SERVER]);
    assert!(said.contains("was received and refused"), "{said}");
    assert!(said.contains("errors/"), "the message says where it lies: {said}");
    let id = scene.backups().pop().unwrap();
    assert!(scene.info(&id).contains("status=WAITING_FOR_WALS\n"), "{}", scene.info(&id));
}

#[test]
fn i23_a_killed_restore_cannot_start_and_can_be_run_again() {
    let Some(scene) = Scene::local(15, |b| b) else { return };
    scene.fill();
    scene.note("a");
    let id = scene.backup();
    let place = scene.place("killed");
    // Slow enough to be caught in the middle.
    let arguments = scene.restore_arguments(&place, &id, &["--bwlimit", "4000"]);
    let mut command = scene.world.barman_command(&arguments.each()).unwrap();
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let begun = std::time::Instant::now();
    while !place.has("base") {
        assert!(begun.elapsed().as_secs() < 60 && child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(!place.has("global/pg_control"));
    fs::remove_dir_all(place.pgdata.parent().unwrap()).unwrap();
    let place = scene.restore("killed", &id, &[]);
    assert_eq!(log_of(&scene.open(&place)), "a");
}

#[test]
fn a_destination_in_use_is_left_alone() {
    let Some(scene) = Scene::local(15, |b| b) else { return };
    scene.fill();
    let id = scene.backup();
    let own = scene.cluster.pgdata();
    let said = scene.refused(&["restore", SERVER, &id, own.as_str()]);
    assert!(said.contains(own.as_str()), "{said}");
    // The tablespaces of the running server are in the way even of another directory.
    let other = scene.place("other");
    let said = scene.refused(&["restore", SERVER, &id, other.pgdata.as_str()]);
    assert!(said.contains("for the tablespace") && said.contains("is not empty"), "{said}");
    assert!(!other.pgdata.exists());
    assert_eq!(scene.sql("SELECT count(*) FROM precious"), "3000");
}

#[test]
fn another_cluster_under_the_same_name_is_refused() {
    let Some(mut scene) = Scene::local(15, |b| b) else { return };
    scene.fill();
    scene.backup();
    let other =
        Cluster::builder(15).fresh_initdb().conf("archive_mode", "on").conf("archive_command", "true");
    let other = other.start().unwrap();
    scene.world.server(SERVER).conninfo(other.conninfo_tcp());
    let said = scene.refused(&["backup", SERVER]);
    assert!(said.contains("systemid coherence"), "{said}");
    assert_eq!(scene.backups().len(), 1);
    // The backups say it, too; what to do after a pg_upgrade is told, and works.
    let identity = scene.world.home().join(SERVER).join("identity.json");
    let text = fs::read_to_string(&identity).unwrap();
    fs::remove_file(&identity).unwrap();
    let said = scene.refused(&["backup", SERVER]);
    let system = other.system_id().unwrap();
    assert!(said.contains(&format!("set \"systemid\" to \"{system}\" in {identity}")), "{said}");
    let own = scene.cluster.system_id().unwrap();
    fs::write(&identity, text.replace(&own, &system)).unwrap();
    scene.world.account().own(&identity).unwrap();
    let run = scene.world.barman(&["backup", SERVER]).unwrap();
    assert!(run.stdout.contains("Backup completed"), "{run}");
}
