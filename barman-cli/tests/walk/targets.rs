//! Each recovery target and each action at it, on a major with `recovery.conf` and one with `recovery.signal`; and targets that
//! cannot be reached.

use std::time::Duration;

use barman_testkit::pg::Wait;

use super::scene::{SERVER, Scene, log_of, prove_sound, wait_for};

#[test]
fn targets_on_11() {
    targets(11);
}

#[test]
fn targets_on_17() {
    targets(17);
}

/// Two transactions, and the points around them.
struct History {
    id: String,
    last_xid: String,
    position: String,
    moment: String,
}

/// The log says `0` at the backup, `a` at the restore point `point` and the position, `b` with the last transaction before the
/// moment, `c` at the end.
fn happen(scene: &Scene) -> History {
    scene.fill();
    scene.note("0");
    let id = scene.backup();
    scene.note("a");
    scene.sql("SELECT pg_create_restore_point('point')");
    let position = scene.position();
    let last_xid = scene.note("b");
    let moment = scene.moment();
    scene.note("c");
    scene.archive();
    History { id, last_xid, position, moment }
}

fn targets(major: u32) {
    let Some(scene) = Scene::local(major, |b| b.conf("archive_timeout", "0")) else { return };
    let History { id, last_xid, position, moment } = happen(&scene);
    let promote = ["--target-action", "promote"];
    let cases: [(&str, &[&str], &str); 8] = [
        ("immediate", &["--target-immediate"], "0"),
        ("name", &["--target-name", "point"], "0 a"),
        ("lsn", &["--target-lsn", &position], "0 a"),
        ("lsn-exclusive", &["--target-lsn", &position, "--exclusive"], "0 a"),
        ("xid", &["--target-xid", &last_xid], "0 a b"),
        ("xid-exclusive", &["--target-xid", &last_xid, "--exclusive"], "0 a"),
        ("time", &["--target-time", &moment], "0 a b"),
        ("time-exclusive", &["--target-time", &moment, "--exclusive"], "0 a b"),
    ];
    for (name, target, expected) in cases {
        let place = scene.restore(name, &id, &[target, &promote].concat());
        let exclusive = place.settings(major).contains("recovery_target_inclusive = 'False'");
        assert_eq!(exclusive, target.contains(&"--exclusive"), "{name}");
        let mut server = scene.open(&place);
        assert_eq!(log_of(&server), expected, "{name}");
        if name == "xid" {
            prove_sound(&place, &mut server);
        }
        std::fs::remove_dir_all(place.pgdata.parent().unwrap()).unwrap();
    }

    // Without an action PostgreSQL pauses, so that its user may look first.
    let place = scene.restore("default", "auto", &["--target-time", &moment]);
    let server = scene.open(&place);
    assert_eq!(server.psql("SELECT pg_is_in_recovery()").unwrap(), "t");
    assert_eq!(log_of(&server), "0 a b");
    server.psql("SELECT pg_wal_replay_resume()").unwrap();
    wait_for(&server, "SELECT pg_is_in_recovery()", "f");

    let place = scene.restore("pause", &id, &["--target-name", "point", "--target-action", "pause"]);
    let server = scene.open(&place);
    assert_eq!(server.psql("SELECT pg_is_in_recovery()").unwrap(), "t");
    assert_eq!(log_of(&server), "0 a");

    let place = scene.restore("shutdown", &id, &["--target-xid", &last_xid, "--target-action", "shutdown"]);
    let mut server = scene.restored(&place).wait(Wait::Nothing).start().unwrap();
    server.wait_ended(Duration::from_secs(60)).unwrap();
    let log = server.log_tail(100);
    assert!(log.contains("shutdown at recovery target"), "{log}");

    let staged = scene.world.dir().subdir("staged").unwrap().join("wal");
    let options = ["--target-name", "point", "--staging-wal-directory", staged.as_str()];
    let place = scene.restore("staged", &id, &[&options[..], &promote].concat());
    assert!(staged.is_dir() && !place.has("barman_wal"));
    assert_eq!(log_of(&scene.open(&place)), "0 a");

    let plain = scene.restore("latest", "latest", &[]);
    assert_eq!(log_of(&scene.open(&plain)), "0 a b c");
}

#[test]
fn what_cannot_be_reached_is_refused_before_anything_is_written() {
    let Some(scene) = Scene::local(15, |b| b) else { return };
    let before = scene.moment();
    let early = scene.position();
    let History { id, last_xid, moment, .. } = happen(&scene);
    let place = scene.place("nowhere");
    let refused = |options: &[&str]| {
        let said = scene.refused(&scene.restore_arguments(&place, &id, options).each());
        assert!(!place.pgdata.exists(), "{said}");
        said
    };
    for (options, expected) in [
        (&["--target-time", &before] as &[&str], "is before the backup end time"),
        (&["--target-lsn", &early], "is before the backup end LSN"),
        (&["--target-lsn", "FF/0"], "the nearest reachable point is"),
        (&["--target-tli", "7"], "00000007.history is not in the archive"),
        (&["--target-name", "point", "--target-immediate"], "multiple targets"),
        (&["--target-action", "promote"], "PITR is not required"),
        (&["--target-time", "the day before"], "Unable to parse the target time"),
        (&["--tablespace", "lukewarm:/x"], "Invalid tablespace name 'lukewarm'"),
        (&["--tablespace", "hot"], "Invalid tablespace relocation rule"),
    ] {
        let said = refused(options);
        assert!(said.contains(expected), "{options:?}: {said}");
    }
    assert!(scene.refused(&["restore", SERVER, "20200101T000000", "/nowhere"]).contains("20200101T000000"));

    // A hole in the archive: what lies before it can be had, and is named.
    let wals = scene.world.home().join(SERVER).join("wals/0000000100000000");
    scene.note("d");
    scene.archive();
    let mut segments: Vec<_> = wals.read_dir_utf8().unwrap().map(|e| e.unwrap().into_path()).collect();
    segments.retain(|path| path.extension().is_none());
    segments.sort();
    let lost = segments.remove(segments.len() - 2);
    std::fs::remove_file(&lost).unwrap();
    let said = refused(&["--target-xid", &last_xid]);
    assert!(said.contains(lost.file_name().unwrap()) && said.contains("--target-lsn "), "{said}");
    let said = refused(&["--target-time", &moment]);
    assert!(said.contains(lost.file_name().unwrap()), "{said}");
    let place = scene.restore("consistent", &id, &["--target-immediate", "--target-action", "promote"]);
    assert_eq!(log_of(&scene.open(&place)), "0");
}
