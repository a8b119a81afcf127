//! The walk on each major: two backups, an accident, both forms of restore to the moment before, and a plain one.

use barman_testkit::pg::StopMode;
use barman_testkit::world::Run;

use super::scene::{Place, SERVER, Scene, links, log_of, prove_sound};

/// One test a major, so that they run beside each other.
macro_rules! majors {
    ($($name:ident = $major:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            walk($major);
        })+
    };
}

majors! {
    walk_on_10 = 10,
    walk_on_11 = 11,
    walk_on_12 = 12,
    walk_on_13 = 13,
    walk_on_14 = 14,
    walk_on_15 = 15,
    walk_on_16 = 16,
    walk_on_17 = 17,
    walk_on_18 = 18,
}

fn walk(major: u32) {
    let Some(mut scene) = Scene::new(major) else { return };
    scene.fill();
    scene.note("a: before the first backup");
    let first = first_backup(&scene);
    scene.note("b: between the backups");
    let second = second_backup(&scene, &first);

    scene.note("c: before the accident");
    let moment = scene.moment();
    scene.sql("DROP TABLE precious");
    scene.note("d: later");
    let said = scene.archive();
    assert!(said.stdout.contains("Processing xlog segments from file archival for main"), "{said}");
    assert_eq!(scene.world.path().join("incoming").read_dir_utf8().unwrap().count(), 0);

    let time = ["--target-time", &moment, "--target-action", "promote"];
    let (place, said) = scene.restore_said("local", &second, &time);
    prove_configuration(&scene, &place, &said, &moment);
    prove_moment(&scene, &place);

    // The source server is gone: nothing of what follows may need it.
    scene.cluster.stop(StopMode::Fast).unwrap();
    let ssh = scene.sshd.ssh_command();
    let remote = [&time[..], &["--remote-ssh-command", &ssh]].concat();
    let logins = scene.sshd.logins().unwrap();
    let (place, said) = scene.restore_said("remote", &first, &remote);
    assert_eq!(scene.sshd.logins().unwrap() - logins, 1, "everything goes over one connection");
    prove_configuration(&scene, &place, &said, &moment);
    prove_moment(&scene, &place);

    let plain = scene.restore("plain", "latest", &[]);
    assert!(!plain.has("recovery.signal") && !plain.has("recovery.conf"));
    let mut server = scene.open(&plain);
    assert_eq!(log_of(&server), log_lines(4));
    assert!(server.psql("SELECT 1 FROM precious").is_err());
    prove_sound(&plain, &mut server);
}

/// The first lines of the log.
fn log_lines(count: usize) -> String {
    ["a: before the first backup", "b: between the backups", "c: before the accident", "d: later"][..count]
        .join(" ")
}

fn first_backup(scene: &Scene) -> String {
    let run = scene.barman(&["backup", "--wait", SERVER]);
    let id = scene.backups().pop().unwrap();
    for line in [
        format!("Starting backup using rsync-concurrent method for server main in {}", scene.base(&id)),
        "Backup start at LSN: ".to_owned(),
        format!("Starting backup copy via rsync/SSH for {id}"),
        "Copy done (time: ".to_owned(),
        "Asking PostgreSQL server to finalize the backup.".to_owned(),
        "Backup size: ".to_owned(),
        "Backup end at LSN: ".to_owned(),
        "Backup completed (start time: ".to_owned(),
        "Waiting for the WAL file ".to_owned(),
    ] {
        assert!(run.stdout.lines().any(|l| l.starts_with(&line)), "no {line:?} in {run}");
    }
    for warning in [
        "No archiver enabled for server 'main'. Please turn on 'archiver', 'streaming_archiver' or both",
        "Forcing 'archiver = on'",
        "No backup strategy set for server 'main' (using default 'concurrent_backup').",
    ] {
        assert!(format!("{}{}", run.stdout, run.stderr).contains(warning), "no {warning:?} in {run}");
    }
    let info = scene.info(&id);
    for line in ["status=DONE", "mode=rsync-concurrent", "timeline=1", "data_checksums=on"] {
        assert!(info.lines().any(|l| l == line), "no {line:?} in {info}");
    }
    // Of an unlogged table only the empty init fork is stored.
    let scratch = scene.sql("SELECT pg_relation_filepath('scratch')");
    let data = scene.base(&id).join("data");
    assert!(data.join(format!("{scratch}_init")).exists() && !data.join(&scratch).exists());
    assert!(!data.join("postmaster.pid").exists());
    id
}

fn second_backup(scene: &Scene, first: &str) -> String {
    let orders = scene.sql("SELECT pg_relation_filepath('orders')");
    let log = scene.sql("SELECT pg_relation_filepath('log')");
    let id = scene.backup();
    assert_ne!(id, first);
    let data = scene.base(&id).join("data");
    assert!(links(&data.join(orders)) > 1, "an unchanged table must be linked");
    assert_eq!(links(&data.join(log)), 1, "a changed table must not be linked");
    assert_eq!(links(&data.join("global/pg_control")), 1);
    id
}

/// What restore said and wrote about configuration.
fn prove_configuration(scene: &Scene, place: &Place, said: &Run, moment: &str) {
    // In memory and on the way to a file of the same text, lines count from 0.
    let original = place.text("postgresql.conf.origin");
    let number = |key: &str| original.lines().position(|line| line.starts_with(key)).unwrap();
    for line in [
        format!("postgresql.conf line {}: archive_command = false", number("archive_command")),
        format!("postgresql.conf line {}: include_if_exists = 'not_there.conf'", number("include_if_exists")),
    ] {
        assert!(said.stdout.lines().any(|l| l == line), "no {line:?} in {said}");
    }
    assert!(
        said.stdout.contains("Your PostgreSQL server has been successfully prepared for recovery!"),
        "{said}"
    );
    let conf = place.text("postgresql.conf");
    assert_eq!(conf.lines().nth(number("archive_command")), Some("archive_command = false"));
    assert_eq!(conf.lines().count(), original.lines().count());
    assert!(place.has("postgresql.auto.conf.origin"));

    let settings = place.settings(scene.major);
    let barman_wal = place.pgdata.join("barman_wal");
    for line in [
        format!("restore_command = 'cp {barman_wal}/%f %p'"),
        format!("recovery_end_command = 'rm -fr {barman_wal}'"),
        format!("recovery_target_time = '{}:00'", moment),
        "recovery_target_action = 'promote'".to_owned(),
    ] {
        assert!(settings.lines().any(|l| l == line), "no {line:?} in {settings}");
    }
    assert_eq!(place.has("recovery.conf"), scene.major < 12);
    assert_eq!(place.has("recovery.signal"), scene.major >= 12);
    assert!(!place.has("standby.signal") && !place.has("postmaster.pid") && !place.has("tablespace_map"));
}

/// The server comes up at the moment before the accident and is sound.
fn prove_moment(scene: &Scene, place: &Place) {
    let mut server = scene.open(place);
    assert_eq!(server.psql("SELECT count(*), sum(n) FROM precious").unwrap(), "3000|4501500");
    assert_eq!(log_of(&server), log_lines(3));
    assert_eq!(server.psql("SELECT timeline_id FROM pg_control_checkpoint()").unwrap(), "2");
    assert!(!place.has("barman_wal"), "recovery_end_command removes it");
    assert_eq!(server.psql("SHOW archive_command").unwrap(), "false");
    prove_sound(place, &mut server);
}
